"""The best bet of a study in verdict.json: which arm, with what setting, and where its probability cannot be said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_studies import Study

from rankscope.decide.bet_evidence import arms_worth_a_seed, place, places_of
from rankscope.decide.bet_suites import all_seeds
from rankscope.decide.looks import gather
from rankscope.decide.paired_items import Frames
from rankscope.decide.run_outcomes import arm_facts
from rankscope.decide.verdict import decide
from rankscope.records import BestBet, Verdict
from rankscope.study.study import Decision

LEARNED = {"lora-r1": 0.50, "lora-r4": 0.70, "lora-r16": 0.70, "lora-r64": 0.70, "full": 0.70}
KEPT = {"lora-r1": 0.80, "lora-r4": 0.795, "lora-r16": 0.79, "lora-r64": 0.79, "full": 0.70}


def judged(frames: Frames, decision: Decision | None = None) -> Verdict:
    return decide(frames, model="small", train_set="facts", decision=decision or Decision(), bootstrap_draws=0)


def bet_of(study: Study) -> BestBet:
    found = judged(study.frames()).best_bet
    assert found is not None
    return found


def test_the_smallest_of_three_alike() -> None:
    verdict = judged(Study(LEARNED, KEPT).frames())
    bet = verdict.best_bet
    assert bet is not None
    assert bet.label == "lora-r4"
    assert bet.setting is not None
    assert (bet.setting.learning_rate, bet.setting.dial) == (2e-4, 1.0)
    assert bet.probability is not None
    assert bet.probability > 0.95
    assert bet.expected_regret is not None
    assert 0.0 <= bet.expected_regret < 0.01
    assert bet.runner_up in ("lora-r16", "lora-r64")
    assert "probably" in bet.headline
    assert [answer.headline for answer in verdict.answers] == ["Recommended: lora-r4", bet.headline]


def test_it_is_the_headline_where_nothing_is_sure() -> None:
    study = Study(LEARNED, KEPT, items=60, noise=0.3)
    verdict = judged(study.frames())
    assert verdict.recommended is None
    assert verdict.best_bet is not None
    assert verdict.answers[0].headline == verdict.best_bet.headline


def test_the_same_records_give_the_same_bet() -> None:
    frames = Study(LEARNED, KEPT, items=100).frames()
    assert judged(frames).best_bet == judged(frames).best_bet


def test_one_seed_has_a_bet_without_a_probability() -> None:
    bet = bet_of(Study(LEARNED, KEPT, seeds=(7,)))
    assert bet.label in ("lora-r4", "lora-r16", "lora-r64")
    assert (bet.probability, bet.expected_regret, bet.probability_base) == (None, None, None)
    assert "with one seed nobody knows" in bet.sentence
    assert bet.next_runs is not None
    assert bet.next_runs.saving is None


def test_where_all_forget_the_base_is_bet_on_and_the_least_bad_arm_named() -> None:
    kept = {label: 0.72 if label != "lora-r4" else 0.745 for label in LEARNED}
    bet = bet_of(Study(LEARNED, kept))
    assert (bet.label, bet.setting) == ("base", None)
    assert bet.probability == bet.probability_base
    assert bet.least_bad is not None
    assert bet.least_bad.label == "lora-r4"
    assert 0.05 < bet.least_bad.retention_margin < 0.08
    assert bet.least_bad.probability is not None
    assert bet.least_bad.probability > 0.7
    assert "train none of these" in bet.headline
    assert "If one must be trained: lora-r4" in bet.why
    assert bet.next_runs is None or "base" not in bet.next_runs.arms


def test_without_suites_outside_the_domain_the_bet_is_on_gain_alone() -> None:
    frames = Study(LEARNED, KEPT).frames()
    suites = frames.suites[frames.suites["suite"].isin(["med"])]
    bet = judged(frames._replace(suites=suites)).best_bet
    assert bet is not None
    assert bet.label in ("lora-r4", "full", "lora-r16")
    assert bet.probability is None
    assert "what the arms forget was not measured" in bet.sentence


def test_an_unfinished_study_has_no_probability() -> None:
    states: dict[tuple[str, int], tuple[str, str | None]] = {("full", seed): ("planned", None) for seed in (0, 1, 2)}
    bet = bet_of(Study(LEARNED, KEPT, states=states))
    assert bet.probability is None
    assert "not finished" in bet.sentence


def test_without_a_suite_of_the_domain_there_is_no_bet() -> None:
    frames = Study(LEARNED, KEPT).frames()
    suites = frames.suites[frames.suites["suite"] != "med"]
    assert judged(frames._replace(suites=suites)).best_bet is None


def test_every_done_seed_counts_in_the_order_of_the_seeds() -> None:
    """An arm with five seeds beside arms with three: the bet has them all, the verdict the three that all share."""
    states = {(arm, seed): ("not needed", None) for arm in LEARNED for seed in (3, 4) if arm != "lora-r4"}
    study = Study(LEARNED, KEPT, seeds=range(5), items=40, noise=0.3, states=states)
    frames = study.frames()
    pairing = gather(frames, model="small", train_set="facts", decision=Decision()).last.pairing
    suites = all_seeds(pairing, frames)
    at = pairing.labels.index("lora-r4")
    for suite in suites:
        assert suite.scores.shape == (5, 5, 40)
        has = ~np.isnan(suite.scores).any(axis=2)
        assert has.sum(axis=1).tolist() == [5 if a == at else 3 for a in range(5)]
        rows = frames.predictions
        mine = rows[(rows["arm"] == "lora-r4") & (rows["suite"] == suite.name) & (rows["seed"] == 4)]
        expected = mine.set_index("item_id")["score"].reindex(list(suite.item_ids)).to_numpy()
        np.testing.assert_array_equal(suite.scores[at, 4], expected)
    bet = judged(frames).best_bet
    assert bet is not None
    assert "every seed that was done: 5 of lora-r4, 3 of every other arm" in bet.why


def test_numerics_that_move_answers_widen_the_draws() -> None:
    sharp = Study(LEARNED, {**KEPT, "lora-r4": 0.775, "lora-r16": 0.775, "lora-r64": 0.775}, items=3000, seed_sd=0.0005)
    frames = sharp.frames()
    rows = frames.predictions
    again = rows["score"].where(rows["arm"] == "base")
    flipped = again.mask(rows["item_id"].isin([f"i{n:05d}" for n in range(90)]), 1 - again)
    plain = judged(
        frames._replace(predictions=rows.assign(score_again=again, choice_logprobs=None, choice_logprobs_again=None))
    ).best_bet
    moved = judged(
        frames._replace(predictions=rows.assign(score_again=flipped, choice_logprobs=None, choice_logprobs_again=None))
    ).best_bet
    assert plain is not None
    assert moved is not None
    assert plain.probability is not None
    assert moved.probability is not None
    assert plain.probability > 0.99
    assert moved.probability < 0.95


def test_the_curve_is_of_the_method_with_the_most_ranks() -> None:
    facts = list(arm_facts(Study(LEARNED, KEPT).frames().runs))
    dora = replace(facts[0], label="dora-r8", method="dora", rank=8)
    places = {arm.label: spot for arm, spot in zip([*facts, dora], places_of([*facts, dora]), strict=True)}
    assert places["lora-r16"] == (4.0, False)
    assert places["full"] == (None, True)
    assert places["dora-r8"] == (3.0, True)


def in_nats(frames: Frames, suites: list[str]) -> Frames:
    """The same study where these suites are judged by a loss: 0.02 nats for every three points that are wrong."""
    rows = frames.predictions
    mine = rows["suite"].isin(suites)
    loss = (1 - rows["score"]) * 0.02 / 0.03
    rows = rows.assign(
        loss_nats=rows["loss_nats"].mask(mine, loss),
        scored_tokens=rows["scored_tokens"].mask(mine, 1.0),
        score=rows["score"].mask(mine, np.nan),
    )
    metrics = ["loss" if name in suites else "score" for name in frames.suites["suite"]]
    return frames._replace(predictions=rows, suites=frames.suites.assign(metric=metrics))


def test_a_study_of_losses_is_bet_on_in_margins_as_one_of_points_in_points() -> None:
    frames = Study(LEARNED, KEPT, items=300, noise=0.1).frames()
    points, nats = judged(frames).best_bet, judged(in_nats(frames, ["med", "law", "sums"])).best_bet
    assert points is not None
    assert nats is not None
    assert (points.unit, nats.unit) == ("accuracy", "margins")
    assert nats.label == points.label
    assert points.expected_regret is not None
    assert nats.expected_regret == pytest.approx(points.expected_regret / 0.03, rel=0.05, abs=0.01)
    assert nats.probability == pytest.approx(points.probability, abs=0.02)
    assert "0.02 nats" in nats.sentence
    assert "margins" in nats.why


def test_gain_in_points_and_forgetting_in_nats() -> None:
    bet = judged(in_nats(Study(LEARNED, KEPT).frames(), ["law", "sums"])).best_bet
    assert bet is not None
    assert (bet.label, bet.unit) == ("lora-r4", "margins")
    assert bet.probability is not None
    assert bet.probability > 0.9


def test_a_seed_is_worth_it_where_the_bet_is_open_and_not_where_it_is_plain() -> None:
    learned = {"lora-r1": 0.50, "lora-r4": 0.66, "lora-r16": 0.685, "lora-r64": 0.695, "full": 0.70}
    open_one = Study(learned, {**KEPT, "full": 0.79}, items=600, seed_sd=0.05, rng_seed=2).frames()
    evidence = gather(open_one, model="small", train_set="facts", decision=Decision())
    placed = place(evidence, open_one, Decision())
    assert placed is not None
    arms = arms_worth_a_seed(evidence, open_one, Decision(), 8)
    assert arms[0] == placed.name(placed.bet.option)
    assert len(arms) == 3
    assert "lora-r1" not in arms
    assert arms_worth_a_seed(evidence, open_one, Decision(runs_worth=0.5), 8) == []
    assert arms_worth_a_seed(evidence, open_one, Decision(), 3) == []
    plain = Study({"lora-r4": 0.5, "full": 0.9}, {"lora-r4": 0.8, "full": 0.8}).frames()
    sure = gather(plain, model="small", train_set="facts", decision=Decision())
    assert arms_worth_a_seed(sure, plain, Decision(), 8) == []
