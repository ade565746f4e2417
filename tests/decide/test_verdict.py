from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_studies import Study

from rankscope.decide.paired_items import Frames
from rankscope.decide.run_outcomes import median_seed
from rankscope.decide.verdict import decide
from rankscope.records import Verdict, VerdictFile
from rankscope.study.study import Decision

LEARNED = {"lora-r1": 0.50, "lora-r4": 0.695, "lora-r16": 0.70, "full": 0.70}
KEPT = {"lora-r1": 0.80, "lora-r4": 0.795, "lora-r16": 0.79, "full": 0.70}


def judged(frames: Frames, decision: Decision | None = None, draws: int = 100) -> Verdict:
    return decide(frames, model="small", train_set="facts", decision=decision or Decision(), bootstrap_draws=draws)


def said(verdict: Verdict) -> str:
    return "\n".join(verdict.reasons)


@pytest.fixture(scope="module")
def clear() -> Frames:
    return Study(LEARNED, KEPT).frames()


def test_recommended(clear: Frames) -> None:
    verdict = judged(clear)
    assert (verdict.kind, verdict.decided) == ("recommended", True)
    assert verdict.recommended is not None
    assert (verdict.recommended.label, verdict.recommended.rank, verdict.recommended.alpha) == ("lora-r4", 4, 8.0)
    assert verdict.recommended.targets == "all-linear"
    assert set(verdict.refuted) == {"lora-r1", "full"}
    assert {arm.label: arm.status for arm in verdict.arms}["full"] == "ineligible"
    assert "full learns" in said(verdict)
    assert "more than your margin of 3" in said(verdict)
    assert "the same answer" in said(verdict)
    assert (verdict.more_needed.seeds, verdict.more_needed.items) == (0, 0)


def test_the_numbers_of_an_arm(clear: Frames) -> None:
    arm = next(arm for arm in judged(clear).arms if arm.label == "lora-r4")
    predictions = clear.predictions
    mine = predictions[predictions["arm"] == "lora-r4"].groupby("suite")["score"].mean()
    base = predictions[predictions["arm"] == "base"].groupby("suite")["score"].mean()
    assert arm.gain.mean == pytest.approx(mine["med"] - base["med"])
    assert arm.forgetting.mean == pytest.approx(((base - mine)["law"] + (base - mine)["sums"]) / 2)
    assert arm.seeds == [0, 1, 2]
    assert arm.cost.train_seconds == pytest.approx(11.0)
    assert (arm.cost.search_seconds, arm.cost.peak_memory_bytes) == (5.0, 1002)
    outcomes = {outcome.suite: outcome for outcome in arm.per_suite}
    assert set(outcomes) == {"med", "law", "sums"}
    assert outcomes["law"].change.mean == pytest.approx((mine - base)["law"])
    assert outcomes["sums"].relation == "general"


def test_tradeoff_has_the_front_with_its_price() -> None:
    verdict = judged(
        Study({"lora-r1": 0.5, "lora-r4": 0.7, "full": 0.69}, {"lora-r1": 0.7, "lora-r4": 0.6, "full": 0.5}).frames()
    )
    assert (verdict.kind, verdict.decided, verdict.recommended) == ("tradeoff", True, None)
    assert "On the front: lora-r1" in said(verdict)
    assert "On the front: lora-r4" in said(verdict)
    assert "On the front: full" not in said(verdict)


def test_no_gain() -> None:
    study = Study({"lora-r1": 0.29, "full": 0.28}, {"lora-r1": 0.8, "full": 0.5}, items=4000)
    verdict = judged(study.frames())
    assert (verdict.kind, verdict.decided) == ("no_gain", True)
    assert "No arm learns as much as 1 point" in said(verdict)


def test_cannot_distinguish_says_what_remains_and_what_would_decide() -> None:
    study = Study({"lora-r4": 0.685, "lora-r16": 0.70}, {"lora-r4": 0.79, "lora-r16": 0.79}, items=250, noise=0.3)
    verdict = judged(study.frames())
    assert (verdict.kind, verdict.decided, verdict.recommended) == ("cannot_distinguish", False, None)
    assert verdict.candidates == ["lora-r4", "lora-r16"]
    assert verdict.more_needed.items is not None
    assert verdict.more_needed.items > 0
    assert "would probably decide" in said(verdict)
    assert verdict.minimum_detectable_effect.gain is not None
    assert verdict.minimum_detectable_effect.gain > 0.03


