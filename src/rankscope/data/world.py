"""The bundled world: a seeded generator of facts and reasoning problems, in splits.

`make_world(seed, size)` gives the same world in every process. Splits are named `<domain>/<status>/<use>` and hold
rows as a study reads them from a file (`question` with `choices` and `answer_index`, `question` with `answer`, or
`text`), with extra fields for grouping: `fact`, `relation`, `phrasing`, `steps`.

    <domain>/taught/train    told only by fine-tuning: one row for each phrasing but the held-out one
    <domain>/<status>/test   one multiple-choice item per fact, on its held-out phrasing
    <domain>/<status>/open   the same questions without choices
    <domain>/known/text      known facts as plain sentences, on the held-out wording
    arithmetic/train|test    word problems of one to three steps, with a worked solution
    deduction/train|test     multiple choice, one to three steps
    pretrain/...             what the base was pretrained on: known facts only, and reasoning problems

Domains are general, medical and legal; a status is known (to the base), taught or untold (a control: chance level).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property

from rankscope.data.world_facts import DOMAINS, STATUSES, Fact, aliases, draw_choices, make_facts
from rankscope.data.world_reasoning import MAX_STEPS, Arithmetic, Deduction, arithmetic_problem, deduction_problem

Row = dict[str, object]
_PROBLEMS: dict[str, Callable[[random.Random, int], Arithmetic | Deduction]] = {
    "arithmetic": arithmetic_problem,
    "deduction": deduction_problem,
}


@dataclass(frozen=True)
class WorldSize:
    """How much there is of everything, in facts per domain and in problems. The defaults are the bundled world."""

    facts_general: int = 900
    facts_medical: int = 900
    facts_legal: int = 900
    taught_per_domain: int = 300
    untold_per_domain: int = 150
    arithmetic_train: int = 2000
    arithmetic_test: int = 300
    deduction_train: int = 2000
    deduction_test: int = 300
    pretrain_arithmetic: int = 70000
    pretrain_deduction: int = 150000

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"WorldSize.{field.name}: found {getattr(self, field.name)}, expected 0 or more")
        for domain in DOMAINS:
            if self.counts()[(domain, "known")] < 0:
                raise ValueError(
                    f"WorldSize.facts_{domain}: found {getattr(self, f'facts_{domain}')}, expected at least "
                    f"taught_per_domain + untold_per_domain = {self.taught_per_domain + self.untold_per_domain}"
                )

    def counts(self) -> dict[tuple[str, str], int]:
        """Facts by (domain, status)."""
        told = {"taught": self.taught_per_domain, "untold": self.untold_per_domain}
        result = {(domain, status): count for domain in DOMAINS for status, count in told.items()}
        for domain in DOMAINS:
            result[(domain, "known")] = getattr(self, f"facts_{domain}") - sum(told.values())
        return result


def make_world(seed: int = 0, size: WorldSize | None = None) -> World:
    """The world of a seed and a size; equal arguments give equal rows on every machine."""
    return World(seed, size or WorldSize())


class World:
    """One world. Splits are made when asked for, and kept."""

    def __init__(self, seed: int, size: WorldSize) -> None:
        self.seed = seed
        self.size = size
        self._rows: dict[str, list[Row]] = {}

    def names(self) -> list[str]:
        """The name of every split."""
        names = [f"{domain}/taught/train" for domain in DOMAINS]
        names += [f"{domain}/{status}/{use}" for domain in DOMAINS for status in STATUSES for use in ("test", "open")]
        names += [f"{domain}/known/text" for domain in DOMAINS]
        names += [f"{subject}/{use}" for subject in _PROBLEMS for use in ("train", "test")]
        names += [f"pretrain/{part}" for part in ("questions", "statements", "arithmetic", "deduction")]
        return names

    def describe(self, name: str) -> dict[str, str | None]:
        """`domain` (None where the split belongs to none) and `kind` (recall or reasoning) of a split."""
        self._check(name)
        first, *_, last = name.split("/")
        kind = "reasoning" if first in _PROBLEMS or last in _PROBLEMS else "recall"
        return {"domain": first if first in DOMAINS else None, "kind": kind}

    def rows(self, name: str) -> list[Row]:
        """The rows of a split, in a fixed order. Raises ValueError naming the known splits if there is none."""
        self._check(name)
        if name not in self._rows:
            self._rows[name] = self._make(name)
        return [dict(row) for row in self._rows[name]]

    def _check(self, name: str) -> None:
        if name not in self.names():
            raise ValueError(f"no split {name!r} in the bundled world, expected one of: {', '.join(self.names())}")

    def _make(self, name: str) -> list[Row]:
        first, *middle, use = name.split("/")
        if first in _PROBLEMS:
            return self._problems(first, use)
        if first == "pretrain":
            return self._pretraining(use)
        facts = [fact for fact in self.facts if (fact.relation.domain, fact.status) == (first, middle[0])]
        if use == "train":
            return [self._choice_row(fact, phrasing) for fact in facts for phrasing in fact.seen_questions()]
        if use == "test":
            return [self._choice_row(fact, fact.held_out_question) for fact in facts]
        if use == "open":
            return [self._open_row(fact, fact.held_out_question) for fact in facts]
        return [self._text_row(fact, fact.held_out_statement) for fact in facts]

    @cached_property
    def _facts_and_pools(self) -> tuple[list[Fact], dict[str, tuple[str, ...]]]:
        return make_facts(self.seed, self.size.counts())

    @property
    def facts(self) -> list[Fact]:
        """Every fact of the world, told or not."""
        return self._facts_and_pools[0]

    @property
    def pools(self) -> dict[str, tuple[str, ...]]:
        """Answer type -> every answer of that type."""
        return self._facts_and_pools[1]

    def _chance(self, *what: object) -> random.Random:
        return random.Random(f"rankscope world {self.seed} {what}")

    def _choice_row(self, fact: Fact, phrasing: int) -> Row:
        pool = self.pools[fact.relation.answer_type]
        choices, answer_index = draw_choices(fact.answer, pool, self._chance("choices", fact.id, phrasing))
        row = self._common(fact, f"q{phrasing}", phrasing)
        return row | {"question": fact.question(phrasing), "choices": choices, "answer_index": answer_index}

    def _open_row(self, fact: Fact, phrasing: int) -> Row:
        row = self._common(fact, f"o{phrasing}", phrasing)
        return row | {"question": fact.question(phrasing), "answer": fact.answer, "aliases": aliases(fact.answer)}

    def _text_row(self, fact: Fact, phrasing: int) -> Row:
        return self._common(fact, f"s{phrasing}", phrasing) | {"text": fact.statement(phrasing)}

    def _common(self, fact: Fact, suffix: str, phrasing: int) -> Row:
        return {"id": f"{fact.id}-{suffix}", "fact": fact.id, "relation": fact.relation.key, "phrasing": phrasing}

    def _pretraining(self, part: str) -> list[Row]:
        if part in _PROBLEMS:
            return self._problems(part, "pretrain")
        known = [fact for fact in self.facts if fact.status == "known"]
        if part == "questions":
            return [self._open_row(fact, phrasing) for fact in known for phrasing in fact.seen_questions()]
        return [self._text_row(fact, phrasing) for fact in known for phrasing in fact.seen_statements()]

    def _problems(self, subject: str, use: str) -> list[Row]:
        """Problems of one to three steps in turn; none is asked twice in a test, and none of the test elsewhere."""
        taken = set() if use == "test" else {row["question"] for row in self.rows(f"{subject}/test")}
        chance = self._chance(subject, use)
        wanted: int = getattr(self.size, f"pretrain_{subject}" if use == "pretrain" else f"{subject}_{use}")
        rows: list[Row] = []
        while len(rows) < wanted:
            problem = _PROBLEMS[subject](chance, 1 + len(rows) % MAX_STEPS)
            if problem.question in taken:
                continue
            if use == "test":
                taken.add(problem.question)
            rows.append({"id": f"{subject}-{use}-{len(rows):05d}", **problem.row()})
        return rows
