"""Looking inside against what one would write otherwise: seconds, peak memory, and the largest difference.

    python benchmarks/analyse_speed.py [--quick] [--device cpu|cuda] [--json FILE] [--only WORD]

Every side runs in a process of its own, on the same numbers, after a small warm-up; its peak memory is what the process
grew by. Peers: dense SVDs of torch, `peft.tuners.lora.intruders`, the formulas that Gradience publishes (eigenvalues of
B^T B A A^T), and an eager forward with output_attentions and output_hidden_states, then numpy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.intruders import reduce_intruder_dimension
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from rankscope.adapter_tools import audit
from rankscope.analyse.capture import SideModel, capture, probe_tokens
from rankscope.analyse.merged import merged_top
from rankscope.model.delta import FactoredDelta
from rankscope.model.svd_cache import SvdCache
from rankscope.records import Item


@dataclass(frozen=True)
class Work:
    """A row: what is done, whose way it is compared with, and its size."""

    name: str
    peer: str
    kind: str
    width: int = 0
    rank: int = 64
    layers: int = 0
    items: int = 0
    device: str = "cpu"


def works(quick: bool) -> list[Work]:
    """The rows of the full table, or the same rows at a size that takes seconds."""
    wide = 512 if quick else 4096
    found = [Work(f"singular values of a LoRA delta, {wide} x {wide}", "torch dense SVD of B A", "values", wide)]
    for width in (384, 512) if quick else (2048, 4096):
        for peer in ("peft.tuners.lora.intruders", "dense SVD of W"):
            found.append(Work(f"top-10 intruders, {width} x {width}, base SVD cached", peer, "intruders", width, 8))
    layers = 2 if quick else 32
    for peer in ("Gradience's formulas", "dense SVD, one of each shape times their number"):
        found.append(
            Work(f"audit of a 7B-shaped adapter, {layers} layers", peer, "audit", 512 if quick else 4096, 64, layers)
        )
    items = 20 if quick else 200
    eager = "eager forward with all maps and states, then numpy"
    for width, depth in ((128, 2), (128, 4)) if quick else ((256, 4), (256, 8), (512, 4), (512, 8)):
        name = f"capture of {items} probe items, width {width}, {depth} layers"
        found.append(Work(name, eager, "capture", width, 8, depth, items))
    return found


# ---- the same numbers for both sides --------------------------------------------------------------------------------


def factors(out: int, in_: int, rank: int, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """(lora_B, lora_A) with falling column sizes, as trained ones have."""
    dice = torch.Generator().manual_seed(seed)
    fall = torch.logspace(0, -2, rank)
    b, a = torch.randn(out, rank, generator=dice) * fall * 0.05, torch.randn(rank, in_, generator=dice) * 0.02
    return b.to(device), a.to(device)


def base_weight(width: int, device: str) -> Tensor:
    return (torch.randn(width, width, generator=torch.Generator().manual_seed(9)) * 0.02).to(device)


def shapes(width: int) -> dict[str, tuple[int, int]]:
    """Of one layer of a Llama-like model: at width 4096 those of a 7B model."""
    wide = width * 43 // 16
    square = dict.fromkeys(
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"), (width, width)
    )
    return {**square, "mlp.gate_proj": (wide, width), "mlp.up_proj": (wide, width), "mlp.down_proj": (width, wide)}


def write_adapter(work: Work, folder: Path) -> None:
    from safetensors.torch import save_file

    tensors = {}
    for layer in range(work.layers):
        for number, (name, (out, in_)) in enumerate(shapes(work.width).items()):
            b, a = factors(out, in_, work.rank, 7 * layer + number, "cpu")
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"] = a, b
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": work.rank, "lora_alpha": 2 * work.rank, "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def make_llama(work: Work, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000, hidden_size=work.width, intermediate_size=3 * work.width, num_hidden_layers=work.layers,
        num_attention_heads=work.width // 32, num_key_value_heads=work.width // 32, initializer_range=0.05,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    if seed:
        dice = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter += 0.01 * torch.randn(parameter.shape, generator=dice)
    return model.to(work.device)  # type: ignore[arg-type]


def probe_items(work: Work) -> list[Item]:
    dice = torch.Generator().manual_seed(1)
    sizes = torch.randint(40, 160, (work.items,), generator=dice).tolist()
    return [
        Item(f"i{i}", "open", tuple(torch.randint(3, 2000, (n,), generator=dice).tolist())) for i, n in enumerate(sizes)
    ]


# ---- one side of a row: a preparation that is not timed, and the work -----------------------------------------------

Numbers = list[float]
Side = Callable[[], Numbers]


def prepare_values(work: Work, ours: bool, _: Path) -> Side:
    b, a = factors(work.width, work.width, work.rank, 0, work.device)
    if ours:
        return lambda: FactoredDelta(b, a, 2.0).singular_values().tolist()
    return lambda: torch.linalg.svdvals(2.0 * b @ a)[: work.rank].tolist()


def prepare_intruders(work: Work, ours: bool, folder: Path) -> Side:
    """Numbers: of each of the ten largest singular vectors, its largest |cosine| with W0's; PEFT only counts."""
    weight = base_weight(work.width, work.device)
    b, a = factors(work.width, work.width, work.rank, 0, work.device)
    b = 40 * b
    counting = work.peer.startswith("peft")
    cache = SvdCache(folder)
    if ours:
        cache.svd(weight, "benchmark")

        def count() -> Numbers:
            cosines = merged_top(cache.svd(weight, "benchmark"), FactoredDelta(b, a, 2.0), 10).cosines.abs().amax(0)
            return [float((cosines < 0.5).sum())] if counting else cosines.tolist()

        return count
    if counting:
        return lambda: [float(_peft_count(weight, b, a))]
    left = torch.linalg.svd(weight, full_matrices=False)[0]

    def dense() -> Numbers:
        u = torch.linalg.svd(weight + 2.0 * b @ a, full_matrices=False)[0]
        return (left.T @ u[:, :10]).abs().amax(0).tolist()

    return dense


