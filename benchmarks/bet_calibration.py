"""Is the best bet right as often as it says, and what does it cost when it is wrong? For calibration.py --bets.

Simulated studies go through the likelihood, the draws and the bet of a real one. Beside it stand what people do without
it: the arm of the highest observed gain, of the lowest validation loss, always rank 16, always rank 64, and the best
observed gain among arms whose observed forgetting is within the margin (plug-in).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from bet_families import ARMS, PARAMETERS, RANKS, Truth, scenario_of
from simulated_studies import draw

from rankscope.decide.best_bet import COST_SHARE, Axes, Margins, doublings, judge_draws, place_bet
from rankscope.decide.bet_likelihood import Observed, observe
from rankscope.decide.bet_posterior import Place, draw_truths, make_prior, seed_scales

MARGINS = Margins(task=3.0, retention=3.0, min_gain=1.0)
PLACES = [*(Place(float(np.log2(rank)), False) for rank in RANKS), Place(None, True)]
PRIOR = make_prior(PLACES)
COST = MARGINS.task * COST_SHARE * doublings(PARAMETERS, [False] * len(RANKS) + [True])
DRAWS = 4000
DESIGNS = ((2, 1000), (3, 1000), (8, 1000))
PEERS = ("argmax", "loss", "r16", "r64", "plug_in")


def one_study(
    rng: np.random.Generator, family: Callable[[np.random.Generator], Truth], seeds: int, items: int
) -> dict[str, Any]:
    """A simulated study: what the bet says, and its regret and rightness beside those of its peers."""
    scenario = scenario_of(rng, family, seeds, items)
    drawn = draw(rng, scenario, seeds)
    gain, lost = (
        observe([suite.arrays for suite in drawn.suites if (suite.relation == "in-domain") == inside], sign)
        for inside, sign in ((True, 100.0), (False, -100.0))
    )
    axes = bet_axes(gain, lost, np.random.default_rng(0))
    outcomes = judge_draws([axes])
    bet = place_bet(outcomes, COST, [True] * ARMS)
    true = judge_draws([Axes(100 * scenario.gain[None], 100 * scenario.lost[None], MARGINS)])
    keeps = np.flatnonzero(lost.mean <= MARGINS.retention)
    options = {
        "bet": bet.option,
        "argmax": int(np.argmax(gain.mean)),
        "loss": int(np.argmin(drawn.validation_loss)),
        "r16": RANKS.index(16),
        "r64": RANKS.index(64),
        "plug_in": int(keeps[np.argmax(gain.mean[keeps])]) if len(keeps) and gain.mean[keeps].max() > 0 else ARMS,
    }
    found = {f"regret_{name}": float(true.regret[0, option]) for name, option in options.items()}
    found |= {f"right_{name}": bool(true.right[0, option]) for name, option in options.items()}
    said = float(outcomes.probability[bet.option])
    return {"family": scenario.name, "seeds": seeds, "items": items, "option": bet.option, "said": said, **found}


def bet_axes(gain: Observed, lost: Observed, rng: np.random.Generator) -> Axes:
    """The draws of a study of the nine arms."""
    scales = seed_scales(gain.degrees)
    return Axes(draw_truths(gain, PRIOR, rng, DRAWS, scales), draw_truths(lost, PRIOR, rng, DRAWS, scales), MARGINS)
