"""The best bet in words: the headline, the answer in a sentence, and why. They travel in verdict.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rankscope.records import BestBet, BetSetting, LeastBadArm, Metric, NextRuns
from rankscope.records.readable_numbers import amount, listing, rate, whole_percent
from rankscope.study.study import Decision
from rankscope.study.study_checks import RESERVED_LABEL

BASE = RESERVED_LABEL
"""The label of the base model among the options."""
PROBABLE, LIKELY = 0.8, 0.5


def confidence_word(probability: float) -> str:
    """`probably` from 0.8 on, `more likely than not` from 0.5 on, else `a guess`."""
    if probability >= PROBABLE:
        return "probably"
    return "more likely than not" if probability >= LIKELY else "a guess"


class Told(NamedTuple):
    """What a bet's words need beside it: the margins, the units that it was judged in, why no probability can be said
    (None where one can), and the done seeds of every arm, by label."""

    decision: Decision
    metrics: tuple[Metric, ...]
    unknown: str | None
    seeds: Mapping[str, int]

    def margin(self, name: str) -> str:
        """A margin in every unit: `3 points and 0.02 nats`."""
        return listing([amount(getattr(self.decision.margins(metric), name), metric) for metric in self.metrics])


def worded(bet: BestBet, told: Told) -> BestBet:
    """The bet with its words."""
    words = {"headline": _headline(bet), "sentence": _sentence(bet, told), "why": " ".join(_reasons(bet, told))}
    return bet.model_copy(update=words)


def _headline(bet: BestBet) -> str:
    name = "train none of these" if bet.label == BASE else bet.label
    if bet.probability is None:
        return f"Best bet: {name}"
    return f"Best bet: {name}, {confidence_word(bet.probability)} ({whole_percent(bet.probability)})"


def _sentence(bet: BestBet, told: Told) -> str:
    kept = told.margin("retention")
    if bet.label == BASE:
        claim = f"no arm that forgets at most {kept} gains {told.margin('least_gain')}"
        subject = "Keep the base model as it is"
    else:
        claim = f"it forgets at most {kept} and is within {told.margin('task')} of the best arm that does"
        subject = f"Use {bet.label}{_at(bet.setting)}"
    if bet.probability is None:
        return f"{subject}, as far as can be told; how likely that is right cannot be said: {told.unknown}."
    chance = whole_percent(bet.probability)
    if bet.probability >= LIKELY:
        return f"{subject}: {confidence_word(bet.probability)} ({chance}) {claim}."
    return f"{subject}: a guess. That {claim} has a probability of {chance} only; any other choice would miss more."


def _reasons(bet: BestBet, told: Told) -> list[str]:
    said = []
    if bet.expected_regret is not None:
        said.append(
            f"It is expected to miss {_missed(bet.expected_regret, bet.unit)} against the best choice (gain missed, "
            "and forgetting beyond the margin)."
        )
    if bet.runner_up is not None:
        said.append(f"Next best: {'training none of these' if bet.runner_up == BASE else bet.runner_up}.")
    if bet.probability_base is not None and bet.label != BASE and bet.probability_base >= 0.01:
        said.append(f"That no arm is worth training has a probability of {whole_percent(bet.probability_base)}.")
    if bet.least_bad is not None:
        said.append(_least_bad(bet.least_bad))
    fewest = min(told.seeds.values())
    more = [f"{count} of {label}" for label, count in told.seeds.items() if count > fewest]
    if more:
        said.append(f"It rests on every seed that was done: {listing(more)}, {fewest} of every other arm.")
    return said + _next(bet, told.decision)


def _least_bad(worst: LeastBadArm) -> str:
    units: tuple[tuple[Metric, float | None], ...] = (
        ("score", worst.retention_margin),
        ("loss", worst.retention_margin_nats),
    )
    kept = listing([amount(value, metric, exact=False) for metric, value in units if value is not None])
    sentence = f"If one must be trained: {worst.label}{_at(worst.setting)}"
    if kept:
        sentence += f"; it would keep a margin of {kept} with 80 %"
        if worst.probability is not None:
            sentence += f", and be right by that margin with {whole_percent(worst.probability)}"
    return f"{sentence}."


def _next(bet: BestBet, decision: Decision) -> list[str]:
    runs = bet.next_runs
    if runs is None or runs.saving is None:
        return []
    if not is_worth(runs, bet.unit, decision):
        return ["More seeds would hardly change it."]
    each = "One more seed" if len(runs.arms) == 1 else "One more seed each"
    saved = _missed(runs.saving, bet.unit)
    about = "" if saved.startswith("less") else "about "
    return [f"{each} for {listing(runs.arms)} would save {about}{saved} of that."]


def is_worth(runs: NextRuns, unit: str, decision: Decision) -> bool:
    """Whether a further run saves as much as the study says that it must; in margins: of the task margin."""
    if runs.saving is None or not runs.arms:
        return False
    least = decision.runs_worth / (1.0 if unit == "accuracy" else decision.task_margin)
    return runs.saving / len(runs.arms) >= least


def _at(setting: BetSetting | None) -> str:
    if setting is None or setting.learning_rate is None:
        return ""
    dial = "" if setting.dial == 1 else f", dial {setting.dial:g}"
    return f" (rate {rate(setting.learning_rate)}{dial})"


def _missed(regret: float, unit: str) -> str:
    missed, name = (100 * regret, "points") if unit == "accuracy" else (regret, "margins")
    return f"less than 0.1 {name}" if missed < 0.05 else f"{missed:.1f} {name}"
