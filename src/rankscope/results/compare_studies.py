"""What changed between two finished studies: their settings, arms, answers, and how far each arm moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rankscope.decide.paired_items import Frames, pair
from rankscope.decide.study_differences import moved
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Plan, SuiteFacts, TrainFacts, Verdict
from rankscope.records.comparison_record import (
    AnswerDifference,
    ArmDifference,
    Comparison,
    PairComparison,
    SettingDifference,
)
from rankscope.results.frames import frames_of, planned_study
from rankscope.study.study import Study


class Told(NamedTuple):
    """A study folder as far as a comparison needs it."""

    url: str
    study: Study
    plan: Plan
    frames: Frames
    verdicts: list[Verdict]


def compare(first: StudyFolder, second: StudyFolder) -> Comparison:
    """What changed from the first study to the second. Raises InputProblems where one has no verdict yet.

    Base models and training sets are matched by name; where each study has only one pair these are compared whatever
    they are called.
    """
    one, other = _told(first), _told(second)
    matched = _matched(one, other)
    known = [{verdict.name for pair in matched for verdict in pair[side : side + 1]} for side in (0, 1)]
    lonely = [
        f"{verdict.name} (only in {told.url})"
        for told, names in zip((one, other), known, strict=True)
        for verdict in told.verdicts
        if verdict.name not in names
    ]
    return Comparison(
        first=one.url,
        second=other.url,
        confidence=one.study.decision.confidence,
        settings=setting_differences(one, other),
        main=main_differences(one, other),
        pairs=[_pair(one, other, *verdicts) for verdicts in matched],
        unmatched=lonely,
    )


def _told(folder: StudyFolder) -> Told:
    study, plan = planned_study(folder)
    return Told(folder.url, study, plan, frames_of(folder, plan), folder.verdicts().verdicts)


def _matched(one: Told, other: Told) -> list[tuple[Verdict, Verdict]]:
    if len(one.verdicts) == len(other.verdicts) == 1:
        return [(one.verdicts[0], other.verdicts[0])]
    by_name = {verdict.name: verdict for verdict in other.verdicts}
    return [(verdict, by_name[verdict.name]) for verdict in one.verdicts if verdict.name in by_name]


# ---- settings -------------------------------------------------------------------------------------------------------


def setting_differences(one: Told, other: Told) -> list[SettingDifference]:
    """The settings that are not the same, but for the study's name, and the models and data whose content is not."""
    flat = [dict(_settings(told)) for told in (one, other)]
    names = [*flat[0], *(name for name in flat[1] if name not in flat[0])]
    return [
        SettingDifference(name=name, first=flat[0].get(name), second=flat[1].get(name))
        for name in names
        if flat[0].get(name) != flat[1].get(name)
    ]


