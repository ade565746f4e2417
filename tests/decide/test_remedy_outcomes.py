"""Remedies against their own arms on made-up studies, and against plain paired arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from made_studies import Study

from rankscope.decide import bet_evidence
from rankscope.decide.best_bet import Bet, Outcomes, place_bet
from rankscope.decide.bet_evidence import places_of
from rankscope.decide.looks import gather
from rankscope.decide.paired_items import Frames
from rankscope.decide.pooled_effects import study_arms
from rankscope.decide.remedy_outcomes import best_sentence, remedy_outcomes
from rankscope.study.study import Decision

LEARNED = {"lora-r16": 0.80, "lora-r1": 0.78, "lora-r4": 0.80, "full": 0.85}
KEPT = {"lora-r16": 0.71, "lora-r1": 0.78, "lora-r4": 0.71, "full": 0.70}


def frames(**changes: object) -> Frames:
    made = Study(learned=LEARNED, kept=KEPT).frames()
    runs = made.runs.assign(remedy=None, extra_tokens_share=0.0)
    for arm, remedy, tokens in (("lora-r1", "retain kl 0.3", 0.0), ("lora-r4", "replay of 20 % old rows", 0.25)):
        runs.loc[runs["arm"] == arm, ["remedy", "extra_tokens_share"]] = [remedy, tokens]
    lora = runs["arm"] != "full"
    for name, value in (("method", "lora"), ("rank", 16), ("alpha", 32.0), ("targets", "all-linear")):
        runs.loc[lora, name] = value
    runs.loc[lora, "learning_rate"] = 1e-3
    runs.loc[~lora, ["method", "targets"]] = ["full", None]
    runs["train_seconds"] = np.where(runs["arm"] == "lora-r1", 15.0, 10.0)
    return made._replace(runs=runs.assign(**changes))


def model_of(made: Frames) -> tuple[str, str]:
    return str(made.runs["model"].iloc[0]), str(made.runs["train_set"].iloc[0])


def test_each_is_paired_with_the_arm_that_does_nothing_else() -> None:
    made = frames()
    near, other = remedy_outcomes(made, *model_of(made), 0.95)
    assert [(one.arm, one.own_arm) for one in (near, other)] == [("lora-r1", "lora-r16"), ("lora-r4", "lora-r16")]
    predictions = made.predictions
    for one in (near, other):
        means = {
            (arm, suite): predictions[(predictions["arm"] == arm) & (predictions["suite"] == suite)]["score"]
            .astype(float).mean()
            for arm in (one.arm, one.own_arm) for suite in ("med", "law", "sums")
        }  # fmt: skip
        assert one.gain_lost.mean == pytest.approx(means[one.own_arm, "med"] - means[one.arm, "med"])
        saved = [means[one.arm, suite] - means[one.own_arm, suite] for suite in ("law", "sums")]
        assert one.forgetting_saved.mean == pytest.approx(np.mean(saved))
        assert one.forgetting_saved.low < one.forgetting_saved.mean < one.forgetting_saved.high
    assert near.forgetting_saved.low > 0.05
    assert other.forgetting_saved.low < 0 < other.forgetting_saved.high
    assert near.extra_seconds_share == pytest.approx(0.5)
    assert other.extra_tokens_share == pytest.approx(0.25)


def test_forgetting_stands_apart_for_suites_that_gave_prompts() -> None:
    made = frames()
    assert [one.parts for one in remedy_outcomes(made, *model_of(made), 0.95)] == [[], []]
    gave = [("law",) if arm == "lora-r1" else () for arm in made.runs["arm"]]
    made = made._replace(runs=made.runs.assign(prompts_from=pd.Series(gave, dtype=object)))
    near, other = remedy_outcomes(made, *model_of(made), 0.95)
    assert other.parts == []
    assert [(part.gave_prompts, part.which, part.suites) for part in near.parts] == [
        (True, "gave prompts", ["law"]), (False, "gave none", ["sums"])
    ]  # fmt: skip
    predictions = made.predictions.assign(score=made.predictions["score"].astype(float))
    means = predictions.groupby(["arm", "suite"], observed=True)["score"].mean()
    for part, suite in zip(near.parts, ("law", "sums"), strict=True):
        assert part.forgetting.mean == pytest.approx(means["base", suite] - means["lora-r1", suite])
        assert part.forgetting_saved.mean == pytest.approx(means["lora-r1", suite] - means["lora-r16", suite])
        assert part.forgetting_saved.low < part.forgetting_saved.mean < part.forgetting_saved.high


def test_the_answer_names_the_one_that_surely_keeps_more() -> None:
    made = frames()
    outcomes = remedy_outcomes(made, *model_of(made), 0.95)
    said = best_sentence(outcomes)
    assert said == outcomes[0].sentence
    assert said.startswith("lora-r1 keeps 9")
    assert "points instead of" in said
    assert said.endswith("for 50 % more time")
    assert best_sentence(outcomes[1:]) is None


def test_without_an_arm_of_its_own_there_is_nothing_to_compare() -> None:
    made = frames()
    alone = made._replace(runs=made.runs[made.runs["arm"] != "lora-r16"])
    assert remedy_outcomes(alone, *model_of(made), 0.95) == []
    older = made._replace(runs=made.runs.drop(columns=["remedy"]))
    assert remedy_outcomes(older, *model_of(made), 0.95) == []


def test_of_several_own_arms_the_one_at_the_same_rate() -> None:
    made = frames()
    runs = made.runs.copy()
    runs.loc[runs["arm"] == "full", ["method", "rank", "alpha", "targets"]] = ["lora", 16, 32.0, "all-linear"]
    runs.loc[runs["arm"].isin(["full", "lora-r1"]), "learning_rate"] = 5e-3
    found = remedy_outcomes(made._replace(runs=runs), *model_of(made), 0.95)
    assert {one.arm: one.own_arm for one in found} == {"lora-r1": "full", "lora-r4": "lora-r16"}


def test_arms_without_done_runs_are_left_out() -> None:
    made = frames()
    runs = made.runs.copy()
    runs.loc[runs["arm"] == "lora-r1", "state"] = "failed"
    found = remedy_outcomes(made._replace(runs=runs), *model_of(made), 0.95)
    assert [one.arm for one in found] == ["lora-r4"]
    assert isinstance(runs, pd.DataFrame)


def test_the_bet_knows_which_arms_have_no_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an arm and its remedy are as big and as good, the one without is bet on, whichever stands first."""

    def all_alike(outcomes: Outcomes, cost: np.ndarray, plain: Sequence[bool]) -> Bet:
        alike = Outcomes(np.ones_like(outcomes.regret), outcomes.right)
        return place_bet(alike, np.zeros_like(cost), plain)

    monkeypatch.setattr(bet_evidence, "place_bet", all_alike)
    made = frames()
    for treated in ("lora-r1", "lora-r16"):
        runs = made.runs.assign(trainable_parameters=1000, remedy=None)
        runs.loc[runs["arm"] == treated, "remedy"] = "retain kl 0.3"
        two = made._replace(runs=runs[runs["arm"].isin(["lora-r1", "lora-r16"])])
        model, train_set = model_of(two)
        evidence = gather(two, model=model, train_set=train_set, decision=Decision())
        placed = bet_evidence.place(evidence, two, Decision())
        assert placed is not None
        (plain,) = {"lora-r1", "lora-r16"} - {treated}
        assert placed.name(placed.bet.option) == plain


def test_a_default_and_the_curve_over_rank_are_of_plain_arms() -> None:
    made = frames()
    model, train_set = model_of(made)
    evidence = gather(made, model=model, train_set=train_set, decision=Decision())
    assert len(evidence.labels) == 4
    assert len(study_arms("one", evidence, {})) == 2
    facts = [evidence.of(label)[0].pairing.facts(label) for label in evidence.labels]
    apart = {arm.label: place.apart for arm, place in zip(facts, places_of(facts), strict=True)}
    assert apart == {"lora-r16": False, "lora-r1": True, "lora-r4": True, "full": True}
