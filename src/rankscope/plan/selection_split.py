"""Which items choose an arm's setting and never judge it: a seeded share of each suite outside the domain.

Pure functions of names, so that a plan, a job and a report find the same items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rankscope.records import PlannedChoice, PlannedSplit, SuiteFacts
from rankscope.study.problems import Problem
from rankscope.study.selection_order import LEAST_JUDGED, Unit, in_order, unit_of, units_drawn
from rankscope.study.study import Selection, Study

LIMIT_SHARE = 2 / 3
"""Of the retention margin, what a setting's fitted forgetting may be: the rest is room for the fit's error."""


def split_count(item_count: int, selection: Selection) -> int:
    """How many items of a suite choose: its share, held between the least and the most; 0 where it is too small."""
    if item_count < 2 * selection.min_items:
        return 0
    return min(max(round(selection.share * item_count), selection.min_items), selection.max_items)


def planned_count(suite: SuiteFacts, selection: Selection) -> int:
    """How many items of a suite will really choose: `split_count`, or a few more where clusters are drawn whole. 0 too
    where whole clusters do not give the least that should choose and leave two to judge by."""
    count = split_count(suite.item_count, selection)
    if suite.cluster_sizes is None:
        return count
    drawn = sum(suite.cluster_sizes[: units_drawn(suite.cluster_sizes, count)])
    return drawn if drawn >= selection.min_items else 0


def selection_items(item_ids: Sequence[str], clusters: Sequence[str | None], count: int) -> frozenset[str]:
    """The items of a suite that choose: those of least hash, whole clusters, until there are `count`.

    `clusters` names the cluster of each item, None where it is its own. The hash is of the cluster's name, so items
    that are added later reshuffle nothing: only those at the border may change sides. It ends before fewer than two
    clusters would be left to judge by. A draw of as many as a draw gave is the same draw.
    """
    units: dict[Unit, list[str]] = {}
    for item_id, cluster in zip(item_ids, clusters, strict=True):
        units.setdefault(unit_of(item_id, cluster), []).append(item_id)
    order = in_order(units)
    drawn = units_drawn([len(units[unit]) for unit in order], count)
    return frozenset(item_id for unit in order[:drawn] for item_id in units[unit])


def judged(suite: SuiteFacts) -> bool:
    """Whether a suite enters gain or forgetting: plain text does only where its loss is its metric."""
    return suite.form != "text" or suite.metric == "loss"


def planned_choice(
    study: Study, model: str, train_set: str, domain: str | None, suites: Iterable[SuiteFacts]
) -> PlannedChoice:
    """How the settings of one base model's arms on a training set of `domain` are chosen, and on which items.

    Suites of the domain are whole, and so is every suite where nothing is chosen for retention.
    """
    if study.select == "retention" and _all_given(study):
        return PlannedChoice(model=model, train_set=train_set, select="given")
    outside = [suite for suite in suites if judged(suite) and (suite.domain is None or suite.domain != domain)]
    counts = {suite.name: planned_count(suite, study.selection) for suite in outside}
    select, reason = study.select, None
    if select == "retention" and not any(counts.values()):
        least = 2 * study.selection.min_items
        select = "loss"
        has = f"no suite outside the domain has the {least} items that a split needs"
        if any(split_count(suite.item_count, study.selection) for suite in outside):
            has += ", in clusters that can be split"
        reason = has if outside else "there is no suite outside the domain"
    splits = [
        PlannedSplit(
            suite=suite.name,
            item_count=suite.item_count,
            select_count=counts[suite.name],
            cluster_count=None if suite.cluster_sizes is None else len(suite.cluster_sizes),
        )
        for suite in (outside if select == "retention" else ())
    ]
    limits = [LIMIT_SHARE * m for m in (study.decision.retention_margin, study.decision.retention_margin_nats)]
    return PlannedChoice(
        model=model, train_set=train_set, select=select, reason=reason, splits=splits, limit=limits[0],
        limit_nats=limits[1],
    )  # fmt: skip


def _all_given(study: Study) -> bool:
    """Whether no arm has anything that is chosen, and none replays prompts of items that choose."""
    return not any(
        isinstance(arm.learning_rate, str)
        or (arm.dial is None and len(study.dials_of(arm)) > 1)
        or (arm.replay is not None and arm.replay.asks_suites)
        for arm in study.expand_arms()
    )


def split_problems(choices: Iterable[PlannedChoice], file: str) -> list[Problem]:
    """Suites of which so many items choose that fewer than two are left to judge."""
    found = {
        split.suite: f"{split.select_count} of the {split.item_count} items of {split.suite} would choose settings"
        for choice in choices
        for split in choice.splits
        if split.item_count - split.select_count < LEAST_JUDGED
    }
    expected = "a share and max_items that leave at least two items to judge"
    return [Problem(file, "selection.share", why, expected) for why in found.values()]


def split_warnings(choices: Iterable[PlannedChoice]) -> list[str]:
    """What a reader must know of the choice: rates chosen blind to forgetting, suites too small to be split."""
    said = []
    for choice in choices:
        if choice.select == "loss":
            why = f" ({choice.reason})" if choice.reason else ""
            alone = "by validation loss alone, blind to forgetting"
            said.append(f"{choice.train_set}: settings are chosen {alone}{why}; every dial is 1")
        small = [f"{split.suite} ({_size(split)})" for split in choice.splits if not split.select_count]
        if small:
            said.append(
                f"{choice.train_set}: too small to be split, so all their items judge, and settings are chosen on "
                f"their prompts without the answers: {', '.join(small)}"
            )
    return list(dict.fromkeys(said))


def _size(split: PlannedSplit) -> str:
    if split.cluster_count is None:
        return str(split.item_count)
    return f"{split.item_count} in {split.cluster_count} cluster{'s' * (split.cluster_count > 1)}"
