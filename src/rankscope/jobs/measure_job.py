"""The job of `rankscope plan --measure`: a few real steps of an arm and a few scored items, timed where runs happen."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from rankscope.data.training_batches import order
from rankscope.evaluate.score_suites import SuitePlan, score_suite
from rankscope.jobs.job_context import Bench, bench
from rankscope.model.load import LoadedModel
from rankscope.model.methods.packed_lora import Pack, open_pack
from rankscope.records import Example, MeasuredSpeed, Plan, PlannedRun
from rankscope.train.fit import FitSettings, fit
from rankscope.train.training_state import FitResult

FOLDER = "measured"
"""Of a study's folder: one JSON file for each arm."""

_STEPS = 4
"""Timed steps, after one that is not: it allocates, and finds out what the model can do."""

_ROWS = 64
"""Validation rows, and items of each suite, that are timed."""

SOME_RATE = 1e-4
"""Where the study's rate is to be searched for: the time of a step does not depend on it."""


def measured_runs(plan: Plan) -> list[PlannedRun]:
    """For each base model, training set and method the run of fewest and of most trained parameters, of one seed."""
    chosen: dict[str, PlannedRun] = {}
    groups: dict[tuple[str, str, str], list[PlannedRun]] = {}
    for run in plan.runs:
        if run.fits:
            groups.setdefault((run.model, run.train_set, run.arm.method), []).append(run)
    for group in groups.values():
        for pick in (min, max):
            run = pick(group, key=lambda r: r.trainable_parameters)
            chosen.setdefault(run.run_id, run)
    return list(chosen.values())


def measure(folder: str, run_ids: tuple[str, ...]) -> None:
    """Write what was measured of these runs' arms; nothing of them is kept but the seconds."""
    here = bench(folder)
    for run_id in run_ids:
        found = _measure(here, here.runs[run_id])
        here.store.write_text(f"{FOLDER}/{run_id}.json", found.model_dump_json())


def _measure(here: Bench, run: PlannedRun) -> MeasuredSpeed:
    data = here.prepared(run.model).training[run.train_set]
    base = here.base(run.model, own=run.arm.traits.whole)
    rate = run.arm.learning_rate if isinstance(run.arm.learning_rate, float) else SOME_RATE
    settings = here.fit_settings(rate, run.seed, here.micro_batch_tokens(run))
    with open_pack(base, [run.arm], run.seed) as pack:
        per_token, result = time_steps(pack, here.objective.training_rows(data), settings)
        rows = here.objective.validation_rows(data)[:_ROWS]
        start = time.perf_counter()
        forward = pack.members[0].training_forward()
        here.objective.validation_loss(forward, rows, settings.micro_batch_tokens)
        validation = (time.perf_counter() - start) / sum(map(here.objective.row_tokens, rows))
        evaluate = _score(here, base, run)
    return MeasuredSpeed(
        model=run.model,
        train_set=run.train_set,
        arm=run.arm.label,
        method=run.arm.method,
        trainable_parameters=run.trainable_parameters,
        train_seconds_per_token=per_token,
        validation_seconds_per_token=validation,
        evaluate_seconds=evaluate,
        peak_memory_bytes=result.peak_memory_bytes,
    )


class _Unkept:
    """A run that is only timed has no checkpoint."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        return None

    def save(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        """It is not resumed."""


def time_steps(pack: Pack, rows: Sequence[Example], settings: FitSettings) -> tuple[float, FitResult]:
    """Seconds per token of a batch over the timed steps, at the run's first batches; a run of one step has only that.

    The pack's arms all take `settings`; the result is the first one's.
    """
    ends: list[float] = []
    budget = settings.budget

    def note(arm: int, _: FitResult) -> None:
        if arm == 0:
            ends.append(time.perf_counter())

    start = time.perf_counter()
    count = len(pack.members)
    result, *_ = fit(pack, rows, [settings] * count, checkpoints=_Unkept(), until_step=_STEPS + 1, on_step=note)
    batches = order(len(rows), budget.batch_size, budget.epochs, settings.seed)[: len(ends)]
    if len(ends) > 1:
        batches, start = batches[1:], ends[0]
    return (ends[-1] - start) / sum(settings.objective.row_tokens(rows[i]) for batch in batches for i in batch), result


def _score(here: Bench, model: LoadedModel, run: PlannedRun) -> float:
    """Seconds of every suite, from a seeded sample of the items of each."""
    seconds = 0.0
    for name, (suite, _) in here.prepared(run.model).suites.items():
        if not suite.items:
            continue
        items = random.Random(f"measure {name}").sample(suite.items, min(_ROWS, len(suite.items)))
        few, plan = (SuitePlan(replace(suite, items=tuple(part)), here.evaluate_tokens) for part in (items[:2], items))
        score_suite(model.model, model.tokenizer, few, token_budget=here.evaluate_tokens)  # what a model is asked once
        start = time.perf_counter()
        score_suite(model.model, model.tokenizer, plan, token_budget=here.evaluate_tokens)
        seconds += (time.perf_counter() - start) * len(suite.items) / len(items)
    return seconds
