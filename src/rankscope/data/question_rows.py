"""Reads single fields of a record, and from them the row of a record with a question: with choices and which of them is
right, or with an open answer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from rankscope.study.problems import show

FINAL_MARK = "####"
"""What stands before the final answer where an answer is a worked solution."""

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTERED = re.compile(r"(?:^|[\s,;])\(?([A-Za-z])\s?[).]\s")
_HALF_PAIR = re.compile("[\ud800-\udfff]")


class Refused(Exception):
    """A record that cannot be read: the field (empty: the whole record), what was found and what was expected."""

    def __init__(self, field: str, found: str, expected: str) -> None:
        super().__init__(field)
        self.field, self.found, self.expected = field, found, expected


def is_clean(value: str) -> bool:
    """Whether the text has UTF-8 bytes: JSON can hold half of a surrogate pair, which has none."""
    return value.isascii() or _HALF_PAIR.search(value) is None


def given(record: Mapping[object, object], field: str) -> bool:
    """Whether the field says anything: null, an empty text and an empty list do not."""
    return record.get(field) not in (None, "", [])


def needed(record: Mapping[object, object], field: str, *, strip: bool = True) -> str:
    """The field's text, or Refused where it says nothing."""
    value = text(record, field, strip=strip)
    if value is None:
        raise Refused(field, show(record.get(field)), "text that is not empty")
    return value


def text(record: Mapping[object, object], field: str, *, strip: bool = True) -> str | None:
    """The field's text, None where it says nothing."""
    value = record.get(field)
    if value is None or value == []:
        return None
    return checked(value, field, strip) or None


def checked(value: object, field: str, strip: bool) -> str:
    """A value that must be text; a text of nothing but white space becomes empty."""
    if not isinstance(value, str):
        raise Refused(field, show(value), "text")
    if not is_clean(value):
        raise Refused(field, f"half of a surrogate pair in {show(value)}", "text that can be written as UTF-8")
    return value.strip() if strip or not value.strip() else value


def texts(record: Mapping[object, object], field: str) -> tuple[str, ...]:
    """A list of texts, empty ones left out."""
    value = record.get(field)
    if value is None or value == "":
        return ()
    if not isinstance(value, list):
        raise Refused(field, show(value), "a list of texts")
    return tuple(stripped for part in value if (stripped := checked(part, field, True)))


# ---- questions ------------------------------------------------------------------------------------------------------


def question_fields(record: Mapping[object, object], reasoning: bool) -> dict[str, Any]:
    """The fields of the record's Row. Choices, where there are any, win over the answer. Raises Refused."""
    question = needed(record, "question")
    context, rationale = text(record, "context"), text(record, "rationale")
    fields: dict[str, Any] = {"question": question, "context": context}
    if given(record, "choices"):
        choices = _choices(record)
        index = _answer_index(record, choices)
        return fields | {"choices": choices, "answer_index": index, "rationale": rationale}
    if record.get("answer_index") is not None:
        raise Refused("choices", "nothing", "a list of choices, since answer_index is given")
    answer, *more = _answers(record)
    if reasoning:
        solution, answer = split_solution(answer)
        rationale = rationale or solution
        more = [split_solution(other)[1] for other in more]
    aliases = tuple(dict.fromkeys((*more, *texts(record, "aliases"))))
    return fields | {"answer": answer, "aliases": aliases, "rationale": rationale}


def split_solution(answer: str) -> tuple[str | None, str]:
    """`solution #### final` as the solution and the final answer; any other answer as it is, without a solution."""
    solution, mark, final = answer.rpartition(FINAL_MARK)
    return (solution.strip() or None, final.strip()) if mark and final.strip() else (None, answer)


def lettered_choices(listed: str) -> list[str] | None:
    """`a ) 38 , b ) 27 , c ) 9` as its choices; None where the text is no such list.

    The letters must follow one another from a; a separator at a choice's end is no part of it.
    """
    wanted, marks = 0, []
    for mark in _LETTERED.finditer(listed):
        if _LETTERS.find(mark[1].upper()) == wanted:
            marks.append(mark)
            wanted += 1
    if len(marks) < 2 or listed[: marks[0].start()].strip():
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(listed)]
    return [listed[mark.end() : end].rstrip(" ,;\n\t").strip() for mark, end in zip(marks, ends, strict=True)]


def _choices(record: Mapping[object, object]) -> tuple[str, ...]:
    listed = record["choices"]
    if isinstance(listed, str) and (split := lettered_choices(listed)) is not None:
        listed = split
    if not isinstance(listed, list):
        raise Refused("choices", show(listed), "a list of texts")
    choices = tuple(_scalar(choice, "choices") for choice in listed)
    if not all(choices):
        raise Refused("choices", "an empty choice", "choices that are not empty")
    if len(choices) < 2:
        raise Refused("choices", "one choice", "at least two")
    if len(set(choices)) != len(choices):
        twice = next(choice for choice in choices if choices.count(choice) > 1)
        raise Refused("choices", f"{show(twice)} twice", "choices that differ")
    return choices


def _answer_index(record: Mapping[object, object], choices: tuple[str, ...]) -> int:
    """Counted from 0, or a letter; without one, where the answer stands among the choices."""
    index, answer = record.get("answer_index"), record.get("answer")
    answered = choices.index(answer.strip()) if isinstance(answer, str) and answer.strip() in choices else None
    wanted = f"a whole number from 0 to {len(choices) - 1}, or a letter from A to {_LETTERS[min(len(choices), 26) - 1]}"
    if index is None and answered is not None:
        return answered
    if isinstance(index, str) and len(index.strip()) == 1 and index.strip().upper() in _LETTERS:
        index = _LETTERS.index(index.strip().upper())
    if index is None and isinstance(answer, int | str) and answer != "":
        wanted += f" (`columns:` with `answer_index: answer` would read {show(answer)} as one)"
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(choices):
        raise Refused("answer_index", show(record.get("answer_index")), wanted)
    if answered is not None and answered != index:
        raise Refused("answer_index", f"{index}, though answer is choice {answered}", f"{answered} (it counts from 0)")
    return index


def _answers(record: Mapping[object, object]) -> tuple[str, ...]:
    """The answer, and where the field is a list the other answers that are accepted."""
    value = record.get("answer")
    listed = value if isinstance(value, list) else [value]
    answers = tuple(dict.fromkeys(said for part in listed if part is not None and (said := _scalar(part, "answer"))))
    if not answers:
        raise Refused("answer", show(value), "text that is not empty")
    return answers


def _scalar(value: object, field: str) -> str:
    """Text, or a number as it is written: tables and hub data sets keep numeric answers as numbers."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(int(value)) if value == int(value) and abs(value) < 10**15 else repr(value)
    return checked(value, field, True)
