"""Which suites give prompts, and that at least one gives none."""

from __future__ import annotations

import pytest

from rankscope.plan.replay_prompts import giving_suites
from rankscope.records import PlannedChoice, PlannedSplit
from rankscope.study.methods.remedy_settings import Replay
from rankscope.study.problems import InputProblems

COUNTS = {"law": 25, "general": 25, "sums": 0, "logic": 16, "poems": 20}


def choice(**counts: int) -> PlannedChoice:
    splits = [PlannedSplit(suite=name, item_count=100, select_count=count) for name, count in counts.items()]
    return PlannedChoice(model="m", train_set="medical", select="retention", splits=splits)


def replay(**changes: object) -> Replay:
    return Replay.model_validate({"self": 0.2, "prompts": "selection", **changes})


def names(asked: Replay, planned: PlannedChoice) -> list[str]:
    return [split.suite for split in giving_suites(asked, planned, "arms.lora.replay")]


@pytest.mark.parametrize(
    ("counts", "giving"),
    [
        (COUNTS, ["law", "logic"]),
        ({"law": 25, "general": 25, "poems": 20}, ["law"]),
        ({"law": 25, "general": 25}, ["law"]),
        ({"law": 25, "sums": 0}, ["law"]),
    ],
)
def test_half_of_the_split_suites_give_prompts_in_the_study_s_order(counts: dict[str, int], giving: list[str]) -> None:
    assert names(replay(), choice(**counts)) == giving


def test_the_study_says_which() -> None:
    assert names(replay(prompts_from=["poems", "law"]), choice(**COUNTS)) == ["law", "poems"]
    in_domain = replay(prompts_from=["law", "medical-exam"])  # outside the domain of another training set
    assert names(in_domain, choice(**COUNTS)) == ["law"]


WRONG = [
    ({}, {"law": 25}, "prompts_from: found every suite outside the domain of train.medical (law), expected at least"),
    (
        {"prompts_from": ["law", "poems"]},
        {"law": 9, "poems": 9},
        "(law, poems), expected at least one suite that gives",
    ),
    ({}, {"sums": 0}, "prompts: found no items that choose settings for train.medical, expected a suite outside"),
    ({}, {}, "prompts: found no items that choose settings for train.medical"),
    (
        {"prompts_from": ["sums"]},
        COUNTS,
        "found sums, too small to be split: all items judge, expected suites of which",
    ),
    ({"prompts_from": ["exam"]}, COUNTS, "found no suite outside the domain of train.medical, expected some of law, "),
]


@pytest.mark.parametrize(("changes", "counts", "line"), WRONG)
def test_what_leaves_nothing_to_ask_or_to_judge_is_a_line(
    changes: dict[str, object], counts: dict[str, int], line: str
) -> None:
    with pytest.raises(InputProblems) as caught:
        names(replay(**changes), choice(**counts))
    (problem,) = caught.value.problems
    assert line in str(problem)
    assert "\n" not in str(problem)
