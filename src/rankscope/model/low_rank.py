"""One linear layer under the LoRA factors of several arms at once: y = x W^T + scale (x A^T) B^T, arm by arm.

Shapes: N arms that run, M rows of each; R_i rank of arm i. Rows of `x` (N M, in) stand arm after arm. `down` (sum R,
in) holds the A of all arms one after another, `up` (sum R, out) their B transposed, so that every arm's factors are
whole rows of both. Ranks are padded to multiples of 8 with zeros, which stay zero: a grouped product wants its strides
in multiples of 16 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

RANK_MULTIPLE = 8


@dataclass(frozen=True)
class Slot:
    """Rows of `down` and `up` that are an arm's: `start` to `start` + `rank`; its update has the factor `scale`."""

    start: int
    rank: int
    scale: float

    @property
    def padded(self) -> int:
        return -(-self.rank // RANK_MULTIPLE) * RANK_MULTIPLE

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.rank)


@dataclass
class Running:
    """Which arms run, shared by all layers of a pack; `grouped`: their products go through one grouped kernel."""

    arms: tuple[int, ...]
    grouped: bool = False


class PackedLinear(nn.Module):
    """In the place of a linear module; `slots[i]` is arm i's, None where that arm does not target this module."""

    def __init__(
        self, base: nn.Module, running: Running, slots: list[Slot | None], down: nn.Parameter, up: nn.Parameter
    ) -> None:
        super().__init__()
        self.base_layer = base
        self.running = running
        self.slots = slots
        self.down, self.up = down, up

    def forward(self, x: Tensor) -> Tensor:
        """Raises RuntimeError where the rows cannot be shared out among the arms: a layer that sees a part of them."""
        slots = [self.slots[arm] for arm in self.running.arms]
        if not any(slots):
            out: Tensor = self.base_layer(x)
            return out
        rows = x.reshape(-1, x.shape[-1])
        if rows.shape[0] % len(slots):
            raise RuntimeError(f"{rows.shape[0]} rows cannot be shared out among {len(slots)} arms")
        weight, bias = plain_weight(self.base_layer)
        before = self.base_layer(rows) if weight is None else None
        y: Tensor = _LowRank.apply(rows, weight, bias, before, self.down, self.up, slots, self.running.grouped)
        return y.view(*x.shape[:-1], y.shape[-1])


