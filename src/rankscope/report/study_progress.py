"""How far a study is: shares done, speeds, time left, what is being done, and the live view of them.

Imports neither pandas nor torch, as `rankscope status` must answer at once.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.text import Text

from rankscope.records import Plan, PlannedRun, PlannedSearch, RunStatus, Stage
from rankscope.records.readable_numbers import duration, size
from rankscope.report.terminal_tables import ENDED, status_table

ReadStatus = Callable[[str], RunStatus | None]
ReadStage = Callable[[], Stage | None]
ReadRungs = Callable[[str], Mapping[str, Any] | None]
"""What a search has measured so far, by `arm rate step`; None before it began."""

_LOG_SECONDS = 15.0
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Progress:
    """A study at one moment. `shares` maps runs and searches to the share of them that is done, 0 to 1."""

    statuses: dict[str, RunStatus]
    shares: dict[str, float]
    optional: frozenset[str] = frozenset()
    """Runs of later seeds, not begun: with adaptive seeds they are made only where the verdict asks for them."""
    bases: dict[str, RunStatus] = field(default_factory=dict)
    """By base model, where it has begun to be scored."""

    @property
    def is_unfinished(self) -> bool:
        """Whether something is left to do."""
        states = [status.state for name, status in self.statuses.items() if name not in self.optional]
        return any(state not in ENDED for state in states)


def look(plan: Plan, read_status: ReadStatus, read_rungs: ReadRungs = lambda _: None) -> Progress:
    """Reads every status; a run that has none yet is planned, or does not fit."""
    statuses = {}
    for run in plan.runs:
        found = read_status(run.run_id)
        if found is None:
            state = "planned" if run.fits else "does not fit"
            found = RunStatus(run_id=run.run_id, state=state, reason=run.reason, steps_total=run.step_count)
        statuses[run.run_id] = found
    shares = {run.run_id: run_share(plan, run, statuses[run.run_id]) for run in plan.runs}
    needed = {run.search_id for run in plan.runs if statuses[run.run_id].state not in ENDED}
    for search in plan.searches:
        begun = search.search_id in needed  # else its runs are done, so it is
        shares[search.search_id] = search.share_done(read_rungs(search.search_id) or ()) if begun else 1.0
    first = plan.looks[0] if plan.looks else None
    later = [r.run_id for r in plan.runs if first is not None and r.seed >= first]
    optional = {run_id for run_id in later if statuses[run_id].state == "planned"}
    bases = {name: status for name, run_id in plan.base_ids.items() if (status := read_status(run_id)) is not None}
    return Progress(statuses, shares, frozenset(optional), bases)


def run_share(plan: Plan, run: PlannedRun, status: RunStatus) -> float:
    """Share of a run that is done; training and scoring weigh as their FLOPs in the plan."""
    if status.state in ENDED:
        return 1.0
    flops = run.train_flops + run.evaluate_flops
    training = run.train_flops / flops if flops else 1.0
    steps = status.steps_done / status.steps_total if status.steps_total else 0.0
    items = plan.item_count(run.model)
    return training * steps + (1.0 - training) * (status.items_scored / items if items else 0.0)


def seconds_left(
    plan: Plan,
    now: Mapping[str, float],
    before: Mapping[str, float],
    elapsed_seconds: float,
    optional: Container[str] = (),
) -> float | None:
    """Planned seconds of what is left, scaled by how the work of this session compared with its plan.

    `now` and `before` are shares by run and search, before this session and at present. Never less than the largest
    run that is left takes one worker; `optional` runs do not count. None until a fiftieth of the session's work is
    done: the scale would be noise.
    """
    runs = {run.run_id: run for run in plan.runs if run.fits and run.run_id not in optional}
    planned: dict[str, PlannedRun | PlannedSearch] = {**runs, **{one.search_id: one for one in plan.searches}}
    slots = {name: min(one.devices, plan.resolved.worker_count) for name, one in planned.items()}
    workers = max(1, min(plan.resolved.worker_count, sum(slots.values())))
    left = {name: one.seconds * (1.0 - now[name]) for name, one in planned.items()}
    finished = sum(one.seconds * (now[name] - before[name]) * slots[name] for name, one in planned.items())
    rest = sum(left[name] * slots[name] for name in planned)  # of a gang each of its devices
    rest += plan.derived_seconds  # derived runs come last, when no run is left
    total = finished + rest
    if total <= 0 or finished < 0.02 * total:
        return None
    return max(rest, max(left.values()) * workers) * elapsed_seconds / finished


def counts(progress: Progress) -> dict[str, int]:
    """How many runs are in each state; `may run` are those that the verdict may do without."""
    statuses = progress.statuses.items()
    return dict(Counter("may run" if name in progress.optional else status.state for name, status in statuses))


def as_json(plan: Plan, progress: Progress) -> dict[str, Any]:
    """`rankscope status --json`: counts by state, and every run's status."""
    return {
        "study": plan.study,
        "counts": counts(progress),
        "searches": {search.search_id: round(progress.shares[search.search_id], 4) for search in plan.searches},
        "runs": [
            {"model": run.model, "train_set": run.train_set, "arm": run.arm.label, "seed": run.seed}
            | progress.statuses[run.run_id].model_dump()
            | {
                "optional": run.run_id in progress.optional,
                "items_total": plan.item_count(run.model),
                "tokens_per_second": progress.statuses[run.run_id].tokens_per_second(run.train_tokens),
            }
            for run in plan.runs
        ],
    }


