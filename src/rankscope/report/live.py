"""A study while it runs: what is done, what is running, what is left and how long that will take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rankscope.records import Plan, PlannedRun, RunStatus

ReadStatus = Callable[[str], RunStatus | None]

_LOG_SECONDS = 15.0
ENDED = ("done", "diverged", "failed", "does not fit", "not needed")


class Live:
    """Shows progress on stderr: a live table in a terminal, else a line when a run ends and every 15 seconds."""

    def __init__(self, read_status: ReadStatus, console: Console | None = None) -> None:
        self._read = read_status
        self._console = console or Console(stderr=True)
        self._started = time.monotonic()
        self._done_before: frozenset[str] | None = None
        self._logged: set[str] = set()
        self._last_log = 0.0
        self._live: RichLive | None = None

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, plan: Plan) -> None:
        """Read the statuses again and show them; cheap enough for four times a second."""
        statuses = read_all(plan, self._read)
        if self._done_before is None:
            self._done_before = frozenset(run_id for run_id, s in statuses.items() if s.state in ENDED)
        left = seconds_left(plan, statuses, self._done_before, time.monotonic() - self._started)
        if not self._console.is_terminal:
            return self._log(plan, statuses, left)
        if self._live is None:
            self._live = RichLive(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self._live.update(_table(plan, statuses, left, time.monotonic() - self._started))

    def follow(self, plan: Plan) -> None:
        """Watch another process's study until nothing is left of it."""
        while True:
            self.update(plan)
            if all(status.state in ENDED for status in read_all(plan, self._read).values()):
                return
            time.sleep(1.0)

    def _log(self, plan: Plan, statuses: dict[str, RunStatus], left: float | None) -> None:
        labels = {run.run_id: _name(run) for run in plan.runs}
        for run_id, status in statuses.items():
            if status.state in ENDED and run_id not in self._logged:
                self._logged.add(run_id)
                if run_id not in (self._done_before or ()):
                    self._console.print(f"{labels[run_id]}: {_ended(status)}", highlight=False, soft_wrap=True)
        if time.monotonic() - self._last_log >= _LOG_SECONDS:
            self._last_log = time.monotonic()
            self._console.print(_summary(statuses, left), highlight=False, soft_wrap=True)


def read_all(plan: Plan, read_status: ReadStatus) -> dict[str, RunStatus]:
    """Every planned run's status; one that has none yet is planned, or does not fit."""
    statuses = {}
    for run in plan.runs:
        found = read_status(run.run_id)
        if found is None:
            state = "planned" if run.fits else "does not fit"
            found = RunStatus(run_id=run.run_id, state=state, reason=run.reason, steps_total=run.step_count)
        statuses[run.run_id] = found
    return statuses


def seconds_left(
    plan: Plan, statuses: dict[str, RunStatus], done_before: frozenset[str], elapsed_seconds: float
) -> float | None:
    """Planned seconds of what is left, scaled by how the work done in this session compared with its plan.

    None until a twentieth of this session's work is done: before that the scale would be noise.
    """
    todo = [run for run in plan.runs if run.run_id not in done_before and run.fits]
    total = sum(run.seconds for run in todo)
    finished = sum(run.seconds * _share(statuses[run.run_id]) for run in todo)
    if total <= 0 or finished < 0.05 * total:
        return None
    return elapsed_seconds * (total - finished) / finished


def _share(status: RunStatus) -> float:
    """Share of a run that is done; training is taken for nine tenths, scoring for the rest."""
    if status.state in ENDED:
        return 1.0
    return 0.9 * status.steps_done / status.steps_total if status.steps_total else 0.0


def as_json(plan: Plan, read_status: ReadStatus) -> dict[str, Any]:
    """`rankscope status --json`: counts by state, and every run's status."""
    statuses = read_all(plan, read_status)
    return {
        "study": plan.study,
        "counts": dict(Counter(status.state for status in statuses.values())),
        "runs": [
            {"model": run.model, "train_set": run.train_set, "arm": run.arm.label, "seed": run.seed}
            | statuses[run.run_id].model_dump()
            for run in plan.runs
        ],
    }


def _name(run: PlannedRun) -> str:
    return f"{run.arm.label} on {run.train_set}, seed {run.seed}"


def _ended(status: RunStatus) -> str:
    if status.state != "done":
        return f"{status.state}: {status.reason}"
    seconds = (status.train_seconds or 0.0) + (status.evaluate_seconds or 0.0)
    loss = f", loss {status.final_train_loss:.3f}" if status.final_train_loss is not None else ""
    return f"done in {_duration(seconds)}{loss}"


def _summary(statuses: dict[str, RunStatus], left: float | None) -> str:
    counts = Counter(status.state for status in statuses.values())
    parts = ", ".join(f"{count} {state}" for state, count in counts.items())
    return f"{parts}; time left: {_duration(left) if left is not None else 'not known yet'}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _table(plan: Plan, statuses: dict[str, RunStatus], left: float | None, elapsed_seconds: float) -> RenderableType:
    """One line an arm and training set: its seeds done, the step and loss of what runs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("arm", "training set", "seeds done", "progress", "loss"):
        table.add_column(heading)
    groups: dict[tuple[str, str, str], list[RunStatus]] = {}
    for run in plan.runs:
        groups.setdefault((run.model, run.arm.label, run.train_set), []).append(statuses[run.run_id])
    for (_, label, train_set), group in groups.items():
        done = sum(status.state == "done" for status in group)
        trouble = [
            status.state for status in group if status.state in ENDED and status.state not in ("done", "not needed")
        ]
        losses = [s.final_train_loss for s in group if s.final_train_loss is not None]
        bar = ProgressBar(total=len(group), completed=sum(map(_share, group)), width=24)
        loss = f"{losses[-1]:.3f}" if losses else ""
        table.add_row(label, train_set, f"{done}/{len(group)} {' '.join(trouble)}".strip(), bar, loss)
    elapsed = _duration(elapsed_seconds)
    return Group(table, Text(f"{_summary(statuses, left)}; {elapsed} so far", style="dim"))
