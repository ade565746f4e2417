"""A whole study at tiny scale: every file of the contract, and nothing done twice."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest
from tiny_study import choice_rows, tiny_study, write_rows

from rankscope.edges.executors import Executor, Job, JobOutcome, WorkPlace
from rankscope.edges.executors.this_machine import InProcess
from rankscope.edges.folder_upkeep import keep_best
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.jobs.score_job import ScoreBase, base_jobs, split_base_scoring
from rankscope.pipeline import Outcome, run_study
from rankscope.records import Plan, RunStatus
from rankscope.results.export_arm import chosen_run
from rankscope.study.read_study import read_study


class Noting(InProcess):
    """Notes the jobs that it is given together, by kind, in their order."""

    def __init__(self) -> None:
        super().__init__(1)
        self.given: list[list[str]] = []

    def run(self, jobs: Sequence[Job], idle: Callable[[], None]) -> Iterator[JobOutcome]:
        if jobs:
            self.given.append([type(job).__name__ for job in jobs])
        return super().run(jobs, idle)


def run(
    study: Path,
    out: Path,
    overrides: list[str] | None = None,
    only: list[str] | None = None,
    executor: Executor | None = None,
) -> Outcome:
    return run_study(
        StudyPlanner(read_study(study, overrides or []), study.parent),
        StudyFolder.open(out),
        machine=look_at_machine(out, measure=False),
        make_executor=lambda plan: executor or InProcess(1),
        only=only or [],
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The study file and the folder of the finished tiny study."""
    folder = tmp_path_factory.mktemp("tiny-study")
    study = tiny_study(folder / "input")
    assert run(study, folder / "out") == Outcome()
    return study, folder / "out"


def plan_of(out: Path) -> Plan:
    plan = StudyFolder.open(out).read_plan()
    assert plan is not None
    return plan


