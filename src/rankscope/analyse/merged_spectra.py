"""The largest singular vectors of W0 + delta, in the basis of W0's known SVD.

With W0 = U0 S V0 and delta = B A, W W^T in the coordinates of U0 is a diagonal plus a matrix of rank 2R:

    W W^T = U (S^2 + F G F^T) U^T,   F = [S V0 A^T, U^T B],   G = [[0, I], [I, A A^T]]

where U is U0, widened by what of B lies outside of it where out > in. Its largest eigenvectors come from a block
Davidson iteration (Davidson 1975), whose preconditioner (S^2 - theta)^-1 is exact up to the low-rank part. A coordinate
of such a vector is its cosine with a left singular vector of W0: intruders are read off without another product.

Shapes: K = min(out, in), M = K + what was widened, R rank, k vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankscope.model.weights.gram_spectrum import gram_left
from rankscope.model.weights.weight_delta import Delta, DenseDelta, LowRank, Svd, working

INTRUDER_TOP, INTRUDER_COSINE = 10, 0.5
"""An intruder is one of so many largest left vectors of W whose |cosines| with all of W0's are below this."""

TOLERANCE = 1e-9
"""Residual of an eigenvector of W W^T over the largest eigenvalue."""

_MOST_STEPS = 60
_DENSE_BELOW = 160
"""At most this many coordinates, or half as many again as the iteration starts with, are decomposed densely: it is
faster there."""

_LOW_RANK = 0.5
"""The share of K above which a rank is not low: W's own Gram matrix is then the smaller work."""


@dataclass(frozen=True)
class MergedTop:
    """The k largest singular values and left vectors of W = W0 + delta.

    values (k,); cosines (K, k): column j holds the cosines of W's j-th left singular vector with all of W0's.
    energy: the squared Frobenius norm of W. left (out, k): the vectors themselves, where they were asked for.
    """

    values: Tensor
    cosines: Tensor
    energy: float
    left: Tensor | None = None


def merged_top(base: Svd, delta: Delta, count: int, *, with_left: bool = False) -> MergedTop:
    """The `count` largest singular values of W0 + delta and their left vectors' cosines with those of W0.

    `base` is the thin SVD of W0. W0 and a delta that is dense, or of a rank that leaves nothing of being low, are
    decomposed as a whole, through W's fp64 Gram matrix.
    """
    count = min(count, len(base.values))
    if isinstance(delta, DenseDelta) or delta.rank > _LOW_RANK * len(base.values):
        return _of_dense(base, delta, count)
    problem = _Coordinates(base, delta)
    if problem.size <= max(_DENSE_BELOW, 1.5 * (count + 2 * delta.rank)):
        values, vectors = torch.linalg.eigh(problem.dense())
        values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    else:
        values, vectors = problem.largest(count)
    left = problem.in_space(base, vectors) if with_left else None
    return MergedTop(values.clamp(min=0).sqrt(), vectors[: len(base.values)], problem.energy, left=left)


def intruder_columns(cosines: Tensor) -> list[int]:
    """Which of the first INTRUDER_TOP columns have no |cosine| of INTRUDER_COSINE or more (arXiv 2410.21228).

    cosines (K, k): column j those of W's j-th left singular vector with each of W0's.
    """
    largest = cosines[:, :INTRUDER_TOP].abs().amax(dim=0)
    return [int(j) for j in torch.nonzero(largest < INTRUDER_COSINE).flatten()]


def preservation(cosines: Tensor) -> float:
    """Mean over j of |cos(u_j of W0, u_j of W)|, both counted from the largest singular value; cosines (K, k)."""
    return float(cosines.diagonal().abs().mean())


def overlap(cosines: Tensor) -> float:
    """||U0_k^T U_k||_F^2 / k: how much of the space of W0's k largest is that of W's, whatever the order inside."""
    count = cosines.shape[1]
    return float(cosines[:count].double().square().sum()) / count


