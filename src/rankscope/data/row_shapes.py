"""Turns one record into one checked Row: the shapes that are read, and what is said of one that has none of them."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from rankscope.data.question_rows import Refused, given, needed, question_fields, scalar, text, texts
from rankscope.data.turn_rows import alpaca_turns, messages_turns, prompt_turns, sharegpt_turns
from rankscope.records import Row, Turn
from rankscope.study.problems import Problem, show

_SAID = (
    "question",
    "context",
    "choices",
    "answer_index",
    "answer",
    "aliases",
    "rationale",
    "prompt",
    "completion",
    "text",
    "messages",
)
"""The fields of a Row that say something."""

FIELDS = ("id", *_SAID, "conversations", "instruction", "input", "output", "system", "cluster")
"""Every field that is read; all others are ignored. A field that is null, empty or [] counts as absent."""

SHAPES = (
    "question with choices and answer_index, question with answer, prompt with completion, messages, conversations,"
    " instruction with output, or text"
)

Columns = Mapping[str, str | tuple[str, ...]]

_LISTS = ("choices", "aliases", "messages", "conversations", "answer")
"""Fields whose cell may hold a JSON list where a table has only text."""

_TURN_LISTS = ("prompt", "completion")
"""Fields whose cell may hold a JSON list of turns, or plain text that begins like one."""


def parse(
    record: object, *, file: str, place: str, reasoning: bool = False, counted_from: int | None = None
) -> Row | Problem:
    """The record as a Row, or the first thing that is wrong with it. `place` names the record in its file (`line 3`).

    Question, context, choices, answers, rationale and turns lose the white space around them; prompt, completion and
    text are kept exactly as they are given. `reasoning`: an answer `solution #### 5` is the rationale `solution` and
    the answer `5`. `counted_from`: the number of the first choice where the column `answer_index` was looked at; else
    numbers count from 0 and digits in quotes are refused. Without an `id`, the item's id is `content_id` of the row.
    """
    try:
        return _row(record, place, reasoning, counted_from)
    except Refused as refused:
        where = f"{place}: {refused.field}" if refused.field else place
        return Problem(file, where, refused.found, refused.expected)


def content_id(fields: Mapping[str, Any]) -> str:
    """16 hex digits of what a row's fields say; neither white space nor Unicode composition changes them."""
    plain = {field: _normal(value) for field in _SAID if (value := fields.get(field)) is not None and value != ()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def content_text(row: Row) -> str:
    """What a row says as one text: the same for two rows where their `content_id` is."""
    said = ((field, value) for field in _SAID if (value := getattr(row, field)) is not None and value != ())
    return "\x1d".join(f"{field}\x1d{_joined(value)}" for field, value in said)


def _joined(value: object) -> str:
    """The separators are white space, of which normal text has only spaces."""
    if isinstance(value, tuple):
        return "\x1e".join(f"({_joined(part)})" for part in value)
    return str(_normal(value))


def _normal(value: object) -> object:
    if isinstance(value, str):
        return " ".join((value if value.isascii() else unicodedata.normalize("NFC", value)).split())
    if isinstance(value, Turn):  # what a turn says beside its content counts where it says something
        value = value[: 2 if value == Turn(*value[:2]) else None]
    return [_normal(part) for part in value] if isinstance(value, tuple) else value


def mapped(value: object, columns: Columns | None, *, cells: bool = False) -> object:
    """A record with our fields' names; only the fields that `columns` names, where there are any.

    `cells`: every value is the text of a table's cell.
    """
    if not isinstance(value, Mapping):
        return value
    if columns is not None:
        value = {
            field: _value(value, column) if isinstance(column, str) else [_value(value, part) for part in column]
            for field, column in columns.items()
        }
    return {field: _from_cell(field, cell) for field, cell in value.items()} if cells else value


def _value(row: Mapping[str, object], column: str) -> object:
    """The column's value; `answers.text` is the part `text` of the column `answers` where no column has that name."""
    if column in row or "." not in column:
        return row.get(column)
    value: object = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _from_cell(field: str, cell: object) -> object:
    """Text of a table as what it stands for: a list in JSON for lists."""
    if not isinstance(cell, str) or field not in _LISTS + _TURN_LISTS or not cell.lstrip().startswith("["):
        return cell
    try:
        parsed = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    if field in _TURN_LISTS and not (isinstance(parsed, list) and all(isinstance(turn, dict) for turn in parsed)):
        return cell
    return parsed if isinstance(parsed, list) else cell


def _row(record: object, place: str, reasoning: bool, counted_from: int | None) -> Row:
    if not isinstance(record, Mapping):
        raise Refused("", show(record), "a JSON object with " + SHAPES)
    shape = _shape(record)
    fields: dict[str, Any]
    if shape == "question":
        fields = question_fields(record, reasoning, counted_from)
    elif shape == "prompt" and any(isinstance(record.get(field), list) for field in _TURN_LISTS):
        fields = {"messages": prompt_turns(record), "aliases": texts(record, "aliases")}
    elif shape == "prompt":
        fields = {"prompt": needed(record, "prompt", strip=False), "completion": _completion(record)}
        fields["aliases"] = texts(record, "aliases")
    elif shape == "text":
        fields = {"text": needed(record, "text", strip=False)}
    else:
        fields = {"messages": _CONVERSATIONS[shape](record), "aliases": texts(record, "aliases")}
    own_id = _name(record, "id")
    item_id = content_id(fields) if own_id is None else own_id
    return Row(item_id=item_id, place=place, cluster=_name(record, "cluster"), **fields)


def _completion(record: Mapping[object, object]) -> str:
    """The text, or a number as it is written."""
    value = record.get("completion")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return scalar(value, "completion")
    return needed(record, "completion", strip=False)


def _shape(record: Mapping[object, object]) -> str:
    found = [field for field in _MAIN_FIELDS if field in record and given(record, field)]
    if not found and given(record, "completion"):
        found = ["prompt"]
    if len(found) > 1:
        raise Refused("", " and ".join(found), "one of them (`columns:` in the study can name the fields to read)")
    if found:
        return found[0]
    named = [field for field in _MAIN_FIELDS if field in record]
    if named:
        expected = "a list of turns" if named[0] in ("messages", "conversations") else "text that is not empty"
        raise Refused(named[0], show(record[named[0]]), expected)
    raise Refused("", show(dict(record)), SHAPES + " (`columns:` in the study can name the fields to read)")


def _name(record: Mapping[object, object], field: str) -> str | None:
    """A text or a whole number that names the record or its cluster; None where the field says nothing."""
    value = record.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text(record, field)


_CONVERSATIONS: dict[str, Callable[[Mapping[object, object]], tuple[Turn, ...]]] = {
    "messages": messages_turns,
    "conversations": sharegpt_turns,
    "instruction": alpaca_turns,
}
_MAIN_FIELDS = ("question", "prompt", "text", *_CONVERSATIONS)
"""The field that says which shape a record has."""