def _settings(told: Told) -> Iterator[tuple[str, str]]:
    settings = told.study.model_dump(mode="json", by_alias=True, exclude_none=True)
    yield from _flat({key: value for key, value in settings.items() if key != "name"})
    plan = told.plan
    several = len(plan.models) > 1
    for facts in plan.models:
        yield f"content of model {facts.name}", facts.content_sha256[:12]
    for kind, found in (("training set", plan.train_sets), ("suite", plan.suites)):
        for data in found:
            yield f"content of {kind} {_named(data, several)}, as tokens", data.content_sha256[:12]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names and values as they are written."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
            yield from _flat({str(place): entry for place, entry in enumerate(value)}, f"{prefix}{key}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{prefix}{key}", shown


_MAIN = ("budget.", "decision.")


def main_differences(one: Told, other: Told) -> list[SettingDifference]:
    """The differences that decide what two answers can have in common, each in one row: base models, training sets,
    suites, arms, seeds, budget, margins. Lists name only what the other has not."""
    sides = (one, other)
    rows = [SettingDifference(name=name, first=a, second=b) for name, a, b in _content(sides) if a != b]
    for name, found in (
        ("suites", [{suite.name for suite in told.plan.suites} for told in sides]),
        ("arms", [{run.arm.label for run in told.plan.runs} for told in sides]),
    ):
        own = [", ".join(sorted(mine - theirs)) or None for mine, theirs in (found, found[::-1])]
        if own != [None, None]:
            rows.append(SettingDifference(name=f"{name} in one only", first=own[0], second=own[1]))
    flat = [setting for setting in setting_differences(one, other) if setting.name.startswith((*_MAIN, "seeds"))]
    return [*rows, *flat]


def _content(sides: tuple[Told, Told]) -> Iterator[tuple[str, str | None, str | None]]:
    """Base models, and the training sets and suites that both have, with their size where they are not the same."""
    models = [{m.content_sha256 for m in told.plan.models} for told in sides]
    if models[0] != models[1]:
        named = [", ".join(m.source for m in told.plan.models) for told in sides]
        yield "base model", named[0], named[1] if named[0] != named[1] else f"{named[1]}, other weights"
    several = any(len(told.plan.models) > 1 for told in sides)
    bases = [{m.name: m.content_sha256 for m in told.plan.models} for told in sides]
    trained = [
        {_named(t, several): _Size(bases[i][t.model], t.content_sha256, t.row_count) for t in told.plan.train_sets}
        for i, told in enumerate(sides)
    ]
    names = [list(dict.fromkeys(t.name for t in told.plan.train_sets)) for told in sides]
    if set(names[0]) != set(names[1]):
        yield "training sets", ", ".join(names[0]), ", ".join(names[1])
    yield from _sizes("training set", "rows", trained)
    scored = [
        {_named(s, several): _Size(bases[i][s.model], s.content_sha256, s.item_count) for s in told.plan.suites}
        for i, told in enumerate(sides)
    ]
    yield from _sizes("suite", "items", scored)
    metrics = [{s.name: f"judged by {s.metric}" for s in told.plan.suites} for told in sides]
    for name in (name for name in metrics[0] if name in metrics[1]):
        yield f"suite {name}", metrics[0][name], metrics[1][name]


def _named(facts: TrainFacts | SuiteFacts, several: bool) -> str:
    """Its name, with its base model's where a study has several: each tokenizer makes other rows of one file."""
    return f"{facts.name} for {facts.model}" if several else facts.name


class _Size(NamedTuple):
    """Rows or items of one base model: the hashes of its weights and of the rows as its tokens, and their number."""

    base: str
    content: str
    number: int


def _sizes(kind: str, unit: str, sides: Sequence[Mapping[str, _Size]]) -> Iterator[tuple[str, str | None, str | None]]:
    """What both have and is not the same. Under another base's tokenizer the same rows have another hash, and only
    their number tells."""
    for name, was in sides[0].items():
        now = sides[1].get(name, was)
        if now.content != was.content and (now.base == was.base or now.number != was.number):
            other = "other " * (now.number == was.number)
            yield f"{kind} {name}", f"{was.number:,} {unit}", f"{now.number:,} {other}{unit}"


# ---- one base model and training set --------------------------------------------------------------------------------


def _pair(one: Told, other: Told, first: Verdict, second: Verdict) -> PairComparison:
    labels = [[arm.label for arm in verdict.arms_by_size] for verdict in (first, second)]
    shared = [label for label in labels[0] if label in labels[1]]
    same = _same_suites((one, first), (other, second))
    return PairComparison(
        name=(first.name, second.name),
        answers=_answers(first, second),
        arms=[_arm(one, other, (first, second), label, same) for label in shared],
        only_first=[label for label in labels[0] if label not in shared],
        only_second=[label for label in labels[1] if label not in shared],
    )


def _answers(first: Verdict, second: Verdict) -> AnswerDifference:
    bets = (first.best_bet, second.best_bet)
    return AnswerDifference(
        kind=(first.kind, second.kind),
        headline=(first.answers[0].headline, second.answers[0].headline),
        sentence=(first.answers[0].sentence, second.answers[0].sentence),
        recommended=_both(v.recommended.label if v.recommended else None for v in (first, second)),
        best_bet=_both(bet.label if bet else None for bet in bets),
        probability=_both(bet.probability if bet else None for bet in bets),
    )


def _both(values: Iterator[Any]) -> tuple[Any, Any]:
    first, second = values
    return first, second


def _same_suites(*sides: tuple[Told, Verdict]) -> frozenset[str]:
    """The suites that have the same content in both studies."""
    found = [{(s.name, s.content_sha256) for s in told.plan.suites if s.model == v.model} for told, v in sides]
    return frozenset(name for name, _ in found[0] & found[1])


def _arm(one: Told, other: Told, verdicts: tuple[Verdict, Verdict], label: str, same: frozenset[str]) -> ArmDifference:
    rows = [next(arm for arm in verdict.arms if arm.label == label) for verdict in verdicts]
    pairings = [
        pair(told.frames, model=verdict.model, train_set=verdict.train_set, only=[label])
        for told, verdict in zip((one, other), verdicts, strict=True)
    ]
    found = moved(pairings[0], pairings[1], same, one.study.decision.confidence)
    return ArmDifference(
        arm=label,
        learning_rate=(rows[0].learning_rate, rows[1].learning_rate),
        dial=(rows[0].dial, rows[1].dial),
        paired=found.why is None and bool(found.suites),
        why=found.why,
        seeds=(list(pairings[0].seeds), list(pairings[1].seeds)),
        gain=found.gain,
        forgetting=found.forgetting,
        gain_nats=found.gain_nats,
        forgetting_nats=found.forgetting_nats,
        suites=found.suites,
        alone=found.alone,
    )
