"""The threshold against published constants and an integral of scipy's; the cut against a plain SVD."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq

from rankscope.model.weights.gram_spectrum import gram_spectrum
from rankscope.model.weights.spectrum_cut import (
    cut_at_noise,
    known_noise_coefficient,
    marchenko_pastur_median,
    rank_above_noise,
    threshold_coefficient,
)

TALL, WIDE, SQUARE = (60, 24), (24, 60), (40, 40)


def median_by_scipy(beta: float) -> float:
    low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2

    def below(end: float) -> float:
        area, _ = quad(lambda t: math.sqrt((high - t) * (t - low)) / (2 * math.pi * beta * t), low, end, limit=400)
        return float(area)

    return float(brentq(lambda t: below(t) - 0.5, low + 1e-9, high - 1e-9, xtol=1e-11))


def test_a_square_matrix_has_the_published_constants() -> None:
    assert known_noise_coefficient(1.0) == pytest.approx(4 / math.sqrt(3))
    assert threshold_coefficient(100, 100) == pytest.approx(2.858, abs=5e-4)
    assert marchenko_pastur_median(1.0) == pytest.approx(0.6528, abs=5e-4)


@pytest.mark.parametrize("beta", [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
def test_others_have_the_median_of_the_integral(beta: float) -> None:
    assert marchenko_pastur_median(beta) == pytest.approx(median_by_scipy(beta), abs=1e-6)


@pytest.mark.parametrize("beta", np.linspace(0.05, 1, 20))
def test_they_are_near_the_published_cubic(beta: float) -> None:
    """omega(beta) = 0.56 beta^3 - 0.95 beta^2 + 1.82 beta + 1.43 to within 0.02 (arXiv 1305.5870, eq. 5)."""
    expected = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43
    assert threshold_coefficient(round(1000 * beta), 1000) == pytest.approx(expected, abs=0.025)
    assert threshold_coefficient(1000, round(1000 * beta)) == threshold_coefficient(round(1000 * beta), 1000)


def test_no_matrix_has_a_side_of_nothing() -> None:
    with pytest.raises(ValueError, match="aspect ratio"):
        marchenko_pastur_median(0.0)


def signal_and_noise(shape: tuple[int, int], rank: int, noise: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(shape[0], rank, generator=generator)
    right = torch.randn(rank, shape[1], generator=generator)
    return left @ right + noise * torch.randn(shape, generator=generator)


@pytest.mark.parametrize("shape", [TALL, WIDE, SQUARE])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_low_rank_in_noise_is_found_and_cut_as_an_svd_cuts_it(shape: tuple[int, int], rank: int) -> None:
    change = signal_and_noise(shape, rank, 0.1)
    cut, kept = cut_at_noise(change)
    u, values, vh = torch.linalg.svd(change.double(), full_matrices=False)
    assert kept == rank
    expected = (u[:, :rank] * values[:rank]) @ vh[:rank]
    assert torch.allclose(cut.double(), expected, atol=1e-5)
    assert cut.dtype == change.dtype


@pytest.mark.parametrize("shape", [TALL, WIDE, SQUARE])
def test_the_spectrum_is_that_of_an_svd(shape: tuple[int, int]) -> None:
    change = signal_and_noise(shape, 2, 0.1)
    values, directions = gram_spectrum(change)
    expected = torch.linalg.svdvals(change.double())
    assert torch.allclose(values, expected, atol=1e-7 * float(expected[0]))
    assert torch.allclose(directions @ directions.T, torch.eye(min(shape), dtype=torch.float64), atol=1e-9)


def test_noise_alone_is_dropped_and_zeros_stay_zeros() -> None:
    noise = torch.randn(80, 50, generator=torch.Generator().manual_seed(1))
    assert cut_at_noise(noise)[1] == 0
    cut, kept = cut_at_noise(torch.zeros(6, 4))
    assert kept == 0
    assert not cut.any()


def test_a_change_without_noise_keeps_all_that_it_is() -> None:
    change = signal_and_noise(SQUARE, 3, 0.0)
    values = torch.linalg.svdvals(change.double())
    values[3:] = 0
    assert rank_above_noise(values, *SQUARE) == 3
