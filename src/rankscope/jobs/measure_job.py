"""The job of `rankscope plan --measure`: a few real steps of an arm and a few scored items, timed where runs happen."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from rankscope.data.training_batches import order
from rankscope.edges.executors import WorkPlace
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.score_suites import WRITTEN_FORMS, SuitePlan, score_suite
from rankscope.jobs.job_context import JobContext, job_context
from rankscope.model.load import LoadedModel
from rankscope.model.methods.attach import NewAdapter, Pack, attach
from rankscope.plan.packing_choice import TIMED_STEPS
from rankscope.plan.run_time import DECODED_ROWS
from rankscope.records import Example, Item, MeasuredSpeed, Plan, PlannedRun
from rankscope.study.graders.words_grader import ContainsGrader
from rankscope.train.fit import FitSettings, fit
from rankscope.train.training_state import FitResult

_ROWS = 64
"""Validation rows that are timed."""

_FULL_BATCHES, _FULL_DECODES = 4, 2
"""So many scoring batches of every suite are timed, or so often as many answers as are written at once."""

SOME_RATE = 1e-4
"""Where the study's rate is to be searched for: the time of a step does not depend on it."""


def measured_runs(plan: Plan) -> list[PlannedRun]:
    """For each base model, training set and method that is trained the run of fewest and of most trained parameters, of
    one seed."""
    chosen: dict[str, PlannedRun] = {}
    groups: dict[tuple[str, str, str], list[PlannedRun]] = {}
    for run in plan.runs:
        if run.fits and not run.in_gang and run.arm.given is None:
            groups.setdefault((run.model, run.train_set, run.arm.method), []).append(run)
    for group in groups.values():
        for pick in (min, max):
            run = pick(group, key=lambda r: r.trainable_parameters)
            chosen.setdefault(run.run_id, run)
    return list(chosen.values())


@dataclass(frozen=True)
class Measure:
    """Time a few real steps of one run's arm, and scoring; nothing of it is kept but the seconds."""

    folder: str
    run_id: str
    seconds: float = 0.0

    def run(self, place: WorkPlace) -> None:
        context = job_context(self.folder, place)
        context.folder.write_measured(self.run_id, _measure(context, context.runs[self.run_id]))

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        """Nothing is labelled: the folder is a temporary one."""
        return {self.run_id: error}


def _measure(context: JobContext, run: PlannedRun) -> MeasuredSpeed:
    data, objective = context.training(run.model, run.train_set), context.objective
    base = context.base(run.model, own=run.arm.traits.whole)
    rate = run.arm.learning_rate if isinstance(run.arm.learning_rate, float) else SOME_RATE
    twice = context.checkpointing(run.model, run.train_set, run.arm)
    settings = context.fit_settings(rate, run.seed, context.micro_batch_tokens(run), checkpointing=twice)
    with attach(base, NewAdapter(run.arm, run.seed)) as pack:
        per_token, result = time_steps(pack, objective.training_rows(data), settings)
        rows = objective.validation_rows(data)[:_ROWS]
        start = time.perf_counter()
        objective.validation_loss(pack.members[0].training_forward(), rows, settings.micro_batch_tokens)
        validation = (time.perf_counter() - start) / sum(map(objective.row_tokens, rows))
        evaluate = _score(context, base, run)
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
    result, *_ = fit(pack, rows, [settings] * count, checkpoints=_Unkept(), until_step=TIMED_STEPS + 1, on_step=note)
    batches = order(len(rows), budget.batch_size, budget.epochs, settings.seed)[: len(ends)]
    if len(ends) > 1:
        batches, start = batches[1:], ends[0]
    tokens = sum(settings.objective.row_tokens(rows[i]) for batch in batches for i in batch)
    return (ends[-1] - start) / tokens, result


def _score(context: JobContext, model: LoadedModel, run: PlannedRun) -> float:
    """Seconds of every suite, from a seeded sample of the items of each, in batches as full as a run's."""
    seconds, batch_tokens = 0.0, context.evaluate_tokens
    for name in context.suite_facts(run.model):
        suite = context.suite(run.model, name)
        if not suite.items:
            continue
        items = sample(name, suite.items, batch_tokens, DECODED_ROWS[context.plan.resolved.device])
        if suite.grader is not None and suite.grader.driver != "call":  # which takes no time of the model's
            suite = replace(suite, grader=ContainsGrader())
        few, plan = (SuitePlan(replace(suite, items=tuple(part)), batch_tokens) for part in (items[:2], items))
        # What a model is asked once: which fast paths it may take.
        score_suite(model.model, model.tokenizer, few, token_budget=batch_tokens)
        start = time.perf_counter()
        score_suite(model.model, model.tokenizer, plan, token_budget=batch_tokens)
        seconds += (time.perf_counter() - start) * len(suite.items) / len(items)
    return seconds


def sample(name: str, items: Sequence[Item], batch_tokens: int, decoded_rows: int) -> list[Item]:
    """Items in a seeded order, as many as fill some batches of `batch_tokens`, or of `decoded_rows` written answers."""
    chosen: list[Item] = []
    tokens = written = 0
    for i in random.Random(f"measure {name}").sample(range(len(items)), len(items)):
        if tokens >= _FULL_BATCHES * batch_tokens or written >= _FULL_DECODES * decoded_rows:
            break
        item = items[i]
        chosen.append(item)
        if item.form in WRITTEN_FORMS:
            written += 1
        else:
            tokens += sum(len(part.prompt_ids) + sum(map(len, part.choices_ids)) for part in item.parts or (item,))
    return chosen
