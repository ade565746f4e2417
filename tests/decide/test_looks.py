"""Looks at growing evidence: the error they spend, what is kept of an arm that left, and when they end."""

from __future__ import annotations

import numpy as np
import pytest
from made_studies import PARAMETERS, Study
from scipy.stats import multivariate_normal, norm

from rankscope.decide.error_spending import crossing_probability, nominal_alpha
from rankscope.decide.looks import gather
from rankscope.decide.result_tables import make_tables
from rankscope.decide.verdict import decide
from rankscope.decide.verdict_bounds import Bounds, tightest
from rankscope.study.study import AdaptiveSeeds, Decision

LOOKS = (3, 5, 8)


@pytest.mark.parametrize(
    ("looks", "alpha", "constant"),
    [(2, 0.025, 2.178), (3, 0.025, 2.289), (4, 0.025, 2.361), (5, 0.025, 2.413), (3, 0.005, 2.873), (5, 0.005, 2.986)],
)
def test_the_bounds_are_pococks(looks: int, alpha: float, constant: float) -> None:
    """Jennison & Turnbull (2000), table 2.1; two-sided there, which differs in the fourth digit."""
    nominal = nominal_alpha(alpha, tuple(range(1, looks + 1)))
    assert norm.isf(nominal) == pytest.approx(constant, abs=2e-3)


def test_the_crossing_probability_is_that_of_a_multivariate_normal() -> None:
    counts = np.array(LOOKS)
    correlation = np.sqrt(np.minimum.outer(counts, counts) / np.maximum.outer(counts, counts))
    inside = multivariate_normal(cov=correlation).cdf([2.0, 2.0, 2.0])
    assert crossing_probability(2.0, LOOKS) == pytest.approx(1 - inside, abs=1e-4)


def test_one_look_spends_all() -> None:
    assert nominal_alpha(0.01, ()) == 0.01
    assert 0.01 / 3 < nominal_alpha(0.01, LOOKS) < 0.01


def test_looks_grow_by_half() -> None:
    assert AdaptiveSeeds(start=3, max=8).looks == LOOKS
    assert AdaptiveSeeds(start=2, max=4).looks == (3, 4)  # two seeds are no look
    assert AdaptiveSeeds(start=5, max=6).looks == (5, 6)


def test_bounds_only_tighten_and_reach_an_arm_that_left_through_a_third() -> None:
    def limits(width: float, better_by: list[list[float]]) -> Bounds:
        flat = np.zeros(len(better_by))
        return Bounds(flat - width, flat + width, flat - width, flat + width, np.array(better_by))

    before = limits(0.2, [[-9, -0.3, 0.01], [-0.3, -9, 0.05], [-0.2, -0.2, -9]])
    merged = tightest(before, limits(0.1, [[-9, -0.02], [-0.4, -9]]), [0, 1])
    np.testing.assert_allclose(merged.gain_high, [0.1, 0.1, 0.2])
    assert merged.better_by[0, 1] == -0.02
    assert merged.better_by[1, 0] == -0.3  # the earlier bound was tighter
    assert merged.better_by[0, 2] == pytest.approx(-0.02 + 0.05)
    wider = tightest(before, limits(0.5, [[-9, -0.9], [-0.9, -9]]), [0, 1])
    np.testing.assert_allclose(wider.gain_high, before.gain_high)


@pytest.fixture(scope="module")
def study() -> Study:
    """r1 learns too little and full forgets too much, which three seeds tell; r4 and r16 need more of them."""
    learned = {"lora-r1": 0.45, "lora-r4": 0.70, "lora-r16": 0.70, "full": 0.70}
    kept = {"lora-r1": 0.80, "lora-r4": 0.81, "lora-r16": 0.81, "full": 0.6}
    return Study(learned, kept, seeds=range(8), items=1500, seed_sd=0.012, rng_seed=3)


