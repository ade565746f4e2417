"""The setting of every arm, rate and dial, from what a study's searches and runs left in its folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from rankscope.decide.setting_choice import ArmPoints, choose_settings, exceeds_everywhere, with_fits
from rankscope.decide.setting_points import KEYS, RATE_NOT_KNOWN, SettingMeasurements, setting_points
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import (
    ArmSetting,
    Plan,
    PlannedChoice,
    PlannedRun,
    PlannedSearch,
    SearchRecord,
    SettingPoint,
    SettingsFile,
)
from rankscope.results.item_roles import Roles, chooses
from rankscope.results.search_names import ended_search, present_label
from rankscope.study.methods import Arm

_WORTH = ["suite", "item_id", "score", "loss_nats", "scored_tokens"]
_SCORES = [*KEYS, "seed", *_WORTH]
_MOVED = [*KEYS, "seed", "suite", "item_id", "kl_first_token_nats", "kl_choices_nats"]
_LOSSES = [*KEYS, "seed", "validation_loss"]


def settings_of(folder: StudyFolder, plan: Plan, suites: pd.DataFrame, roles: Roles) -> list[ArmSetting]:
    """Every arm's setting: of one whose rate was searched as settings.json has it, of one whose rate is given the dial
    that its own runs on the items that choose speak for, as far as they are done."""
    held = folder.read_settings() or SettingsFile(settings=[])
    found: list[ArmSetting] = []
    for choice in plan.choices:
        arms = arms_of(plan, choice)
        known = {label: held.of(choice.model, choice.train_set, label) for label in arms}
        searched = {
            label: setting
            for label, setting in known.items()
            if setting is not None and isinstance(arms[label].learning_rate, str)
        }
        given = [arm for arm in arms.values() if not isinstance(arm.learning_rate, str)]
        measured = run_points(folder, plan, choice, given, suites, roles)
        wanted = [ArmPoints(arm.label, measured.get(arm.label, []), _own_rate(arm), fixed_dial(arm)) for arm in given]
        beside = [ArmPoints(label, setting.points) for label, setting in searched.items()]
        found += [*searched.values(), *choose_settings([*wanted, *beside], choice)[: len(wanted)]]
    return found


def searched_settings(folder: StudyFolder, plan: Plan, choice: PlannedChoice, suites: pd.DataFrame) -> list[ArmSetting]:
    """The settings of the arms whose rate is searched, from the searches of one base model and training set that are
    done. Where several arms share a rate it is the loss-best, and the dial is chosen for each. None without the base's
    scores, where forgetting counts."""
    if choice.select == "retention" and not folder.has_predictions(plan.base_ids[choice.model]):
        return []
    points = search_points(folder, plan, choice, suites)
    wanted: list[ArmPoints] = []
    ids: list[str] = []
    for search in planned_searches_of(plan, choice):
        record = ended_search(folder, search)
        if record is None:
            continue
        shared = record.chosen if len(search.arms) > 1 else None
        wanted += [ArmPoints(arm.label, points.get(arm.label, []), shared, fixed_dial(arm)) for arm in search.arms]
        ids += [search.search_id] * len(search.arms)
    chosen = choose_settings(wanted, choice)
    return [s.model_copy(update={"rate_given": False, "search_id": id_}) for s, id_ in zip(chosen, ids, strict=True)]


def further_searches(folder: StudyFolder, plan: Plan, choice: PlannedChoice, suites: pd.DataFrame) -> list[str]:
    """The searches that are to train one rate more: those of which both rates that were trained to the end exceed the
    limit at every dial, by the fit over what all arms' first two rates scored. None where rates are shared."""
    if choice.select == "loss":
        return []
    alone = [search for search in planned_searches_of(plan, choice) if len(search.arms) == 1]
    records = [record for record in (ended_search(folder, search) for search in alone) if record is not None]
    first = {record.arms[0]: record.finals[:2] for record in records}
    points = search_points(folder, plan, choice, suites)
    kept = [p for label, own in points.items() for p in own if p.learning_rate in first.get(label, ())]
    fitted = _by_arm(with_fits(kept))
    return [
        record.search_id
        for record in records
        if len(record.finals) == 2 and exceeds_everywhere(fitted.get(record.arms[0], []), choice)
    ]


def planned_searches_of(plan: Plan, choice: PlannedChoice) -> list[PlannedSearch]:
    """The searches of one base model and training set."""
    return [s for s in plan.searches if (s.model, s.train_set) == (choice.model, choice.train_set)]


def _own_rate(arm: Arm) -> float | None:
    """The rate that the study gives; None where it is searched, or not known of an arm that was trained elsewhere."""
    return None if arm.learning_rate is None or isinstance(arm.learning_rate, str) else float(arm.learning_rate)


def fixed_dial(arm: Arm) -> float | None:
    """The dial that is not chosen: the study's own, or 1 of a change that cannot be scaled."""
    return 1.0 if not arm.traits.has_dial else arm.dial


def arms_of(plan: Plan, choice: PlannedChoice) -> dict[str, Arm]:
    """The arms of one base model and training set by label, in the plan's order."""
    runs = (run for run in plan.runs if (run.model, run.train_set) == (choice.model, choice.train_set))
    return {run.arm.label: run.arm for run in runs}


