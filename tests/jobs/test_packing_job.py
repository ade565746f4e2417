"""A study whose LoRA arms train together gives what training them one by one gives."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_pipeline import plan_of, run
from tiny_study import choice_rows, tiny_study, write_rows

import rankscope.evaluate.adapter_scoring as adapter_module
import rankscope.jobs.packing_job as packing_module
import rankscope.jobs.run_job as run_module
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.prompt_choice_tree import ChoicePlan
from rankscope.jobs.packing_job import groups_of, packing_jobs
from rankscope.model.methods.attach import Pack
from rankscope.pipeline import Outcome
from rankscope.plan.packing_choice import SAVED_BY_FEW
from rankscope.records import Packing, PackMembers, RunStatus

ARMS = {"full": {"learning_rate": 1e-3}, "lora": {"ranks": [2, 4, 9], "learning_rate": 1e-2}}


def study_of(folder: Path, together: object) -> Path:
    return tiny_study(
        folder, arms=ARMS, seeds=[0],
        execution={"arms_together": together, "micro_batch_tokens": 4096},
    )  # fmt: skip


@pytest.fixture(scope="module")
def outs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The finished study with packs of one and of two arms."""
    folder = tmp_path_factory.mktemp("packed")
    found = {}
    for together in (1, 2):
        study = study_of(folder / f"input{together}", together)
        assert run(study, folder / f"out{together}") == Outcome()
        found[together] = folder / f"out{together}"
    return found


