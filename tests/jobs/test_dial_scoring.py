"""A study with dials: each dial's scores against models made by hand, and what is done again after a loss."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from test_pipeline import plan_of, run
from tiny_study import tiny_study

from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.score_suites import score_suite
from rankscope.jobs.job_context import JobContext
from rankscope.model.methods.attach import GivenFactors, attach
from rankscope.model.methods.peft_folder import plain_factors
from rankscope.pipeline import Outcome
from rankscope.records import PlannedRun

SPLIT = {"min_items": 8, "share": 0.4}
"""Of the 30 items of `other` 12 choose; `sums` has 6 items and is not split."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("dials")
    arms = {
        "full": {"learning_rate": 1e-3},
        "lora": {"ranks": [2], "learning_rate": 1e-2},
        "ia3": {"learning_rate": 1e-2},
    }
    study = tiny_study(folder / "input", arms=arms, seeds=[0], dial=[0.5, 1], selection=SPLIT, keep={"full": "all"})
    assert run(study, folder / "out") == Outcome()
    return study, folder / "out"


def run_of(out: Path, label: str) -> PlannedRun:
    return next(one for one in plan_of(out).runs if one.arm.label == label)


def context_of(out: Path) -> JobContext:
    folder = StudyFolder.open(out)
    text = folder.read_study_text()
    assert text is not None
    return JobContext(folder, text, plan_of(out))


def test_the_files_of_a_run_at_its_dials(done: tuple[Path, Path]) -> None:
    folder = StudyFolder.open(done[1])
    for label, dials in (("full", [0.5, 1.0]), ("lora-r2", [0.5, 1.0]), ("ia3", [1.0])):
        one = run_of(done[1], label)
        assert one.dials == dials
        frame = folder.read_at_dial(one.run_id, 0.5)
        assert (frame is not None) == (0.5 in dials)
        moved = folder.read_first_tokens(one.run_id)
        assert moved is not None
        assert sorted(moved["dial"].unique()) == dials
        assert moved.groupby(["suite", "dial"]).size().to_dict() == {
            (suite, dial): count for suite, count in (("other", 12), ("sums", 6)) for dial in dials
        }
        losses = folder.read_dial_losses(one.run_id)
        assert (losses is None) == (dials == [1.0])


def test_half_a_change_moves_less_than_all_of_it(done: tuple[Path, Path]) -> None:
    for label in ("full", "lora-r2"):
        moved = StudyFolder.open(done[1]).read_first_tokens(run_of(done[1], label).run_id)
        assert moved is not None
        half, whole = (moved[moved["dial"] == dial]["kl_first_token_nats"].mean() for dial in (0.5, 1.0))
        assert 0 < half < whole


def test_roles_are_the_same_at_every_dial_and_in_every_run(done: tuple[Path, Path]) -> None:
    folder = StudyFolder.open(done[1])
    chosen = set()
    for one in plan_of(done[1]).runs:
        for dial in one.dials:
            frame = folder.read_at_dial(one.run_id, dial)
            assert frame is not None
            assert set(frame["role"]) == {"judge", "select"}
            selected = frame[frame["role"] == "select"]
            assert set(selected["suite"]) == {"other"}
            chosen.add(tuple(selected["item_id"]))
    (items,) = chosen
    assert len(items) == 12


def test_a_lora_at_half_is_its_factors_at_half_the_scale(done: tuple[Path, Path]) -> None:
    context, one = context_of(done[1]), run_of(done[1], "lora-r2")
    base = context.base(one.model)
    weights = context.folder.weights(one.run_id, whole=False)
    assert weights is not None
    factors = plain_factors(base.model, weights)
    assert factors is not None
    halved = {name: delta._replace(b=delta.b / 2) for name, delta in factors.items()}
    with attach(base, GivenFactors(halved, one.arm)):
        assert_scores(context, one, base.model, base.tokenizer)


