"""One record -> one checked Row. The shapes that are read, and what is said of a record that is none of them."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import replace

from rankscope.data.conversation_rows import alpaca_turns, messages_turns, sharegpt_turns
from rankscope.data.question_rows import question_row
from rankscope.data.record_fields import Refused, given, is_clean, needed, text, texts
from rankscope.records import Row, Turn
from rankscope.study.problems import Problem, show

__all__ = ["FIELDS", "SHAPES", "content", "content_id", "is_clean", "parse"]

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

_CONVERSATIONS: dict[str, Callable[[Mapping[object, object]], tuple[Turn, ...]]] = {
    "messages": messages_turns,
    "conversations": sharegpt_turns,
    "instruction": alpaca_turns,
}
_MAIN_FIELDS = ("question", "prompt", "text", *_CONVERSATIONS)
"""The field that says which shape a record has."""


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


def content(row: Row) -> dict[str, object]:
    """What the row says, without where it stood and what it is called; absent fields are left out."""
    return {field: value for field in _SAID if (value := getattr(row, field)) is not None and value != ()}


def content_id(row: Row) -> str:
    """16 hex digits that depend on the row's content only; neither white space nor Unicode composition changes them."""

    def normal(value: object) -> object:
        if isinstance(value, str):
            return " ".join(unicodedata.normalize("NFC", value).split())
        return [normal(part) for part in value] if isinstance(value, tuple) else value

    plain = {field: normal(value) for field, value in content(row).items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _row(record: object, place: str, reasoning: bool) -> Row:
    if not isinstance(record, Mapping):
        raise Refused("", show(record), "a JSON object with " + SHAPES)
    shape = _shape(record)
    if shape == "question":
        row = question_row(record, place, reasoning)
    elif shape == "prompt":
        prompt, completion = needed(record, "prompt", strip=False), needed(record, "completion", strip=False)
        row = Row(item_id="", place=place, prompt=prompt, completion=completion, aliases=texts(record, "aliases"))
    elif shape == "text":
        row = Row(item_id="", place=place, text=needed(record, "text", strip=False))
    else:
        turns = _CONVERSATIONS[shape](record)
        row = Row(item_id="", place=place, messages=turns, aliases=texts(record, "aliases"))
    own_id = _name(record, "id")
    return replace(row, item_id=content_id(row) if own_id is None else own_id, cluster=_name(record, "cluster"))


def _shape(record: Mapping[object, object]) -> str:
    found = [field for field in _MAIN_FIELDS if given(record, field)]
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
