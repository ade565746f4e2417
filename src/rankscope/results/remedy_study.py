"""The next study after a finished one: its best arm, plain and with every remedy that acts while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Verdict
from rankscope.results.frames import planned_study
from rankscope.study.init_file import check_out, write_checked
from rankscope.study.methods import Arm
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Study
from rankscope.study.yaml_text import dump_yaml

HEADER = """\
# The best arm of the study {name}, plain and with remedies against forgetting: what keeps more, and at what price?
# After `rankscope run` the page has a section "What would keep more". docs/remedies.md says what each remedy does.
"""

REMEDIES: dict[str, dict[str, Any]] = {
    "kl0.1": {"retain": {"kl": 0.1}},
    "kl1": {"retain": {"kl": 1.0}},
    "self": {"replay": {"self": 0.2}},
    "self-kl": {"replay": {"self": 0.2}, "retain": {"kl": 1.0, "on": "replay"}},
}
FOR_WHOLE: dict[str, dict[str, Any]] = {"l2": {"retain": {"l2": 0.01}}}
"""Of methods that train the base's own weights."""


def write_remedy_study(folder: StudyFolder, out: Path) -> list[str]:
    """Write a study file with the best arm of each verdict and its remedies; the labels of these arms.

    The best is what the verdict recommends, else the best bet, else what gains most. Raises InputProblems where the
    folder has no verdict with an arm, or `out` exists.
    """
    check_out(out)
    study, _ = planned_study(folder)
    verdicts = folder.verdicts().verdicts
    best = list(dict.fromkeys(map(best_arm, verdicts)))
    labels = [label for label in best if label is not None]
    if not labels:
        raise InputProblems([Problem(folder.url, "--remedies", "no verdict on any arm", "a study that has ended")])
    settings = study.model_dump(mode="json", by_alias=True, exclude_none=True)
    arms = {arm.label: (key, arm) for key in study.arms for arm in study.arms_of(key)}
    rates = {row.label: row.learning_rate for verdict in verdicts for row in verdict.arms}
    settings["name"] = f"{study.name[:54]}-remedies"
    settings["arms"] = {}
    for label in labels:
        settings["arms"] |= _entries(study, *arms[label], rates.get(label))
    write_checked(out, HEADER.format(name=study.name) + dump_yaml(settings))
    return labels


def best_arm(verdict: Verdict) -> str | None:
    """The label of what is recommended, else bet on, else of what gains most; None where no arm was judged."""
    known = {row.label for row in verdict.arms if row.cost.trained_here}  # of others no setting is known
    if verdict.recommended is not None and verdict.recommended.label in known:
        return verdict.recommended.label
    bet = verdict.best_bet
    options = [] if bet is None else [bet.label, bet.least_bad.label if bet.least_bad is not None else None]
    for label in options:
        if label in known:
            return label
    judged = [row for row in verdict.arms if row.gain.mean is not None and row.label in known]
    return max(judged, key=lambda row: row.gain.mean or 0.0).label if judged else None


def _entries(study: Study, key: str, arm: Arm, rate: float | None) -> dict[str, dict[str, Any]]:
    """The arm without a remedy as an entry of its own, and one for each remedy, at the rate that it was judged at."""
    entry = study.arms[key].model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"retain", "replay"})
    if arm.traits.size is not None:
        entry[arm.traits.size.key] = [arm.size]
    if rate is not None:
        entry["learning_rate"] = rate
    remedies = {**REMEDIES, **(FOR_WHOLE if arm.traits.whole else {})}
    label = arm.label if arm.remedy is None else f"plain-{arm.label}"
    return {label: entry} | {f"{name}-{label}": {**entry, **more} for name, more in remedies.items()}
