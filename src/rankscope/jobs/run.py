"""The jobs that score the base, and that train and score a run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from rankscope.edges.execute import stop_requested
from rankscope.evaluate.check import check_adapter
from rankscope.evaluate.choices import choice_logprobs
from rankscope.evaluate.suites import score_suite
from rankscope.jobs.bench import Bench, StatusWriter, bench
from rankscope.jobs.inside import Trained, inside_missing, look_inside
from rankscope.model.adapt import adapt, load_adapter
from rankscope.model.forward import NotFinite
from rankscope.model.load import LoadedModel
from rankscope.records import Example, Item, PlannedRun, Prediction, RunStatus
from rankscope.train.fit import FitResult, fit, memory_in_use_bytes, validation_loss

_PROBE_ITEMS = 8


def score_base(folder: str, run_ids: tuple[str, ...]) -> None:
    """Score the base models named by `run_ids` (`base`, or `base/NAME`) exactly as the arms are."""
    here = bench(folder)
    for run_id in run_ids:
        model = run_id.removeprefix("base/") if "/" in run_id else here.study.models[0].name
        with here.store.wait_lock(run_id, stop_requested) as mine:
            if mine and missing_suites(here, run_id, model):
                here.write_run(run_id, model, None, None)
                _write_items(here, run_id, model)
                _score(here, here.base(model), model, RunStatus(run_id=run_id, state="running"))


def _write_items(here: Bench, run_id: str, model: str) -> None:
    """items.parquet beside the base's predictions: what was asked, for a report that needs neither model nor data."""
    rows = [
        {"suite": name, "item_id": item.item_id, "prompt": item.prompt_text, "choices": list(item.choice_texts)}
        for name, (suite, _) in here.prepared(model).suites.items()
        for item in suite.items
    ]
    here.store.write_frame(here.store.run_folder(run_id) / "items.parquet", pd.DataFrame(rows))


def train_and_score(folder: str, run_ids: tuple[str, ...]) -> None:
    """Train the runs that are not trained, score the suites that are not scored."""
    here = bench(folder)
    for run_id in run_ids:
        with here.store.wait_lock(run_id, stop_requested) as mine:
            if mine:
                _train_and_score(here, here.runs[run_id])


def missing_suites(here: Bench, run_id: str, model: str) -> list[str]:
    """Suites of the study that the run has no predictions for, or predictions on other content."""
    scored = here.store.frame_metadata(here.store.run_folder(run_id) / "predictions.parquet")
    suites = here.prepared(model).suites
    return [name for name, (_, facts) in suites.items() if scored.get(name) != facts.content_sha256]


def rate_of(here: Bench, run: PlannedRun) -> float | None:
    """The run's learning rate: the study's number, or what its search chose (None: every rate diverged)."""
    if isinstance(run.arm.learning_rate, float | int):
        return float(run.arm.learning_rate)
    for search in here.plan.searches:
        if search.model == run.model and search.train_set == run.train_set and run.arm in search.arms:
            record = here.store.read_search(search.search_id)
            if record is None:
                raise RuntimeError(f"the search {search.search_id} of this run's learning rate is not done")
            return record.chosen
    raise RuntimeError(f"{run.run_id} has no learning rate and no search")


def _weights_folder(here: Bench, run: PlannedRun) -> Path:
    store = here.store
    return store.model_folder(run.run_id) if run.arm.traits.whole else store.adapter_folder(run.run_id)


def _train_and_score(here: Bench, run: PlannedRun) -> None:
    status = here.store.read_status(run.run_id) or RunStatus(run_id=run.run_id, state="planned")
    weights = _weights_folder(here, run)
    scored = status.state == "done" and not missing_suites(here, run.run_id, run.model)
    if status.state == "diverged" or (scored and not (inside_missing(here, run) and weights.is_dir())):
        return None
    if not weights.is_dir():
        rate = rate_of(here, run)
        if rate is None:
            update = {"state": "diverged", "reason": "every rate of its search diverged"}
            return here.write_status(status.model_copy(update=update))
        here.write_run(run.run_id, run.model, run, rate)
        status = _train(here, run, rate, weights)
        if status.state != "running":
            return None
    here.checkpoints(run.run_id).remove()
    with _trained(here, run, weights) as trained:
        if not scored:
            status = _score(here, trained.model, run.model, status)
        if status.state == "done" and inside_missing(here, run):
            look_inside(here, run, trained)
    if run.arm.traits.whole and here.study.keep.full == "none" and status.state == "done":
        shutil.rmtree(weights)
    return None


