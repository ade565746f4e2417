"""Successive halving on curves whose answer is known, and the schedule against transformers'."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from rankscope.jobs.search_job import successive_halving
from rankscope.plan.resolve import next_rate
from rankscope.study.study import Schedule
from rankscope.train.optimizer import rate_factor, warmup_steps

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def bowl(best: float, diverges_above: float = math.inf):  # type: ignore[no-untyped-def]
    asked: list[tuple[float, int]] = []

    def advance(rate: float, until_step: int) -> float | None:
        asked.append((rate, until_step))
        if rate > diverges_above:
            return None
        return abs(math.log10(rate / best)) + 1 / until_step

    return advance, asked


def test_the_best_rate_is_found_for_a_third_of_the_steps() -> None:
    advance, asked = bowl(3e-4)
    outcome = successive_halving(RATES, 100, advance)
    assert outcome.chosen == 3e-4
    assert not outcome.at_end_of_grid
    assert outcome.rung_steps == (25, 50, 100)
    last = {rate: max(until for r, until in asked if r == rate) for rate in RATES}
    assert sum(last.values()) == 3 * 25 + 2 * 50 + 2 * 100


def test_half_stays_at_each_rung_and_losses_stand_where_they_were_measured() -> None:
    outcome = successive_halving(RATES, 100, bowl(1e-4)[0])
    counts = [sum(curve[k] is not None for curve in outcome.losses) for k in range(3)]
    assert counts == [7, 4, 2]


def test_the_end_of_the_grid_is_noticed() -> None:
    assert successive_halving(RATES, 100, bowl(1e-1)[0]).at_end_of_grid
    assert successive_halving(RATES, 100, bowl(1e-7)[0]).at_end_of_grid


def test_a_rate_that_diverges_is_never_chosen() -> None:
    outcome = successive_halving(RATES, 100, bowl(1e-2, diverges_above=5e-4)[0])
    assert outcome.chosen == 3e-4
    assert successive_halving(RATES, 100, lambda rate, until: None).chosen is None
    late = successive_halving(RATES, 100, lambda rate, until: None if until == 100 else 1.0)
    assert late.chosen is None


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_decay_is_that_of_transformers(schedule: Schedule, warmup: int) -> None:
    make = get_cosine_schedule_with_warmup if schedule == "cosine" else get_linear_schedule_with_warmup
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = make(optimizer, warmup, 50)
    for step in range(50):
        ours = rate_factor(step, 50, warmup=warmup, schedule=schedule)
        theirs = reference.get_last_lr()[0]
        # In the warm-up ours is a step ahead: the first update is not wasted on a rate of zero.
        assert ours == pytest.approx((step + 1) / warmup if step < warmup else theirs)
        optimizer.step()
        reference.step()


def test_warmup_is_rounded_up() -> None:
    assert [warmup_steps(n, 0.03) for n in (1, 33, 34, 100)] == [1, 1, 2, 3]
    assert warmup_steps(100, 0.0) == 0


def further(rate: float, up: bool) -> float:
    return next_rate(rate, up=up)


@pytest.mark.parametrize(
    ("best", "rates", "at_end"),
    [
        (3e-2, (*RATES, 3e-2, 1e-1), False),  # 1e-1 shows that 3e-2 is no end
        (1e-1, (*RATES, 3e-2, 1e-1), True),
        (3e-6, (1e-6, 3e-6, *RATES), False),
        (3e-4, RATES, False),
    ],
)
def test_a_grid_whose_end_is_best_is_extended(best: float, rates: tuple[float, ...], at_end: bool) -> None:
    outcome = successive_halving(RATES, 100, bowl(best)[0], beyond=further, most_beyond=2)
    assert (outcome.chosen, outcome.rates, outcome.at_end_of_grid) == (best, rates, at_end)
    assert all(loss is not None for loss in outcome.losses[rates.index(best)])


def test_a_rate_beyond_that_diverges_or_is_worse_ends_the_extension() -> None:
    worse = successive_halving(RATES, 100, bowl(1e-2)[0], beyond=further, most_beyond=2)
    assert (worse.chosen, worse.rates[-1], worse.at_end_of_grid) == (1e-2, 3e-2, False)
    advance, _ = bowl(1e-1, diverges_above=2e-2)
    gone = successive_halving(RATES, 100, advance, beyond=further, most_beyond=2)
    assert (gone.chosen, gone.losses[-1]) == (1e-2, (None, None, None))


def test_the_next_rate_is_half_a_decade_on() -> None:
    rates = [1e-6]
    for _ in range(10):
        rates.append(next_rate(rates[-1], up=True))
    assert rates[1:7] == [3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3]
    for above, below in zip(rates[1:], rates, strict=False):
        assert next_rate(above, up=False) == below
