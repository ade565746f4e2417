"""Grades, by tables of cases."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankscope.data.world import make_world
from rankscope.study.graders.answer_text import exact_match, final_number, normalize, number_match, token_f1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("  an  apple,\ta day\n", "apple day"),
        ("state-of-the-art", "stateoftheart"),
        ("“Curly” — dashes…", "curly dashes"),
        ("theory of a theme", "theory of theme"),
        ("1,234,567", "1234567"),
        ("1,23", "1,23"),
        ("1,2,345", "1,2,345"),
        ("3.5.", "3.5"),
        ("-5", "-5"),
        ("−5", "-5"),
        ("$-5.50", "-$5.50"),
        ("-$5", "-$5"),
        ("1990-1995", "1990-1995"),
        ("U.S.A.", "usa"),
        (".5", ".5"),
        ("A", "a"),
        ("", ""),
        ("???", "???"),
        ("ﬁnal", "final"),
        ("ÉCOLE", "école"),
        ("C++.", "c++"),
        ("**Paris**", "paris"),
        ('The "Mona Lisa"!', "mona lisa"),
        ("Paris (France).", "paris france"),
        ("- Paris", "paris"),
        ("3 / 4", "3/4"),
        ("f(x)", "f(x)"),
        ("[0, 1)", "[0 1)"),
        ("vitamin A", "vitamin a"),
        ("don't", "dont"),
        ("5!", "5!"),
        ("5%", "5%"),
    ],
)
def test_normalize(text: str, wanted: str) -> None:
    assert normalize(text) == wanted


SYMBOLS = "+-/<>=#%&@^~|\\"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("O-", "O+"), ("3/4", "34"), ("C++", "C"), ("C#", "C"), ("10:30", "1030"), ("x<y", "x>y"), ("x < y", "x > y"),
        ("5 - 3", "5 3"), ("1,2", "12"), ("f(2)", "f2"), ("5!", "5"), ("50%", "50"), ("[0, 1)", "(0, 1]"), ("n!", "n"),
        ("f'(x)", "f(x)"), ("A-B", "AB"), ("hepatitis A", "hepatitis"), ("1.5", "15"), ("-5", "5"), ("+5", "-5"),
        ("Ca(OH)2", "CaOH2"), ("a+b", "b"), ("x=1", "x1"), ("COVID-19", "COVID19"), ("(1, 2)", "[1, 2]"),
    ],
)  # fmt: skip
def test_what_tells_answers_apart_is_kept(one: str, other: str) -> None:
    assert not exact_match(one, [other])


@given(st.from_regex(r"[0-9]{1,4}", fullmatch=True), st.from_regex(r"[0-9]{1,4}", fullmatch=True), st.data())
def test_answers_that_differ_between_digits_are_never_equal(left: str, right: str, data: st.DataObject) -> None:
    between = st.sampled_from(["", *"+-/:<>.", "..", "<=", "->"])
    one, other = data.draw(between), data.draw(between)
    assert exact_match(left + one + right, [left + other + right]) is (one == other)


@given(st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True), st.text(SYMBOLS, max_size=3), st.text(SYMBOLS, max_size=3))
def test_answers_that_differ_in_attached_symbols_are_never_equal(token: str, one: str, other: str) -> None:
    for a, b in ((token + one, token + other), (one + token, other + token)):
        assert exact_match(a, [b]) is (a == b)


def test_the_answers_of_the_bundled_world_are_words_and_numbers() -> None:
    """Graded as before: the rule on symbols has nothing to keep in them."""
    world = make_world(0)
    answers = {str(row["answer"]) for name in world.names() for row in world.rows(name) if row.get("answer")}
    assert len(answers) > 50
    assert all(re.fullmatch(r"-?[0-9]+|[A-Za-z']+( [A-Za-z]+)*", answer) for answer in answers)
    plain = {answer: re.sub(r"\b(a|an) ", "", answer.lower()).replace("'", "") for answer in answers}
    assert all(normalize(f"The {answer.upper()}.") == wanted for answer, wanted in plain.items())


@given(st.text())
def test_normalize_ignores_case_and_surrounding_space(text: str) -> None:
    once = normalize(text)
    assert normalize(f"  {text}\n") == once
    assert once == " ".join(once.split())


@pytest.mark.parametrize(
    ("prediction", "answers", "right"),
    [
        ("the Paris.", ["Paris"], True),
        ("Paris, France", ["Paris"], False),
        ("NYC", ["New York", "nyc"], True),
        ("3.5", ["35"], False),
        ("5", ["-5"], False),
        ("", ["Paris"], False),
        ("", ["A"], False),
        ("B", ["A"], False),
        ("a", ["A"], True),
        ("x", [], False),
    ],
)
def test_exact_match(prediction: str, answers: list[str], right: bool) -> None:
    assert exact_match(prediction, answers) is right


@pytest.mark.parametrize(
    ("prediction", "answers", "wanted"),
    [
        ("the cat sat", ["cat sat"], 1.0),
        ("cat", ["cat sat"], 2 / 3),
        ("dog", ["cat sat"], 0.0),
        ("cat cat", ["cat"], 2 / 3),
        ("cat", ["dog", "cat"], 1.0),
        ("", ["cat"], 0.0),
        ("cat", [], 0.0),
    ],
)
def test_token_f1(prediction: str, answers: list[str], wanted: float) -> None:
    assert token_f1(prediction, answers) == pytest.approx(wanted)


@given(st.text(), st.lists(st.text(), max_size=3))
def test_an_exact_match_has_the_full_f1(prediction: str, answers: list[str]) -> None:
    value = token_f1(prediction, answers)
    assert 0 <= value <= 1
    if exact_match(prediction, answers) and normalize(prediction):
        assert value == 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2 + 3 = 5\n#### 5", "5"),
        ("#### 1,234.50 dollars, or 7", "1234.50"),
        ("#### 5\nQuestion: 9\n#### 9", "5"),
        ("the marker #### \nis empty, so 8", "8"),
        ("#### none\n#### 12", "12"),
        ("it costs $18.", "18"),
        ("about 12.5%", "12.5"),
        ("#### -3", "-3"),
        ("#### −3", "-3"),
        ("#### -$3", "-3"),
        ("#### $-3", "-3"),
        ("#### - 3", "-3"),
        ("x = -.5", "-0.5"),
        ("10-4", "4"),
        ("pages 3-5", "5"),
        ("(-7)", "-7"),
        ("room 12b and 1,2", "2"),
        ("in 2024, 1,000 of 12,345,678", "12345678"),
        ("12,34", "34"),
        ("no number", None),
        ("", None),
    ],
)
def test_final_number(text: str, wanted: str | None) -> None:
    assert final_number(text) == (None if wanted is None else Decimal(wanted))


@given(st.decimals(min_value=-(10**9), max_value=10**9, places=3), st.booleans())
def test_any_written_number_is_read_back(value: Decimal, grouped: bool) -> None:
    assert final_number(f"so 3 times 4 is ...\n#### {value:{',' if grouped else ''}f}") == value


@pytest.mark.parametrize(
    ("prediction", "answers", "right"),
    [
        ("so it is 18.0", ["long solution 9\n#### 18"], True),
        ("#### 18", ["18"], True),
        ("#### 1800", ["1,800"], True),
        ("#### 18", ["-18"], False),
        ("eighteen", ["18"], False),
        ("nothing", ["18", "nothing"], True),
        ("18", [], False),
    ],
)
def test_number_match(prediction: str, answers: list[str], right: bool) -> None:
    assert number_match(prediction, answers) is right