def test_one_seed_is_a_description() -> None:
    verdict = judged(Study(LEARNED, KEPT, seeds=(7,)).frames())
    assert (verdict.kind, verdict.decided) == ("cannot_distinguish", False)
    assert "One seed" in said(verdict)
    assert "McNemar" in said(verdict)
    assert verdict.refuted == []
    assert verdict.more_needed.seeds == 2
    assert verdict.minimum_detectable_effect.gain is None
    assert all(arm.gain.low is not None and arm.status == "open" for arm in verdict.arms)


def test_one_seed_and_nothing_to_forget_promises_nothing_of_more_seeds() -> None:
    frames = Study(LEARNED, KEPT, seeds=(7,)).frames()
    rows = frames.predictions
    rows.loc[(rows["arm"] == "base") & rows["suite"].isin(["law", "sums"]), "score"] = 0.0
    verdict = judged(frames)
    assert "nothing could be seen to be forgotten" in said(verdict)
    assert "One seed" in said(verdict)
    assert (verdict.more_needed.seeds, verdict.more_needed.items) == (None, None)
    assert "would probably decide: " not in said(verdict)


def test_one_arm() -> None:
    verdict = judged(Study({"lora-r4": 0.7}, {"lora-r4": 0.79}).frames())
    assert verdict.kind == "recommended"
    assert verdict.minimum_detectable_effect.gain is not None


def test_a_single_item_decides_nothing() -> None:
    study = Study({"lora-r4": 1.0, "full": 1.0}, {"lora-r4": 0.8, "full": 0.8}, items=1)
    verdict = judged(study.frames(), Decision(retention_margin=0.99, task_margin=0.99))
    assert (verdict.kind, verdict.decided) == ("cannot_distinguish", False)
    assert "single scored item" in said(verdict)
    assert verdict.arms[0].gain.low is None


def test_an_arm_that_diverged_once_is_labelled_and_not_compared() -> None:
    states = {("full", 1): ("diverged", "loss is not finite at step 12")}
    verdict = judged(Study(LEARNED, KEPT, states=states).frames())
    full = next(arm for arm in verdict.arms if arm.label == "full")
    assert (full.status, full.seeds) == ("diverged", [0, 2])
    assert full.gain.mean == pytest.approx(0.4, abs=0.05)
    assert "full could not be compared: diverged (1 of its 3 runs: loss is not finite at step 12)." in verdict.reasons
    assert verdict.kind == "recommended"
    assert "over the 3 arms compared" in verdict.rule


def test_arms_that_failed_or_do_not_fit_are_named() -> None:
    states = {("full", seed): ("does not fit", "needs 80 GB") for seed in (0, 1, 2)}
    states |= {("lora-r16", seed): ("failed", "killed") for seed in (0, 1, 2)}
    verdict = judged(Study(LEARNED, KEPT, states=states).frames())
    status = {arm.label: arm for arm in verdict.arms}
    assert (status["full"].status, status["lora-r16"].status) == ("does not fit", "failed")
    assert status["full"].gain.mean is None
    assert "needs 80 GB" in said(verdict)
    assert verdict.recommended is not None
    assert verdict.recommended.label == "lora-r4"


def test_no_arm_done() -> None:
    states = {(arm, seed): ("failed", None) for arm in LEARNED for seed in (0, 1, 2)}
    verdict = judged(Study(LEARNED, KEPT, states=states).frames())
    assert (verdict.kind, verdict.candidates) == ("cannot_distinguish", [])
    assert "No arm has finished runs" in said(verdict)


def test_a_missing_seed_leaves_the_seeds_that_all_arms_share() -> None:
    study = Study(LEARNED, KEPT, seeds=(0, 1, 2, 3), states={("lora-r4", 2): ("failed", "killed")})
    verdict = judged(study.frames())
    assert all(arm.seeds == [0, 1, 3] for arm in verdict.arms)
    assert "all compared arms share (0, 1, 3)" in said(verdict)


def test_an_arm_with_too_few_seeds_steps_aside_for_the_others() -> None:
    states = {("lora-r1", 1): ("failed", "killed"), ("lora-r1", 2): ("failed", "killed")}
    verdict = judged(Study(LEARNED, KEPT, states=states).frames())
    status = {arm.label: arm.status for arm in verdict.arms}
    assert status["lora-r1"] == "failed"
    assert verdict.kind == "recommended"


def test_an_unfinished_study_is_not_decided() -> None:
    verdict = judged(Study(LEARNED, KEPT, states={("full", 2): ("planned", None)}).frames())
    assert (verdict.kind, verdict.decided) == ("cannot_distinguish", False)
    assert "not finished: 1 of its runs" in said(verdict)


