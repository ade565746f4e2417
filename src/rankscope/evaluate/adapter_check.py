"""Is the adapter what changes the scores, and nothing else?

AdapterProblem
├── AdapterChangesBase   switched off, the model is not the base
└── AdapterNotApplied    switched on, the model still is the base
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from transformers import PreTrainedModel

from rankscope.evaluate.choice_scoring import choice_logprobs
from rankscope.records import Item

TOLERANCE_NATS = 1e-3


class AdapterProblem(RuntimeError):
    """An adapter does not do what its scores would claim."""


class AdapterChangesBase(AdapterProblem):
    """With the adapter off, the scores are not the base's."""


class AdapterNotApplied(AdapterProblem):
    """With the adapter on, every score is the base's."""


def check_adapter(
    model: PreTrainedModel,
    adapter_off: Callable[[], AbstractContextManager[object]],
    probe_items: Sequence[Item],
    base_logprobs: Sequence[tuple[float, ...]],
    *,
    token_budget: int,
    tolerance_nats: float = TOLERANCE_NATS,
) -> None:
    """Scores `probe_items` with the adapter off and on, and compares with the base's `choice_logprobs` of the same.

    `adapter_off` gives a context in which the model runs without its adapter. Only for an adapter that was trained: a
    new one changes nothing yet.

    Raises AdapterChangesBase where a score with the adapter off is more than `tolerance_nats` from the base's,
    AdapterNotApplied where no score changes at all with it on, and ValueError without items.
    """
    if not probe_items:
        raise ValueError("an adapter can only be checked on some items")
    with adapter_off():
        off = choice_logprobs(model, probe_items, token_budget=token_budget)
    distance = _largest_difference(off, base_logprobs)
    if not distance <= tolerance_nats:
        raise AdapterChangesBase(f"with the adapter off, a score is {distance:.3g} nats from the base's")
    on = choice_logprobs(model, probe_items, token_budget=token_budget)
    if _largest_difference(on, off) == 0.0:
        raise AdapterNotApplied(f"with the adapter on, the scores of {len(on)} items are exactly the base's")


def _largest_difference(left: Sequence[tuple[float, ...]], right: Sequence[tuple[float, ...]]) -> float:
    pairs = zip(left, right, strict=True)
    return max(abs(a - b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))
