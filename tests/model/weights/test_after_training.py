"""Remedies of a change against the same arithmetic on dense matrices."""

from __future__ import annotations

import pytest
import torch

from rankscope.model.weights.after_training import AS_TRAINED, AfterTraining, candidates, layer_of
from rankscope.model.weights.weight_delta import LowRank

LAYERS = 4
MODULES = [f"model.layers.{i}.mlp.up_proj" for i in range(LAYERS)]


def factors(seed: int = 0, rank: int = 5) -> dict[str, LowRank]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: LowRank(torch.randn(rank, 12, generator=generator), torch.randn(9, rank, generator=generator), 0.5)
        for name in MODULES
    }


def test_a_dial_of_1_is_the_change_itself_bit_for_bit() -> None:
    given = factors()
    made = AS_TRAINED.factors(given, LAYERS)
    assert all(torch.equal(made[n].a, given[n].a) and torch.equal(made[n].b, given[n].b) for n in given)
    after = {name: torch.randn(4, 4) for name in MODULES}
    before = {name: torch.randn(4, 4) for name in MODULES}
    whole, ranks = AS_TRAINED.weights(before, after, LAYERS)
    assert all(torch.equal(whole[name], after[name]) for name in after)
    assert ranks == {}


@pytest.mark.parametrize(
    "remedy", [one for one in candidates(factored=True) if one.energy is None], ids=lambda r: r.name
)
def test_factors_are_scaled_as_their_product(remedy: AfterTraining) -> None:
    given = factors()
    for i, (name, made) in enumerate(remedy.factors(given, LAYERS).items()):
        scale = remedy.below if i < 2 else remedy.above
        assert torch.allclose(made.dense(), scale * given[name].dense(), atol=1e-6)


@pytest.mark.parametrize("energy", [0.5, 0.7, 0.9, 1.0])
def test_an_energy_keeps_the_fewest_largest_parts_that_hold_it(energy: float) -> None:
    given = factors()
    for name, made in AfterTraining(energy=energy).factors(given, LAYERS).items():
        u, values, vh = torch.linalg.svd(given[name].dense().double(), full_matrices=False)
        shares = values.square().cumsum(0) / values.square().sum()
        rank = next(k for k in range(1, 10) if shares[k - 1] >= energy - 1e-12)
        assert made.rank == rank
        expected = (u[:, :rank] * values[:rank]) @ vh[:rank]
        assert torch.allclose(made.dense().double(), expected, atol=1e-5)


@pytest.mark.parametrize("remedy", candidates(factored=False), ids=lambda r: r.name)
def test_whole_weights_are_interpolated_and_cut(remedy: AfterTraining) -> None:
    generator = torch.Generator().manual_seed(3)
    before = {name: torch.randn(30, 20, generator=generator) for name in MODULES}
    left, right = torch.randn(30, 1, generator=generator), torch.randn(1, 20, generator=generator)
    after = {name: w + left @ right + 0.05 * torch.randn(30, 20, generator=generator) for name, w in before.items()}
    before["model.norm.weight"], after["model.norm.weight"] = torch.ones(20), torch.full((20,), 2.0)
    made, ranks = remedy.weights(before, after, LAYERS)
    for name in MODULES:
        change = (after[name] - before[name]).double()
        if remedy.cut_noise:
            u, values, vh = torch.linalg.svd(change, full_matrices=False)
            change = (u[:, :1] * values[:1]) @ vh[:1]
            assert ranks[name] == 1
        scale = remedy.below if (layer_of(name) or 0) < 2 else remedy.above
        assert torch.allclose(made[name].double(), before[name].double() + scale * change, atol=1e-5)
    assert torch.allclose(made["model.norm.weight"], torch.full((20,), 1 + remedy.above))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.7.mlp.up_proj.weight", 7), ("transformer.h.11.attn.c_attn", 11), ("model.norm.weight", None),
        ("model.embed_tokens.weight", None), ("gpt_neox.layers.0.attention.dense", 0),
    ],
)  # fmt: skip
def test_layers_are_told_by_the_path(name: str, layer: int | None) -> None:
    assert layer_of(name) == layer


def test_embeddings_go_with_the_lower_blocks_and_the_head_with_the_upper() -> None:
    remedy = AfterTraining(0.5, 1.0)
    assert remedy.scale_of("model.embed_tokens.weight", LAYERS) == 0.5
    assert remedy.scale_of("lm_head.weight", LAYERS) == 1.0
    assert [remedy.scale_of(name, LAYERS) for name in MODULES] == [0.5, 0.5, 1.0, 1.0]


def test_a_cut_is_for_one_kind_of_change() -> None:
    with pytest.raises(ValueError, match="median singular value"):
        AfterTraining(cut_noise=True).factors(factors(), LAYERS)
    with pytest.raises(ValueError, match="for factors"):
        AfterTraining(energy=0.9).weights({}, {}, LAYERS)


def test_names_are_told_apart() -> None:
    for factored in (True, False):
        names = [one.name for one in candidates(factored=factored)]
        assert len(set(names)) == len(names)
        assert names[0] == "dial 1"
