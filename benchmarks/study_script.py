"""The script that an engineer would write in place of `rankscope run`: the peer of study_speed.py.

    python benchmarks/study_script.py JOB.json

TRL's SFTTrainer with PEFT in a loop over seeds and arms, then lm-eval's `hf` over every suite, for the base and for
each arm; with `analysis` dense singular values of every change with torch. It imports nothing of rankscope. The rows
come tokenised and in the order in which ours sees them, which spares it that work. What each stage took and what was
found is written to the file that the job names.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import SFTConfig, SFTTrainer

STAGES: dict[str, float] = defaultdict(float)
TASKS = TaskManager(include_defaults=False)
"""One for all calls: without it each of them reads the thousands of tasks that lm-eval comes with, which takes 11 s."""


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        STAGES[name] += time.perf_counter() - began


def load(folder: str, dtype: torch.dtype) -> Any:
    with stage("loading"):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def train(job: dict[str, Any], arm: dict[str, Any], seed: int, out: Path) -> list[float]:
    """One arm with one seed, saved as PEFT or transformers saves it: the loss of each step, in nats a token."""
    on_gpu = job["device"] == "cuda"
    model = load(job["model"], torch.bfloat16 if on_gpu and arm["rank"] is not None else torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if arm["rank"] is not None:
        torch.manual_seed(seed)
        settings = LoraConfig(
            r=arm["rank"], lora_alpha=arm["alpha"], target_modules=arm["targets"], task_type="CAUSAL_LM"
        )
        model = get_peft_model(model, settings)
    steps = [job["rows"][place] for batch in job["order"][str(seed)] for place in batch]
    with stage("training"):
        config = SFTConfig(
            output_dir=str(out / "trainer"), num_train_epochs=1, learning_rate=arm["learning_rate"],
            lr_scheduler_type="cosine", per_device_train_batch_size=job["train_batch"],
            gradient_accumulation_steps=job["batch_size"] // job["train_batch"], logging_steps=1,
            completion_only_loss=True,
            max_length=None, gradient_checkpointing=False, bf16=on_gpu, seed=seed,
            train_sampling_strategy="sequential", use_cpu=not on_gpu, report_to="none", save_strategy="no",
            disable_tqdm=True,
        )  # fmt: skip
        trainer = SFTTrainer(
            model=model, args=config, train_dataset=Dataset.from_list(steps), processing_class=tokenizer
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    with stage("saving"):
        model.save_pretrained(out / "saved")
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def evaluate(job: dict[str, Any], arm: dict[str, Any] | None, saved: Path | None) -> dict[str, Any]:
    """Of each suite its items in their order: log-likelihoods of the choices, or the text that was written."""
    whole = arm is not None and arm["rank"] is None
    where = {"peft": str(saved)} if saved is not None and not whole else {}
    with stage("loading"):
        model = HFLM(
            pretrained=str(saved) if whole else job["model"], tokenizer=job["model"], device=job["device"],
            dtype="float32" if job["device"] == "cpu" else "bfloat16", batch_size=job["score_batch"], **where,
        )  # fmt: skip
    with stage("scoring"):
        found = simple_evaluate(
            model=model, tasks=[task(suite) for suite in job["suites"]], bootstrap_iters=0, log_samples=True,
            task_manager=TASKS,
        )  # fmt: skip
    items: dict[str, Any] = {}
    for name, samples in found["samples"].items():
        by_id = {sample["doc_id"]: sample["filtered_resps"] for sample in samples}
        items[name] = [
            [float(one[0]) for one in by_id[i]] if isinstance(by_id[i][0], (list, tuple)) else str(by_id[i][0])
            for i in sorted(by_id)
        ]
    return items


def task(suite: dict[str, Any]) -> dict[str, Any]:
    """A suite as a task of lm-eval, over a local file."""
    common = {
        "task": suite["name"], "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": suite["path"]}},
        "test_split": "test", "doc_to_text": "Question: {{question}}\nAnswer:", "metadata": {"version": 0},
    }  # fmt: skip
    if suite["choices"]:
        own = {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer_index}}",
               "metric_list": [{"metric": "acc"}]}  # fmt: skip
    else:
        kwargs = {"until": [suite["end"]], "do_sample": False, "max_gen_toks": suite["max_new_tokens"]}
        own = {"output_type": "generate_until", "doc_to_target": "{{answer}}", "generation_kwargs": kwargs,
               "metric_list": [{"metric": "exact_match"}]}  # fmt: skip
    return {**common, **own}


def spectra(job: dict[str, Any], arm: dict[str, Any], saved: Path) -> None:
    """Effective rank and intruder dimensions of every matrix, by dense decompositions."""
    base = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32).to(job["device"])
    before = {name: weight.detach().clone() for name, weight in base.named_parameters() if weight.ndim == 2}
    if arm["rank"] is None:
        tuned = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32).to(job["device"])
        after = dict(tuned.named_parameters())
    else:
        after = dict(PeftModel.from_pretrained(base, str(saved)).merge_and_unload().named_parameters())
    with torch.no_grad():
        for name, weight in before.items():
            if "embed" in name or "lm_head" in name:
                continue
            torch.linalg.svdvals(after[name] - weight)
            left, _, _ = torch.linalg.svd(after[name], full_matrices=False)
            reference, _, _ = torch.linalg.svd(weight, full_matrices=False)
            (left.T @ reference).abs().max(dim=1)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    disable_progress_bars()
    out = Path(job["out"])
    items, losses = {"base": evaluate(job, None, None)}, {}
    for seed in job["seeds"]:
        for arm in job["arms"]:
            name = f"{arm['label']}-{seed}"
            place = out / name
            losses[name] = train(job, arm, seed, place)
            items[name] = evaluate(job, arm, place / "saved")
            if job["analysis"]:
                with stage("spectra"):
                    spectra(job, arm, place / "saved")
    Path(job["found"]).write_text(json.dumps({"stages": STAGES, "items": items, "losses": losses}), encoding="utf-8")


if __name__ == "__main__":
    main()
