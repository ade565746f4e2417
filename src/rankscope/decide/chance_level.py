"""Suites on which the base knows nothing: what it has right is what guessing has right, so nothing can be forgotten.

Such a suite would only dilute the mean that forgetting is; it is shown, and left out of that mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binom

from rankscope.records.readable_numbers import percent

Floats = NDArray[np.float64]

GUESSING_ERROR = 0.05
"""How often a base that guesses is taken for one that knows something."""


def chance_of(base: pd.DataFrame, form: object) -> float | None:
    """The accuracy of guessing: the mean over items of one over the number of choices, 0 for an open answer.

    `base` is the base's rows of a suite, with `choice_logprobs`. None where choices were not recorded.
    """
    if form != "choices":
        return 0.0
    if "choice_logprobs" not in base:
        return None
    counts = [len(found) for found in _lists(base["choice_logprobs"]) if len(found)]
    return float(np.mean([1.0 / count for count in counts])) if counts else None


def _lists(cells: Iterable[Any]) -> list[Any]:
    return [cell for cell in cells if isinstance(cell, list | tuple | np.ndarray)]


def knows_nothing(scores: Floats, chance: float | None) -> bool:
    """Whether the base's scores (I,) are not surely better than guessing.

    A one-sided binomial test at GUESSING_ERROR of the items that are wholly right; where guessing has nothing right,
    whether the base has nothing right either.
    """
    if not chance:
        return not (scores > 0).any()
    right = int((scores >= 1).sum())
    return float(binom.sf(right - 1, len(scores), chance)) > GUESSING_ERROR


def nothing_to_forget(suite: str, scores: Floats, chance: float | None) -> str | None:
    """Why a suite outside the training domain is no part of the mean of forgetting; None where it is part of it."""
    if not knows_nothing(scores, chance):
        return None
    right = f"the base has {percent(float(scores.mean()))} of {len(scores):,} items right"
    if not chance:
        return f"{suite}: {right}, so there is nothing to forget: it is left out of the mean of forgetting"
    return (
        f"{suite}: {right} where guessing has {percent(chance)}, which is not surely better, so there is nothing to "
        "forget: it is left out of the mean of forgetting"
    )
