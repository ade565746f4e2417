"""What failed of a run after it was trained: its own error in its own status, and scores that it has stay.

A run that was scored stays `done`, with what failed as its reason; one that was not is `failed`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.judge_client import GradingStopped
from rankscope.jobs.job_context import JobContext
from rankscope.jobs.score_job import came_through
from rankscope.records import PlannedRun, RunStatus
from rankscope.study.store_urls import without_secrets

LOOKS, DIALS, DERIVES = "looking inside", "scoring at other dials", "making derived runs"
"""Activities of a run that has its scores, as its status has them."""

_CALLED = {LOOKS: "the look inside", DIALS: "scoring at other dials", DERIVES: "making derived runs"}


class RunsFailed(RuntimeError):
    """Runs of a job of which something failed, each with its own error in its status already."""

    def __init__(self, run_ids: list[str]) -> None:
        super().__init__(" ".join(dict.fromkeys(run_ids)))

    @classmethod
    def named_in(cls, error: str) -> list[str]:
        """The ids of a job's error, as executors tell it; none where it is another."""
        kind, _, text = error.partition(": ")
        return text.split() if kind == cls.__name__ else []


@dataclass
class Finishing:
    """A trained run that is finished part by part: what fails of one part is noted, and the others are done.

    In a gang an error ends all its processes, as they wait for each other; who started it labels the run.
    """

    context: JobContext
    run: PlannedRun
    status: RunStatus
    failed: list[str]
    """Gets the run's id where something fails."""
    _details: list[str] = field(default_factory=list)

    def wants(self, activity: str) -> bool:
        """Whether this part may be done: the run has its scores, and the part has not failed."""
        return self.status.state == "done" and not has_failed_at(self.status, activity)

    @contextmanager
    def part(self, activity: str) -> Iterator[None]:
        """Do inside what a run with scores still needs; its status says so."""
        self.context.write_status(self.status.model_copy(update={"activity": activity}))
        try:
            yield
        except GradingStopped:
            raise
        except Exception as error:  # kept with its traceback, as of a whole job
            if self.context.in_gang:
                raise
            self.status = label(self.context, self.run, error, self._details)
            self._details.append("".join(traceback.format_exception(error)))
            self.failed.append(self.run.run_id)
        else:
            self.context.write_status(self.status)


@contextmanager
def labelling(context: JobContext, run: PlannedRun, failed: list[str]) -> Iterator[None]:
    """Go on after a run that could not be finished, with its error in its status and its id in `failed`."""
    try:
        yield
    except GradingStopped:
        pass
    except Exception as error:  # kept with its traceback, as of a whole job
        label(context, run, error)
        failed.append(run.run_id)


def label(
    context: JobContext,
    run: PlannedRun,
    error: Exception,
    before: Sequence[str] = (),
    write: Callable[[RunStatus], None] | None = None,
) -> RunStatus:
    """Label a run whose job is still at work; its new status. `before`: tracebacks of what failed of it before. Without
    `write` it is written as this job's, which raises Superseded where another job has begun to work on the run."""
    status = context.folder.read_status(run.run_id)
    # Of a run that is looked into dials may be missing: they come yet.
    scored = status is not None and status.state == "done" and status.activity in (LOOKS, DERIVES)
    scored = scored or came_through(context.folder, context.plan, run)
    text = without_secrets(f"{type(error).__name__}: {error}")
    details = "\n".join([*before, "".join(traceback.format_exception(error))])
    return label_run(context.folder, run, (text, details), scored=scored, write=write or context.write_status)


def label_run(
    folder: StudyFolder,
    run: PlannedRun,
    error: tuple[str, str],
    *,
    scored: bool,
    write: Callable[[RunStatus], None],
) -> RunStatus:
    """Write what failed of a run into its status, and the traceback beside it. `error`: in a line, and in full;
    `scored`: whether it stays what it is, with what failed as a note."""
    status = folder.read_status(run.run_id) or RunStatus(run_id=run.run_id, state="planned")
    update: dict[str, object] = {"state": "failed", "reason": error[0], "activity": None}
    if scored:
        noted = f"{_CALLED.get(status.activity or '', 'finishing it')} failed: {error[0]}"
        update |= {"state": status.state, "reason": f"{status.reason}; {noted}" if status.reason else noted}
    status = status.model_copy(update=update)
    write(status)
    folder.write_error(folder.run_folder(run.run_id), error[1])
    return status


def is_finishing(folder: StudyFolder, run: PlannedRun) -> bool:
    """Whether a run was at something that comes after its scores when its job ended."""
    status = folder.read_status(run.run_id)
    return status is not None and status.activity in _CALLED


def has_failed_at(status: RunStatus, activity: str) -> bool:
    """Whether this part of a run with scores failed, since a job began to work on it."""
    return status.state == "done" and f"{_CALLED[activity]} failed: " in (status.reason or "")


def try_again(context: JobContext, run: PlannedRun) -> None:
    """A job begins that tries again what failed of a run with scores, if its weights are there. Until then what it is
    at is the part that failed, so that a job that dies before it leaves a trace."""
    status = context.folder.read_status(run.run_id)
    if status is None or status.state != "done" or not (status.reason or status.activity):
        return
    if context.folder.has_weights(run.run_id, whole=run.arm.traits.whole):
        failed = (activity for activity in _CALLED if has_failed_at(status, activity))
        update = {"reason": None, "activity": next(failed, status.activity)}
        context.write_status(status.model_copy(update=update))


def end_activity(folder: StudyFolder, run: PlannedRun) -> None:
    """Nothing is left to do of a run with scores."""
    status = folder.read_status(run.run_id)
    if status is not None and status.state == "done" and status.activity is not None:
        folder.write_status(status.model_copy(update={"activity": None}))


def told(status: RunStatus | None) -> str:
    """What failed of a run, as the command says it."""
    reason = (status.reason if status is not None else None) or "its status is gone"
    return f"scored, but {reason}" if status is not None and status.state == "done" else reason
