"""The choice of settings on points whose answer is known, and the fit against its definition."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankscope.decide.retention_rule import LABELS_LEAD, isotonic
from rankscope.decide.setting_choice import ArmPoints, choose_settings, predictor_of, with_fits
from rankscope.decide.setting_points import SettingMeasurements, operating_points, setting_points
from rankscope.records import ArmSetting, PlannedChoice, SettingPoint

CHOICE = PlannedChoice(model="m", train_set="t", select="retention", limit=0.02, limit_nats=0.013)


def point(rate: float, dial: float, loss: float | None, lost: float | None, moved: float, arm: str = "a", labels: float = 0.0) -> SettingPoint:  # fmt: skip  # noqa: E501
    return SettingPoint(
        arm=arm, learning_rate=rate, dial=dial, source="search", seeds=1, validation_loss=loss, forgetting=lost,
        kl_first_token_nats=moved, select_items=labels,
    )  # fmt: skip


def chosen(*points: SettingPoint, choice: PlannedChoice = CHOICE, **arm: float) -> ArmSetting:
    (setting,) = choose_settings([ArmPoints("a", points, **arm)], choice)
    return setting


MILD = [point(1e-3, 0.5, 3.0, 0.00, 0.1), point(1e-3, 1.0, 2.0, 0.01, 0.2)]
STRONG = [point(3e-3, 0.5, 1.5, 0.015, 0.3), point(3e-3, 1.0, 1.0, 0.2, 2.0)]


def test_the_lowest_loss_of_those_that_keep_two_thirds_of_the_margin() -> None:
    setting = chosen(*MILD, *STRONG)
    assert (setting.learning_rate, setting.dial, setting.how) == (3e-3, 0.5, "retention")
    assert (setting.limit, setting.rate_given) == (0.02, False)
    assert setting.point is not None
    assert setting.point.fitted == pytest.approx(0.015)


def test_where_none_keeps_it_the_least_forgetting_is_taken_and_labelled() -> None:
    setting = chosen(point(1e-3, 0.5, 3.0, 0.1, 0.5), point(1e-3, 1.0, 2.0, 0.3, 1.0))
    assert (setting.dial, setting.how) == (0.5, "none admissible")


def test_a_tie_in_the_loss_goes_to_what_moves_less() -> None:
    assert chosen(point(1e-3, 1.0, 2.0, 0.01, 0.2), point(3e-3, 0.5, 2.0, 0.0, 0.1)).learning_rate == 3e-3


def test_blind_to_forgetting_the_lowest_loss_wins_at_dial_1() -> None:
    blind = CHOICE.model_copy(update={"select": "loss"})
    setting = chosen(*MILD, *STRONG, choice=blind)
    assert (setting.learning_rate, setting.dial, setting.how, setting.limit) == (3e-3, 1.0, "loss", None)


def test_a_given_rate_stays_and_its_dial_is_chosen_unless_it_is_given_too() -> None:
    setting = chosen(*MILD, *STRONG, rate=3e-3)
    assert (setting.learning_rate, setting.dial, setting.how, setting.rate_given) == (3e-3, 0.5, "retention", True)
    fixed = chosen(*MILD, *STRONG, rate=3e-3, dial=1.0)
    assert (fixed.dial, fixed.how) == (1.0, "given")
    nothing = chosen(rate=3e-3, dial=0.7)
    assert (nothing.learning_rate, nothing.dial, nothing.points) == (3e-3, 0.7, [])


def test_what_diverged_is_never_chosen() -> None:
    assert chosen(point(1e-3, 1.0, None, 0.0, 0.1), *MILD).dial == 1.0
    assert chosen(point(1e-3, 1.0, None, 0.0, 0.1)).learning_rate is None


def test_with_few_labels_one_lucky_point_is_held_to_what_its_divergence_says() -> None:
    """At a large divergence a point of few items that seems to forget nothing is pooled with its like."""
    others = [point(1e-3, d, 3.0, 0.1, m, arm="b") for d, m in ((0.5, 1.0), (0.7, 1.1), (1.0, 1.3))]
    lucky = point(3e-3, 1.0, 0.5, 0.0, 1.2)
    few = choose_settings([ArmPoints("a", [lucky, MILD[1]]), ArmPoints("b", others)], CHOICE)
    assert few[0].learning_rate == 1e-3
    many = [one.model_copy(update={"select_items": 20_000.0}) for one in (lucky, MILD[1])]
    labelled = choose_settings([ArmPoints("a", many), ArmPoints("b", others)], CHOICE)
    assert labelled[0].learning_rate == 3e-3


def test_at_64_labels_a_suite_both_fits_have_the_same_say() -> None:
    points = [point(1e-3, 1.0, 1.0, 0.08, 1.0, labels=LABELS_LEAD), point(1e-3, 1.0, 1.0, 0.02, 1.0, "b", LABELS_LEAD)]
    fitted = with_fits(points)
    assert [one.fitted for one in fitted] == pytest.approx([(0.08 + 0.05) / 2, (0.02 + 0.05) / 2])


def test_what_moves_over_the_choices_leads_where_it_was_measured() -> None:
    """Over the whole vocabulary the order is the wrong one: the answer's form moves most where least is forgotten."""
    forms = [point(1e-3, 1.0, 2.0, 0.0, 9.0), point(3e-3, 1.0, 1.0, 0.2, 1.0), point(1e-2, 1.0, 0.5, None, 5.0)]
    over = [
        one.model_copy(update={"kl_choices_nats": moved}) for one, moved in zip(forms, (0.1, 0.9, 0.8), strict=True)
    ]
    assert predictor_of(over) == "kl_choices_nats"
    assert [one.fitted for one in with_fits(over)] == pytest.approx([0.0, 0.2, 0.175])
    partly = [*over[:2], forms[2]]
    assert predictor_of(partly) == "kl_first_token_nats"
    assert [one.fitted for one in with_fits(partly)] == pytest.approx([0.1, 0.1, 0.1])
    assert predictor_of([over[0], forms[1].model_copy(update={"kl_first_token_nats": None})]) == "kl_choices_nats"


