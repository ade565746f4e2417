"""Every measure of the weights against a plain dense reference in double, and the truths that are known beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from inside_models import make_model

from rankscope.analyse import merged_spectra
from rankscope.analyse.merged_spectra import intruder_columns, merged_top
from rankscope.analyse.update_spectra import (
    Change,
    Value,
    change_of,
    energy_rank,
    layer_and_kind,
    measured,
    module_rows,
)  # fmt: skip
from rankscope.model.load import linear_shapes
from rankscope.model.weights.svd_cache import SvdCache
from rankscope.model.weights.weight_delta import DenseDelta, LowRank, Svd, matrices

DICE = torch.Generator().manual_seed(7)


def normal(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.randn(*shape, generator=DICE, dtype=torch.float64) * scale).to(dtype)


def svd_of(weight: torch.Tensor) -> Svd:
    return Svd(*torch.linalg.svd(weight, full_matrices=False))


def reference_cosines(weight: torch.Tensor, delta: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """|U0^T U_k| (K, k) and the k largest singular values, all dense, in double."""
    u0 = torch.linalg.svd(weight.double(), full_matrices=False)[0]
    u, values, _ = torch.linalg.svd(weight.double() + delta.double(), full_matrices=False)
    return (u0.T @ u[:, :count]).abs(), values[:count]


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "GPT2"])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_all_measures_of_every_module_agree_with_dense_ones(
    family: str, dtype: torch.dtype, relative: float, tmp_path: Path
) -> None:
    model = make_model(family, dtype=dtype)
    shapes = linear_shapes(model)
    deltas = {
        m: LowRank(b=normal(o, 4, scale=0.3, dtype=dtype), a=normal(4, i, scale=0.3, dtype=dtype), scale=2.0)
        for m, (o, i) in shapes.items()
    }
    weights = matrices(model, shapes)
    rows = list(module_rows(deltas, weights, SvdCache(tmp_path), model_sha256=None, seed=0, widest=None))
    assert [row["module"] for row in rows] == list(shapes)
    for row in rows:
        module = row["module"]
        weight = weights[module].double()
        delta = 2.0 * deltas[module].b.double() @ deltas[module].a.double()
        values = torch.linalg.svdvals(delta)[:4]
        shares = values / values.sum()
        cosines, top = reference_cosines(weight, delta, 500)
        intruders = cosines[:, :10].amax(0) < 0.5
        expected = {
            "frobenius_norm": delta.norm(),
            "spectral_norm": values[0],
            "stable_rank": (delta.norm() / values[0]) ** 2,
            "utilisation": (delta.norm() / values[0]) ** 2 / 4,
            "effective_rank": torch.exp(-(shares * shares.log()).sum()),
            "relative_norm": delta.norm() / weight.norm(),
            "preservation_10": cosines.diagonal()[:10].mean(),
            "preservation_500": cosines.diagonal().mean(),
            "overlap_10": cosines[:10, :10].square().sum() / 10,
            "overlap_500": cosines[: cosines.shape[1]].square().sum() / cosines.shape[1],
            "intruders": intruders.sum(),
            "intruder_energy": top[:10][intruders].square().sum() / (weight + delta).square().sum(),
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(float(value), rel=relative, abs=1e-12), (module, name)
        assert row["singular_values"] == pytest.approx(values.tolist(), rel=relative)
        assert (row["rank"], row["reason"]) == (4, None)


@pytest.mark.parametrize("shape", [(120, 120), (160, 90), (90, 160)])
@pytest.mark.parametrize("scale", [0.01, 0.3, 3.0])
def test_the_iteration_finds_what_the_dense_svd_finds(
    shape: tuple[int, int], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_spectra, "_DENSE_BELOW", 0)
    weight = normal(*shape)
    delta = LowRank(b=normal(shape[0], 3, scale=scale), a=normal(3, shape[1], scale=scale), scale=1.5)
    found = merged_top(svd_of(weight), delta, 10)
    cosines, values = reference_cosines(weight, delta.dense(), 10)
    torch.testing.assert_close(found.values, values, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.cosines.abs(), cosines, rtol=0, atol=1e-5)
    assert found.energy == pytest.approx(float((weight + delta.dense()).square().sum()), rel=1e-12)
    monkeypatch.undo()
    plain = merged_top(svd_of(weight), delta, 10)
    torch.testing.assert_close(plain.cosines.abs(), cosines, rtol=0, atol=1e-5)


def test_a_dense_change_gives_the_same_comparison_as_its_factors() -> None:
    weight = normal(40, 30)
    delta = LowRank(b=normal(40, 3, scale=0.5), a=normal(3, 30, scale=0.5), scale=1.0)
    one, other = (measured(change_of(d, svd_of(weight))) for d in (delta, DenseDelta(delta.dense())))
    for name in ("preservation_10", "overlap_500", "intruders", "relative_norm"):
        assert one[name] == pytest.approx(other[name])


@pytest.mark.parametrize("shape", [(40, 30), (30, 40)])
@pytest.mark.parametrize("rank", [14, 15, 16, 30])
def test_a_rank_that_is_not_low_is_decomposed_as_a_whole(
    shape: tuple[int, int], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above half of K, as the control of a full change has it; on either side of that the reference's values."""
    weight, seen, whole = normal(*shape), [], merged_spectra._of_dense
    delta = LowRank(b=normal(shape[0], rank, scale=0.3), a=normal(rank, shape[1], scale=0.3), scale=1.5)
    monkeypatch.setattr(merged_spectra, "_of_dense", lambda *given: seen.append(1) or whole(*given))
    found = merged_top(svd_of(weight), delta, 10)
    assert bool(seen) == (rank > 15)
    cosines, values = reference_cosines(weight, delta.dense(), 10)
    torch.testing.assert_close(found.values, values, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.cosines.abs(), cosines, rtol=0, atol=1e-5)


