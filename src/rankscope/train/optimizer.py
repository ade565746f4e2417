"""The optimizers by name, the schedule of their rate, and one arm's trainable state under an optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rankscope.data.training_batches import split_micro
from rankscope.model.sharding.shard import own_part, whole_tensor
from rankscope.study.study import Optimizer as OptimizerSettings
from rankscope.study.study import OptimizerName, Schedule
from rankscope.train.adamw_bf16 import AdamWBf16

_GROUP_ELEMENTS = 1 << 26
"""Gradients that are turned into fp32 together: a quarter of a gigabyte."""


def warmup_steps(step_count: int, warmup_fraction: float) -> int:
    """Steps of warm-up: the fraction of all steps, rounded up."""
    return math.ceil(step_count * warmup_fraction)


def rate_factor(step: int, step_count: int, *, warmup: int, schedule: Schedule) -> float:
    """Factor on the peak rate at `step` (from 0). The first step of a warm-up has 1/warmup of the peak, never zero.

    Cosine: (1 + cos(pi p)) / 2 over the share p of the steps after the warm-up (arXiv 1608.03983, eq. 5, one cycle).
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, step_count - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * progress)) if schedule == "cosine" else 1.0 - progress


class Optimizer(Protocol):
    """How named weights follow their gradients: fp32 masters, or weights in bf16 where it needs no masters."""

    def step(self, rate: float) -> None:
        """One update of the weights that have a gradient, at this learning rate. The gradients stay."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that a bit-for-bit continuation needs beside the weights, by `KIND/NAME OF THE WEIGHT`."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The reverse of `state`; nothing for a weight that had no update yet."""
        ...