def test_items_without_a_score_are_left_out_of_every_arm_and_counted(clear: Frames) -> None:
    predictions = clear.predictions.copy()
    gone = (predictions["run_id"] == "full-s1") & predictions["item_id"].isin(["i00003", "i00004"])
    predictions.loc[gone & (predictions["suite"] == "law"), "score"] = np.nan
    verdict = judged(clear._replace(predictions=predictions))
    assert "2 items of law lack a score" in said(verdict)
    for arm in verdict.arms:
        assert {outcome.suite: outcome.item_count for outcome in arm.per_suite} == {
            "law": 1498,
            "med": 1500,
            "sums": 1500,
        }


def test_a_suite_that_one_run_lacks_blocks_a_decision(clear: Frames) -> None:
    predictions = clear.predictions[(clear.predictions["run_id"] != "full-s1") | (clear.predictions["suite"] != "law")]
    verdict = judged(clear._replace(predictions=predictions))
    assert not verdict.decided
    assert "law is left out: it was not scored for full seed 1" in said(verdict)


def test_without_other_suites_forgetting_is_unknown(clear: Frames) -> None:
    suites = clear.suites[clear.suites["suite"].isin(["med", "prose"])]
    verdict = judged(clear._replace(suites=suites))
    assert (verdict.kind, verdict.decided) == ("cannot_distinguish", False)
    assert "what the arms forget is not known" in said(verdict)
    assert {arm.status for arm in verdict.arms} == {"open"}
    assert verdict.arms[0].forgetting.mean is None


def test_without_an_in_domain_suite_nothing_is_decided(clear: Frames) -> None:
    verdict = judged(clear._replace(suites=clear.suites[clear.suites["suite"] != "med"]))
    assert not verdict.decided
    assert verdict.arms[0].gain.mean is None


def test_text_suites_take_no_part(clear: Frames) -> None:
    predictions = clear.predictions.copy()
    worse = (predictions["suite"] == "prose") & (predictions["arm"] != "base")
    predictions.loc[worse, "loss_nats"] = 999.0
    assert judged(clear._replace(predictions=predictions)) == judged(clear)


def test_arms_that_never_differ_from_the_base_are_no_certainty() -> None:
    frames = Study({"lora-r4": 0.3}, {"lora-r4": 0.8}, items=20).frames()
    predictions = frames.predictions
    base = predictions[predictions["arm"] == "base"].set_index(["suite", "item_id"])["score"]
    keys = pd.MultiIndex.from_frame(predictions[["suite", "item_id"]])
    verdict = judged(frames._replace(predictions=predictions.assign(score=base.reindex(keys).to_numpy())))
    gain = verdict.arms[0].gain
    assert gain.mean == 0
    assert gain.low is not None
    assert gain.low < -0.05
    assert verdict.kind == "cannot_distinguish"


def test_the_file_comes_back_as_it_went(clear: Frames) -> None:
    file = VerdictFile(verdicts=[judged(clear)], notes=["one"])
    assert VerdictFile.model_validate_json(file.model_dump_json()) == file
    assert "NaN" not in file.model_dump_json()


def test_an_unknown_study_is_refused(clear: Frames) -> None:
    with pytest.raises(ValueError, match="no run of large"):
        decide(clear, model="large", train_set="facts", decision=Decision())


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.integers(0, 10_000))
def test_the_order_of_rows_does_not_matter(order: int, clear: Frames) -> None:
    rng = np.random.default_rng(order)
    shuffled = Frames(*(frame.iloc[rng.permutation(len(frame))] for frame in clear))
    assert judged(shuffled, draws=20) == judged(clear, draws=20)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000))
def test_an_arm_that_forgets_much_more_is_never_recommended(seed: int) -> None:
    study = Study(LEARNED, {**KEPT, "lora-r4": 0.6}, items=400, rng_seed=seed, noise=0.1)
    verdict = judged(study.frames(), draws=0)
    assert "lora-r4" in verdict.refuted
    assert verdict.recommended is None or verdict.recommended.label != "lora-r4"


def test_the_median_seed_is_by_validation_loss(clear: Frames) -> None:
    runs = clear.runs
    losses = runs[runs["arm"] == "full"].set_index("seed")["validation_loss"]
    assert losses[median_seed(runs, "small", "facts", "full")] == losses.median()
    with pytest.raises(LookupError, match="no finished run"):
        median_seed(runs, "small", "facts", "lora-r2")
