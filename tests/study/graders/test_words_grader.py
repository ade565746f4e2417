"""Graders of words: rouge-score itself, F1 counted by hand, and what is contained in what."""

from __future__ import annotations

import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from rankscope.study.graders import GRADERS, Asked

WORDS = ["the", "old", "river", "flows", "north", "12", "well-known", "St."]


def grade(name: str, answer: str, *references: str) -> float:
    return GRADERS[name]().score(Asked("i", "Q?", answer, references))


@pytest.mark.parametrize("seed", range(20))
def test_rouge_l_is_that_of_rouge_score(seed: int) -> None:
    dice = random.Random(seed)
    texts = [" ".join(dice.choices(WORDS, k=dice.randint(1, 9))) for _ in range(3)]
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    wanted = max(scorer.score(reference, texts[0])["rougeL"].fmeasure for reference in texts[1:])
    assert grade("rouge_l", *texts) == wanted
    assert 0 <= wanted <= 1


def test_rouge_l_by_its_definition() -> None:
    """Lin (2004), section 3: of 4 and 6 words the longest common subsequence has 3, so P = 3/4 and R = 3/6."""
    assert grade("rouge_l", "police kill the gunman", "police killed the gunman near town") == pytest.approx(0.6)


def test_rouge_l_refuses_what_rouge_score_cannot_read() -> None:
    found = GRADERS["rouge_l"]().refuse_reference("Москва")
    assert found is not None
    assert "rouge-score does not read" in found[0]
    assert GRADERS["rouge_l"]().refuse_reference("Moscow") is None


@pytest.mark.parametrize(
    ("answer", "references", "wanted"),
    [
        ("Paris is the capital", ("the capital is Paris",), 1.0),  # the same words
        ("red green blue", ("red green", "blue"), 2 * 2 / (3 + 2)),
        ("red red", ("red",), 2 * 1 / (2 + 1)),
        ("red", ("blue",), 0.0),
        ("", ("blue",), 0.0),
    ],
)
def test_f1_as_counted_by_hand(answer: str, references: tuple[str, ...], wanted: float) -> None:
    assert grade("f1", answer, *references) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("answer", "reference", "wanted"),
    [
        ("I think it is Paris, in France.", "paris", 1),
        ("It is Parisian.", "Paris", 0),
        ("New York and Paris", "York Paris", 0),
        ("line one\nThe answer: New York", "New  York", 1),
        ("x is -5", "5", 0),
        ("It costs $5.", "$5", 1),
    ],
)
def test_contains_asks_for_whole_words_in_a_row(answer: str, reference: str, wanted: int) -> None:
    assert grade("contains", answer, reference) == wanted


@pytest.mark.parametrize(
    ("answer", "reference", "wanted"),
    [("The Paris.", "paris", 1), ("C++", "C", 0), ("-5", "5", 0), ("5%", "5", 0), ("U.S.A.", "USA", 1)],
)
def test_exact_keeps_signs_that_are_the_answer(answer: str, reference: str, wanted: int) -> None:
    assert grade("exact", answer, "something", reference) == wanted
