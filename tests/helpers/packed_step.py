"""One step of arms in a pack, and of the same arms alone in PEFT's own layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from one_adapter import adapt, open_pack
from own_forward import fresh, rows
from torch import Tensor

from rankscope.model.attention.unpadded_rows import training_forward
from rankscope.model.load import LoadedModel
from rankscope.records import Example
from rankscope.study.study import Arm
from rankscope.train.objective import SupervisedFineTuning

ALL = "all-linear"


def lora(rank: int, method: Any = "lora", targets: Any = ALL, **given: Any) -> Arm:
    return Arm(
        label=f"{method}-{rank}-{targets}", method=method, rank=rank, alpha=2.0 * rank, targets=targets,
        learning_rate=1e-3, **given,
    )  # fmt: skip


def double(folder: Path) -> LoadedModel:
    """The base in float64, on the path that was decided in fp32: transformers' own masks overflow where it pads."""
    base = fresh(folder)
    assert training_forward(base.model).unpadded
    if hasattr(base.model.config, "num_experts_per_tok"):
        base.model.set_experts_implementation("eager")  # torch's grouped product has no float64
    base.model.double()
    return base


def shaken(parameters: dict[str, torch.nn.Parameter], seed: int, *, transposed: bool) -> None:
    """An adapter that changes something, the same in PEFT's layout and in a pack's, which has B transposed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in sorted(parameters):
            weight = parameters[name].T if transposed and "lora_B" in name else parameters[name]
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator).to(weight.dtype))


def as_peft_has_it(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.T if "lora_B" in name else value for name, value in tensors.items()}


def alone(base: LoadedModel, arm: Arm, seed: int, examples: list[Example]) -> tuple[float, dict[str, Tensor]]:
    """Summed loss and its gradients with PEFT's layers and the model's own forward, row by row."""
    with adapt(base, arm, 0) as adapted:
        shaken(adapted.parameters, seed, transposed=False)
        loss = torch.zeros((), dtype=torch.float64)
        for example in examples:
            start = len(example.prompt_ids)
            whole = torch.tensor(example.prompt_ids + example.completion_ids)
            logits = adapted.model(input_ids=whole[None]).logits[0, start - 1 : -1].float()
            loss = loss + torch.nn.functional.cross_entropy(logits, whole[start:], reduction="sum")
        found = torch.autograd.grad(loss, list(adapted.parameters.values()))
        return loss.item(), dict(zip(adapted.parameters, found, strict=True))


def packed(
    base: LoadedModel, arms: Sequence[Arm], parts: Sequence[list[Example]], run: Sequence[int] | None = None,
    **how: Any,
) -> list[tuple[float, dict[str, Tensor]]]:  # fmt: skip
    """The same of every arm that runs, summed over micro-batches `parts`."""
    with open_pack(base, arms, 0, **how) as pack:
        ran = list(range(len(arms)) if run is None else run)
        for i, member in enumerate(pack.members):
            shaken(member.parameters, i, transposed=True)
        total = torch.zeros(len(ran), dtype=torch.float64)
        with pack.training_forward().ready(), pack.running(ran):
            for part in parts:
                losses = SupervisedFineTuning().summed_losses(pack.training_forward(), part, len(ran))
                losses.sum().backward()
                total += losses.detach()
        gradients = []
        for arm in ran:
            own = pack.members[arm].parameters
            assert all(weight.grad is not None for weight in own.values())
            gradients.append(as_peft_has_it({name: weight.grad for name, weight in own.items()}))  # type: ignore[misc]
        idle = set(range(len(arms))) - set(ran)
        assert all(weight.grad is None for i in idle for weight in pack.members[i].parameters.values())
        return list(zip(total.tolist(), gradients, strict=True))


def assert_same(
    found: tuple[float, dict[str, Tensor]], expected: tuple[float, dict[str, Tensor]], tolerance: float
) -> None:
    """Gradients of the mean loss per token within `tolerance`."""
    count = sum(row.target_count for row in rows())
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found[1].keys() == expected[1].keys()
    assert max(gradient.abs().max().item() for gradient in expected[1].values()) / count > 1e-3
    for name, gradient in expected[1].items():
        error = (found[1][name] - gradient).abs().max().item() / count
        assert error <= tolerance, f"{name}: {error}"