def _peft_count(weight: Tensor, b: Tensor, a: Tensor) -> int:
    layer = nn.Sequential()
    layer.add_module("linear", nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device))
    peft: PeftModel = get_peft_model(
        layer, LoraConfig(r=a.shape[0], lora_alpha=2 * a.shape[0], target_modules=["linear"])
    )
    lines: list[str] = []
    with torch.no_grad():
        module: Any = peft.base_model.model.linear
        module.base_layer.weight.copy_(weight)
        module.lora_A["default"].weight.copy_(a)
        module.lora_B["default"].weight.copy_(b)
        reduce_intruder_dimension(peft, logging_sink=lines.append)
    found = next((line for line in lines if "Intruders:" in line), "Intruders: 0")
    return int(found.rsplit(" ", 1)[1])


def prepare_audit(work: Work, ours: bool, folder: Path) -> Side:
    """Numbers: the stable ranks of all matrices in the file's order (dense: of three of the first layer's)."""
    write_adapter(work, folder)
    dense = work.peer.startswith("dense")
    if ours:
        found: Side = lambda: [m["stable_rank"] for m in audit(folder)["modules"]]  # noqa: E731
        return found
    return (lambda: _dense_audit(work)) if dense else (lambda: _gram_audit(folder))


def _gram_audit(folder: Path) -> Numbers:
    from safetensors.torch import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    found = []
    for key in [k for k in tensors if k.endswith("lora_A.weight")]:
        a, b = tensors[key].double(), tensors[key.replace("lora_A", "lora_B")].double()
        values, vectors = torch.linalg.eigh(b.T @ b)
        root = vectors * values.clamp(min=0).sqrt()
        energy = 4 * torch.linalg.eigvalsh(root.T @ (a @ a.T) @ root).clamp(min=0).flip(0)
        shares = energy.sqrt() / energy.sqrt().sum()
        torch.special.entr(shares).sum().exp(), [(energy.cumsum(0) < s * energy.sum()).sum() for s in (0.9, 0.95, 0.99)]
        found.append(float(energy.sum() / energy[0]))
    return found


def _dense_audit(work: Work) -> Numbers:
    """One matrix of each shape; `timed` multiplies by how many there are."""
    found = []
    for number, (out, in_) in enumerate(shapes(work.width).values()):
        if number in (0, 4, 6):
            b, a = factors(out, in_, work.rank, number, "cpu")
            values = torch.linalg.svdvals(2.0 * b @ a).double()
            found.append(float(values.square().sum() / values[0] ** 2))
    return found


