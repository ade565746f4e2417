"""Loads a model in parts: the first process reads it, every process gets its share, and none but the first holds all.

Weights are read into the host's memory of one process and sent a tensor at a time, so that a model of 70 billion
parameters never lies whole on a device, nor once for each process in the host's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from rankscope.model.load import LoadedModel
from rankscope.model.sharding.shard import settle, shard


@dataclass(frozen=True)
class ShardedLoad:
    """How a model is shared out. `mark` says which of its weights are trained (`requires_grad`); `masters`: these are
    held in fp32, whatever the model computes in; `offload` as of `shard`."""

    mesh: DeviceMesh
    mark: Callable[[PreTrainedModel], object] = lambda model: None
    masters: bool = True
    offload: bool = False


def load_sharded(read: Callable[[], LoadedModel], like: Callable[[], LoadedModel], how: ShardedLoad) -> LoadedModel:
    """The model that `read` loads on the CPU, in parts on all processes, in eval mode and frozen but for what `how`
    marks. Only the first process calls `read`; the others call `like`, whose weights may be on the meta device.

    Raises LookupError for a model whose blocks are not found.
    """
    first = torch.distributed.get_rank() == 0
    loaded = read() if first else like()
    model = loaded.model
    dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    source = {name: parameter.detach() for name, parameter in model.named_parameters()} if first else {}
    device = torch.device(how.mesh.device_type)
    empty = _on_meta(model)
    how.mark(empty)
    if how.masters:
        for parameter in empty.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    shard(empty, how.mesh, dtype, offload=how.offload)
    _materialise(empty, torch.device("cpu") if how.offload else device, device)
    with torch.no_grad():
        for name, parameter in empty.named_parameters():
            _fill(parameter, source.pop(name, None), device, dtype)
    settle(empty)
    return LoadedModel(model=empty, tokenizer=loaded.tokenizer)


def _on_meta(model: PreTrainedModel) -> PreTrainedModel:
    """The same modules with parameters of the meta device, tied ones still tied; buffers stay."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    made[id(parameter)] = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
    return model


def _materialise(model: PreTrainedModel, device: torch.device, buffers: torch.device) -> None:
    """Room for this process's parts; buffers keep their values."""
    held = {name: buffer.to(buffers) for name, buffer in model.named_buffers()}
    model.to_empty(device=device)
    for name, buffer in held.items():
        path, _, own = name.rpartition(".")
        model.get_submodule(path)._buffers[own] = buffer


def _fill(parameter: nn.Parameter, value: Tensor | None, device: torch.device, dtype: torch.dtype) -> None:
    """Send the first process's `value` to all, each its part. In the dtype that it is read in: half of the bytes."""
    assert isinstance(parameter, DTensor)
    whole = torch.empty(parameter.shape, dtype=dtype, device=device) if value is None else value.to(device, dtype)
    parts = distribute_tensor(whole, parameter.device_mesh, parameter.placements)
    parameter.to_local().copy_(parts.to_local())
