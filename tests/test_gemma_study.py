"""studies/gemma.yaml, for two cores gemma-cpu.yaml and gemma-cpu-facts.yaml, and gemma-ranks.yaml with every rank at
one rate: they ask the same of the same suites, enough items judge, and they can be planned where the public data lie
beside the checkout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call

from rankscope.plan.selection_split import split_count
from rankscope.study.read_study import read_study
from rankscope.study.study import Study

STUDIES = Path(__file__).resolve().parents[1] / "studies"
RANKS = [1, 2, 4, 8, 16, 32, 64, 128]
LEAST_JUDGED = 300


def named(name: str) -> Study:
    """The study as it is written, its files there or not."""
    return read_study(STUDIES / f"{name}.yaml", files=False)


TWO_CORES = ["gemma-cpu", "gemma-cpu-facts"]
PARTS = [*TWO_CORES, "gemma-ranks"]


@pytest.mark.parametrize("name", PARTS)
def test_a_part_asks_the_same_of_the_same_model(name: str) -> None:
    whole, part = named("gemma"), named(name)
    assert (part.models, part.seeds, part.decision) == (whole.models, whole.seeds, whole.decision)
    for ours, theirs in ((part.suites, whole.suites), (part.train, whole.train)):
        for own, source in ours.items():
            assert source.model_copy(update={"limit": None}) == theirs[own].model_copy(update={"limit": None}), own


@pytest.mark.parametrize("name", TWO_CORES)
def test_what_two_cores_can_train_is_a_part_of_the_other(name: str) -> None:
    whole, part = named("gemma"), named(name)
    every, some = ({arm.label: arm for arm in study.expand_arms()} for study in (whole, part))
    assert [arm.rank for arm in every.values() if arm.method == "lora"] == RANKS
    assert set(some) == {"full", "lora-r4", "lora-r16", "lora-r64"}
    assert some.items() <= every.items()
    assert part.select == whole.select


def test_at_one_rate_the_arms_differ_by_their_rank_alone() -> None:
    every, whole = named("gemma-ranks").expand_arms(), named("gemma").expand_arms()
    assert [arm.rank for arm in every if arm.method == "lora"] == RANKS
    assert {arm.learning_rate for arm in every if arm.method == "lora"} == {3e-4}
    for ours, theirs in zip(every, whole, strict=True):
        assert ours.model_copy(update={"learning_rate": theirs.learning_rate, "dial": theirs.dial}) == theirs


@pytest.mark.parametrize("name", PARTS)
def test_at_least_300_items_of_each_suite_judge(name: str) -> None:
    study = named(name)
    (domain,) = {source.domain for source in study.train.values()}
    for suite, source in study.suites.items():
        if source.domain != domain:
            assert source.limit is not None
            assert source.limit - split_count(source.limit, study.selection) >= LEAST_JUDGED, suite


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma", *PARTS])
def test_it_can_be_planned_where_the_data_are(name: str, shared_data: Path) -> None:
    """With the bundled base in place of Gemma, which scripts/gemma_base.py makes; the rows are the same."""
    told = call("plan", STUDIES / f"{name}.yaml", "--json", "--gpus", "1x80GB", "--set", "model=bundled")
    assert told.exit_code == 0, told.stderr
    plan = json.loads(told.stdout)
    study = named(name)
    assert len(plan["runs"]) == len(study.expand_arms()) * len(study.train) * len(study.seeds)
    assert all(run["fits"] for run in plan["runs"])
    assert {facts["name"] for facts in plan["train_sets"]} == set(study.train)
    assert all(facts["row_count"] >= 1000 for facts in plan["train_sets"])
    assert all(facts["item_count"] >= LEAST_JUDGED for facts in plan["suites"] if facts["form"] != "text")
