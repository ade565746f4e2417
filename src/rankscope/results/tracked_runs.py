"""A run of a study folder as trackers take it: its settings, the points of its curves, and what it came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rankscope.edges.study_folder import StudyFolder
from rankscope.edges.trackers import Point, TrackedRun
from rankscope.records import PlannedRun, RunStatus, VerdictFile

ENDED = ("done", "diverged", "failed")
_MEASURED = (
    "trainable_parameters", "final_train_loss", "validation_loss", "train_seconds", "evaluate_seconds",
    "peak_memory_bytes", "adapter_bytes",
)  # fmt: skip
_CURVES = (
    "loss_nats_per_token", "learning_rate", "gradient_norm", "validation_loss_nats_per_token",
    "replay_loss_nats_per_token", "kl_nats_per_token",
)  # fmt: skip


def tracked_run(folder: StudyFolder, run: PlannedRun, status: RunStatus) -> TrackedRun:
    """A run with its settings; where it has ended also what it cost and its share correct on every suite."""
    record = folder.read_run(run.run_id)
    settings = run.arm.model_dump(exclude_none=True) | {
        "seed": run.seed,
        "model": run.model,
        "train_set": run.train_set,
    }
    params: dict[str, Any] = {key: v for key, v in settings.items() if v not in ("", None) and key != "given"}
    if record is not None:
        if run.arm.given is None:
            params["learning_rate"] = record.learning_rate
        params |= {f"{g}.{key}": v for g, values in record.settings.items() for key, v in values.items()}
    metrics: dict[str, float] = {}
    if status.state in ENDED:
        metrics = {name: float(value) for name in _MEASURED if (value := getattr(status, name)) is not None}
        metrics |= accuracies(folder, run.run_id)
    commit = record.provenance.commit if record is not None else None
    tags = {"rankscope.commit": commit} if commit else {}
    tags |= {"rankscope.state": status.state} if status.state in ENDED else {}
    tags |= {"rankscope.reason": status.reason} if status.reason else {}
    name = f"{run.arm.label} on {run.train_set}, seed {run.seed}"
    return TrackedRun(run.run_id, name, status.state, params, metrics, tags)


def points(steps: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Lines of train.jsonl as points; what a step has not is left out."""
    return [Point(step["step"], {name: step[name] for name in _CURVES if step.get(name) is not None}) for step in steps]


def accuracies(folder: StudyFolder, run_id: str) -> dict[str, float]:
    """`accuracy.SUITE`: the mean score of each suite's items; a suite of plain text has none."""
    frame = folder.read_predictions(run_id)
    if frame is None:
        return {}
    means = frame.groupby("suite")["score"].mean().dropna()
    return {f"accuracy.{suite}": float(value) for suite, value in means.items()}


def verdict_texts(verdicts: VerdictFile) -> dict[str, str]:
    """Each verdict in words."""
    return {f"verdict {v.name}": " ".join(f"{a.headline}. {a.sentence}" for a in v.answers) for v in verdicts.verdicts}
