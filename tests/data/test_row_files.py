"""CSV and TSV files: cells, lines, and what is wrong with them; Parquet that is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from encoded_rows import ReadRows, load_rows

from rankscope.study.problems import InputProblems
from rankscope.study.study import Source


def load(folder: Path, content: str | bytes, name: str = "rows.csv", **more: object) -> ReadRows:
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    return load_rows(Source(path=name, **more), base=folder, name="set")


def lines_of(folder: Path, content: str | bytes, name: str = "rows.csv", **more: object) -> list[str]:
    with pytest.raises(InputProblems) as caught:
        load(folder, content, name, **more)
    return [str(problem) for problem in caught.value.problems]


def test_a_place_is_the_line_on_which_a_row_begins(tmp_path: Path) -> None:
    rows = load(tmp_path, '\ufeffquestion,answer\r\n"Who,\r\n and why?",Ann\r\n\r\nWhat?,"A ""thing"""\r\n').rows
    assert [(row.place, row.question, row.answer) for row in rows] == [
        ("line 2", "Who,\r\n and why?", "Ann"),
        ("line 5", "What?", 'A "thing"'),
    ]


def test_separators(tmp_path: Path) -> None:
    assert load(tmp_path, "question;answer\nIs it 1,5?;yes\n").rows[0].question == "Is it 1,5?"
    assert load(tmp_path, "question\tanswer\nA, b; c?\tyes\n", "rows.tsv").rows[0].question == "A, b; c?"


def test_cells_are_text_but_for_indices_and_lists(tmp_path: Path) -> None:
    row, _ = load(tmp_path, 'question,choices,answer_index\nq,"[""x"", ""y""]",1\nr,"[""x"", ""y""]",0\n').rows
    assert (row.choices, row.answer_index) == (("x", "y"), 1)
    columns = {"question": "q", "choices": ["a", "b"], "answer_index": "right"}
    (row,) = load(tmp_path, "q,a,b,right\nq,1,2,b\n", columns=columns).rows
    assert (row.choices, row.answer_index) == (("1", "2"), 1)
    assert load(tmp_path, "question,answer,id\nq,72,5\n").rows[0].answer == "72"
    assert load(tmp_path, "question,answer,context\nq,a,\n").rows[0].context is None
    long = "x" * 200_000
    assert load(tmp_path, f"question,answer\n{long},a\n").rows[0].question == long


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ("", "rows.csv", "rows.csv: file: found an empty file"),
        ("question,answer\n", "rows.csv", "rows.csv: rows: found none"),
        ("question,question\nq,a\n", "rows.csv", 'line 1: found the column "question" twice'),
        ("question,\nq,a\n", "rows.csv", "line 1: found a column without a name"),
        ("question,answer\nq,a\nq,a,b\n", "rows.csv", "line 3: found 3 cells, expected 2, one for each column"),
        ("question,answer\nq\n", "rows.csv", "line 2: found 1 cells, expected 2"),
        ('question,answer\nq,"a', "rows.csv", "line 2: found no valid CSV"),
        ('question,answer\nq,"a"b\n', "rows.csv", "line 2: found no valid CSV"),
        ("question,answer\nq,\n", "rows.csv", 'line 2: answer: found ""'),
        (
            "question,choices,answer_index\nq,x|y,0\n",
            "rows.csv",
            'line 2: choices: found "x|y", expected a list of texts',
        ),
        ("question,choices,answer_index\nq,[x,0\n", "rows.csv", "line 2: choices: found "),
        (b"question,answer\nq,\xff\n", "rows.csv", "line 2: found byte 0xff, which is no UTF-8 text"),
        (b"PAR1 and no more", "rows.parquet", "rows.parquet: file: found no valid Parquet"),
        (b"", "rows.parquet", "rows.parquet: file: found no valid Parquet"),
        ('{"a": 1,\n"b": 2}', "rows.json", "rows.json: file: found one JSON object, expected a list of objects"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: str | bytes, name: str, said: str) -> None:
    (line,) = lines_of(tmp_path, content, name)
    assert said in line


def test_json_lines_and_lists_in_either_suffix(tmp_path: Path) -> None:
    lists = '[{"question": "q", "answer": "a"},\n {"question": "r", "answer": "b"}]'
    lines = '{"question": "q", "answer": "a"}\n{"question": "r", "answer": "b"}\n'
    for name in ("rows.json", "rows.jsonl"):
        assert [row.place for row in load(tmp_path, lists, name).rows] == ["row 1", "row 2"]
        assert [row.place for row in load(tmp_path, lines, name).rows] == ["line 1", "line 2"]


def test_a_missing_table_is_one_line(tmp_path: Path) -> None:
    for name in ("none.csv", "none.parquet"):
        with pytest.raises(InputProblems, match="found nothing at"):
            load_rows(Source(path=name), base=tmp_path, name="set")
