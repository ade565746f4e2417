"""Write the rows that studies/own-data.yaml uses: a nursery's catalogue of plants that nobody has ever grown.

    python scripts/own_data_rows.py [FOLDER]        (studies/own-data)

All of it is drawn from the seed below out of syllables and short lists, none of it from any text: the rows are this
project's own, under its licence. Each plant has a month, a soil and a height. A fact is told in three wordings
(train.jsonl, question and answer) and asked in a fourth (test.jsonl, with choices; open.jsonl, without).
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

SEED = 20
PLANTS = 34

MONTHS = ("March", "April", "May", "June", "July", "August", "September", "October")
SOILS = ("chalk", "sand", "clay", "peat", "loam", "gravel")
HEIGHTS = ("a hand high", "knee-high", "waist-high", "as tall as a door", "as tall as a house")
ANSWERS = {"month": MONTHS, "soil": SOILS, "height": HEIGHTS}
TOLD = {
    "month": ("When does {} flower?", "In which month does {} bloom?", "Name the month in which {} comes into flower."),
    "soil": ("Which soil does {} want?", "What soil should {} be planted in?", "On what ground does {} grow best?"),
    "height": ("How tall does {} grow?", "What height does {} reach?", "How high is a full-grown {}?"),
}
ASKED = {
    "month": "A gardener asks for the flowering month of {}. What is it?",
    "soil": "A gardener asks for the right soil for {}. What is it?",
    "height": "A gardener asks how big {} will be. What is the answer?",
}
_FIRST = (
    "Bel",
    "Cor",
    "Dun",
    "Fen",
    "Hal",
    "Lin",
    "Mor",
    "Nes",
    "Or",
    "Pel",
    "Quil",
    "Ros",
    "Sel",
    "Tam",
    "Ver",
    "Wil",
)
_LAST = ("adda", "ble", "dock", "fern", "ica", "lace", "mint", "nel", "thrift", "wort")

Row = dict[str, object]


def plant_names(dice: random.Random) -> list[str]:
    """PLANTS different names, none of them longer than two syllables and an ending."""
    every = [first + last for first in _FIRST for last in _LAST]
    return dice.sample(every, PLANTS)


def catalogue(dice: random.Random) -> list[tuple[str, str, str]]:
    """Every (plant, relation, answer); the answers of a relation are spread evenly."""
    names, facts = plant_names(dice), []
    for relation, answers in ANSWERS.items():
        spread = [answers[i % len(answers)] for i in range(PLANTS)]
        dice.shuffle(spread)
        facts += [(name, relation, answer) for name, answer in zip(names, spread, strict=True)]
    return facts


def splits() -> dict[str, list[Row]]:
    """The rows of each file, by its name without the ending; the same on every machine."""
    dice = random.Random(SEED)
    facts = catalogue(dice)
    train = [row for fact in facts for row in _told(*fact)]
    dice.shuffle(train)
    test = [_asked(*fact, dice) for fact in facts]
    open_questions: list[Row] = [
        {"id": f"{name}-{relation}-open", "question": ASKED[relation].format(name), "answer": answer}
        for name, relation, answer in facts
        if relation != "height"  # whose answers are phrases, which a small model seldom writes to the letter
    ]
    return {"train": train, "test": test, "open": open_questions}


def _told(name: str, relation: str, answer: str) -> Iterator[Row]:
    for number, wording in enumerate(TOLD[relation]):
        yield {"id": f"{name}-{relation}-{number}", "question": wording.format(name), "answer": answer}


def _asked(name: str, relation: str, answer: str, dice: random.Random) -> Row:
    choices = [answer, *dice.sample([other for other in ANSWERS[relation] if other != answer], 3)]
    dice.shuffle(choices)
    question = ASKED[relation].format(name)
    return {"id": f"{name}-{relation}", "question": question, "choices": choices, "answer_index": choices.index(answer)}


def text_of(rows: list[Row]) -> str:
    """The content of a JSONL file."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def main() -> None:
    """Write train.jsonl, test.jsonl and open.jsonl."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "studies" / "own-data"
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits().items():
        (folder / f"{name}.jsonl").write_text(text_of(rows), encoding="utf-8")
        print(f"{folder / name}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()
