"""Spectra by the Gram matrix against a dense SVD in double, on spectra that are flat, steep, and not of full rank."""

from __future__ import annotations

import pytest
import torch

from rankscope.analyse.merged_spectra import intruder_columns, merged_top
from rankscope.analyse.update_spectra import Change, measured
from rankscope.model.weights.gram_spectrum import gram_left, gram_spectrum, gram_values
from rankscope.model.weights.weight_delta import DenseDelta, Svd

SHAPES = [(90, 40), (40, 90), (64, 64)]
SPECTRA = {
    "flat": lambda k: torch.ones(k).double() + 1e-3 * torch.linspace(0, 1, k).double(),
    "steep": lambda k: torch.logspace(0, -6, k).double(),
    "half rank": lambda k: torch.cat([torch.linspace(2, 1, k // 2), torch.zeros(k - k // 2)]).double(),
}


def with_spectrum(shape: tuple[int, int], name: str) -> torch.Tensor:
    dice = torch.Generator().manual_seed(3)
    count = min(shape)
    left, right = (torch.linalg.qr(torch.randn(side, count, generator=dice).double()).Q for side in shape)
    return (left * SPECTRA[name](count)) @ right.T


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_those_of_a_dense_svd_in_double(shape: tuple[int, int], name: str, dtype: torch.dtype) -> None:
    matrix = with_spectrum(shape, name).to(dtype)
    expected = torch.linalg.svdvals(matrix.double())
    for values in (gram_values(matrix), gram_spectrum(matrix)[0], DenseDelta(matrix).singular_values().double()):
        assert torch.allclose(values, expected, rtol=0, atol=1e-6 * float(expected[0]))
    found, known = (measured(Change(DenseDelta(matrix), v, min(shape))) for v in (gram_values(matrix), expected))
    assert found["effective_rank"] == pytest.approx(known["effective_rank"], rel=1e-5)
    assert found["stable_rank"] == pytest.approx(known["stable_rank"], rel=1e-6)
    for share in (90, 95, 99):
        assert found[f"energy_rank_{share}"] == known[f"energy_rank_{share}"]


@pytest.mark.parametrize("shape", SHAPES)
def test_left_vectors_are_those_of_a_dense_svd(shape: tuple[int, int]) -> None:
    matrix = with_spectrum(shape, "steep")
    values, left = gram_left(matrix, 8)
    u, expected, _ = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.allclose(values, expected[:8], rtol=1e-9)
    assert torch.allclose((left * u[:, :8]).sum(0).abs(), torch.ones(8).double(), atol=1e-9)
    with pytest.raises(ValueError, match="singular values"):
        gram_left(matrix, min(shape) + 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_left_vectors_of_nothing_are_orthonormal(shape: tuple[int, int]) -> None:
    matrix = with_spectrum(shape, "half rank")
    for one in (matrix, torch.zeros(shape)):
        left = gram_left(one, min(shape))[1]
        assert torch.allclose(left.T @ left, torch.eye(min(shape)).double(), atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_intruders_of_a_flat_weight_are_those_of_a_dense_svd(shape: tuple[int, int]) -> None:
    """Where a random range finder saw intruders that there are not: a flat spectrum."""
    weight = with_spectrum(shape, "flat")
    change = 0.3 * with_spectrum(shape, "steep").flip(0)
    base = Svd(*torch.linalg.svd(weight, full_matrices=False))
    top = merged_top(base, DenseDelta(change), 10)
    u, values, _ = torch.linalg.svd(weight + change, full_matrices=False)
    cosines = base.left.T @ u[:, :10]
    assert torch.allclose(top.values, values[:10])
    assert intruder_columns(top.cosines) == intruder_columns(cosines)
    assert torch.allclose(top.cosines.abs(), cosines.abs(), atol=1e-6)
