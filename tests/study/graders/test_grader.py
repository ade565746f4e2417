"""What every grader is held to: its place in a study file, its fingerprint, and scores from 0 to 1."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from made_facts import STUDY

from rankscope.study.graders import GRADERS, Ungraded, checked_score, grader_of, read_grade
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import dump_study, read_study, study_of

SETTINGS = {
    "regex": {"regex": "(a)"},
    "python": {"python": "grader.py:score"},
    "judge": {"judge": {"url": "http://localhost:1/v1", "model": "m", "prompt": "{{ answer }}"}},
}
"""An entry for each grader that needs settings."""


def entry(name: str) -> object:
    return SETTINGS.get(name, name)


def study_with(folder: Path, setting: str) -> Path:
    for name in ("train.jsonl", "test.jsonl", "law.jsonl"):
        (folder / name).write_text("{}\n", encoding="utf-8")
    path = folder / "study.yaml"
    path.write_text(STUDY.replace("path: law.jsonl", f"path: law.jsonl, {setting}"), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", sorted(GRADERS))
def test_a_study_says_it_and_its_folder_too(name: str, tmp_path: Path) -> None:
    (tmp_path / "grader.py").write_text("def score(answer): return 1\n", encoding="utf-8")
    study = read_study(study_with(tmp_path, f"grade: {json.dumps(entry(name))}, trust_code: true"))
    grader = study.suites["law"].grader
    assert grader is not None
    assert grader.name == name
    assert study_of(dump_study(study)) == study


@pytest.mark.parametrize("name", sorted(GRADERS))
def test_a_fingerprint_says_which_grader_it_is_of(name: str) -> None:
    grader = read_grade(entry(name))
    assert grader is not None
    assert json.loads(json.dumps(grader.fingerprint()))["grader"] == name


def test_settings_that_decide_change_the_fingerprint() -> None:
    one, other = read_grade({"regex": "(a)"}), read_grade({"regex": "(b)"})
    assert one is not None
    assert other is not None
    assert one.fingerprint() != other.fingerprint()


def test_nothing_asked_for_is_no_grader() -> None:
    assert grader_of(None) is None


@pytest.mark.parametrize(("value", "wanted"), [(0, 0.0), (True, 1.0), (0.25, 0.25), (np.float32(0.5), 0.5), (1, 1.0)])
def test_numbers_from_0_to_1_are_scores(value: object, wanted: float) -> None:
    assert checked_score(value) == wanted


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.01, 1.01, "1", None, [1], 2, np.nan])
def test_anything_else_is_none(value: object) -> None:
    with pytest.raises(Ungraded, match=r"for a score, expected"):
        checked_score(value)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("grade: rouge", 'suites.law.grade: found "rouge", expected contains, exact, f1, json, rouge_l, or a mapping'),
        ("grade: {rouge: 1}", "suites.law.grade: found a mapping with rouge, expected contains, exact"),
        ('grade: {regex: "("}', "suites.law.grade.regex: found a pattern with an error: missing ) at position 1"),
        ('grade: {regex: "a", flags: i}', "suites.law.grade.flags: found the unknown key `flags`, expected one of"),
        ("grade: f1, metric: loss", "suites.law.grade: found `grade` beside `metric: loss`, expected one of them"),
        ("grade: {python: g.py:score}", "suites.law.grade: found code of your own without consent, expected `trust_co"),
        (
            "grade: {python: gone.py:score}, trust_code: true",
            'grade: found "gone.py", which does not exist',
        ),
        (
            "grade: {python: g.py:mark}, trust_code: true",
            "suites.law.grade: found no `mark` in g.py, expected",
        ),
        ("grade: {python: bad.py:score}, trust_code: true", '"bad.py", which is no Python in line 2, expected a file'),
        (
            "grade: {python: g.txt}, trust_code: true",
            'grade.python: found "g.txt", expected `FILE.py:FUNCTION`, such as',
        ),
        ("grade: {python: g.py:score, seconds: 0}, trust_code: true", "seconds: found 0, expected a number above 0"),
    ],
)
def test_a_wrong_grade_is_one_line(setting: str, line: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "g.py").write_text(f"open({str(ran)!r}, 'w')\ndef score(answer): return 1\n", encoding="utf-8")
    (tmp_path / "bad.py").write_text("x = 1\ndef (\n", encoding="utf-8")
    with pytest.raises(InputProblems) as error:
        read_study(study_with(tmp_path, setting))
    (problem,) = error.value.problems
    assert line in str(problem)
    assert "line 7" in str(problem)
    assert not ran.exists(), "reading a study runs nothing of it"


def test_a_task_of_lm_eval_brings_its_own_grading(tmp_path: Path) -> None:
    path = study_with(tmp_path, "")
    text = path.read_text(encoding="utf-8").replace("path: law.jsonl, ", "harness: arc_easy, grade: f1")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputProblems, match="`grade` without rows of its own"):
        read_study(path)
