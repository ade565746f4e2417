"""One arm's trainable state: compute weights, fp32 masters, AdamW, schedule, clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rankscope.config.study import Optimizer
from rankscope.train.schedule import rate_factor, warmup_steps


class Trainee:
    """What an optimizer step needs. AdamW changes fp32 masters; weights in fp32 are their own.

    Without masters an update smaller than a bf16 weight's last bit would be lost (arXiv 1710.03740, section 3.1).
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], learning_rate: float, optimizer: Optimizer, step_count: int
    ) -> None:
        self.learning_rate = learning_rate
        self.step_count = step_count
        self._settings = optimizer
        self._warmup = warmup_steps(step_count, optimizer.warmup_fraction)
        self._names = list(parameters)
        self._weights = list(parameters.values())
        self._masters = [
            w if w.dtype == torch.float32 else nn.Parameter(w.detach().to(torch.float32)) for w in self._weights
        ]
        self._has_masters = any(m is not w for m, w in zip(self._masters, self._weights, strict=True))
        self._adamw = torch.optim.AdamW(
            self._masters,
            lr=learning_rate,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )

    def rate_at(self, step: int) -> float:
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

    def step(self, step: int) -> float:
        """One update at the schedule's rate; the gradient norm before clipping. If not finite, nothing changes."""
        norm = nn.utils.clip_grad_norm_(self._masters, self._settings.clip_norm, foreach=True).item()
        if math.isfinite(norm):
            self._adamw.param_groups[0]["lr"] = self.rate_at(step)
            self._adamw.step()
            if self._has_masters:
                torch._foreach_copy_([w.data for w in self._weights], [m.data for m in self._masters])
        self._adamw.zero_grad(set_to_none=True)
        return norm

    def state_tensors(self) -> dict[str, Tensor]:
        """Masters and AdamW's moments by name: all that a bit-for-bit continuation needs."""
        tensors: dict[str, Tensor] = {}
        for name, master in zip(self._names, self._masters, strict=True):
            tensors[f"master/{name}"] = master.detach()
            for key, value in self._adamw.state.get(master, {}).items():
                tensors[f"{key}/{name}"] = value.detach()
        return tensors

    @torch.no_grad()
    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The reverse of `state_tensors`. Raises KeyError where a weight is missing."""
        for name, master, weight in zip(self._names, self._masters, self._weights, strict=True):
            master.copy_(tensors[f"master/{name}"])
            if weight is not master:
                weight.copy_(master)
            if f"step/{name}" in tensors:
                self._adamw.state[master] = {
                    "step": tensors[f"step/{name}"].clone().to(master.device),
                    "exp_avg": tensors[f"exp_avg/{name}"].clone().to(master.device),
                    "exp_avg_sq": tensors[f"exp_avg_sq/{name}"].clone().to(master.device),
                }
