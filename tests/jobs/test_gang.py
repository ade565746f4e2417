"""Processes of a gang: all come through, or all end and start again; shown with programs that only pretend to train."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import pytest

from rankscope.edges.executors import WorkPlace
from rankscope.jobs.gang import RESTARTS, GangFailed, run_gang
from rankscope.records import GangTask

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

task = json.loads(Path(sys.argv[1]).read_text())
rank, log = task["rank"], Path(task["folder"])
with (log / f"starts-{rank}").open("a") as stream:
    stream.write(f"{task['micro_batch_tokens']} {os.environ.get('CUDA_VISIBLE_DEVICES', '-')}\\n")
starts = len((log / f"starts-{rank}").read_text().split("\\n")) - 1

def answer(state, **more):
    path = Path(task["scratch"]) / f"outcome-{rank}.json"
    path.with_suffix(".draft").write_text(json.dumps({"rank": rank, "state": state, **more}))
    path.with_suffix(".draft").replace(path)
    sys.exit(state != "done")

def wait_for_the_others():
    time.sleep(60)  # as a sum does whose other part never comes

exec((log / "program.py").read_text())
"""


@pytest.fixture
def gang(tmp_path: Path) -> Path:
    (tmp_path / "member.py").write_text(PROGRAM)
    return tmp_path


def task(folder: Path, **changes: object) -> GangTask:
    given = {
        "folder": str(folder), "work": "train", "size": 2, "device": "cpu", "evaluate_tokens": 100,
        "thread_count": 1, "micro_batch_tokens": 100, **changes,
    }  # fmt: skip
    return GangTask(**given)  # type: ignore[arg-type]


def started(folder: Path, program: str, stop: threading.Event | None = None, **changes: object) -> object:
    (folder / "program.py").write_text(program)
    place = WorkPlace((stop or threading.Event()).is_set, devices=("3", "5"))
    return run_gang(task(folder, **changes), place, (sys.executable, str(folder / "member.py")))


def starts(folder: Path, rank: int = 0) -> list[str]:
    return (folder / f"starts-{rank}").read_text().splitlines()


def test_the_first_process_answers_for_all(gang: Path) -> None:
    outcome = started(gang, 'answer("done", losses=[0.5 + rank], seconds=[2.0])')
    assert outcome.losses == [0.5]  # type: ignore[attr-defined]
    assert starts(gang, 0) == starts(gang, 1) == ["100 -"]


def test_each_process_sees_a_gpu_of_its_own(gang: Path) -> None:
    started(gang, 'answer("done")', device="cuda")
    assert [starts(gang, rank) for rank in (0, 1)] == [["100 3"], ["100 5"]]


def test_out_of_memory_anywhere_starts_all_again_with_half(gang: Path) -> None:
    program = (
        'if task["micro_batch_tokens"] <= 25: answer("done")\n'
        'if rank == 1: answer("memory", error="out")\n'
        "wait_for_the_others()"
    )
    started(gang, program)
    assert starts(gang, 0) == starts(gang, 1) == ["100 -", "50 -", "25 -"]


def test_out_of_memory_with_the_smallest_is_said(gang: Path) -> None:
    with pytest.raises(GangFailed, match="out of memory with the smallest micro-batches, in a gang of 2"):
        started(gang, 'answer("memory")', micro_batch_tokens=30)
    assert starts(gang) == ["30 -"]


def test_one_that_is_killed_starts_all_again(gang: Path) -> None:
    program = 'if starts > 1: answer("done")\nif rank == 1: os.kill(os.getpid(), signal.SIGKILL)\nwait_for_the_others()'
    started(gang, program)
    assert starts(gang, 0) == ["100 -", "100 -"]


def test_who_loses_a_neighbour_fails_because_of_it(gang: Path) -> None:
    """The neighbour's death is what happened, though its loss is told first."""
    program = (
        'if starts > 1: answer("done")\n'
        'if rank == 0: answer("failed", error="RuntimeError: Connection reset by peer")\n'
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    started(gang, program)
    assert starts(gang, 0) == ["100 -", "100 -"]


def test_of_two_that_fail_the_first_one_is_told(gang: Path) -> None:
    program = (
        'if rank == 1: answer("failed", error="ValueError: the cause")\n'
        'while not (Path(task["scratch"]) / "outcome-1.json").exists(): time.sleep(0.01)\n'
        'answer("failed", error="RuntimeError: Connection reset by peer")'
    )
    with pytest.raises(GangFailed, match="the cause"):
        started(gang, program)


def test_one_that_dies_again_and_again_is_a_failure(gang: Path) -> None:
    with pytest.raises(GangFailed, match=r"ended 4 times: its process 1 ended by signal 9"):
        started(gang, "if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\nwait_for_the_others()")
    assert len(starts(gang)) == RESTARTS + 1


def test_an_error_is_told_once_with_its_traceback(gang: Path) -> None:
    with pytest.raises(GangFailed) as caught:
        started(gang, 'answer("failed", error="ValueError: no", details="Traceback: here") if rank else time.sleep(60)')
    assert str(caught.value) == "ValueError: no"
    assert caught.value.__notes__ == ["Traceback: here"]
    assert len(starts(gang)) == 1


def test_a_stop_is_passed_on_and_waited_for(gang: Path) -> None:
    """Every process saves its state and comes through."""
    stop = threading.Event()
    program = (
        'signal.signal(signal.SIGTERM, lambda *_: ((log / f"saved-{rank}").touch(), answer("done")))\n'
        '(log / f"ready-{rank}").touch()\n'
        "wait_for_the_others()"
    )

    def when_ready() -> None:
        while not all((gang / f"ready-{rank}").exists() for rank in (0, 1)):
            time.sleep(0.02)
        stop.set()

    thread = threading.Thread(target=when_ready)
    thread.start()
    started(gang, program, stop)
    thread.join()
    assert (gang / "saved-0").exists()
    assert (gang / "saved-1").exists()


def test_what_is_handed_on_is_a_record(gang: Path) -> None:
    started(gang, '(log / f"task-{rank}").write_text(json.dumps(task)); answer("done")')
    given = [json.loads((gang / f"task-{rank}").read_text()) for rank in (0, 1)]
    assert [one["rank"] for one in given] == [0, 1]
    assert given[0]["scratch"] == given[1]["scratch"]
    assert not Path(given[0]["scratch"]).exists()
