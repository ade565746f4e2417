"""What a search left behind belongs to the arms of today: renamed entries, and sizes in another order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_facts import STUDY, planned_on_gpus

from rankscope.edges.study_folder import StudyFolder
from rankscope.records import DialLoss, PlannedSearch, SearchRecord
from rankscope.results.search_names import ended_search, present_label
from rankscope.study.study import Study

Read = Callable[..., Study]


def planned_search(read: Read, rate: str) -> PlannedSearch:
    ranks = "[8,4]" if rate == "auto_shared" else "[4]"
    study = read(STUDY, "arms.full.learning_rate=1e-4", f"arms.lora.ranks={ranks}", f"arms.lora.learning_rate={rate}")
    (search,) = planned_on_gpus(study).searches
    return search


def left_behind(search: PlannedSearch, labels: list[str]) -> SearchRecord:
    """Of arms with these labels, whose losses are the last digit of each."""
    losses = [DialLoss(arm=label, learning_rate=1e-3, dial=1.0, validation_loss=float(label[-1])) for label in labels]
    return SearchRecord(
        search_id=search.search_id, model=search.model, train_set=search.train_set, arms=labels, seed=search.seed,
        rates=[1e-3], rung_steps=[10], losses=[[1.0]], chosen=1e-3, at_end_of_grid=False, train_seconds=1.0,
        finals=[1e-3], dial_losses=losses,
    )  # fmt: skip


def test_of_several_sizes_each_keeps_its_own_whatever_their_order_and_name(read: Read, tmp_path: Path) -> None:
    folder, search = StudyFolder.open(tmp_path / "out"), planned_search(read, "auto_shared")
    assert [arm.label for arm in search.arms] == ["lora-r8", "lora-r4"]
    assert ended_search(folder, search) is None
    for labels in (["lora-r4", "lora-r8"], ["old-r4", "old-r8"]):
        folder.write_search(left_behind(search, labels))
        record = ended_search(folder, search)
        assert record is not None
        assert {one.arm: one.validation_loss for one in record.dial_losses} == {"lora-r4": 4.0, "lora-r8": 8.0}
        assert record.arms == ["lora-r4", "lora-r8"]


@pytest.mark.parametrize("label", ["lora-r4", "old-r4", "lora-r4-again"])
def test_the_only_arm_of_a_search_is_the_one_whatever_it_was_called(read: Read, label: str) -> None:
    assert present_label(label, planned_search(read, "auto")) == "lora-r4"
