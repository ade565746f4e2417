"""Decides by a whole column how it names the right choice: counted from 0, counted from 1, or as the choice's text.

One row cannot say: `2` among four choices may be the second or the third, and among the choices 1, 2, 3, 4 a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rankscope.data.question_rows import Refused, choices_of, chosen_place, counted_number, letter_index
from rankscope.data.row_files import Batch
from rankscope.study.problems import InputProblems, Problem, show

_STRAY = 20
"""With `bad_rows: drop`, rows that count in another way are bad ones where the others are more than so many times."""


@dataclass
class _Seen:
    """What a column's values say. `first`: a number that could be either, as both readings."""

    letters: int = 0
    numbers: int = 0
    from_zero: int = 0
    from_one: int = 0
    quoted: bool = False
    first: str = ""
    low: int = 0
    high: int = 0

    def add(self, number: int, choices: tuple[str, ...], answered: int | None, quoted: bool, place: str) -> None:
        """A number, beside the place of the answer's text among the choices where there is one."""
        self.low, self.high = min(number, self.low or number), max(number, self.high)
        self.numbers, self.quoted = self.numbers + 1, self.quoted or quoted
        self.from_zero += number == 0 or (answered is not None and answered == number)
        self.from_one += number == len(choices) or (answered is not None and answered + 1 == number)
        if not self.first and 0 < number < len(choices):
            zero, one = show(choices[number]), show(choices[number - 1])
            self.first = f"{number} in {place} means {zero} counted from 0 and {one} counted from 1"

    @property
    def decided(self) -> bool:
        """Whether what was seen so far speaks for one way of counting, and nothing for another."""
        return bool(self.from_zero) != bool(self.from_one) and not self.letters


def counted_from(
    batches: Iterator[Batch], mapped: Callable[[object], object], *, file: str, unit: str, drop: bool
) -> int | None:
    """The number that stands for the first choice in `answer_index`, None where no row has a number there.

    A 0 shows that it counts from 0, the number of all choices that it counts from 1, an answer in words beside it
    either. Numbers that show nothing count from 0, but where they are text (in CSV, or in quotes) they are refused, as
    are columns that show both, or hold letters too. Reads no further than the batch that decides. `mapped` gives a
    record our fields' names. Raises InputProblems with one line that spells out both readings.
    """
    seen, answers = _Seen(), _Seen()
    only_texts = True
    for batch in batches:
        for number, value in batch:
            record = mapped(value)
            if not isinstance(record, Mapping) or not record.get("choices"):
                continue
            try:
                choices = choices_of(record)
            except Refused:
                continue
            place = f"{unit} {number}"
            if record.get("answer_index") in (None, ""):
                only_texts &= _look_at_answer(answers, record.get("answer"), choices, place)
            else:
                _look_at_index(seen, record, choices, place)
        if seen.decided or not (seen.numbers or seen.letters or answers.numbers):
            break
    if answers.numbers and only_texts and answers.first:
        found = f"numbers that may be choices or count them: {answers.first}"
        expected = "answers in quotes or in words, or `columns:` with `answer_index: answer` where they count"
        raise InputProblems([Problem(file, "answer", found, expected)])
    return _decide(seen, file, drop) if seen.numbers else None


def _look_at_index(seen: _Seen, record: Mapping[object, object], choices: tuple[str, ...], place: str) -> None:
    value = record["answer_index"]
    if letter_index(value) is not None:
        seen.letters += 1
    elif (number := counted_number(value)) is not None and 0 <= number <= len(choices):
        seen.add(number, choices, chosen_place(record.get("answer"), choices), isinstance(value, str), place)


def _look_at_answer(seen: _Seen, answer: object, choices: tuple[str, ...], place: str) -> bool:
    """Whether a number as an answer is a choice and may count choices as well, so that nothing is decided by it."""
    number, chosen = counted_number(answer), chosen_place(answer, choices)
    if number is None or isinstance(answer, str):
        return True  # text is what it says
    if chosen is None or not 0 <= number <= len(choices):
        return False
    seen.numbers += 1
    if not seen.first and number < len(choices) and number != chosen:
        seen.first = f"{number} in {place} is the choice {number}, or {show(choices[number])} counted from 0"
    return True


def _decide(seen: _Seen, file: str, drop: bool) -> int:
    few, many = sorted((seen.from_zero, seen.from_one))
    if seen.letters and not (drop and seen.letters * _STRAY < seen.numbers):
        found = f"{seen.letters} letters and {seen.numbers} numbers"
        expected = "a column of letters, or of numbers that count from 0 or all from 1"
    elif few and not (drop and few * _STRAY < many):
        found = f"{seen.from_zero} rows that count from 0 and {seen.from_one} that count from 1"
        expected = "one way of counting in all rows"
    elif not many and seen.quoted:
        found = f"text with numbers from {seen.low} to {seen.high}, which may count from 0 or from 1: {seen.first}"
        expected = "letters, or a row that shows it (a 0, or as large a number as there are choices)"
    else:
        return int(seen.from_one > seen.from_zero)
    raise InputProblems([Problem(file, "answer_index", found, expected)])
