"""One arm's trainable state: compute weights, fp32 masters, AdamW, schedule, clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rankscope.study.study import Optimizer, Schedule


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
        self._adamw = _make_adamw(self._masters, learning_rate, optimizer)

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

    def drop_gradients(self) -> None:
        """Forget the gradients so far, those of a micro-batch that was not finished too."""
        for tensor in (*self._weights, *self._masters):
            tensor.grad = None

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
        """Masters and the optimizer's state by name: all that a bit-for-bit continuation needs."""
        tensors: dict[str, Tensor] = {}
        for name, master in zip(self._names, self._masters, strict=True):
            tensors[f"master/{name}"] = master.detach()
            for key, value in self._adamw.state.get(master, {}).items():
                tensors[f"{key}/{name}"] = value.detach() if isinstance(value, Tensor) else torch.tensor(value)
        return tensors

    @torch.no_grad()
    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The reverse of `state_tensors`. Raises KeyError where a weight is missing."""
        states: dict[str, dict[str, Tensor]] = {name: {} for name in self._names}
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            states.setdefault(name, {})[kind] = tensor
        for name, master, weight in zip(self._names, self._masters, self._weights, strict=True):
            master.copy_(states[name].pop("master"))
            if weight is not master:
                weight.copy_(master)
            if states[name]:
                self._adamw.state[master] = {
                    kind: self._as_held(kind, tensor, master.device) for kind, tensor in states[name].items()
                }

    def _as_held(self, kind: str, tensor: Tensor, device: torch.device) -> Tensor | int:
        """bitsandbytes counts steps in a plain number, torch in a tensor."""
        if kind == "step" and self._settings.name == "adamw_8bit":
            return int(tensor)
        return tensor.clone().to(device)


def _make_adamw(masters: list[nn.Parameter], learning_rate: float, settings: Optimizer) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101), its moments in fp32 or in blocks of 8 bits (arXiv 2110.02861, through bitsandbytes)."""
    given = {"lr": learning_rate, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": settings.weight_decay}
    if settings.name == "adamw":
        return torch.optim.AdamW(masters, fused=True, **given)  # type: ignore[arg-type]
    from bitsandbytes.optim import AdamW8bit

    optimizer: torch.optim.Optimizer = AdamW8bit(masters, **given)
    return optimizer
