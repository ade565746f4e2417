"""Ids of runs and searches: hashes of all that decides the trained weights, and of nothing else."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

from rankscope.records import RESULTS_VERSION, ModelFacts, TrainFacts
from rankscope.study.methods import arm_label
from rankscope.study.study import Arm, Study, TrainSource

SEARCH_SEED = 2**31
"""The smallest integer beyond every seed that a study may have: outside `seeds`, now and when seeds are added."""

MOST_BEYOND = 2
"""How many half decades a search may go beyond its grid, where the best rate is the last one."""


def next_rate(rate: float, *, up: bool) -> float:
    """The next rate of the half-decade grid: 1e-3 -> 3e-3 -> 1e-2, or back."""
    power = math.floor(math.log10(rate) + 1e-9)
    one = round(rate / 10.0**power) == 1
    if up:
        return float(f"3e{power}") if one else float(f"1e{power + 1}")
    return float(f"3e{power - 1}") if one else float(f"1e{power}")


def search_arms(arm: Arm, entry: Sequence[Arm]) -> tuple[Arm, ...]:
    """The arms that find this arm's rate: itself (`auto`), its whole entry (`auto_shared`), none where it is given."""
    if not isinstance(arm.learning_rate, str):
        return ()
    return tuple(entry) if arm.learning_rate == "auto_shared" else (arm,)


def run_id(
    arm: Arm, seed: int, study: Study, model: ModelFacts, train: TrainFacts, dtype: str, searching: Sequence[Arm] = ()
) -> str:
    """`lora-r16-s0-0123456789ab`: method, rank, seed, and 12 hex digits of a SHA-256.

    Hashed are the arm without its label, the training rows as they are encoded and their settings without the domain,
    the model's content, dtype, budget, optimizer, validation, the seed, RESULTS_VERSION, and where the rate is searched
    its grid, the search's seed and the arms that search (`searching`, of `search_arms`). Suites, labels, other arms,
    other seeds, margins, checkpoints and paths are not: changing them trains nothing anew.
    """
    payload = {**_common(study, model, train, dtype), "arm": _settings(arm), "seed": seed}
    if searching:
        payload["search"] = _search(searching)
    else:
        payload["learning_rate"] = arm.learning_rate
    return f"{_head(arm)}-s{seed}-{_digest(payload)}"


def search_id(searching: Sequence[Arm], study: Study, model: ModelFacts, train: TrainFacts, dtype: str) -> str:
    """`lora-r16-search-0123456789ab`, of what decides a search's outcome."""
    payload = {**_common(study, model, train, dtype), "search": _search(searching)}
    head = _head(searching[0]) if len(searching) == 1 else f"{searching[0].method}-shared"
    return f"{head}-search-{_digest(payload)}"


def _head(arm: Arm) -> str:
    return arm_label(arm.method, arm.method, arm.size)


def _common(study: Study, model: ModelFacts, train: TrainFacts, dtype: str) -> dict[str, Any]:
    source: TrainSource = study.train[train.name]
    eight_bit = study.optimizer.name != "adamw"  # hashed where it is not the default, so that older ids stay
    return {
        "results_version": RESULTS_VERSION,
        "model": model.content_sha256,
        "dtype": dtype,
        "train": [train.content_sha256, train.row_count, train.validation_count, train.token_count],
        "source": source.model_dump(mode="json", include={"choices", "template", "kind", "columns"}),
        "validation": study.validation.model_dump(mode="json"),
        "budget": study.budget.model_dump(mode="json", exclude={"gradient_checkpointing"}),
        "optimizer": study.optimizer.model_dump(mode="json", exclude=None if eight_bit else {"name"}),
        **({"quantization": model.quantization} if model.quantization is not None else {}),
    }


def _settings(arm: Arm) -> dict[str, Any]:
    """An arm without its label and its rate; the order and repetition of targets mean nothing."""
    settings = arm.model_dump(mode="json", exclude={"label", "learning_rate"})
    if isinstance(arm.targets, tuple):
        settings["targets"] = sorted(set(arm.targets))
    return settings


def _search(searching: Sequence[Arm]) -> dict[str, Any]:
    arms = sorted((_settings(arm) for arm in searching), key=lambda settings: json.dumps(settings, sort_keys=True))
    return {"rates": searching[0].traits.rate_grid, "beyond": MOST_BEYOND, "seed": SEARCH_SEED, "arms": arms}


def _digest(payload: dict[str, Any]) -> str:
    text = json.dumps(payload, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
