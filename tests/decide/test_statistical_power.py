"""What a design can see and what would decide it: estimates against simulation, and a plan against its assumptions."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import norm

from rankscope.decide.crossed_statistics import SuiteArrays
from rankscope.decide.error_spending import simultaneous_alpha
from rankscope.decide.gain_and_forgetting import Measured, measure
from rankscope.decide.larger_study import future_means, planned_half_width, planned_widths
from rankscope.decide.planned_power import DIFFERENCE, FORGETTING, Assumed, Design, assumed_bound, design_power
from rankscope.decide.statistical_power import detectable, more_needed
from rankscope.decide.verdict_kinds import rule_on
from rankscope.records import PlannedPower
from rankscope.study.study import Decision


@pytest.fixture(scope="module")
def calibration() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "calibration.py"
    spec = importlib.util.spec_from_file_location("calibration", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["calibration"] = module
    sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(module)
    return module


def suites(seed: int, seeds: int, items: int, levels: tuple[float, ...], seed_sd: float = 0.01) -> list[SuiteArrays]:
    rng = np.random.default_rng(seed)
    difficulty = rng.random(items)
    moved = np.array(levels)[:, None, None] + seed_sd * rng.normal(size=(len(levels), seeds, 1))
    return [
        SuiteArrays(
            (difficulty < 0.5).astype(float),
            (difficulty + 0.1 * rng.normal(size=(len(levels), seeds, items)) < moved) * 1.0,
        )
    ]


def measured(seeds: int = 4, items: int = 400, levels: tuple[float, ...] = (0.7, 0.7), lost: float = 0.49) -> Measured:
    return measure(suites(0, seeds, items, levels), suites(1, seeds, items, (lost,) * len(levels)))


def test_planning_the_present_design_gives_the_present_widths() -> None:
    gain = measured().gain
    assert gain is not None
    np.testing.assert_allclose(planned_half_width(gain, 0.01, 4, 0), gain.half_width(0.01), rtol=0.1)


def test_more_seeds_and_more_items_narrow() -> None:
    gain = measured().gain
    assert gain is not None
    now = planned_half_width(gain, 0.01, 4, 0)
    assert (planned_half_width(gain, 0.01, 8, 0) < now).all()
    assert (planned_half_width(gain, 0.01, 4, 400) < now).all()


def test_what_more_is_needed_decides_in_three_of_four_drawn_studies() -> None:
    """The number that is told decides often enough in the larger studies that are drawn, and half as many do not."""
    open_study = measured(seeds=5, items=250)
    alpha = simultaneous_alpha(0.95, 2)
    needed = more_needed(open_study, [1, 2], Decision(), alpha)
    assert needed.items is not None

    def share(items: int) -> float:
        widths = planned_widths(open_study, alpha, 5, items)
        futures = list(future_means(open_study, 5, items))
        decided = [rule_on(one, widths, [1, 2], Decision(), 5).kind.decided for one in futures]
        return sum(decided) / len(decided)

    assert share(needed.items) >= 0.75
    assert share(needed.items // 2) < 0.75


def test_the_means_of_larger_studies_spread_as_the_present_ones_exceed_theirs() -> None:
    """Against the variance seen when studies are grown: means at 8 seeds about those at the first 4."""
    moved = []
    for seed in range(300):
        grown = suites(seed, 8, 300, (0.7, 0.7), 0.03)
        first = [suite._replace(scores=suite.scores[:, :4]) for suite in grown]
        moved.append(measure(grown, grown).gain.mean - measure(first, first).gain.mean)  # type: ignore[union-attr]
    said = np.mean(
        [
            np.var([one.gain.mean for one in future_means(one_of(seed), 8, 0)], axis=0)  # type: ignore[union-attr]
            for seed in range(40)
        ],
        axis=0,
    )
    np.testing.assert_allclose(said, np.var(moved, axis=0), rtol=0.5)


def one_of(seed: int) -> Measured:
    """A study of four seeds."""
    first = suites(seed, 4, 300, (0.7, 0.7), 0.03)
    return measure(first, first)


def test_where_forgetting_lies_on_the_margin_nothing_would_decide() -> None:
    study = measured(items=400, lost=0.47)
    assert study.forgetting is not None
    margin = float(study.forgetting.mean.max())
    needed = more_needed(study, [1, 2], Decision(retention_margin=margin), 0.0125)
    assert needed.seeds is None


def test_a_single_seed_asks_for_two_more() -> None:
    needed = more_needed(measured(seeds=1), [1, 2], Decision(), 0.0125)
    assert (needed.seeds, needed.items) == (2, None)
    assert detectable(measured(seeds=1), 0.0125).gain is None


def test_the_detectable_effect_is_found_four_times_in_five() -> None:
    found, total = 0, 200
    reference = detectable(measured(seeds=6, items=400), 0.0125).forgetting
    assert reference is not None
    for seed in range(total):
        kept = suites(seed, 6, 400, (0.5 - 0.03 - reference,) * 2)
        forgetting = measure(kept, kept).forgetting
        assert forgetting is not None
        found += (forgetting.mean - forgetting.half_width(0.0125) > 0.03).mean()
    assert 0.65 < found / total < 0.95


# ---- before any run -------------------------------------------------------------------------------------------------

WIDE = Decision(task_margin=0.06, retention_margin=0.06)


def power_of(
    arms: int,
    seeds: int,
    in_domain: list[int],
    others: list[int],
    decision: Decision,
    looks: tuple[int, ...] = (),
) -> PlannedPower:
    return design_power(Design(arms, seeds, in_domain, others, decision, looks), "m", "t")


def simulated(assumed: Assumed, items: int, seeds: int, studies: int) -> np.ndarray:
    """Means of a contrast that is truly 0."""
    rng = np.random.default_rng(0)
    error = np.sqrt(assumed.item / items + (assumed.residual / items + assumed.seed_sd**2) / seeds)
    return rng.normal(size=studies) * error


@pytest.mark.parametrize("assumed", [DIFFERENCE, FORGETTING])
def test_the_standard_error_is_that_of_the_assumed_variances(assumed: Assumed) -> None:
    _, error = assumed_bound(assumed, [800], 4, 5, 0.005)
    # The residual stands in both parts of the closed form, which errs towards wide.
    assert 1.0 <= error / simulated(assumed, 800, 5, 20_000).std() < 1.15


def test_the_chance_is_that_of_a_bound_within_the_margin() -> None:
    found = power_of(4, 5, [2000], [2000, 2000], WIDE)
    half, error = assumed_bound(DIFFERENCE, [2000], 4, 5, 0.05 / 8)
    assert found.chance_good_enough == pytest.approx(float(norm.cdf((0.06 - half) / error)))
    assert found.detectable_gain == pytest.approx(half + 0.8416 * error, abs=1e-4)


def test_more_seeds_items_and_margin_give_more_power() -> None:
    few = power_of(4, 3, [300], [300], WIDE)
    many = power_of(4, 8, [300], [300], WIDE)
    large = power_of(4, 8, [3000], [3000], WIDE)
    assert few.chance_good_enough < many.chance_good_enough < large.chance_good_enough
    assert few.chance_eligible < many.chance_eligible < large.chance_eligible
    assert few.seeds_for_power is not None
    enough = power_of(4, few.seeds_for_power, [300], [300], WIDE)
    assert min(enough.chance_good_enough, enough.chance_eligible) >= 0.8


def test_narrow_margins_are_said_to_be_out_of_reach() -> None:
    narrow = Decision(task_margin=0.001, retention_margin=0.001)
    found = power_of(4, 3, [300], [300], narrow)
    assert (found.seeds_for_power, found.items_for_power) == (None, None)
    assert "wider margins only" in "\n".join(found.said)


def test_adaptive_seeds_expect_fewer_runs_where_the_first_look_can_decide() -> None:
    easy = power_of(4, 8, [5000], [5000], Decision(task_margin=0.2, retention_margin=0.2), (3, 5, 8))
    hard = power_of(4, 8, [200], [200], Decision(), (3, 5, 8))
    assert easy.expected_runs == 12
    assert hard.expected_runs is not None
    assert 28 <= hard.expected_runs <= 32


# ---- on simulated studies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["five just inferior", "rare flips, 200 items", "two arms, just inferior", "one unstable arm"]
)
def test_a_small_calibration_holds(calibration: ModuleType, name: str) -> None:
    scenario = next(one for one in calibration.SCENARIOS if one.name == name)
    row = calibration.run(replace(scenario, looks=(99,)), 120, Decision(), seed=1)  # the fixed list of seeds only
    assert row["wrong"] <= 0.05
    assert row["coverage_gain"] >= 0.93
    assert row["coverage_forgetting"] >= 0.93
    assert name in calibration.table([row], calibration.FIXED)


@pytest.mark.slow
def test_adaptive_seeds_save_runs_and_keep_the_error(calibration: ModuleType) -> None:
    scenario = next(one for one in calibration.SCENARIOS if one.name == "five just inferior, 2,000 items")
    row = calibration.run(scenario, 60, Decision(), seed=1)
    assert row["adaptive_wrong"] <= 0.05
    assert row["adaptive_runs"] < 0.75
    assert row["adaptive_decided"] > 0.5
    assert row["wrong_z_test"] > row["adaptive_wrong"]


def test_losses_with_heavy_tails_are_judged_as_rarely_wrong(calibration: ModuleType) -> None:
    """Arms that lose just more than the margin on suites of log-normal losses."""
    scenario = next(one for one in calibration.LOSSES if one.name == "losses, all forget just too much")
    row = calibration.run(replace(scenario, looks=(99,)), 60, Decision(), seed=1)
    assert row["wrong"] <= 0.05
    assert row["coverage_forgetting"] >= 0.9


@pytest.mark.slow
def test_what_more_is_needed_decides_as_often_as_it_is_said_to(calibration: ModuleType) -> None:
    scenario = next(one for one in calibration.SCENARIOS if one.name == "as the demo")
    row = calibration.more_needed_row(scenario, 60, Decision(), seed=4)
    assert row["given"] >= 8
    assert row["hits"] >= 0.6 * row["given"]
