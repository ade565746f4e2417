"""From a study folder to its trackers: every run from when it begins, its curves while it trains, then the verdict.

Each tracker has a thread, which looks at the folder every few seconds: one that is slow, or whose server is gone,
holds nobody up.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rankscope.edges.study_folder import StudyFolder
from rankscope.edges.trackers import Tracker, make_tracker, tracker_problems
from rankscope.records import HandedOn, Plan, PlannedRun, RunStatus
from rankscope.results.tracked_runs import ENDED, points, tracked_run, verdict_texts
from rankscope.study.problems import InputProblems
from rankscope.study.store_urls import without_secrets
from rankscope.study.study import Study

_LOOK_SECONDS = 5.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 30.0, 1800.0
"""After a failure, and twice as long after each further one."""

_FINISH_SECONDS = 120.0
"""How long the command waits for its trackers when the study has ended."""

Tell = Callable[[str], None]


def tracking_of(study: Study, folder: StudyFolder, file: str, tell: Tell) -> Tracking:
    """What hands a study's runs to its trackers. Raises InputProblems where a tracker is not installed."""
    problems = tracker_problems(study.track, file)
    if problems:
        raise InputProblems(problems)

    def maker(name: str) -> Callable[[], Tracker]:
        return lambda: make_tracker(name, study.name, folder.local_folder())

    return Tracking(folder, {name: maker(name) for name in study.track}, tell)


class Tracking:
    """Hands the runs of a study to every tracker, each point once, over any number of sessions.

    `tell` gets one line where a tracker fails. The trackers are made after the first `update`, when the study has been
    found to be right: they write into its folder.
    """

    def __init__(self, folder: StudyFolder, makers: Mapping[str, Callable[[], Tracker]], tell: Tell) -> None:
        self._tell = tell
        self._feeds = {name: _Feed(name, folder, make, tell) for name, make in makers.items()}

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hand on what is there by now, in two minutes at most."""
        deadline = time.monotonic() + _FINISH_SECONDS
        for feed in self._feeds.values():
            feed.ended.set()
        for name, feed in self._feeds.items():
            if feed.is_alive():
                feed.join(max(0.0, deadline - time.monotonic()))
            if feed.is_alive():
                self._tell(f"the tracker {name} takes too long; the next `rankscope run` hands on the rest")

    def update(self, plan: Plan) -> None:
        """Follow the runs of this plan from now on."""
        for feed in self._feeds.values():
            feed.follow(plan)


class _Feed(threading.Thread):
    """Looks at the folder until `ended` is set, and once more then."""

    def __init__(self, name: str, folder: StudyFolder, make: Callable[[], Tracker], tell: Tell) -> None:
        super().__init__(daemon=True, name=f"tracker-{name}")
        self.ended = threading.Event()
        self._tracker_name, self._folder, self._make, self._tell = name, folder, make, tell
        self._plan: Plan | None = None
        self._tracker: Tracker | None = None
        self._open: set[str] = set()
        self._steps: dict[str, int] = {}
        self._ended_runs: set[str] = set()
        self._pause, self._told = _FIRST_PAUSE_SECONDS, False

    def follow(self, plan: Plan) -> None:
        begins = self._plan is None
        self._plan = plan
        if begins:
            self.start()

    def run(self) -> None:
        while not self.ended.is_set():
            self.ended.wait(_LOOK_SECONDS if self._tries(self._look) else self._failed())
        if self._tries(self._look) and self._tries(self._outcome):
            self._tries(self._close)

    def _tries(self, work: Callable[[Tracker], None]) -> bool:
        """Whether it went well; the first failure of a session is told."""
        try:
            if self._tracker is None:
                self._tracker = self._make()
                kept = self._folder.read_handed_on(self._tracker_name)
                self._steps, self._ended_runs = dict(kept.steps), set(kept.ended)
            work(self._tracker)
        except Exception as error:  # whatever a tracker meets is not the study's fault, and must not end it
            if not self._told:
                self._told = True
                why = without_secrets(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
                self._tell(f"the tracker {self._tracker_name} failed ({why}); the study goes on, and it is tried again")
            return False
        return True

    def _failed(self) -> float:
        """Begin with a new tracker after a pause; its seconds."""
        tracker, self._tracker = self._tracker, None
        self._open.clear()
        if tracker is not None:
            with contextlib.suppress(Exception):  # it has failed already
                tracker.close()
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        return pause

    def _look(self, tracker: Tracker) -> None:
        """Hand on what is new of every run that has begun."""
        assert self._plan is not None
        for run in self._plan.runs:
            if run.run_id not in self._ended_runs:
                status = self._folder.read_status(run.run_id)
                if status is not None and status.state in ("running", *ENDED):
                    self._hand_on(tracker, run, status)

    def _hand_on(self, tracker: Tracker, run: PlannedRun, status: RunStatus) -> None:
        run_id, sent = run.run_id, self._steps.get(run.run_id)
        if run_id not in self._open:
            tracker.begin(tracked_run(self._folder, run, status.model_copy(update={"state": "running"})), anew=not sent)
            self._open.add(run_id)
        steps = self._folder.read_steps(run_id)
        if new := points(steps[sent or 0 :]):  # a run that began again from a checkpoint repeats its steps, bit for bit
            tracker.log(run_id, new)
            self._steps[run_id] = len(steps)
        if status.state in ENDED:
            tracker.end(tracked_run(self._folder, run, status), steps[-1]["step"] if steps else 0)
            self._ended_runs.add(run_id)
        if new or status.state in ENDED:
            handed_on = HandedOn(steps=self._steps, ended=sorted(self._ended_runs))
            self._folder.write_handed_on(self._tracker_name, handed_on)

    def _outcome(self, tracker: Tracker) -> None:
        verdicts = self._folder.read_verdicts()
        if verdicts is not None:
            tracker.log_outcome(verdict_texts(verdicts), self._folder.outcome_files())

    def _close(self, tracker: Tracker) -> None:
        tracker.close()
