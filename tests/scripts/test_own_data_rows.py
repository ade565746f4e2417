"""studies/own-data is what its script writes: no row of anybody else's came in."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_rows_are_those_that_the_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("own_data_rows", ROOT / "scripts" / "own_data_rows.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = {f"{name}.jsonl": script.text_of(rows) for name, rows in script.splits().items()}
    folder = ROOT / "studies" / "own-data"
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.jsonl")} == made
    questions = {row["question"]: row for row in script.splits()["train"]}
    assert not questions.keys() & {row["question"] for row in script.splits()["test"]}, "a wording that is trained"
