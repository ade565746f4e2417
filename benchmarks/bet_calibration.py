"""Is the best bet right as often as it says, and what does it cost when it is wrong? For calibration.py --bets.

Simulated studies go through the likelihood, the draws and the bet of a real one. Beside it stand what people do without
it: the arm of the highest observed gain, of the lowest validation loss, always rank 16, always rank 64, and the best
observed gain among arms whose observed forgetting is within the margin (plug-in).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing import Pool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from bet_families import ARMS, FAMILIES, PARAMETERS, RANKS, Family, scenario_of
from bet_families_held_out import HELD_OUT
from simulated_studies import Drawn, Scenario, draw

from rankscope.decide.best_bet import COST_SHARE, Axes, doublings, judge_draws, place_bet
from rankscope.decide.bet_likelihood import Observed, observe
from rankscope.decide.bet_posterior import Place, draw_truths, make_prior, seed_scales
from rankscope.study.decision_settings import Margins

MARGINS = Margins(task=3.0, retention=3.0, least_gain=1.0)
PLACES = [*(Place(float(np.log2(rank)), False) for rank in RANKS), Place(None, True)]
PRIOR = make_prior(PLACES)
COST = MARGINS.task * COST_SHARE * doublings(PARAMETERS, [False] * len(RANKS) + [True])
DRAWS = 4000
SEEDS = (2, 3, 8)
ITEMS = 1000
EVERY = (*FAMILIES, *HELD_OUT)
PEERS = ("argmax", "loss", "r16", "r64", "plug_in")
BINS = np.arange(0.0, 1.01, 0.1)


# ---- one study ------------------------------------------------------------------------------------------------------


def one_study(rng: np.random.Generator, family: Family, seeds: int, items: int) -> dict[str, Any]:
    """A simulated study: what the bet says, and its regret and rightness beside those of its peers."""
    study = simulate(rng, scenario_of(rng, family, seeds, items))
    return outcome(study, bet_axes(study.gain, study.lost, np.random.default_rng(0)))


class Study(NamedTuple):
    """A simulated study: its truth, its answers, and what the bet sees of gain and of forgetting, in points."""

    scenario: Scenario
    drawn: Drawn
    gain: Observed
    lost: Observed


def simulate(rng: np.random.Generator, scenario: Scenario) -> Study:
    """Draws the answers of a study of this truth."""
    drawn = draw(rng, scenario, scenario.seeds)
    gain, lost = (
        observe([suite.arrays for suite in drawn.suites if (suite.relation == "in-domain") == inside], scale)
        for inside, scale in ((True, 100.0), (False, -100.0))
    )
    return Study(scenario, drawn, gain, lost)


def outcome(study: Study, axes: Axes) -> dict[str, Any]:
    """The bet that these draws of the truth lead to, and its peers: regret, and whether each is right."""
    gain, lost = study.gain.mean, study.lost.mean
    outcomes = judge_draws([axes])
    bet = place_bet(outcomes, COST, [True] * ARMS)
    true = judge_draws([Axes(100 * study.scenario.gain[None], 100 * study.scenario.lost[None], MARGINS)])
    keeps = np.flatnonzero(lost <= MARGINS.retention)
    options = {
        "bet": bet.option,
        "argmax": int(np.argmax(gain)),
        "loss": int(np.argmin(study.drawn.validation_loss)),
        "r16": RANKS.index(16),
        "r64": RANKS.index(64),
        "plug_in": int(keeps[np.argmax(gain[keeps])]) if len(keeps) and gain[keeps].max() > 0 else ARMS,
    }
    design = {"family": study.scenario.name, "seeds": study.scenario.seeds}
    said = {"said": float(outcomes.probability[bet.option]), "base": bet.option == ARMS}
    found = {name: float(true.regret[0, option]) for name, option in options.items()}
    right = {f"right_{name}": bool(true.right[0, option]) for name, option in options.items()}
    return {**design, **said, **found, **right}


def bet_axes(gain: Observed, lost: Observed, rng: np.random.Generator) -> Axes:
    """The draws of a study of the nine arms."""
    scales = seed_scales(gain.degrees)
    return Axes(draw_truths(gain, PRIOR, rng, DRAWS, scales), draw_truths(lost, PRIOR, rng, DRAWS, scales), MARGINS)


class _Work(NamedTuple):
    family: int
    seeds: int
    studies: int
    seed: int


def _studies(work: _Work) -> list[dict[str, Any]]:
    rng = np.random.default_rng([work.seed, work.family, work.seeds])
    return [one_study(rng, EVERY[work.family], work.seeds, ITEMS) for _ in range(work.studies)]


# ---- what the studies say -------------------------------------------------------------------------------------------


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def reliability(rows: Sequence[dict[str, Any]], family: str) -> list[dict[str, Any]]:
    """In each bin of a tenth: how often the bets of a family (`all`: of all) were right, and how often they said so."""
    mine = [row for row in rows if family in ("all", row["family"])]
    found = []
    for low, high in pairwise(BINS):
        here = [row for row in mine if low < row["said"] <= high or (row["said"] == low == 0.0)]
        if here:
            found.append(
                {
                    "family": family,
                    "low": round(float(low), 1),
                    "high": round(float(high), 1),
                    "predicted": _mean(here, "said"),
                    "observed": _mean(here, "right_bet"),
                    "n": len(here),
                }
            )
    return found


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Reliability, Brier scores and regrets, over all designs, as --bets writes them. `brier_constant`: of a forecast
    that knows how often the bet is right in each family."""
    names = list(dict.fromkeys(row["family"] for row in rows))
    by_family = {name: [row for row in rows if row["family"] == name] for name in names}
    brier = float(np.mean([(row["said"] - row["right_bet"]) ** 2 for row in rows]))
    rates = [_mean(mine, "right_bet") for mine in by_family.values()]
    three = [row for row in rows if row["seeds"] == 3]
    sure = [row for row in three if row["said"] >= 0.8]
    return {
        "studies": len(rows),
        "reliability": [one for name in ("all", *names) for one in reliability(rows, name)],
        "brier": brier,
        "brier_constant": float(np.mean([rate * (1 - rate) for rate in rates])),
        "regret": [
            {"family": name, **{way: _mean(mine, way) for way in ("bet", *PEERS)}} for name, mine in by_family.items()
        ],
        "families": [
            {
                "family": name,
                "said": _mean(mine, "said"),
                "right": _mean(mine, "right_bet"),
                "base": _mean(mine, "base"),
                "held_out": name in [scenario_name(family) for family in HELD_OUT],
            }
            for name, mine in by_family.items()
        ],
        "designs": [
            {"seeds": seeds, **{way: _mean(mine, way) for way in ("bet", *PEERS, "said", "right_bet", "right_argmax")}}
            for seeds in SEEDS
            if (mine := [row for row in rows if row["seeds"] == seeds])
        ],
        "said_80_share": len(sure) / max(len(three), 1),
        "said_80_right": _mean(sure, "right_bet") if sure else None,
        "said_80_studies": [len(three), len(sure)],
    }


