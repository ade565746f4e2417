from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from made_studies import Study

from rankscope.decide.paired_items import Frames
from rankscope.decide.result_tables import make_tables
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
