"""The jobs that score the base, and that train and score a run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rankscope.edges.local_executor import stop_requested
from rankscope.evaluate.adapter_scoring import Logprobs, suites_logprobs
from rankscope.evaluate.score_suites import predictions_frame, score_suite
from rankscope.jobs.analysis_job import Trained, inside_missing, look_inside
from rankscope.jobs.job_context import Bench, bench
from rankscope.jobs.noise import score_again
from rankscope.jobs.train_job import train_missing, weights_folder
from rankscope.model.forward import NotFinite
from rankscope.model.load import LoadedModel
from rankscope.model.methods.adapt import load_adapter
from rankscope.model.methods.packed_lora import open_factors, plain_factors
from rankscope.records import PlannedRun, Prediction, RunStatus
from rankscope.train.fit import memory_in_use_bytes


@dataclass(frozen=True)
class Known:
    """What one forward for several runs gave for one of them, by suite, and its share of the seconds."""

    logprobs: Mapping[str, Logprobs]
    seconds: float


NOTHING = Known({}, 0.0)


def score_base(folder: str, run_ids: tuple[str, ...]) -> None:
    """Score the base models named by `run_ids` (`base`, or `base/NAME`) exactly as the arms are, and once more in other
    batches."""
    here = bench(folder)
    for run_id in run_ids:
        model = run_id.removeprefix("base/") if "/" in run_id else here.study.models[0].name
        with here.store.wait_lock(run_id, stop_requested) as mine:
            if mine and missing_suites(here, run_id, model):
                here.write_run(run_id, model, None, None)
                _write_items(here, run_id, model)
                _score(here, here.base(model), model, RunStatus(run_id=run_id, state="running"))
            if mine and not missing_suites(here, run_id, model):
                score_again(here, run_id, model)


def _write_items(here: Bench, run_id: str, model: str) -> None:
    """items.parquet beside the base's predictions: what was asked, for a report that needs neither model nor data."""
    rows = [
        {"suite": name, "item_id": item.item_id, "prompt": item.prompt_text, "choices": list(item.choice_texts)}
        for name, (suite, _) in here.prepared(model).suites.items()
        for item in suite.items
    ]
    here.store.write_frame(here.store.run_folder(run_id) / "items.parquet", pd.DataFrame(rows))


def train_and_score(folder: str, run_ids: tuple[str, ...]) -> None:
    """Train the runs that are not trained, together, and score the suites that are not scored."""
    here = bench(folder)
    runs = [here.runs[run_id] for run_id in run_ids]
    with ExitStack() as held:
        # In one order everywhere, so that no two processes wait for each other.
        mine = [held.enter_context(here.store.wait_lock(run_id, stop_requested)) for run_id in sorted(run_ids)]
        if not all(mine):
            return
        try:
            train_missing(here, runs)
        finally:  # what one arm of a pack could not do is no reason to leave the others unscored
            known = {} if stop_requested() else _known_logprobs(here, runs)
            for run in runs:
                if not stop_requested():
                    _finish(here, run, known.get(run.run_id, NOTHING))


def _known_logprobs(here: Bench, runs: Sequence[PlannedRun]) -> dict[str, Known]:
    """By run, of runs that trained together, what one forward for all of them gives. All that were saved take part,
    whichever are asked for: so an interrupted study gives the bits of one that never stopped."""
    status = here.store.read_status(runs[0].run_id)
    pack = [here.runs[run_id] for run_id in status.trained_with if run_id in here.runs] if status is not None else []
    saved = [run for run in pack if weights_folder(here, run).is_dir()]
    missing = {suite for run in runs for suite in missing_suites(here, run.run_id, run.model)}
    if len(saved) < 2 or not missing:
        return {}
    model = saved[0].model
    plans = [here.plan_of(model, suite) for suite in sorted(missing)]
    folders = [weights_folder(here, run) for run in saved]
    base, start = here.base(model), time.perf_counter()
    found = suites_logprobs(base, [run.arm for run in saved], folders, plans)
    share = (time.perf_counter() - start) / len(saved)
    return {run.run_id: Known(own, share) for run, own in zip(saved, found, strict=True)}


