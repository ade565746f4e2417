"""The change of one weight matrix: factored B A scale for LoRA, dense for full fine-tuning.

Shapes: `delta` is (out, in), `lora_A` is (R, in), `lora_B` is (out, R), K = min(out, in, R) singular values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Svd:
    """left (out, K), values (K,) from the largest, right (K, in): left @ diag(values) @ right."""

    left: Tensor
    values: Tensor
    right: Tensor

    def truncated(self, rank: int) -> Svd:
        """The `rank` largest parts."""
        return Svd(self.left[:, :rank], self.values[:rank], self.right[:rank])

    def factors(self, scale: float) -> tuple[Tensor, Tensor]:
        """(lora_B, lora_A) whose product times `scale` is this matrix, each with half of the values."""
        root = (self.values / abs(scale)).sqrt()
        left = self.left * root if scale > 0 else -self.left * root
        return left, root[:, None] * self.right


@dataclass(frozen=True)
class FactoredDelta:
    """scale * lora_B @ lora_A (arXiv 2106.09685, section 4.1), never multiplied out where that can be avoided."""

    lora_b: Tensor
    lora_a: Tensor
    scale: float

    def __post_init__(self) -> None:
        if self.lora_b.shape[1] != self.lora_a.shape[0]:
            raise ValueError(f"lora_B {tuple(self.lora_b.shape)} and lora_A {tuple(self.lora_a.shape)} do not meet")

    @property
    def shape(self) -> tuple[int, int]:
        return self.lora_b.shape[0], self.lora_a.shape[1]

    @property
    def rank(self) -> int:
        return self.lora_a.shape[0]

    def dense(self) -> Tensor:
        """(out, in), in the working precision of the factors."""
        return self.scale * (working(self.lora_b) @ working(self.lora_a))

    def singular_values(self) -> Tensor:
        """(K,) from the largest: those of R_B R_A^T, the triangular factors of B and A^T (QR of thin matrices)."""
        core = _triangle(self.lora_b) @ _triangle(self.lora_a.T).T
        return abs(self.scale) * torch.linalg.svdvals(core)

    def svd(self) -> Svd:
        """Exact SVD of the product from QR of both factors and an SVD of an R x R core."""
        left, left_core = torch.linalg.qr(working(self.lora_b))
        right, right_core = torch.linalg.qr(working(self.lora_a).T)
        u, values, vh = torch.linalg.svd(self.scale * left_core @ right_core.T, full_matrices=False)
        return Svd(left @ u, values, vh @ right.T)


@dataclass(frozen=True)
class DenseDelta:
    """W - W0, (out, in)."""

    weight: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def rank(self) -> int:
        return min(self.shape)

    def dense(self) -> Tensor:
        return working(self.weight)

    def singular_values(self) -> Tensor:
        return torch.linalg.svdvals(self.dense())

    def svd(self) -> Svd:
        return Svd(*torch.linalg.svd(self.dense(), full_matrices=False))


Delta = FactoredDelta | DenseDelta


def working(tensor: Tensor) -> Tensor:
    """The tensor in the precision of the decompositions: fp64 as it is, everything else as fp32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _triangle(tall: Tensor) -> Tensor:
    """R of a QR, (min(n, R), R); Q is not formed."""
    return torch.linalg.qr(working(tall), mode="r").R


@dataclass(frozen=True)
class TopSvd:
    """The largest parts of a matrix by a randomised method, and how wrong they may be.

    `error_bounds` (k,): each value is too small by at most sqrt(value^2 + e^2) - value (Weyl, on the Gram matrix); e
    bounds the spectral norm of what the subspace misses: the smaller of the root of `missed_energy`, which is its
    squared Frobenius norm, and an estimate that fails with a probability of 1e-10 (Halko, Martinsson & Tropp 2011,
    arXiv 0909.4061, lemma 4.1).
    """

    svd: Svd
    error_bounds: Tensor
    missed_energy: float


def randomised_top_svd(
    matrix: Tensor, count: int, generator: torch.Generator, *, extra: int = 10, power_steps: int = 2
) -> TopSvd:
    """The `count` largest singular triples of (out, in) by a random range finder with power steps (arXiv 0909.4061).

    Raises ValueError where `count` is not between 1 and the smaller side.
    """
    if not 1 <= count <= min(matrix.shape):
        raise ValueError(f"{count} of {min(matrix.shape)} singular values")
    whole = working(matrix)
    width = min(count + extra, min(matrix.shape))
    basis = torch.linalg.qr(whole @ _normal((whole.shape[1], width), whole, generator)).Q
    for _ in range(power_steps):
        basis = torch.linalg.qr(whole.T @ basis).Q
        basis = torch.linalg.qr(whole @ basis).Q
    small = basis.T @ whole
    u, values, vh = torch.linalg.svd(small, full_matrices=False)
    probes = whole @ _normal((whole.shape[1], 10), whole, generator)
    missed = (probes - basis @ (basis.T @ probes)).norm(dim=0).max()
    energy = float((whole.double().square().sum() - small.double().square().sum()).clamp(min=0))
    # 10 probes: P(norm > 10 sqrt(2 / pi) max |probe|) <= 10^-10
    missed_norm = min(float(10 * (2 / torch.pi) ** 0.5 * missed), energy**0.5)
    bounds = (values[:count].square() + missed_norm**2).sqrt() - values[:count]
    return TopSvd(Svd(basis @ u, values, vh).truncated(count), bounds, energy)


def _normal(shape: tuple[int, int], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype).to(like.device)


def random_like(values: Tensor, shape: tuple[int, int], generator: torch.Generator) -> FactoredDelta:
    """A change with these singular values (K,) in directions drawn uniformly: the norm-matched control."""
    left = torch.linalg.qr(_normal((shape[0], len(values)), values, generator)).Q
    right = torch.linalg.qr(_normal((shape[1], len(values)), values, generator)).Q
    return FactoredDelta(left * values, right.T, 1.0)
