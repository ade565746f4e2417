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


def question_fields(
    record: Mapping[object, object], reasoning: bool, counted_from: int | None = None
) -> dict[str, Any]:
    """The fields of the record's Row. Choices, where there are any, win over the answer. `counted_from` as in
    `row_shapes.parse`. Raises Refused."""
    question = needed(record, "question")
    context, rationale = text(record, "context"), text(record, "rationale")
    fields: dict[str, Any] = {"question": question, "context": context}
    if given(record, "choices"):
        choices = choices_of(record)
        index = _answer_index(record, choices, counted_from)
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


def choices_of(record: Mapping[object, object]) -> tuple[str, ...]:
    """The choices, at least two that differ. Raises Refused."""
    listed = record["choices"]
    if isinstance(listed, str) and (split := lettered_choices(listed)) is not None:
        listed = split
    if not isinstance(listed, list):
        raise Refused("choices", show(listed), "a list of texts")
    choices = tuple(scalar(choice, "choices") for choice in listed)
    if not all(choices):
        raise Refused("choices", "an empty choice", "choices that are not empty")
    if len(choices) < 2:
        raise Refused("choices", "one choice", "at least two")
    if len(set(choices)) != len(choices):
        twice = next(choice for choice in choices if choices.count(choice) > 1)
        raise Refused("choices", f"{show(twice)} twice", "choices that differ")
    return choices


def letter_index(value: object) -> int | None:
    """The place of a single letter in the alphabet, None for anything else."""
    if isinstance(value, str) and len(value.strip()) == 1 and (place := _LETTERS.find(value.strip().upper())) >= 0:
        return place
    return None


def counted_number(value: object) -> int | None:
    """A whole number, given as one or in digits, that may count choices; None for anything else."""
    if isinstance(value, str):
        digits = value.strip()
        return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 10 else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def chosen_place(answer: object, choices: tuple[str, ...]) -> int | None:
    """Where an answer, a text or a number, stands among the choices."""
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return None
    if isinstance(answer, float) and not math.isfinite(answer):
        return None
    said = answer.strip() if isinstance(answer, str) else scalar(answer, "answer")
    return choices.index(said) if said in choices else None


def _answer_index(record: Mapping[object, object], choices: tuple[str, ...], counted_from: int | None) -> int:
    """By its number or letter; without one, where the answer stands among the choices."""
    value, answer = record.get("answer_index"), record.get("answer")
    answered, first = chosen_place(answer, choices), counted_from or 0
    if value in (None, "") and answered is not None:
        return answered
    last = len(choices) - 1
    wanted = f"a whole number from {first} to {last + first}, or a letter from A to {_LETTERS[min(last, 25)]}"
    if value is None and isinstance(answer, int | str) and answer != "":
        if all(map(_is_numeral, choices)):
            wanted = "an answer that is one of the choices"
        else:
            wanted += f" (`columns:` with `answer_index: answer` would read {show(answer)} as one)"
    index = letter_index(value)
    if index is None and (counted_from is not None or not isinstance(value, str)):
        number = counted_number(value)
        index = None if number is None else number - first
    if index is None or not 0 <= index < len(choices):
        raise Refused("answer_index", show(value), wanted)
    if answered is not None and answered != index:
        found = f"{show(value)}, though answer is choice {answered + first}"
        raise Refused("answer_index", found, f"{answered + first} (it counts from {first})")
    return index


def _is_numeral(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _answers(record: Mapping[object, object]) -> tuple[str, ...]:
    """The answer, and where the field is a list the other answers that are accepted."""
    value = record.get("answer")
    listed = value if isinstance(value, list) else [value]
    answers = tuple(dict.fromkeys(said for part in listed if part is not None and (said := scalar(part, "answer"))))
    if not answers:
        raise Refused("answer", show(value), "text that is not empty")
    return answers


def scalar(value: object, field: str) -> str:
    """Text, or a number as it is written: tables and hub data sets keep numeric answers as numbers."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(int(value)) if value == int(value) and abs(value) < 10**15 else repr(value)
    return checked(value, field, True)
