"""The job that lets a base write the samples that arms replay: once, before any training, for all arms and seeds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rankscope.data.encode_replay import SAMPLE_SEED
from rankscope.data.token_files import open_training, token_path
from rankscope.data.token_writers import TrainingWriter
from rankscope.edges.executors import WorkPlace
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.sampling import Sample, sample
from rankscope.evaluate.score_suites import eos_ids
from rankscope.jobs.gang_work import hand_to_gang
from rankscope.jobs.job_context import JobContext, job_context
from rankscope.plan.resolve import dtype_of
from rankscope.records import Example, Plan, PlannedRun, ReplayFacts, SamplesRecord, TrainFacts


@dataclass(frozen=True)
class WriteSamples:
    """Let the base of a run write what the run replays, where that is not there yet."""

    folder: str
    run_id: str
    seconds: float = 0.0
    slots: int = 1

    def run(self, place: WorkPlace) -> None:
        """Draw the samples and keep them as a token file."""
        context = job_context(self.folder, place)
        run = context.runs[self.run_id]
        gang, tokens = context.plan.base_gang(run.model), context.plan.resolved.micro_batch_tokens
        name = _samples_name(context, run)
        with context.folder.wait_lock(f"replay-{name}", place.stop_requested) as mine:
            if not mine or context.folder.has_samples(name):
                return
            if gang.alone:
                write_samples(context, run)
            else:
                hand_to_gang(context, gang, tokens, work="samples", run_ids=[run.run_id])

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        """Keep the traceback; the runs that wait for the samples say themselves that they are not there."""
        folder.write_error("replay", details)
        return {f"samples of {self.run_id}": error}


def samples_to_write(folder: StudyFolder, plan: Plan, runs: Sequence[PlannedRun]) -> list[WriteSamples]:
    """A job for each base model and set of samples that some of these runs replay."""
    first: dict[tuple[str, str], str] = {}
    for run in runs:
        facts = _facts(plan, run)
        if facts is not None and facts.samples_sha256 is not None and not folder.is_trained(run.run_id):
            first.setdefault((run.model, facts.samples_sha256), run.run_id)
    return [WriteSamples(folder.url, run_id, slots=plan.base_gang(model).size) for (model, _), run_id in first.items()]


def _facts(plan: Plan, run: PlannedRun) -> ReplayFacts | None:
    train = next(t for t in plan.train_sets if (t.model, t.name) == (run.model, run.train_set))
    return train.replay_of(run.arm)


def _samples_name(context: JobContext, run: PlannedRun) -> str:
    facts = _facts(context.plan, run)
    assert facts is not None
    return context.samples_id(run.model, facts)


def write_samples(context: JobContext, run: PlannedRun) -> None:
    """Draw the samples that a run replays and keep them as a token file; of a gang all processes call this."""
    facts, name = _facts(context.plan, run), _samples_name(context, run)
    replay, base, start = run.arm.replay, context.base(run.model), time.perf_counter()
    assert replay is not None
    assert facts is not None
    prompts = [row.prompt_ids for row in open_training(context.folder.tokens(facts.content_sha256)).train]
    found = sample(
        base.model,
        [prompts[i % len(prompts)] for i in range(replay.samples)],
        temperature=replay.temperature,
        seed=SAMPLE_SEED,
        max_new_tokens=replay.max_tokens,
        eos_ids=eos_ids(base.model, base.tokenizer),
        token_budget=context.evaluate_tokens,
    )
    record = SamplesRecord(
        samples_id=name,
        model=run.model,
        model_sha256=context.facts(run.model).content_sha256,
        dtype=dtype_of(context.spec(run.model), context.plan.resolved),
        prompts_sha256=facts.content_sha256,
        samples=replay.samples,
        temperature=replay.temperature,
        max_tokens=replay.max_tokens,
        seed=SAMPLE_SEED,
        tokens=sum(len(one.whole) for one in found),
        ended=sum(one.ended_by is not None for one in found),
        seconds=time.perf_counter() - start,
    )
    with TemporaryDirectory(prefix="rankscope-samples-") as temporary:
        context.folder.add_samples(record, _token_file(Path(temporary), found))


def _token_file(folder: Path, samples: Sequence[Sample]) -> Path:
    """The samples as rows to train on: loss on all that the base wrote, the end included."""
    rows = [Example(f"sample-{i}", one.prompt, one.whole) for i, one in enumerate(samples) if one.whole]
    tokens, targets = sum(row.token_count for row in rows), sum(row.target_count for row in rows)
    facts = TrainFacts(
        name="samples", domain=None, content_sha256="", row_count=len(rows), validation_count=0, token_count=tokens,
        completion_token_count=targets,
    )  # fmt: skip
    with TrainingWriter(folder) as writer:
        writer.add(rows)
        written = writer.finish(np.arange(len(rows)), np.zeros(0, dtype=np.int64), facts)
    return token_path(folder, written.content_sha256)
