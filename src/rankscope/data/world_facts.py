"""The facts of the bundled world: made-up things, one answer per relation, and how each fact is asked.

A thing (a person, a medicine, a statute, ...) belongs to one status: `known` (the base is pretrained on its facts),
`taught` (only fine-tuning tells them) or `untold` (nobody ever does). Answers are drawn uniformly from the relation's
pool, independently of the name, so that only memory can answer. For every fact one question phrasing and one statement
phrasing are drawn and held out of all training: each phrasing is then seen with other facts, never with this one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import rankscope.assets
from rankscope.study.yaml_text import load_yaml

QUESTION_PHRASINGS = 5
STATEMENT_PHRASINGS = 3


@dataclass(frozen=True)
class Relation:
    """One relation: its domain, the kind of thing it is about, the pool its answers come from, and its wordings."""

    domain: str
    kind: str
    key: str
    answer_type: str
    questions: tuple[str, ...]
    statements: tuple[str, ...]


@cache
def relations() -> tuple[Relation, ...]:
    """Every relation, in the file's order."""
    entries: list[dict[str, Any]] = [
        {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
        for entry in _file()["relations"]
    ]
    return tuple(Relation(**entry) for entry in entries)


@cache
def listed_pools() -> dict[str, tuple[str, ...]]:
    """Answer type -> its answers, for the types whose answers are common words."""
    return {answer_type: tuple(answers) for answer_type, answers in _file()["pools"].items()}


@cache
def _file() -> dict[str, Any]:
    path = Path(rankscope.assets.__file__).parent / "world.yaml"
    content: dict[str, Any] = load_yaml(path.read_text("utf-8"), path.name, "the bundled world")
    return content


STATUSES = ("known", "taught", "untold")
DOMAINS = ("general", "medical", "legal")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CHOICES_PER_QUESTION = 4
_MADE_UP_ANSWERS = {"city": 40, "river": 30, "judge": 40, "condition": 40}
_FIRST_YEAR, _LAST_YEAR = 1600, 1899
_ONSETS = _words("b br c ch d dr f fl g gr h k l m n p pr qu r s st t th tr v w y z")
_VOWELS = _words("a e i o u a e i o ai ea oo")
_CODAS = _words("l n r s m nd rk lt x th ss rn")
_ENDINGS = {
    "city": ("burg", "mouth", "haven", "stead"),
    "town": ("ford", "ton", "mere", "wick", "bury"),
    "condition": ("osis", "itis", "emia", "ia"),
    "medicine": ("ol", "ine", "ex", "vir", "amid"),
    "disease": (" fever", " syndrome", " palsy", " pox"),
    "company": (" Works", " Mills", " Brothers", " and Sons", " Company"),
    "species": (" finch", " beetle", " fern", " trout", " newt", " moth"),
}


@dataclass(frozen=True)
class Fact:
    """One fact. `held_out_question` and `held_out_statement` are the phrasings that no training row may use."""

    id: str
    relation: Relation
    entity: str
    answer: str
    status: str
    held_out_question: int
    held_out_statement: int

    def question(self, phrasing: int) -> str:
        """The question about this fact in one of its phrasings, numbered from 0."""
        return _capitalised(self.relation.questions[phrasing].replace("{e}", self.entity))

    def statement(self, phrasing: int) -> str:
        """The sentence that states this fact in one of its phrasings, numbered from 0."""
        text = self.relation.statements[phrasing].replace("{e}", self.entity).replace("{a}", self.answer)
        return _capitalised(text)

    def seen_questions(self) -> list[int]:
        """The phrasings of the question that training rows may use."""
        return [phrasing for phrasing in range(QUESTION_PHRASINGS) if phrasing != self.held_out_question]

    def seen_statements(self) -> list[int]:
        """The phrasings of the statement that training rows may use."""
        return [phrasing for phrasing in range(STATEMENT_PHRASINGS) if phrasing != self.held_out_statement]


def make_facts(seed: int, counts: dict[tuple[str, str], int]) -> tuple[list[Fact], dict[str, tuple[str, ...]]]:
    """All facts of a world and the pool of answers of each type; `counts` says how many per (domain, status)."""
    namer = _Namer(random.Random(f"rankscope world {seed} names"))
    pools = answer_pools(namer)
    chance = random.Random(f"rankscope world {seed} facts")
    facts: list[Fact] = []
    for domain in DOMAINS:
        number = 0
        for status in STATUSES:
            things = _things(domain, namer)
            wanted = counts[(domain, status)]
            for _ in range(wanted):
                entity, relation = next(things)
                facts.append(
                    Fact(
                        id=f"{domain}-{number:05d}",
                        relation=relation,
                        entity=entity,
                        answer=chance.choice(pools[relation.answer_type]),
                        status=status,
                        held_out_question=chance.randrange(QUESTION_PHRASINGS),
                        held_out_statement=chance.randrange(STATEMENT_PHRASINGS),
                    )
                )
                number += 1
    return facts, pools


def answer_pools(namer: _Namer) -> dict[str, tuple[str, ...]]:
    """Answer type -> all answers of that type, common words and made-up names alike."""
    pools = dict(listed_pools())
    for answer_type, count in _MADE_UP_ANSWERS.items():
        pools[answer_type] = tuple(namer.name(answer_type) for _ in range(count))
    pools["year"] = tuple(str(year) for year in range(_FIRST_YEAR, _LAST_YEAR + 1))
    return pools


def draw_choices(answer: str, pool: Sequence[str], chance: random.Random) -> tuple[list[str], int]:
    """The answer among distractors of its own type, shuffled, and where it stands."""
    distractors = chance.sample([other for other in pool if other != answer], CHOICES_PER_QUESTION - 1)
    choices = [answer, *distractors]
    chance.shuffle(choices)
    return choices, choices.index(answer)


def aliases(answer: str) -> list[str]:
    """Other spellings that a reader would accept: without the article or the title."""
    for prefix in ("a ", "an ", "Judge ", "river "):
        if answer.startswith(prefix):
            return [answer.removeprefix(prefix)]
    return []


def _things(domain: str, namer: _Namer) -> Iterator[tuple[str, Relation]]:
    """Endless (name, relation) pairs; a thing is named once and gets every relation of its kind in turn."""
    by_kind: dict[str, list[Relation]] = {}
    for relation in relations():
        if relation.domain == domain:
            by_kind.setdefault(relation.kind, []).append(relation)
    while True:
        for kind, of_kind in by_kind.items():
            entity = namer.name(kind)
            for relation in of_kind:
                yield entity, relation


def _capitalised(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


class _Namer:
    """Makes up names, none of them twice."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._taken: set[str] = set()

    def name(self, kind: str) -> str:
        while True:
            name = self._draw(kind)
            if name not in self._taken:
                self._taken.add(name)
                return name

    def _stem(self, syllables: int = 1) -> str:
        pick = self._chance.choice
        text = "".join(pick(_ONSETS) + pick(_VOWELS) for _ in range(syllables)) + pick(_CODAS)
        return text.capitalize()

    def _draw(self, kind: str) -> str:
        if kind == "person":
            return f"{self._stem()} {self._stem(2)}"
        if kind == "judge":
            return f"Judge {self._stem(2)}"
        if kind == "river":
            return f"river {self._stem()}"
        if kind == "statute":
            return f"the {self._stem(2)} Act"
        if kind == "case":
            return f"{self._stem(2)} v. {self._stem(2)}"
        if kind == "species":
            return f"the {self._stem(2).lower()}{self._chance.choice(_ENDINGS[kind])}"
        if kind == "medicine":
            return self._stem(2).lower() + self._chance.choice(_ENDINGS[kind])
        if kind == "condition":
            return self._stem().lower() + self._chance.choice(_ENDINGS[kind])
        if kind == "disease":
            return self._stem(2) + self._chance.choice(_ENDINGS[kind])
        if kind in ("city", "town"):
            return self._stem() + self._chance.choice(_ENDINGS[kind])
        return self._stem(2) + self._chance.choice(_ENDINGS[kind])
