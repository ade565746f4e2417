"""The job that trains runs, together where they form a pack, saves and scores them, and looks inside."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankscope.edges.checked_files import StoredCheckpoints
from rankscope.edges.executors import WorkPlace
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.adapter_scoring import AdapterProblem, check_adapter, dialled_logprobs, suites_logprobs
from rankscope.evaluate.answer_grading import NotGraded, noting
from rankscope.evaluate.choice_scoring import choice_logprobs
from rankscope.jobs.analysis import Trained, analysis_missing, look_inside
from rankscope.jobs.derive_whole import derive_whole, whole_derivations
from rankscope.jobs.dial_scoring import (
    AtDial,
    KnownAt,
    anything_missing,
    at_its_dials,
    factors_at_dials,
    score_at_dials,
)  # fmt: skip
from rankscope.jobs.job_context import JobContext, StatusWriter, job_context
from rankscope.jobs.score_job import NOTHING, Known, came_through, label_runs, missing_suites, score_missing
from rankscope.model.methods.attach import NewAdapter, SavedAdapter, attach
from rankscope.records import Example, Item, PlannedRun, RunStatus
from rankscope.train.fit import fit
from rankscope.train.training_state import FitResult

_PROBE_ITEMS = 8


def weights_of(context: JobContext, run: PlannedRun) -> Path | None:
    """The local folder of the run's adapter or model; None where it is not saved (yet, or any more)."""
    return context.folder.weights(run.run_id, whole=run.arm.traits.whole)


def train_missing(context: JobContext, runs: Sequence[PlannedRun]) -> None:
    """Train those of `runs` that have no weights yet, together where there are several; they differ in their arms only.
    Runs that began together go on together, those that were saved already among them: so an interrupted pack gives the
    bits of one that never stopped.
    """
    missing = [run for run in runs if not context.folder.is_trained(run.run_id)]
    if not missing:
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
        _train(context, together, [rates[run.run_id] for run in together], checkpoints)
        if context.folder.is_trained(together[0].run_id):
            checkpoints.remove()
    elif together:
        with context.folder.pack([run.run_id for run in together]) as checkpoints:
            _train(context, together, [rates[run.run_id] for run in together], checkpoints)


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
    context: JobContext, runs: Sequence[PlannedRun], rates: Sequence[float | None], checkpoints: StoredCheckpoints
) -> None:
    """Train from where the checkpoint is. A run whose status is `running` afterwards is trained, saved, unscored."""
    first = runs[0]
    data = context.training(first.model, first.train_set)
    base = context.base(first.model, own=first.arm.traits.whole)
    objective, budget = context.objective, context.evaluate_tokens
    validation = objective.validation_rows(data)
    probe = _probe(validation)
    base_logprobs = choice_logprobs(base.model, probe, token_budget=budget)
    pairs = zip(runs, rates, strict=True)
    settings = [context.run_settings(run, rate) for run, rate in pairs if rate is not None]
    with attach(base, *(NewAdapter(run.arm, first.seed) for run in runs)) as pack:
        ids = tuple(run.run_id for run in runs) if len(runs) > 1 else ()
        statuses = [
            RunStatus(
                run_id=run.run_id, state="running", steps_total=run.step_count, arms_together=len(runs),
                trainable_parameters=member.trainable_parameters, trained_with=ids,
            )
            for run, member in zip(runs, pack.members, strict=True)
        ]  # fmt: skip
        writers = [StatusWriter(context, status) for status in statuses]
        for status in statuses:
            context.write_status(status)
        results = fit(
            pack, objective.training_rows(data), settings, checkpoints=checkpoints, should_stop=context.stop_requested,
            on_step=lambda arm, result: writers[arm](result),
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
                loss = objective.validation_loss(member.training_forward(), validation, result.micro_batch_tokens)
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
    }


def _probe(examples: Sequence[Example]) -> list[Item]:
    """A few validation rows as items with one choice, to see whether an adapter is applied."""
    return [
        Item(e.item_id, "choices", e.prompt_ids, (e.completion_ids,), answer_index=0) for e in examples[:_PROBE_ITEMS]
    ]


@dataclass(frozen=True)
class TrainRuns:
    """Train the runs that are not trained, as one pack where there are several, and score what is not scored."""

    folder: str
    run_ids: tuple[str, ...]
    seconds: float = 0.0

    def run(self, place: WorkPlace) -> None:
        context = job_context(self.folder, place)
        runs = [context.runs[run_id] for run_id in self.run_ids]
        with ExitStack() as held:
            # In one order everywhere, so that no two processes wait for each other.
            locks = [context.folder.wait_lock(run_id, place.stop_requested) for run_id in sorted(self.run_ids)]
            mine = [held.enter_context(lock) for lock in locks]
            if not all(mine):
                return
            try:
                train_missing(context, runs)
            finally:  # what one arm of a pack could not do is no reason to leave the others unscored
                known = {} if place.stop_requested() else _known_logprobs(context, runs)
                at_dials = {} if place.stop_requested() else _known_at_dials(context, runs)
                ungraded: list[NotGraded] = []
                for run in runs:
                    if not place.stop_requested():
                        with noting(ungraded):
                            _finish(context, run, known.get(run.run_id, NOTHING), at_dials.get(run.run_id, {}))
                for error in ungraded[:1]:
                    raise error

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        """Label the runs that did not come through; what failed, and why, by run id."""
        plan = folder.read_plan()
        runs = [run for run in plan.runs if run.run_id in self.run_ids] if plan is not None else []
        failed = [run.run_id for run in runs if not came_through(folder, plan, run)]
        return label_runs(folder, tuple(failed), error, details)


