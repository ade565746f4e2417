"""One training run in our loop and in TRL's: the two sides of every row of train_speed.py.

Each is prepared outside the clock (model loaded, rows tokenised, adapters made) and returns for each arm the mean over
the run's steps of the loss in nats per token. Both see the same rows in the same batches, from the same start, with
AdamW, a cosine schedule without warm-up (the two count its steps differently) and gradients clipped at 1.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import torch
from peft import get_peft_model
from table import Timed
from torch import Tensor
from train_rows import Task, examples, load

from rankscope.data.training_batches import order
from rankscope.edges.freed_memory import keep_freed_memory
from rankscope.model.load import LoadedModel
from rankscope.model.methods.attach import NewAdapter, attach
from rankscope.model.methods.peft_modules import lora_config
from rankscope.records import Example
from rankscope.study.study import Arm, Budget, Optimizer
from rankscope.train.fit import FitSettings, fit

MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}

Losses = list[float]


class Nowhere:
    """Checkpoints that are not kept: no side of a benchmark writes any."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        return None

    def save(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        """The run is not resumed."""


def settings(task: Task, arm: Arm) -> FitSettings:
    assert not isinstance(arm.learning_rate, str)
    return FitSettings(
        learning_rate=arm.learning_rate,
        seed=task.seed,
        budget=Budget(epochs=1, batch_size=task.batch_size),
        optimizer=Optimizer(warmup_fraction=0.0),
        micro_batch_tokens=MICRO_BATCH_TOKENS[task.device],
        checkpoint_seconds=math.inf,
    )


def ours(task: Task, arms: Sequence[Arm]) -> Callable[[], Timed]:
    """Our loop, all arms packed on one loaded model; a single arm trains alone."""
    keep_freed_memory()
    loaded = load(task)
    rows = examples(task, loaded)
    return lambda: run_pack(task, arms, loaded, rows)


def in_turn(task: Task, arms: Sequence[Arm]) -> Callable[[], Timed]:
    """Our loop, one arm after another on one loaded model."""
    keep_freed_memory()
    loaded = load(task)
    rows = examples(task, loaded)

    def run_all() -> Timed:
        runs = [run_pack(task, [arm], loaded, rows) for arm in arms]
        return Timed(sum(run.seconds for run in runs), [loss for run in runs for loss in run.result])

    return run_all


def run_pack(task: Task, arms: Sequence[Arm], loaded: LoadedModel, rows: Sequence[Example]) -> Timed:
    with attach(loaded, *(NewAdapter(arm, task.seed) for arm in arms)) as pack:
        start = time.perf_counter()
        results = fit(pack, rows, [settings(task, arm) for arm in arms], checkpoints=Nowhere())
        if task.device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return Timed(seconds, [fmean(step.loss_nats_per_token for step in result.steps) for result in results])


def peer(task: Task, arms: Sequence[Arm], options: dict[str, Any]) -> Callable[[], Timed]:
    """TRL's SFTTrainer, one arm after another; `options` of its SFTConfig besides its defaults. Only its `train` is
    timed, not the making of trainers."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    loaded = load(task)
    rows = examples(task, loaded)
    batches = order(len(rows), task.batch_size, 1, task.seed)
    dataset = Dataset.from_list([_columns(rows[i]) for batch in batches for i in batch])

    def run_all() -> Timed:
        runs = [_run_trl(task, arm, loaded, dataset, options) for arm in arms]
        return Timed(sum(run.seconds for run in runs), [run.result for run in runs])

    return run_all


def _columns(row: Example) -> dict[str, list[int]]:
    mask = row.loss_mask or [False] * len(row.prompt_ids) + [True] * len(row.completion_ids)
    return {"input_ids": [*row.prompt_ids, *row.completion_ids], "completion_mask": [int(loss) for loss in mask]}


def _run_trl(task: Task, arm: Arm, loaded: LoadedModel, dataset: Any, options: dict[str, Any]) -> Timed:
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    model: Any = loaded.model
    if arm.method == "full":
        model.requires_grad_(True)
    else:
        torch.manual_seed(task.seed)
        model = get_peft_model(model, lora_config(arm, model))
    with tempfile.TemporaryDirectory() as folder:
        # Its own default cuts rows at 1,024 tokens.
        given = {
            "per_device_train_batch_size": task.batch_size, "completion_only_loss": True, "max_length": None, **options,
        }  # fmt: skip
        config = SFTConfig(
            output_dir=folder, num_train_epochs=1, learning_rate=arm.learning_rate, lr_scheduler_type="cosine",
            seed=task.seed, train_sampling_strategy="sequential", use_cpu=task.device == "cpu", report_to="none",
            save_strategy="no", disable_tqdm=True, **given,
        )  # fmt: skip
        trainer = SFTTrainer(model=model, args=config, train_dataset=dataset, processing_class=loaded.tokenizer)
        trainer.remove_callback(PrinterCallback)
        start = time.perf_counter()
        loss = trainer.train().training_loss
        seconds = time.perf_counter() - start
    if arm.method != "full":
        model.unload()
        loaded.model.requires_grad_(False)
    return Timed(seconds, float(loss))