def missing_suites(here: Bench, run_id: str, model: str) -> list[str]:
    """Suites of the study that the run has no predictions for, or predictions on other content."""
    scored = here.store.frame_metadata(here.store.run_folder(run_id) / "predictions.parquet")
    suites = here.prepared(model).suites
    return [name for name, (_, facts) in suites.items() if scored.get(name) != facts.content_sha256]


def _finish(here: Bench, run: PlannedRun, known: Known) -> None:
    """Score a trained run, of which some log-likelihoods may be known, and look inside it."""
    status = here.store.read_status(run.run_id)
    weights = weights_folder(here, run)
    if status is None or status.state == "diverged" or not weights.is_dir():
        return
    scored = status.state == "done" and not missing_suites(here, run.run_id, run.model)
    if scored and not inside_missing(here, run):
        return
    with _trained(here, run, weights) as trained:
        if not scored:
            status = _score(here, trained.model, run.model, status, known)
        if status.state == "done" and inside_missing(here, run):
            look_inside(here, run, trained)
    if run.arm.traits.whole and here.study.keep.full == "none" and status.state == "done":
        shutil.rmtree(weights)


@contextmanager
def _trained(here: Bench, run: PlannedRun, weights: Path) -> Iterator[Trained]:
    """The run's trained model as saved, so that a resumed study scores the same bits as one that was never stopped."""
    if run.arm.traits.whole:
        yield Trained(here.fine_tuned(run.model, weights), None, weights)
        return
    base = here.base(run.model)
    factors = plain_factors(base, weights) if run.arm.traits.delta == "factored" else None
    if factors is not None:
        with open_factors(base, [run.arm], [factors]) as pack:
            yield Trained(base, pack.members[0].off, weights)
        return
    with load_adapter(base, run.arm, weights) as adapted:
        yield Trained(base, adapted.off, weights)


def _score(here: Bench, model: LoadedModel, name: str, status: RunStatus, known: Known = NOTHING) -> RunStatus:
    """Score what is missing, keep what is there, write predictions.parquet and the final status."""
    store, run_id = here.store, status.run_id
    path = store.run_folder(run_id) / "predictions.parquet"
    start, peak = time.perf_counter(), status.peak_memory_bytes or 0
    missing = missing_suites(here, run_id, name)
    suites = here.prepared(name).suites
    before = store.read_frame(path)
    kept = before[before["suite"].isin(set(suites) - set(missing))] if before is not None else None
    already = len(kept) if kept is not None else 0
    predictions: list[Prediction] = []
    try:
        for suite in missing:
            predictions += score_suite(
                model.model, model.tokenizer, here.plan_of(name, suite), token_budget=here.evaluate_tokens,
                logprobs=known.logprobs.get(suite),
            )  # fmt: skip
            peak = max(peak, memory_in_use_bytes())
            status = status.model_copy(update={"items_scored": already + len(predictions), "peak_memory_bytes": peak})
            here.write_status(status)
    except NotFinite as error:
        status = status.model_copy(update={"state": "diverged", "reason": str(error)})
        here.write_status(status)
        return status
    frame = predictions_frame(run_id, predictions)
    if kept is not None and len(kept):
        frame = pd.concat([kept, frame], ignore_index=True)
    frame["suite"] = pd.Categorical(frame["suite"], categories=list(suites))
    frame = frame.sort_values("suite", kind="stable").astype({"suite": "str"}).reset_index(drop=True)
    store.write_frame(path, frame, {suite: facts.content_sha256 for suite, (_, facts) in suites.items()})
    update = {
        "state": "done",
        "reason": None,
        "evaluate_seconds": (status.evaluate_seconds or 0.0) + known.seconds + time.perf_counter() - start,
        "peak_memory_bytes": peak,
        "adapter_bytes": _size_bytes(store.adapter_folder(run_id)),
    }
    status = status.model_copy(update=update)
    here.write_status(status)
    return status


def _size_bytes(folder: Path) -> int | None:
    """Bytes of the adapter's weights; None where there is no adapter."""
    files = list(folder.glob("*.safetensors")) if folder.is_dir() else []
    return sum(file.stat().st_size for file in files) if files else None
