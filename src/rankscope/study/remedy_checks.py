"""Remedies of arms that mean nothing: what a study file says of `retain` and `replay` beside its methods and suites."""

from __future__ import annotations

from rankscope.study.methods import METHODS
from rankscope.study.problems import Document, Problem
from rankscope.study.study import Study


def check_remedies(study: Study, document: Document) -> list[Problem]:
    """One for each setting that means nothing for its method, or without another setting or suite."""
    problems = []
    for key, entry in study.arms.items():
        given = () if entry.replay is None else entry.replay.prompts_from or ()
        if unknown := [name for name in given if name not in study.suites]:
            place = ("arms", key, "replay", "prompts_from")
            expected = f"suites of the study: {', '.join(study.suites)}"
            problems.append(document.problem(place, f"no suite {', '.join(unknown)}", expected))
        retain = entry.retain
        if retain is None:
            continue
        if retain.l2 is not None and not METHODS[entry.method].whole:
            found = f"a distance to the base's weights, which {entry.method} leaves as they are"
            problems.append(document.problem(("arms", key, "retain", "l2"), found, "`kl`, or no `l2`"))
        if retain.on == "replay" and (entry.replay is None or retain.kl is None):
            found = "replay, without `replay`" if entry.replay is None else "replay, without `kl`"
            problems.append(document.problem(("arms", key, "retain", "on"), found, "task, or both of them"))
    return problems
