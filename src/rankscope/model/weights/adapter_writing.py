"""Writes a LoRA adapter with other factors in the place of its own, in PEFT's format."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from rankscope.model.weights.adapter_file import CONFIG, WEIGHTS, Adapter
from rankscope.model.weights.weight_delta import LowRank


def write_adapter(adapter: Adapter, deltas: Mapping[str, LowRank], folder: Path) -> None:
    """The adapter with `deltas` by module, other tensors, settings and tokenizer as they were, into a folder that is
    there and empty. Links are not followed: one may lead anywhere."""
    tensors = {key: tensor.contiguous() for key, tensor in adapter.rest.items()}
    for module, delta in deltas.items():
        key_a, key_b = adapter.keys(module)
        lora_a, lora_b = (delta.b.T, delta.a.T) if module in adapter.embeddings else (delta.a, delta.b)
        tensors[key_a], tensors[key_b] = lora_a.contiguous(), lora_b.contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.dumps(config_of(adapter, deltas), indent=2, sort_keys=True)
    (folder / CONFIG).write_text(config, encoding="utf-8")
    copy_tokenizer(adapter.folder, folder)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """A tokenizer that was saved along, without links."""
    for file in tokenizer_files(source):
        if not file.is_symlink():
            shutil.copyfile(file, folder / file.name)


def tokenizer_files(folder: Path) -> list[Path]:
    """Files of a tokenizer that was saved along, and links to such."""
    return sorted(file for file in folder.glob("*token*") if file.is_file())


def config_of(adapter: Adapter, deltas: Mapping[str, LowRank]) -> dict[str, Any]:
    """The settings with `r` the most frequent rank and the others by module; alpha such that every scale stays."""
    config = dict(adapter.config)
    ranks = {module: delta.rank for module, delta in deltas.items()}
    common = Counter(ranks.values()).most_common(1)[0][0]
    alphas = {module: _alpha(config, delta.scale, delta.rank) for module, delta in deltas.items()}
    usual = Counter(alphas[m] for m in ranks if ranks[m] == common).most_common(1)[0][0]
    config |= {"r": common, "lora_alpha": usual}
    config["rank_pattern"] = {m: r for m, r in ranks.items() if r != common}
    config["alpha_pattern"] = {m: a for m, a in alphas.items() if a != usual}
    return config


def _alpha(config: dict[str, Any], scale: float, rank: int) -> float | int:
    alpha = scale * (rank**0.5 if config.get("use_rslora") else rank)
    return round(alpha) if abs(alpha - round(alpha)) < 1e-9 else alpha