def _known_logprobs(context: JobContext, runs: Sequence[PlannedRun]) -> dict[str, Known]:
    """By run, of runs that trained together, what one forward for all of them gives."""
    saved = _trained_together(context, runs)
    missing = {suite for run in runs for suite in missing_suites(context, run.run_id, run.model)}
    if len(saved) < 2 or not missing:
        return {}
    model = saved[0][0].model
    plans = [context.suite_plan(model, suite) for suite in sorted(missing)]
    base, start = context.base(model), time.perf_counter()
    found = suites_logprobs(base, [run.arm for run, _ in saved], [weights for _, weights in saved], plans)
    share = (time.perf_counter() - start) / len(saved)
    return {run.run_id: Known(own, share) for (run, _), own in zip(saved, found, strict=True)}


def _known_at_dials(context: JobContext, runs: Sequence[PlannedRun]) -> dict[str, KnownAt]:
    """By run and dial below 1 what one forward for the dials of a run gives."""
    found: dict[str, KnownAt] = {}
    missing = any(anything_missing(context, run) for run in runs)
    for run, weights in _trained_together(context, runs) if missing else []:
        dials = [dial for dial in run.dials if dial < 1]
        plans = [context.suite_plan(run.model, suite) for suite in context.suite_hashes(run.model)]
        known = dialled_logprobs(context.base(run.model), run.arm, weights, dials, plans)
        found[run.run_id] = dict(zip(dials, known, strict=True))
    return found


def _trained_together(context: JobContext, runs: Sequence[PlannedRun]) -> list[tuple[PlannedRun, Path]]:
    """The runs of a pack that were saved, whichever are asked for, with their weights: all take part in one forward, so
    that an interrupted study gives the bits of one that never stopped."""
    status = context.folder.read_status(runs[0].run_id)
    pack = [context.runs[i] for i in status.trained_with if i in context.runs] if status is not None else []
    return [(run, weights) for run in pack if (weights := weights_of(context, run)) is not None]


def _finish(context: JobContext, run: PlannedRun, known: Known, at_dials: KnownAt) -> None:
    """Score a trained run, of which some log-likelihoods may be known, at every dial, and look inside it."""
    status = context.folder.read_status(run.run_id)
    if status is None or status.state == "diverged":
        return
    if context.folder.read_run(run.run_id) is None:
        context.write_run(run.run_id, run.model, run, rate_of(context, run))
    scored = status.state == "done" and not missing_suites(context, run.run_id, run.model)
    looked = not analysis_missing(context, run) and not whole_derivations(context, run)
    if scored and looked and not anything_missing(context, run):
        return
    weights = weights_of(context, run)
    if weights is None:
        return
    with _trained(context, run, weights) as trained:
        if not scored:
            status = score_missing(context, trained.model, run.model, status, known)
        if status.state == "done" and analysis_missing(context, run):
            context.write_status(status.model_copy(update={"activity": "looking inside"}))
            look_inside(context, run, trained)
            context.write_status(status)
        if run.arm.traits.dial_by != "factors":
            _score_dials(context, run, status, at_its_dials(context, run, trained.model, trained.off), at_dials)
    if run.arm.traits.dial_by == "factors":  # put on once more: side by side at every dial
        _score_dials(context, run, status, factors_at_dials(context, run, weights), at_dials)
    if status.state == "done":
        derive_whole(context, run, weights)
    ended = status.state == "done" and not context.stop_requested()
    if run.arm.traits.whole and context.study.keep.full == "none" and ended:
        context.folder.remove_weights(run.run_id)


def _score_dials(
    context: JobContext,
    run: PlannedRun,
    status: RunStatus,
    sides: AbstractContextManager[list[AtDial]],
    known: KnownAt,
) -> None:
    """Score a finished run at the dials that are missing; what is there costs nothing."""
    if status.state != "done" or not anything_missing(context, run):
        return
    context.write_status(status.model_copy(update={"activity": "scoring at other dials"}))
    with sides as found:
        score_at_dials(context, run, found, known)
    context.write_status(status)


@contextmanager
def _trained(context: JobContext, run: PlannedRun, weights: Path) -> Iterator[Trained]:
    """The run's trained model as saved, so that a resumed study scores the same bits as one that was never stopped."""
    if run.arm.traits.whole:
        yield Trained(context.fine_tuned(run.model, weights), None, weights)
        return
    base = context.base(run.model)
    with attach(base, SavedAdapter(weights, run.arm)) as pack:
        yield Trained(base, pack.members[0].off, weights)
