"""Where a study's runs are shown beside others: the protocol of a tracker, and the trackers that lie in this folder.

A tracker is one file here with a class of its own, `NAME` (what a study calls it: `track: [NAME]`), `PACKAGES` (what it
needs to import) and `make(study, folder) -> Tracker`. Nothing else names it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rankscope.edges import named_in, names_in
from rankscope.study.problems import Problem


@dataclass(frozen=True)
class TrackedRun:
    """A run that ended. `curves` maps a metric to its (step, value) pairs, `metrics` to its last value.

    `params` are settings, `tags` say where it came from; a value that was not measured is left out.
    """

    run_id: str
    name: str
    state: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    tags: Mapping[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """Takes each run once it has ended, and then the study's outcome. What it has already is not taken twice."""

    def has(self, run_id: str) -> bool: ...

    def log_run(self, run: TrackedRun) -> None: ...

    def log_outcome(self, texts: Mapping[str, str], files: Sequence[Path]) -> None: ...


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
