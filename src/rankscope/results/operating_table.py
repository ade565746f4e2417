"""settings.json, and the table of operating points: an arm at every rate and dial, as chosen from and as judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from rankscope.decide.gain_and_forgetting import intervals, measure_pairing
from rankscope.decide.paired_items import Frames, pair
from rankscope.decide.setting_points import JUDGED, KEYS, operating_points
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import ArmSetting, Plan, SettingsFile
from rankscope.results.chosen_settings import settings_of
from rankscope.results.frames import frames_of, suites_frame
from rankscope.results.item_roles import roles_of


def settled(folder: StudyFolder, plan: Plan) -> list[ArmSetting]:
    """Every arm's setting as the folder's records have it now, written to settings.json.

    They are written where they changed, from reading to writing under the lock of the settings: a study that is at
    work may settle its searches meanwhile.
    """
    settings = settings_of(folder, plan, suites_frame(plan), roles_of(folder, plan))
    if settings and folder.read_settings() != SettingsFile(settings=settings):
        with folder.wait_lock("settings"):
            settings = settings_of(folder, plan, suites_frame(plan), roles_of(folder, plan))
            folder.write_settings(SettingsFile(settings=settings))
    return settings


def operating_table(
    folder: StudyFolder, plan: Plan, settings: Sequence[ArmSetting], confidence: float, frames: Frames
) -> pd.DataFrame:
    """A row for each point of every arm; beside those that the study's seeds were trained at, what they gain and
    forget on the items that judge, with intervals at `confidence`, each alone. `frames`: arms at their settings."""
    return operating_points(list(settings), judged_at_dials(folder, plan, settings, confidence, frames))


def judged_at_dials(
    folder: StudyFolder, plan: Plan, settings: Iterable[ArmSetting], confidence: float, at_settings: Frames
) -> pd.DataFrame:
    """model, train_set, KEYS and JUDGED: each arm at the rate of its runs, at each dial that all of them have."""
    rows = []
    known = list(settings)
    for dial in sorted({dial for run in plan.runs for dial in run.dials}) if known else []:
        frames = at_settings
        if any(setting.dial != dial for setting in known):
            frames = frames_of(folder, plan, [setting.model_copy(update={"dial": dial}) for setting in known])
        done = frames.runs[frames.runs["state"] == "done"]
        for setting in known:
            mine = done[(done["model"] == setting.model) & (done["train_set"] == setting.train_set)]
            mine = mine[mine["arm"] == setting.arm]
            if mine.empty:
                continue
            where = {"model": setting.model, "train_set": setting.train_set}
            measured = measure_pairing(pair(frames, **where, only=[setting.arm]))
            nats = measured.nats
            parts = [measured.gain, measured.forgetting, *((nats.gain, nats.forgetting) if nats else (None, None))]
            found = [intervals(part, confidence, 1)[0] for part in parts]
            rate = pd.to_numeric(mine["learning_rate"]).iloc[0]  # missing where an arm was trained elsewhere
            values = [len(mine), *(end for one in found for end in (one.mean, one.low, one.high))]
            rows.append([setting.model, setting.train_set, setting.arm, rate, dial, *values])
    frame = pd.DataFrame(rows, columns=["model", "train_set", *KEYS, *JUDGED])
    floats = dict.fromkeys(KEYS[1:], "float64")  # of no rows too: where every run failed
    return frame.astype({**dict.fromkeys(JUDGED[1:], "Float64"), "judged_seeds": "Int64", **floats})