def test_full_weights_at_half_are_the_mean_of_base_and_trained(done: tuple[Path, Path]) -> None:
    context, one = context_of(done[1]), run_of(done[1], "full")
    weights = context.folder.weights(one.run_id, whole=True)
    assert weights is not None
    trained, base = context.fine_tuned(one.model, weights), context.base(one.model)
    with torch.no_grad():
        for name, parameter in trained.model.named_parameters():
            parameter.copy_((parameter + dict(base.model.named_parameters())[name]) / 2)
    assert_scores(context, one, trained.model, trained.tokenizer)


def assert_scores(context: JobContext, one: PlannedRun, model: object, tokenizer: object) -> None:
    frame = context.folder.read_at_dial(one.run_id, 0.5)
    assert frame is not None
    for suite in context.suite_facts(one.model):
        predictions = score_suite(model, tokenizer, context.suite_plan(one.model, suite), token_budget=2048)  # type: ignore[arg-type]
        rows = frame[frame["suite"] == suite]
        assert [p.item_id for p in predictions] == list(rows["item_id"])
        for prediction, row in zip(predictions, rows.to_dict("records"), strict=True):
            if prediction.choice_logprobs is not None:
                assert list(row["choice_logprobs"]) == pytest.approx(prediction.choice_logprobs, abs=1e-4)


def test_what_is_lost_is_made_again_the_same_and_the_rest_is_left(done: tuple[Path, Path]) -> None:
    study, out = done
    before: dict[str, pd.DataFrame] = {}
    for label in ("full", "lora-r2"):
        path = out / "runs" / run_of(out, label).run_id / "dials" / "0.5.parquet"
        before[str(path)] = pd.read_parquet(path)
        path.unlink()
    moved = out / "runs" / run_of(out, "full").run_id / "first_tokens.parquet"
    before[str(moved)] = pd.read_parquet(moved)
    moved.unlink()
    weights = next(out.glob("runs/*/adapter/adapter_model.safetensors"))
    stamp = weights.stat().st_mtime_ns
    assert run(study, out) == Outcome()
    for path, frame in before.items():
        pd.testing.assert_frame_equal(pd.read_parquet(path), frame, check_exact=True)
    assert weights.stat().st_mtime_ns == stamp


def test_the_verdict_is_of_each_arm_at_its_dial_on_the_items_that_judge(done: tuple[Path, Path]) -> None:
    folder = StudyFolder.open(done[1])
    settings, verdicts = folder.read_settings(), folder.read_verdicts()
    assert settings is not None
    assert verdicts is not None
    (verdict,) = verdicts.verdicts
    by_arm = {s.arm: s for s in settings.settings}
    assert set(by_arm) == {"full", "lora-r2", "ia3"}
    assert by_arm["ia3"].how == "given"
    assert all(setting.rate_given and setting.point is not None for setting in by_arm.values())
    for arm in verdict.arms:
        assert arm.dial == by_arm[arm.label].dial
        assert {s.suite: s.item_count for s in arm.per_suite} == {"taught": 40, "other": 18, "sums": 6}
        run_id = run_of(done[1], arm.label).run_id
        frame = folder.read_at_dial(run_id, arm.dial)
        assert frame is not None
        judged = frame[(frame["suite"] == "other") & (frame["role"] == "judge")]
        (outcome,) = (s for s in arm.per_suite if s.suite == "other")
        assert outcome.accuracy == pytest.approx(judged["score"].astype(float).mean())
    scores = folder.read_table("scores")
    assert scores is not None
    assert set(scores[scores["suite"] == "other"]["n"]) == {18}
    points = folder.read_table("operating_points")
    assert points is not None
    assert points.groupby("arm").size().to_dict() == {"full": 2, "ia3": 1, "lora-r2": 2}
    assert points["gain"].notna().all()
    assert points.groupby("arm")["chosen"].sum().tolist() == [1, 1, 1]
