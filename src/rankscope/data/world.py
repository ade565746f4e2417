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

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property

from rankscope.data.world_facts import DOMAINS, STATUSES, Fact, aliases, draw_choices, make_facts

Row = dict[str, object]


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


# ---- reasoning problems, by number of steps -------------------------------------------------------------------------


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


MAX_STEPS = 3
_NAMES = _words(
    "Anna Ben Clara David Emma Felix Grace Hugo Iris Jack Karin Leo Maria Nina Oscar Paula Robin Sara Tom Vera"
)
_ITEMS = _words("apples books coins stamps shells marbles eggs cards nuts pens stones roses")
_GAINS = ("buys {n} more", "finds {n} more", "gets {n} from a friend", "wins {n}")
_LOSSES = ("gives away {n}", "loses {n}", "sells {n}", "breaks {n}")
_TIMES = {2: "doubles what there is", 3: "triples what there is"}
_OBJECTS = _words("key coin map ring lamp")
_COLOURS = _words("red blue green white black yellow brown grey")
_LARGEST_TO_TRIPLE = 30


@dataclass(frozen=True)
class Arithmetic:
    """A word problem. `rationale` has one line `a+b=c` per step; `answer` is the last result."""

    question: str
    answer: str
    rationale: str
    steps: int

    def row(self) -> dict[str, object]:
        """As a row of a file of questions."""
        return {"question": self.question, "answer": self.answer, "rationale": self.rationale, "steps": self.steps}


@dataclass(frozen=True)
class Deduction:
    """A problem whose answer follows from the sentences of its question; `answer_index` points into `choices`."""

    question: str
    choices: tuple[str, ...]
    answer_index: int
    steps: int

    def row(self) -> dict[str, object]:
        """As a row of a file of questions."""
        choices = list(self.choices)
        return {"question": self.question, "choices": choices, "answer_index": self.answer_index, "steps": self.steps}


def arithmetic_problem(chance: random.Random, steps: int) -> Arithmetic:
    """A problem of `steps` operations on whole numbers between 0 and about 150."""
    name, item = chance.choice(_NAMES), chance.choice(_ITEMS)
    lines: list[str] = []
    if chance.random() < 0.25:
        boxes, each = chance.randint(2, 9), chance.randint(2, 9)
        total = boxes * each
        lines.append(f"{boxes}*{each}={total}")
        sentences = [f"{name} has {boxes} boxes with {each} {item} each."]
    else:
        total = chance.randint(2, 60)
        sentences = [f"{name} has {total} {item}."]
    while len(lines) < steps:
        total, line, sentence = _operation(chance, total)
        lines.append(line)
        sentences.append(f"Then {name} {sentence}.")
    ask = chance.choice((f"How many {item} does {name} have?", f"How many {item} are there in the end?"))
    return Arithmetic(" ".join([*sentences, ask]), str(total), "\n".join(lines), steps)


def _operation(chance: random.Random, total: int) -> tuple[int, str, str]:
    kind = chance.random()
    if kind < 0.2 and 0 < total <= _LARGEST_TO_TRIPLE:
        factor = chance.choice(tuple(_TIMES))
        return total * factor, f"{total}*{factor}={total * factor}", _TIMES[factor]
    if kind < 0.6 and total > 1:
        number = chance.randint(1, min(total, 60))
        return total - number, f"{total}-{number}={total - number}", chance.choice(_LOSSES).format(n=number)
    number = chance.randint(2, 40)
    return total + number, f"{total}+{number}={total + number}", chance.choice(_GAINS).format(n=number)


def deduction_problem(chance: random.Random, steps: int) -> Deduction:
    """A problem of `steps` links: following an object through hands, or a colour from coat to coat."""
    build = _coats if chance.random() < 0.5 else _hands
    question, answer, choices = build(chance, steps)
    chance.shuffle(choices)
    return Deduction(question, tuple(choices), choices.index(answer), steps)


def _hands(chance: random.Random, steps: int) -> tuple[str, str, list[str]]:
    """Two objects change hands among four people; the last one to move need not be the one that is asked for."""
    people = chance.sample(_NAMES, 4)
    asked, other = chance.sample(_OBJECTS, 2)
    holder = {asked: people[0], other: people[1]}
    sentences = [f"{people[0]} has the {asked}.", f"{people[1]} has the {other}."]
    chance.shuffle(sentences)
    moves = [asked] * steps + [other] * chance.randint(0, MAX_STEPS - 1)
    chance.shuffle(moves)
    for thing in moves:
        receiver = chance.choice([person for person in people if person != holder[thing]])
        sentences.append(f"{holder[thing]} gives the {thing} to {receiver}.")
        holder[thing] = receiver
    return " ".join([*sentences, f"Who has the {asked}?"]), holder[asked], people


def _coats(chance: random.Random, steps: int) -> tuple[str, str, list[str]]:
    """Three people have coats of given colours, others have coats like theirs; the last person is asked about."""
    people = chance.sample(_NAMES, 3 + steps)
    colours = list(chance.sample(_COLOURS, 4))
    coats = dict(zip(people[:3], colours[:3], strict=True))
    sentences = [f"{person} has a {colour} coat." for person, colour in coats.items()]
    first = chance.choice(people[:3])
    for before, person in itertools.pairwise([first, *people[3:]]):
        sentences.append(f"{person} has a coat like {before}.")
    ask = f"Which colour is the coat of {people[-1]}?"
    return " ".join([*sentences, ask]), coats[first], colours


_PROBLEMS: dict[str, Callable[[random.Random, int], Arithmetic | Deduction]] = {
    "arithmetic": arithmetic_problem,
    "deduction": deduction_problem,
}
