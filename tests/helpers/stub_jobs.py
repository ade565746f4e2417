"""Jobs that train nothing, for executors: they are sent to processes that import them from here."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from rankscope.edges.executors import WorkPlace
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import RunStatus


@dataclass(frozen=True)
class Stub:
    """Adds a line (`PID DEVICES SLOTS`) to the file NAME of `notes`; `does` is what it does first.

    sleep: for `wait_seconds`; record: the same, between two statuses of a run NAME in the study folder `notes`, and no
    line; fail: raises; die: is killed, the first `times` times; hold: waits for a stop, or for the file NAME.go, and
    says which came.
    """

    notes: str
    name: str
    does: str = "touch"
    times: int = 1
    wait_seconds: float = 0.0
    seconds: float = 0.0
    slots: int = 1

    def run(self, place: WorkPlace) -> None:
        notes = Path(self.notes)
        if self.does == "record":
            StudyFolder.open(self.notes).write_status(RunStatus(run_id=self.name, state="running"))
        begun = notes / f"{self.name}.begun"
        with begun.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        said = "done"
        if self.does in ("sleep", "record"):
            time.sleep(self.wait_seconds)
        if self.does == "record":
            StudyFolder.open(self.notes).write_status(RunStatus(run_id=self.name, state="done"))
            return
        if self.does == "fail":
            raise ValueError(f"no luck with {self.name}")
        if self.does == "die" and len(begun.read_text().split()) <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.does == "hold":
            while not place.stop_requested() and not (notes / f"{self.name}.go").exists():
                time.sleep(0.05)
            said = "stopped" if place.stop_requested() else "done"
        with (notes / self.name).open("a") as stream:
            stream.write(f"{os.getpid()} {','.join(place.devices)} {said}\n")

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        return {self.name: error}
