"""The chosen arm as a config of another tool, ready to train the same thing there, with the rows that were trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from rankscope.edges.out_folder import check_out, out_folder
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import ArmVerdict, Plan, PlannedRun, TrainFacts
from rankscope.results.export_arm import chosen_run
from rankscope.results.tool_configs import tool_writers
from rankscope.results.tool_configs.trained_arm import TrainedArm
from rankscope.study.problems import InputProblems, Problem, did_you_mean, show
from rankscope.study.study import Study

WriteRows = Callable[[Path, Sequence[Path], bool], object]
"""Writes the rows of a token file, those to train on and those to validate on, each as lines or as a saved data set."""


def export_config(folder: StudyFolder, out: str | Path, *, arm: str | None, tool: str, write_rows: WriteRows) -> str:
    """Write the arm's config for `tool` and the rows that it names to `out`; a line that says what was written.

    `arm` None is the recommended one. Raises InputProblems where there is nothing to export, for a tool that is not
    known, and for a method that it cannot train.
    """
    writer = tool_writers().get(tool)
    if writer is None:
        expected = f"one of {', '.join(tool_writers())}{did_you_mean(tool, list(tool_writers()))}"
        raise InputProblems([Problem("export", "--config", show(tool), expected)])
    study, plan, _, row, run = chosen_run(folder, arm)
    check_out(out)
    if run.arm.method not in writer.methods:
        found = f"{row.label}, an arm of {run.arm.method}"
        raise InputProblems([Problem("--config", tool, found, f"an arm of {', '.join(writer.methods)}")])
    trained = _trained(study, row, run, plan.resolved.device)
    with out_folder(out) as target:
        target.mkdir()
        for name, text in writer.write(trained).items():
            (target / name).write_text(text, encoding="utf-8")
        if writer.rows:
            tokens = folder.tokens(_facts(plan, run).content_sha256)
            write_rows(tokens, [target / name for name in writer.rows], writer.rows_as_folder)
    return f"the config of {row.label} for {writer.title}"


def _trained(study: Study, row: ArmVerdict, run: PlannedRun, device: str) -> TrainedArm:
    model = next(spec for spec in study.models if spec.name == run.model)
    rate = row.learning_rate if row.learning_rate is not None else run.arm.learning_rate
    if not isinstance(rate, float | int):
        raise InputProblems([Problem("export", row.label, "no learning rate", "an arm that was trained")])
    base = model.id if Path(model.id).is_dir() else model.public_id
    if base == "bundled":  # a word that no other tool knows
        from rankscope.model.model_source import model_path

        base = model_path(model, Path())
    return TrainedArm(
        study=study, model=model, base=base, arm=run.arm, device=device,
        learning_rate=float(rate), dial=row.dial, seed=run.seed, dtype=run.dtype, steps=run.step_count,
        warmup_steps=math.ceil(run.step_count * study.optimizer.warmup_fraction),
        checkpointing=run.checkpointing,
    )  # fmt: skip


def _facts(plan: Plan, run: PlannedRun) -> TrainFacts:
    return next(facts for facts in plan.train_sets if (facts.model, facts.name) == (run.model, run.train_set))