def test_every_file_of_the_contract_is_there(done: tuple[Path, Path]) -> None:
    _, out = done
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and ".locks" not in path.parts}
    expected = {"study.yaml", "plan.json", "verdict.json", "report.html", "base/predictions.parquet", "base/run.json"}
    expected |= {"base/again.parquet", "tables/noise.parquet"}
    expected |= {f"tables/{name}.parquet" for name in ("scores", "forgetting", "flips", "cost", "matrix", "learning")}
    for planned in plan_of(out).runs:
        files = {"run.json", "status.json", "train.jsonl", "predictions.parquet"}
        if planned.arm.method == "lora":
            files |= {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
        expected |= {f"runs/{planned.run_id}/{name}" for name in files}
    assert expected <= names
    assert not [name for name in names if "checkpoint" in name or "/." in name or name.endswith(".bin")]
    assert not (out / "runs" / "model").exists(), "keep: full: none"


def test_predictions_have_the_columns_that_the_documentation_lists(done: tuple[Path, Path]) -> None:
    text = (Path(__file__).parents[1] / "docs" / "records.md").read_text(encoding="utf-8")
    words = set(re.findall(r"[a-z0-9_]+", text))
    _, out = done
    for path in [out / "base" / "predictions.parquet", *(out / "tables").glob("*.parquet")]:
        missing = set(pd.read_parquet(path).columns) - words
        assert not missing, f"docs/records.md says nothing of {missing} in {path.name}"


def test_every_item_is_scored_by_every_run(done: tuple[Path, Path]) -> None:
    _, out = done
    base = pd.read_parquet(out / "base" / "predictions.parquet")
    assert base.groupby("suite").size().to_dict() == {"taught": 40, "other": 30, "sums": 6, "text": 2}
    for planned in plan_of(out).runs:
        found = pd.read_parquet(out / "runs" / planned.run_id / "predictions.parquet")
        assert found[["suite", "item_id"]].equals(base[["suite", "item_id"]])
    text = base[base["suite"] == "text"]
    assert text["score"].isna().all()
    assert (text["loss_nats"] / text["scored_tokens"]).between(2, 9).all(), "a random model: about ln(vocabulary)"
    assert base[base["suite"] != "text"]["score"].isin([0.0, 1.0]).all()


def test_run_records_say_where_numbers_come_from(done: tuple[Path, Path]) -> None:
    _, out = done
    record = json.loads((out / "runs" / plan_of(out).runs[0].run_id / "run.json").read_text())
    assert {"commit", "versions", "machine", "model_sha256", "train_sha256", "suites_sha256"} <= set(
        record["provenance"]
    )
    assert record["learning_rate"] == 1e-3
    assert record["settings"]["budget"]["batch_size"] == 8


def test_a_second_call_does_nothing_again(done: tuple[Path, Path]) -> None:
    study, out = done

    def times() -> dict[Path, int]:
        files = [path for folder in ("runs", "base") for path in (out / folder).rglob("*")]
        return {path: path.stat().st_mtime_ns for path in files if path.is_file()}

    before = times()
    assert run(study, out) == Outcome()
    assert times() == before


def test_the_base_is_scored_again_in_other_batches(done: tuple[Path, Path]) -> None:
    _, out = done
    first, again = (pd.read_parquet(out / "base" / name) for name in ("predictions.parquet", "again.parquet"))
    assert set(again["suite"]) == {"taught", "other", "sums"}
    both = first.merge(again, on=["suite", "item_id"], suffixes=("", "_again"))
    assert len(both) == len(again) == 76
    changed = (both["score"] != both["score_again"]).groupby(both["suite"]).sum()
    verdicts = StudyFolder.open(out).read_verdicts()
    assert verdicts is not None
    (verdict,) = verdicts.verdicts
    assert {one.suite: (one.item_count, one.changed_items) for one in verdict.noise} == {
        suite: (int((again["suite"] == suite).sum()), int(count)) for suite, count in changed.items()
    }
    assert any(reason.startswith("Scored again in other batches") for reason in verdict.reasons)


def test_a_new_suite_is_scored_without_training_and_a_new_rank_is_one_run(tmp_path: Path) -> None:
    study = tiny_study(tmp_path / "input", seeds=[0], arms={"lora": {"ranks": [2], "learning_rate": 1e-2}})
    run(study, tmp_path / "out")
    (first,) = plan_of(tmp_path / "out").runs
    trained = (tmp_path / "out" / "runs" / first.run_id / "train.jsonl").stat().st_mtime_ns
    write_rows(tmp_path / "input" / "new.jsonl", choice_rows(5, "q", 9))
    more = "suites.new={path: new.jsonl, domain: stones, kind: recall}"
    run(study, tmp_path / "out", [more, "arms.lora.ranks=[2, 4]"])
    runs = plan_of(tmp_path / "out").runs
    assert [r.arm.rank for r in runs] == [2, 4]
    assert runs[0].run_id == first.run_id
    assert (tmp_path / "out" / "runs" / first.run_id / "train.jsonl").stat().st_mtime_ns == trained
    found = pd.read_parquet(tmp_path / "out" / "runs" / first.run_id / "predictions.parquet")
    assert (found["suite"] == "new").sum() == 5
    assert len(found) == 40 + 30 + 6 + 2 + 5


def test_runs_begin_beside_the_base_where_nothing_waits_for_it(tmp_path: Path) -> None:
    suites = {"taught": {"path": "taught.jsonl", "domain": "trees", "kind": "recall"}}
    few = {"seeds": [0], "suites": suites, "budget": {"epochs": 1, "batch_size": 8}}
    given = tiny_study(tmp_path / "given", **few)
    noted = Noting()
    assert run(given, tmp_path / "a", executor=noted) == Outcome()
    (done,) = noted.given
    assert done == ["ScoreBase", "TrainRuns", "TrainRuns", "ScoreBase"], "the base is short and first all the same"
    searched = tiny_study(tmp_path / "searched", arms={"lora": {"ranks": [2], "learning_rate": "auto"}}, **few)
    noted = Noting()
    assert run(searched, tmp_path / "b", executor=noted) == Outcome()
    assert noted.given[:2] == [["ScoreBase"], ["SearchRate", "ScoreBase"]], "a rate is chosen by what the base can"
    assert noted.given[-1] == ["TrainRuns"]


def test_a_second_scoring_that_comes_before_the_first_does_both_and_none_where_the_first_failed(tmp_path: Path) -> None:
    study, out = tiny_study(tmp_path / "input", seeds=[0]), tmp_path / "out"
    store = StudyFolder.open(out)
    with StudyPlanner(read_study(study, []), study.parent) as planner:
        plan = planner.plan(look_at_machine(out, measure=False), store)
        planner.settle(store, plan)
    (once,), (again,) = split_base_scoring(base_jobs(store, plan), plan, 2)
    assert (once.part, again.part) == ("first", "again")
    assert split_base_scoring(base_jobs(store, plan), plan, 0) == (base_jobs(store, plan), []), "a worker would wait"

    def done(job: ScoreBase) -> tuple[bool, bool]:
        job.run(WorkPlace(lambda: False))
        return store.has_predictions("base"), bool(store.suites_scored_again("base"))

    store.write_status(RunStatus(run_id="base", state="failed"))
    assert done(again) == (False, False)
    assert done(once) == (True, False)
    shutil.rmtree(out / "base")
    assert done(again) == (True, True)
    written = (out / "base" / "predictions.parquet").stat().st_mtime_ns
    assert done(once) == (True, True)
    assert (out / "base" / "predictions.parquet").stat().st_mtime_ns == written


def test_an_automatic_rate_is_searched_once_and_used(tmp_path: Path) -> None:
    arms = {"lora": {"ranks": [2], "learning_rate": "auto"}}
    study = tiny_study(tmp_path / "input", seeds=[0], arms=arms)
    assert run(study, tmp_path / "out") == Outcome()
    out, plan = tmp_path / "out", plan_of(tmp_path / "out")
    (search,) = plan.searches
    record = StudyFolder.open(out).read_search(search.search_id)
    assert record is not None
    assert search.seed not in [r.seed for r in plan.runs]
    finished = [curve[-1] for curve in record.losses]
    best = min((loss, rate) for loss, rate in zip(finished, record.rates, strict=True) if loss is not None)
    assert record.chosen == best[1]
    assert sum(loss is not None for loss in finished) == len(record.finals) == 2
    run_record = StudyFolder.open(out).read_run(plan.runs[0].run_id)
    assert run_record is not None
    assert run_record.learning_rate == record.chosen, "no suite can be split: by the loss alone"
    cost = pd.read_parquet(out / "tables" / "cost.parquet")
    assert cost["search_seconds"].iloc[0] == pytest.approx(record.train_seconds + record.probe_seconds)
    rates = pd.read_parquet(out / "tables" / "rates.parquet")
    assert list(rates["learning_rate"]) == record.rates
    assert rates.loc[rates["chosen"], "learning_rate"].tolist() == [record.chosen]
    assert rates["steps"].max() == plan.runs[0].step_count
    settings = StudyFolder.open(out).read_settings()
    assert settings is not None
    assert [(s.arm, s.dial, s.how) for s in settings.settings] == [("lora-r2", 1.0, "loss")]
    assert not list(out.rglob("*checkpoint*"))
    assert [p.name for p in (out / "searches" / search.search_id).glob("*.safetensors")] == []


def test_a_diverged_arm_is_labelled_and_the_rest_goes_on(tmp_path: Path) -> None:
    arms = {"full": {"learning_rate": 50.0}, "lora": {"ranks": [2], "learning_rate": 1e-2}}
    study = tiny_study(tmp_path / "input", arms=arms, budget={"epochs": 6, "batch_size": 8, "max_sequence_tokens": 128})
    assert run(study, tmp_path / "out") == Outcome(), "divergence is a result, not a failure"
    store, plan = StudyFolder.open(tmp_path / "out"), plan_of(tmp_path / "out")
    states = {r.arm.label: store.read_status(r.run_id).state for r in plan.runs}  # type: ignore[union-attr]
    assert states == {"full": "diverged", "lora-r2": "done"}
    verdicts = store.read_verdicts()
    assert verdicts is not None
    assert {arm.label: arm.status for arm in verdicts.verdicts[0].arms}["full"] == "diverged"


def test_only_does_one_run_and_leaves_the_verdict_to_report(tmp_path: Path) -> None:
    study = tiny_study(tmp_path / "input", seeds=[0])
    out = tmp_path / "out"
    plan = StudyPlanner(read_study(study, []), study.parent).plan(
        look_at_machine(out, measure=False), StudyFolder.open(out)
    )
    wanted = plan.runs[1].run_id
    run(study, out, only=[wanted])
    store = StudyFolder.open(out)
    assert store.read_status(wanted).state == "done"  # type: ignore[union-attr]
    assert store.read_status(plan.runs[0].run_id) is None
    assert store.read_verdicts() is None


def test_of_full_checkpoints_the_best_or_all_may_stay(tmp_path: Path) -> None:
    study = tiny_study(
        tmp_path / "input", arms={"full": {"learning_rate": 1e-3}}, keep={"full": "all"}, seeds=[0, 1, 2]
    )
    out = tmp_path / "out"
    run(study, out)
    store, ids = StudyFolder.open(out), [r.run_id for r in plan_of(out).runs]
    kept = lambda: [run_id for run_id in ids if store.has_weights(run_id, whole=True)]  # noqa: E731
    assert kept() == ids
    losses = {run_id: store.read_status(run_id).validation_loss for run_id in ids}  # type: ignore[union-attr]
    best, *others = sorted(ids, key=lambda run_id: losses[run_id] or 0.0)
    with ExitStack() as held:
        for run_id in others:
            held.enter_context(store.lock(run_id))
        keep_best(store, plan_of(out), lambda _: True)
    assert kept() == ids, "somebody works on the others"
    was = store.read_status(best)
    assert was is not None
    store.write_status(was.model_copy(update={"state": "diverged"}))
    keep_best(store, plan_of(out), lambda one: one.run_id in (best, others[0]))
    assert kept() == ids, "what diverged while it was scored is no best one"
    store.write_status(was)
    keep_best(store, plan_of(out), lambda one: one.run_id != best)
    assert set(kept()) == {best, others[0]}, "what is not finished stays, and is no reason to remove another"
    run(study, out, ["keep.full=best"])
    assert kept() == [best]
    assert chosen_run(store, "full")[-1].run_id == best, "which is not the median: it is what can be exported"
