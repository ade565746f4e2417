"""The search on curves whose answer is known: what is tried, what is trained through, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from made_facts import LLAMA_8B, machine_facts, model_facts, suite_facts, train_facts

from rankscope.plan.make_plan import make_plan
from rankscope.plan.rate_search import (
    around,
    neighbours,
    predicted_rate,
    search_rates,
    search_runs,
    snapped,
    start_rates,
)
from rankscope.plan.resolve import next_rate
from rankscope.study.methods import Arm
from rankscope.study.read_study import study_of

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
Asked = list[tuple[float, int]]


def bowl(best: float, diverges_above: float = math.inf) -> tuple[Callable[[float, int], float | None], Asked]:
    asked: Asked = []

    def advance(rate: float, until_step: int) -> float | None:
        asked.append((rate, until_step))
        if rate > diverges_above:
            return None
        return abs(math.log10(rate / best)) + 1 / until_step

    return advance, asked


def test_five_rates_to_a_quarter_then_the_best_and_the_next_below_to_the_end() -> None:
    advance, asked = bowl(3e-3)
    outcome = search_rates(RATES, 100, advance)
    assert (outcome.chosen, outcome.finals, outcome.rung_steps) == (3e-3, (3e-3, 1e-3), (25, 100))
    assert asked == [*((rate, 25) for rate in RATES), (3e-3, 100), (1e-3, 100)]
    assert outcome.runs_spent == search_runs(5) == 2.75
    assert not outcome.at_end_of_grid
    assert [curve[1] is not None for curve in outcome.losses] == [False, True, True, False, False]


def test_the_loss_at_the_end_decides_between_the_two() -> None:
    def advance(rate: float, until_step: int) -> float:
        return abs(math.log10(rate / (3e-3 if until_step == 25 else 1e-3)))

    assert search_rates(RATES, 100, advance).chosen == 1e-3


@pytest.mark.parametrize(
    ("best", "rates", "spent"),
    [
        (3e-2, (*RATES, 1e-1), 3.0),  # one further shows that it is no end
        (1e-1, (*RATES, 1e-1, 3e-1), 3.25),
        (3e-1, (*RATES, 1e-1, 3e-1), 3.25),  # never more than two beyond
        (3e-4, (1e-4, *RATES), 3.0),
    ],
)
def test_an_end_that_is_best_is_followed(best: float, rates: tuple[float, ...], spent: float) -> None:
    outcome = search_rates(RATES, 100, bowl(best)[0])
    assert (outcome.chosen, outcome.rates, outcome.runs_spent) == (best, rates, spent)
    assert outcome.finals == (best, next_rate(best, up=False))
    assert outcome.at_end_of_grid == (best == 3e-1)


def test_a_rate_that_diverges_is_never_chosen_and_the_next_below_takes_its_place() -> None:
    outcome = search_rates(RATES, 100, bowl(3e-2, diverges_above=5e-3)[0])
    assert (outcome.chosen, outcome.finals) == (3e-3, (3e-3, 1e-3))

    def late(rate: float, until_step: int) -> float | None:
        return None if until_step == 100 and rate > 5e-4 else abs(math.log10(rate / 3e-3))

    outcome = search_rates(RATES, 100, late)
    assert (outcome.chosen, outcome.finals) == (3e-4, (3e-3, 1e-3, 3e-4))
    nothing = search_rates(RATES, 100, lambda rate, until: None)
    assert (nothing.chosen, nothing.finals, nothing.runs_spent) == (None, (), 1.75)
    assert nothing.rates[:2] == (3e-5, 1e-4), "too high, so lower ones are tried"


@pytest.mark.parametrize(("best", "tried"), [(1e-2, [3e-3, 1e-2, 3e-2]), (3e-3, [3e-3, 1e-2, 1e-3]), (3e-2, [3e-3, 1e-2, 3e-2, 1e-1])])  # fmt: skip  # noqa: E501
def test_of_three_the_highest_is_tried_where_it_may_be_best(best: float, tried: list[float]) -> None:
    advance, asked = bowl(best)
    outcome = search_rates(RATES[2:], 100, advance)
    assert outcome.chosen == best
    assert [rate for rate, step in asked if step == 25] == tried


def test_of_one_step_there_is_one_rung() -> None:
    outcome = search_rates(RATES, 1, bowl(3e-3)[0])
    assert (outcome.rung_steps, outcome.chosen) == ((1,), 3e-3)


def test_the_grid_is_of_half_decades() -> None:
    assert around(1e-3, 5) == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    assert [snapped(rate) for rate in (9e-4, 2e-3, 1.6e-3, 4e-5, 1e-2)] == [1e-3, 3e-3, 1e-3, 3e-5, 1e-2]


def test_a_rank_goes_by_the_line_through_the_two_before_it() -> None:
    assert predicted_rate(16, [(4, 3e-3)]) == 3e-3
    assert predicted_rate(64, [(16, 3e-3), (4, 1e-2)]) == 1e-3
    assert predicted_rate(1, [(4, 1e-2), (16, 1e-2)]) == 1e-2
    with pytest.raises(ValueError, match="no rank"):
        predicted_rate(1, [])


def test_ranks_are_searched_from_the_middle_outwards() -> None:
    assert neighbours([1, 4, 16, 64]) == {4: (), 1: (4,), 16: (4,), 64: (16, 4)}
    assert neighbours([8, 16, 32, 64, 128]) == {32: (), 16: (32,), 64: (32,), 8: (16, 32), 128: (64, 32)}
    assert neighbours([8]) == {8: ()}
    order = list(neighbours([1, 2, 4, 8, 16, 32]))
    for rank, inwards in neighbours([1, 2, 4, 8, 16, 32]).items():
        assert all(order.index(other) < order.index(rank) for other in inwards)


def arm(method: str, **settings: object) -> Arm:
    return Arm.model_validate({"label": method, "method": method, "learning_rate": "auto", **settings})


def test_narrow_models_start_at_larger_rates() -> None:
    lora, full = arm("lora", rank=8, alpha=16.0, targets="all-linear"), arm("full")
    assert start_rates(lora, LLAMA_8B) == [3e-5, 1e-4, 3e-4, 1e-3, 3e-3]
    assert start_rates(full, LLAMA_8B) == [3e-6, 1e-5, 3e-5, 1e-4, 3e-4]
    bundled = model_facts(hidden=192)
    assert start_rates(lora, bundled) == [3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
    assert start_rates(full, bundled) == [3e-5, 1e-4, 3e-4, 1e-3, 3e-3]


DEMO = """\
name: demo
model: bundled
train: {medical: {path: train.jsonl, domain: medical}}
suites:
  medqa: {path: test.jsonl, domain: medical, kind: recall}
  law: {path: law.jsonl, domain: legal, kind: recall}
