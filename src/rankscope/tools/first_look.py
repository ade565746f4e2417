"""A first look at a file of rows: which columns hold what, how items would be scored, what guessing gives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import fmean

from rankscope.data.column_proposals import best_columns, wrong_columns
from rankscope.data.prompts import form_of, is_number
from rankscope.data.question_rows import FINAL_MARK, split_solution
from rankscope.data.row_files import Records, Unreadable, open_file
from rankscope.data.row_shapes import mapped, parse
from rankscope.records import Row
from rankscope.study.configs.config_suites import RowsTold
from rankscope.study.data_study import FirstLook
from rankscope.study.problems import InputProblems, Problem

_LOOKED_AT = 200
LONG_ANSWER_WORDS = 12
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
    (rows, bad), columns = _parsed(first, records, path, None), None
    if len(rows) * 2 < len(first):
        columns = _proposed(names) or _two_texts(values)
        rows = _parsed(first, records, path, columns)[0] if columns else []
    if bad is not None and not columns and (rows or not names):
        raise InputProblems([bad])
    if not rows:
        raise InputProblems([wrong_columns(names, str(path), len(first))])
    whole, final = (_judged_by_loss(rows, reasoning=reasoning) for reasoning in (False, True))
    unread = tuple(name for name in names if columns and name not in (*columns.values(), "id"))
    return FirstLook(
        row_count=_count(open_file(path, str(path))), columns=columns, unread=unread, shape=_words(rows[0]),
        judged_by_loss=whole, loss_as_reasoning=final, reasoning=_looks_worked_out(rows),
        chance=_chance(rows) if not whole else None,
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


def why_no_ready_suite() -> str | None:
    """Why none of the suites that `general: auto` stands for can be had on this machine; None where some can."""
    from rankscope.edges.machine import quiet_libraries
    from rankscope.evaluate.reachable_suites import reachable_suites  # the hub's libraries come with it

    quiet_libraries()
    reached = reachable_suites("suites.general")
    return None if reached.suites else reached.why_not


def rows_told(path: Path) -> RowsTold:
    """Of a file that a config names: how many rows, their columns, whether loss judges them, as far as can be told."""
    try:
        look = first_look(path)
    except InputProblems:
        return RowsTold(count=count_rows(path), judged_by_loss=None, columns=_columns(path))
    return RowsTold(count=look.row_count, judged_by_loss=look.judged_by_loss, columns=_columns(path))


def _columns(path: Path) -> frozenset[str] | None:
    """The names that any row has; None where the file cannot be read, or its rows are not of named fields."""
    try:
        batches = open_file(path, str(path)).batches()
        names = {str(key) for batch in batches for _, value in batch if isinstance(value, dict) for key in value}
    except InputProblems:
        return None
    return frozenset(names) or None


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


def _two_texts(values: list[dict[str, object]]) -> dict[str, str]:
    """Two columns as question and answer, where no name tells anything and only those two hold text: that with more
    question marks first."""
    texts = [
        str(name)
        for name in dict.fromkeys(name for value in values for name in value)
        if all(isinstance(found := value.get(name), str) and found.strip() and not is_number(found) for value in values)
        and str(name).lower() != "id"
    ]
    if len(texts) != 2:
        return {}
    asks = {name: sum(str(value[name]).rstrip().endswith("?") for value in values) for name in texts}
    question, answer = sorted(texts, key=lambda name: -asks[name])  # in their order where neither asks more
    return {"question": question, "answer": answer}


def _parsed(
    first: list[tuple[int, object]], records: Records, path: Path, columns: dict[str, str] | None
) -> tuple[list[Row], Problem | None]:
    """The rows that can be read with these columns, and what is wrong with the first that cannot."""
    places = [(f"{records.unit} {number}", value) for number, value in first]
    parsed = [
        Problem(str(path), place, value.found, value.expected)
        if isinstance(value, Unreadable)
        else parse(mapped(value, columns, cells=records.cells), file=str(path), place=place)
        for place, value in places
    ]
    bad = next((row for row in parsed if isinstance(row, Problem)), None)
    return [row for row in parsed if isinstance(row, Row)], bad


def _judged_by_loss(rows: list[Row], *, reasoning: bool) -> bool:
    """Whether no exact match would grade answers: of text, conversations and completions, and where they are long.
    `reasoning`: of a worked solution what follows its #### is asked for."""
    shape = Counter(form_of(row, reasoning=False) for row in rows).most_common(1)[0][0]
    if shape != "open":
        return shape == "text"
    if rows[0].question is None:
        return True
    answers = [row.answer or "" for row in rows]
    answers = [split_solution(answer)[1] for answer in answers] if reasoning else answers
    return fmean(len(answer.split()) for answer in answers) > LONG_ANSWER_WORDS


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
