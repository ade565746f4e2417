"""The verdict asked of growing evidence: looks at the runs, arms that leave, and the rule on what all looks say.

A study with a list of seeds is one look at everything. With adaptive seeds each look compares the arms still in
contention on the seeds that these have; its bounds spend a share of the error, so that all of them hold together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from rankscope.decide.design_power import could_decide
from rankscope.decide.gain_and_forgetting import Measured, bounds, closed_form_widths, measure_pairing
from rankscope.decide.paired_items import Frames, Pairing, pair
from rankscope.decide.verdict_rule import Bounds, Ruling, judge, simultaneous_alpha
from rankscope.study.study import Decision

_NODES = 256
_FAR = 9.0


def crossing_probability(bound: float, counts: Sequence[int]) -> float:
    """P that the standardised mean of counts[0], or of counts[1], ... independent normal values exceeds `bound`.

    By the recursion of Armitage, McPherson & Rowe (1969) on the sum, with Gauss-Legendre nodes.
    """
    total, before = 0.0, 0
    density = points = weights = np.empty(0)
    roots, root_weights = np.polynomial.legendre.leggauss(_NODES)
    for count in counts:
        limit, step = bound * np.sqrt(count), np.sqrt(count - before)
        if before == 0:
            total += float(norm.sf(bound))
        else:
            total += float((weights * density * norm.sf((limit - points) / step)).sum())
        low = -_FAR * np.sqrt(count)
        new = low + (limit - low) * (roots + 1) / 2
        if before == 0:
            density = norm.pdf(new, scale=step)
        else:
            density = (weights * density) @ norm.pdf(new[None, :], points[:, None], step)
        points, weights, before = new, root_weights * (limit - low) / 2, count
    return total


@lru_cache(maxsize=256)
def nominal_alpha(alpha: float, counts: tuple[int, ...]) -> float:
    """The one-sided error of a bound at each look, such that over all looks (after `counts` seeds) it is `alpha`.

    Pocock's (1977) constant bound, for seeds alone: items are the same at every look, so that looks are more alike than
    this takes them to be, and the error is smaller. Used on t quantiles by the significance-level approach (Jennison &
    Turnbull 2000, section 4.4).
    """
    if len(counts) < 2:
        return alpha
    low, high = float(norm.isf(alpha)), float(norm.isf(alpha / len(counts)))
    bound = brentq(lambda z: crossing_probability(z, counts) - alpha, low, high, xtol=1e-9)
    return float(norm.sf(bound))


NO_RETENTION = (
    "No suite of another domain, or general, was scored: what the arms forget is not known, so none can be recommended."
)


@dataclass(frozen=True)
class Look:
    """One comparison. `run_ids` are the runs that it needs; `alpha` the error of each of its bounds."""

    run_ids: frozenset[str]
    pairing: Pairing
    measured: Measured
    alpha: float
    limits: Bounds
    blocks: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return self.pairing.labels


@dataclass(frozen=True)
class Evidence:
    """All looks, and the rule on the tightest bounds that each arm, and each pair of arms, has.

    `labels` are the arms of the first look, in whose order `limits` and `ruling` are; `futile`: the looks ended since
    even the most seeds would hardly decide.
    """

    looks: tuple[Look, ...]
    labels: tuple[str, ...]
    cost: tuple[float, ...]
    limits: Bounds
    ruling: Ruling
    futile: bool = False

    @property
    def last(self) -> Look:
        return self.looks[-1]

    @property
    def last_cost(self) -> list[float]:
        """Trainable parameters of the arms of the last look."""
        return [self.cost[self.labels.index(label)] for label in self.last.labels]

    def of(self, label: str) -> tuple[Look, int]:
        """The last look that an arm took part in, and its place there."""
        look = next(look for look in reversed(self.looks) if label in look.labels)
        return look, look.labels.index(label)

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Observed gain and forgetting of every arm, each from its last look; NaN where there is none."""
        found = [self.of(label) for label in self.labels]
        gain = [np.nan if look.measured.gain is None else look.measured.gain.mean[a] for look, a in found]
        lost = [np.nan if look.measured.forgetting is None else look.measured.forgetting.mean[a] for look, a in found]
        return np.array(gain), np.array(lost)


def gather(frames: Frames, *, model: str, train_set: str, decision: Decision, looks: Sequence[int] = ()) -> Evidence:
    """What the runs of one base model and training set say. `looks`: numbers of seeds after which to look, none for one
    look at every run.

    The looks end where a run is still to do, where the rule answers, where no arm is left that could be the answer, or
    where the most seeds would hardly decide. Raises ValueError where there is no such run.
    """
    runs = frames.runs
    mine = runs[(runs["model"] == model) & (runs["train_set"] == train_set)]
    seeds = sorted(mine["seed"].unique())

    def compared(count: int, arms: AbstractSet[str]) -> tuple[Pairing, Iterable[str]]:
        chosen = mine[mine["seed"].isin(seeds[:count]) & mine["arm"].isin(arms)]
        return pair(frames._replace(runs=chosen), model=model, train_set=train_set), chosen["run_id"]

    return follow(compared, set(mine["arm"]), len(seeds), decision, tuple(looks))


