"""Makes the verdict of one base model and training set: the rule applied to what was measured, with all its words."""

from __future__ import annotations

from collections.abc import Sequence

from rankscope.decide import verdict_reasons
from rankscope.decide.arm_verdicts import arm_verdicts
from rankscope.decide.bet_evidence import best_bet
from rankscope.decide.crossed_statistics import mcnemar_exact
from rankscope.decide.looks import ONE_SEED, Evidence, gather
from rankscope.decide.paired_items import Frames, Pairing, pair
from rankscope.decide.run_outcomes import ArmFacts, suite_noise
from rankscope.decide.statistical_power import detectable, more_needed
from rankscope.decide.verdict_bounds import bootstrap_widths, closed_form_widths
from rankscope.decide.verdict_kinds import FEWEST_SEEDS, Facts, Judged, rule_on
from rankscope.decide.verdict_rule import indices
from rankscope.records import MoreNeeded, Recommended, Verdict
from rankscope.study.study import Decision


def decide(
    frames: Frames,
    *,
    model: str,
    train_set: str,
    decision: Decision,
    looks: Sequence[int] = (),
    evidence: Evidence | None = None,
    bootstrap_draws: int = 2000,
    seed: int = 0,
) -> Verdict:
    """Judges the arms of `model` on `train_set` by the rule of `decision`.

    The closed form bounds the decision, so the same predictions always give the same verdict; a bootstrap of
    `bootstrap_draws` draws from `seed` checks it and is reported. `looks`: with adaptive seeds the numbers of seeds
    after which the verdict is asked. `evidence`: that of `gather`, where it is known. A study that is not finished, has
    one seed, no suite to forget on or a suite of one item is described and not decided. Raises ValueError where there
    is no such run.
    """
    if evidence is None:
        evidence = gather(frames, model=model, train_set=train_set, decision=decision, looks=looks)
    last, ruling = evidence.last, evidence.ruling
    remaining = [arm.label for arm in last.pairing.arms if arm.problem in ("planned", "running", "not needed")]
    chosen = None if ruling.recommended is None else evidence.labels[ruling.recommended]
    facts = Facts(
        recommended=None if chosen is None else _recommended(evidence.of(chosen)[0].pairing.facts(chosen)),
        arms=arm_verdicts(
            evidence, decision, lambda label: pair(frames, model=model, train_set=train_set, only=[label])
        ),
        candidates=[evidence.labels[a] for a in ruling.candidates] + remaining,
        more_needed=_more(evidence, decision),
        decision=decision,
    )
    noise = suite_noise(frames.predictions, model)
    check = _bootstrap_check(evidence, decision, seed, bootstrap_draws)
    reasons = [*_reasons(evidence, decision, facts, looks), *check]
    return Verdict(
        model=model,
        train_set=train_set,
        kind=ruling.kind.name,
        decided=ruling.kind.decided,
        headline=ruling.kind.headline(facts),
        sentence=ruling.kind.sentence(facts),
        tone=ruling.kind.tone,
        reasons_with_answer=ruling.kind.reasons_with_answer,
        recommended=facts.recommended,
        candidates=list(facts.candidates),
        refuted=[evidence.labels[a] for a in indices(ruling.standing.refuted)],
        rule=verdict_reasons.rule_sentence(decision, evidence.metrics, len(evidence.labels), last.alpha),
        reasons=[*reasons, *verdict_reasons.noise_sentences(noise, last.measured.floor)],
        minimum_detectable_effect=detectable(last.measured, last.alpha),
        more_needed=facts.more_needed,
        arms=list(facts.arms),
        noise=noise,
        interval_confidence=1 - 2 * last.alpha,
        best_bet=best_bet(evidence, frames, decision, looks[-1] if looks else None),
    )


def _more(evidence: Evidence, decision: Decision) -> MoreNeeded:
    """What would probably decide; no seeds and no items where something else than their number stands against it."""
    if evidence.ruling.kind.decided:
        return MoreNeeded(seeds=0, items=0)
    if set(evidence.last.blocks) - {ONE_SEED}:
        return MoreNeeded(seeds=None, items=None)
    return more_needed(evidence.last.measured, evidence.last_cost, decision, evidence.last.alpha)


# ---- the arms -------------------------------------------------------------------------------------------------------


def _recommended(arm: ArmFacts) -> Recommended:
    """The settings of the chosen arm."""
    return Recommended(
        label=arm.label,
        method=arm.method,
        rank=arm.rank,
        alpha=arm.alpha,
        targets=arm.targets,
        learning_rate=arm.learning_rate,
        trainable_parameters=arm.trainable_parameters or 0,
    )


# ---- reasons --------------------------------------------------------------------------------------------------------


def _reasons(evidence: Evidence, decision: Decision, facts: Facts, looks: Sequence[int]) -> list[str]:
    """The answer first, then what stands against a decision, each arm, what was set aside, and what would decide."""
    last, labels, ruling, limits = evidence.last, evidence.labels, evidence.ruling, evidence.limits
    described = {arm.label: arm for arm in facts.arms}
    arms = [evidence.of(label)[0].pairing.facts(label) for label in labels]
    items = sum(len(suite.item_ids) for suite in last.pairing.suites if suite.relation == "in-domain")
    effect = detectable(last.measured, last.alpha)
    decided = ruling.kind.decided
    return [
        *ruling.kind.reasons(Judged(arms, evidence.means(), limits, ruling, decision)),
        *last.blocks,
        *_two_seed_sentences(last.pairing),
        *(verdict_reasons.arm_sentence(described[label], decision) for label in labels),
        *verdict_reasons.rival_sentences(labels, limits, ruling.standing, decision, decided=decided),
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
        *verdict_reasons.design_sentences(effect, facts.more_needed, len(last.pairing.seeds), items, decided=decided),
    ]


def _two_seed_sentences(pairing: Pairing) -> list[str]:
    """Why nothing is recommended, where there are fewer seeds than that takes, but more than one."""
    count = len(pairing.seeds)
    if not 1 < count < FEWEST_SEEDS:
        return []
    return [
        f"From {count} seeds no arm is recommended for sure: they do not tell an arm whose results scatter from seed "
        f"to seed from one whose results do not. {FEWEST_SEEDS} are needed."
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


def _bootstrap_check(evidence: Evidence, decision: Decision, seed: int, draws: int) -> list[str]:
    """Whether the last look, bounded by the bootstrap, gives the same answer; nothing where it may not answer."""
    look = evidence.last
    if not look.labels or look.blocks or draws < 1:
        return []
    widths = bootstrap_widths(look.pairing, look.measured, look.alpha, seed, draws)
    other = rule_on(look.measured, widths, evidence.last_cost, decision)
    told = rule_on(look.measured, closed_form_widths(look.measured, look.alpha), evidence.last_cost, decision)
    lead = f"A bootstrap over items and seeds ({draws:,} draws) as a check"
    if (other.kind, other.recommended) == (told.kind, told.recommended):
        return [f"{lead} gives the same answer."]
    name = "" if other.recommended is None else f" {look.labels[other.recommended]}"
    return [f"{lead} gives another answer ({other.kind.name}{name}): take this verdict as a close call."]