def losses(out: Path, run_id: str) -> list[float]:
    lines = (out / "runs" / run_id / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss_nats_per_token"] for line in lines]


def test_packs_change_nothing_but_rounding(outs: dict[int, Path]) -> None:
    alone, packed = StudyFolder.open(outs[1]), StudyFolder.open(outs[2])
    ids = [planned.run_id for planned in plan_of(outs[1]).runs]
    assert ids == [planned.run_id for planned in plan_of(outs[2]).runs], "packing is no part of a run's id"
    for run_id in ids:
        assert losses(outs[2], run_id) == pytest.approx(losses(outs[1], run_id), abs=1e-4)
        one, two = alone.read_status(run_id), packed.read_status(run_id)
        assert one is not None
        assert two is not None
        assert two.validation_loss == pytest.approx(one.validation_loss, abs=1e-4)
        frames = [pd.read_parquet(out / "runs" / run_id / "predictions.parquet") for out in (outs[1], outs[2])]
        assert (frames[0]["score"] - frames[1]["score"]).abs().mean() < 0.02


def test_a_pack_is_scored_in_one_forward(
    outs: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA; the training is that of `outs`, so that predictions differ by the rounding of the scoring alone."""
    plain, arms = adapter_module.packed_logprobs, []

    def counted(pack: Pack, plan: ChoicePlan) -> list[adapter_module.Logprobs | None]:
        arms.append(len(pack.members))
        return plain(pack, plan)

    monkeypatch.setattr(adapter_module, "DEVICES", {"cpu"})
    monkeypatch.setattr(adapter_module, "packed_logprobs", counted)
    shared = run_module.suites_logprobs

    def slowly(*given: Any) -> Any:
        time.sleep(4)
        return shared(*given)

    monkeypatch.setattr(run_module, "suites_logprobs", slowly)
    study, out = study_of(tmp_path / "input", 2), tmp_path / "out"
    assert run(study, out) == Outcome()
    status = StudyFolder.open(out).read_status(
        next(one.run_id for one in plan_of(out).runs if one.arm.label == "lora-r4")
    )
    assert status is not None
    assert (status.evaluate_seconds or 0) > 2, "half of what both took together"
    assert set(arms) == {2}, "lora-r9 and lora-r4; lora-r2 and full were alone"
    files = {one.run_id: out / "runs" / one.run_id / "predictions.parquet" for one in plan_of(out).runs}
    for run_id, file in files.items():
        found, wanted = pd.read_parquet(file), pd.read_parquet(outs[2] / "runs" / run_id / "predictions.parquet")
        one, two = (np.concatenate(list(frame["choice_logprobs"].dropna())) for frame in (found, wanted))
        assert one == pytest.approx(two, abs=1e-4)
        assert (found["predicted"] == wanted["predicted"]).mean() > 0.95, "but for near ties"
    packed = next(one.run_id for one in plan_of(out).runs if one.arm.label == "lora-r9")
    before = files[packed].read_bytes()
    files[packed].unlink()
    assert run(study, out) == Outcome()
    assert files[packed].read_bytes() == before, "scored again with those that it was scored with"


def test_what_was_together_is_recorded(outs: dict[int, Path]) -> None:
    store = StudyFolder.open(outs[2])
    together = {}
    for planned in plan_of(outs[2]).runs:
        status = store.read_status(planned.run_id)
        assert status is not None
        together[planned.arm.label] = status.arms_together
    assert together == {"full": 1, "lora-r9": 2, "lora-r4": 2, "lora-r2": 1}, "the longest first"
    packing = store.read_packing("model", "trees")
    assert packing == Packing(model="model", train_set="trees", arms_together=2, micro_batch_tokens=4096)
    assert not store.read_packs()
    assert not list((outs[2] / "packs").glob("*"))


def test_a_pack_that_began_is_a_job_again_as_it_began(outs: dict[int, Path], tmp_path: Path) -> None:
    plan = plan_of(outs[2])
    runs = plan.runs
    full, two, four, nine = (planned.run_id for planned in runs)
    store = StudyFolder.open(tmp_path)
    assert [job.run_ids for job in packing_jobs(store, plan, runs, 2, timed=True)] == [(two, four, nine)]
    assert groups_of(store, runs) == [(full,), (two,), (four,), (nine,)], "undecided: one by one"
    store.write_packing(Packing(model="model", train_set="trees", arms_together=2, micro_batch_tokens=4096))
    assert packing_jobs(store, plan, runs, 2, timed=True) == []
    assert groups_of(store, runs) == [(full,), (two, four), (nine,)]
    with store.pack([four, nine]):
        pass
    assert store.read_packs() == [PackMembers(run_ids=[four, nine])], "not trained: the note stays"
    assert groups_of(store, runs) == [(four, nine), (full,), (two,)]
    for run_id in (four, nine):
        store.write_status(RunStatus(run_id=run_id, state="running"))
        store.save_weights(run_id, lambda folder: (folder / "adapter_model.safetensors").write_bytes(b""), whole=False)
    with store.pack([four, nine]):
        pass
    assert store.read_packs() == []
    assert groups_of(store, runs) == [(full,), (two,), (four,), (nine,)], "trained: nothing is left to do together"


def test_a_given_number_goes_before_what_was_noted(outs: dict[int, Path], tmp_path: Path) -> None:
    plan, store = plan_of(outs[2]), StudyFolder.open(tmp_path)
    store.write_packing(Packing(model="model", train_set="trees", arms_together=2, micro_batch_tokens=4096))
    ids = tuple(one.run_id for one in plan.runs if one.arm.rank)
    for given, wanted in (("auto", []), (3, [ids]), (1, [ids]), (2, [])):
        assert [job.run_ids for job in packing_jobs(store, plan, plan.runs, given, timed=True)] == wanted
    assert packing_jobs(StudyFolder.open(tmp_path / "new"), plan, plan.runs, "auto", timed=False) == []


def test_runs_that_are_named_pack_as_the_study_says(outs: dict[int, Path], tmp_path: Path) -> None:
    """With `--only` nothing is timed; a number that the study gives needs no timing."""
    study = tiny_study(tmp_path / "input", arms=ARMS, seeds=[0], execution={"arms_together": 2})
    out, ids = tmp_path / "out", [one.run_id for one in plan_of(outs[2]).runs if one.arm.rank in (2, 4)]
    assert run(study, out, only=ids) == Outcome()
    store = StudyFolder.open(out)
    assert [status.arms_together for one in ids if (status := store.read_status(one))] == [2, 2]
    noted = store.read_packing("model", "trees")
    assert noted is not None
    assert not noted.seconds_per_token


def test_a_run_that_began_alone_goes_on_alone(outs: dict[int, Path], tmp_path: Path) -> None:
    plan, store = plan_of(outs[2]), StudyFolder.open(tmp_path)
    full, two, four, nine = (planned.run_id for planned in plan.runs)
    store.write_packing(Packing(model="model", train_set="trees", arms_together=3, micro_batch_tokens=4096))
    assert groups_of(store, plan.runs) == [(full,), (two, four, nine)]
    store.checkpoints(four).save({"weights": torch.zeros(1)}, {"step": "3"})
    assert groups_of(store, plan.runs) == [(full,), (two, nine), (four,)]


def test_batches_that_were_decided_stay_where_the_number_of_arms_is_given_later(tmp_path: Path) -> None:
    study = tiny_study(tmp_path / "input", arms=ARMS, seeds=[0], execution={"arms_together": 2})
    store = StudyFolder.open(tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing_module, "_best_tokens", lambda context, runs, seconds: 1536)
        assert run(study, tmp_path / "out") == Outcome()
    for overrides in (["execution.arms_together=3"], ["execution.arms_together=3", "seeds=[0,1]"]):
        assert run(study, tmp_path / "out", overrides) == Outcome()
    noted = store.read_packing("model", "trees")
    assert noted is not None
    assert (noted.arms_together, noted.micro_batch_tokens) == (3, 1536)


def test_auto_measures_and_keeps_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of more tokens than half a micro-batch has: the half is tried too."""
    monkeypatch.setitem(SAVED_BY_FEW, "cpu", 100.0)
    study = tiny_study(tmp_path / "input", arms=ARMS, seeds=[0], budget={"epochs": 1, "batch_size": 180}, suites={
        "taught": {"path": "taught.jsonl", "domain": "trees", "kind": "recall"}})  # fmt: skip
    write_rows(tmp_path / "input" / "train.jsonl", choice_rows(200, "m", 0))
    assert run(study, tmp_path / "out") == Outcome()
    found = StudyFolder.open(tmp_path / "out").read_packing("model", "trees")
    assert found is not None
    assert found.arms_together in (1, 2)
    assert {"1 x 4096", "1 x 2048"} <= found.seconds_per_token.keys()
    assert all(value > 0 for value in found.seconds_per_token.values())


def test_small_batches_are_timed_in_whole_micro_batches_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAVED_BY_FEW, "cpu", 100.0)
    study = tiny_study(tmp_path / "input", arms=ARMS, seeds=[0], budget={"epochs": 1, "batch_size": 8}, suites={
        "taught": {"path": "taught.jsonl", "domain": "trees", "kind": "recall"}})  # fmt: skip
    assert run(study, tmp_path / "out") == Outcome()
    found = StudyFolder.open(tmp_path / "out").read_packing("model", "trees")
    assert found is not None
    assert set(found.seconds_per_token) == {"1 x 4096", "2 x 4096"}, "three arms are not four"


@pytest.mark.slow
def test_a_search_in_packs_chooses_as_one_by_one(tmp_path: Path) -> None:
    arms = {"lora": {"ranks": [2, 5], "learning_rate": "auto"}}
    records = []
    for together in (1, 3):
        execution = {"arms_together": together, "micro_batch_tokens": 4096}
        study = tiny_study(tmp_path / f"input{together}", arms=arms, seeds=[0], execution=execution)
        out = tmp_path / f"out{together}"
        assert run(study, out) == Outcome()
        records.append([StudyFolder.open(out).read_search(planned.search_id) for planned in plan_of(out).searches])
    for one, several in zip(*records, strict=True):
        assert one is not None
        assert several is not None
        assert several.chosen == one.chosen
        for ours, alone in zip(several.losses, one.losses, strict=True):
            assert [loss is None for loss in ours] == [loss is None for loss in alone]
            assert [loss for loss in ours if loss] == pytest.approx([loss for loss in alone if loss], abs=1e-3)
