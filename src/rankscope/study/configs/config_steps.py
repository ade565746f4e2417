"""Optimizer steps of another tool's training, as passes over the rows that a study has left to train on."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable

from rankscope.study.configs.config_record import TrainingConfig
from rankscope.study.source_settings import HELD_OUT_SHARE
from rankscope.study.study_settings import Budget, Validation

_MOST_DIGITS = 12


def validation_of(config: TrainingConfig) -> Validation:
    """The validation rows of the study: the config's share or number, else a study's own."""
    if config.validation_share is not None:
        return Validation(fraction=config.validation_share)
    if config.validation_rows is not None:
        return Validation(fraction=0.5, max_items=config.validation_rows)
    return Validation()


def rows_left(rows: int, validation: Validation) -> int:
    """Of `rows` rows that all differ and fit: how many are trained on, once those that a suite asks and those that are
    validated on are out, as data/held_out.py and data/encode_sets.py take them."""
    left = rows - round(HELD_OUT_SHARE * rows)
    return max(1, left - min(max(1, round(validation.fraction * left)), validation.max_items))


def rows_to_draw(trained: int, validation: Validation) -> int:
    """The least number of rows of which `trained` are left to train on."""
    most = math.ceil((trained + 1) / ((1 - HELD_OUT_SHARE) * (1 - validation.fraction))) + 2
    return bisect_left(range(most), trained, key=lambda rows: rows_left(rows, validation))


def steps_of(epochs: float, trained: int, batch_size: int) -> int:
    """Optimizer steps of so many passes: the last batch of each may be smaller."""
    seen = Budget(epochs=epochs, batch_size=batch_size).rows_seen(trained)
    return sum(math.ceil(rows / batch_size) for rows in seen)


def passes_for(steps: int, trained: int, batch_size: int) -> float:
    """Passes that take exactly `steps` steps, with as few digits as that needs."""
    whole, rest = divmod(steps, math.ceil(trained / batch_size))
    exact = whole + ((rest * batch_size - 0.5) / trained if rest else 0.0)
    return _shortest(exact, lambda epochs: epochs > 0 and steps_of(epochs, trained, batch_size) == steps)


def warmup_share(warmup_steps: int, steps: int) -> float:
    """The share of the steps that is exactly so many steps of warm-up, which a study rounds up."""

    def fits(share: float) -> bool:
        return math.ceil(steps * share) == warmup_steps

    share = warmup_steps / steps
    return _shortest(share if fits(share) else (warmup_steps - 0.5) / steps, fits)


def _shortest(value: float, fits: Callable[[float], bool]) -> float:
    """The value with the fewest digits that still fits."""
    rounded = (float(f"{value:.{digits}g}") for digits in range(2, _MOST_DIGITS))
    return next((one for one in rounded if fits(one)), value)