def scenario_name(family: Family) -> str:
    """A family's name as the tables have it."""
    return family.__name__.replace("_", " ")


def _error(share: float, count: int) -> str:
    return f"standard error {np.sqrt(share * (1 - share) / max(count, 1)):.3f}"


def gates(found: dict[str, Any]) -> list[tuple[str, bool]]:
    """What the calibration asks of the bet, and whether it holds. Standard errors are told; they decide nothing."""
    held = []
    for one in found["reliability"]:
        if one["family"] == "all" and one["low"] >= 0.5 and one["n"] >= 200:
            off = one["observed"] - one["predicted"]
            name = f"said {one['predicted']:.3f}, right {one['observed']:.3f} ({_error(one['observed'], one['n'])}"
            held.append((f"{name}, n = {one['n']}): within -0.05 and +0.10", -0.05 <= off <= 0.10))
    for one in found["families"]:
        most = 0.25 if one["family"] == "no gain" else 0.10
        over = one["said"] - one["right"]
        held.append((f"{one['family']}: said minus right {over:+.3f}, at most {most:g}", over <= most))
    brier, constant = found["brier"], found["brier_constant"]
    held.append((f"Brier {brier:.4f}, below that of each family's own rate {constant:.4f}", brier < constant))
    share, right = found["said_80_share"], found["said_80_right"] or 0.0
    three, sure = found["said_80_studies"]
    held.append((f"3 seeds: {share:.1%} say 0.8 or more ({_error(share, three)}), at least 60 %", share >= 0.6))
    held.append((f"3 seeds: {right:.1%} of those are right ({_error(right, sure)}), at least 95 %", right >= 0.95))
    for way in PEERS:
        ours, theirs = (float(np.mean([one[name] for one in found["regret"]])) for name in ("bet", way))
        held.append((f"mean regret {ours:.2f}, below {way}'s {theirs:.2f}", ours < theirs))
    for one in found["regret"]:
        limit = 1.2 * min(one[way] for way in PEERS[:-1]) + 0.1
        held.append((f"{one['family']}: regret {one['bet']:.2f}, at most {limit:.2f}", one["bet"] <= limit))
    return held


def tables(found: dict[str, Any]) -> str:
    """Markdown: by family, by number of seeds, and reliability."""
    said = {one["family"]: one for one in found["families"]}
    lines = ["| family | said | right | base | bet | argmax | loss | r16 | r64 | plug-in |", "|---" * 10 + "|"]
    for one in found["regret"]:
        facts = said[one["family"]]
        cells = [facts["said"], facts["right"], facts["base"], *(one[way] for way in ("bet", *PEERS))]
        name = one["family"] + (" (held out)" if facts["held_out"] else "")
        lines.append(f"| {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    lines += ["", "| seeds | said | right | argmax right | bet | argmax | plug-in |", "|---" * 7 + "|"]
    for one in found["designs"]:
        cells = [one[name] for name in ("said", "right_bet", "right_argmax", "bet", "argmax", "plug_in")]
        lines.append(f"| {one['seeds']} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    lines += ["", "| said | right | n |", "|---|---|---|"]
    for one in found["reliability"]:
        if one["family"] == "all":
            lines.append(f"| {one['predicted']:.2f} | {one['observed']:.2f} | {one['n']} |")
    return "\n".join(lines)


def calibrate_bets(file: Path, studies: int, seed: int, workers: int) -> bool:
    """Simulate `studies` studies of every family and number of seeds, write the figures, print tables and gates.

    Returns whether every gate holds.
    """
    start, rows = time.perf_counter(), []
    work = [_Work(family, seeds, studies, seed) for seeds in SEEDS for family in range(len(EVERY))]
    with Pool(workers) as pool:
        for number, part in enumerate(pool.imap(_studies, work), start=1):
            rows += part
            print(f"{number} of {len(work)}: {part[0]['family']}, {part[0]['seeds']} seeds", flush=True)
    found = summary(rows)
    held = gates(found)
    published = {**found, "gates": [{"gate": name, "holds": holds} for name, holds in held]}
    file.write_text(json.dumps(published, indent=1) + "\n")
    print(f"\n{tables(found)}\n")
    for name, holds in held:
        print(f"{'holds' if holds else 'FAILS'}: {name}")
    print(f"\n{len(rows):,} studies, {time.perf_counter() - start:.0f} s")
    return all(holds for _, holds in held)
