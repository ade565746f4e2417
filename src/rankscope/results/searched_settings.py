"""From finished searches to settings.json, before the runs that wait for a rate: chosen once, and kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rankscope.edges.study_folder import StudyFolder
from rankscope.records import ArmSetting, Plan, PlannedChoice, PlannedRun, SettingsFile
from rankscope.results.chosen_settings import (
    arms_of,
    fixed_dial,
    further_searches,
    planned_searches_of,
    searched_settings,
)
from rankscope.results.frames import suites_frame
from rankscope.study.methods import Arm


def further_rates(folder: StudyFolder, plan: Plan) -> list[str]:
    """The searches that are to train one rate more, of every base model and training set whose searches are done."""
    suites = suites_frame(plan)
    return [
        search_id
        for choice in plan.choices
        if all(folder.read_search(search.search_id) is not None for search in planned_searches_of(plan, choice))
        for search_id in further_searches(folder, plan, choice, suites)
    ]


def settle_searched(folder: StudyFolder, plan: Plan) -> None:
    """Write the setting of every arm whose search is done and that has none yet, or one of another search or limit.

    What is chosen stays, so that an arm that is added moves no other. Call it under the lock of the settings.
    """
    suites = suites_frame(plan)
    held = folder.read_settings() or SettingsFile(settings=[])
    kept = list(held.settings)
    changed = False
    for choice in plan.choices:
        found = None
        arms = arms_of(plan, choice)
        for search in planned_searches_of(plan, choice):
            for arm in search.arms:
                before = held.of(choice.model, choice.train_set, arm.label)
                if before is not None and _holds(before, arms[arm.label], choice, search.search_id):
                    continue
                found = found or searched_settings(folder, plan, choice, suites)
                new = [setting for setting in found if setting.arm == arm.label]
                if not new:
                    continue
                kept = [setting for setting in kept if setting is not before] + new
                changed = True
    if changed:
        folder.write_settings(SettingsFile(settings=kept))


def _holds(setting: ArmSetting, arm: Arm, choice: PlannedChoice, search_id: str) -> bool:
    """Whether a setting was chosen from this search, and held to what the study asks for now."""
    fixed = fixed_dial(arm)
    limits = (choice.limit, choice.limit_nats) if choice.select == "retention" else (None, None)
    same = setting.search_id == search_id and (setting.limit, setting.limit_nats) == limits
    return same and (fixed is None or setting.dial == fixed)


def runs_with_a_rate(folder: StudyFolder, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Those of `runs` whose rate was searched and is settled; the search of the others failed."""
    settings = folder.read_settings() or SettingsFile(settings=[])
    return [run for run in runs if settings.of(run.model, run.train_set, run.arm.label) is not None]


def set_aside_other_rates(folder: StudyFolder, runs: Sequence[PlannedRun]) -> Iterator[str]:
    """Rename the runs that were trained at another rate than is settled now, nothing of them is deleted; a sentence
    for each. What began to train together with such a run is renamed too."""
    settings = folder.read_settings() or SettingsFile(settings=[])
    for run in runs:
        setting = settings.of(run.model, run.train_set, run.arm.label)
        record = folder.read_run(run.run_id)
        if setting is None or setting.learning_rate is None or record is None or record.learning_rate is None:
            continue
        if record.learning_rate == setting.learning_rate:
            continue
        for name in folder.packs_of(run.run_id):
            folder.set_aside(name, "other-rate")
        name = folder.set_aside(folder.run_folder(run.run_id), f"rate-{record.learning_rate:g}")
        before, now = f"{record.learning_rate:g}", f"{setting.learning_rate:g}"
        yield (
            f"{run.run_id} was trained at the rate {before}, and with other suites, arms or margins {now} is chosen "
            f"for {run.arm.label}: it stays as {folder.place(name)}, and is trained again"
        )
