"""What numerics alone change is counted, and no verdict rests on less."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from made_studies import Study

from rankscope.decide.gain_and_forgetting import measure_pairing
from rankscope.decide.paired_items import Frames, pair
from rankscope.decide.run_outcomes import Floor, floor_of, moved_by_rounding, noise
from rankscope.decide.verdict import decide
from rankscope.decide.verdict_bounds import bounds, closed_form_widths
from rankscope.records import Verdict
from rankscope.report.verdict_text import noise_sentence
from rankscope.study.study import Decision


def scored_twice(frames: Frames, changed: dict[str, int]) -> Frames:
    """The frames with a second scoring of the base, in which so many items of each suite are answered otherwise."""
    predictions = frames.predictions.copy()
    base = predictions["arm"] == "base"
    predictions["score_again"] = predictions["score"].where(base)
    predictions["choice_logprobs"] = [[-1.0, -2.0]] * len(predictions)
    predictions["choice_logprobs_again"] = [[-1.0, -2.0 - 1e-3]] * len(predictions)
    for suite, count in changed.items():
        rows = predictions.index[base & (predictions["suite"] == suite)][:count]
        predictions.loc[rows, "score_again"] = 1 - predictions.loc[rows, "score"]
    return frames._replace(predictions=predictions)


def judged(frames: Frames, decision: Decision | None = None) -> Verdict:
    chosen = decision or Decision()
    return decide(frames, model="small", train_set="facts", decision=chosen, bootstrap_draws=100)


@pytest.fixture(scope="module")
def clear() -> Frames:
    return Study({"lora-r4": 0.70, "full": 0.70}, {"lora-r4": 0.795, "full": 0.70}, items=400).frames()


def test_shares_and_the_floor() -> None:
    rows = pd.DataFrame({"item_id": list("abcd"), "score": [1.0, 0, 1, np.nan], "score_again": [1.0, 1, 0, 1]})
    assert moved_by_rounding(rows, list("abcd"), "score") == 0.5  # what has no score cannot change
    assert moved_by_rounding(rows, ["a", "b"], "score") == 0.5
    assert moved_by_rounding(rows.drop(columns="score_again"), list("abcd"), "score") == 0.0
    assert floor_of([0.1, 0.3], []) == Floor(pytest.approx(0.2), 0.0)


def test_the_table_counts_what_changes(clear: Frames) -> None:
    table = noise(scored_twice(clear, {"law": 4})[0]).set_index("suite")
    assert table["n"].to_dict() == {"med": 400, "law": 400, "sums": 400}
    assert table["changed"].to_dict() == {"med": 0, "law": 4, "sums": 0}
    assert table.loc["law", "share"] == 0.01
    assert table.loc["law", "largest_difference_nats"] == pytest.approx(1e-3)
    assert noise(clear.predictions).empty


def test_bounds_are_wider_by_the_share_and_by_nothing_else(clear: Frames) -> None:
    def measured(frames: Frames):  # type: ignore[no-untyped-def]
        found = measure_pairing(pair(frames, model="small", train_set="facts"))
        return bounds(found, closed_form_widths(found, 0.01))

    plain, again = measured(clear), measured(scored_twice(clear, {}))
    for name in ("gain_low", "gain_high", "forgetting_low", "forgetting_high", "better_by"):
        assert getattr(plain, name).tolist() == getattr(again, name).tolist()
    noisy = measured(scored_twice(clear, {"med": 8, "law": 4, "sums": 12}))
    in_domain, others = 8 / 400, (4 / 400 + 12 / 400) / 2
    assert noisy.gain_low == pytest.approx(plain.gain_low - in_domain)
    assert noisy.gain_high == pytest.approx(plain.gain_high + in_domain)
    assert noisy.forgetting_low == pytest.approx(plain.forgetting_low - others)
    assert noisy.forgetting_high == pytest.approx(plain.forgetting_high + others)
    finite = np.isfinite(plain.better_by)
    assert noisy.better_by[finite] == pytest.approx(plain.better_by[finite] - in_domain)


def test_a_verdict_does_not_rest_on_less_than_the_floor(clear: Frames) -> None:
    plain = judged(clear)
    assert plain.kind == "recommended"
    assert plain.noise == []

    still = judged(scored_twice(clear, {}))
    assert (still.kind, still.recommended) == ("recommended", plain.recommended)
    assert {one.suite: one.changed_items for one in still.noise} == {"med": 0, "law": 0, "sums": 0}
    assert "none of the base's 1,200 items changes" in still.reasons[-1]

    # The bound of forgetting has less room below the margin than these items are worth.
    found = measure_pairing(pair(clear, model="small", train_set="facts"))
    alpha = (1 - Decision().confidence) / 4
    room = Decision().retention_margin - bounds(found, closed_form_widths(found, alpha)).forgetting_high
    slack = float(room[list(pair(clear, model="small", train_set="facts").labels).index("lora-r4")])
    assert 0 < slack < 0.05
    below, above = math.floor(2 * 400 * slack) - 1, math.ceil(2 * 400 * slack) + 1
    assert judged(scored_twice(clear, {"law": below})).kind == "recommended"
    noisy = judged(scored_twice(clear, {"law": above}))
    assert (noisy.kind, noisy.recommended) == ("cannot_distinguish", None)
    assert f"{above} of the base's 1,200 items change by numerics alone" in noisy.reasons[-1]
    assert noise_sentence(noisy) == f"Numerics alone change {above} of the base's 1,200 items; no bound rests on less."
    assert noise_sentence(still) is noise_sentence(plain) is None
