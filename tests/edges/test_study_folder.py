"""The study folder: records, tables and weights are whole or absent, claimed by one study, and checked when read."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from rankscope.edges.study_folder import StudyFolder
from rankscope.records import FORMAT_VERSION, Packing, RunStatus, Stage
from rankscope.study.problems import InputProblems


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder.open(tmp_path / "out")


def test_a_failed_write_leaves_the_old_table_and_no_other_file(folder: StudyFolder, tmp_path: Path) -> None:
    folder.write_table("a", pd.DataFrame({"x": [1]}))
    with pytest.raises(Exception, match="Could not convert"):
        folder.write_table("a", pd.DataFrame({"x": [object()]}))
    table = folder.read_table("a")
    assert table is not None
    assert table["x"].tolist() == [1]
    assert [path.name for path in (tmp_path / "out" / "tables").iterdir()] == ["a.parquet"]


def test_weights_that_could_not_be_saved_do_not_appear(folder: StudyFolder, tmp_path: Path) -> None:
    def fill(path: Path) -> None:
        (path / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        folder.save_weights("run-1", fill, whole=False)
    assert not folder.has_weights("run-1", whole=False)
    assert not list((tmp_path / "out" / "runs" / "run-1").iterdir())


def test_tables_keep_missing_values_and_what_was_asked(folder: StudyFolder) -> None:
    frame = pd.DataFrame({"score": pd.array([1.0, None], dtype="Float64"), "choice_logprobs": [[-1.0, -2.0], None]})
    folder.write_predictions("run-1", frame, {"suite": "abc"})
    read = folder.read_predictions("run-1")
    assert read is not None
    assert read["score"].isna().tolist() == [False, True]
    assert read["choice_logprobs"][1] is None
    assert folder.scored_suites("run-1") == {"suite": "abc"}
    assert folder.scored_suites("run-2") == {}


def test_scores_of_several_runs_are_one_frame(folder: StudyFolder) -> None:
    """Names are categories in the order of their text; a column that a table lacks, and a null, are NaN."""
    one = pd.DataFrame({"suite": ["b", "a"], "item_id": ["i2", "i1"], "score": pd.array([1.0, None], dtype="Float64")})
    folder.write_predictions("run-2", one, {})
    folder.write_predictions("run-1", one.assign(score=0.5, loss_nats=2.0, predicted="text"), {})
    read = folder.read_scores(["run-2", "run-9", "run-1"])
    assert read["run_id"].tolist() == ["run-2", "run-2", "run-1", "run-1"]
    assert read["item_id"].tolist() == ["i2", "i1", "i2", "i1"]
    assert [read[name].cat.categories.tolist() for name in ("run_id", "suite")] == [["run-1", "run-2"], ["a", "b"]]
    assert read["score"].fillna(-1.0).tolist() == [1.0, -1.0, 0.5, 0.5]
    assert read["loss_nats"].isna().tolist() == [True, True, False, False]
    assert folder.read_scores([]).empty


def test_a_flipped_bit_in_a_table_is_found_when_it_is_read(folder: StudyFolder, tmp_path: Path) -> None:
    frame = pd.DataFrame({"suite": "a", "item_id": "i", "score": [float(i) for i in range(4000)]})
    folder.write_predictions("run-1", frame, {})
    path = tmp_path / "out" / "runs" / "run-1" / "predictions.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    with pytest.raises(InputProblems, match="a damaged table"):
        folder.read_predictions("run-1")
    with pytest.raises(InputProblems, match="a damaged table"):
        folder.read_scores(["run-1"])


def test_status_comes_back_as_it_was(folder: StudyFolder, tmp_path: Path) -> None:
    status = RunStatus(run_id="lora-r4-s0-abc", state="diverged", reason="too hot", steps_done=3)
    folder.write_status(status)
    assert folder.read_status(status.run_id) == status
    assert folder.read_status("other") is None
    folder.write_status(RunStatus(run_id="base", state="done"))
    assert (tmp_path / "out" / "base" / "status.json").is_file()


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b'{"run_id": "a"', b"[1, 2]", b'{"state": "lost"}'])
def test_a_damaged_record_is_one_line(folder: StudyFolder, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "out" / "runs" / "a" / "status.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(InputProblems) as caught:
        folder.read_status("a")
    (problem,) = caught.value.problems
    assert "runs/a/status.json" in str(problem)
    assert "\n" not in str(problem)


@pytest.mark.parametrize(
    ("version", "expected"),
    [(1, r"rankscope 0\.1 reads this one"), (FORMAT_VERSION + 1, "a newer rankscope wrote this")],
)
def test_another_format_is_refused_by_name(folder: StudyFolder, tmp_path: Path, version: int, expected: str) -> None:
    folder.write_status(RunStatus(run_id="a", state="done"))
    path = tmp_path / "out" / "runs" / "a" / "status.json"
    changed = {**json.loads(path.read_text()), "format_version": version, "of_the_future": 1}
    path.write_text(json.dumps(changed))
    with pytest.raises(InputProblems, match=expected):
        folder.read_status("a")


# ---- whose folder it is ------------------------------------------------------------------------------------------


def test_a_new_or_empty_folder_is_claimed_once(folder: StudyFolder) -> None:
    folder.claim("mine", "text")
    marker = folder.read_marker()
    assert marker is not None
    assert marker.study == "mine"
    folder.claim("mine", "other text")
    assert folder.read_marker() == marker, "the marker says how the folder was begun"


def test_somebody_elses_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "study.yaml").write_text("# mine\n")
    with pytest.raises(InputProblems, match="files that are no study's"):
        StudyFolder.open(tmp_path).claim("mine", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", "study.yaml"]
    assert (tmp_path / "study.yaml").read_text() == "# mine\n"


def test_another_studys_folder_is_refused_with_both_names(folder: StudyFolder) -> None:
    folder.claim("mine", "text")
    with pytest.raises(InputProblems, match="found the study mine, expected a folder of the study yours"):
        folder.claim("yours", "text")


def test_a_folder_of_the_format_before_is_refused_by_its_version(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"format_version": 1}')
    with pytest.raises(InputProblems, match="format 1, which rankscope 0"):
        StudyFolder.open(tmp_path).claim("mine", "text")


def test_packing_of_every_pair_has_its_own_file(folder: StudyFolder) -> None:
    one = Packing(model="m", train_set="a", arms_together=2, micro_batch_tokens=64)
    folder.write_packing(one)
    assert folder.read_packing("m", "a") == one
    assert folder.read_packing("m", "b") is None


def test_a_folder_says_whether_a_process_works_on_it(folder: StudyFolder) -> None:
    folder.claim("mine", "text")
    assert not folder.is_worked_on()
    with folder.lock():
        assert folder.is_worked_on()
    with folder.lock(shared=True):  # array jobs
        assert folder.is_worked_on()
    assert not folder.is_worked_on()


def test_the_stage_is_gone_when_nothing_is_worked_on(folder: StudyFolder) -> None:
    folder.write_stage(Stage(what="derived runs", done=1, total=2, began_at=0.0))
    assert folder.read_stage() == Stage(what="derived runs", done=1, total=2, began_at=0.0)
    folder.write_stage(None)
    assert folder.read_stage() is None
