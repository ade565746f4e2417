"""Streamed measures of hidden states against dense ones, and what is known of them beforehand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes

from rankscope.analyse.hidden_states import HiddenMeasures, HiddenPair


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unbiased_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. (2012), equation 5, on kernels without their diagonals."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    totals = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return float((np.trace(k @ m) + totals - 2 * (one @ k @ m @ one) / (n - 2)) / (n * (n - 3)))


def reference(x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """Everything dense, in double, by other routes."""
    a, b = x.double().numpy(), y.double().numpy()
    k, m = a @ a.T, b @ b.T
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    a, b = a - a.mean(0), b - b.mean(0)
    found = {
        "cka": unbiased_hsic(k, m) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(m, m)),
        "cosine_drift": 1 - cosines.mean(),
    }
    for name, side in (("effective_rank_base", a), ("effective_rank", b)):
        values = np.linalg.svd(side, compute_uv=False)
        shares = values[values > 1e-12 * values[0]] / values.sum()
        found[name] = float(np.exp(-(shares * np.log(shares)).sum()))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    rotation, _ = orthogonal_procrustes(a, b)
    found["procrustes"] = float(np.linalg.norm(a @ rotation - b) ** 2)
    return found


def streamed(x: torch.Tensor, y: torch.Tensor, sizes: list[int]) -> HiddenMeasures:
    pair = HiddenPair()
    for left, right in zip(x.split(sizes), y.split(sizes), strict=True):
        pair.add(left, right)
    return pair.measures()


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 1e-6)])
@pytest.mark.parametrize(("tokens", "width"), [(200, 16), (40, 64), (65, 64), (5, 8)])
@pytest.mark.parametrize("offset", [0.0, 20.0])
def test_streamed_measures_are_the_dense_ones(
    tokens: int, width: int, offset: float, dtype: torch.dtype, relative: float
) -> None:
    x = normal(0, tokens, width) + offset
    y = (x + normal(1, tokens, width)).to(dtype)
    x = x.to(dtype)
    found = streamed(x, y, [tokens // 3, tokens - 2 * (tokens // 3), tokens // 3])
    assert found.tokens == tokens
    for name, value in reference(x, y).items():
        assert getattr(found, name) == pytest.approx(value, rel=relative, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 30), st.integers(1, 12), st.lists(st.integers(1, 29), max_size=4))
def test_batches_do_not_matter(tokens: int, width: int, cuts: list[int]) -> None:
    x, y = normal(2, tokens, width), normal(3, tokens, width)
    edges = sorted({0, tokens, *(c for c in cuts if c < tokens)})
    whole = streamed(x, y, [tokens])
    parts = streamed(x, y, [b - a for a, b in pairwise(edges)])
    for name in HiddenMeasures.__dataclass_fields__:
        one, other = getattr(whole, name), getattr(parts, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one == pytest.approx(other, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("tokens", "width"), [(600, 48), (30, 48)])
@pytest.mark.parametrize("moved", [1e-4, 1e-2])
def test_fp32_states_with_an_outlier_dimension_keep_every_digit(tokens: int, width: int, moved: float) -> None:
    """One dimension of 3,000 times the others, as trained decoders have: in fp32 sums CKA was 1.0000003."""
    scale = torch.ones(width, dtype=torch.float64)
    scale[5] = 3000.0
    x = (normal(8, tokens, width) * scale + scale).float()
    y = (x.double() + moved * normal(9, tokens, width)).float()
    found = streamed(x, y, [tokens // 3, tokens - tokens // 3])
    wanted = reference(x, y)
    assert found.cka is not None
    assert found.cka <= 1
    assert found.cka == pytest.approx(wanted["cka"], abs=1e-12)
    assert 0 < wanted["procrustes"] < 1e-7
    assert found.procrustes == pytest.approx(wanted["procrustes"], abs=1e-13)
    assert found.cosine_drift == pytest.approx(wanted["cosine_drift"], abs=1e-13)
    for name in ("effective_rank", "effective_rank_base"):
        assert getattr(found, name) == pytest.approx(wanted[name], rel=1e-7)


def test_the_base_against_itself() -> None:
    x = normal(4, 50, 8).float()
    found = streamed(x, x, [20, 30])
    assert found.cka == pytest.approx(1, abs=1e-12)
    assert found.cka is not None
    assert found.cka <= 1
    assert found.procrustes == pytest.approx(0, abs=1e-12)
    assert found.cosine_drift == pytest.approx(0, abs=1e-12)
    assert found.effective_rank == found.effective_rank_base


def test_a_rotated_copy_leaves_no_procrustes_residual_and_keeps_cka() -> None:
    x = normal(5, 60, 8)
    rotation = torch.linalg.qr(normal(6, 8, 8)).Q
    found = streamed(x, 3 * x @ rotation + 1, [60])
    assert found.procrustes == pytest.approx(0, abs=1e-9)
    assert found.cka == pytest.approx(1, abs=1e-9)
    assert found.cosine_drift > 0.5, "but the states themselves point elsewhere"


def test_unrelated_states_have_a_cka_of_zero_on_average() -> None:
    """Unbiased: the biased estimator would give about 0.5 at this size."""
    values = [streamed(normal(2 * s, 20, 16), normal(2 * s + 1, 20, 16), [20]).cka or 0.0 for s in range(200)]
    assert np.mean(values) == pytest.approx(0, abs=3 * np.std(values) / np.sqrt(200))


def test_too_few_tokens_and_states_that_do_not_vary_have_no_answer() -> None:
    x = normal(7, 3, 4)
    assert streamed(x, x, [3]).cka is None
    same = torch.ones(9, 4)
    found = streamed(same, same, [9])
    assert (found.cka, found.procrustes, found.effective_rank) == (None, None, None)
    with pytest.raises(ValueError, match="no hidden states"):
        HiddenPair().measures()
