"""States that two processes keep together and load again: a function for `gloo_team`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from rankscope.edges.bystander import Bystander
from rankscope.edges.storages import Storage, open_storage
from rankscope.jobs.gang_checkpoints import GangCheckpoints
from rankscope.model.sharding.shard import whole_tensor
from rankscope.model.sharding.team import ProcessTeam


def states(folder: Path) -> dict[str, Any]:
    """What is loaded before there is a state, after two, and after the newest was damaged, with what is said."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("rankscope").addHandler(handler)
    team, mesh = ProcessTeam(), init_device_mesh("cpu", (dist.get_world_size(),))
    storage: Storage = open_storage(folder / "study")
    mine = storage if team.rank == 0 else Bystander(storage)
    places = GangCheckpoints(mine, "runs/a/checkpoint", team, mesh, dist.new_group(backend="gloo"))
    found: dict[str, Any] = {"none": places.load()}
    for step in (1.0, 2.0):
        shared = distribute_tensor(torch.full((5, 3), step), mesh, [Shard(0)])
        places.save({"shared": shared, "whole": torch.full((2,), step)}, {"step": str(step)})
        places.wait()
    found["newest"] = _numbers(places)
    dist.barrier()
    if team.rank == 0:
        part = next((folder / "study/runs/a/checkpoint.gang").glob("*.safetensors"))
        content = bytearray(part.read_bytes())
        content[-1] ^= 1
        part.write_bytes(content)
    dist.barrier()
    found["one before"] = _numbers(places)
    return {**found, "said": said}


def _numbers(places: GangCheckpoints) -> tuple[list[list[float]], list[float], str, bool]:
    held = places.load()
    assert held is not None
    tensors, metadata = held
    shared, whole = tensors["shared"], tensors["whole"]
    return whole_tensor(shared).tolist(), whole.tolist(), metadata["step"], isinstance(shared, DTensor)
