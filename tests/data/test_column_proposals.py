"""Wrong names of columns are one line, with the map that would read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from encoded_rows import load_rows

from rankscope.data.column_proposals import proposed_columns
from rankscope.study.problems import InputProblems
from rankscope.study.study import Source


def line_of(folder: Path, record: dict[str, object], **more: object) -> str:
    rows = [
        record | {key: f"{value} {i}" for key, value in record.items() if isinstance(value, str)} for i in range(13)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputProblems) as caught:
        load_rows(Source(path="rows.jsonl", **more), base=folder, name="train.mine")
    (problem,) = caught.value.problems
    return str(problem)


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        (["id", "problem", "solution"], "question: problem, answer: solution"),
        (["prompt_text", "reply"], "prompt: prompt_text, completion: reply"),
        (["Question", "Options", "Correct Answer"], "choices: Options, answer_index: Correct Answer"),
        (["qestion", "anwser"], "question: qestion, answer: anwser"),
        (["q", "a"], "question: q, answer: a"),
        (["dialogue", "n"], "messages: dialogue"),
        (["body"], "text: body"),
        (["x1", "x2"], ""),
    ],
)
def test_proposals(columns: list[str], wanted: str) -> None:
    found = proposed_columns(columns)
    assert wanted in found
    assert bool(found) == bool(wanted)


def test_a_file_without_a_known_shape_is_one_line(tmp_path: Path) -> None:
    line = line_of(tmp_path, {"problem": "p", "solution": "s"})
    assert "columns: found only the columns problem, solution in all 13 rows" in line
    assert "expected `columns: {question: problem, answer: solution}` in the study" in line
    assert "`columns:` in the study, for question with choices" in line_of(tmp_path, {"x1": "p", "x2": "s"})


def test_what_is_wrong_with_all_rows_is_said_once(tmp_path: Path) -> None:
    line = line_of(tmp_path, {"question": "q", "anwser": "a"})
    assert "all 13 rows: answer: found nothing" in line


def test_wrong_columns_in_the_study_are_one_line(tmp_path: Path) -> None:
    record: dict[str, object] = {"query": "q", "gold": "g", "n": 1}
    line = line_of(tmp_path, record, columns={"question": "question", "answer": "answer"})
    assert 'columns: found no columns "question" and "answer", expected one of the columns query, gold, n' in line
    assert line.endswith("such as `columns: {question: query, answer: gold}`")
    line = line_of(tmp_path, record, columns={"qestion": "query", "anser": "gold"})
    assert 'train.mine: columns: found "qestion" and "anser", expected one of id, question' in line
    assert "did you mean `question`?" in line
