"""Graders of the user's own: what they are given, and every way in which they can fail."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from rankscope.evaluate.answer_grading import NotGraded, grade_answers
from rankscope.evaluate.code_grading import code_grader
from rankscope.records import Item, Suite
from rankscope.study.graders import Asked, Ungraded
from rankscope.study.graders.python_grader import PythonGrader

ASKED = Asked("item-7", "Which?", "Paris", ("paris", "Lutetia"))


def grade(folder: Path, code: str, **settings: float) -> object:
    grader = PythonGrader(python=f"{folder}/grader.py:score", **settings)
    with code_grader(grader, textwrap.dedent(code)) as score:
        return score(ASKED)


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("def score(answer, reference): return answer.lower() == reference", 1.0),
        (
            "def score(references, prompt, item_id): return 0.25 if (prompt, item_id) == ('Which?', 'item-7') else 0",
            0.25,
        ),
        ("def score(**given): return len(given) / 10", 0.5),
        ("def score(answer):\n    print('words', answer)\n    return 0.5", 0.5),
        ("import numpy as np\ndef score(answer): return np.float32(0.5)", 0.5),
        ("from beside import half\ndef score(answer): return half", 0.5),
        ("score = lambda answer: 1", 1.0),
    ],
)
def test_a_function_gets_what_it_names(code: str, wanted: float, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("half = 0.5\n", encoding="utf-8")
    assert grade(tmp_path, code) == wanted


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("def score(answer): raise ValueError('no\\n such thing')", "raised ValueError: no such thing"),
        ("def score(answer): return 'good'", "gave 'good' for a score, expected a number from 0 to 1"),
        ("def score(answer): return None", "gave None for a score"),
        (
            "def score(answer, wrong): return 1",
            "raised TypeError: score() missing 1 required positional",
        ),
        ("import os\ndef score(answer): os._exit(3)", "ended its process (exit code 3)"),
        ("import os\ndef score(answer): os.kill(os.getpid(), 9)", "ended its process (signal SIGKILL)"),
        ("raise ImportError('nothing here')", "on loading raised ImportError: nothing here"),
        ("def score(answer):\n    import sys\n    sys.exit(1)", "raised SystemExit: 1"),
        ("scores = 1", "on loading raised AttributeError"),
    ],
)
def test_every_failure_is_told(code: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(Ungraded) as error:
        grade(tmp_path, code)
    assert why in str(error.value)
    assert "\n" not in str(error.value)


def test_a_grader_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    code = f"""
        import subprocess, sys, time
        def score(answer):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
            time.sleep(600)
    """
    start = time.monotonic()
    with pytest.raises(Ungraded, match="took longer than 2 s, and was ended"):
        grade(tmp_path, code, seconds=2)
    assert time.monotonic() - start < 30
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the grader's child outlived it")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no limit of address space")
def test_memory_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Ungraded, match="raised MemoryError"):
        grade(tmp_path, "def score(answer): return len(bytearray(2 ** 30)) > 0", memory_gib=0.5)


def test_the_text_that_was_planned_with_is_what_runs(tmp_path: Path) -> None:
    """The file may have changed since, or be gone."""
    (tmp_path / "grader.py").write_text("def score(answer): return 0\n", encoding="utf-8")
    assert grade(tmp_path, "def score(answer): return 1") == 1.0
    assert grade(tmp_path / "gone", "def score(answer): return 1") == 1.0


def test_what_cannot_be_graded_names_suite_and_item(tmp_path: Path) -> None:
    grader = PythonGrader(python=f"{tmp_path}/grader.py:score")
    items = [Item(f"item-{i}", "open", (1,), answers=("a",)) for i in range(3)]
    code = "def score(answer): return {'x': 0.5, 'y': float('nan')}[answer]"
    suite = Suite("helpful", None, "recall", items, grader=grader, grader_code=code)
    assert grade_answers(suite, items, ["x", "x", "x"]).scores == [0.5, 0.5, 0.5]
    with pytest.raises(NotGraded) as error:
        grade_answers(suite, items, ["x", "y", "x"])
    assert str(error.value) == "suite helpful, item item-1: the grader gave NaN for a score, expected 0 to 1"
    with pytest.raises(NotGraded, match=r"^suite helpful, item item-2: the grader raised KeyError: 'z'$"):
        grade_answers(suite, items, ["x", "x", "z"])


def test_nothing_of_a_worker_is_left(tmp_path: Path) -> None:
    before = len(psutil.Process().children(recursive=True)), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        grade(tmp_path, "def score(answer): return 1")
    assert (len(psutil.Process().children(recursive=True)), len(os.listdir("/proc/self/fd"))) == before