def test_the_base_against_itself_has_no_intruders_and_keeps_every_vector() -> None:
    weight = normal(30, 40)
    for zero in (
        LowRank(normal(4, 40), torch.zeros(30, 4).double(), 2.0),
        DenseDelta(torch.zeros(30, 40).double()),
    ):
        found = measured(change_of(zero, svd_of(weight)))
        assert (found["intruders"], found["intruders_random"], found["relative_norm"]) == (0, 0, 0.0)
        assert found["preservation_10"] == pytest.approx(1)
        assert found["overlap_500"] == pytest.approx(1)
        alone = measured(change_of(zero))
        none = ("stable_rank", "effective_rank", "energy_rank_90", "utilisation", "relative_norm", "intruders")
        assert [alone[name] for name in none] == [None] * len(none)


def test_a_planted_intruder_is_found() -> None:
    """A change along the sum of all of W0's left vectors: no single one has a cosine above 1 / sqrt(K)."""
    weight = normal(64, 64) / 8
    base = svd_of(weight)
    direction = base.left @ torch.ones(64, 1, dtype=torch.float64) / 8
    right = base.right.T @ torch.ones(64, 1, dtype=torch.float64) / 8
    delta = LowRank(20 * right.T, direction, 1.0)
    found = measured(change_of(delta, base))
    assert found["intruders"] == 1
    energy = float((weight + delta.dense()).square().sum())
    assert found["intruder_energy"] == pytest.approx(400 / energy, rel=0.1)
    along = LowRank(20 * base.right[:1], base.left[:, :1], 1.0)
    assert measured(change_of(along, base))["intruders"] == 0, "as large, but along W0's own first vector"
    assert intruder_columns(torch.tensor([[0.4, 0.6], [0.45, 0.1]])) == [0]


def of_values(values: torch.Tensor, rank: int) -> dict[str, Value]:
    return measured(Change(DenseDelta(values.diag()), values.double(), rank))


def test_known_spectra() -> None:
    flat = of_values(torch.ones(8, dtype=torch.float64), 16)
    assert (flat["stable_rank"], flat["effective_rank"]) == (pytest.approx(8), pytest.approx(8))
    assert [flat[f"energy_rank_{share}"] for share in (90, 95, 99)] == [8, 8, 8]
    assert flat["utilisation"] == pytest.approx(0.5)
    one = of_values(torch.tensor([3.0, 0.0, 0.0]), 3)
    assert (one["stable_rank"], one["effective_rank"], one["energy_rank_99"]) == (pytest.approx(1), pytest.approx(1), 1)
    assert energy_rank(torch.tensor([3.0, 1.0]), 0.9) == 1
    assert energy_rank(torch.tensor([3.0, 1.0]), 0.91) == 2


def test_a_matrix_that_is_too_wide_is_left_out_with_a_reason_unless_cached(tmp_path: Path) -> None:
    weight = {"m": normal(30, 20)}
    delta = {"m": LowRank(b=normal(30, 2), a=normal(2, 20), scale=1.0)}
    cache = SvdCache(tmp_path)
    (row,) = module_rows(delta, weight, cache, model_sha256="x", seed=0, widest=10)
    assert row["intruders"] is None
    assert "wider than 10" in row["reason"]
    assert row["relative_norm"] == pytest.approx(float(delta["m"].dense().norm() / weight["m"].norm()))
    cache.svd(weight["m"], "x m")
    (row,) = module_rows(delta, weight, cache, model_sha256="x", seed=0, widest=10)
    assert row["intruders"] is not None
    (row,) = module_rows(delta, {}, cache, model_sha256="x", seed=0, widest=10)
    assert (row["relative_norm"], row["reason"]) == (None, "no base weight was given")


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("model.layers.3.self_attn.q_proj", (3, "q_proj")),
        ("transformer.h.11.mlp.c_fc", (11, "c_fc")),
        ("model.embed_tokens", (None, "embed_tokens")),
    ],
)
def test_layer_and_kind_are_read_off_the_path(module: str, expected: tuple[int | None, str]) -> None:
    assert layer_and_kind(module) == expected
