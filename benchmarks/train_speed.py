"""Training against TRL's SFTTrainer on the same batches, and against its own matrix products: seconds and peak memory.

    python benchmarks/train_speed.py [--quick] [--device cpu|cuda] [--json FILE] [--only WORD]

The peer runs as its authors set it up ("defaults": bf16 autocast and gradient checkpointing), and as one would set it
up for a small model on a CPU (fp32, no checkpointing), which is the harder peer where bf16 is slow. Its losses are
those of completions, as ours are. `largest difference` is that of an arm's mean loss over the run, in nats per token;
"fp32" rows should agree to rounding. Rows come from ../shared/data beside the checkout, else from the bundled world.

With --device cuda the models have random weights, and only torch, transformers, peft, pydantic, psutil, PyYAML and trl
(with datasets) are needed, with this source tree on the path.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from floor_train import products
from sides_train import in_turn, ours, peer
from table import NotMeasured, Row, Table, compare, measure, parser_of
from train_rows import Task, available_rows, full, lora

RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
DEFAULTS: dict[str, Any] = {}
PLAIN: dict[str, Any] = {"bf16": False, "gradient_checkpointing": False}
LORA_RATE, FULL_RATE = 1e-3, 3e-4


def losses_apart(mine: list[float], theirs: list[float]) -> float:
    """Of each arm's mean loss over the run; nats per token."""
    return max(abs(a - b) for a, b in zip(mine, theirs, strict=True))


def against_trl(name: str, task: Task, arms: list[Any], options: dict[str, Any], said: str, repeats: int = 3) -> Row:
    if importlib.util.find_spec("trl") is None:
        return Row(name, f"TRL, {said}", reason="not measured: trl is not installed")
    # Packed rows are other batches than ours, so their losses are not ours either.
    difference = None if options.get("packing") else losses_apart
    sides = partial(ours, task, arms), partial(peer, task, arms, options)
    return compare(name, f"TRL, {said}", task.device, *sides, difference, repeats=repeats)


# ---- one run on a CPU -----------------------------------------------------------------------------------------------


def solo_rows(file: str, steps: int, quick: bool) -> Iterator[Row]:
    """One LoRA run, one full one, each against the peer and against its own products."""
    rows = available_rows(file)
    if rows != file:
        print(f"No {file} in ../shared/data: the bundled world's facts instead.", flush=True)
    task = Task(rows=rows, step_count=2 if quick else steps, batch_size=2 if quick else 16)
    for arm in (lora(16, LORA_RATE), full(FULL_RATE)):
        name = f"{arm.label}, {task.step_count} x {task.batch_size} rows of {rows.split('/')[0]}, fp32"
        yield against_trl(name, task, [arm], PLAIN, "fp32, no checkpointing")
        yield against_floor(name, task, [arm])
    if not quick:
        arm = lora(16, LORA_RATE)
        task = replace(task, step_count=2, batch_size=2)  # bf16 takes minutes where a CPU has no instructions for it
        name = f"{arm.label}, {task.step_count} x {task.batch_size} rows of {rows.split('/')[0]}, fp32"
        yield against_trl(name, task, [arm], DEFAULTS, "its defaults (bf16)", repeats=1)


def against_floor(name: str, task: Task, arms: list[Any]) -> Row:
    sides = partial(ours, task, arms), partial(products, task, arms)
    return compare(name, "its matrix products alone", task.device, *sides)


# ---- a sweep --------------------------------------------------------------------------------------------------------


def sweep_rows(quick: bool) -> Iterator[Row]:
    """Eight ranks, a seed, on the bundled world's facts."""
    task = Task(rows="facts", step_count=2 if quick else 6, batch_size=4 if quick else 32)
    arms = [lora(rank, LORA_RATE) for rank in RANKS]
    name, said = f"ranks 1 to 128, {task.step_count} x {task.batch_size} facts, fp32", "fp32, no checkpointing, in turn"
    trl = partial(peer, task, arms, PLAIN)
    for how, side in (("packed", ours), ("in turn", in_turn)):
        if importlib.util.find_spec("trl") is None:
            yield Row(f"{name}, {how}", f"TRL, {said}", reason="not measured: trl is not installed")
        else:
            yield compare(f"{name}, {how}", f"TRL, {said}", "cpu", partial(side, task, arms), trl, losses_apart)
    if not quick:
        task = replace(task, step_count=1, batch_size=8)
        name = f"ranks 1 to 128, {task.step_count} x {task.batch_size} facts, fp32, packed"
        yield against_trl(name, task, arms, DEFAULTS, "its defaults (bf16), in turn", repeats=1)


