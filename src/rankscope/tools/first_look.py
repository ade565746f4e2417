"""A first look at a file of rows: which columns hold what, how items would be scored, what guessing gives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import fmean

from rankscope.data.column_proposals import best_columns, wrong_columns
from rankscope.data.prompts import form_of, is_number
from rankscope.data.question_rows import FINAL_MARK, split_solution
from rankscope.data.row_files import Records, open_file
from rankscope.data.row_shapes import mapped, parse
from rankscope.records import Row
from rankscope.study.data_study import FirstLook
from rankscope.study.problems import InputProblems, Problem

_LOOKED_AT = 200
_LONG_ANSWER_WORDS = 12
"""Answers that are longer in the mean have no one right wording, so that exact match says little."""
_EXTRA = {"question": ("context", "rationale", "aliases", "cluster"), "instruction": ("input", "system")}
"""Fields that a shape may have beside those that tell it, read where a column has just that name."""


def first_look(path: Path) -> FirstLook:
    """What the rows are. Where no row has a shape that is read, columns are proposed by their names.

    Raises InputProblems for a file that cannot be read, and where no columns fit any shape.
    """
    records = open_file(path, str(path))
    first = next(records.batches(), [])[:_LOOKED_AT]
    values = [value for _, value in first if isinstance(value, dict)]
    names = list(dict.fromkeys(str(key) for value in values for key in value))
    rows, columns = _read(first, records, path, None), None
    if len(rows) * 2 < len(first):
        columns = _proposed(names)
        rows = _read(first, records, path, columns) if columns else []
    if not rows and not names and (problem := _first_bad(first, records, path)) is not None:
        raise InputProblems([problem])
    if not rows:
        raise InputProblems([wrong_columns(names, str(path), len(first))])
    if len(rows) < len(first) and columns is None:
        problem = _first_bad(first, records, path)
        raise InputProblems([problem] if problem is not None else [])
    shape = Counter(form_of(row, reasoning=False) for row in rows).most_common(1)[0][0]
    judged_by_loss = shape == "text" or (shape == "open" and _has_no_one_wording(rows))
    unread = tuple(name for name in names if columns and name not in (*columns.values(), "id"))
    return FirstLook(
        row_count=_count(open_file(path, str(path))), columns=columns, unread=unread, shape=_words(rows[0]),
        judged_by_loss=judged_by_loss,
        reasoning=_looks_worked_out(rows), chance=_chance(rows) if not judged_by_loss else None,
    )  # fmt: skip


def is_here(model: str) -> bool:
    """Whether a base model can be looked at without fetching it: the bundled one, a folder, or an id in the cache."""
    if model == "bundled" or Path(model).expanduser().is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(model, "config.json"), str)
    except HFValidationError:
        return False


def count_rows(path: Path) -> int | None:
    """How many records a file has; None where it cannot be read."""
    try:
        return _count(open_file(path, str(path)))
    except InputProblems:
        return None


def _count(records: Records) -> int:
    """Raises InputProblems for a record that cannot be read, wherever it stands."""
    return records.count if records.count is not None else sum(len(batch) for batch in records.batches())


def _proposed(names: list[str]) -> dict[str, str]:
    columns = best_columns(names)
    extra = next((more for field, more in _EXTRA.items() if field in columns), ())
    return columns | {field: field for field in extra if field in names and field not in columns.values()}


def _read(first: list[tuple[int, object]], records: Records, path: Path, columns: dict[str, str] | None) -> list[Row]:
    parsed = (
        parse(mapped(value, columns, cells=records.cells), file=str(path), place=f"{records.unit} {number}")
        for number, value in first
    )
    return [row for row in parsed if isinstance(row, Row)]


def _first_bad(first: list[tuple[int, object]], records: Records, path: Path) -> Problem | None:
    parsed = (
        parse(mapped(value, None, cells=records.cells), file=str(path), place=f"{records.unit} {number}")
        for number, value in first
    )
    return next((row for row in parsed if isinstance(row, Problem)), None)


def _has_no_one_wording(rows: list[Row]) -> bool:
    """Whether answers are conversations, completions of text, or long: no exact match would grade them."""
    if rows[0].question is None:
        return True
    answers = [split_solution(row.answer or "")[1] for row in rows]
    return fmean(len(answer.split()) for answer in answers) > _LONG_ANSWER_WORDS


def _looks_worked_out(rows: list[Row]) -> bool:
    """Whether most answers are numbers, or stand behind a worked solution."""
    marked = [
        row.rationale is not None
        or FINAL_MARK in (row.answer or row.completion or (row.messages[-1].content if row.messages else ""))
        or (row.answer is not None and is_number(row.answer))
        for row in rows
    ]
    return sum(marked) * 2 > len(rows)


def _chance(rows: list[Row]) -> float:
    """The accuracy of guessing: one over the choices, 0 for what is written."""
    return fmean(1 / len(row.choices) if row.choices else 0.0 for row in rows)


def _words(row: Row) -> str:
    if row.choices is not None:
        return "questions with choices"
    if row.question is not None:
        return "questions with answers"
    if row.messages is not None:
        return "conversations or instructions"
    return "plain text" if row.text is not None else "prompts with completions"
