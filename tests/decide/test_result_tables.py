"""The tables of a made-up study against its predictions, and which arms forgot which items on flips made by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from made_studies import Study

from rankscope.decide.paired_items import Frames, item_values
from rankscope.decide.result_tables import _run_means, findings, forgotten, forgotten_groups, make_tables
from rankscope.decide.verdict import decide
from rankscope.study.study import Decision


@pytest.fixture(scope="module")
def frames() -> Frames:
    states = {("full", 1): ("diverged", "loss is not finite")}
    return Study(
        {"lora-r4": 0.7, "lora-r16": 0.7, "full": 0.7},
        {"lora-r4": 0.79, "lora-r16": 0.75, "full": 0.6},
        items=300,
        states=states,
    ).frames()


@pytest.fixture(scope="module")
def tables(frames: Frames) -> dict[str, pd.DataFrame]:
    return make_tables(frames)


def test_scores_has_every_run_and_the_base_by_training_set(frames: Frames, tables: dict[str, pd.DataFrame]) -> None:
    scores = tables["scores"]
    base = scores[scores["arm"] == "base"]
    assert len(base) == 4
    assert (base["train_set"] == "facts").all()
    assert base["seed"].isna().all()
    one = scores[(scores["arm"] == "lora-r4") & (scores["seed"] == 1) & (scores["suite"] == "law")].iloc[0]
    mine = frames.predictions[(frames.predictions["run_id"] == "lora-r4-s1") & (frames.predictions["suite"] == "law")]
    assert one["accuracy"] == pytest.approx(mine["score"].mean())
    assert (one["rank"], one["n"], one["relation"]) == (4, 300, "out-of-domain")


def test_text_is_summed_before_it_is_divided(tables: dict[str, pd.DataFrame]) -> None:
    scores = tables["scores"]
    text = scores[(scores["suite"] == "prose") & (scores["arm"] == "base")].iloc[0]
    assert math.isnan(text["accuracy"])
    assert text["loss_nats_per_token"] == pytest.approx(2.0)
    assert text["bits_per_byte"] == pytest.approx(20 / 40 / math.log(2))
    assert text["n"] == 4


def test_a_loss_that_judges_is_the_mean_over_items_whatever_their_lengths() -> None:
    """3 nats over 1 token and 2 over 4: 1.75 by item, as the verdict has it, and 1 by token."""
    rows = pd.DataFrame(
        {"run_id": "r", "suite": "s", "model": "m", "train_set": "t", "arm": "a", "seed": 0, "score": np.nan,
         "loss_nats": [3.0, 2.0], "scored_tokens": [1, 4], "text_bytes": [1, 4]}
    )  # fmt: skip
    (found,) = _run_means(rows).to_dict("records")
    assert found["item_loss_nats"] == pytest.approx(-item_values(rows, "loss").mean()) == pytest.approx(1.75)
    assert found["loss_nats_per_token"] == pytest.approx(1.0)


def test_forgetting_is_that_of_the_verdict(frames: Frames, tables: dict[str, pd.DataFrame]) -> None:
    verdict = decide(frames, model="small", train_set="facts", decision=Decision(), bootstrap_draws=0)
    table = tables["forgetting"].set_index(["arm", "suite"])
    assert len(table) == 9
    for arm in verdict.arms:
        for outcome in arm.per_suite:
            row = table.loc[(arm.label, outcome.suite)]
            assert row["change"] == pytest.approx(outcome.change.mean)
            assert row["low"] == pytest.approx(outcome.change.low)
            assert row["seeds"] == len(arm.seeds)


def test_the_seeds_of_an_arm_average_to_what_the_verdict_says(frames: Frames, tables: dict[str, pd.DataFrame]) -> None:
    verdict = decide(frames, model="small", train_set="facts", decision=Decision(), bootstrap_draws=0)
    means = tables["seeds"].groupby("arm")[["gain", "forgetting"]].mean()
    for arm in verdict.arms:
        if arm.gain.mean is not None:
            assert means.loc[arm.label, "gain"] == pytest.approx(arm.gain.mean)
            assert means.loc[arm.label, "forgetting"] == pytest.approx(arm.forgetting.mean)


def test_matrix_and_kinds_group_suites_with_equal_weight(tables: dict[str, pd.DataFrame]) -> None:
    matrix = tables["matrix"].set_index(["arm", "domain"])
    assert matrix.loc[("lora-r4", "medical"), "relation"] == "in-domain"
    assert matrix.loc[("lora-r4", "(no domain)"), "suites"] == 1
    kinds = tables["kinds"].set_index(["arm", "kind", "relation"])
    assert set(kinds.loc["lora-r4"].index) == {
        ("recall", "in-domain"),
        ("recall", "out-of-domain"),
        ("reasoning", "general"),
    }


def test_flips_count_seeds_item_by_item(frames: Frames, tables: dict[str, pd.DataFrame]) -> None:
    flips = tables["flips"]
    mine = flips[(flips["arm"] == "lora-r16") & (flips["suite"] == "law")]
    assert len(mine) == 300
    predictions = frames.predictions[frames.predictions["suite"] == "law"]
    base = predictions[predictions["arm"] == "base"].set_index("item_id")["score"]
    runs = predictions[predictions["arm"] == "lora-r16"].pivot(index="item_id", columns="seed", values="score")
    lost = ((base.to_numpy()[:, None] == 1) & (runs.to_numpy() == 0)).sum(axis=1)
    np.testing.assert_array_equal(mine["seeds_lost"].to_numpy(), lost)
    change = (mine["seeds_won"].sum() - mine["seeds_lost"].sum()) / 3 / 300
    row = tables["forgetting"].set_index(["arm", "suite"]).loc[("lora-r16", "law")]
    assert change == pytest.approx(row["change"])


def test_an_arm_that_is_set_aside_is_described_by_its_own_seeds(tables: dict[str, pd.DataFrame]) -> None:
    assert set(tables["flips"].query("arm == 'full'")["seeds_total"]) == {2}
    assert set(tables["flips"].query("arm == 'lora-r4'")["seeds_total"]) == {3}


def test_cost_has_a_row_for_every_run_whatever_its_state(tables: dict[str, pd.DataFrame]) -> None:
    cost = tables["cost"]
    assert len(cost) == 9
    assert cost.query("run_id == 'full-s1'")["state"].item() == "diverged"


def test_tables_survive_parquet(tables: dict[str, pd.DataFrame], tmp_path: object) -> None:
    for name, table in tables.items():
        path = f"{tmp_path}/{name}.parquet"
        table.to_parquet(path)
        pd.testing.assert_frame_equal(pd.read_parquet(path), table, check_dtype=False)


def test_nothing_done_gives_empty_tables_with_columns() -> None:
    states = {("full", seed): ("failed", None) for seed in (0, 1, 2)}
    tables = make_tables(Study({"full": 0.7}, {"full": 0.7}, items=10, states=states).frames())
    assert tables["forgetting"].empty
    assert "change" in tables["forgetting"].columns
    assert len(tables["scores"]) == 4


# ---- forgotten items ------------------------------------------------------------------------------------------------

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
def made() -> tuple[pd.DataFrame, pd.DataFrame]:
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
    made: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    table = forgotten(*made).set_index("item_id")
    assert table["group"].to_dict() == GROUP
    assert table.loc["c", "arms"] == "lora-r16, lora-r64"
    assert table["arms_lost"].to_dict() == {item: len(LOST[item]) for item in GROUP}


def test_the_groups_are_counted_beside_what_independence_would_give(made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    groups = forgotten_groups(made[0], forgotten(*made)).set_index("group")
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
    reasoning = [text for text in said if text.startswith("Reasoning, suites without a domain: forgotten from ")]
    assert any(text.endswith("(full).") for text in reasoning)
    assert any(text.startswith("Recall, in the domain: gained from +") for text in said)
