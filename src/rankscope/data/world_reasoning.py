"""Reasoning problems of the bundled world: arithmetic in words, and deduction, by number of steps."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass


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
        return {"question": self.question, "answer": self.answer, "rationale": self.rationale, "steps": self.steps}


@dataclass(frozen=True)
class Deduction:
    """A problem whose answer follows from the sentences of its question; `answer_index` points into `choices`."""

    question: str
    choices: tuple[str, ...]
    answer_index: int
    steps: int

    def row(self) -> dict[str, object]:
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
