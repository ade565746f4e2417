from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from encoded_rows import asked_by

from rankscope.data.overlap import GRAM_WORDS, NEAR_SHARE, NearItems
from rankscope.records import Row, Turn


def ask(item_id: str, question: str, answer: str = "yes", **more: object) -> Row:
    return Row(item_id=item_id, place="line 1", question=question, answer=answer, **more)


@dataclass(frozen=True)
class Found:
    """`exact`: position of a training row -> the first suite that asks it. `near`: suite -> ids of its near items."""

    exact: dict[int, str]
    near: dict[str, tuple[str, ...]]


def find_overlap(training: Sequence[Row], suites: dict[str, Sequence[Row]]) -> Found:
    asked = asked_by(suites)
    exact = {i: suite for i, suite in enumerate(asked.exact(training)) if suite is not None}
    near = NearItems(asked)
    kept = [row for i, row in enumerate(training) if i not in exact]
    for start in range(0, len(kept), 3):
        near.add(kept[start : start + 3])
    return Found(exact, near.ids())


def test_exact_rows_in_any_shape() -> None:
    choices = Row("c", "line 1", question="Which ONE?", choices=("a", "Café"), answer_index=1)
    suite = {"s": [choices, ask("o", "Who?", "Ann", aliases=("Anne", "A."))], "t": [ask("x", "Who?", "Ann")]}
    training = [
        ask("0", "which  one?", "cafe\u0301"),
        ask("1", "Which one?", "a"),
        ask("2", "Who?", "anne"),
        ask("3", "Who?", "Bob"),
        ask("4", "Who?", "Ann", context="In the play."),
        ask("5", "Who", "Ann"),
    ]
    assert find_overlap(training, suite).exact == {0: "s", 2: "s"}


def test_an_alias_of_a_training_row_is_not_trained_so_does_not_count() -> None:
    training = [ask("0", "Who?", "Bob", aliases=("Ann",))]
    assert find_overlap(training, {"s": [ask("x", "Who?", "Ann")]}).exact == {}


def test_texts_and_completions() -> None:
    suite = {"s": [Row("t", "line 1", text="A plain text."), Row("p", "line 2", prompt="2+2=", completion=" 4")]}
    training = [Row("0", "line 1", text="a plain  text."), Row("1", "line 2", prompt="2+2=", completion="4")]
    training.append(Row("2", "line 3", prompt="2-2=", completion="4"))
    assert find_overlap(training, suite).exact == {0: "s", 1: "s"}


def test_short_items_are_compared_whole() -> None:
    suite = {"s": [ask("same", "Who wrote it?", "Ann"), ask("part", "Who wrote", "Ann"), ask("dots", "?!", "Ann")]}
    found = find_overlap([ask("0", "who wrote it", "Bob"), ask("1", "...", "Bob")], suite)
    assert found.near == {"s": ("same",)}


def test_near_is_a_share_of_the_items_own_sequences() -> None:
    words = [f"w{i}" for i in range(GRAM_WORDS + 9)]  # ten sequences
    item = ask("i", " ".join(words))
    for dropped, near in ((2, ("i",)), (3, ())):
        training = [ask("0", "Before this, " + " ".join(words[: len(words) - dropped]) + " and after", "no")]
        assert find_overlap(training, {"s": [item]}).near["s"] == near


def test_an_exact_row_is_dropped_and_not_near_too() -> None:
    question = " ".join(f"w{i}" for i in range(20))
    found = find_overlap([ask("0", question)], {"s": [ask("i", question)]})
    assert (found.exact, found.near) == ({0: "s"}, {"s": ()})


def test_the_same_as_a_plain_comparison_of_all_with_all() -> None:
    chance = random.Random(3)

    def text(least: int, most: int) -> str:
        return " ".join(chance.choice(["Alpha", "beta,"]) for _ in range(chance.randint(least, most)))

    training = [ask(str(i), text(1, 60), text(1, 3)) for i in range(60)]
    items = [ask(str(i), text(1, 30), text(1, 2)) for i in range(100)]
    for i in range(100):  # a piece of a training row, often with one word changed
        piece = (training[i % 60].question or "").split()[chance.randint(0, 3) : chance.randint(10, 50)] or ["beta"]
        piece[chance.randrange(len(piece))] = "alpha"
        items.append(ask(f"piece{i}", " ".join(piece)))
    items += [ask(f"copy{i}", f"{training[i].question}", training[i].answer or "") for i in range(5)]
    found = find_overlap(training, {"s": items})

    def words(*parts: str | None) -> list[str]:
        return re.findall(r"[a-z]+", " ".join(part or "" for part in parts).lower())

    def key(row: Row) -> tuple[str, str]:
        return (row.question or "").lower(), (row.answer or "").lower()

    exact = {i for i, row in enumerate(training) if key(row) in map(key, items)}
    kept = [row for i, row in enumerate(training) if i not in exact]
    near = []
    for item in items:
        asked = words(item.question)
        if len(asked) < GRAM_WORDS:
            is_near = any(words(row.question) == asked for row in kept)
        else:
            grams = {tuple(asked[i : i + GRAM_WORDS]) for i in range(len(asked) - GRAM_WORDS + 1)}
            texts = [f" {' '.join(words(row.question, row.answer))} " for row in kept]
            standing = [gram for gram in grams if any(f" {' '.join(gram)} " in other for other in texts)]
            is_near = len(standing) / len(grams) >= NEAR_SHARE
        near += [item.item_id] if is_near else []
    assert set(found.exact) == exact
    assert exact >= set(range(5))
    assert list(found.near["s"]) == near
    assert 20 < len(near) < 180


def test_worked_solutions_and_conversations_count_as_what_they_ask_and_answer() -> None:
    suite = {"sums": [ask("s", "What is 2+3?", "5")]}
    solved = ask("a", "What is 2+3?", "2+3=5\n#### 5")
    talk = Row("b", "", messages=(Turn("system", "Be brief."), Turn("user", "What is 2+3?"), Turn("assistant", "5")))
    longer = Row("c", "", messages=(Turn("user", "Hi"), Turn("assistant", "Oh"), *(talk.messages or ())[1:]))
    assert find_overlap([solved, talk, longer], suite).exact == {0: "sums", 1: "sums"}
    assert find_overlap([ask("d", "What is 2+3?", "5")], {"talk": [talk]}).exact == {0: "talk"}
    assert find_overlap([longer], {"talk": [longer]}).exact == {0: "talk"}
