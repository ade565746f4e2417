"""Studies whose quality is a loss or a grade, from the file to the answer, at tiny scale."""

from __future__ import annotations

import io
import re
from pathlib import Path
from threading import Lock
from typing import Any

import pandas as pd
import pytest
from judge_server import Reply, judge_server, said
from rich.console import Console
from tiny_study import tiny_study, write_rows

from rankscope.edges.executors.this_machine import InProcess
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.pipeline import Outcome, run_study
from rankscope.records import VerdictFile
from rankscope.records.suite_record import KIND_NOT_KNOWN
from rankscope.report.verdict_text import print_results
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study


def run(study: Path, out: Path) -> Outcome:
    return run_study(
        StudyPlanner(read_study(study), study.parent),
        StudyFolder.open(out),
        machine=look_at_machine(out, measure=False),
        make_executor=lambda plan: InProcess(1),
    )


def verdicts_of(out: Path) -> VerdictFile:
    found = StudyFolder.open(out).read_verdicts()
    assert found is not None
    return found


LOSS = {"kind": "recall", "metric": "loss"}
LOSSES = {
    "taught": {"path": "taught.jsonl", "domain": "trees", **LOSS},
    "other": {"path": "other.jsonl", "domain": "stones", **LOSS},
    "sums": {"path": "sums.jsonl", **LOSS},
    "talk": {"path": "talk.jsonl", **LOSS},
    "text": {"path": "text.jsonl", **LOSS},
}


def loss_study(folder: Path, **changes: object) -> Path:
    study = tiny_study(folder, **{"suites": LOSSES, **changes})
    talk = [
        {"messages": [{"role": "user", "content": f"Is {i} a tree?"}, {"role": "assistant", "content": "It is not."}]}
        for i in range(5)
    ]
    write_rows(folder / "talk.jsonl", talk)
    return study