arms:
  full: {learning_rate: auto}
  lora: {ranks: [1, 4, 16, 64], alpha: 2r, learning_rate: auto}
seeds: [0, 1, 2]
"""


def test_the_demo_s_five_arms_take_two_and_a_half_runs_each_in_the_mean() -> None:
    """By the plan, and by searches on curves with the best rates that the bundled world has (docs/log.md): full's lies
    one half decade beyond what is tried first."""
    suites = [suite_facts(), suite_facts("law", domain="legal", item_count=200)]
    model = model_facts(hidden=192)
    plan = make_plan(study_of(DEMO), [model], {"bundled": [train_facts()]}, {"bundled": suites}, machine_facts())
    assert len(plan.searches) == 5
    assert sum(search.runs for search in plan.searches) / 5 <= 2.5
    best = {"full": 3e-3, "lora-r1": 1e-2, "lora-r4": 1e-2, "lora-r16": 1e-2, "lora-r64": 3e-3}
    known: dict[str, tuple[int, float]] = {}
    spent = 0.0
    for search in plan.searches:
        own = search.arms[0]
        near = [known[other] for other in search.after]
        rates = search.rates or around(predicted_rate(own.rank or 0, near), 3)
        outcome = search_rates(rates, 100, bowl(best[own.label])[0])
        assert outcome.chosen == best[own.label]
        known[search.search_id] = (own.rank or 0, outcome.chosen)
        spent += outcome.runs_spent
    assert spent / 5 <= 2.5


def test_ranks_in_entries_of_their_own_are_searched_as_in_one() -> None:
    def searches(study: str) -> list[tuple[str, list[str]]]:
        facts = {"bundled": [train_facts()]}, {"bundled": [suite_facts(), suite_facts("law", domain="legal")]}
        plan = make_plan(study_of(study), [model_facts(hidden=192)], *facts, machine_facts())
        assert {run.search_id for run in plan.runs} == {search.search_id for search in plan.searches}
        return [(search.search_id, search.after) for search in plan.searches]

    lora = "  lora: {ranks: [1, 4, 16, 64], alpha: 2r, learning_rate: auto}\n"
    assert lora in DEMO

    def entries(settings: dict[int, str]) -> str:
        one = "  lora-r{}: {{method: lora, ranks: [{}], alpha: 2r, learning_rate: auto{}}}\n"
        return DEMO.replace(lora, "".join(one.format(rank, rank, more) for rank, more in settings.items()))

    assert searches(entries({1: "", 64: "", 16: "", 4: ""})) == searches(DEMO)
    apart = searches(entries({1: "", 4: "", 16: ", dropout: 0.1", 64: ", dropout: 0.1"}))
    assert sorted(len(after) for _, after in apart) == [0, 0, 0, 1, 1]
    assert len(dict(apart)) == 5
    dial = searches(entries({1: "", 4: "", 16: "", 64: ", dial: 1"}))
    assert len(dict(dial)) == 5
    assert sorted(len(after) for _, after in dial) == sorted(len(after) for _, after in searches(DEMO))


def test_what_chooses_is_part_of_a_searchs_id_and_of_no_runs() -> None:
    def planned(law: str, domain: str = "legal") -> tuple[list[str], list[str]]:
        suites = [suite_facts(), suite_facts("law", domain=domain, item_count=200, content_sha256=law)]
        given = {"bundled": [train_facts()]}, {"bundled": suites}
        plan = make_plan(study_of(DEMO), [model_facts(hidden=192)], *given, machine_facts())
        return [run.run_id for run in plan.runs], [search.search_id for search in plan.searches]

    runs, searches = planned("a" * 64)
    others, moved = planned("b" * 64)
    assert runs == others
    assert not set(searches) & set(moved)
    assert planned("a" * 64, "medical")[0] == runs
