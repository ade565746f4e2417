"""Tiny models loaded in parts by a team of processes, or whole by each, and arms for them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh

from rankscope.model.load import LoadedModel, load_model, load_skeleton
from rankscope.model.methods.attach import method_modules
from rankscope.model.sharding.load_sharded import ShardedLoad, load_sharded
from rankscope.study.study import Arm, ModelSpec

FULL = Arm(label="full", method="full", learning_rate=1e-3)
FROZEN = Arm(label="frozen", method="full-frozen-embeddings", learning_rate=1e-3)


def lora(rank: int, method: Any = "lora", **given: Any) -> Arm:
    return Arm(
        label=f"{method}-{rank}", method=method, rank=rank, alpha=2.0 * rank, targets="all-linear",
        learning_rate=5e-3, **given,
    )  # fmt: skip


def load(folder: Path, arm: Arm, *, sharded: bool, dtype: Any = "float32", offload: bool = False) -> LoadedModel:
    """A fresh base, whole or in parts, whose weights may be trained where the arm does so."""
    spec = ModelSpec(id=str(folder))
    read = partial(load_model, spec, Path("/"), dtype, "cpu")
    if not sharded:
        return read()
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    how = ShardedLoad(mesh, offload=offload)
    if arm.traits.whole:
        how = ShardedLoad(mesh, lambda model: method_modules()[arm.method].put_on(model, arm), offload=offload)
    return load_sharded(read, partial(load_skeleton, spec, Path("/"), dtype), how)