def prepare_capture(work: Work, ours: bool, _: Path) -> Side:
    """Numbers: by layer CKA, cosine drift and mean divergence."""
    base, arm, items = make_llama(work, 0), make_llama(work, 1), probe_items(work)
    if not ours:
        for model in (base, arm):
            model.set_attn_implementation("eager")
        return lambda: _eager(base, arm, items)

    def captured() -> Numbers:
        sides = SideModel(base, nullcontext), SideModel(arm, nullcontext)
        rows = capture(*sides, {"s": items}, token_budget=2048)
        found = [value for row in rows["hidden"][:-1] for value in (row["cka"], row["cosine_drift"])]
        maps = rows["attention"]
        return found + [float(np.mean([r["divergence"] for r in maps if r["layer"] == n])) for n in range(work.layers)]

    return captured


def _eager(base: LlamaForCausalLM, arm: LlamaForCausalLM, items: list[Item]) -> Numbers:
    """Batches of 8 items padded on the right; states, maps and units of all layers kept, then numpy."""
    rows = sorted((probe_tokens(item) for item in items), key=len)
    kept: dict[int, list[tuple[Any, ...]]] = {0: [], 1: []}
    for start in range(0, len(rows), 8):
        taken = rows[start : start + 8]
        longest = max(map(len, taken))
        ids = torch.tensor([[*row, *([0] * (longest - len(row)))] for row in taken], device=base.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in taken], device=base.device)
        for side, model in enumerate((base, arm)):
            units: list[Tensor] = []
            hooks = [
                block.mlp.down_proj.register_forward_pre_hook(lambda _, given, u=units: u.append(given[0]))
                for block in model.model.layers
            ]
            with torch.no_grad():
                out = model.model(
                    input_ids=ids,
                    attention_mask=mask,
                    output_attentions=True,
                    output_hidden_states=True,
                    use_cache=False,
                )
            for hook in hooks:
                hook.remove()
            real = mask.bool()
            kept[side].append(
                (
                    [h[real].cpu().numpy() for h in out.hidden_states[1:]],
                    [m.cpu().numpy() for m in out.attentions],
                    [u[real].cpu().numpy() for u in units],
                    mask.cpu().numpy(),
                )
            )
    return _numpy_measures(kept)


def _numpy_measures(kept: dict[int, list[tuple[Any, ...]]]) -> Numbers:
    found: Numbers = []
    layers = len(kept[0][0][0])
    for layer in range(layers):
        x, y = (np.concatenate([batch[0][layer] for batch in kept[side]]).astype(np.float64) for side in (0, 1))
        cosine = 1 - float(np.mean((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)))
        found += [_cka(x - x.mean(0), y - y.mean(0)), cosine] if layer < layers - 1 else []
        x, y = x - x.mean(0), y - y.mean(0)
        np.linalg.svd(x.T @ y, compute_uv=False), np.linalg.eigvalsh(x.T @ x), np.linalg.eigvalsh(y.T @ y)
        for side in (0, 1):
            units = np.concatenate([batch[2][layer] for batch in kept[side]])
            units.mean(0), units.std(0), (units > 0).mean(0)
    return found + [_divergence(kept, layer) for layer in range(layers)]


def _cka(x: Any, y: Any) -> float:
    """Unbiased linear CKA from (D, D) products: the (n, n) Gram matrices of all tokens would not fit."""

    def hsic(a: Any, b: Any) -> float:
        n, na, nb = len(a), (a * a).sum(1), (b * b).sum(1)
        product, sa, sb = a.T @ b, a.sum(0), b.sum(0)
        trace = (product**2).sum() - na @ nb
        totals = (sa @ sa - na.sum()) * (sb @ sb - nb.sum()) / ((n - 1) * (n - 2))
        rows = (a @ sa - na) @ (b @ sb - nb)
        return float((trace + totals - 2 * rows / (n - 2)) / (n * (n - 3)))

    return hsic(x, y) / float(np.sqrt(hsic(x, x) * hsic(y, y)))


def _divergence(kept: dict[int, list[tuple[Any, ...]]], layer: int) -> float:
    total, count = 0.0, 0
    for (_, p_maps, _, mask), (_, q_maps, _, _) in zip(kept[0], kept[1], strict=True):
        p, q = p_maps[layer], q_maps[layer]
        real = mask.astype(bool).copy()
        real[:, 0] = False

        def entropy(maps: Any) -> Any:
            return -(maps * np.log(np.maximum(maps, 1e-30))).sum(-1)

        distance = np.arange(p.shape[-1])
        (p * np.abs(distance[:, None] - distance)).sum(-1), (q * np.abs(distance[:, None] - distance)).sum(-1)
        by_query = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
        total += float(by_query.mean(1)[real].sum())
        count += int(real.sum())
    return total / count


