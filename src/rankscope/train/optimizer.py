"""The optimizers by name, the schedule of their rate, and one arm's trainable state under an optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from rankscope.study.study import Optimizer as OptimizerSettings
from rankscope.study.study import OptimizerName, Schedule


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
    """How named fp32 weights follow their gradients."""

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


OPTIMIZERS: dict[OptimizerName, type[AdamW]] = {"adamw": AdamW, "adamw_8bit": AdamW8bit}
"""By the name that a study gives."""


class Trainee:
    """One arm's trainable state: weights in the compute dtype, their fp32 masters, an optimizer, schedule and clipping.

    The optimizer changes the masters; weights in fp32 are their own. Without masters an update smaller than a bf16
    weight's last bit would be lost (arXiv 1710.03740, section 3.1).

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
        self._masters = [
            w if w.dtype == torch.float32 else nn.Parameter(w.detach().to(torch.float32)) for w in self._weights
        ]
        self._has_masters = any(m is not w for m, w in zip(self._masters, self._weights, strict=True))
        named = dict(zip(self._names, self._masters, strict=True))
        self._optimizer: Optimizer = OPTIMIZERS[settings.name](named, settings)
        self._l2_weight = l2_weight
        self._start = [m.detach().clone() for m in self._masters] if l2_weight else []

    def rate_at(self, step: int) -> float:
        """The learning rate of `step`, from 0."""
        factor = rate_factor(step, self.step_count, warmup=self._warmup, schedule=self._settings.schedule)
        return self.learning_rate * factor

    def take_gradients(self) -> None:
        """Add the weights' gradients of one micro-batch to the masters', in fp32."""
        if not self._has_masters:
            return
        for weight, master in zip(self._weights, self._masters, strict=True):
            if master is weight or weight.grad is None:
                continue
            if master.grad is None:
                master.grad = weight.grad.to(torch.float32)
            else:
                master.grad.add_(weight.grad)
            weight.grad = None

    def drop_gradients(self) -> None:
        """Forget the gradients so far, those of a micro-batch that was not finished too."""
        for tensor in (*self._weights, *self._masters):
            tensor.grad = None

    def step(self, step: int) -> float:
        """One update at the schedule's rate; the gradient norm before clipping. If not finite, nothing changes."""
        self._pull_to_start()
        norm = nn.utils.clip_grad_norm_(self._masters, self._settings.clip_norm, foreach=True).item()
        if math.isfinite(norm):
            self._optimizer.step(self.rate_at(step))
            if self._has_masters:
                torch._foreach_copy_([w.data for w in self._weights], [m.data for m in self._masters])
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
