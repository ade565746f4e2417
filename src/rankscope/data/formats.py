"""One record -> one checked Row. The shapes that are read, and what is said of a record that is none of them."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import replace

from rankscope.config.problems import Problem, show
from rankscope.records import Row

FIELDS = (
    "id",
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
)
"""Every field that is read; all others are ignored. A field that is null, empty or [] counts as absent."""

SHAPES = "question with choices and answer_index, question with answer, prompt with completion, or text"

_NOT_YET = {"messages": "messages", "conversations": "conversations", "instruction": "Alpaca (instruction, output)"}


class _Refused(Exception):
    def __init__(self, field: str, found: str, expected: str) -> None:
        super().__init__(field)
        self.field, self.found, self.expected = field, found, expected


def parse(record: object, *, file: str, place: str) -> Row | Problem:
    """The record as a Row, or the first thing that is wrong with it. `place` names the record in its file (`line 3`).

    Question, context, choices, answers and rationale lose the white space around them; prompt, completion and text
    are kept exactly as they are given. Without an `id`, the item's id is `content_id` of the row.
    """
    try:
        return _row(record, place)
    except _Refused as refused:
        where = f"{place}: {refused.field}" if refused.field else place
        return Problem(file, where, refused.found, refused.expected)


def unbuilt_format(record: object) -> str | None:
    """The name of a known format that is not read yet, if the record is of one."""
    if not isinstance(record, Mapping) or any(_is_given(record, field) for field in ("question", "prompt", "text")):
        return None
    return next((name for field, name in _NOT_YET.items() if _is_given(record, field)), None)


def content(row: Row) -> dict[str, object]:
    """What the row says, without where it stood and what it is called; absent fields are left out."""
    return {
        field: value for field in FIELDS if field != "id" and (value := getattr(row, field)) is not None and value != ()
    }


def content_id(row: Row) -> str:
    """16 hex digits that depend on the row's content only; neither white space nor Unicode composition changes them."""

    def normal(value: object) -> object:
        if isinstance(value, str):
            return " ".join(unicodedata.normalize("NFC", value).split())
        return [normal(part) for part in value] if isinstance(value, tuple) else value

    plain = {field: normal(value) for field, value in content(row).items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def is_clean(text: str) -> bool:
    """Whether the text has UTF-8 bytes: JSON can hold half of a surrogate pair, which has none."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _is_given(record: Mapping[object, object], field: str) -> bool:
    return record.get(field) not in (None, "", [])


def _row(record: object, place: str) -> Row:
    if not isinstance(record, Mapping):
        raise _Refused("", show(record), "a JSON object with " + SHAPES)
    shape = _shape(record)
    if shape == "question":
        row = _question_row(record, place)
    elif shape == "prompt":
        prompt, completion = _needed(record, "prompt", strip=False), _needed(record, "completion", strip=False)
        row = Row(item_id="", place=place, prompt=prompt, completion=completion, aliases=_texts(record, "aliases"))
    else:
        row = Row(item_id="", place=place, text=_needed(record, "text", strip=False))
    given_id = _item_id(record)
    return replace(row, item_id=content_id(row) if given_id is None else given_id)


def _shape(record: Mapping[object, object]) -> str:
    given = [field for field in ("question", "prompt", "text") if _is_given(record, field)]
    if not given and _is_given(record, "completion"):
        given = ["prompt"]
    if len(given) > 1:
        raise _Refused("", " and ".join(given), "one of them (`columns:` in the study can name the fields to read)")
    if given:
        return given[0]
    named = [field for field in ("question", "prompt", "text") if field in record]
    if named:
        raise _Refused(named[0], show(record[named[0]]), "text that is not empty")
    raise _Refused("", show(dict(record)), SHAPES)


def _question_row(record: Mapping[object, object], place: str) -> Row:
    question = _needed(record, "question")
    context, rationale = _text(record, "context"), _text(record, "rationale")
    if not _is_given(record, "choices"):
        if record.get("answer_index") is not None:
            raise _Refused("choices", "nothing", "a list of choices, since answer_index is given")
        return Row(
            item_id="",
            place=place,
            question=question,
            context=context,
            answer=_needed(record, "answer"),
            aliases=_texts(record, "aliases"),
            rationale=rationale,
        )
    choices = _choices(record)
    return Row(
        item_id="",
        place=place,
        question=question,
        context=context,
        choices=choices,
        answer_index=_answer_index(record, choices),
        rationale=rationale,
    )


def _choices(record: Mapping[object, object]) -> tuple[str, ...]:
    choices = _texts(record, "choices")
    given = record["choices"]
    if not isinstance(given, list) or len(choices) != len(given):
        raise _Refused("choices", "an empty choice", "choices that are not empty")
    if len(choices) < 2:
        raise _Refused("choices", "one choice", "at least two")
    if len(set(choices)) != len(choices):
        twice = next(choice for choice in choices if choices.count(choice) > 1)
        raise _Refused("choices", f"{show(twice)} twice", "choices that differ")
    return choices


def _answer_index(record: Mapping[object, object], choices: tuple[str, ...]) -> int:
    index, answer = record.get("answer_index"), record.get("answer")
    answered = choices.index(answer.strip()) if isinstance(answer, str) and answer.strip() in choices else None
    wanted = f"a whole number from 0 to {len(choices) - 1}"
    if index is None and answered is not None:
        return answered
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(choices):
        raise _Refused("answer_index", show(index), wanted)
    if answered is not None and answered != index:
        raise _Refused("answer_index", f"{index}, though answer is choice {answered}", f"{answered} (it counts from 0)")
    return index


def _item_id(record: Mapping[object, object]) -> str | None:
    value = record.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(record, "id")


def _needed(record: Mapping[object, object], field: str, *, strip: bool = True) -> str:
    text = _text(record, field, strip=strip)
    if text is None:
        raise _Refused(field, show(record.get(field)), "text that is not empty")
    return text


def _text(record: Mapping[object, object], field: str, *, strip: bool = True) -> str | None:
    value = record.get(field)
    if value is None or value == []:
        return None
    return _checked(value, field, strip) or None


def _checked(value: object, field: str, strip: bool) -> str:
    if not isinstance(value, str):
        raise _Refused(field, show(value), "text")
    if not is_clean(value):
        raise _Refused(field, f"half of a surrogate pair in {show(value)}", "text that can be written as UTF-8")
    return value.strip() if strip or not value.strip() else value


def _texts(record: Mapping[object, object], field: str) -> tuple[str, ...]:
    value = record.get(field)
    if value is None or value == "":
        return ()
    if not isinstance(value, list):
        raise _Refused(field, show(value), "a list of texts")
    return tuple(text for part in value if (text := _checked(part, field, True)))
