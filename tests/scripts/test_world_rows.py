"""scripts/world_rows.py writes the rows that a study reads from the bundled world, and says what it cannot write."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from rankscope.data.sources import RowReader
from rankscope.study.study import TrainSource

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "world_rows.py"


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_file_holds_what_a_study_reads_from_the_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "facts.jsonl"
    run(monkeypatch, "medical/taught/train", file)
    sources = (TrainSource(path=str(file), domain="new"), TrainSource(world="medical/taught/train", domain="new"))
    read = [
        [row for batch in RowReader(one, base=tmp_path, name="facts").batches() for row in batch] for one in sources
    ]
    said = [[(row.item_id, row.question, row.choices, row.answer_index) for row in rows] for rows in read]
    assert said[0] == said[1]
    assert len(said[0]) == 1200
    assert json.loads(file.read_text().splitlines()[0])["fact"] == "medical-00450"


def test_no_file_is_written_over_and_a_wrong_split_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("mine")
    for words, found in (
        (("medical/taught/train", file), "expected a new one"),
        (("medical/taught", tmp_path / "new.jsonl"), "no split 'medical/taught'"),
        (("medical/taught/test", tmp_path / "none" / "new.jsonl"), "No such file or directory"),
    ):
        with pytest.raises(SystemExit) as ended:
            run(monkeypatch, *words)
        assert ended.value.code == 2
        assert found in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.jsonl"]
