"""The verdict of one base model and training set: the rule applied to what was measured, with its reasons."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from rankscope.config.study import Decision
from rankscope.decide import words
from rankscope.decide.arms import median_seed
from rankscope.decide.describe import arm_verdicts, recommended
from rankscope.decide.measure import (
    Measured,
    bootstrap_widths,
    bounds,
    closed_form_widths,
    decision_alpha,
    intervals,
    measure_pairing,
    rule_on,
)
from rankscope.decide.noise import noise_sentences, suite_noise
from rankscope.decide.pairing import Pairing, pair
from rankscope.decide.power import detectable, more_needed
from rankscope.decide.rule import Bounds, Ruling
from rankscope.decide.stats import mcnemar_exact
from rankscope.records import MoreNeeded, Verdict

__all__ = ["decide", "median_seed"]


def decide(
    predictions: pd.DataFrame,
    suites: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    model: str,
    train_set: str,
    decision: Decision,
    bootstrap_draws: int = 2000,
    seed: int = 0,
) -> Verdict:
    """Judge the arms of `model` on `train_set` by the rule of `decision`; the frames are those of docs/records.md.

    The closed form bounds the decision, so the same predictions always give the same verdict; a bootstrap of
    `bootstrap_draws` draws from `seed` checks it and is reported. A study that is not finished, has one seed, no suite
    to forget on or a suite of one item is described and not decided. Raises ValueError where there is no such run.
    """
    pairing = pair(predictions, suites, runs, model=model, train_set=train_set)
    measured = measure_pairing(pairing)
    labels = pairing.labels
    cost = [float(pairing.facts(label).trainable_parameters or 0) for label in labels]
    widths = closed_form_widths(measured, decision_alpha(measured, decision))
    limits = bounds(measured, widths)
    ruling = rule_on(measured, widths, cost, decision) if labels else _NOTHING_COMPARED
    blocks = _blocks(pairing)
    if blocks and not (ruling.answer == "no_gain" and blocks == [_NO_RETENTION]):
        ruling = _undecided(ruling, limits)
    more = _more(measured, cost, decision, ruling, blocks)
    check = None
    if labels and not blocks and bootstrap_draws > 0:
        check = _check(pairing, measured, ruling, cost, decision, seed, bootstrap_draws)
    remaining = [arm.label for arm in pairing.arms if arm.problem in ("planned", "running")]
    noise = suite_noise(predictions, model)
    reasons = _reasons(pairing, measured, limits, ruling, decision, blocks, more, check)
    return Verdict(
        model=model,
        train_set=train_set,
        kind=ruling.answer,
        decided=ruling.answer != "cannot_distinguish",
        recommended=None if ruling.recommended is None else recommended(pairing.facts(labels[ruling.recommended])),
        candidates=[labels[a] for a in ruling.candidates] + remaining,
        refuted=[labels[a] for a in ruling.refuted],
        rule=words.rule_sentence(decision, len(labels)),
        reasons=[*reasons, *noise_sentences(noise, measured.floor)],
        minimum_detectable_effect=detectable(measured, decision),
        more_needed=more,
        arms=arm_verdicts(
            pairing,
            measured,
            ruling,
            decision,
            lambda label: pair(predictions, suites, runs, model=model, train_set=train_set, only=[label]),
        ),
        noise=noise,
    )


# ---- what cannot be decided -----------------------------------------------------------------------------------------

_NO_RETENTION = (
    "No suite of another domain, or general, was scored: what the arms forget is not known, so none can be recommended."
)


_NOTHING_COMPARED = Ruling("cannot_distinguish", None, (), (), (), ())


def _undecided(ruling: Ruling, limits: Bounds) -> Ruling:
    """The same standing of each arm, without an answer; the arms that remain are those not refuted."""
    remain = tuple(a for a in range(len(ruling.status)) if a not in ruling.refuted and limits.gain_high[a] > 0)
    return replace(ruling, answer="cannot_distinguish", recommended=None, candidates=remain)


def _blocks(pairing: Pairing) -> list[str]:
    """Why nothing can be decided, whatever the numbers say; empty where the rule may speak."""
    said = []
    if pairing.unfinished:
        said.append(f"The study is not finished: {pairing.unfinished} of its runs are still to be done.")
    if not pairing.labels:
        return [*said, "No arm has finished runs that could be compared."]
    if len(pairing.seeds) < 2:
        count = "One seed" if pairing.seeds else "No seed in common"
        said.append(
            f"{count}: how much the result depends on the seed is not known. The intervals are over items only, "
            "a description and no decision."
        )
    if pairing.missing_suites:
        said.append(f"Not every suite could be compared: {', '.join(pairing.missing_suites)}.")
    if not pairing.in_domain:
        said.append("No suite of the training set's own domain was scored: what the arms learned is not known.")
    if not pairing.others:
        said.append(_NO_RETENTION)
    single = [suite.name for suite in pairing.suites if len(suite.item_ids) < 2]
    if single:
        said.append(f"One item says nothing of others: {', '.join(single)} has a single scored item.")
    return said


def _more(measured: Measured, cost: list[float], decision: Decision, ruling: Ruling, blocks: list[str]) -> MoreNeeded:
    if ruling.answer != "cannot_distinguish":
        return MoreNeeded(seeds=0, items=0)
    single = measured.gain is not None and measured.gain.seed_count == 1
    if blocks and not single:
        return MoreNeeded(seeds=None, items=None)
    return more_needed(measured, cost, decision)


# ---- reasons --------------------------------------------------------------------------------------------------------


def _reasons(
    pairing: Pairing,
    measured: Measured,
    limits: Bounds,
    ruling: Ruling,
    decision: Decision,
    blocks: list[str],
    more: MoreNeeded,
    check: str | None,
) -> list[str]:
    """The answer first, then what stands against a decision, each arm, what was set aside, and what would decide."""
    labels = pairing.labels
    arms = [pairing.facts(label) for label in labels]
    items = sum(len(suite.item_ids) for suite in pairing.in_domain)
    effect = detectable(measured, decision)
    return [
        *words.headline(arms, measured, limits, ruling, decision),
        *blocks,
        *_arm_sentences(pairing, measured, limits, ruling, decision),
        *words.rival_sentences(labels, limits, ruling, decision),
        *(words.set_aside_sentence(arm) for arm in pairing.arms if arm.problem is not None),
        *pairing.notes,
        *_one_seed_sentences(pairing),
        *words.design_sentences(effect, more, len(pairing.seeds), items, ruling.answer),
        *([check] if check else []),
    ]


def _arm_sentences(
    pairing: Pairing, measured: Measured, limits: Bounds, ruling: Ruling, decision: Decision
) -> list[str]:
    count = len(pairing.labels)
    gain = intervals(measured.gain, decision.confidence, count)
    forgetting = intervals(measured.forgetting, decision.confidence, count)
    return [
        words.arm_sentence(
            label,
            gain[a],
            forgetting[a],
            ruling.status[a],
            float(limits.forgetting_low[a]),
            float(limits.forgetting_high[a]),
            decision,
            count,
        )
        for a, label in enumerate(pairing.labels)
    ]


def _one_seed_sentences(pairing: Pairing) -> list[str]:
    """McNemar's exact test of each arm against the base on the in-domain items, where there is one seed."""
    if len(pairing.seeds) != 1 or not pairing.in_domain:
        return []
    said = []
    for a, label in enumerate(pairing.labels):
        won = sum(int((suite.scores[a, 0] > suite.base).sum()) for suite in pairing.in_domain)
        lost = sum(int((suite.scores[a, 0] < suite.base).sum()) for suite in pairing.in_domain)
        p = mcnemar_exact(lost, won)
        said.append(
            f"{label}, in-domain: {won} items won and {lost} lost against the base (exact McNemar p = {p:.2g}, "
            "for this one seed)."
        )
    return said


def _check(
    pairing: Pairing,
    measured: Measured,
    ruling: Ruling,
    cost: list[float],
    decision: Decision,
    seed: int,
    draws: int,
) -> str:
    widths = bootstrap_widths(pairing, measured, decision_alpha(measured, decision), seed, draws)
    other = rule_on(measured, widths, cost, decision)
    lead = f"A bootstrap over items and seeds ({draws:,} draws) as a check"
    if (other.answer, other.recommended) == (ruling.answer, ruling.recommended):
        return f"{lead} gives the same answer."
    name = "" if other.recommended is None else f" {pairing.labels[other.recommended]}"
    return f"{lead} gives another answer ({other.answer}{name}): take this verdict as a close call."
