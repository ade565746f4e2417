"""JSON: validity, the reference's keys, kinds of values, and blocks of code."""

from __future__ import annotations

import pytest

from rankscope.study.graders import Asked
from rankscope.study.graders.json_grader import JsonGrader


@pytest.mark.parametrize(
    ("answer", "reference", "wanted"),
    [
        ('{"a": 1, "b": "x"}', '{"b": "x", "a": 1.0}', 1),
        ('{"a": 1, "more": 2}', '{"a": 1}', 1),
        ('{"a": {"b": [1, 2], "c": 0}}', '{"a": {"b": [1, 2]}}', 1),
        ('{"a": [1, 2, 3]}', '{"a": [1, 2]}', 0),
        ('{"a": "1"}', '{"a": 1}', 0),
        ('{"a": true}', '{"a": 1}', 0),
        ('{"a": 1}', '{"a": true}', 0),
        ('{"a": 0}', '{"a": false}', 0),
        ('{"a": null}', '{"a": null}', 1),
        ("{}", '{"a": null}', 0),
        ("[]", '{"a": 1}', 0),
        ('{"a": 1', '{"a": 1}', 0),
        ('It is {"a": 1}', '{"a": 1}', 0),
        ('```json\n{"a": 1}\n```', '{"a": 1}', 1),
        ("NaN", "1", 0),
        ("[" * 100_000, "[]", 0),
        ("", "{}", 0),
    ],
)
def test_the_keys_of_the_reference_decide(answer: str, reference: str, wanted: int) -> None:
    assert JsonGrader().score(Asked("i", "Q?", answer, (reference,))) == wanted


def test_a_reference_must_be_json() -> None:
    assert JsonGrader().refuse_reference("a: 1") == ("an answer that is no JSON", "JSON to compare with")
    assert JsonGrader().refuse_reference('{"a": 1}') is None
