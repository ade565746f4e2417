"""Where a study's runs are shown beside others: the protocol of a tracker, and the trackers that lie in this folder.

A tracker is one file here with a class of its own, `NAME` (what a study calls it: `track: [NAME]`), `PACKAGES` (what it
needs to import) and `make(study, folder) -> Tracker`. Nothing else names it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rankscope.edges import named_in, names_in
from rankscope.study.problems import Problem


class Point(NamedTuple):
    """What was measured at a training step, by metric."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class TrackedRun:
    """A run as it stands. `params` are its settings, `tags` say where it came from, `metrics` what was measured by its
    end: empty before that. What was not measured is left out.
    """

    run_id: str
    name: str
    state: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def came_through(self) -> bool:
        """Whether it ended well."""
        return self.state == "done"


class Tracker(Protocol):
    """Takes each run when it begins, its points as they come, and its end; then the study's outcome.

    Called from one thread. Whatever it raises, the study goes on, and it is made anew and asked again later.
    """

    def begin(self, run: TrackedRun, *, anew: bool) -> None:
        """Shows a run that goes on here; before each other call about it. `anew`: none of its points was handed on
        yet, so what is left of it from an attempt that was cut off may go."""
        ...

    def log(self, run_id: str, points: Sequence[Point]) -> None:
        """Further points of a run's curves, in the order of their steps."""
        ...

    def end(self, run: TrackedRun, last_step: int) -> None:
        """The run has ended, with its metrics."""
        ...

    def log_outcome(self, texts: Mapping[str, str], files: Sequence[Path]) -> None:
        """The study's verdicts in words, and its files."""
        ...

    def close(self) -> None:
        """No call comes after this one. Runs that have not ended may go on in another session."""
        ...


def tracker_problems(names: Sequence[str], file: str) -> list[Problem]:
    """A problem for each tracker that is not known, or whose packages are not installed."""
    problems = []
    for name in names:
        module = named_in(__name__, name)
        if module is None:
            problems.append(Problem(file, "track", name, f"some of {', '.join(tracker_names())}"))
        elif any(importlib.util.find_spec(package) is None for package in module.PACKAGES):
            found = f"{name} without its packages"
            problems.append(Problem(file, "track", found, f"pip install 'rankscope[{name}]'"))
    return problems


def make_tracker(name: str, study: str, folder: Path) -> Tracker:
    """A tracker that writes below the study's `folder`, or where its own environment variables say.

    Raises KeyError for a name that none has.
    """
    module = named_in(__name__, name)
    if module is None:
        raise KeyError(name)
    made: Tracker = module.make(study, folder)
    return made


def tracker_names() -> list[str]:
    """What `track: [...]` may name."""
    return names_in(__name__)
