"""A model whose weights lie in parts on several devices (torch's FSDP2), for code that runs decoder and head apart.

Every block is a group of weights that is gathered while it runs; embeddings, last norm and head are the root's group.
FSDP gathers the root's when the model's own forward is called. Here decoder and head are called one by one, so
`in_forward` calls what is to be differentiated as if it were the model's forward, and inside `gathered` the root's
weights are whole, for scoring and for comparisons. For a model that is not sharded both do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from rankscope.model.decoder_parts import blocks
from rankscope.model.sharding.team import SOLO, ProcessTeam, Team

_T = TypeVar("_T")

_DTYPE = "sharded_compute_dtype"
_CALL = "call_as_forward"
"""The method of a sharded model that FSDP treats as its forward."""


def compute_device(model: PreTrainedModel) -> torch.device:
    """Where the model runs, which for weights that lie in the host's memory is not where these are."""
    if is_sharded(model):
        weight = cast(DTensor, next(model.parameters()))
        return torch.device(weight.device_mesh.device_type) if isinstance(weight, DTensor) else weight.device
    return model.device


def compute_dtype(model: PreTrainedModel) -> torch.dtype:
    """The dtype that a sharded model computes in and is saved in, which its masters may be above."""
    dtype: torch.dtype = getattr(model, _DTYPE)
    return dtype


def compute_like(model: PreTrainedModel) -> Tensor:
    """An empty tensor of the device and dtype that the model's embeddings have where the model runs."""
    weight = next(model.get_input_embeddings().parameters())
    return torch.empty(0, dtype=weight.dtype, device=compute_device(model))


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was called on this model."""
    return hasattr(model, _CALL)


def team_of(model: nn.Module) -> Team:
    """The processes that hold the model together: all of torch's process group, or this one alone."""
    return ProcessTeam() if is_sharded(model) else SOLO


def in_forward(model: PreTrainedModel, work: Callable[[], _T]) -> _T:
    """What `work` gives, with the root's weights whole inside and their gradients reduced after its backward pass."""
    return cast(_T, getattr(model, _CALL)(work)) if is_sharded(model) else work()


@contextmanager
def gathered(model: PreTrainedModel) -> Iterator[None]:
    """Inside, without gradients, the root's weights are whole on every process, and a block's while it runs.

    May be nested.
    """
    if not is_sharded(model) or not isinstance(next(_root_parameters(model)), DTensor):
        yield
        return
    with torch.no_grad():
        getattr(model, _CALL)(lambda: None)  # FSDP leaves the root's weights whole after its forward
    try:
        yield
    finally:
        cast(FSDPModule, model).reshard()


def _root_parameters(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    yield from model.get_input_embeddings().parameters()


def shard(model: PreTrainedModel, mesh: DeviceMesh, dtype: torch.dtype, *, offload: bool = False) -> PreTrainedModel:
    """Share out the weights of every block and of the root over the mesh, each tensor by its first dimension.

    Weights that are trained may be in fp32 (masters) under a `dtype` in half precision: they are gathered, and the
    model runs, in that, and gradients are reduced in fp32. Gradients of all processes are added, never
    averaged: the loss is divided by the weight of the whole batch. `offload`: what is not gathered lies in the host's
    memory, gradients and what an optimizer keeps too.
    """
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    offloaded = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if offload else OffloadPolicy()
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy, offload_policy=offloaded)
    fully_shard(model, mesh=mesh, mp_policy=policy, offload_policy=offloaded, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # neither setting is passed on to the modules inside
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    setattr(model, _DTYPE, dtype)
    setattr(model, _CALL, lambda work: work())
    register_fsdp_forward_method(model, _CALL)
    return model


def settle(model: PreTrainedModel) -> None:
    """Let FSDP make up its mind which module is the root, once all weights are filled: before any block runs alone."""
    with gathered(model):
        pass


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor gathered from all processes, which must all call this; one that is not sharded as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, on its own storage; all of one that is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def set_whole(tensor: Tensor, value: Tensor) -> None:
    """Write `value` into a tensor; of one that is sharded each process takes its part of what the first one gives."""
    if not isinstance(tensor, DTensor):
        tensor.copy_(value)
        return
    whole = value.to(torch.device(tensor.device_mesh.device_type), tensor.dtype)
    tensor.to_local().copy_(distribute_tensor(whole, tensor.device_mesh, tensor.placements).to_local())


def whole_state(model: PreTrainedModel, dtype: torch.dtype, *, keep: bool) -> dict[str, Tensor]:
    """The model's weights by name in `dtype` on the CPU, one gathered after another; none where they are not kept.

    All processes must call this. A tied weight stands under each of its names, as one tensor.
    """
    found: dict[int, Tensor] = {}
    named: dict[str, Any] = dict(model.named_parameters(remove_duplicate=False))
    for parameter in named.values():
        if id(parameter) not in found:
            whole = whole_tensor(parameter.detach())
            found[id(parameter)] = whole.to(dtype).cpu() if keep else torch.empty(0)
    return {name: found[id(parameter)] for name, parameter in named.items()} if keep else {}
