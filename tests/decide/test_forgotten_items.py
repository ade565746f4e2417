"""Which arms forgot which items, on flips made by hand."""

from __future__ import annotations

import pandas as pd
import pytest
from made_studies import Study

from rankscope.decide.forgotten_items import findings, forgotten, forgotten_groups
from rankscope.decide.result_tables import make_tables

ARMS = {"lora-r1": 1, "lora-r4": 4, "lora-r16": 16, "lora-r64": 64, "full": None}
LOST = {
    "a": ("lora-r1", "lora-r4", "lora-r16", "lora-r64", "full"),
    "b": ("full",),
    "c": ("lora-r16", "lora-r64"),
    "d": ("lora-r64",),
    "e": ("lora-r1",),
    "f": ("lora-r64", "full"),
    "g": (),
}
GROUP = {"a": "every arm", "b": "full only", "c": "high ranks only", "d": "high ranks only", "e": "low ranks only"}
GROUP |= {"f": "some arms"}


@pytest.fixture(scope="module")
def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    names = {"model": "m", "train_set": "t"}
    seeds = {"base_correct": True, "seeds_total": 3, "seeds_won": 0}
    flips = [
        names | seeds | {"arm": arm, "suite": "law", "item_id": item, "relation": "out-of-domain", "kind": "recall",
                         "seeds_lost": 2 if arm in arms else 1}
        for item, arms in LOST.items() for arm in ARMS
    ]  # fmt: skip
    flips.append({**flips[0], "item_id": "z", "base_correct": False, "seeds_lost": 0})
    runs = [
        names | {"arm": arm, "method": "full" if arm == "full" else "lora", "rank": rank} for arm, rank in ARMS.items()
    ]
    return pd.DataFrame(flips), pd.DataFrame(runs)


def test_each_item_has_the_group_of_the_arms_that_lost_it_in_most_seeds(
    frames: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    table = forgotten(*frames).set_index("item_id")
    assert table["group"].to_dict() == GROUP
    assert table.loc["c", "arms"] == "lora-r16, lora-r64"
    assert table["arms_lost"].to_dict() == {item: len(LOST[item]) for item in GROUP}


def test_the_groups_are_counted_beside_what_independence_would_give(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    groups = forgotten_groups(frames[0], forgotten(*frames)).set_index("group")
    assert groups["items"].to_dict() == {
        "every arm": 1,
        "full only": 1,
        "high ranks only": 2,
        "low ranks only": 1,
        "some arms": 1,
    }
    assert (groups["base_correct"] == 7).all()
    shares = [sum(arm in arms for arms in LOST.values()) / 7 for arm in ARMS]
    expected = 7 * shares[0] * shares[1] * shares[2] * shares[3] * shares[4]
    assert groups.loc["every arm", "expected"] == pytest.approx(expected)
    assert groups.loc["full only":, "expected"].isna().all()


def test_the_words_of_a_study() -> None:
    learned, kept = {"lora-r4": 0.7, "full": 0.7}, {"lora-r4": 0.78, "full": 0.6}
    frames = Study(learned, kept, items=400).frames()
    tables = make_tables(frames)
    items = forgotten(tables["flips"], frames.runs)
    said = findings(forgotten_groups(tables["flips"], items), tables["kinds"], "small", "facts")
    full_only = (items["group"] == "full only").sum()
    assert f"{full_only:,} by full only" in said[0]
    assert "outside the domain that the base has right" in said[0]
    assert any(text.startswith("Reasoning, general: from -") and text.endswith("(lora-r4).") for text in said)
    assert any(text.startswith("Recall, in-domain: from +") for text in said)