PREPARE: dict[str, Callable[[Work, bool, Path], Side]] = {
    "values": prepare_values,
    "intruders": prepare_intruders,
    "audit": prepare_audit,
    "capture": prepare_capture,
}


# ---- measuring ------------------------------------------------------------------------------------------------------


def memory_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def timed(work: Work, ours: bool, pipe: Any) -> None:
    """In a process of its own: (numbers, seconds, bytes that the peak grew by)."""
    with tempfile.TemporaryDirectory() as folder:
        if work.kind != "capture":  # libraries loaded, kernels chosen
            small = replace(work, width=64, rank=min(work.rank, 8), layers=min(work.layers, 1))
            with tempfile.TemporaryDirectory() as other:
                PREPARE[work.kind](small, ours, Path(other))()
        side = PREPARE[work.kind](work, ours, Path(folder))
        before = memory_bytes(work.device)
        seconds = []
        for _ in range(3 if ours else 1):
            start = time.perf_counter()
            numbers = side()
            seconds.append(time.perf_counter() - start)
        grown = memory_bytes(work.device) - before
    scale = 1.0
    if work.kind == "audit" and not ours and work.peer.startswith("dense"):
        scale = len(shapes(work.width)) * work.layers / len(numbers)
    pipe.send((numbers, scale * min(seconds), grown))


def in_own_process(work: Work, ours: bool) -> tuple[Numbers, float, int]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=timed, args=(work, ours, sender))
    process.start()
    sender.close()
    try:
        result: tuple[Numbers, float, int] = receiver.recv()
    except EOFError as error:
        raise RuntimeError(f"{work.name}: a side ended without a result") from error
    finally:
        process.join()
    return result


def difference(work: Work, mine: Numbers, theirs: Numbers) -> float:
    """Relative for singular values and stable ranks, absolute for cosines, counts and measures between 0 and 2."""
    if work.kind == "audit" and work.peer.startswith("dense"):
        names = sorted(shapes(work.width))  # the file's order
        mine = [mine[names.index(list(shapes(work.width))[number])] for number in (0, 4, 6)]
    if work.kind in ("values", "audit"):
        return max(abs(m / t - 1) for m, t in zip(mine, theirs, strict=True))
    return max(abs(m - t) for m, t in zip(mine, theirs, strict=True))


def measure(work: Work) -> dict[str, Any]:
    row: dict[str, Any] = {"work": f"{work.name} ({work.device}, fp32, r={work.rank})", "peer": work.peer}
    names = ("ours_seconds", "peer_seconds", "ratio", "ours_peak_bytes", "peer_peak_bytes", "max_difference")
    row |= dict.fromkeys(names) | {"machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    if work.device == "cuda" and not torch.cuda.is_available():
        return row | {"reason": "not measured: no CUDA device"}
    if work.device == "cuda" and work.kind == "audit":
        return row | {"reason": "not measured: an audit runs on the CPU"}
    mine, our_seconds, our_peak = in_own_process(work, True)
    theirs, seconds, peak = in_own_process(work, False)
    return row | {
        "ours_seconds": our_seconds,
        "peer_seconds": seconds,
        "ratio": seconds / our_seconds,
        "ours_peak_bytes": our_peak,
        "peer_peak_bytes": peak,
        "max_difference": difference(work, mine, theirs),
    }


def rows_of(quick: bool, device: str, only: str) -> Iterator[dict[str, Any]]:
    for work in works(quick):
        if only in work.name or only in work.peer:
            yield measure(replace(work, device=device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small matrices and models")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="", help="rows with this in their name")
    arguments = parser.parse_args()
    rows = []
    for row in rows_of(arguments.quick, arguments.device, arguments.only):
        rows.append(row)
        if row["ratio"] is None:
            print(f"{row['work']}: {row['reason']}", flush=True)
            continue
        memory = f"{row['ours_peak_bytes'] / 2**20:.0f} / {row['peer_peak_bytes'] / 2**20:.0f} MiB"
        times = f"{row['ours_seconds']:.4g} s, {row['peer_seconds']:.4g} s, {row['ratio']:.1f}x"
        print(f"{row['work']} | {row['peer']}: {times}, {memory}, difference {row['max_difference']:.2g}", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