def follow(
    compared: Callable[[int, AbstractSet[str]], tuple[Pairing, Iterable[str]]],
    arms: AbstractSet[str],
    seed_count: int,
    decision: Decision,
    looks: tuple[int, ...] = (),
) -> Evidence:
    """The looks of `gather`: `compared(count, arms)` pairs these arms on the first `count` seeds and names the runs."""
    evidence: Evidence | None = None
    for count in looks or (seed_count,):
        pairing, run_ids = compared(count, arms)
        arm_count = len(pairing.labels) if evidence is None else len(evidence.labels)
        alpha = nominal_alpha(simultaneous_alpha(decision.confidence, arm_count), looks)
        evidence = add_look(evidence, take_look(pairing, run_ids, alpha), decision)
        if evidence.last.pairing.unfinished or evidence.ruling.answer != "cannot_distinguish":
            break
        arms = {evidence.labels[a] for a in evidence.ruling.candidates}
        if not arms:
            break
        if looks and count < looks[-1] and _is_futile(evidence, decision, looks[-1]):
            evidence = replace(evidence, futile=True)
            break
    assert evidence is not None
    return evidence


def take_look(pairing: Pairing, run_ids: Iterable[str], alpha: float) -> Look:
    measured = measure_pairing(pairing)
    limits = bounds(measured, closed_form_widths(measured, alpha))
    return Look(frozenset(run_ids), pairing, measured, alpha, limits, tuple(blocks(pairing)))


def add_look(before: Evidence | None, look: Look, decision: Decision) -> Evidence:
    """The evidence with one more look: of each arm and pair the tightest bounds count."""
    labels = look.labels if before is None else before.labels
    cost = (
        tuple(float(look.pairing.facts(label).trainable_parameters or 0) for label in labels) if before is None else ()
    )
    limits = (
        look.limits if before is None else merge(before.limits, look.limits, [labels.index(x) for x in look.labels])
    )
    looks = (*(before.looks if before is not None else ()), look)
    evidence = Evidence(looks, labels, before.cost if before is not None else cost, limits, _NOTHING_COMPARED)
    if not labels:
        return evidence
    gain = np.nan_to_num(evidence.means()[0])
    ruling = judge(limits, evidence.cost, [float(value) for value in gain], decision)
    if look.blocks and not (ruling.answer == "no_gain" and look.blocks == (NO_RETENTION,)):
        ruling = _undecided(ruling, limits)
    return replace(evidence, ruling=ruling)


def merge(before: Bounds, new: Bounds, places: Sequence[int]) -> Bounds:
    """The tightest bounds: all hold together, so what was sure once stays sure. `new` is of the arms at `places`.

    What is known of an arm that left and of one that is still compared also follows through a third:
    better_by[b, left] is at least better_by[b, c] + better_by[c, left].
    """
    at = np.array(places, dtype=int)
    parts = {}
    for name in ("gain_low", "gain_high", "forgetting_low", "forgetting_high"):
        parts[name] = getattr(before, name).copy()
        tighter = np.maximum if name.endswith("low") else np.minimum
        parts[name][at] = tighter(parts[name][at], getattr(new, name))
    better_by = before.better_by.copy()
    better_by[np.ix_(at, at)] = np.maximum(better_by[np.ix_(at, at)], new.better_by)
    left = [a for a in range(len(better_by)) if a not in set(places)]
    for gone in left:
        for c in at:
            better_by[at, gone] = np.maximum(better_by[at, gone], better_by[at, c] + better_by[c, gone])
    return Bounds(**parts, better_by=better_by)


def _is_futile(evidence: Evidence, decision: Decision, most: int) -> bool:
    """Whether the arms still in contention would stay undecided after `most` seeds, even with good luck."""
    look = evidence.last
    if look.blocks:
        return True
    return not could_decide(look.measured, evidence.last_cost, decision, look.alpha, most)


# ---- what cannot be decided -----------------------------------------------------------------------------------------

_NOTHING_COMPARED = Ruling("cannot_distinguish", None, (), (), (), ())


def _undecided(ruling: Ruling, limits: Bounds) -> Ruling:
    """The same standing of each arm, without an answer; the arms that remain are those not refuted."""
    remain = tuple(a for a in range(len(ruling.status)) if a not in ruling.refuted and limits.gain_high[a] > 0)
    return replace(ruling, answer="cannot_distinguish", recommended=None, candidates=remain)


def blocks(pairing: Pairing) -> list[str]:
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
        said.append(NO_RETENTION)
    single = [suite.name for suite in pairing.suites if suite.arrays.unit_count < 2]
    if single:
        said.append(f"One item says nothing of others: {', '.join(single)} has a single scored item or cluster.")
    return said
