"""The prompts of suites that a base goes on from, out of the token files that a plan has just made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rankscope.data.token_files import open_suite, token_path
from rankscope.plan.replay_prompts import giving_suites
from rankscope.plan.selection_split import planned_choice, selection_items
from rankscope.records import SuiteFacts
from rankscope.study.methods.remedy_settings import Replay
from rankscope.study.study import Study


def selection_prompts(
    study: Study, tokens: Path, train_set: str, replay: Replay, place: str, suites: Mapping[str, SuiteFacts]
) -> dict[str, list[tuple[int, ...]]]:
    """By suite that gives some, the prompts of the items that choose settings for a training set: token ids as the
    items are asked, in the model's chat template where it has one. `tokens` is the folder of the token files. Raises
    InputProblems as `giving_suites`."""
    choice = planned_choice(study, "", train_set, study.train[train_set].domain, suites.values())
    found = {}
    for split in giving_suites(replay, choice, place):
        facts = suites[split.suite]
        items = open_suite(token_path(tokens, facts.content_sha256), facts).items
        chosen = selection_items([i.item_id for i in items], [i.cluster for i in items], split.select_count)
        asked = (i.prompt_ids or (i.parts[0].prompt_ids if i.parts else ()) for i in items if i.item_id in chosen)
        found[split.suite] = [ids for ids in asked if ids]
    return found
