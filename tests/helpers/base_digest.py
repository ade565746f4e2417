"""A hash of all that a model is, so that two moments of it can be compared bit for bit."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel


def digest(model: PreTrainedModel) -> dict[str, str]:
    """By name a hash of each parameter and buffer (data, dtype, shape, place, whether it wants a gradient), of each
    module (class, children, attributes, hooks, mode) and of each configuration."""
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        found[f"module {name}"] = _hash([type(module).__qualname__, *_attributes(module)])
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in tensors:
        data = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        facts = (tensor.dtype, tuple(tensor.shape), tensor.requires_grad, tensor.data_ptr(), tensor.grad is None)
        found[f"tensor {name}"] = _hash([repr(facts), hashlib.sha256(data).hexdigest()])
    found["tied"] = repr(sorted(name for name, _ in model.named_parameters()))
    return found


def _attributes(module: torch.nn.Module) -> list[str]:
    """Every attribute with what it holds: other modules and tensors by identity, configurations by value."""
    return [f"{name}={_shown(value)}" for name, value in sorted(vars(module).items())]


def _shown(value: Any) -> str:
    if isinstance(value, PretrainedConfig | GenerationConfig):
        return repr(sorted((key, _shown(part)) for key, part in vars(value).items()))
    if isinstance(value, dict):
        return repr([(key, _shown(part)) for key, part in value.items()])
    if isinstance(value, list | tuple | set):
        return repr(sorted(_shown(part) for part in value))
    if isinstance(value, torch.Tensor | torch.nn.Module):
        return f"{type(value).__name__} {id(value)}"
    return repr(value)


def _hash(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
