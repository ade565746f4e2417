"""Suites judged by their loss: in nats, beside suites of scores or alone, each with its own margin."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from made_studies import Study, by_loss
from scipy.stats import t

from rankscope.decide.crossed_statistics import SuiteArrays, estimate, gain_contrasts
from rankscope.decide.error_spending import simultaneous_alpha
from rankscope.decide.looks import gather
from rankscope.decide.paired_items import Frames
from rankscope.decide.verdict import decide
from rankscope.records import Verdict, VerdictFile
from rankscope.study.study import Decision

LEARNED = {"lora-r4": 0.70, "lora-r16": 0.70}
KEPT = {"lora-r4": 0.795, "lora-r16": 0.795}


def judged(frames: Frames, decision: Decision | None = None) -> Verdict:
    chosen = decision or Decision()
    return decide(frames, model="small", train_set="facts", decision=chosen, bootstrap_draws=50)


def mixed(kept: Mapping[str, float], learned: Mapping[str, float] | None = None) -> Frames:
    frames = Study(LEARNED, KEPT, items=1500).frames()
    frames = by_loss(frames, "sums", {arm: -lost for arm, lost in kept.items()})
    return frames if learned is None else by_loss(frames, "med", learned)


def test_an_arm_must_be_eligible_in_both_units() -> None:
    good = judged(mixed({"lora-r4": 0.001, "lora-r16": 0.001}))
    assert good.kind == "recommended"
    assert good.recommended is not None
    assert good.recommended.label == "lora-r4"
    bad = judged(mixed({"lora-r4": 0.05, "lora-r16": 0.001}))
    status = {arm.label: arm.status for arm in bad.arms}
    assert status == {"lora-r4": "ineligible", "lora-r16": "eligible"}
    assert bad.recommended is not None
    assert bad.recommended.label == "lora-r16"


def test_the_numbers_are_those_of_each_unit() -> None:
    frames = mixed({"lora-r4": 0.01, "lora-r16": 0.001})
    verdict = judged(frames)
    arm = next(arm for arm in verdict.arms if arm.label == "lora-r4")
    rows = frames.predictions.assign(nats=lambda r: r["loss_nats"] / r["scored_tokens"])
    means = rows[rows["suite"] == "sums"].groupby("arm")["nats"].mean()
    assert arm.forgetting_nats is not None
    assert arm.forgetting_nats.mean == pytest.approx(means["lora-r4"] - means["base"])
    assert arm.gain_nats is None
    law = next(outcome for outcome in arm.per_suite if outcome.suite == "law")
    assert arm.forgetting.mean == pytest.approx(-(law.change.mean or 0.0))  # the points of the one suite with scores
    sums = next(outcome for outcome in arm.per_suite if outcome.suite == "sums")
    assert (sums.metric, sums.accuracy) == ("loss", None)
    assert sums.loss_nats == pytest.approx(means["lora-r4"])
    assert sums.base_loss_nats == pytest.approx(means["base"])
    assert VerdictFile.model_validate_json(VerdictFile(verdicts=[verdict]).model_dump_json()).verdicts == [verdict]


def test_the_error_is_shared_over_both_units() -> None:
    evidence = gather(mixed({"lora-r4": 0.01, "lora-r16": 0.01}), model="small", train_set="facts", decision=Decision())
    assert evidence.last.alpha == simultaneous_alpha(0.95, 2, 2) == simultaneous_alpha(0.95, 4)
    assert evidence.metrics == ["score", "loss"]


def test_an_arm_must_be_good_enough_in_both_units() -> None:
    """By its scores the smaller arm is as good; by its losses it lags by twice the margin."""
    frames = by_loss(Study(LEARNED, KEPT, items=1500).frames(), "med", {"lora-r4": 0.06, "lora-r16": 0.10})
    frames.suites.loc[len(frames.suites)] = {
        "suite": "med2", "domain": "medical", "kind": "recall", "form": "choices", "metric": "score",
    }  # fmt: skip
    rows = frames.predictions
    copied = Study(LEARNED, KEPT, items=1500).frames().predictions
    copied = copied[copied["suite"] == "med"].assign(suite="med2")
    frames = frames._replace(predictions=pd.concat([rows, copied], ignore_index=True))
    verdict = judged(frames)
    assert verdict.recommended is not None
    assert verdict.recommended.label == "lora-r16"
    assert verdict.refuted == ["lora-r4"]
    assert any("more than your margin of 0.02 nats" in reason for reason in verdict.reasons)


def test_a_study_of_losses_alone_is_decided_in_nats() -> None:
    kept = {"lora-r4": -0.002, "lora-r16": -0.002}
    frames = by_loss(by_loss(mixed(dict.fromkeys(LEARNED, 0.002)), "law", kept), "med", dict.fromkeys(LEARNED, 0.3))
    verdict = judged(frames)
    assert verdict.kind == "recommended"
    assert "nats" in verdict.sentence
    assert "points" not in verdict.sentence
    assert "points" not in verdict.rule
    arm = verdict.arms[0]
    assert arm.gain.mean is None
    assert arm.gain_nats is not None
    assert arm.gain_nats.mean == pytest.approx(0.3, abs=0.01)
    assert verdict.minimum_detectable_effect.gain_nats is not None
    nothing = judged(frames, Decision(task_margin=0.9, min_gain=0.9, task_margin_nats=0.5))
    assert nothing.kind == "no_gain"  # the least gain is the task margin's share: 0.5 nats


def test_the_least_gain_in_nats_is_the_same_share_of_the_margin() -> None:
    decision = Decision(task_margin=0.03, min_gain=0.01, task_margin_nats=0.06)
    assert decision.margins("loss").least_gain == pytest.approx(0.02)
    assert decision.margins("score").least_gain == 0.01


def test_the_variance_of_losses_is_that_of_a_t_test_and_a_little_more() -> None:
    rng = np.random.default_rng(0)
    base, arm = rng.normal(size=2000), rng.normal(size=(1, 1, 2000)) + 0.1
    found = estimate([SuiteArrays(base, arm, bounded=False)], gain_contrasts(1))
    plain = (arm[0, 0] - base).std(ddof=1) / np.sqrt(2000)
    half = found.half_width(0.025)[0] / t.isf(0.025, 1999)
    assert plain < half < 1.01 * plain


def test_losses_that_never_differ_are_no_flips() -> None:
    """Nothing is added for one item won and one lost: a loss has no such step."""
    base = np.linspace(0, 3, 50)
    found = estimate(
        [SuiteArrays(base, np.repeat(base[None, None], 2, axis=1) + 0.5, bounded=False)], gain_contrasts(1)
    )
    assert found.variance[0] == pytest.approx(0.0, abs=1e-20)
