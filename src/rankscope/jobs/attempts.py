"""Which process works on a run, by a number in its status: of two that each take the other for dead, the later goes on.

Locks keep two processes apart where they hold. On a machine that was cut off, or on a file system whose locks are each
node's own, this does.
"""

from __future__ import annotations

from rankscope.edges.study_folder import StudyFolder
from rankscope.study.problems import InputProblems


class Superseded(RuntimeError):
    """A later attempt at the same run has begun: this one was taken for dead."""


class Attempts:
    """The attempts of one job, by the runs that it works on."""

    def __init__(self) -> None:
        self._own: dict[str, int] = {}

    def number(self, folder: StudyFolder, run_id: str) -> int:
        """This job's attempt at a run, to be written into its status: one more than the last one's, from the first call
        on. Raises Superseded where the status has a higher one by now."""
        try:
            before = folder.read_status(run_id)
        except InputProblems:  # damaged: it is written anew
            before = None
        found = before.attempt if before is not None else 0
        own = self._own.setdefault(run_id, found + 1)
        if found > own:
            raise Superseded(f"attempt {found} of {run_id} has begun; this one, {own}, ends")
        return own
