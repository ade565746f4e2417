"""Decides once per model whether an optimised path reproduces the model's own forward, and caches the answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

REFUSALS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, NotImplementedError)
"""An architecture refuses what it does not know in its own way."""


class FastPathCheck:
    """Decides once per model whether an optimised path reproduces the model's own forward, and caches the answer.

    One for each path: rows without padding, choices as a tree, decoding in a KV cache, several adapters in one forward.
    `fast` and `slow` say, for the log, what is done where the path holds and where it does not; `slow_level` is that of
    the second note. A comparison that raises one of `refusals` does not hold; running out of memory always passes
    through, since it says nothing of the path.
    """

    def __init__(
        self,
        *,
        fast: str,
        slow: str,
        slow_level: int = logging.INFO,
        refusals: tuple[type[Exception], ...] = REFUSALS,
    ) -> None:
        self._fast, self._slow, self._slow_level, self._refusals = fast, slow, slow_level, refusals
        # The answers only: what refers to a model would keep it in memory for good.
        self._known: WeakKeyDictionary[PreTrainedModel, dict[Hashable, bool]] = WeakKeyDictionary()

    def holds(self, model: PreTrainedModel, compare: Callable[[], str], *conditions: Hashable) -> bool:
        """Whether the path may be used for this model under these `conditions`.

        `compare` is asked the first time: it runs both ways on a few tokens, on the model's own device, and returns why
        they differ, or nothing. What `compare` needs must be in `conditions` where it may change between calls.
        """
        known = self._known.setdefault(model, {})
        if conditions not in known:
            reason = self._reason(compare)
            known[conditions] = not reason
            note = f"{self._slow}, because {reason}" if reason else self._fast
            logger.log(self._slow_level if reason else logging.INFO, "%s: %s", type(model).__name__, note)
        return known[conditions]

    def _reason(self, compare: Callable[[], str]) -> str:
        try:
            return compare()
        except torch.OutOfMemoryError:
            raise
        except self._refusals as refusal:
            return f"it refuses ({type(refusal).__name__}: {(str(refusal).splitlines() or [''])[0][:120]})"


def why_different(found: Tensor, own: Tensor, allowed: float, what: str = "logits") -> str:
    """Nothing where both tensors are the same but for rounding, else by how much they differ.

    `allowed` is a share of the largest value of the model's `own`, or of 1 where that is larger.
    """
    if found.shape != own.shape:
        return f"{what} have the shape {tuple(found.shape)}, its own {tuple(own.shape)}"
    difference = float((found - own).abs().max())
    # Not "greater than": NaN must not pass.
    return "" if difference <= allowed * max(1.0, float(own.abs().max())) else f"{what} differ by {difference:.3g}"
