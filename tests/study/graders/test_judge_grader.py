"""The settings of a judge: what it is asked, what its replies say, and what is part of a suite's hash."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rankscope.study.graders import Asked, Ungraded
from rankscope.study.graders.judge_grader import JudgeGrader

URL = "http://localhost:8000/v1"


def judge(**settings: object) -> JudgeGrader:
    return JudgeGrader.model_validate({"judge": {"url": URL, "model": "m", **settings}})


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        ("Score: 7", 0.7),
        ("score: 10", 1.0),
        ("**Score:** 0", 0.0),
        ("It is good.\nScore: 2.5 out of 10", 0.25),
        ("Score: 1. No, on second thought:\nScore: 8", 0.8),
        ('{"score": 4}', 0.4),
        ("6", 0.6),
        (" 6/10. ", 0.6),
    ],
)
def test_the_last_score_of_a_reply_counts(reply: str, wanted: float) -> None:
    assert judge().score_in(reply) == pytest.approx(wanted)


@pytest.mark.parametrize("reply", ["", "Good!", "I give it 7", "Score: good", "Score: 11", "Score: -1", "NaN"])
def test_a_reply_without_a_score_on_the_scale_is_none(reply: str) -> None:
    with pytest.raises(Ungraded):
        judge().score_in(reply)


def test_another_scale() -> None:
    assert judge(scale=(1, 5)).score_in("Score: 4") == 0.75
    with pytest.raises(Ungraded, match="gave the score 0, expected 1 to 5"):
        judge(scale=(1, 5)).score_in("Score: 0")


def test_an_answer_is_never_taken_for_a_variable() -> None:
    grader = judge(prompt="{{ answer }}|{{reference}}|{{ prompt }}|{{ references }}|{{ low }}-{{ high }}")
    request = grader.request(Asked("i", "Which {{ answer }}?", "{{ reference }} \\1 {x}", ("a", "b")))
    assert request["messages"] == [
        {"role": "user", "content": "{{ reference }} \\1 {x}|a|Which {{ answer }}?|a\nb|0-10"}
    ]
    assert (request["model"], request["temperature"]) == ("m", 0.0)


def test_what_decides_is_hashed_and_what_does_not_is_not() -> None:
    plain = judge().fingerprint()
    for change in ({"model": "n"}, {"prompt": "{{ answer }}"}, {"scale": (0, 1)}, {"temperature": 1.0}):
        assert judge(**change).fingerprint() != plain
    for change in ({"url": "https://other/v1"}, {"api_key_env": "KEY"}, {"max_requests": 5}, {"retries": 1}):
        assert judge(**change).fingerprint() == plain


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"url": "localhost:8000"}, "a URL that begins with http:// or https://"),
        ({"url": "file:///etc/passwd"}, "a URL that begins with http:// or https://"),
        ({"url": "http://me:secret@host/v1"}, "found a URL with a name or password in it"),
        ({"prompt": "Grade it."}, "no {{ answer }}"),
        ({"prompt": "{{ answer }} {{ rubric }}"}, "found {{ rubric }}, expected some of answer, prompt"),
        ({"scale": (5, 1)}, "found [5, 1], expected two numbers, the first below the second"),
        ({"together": 0}, "greater than 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], line: str) -> None:
    with pytest.raises(ValidationError) as error:
        judge(**settings)
    assert line in str(error.value)
    assert "secret" not in str(error.value.errors()[0]["msg"])
