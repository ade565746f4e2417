"""Installs an attention implementation in any model of transformers, and checks what is faster than a model's own.

Most models here run with all tokens of a batch in one flat row (1, T), so that linear layers, norms and the head see
real tokens only. `layout_attention` then hands queries, keys and values to the `Layout` that is given with the call:
rows without padding (`unpadded_rows.py`), prompts with their choices (`scoring_layout.py`), a KV cache (`kv_cache.py`).
The analysis installs the model's own kernel with an observer around it (`analyse/capture.py`). Whether a model passes
the layout on, and means by its attention what is computed here, is found out by a `FastPathCheck`, as it is for every
other path that is not the model's own.

Shapes: B rows, H heads, K heads of keys and values (H a multiple of K), T tokens, Q queries, S keys, d head size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from rankscope.model.sharding.shard import team_of

logger = logging.getLogger(__name__)

ATTENTION_NAME = "rankscope"
LAYOUT_KEY = "rankscope_layout"
"""The keyword argument of a forward that carries its layout to every layer's attention."""


@dataclass(frozen=True)
class Scores:
    """How a layer makes scores of queries and keys: q k scale.

    `window`: a query sees only keys fewer than `window` positions back. `softcap`: scores become
    softcap * tanh(scores / softcap) (Gemma 2, arXiv 2408.00118, section 2). `dropout`: the share of weights dropped.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0


class Layout(Protocol):
    """Knows who sees whom among the tokens of a flat row."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        """Of query (H, T, d), key and value (K, T, d): the attention's output (T, H, d)."""
        ...


def layout_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Signature and shapes of transformers' registry: (1, heads, T, d) in, (1, T, H, d) out.

    Raises KeyError where the model did not pass the layout on.
    """
    layout: Layout = kwargs[LAYOUT_KEY]
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer: Any = getattr(module, "layer_idx", None)
    scores = Scores(scale, sliding_window, softcap, dropout)
    return layout.attend(layer, query[0], key[0], value[0], scores)[None], None


@contextmanager
def attention_installed(
    model: PreTrainedModel, attention: Callable[..., Any] = layout_attention, masks: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Inside, every layer of the model calls `attention`, with the masks that `masks` makes; afterwards its own again.

    Both have the signatures of transformers' AttentionInterface and AttentionMaskInterface. With the default, every
    forward must be given a layout under `LAYOUT_KEY`, which carries what a mask would. None for `masks`: transformers
    makes no mask, and does not wait for the device to find out whether positions are those of packed rows. May be
    nested; nothing stays registered.
    """
    registries = (AttentionInterface._global_mapping, AttentionMaskInterface._global_mapping)
    outer = [registry.get(ATTENTION_NAME) for registry in registries]
    before = model.config._attn_implementation
    for registry, function in zip(registries, (attention, masks), strict=True):
        _put(registry, function)
    model.set_attn_implementation(ATTENTION_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        for registry, function in zip(registries, outer, strict=True):
            _put(registry, function)


def _put(registry: dict[str, Callable[..., Any]], function: Callable[..., Any] | None) -> None:
    """The registry holds this function under our name, or none."""
    registry.pop(ATTENTION_NAME, None)
    if function is not None:
        registry[ATTENTION_NAME] = function


# ---- may a path be used? ---------------------------------------------------------------------------------------------

REFUSALS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, NotImplementedError)
"""An architecture refuses what it does not know in its own way."""


SHARE_OF_MISTAKE = 0.25
"""In half precision rounding hides small errors: a path must be at least this much nearer than a known mistake."""


_CHECKS: list[FastPathCheck] = []

HeldPaths = dict[int, set[Hashable]]
"""By path, the conditions under which it held for some model."""


def share_answers(model: PreTrainedModel, held: HeldPaths) -> None:
    """Take for `model` the paths in `held`, which held for another model of the same architecture, dtype and device,
    and note in it what is found of this one: a copy with other weights need not be asked again. What did not hold is
    asked of each, and in half precision everything is, where it depends on the weights how much rounding hides."""
    if model.dtype != torch.float32:
        return
    for number, check in enumerate(_CHECKS):
        check.remember(model, held.setdefault(number, set()))


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
        self._held_before: WeakKeyDictionary[PreTrainedModel, set[Hashable]] = WeakKeyDictionary()
        _CHECKS.append(self)

    def holds(self, model: PreTrainedModel, compare: Callable[[], str], *conditions: Hashable) -> bool:
        """Whether the path may be used for this model under these `conditions`.

        `compare` is asked the first time: it runs both ways on a few tokens, on the model's own device, and returns why
        they differ, or nothing. What `compare` needs must be in `conditions` where it may change between calls.
        """
        known, before = self._known.setdefault(model, {}), self._held_before.get(model, set())
        if conditions not in known:
            if conditions in before:
                return True
            reason = self._reason(compare)
            (elsewhere,) = team_of(model).any(bool(reason))  # its processes must take the same path
            reason = reason or ("another process finds a difference" if elsewhere else "")
            known[conditions] = not reason
            if not reason:
                before.add(conditions)
            note = f"{self._slow}, because {reason}" if reason else self._fast
            logger.log(self._slow_level if reason else logging.INFO, "%s: %s", type(model).__name__, note)
        return known[conditions]

    def remember(self, model: PreTrainedModel, held: set[Hashable]) -> None:
        """The path is used for this model under the conditions in `held`, which grows by those under which it holds."""
        self._held_before[model] = held

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
    found, own = found.detach(), own.detach()
    difference = float((found - own).abs().max())
    # Not "greater than": NaN must not pass.
    return "" if difference <= allowed * max(1.0, float(own.abs().max())) else f"{what} differ by {difference:.3g}"
