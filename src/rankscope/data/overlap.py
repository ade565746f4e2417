"""Which training rows are also asked by a suite, and which suite items nearly stand in training."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rankscope.data.question_rows import split_solution
from rankscope.records import Row

GRAM_WORDS = 13
NEAR_SHARE = 0.8

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Overlap:
    """`exact`: position of a training row -> the first suite that asks it. `near`: suite -> ids of its near items."""

    exact: dict[int, str]
    near: dict[str, tuple[str, ...]]


def find_overlap(training: Sequence[Row], suites: Mapping[str, Sequence[Row]]) -> Overlap:
    """Compare training rows with the items of suites, in time linear in the text.

    Exact: the same prompt (context and question, without choices) and the same answer, one of an item's aliases
    included, after NFKC, case folding and joining white space.

    Near: at least NEAR_SHARE of the different GRAM_WORDS-word sequences of an item's prompt (or text) stand somewhere
    in the training rows (prompt and answer) that are no exact match; words are letters and digits, case folded. An
    item with fewer words than GRAM_WORDS is near if some training row's prompt has the same words in the same order.
    """
    asked: dict[tuple[str, str], str] = {}
    for suite, items in suites.items():
        for item in items:
            for key in _keys(item):
                asked.setdefault(key, suite)
    exact = {i: asked[key] for i, row in enumerate(training) for key in _keys(row)[:1] if key in asked}
    kept = [row for i, row in enumerate(training) if i not in exact]
    return Overlap(exact, _near(kept, suites))


def _near(training: Sequence[Row], suites: Mapping[str, Sequence[Row]]) -> dict[str, tuple[str, ...]]:
    grams = {suite: [_grams(_words(_prompt(item))) for item in items] for suite, items in suites.items()}
    wanted: set[int] = set()
    for item_grams in grams.values():
        wanted.update(*item_grams)
    found: set[int] = set()
    for row in training:
        prompt = _words(_prompt(row))
        if len(prompt) < GRAM_WORDS:
            found.update(wanted.intersection(_grams(prompt)))
        words = prompt + _words(_answers(row)[0])
        if len(words) >= GRAM_WORDS:
            found.update(wanted.intersection(_grams(words)))
    return {
        suite: tuple(
            item.item_id
            for item, item_grams in zip(items, grams[suite], strict=True)
            if item_grams and len(item_grams & found) >= NEAR_SHARE * len(item_grams)
        )
        for suite, items in suites.items()
    }


def _grams(words: Sequence[str]) -> set[int]:
    """Hashes of all sequences of GRAM_WORDS words; of all words where they are fewer. Equal in one process only."""
    if not words:
        return set()
    if len(words) < GRAM_WORDS:
        return {hash(tuple(words))}
    return set(map(hash, zip(*(words[i:] for i in range(GRAM_WORDS)), strict=False)))


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _keys(row: Row) -> list[tuple[str, str]]:
    """The row as (prompt, answer), normalised; once for each accepted answer, the row's own first. Of a worked solution
    the final answer counts, as it does where the solution was read as a rationale."""
    prompt = _normal(_prompt(row))
    return [(prompt, answer) for answer in dict.fromkeys(_normal(split_solution(a)[1]) for a in _answers(row))]


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _prompt(row: Row) -> str:
    """What is asked; of a conversation all that stands before its last turn, but for the system turn."""
    turns = [turn.content for turn in (row.messages or ())[:-1] if turn.role != "system"]
    return _joined([row.context, row.question, row.prompt, row.text, *turns])


def _answers(row: Row) -> tuple[str, ...]:
    if row.choices is not None and row.answer_index is not None:
        return (row.choices[row.answer_index],)
    if row.messages is not None:
        return (row.messages[-1].content, *row.aliases)
    return (row.answer or row.completion or "", *row.aliases)


def _joined(parts: Iterable[str | None]) -> str:
    return "\n".join(part for part in parts if part)
