"""The verdict of one base model and training set: the rule applied to what was measured, with its reasons."""

from __future__ import annotations

from collections.abc import Sequence

from rankscope.decide import verdict_reasons
from rankscope.decide.arm_outcomes import median_seed
from rankscope.decide.arm_verdicts import arm_verdicts, recommended
from rankscope.decide.crossed_statistics import mcnemar_exact
from rankscope.decide.design_power import detectable, more_needed
from rankscope.decide.gain_and_forgetting import bootstrap_widths, closed_form_widths, intervals, rule_on
from rankscope.decide.looks import Evidence, gather
from rankscope.decide.noise_floor import noise_sentences, suite_noise
from rankscope.decide.paired_items import Frames, Pairing, pair
from rankscope.records import MoreNeeded, Verdict
from rankscope.study.study import Decision

__all__ = ["decide", "median_seed"]


def decide(
    frames: Frames,
    *,
    model: str,
    train_set: str,
    decision: Decision,
    looks: Sequence[int] = (),
    bootstrap_draws: int = 2000,
    seed: int = 0,
) -> Verdict:
    """Judge the arms of `model` on `train_set` by the rule of `decision`.

    The closed form bounds the decision, so the same predictions always give the same verdict; a bootstrap of
    `bootstrap_draws` draws from `seed` checks it and is reported. `looks`: with adaptive seeds the numbers of seeds
    after which the verdict is asked. A study that is not finished, has one seed, no suite to forget on or a suite of
    one item is described and not decided. Raises ValueError where there is no such run.
    """
    evidence = gather(frames, model=model, train_set=train_set, decision=decision, looks=looks)
    last, ruling = evidence.last, evidence.ruling
    more = _more(evidence, decision)
    remaining = [arm.label for arm in last.pairing.arms if arm.problem in ("planned", "running", "not needed")]
    chosen = None if ruling.recommended is None else evidence.labels[ruling.recommended]
    noise = suite_noise(frames.predictions, model)
    reasons = _reasons(evidence, decision, more, looks, _check(evidence, decision, seed, bootstrap_draws))
    return Verdict(
        model=model,
        train_set=train_set,
        kind=ruling.answer,
        decided=ruling.answer != "cannot_distinguish",
        recommended=None if chosen is None else recommended(evidence.of(chosen)[0].pairing.facts(chosen)),
        candidates=[evidence.labels[a] for a in ruling.candidates] + remaining,
        refuted=[evidence.labels[a] for a in ruling.refuted],
        rule=verdict_reasons.rule_sentence(decision, len(evidence.labels), last.alpha),
        reasons=[*reasons, *noise_sentences(noise, last.measured.floor)],
        minimum_detectable_effect=detectable(last.measured, last.alpha),
        more_needed=more,
        arms=arm_verdicts(
            evidence, decision, lambda label: pair(frames, model=model, train_set=train_set, only=[label])
        ),
        noise=noise,
    )


def _more(evidence: Evidence, decision: Decision) -> MoreNeeded:
    measured = evidence.last.measured
    if evidence.ruling.answer != "cannot_distinguish":
        return MoreNeeded(seeds=0, items=0)
    single = measured.gain is not None and measured.gain.seed_count == 1
    if evidence.last.blocks and not single:
        return MoreNeeded(seeds=None, items=None)
    return more_needed(measured, evidence.last_cost, decision, evidence.last.alpha)


# ---- reasons --------------------------------------------------------------------------------------------------------


def _reasons(
    evidence: Evidence, decision: Decision, more: MoreNeeded, looks: Sequence[int], check: list[str]
) -> list[str]:
    """The answer first, then what stands against a decision, each arm, what was set aside, and what would decide."""
    last, labels = evidence.last, evidence.labels
    arms = [evidence.of(label)[0].pairing.facts(label) for label in labels]
    items = sum(len(suite.item_ids) for suite in last.pairing.in_domain)
    effect = detectable(last.measured, last.alpha)
    return [
        *verdict_reasons.headline(arms, *evidence.means(), evidence.limits, evidence.ruling, decision),
        *last.blocks,
        *_arm_sentences(evidence, decision),
        *verdict_reasons.rival_sentences(labels, evidence.limits, evidence.ruling, decision),
        *(verdict_reasons.set_aside_sentence(arm) for arm in last.pairing.arms if arm.problem is not None),
        *last.pairing.notes,
        *_one_seed_sentences(last.pairing),
        *(
            verdict_reasons.seed_sentences(
                [(len(look.pairing.seeds), look.labels) for look in evidence.looks], looks[-1], futile=evidence.futile
            )
            if looks
            else []
        ),
        *verdict_reasons.design_sentences(effect, more, len(last.pairing.seeds), items, evidence.ruling.answer),
        *check,
    ]


def _arm_sentences(evidence: Evidence, decision: Decision) -> list[str]:
    said = []
    for place, label in enumerate(evidence.labels):
        look, a = evidence.of(label)
        count = len(look.labels)
        said.append(
            verdict_reasons.arm_sentence(
                label,
                intervals(look.measured.gain, decision.confidence, count)[a],
                intervals(look.measured.forgetting, decision.confidence, count)[a],
                evidence.ruling.status[place],
                float(evidence.limits.forgetting_low[place]),
                float(evidence.limits.forgetting_high[place]),
                decision,
                len(evidence.labels),
            )
        )
    return said


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


def _check(evidence: Evidence, decision: Decision, seed: int, draws: int) -> list[str]:
    """Whether the last look, bounded by the bootstrap, gives the same answer; nothing where it may not answer."""
    look = evidence.last
    if not look.labels or look.blocks or draws < 1:
        return []
    widths = bootstrap_widths(look.pairing, look.measured, look.alpha, seed, draws)
    other = rule_on(look.measured, widths, evidence.last_cost, decision)
    told = rule_on(look.measured, closed_form_widths(look.measured, look.alpha), evidence.last_cost, decision)
    lead = f"A bootstrap over items and seeds ({draws:,} draws) as a check"
    if (other.answer, other.recommended) == (told.answer, told.recommended):
        return [f"{lead} gives the same answer."]
    name = "" if other.recommended is None else f" {look.labels[other.recommended]}"
    return [f"{lead} gives another answer ({other.answer}{name}): take this verdict as a close call."]
