"""Searches of a learning rate with the names that their arms have now.

Ids of searches and runs leave labels out, so that an entry may be renamed, or its sizes reordered, and nothing is
trained anew; what a search left behind has the labels of its day.
"""

from __future__ import annotations

from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Plan, PlannedSearch, SearchRecord


def present_label(label: str, search: PlannedSearch) -> str:
    """The label that an arm of this search has in the plan: of several arms, which are sizes of one entry, that of the
    same size (`lora-r4` is `mine-r4` now). A label that is none of theirs stays as it is."""
    for arm in search.arms:
        if len(search.arms) == 1 or arm.label.rpartition("-")[2] == label.rpartition("-")[2]:
            return arm.label
    return label


def ended_search(folder: StudyFolder, search: PlannedSearch) -> SearchRecord | None:
    """What a search found, under present labels; None where it has not ended."""
    record = folder.read_search(search.search_id)
    if record is None:
        return None
    update = {
        "arms": [present_label(label, search) for label in record.arms],
        "probed": [one.model_copy(update={"arm": present_label(one.arm, search)}) for one in record.probed],
        "dial_losses": [one.model_copy(update={"arm": present_label(one.arm, search)}) for one in record.dial_losses],
    }
    return record.model_copy(update=update)


def searches_of(folder: StudyFolder, plan: Plan) -> list[SearchRecord]:
    """The searches that have ended, in the plan's order."""
    found = (ended_search(folder, search) for search in plan.searches)
    return [record for record in found if record is not None]
