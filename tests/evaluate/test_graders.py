"""Grades, by tables of cases."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankscope.evaluate.graders import exact_match, final_number, normalize, number_match, token_f1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("  an  apple,\ta day\n", "apple day"),
        ("state-of-the-art", "stateoftheart"),
        ("“Curly” — dashes…", "curly dashes"),
        ("theory of a theme", "theory of theme"),
        ("1,234,567", "1234567"),
        ("1,23", "123"),
        ("3.5.", "3.5"),
        ("-5", "-5"),
        ("−5", "-5"),
        ("$-5.50", "-5.50"),
        ("-$5", "-5"),
        ("1990-1995", "19901995"),
        ("U.S.A.", "usa"),
        (".5", ".5"),
        ("A", "a"),
        ("", ""),
        ("???", "???"),
        ("ﬁnal", "final"),
        ("ÉCOLE", "école"),
    ],
)
def test_normalize(text: str, wanted: str) -> None:
    assert normalize(text) == wanted


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