def activities(plan: Plan, progress: Progress, stage: Stage | None, now_seconds: float) -> list[str]:
    """What is being done beside training and scoring runs, a line each; `now_seconds` since 1970, as the stage's."""
    said = []
    if stage is not None:
        said.append(stage.sentence(now_seconds))
    for model, status in progress.bases.items():
        if status.state == "running":
            said.append(f"the base {model}: {status.items_scored:,} of {plan.item_count(model):,} items scored")
        elif status.activity is not None:
            said.append(f"the base {model}: {status.activity}")
    for search in plan.searches:
        if 0 < (share := progress.shares[search.search_id]) < 1:
            arms = ", ".join(arm.label for arm in search.arms)
            said.append(f"learning-rate search for {arms} on {search.train_set}: {100 * share:.0f} % of its steps")
    inside = [(run, progress.statuses[run.run_id].activity) for run in plan.runs]
    return said + [f"{_name(run)}: {activity}" for run, activity in inside if activity is not None]


# ---- the live view --------------------------------------------------------------------------------------------------


class Live:
    """Shows progress on stderr: a live table in a terminal, else a line when a run ends and every 15 seconds.

    A thread looks at the folder twice a second, so that the view moves while this process itself trains.
    """

    def __init__(
        self,
        read_status: ReadStatus,
        read_rungs: ReadRungs = lambda _: None,
        read_stage: ReadStage = lambda: None,
        console: Console | None = None,
    ) -> None:
        self._read, self._read_rungs, self._read_stage = read_status, read_rungs, read_stage
        self._console = console or Console(stderr=True)
        self._started = self._moved = time.monotonic()
        self._plan: Plan | None = None
        self._before: Progress | None = None
        self._logged: set[str] = set()
        self._last_log, self._doing = float("-inf"), ""
        self._live: RichLive | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._show()  # the runs that ended since it looked
        if self._live is not None:
            self._live.stop()

    def update(self, plan: Plan) -> None:
        """Show this plan's progress from now on; the first call starts the clock."""
        with self._lock:
            self._plan = plan
        if self._thread is None:
            self._show()
            self._thread = threading.Thread(target=self._watch, daemon=True, name="live-view")
            self._thread.start()

    def show_once(self, plan: Plan, *, worked_on: bool = True) -> None:
        """The table as it is now, in a terminal or not; `rankscope status`. `worked_on`: a process works on it."""
        progress = look(plan, self._read, self._read_rungs)
        said = activities(plan, progress, self._read_stage(), time.time()) if worked_on else []
        self._console.print(_view(plan, progress, [*said, _summary(progress, None)]))

    def follow(self, plan: Plan, is_worked_on: Callable[[], bool]) -> None:
        """Watch another process's study for as long as one works on it."""
        self.update(plan)
        while is_worked_on():
            time.sleep(_LOOK_SECONDS)

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self._show()

    def _show(self) -> None:
        with self._lock:
            plan = self._plan
            assert plan is not None
            progress = look(plan, self._read, self._read_rungs)
            if self._before is None:
                self._before = progress
            now = time.monotonic()
            if progress.shares == self._before.shares:
                self._moved = now  # the clock of the work starts with it: not with imports, or with the base's scores
            elapsed = now - self._moved
            left = seconds_left(plan, progress.shares, self._before.shares, elapsed, progress.optional)
            said = activities(plan, progress, self._read_stage(), time.time())
            if not self._console.is_terminal:
                self._log(plan, progress, said, left)
                return
            if self._live is None:
                self._live = RichLive(console=self._console, refresh_per_second=4, transient=True)
                self._live.start()
            summary = f"{_summary(progress, left)}; {duration(now - self._started)} so far"
            self._live.update(_view(plan, progress, [*said, summary]))

    def _log(self, plan: Plan, progress: Progress, said: list[str], left: float | None) -> None:
        assert self._before is not None
        for run in plan.runs:
            status = progress.statuses[run.run_id]
            if status.state in ENDED and run.run_id not in self._logged:
                self._logged.add(run.run_id)
                if self._before.statuses[run.run_id].state not in ENDED:
                    self._print(f"{_name(run)}: {_ended(run, status)}")
        doing = said[0].split(",")[0] if said else ""
        if doing != self._doing or time.monotonic() - self._last_log >= _LOG_SECONDS:
            self._last_log, self._doing = time.monotonic(), doing
            for line in said:
                self._print(f"  {line}")
            for run in plan.runs:
                status = progress.statuses[run.run_id]
                if status.state == "running":
                    self._print(f"  {_name(run)}: {', '.join(_running(plan, run, status))}")
            self._print(_summary(progress, left))

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _view(plan: Plan, progress: Progress, lines: list[str]) -> Group:
    table = status_table(plan, progress.statuses, progress.shares, progress.optional)
    return Group(table, *(Text(line, style="dim") for line in lines))


