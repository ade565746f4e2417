"""Finds training rows that a suite asks too, and suite items that nearly stand in training, from hashes of 64 bits.

Nothing is compared with everything and no row is kept: of a suite its hashes stay (8 bytes for an item, 8 for each word
of it), of a training set a bit for each of those.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain

import numpy as np

from rankscope.data.question_rows import split_solution
from rankscope.records import Row

GRAM_WORDS = 13
NEAR_SHARE = 0.8

_WORD = re.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: of a polynomial in the words' hashes, modulo 2^64


def hashes(texts: Iterable[str]) -> np.ndarray:
    """(n,) uint64: a hash of each text, the same in every process."""
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


class HashTable:
    """Remembers a number for each of many 64-bit hashes, in 16 bytes each.

    Sorted runs, each at least twice as long as the next, as in a log-structured merge tree: adding n hashes in batches
    takes n log n steps of numpy.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def find(self, keys: np.ndarray) -> np.ndarray:
        """(n,) int64: the number of each key; -1 where it is not known."""
        found = np.full(len(keys), -1, dtype=np.int64)
        for known, numbers in self._runs:
            places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            same = known[places] == keys
            found[same] = numbers[places[same]]
        return found

    def add(self, keys: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """What `find` says of each key before it was added, or what an equal key earlier in `keys` has; a key that is
        known keeps its number."""
        before = self.find(keys)
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        earlier = first[inverse]
        repeats = (before < 0) & (earlier != np.arange(len(keys)))
        before[repeats] = numbers[earlier[repeats]]
        new = first[before[first] < 0]  # ordered by key
        if len(new):
            self._append(keys[new], numbers[new])
        return before

    def _append(self, keys: np.ndarray, numbers: np.ndarray) -> None:
        while self._runs and len(self._runs[-1][0]) < 2 * len(keys):
            more_keys, more_numbers = self._runs.pop()
            keys, numbers = np.concatenate([more_keys, keys]), np.concatenate([more_numbers, numbers])
            order = np.argsort(keys, kind="stable")
            keys, numbers = keys[order], numbers[order]
        self._runs.append((keys, numbers))


class AskedItems:
    """What the suites of a study ask. All suites are added first, then training sets are compared with them."""

    def __init__(self) -> None:
        self._suites: dict[str, list[str]] = {}  # ids of the items
        self._questions = HashTable()
        self._grams: list[np.ndarray] = []
        self._owners: list[np.ndarray] = []
        self._item_count = 0

    def add(self, suite: str, rows: Sequence[Row]) -> None:
        """More items of a suite."""
        ids = self._suites.setdefault(suite, [])
        ids += [row.item_id for row in rows]
        keys = hashes(key for row in rows for key in _keys(row))
        self._questions.add(keys, np.full(len(keys), list(self._suites).index(suite)))
        grams, owners = _grams([_words(_prompt(row)) for row in rows], shorter=True)
        order = np.lexsort((grams, owners))
        grams, owners = grams[order], owners[order]
        different = np.ones(len(grams), dtype=bool)
        different[1:] = (grams[1:] != grams[:-1]) | (owners[1:] != owners[:-1])
        self._grams.append(grams[different])
        self._owners.append(owners[different] + self._item_count)
        self._item_count += len(rows)

    @cached_property
    def wanted(self) -> _Wanted:
        """The word sequences of all items."""
        return _Wanted(np.concatenate([np.zeros(0, dtype=np.uint64), *self._grams]))

    def exact(self, rows: Sequence[Row]) -> list[str | None]:
        """For each training row the first suite that asks it.

        Exact is the same prompt (context and question, without choices) and the same answer, one of an item's aliases
        included, after NFKC, case folding and joining white space.
        """
        suites = list(self._suites)
        if not suites:
            return [None] * len(rows)
        found = self._questions.find(hashes(_keys(row)[0] for row in rows)).tolist()
        return [suites[number] if number >= 0 else None for number in found]

    def near(self, found: np.ndarray) -> dict[str, tuple[str, ...]]:
        """By suite the ids of the items that nearly stand in training. `found`: which of `wanted` do."""
        owners = np.concatenate([np.zeros(0, dtype=np.int64), *self._owners])
        counts = np.bincount(owners, minlength=self._item_count)
        hits = np.bincount(owners, weights=found[self.wanted.places], minlength=self._item_count)
        near = iter(((counts > 0) & (hits >= NEAR_SHARE * counts)).tolist())
        return {suite: tuple(item_id for item_id in ids if next(near)) for suite, ids in self._suites.items()}

    def item_count(self, suite: str) -> int:
        """How many items of this suite are compared."""
        return len(self._suites[suite])


class NearItems:
    """Which suite items nearly stand in one training set.

    Near: at least NEAR_SHARE of the different GRAM_WORDS-word sequences of an item's prompt (or text) stand somewhere
    in the training rows (prompt and answer) that are no exact match; words are letters and digits, case folded. An
    item with fewer words than GRAM_WORDS is near if some training row's prompt has the same words in the same order.
    """

    def __init__(self, asked: AskedItems) -> None:
        self._asked = asked
        self._found = np.zeros(len(asked.wanted.hashes), dtype=bool)

    def add(self, rows: Sequence[Row]) -> None:
        """More training rows, none of them an exact match."""
        if not len(self._found):
            return
        prompts = [_words(_prompt(row)) for row in rows]
        short, _ = _grams([words for words in prompts if len(words) < GRAM_WORDS], shorter=True)
        answers = (_words(_answers(row)[0]) for row in rows)
        long, _ = _grams([words + more for words, more in zip(prompts, answers, strict=True)], shorter=False)
        self._asked.wanted.mark(np.concatenate([short, long]), self._found)

    def ids(self) -> dict[str, tuple[str, ...]]:
        """The ids of the near items, by suite."""
        return self._asked.near(self._found)


class _Wanted:
    """The different hashes among many, sorted, with a filter for what is none of them. `places`: where each stands."""

    def __init__(self, every: np.ndarray) -> None:
        self.hashes, self.places = np.unique(every, return_inverse=True)
        bits = min(26, max(10, (8 * len(self.hashes)).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._maybe = np.zeros(2**bits, dtype=bool)
        self._maybe[self.hashes >> self._shift] = True

    def mark(self, keys: np.ndarray, found: np.ndarray) -> None:
        """Sets `found` where a hash is among the keys."""
        keys = keys[self._maybe[keys >> self._shift]]
        places = np.minimum(np.searchsorted(self.hashes, keys), len(self.hashes) - 1)
        found[places[self.hashes[places] == keys]] = True


def _grams(texts: Sequence[list[str]], *, shorter: bool) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all sequences of GRAM_WORDS words, and of which text each is; with `shorter` of all words where a text
    has fewer. Equal in one process only."""
    owners = np.repeat(np.arange(len(texts)), [len(words) for words in texts])
    words = np.fromiter(map(hash, chain.from_iterable(texts)), dtype=np.int64, count=len(owners)).view(np.uint64)
    count = max(0, len(words) - GRAM_WORDS + 1)
    grams = np.zeros(count, dtype=np.uint64)
    for first in range(GRAM_WORDS):
        grams = grams * _FACTOR + words[first : first + count]
    whole = owners[:count] == owners[GRAM_WORDS - 1 :][:count]
    grams, owners = _mixed(grams[whole]), owners[:count][whole]
    if shorter:
        few = [(hash(tuple(words)), i) for i, words in enumerate(texts) if 0 < len(words) < GRAM_WORDS]
        grams = np.concatenate([grams, np.array([h for h, _ in few], dtype=np.int64).view(np.uint64)])
        owners = np.concatenate([owners, np.array([i for _, i in few], dtype=owners.dtype)])
    return grams, owners


def _mixed(values: np.ndarray) -> np.ndarray:
    """So that the upper bits depend on all (the finaliser of MurmurHash3)."""
    for factor in (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)):
        values = (values ^ (values >> np.uint64(33))) * factor
    return values ^ (values >> np.uint64(33))


def group_key(row: Row) -> str:
    """What rows share that must not be parted: their cluster, else what they ask, normalised."""
    return f"cluster\0{row.cluster}" if row.cluster is not None else _normal(_prompt(row))


def _words(text: str) -> list[str]:
    return _WORD.findall(_folded(text))


def _keys(row: Row) -> list[str]:
    """The row as a text of prompt and answer, normalised; once for each accepted answer, the row's own first. Of a
    worked solution the final answer counts, as it does where the solution was read as a rationale."""
    prompt = _normal(_prompt(row))
    answers = dict.fromkeys(_normal(split_solution(answer)[1]) for answer in _answers(row))
    return [f"{prompt}\0{answer}" for answer in answers]


def _normal(text: str) -> str:
    return " ".join(_folded(text).split())


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def _prompt(row: Row) -> str:
    """What is asked; of a conversation all that stands before its last turn, but for the system turn."""
    turns = [turn.content for turn in (row.messages or ())[:-1] if turn.role != "system"]
    return "\n".join(part for part in (row.context, row.question, row.prompt, row.text, *turns) if part)


def _answers(row: Row) -> tuple[str, ...]:
    if row.choices is not None and row.answer_index is not None:
        return (row.choices[row.answer_index],)
    if row.messages is not None:
        return (row.messages[-1].content, *row.aliases)
    return (row.answer or row.completion or "", *row.aliases)
