"""How far hidden states moved: base and arm on the same tokens, in one stream of batches.

docs/measures.md, "Hidden states", holds the formulas with their sources. All sums are in float64: a hidden dimension a
thousand times the others (arXiv 2208.07339) would leave nothing of these in fp32. Shapes: n tokens, D hidden
size. Memory for a layer is that of three (m, m) matrices in float64, m = min(n, D), however many tokens pass.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class HiddenMeasures:
    """One layer, over the tokens seen. None where they are too few (CKA needs four) or do not vary.

    cka in [-1, 1], cosine_drift and procrustes in [0, 2], effective ranks from 1 to D.
    """

    tokens: int
    cka: float | None
    cosine_drift: float
    procrustes: float | None
    effective_rank_base: float | None
    effective_rank: float | None


class HiddenPair:
    """Sums over pairs of hidden states of one layer: x of the base, y of the arm."""

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, Tensor]] = []
        self._held = self.tokens = 0
        self._cosines = 0.0
        self._shift: tuple[Tensor, Tensor] | None = None
        self._sums: _Sums | None = None

    def add(self, x: Tensor, y: Tensor) -> None:
        """Pairs of rows (n, D) each, of any dtype."""
        self.tokens += len(x)
        self._cosines += float(torch.nn.functional.cosine_similarity(x.double(), y.double(), eps=1e-30).sum())
        if self._shift is None:  # every measure but the cosine is the same after a shift, and rounds less near zero
            self._shift = x.double().mean(0), y.double().mean(0)
        self._rows.append((x, y))
        self._held += len(x)
        if self._held > x.shape[1]:
            self._fold(*self._taken())

    def measures(self) -> HiddenMeasures:
        """Over all rows added. Raises ValueError where there are none."""
        if not self.tokens:
            raise ValueError("no hidden states were added")
        if self._rows:
            x, y = self._taken()
            if self._sums is None:  # fewer tokens than D: their triangular factors have the same products
                x, y = (torch.linalg.qr(side.T, mode="r").R.T for side in (x, y))
            self._fold(x, y)
        assert self._sums is not None
        sums = self._sums
        return HiddenMeasures(
            tokens=self.tokens,
            cka=sums.cka(),
            cosine_drift=_clip(1 - self._cosines / self.tokens, 0.0, 2.0),
            procrustes=sums.procrustes(),
            effective_rank_base=sums.effective_rank(0),
            effective_rank=sums.effective_rank(1),
        )

    def _taken(self) -> tuple[Tensor, Tensor]:
        """All rows that are held, shifted, in float64."""
        assert self._shift is not None
        x, y = (
            torch.cat(side).double() - own for side, own in zip(zip(*self._rows, strict=True), self._shift, strict=True)
        )
        self._rows, self._held = [], 0
        return x, y

    def _fold(self, x: Tensor, y: Tensor) -> None:
        part = _Sums.of(x, y)
        self._sums = part if self._sums is None else self._sums.plus(part)


def _clip(value: float, low: float, high: float) -> float:
    """What rounding carried over the edge of what is possible."""
    return min(max(value, low), high)


@dataclass(frozen=True)
class _Sums:
    """Over rows x, y with squared norms a, b: products (D, D), sums (D,), and sums weighted by a or b (D,)."""

    n: int
    xx: Tensor
    yy: Tensor
    xy: Tensor
    x: Tensor
    y: Tensor
    xa: Tensor
    xb: Tensor
    ya: Tensor
    yb: Tensor
    norms: Tensor
    """Sums of (a, b, a a, b b, a b)."""

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> _Sums:
        a, b = torch.linalg.vecdot(x, x), torch.linalg.vecdot(y, y)
        norms = torch.stack([v.sum() for v in (a, b, a * a, b * b, a * b)])
        return cls(
            len(x), x.T @ x, y.T @ y, x.T @ y, x.sum(0), y.sum(0), x.T @ a, x.T @ b, y.T @ a, y.T @ b, norms
        )  # fmt: skip

    def plus(self, other: _Sums) -> _Sums:
        return _Sums(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    # ---- unbiased linear CKA ----

    def cka(self) -> float | None:
        """HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), each by the unbiased estimator of Song et al. (2012)."""
        if self.n < 4:
            return None
        a, b, aa, bb, ab = self.norms.tolist()
        own = self._hsic(self.xx, self.x, self.x, a, a, aa, self.xa, self.xa)
        other = self._hsic(self.yy, self.y, self.y, b, b, bb, self.yb, self.yb)
        crossed = self._hsic(self.xy, self.x, self.y, a, b, ab, self.xb, self.ya)
        return _clip(crossed / math.sqrt(own * other), -1.0, 1.0) if own > 0 and other > 0 else None

    def _hsic(
        self,
        product: Tensor,
        left: Tensor,
        right: Tensor,
        a: float,
        b: float,
        ab: float,
        left_b: Tensor,
        right_a: Tensor,
    ) -> float:
        """The estimator for linear kernels without their diagonals, from sums only."""
        n = self.n
        trace = float(product.square().sum()) - ab
        rows = float((left @ product @ right) - left @ left_b - right @ right_a) + ab
        totals = (float(left.square().sum()) - a) * (float(right.square().sum()) - b)
        return (trace + totals / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)) / (n * (n - 3))

    # ---- the rest, on centred states ----

    def _centred(self) -> tuple[Tensor, Tensor, Tensor]:
        x, y = self.x / self.n, self.y / self.n
        return (
            self.xx - self.n * torch.outer(x, x),
            self.yy - self.n * torch.outer(y, y),
            self.xy - self.n * torch.outer(x, y),
        )

    def procrustes(self) -> float | None:
        """2 - 2 ||X^T Y||_* for centred X, Y of Frobenius norm 1: 0 for a rotated and scaled copy, at most 2."""
        xx, yy, xy = self._centred()
        size = math.sqrt(max(float(xx.trace()) * float(yy.trace()), 0.0))
        if size == 0 or self.n < 2:
            return None
        return _clip(2 - 2 * float(torch.linalg.svdvals(xy).sum()) / size, 0.0, 2.0)

    def effective_rank(self, side: int) -> float | None:
        """exp of the entropy of the singular values of the centred states, over their sum."""
        values = torch.linalg.eigvalsh(self._centred()[side]).clamp(min=0).sqrt()
        total = float(values.sum())
        return float(torch.exp(torch.special.entr(values / total).sum())) if total > 0 else None


class HiddenStream:
    """The pairs of all layers, for one suite."""

    def __init__(self) -> None:
        self._pairs: dict[int, HiddenPair] = {}

    def add(self, layer: int, x: Tensor, y: Tensor) -> None:
        """Hidden states (n, D) of the base and of the arm after block `layer`, for the same tokens."""
        self._pairs.setdefault(layer, HiddenPair()).add(x, y)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each layer: its number and HiddenMeasures."""
        return [{"layer": layer, **asdict(pair.measures())} for layer, pair in sorted(self._pairs.items())]
