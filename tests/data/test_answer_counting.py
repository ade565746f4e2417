"""How a column of right choices counts is decided by all its rows, or refused with both readings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from encoded_rows import load_rows

from rankscope.study.problems import InputProblems
from rankscope.study.study import Source

NAMES = {"question": "question", "choices": ["a", "b", "c", "d"], "answer_index": "right"}


def places(folder: Path, column: list[object], *, as_csv: bool = True, **more: object) -> list[int | None]:
    if as_csv:
        rows = "".join(f"q{i},w,x,y,z,{value}\n" for i, value in enumerate(column))
        (folder / "rows.csv").write_text("question,a,b,c,d,right\n" + rows)
        source = Source(path="rows.csv", columns=NAMES, **more)
    else:
        records = [{"question": f"q{i}", "choices": list("wxyz"), "answer_index": v} for i, v in enumerate(column)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        source = Source(path="rows.jsonl", **more)
    return [row.answer_index for row in load_rows(source, base=folder, name="set").rows]


def line_of(folder: Path, column: list[object], **more: object) -> str:
    with pytest.raises(InputProblems) as caught:
        places(folder, column, **more)  # type: ignore[arg-type]
    (problem,) = caught.value.problems
    return str(problem)


@pytest.mark.parametrize("as_csv", [True, False])
def test_a_column_shows_how_it_counts(tmp_path: Path, as_csv: bool) -> None:
    assert places(tmp_path, ["1", "2", "3", "4"], as_csv=as_csv) == [0, 1, 2, 3]
    assert places(tmp_path, ["2", "4", "2"], as_csv=as_csv) == [1, 3, 1]
    assert places(tmp_path, ["1", "0", "3"], as_csv=as_csv) == [1, 0, 3]
    assert places(tmp_path, ["A", "d", " B "], as_csv=as_csv) == [0, 3, 1]


def test_numbers_of_json_count_from_0_unless_all_rows_speak_for_1(tmp_path: Path) -> None:
    assert places(tmp_path, [1, 2], as_csv=False) == [1, 2]
    assert places(tmp_path, [1, 2, 4], as_csv=False) == [0, 1, 3]


def test_what_cannot_be_decided_is_one_line_with_both_readings(tmp_path: Path) -> None:
    line = line_of(tmp_path, ["1", "2", "3"])
    assert 'numbers from 1 to 3, which may count from 0 or from 1: 1 in line 2 means "x" counted from 0' in line
    assert '"w" counted from 1' in line
    assert "1 rows that count from 0 and 1 that count from 1" in line_of(tmp_path, ["0", "2", "4"])
    assert "1 letters and 2 numbers" in line_of(tmp_path, ["0", "2", "B"])
    assert "1 letters and 2 numbers" in line_of(tmp_path, ["B", 0, 2], as_csv=False)


def test_the_batch_that_decides_need_not_be_the_first(tmp_path: Path) -> None:
    column: list[object] = ["2"] * 1500 + ["4"] + ["3"] * 10
    assert places(tmp_path, column)[:3] == [1, 1, 1]
    assert places(tmp_path, column)[-1] == 2


def test_few_stray_rows_may_be_dropped(tmp_path: Path) -> None:
    column: list[object] = ["0", "1", "2", "3"] * 25
    assert len(places(tmp_path, [*column, "4"], bad_rows="drop")) == 100
    assert "count from 1" in line_of(tmp_path, [*column, "4"])
    assert "count from 1" in line_of(tmp_path, [*["1", "2", "3", "4"] * 2, "0"], bad_rows="drop")


def test_an_answer_in_words_beside_a_number_shows_how_it_counts(tmp_path: Path) -> None:
    rows = [
        {"question": f"q{i}", "choices": list("wxyz"), "answer_index": "2", "answer": a} for i, a in enumerate("xx")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [r.answer_index for r in load_rows(Source(path="rows.jsonl"), base=tmp_path, name="s").rows] == [1, 1]


def numeric(folder: Path, answers: list[object], choices: list[object]) -> list[int | None]:
    rows = [{"question": f"q{i}", "choices": choices, "answer": answer} for i, answer in enumerate(answers)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [row.answer_index for row in load_rows(Source(path="rows.jsonl"), base=folder, name="s").rows]


def test_a_number_among_numeric_choices_is_the_answer(tmp_path: Path) -> None:
    assert numeric(tmp_path, [38, 9], [38, 27, 9]) == [0, 2]
    assert numeric(tmp_path, [3, 4.5], ["3", "4.5", "1"]) == [0, 1]
    assert numeric(tmp_path, ["2", "1"], ["1", "2", "3"]) == [1, 0]
    with pytest.raises(InputProblems, match=r"2 in line 1 is the choice 2, or \"3\" counted from 0"):
        numeric(tmp_path, [2, 1], [1, 2, 3])
    with pytest.raises(InputProblems, match="expected an answer that is one of the choices") as caught:
        numeric(tmp_path, [5, 38], [38, 27, 9])
    assert "answer_index: answer" not in str(caught.value)
