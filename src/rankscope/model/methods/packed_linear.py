"""One linear layer under the LoRA factors of several arms at once: y = x W^T + scale (x A^T) B^T, arm by arm.

Shapes: N arms that run, M rows of each; R_i rank of arm i. Rows of `x` (N M, in) stand arm after arm. `down` (sum R,
in) holds the A of all arms one after another, `up` (sum R, out) their B transposed, so that every arm's factors are
whole rows of both. Ranks are padded to multiples of 8 with zeros, which stay zero: a grouped product wants its strides
in multiples of 16 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rankscope.model.weights.weight_delta import LowRank

RANK_MULTIPLE = 8


@dataclass(frozen=True)
class ArmFactors:
    """An arm's own factors: `down` (R, in) and `up` (R, out), views of the rows from `start` on of what all arms share;
    its update has the factor `scale`."""

    start: int
    down: nn.Parameter
    up: nn.Parameter
    scale: float

    @property
    def rank(self) -> int:
        """R, the arm's own rank."""
        return self.down.shape[0]

    @property
    def padded(self) -> int:
        """R rounded up to a multiple of RANK_MULTIPLE."""
        return _padded(self.rank)

    @property
    def rows(self) -> slice:
        """Where the arm's rows stand in what all arms share."""
        return slice(self.start, self.start + self.rank)


