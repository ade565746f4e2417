"""The best bet in words: the headline, the answer in a sentence, and why. They travel in verdict.json."""

from __future__ import annotations

from rankscope.records import BestBet, BetSetting
from rankscope.records.readable_numbers import counted_points, listing, rate, reason_decimal
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


def worded(bet: BestBet, decision: Decision, unknown: str | None) -> BestBet:
    """The bet with its words. `unknown`: why its probability cannot be said, None where it can."""
    return bet.model_copy(
        update={
            "headline": _headline(bet),
            "sentence": _sentence(bet, decision, unknown),
            "why": " ".join(_reasons(bet, decision)),
        }
    )


def _headline(bet: BestBet) -> str:
    name = "train none of these" if bet.label == BASE else bet.label
    if bet.probability is None:
        return f"Best bet: {name}"
    return f"Best bet: {name}, {confidence_word(bet.probability)} ({_percent(bet.probability)})"


def _sentence(bet: BestBet, decision: Decision, unknown: str | None) -> str:
    kept, near = counted_points(decision.retention_margin), counted_points(decision.task_margin)
    if bet.label == BASE:
        claim = f"no arm that forgets at most {kept} gains {counted_points(decision.min_gain)}"
        subject = "Keep the base model as it is"
    else:
        claim = f"it forgets at most {kept} and is within {near} of the best arm that does"
        subject = f"Use {bet.label}{_at(bet.setting)}"
    if bet.probability is None:
        return f"{subject}, as far as can be told; how likely that is right cannot be said: {unknown}."
    chance = _percent(bet.probability)
    if bet.probability >= LIKELY:
        return f"{subject}: {confidence_word(bet.probability)} ({chance}) {claim}."
    return f"{subject}: a guess. That {claim} has a probability of {chance} only; any other choice would miss more."


def _reasons(bet: BestBet, decision: Decision) -> list[str]:
    said = []
    if bet.expected_regret is not None:
        said.append(
            f"It is expected to miss {_amount(bet.expected_regret, bet.unit)} against the best choice (gain missed, "
            "and forgetting beyond the margin)."
        )
    if bet.runner_up is not None:
        said.append(f"Next best: {'training none of these' if bet.runner_up == BASE else bet.runner_up}.")
    if bet.probability_base is not None and bet.label != BASE and bet.probability_base >= 0.01:
        said.append(f"That no arm is worth training has a probability of {_percent(bet.probability_base)}.")
    if bet.least_bad is not None:
        worst = bet.least_bad
        chance = "" if worst.probability is None else f" and be right by that margin with {_percent(worst.probability)}"
        said.append(
            f"If one must be trained: {worst.label}{_at(worst.setting)}; it would keep a margin of "
            f"{reason_decimal(worst.retention_margin)} points with 80 %{chance}."
        )
    return said + _next(bet, decision)


def _next(bet: BestBet, decision: Decision) -> list[str]:
    runs = bet.next_runs
    if runs is None or runs.saving is None:
        return []
    per_run = runs.saving / len(runs.arms)
    if bet.unit == "accuracy" and per_run < decision.runs_worth:
        return ["More seeds would hardly change it."]
    each = "One more seed" if len(runs.arms) == 1 else "One more seed each"
    return [f"{each} for {listing(runs.arms)} would save about {_amount(runs.saving, bet.unit)} of that."]


def _at(setting: BetSetting | None) -> str:
    if setting is None or setting.learning_rate is None:
        return ""
    dial = "" if setting.dial == 1 else f", dial {setting.dial:g}"
    return f" (rate {rate(setting.learning_rate)}{dial})"


def _percent(probability: float) -> str:
    """Never 0 or 100: draws cannot say that."""
    return "over 99 %" if probability > 0.99 else "under 1 %" if probability < 0.01 else f"{100 * probability:.0f} %"


def _amount(regret: float, unit: str) -> str:
    amount, name = (100 * regret, "points") if unit == "accuracy" else (regret, "margins")
    return f"less than 0.1 {name}" if amount < 0.05 else f"{amount:.1f} {name}"
