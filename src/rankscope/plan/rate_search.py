"""How learning rates are searched: which rates an arm tries, in which order arms are searched, what is trained on.

One rank of an entry, the anchor, and every arm of another method try five rates to a quarter of the schedule. The
other ranks follow, from the anchor outwards, and try three: around the rate that the nearest ranks speak for, the
logarithm of the rate being taken as linear in the logarithm of the rank. The best of these and the next rate below are
then trained to the end. Pure functions; `jobs/search_job.py` trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rankscope.plan.resolve import MOST_BEYOND, next_rate
from rankscope.records import ModelFacts
from rankscope.records.plan_record import RUNG_FRACTIONS
from rankscope.study.study import Arm

ALONE, NEAR = 5, 3
"""Rates that an arm tries: without a neighbour to go by, and around what its neighbours predict."""

FINALS = 2
"""Rates that are trained to the end: the best, and the next one below, which forgets less."""

_WIDE_HIDDEN = 2048
"""Where the middle of a method's grid is tried first; a model of a quarter of this size starts half a decade above."""


def start_rates(arm: Arm, model: ModelFacts) -> list[float]:
    """The five rates of an arm that has no neighbour: the middle of its method's grid, two half decades either way.

    The best rate rises as models get narrower, about as hidden size to the power -0.8 (Thinking Machines, "LoRA without
    regret", 2025): half a decade for each factor of four below 2,048.
    """
    grid = arm.traits.rate_grid
    centre = grid[len(grid) // 2]
    for _ in range(max(0, round(math.log(_WIDE_HIDDEN / model.hidden_size, 4)))):
        centre = next_rate(centre, up=True)
    return around(centre, ALONE)


def around(centre: float, count: int) -> list[float]:
    """`count` (odd) rates of the half-decade grid with `centre` in the middle, ascending."""
    below = above = centre
    found = [centre]
    for _ in range(count // 2):
        below, above = next_rate(below, up=False), next_rate(above, up=True)
        found = [below, *found, above]
    return found


def snapped(rate: float) -> float:
    """The nearest rate of the half-decade grid 1e-3, 3e-3, 1e-2, ..., on a logarithmic scale."""
    power = math.floor(math.log10(rate) + 1e-9)
    candidates = [float(f"{digit}e{p}") for p in (power, power + 1) for digit in (1, 3)]
    return min(candidates, key=lambda one: (abs(math.log10(one / rate)), one))


def predicted_rate(rank: int, known: Sequence[tuple[int, float]]) -> float:
    """The rate that one or two other ranks (rank, best rate) speak for: of one the same, of two the line through them
    in logarithms, snapped to the grid. Raises ValueError for none."""
    if not known:
        raise ValueError("no rank to go by")
    (first, rate), (second, other) = known[0], known[-1]
    if first == second:
        return snapped(rate)
    slope = math.log(other / rate) / math.log(second / first)
    return snapped(rate * (rank / first) ** slope)


def neighbours(ranks: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """By rank, those that its rates are predicted from, the nearest first: none for the anchor, the anchor alone for
    its neighbours, and for all others the two ranks before it on the way outwards. Ordered as they can be searched.

    The anchor is the rank nearest in logarithms to the geometric middle of the smallest and the largest.
    """
    ordered = sorted(set(ranks))
    middle = (math.log(ordered[0]) + math.log(ordered[-1])) / 2
    anchor = min(range(len(ordered)), key=lambda i: (round(abs(math.log(ordered[i]) - middle), 9), ordered[i]))
    found: dict[int, tuple[int, ...]] = {ordered[anchor]: ()}
    for distance in range(1, len(ordered)):
        for side in (-1, 1):
            at = anchor + side * distance
            if 0 <= at < len(ordered):
                inwards = [ordered[at - side * step] for step in range(1, min(distance, 2) + 1)]
                found[ordered[at]] = tuple(inwards)
    return found


def search_runs(tries: int) -> float:
    """What a search trains, in whole runs, where no rate lies beyond those that it tries first."""
    return RUNG_FRACTIONS[0] * tries + FINALS * (1 - RUNG_FRACTIONS[0])


# ---- one arm's search ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchOutcome:
    """`losses[i][k]` is the validation loss of rate i at rung k in nats per token, None where it was not reached or
    diverged. `finals` were trained to the end, in this order; `chosen` of these has the lowest loss there."""

    rates: tuple[float, ...]
    rung_steps: tuple[int, ...]
    losses: tuple[tuple[float | None, ...], ...]
    finals: tuple[float, ...]
    chosen: float | None
    runs_spent: float
    """Training of all rates in whole runs."""

    @property
    def at_end_of_grid(self) -> bool:
        """The best rate has a neighbour on one side only, so a better one may lie outside the grid."""
        return self.chosen is not None and self.chosen in (self.rates[0], self.rates[-1])


Advance = Callable[[float, int], float | None]
"""Continues a rate's run, on its own full-length schedule, until a step: its validation loss, None if it diverged."""


def search_rates(
    rates: Sequence[float],
    step_count: int,
    advance: Advance,
    prepare: Callable[[Sequence[float], int], None] = lambda _, __: None,
) -> SearchOutcome:
    """Try `rates` to a quarter of the schedule, then train the best and the next one below to the end.

    Of three rates the highest is tried only where the middle one is better than the lowest: losses fall and rise once.
    Where the best is the last of those tried, up to MOST_BEYOND further ones are, as long as each is better than the
    one before; where all diverged, as many below. Where one that is trained to the end diverges there, the next below
    takes its place. `prepare` hears which rates `advance` will be asked for. No rate is chosen (None) where all
    diverged.
    """
    rungs = sorted({max(1, round(step_count * fraction)) for fraction in RUNG_FRACTIONS})
    losses: dict[float, list[float | None]] = {}
    trained: dict[float, int] = {}

    def reach(rate: float, rung: int) -> float | None:
        curve = losses.setdefault(rate, [None] * len(rungs))
        if trained.get(rate, 0) < rungs[rung]:
            found = advance(rate, rungs[rung])
            curve[rung] = found if found is not None and math.isfinite(found) else None
            trained[rate] = rungs[rung]
        return curve[rung]

    first: dict[float, float | None] = {}
    for rate in _to_begin_with(rates):
        first[rate] = None
    prepare(list(first), rungs[0])
    for rate in first:
        first[rate] = reach(rate, 0)
    if _lowest(first) not in (None, min(first)) and len(first) < len(rates):
        first[rates[-1]] = reach(rates[-1], 0)
    best = _follow(first, lambda rate: reach(rate, 0))
    finals: list[float] = []
    if best is not None:
        below = next_rate(best, up=False)
        prepare([rate for rate in (best, below) if rate in first], rungs[-1])
        rate = best
        while len(finals) < FINALS + 1 and sum(losses[one][-1] is not None for one in finals) < FINALS:
            reach(rate, 0)
            reach(rate, len(rungs) - 1)
            finals.append(rate)
            rate = next_rate(rate, up=False)
    chosen = _lowest({rate: losses[rate][-1] for rate in finals})
    every = sorted(losses)
    curves = tuple(tuple(losses[rate]) for rate in every)
    spent = sum(trained.values()) / rungs[-1]
    return SearchOutcome(tuple(every), tuple(rungs), curves, tuple(finals), chosen, spent)


def _to_begin_with(rates: Sequence[float]) -> Sequence[float]:
    """All, but of three the lower two."""
    return rates[:-1] if len(rates) == NEAR else rates


def _follow(first: dict[float, float | None], reach: Callable[[float], float | None]) -> float | None:
    """The best of the rates in `first`, to which those beyond its ends are added; None where all diverged."""
    for _ in range(MOST_BEYOND):
        best = _lowest(first)
        if best is not None and best not in (min(first), max(first)):
            break
        beyond = next_rate(min(first) if best is None else best, up=best is not None and best == max(first))
        first[beyond] = reach(beyond)
        if best is not None and _lowest(first) != beyond:
            break
    return _lowest(first)


def _lowest(losses: dict[float, float | None]) -> float | None:
    """The rate with the lowest loss, the smaller among equals; None where all diverged."""
    finite = {rate: loss for rate, loss in losses.items() if loss is not None}
    return min(finite, key=lambda rate: (finite[rate], rate), default=None)
