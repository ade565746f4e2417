"""Ways that are faster than a model's own forward and must give the same: probed once for each model, then trusted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel

from rankscope.model.decoder_parts import sliding_window
from rankscope.model.methods.virtual_tokens_modules import virtual_tokens

logger = logging.getLogger(__name__)

Window = int | None


def window_that_matters(model: PreTrainedModel, longest: int) -> Window:
    """The sliding window in tokens, where something is longer than it."""
    window = sliding_window(model)
    return None if window is None or longest <= window else window


class Probed:
    """Whether a way holds, by model, attention and window. `probe` says why it does not, or nothing.

    `fast` and `slow` say in the log which way is used.
    """

    def __init__(self, probe: Callable[[PreTrainedModel, Window], str], *, fast: str, slow: str) -> None:
        self._probe, self._fast, self._slow = probe, fast, slow
        self._decided: WeakKeyDictionary[PreTrainedModel, dict[tuple[Any, ...], bool]] = WeakKeyDictionary()

    def holds(self, model: PreTrainedModel, window: Window) -> bool:
        virtual = virtual_tokens(model)
        decided = self._decided.setdefault(model, {})
        key = (model.config._attn_implementation, window, model.dtype, virtual)
        if key not in decided:
            stands_before = virtual and window is not None
            reason = "virtual tokens stand before a window" if stands_before else self._probe(model, window)
            decided[key] = not reason
            used = f"{self._slow}, because {reason}" if reason else self._fast
            logger.info("%s: %s", type(model).__name__, used)
        return decided[key]