def _padded(rank: int) -> int:
    return -(-rank // RANK_MULTIPLE) * RANK_MULTIPLE


Groups = tuple[Tensor | slice, Tensor, Tensor]
"""Of the arms that run: their rows of `down`, where each arm's end among them (int32), and the scale of each row."""


@dataclass
class Running:
    """Which arms run, shared by all layers of a pack; `grouped`: their products go through one grouped kernel."""

    arms: tuple[int, ...]
    grouped: bool = False

    @contextmanager
    def only(self, arms: Sequence[int]) -> Iterator[None]:
        """Inside, these run and no others."""
        before, self.arms = self.arms, tuple(arms)
        try:
            yield
        finally:
            self.arms = before


class PackedLinear(nn.Module):
    """In the place of a linear module, arm i's factors in `by_arm[i]`; None where it does not target it."""

    def __init__(self, base: nn.Module, running: Running, factors: Sequence[LowRank | None]) -> None:
        """`factors` of each arm, which are copied; one arm at least has some."""
        super().__init__()
        self.base_layer = base
        self.running = running
        given = [factor for factor in factors if factor is not None]
        total = sum(_padded(factor.rank) for factor in given)
        a, b, _ = given[0]
        self._down, self._up = a.new_zeros(total, a.shape[1]), b.new_zeros(total, b.shape[0])
        self.by_arm: list[ArmFactors | None] = []
        self._groups_of: dict[tuple[tuple[int, ...], torch.device], Groups] = {}
        self._summed: Tensor | None = None
        start = 0
        for factor in factors:
            self.by_arm.append(None if factor is None else self._hold(start, factor))
            start += 0 if factor is None else _padded(factor.rank)

    def _hold(self, start: int, factor: LowRank) -> ArmFactors:
        rows = slice(start, start + factor.rank)
        for shared, value in ((self._down, factor.a), (self._up, factor.b.T)):
            shared[rows].copy_(value.detach())
        return ArmFactors(start, nn.Parameter(self._down[rows]), nn.Parameter(self._up[rows]), factor.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Raises RuntimeError where the rows cannot be shared out among the arms: a layer that sees a part of them."""
        by_arm = [self.by_arm[arm] for arm in self.running.arms]
        own = [factor for held in by_arm if held is not None for factor in (held.down, held.up)]
        if not own:
            out: Tensor = self.base_layer(x)
            return out
        if self._summed is not None and self.running.arms == (0,):
            return nn.functional.linear(x, self._summed, self.base_layer.bias)  # type: ignore[arg-type]
        rows = x.reshape(-1, x.shape[-1])
        if rows.shape[0] % len(by_arm):
            raise RuntimeError(f"{rows.shape[0]} rows cannot be shared out among {len(by_arm)} arms")
        weight, bias = plain_weight(self.base_layer)
        before = self.base_layer(rows) if weight is None else None
        shared = (self._down, self._up, self._groups(by_arm)) if self.running.grouped else None
        y: Tensor = _LowRank.apply(rows, weight, bias, before, by_arm, shared, *own)
        return y.view(*x.shape[:-1], y.shape[-1])

    @property
    def sum_bytes(self) -> int | None:
        """What the weight with the first arm's update added takes; None of what is no weight in single precision."""
        base = self.base_layer
        if type(base) is not nn.Linear or type(base.weight.data) is not Tensor or base.weight.dtype != torch.float32:
            return None  # more than a weight, or a part of one that is sharded
        return base.weight.nbytes

    @contextmanager
    def summed(self) -> Iterator[None]:
        """Inside, the first arm alone is one product with W + scale B A, which is held beside W."""
        weight, _ = plain_weight(self.base_layer)
        held = self.by_arm[0]
        assert weight is not None
        assert held is not None
        with torch.no_grad():
            self._summed = torch.addmm(weight, held.up.T, held.down, alpha=held.scale)
        try:
            yield
        finally:
            self._summed = None

    def _groups(self, by_arm: list[ArmFactors | None]) -> Groups:
        """Made once for each set of arms that runs: a tensor from a Python list makes the device wait."""
        key = (self.running.arms, self._down.device)
        if key not in self._groups_of:
            with torch.inference_mode(mode=False):  # scoring may come first, and training uses them after it
                self._groups_of[key] = groups_of_rows(self._down, by_arm)
        return self._groups_of[key]


def plain_weight(base: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """(out, in) weight and bias of a frozen module that does nothing but multiply by them; None where it does more."""
    if type(base) is nn.Linear and not base.weight.requires_grad:
        return base.weight, base.bias
    if type(base).__name__ == "Conv1D" and not base.weight.requires_grad:
        return base.weight.T, base.bias  # type: ignore[return-value]
    return None, None


class _LowRank(torch.autograd.Function):
    """Base product and update in one: no scaled copy, no sum of two gradients, nothing kept but x and x A^T.

    `own` are the factors of the arms, which are there for autograd to see; `shared` those of all arms with the groups
    of those that run, for one kernel.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        before: Tensor | None,
        by_arm: list[ArmFactors | None],
        shared: tuple[Tensor, Tensor, Groups] | None,
        *own: Tensor,
    ) -> Tensor:
        if weight is None:
            assert before is not None
            y = before.clone()
        else:
            y = x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)
        ctx.by_arm, ctx.shared, ctx.has_weight = by_arm, shared, weight is not None
        inner = _add_by_arm(x, y, by_arm) if shared is None else [_add_grouped(x, y, *shared)]
        ctx.save_for_backward(x, *inner, *([] if weight is None else [weight]))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *inner = ctx.saved_tensors
        weight = inner.pop() if ctx.has_weight else None
        dy = gradients[0].contiguous()
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.zeros_like(x) if weight is None else dy @ weight
        if ctx.shared is None:
            own = _back_by_arm(dy, x, inner, dx, ctx.by_arm)
        else:
            own = _back_grouped(dy, x, inner[0], ctx.shared, dx, ctx.by_arm)
        return dx, None, None, dy if weight is None else None, None, None, *own


# ---- one product for each arm ----------------------------------------------------------------------------------------


def _of_arms(rows: Tensor, by_arm: list[ArmFactors | None]) -> list[tuple[Tensor, ArmFactors]]:
    """The rows of every arm that has factors here, (M, D) of (N M, D), and its factors."""
    parts = rows.view(len(by_arm), -1, rows.shape[1]).unbind(0)
    return [(part, held) for part, held in zip(parts, by_arm, strict=True) if held is not None]


def _add_by_arm(x: Tensor, y: Tensor, by_arm: list[ArmFactors | None]) -> list[Tensor]:
    """Adds every arm's update to y; gives x A^T of each."""
    inner = []
    for (rows, held), (out, _) in zip(_of_arms(x, by_arm), _of_arms(y, by_arm), strict=True):
        inner.append(rows @ held.down.T)
        out.addmm_(inner[-1], held.up, alpha=held.scale)
    return inner


def _back_by_arm(
    dy: Tensor, x: Tensor, inner: list[Tensor], dx: Tensor | None, by_arm: list[ArmFactors | None]
) -> list[Tensor]:
    """The gradients of each arm's factors, down and up; adds to dx."""
    own = []
    into = [part for part, _ in _of_arms(dx, by_arm)] if dx is not None else [None] * len(inner)
    for (d_out, held), (rows, _), made, d_rows in zip(
        _of_arms(dy, by_arm), _of_arms(x, by_arm), inner, into, strict=True
    ):
        d_made = (d_out @ held.up.T).mul_(held.scale)
        own += [d_made.T @ rows, torch.addmm(held.up, made.T, d_out, beta=0, alpha=held.scale)]
        if d_rows is not None:
            d_rows.addmm_(d_made, held.down)
    return own


# ---- one kernel for all arms -----------------------------------------------------------------------------------------


def groups_of_rows(down: Tensor, by_arm: Sequence[ArmFactors | None]) -> Groups:
    """As `Groups`, for the arms of `by_arm` in their order; None runs without factors here."""
    whole: list[int] = []
    ends, scales = [], []
    for held in by_arm:
        if held is not None:
            whole += range(held.start, held.start + held.padded)
            scales += [held.scale] * held.padded
        ends.append(len(whole))
    device = down.device
    rows = slice(None) if len(whole) == down.shape[0] else torch.tensor(whole, device=device)
    return rows, torch.tensor(ends, dtype=torch.int32, device=device), down.new_tensor(scales)


def _add_grouped(x: Tensor, y: Tensor, down: Tensor, up: Tensor, groups: Groups) -> Tensor:
    """As `_add_by_arm`, in two products ragged in the ranks; gives scale x A^T (M, sum R)."""
    rows, ends, scales = groups
    arms = len(ends)
    inner = nn.functional.grouped_mm(x.view(arms, -1, x.shape[1]), down[rows].T, offs=ends) * scales
    y.view(arms, -1, y.shape[1]).add_(nn.functional.grouped_mm(inner, up[rows], offs=ends))
    return inner


def _back_grouped(
    dy: Tensor,
    x: Tensor,
    inner: Tensor,
    shared: tuple[Tensor, Tensor, Groups],
    dx: Tensor | None,
    by_arm: list[ArmFactors | None],
) -> list[Tensor]:
    down, up, (rows, ends, scales) = shared
    arms = len(ends)
    dy, x = dy.view(arms, -1, dy.shape[1]), x.view(arms, -1, x.shape[1])
    d_down, d_up = torch.zeros_like(down), torch.zeros_like(up)
    d_inner = nn.functional.grouped_mm(dy, up[rows].T, offs=ends) * scales
    d_up[rows] = nn.functional.grouped_mm(inner.T, dy, offs=ends)
    d_down[rows] = nn.functional.grouped_mm(d_inner.T, x, offs=ends)
    if dx is not None:
        dx.view(arms, -1, dx.shape[1]).add_(nn.functional.grouped_mm(d_inner, down[rows], offs=ends))
    return [part[held.rows] for held in by_arm if held is not None for part in (d_down, d_up)]
