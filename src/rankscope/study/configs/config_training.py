"""How long, how fast and with which seeds a config trains, as the lines of a study: budget, optimizer, validation."""

from __future__ import annotations

from typing import Any

from rankscope.study.configs.config_record import TrainingConfig
from rankscope.study.configs.config_steps import passes_for, rows_left, steps_of, validation_of, warmup_share
from rankscope.study.yaml_text import dump_yaml

_NEVER_CLIPS = 1e6
_SEEDS = 3
_MOST_SEED = 2**31 - 1 - _SEEDS


def training_lines(config: TrainingConfig, rows: int | None) -> tuple[list[str], list[str]]:
    """The sections `seeds`, `budget`, `optimizer` and `validation`, and what of them could not be said. `rows`: of the
    training set, None where it is not known."""
    notes: list[str] = []
    budget: dict[str, Any] = {
        "epochs": _epochs(config, rows, notes),
        "batch_size": config.batch_size,
        "max_sequence_tokens": config.sequence_tokens,
        "gradient_checkpointing": config.gradient_checkpointing,
    }
    if config.sequence_tokens is None and config.batch_size is not None:
        notes.append("rows may have any length there; here rows above budget.max_sequence_tokens (1024) are left out")
    if config.sequence_tokens == 1:
        budget["max_sequence_tokens"] = 2
    sections = [_seeds(config), dump_yaml({"budget": _said(budget)}).rstrip()] if _said(budget) else [_seeds(config)]
    optimizer = {
        "weight_decay": config.weight_decay,
        "warmup_fraction": _warmup(config, rows, notes),
        "schedule": config.schedule,
        "clip_norm": _clip(config),
    }
    if _said(optimizer):
        told = (
            ""
            if _clip(config) != _NEVER_CLIPS
            else "# clip_norm: yours does not clip, and no gradient is as long as this.\n"
        )
        sections.append(told + dump_yaml({"optimizer": _said(optimizer)}).rstrip())
    return [*sections, *_validation(config, notes)], notes


def _said(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def _seeds(config: TrainingConfig) -> str:
    """Three seeds from theirs on: one seed describes, three or more can decide."""
    first = config.seed if config.seed is not None and 0 <= config.seed <= _MOST_SEED else 0
    seeds = list(range(first, first + _SEEDS))
    return f"# One seed describes; three or more can decide.\n{dump_yaml({'seeds': seeds}).rstrip()}"


def _step_count(config: TrainingConfig, rows: int | None) -> int | None:
    """Optimizer steps of the study's training, where that can be told."""
    if config.max_steps is not None:
        return config.max_steps
    if rows is None or config.batch_size is None or config.epochs is None:
        return None
    return steps_of(config.epochs, rows_left(rows, validation_of(config)), config.batch_size)


def _epochs(config: TrainingConfig, rows: int | None, notes: list[str]) -> float | None:
    """Passes over the rows; of a number of steps as many as these are, where the rows were counted."""
    if config.max_steps is None:
        return config.epochs
    batch = config.batch_size or 1
    seen = config.max_steps * batch
    if rows is not None:
        trained = rows_left(rows, validation_of(config))
        epochs = passes_for(config.max_steps, trained, batch)
        notes.append(
            f"max_steps: {config.max_steps}: a study counts passes: {epochs:.12g} over the {trained} of {rows} rows "
            "that stay to train on are as many steps (a few fewer where rows repeat or are too long)"
        )
        return epochs
    notes.append(
        f"max_steps: {config.max_steps}: a study counts passes. {seen} rows are seen: set budget.epochs to {seen} "
        "divided by the rows that the plan says are trained on (it stands at the config's epochs)"
    )
    return config.epochs


def _warmup(config: TrainingConfig, rows: int | None, notes: list[str]) -> float | None:
    if not config.warmup_steps:
        return config.warmup_fraction
    steps = _step_count(config, rows)
    if steps is not None and steps > config.warmup_steps:
        return warmup_share(config.warmup_steps, steps)
    why = (
        "more than the steps there are"
        if steps is not None
        else "a study says a share of the steps, which are not known"
    )
    notes.append(f"warmup steps: {config.warmup_steps}: {why}; optimizer.warmup_fraction stands at 0.03")
    return 0.03


def _clip(config: TrainingConfig) -> float | None:
    """None: not said. 0 stands for no clipping, which a study says by a norm that is never reached."""
    if config.clip_norm is None:
        return None
    return config.clip_norm if config.clip_norm > 0 else _NEVER_CLIPS


def _validation(config: TrainingConfig, notes: list[str]) -> list[str]:
    if config.validation_share is not None:
        return [dump_yaml({"validation": {"fraction": config.validation_share}}).rstrip()]
    if config.validation_rows is not None:
        return [dump_yaml({"validation": {"fraction": 0.5, "max_items": config.validation_rows}}).rstrip()]
    if config.batch_size is not None:
        notes.append("no validation rows there; here a tenth (at most 500) is held out, on which rates are searched")
    return []