@pytest.mark.parametrize(("free", "known"), [(1, True), (2, False)])
def test_the_choices_speak_where_half_of_the_suites_have_any(free: int, known: bool) -> None:
    suites = ["law", *[f"free{i}" for i in range(free)]]
    rows = [("a", 1e-3, 1.0, 0, name, "i", 2.0, 0.5 if name == "law" else None) for name in suites]
    columns = ["arm", "learning_rate", "dial", "seed", "suite", "item_id", "kl_first_token_nats", "kl_choices_nats"]
    losses = pd.DataFrame(
        [("a", 1e-3, 1.0, 0, 2.0)], columns=["arm", "learning_rate", "dial", "seed", "validation_loss"]
    )
    law = scores("a", 1.0, 0, [1, 1], [])
    base = law[["suite", "item_id", "score", "loss_nats", "scored_tokens"]]
    given = pd.DataFrame({"suite": suites, "form": "choices", "metric": "loss"})
    measured = SettingMeasurements(law, pd.DataFrame(rows, columns=columns), losses)
    (found,) = setting_points(measured, base, given, "runs")
    assert found.kl_first_token_nats == 2.0
    assert found.kl_choices_nats == (0.5 if known else None)


def test_nats_and_points_must_both_be_kept() -> None:
    nats = SettingPoint(arm="a", learning_rate=1e-3, dial=1.0, source="search", seeds=1, validation_loss=1.0,
                        forgetting=0.0, forgetting_nats=0.5, kl_first_token_nats=0.5)  # fmt: skip
    kept = nats.model_copy(
        update={"dial": 0.5, "validation_loss": 2.0, "forgetting_nats": 0.0, "kl_first_token_nats": 0.1}
    )
    setting = chosen(nats, kept)
    assert (setting.dial, setting.how) == (0.5, "retention")


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-5, 5)), min_size=1, max_size=12))
def test_the_fit_rises_and_no_rising_step_function_of_few_levels_is_nearer(pairs: list[tuple[int, int]]) -> None:
    """Against the max-min formula of isotonic regression (Robertson et al. 1988, theorem 1.4.4)."""
    x, y = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    fit = isotonic(x, y)
    for place, value in zip(x, fit, strict=True):
        means = [
            min(y[(x >= low) & (x <= high)].mean() for high in sorted(set(x)) if high >= place)
            for low in sorted(set(x))
            if low <= place
        ]
        assert value == pytest.approx(max(means))


