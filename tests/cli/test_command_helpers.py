"""No error reaches a user as a traceback: each kind is one line with its exit code."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
import typer

from rankscope.cli import command_helpers
from rankscope.cli.command_helpers import AnswersScored, ends_errors
from rankscope.edges.storages import Busy
from rankscope.study.problems import InputProblems, Problem

TWO = InputProblems([Problem("a.yaml", "line 1", "x", "y"), Problem("a.yaml", "line 2", "x", "y")])


def ended(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as caught:
        ends_errors(command)()
    return caught.value.exit_code, capsys.readouterr().err.strip().splitlines()


def test_every_problem_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = ended(TWO, capsys)
    assert code == 2
    assert lines == ["a.yaml: line 1: found x, expected y", "a.yaml: line 2: found x, expected y"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Busy("out: another process is working on it"), "out: another process is working on it"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/a"), "/out/a: found no space left on device, "),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "x" * 400),
            "x" * 100 + "..." + "x" * 60 + ": found file name ",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/root/a"), "/root/a: found permission denied, "),
        (OSError("no more"), "the system: found no more, "),
    ],
)
def test_what_is_foreseen_is_one_line_and_exit_2(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = ended(error, capsys)
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith(line)


def test_ctrl_c_has_the_exit_code_of_shells(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(KeyboardInterrupt(), capsys)[0] == 130


def test_a_fault_of_ours_is_one_line_that_names_a_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_AbCdEfGh")
    code, lines = ended(ZeroDivisionError("a secret place of hf_AbCdEfGh"), capsys)
    assert code == 1
    (line,) = lines
    assert "Traceback" not in line
    found = re.search(r"(\S+rankscope-crash-\S+\.txt)", line)
    assert found is not None
    report = Path(found[1])
    text = report.read_text()
    report.unlink()
    assert "ZeroDivisionError: a secret place of ***" in text
    assert "hf_AbCdEfGh" not in text
    assert "torch " in text


def test_scoring_says_how_far_it_is_and_how_long_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in the first second, then not more than a line in five; the 30 s of loading are no part of the pace."""
    clock = iter([0.0, 30.0, 30.0, 31.0, 31.0, 40.0, 40.0])
    monkeypatch.setattr(command_helpers.time, "monotonic", lambda: next(clock))
    told = AnswersScored()
    for done in (100, 120, 300):
        told("the base", done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "scoring the base: 100 of 1,000 answers",
        "scoring the base: 300 of 1,000 answers, time left: 35 s",
    ]
