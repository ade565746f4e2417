"""A judge on this machine stands for every endpoint: sound, busy, failing, talking nonsense, down, out of budget."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from judge_server import Judge, Reply, judge_server, said

from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate import judge_client
from rankscope.evaluate.answer_grading import NotGraded, grade_answers
from rankscope.evaluate.judge_client import GradingStopped, retry_after_seconds
from rankscope.evaluate.judge_grading import NONSENSE_TRIES, Desk
from rankscope.records import Item, Suite
from rankscope.study.graders.judge_grader import JudgeGrader

ITEMS = [Item(f"item-{i}", "open", (1,), answers=("oak",), prompt_text=f"Tree {i}?") for i in range(6)]
TEXTS = [f"tree {i}" for i in range(6)]
PROMPT = "Q: {{ prompt }} R: {{ reference }} A: {{ answer }}"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_client, "FIRST_WAIT_SECONDS", 0.02)


@pytest.fixture
def judge() -> Iterator[Judge]:
    """Its score is the last digit of the answer."""

    def answer(request: dict[str, Any], _: int) -> Reply:
        return said(f"Score: {request['messages'][0]['content'][-1]}")

    with judge_server(answer) as running:
        yield running


def suite_of(url: str, **settings: object) -> Suite:
    grader = JudgeGrader.model_validate({"judge": {"url": url, "model": "m", "prompt": PROMPT, **settings}})
    return Suite("helpful", None, "recall", ITEMS, grader=grader)


def grade(suite: Suite, folder: Path, texts: list[str] = TEXTS, twice: bool = False) -> list[float]:
    return grade_answers(suite, ITEMS, texts, Desk(StudyFolder.open(folder), twice=twice)).scores


def test_every_answer_is_asked_once_and_never_again(judge: Judge, tmp_path: Path) -> None:
    wanted = pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert grade(suite_of(judge.url), tmp_path) == wanted
    assert len(judge.requests) == 6
    assert set(judge.paths) == {"/v1/chat/completions"}
    contents = {request["messages"][0]["content"] for request in judge.requests}
    assert contents == {f"Q: Tree {i}? R: oak A: tree {i}" for i in range(6)}
    assert grade(suite_of(judge.url), tmp_path) == wanted
    assert grade(suite_of("http://127.0.0.1:9/v1"), tmp_path) == wanted, "the address is no part of what was asked"
    assert len(judge.requests) == 6
    grade(suite_of(judge.url, temperature=0.5), tmp_path)
    assert len(judge.requests) == 12, "other settings, other replies"


def test_the_same_answer_of_two_items_is_one_request(judge: Judge, tmp_path: Path) -> None:
    same = [Item(f"item-{i}", "open", (1,), answers=("oak",), prompt_text="Tree?") for i in range(6)]
    suite = suite_of(judge.url)
    assert grade_answers(suite, same, ["tree 3"] * 6, Desk(StudyFolder.open(tmp_path))).scores == [0.3] * 6
    assert len(judge.requests) == 1


@pytest.mark.parametrize("header", ["Retry-After", "retry-after"])
def test_a_busy_judge_is_asked_again_when_it_says(header: str, judge: Judge, tmp_path: Path) -> None:
    sound, begin = judge.answer, time.monotonic()
    judge.answer = lambda request, number: (429, {header: "1"}, "") if number == 0 else sound(request, number)
    assert grade(suite_of(judge.url, together=1), tmp_path)[5] == 0.5
    assert time.monotonic() - begin >= 1
    assert len(judge.requests) == 7


def test_a_failing_judge_is_asked_again(judge: Judge, tmp_path: Path) -> None:
    sound = judge.answer
    judge.answer = lambda request, number: (500, {}, "oops") if number in (0, 1, 4) else sound(request, number)
    assert grade(suite_of(judge.url), tmp_path)[1] == 0.1
    assert len(judge.requests) == 9


def test_a_judge_that_asks_to_wait_for_hours_is_given_up(judge: Judge, tmp_path: Path) -> None:
    judge.answer = lambda *_: (429, {"Retry-After": "7200"}, "")
    with pytest.raises(NotGraded, match=r"item item-\d: the grader is asked by 127.0.0.1:\d+ to wait for 7200 s"):
        grade(suite_of(judge.url), tmp_path)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (said("Very good!"), 'replied "Very good!", expected `Score: N`'),
        (said("Score: 99"), "gave the score 99, expected 0 to 10"),
        ((200, {}, "<html>"), "got a reply that is not of OpenAI's form"),
        ((200, {}, '{"choices": []}'), "got a reply that is not of OpenAI's form"),
        ((404, {}, "no such model"), "status 404 Not Found"),
        ((302, {"Location": "http://127.0.0.1:9/"}, ""), "status 302 Found"),
        ((500, {}, "oops"), "got no answer from 127.0.0.1:"),
    ],
    ids=str,
)
def test_what_is_no_score_is_an_error_with_the_item(reply: Reply, why: str, judge: Judge, tmp_path: Path) -> None:
    sound = judge.answer
    judge.answer = lambda request, number: reply if "tree 2" in request["messages"][0]["content"] else sound(request, 0)
    with pytest.raises(NotGraded) as error:
        grade(suite_of(judge.url, retries=1), tmp_path)
    assert str(error.value).startswith("suite helpful, item item-2: the grader ")
    assert why in str(error.value)
    judge.answer = sound
    assert grade(suite_of(judge.url), tmp_path)[2] == 0.2, "nothing wrong was kept"


def test_nonsense_is_asked_for_again(judge: Judge, tmp_path: Path) -> None:
    sound = judge.answer
    judge.answer = lambda request, number: said("Well...") if number < NONSENSE_TRIES - 1 else sound(request, number)
    assert grade(suite_of(judge.url, together=1), tmp_path)[0] == 0


def test_a_judge_that_is_down_says_so(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(NotGraded) as error:
        grade(suite_of(f"http://127.0.0.1:{port}/v1", retries=2), tmp_path)
    assert f"got no answer from 127.0.0.1:{port} after 3 tries: Connection refused" in str(error.value)


def test_a_judge_that_hangs_is_not_waited_for(judge: Judge, tmp_path: Path) -> None:
    def hang(*_: object) -> Reply:
        time.sleep(1.5)
        return said("Score: 1")

    judge.answer = hang
    with pytest.raises(NotGraded, match="after 1 tries: "):
        grade(suite_of(judge.url, retries=0, seconds=0.2), tmp_path)


def test_a_budget_is_never_exceeded_and_what_was_bought_is_kept(judge: Judge, tmp_path: Path) -> None:
    suite = suite_of(judge.url, max_requests=4)
    with pytest.raises(NotGraded, match=r"is out of budget: 4 requests were made \(`max_requests`\)"):
        grade(suite, tmp_path)
    assert len(judge.requests) == 4
    with pytest.raises(NotGraded):
        grade(suite, tmp_path)
    assert len(judge.requests) == 4
    assert grade(suite_of(judge.url, max_requests=6), tmp_path)[5] == 0.5
    assert len(judge.requests) == 6, "a larger budget buys what is missing"


def test_a_sample_is_graded_twice_to_measure_the_judge(judge: Judge, tmp_path: Path) -> None:
    judge.answer = lambda _, number: said("Score: 4" if number < 6 else "Score: 6")
    desk = Desk(StudyFolder.open(tmp_path), twice=True)
    suite = suite_of(judge.url, asked_twice=3)
    grades = grade_answers(suite, ITEMS, TEXTS, desk)
    assert grades.scores == [0.4] * 6
    assert list(grades.again.values()) == [0.6] * 3
    assert len(judge.requests) == 9
    assert grade_answers(suite, ITEMS, TEXTS, desk) == grades
    assert len(judge.requests) == 9, "the second replies are kept too"


def test_the_key_goes_to_the_endpoint_and_nowhere_else(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    grade(suite_of(judge.url, api_key_env="JUDGE_KEY"), tmp_path)
    assert {headers["Authorization"] for headers in judge.headers} == {"Bearer sk-very-secret"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
    judge.answer = lambda *_: (401, {}, "Incorrect API key provided: sk-very-secret")
    with pytest.raises(NotGraded) as error:
        grade(suite_of(judge.url, api_key_env="JUDGE_KEY", model="n"), tmp_path)
    assert "is the key in JUDGE_KEY right?" in str(error.value)
    assert "secret" not in str(error.value)
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(NotGraded, match="needs the environment variable JUDGE_KEY, which is not set"):
        grade(suite_of(judge.url, api_key_env="JUDGE_KEY", model="o"), tmp_path)


def test_a_redirect_does_not_get_the_key(judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    with judge_server() as other:
        judge.answer = lambda *_: (307, {"Location": f"{other.url}/chat/completions"}, "")
        with pytest.raises(NotGraded, match="status 307"):
            grade(suite_of(judge.url, api_key_env="JUDGE_KEY"), tmp_path)
        assert not other.requests


def test_requests_keep_their_pace(judge: Judge, tmp_path: Path) -> None:
    begin = time.monotonic()
    grade(suite_of(judge.url, requests_per_minute=1200), tmp_path)
    assert time.monotonic() - begin >= 5 * 60 / 1200


def test_a_signal_ends_the_asking_and_keeps_what_was_replied(judge: Judge, tmp_path: Path) -> None:
    folder = StudyFolder.open(tmp_path)
    desk = Desk(folder, lambda: len(judge.requests) >= 2)
    with pytest.raises(GradingStopped):
        grade_answers(suite_of(judge.url, together=1), ITEMS, TEXTS, desk)
    asked = len(judge.requests)
    assert asked <= 3
    grade(suite_of(judge.url), tmp_path)
    assert len(judge.requests) == 6, "what was replied before is not asked again"


def test_a_damaged_reply_is_asked_for_again(judge: Judge, tmp_path: Path) -> None:
    grade(suite_of(judge.url), tmp_path)
    damaged = next(path for path in (tmp_path / "judge").rglob("*.json"))
    damaged.write_text("{", encoding="utf-8")
    grade(suite_of(judge.url), tmp_path)
    assert len(judge.requests) == 7


def test_without_a_folder_no_judge_is_asked(judge: Judge) -> None:
    with pytest.raises(NotGraded, match="has no study folder"):
        grade_answers(suite_of(judge.url), ITEMS, TEXTS)
    assert not judge.requests


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_seconds("2.5") == 2.5
    assert retry_after_seconds("-3") == 0
    assert retry_after_seconds("soon") is None
    assert retry_after_seconds(None) is None
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 55 < (retry_after_seconds(later) or 0) <= 60
