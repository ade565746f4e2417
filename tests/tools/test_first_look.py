"""A first look at rows: their shape, columns by other names, whether a wording can be right, what guessing gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rankscope.study.configs.config_suites import RowsTold
from rankscope.study.problems import InputProblems
from rankscope.tools.first_look import count_rows, first_look, is_here, rows_told

QUESTION = {"question": "Who?", "answer": "Ann"}


def rows(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("record", "shape", "by_loss", "reasoning", "chance"),
    [
        (QUESTION, "questions with answers", False, False, 0.0),
        ({"question": "2+2?", "answer": "2 and 2 #### 4"}, "questions with answers", False, True, 0.0),
        ({"question": "Who?", "answer": "Ann, " * 20}, "questions with answers", True, False, None),
        (
            {"question": "Who?", "choices": list("abcd"), "answer_index": 1},
            "questions with choices",
            False,
            False,
            0.25,
        ),
        ({"instruction": "Sum up.", "output": "Short."}, "conversations or instructions", True, False, None),
        ({"prompt": "2+2=", "completion": "4"}, "prompts with completions", True, False, None),
        ({"text": "An oak."}, "plain text", True, False, None),
    ],
)
def test_shapes(
    tmp_path: Path, record: dict[str, Any], shape: str, by_loss: bool, reasoning: bool, chance: float | None
) -> None:
    look = first_look(rows(tmp_path / "a.jsonl", *[record] * 3))
    assert (look.row_count, look.columns, look.shape) == (3, None, shape)
    assert (look.judged_by_loss, look.reasoning, look.chance) == (by_loss, reasoning, chance)
    assert look.loss_as_reasoning == by_loss


def test_a_worked_solution_is_judged_by_its_loss_unless_it_is_asked_for_by_its_number(tmp_path: Path) -> None:
    solution = "First " + "add two and two and then take one away, " * 3 + "which is #### 3"
    look = first_look(rows(tmp_path / "a.jsonl", *[{"question": "2+2-1?", "answer": solution}] * 3))
    assert (look.reasoning, look.by_loss(None), look.by_loss("recall"), look.by_loss("reasoning")) == (
        True, True, True, False,
    )  # fmt: skip


def test_a_record_that_cannot_be_read_is_told_wherever_it_stands(tmp_path: Path) -> None:
    path = rows(tmp_path / "a.jsonl", *[{"question": f"Tree {i}?", "answer": "oak"} for i in range(1000)])
    assert first_look(path).row_count == 1000
    many = path.read_bytes() * 200  # more than is read for the first look
    path.write_bytes(many + b'{"question": "\xff", "answer": "oak"}\n')
    with pytest.raises(InputProblems, match="200001"):
        first_look(path)


def test_a_broken_line_among_the_first_is_told_in_its_own_words(tmp_path: Path) -> None:
    file = rows(tmp_path / "a.jsonl", *[QUESTION] * 20)
    file.write_text(file.read_text() + '{"question": "Who?\n' + json.dumps(QUESTION) + "\n")
    with pytest.raises(InputProblems) as caught:
        first_look(file)
    (problem,) = caught.value.problems
    assert problem.place == "line 21"
    assert problem.found.startswith("no valid JSON (")


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    rows = [{"id": str(i), "prompt_text": f"Name tree {i}.", "gold": "oak", "meta": i} for i in range(3)]
    path = tmp_path / "odd.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    look = first_look(path)
    assert look.columns == {"text": "prompt_text"}
    assert look.unread == ("gold", "meta")


def test_columns_by_other_names_are_proposed_with_what_belongs_to_them(tmp_path: Path) -> None:
    record = {"problem": "Who?", "solution": "Ann", "context": "Ann did.", "source": "x"}
    look = first_look(rows(tmp_path / "a.jsonl", *[record] * 3))
    assert look.columns == {"question": "problem", "answer": "solution", "context": "context"}
    assert look.shape == "questions with answers"


def test_two_columns_of_text_are_proposed_though_their_names_tell_nothing(tmp_path: Path) -> None:
    lines = ["Nr,Frage,Antwort", *(f"{i},Welcher Baum ist Nummer {i}?,Eiche" for i in range(20))]
    (tmp_path / "q.csv").write_text("\n".join(lines) + "\n")
    look = first_look(tmp_path / "q.csv")
    assert look.columns == {"question": "Frage", "answer": "Antwort"}
    assert look.unread == ("Nr",)
    turned = ["Antwort,Frage", *("Eiche,Welcher Baum ist das?" for _ in range(20))]
    (tmp_path / "t.csv").write_text("\n".join(turned) + "\n")
    assert first_look(tmp_path / "t.csv").columns == {"question": "Frage", "answer": "Antwort"}
    three = ["Frage,Antwort,Quelle", *("Welcher Baum?,Eiche,Buch" for _ in range(20))]
    (tmp_path / "r.csv").write_text("\n".join(three) + "\n")
    with pytest.raises(InputProblems, match="Frage, Antwort, Quelle"):
        first_look(tmp_path / "r.csv")


def test_what_cannot_be_read_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(InputProblems, match="found only the columns colour"):
        first_look(rows(tmp_path / "a.jsonl", {"colour": "red"}))
    (tmp_path / "broken.jsonl").write_text("{broken\n", encoding="utf-8")
    with pytest.raises(InputProblems, match="line 1"):
        first_look(tmp_path / "broken.jsonl")
    with pytest.raises(InputProblems, match="line 4: answer"):
        first_look(rows(tmp_path / "b.jsonl", *[QUESTION] * 3, {"question": "Who?", "answer": {}}))
    assert count_rows(tmp_path / "none.jsonl") is None
    assert count_rows(rows(tmp_path / "c.jsonl", *[QUESTION] * 7)) == 7
    assert rows_told(tmp_path / "c.jsonl") == RowsTold(7, judged_by_loss=False, columns=frozenset(QUESTION))
    assert rows_told(rows(tmp_path / "d.jsonl", *[{"colour": "red"}] * 3)) == RowsTold(
        3, judged_by_loss=None, columns=frozenset({"colour"})
    )
    assert rows_told(tmp_path / "none.jsonl") == RowsTold(None, None)
    late = rows(tmp_path / "late.jsonl", *[QUESTION] * 3000, {**QUESTION, "input": "only here"})
    assert rows_told(late).columns == {*QUESTION, "input"}, "beyond the first look too"


def test_which_models_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [is_here(model) for model in ("bundled", str(tmp_path), "acme/none", "no such model!")] == [
        True, True, False, False,
    ]  # fmt: skip
