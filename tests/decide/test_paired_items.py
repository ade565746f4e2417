"""Pairing of items: what an item is worth by its suite's metric."""

import numpy as np
import pandas as pd
import pytest
from helpers.made_studies import Study

from rankscope.decide.paired_items import Frames, item_values, pair
from rankscope.decide.run_outcomes import moved_by_rounding

STUDY = Study({"lora-r1": 0.5, "full": 0.6}, {"lora-r1": 0.8, "full": 0.8}, items=40)


def losses(frames: Frames, suite: str) -> Frames:
    """The same study with `suite` judged by its losses, drawn at random over 3 to 9 tokens an item."""
    rng = np.random.default_rng(5)
    predictions, suites = frames.predictions.copy(), frames.suites.assign(metric="score")
    here = predictions["suite"] == suite
    predictions.loc[here, "scored_tokens"] = rng.integers(3, 10, here.sum())
    predictions.loc[here, "loss_nats"] = rng.gamma(2.0, 3.0, here.sum())
    predictions.loc[here, "score"] = np.nan
    suites.loc[suites["suite"] == suite, "metric"] = "loss"
    return Frames(predictions, suites, frames.runs)


def test_an_item_of_losses_is_worth_minus_its_mean_over_tokens() -> None:
    frames = losses(STUDY.frames(), "law")
    pairing = pair(frames, model="small", train_set="facts")
    (law,) = pairing.others_of("loss")
    rows = frames.predictions
    mine = rows[(rows["suite"] == "law") & (rows["arm"] == "full") & (rows["seed"] == 1)].set_index("item_id")
    wanted = [-mine.loc[item, "loss_nats"] / mine.loc[item, "scored_tokens"] for item in law.item_ids]
    assert law.scores[pairing.labels.index("full"), 1] == pytest.approx(wanted)
    assert [suite.name for suite in pairing.others] == ["sums"]  # points and nats are never in one mean
    assert [suite.name for suite in pairing.in_domain] == ["med"]


def test_plain_text_is_judged_where_its_metric_is_the_loss_alone() -> None:
    plain = pair(STUDY.frames(), model="small", train_set="facts")
    assert "prose" not in [suite.name for suite in plain.suites]
    judged = pair(losses(STUDY.frames(), "prose"), model="small", train_set="facts")
    assert [suite.name for suite in judged.others_of("loss")] == ["prose"]


def test_an_item_without_tokens_has_no_value() -> None:
    rows = pd.DataFrame({"score": [1.0, 0.0], "loss_nats": [3.0, 2.0], "scored_tokens": [0.0, 4.0]})
    assert np.isnan(item_values(rows, "loss")[0])
    assert item_values(rows, "loss")[1] == -0.5


def test_rounding_moves_losses_by_their_mean_absolute_difference() -> None:
    base = pd.DataFrame(
        {
            "item_id": ["a", "b"], "loss_nats": [4.0, 6.0], "loss_nats_again": [4.2, 5.9],
            "scored_tokens": [2.0, 1.0], "score": np.nan, "score_again": np.nan,
        }
    )  # fmt: skip
    assert moved_by_rounding(base, ["a", "b"], "loss") == pytest.approx((0.1 + 0.1) / 2)
    assert moved_by_rounding(base.drop(columns="loss_nats_again"), ["a", "b"], "loss") == 0.0