class AdamW:
    """AdamW (arXiv 1711.05101), both moments of every weight in fp32."""

    needs_masters = True
    """Whether weights in half precision are changed through copies in fp32."""

    def __init__(self, weights: Mapping[str, nn.Parameter], settings: OptimizerSettings) -> None:
        self._weights = dict(weights)
        self._torch = self._make(list(weights.values()), settings)

    def _make(self, weights: list[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            weights, lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=settings.weight_decay, fused=True
        )

    def step(self, rate: float) -> None:
        """As `Optimizer.step`."""
        self._torch.param_groups[0]["lr"] = rate
        self._torch.step()

    def state(self) -> dict[str, Tensor]:
        """Moments and the count of updates, of every weight: `exp_avg/NAME`, `exp_avg_sq/NAME`, `step/NAME`."""
        return {
            f"{kind}/{name}": value.detach() if isinstance(value, Tensor) else torch.tensor(value)
            for name, weight in self._weights.items()
            for kind, value in self._torch.state.get(weight, {}).items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """As `Optimizer.load`."""
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            weight = self._weights[name]
            self._torch.state[weight][kind] = self._held(kind, tensor, weight.device)

    def _held(self, kind: str, tensor: Tensor, device: torch.device) -> Tensor | int:
        return tensor.clone().to(device)


class AdamW8bit(AdamW):
    """AdamW with its moments in blocks of 8 bits (arXiv 2110.02861), through bitsandbytes; on CUDA only."""

    def _make(self, weights: list[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
        from bitsandbytes.optim import AdamW8bit as Made

        made: torch.optim.Optimizer = Made(
            weights, lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=settings.weight_decay
        )
        return made

    def _held(self, kind: str, tensor: Tensor, device: torch.device) -> Tensor | int:
        """bitsandbytes counts updates in a plain number, torch in a tensor."""
        return int(tensor) if kind == "step" else tensor.clone().to(device)


OPTIMIZERS: dict[OptimizerName, type[AdamW] | type[AdamWBf16]] = {
    "adamw": AdamW, "adamw_8bit": AdamW8bit, "adamw_bf16": AdamWBf16,
}  # fmt: skip
"""By the name that a study gives."""


class Trainee:
    """One arm's trainable state: weights in the compute dtype, their fp32 masters, an optimizer, schedule and clipping.

    The optimizer changes the masters; weights in fp32 are their own. Without masters an update smaller than a bf16
    weight's last bit would be lost (arXiv 1710.03740, section 3.1), but for an optimizer that rounds stochastically:
    there weights are their own masters, and gradients add up in their dtype.

    `l2_weight` times half the squared distance to the weights as they are now is part of what is minimised (L2-SP,
    arXiv 1802.01483, eq. 2): its gradient joins the loss's before clipping. These weights are kept in fp32.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        learning_rate: float,
        settings: OptimizerSettings,
        step_count: int,
        l2_weight: float = 0.0,
    ) -> None:
        self.learning_rate = learning_rate
        self.step_count = step_count
        self._settings = settings
        self._warmup = warmup_steps(step_count, settings.warmup_fraction)
        self._names = list(parameters)
        self._weights = list(parameters.values())
        made = OPTIMIZERS[settings.name]
        self._masters = [
            w if w.dtype == torch.float32 or not made.needs_masters else nn.Parameter(w.detach().to(torch.float32))
            for w in self._weights
        ]
        self._has_masters = any(m is not w for m, w in zip(self._masters, self._weights, strict=True))
        named = dict(zip(self._names, self._masters, strict=True))
        self._optimizer: Optimizer = made(named, settings)
        self._l2_weight = l2_weight
        self._start = [m.detach().clone() for m in self._masters] if l2_weight else []

    def rate_at(self, step: int) -> float:
        """The learning rate of `step`, from 0."""
        factor = rate_factor(step, self.step_count, warmup=self._warmup, schedule=self._settings.schedule)
        return self.learning_rate * factor

    def taken_gradients(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Weights that have a gradient and masters of their own, which are to get it."""
        if not self._has_masters:
            return []
        pairs = zip(self._weights, self._masters, strict=True)
        return [(weight, master) for weight, master in pairs if master is not weight and weight.grad is not None]

    def whole_gradients(self) -> list[Tensor]:
        """The gradients that every process of a team holds whole, and that are to be added up over it: not those of
        sharded weights, which their backward pass added up."""
        held = [master.grad for master in self._masters]
        return [gradient for gradient in held if gradient is not None and not isinstance(gradient, DTensor)]

    def drop_gradients(self) -> None:
        """Forget the gradients so far, those of a micro-batch that was not finished too."""
        for tensor in (*self._weights, *self._masters):
            tensor.grad = None

    def step(self, step: int) -> float:
        """One update at the schedule's rate; the gradient norm before clipping. If not finite, nothing changes."""
        self._pull_to_start()
        clipped = nn.utils.clip_grad_norm_(self._masters, self._settings.clip_norm, foreach=True)
        norm = whole_tensor(clipped).item()
        if math.isfinite(norm):
            self._optimizer.step(self.rate_at(step))
            if self._has_masters:
                torch._foreach_copy_(
                    [own_part(w.data) for w in self._weights], [own_part(m.data) for m in self._masters]
                )
        for master in self._masters:
            master.grad = None
        return norm

    @torch.no_grad()
    def _pull_to_start(self) -> None:
        for master, start in zip(self._masters, self._start):  # noqa: B905  (no start is kept without a weight)
            if master.grad is None:
                master.grad = torch.zeros_like(master)
            master.grad.add_(master - start, alpha=self._l2_weight)

    def state_tensors(self) -> dict[str, Tensor]:
        """Masters and the optimizer's state by name: all that a bit-for-bit continuation needs."""
        masters = {f"master/{n}": m.detach() for n, m in zip(self._names, self._masters, strict=True)}
        return masters | self._optimizer.state()

    @torch.no_grad()
    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The reverse of `state_tensors`. Raises KeyError where a weight is missing."""
        for name, master, weight in zip(self._names, self._masters, self._weights, strict=True):
            master.copy_(tensors[f"master/{name}"])
            if weight is not master:
                weight.copy_(master)
        self._optimizer.load({key: value for key, value in tensors.items() if not key.startswith("master/")})


@torch.no_grad()
def take_gradients(trainees: Sequence[Trainee]) -> None:
    """Add the weights' gradients of one micro-batch to their masters', in fp32.

    The tensors of all arms go through a few kernels together, instead of one each: an adapter of 8B has hundreds.
    Whatever the grouping, every number is that of `master.grad += weight.grad`.
    """
    pairs = [pair for trainee in trainees for pair in trainee.taken_gradients()]
    for group in split_micro(range(len(pairs)), [weight.numel() for weight, _ in pairs], _GROUP_ELEMENTS):
        of_group = [pairs[place] for place in group]
        made = [torch.empty_like(_gradient(weight), dtype=torch.float32) for weight, _ in of_group]
        # torch adds tensors together only where all are of one dtype; it copies them from one to another in one go.
        torch._foreach_copy_([own_part(new) for new in made], [own_part(_gradient(weight)) for weight, _ in of_group])
        held = [(_gradient(m), new) for (_, m), new in zip(of_group, made, strict=True) if m.grad is not None]
        if held:
            torch._foreach_add_([own_part(total) for total, _ in held], [own_part(new) for _, new in held])
        for (weight, master), new in zip(of_group, made, strict=True):
            weight.grad = None
            if master.grad is None:
                master.grad = new


def _gradient(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None
    return weight.grad
