"""What keeps the best bet from saying more? The studies of calibration.py --bets, with something known that is not.

Each way places its bets on the same studies: as it is; with the covariance of items and seeds known in place of
estimated; with the gains known; with the forgetting known. `no choice of settings`: other studies, whose arms stand at
the gentle setting that their family describes. What a bet lacks with its noise known is not the likelihood's fault.

    python benchmarks/bet_limits.py [--studies 30] [--seeds 3] [--seed 1] [--held-out]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from bet_calibration import DRAWS, EVERY, ITEMS, MARGINS, PRIOR, Study, bet_axes, outcome, simulate, summary
from bet_families import FAMILIES, Floats, scenario_of
from scipy.special import ndtri, owens_t
from scipy.stats import norm
from simulated_studies import Scenario

from rankscope.decide.best_bet import Axes
from rankscope.decide.bet_likelihood import Observed
from rankscope.decide.bet_posterior import draw_truths


def seeds_covariance(scenario: Scenario, levels: tuple[float, ...], suites: int) -> Floats:
    """The covariance (N, N) of the arms' means that the seeds cause, in points squared, of suites at these `levels`.

    Of a seed's effect, by the slope of the accuracy on the latent scale, and of items x seed: the mean of p (1 - p)
    over items is P(right in one run, wrong in another of the same seed's effect) = 2 T(h, sqrt((1 - r) / (1 + r))),
    with Owen's T, h the level's quantile and r the correlation of the two.
    """
    spread = scenario.spread
    sd = np.broadcast_to(np.array(scenario.seed_sd), len(levels))
    same = spread.item**2 + spread.arm_item**2 + sd**2
    total = same + spread.noise**2
    level = ndtri(np.array(levels))
    moved = 100 * norm.pdf(level) * sd / np.sqrt(total)
    correlation = np.where(np.eye(len(levels)) == 1, 1.0, scenario.seed_correlation)
    r = same / total
    flips = 2 * owens_t(level, np.sqrt((1 - r) / (1 + r)))
    one_seed: Floats = correlation * np.outer(moved, moved) + np.diag(100**2 * flips / (scenario.items * suites))
    return one_seed / scenario.seeds


def _noise_known(study: Study) -> Axes:
    scenario, rng = study.scenario, np.random.default_rng(0)
    seeds = (
        seeds_covariance(scenario, scenario.learned, scenario.in_suites),
        seeds_covariance(scenario, scenario.kept, scenario.out_suites),
    )
    drawn = []
    for seen, covariance in zip((study.gain, study.lost), seeds, strict=True):
        known = Observed(seen.mean, seen.items, covariance, seen.seed_counts, seen.item_counts)
        drawn.append(draw_truths(known, PRIOR, rng, DRAWS, None))
    return Axes(drawn[0], drawn[1], MARGINS)


def _as_it_is(study: Study) -> Axes:
    return bet_axes(study.gain, study.lost, np.random.default_rng(0))


def _gain_known(study: Study) -> Axes:
    return _as_it_is(study)._replace(gain=np.tile(100 * study.scenario.gain, (DRAWS, 1)))


def _forgetting_known(study: Study) -> Axes:
    return _as_it_is(study)._replace(lost=np.tile(100 * study.scenario.lost, (DRAWS, 1)))


WAYS: dict[str, Callable[[Study], Axes]] = {
    "as it is": _as_it_is,
    "noise known": _noise_known,
    "gain known": _gain_known,
    "forgetting known": _forgetting_known,
}


def line(way: str, rows: list[dict[str, Any]]) -> str:
    """A row of the table."""
    found = summary(rows)
    sure = [row["right_bet"] for row in rows if row["said"] >= 0.8]
    middle = [row for row in rows if 0.6 < row["said"] <= 0.7]
    said, right = ([row[name] for row in middle] for name in ("said", "right_bet"))
    cells = [
        f"{found['brier']:.4f}",
        f"{found['brier_constant']:.4f}",
        f"{len(sure) / len(rows):.3f}",
        f"{np.mean(sure):.3f}" if sure else "-",
        f"{np.mean(said):.2f} / {np.mean(right):.2f} ({len(middle)})" if middle else "-",
        f"{np.mean([row['bet'] for row in rows]):.2f}",
    ]
    return f"| {way} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=30, help="of every family")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of every arm")
    parser.add_argument("--seed", type=int, default=1, help="of the simulation")
    parser.add_argument("--held-out", action="store_true", help="the four families that were held out, too")
    arguments = parser.parse_args()
    families = EVERY if arguments.held_out else FAMILIES
    rows: dict[str, list[dict[str, Any]]] = {way: [] for way in (*WAYS, "no choice of settings")}
    for number, family in enumerate(families):
        for chosen in (True, False):
            rng = np.random.default_rng([arguments.seed, number, arguments.seeds])
            for _ in range(arguments.studies):
                study = simulate(rng, scenario_of(rng, family, arguments.seeds, ITEMS, chosen=chosen))
                if chosen:
                    for way, axes in WAYS.items():
                        rows[way].append(outcome(study, axes(study)))
                else:
                    rows["no choice of settings"].append(outcome(study, _as_it_is(study)))
    print("| way | Brier | constant | say 0.8 | right of those | said / right in 0.6 to 0.7 (n) | regret |")
    print("|---" * 7 + "|")
    for way, mine in rows.items():
        print(line(way, mine))


if __name__ == "__main__":
    main()
