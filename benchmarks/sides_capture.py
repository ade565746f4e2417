"""The sides of analyse_speed.py that look into running models: ours, and what one would write with transformers.

The peer calls both models as one does, with `output_attentions` and `output_hidden_states` (logits come along), takes
the units of the MLPs from a hook, keeps everything, and then computes in numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from rankscope.analyse.capture import SideModel, capture, probe_tokens
from rankscope.analyse.kept_base import KeptBase
from rankscope.edges.freed_memory import keep_freed_memory
from rankscope.records import Item

Numbers = list[float]
Work = Callable[[], Numbers]

TOKEN_BUDGET = 2048
PEER_BATCH = 8
VOCABULARY = 8192


@dataclass(frozen=True)
class Size:
    """A model and its probe items, whose lengths in tokens are drawn between `shortest` and `longest`."""

    width: int
    layers: int
    items: int
    shortest: int = 40
    longest: int = 160
    device: str = "cpu"


def make_llama(size: Size, seed: int) -> LlamaForCausalLM:
    """The base for seed 0, else the base with every matrix moved a little."""
    torch.manual_seed(0)
    heads = size.width // 32
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=size.width, intermediate_size=3 * size.width,
        num_hidden_layers=size.layers, num_attention_heads=heads, num_key_value_heads=heads, initializer_range=0.05,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    if seed:
        dice = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter += 0.01 * torch.randn(parameter.shape, generator=dice)
    return model.to(size.device)  # type: ignore[arg-type]


def probe_items(size: Size) -> list[Item]:
    dice = torch.Generator().manual_seed(1)
    lengths = torch.randint(size.shortest, size.longest, (size.items,), generator=dice).tolist()
    tokens = [tuple(torch.randint(3, VOCABULARY, (n,), generator=dice).tolist()) for n in lengths]
    return [Item(f"i{i}", "open", row) for i, row in enumerate(tokens)]


def our_capture(size: Size) -> Work:
    """By layer CKA and cosine drift (the last layer's states differ: transformers gives them after the final norm),
    then by layer the mean divergence and the mean change of the units."""
    return _captured(size, None)


def kept_capture(size: Size) -> Work:
    """The same of an arm that is not the first: what the base leaves of the items is kept."""
    work = _captured(size, KeptBase())
    work()
    return work


def _captured(size: Size, kept: KeptBase | None) -> Work:
    keep_freed_memory()
    base, arm, items = make_llama(size, 0), make_llama(size, 1), probe_items(size)
    sides = SideModel(base, nullcontext), SideModel(arm, nullcontext)

    def captured() -> Numbers:
        rows = capture(*sides, {"s": items}, token_budget=TOKEN_BUDGET, kept=kept)
        found = [value for row in rows["hidden"][:-1] for value in (row["cka"], row["cosine_drift"])]
        maps = rows["attention"]
        found += [float(np.mean([r["divergence"] for r in maps if r["layer"] == n])) for n in range(size.layers)]
        return found + [row["mean_change"] for row in rows["neurons"]]

    return captured


# ---- the peer -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """What a batch left: by layer states (n, D), maps (B, H, T, T), units (n, F); which tokens are real (B, T)."""

    states: list[Any]
    maps: list[Any]
    units: list[Any]
    real: Any


def eager_capture(size: Size) -> Work:
    """The same numbers from everything that an eager forward gives."""
    models, items = (make_llama(size, 0), make_llama(size, 1)), probe_items(size)
    for model in models:
        model.set_attn_implementation("eager")
    rows = sorted((probe_tokens(item) for item in items), key=len)

    def measured() -> Numbers:
        batches = [rows[start : start + PEER_BATCH] for start in range(0, len(rows), PEER_BATCH)]
        base, arm = ([_everything(model, batch) for batch in batches] for model in models)
        return _hidden(base, arm) + [_divergence(base, arm, n) for n in range(size.layers)] + _units(base, arm)

    return measured


def _everything(model: LlamaForCausalLM, rows: list[tuple[int, ...]]) -> Batch:
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *([0] * (longest - len(row)))] for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=model.device)
    units: list[Tensor] = []
    hooks = [
        block.mlp.down_proj.register_forward_pre_hook(lambda _, given: units.append(given[0]))
        for block in model.model.layers
    ]
    with torch.no_grad():
        out = model(ids, attention_mask=mask, output_attentions=True, output_hidden_states=True, use_cache=False)
    for hook in hooks:
        hook.remove()
    real = mask.bool()
    return Batch(
        [h[real].cpu().numpy() for h in out.hidden_states[1:]],
        [m.cpu().numpy() for m in out.attentions],
        [u[real].cpu().numpy() for u in units],
        real.cpu().numpy(),
    )


def _hidden(base: list[Batch], arm: list[Batch]) -> Numbers:
    """CKA and cosine drift; the Procrustes residual and effective ranks are computed and not compared."""
    found: Numbers = []
    layers = len(base[0].states)
    for layer in range(layers):
        x, y = (np.concatenate([batch.states[layer] for batch in side]).astype(np.float64) for side in (base, arm))
        cosine = 1 - float(np.mean((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)))
        x, y = x - x.mean(0), y - y.mean(0)
        found += [_cka(x, y), cosine] if layer < layers - 1 else []
        np.linalg.svd(x.T @ y, compute_uv=False), np.linalg.eigvalsh(x.T @ x), np.linalg.eigvalsh(y.T @ y)
    return found


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


def _units(base: list[Batch], arm: list[Batch]) -> Numbers:
    """By layer the mean over units of the change of their mean activation, in standard deviations of the base."""
    found = []
    for layer in range(len(base[0].units)):
        x, y = (np.concatenate([batch.units[layer] for batch in side]) for side in (base, arm))
        found.append(float(np.mean(np.abs(y.mean(0) - x.mean(0)) / x.std(0))))
        (x > 0).mean(0), (y > 0).mean(0)
    return found


def _divergence(base: list[Batch], arm: list[Batch], layer: int) -> float:
    """Mean over queries but each item's first, and over heads; distances are computed and not compared."""
    total, count = 0.0, 0

    def entropy(maps: Any) -> Any:
        return -(maps * np.log(np.maximum(maps, 1e-30))).sum(-1)

    for one, other in zip(base, arm, strict=True):
        p, q = one.maps[layer], other.maps[layer]
        real = one.real.copy()
        real[:, 0] = False
        distance = np.abs(np.arange(p.shape[-1])[:, None] - np.arange(p.shape[-1])).astype(p.dtype)
        (p * distance).sum(-1), (q * distance).sum(-1)
        by_query = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
        total += float(by_query.mean(1)[real].sum())
        count += int(real.sum())
    return total / count
