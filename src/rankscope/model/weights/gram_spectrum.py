"""Spectra of dense matrices through the fp64 Gram matrix of their smaller side: exact, and several times faster than an
SVD.

Squaring halves the digits, so the product and its eigenvalues are taken in double: a singular value is then exact to
about 1e-8 of the largest, which is below the rounding of the fp32 or bf16 weights that it is of (Golub & Van Loan, 4th
ed., section 8.6.3). Shapes: a matrix is (out, in), K = min(out, in).
"""

from __future__ import annotations

import torch
from torch import Tensor


def gram_spectrum(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(singular values (K,) from the largest, directions (K, side) in rows), in double: left singular vectors where
    out <= in, right ones else."""
    energies, directions = torch.linalg.eigh(_gram(matrix))
    return energies.flip(0).clamp(min=0).sqrt(), directions.flip(1).T


def gram_values(matrix: Tensor) -> Tensor:
    """(K,) singular values from the largest, in double."""
    return torch.linalg.eigvalsh(_gram(matrix)).flip(0).clamp(min=0).sqrt()


def gram_left(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(values (count,), left singular vectors (out, count)) of the largest, in double; orthonormal even where a value
    is zero. Raises ValueError where `count` is not between 1 and K."""
    if not 1 <= count <= min(matrix.shape):
        raise ValueError(f"{count} of {min(matrix.shape)} singular values")
    values, directions = gram_spectrum(matrix)
    if matrix.shape[0] <= matrix.shape[1]:
        return values[:count], directions[:count].T
    image = matrix.double() @ directions[:count].T  # each column is its value times the left vector
    left, triangle = torch.linalg.qr(image)
    signs = torch.where(triangle.diagonal() < 0, -1.0, 1.0)
    return values[:count], left * signs


def _gram(matrix: Tensor) -> Tensor:
    whole = matrix.double()
    return whole @ whole.T if whole.shape[0] <= whole.shape[1] else whole.T @ whole