def accelerator_rows(quick: bool, device: str) -> Iterator[Row]:
    """The sweep at two model shapes in bf16; on the CPU, for --quick, the same code at a tiny one in fp32."""
    models = ("Qwen2.5-0.5B",) if quick and device == "cuda" else ("Qwen2.5-0.5B", "Llama-3.2-1B")
    for model in models:
        name = f"ranks 1 to 128, {model}-shaped, 8 x ~200 tokens, bf16"
        if device != "cuda" and not quick:
            yield Row(f"{name} (CUDA)", "TRL, bf16, packing", reason="not measured: no CUDA device asked for")
            continue
        if device == "cuda":
            task = Task("random", 10, 8, model, "bfloat16", "cuda")
        else:
            name = f"ranks 1 to 128, Llama of 2 x 64 in place of {model}, 2 x ~50 tokens, fp32"
            task = Task("random", 2, 2, "Llama of 2 x 64", mean_tokens=50)
        yield from _accelerator_rows(name, task, repeats=1 if quick else 3)


def _accelerator_rows(name: str, task: Task, repeats: int) -> Iterator[Row]:
    arms = [lora(rank, LORA_RATE) for rank in RANKS]
    tokens = task.batch_size * task.mean_tokens
    packing = {
        "packing": True, "max_length": tokens, "per_device_train_batch_size": 1, "bf16": task.dtype == "bfloat16",
    }  # fmt: skip
    yield against_trl(name, task, arms, packing, "bf16, packing", repeats)
    cost, memory = f"one more rank of {name}", f"8 packed arms: {name}"
    try:
        all_seconds, all_peak, _ = measure(partial(ours, task, arms), task.device)
        one_seconds, one_peak, _ = measure(partial(ours, task, [lora(16, LORA_RATE)]), task.device)
    except NotMeasured as reason:
        yield Row(cost, "a solo run", reason=f"not measured: {reason}")
        return
    more = (all_seconds - one_seconds) / (len(arms) - 1)
    yield Row(cost, "a solo run", more, one_seconds, one_seconds / more)
    yield Row(memory, "8 solo runs at once", ours_peak_bytes=all_peak, peer_peak_bytes=len(arms) * one_peak)


# ---- how the cost grows ---------------------------------------------------------------------------------------------


def growth_rows(quick: bool, device: str) -> Iterator[Row]:
    """Over the number of arms, the length of rows, and the size of the model."""
    dtype = "bfloat16" if device == "cuda" else "float32"
    options = {"bf16": device == "cuda", "gradient_checkpointing": False}
    said = f"{'bf16' if device == 'cuda' else 'fp32'}, no checkpointing"
    start = Task("random", 2 if quick else 4, 4, "Llama of 2 x 64" if quick else "Llama of 4 x 192", dtype, device, 64)
    for count in (1, 2) if quick else (1, 2, 4, 8, 16):
        arms = [lora(RANKS[i % len(RANKS)], LORA_RATE) for i in range(count)]
        yield against_trl(f"{count} arms, 4 rows of ~64 tokens", start, arms, options, said)
    arm = [lora(16, LORA_RATE)]
    for length in (64, 128) if quick else (64, 128, 256, 512, 1024):
        yield against_trl(f"rows of ~{length} tokens", replace(start, mean_tokens=length), arm, options, said)
    for model in ("Llama of 2 x 64",) if quick else ("Llama of 4 x 192", "Llama of 4 x 384", "Llama of 8 x 768"):
        task = replace(start, model=model, mean_tokens=128)
        yield against_trl(f"{model}, 4 rows of ~128 tokens", task, arm, options, said)


def rows_of(arguments: argparse.Namespace) -> Iterator[tuple[str, Iterator[Row]]]:
    quick, device = arguments.quick, arguments.device
    if device == "cpu":
        yield "solo gsm8k", solo_rows("gsm8k/train.jsonl", 4, quick)
        yield "solo pubmedqa", solo_rows("pubmedqa/train.jsonl", 2, quick)
        yield "sweep", sweep_rows(quick)
    yield "cuda", accelerator_rows(quick, device)
    yield "growth", growth_rows(quick, device)


def main() -> None:
    parser = parser_of(__doc__, quick="two steps of tiny batches and models")
    arguments = parser.parse_args()
    table = Table(arguments)
    for part, rows in rows_of(arguments):
        if arguments.only in part:
            for row in rows:
                table.add(row)


if __name__ == "__main__":
    main()
