"""LoRA adapters that run together: their factors in one model, as they are started, put on and saved.

A packed adapter is one more copy of the batch's rows, not of the base: embeddings, attention and norms see the rows of
N adapters one after another, and every adapted linear layer adds to each one's rows its update (`packed_linear.py`). So
one forward and one backward pass serve N, and no number of one depends on another but through rounding.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from rankscope.model.attention.registration import FastPathCheck
from rankscope.model.methods.installed import Installed
from rankscope.model.methods.packed_linear import PackedLinear, Running
from rankscope.model.methods.peft_folder import PREFIX, Factors
from rankscope.model.sharding.shard import compute_like
from rankscope.model.weights.weight_delta import LowRank

_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"


def new_factors(made: Installed, model: PreTrainedModel) -> tuple[Factors, LoraConfig]:
    """Those of an adapter that PEFT just put on the model, so that the draw is PEFT's, and its settings."""
    assert made.peft is not None
    config = copy.deepcopy(made.peft.peft_config["default"])
    config.base_model_name_or_path = model.name_or_path or None
    config.inference_mode = True
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    held = {name: parameter.detach() for name, parameter in made.parameters.items()}
    names = [name.removeprefix(PREFIX).removesuffix(_A) for name in held if name.endswith(_A)]
    return {name: LowRank(held[PREFIX + name + _A], held[PREFIX + name + _B], scale) for name in names}, config


def put_factors_on(
    model: PreTrainedModel, factors: Sequence[Factors], *, grouped: bool | None = None
) -> tuple[Running, list[dict[str, nn.Parameter]]]:
    """Packed layers in the places of all modules that some adapter changes: which adapters run, and the parameters of
    each by PEFT's names, the B transposed.

    `grouped`: one kernel for the products of all adapters, else one product for each. Unless given, where several run
    on CUDA and the kernel is found to be right there.
    """
    like = compute_like(model)
    if grouped is None:
        grouped = like.is_cuda and len(factors) > 1 and grouped_kernel_holds(model)
    running = Running(arms=tuple(range(len(factors))), grouped=grouped)
    parameters: list[dict[str, nn.Parameter]] = [{} for _ in factors]
    for module in dict.fromkeys(name for own in factors for name in own):
        path, _, name = module.rpartition(".")
        moved = [None if (one := own.get(module)) is None else one.to(like.device, like.dtype) for own in factors]
        layer = PackedLinear(model.get_submodule(module), running, moved)
        for own, held in zip(parameters, layer.by_arm, strict=True):
            if held is not None:
                own[f"{PREFIX}{module}{_A}"], own[f"{PREFIX}{module}{_B}"] = held.down, held.up
        setattr(model.get_submodule(path), name, layer)
    return running, parameters


def save_packed(parameters: dict[str, nn.Parameter], config: LoraConfig | None, folder: Path) -> None:
    """The adapter as PEFT saves it. Raises ValueError for one that was not new: it is saved already."""
    if config is None:
        raise ValueError("only new adapters are saved")
    tensors = {
        name.replace(".default.", "."): (value.detach().T if name.endswith(_B) else value.detach()).cpu().contiguous()
        for name, value in parameters.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))


# ---- may this device group the products? -----------------------------------------------------------------------------

_ROUNDING_STEPS = 8
"""How many units in the last place of a result's size the two may differ by; a wrong group is off by all of it."""


_GROUPED = FastPathCheck(
    fast="packed adapters share one kernel", slow="packed adapters take one product each", slow_level=logging.WARNING
)


def grouped_kernel_holds(model: PreTrainedModel) -> bool:
    """Whether one kernel for all adapters gives what one product for each gives, on the model's device in its dtype.

    Compared once, forward and backward, for three adapters of unequal ranks beside one that does not change the layer.
    """
    like = compute_like(model)
    return _GROUPED.holds(model, partial(_compare_grouped, like.device, like.dtype), like.device, like.dtype)


def _compare_grouped(device: torch.device, dtype: torch.dtype) -> str:
    by_arm, by_kernel = (_small_step(device, dtype, grouped=grouped) for grouped in (False, True))
    error = max(float((a - b).norm() / a.norm()) for a, b in zip(by_arm, by_kernel, strict=True))
    return "" if error <= _ROUNDING_STEPS * torch.finfo(dtype).eps else f"the two differ by {error:.2g}"


def _small_step(device: torch.device, dtype: torch.dtype, *, grouped: bool) -> list[Tensor]:
    """The output of a small packed layer, and the gradients of its input and of all factors."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    inputs, outputs, ranks = 64, 96, (4, None, 16, 9)
    base = nn.Linear(inputs, outputs, bias=False, device=device, dtype=dtype).requires_grad_(False)
    base.weight.copy_(drawn(outputs, inputs) / 8)
    factors = [None if r is None else LowRank(drawn(r, inputs) / 8, drawn(outputs, r), 2.0 / r) for r in ranks]
    layer = PackedLinear(base, Running(tuple(range(len(ranks))), grouped), factors)
    x, gradient = drawn(len(ranks) * 24, inputs).requires_grad_(), drawn(len(ranks) * 24, outputs)
    own = [part for held in layer.by_arm if held is not None for part in (held.down, held.up)]
    y = layer(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *own], gradient)]