def dials_of(plan: Plan, settings: Iterable[ArmSetting]) -> dict[str, float]:
    """The dial of each run's arm, by run id; 1 where none is chosen."""
    by_arm = {(s.model, s.train_set, s.arm): s.dial for s in settings}
    return {run.run_id: by_arm.get((run.model, run.train_set, run.arm.label), 1.0) for run in plan.runs}


def as_chosen(searches: Iterable[SearchRecord], settings: Iterable[ArmSetting]) -> list[SearchRecord]:
    """The searches with the rate that their arms are trained at as `chosen`, where that is not the loss-best."""
    by_arm = {(s.model, s.train_set, s.arm): s.learning_rate for s in settings}
    return [
        search.model_copy(
            update={"chosen": by_arm.get((search.model, search.train_set, search.arms[0]), search.chosen)}
        )
        for search in searches
    ]


# ---- what was measured -----------------------------------------------------------------------------------------------


def run_points(
    folder: StudyFolder, plan: Plan, choice: PlannedChoice, arms: Sequence[Arm], suites: pd.DataFrame, roles: Roles
) -> dict[str, list[SettingPoint]]:
    """Points of arms at their own rate, means over the runs that are done, by label. Items that gave an arm prompts
    say nothing of it: it was trained on them."""
    labels = {arm.label for arm in arms}
    chosen = roles.get((choice.model, choice.train_set), {})
    scores, moved, losses = [], [], []
    for run in plan.runs:
        if (run.model, run.train_set) != (choice.model, choice.train_set) or run.arm.label not in labels:
            continue
        label, rate, seed = run.arm.label, _own_rate(run.arm) or RATE_NOT_KNOWN, run.seed
        gave = plan.gave_prompts(run.model, run.train_set, run.arm)
        for dial, frame, loss in _at_dials(folder, run):
            own = frame[chooses(frame, chosen) & ~frame["suite"].isin(gave)]
            scores.append(own.assign(arm=label, learning_rate=rate, dial=dial, seed=seed))
            losses.append((label, rate, dial, seed, loss))
        first = folder.read_first_tokens(run.run_id)
        if first is not None:
            moved.append(first[~first["suite"].isin(gave)].assign(arm=label, learning_rate=rate, seed=seed))
    measured = SettingMeasurements(
        _joined(scores, _SCORES), _joined(moved, _MOVED), pd.DataFrame(losses, columns=_LOSSES)
    )
    return _by_arm(setting_points(measured, _base(folder, plan, choice), suites, "runs"))


def _at_dials(folder: StudyFolder, run: PlannedRun) -> list[tuple[float, pd.DataFrame, float | None]]:
    """(dial, predictions, validation loss) of a finished run at each dial at which it was scored."""
    status = folder.read_status(run.run_id)
    if status is None or status.state != "done":
        return []
    held = folder.read_dial_losses(run.run_id)
    losses: dict[str, float | None] = held.validation_losses if held is not None else {}
    found = []
    for dial in run.dials:
        loss = status.validation_loss if dial == 1 else losses.get(f"{dial:g}")
        frame = folder.read_at_dial(run.run_id, dial, _WORTH) if loss is not None else None
        if frame is not None:
            found.append((dial, frame, loss))
    return found


def search_points(
    folder: StudyFolder, plan: Plan, choice: PlannedChoice, suites: pd.DataFrame
) -> dict[str, list[SettingPoint]]:
    """Points of the rates that searches trained to the end, by present label; as of runs."""
    scores, moved, losses = [], [], []
    for search in planned_searches_of(plan, choice):
        record = ended_search(folder, search)
        if record is None:
            continue
        gave = {arm.label: plan.gave_prompts(search.model, search.train_set, arm) for arm in search.arms}
        selection = folder.read_selection(search.search_id)
        first = folder.read_first_tokens(f"searches/{search.search_id}")
        scores += [] if selection is None else [_without(_renamed(selection, search), gave).assign(seed=record.seed)]
        moved += [] if first is None else [_without(_renamed(first, search), gave).assign(seed=record.seed)]
        losses += [
            (one.arm, one.learning_rate, one.dial, record.seed, one.validation_loss) for one in record.dial_losses
        ]
    measured = SettingMeasurements(
        _joined(scores, _SCORES), _joined(moved, _MOVED), pd.DataFrame(losses, columns=_LOSSES)
    )
    return _by_arm(setting_points(measured, _base(folder, plan, choice), suites, "search"))


def _renamed(frame: pd.DataFrame, search: PlannedSearch) -> pd.DataFrame:
    """With the labels that arms have now."""
    return frame.assign(arm=[present_label(label, search) for label in frame["arm"]])


def _without(frame: pd.DataFrame, gave: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The rows of suites that gave their arm no prompts."""
    known = [suite not in gave.get(arm, ()) for arm, suite in zip(frame["arm"], frame["suite"], strict=True)]
    return frame[known]


def _base(folder: StudyFolder, plan: Plan, choice: PlannedChoice) -> pd.DataFrame:
    columns = [*_WORTH, "choice_logprobs"]
    found = folder.read_predictions(plan.base_ids[choice.model], columns)
    return pd.DataFrame(columns=columns) if found is None else found


def _joined(frames: Sequence[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    held = [frame.reindex(columns=columns) for frame in frames if len(frame)]
    return pd.concat(held, ignore_index=True) if held else pd.DataFrame(columns=columns)


def _by_arm(points: Iterable[SettingPoint]) -> dict[str, list[SettingPoint]]:
    found: dict[str, list[SettingPoint]] = {}
    for point in points:
        found.setdefault(point.arm, []).append(point)
    return found