def _ended(run: PlannedRun, status: RunStatus) -> str:
    if status.state != "done":
        return f"{status.state}: {status.reason}"
    parts = [f"done in {duration((status.train_seconds or 0.0) + (status.evaluate_seconds or 0.0))}"]
    parts += [f"loss {status.final_train_loss:.3f}"] if status.final_train_loss is not None else []
    return ", ".join([*parts, *_measured(run, status), *([status.reason] if status.reason else [])])


def _running(plan: Plan, run: PlannedRun, status: RunStatus) -> list[str]:
    parts = [f"step {status.steps_done} of {status.steps_total}"]
    if status.items_scored or (status.steps_total and status.steps_done >= status.steps_total):
        parts = [f"{status.items_scored:,} of {plan.item_count(run.model):,} items scored"]
    parts += [f"loss {status.final_train_loss:.3f}"] if status.final_train_loss is not None else []
    return [*parts, *_measured(run, status)]


def _measured(run: PlannedRun, status: RunStatus) -> list[str]:
    speed = status.tokens_per_second(run.train_tokens)
    parts = [f"{speed:,.0f} tokens/s"] if speed is not None else []
    return parts + ([size(status.peak_memory_bytes)] if status.peak_memory_bytes else [])


def _summary(progress: Progress, left: float | None) -> str:
    parts = ", ".join(f"{count} {state}" for state, count in counts(progress).items())
    if progress.is_unfinished:
        parts += f"; time left: {duration(left) if left is not None else 'not known yet'}"
    return parts


def _name(run: PlannedRun) -> str:
    return f"{run.arm.label} on {run.train_set}, seed {run.seed}"