def test_a_point_without_labels_is_read_off_the_fit_between_its_neighbours() -> None:
    fit = isotonic(np.array([0.0, 1.0, 2.0, np.nan]), np.array([0.0, np.nan, 0.4, 0.1]))
    assert fit[:3] == pytest.approx([0.0, 0.2, 0.4])
    assert math.isnan(fit[3])


def scores(arm: str, dial: float, seed: int, law: list[float], sums: list[float]) -> pd.DataFrame:
    rows = [("law", f"l{i}", v) for i, v in enumerate(law)] + [("sums", f"s{i}", v) for i, v in enumerate(sums)]
    frame = pd.DataFrame(rows, columns=["suite", "item_id", "score"])
    return frame.assign(arm=arm, learning_rate=1e-3, dial=dial, seed=seed, loss_nats=np.nan, scored_tokens=np.nan)


def test_points_are_means_over_items_then_suites_then_seeds() -> None:
    base = scores("base", 1, 0, [1, 1, 1, 1], [1, 0])[["suite", "item_id", "score", "loss_nats", "scored_tokens"]]
    parts = [scores("a", 1.0, 0, [1, 1, 1, 0], [0, 0]), scores("a", 1.0, 1, [1, 1, 1, 1], [1, 0]),
             scores("a", 0.5, 0, [1, 1, 1, 1], [1, 1])]  # fmt: skip
    moved = pd.DataFrame(
        [("a", 1e-3, 1.0, s, suite, f"{suite[0]}{i}", v, None) for s in (0, 1) for suite, i, v in
         (("law", 0, 1.0), ("law", 1, 3.0), ("sums", 0, 4.0))],
        columns=["arm", "learning_rate", "dial", "seed", "suite", "item_id", "kl_first_token_nats", "kl_choices_nats"],
    )  # fmt: skip
    columns = ["arm", "learning_rate", "dial", "seed", "validation_loss"]
    losses = pd.DataFrame(
        [("a", 1e-3, 1.0, 0, 2.0), ("a", 1e-3, 1.0, 1, 3.0), ("a", 1e-3, 0.5, 0, 4.0)], columns=columns
    )
    suites = pd.DataFrame({"suite": ["law", "sums"], "form": "choices", "metric": "score"})
    (found,) = setting_points(SettingMeasurements(pd.concat(parts), moved, losses), base, suites, "runs")
    assert (found.dial, found.seeds, found.validation_loss) == (1.0, 2, 2.5), "one seed at 0.5 is not all of them"
    assert found.forgetting == pytest.approx(((1 / 4 + 1 / 2) / 2 + 0) / 2)
    assert found.kl_first_token_nats == pytest.approx((2.0 + 4.0) / 2)
    assert (found.select_items, found.kl_choices_nats, found.forgetting_nats) == (3.0, None, None)


def test_the_table_has_a_row_for_each_point_with_what_was_judged_beside_it() -> None:
    setting = chosen(*MILD, *STRONG)
    columns = ["model", "train_set", "arm", "learning_rate", "dial", "judged_seeds", "gain", "gain_low", "gain_high",
               "forgetting", "forgetting_low", "forgetting_high"]  # fmt: skip
    judged = pd.DataFrame([["m", "t", "a", 3e-3, 0.5, 3, 0.4, 0.3, 0.5, 0.01, 0.0, 0.02]], columns=columns)
    table = operating_points([setting], judged)
    assert len(table) == 4
    (row,) = table[table["chosen"]].to_dict("records")
    assert (row["learning_rate"], row["dial"], row["gain"], row["admissible"]) == (3e-3, 0.5, 0.4, True)
    assert table[~table["chosen"]]["gain"].isna().all()
    assert table["admissible"].tolist() == [True, True, True, False]
