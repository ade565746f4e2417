"""The best bet: the option of least expected regret over draws of the truth, and how likely it is to be right.

Options are the arms and the base itself ("train none of these"). With the margins m (retention), d (task) and g (least
gain that counts), E are the arms that keep m, and G* is the largest gain in E, at least 0. An arm's regret is what it
gains less than G* and what it forgets beyond m; the base's is G*. Right is an arm of E with a gain of at least g and of
at least G* - d; the base where no arm of E gains g. docs/measures.md, "The best bet".

N arms, D draws; option N is the base. Points, or margins where points and nats stand together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankscope.study.decision_settings import Margins

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]

COST_SHARE = 1 / 60
"""Of the task margin, for each doubling of the trainable parameters: 0.05 points at a margin of 3."""
LEAST_BAD_CONFIDENCE = 0.8


class Axes(NamedTuple):
    """Draws of the truth in one unit: gain and forgetting (D, N), None where no suite measures it, with the margins."""

    gain: Floats | None
    lost: Floats | None
    margins: Margins


@dataclass(frozen=True)
class Outcomes:
    """Of every draw and option: regret (D, N + 1) and whether it would be right (D, N + 1)."""

    regret: Floats
    right: Truths

    @property
    def mean_regret(self) -> Floats:
        """Of every option, (N + 1,)."""
        return self.regret.mean(axis=0)

    @property
    def probability(self) -> Floats:
        """That an option is right, (N + 1,)."""
        return self.right.mean(axis=0)


def judge_draws(axes: Sequence[Axes], *, in_margins: bool = False) -> Outcomes:
    """Regret and rightness of every option in every draw.

    `in_margins`: each term is divided by its margin and gains are averaged over the units, as where there are several;
    an arm must keep every margin and be good enough in each. Raises ValueError where no gain was measured.
    """
    gains = [(one.gain, one.margins) for one in axes if one.gain is not None]
    losses = [(one.lost, one.margins.retention) for one in axes if one.lost is not None]
    if not gains:
        raise ValueError("no gain to bet on")
    all_of = np.logical_and.reduce
    keeps = all_of([np.ones(gains[0][0].shape, dtype=bool), *(lost <= most for lost, most in losses)])
    counts = all_of([gain >= margins.least_gain for gain, margins in gains])
    gain = np.mean([gain / (margins.task if in_margins else 1.0) for gain, margins in gains], axis=0)
    excess = np.zeros(gain.shape)
    for lost, most in losses:
        excess += np.maximum(lost - most, 0) / (most if in_margins else 1.0)
    best = _best(gain, keeps)
    near = all_of([gain >= (_best(gain, keeps) - margins.task)[:, None] for gain, margins in gains])
    regret = np.column_stack([np.maximum(best[:, None] - gain, 0) + excess, best])
    right = np.column_stack([keeps & counts & near, ~(keeps & counts).any(axis=1)])
    return Outcomes(regret, right)


def _best(gain: Floats, keeps: Truths) -> Floats:
    """G* (D,): the largest gain of the arms that keep the margin, at least 0."""
    best: Floats = np.maximum(np.where(keeps, gain, -np.inf).max(axis=1), 0.0)
    return best


def doublings(parameters: Sequence[float], whole: Sequence[bool]) -> Floats:
    """How often each arm's trainable parameters (N,) are twice the smallest arm's. An arm that trains the `whole` model
    counts as at most one doubling above the largest of the others."""
    sizes = np.log2(np.maximum(np.asarray(parameters, dtype=float), 1.0))
    above: Floats = sizes - sizes.min()
    full = np.asarray(whole, dtype=bool)
    if full.any() and not full.all():
        above[full] = np.minimum(above[full], above[~full].max() + 1)
    return above


@dataclass(frozen=True)
class Bet:
    """The option that is bet on and the next one, by number (N is the base); mean regret and probability of all."""

    option: int
    runner_up: int | None
    regret: Floats
    probability: Floats


def place_bet(outcomes: Outcomes, cost: Floats, plain: Sequence[bool]) -> Bet:
    """The arm of least mean regret plus `cost` (N,), or the base where its mean regret is below every arm's without it.

    `plain` (N,): arms without a remedy, which go first where both are equal.
    """
    regret = outcomes.mean_regret
    arms = range(len(cost))
    order = sorted(arms, key=lambda a: (round(float(regret[a] + cost[a]), 9), not plain[a], a))
    base = len(cost)
    if regret[base] < regret[:base].min():
        return Bet(base, order[0], regret, outcomes.probability)
    rest: list[int] = order[1:]
    ahead = [a for a in rest if regret[a] <= regret[base]]
    runner_up = ahead[0] if ahead else base
    return Bet(order[0], runner_up, regret, outcomes.probability)


class LeastBad(NamedTuple):
    """The arm of least mean regret where the base is bet on; the `margins` it would keep, one for each unit (None where
    forgetting was not measured in it), and its probability of being right at those."""

    arm: int
    margins: tuple[float | None, ...]
    probability: float


def least_bad(axes: Sequence[Axes], outcomes: Outcomes) -> LeastBad:
    """The least bad arm: each margin is the one that it keeps with a probability of 0.8, never below the study's."""
    arm = int(np.argmin(outcomes.mean_regret[:-1]))
    kept: list[float | None] = []
    wider = []
    for one in axes:
        most = one.margins.retention
        if one.lost is not None:
            most = max(most, float(np.quantile(one.lost[:, arm], LEAST_BAD_CONFIDENCE)))
        kept.append(None if one.lost is None else most)
        wider.append(one._replace(margins=one.margins._replace(retention=most)))
    return LeastBad(arm, tuple(kept), float(judge_draws(wider).probability[arm]))
