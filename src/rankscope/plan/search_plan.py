"""The searches of arms: who is searched before whom, with ids and cost. Pure arithmetic."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rankscope.plan.rate_search import ALONE, FINALS, NEAR, neighbours, search_runs, start_rates
from rankscope.plan.resolve import SEARCH_SEED, search_arms, search_id
from rankscope.plan.run_cost import step_count
from rankscope.plan.run_need import Dtype
from rankscope.plan.run_time import Clock
from rankscope.plan.selection_split import split_count
from rankscope.records import ModelFacts, PlannedChoice, PlannedSearch, PlannedSplit, SuiteFacts, TrainFacts
from rankscope.study.study import Arm, Study


def searched_together(study: Study) -> list[list[str]]:
    """The study's entries by their keys, those in one list whose arms differ in rank alone: with `auto` one rank of
    them all is the anchor, and the others go by it, whether ranks are listed in one entry or each has its own."""
    groups: list[list[str]] = []
    found: dict[str, tuple[list[str], set[int | None]]] = {}
    for key, entry in study.arms.items():
        arms = study.arms_of(key)
        size = arms[0].traits.size
        named = entry.model_dump(mode="json", exclude={"dial", *(() if size is None else (size.key,))})
        alike = json.dumps(named, sort_keys=True)
        ranks = {arm.rank for arm in arms}
        together, known = found.get(alike, ([], set()))
        if entry.learning_rate != "auto" or None in ranks or not together or known & ranks:
            together, known = [], set()
            groups.append(together)
            found[alike] = together, known
        together.append(key)
        known |= ranks
    return groups


def planned_searches(
    study: Study,
    facts: ModelFacts,
    train: TrainFacts,
    suites: Sequence[SuiteFacts],
    dtype: Dtype,
    choice: PlannedChoice,
    clock: Clock,
    arms: Sequence[Arm],
) -> list[PlannedSearch]:
    """The searches for the arms of entries that are searched together, in an order in which they can be done; none
    where rates are given. Ranks with `auto` have a search each, the anchor's first; with `auto_shared` they have one.
    """
    searched = [arm for arm in arms if isinstance(arm.learning_rate, str)]
    if not searched:
        return []
    if searched[0].learning_rate == "auto_shared":
        order: list[tuple[tuple[Arm, ...], tuple[int, ...]]] = [(search_arms(searched[0], arms), ())]
    elif all(arm.rank for arm in searched):
        by_rank = {arm.rank or 0: arm for arm in searched}
        order = [((by_rank[rank],), inwards) for rank, inwards in neighbours(list(by_rank)).items()]
    else:
        order = [((arm,), ()) for arm in searched]
    found: list[PlannedSearch] = []
    for own, inwards in order:
        after = [next(s for s in found if s.arms[0].rank == rank) for rank in inwards]
        rates = [] if after else start_rates(own[0], facts)
        tried = {
            "first": rates,
            "after": [search.search_id for search in after],
            "choice": _choosing(study, choice, suites, own),
        }
        tries = NEAR if after else ALONE
        runs = search_runs(tries)
        seconds = sum(_seconds(clock, arm, choice, tries, len(study.dials_of(arm)), suites) for arm in own)
        found.append(
            PlannedSearch(
                search_id=search_id(own, study, facts, train, dtype, tried), model=facts.name, train_set=train.name,
                arms=list(own), rates=rates, seed=SEARCH_SEED, step_count=step_count(train.row_count, study.budget),
                train_flops=runs * sum(sum(clock.training_flops(arm)) for arm in own),
                seconds=seconds, after=[search.search_id for search in after],
                wave=1 + max(search.wave for search in after) if after else 0, tries=tries, runs=runs,
            )
        )  # fmt: skip
    return found


def _choosing(study: Study, choice: PlannedChoice, suites: Sequence[SuiteFacts], arms: Sequence[Arm]) -> dict[str, Any]:
    """What decides which items a search scores, and at which dials; nothing where it goes by the loss alone and no arm
    is given a dial below 1."""
    if choice.select == "loss":
        given = [(1.0,) if arm.dial is None else study.dials_of(arm) for arm in arms]
        return {"dials": list(map(list, given))} if set(given) != {(1.0,)} else {}
    content = {suite.name: suite.content_sha256 for suite in suites}
    return {
        "items": {split.suite: [content[split.suite], _wanted(study, split)] for split in choice.splits},
        "dials": [list(study.dials_of(arm)) for arm in arms],
    }


def _wanted(study: Study, split: PlannedSplit) -> int:
    """Items that were to choose, before whole clusters were drawn: with the content of the suite it says which do."""
    return split_count(split.item_count, study.selection) if split.select_count else 0


def _seconds(
    clock: Clock, arm: Arm, choice: PlannedChoice, tries: int, dials: int, suites: Sequence[SuiteFacts]
) -> float:
    """Training, validation at both rungs, and what is trained to the end on the items that choose at every dial."""
    items = sum(suite.item_count for suite in suites)
    share = sum(choice.select_counts.values()) / items if items else 0.0
    scored = FINALS * dials * (share * clock.scoring(arm) + clock.validation(arm))
    return clock.training(arm, search_runs(tries)) + (tries + FINALS) * clock.validation(arm) + scored
