"""Turns one record into one checked Row: the shapes that are read, and what is said of one that has none of them."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, Literal

from rankscope.data.question_rows import Refused, checked, given, needed, question_fields, text, texts
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
Role = Literal["system", "user", "assistant"]

_LISTS = ("choices", "aliases", "messages", "conversations", "answer")
"""Fields whose cell may hold a JSON list where a table has only text."""

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_SPEAKERS: dict[str, Role] = {
    **_ROLES,
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}


def parse(record: object, *, file: str, place: str, reasoning: bool = False) -> Row | Problem:
    """The record as a Row, or the first thing that is wrong with it. `place` names the record in its file (`line 3`).

    Question, context, choices, answers, rationale and turns lose the white space around them; prompt, completion and
    text are kept exactly as they are given. `reasoning`: an answer `solution #### 5` is the rationale `solution` and
    the answer `5`. Without an `id`, the item's id is `content_id` of the row.
    """
    try:
        return _row(record, place, reasoning)
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
    """Text of a table as what it stands for: a whole number for answer_index, a list in JSON for lists."""
    if not isinstance(cell, str):
        return [_from_cell("", part) for part in cell] if isinstance(cell, list) else cell
    if field == "answer_index" and cell.strip().isascii() and cell.strip().isdecimal() and len(cell) < 20:
        return int(cell)
    if field in _LISTS and cell.lstrip().startswith("["):
        try:
            parsed = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        return parsed if isinstance(parsed, list) else cell
    return cell


def _row(record: object, place: str, reasoning: bool) -> Row:
    if not isinstance(record, Mapping):
        raise Refused("", show(record), "a JSON object with " + SHAPES)
    shape = _shape(record)
    fields: dict[str, Any]
    if shape == "question":
        fields = question_fields(record, reasoning)
    elif shape == "prompt":
        fields = {field: needed(record, field, strip=False) for field in ("prompt", "completion")}
        fields["aliases"] = texts(record, "aliases")
    elif shape == "text":
        fields = {"text": needed(record, "text", strip=False)}
    else:
        fields = {"messages": _CONVERSATIONS[shape](record), "aliases": texts(record, "aliases")}
    own_id = _name(record, "id")
    item_id = content_id(fields) if own_id is None else own_id
    return Row(item_id=item_id, place=place, cluster=_name(record, "cluster"), **fields)


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


# ---- conversations as tools write them ------------------------------------------------------------------------------


def _messages_turns(record: Mapping[object, object]) -> tuple[Turn, ...]:
    """`messages`: a list of {role, content}."""
    return _turns(record, "messages", "role", "content", _ROLES)


def _sharegpt_turns(record: Mapping[object, object]) -> tuple[Turn, ...]:
    """`conversations`: a list of {from, value}, or of {role, content}."""
    listed = record["conversations"]
    first = listed[0] if isinstance(listed, list) and listed else None
    if isinstance(first, Mapping) and "from" not in first and "role" in first:
        return _turns(record, "conversations", "role", "content", _SPEAKERS)
    return _turns(record, "conversations", "from", "value", _SPEAKERS)


def _alpaca_turns(record: Mapping[object, object]) -> tuple[Turn, ...]:
    """`instruction`, with `input` after a blank line where there is one, answered by `output`."""
    instruction, more = needed(record, "instruction"), text(record, "input")
    asked = instruction if more is None else f"{instruction}\n\n{more}"
    turns = (Turn("user", asked), Turn("assistant", needed(record, "output")))
    return _with_system(record, turns, "instruction")


def _turns(
    record: Mapping[object, object], field: str, role_key: str, text_key: str, roles: Mapping[str, Role]
) -> tuple[Turn, ...]:
    listed = record[field]
    if not isinstance(listed, list):
        raise Refused(field, show(listed), f"a list of turns, each with {role_key} and {text_key}")
    turns = []
    for number, turn in enumerate(listed, start=1):
        place = f"{field}, turn {number}"
        if not isinstance(turn, Mapping):
            raise Refused(place, show(turn), f"a turn with {role_key} and {text_key}")
        named = turn.get(role_key)
        role = roles.get(named.strip().lower()) if isinstance(named, str) else None
        if role is None:
            raise Refused(f"{place}: {role_key}", show(named), f"one of {', '.join(roles)}")
        content = turn.get(text_key)
        if content is None or content == "" or not (said := checked(content, f"{place}: {text_key}", True)):
            raise Refused(f"{place}: {text_key}", show(content), "text that is not empty")
        turns.append(Turn(role, said))
    _check_order(turns, field)
    return _with_system(record, tuple(turns), field)


def _check_order(turns: list[Turn], field: str) -> None:
    """At most one system turn, which is the first; a user's before the first assistant's; an assistant's at the end."""
    later_system = next((i for i, turn in enumerate(turns) if turn.role == "system" and i > 0), None)
    if later_system is not None:
        place = f"{field}, turn {later_system + 1}"
        raise Refused(place, "a system turn", "a user's or an assistant's (a system turn is the first)")
    asked = [turn for turn in turns if turn.role != "system"]
    if not asked or asked[0].role != "user":
        place = f"{field}, turn {len(turns) - len(asked) + 1}"
        raise Refused(place, "an assistant's turn" if asked else "nothing", "a user's turn, which it would answer")
    if turns[-1].role != "assistant":
        expected = "an assistant's turn at the end, to be learned or scored"
        raise Refused(f"{field}, turn {len(turns)}", "a user's turn at the end", expected)


def _with_system(record: Mapping[object, object], turns: tuple[Turn, ...], field: str) -> tuple[Turn, ...]:
    """With the text of a `system` column before them."""
    if not given(record, "system"):
        return turns
    system = text(record, "system")
    if system is None:
        return turns
    if turns[0].role == "system":
        raise Refused("system", f"a system text beside the system turn of {field}", "one of them")
    return (Turn("system", system), *turns)


_CONVERSATIONS: dict[str, Callable[[Mapping[object, object]], tuple[Turn, ...]]] = {
    "messages": _messages_turns,
    "conversations": _sharegpt_turns,
    "instruction": _alpaca_turns,
}
_MAIN_FIELDS = ("question", "prompt", "text", *_CONVERSATIONS)
"""The field that says which shape a record has."""