def _of_dense(base: Svd, delta: Delta, count: int) -> MergedTop:
    whole = (base.left * base.values) @ base.right + delta.dense().to(base.left)  # a control's factors lie on the CPU
    values, left = gram_left(whole, count)
    left = left.to(base.left.dtype)
    return MergedTop(values, base.left.T @ left, float(whole.double().square().sum()), left=left)


class _Coordinates:
    """W W^T as `square` (M,) on the diagonal plus F G F^T, in double."""

    def __init__(self, base: Svd, delta: LowRank) -> None:
        b, a = working(delta.b).to(base.left), working(delta.a).to(base.left)
        left = base.left.T @ b
        right = (base.right @ a.T).double()
        self.outside: Tensor | None = None
        if base.left.shape[0] > base.left.shape[1]:
            self.outside, outside = torch.linalg.qr(b - base.left @ left)
            left = torch.cat([left, outside])
        left = left.double() * delta.scale
        values = base.values.double()
        gram = a.double() @ a.double().T
        self.size, self.rank = len(left), delta.rank
        self.square = torch.zeros(self.size, dtype=torch.float64, device=left.device)
        self.square[: len(values)] = values.square()
        scaled = torch.zeros_like(left)
        scaled[: len(values)] = values[:, None] * right
        self.low = torch.cat([scaled, left], dim=1)
        eye, zero = torch.eye(self.rank).to(gram), torch.zeros(self.rank, self.rank).to(gram)
        self.middle = torch.cat([torch.cat([zero, eye], 1), torch.cat([eye, gram], 1)])
        crossed = float((scaled * left).sum())
        self.energy = float(self.square.sum()) + 2 * crossed + float(((left.T @ left) * gram).sum())

    def times(self, vectors: Tensor) -> Tensor:
        return self.square[:, None] * vectors + self.low @ (self.middle @ (self.low.T @ vectors))

    def in_space(self, base: Svd, vectors: Tensor) -> Tensor:
        """Coordinates (M, k) as vectors (out, k)."""
        count = len(base.values)
        inside = base.left.double() @ vectors[:count]
        return inside if self.outside is None else inside + self.outside.double() @ vectors[count:]

    def dense(self) -> Tensor:
        return torch.diag(self.square) + self.low @ self.middle @ self.low.T

    def largest(self, count: int) -> tuple[Tensor, Tensor]:
        """(values (count,), vectors (M, count)) of the largest eigenpairs, from the largest.

        Raises ArithmeticError where they do not converge, which no input with finite numbers has done.
        """
        start = torch.zeros(self.size, count + 10, dtype=torch.float64, device=self.low.device)
        start.fill_diagonal_(1.0)
        basis = _orthonormal(torch.cat([start, self.low / self.low.norm(dim=0).clamp(min=1e-300)], 1), None)
        image = self.times(basis)
        for _ in range(_MOST_STEPS):
            small = basis.T @ image
            values, rotation = torch.linalg.eigh((small + small.T) / 2)
            values, rotation = values.flip(0)[:count], rotation.flip(1)[:, :count]
            vectors = basis @ rotation
            residual = image @ rotation - vectors * values
            open_ = residual.norm(dim=0) > TOLERANCE * values[0]
            if not bool(open_.any()):
                return values, vectors
            gap = self.square[:, None] - values[open_]
            floor = 1e-8 * values[0]
            step = residual[:, open_] / torch.where(gap.abs() < floor, floor, gap)
            more = _orthonormal(step, basis)
            basis, image = torch.cat([basis, more], 1), torch.cat([image, self.times(more)], 1)
        raise ArithmeticError("the largest singular vectors did not converge")


def _orthonormal(vectors: Tensor, against: Tensor | None) -> Tensor:
    """An orthonormal basis of what `vectors` add to the orthonormal columns of `against`; negligible parts are left."""
    for _ in range(2):
        if against is not None:
            vectors = vectors - against @ (against.T @ vectors)
        vectors = vectors / vectors.norm(dim=0).clamp(min=1e-300)
        gram = vectors.T @ vectors
        values, rotation = torch.linalg.eigh(gram)
        keep = values > 1e-10 * values[-1]
        vectors = vectors @ (rotation[:, keep] / values[keep].sqrt())
    return vectors
