"""Training the runs of a job that are not trained: here, or in a gang where one device does not hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rankscope.edges.checked_files import StoredCheckpoints
from rankscope.evaluate.adapter_scoring import AdapterProblem, check_adapter
from rankscope.evaluate.choice_scoring import choice_logprobs
from rankscope.jobs.gang_work import hand_to_gang
from rankscope.jobs.given_arms import take_given
from rankscope.jobs.job_context import JobContext
from rankscope.jobs.probe_items import probe_items
from rankscope.jobs.status_writer import StatusWriter
from rankscope.model.methods.attach import NewAdapter, attach
from rankscope.records import PlannedRun, RunStatus
from rankscope.train.fit import fit
from rankscope.train.training_state import Checkpoints, FitResult
from rankscope.train.validation_curve import validation_curve


def train_missing(context: JobContext, runs: Sequence[PlannedRun]) -> None:
    """Train those of `runs` that have no weights yet, together where there are several; they differ in their arms only.
    What was trained elsewhere is taken as it is. Runs that began together go on together, those that were saved already
    among them: so an interrupted pack gives the bits of one that never stopped.
    """
    missing = [run for run in runs if not context.folder.is_trained(run.run_id)]
    if not missing:
        return
    if missing[0].arm.given is not None:  # in no pack
        take_given(context, missing[0])
        return
    ids = tuple(run.run_id for run in runs)
    began = any(tuple(pack.run_ids) == ids for pack in context.folder.read_packs())
    rates = {run.run_id: rate_of(context, run) for run in (runs if began else missing)}
    together = []
    for run in runs if began else missing:
        rate = rates[run.run_id]
        if rate is None:
            reason = "every rate of its search diverged"
            context.write_status(RunStatus(run_id=run.run_id, state="diverged", reason=reason))
            continue
        context.write_run(run.run_id, run.model, run, rate)
        together.append(run)
    if len(together) == 1:
        checkpoints = context.folder.checkpoints(together[0].run_id)
        _train(context, together, rates, checkpoints)
        if context.folder.is_trained(together[0].run_id):
            checkpoints.remove()
    elif together:
        with context.folder.pack([run.run_id for run in together]) as checkpoints:
            _train(context, together, rates, checkpoints)


def rate_of(context: JobContext, run: PlannedRun) -> float | None:
    """The run's learning rate: the study's number, or what was chosen after its search (None: every rate diverged)."""
    if isinstance(run.arm.learning_rate, float | int):
        return float(run.arm.learning_rate)
    settings = context.folder.read_settings()
    setting = settings.of(run.model, run.train_set, run.arm.label) if settings is not None else None
    if setting is None:
        raise RuntimeError(f"the learning rate of {run.run_id} is not chosen")
    return setting.learning_rate


def _train(
    context: JobContext, runs: Sequence[PlannedRun], rates: Mapping[str, float | None], checkpoints: StoredCheckpoints
) -> None:
    """Train from where the checkpoint is: here, or in a gang where one device does not hold the runs."""
    given = [rate for run in runs if (rate := rates[run.run_id]) is not None]
    first = runs[0]
    if not first.in_gang:
        train_runs(context, runs, given, checkpoints)
        return
    hand_to_gang(
        context, first.training, context.micro_batch_tokens(first), work="train", run_ids=[run.run_id for run in runs],
        rates=given, checkpoint=checkpoints.name,
    )  # fmt: skip


def train_runs(
    context: JobContext, runs: Sequence[PlannedRun], rates: Sequence[float], checkpoints: Checkpoints
) -> None:
    """Train runs that differ in their arms only; of a gang all processes call this.

    A run whose status is `running` afterwards is trained, saved, unscored.
    """
    first = runs[0]
    data = context.training(first.model, first.train_set)
    base = context.base(first.model, own=first.arm.traits.whole, arm=first.arm)
    objective, budget = context.objective, context.evaluate_tokens
    validation = objective.validation_rows(data)
    probe = probe_items(validation)
    base_logprobs = choice_logprobs(base.model, probe, token_budget=budget)
    curve = validation_curve(validation, objective, first.train_tokens)
    settings = [replace(context.run_settings(run, rate), curve=curve) for run, rate in zip(runs, rates, strict=True)]
    with attach(base, *(NewAdapter(run.arm, first.seed) for run in runs)) as pack:
        ids = tuple(run.run_id for run in runs) if len(runs) > 1 else ()
        statuses = [
            RunStatus(
                run_id=run.run_id, state="running", steps_total=run.step_count, arms_together=len(runs),
                trainable_parameters=member.trainable_parameters, trained_with=ids, gang=context.team.size,
            )
            for run, member in zip(runs, pack.members, strict=True)
        ]  # fmt: skip
        writers = [StatusWriter(context, status) for status in statuses]
        for status in statuses:
            context.write_status(status)
        results = fit(
            pack, objective.training_rows(data), settings, checkpoints=checkpoints, should_stop=context.stop_requested,
            on_step=lambda arm, result: writers[arm](result), team=context.team,
        )  # fmt: skip
        problems: list[AdapterProblem] = []
        for i, (run, status, result) in enumerate(zip(runs, statuses, results, strict=True)):
            context.folder.write_steps(run.run_id, result.steps)
            status = status.model_copy(update=_outcome(result))
            if result.state != "done":
                context.write_status(status)
                continue
            member = pack.members[i]
            with pack.running([i]):
                forward, size = member.training_forward(), result.micro_batch_tokens
                loss = objective.validation_loss(forward, validation, size, context.team)
                try:
                    if member.has_adapter:
                        check_adapter(
                            pack.model, member.off, probe, base_logprobs, token_budget=context.evaluate_tokens
                        )
                except AdapterProblem as problem:
                    problems.append(problem)
                    continue
            # Before the weights: where these are, the status is whole.
            context.write_status(status.model_copy(update={"validation_loss": loss}))
            context.folder.save_weights(run.run_id, member.save, whole=run.arm.traits.whole)
        if problems:
            raise problems[0]


def _outcome(result: FitResult) -> dict[str, Any]:
    state = {"done": "running", "paused": "planned", "diverged": "diverged"}[result.state]
    return {
        "state": state,
        "reason": result.reason,
        "steps_done": len(result.steps),
        "final_train_loss": result.final_train_loss,
        "replay_tokens": sum(step.replay_tokens or 0 for step in result.steps) or None,
        "train_seconds": result.train_seconds,
        "peak_memory_bytes": result.peak_memory_bytes,
        "micro_batch_tokens": result.micro_batch_tokens,
        "checkpointing": result.checkpointing,
    }