def plain_weight(base: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """(out, in) weight and bias of a frozen module that does nothing but multiply by them; None where it does more."""
    if type(base) is nn.Linear and not base.weight.requires_grad:
        return base.weight, base.bias
    if type(base).__name__ == "Conv1D" and not base.weight.requires_grad:
        return base.weight.T, base.bias  # type: ignore[return-value]
    return None, None


class _LowRank(torch.autograd.Function):
    """Base product and update in one: no scaled copy, no sum of two gradients, nothing kept but x and x A^T."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        before: Tensor | None,
        down: Tensor,
        up: Tensor,
        slots: list[Slot | None],
        grouped: bool,
    ) -> Tensor:
        if weight is None:
            assert before is not None
            y = before.clone()
        else:
            y = x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)
        ctx.slots, ctx.grouped, ctx.has_weight = slots, grouped, weight is not None
        inner = _add_grouped(x, y, down, up, slots) if grouped else _add_by_arm(x, y, down, up, slots)
        ctx.save_for_backward(x, inner, down, up, *([] if weight is None else [weight]))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, down, up, *weight = ctx.saved_tensors
        dy = gradients[0].contiguous()
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy @ weight[0] if weight else torch.zeros_like(x)
        back = _back_grouped if ctx.grouped else _back_by_arm
        d_down, d_up = back(dy, x, inner, down, up, dx, ctx.slots)
        return dx, None, None, None if weight else dy, d_down, d_up, None, None


def _spans(x: Tensor, slots: list[Slot | None]) -> list[tuple[slice, Slot]]:
    """Rows of x and slot of every arm that has one."""
    count = x.shape[0] // len(slots)
    return [(slice(i * count, (i + 1) * count), slot) for i, slot in enumerate(slots) if slot is not None]


def _add_by_arm(x: Tensor, y: Tensor, down: Tensor, up: Tensor, slots: list[Slot | None]) -> Tensor:
    """Adds every arm's update to y; gives x A^T of all arms one after another, flat."""
    inner = []
    for rows, slot in _spans(x, slots):
        inner.append(x[rows] @ down[slot.rows].T)
        y[rows].addmm_(inner[-1], up[slot.rows], alpha=slot.scale)
    return torch.cat([part.flatten() for part in inner]) if len(inner) > 1 else inner[0].flatten()


def _back_by_arm(
    dy: Tensor, x: Tensor, inner: Tensor, down: Tensor, up: Tensor, dx: Tensor | None, slots: list[Slot | None]
) -> tuple[Tensor, Tensor]:
    d_down, d_up = torch.zeros_like(down), torch.zeros_like(up)
    start = 0
    for rows, slot in _spans(x, slots):
        count = (rows.stop - rows.start) * slot.rank
        made = inner[start : start + count].view(-1, slot.rank)
        start += count
        d_up[slot.rows].addmm_(made.T, dy[rows], beta=0, alpha=slot.scale)
        d_made = (dy[rows] @ up[slot.rows].T).mul_(slot.scale)
        torch.mm(d_made.T, x[rows], out=d_down[slot.rows])
        if dx is not None:
            dx[rows].addmm_(d_made, down[slot.rows])
    return d_down, d_up


# ---- grouped ---------------------------------------------------------------------------------------------------------


def _groups(down: Tensor, slots: list[Slot | None]) -> tuple[Tensor | slice, Tensor, Tensor]:
    """Rows of `down` that run, where each arm's end among them (int32), and the scale of each."""
    whole: list[int] = []
    ends, scales = [], []
    for slot in slots:
        if slot is not None:
            whole += range(slot.start, slot.start + slot.padded)
            scales += [slot.scale] * slot.padded
        ends.append(len(whole))
    device = down.device
    rows = slice(None) if len(whole) == down.shape[0] else torch.tensor(whole, device=device)
    return rows, torch.tensor(ends, dtype=torch.int32, device=device), down.new_tensor(scales)


def _add_grouped(x: Tensor, y: Tensor, down: Tensor, up: Tensor, slots: list[Slot | None]) -> Tensor:
    """As `_add_by_arm`, in two products ragged in the ranks; gives scale x A^T (M, sum R)."""
    rows, ends, scales = _groups(down, slots)
    arms = len(slots)
    inner = nn.functional.grouped_mm(x.view(arms, -1, x.shape[1]), down[rows].T, offs=ends) * scales
    y.view(arms, -1, y.shape[1]).add_(nn.functional.grouped_mm(inner, up[rows], offs=ends))
    return inner


def _back_grouped(
    dy: Tensor, x: Tensor, inner: Tensor, down: Tensor, up: Tensor, dx: Tensor | None, slots: list[Slot | None]
) -> tuple[Tensor, Tensor]:
    rows, ends, scales = _groups(down, slots)
    arms = len(slots)
    dy, x = dy.view(arms, -1, dy.shape[1]), x.view(arms, -1, x.shape[1])
    d_down, d_up = torch.zeros_like(down), torch.zeros_like(up)
    d_inner = nn.functional.grouped_mm(dy, up[rows].T, offs=ends) * scales
    d_up[rows] = nn.functional.grouped_mm(inner.T, dy, offs=ends)
    d_down[rows] = nn.functional.grouped_mm(d_inner.T, x, offs=ends)
    if dx is not None:
        dx.view(arms, -1, dx.shape[1]).add_(nn.functional.grouped_mm(d_inner, down[rows], offs=ends))
    return d_down, d_up
