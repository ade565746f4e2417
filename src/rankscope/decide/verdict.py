"""Makes the verdict of one base model and training set: the rule applied to what was measured, with all its words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rankscope.decide import verdict_rule
from rankscope.decide.bet_evidence import best_bet
from rankscope.decide.crossed_statistics import estimate, gain_contrasts, mcnemar_exact
from rankscope.decide.gain_and_forgetting import (
    Measured,
    bootstrap_widths,
    closed_form_widths,
    intervals,
    measure_pairing,
)
from rankscope.decide.looks import Evidence, gather
from rankscope.decide.paired_items import Frames, Pairing, SuiteScores, pair
from rankscope.decide.run_outcomes import ArmFacts, suite_noise
from rankscope.decide.statistical_power import detectable, more_needed
from rankscope.decide.verdict_kinds import Facts, Judged, rule_on
from rankscope.records import ArmVerdict, Interval, MoreNeeded, Recommended, SuiteOutcome, Verdict
from rankscope.study.study import Decision

_NOTHING = Interval(mean=None, low=None, high=None)


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
        refuted=[evidence.labels[a] for a in verdict_rule.indices(ruling.standing.refuted)],
        rule=verdict_rule.rule_sentence(decision, len(evidence.labels), last.alpha),
        reasons=[*reasons, *verdict_rule.noise_sentences(noise, last.measured.floor)],
        minimum_detectable_effect=detectable(last.measured, last.alpha),
        more_needed=facts.more_needed,
        arms=list(facts.arms),
        noise=noise,
        best_bet=best_bet(evidence, frames, decision, looks[-1] if looks else None),
    )


def _more(evidence: Evidence, decision: Decision) -> MoreNeeded:
    measured = evidence.last.measured
    if evidence.ruling.kind.decided:
        return MoreNeeded(seeds=0, items=0)
    single = measured.gain is not None and measured.gain.seed_count == 1
    if evidence.last.blocks and not single:
        return MoreNeeded(seeds=None, items=None)
    return more_needed(measured, evidence.last_cost, decision, evidence.last.alpha)


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


def arm_verdicts(evidence: Evidence, decision: Decision, pair_alone: Callable[[str], Pairing]) -> list[ArmVerdict]:
    """Every arm by trainable parameters; an arm that is not compared is described by its own done runs.

    `pair_alone` pairs one arm, by its label, with the base. An arm that left early stands as in its last look.
    """
    described = {
        label: rows
        for look in evidence.looks
        for label, rows in _described(look.pairing, look.measured, decision).items()
    }
    result = []
    for first in evidence.looks[0].pairing.arms:
        arm = first
        if first.label in evidence.labels:
            look, _ = evidence.of(first.label)
            arm = look.pairing.facts(first.label)
            gain, forgetting, outcomes = described[arm.label]
            status = evidence.ruling.standing.status(evidence.labels.index(arm.label))
            seeds = list(look.pairing.seeds)
        else:
            alone = pair_alone(arm.label)
            rows = _described(alone, measure_pairing(alone), decision) if alone.seeds else {}
            gain, forgetting, outcomes = rows.get(arm.label, (_NOTHING, _NOTHING, []))
            status, seeds = arm.problem or "failed", list(arm.seeds)
        result.append(
            ArmVerdict(
                label=arm.label,
                method=arm.method,
                rank=arm.rank,
                learning_rate=arm.learning_rate,
                trainable_parameters=arm.trainable_parameters,
                seeds=seeds,
                gain=gain,
                forgetting=forgetting,
                per_suite=outcomes,
                status=status,
                cost=arm.cost,
                dial=arm.dial,
            )
        )
    return result


def _described(
    pairing: Pairing, measured: Measured, decision: Decision
) -> dict[str, tuple[Interval, Interval, list[SuiteOutcome]]]:
    count = len(pairing.labels)
    gain = intervals(measured.gain, decision.confidence, count)
    forgetting = intervals(measured.forgetting, decision.confidence, count)
    by_suite = [_outcomes(suite, decision, count) for suite in pairing.suites]
    return {
        label: (gain[a], forgetting[a], [outcomes[a] for outcomes in by_suite])
        for a, label in enumerate(pairing.labels)
    }


def _outcomes(suite: SuiteScores, decision: Decision, count: int) -> list[SuiteOutcome]:
    change = intervals(estimate([suite.arrays], gain_contrasts(count)), decision.confidence, count)
    return [
        SuiteOutcome(
            suite=suite.name,
            relation=suite.relation,
            kind=suite.kind,
            item_count=len(suite.item_ids),
            base_accuracy=float(suite.base.mean()),
            accuracy=float(suite.scores[a].mean()),
            change=change[a],
        )
        for a in range(count)
    ]


# ---- reasons --------------------------------------------------------------------------------------------------------


def _reasons(evidence: Evidence, decision: Decision, facts: Facts, looks: Sequence[int]) -> list[str]:
    """The answer first, then what stands against a decision, each arm, what was set aside, and what would decide."""
    last, labels, ruling, limits = evidence.last, evidence.labels, evidence.ruling, evidence.limits
    described = {arm.label: arm for arm in facts.arms}
    arms = [evidence.of(label)[0].pairing.facts(label) for label in labels]
    items = sum(len(suite.item_ids) for suite in last.pairing.in_domain)
    effect = detectable(last.measured, last.alpha)
    decided = ruling.kind.decided
    return [
        *ruling.kind.reasons(Judged(arms, *evidence.means(), limits, ruling, decision)),
        *last.blocks,
        *(
            verdict_rule.arm_sentence(described[label], low, high, decision, len(labels))
            for label, low, high in zip(
                labels, limits.forgetting_low.tolist(), limits.forgetting_high.tolist(), strict=True
            )
        ),
        *verdict_rule.rival_sentences(labels, limits, ruling.standing, decision, decided=decided),
        *(verdict_rule.set_aside_sentence(arm) for arm in last.pairing.arms if arm.problem is not None),
        *last.pairing.notes,
        *_one_seed_sentences(last.pairing),
        *(
            verdict_rule.seed_sentences(
                [(len(look.pairing.seeds), look.labels) for look in evidence.looks], looks[-1], futile=evidence.futile
            )
            if looks
            else []
        ),
        *verdict_rule.design_sentences(effect, facts.more_needed, len(last.pairing.seeds), items, decided=decided),
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