def _train(here: Bench, run: PlannedRun, rate: float, weights: Path) -> RunStatus:
    """Train from where the checkpoint is; `running` in the status given back means: trained, saved, to be scored."""
    data = here.prepared(run.model).training[run.train_set]
    base = here.base(run.model, own=run.arm.traits.whole)
    probe = _probe(data.validation)
    base_logprobs = choice_logprobs(base.model, probe, token_budget=here.evaluate_tokens)
    with adapt(base, run.arm, run.seed) as adapted:
        status = RunStatus(
            run_id=run.run_id, state="running", steps_total=run.step_count,
            trainable_parameters=adapted.trainable_parameters,
        )  # fmt: skip
        here.write_status(status)
        result = fit(
            adapted, data.train, here.fit_settings(rate, run.seed), checkpoints=here.checkpoints(run.run_id),
            on_step=StatusWriter(here, status), should_stop=stop_requested,
        )  # fmt: skip
        here.store.write_lines(run.run_id, list(result.steps))
        status = status.model_copy(update=_outcome(result))
        if result.state == "done":
            loss = validation_loss(adapted, data.validation, result.micro_batch_tokens)
            status = status.model_copy(update={"validation_loss": loss})
            if adapted.has_adapter:
                check_adapter(adapted.model, adapted.off, probe, base_logprobs, token_budget=here.evaluate_tokens)
            here.write_status(status)
            here.store.write_folder(weights, adapted.save)
    here.write_status(status)
    return status


def _outcome(result: FitResult) -> dict[str, Any]:
    state = {"done": "running", "paused": "planned", "diverged": "diverged"}[result.state]
    return {
        "state": state,
        "reason": result.reason,
        "steps_done": len(result.steps),
        "final_train_loss": result.final_train_loss,
        "train_seconds": result.train_seconds,
        "peak_memory_bytes": result.peak_memory_bytes,
        "micro_batch_tokens": result.micro_batch_tokens,
    }


def _probe(examples: Sequence[Example]) -> list[Item]:
    """A few validation rows as items with one choice, to see whether an adapter is applied."""
    return [
        Item(
            item_id=e.item_id, form="choices", prompt_ids=e.prompt_ids, choices_ids=(e.completion_ids,), answer_index=0
        )
        for e in examples[:_PROBE_ITEMS]
    ]


@contextmanager
def _trained(here: Bench, run: PlannedRun, weights: Path) -> Iterator[Trained]:
    """The run's trained model as saved, so that a resumed study scores the same bits as one that was never stopped."""
    if run.arm.traits.whole:
        yield Trained(here.fine_tuned(run.model, weights), None, weights)
        return
    base = here.base(run.model)
    with load_adapter(base, run.arm, weights) as adapted:
        yield Trained(base, adapted.off, weights)


def _score(here: Bench, model: LoadedModel, name: str, status: RunStatus) -> RunStatus:
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
                model.model, model.tokenizer, here.plan_of(name, suite), token_budget=here.evaluate_tokens
            )
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
        "evaluate_seconds": (status.evaluate_seconds or 0.0) + time.perf_counter() - start,
        "peak_memory_bytes": peak,
        "adapter_bytes": _size_bytes(store.adapter_folder(run_id)),
    }
    status = status.model_copy(update=update)
    here.write_status(status)
    return status


def predictions_frame(run_id: str, predictions: Sequence[Prediction]) -> pd.DataFrame:
    """One row for each item, with the columns of docs/records.md; nullable types, so that missing stays missing."""
    rows = [asdict(prediction) for prediction in predictions]
    frame = pd.DataFrame(rows, columns=list(Prediction.__dataclass_fields__))
    frame.insert(0, "run_id", run_id)
    floats = ["score", "score_normalized", "f1", "loss_nats"]
    integers = ["prompt_tokens", "scored_tokens", "text_bytes"]
    return frame.astype({**dict.fromkeys(floats, "Float64"), **dict.fromkeys(integers, "Int64")})


def _size_bytes(folder: Path) -> int | None:
    """Bytes of the adapter's weights; None where there is no adapter."""
    files = list(folder.glob("*.safetensors")) if folder.is_dir() else []
    return sum(file.stat().st_size for file in files) if files else None