def test_a_study_of_losses_ends_with_an_answer(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(loss_study(tmp_path / "input"), out) == Outcome()
    (verdict,) = verdicts_of(out).verdicts
    assert verdict.headline
    base = pd.read_parquet(out / "base" / "predictions.parquet")
    assert base["score"].isna().all()
    assert (base["loss_nats"] > 0).all()
    assert set(base["suite"]) == set(LOSSES)
    scores = pd.read_parquet(out / "tables" / "scores.parquet")
    assert scores["loss_nats_per_token"].notna().all()
    assert scores["accuracy"].isna().all()


def test_points_and_nats_stand_in_one_study(tmp_path: Path) -> None:
    suites = {
        "taught": {"path": "taught.jsonl", "domain": "trees", "kind": "recall"},
        "other": {"path": "other.jsonl", "domain": "stones"},
        "talk": LOSSES["talk"],
    }
    out = tmp_path / "out"
    assert run(loss_study(tmp_path / "input", suites=suites), out) == Outcome()
    assert verdicts_of(out).verdicts[0].headline
    for name in ("kinds", "matrix"):
        table = pd.read_parquet(out / "tables" / f"{name}.parquet")
        assert set(table["metric"]) == {"score", "loss"}
        assert (table["suites"] == 1).all(), "points and nats are never in one mean"
        assert (table["base_accuracy"] < 0).equals(table["metric"] == "loss")
    assert set(pd.read_parquet(out / "tables" / "flips.parquet")["suite"]) == {"taught", "other"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Gained and forgotten, by suite judged by loss" in page
    assert re.search("\\d\\.\\d{3}\u00a0nats</td>", page), "the table suite by suite has losses"
    assert f">{KIND_NOT_KNOWN}</td>" in page, "the kind of `other`, which nobody said"
    assert "other: whether this is recall or reasoning is not known" in (out / "plan.json").read_text("utf-8")
    (verdict,) = verdicts_of(out).verdicts
    lora = next(arm for arm in verdict.arms if arm.label == "lora-r2")
    assert lora.gain.mean is not None
    assert lora.forgetting_nats is not None
    console = Console(width=110, record=True, file=io.StringIO())
    print_results(console, verdict)
    told = console.export_text()
    assert "percentage points, of suites judged by loss in nats" in told
    assert re.search(rf"{re.escape(f'{lora.forgetting_nats.mean:+.3f}')} ±\d\.\d{{3}} nats", told)


def test_another_metric_of_rows_is_refused_with_its_line(tmp_path: Path) -> None:
    study = tiny_study(tmp_path, suites={"taught": {"path": "taught.jsonl", "domain": "trees", "metric": "rouge"}})
    with pytest.raises(InputProblems) as error:
        read_study(study)
    assert 'metric: found "rouge", expected loss; other metrics are those of a task' in str(error.value)


# ---- graders --------------------------------------------------------------------------------------------------------

TALK = [
    {"messages": [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": f'{{"said": {i}}}'}]}
    for i in range(6)
]
ASKED = [{"instruction": f"Name tree {i}.", "input": "", "output": f"oak {i}"} for i in range(6)]


def graded_study(
    folder: Path,
    grade: object,
    rows: list[dict[str, object]] = ASKED,
    suites: dict[str, dict[str, object]] | None = None,
    arms: dict[str, object] | None = None,
    seeds: list[int] | None = None,
    dial: list[float] | None = None,
    **settings: object,
) -> Path:
    """A tiny study of which one suite, outside the domain, is graded so; the other is of choices."""
    graded = {"path": "graded.jsonl", "kind": "recall", "max_new_tokens": 6, "grade": grade, **settings}
    suites = suites or {"taught": {"path": "taught.jsonl", "domain": "trees", "kind": "recall"}, "graded": graded}
    arms = arms or {"lora": {"ranks": [2], "learning_rate": 1e-2}}
    more = {name: value for name, value in (("seeds", seeds), ("dial", dial)) if value is not None}
    study = tiny_study(folder, suites=suites, arms=arms, **more)
    write_rows(folder / "graded.jsonl", rows)
    (folder / "grader.py").write_text("def score(answer, reference): return len(answer) % 2 / 2\n", encoding="utf-8")
    return study


def predictions(out: Path, run: str = "base") -> pd.DataFrame:
    frame = pd.read_parquet(out / run / "predictions.parquet")
    return frame[frame["suite"] == "graded"].set_index("item_id")


EACH: dict[str, dict[str, object]] = {
    "exact": {"grade": "exact"},
    "contains": {"grade": "contains"},
    "f1": {"grade": "f1"},
    "rouge_l": {"grade": "rouge_l"},
    "json": {"grade": "json", "path": "talk.jsonl"},
    "regex": {"grade": {"regex": r"(\w+)"}},
    "python": {"grade": {"python": "grader.py:score"}, "trust_code": True},
}
"""A suite for every grader that asks nobody."""


def test_a_study_with_each_grader_ends_with_an_answer(tmp_path: Path) -> None:
    graded = {"path": "graded.jsonl", "kind": "recall", "max_new_tokens": 6}
    suites = {name: {**graded, **settings} for name, settings in EACH.items()}
    suites["taught"] = {"path": "graded.jsonl", "kind": "recall", "domain": "trees", "max_new_tokens": 6, "grade": "f1"}
    study, out = graded_study(tmp_path / "input", "f1", suites=suites), tmp_path / "out"
    write_rows(tmp_path / "input" / "talk.jsonl", TALK)
    assert run(study, out) == Outcome()
    assert verdicts_of(out).verdicts[0].headline
    for folder in ("base", *(f"runs/{path.name}" for path in (out / "runs").iterdir())):
        found = pd.read_parquet(out / folder / "predictions.parquet")
        assert found.groupby("suite").size().to_dict() == dict.fromkeys(suites, 6)
        assert found["score"].between(0, 1).all()
        assert found["predicted"].notna().all()
        own = found[found["suite"] == "python"]
        assert list(own["score"]) == [len(text) % 2 / 2 for text in own["predicted"]]


def test_choices_may_be_asked_as_free_text(tmp_path: Path) -> None:
    rows = [{"id": f"c{i}", "question": "Which?", "choices": ["oak", "elm"], "answer_index": i % 2} for i in range(6)]
    out = tmp_path / "out"
    assert run(graded_study(tmp_path / "input", "contains", rows, choices="letters"), out) == Outcome()
    assert list(predictions(out)["answer"]) == ["A", "B"] * 3


def test_a_grader_that_fails_keeps_the_run_and_what_was_scored(tmp_path: Path) -> None:
    """One line with suite and item, no score in its place; a mended grader is run again, nothing else is."""
    study = graded_study(tmp_path / "input", {"python": "grader.py:score"}, trust_code=True)
    code, out = tmp_path / "input" / "grader.py", tmp_path / "out"
    code.write_text("def score(answer, item_id): return 1 / 0\n", encoding="utf-8")
    outcome = run(study, out)
    assert len(outcome.failed) == 3, "the base and both runs"
    for why in outcome.failed.values():
        assert "NotGraded: suite graded, item " in why
        assert why.endswith("the grader raised ZeroDivisionError: division by zero")
    folder = StudyFolder.open(out)
    (one, other) = (path.name for path in (out / "runs").iterdir())
    status = folder.read_status(one)
    assert status is not None
    assert (status.state, folder.has_weights(one, whole=False)) == ("failed", True)
    kept = pd.read_parquet(out / "runs" / one / "predictions.parquet")
    assert set(kept["suite"]) == {"taught"}
    trained = (out / "runs" / other / "train.jsonl").stat().st_mtime_ns
    code.write_text("def score(answer, item_id): return 1\n", encoding="utf-8")
    assert run(study, out) == Outcome()
    assert (predictions(out, f"runs/{other}")["score"] == 1).all()
    assert (out / "runs" / other / "train.jsonl").stat().st_mtime_ns == trained, "nothing is trained again"


def test_a_changed_grader_grades_again_though_all_was_done(tmp_path: Path) -> None:
    study = graded_study(tmp_path / "input", {"python": "grader.py:score"}, trust_code=True)
    out = tmp_path / "out"
    assert run(study, out) == Outcome()
    (tmp_path / "input" / "grader.py").write_text("def score(answer): return 0.125\n", encoding="utf-8")
    assert run(study, out) == Outcome()
    assert (predictions(out)["score"] == 0.125).all()
    (tmp_path / "input" / "grader.py").unlink()
    text = study.read_text(encoding="utf-8").replace("python: grader.py:score", "regex: a")
    study.write_text(text.replace("trust_code: true", "trust_code: false"), encoding="utf-8")
    assert run(study, out) == Outcome()
    assert set(predictions(out)["score"]) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("grade", "rows", "line"),
    [
        ("json", ASKED, "graded.jsonl: line 1, for suites.graded: found an answer that is no JSON, expected JSON to"),
        ("f1", [{"text": "A tree."}] * 2, "found plain text, to which nothing is answered, expected `metric: loss`"),
        ("rouge_l", [{"question": "?", "answer": "да"}] * 2, "rouge-score does not read, expected another grader"),
    ],
)
def test_a_row_that_cannot_be_graded_is_named(
    grade: str, rows: list[dict[str, object]], line: str, tmp_path: Path
) -> None:
    with pytest.raises(InputProblems) as error:
        run(graded_study(tmp_path / "input", grade, rows), tmp_path / "out")
    assert line in str(error.value)


# ---- a judge --------------------------------------------------------------------------------------------------------


def test_a_study_with_a_judge_costs_each_reply_once(tmp_path: Path) -> None:
    """The judge differs from itself by 0.1: that stands in the noise floor. Nothing is asked again on resume."""

    def answer(request: dict[str, Any], number: int) -> Reply:
        with counting:
            content = request["messages"][0]["content"]
            seen[content] = seen.get(content, 0) + 1
            return said(f"Score: {4 + len(content) % 3 + (seen[content] - 1)}")

    seen: dict[str, int] = {}
    counting = Lock()
    out = tmp_path / "out"
    with judge_server(answer) as judge:
        settings = {"url": judge.url, "model": "m", "prompt": "{{ prompt }} {{ answer }}", "asked_twice": 4}
        study = graded_study(tmp_path / "input", {"judge": settings})
        assert run(study, out) == Outcome()
        plan = StudyFolder.open(out).read_plan()
        assert plan is not None
        most = 6 * (1 + sum(len(planned.dials) for planned in plan.runs)) + 4
        assert f"graded: a judge is asked up to {most} times, once for each different answer" in plan.warnings
        asked = len(judge.requests)
        assert asked == sum(seen.values()) <= 6 * 4 * 4 + 4
        assert sorted(seen.values())[-4:] == [2, 2, 2, 2]
        assert sum(count > 1 for count in seen.values()) == 4, "only the base's sample is asked twice"
        base = predictions(out)
        twice = base[base["score_asked_again"].notna()]
        assert len(twice) == 4
        assert (twice["score_asked_again"] - twice["score"]).abs().to_numpy() == pytest.approx(0.1)
        noise = pd.read_parquet(out / "tables" / "noise.parquet").set_index("suite").loc["graded"]
        assert (noise["graded_twice"], noise["judge_difference"]) == (4, pytest.approx(0.1))
        for predicted in out.rglob("predictions.parquet"):
            predicted.unlink()
        assert run(study, out) == Outcome()
        assert len(judge.requests) == asked, "scoring all again costs nothing"


def test_a_judge_out_of_budget_stops_the_run_and_a_larger_budget_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with judge_server() as judge:
        settings = {"url": judge.url, "model": "m", "prompt": "{{ prompt }} {{ answer }}", "max_requests": 3}
        study = graded_study(tmp_path / "input", {"judge": settings})
        outcome = run(study, out)
        assert outcome.failed
        for why in outcome.failed.values():
            assert "suite graded, item " in why
            assert why.endswith("the grader is out of budget: 3 requests were made (`max_requests`)")
        assert len(judge.requests) == 3
        study.write_text(study.read_text(encoding="utf-8").replace("max_requests: 3", "max_requests: 300"))
        assert run(study, out) == Outcome()
    assert (predictions(out)["score"] == 0.5).all()


def test_a_search_asks_no_judge(tmp_path: Path) -> None:
    """Its rates are chosen by the prompts of the judged suite, and by the suites that cost nothing."""
    out = tmp_path / "out"
    with judge_server() as judge:
        grade = {"judge": {"url": judge.url, "model": "m", "prompt": "{{ prompt }} {{ answer }}", "asked_twice": 0}}
        rows = [{"instruction": f"Name tree {i}.", "input": "", "output": f"oak {i}"} for i in range(40)]
        graded = {"path": "graded.jsonl", "kind": "recall", "max_new_tokens": 2, "grade": grade}
        suites = {"taught": {"path": "taught.jsonl", "domain": "trees", "kind": "recall"}, "graded": graded}
        arms = {"lora": {"ranks": [2], "learning_rate": "auto"}}
        study = graded_study(tmp_path / "input", grade, rows, suites=suites, arms=arms, seeds=[0], dial=[0.7, 1])
        assert run(study, out) == Outcome()
        assert (out / "searches").is_dir()
        answers = {request["messages"][0]["content"] for request in judge.requests}
        assert len(judge.requests) == len(answers) <= 40 * (1 + 2), "the base and two dials of the run"
    settings = StudyFolder.open(out).read_settings()
    assert settings is not None
