"""Which learning rate: successive halving over a grid, on validation loss only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rankscope.records.plan_record import RUNG_FRACTIONS


@dataclass(frozen=True)
class SearchOutcome:
    """`losses[i][k]` is the validation loss of rate i at rung k in nats per token, None where it was not reached."""

    rates: tuple[float, ...]
    rung_steps: tuple[int, ...]
    losses: tuple[tuple[float | None, ...], ...]
    chosen: float | None

    @property
    def at_end_of_grid(self) -> bool:
        """The best rate has a neighbour on one side only, so a better one may lie outside the grid."""
        return self.chosen is not None and self.chosen in (self.rates[0], self.rates[-1])


def successive_halving(
    rates: Sequence[float],
    step_count: int,
    advance: Callable[[float, int], float | None],
    prepare: Callable[[Sequence[float], int], None] = lambda _, __: None,
    beyond: Callable[[float, bool], float] | None = None,
    most_beyond: int = 0,
) -> SearchOutcome:
    """Train every rate to the first rung, the better half to the second, and so on (arXiv 1502.07943, algorithm 1).

    `advance(rate, until_step)` continues the rate's run on its own full-length schedule and gives its validation loss,
    or None where it diverged; `prepare` hears before each rung which rates it will be asked for. No rate is chosen
    (None) where all diverged. Where the best rate is the last of the grid, up to `most_beyond` further ones,
    `beyond(rate, up)`, are trained through, as long as each is better than the one before.
    """
    rungs = sorted({max(1, round(step_count * fraction)) for fraction in RUNG_FRACTIONS})
    losses: dict[float, list[float | None]] = {rate: [None] * len(rungs) for rate in rates}
    alive = list(rates)
    chosen: float | None = None
    for k, until_step in enumerate(rungs):
        prepare(alive, until_step)
        reached = {rate: advance(rate, until_step) for rate in alive}
        for rate, loss in reached.items():
            losses[rate][k] = loss
        finite = {rate: loss for rate, loss in reached.items() if loss is not None and math.isfinite(loss)}
        chosen = min(finite, key=lambda rate: (finite[rate], rate), default=None)
        ranked = sorted(finite, key=lambda rate: (finite[rate], rate))
        alive = sorted(ranked[: math.ceil(len(ranked) / 2)])
    for _ in range(most_beyond if beyond is not None and chosen is not None else 0):
        known = sorted(losses)
        if beyond is None or chosen not in (known[0], known[-1]):
            break
        rate = beyond(chosen, chosen == known[-1])
        losses[rate] = _through(rate, rungs, advance)
        before, last = losses[chosen][-1], losses[rate][-1]
        if before is None or last is None or not math.isfinite(last) or last >= before:
            break
        chosen = rate
    every = sorted(losses)
    return SearchOutcome(tuple(every), tuple(rungs), tuple(tuple(losses[rate]) for rate in every), chosen)


def _through(rate: float, rungs: Sequence[int], advance: Callable[[float, int], float | None]) -> list[float | None]:
    """A rate's losses at every rung, None from where it diverged."""
    found: list[float | None] = []
    for until_step in rungs:
        found.append(None if found and found[-1] is None else advance(rate, until_step))
    return found