def test_arms_that_cannot_win_get_no_more_seeds_and_stand_as_in_their_last_look(study: Study) -> None:
    frames = study.frames()
    evidence = gather(frames, model="small", train_set="facts", decision=Decision(), looks=LOOKS)
    assert len(evidence.looks) > 1
    assert evidence.looks[0].labels == ("lora-r1", "lora-r4", "lora-r16", "full")
    assert set(evidence.last.labels) == {"lora-r4", "lora-r16"}
    verdict = decide(frames, model="small", train_set="facts", decision=Decision(), looks=LOOKS, bootstrap_draws=50)
    count = len(evidence.last.pairing.seeds)
    arms = {arm.label: arm for arm in verdict.arms}
    assert verdict.kind == "recommended"
    assert (arms["full"].seeds, arms["full"].status) == ([0, 1, 2], "ineligible")
    assert arms["lora-r4"].seeds == list(range(count))
    assert set(verdict.refuted) >= {"lora-r1", "full"}
    said = "\n".join(verdict.reasons)
    assert "After 3 seeds lora-r1 and full could not be the answer any more" in said
    assert f"asked after 3 and {count} of at most 8 seeds" in said

    tables = make_tables(frames, decision=Decision(), looks=LOOKS)
    seeds = tables["forgetting"].groupby("arm")["seeds"].unique().map(list).to_dict()
    assert seeds == {"full": [3], "lora-r1": [3], "lora-r4": [count], "lora-r16": [count]}
    assert len(tables["seeds"]) == 3 + 3 + 2 * count
    flips = tables["flips"].groupby("arm")["seeds_total"].unique().map(list).to_dict()
    assert flips == seeds


def test_a_run_still_to_do_ends_the_looks(study: Study) -> None:
    frames = study.frames()
    runs = frames.runs
    later = runs["seed"] >= 3
    runs.loc[later, "state"] = "planned"
    evidence = gather(frames, model="small", train_set="facts", decision=Decision(), looks=LOOKS)
    assert evidence.last.pairing.unfinished
    needed = set(runs.loc[runs["arm"].isin(["lora-r4", "lora-r16"]) & (runs["seed"] < 5), "run_id"])
    assert evidence.last.run_ids == needed
    assert evidence.ruling.kind.name == "cannot_distinguish"


def test_after_the_first_look_arms_are_compared_on_the_seeds_that_they_were_given(study: Study) -> None:
    """The best bet gave r4 and r16 five seeds, or four: then the second look has both, or does not take place."""
    every, two = ("lora-r1", "lora-r4", "lora-r16", "full"), ("lora-r4", "lora-r16")
    for given, expected in ((5, [every, two]), (4, [every])):
        frames = study.frames()
        runs = frames.runs
        more = runs["arm"].isin(["lora-r4", "lora-r16"]) & (runs["seed"] < given)
        runs.loc[(runs["seed"] >= 3) & ~more, "state"] = "not needed"
        evidence = gather(frames, model="small", train_set="facts", decision=Decision(), looks=LOOKS)
        assert not evidence.futile
        assert not evidence.last.pairing.unfinished
        assert [look.labels for look in evidence.looks] == expected


def test_a_trade_off_is_seen_though_the_arms_that_forget_left_early() -> None:
    learned = {"lora-r1": 0.5, "lora-r4": 0.6, "full": 0.7}
    kept = {"lora-r1": 0.755, "lora-r4": 0.7, "full": 0.6}
    frames = Study(learned, kept, seeds=range(8), items=1500, seed_sd=0.008, rng_seed=1).frames()
    verdict = decide(frames, model="small", train_set="facts", decision=Decision(), looks=LOOKS, bootstrap_draws=0)
    assert verdict.kind == "tradeoff"
    assert {arm.label: arm.status for arm in verdict.arms} == dict.fromkeys(
        PARAMETERS.keys() & kept.keys(), "ineligible"
    )
    assert "On the front: full" in "\n".join(verdict.reasons)
