"""Factored spectra against dense ones in double, on the shapes of the families."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inside_models import make_model
from safetensors.torch import load_file

from rankscope.model.load import linear_shapes
from rankscope.model.weights.svd_cache import SvdCache
from rankscope.model.weights.weight_delta import DenseDelta, LowRank, Svd, random_like
from rankscope.study.store_urls import cache_folder


def factored(shape: tuple[int, int], rank: int, dtype: torch.dtype, seed: int = 0, scale: float = 2.0) -> LowRank:
    dice = torch.Generator().manual_seed(seed)
    b = torch.randn(shape[0], rank, generator=dice, dtype=torch.float64)
    a = torch.randn(rank, shape[1], generator=dice, dtype=torch.float64)
    return LowRank(a.to(dtype), b.to(dtype), scale)


def dense_values(delta: LowRank) -> torch.Tensor:
    whole = delta.scale * delta.b.double() @ delta.a.double()
    return torch.linalg.svdvals(whole)


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "GPT2"])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 1e-3), (torch.bfloat16, 1e-3)])
def test_singular_values_are_those_of_the_dense_product(family: str, dtype: torch.dtype, relative: float) -> None:
    for shape in sorted(set(linear_shapes(make_model(family)).values())):
        delta = factored(shape, 6, dtype)
        torch.testing.assert_close(
            delta.singular_values().double(), dense_values(delta)[:6], rtol=relative, atol=0, check_dtype=False
        )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 20), st.floats(-3, 3).filter(lambda x: abs(x) > 0.01))
def test_the_factored_svd_gives_the_product_back(out: int, in_: int, rank: int, scale: float) -> None:
    delta = factored((out, in_), rank, torch.float64, scale=scale)
    svd = delta.svd()
    count = len(svd.values)
    assert count == min(out, in_, rank)
    torch.testing.assert_close((svd.left * svd.values) @ svd.right, delta.dense())
    torch.testing.assert_close(svd.left.T @ svd.left, torch.eye(count, dtype=torch.float64))
    torch.testing.assert_close(svd.right @ svd.right.T, torch.eye(count, dtype=torch.float64))
    again = svd.low_rank(scale)
    assert (again.shape, again.rank, again.scale) == ((out, in_), count, scale)
    torch.testing.assert_close(scale * again.b @ again.a, delta.dense())


def test_the_control_has_the_same_singular_values() -> None:
    values = torch.tensor([3.0, 2.0, 0.5], dtype=torch.float64)
    control = random_like(values, (20, 9), torch.Generator().manual_seed(0))
    torch.testing.assert_close(control.singular_values(), values)
    other = random_like(values, (20, 9), torch.Generator().manual_seed(1))
    assert not torch.allclose(control.dense(), other.dense())


def test_a_dense_delta_is_the_matrix_itself() -> None:
    delta = factored((9, 7), 3, torch.float64)
    dense = DenseDelta(delta.dense())
    assert dense.rank == 7
    torch.testing.assert_close(dense.singular_values()[:3], delta.singular_values())


# ---- the cache ------------------------------------------------------------------------------------------------------


def test_the_svd_of_a_base_is_computed_once_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = factored((9, 7), 7, torch.float32).dense()
    cache, calls, real = SvdCache(tmp_path), [], torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *a, **k: calls.append(1) or real(*a, **k))
    first = cache.svd(weight)
    again = SvdCache(tmp_path).svd(weight.clone())
    assert len(calls) == 1
    assert cache.holds(weight)
    assert all(torch.equal(getattr(first, k), getattr(again, k)) for k in ("left", "values", "right"))
    cache.svd(weight + 1)
    cache.svd(weight.double())
    cache.svd(weight, "model q_proj")
    cache.svd(weight, "model k_proj")
    assert len(calls) == 5
    files = list((tmp_path / "svd").iterdir())
    assert len(files) == 5
    assert set(load_file(files[0])) == {"left", "values", "right"}


def test_a_damaged_or_unwritable_cache_is_no_error(tmp_path: Path) -> None:
    weight = factored((9, 7), 7, torch.float32).dense()
    cache = SvdCache(tmp_path)
    cache.svd(weight)
    (file,) = (tmp_path / "svd").iterdir()
    file.write_bytes(b"not safetensors")
    assert math.isclose(float(cache.svd(weight).values.square().sum()), float(weight.square().sum()), rel_tol=1e-5)
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert isinstance(SvdCache(blocked).svd(weight), Svd)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANKSCOPE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("RANKSCOPE_CACHE")
    assert cache_folder().name == "rankscope"
