"""Arms that were trained elsewhere: looked at when a study is planned, and taken into the study's folder to be judged.

Nothing is trained and nothing is written where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rankscope.evaluate.adapter_scoring import check_adapter
from rankscope.evaluate.choice_scoring import choice_logprobs
from rankscope.jobs.job_context import JobContext
from rankscope.jobs.probe_items import probe_items
from rankscope.model.attention.unpadded_rows import training_forward
from rankscope.model.given_folders import content_of, copy_into, look_at
from rankscope.model.methods.attach import SavedAdapter, attach
from rankscope.records import ModelFacts, PlannedRun, RunStatus
from rankscope.study.methods.given_method import GivenEntry
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.read_study import absolute
from rankscope.study.study import Study


def with_found(study: Study, base: Path, models: Sequence[ModelFacts]) -> Study:
    """The study with what the folders of its given arms hold. One that was looked at before and is gone stays as it
    was found. Raises InputProblems, with the problems of all arms."""
    problems: list[Problem] = []
    arms = dict(study.arms)
    for key, entry in study.arms.items():
        if not isinstance(entry, GivenEntry):
            continue
        gone = [folder for folder in entry.folders if not (base / Path(folder).expanduser()).is_dir()]
        if gone and entry.found is not None:
            continue
        try:
            arms[key] = entry.model_copy(update={"found": look_at(entry, base, models[0], f"arms.{key}")})
        except InputProblems as error:
            problems += error.problems
    if problems:
        raise InputProblems(problems)
    return study.model_copy(update={"arms": arms})


def as_found_before(study: Study, base: Path, before: Study) -> Study:
    """The study with what was found in the same folders before, so that a change of them is noticed."""
    arms, whole = dict(study.arms), absolute(study, base)
    for key, entry in study.arms.items():
        own, known = whole.arms[key], before.arms.get(key)
        same = isinstance(own, GivenEntry) and isinstance(known, GivenEntry) and own.folders == known.folders
        if isinstance(entry, GivenEntry) and isinstance(known, GivenEntry) and same:
            arms[key] = entry.model_copy(update={"found": known.found})
    return study.model_copy(update={"arms": arms})


def take_given(context: JobContext, run: PlannedRun) -> None:
    """Copy the weights of a given run into the study's folder and measure their validation loss.

    Afterwards the run is like one that was trained and not scored. Raises InputProblems where the folder no longer
    holds what was planned, and AdapterProblem for an adapter that changes nothing.
    """
    folder = _folder(context, run)
    context.write_run(run.run_id, run.model, run, None)
    assert run.arm.given is not None
    status = RunStatus(run_id=run.run_id, state="running", trainable_parameters=run.arm.given.parameters)
    context.write_status(status)
    loss = _whole_loss(context, run, folder) if run.arm.traits.whole else _adapter_loss(context, run, folder)
    # Before the weights: where these are, the status is whole.
    context.write_status(status.model_copy(update={"validation_loss": loss}))
    fill = partial(copy_into, folder, adapter=not run.arm.traits.whole)
    context.folder.save_weights(run.run_id, fill, whole=run.arm.traits.whole)


def _folder(context: JobContext, run: PlannedRun) -> Path:
    """The folder of the run's seed, which still holds what it held when the study was planned."""
    entry = context.study.arms[run.arm.label]
    assert isinstance(entry, GivenEntry)
    assert run.arm.given is not None
    place = context.study.all_seeds.index(run.seed)
    folder = Path(entry.folders[place])
    adapter = not run.arm.traits.whole
    if content_of(folder, context.facts(run.model), adapter=adapter) != run.arm.given.sha256[place]:
        expected = "what it was when the study was planned: put it back, or give another --out"
        raise InputProblems([Problem(str(folder), f"arms.{run.arm.label}", "another content", expected)])
    return folder


def _whole_loss(context: JobContext, run: PlannedRun, folder: Path) -> float:
    data, objective = context.training(run.model, run.train_set), context.objective
    model = context.fine_tuned(run.model, folder).model
    rows, size = objective.validation_rows(data), context.micro_batch_tokens(run)
    return objective.validation_loss(training_forward(model), rows, size, context.team)


def _adapter_loss(context: JobContext, run: PlannedRun, folder: Path) -> float:
    data, objective = context.training(run.model, run.train_set), context.objective
    base, tokens = context.base(run.model), context.evaluate_tokens
    rows = objective.validation_rows(data)
    probe = probe_items(rows)
    plain = choice_logprobs(base.model, probe, token_budget=tokens)
    with attach(base, SavedAdapter(folder)) as pack, pack.running([0]):
        member = pack.members[0]
        check_adapter(pack.model, member.off, probe, plain, token_budget=tokens)
        size = context.micro_batch_tokens(run)
        return objective.validation_loss(member.training_forward(), rows, size, context.team)
