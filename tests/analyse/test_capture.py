"""One pass over the probe items against a plain eager forward of every item, family by family."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from inside_models import FAMILIES, make_model
from peft import LoraConfig, get_peft_model
from test_hidden_states import reference as hidden_reference
from tiny_families import family_config
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from rankscope.analyse import attention_and_neurons as attention_module
from rankscope.analyse import capture as capture_module
from rankscope.analyse import kept_base
from rankscope.analyse.attention_and_neurons import Queries
from rankscope.analyse.capture import CannotCapture, SideModel, capture, probe_tokens
from rankscope.analyse.kept_base import KeptBase
from rankscope.model.decoder_parts import blocks
from rankscope.records import Item

LAYERS = 3


def items(seed: int, count: int = 6) -> list[Item]:
    dice = torch.Generator().manual_seed(seed)
    made = []
    for i in range(count):
        size = int(torch.randint(3, 14, (), generator=dice))
        ids = torch.randint(3, 97, (size + 2,), generator=dice).tolist()
        made.append(Item(f"i{i}", "choices", tuple(ids[:size]), ((5,), tuple(ids[size:])), answer_index=1))
    return made


def side(model: PreTrainedModel) -> SideModel:
    return SideModel(model, nullcontext)


def units_of(mlp: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """(activations, output of the nonlinearity), written down for each family."""
    named: Any = mlp
    if hasattr(mlp, "gate_up_proj"):
        gate, up = named.gate_up_proj(x).chunk(2, dim=-1)
        return up * named.activation_fn(gate), named.activation_fn(gate)
    if hasattr(mlp, "gate_proj"):
        fired = named.act_fn(named.gate_proj(x))
        return fired * named.up_proj(x), fired
    fired = named.act(named.c_fc(x) if hasattr(mlp, "c_fc") else named.dense_h_to_4h(x))
    return fired, fired


class Plain:
    """A model run eagerly, item by item, without padding, everything kept."""

    def __init__(self, model: PreTrainedModel, probes: list[Item]) -> None:
        self.states: list[list[Tensor]] = []
        self.maps: list[list[Tensor]] = []
        self.units: list[list[tuple[Tensor, Tensor]]] = []
        for item in probes:
            inputs: list[Tensor] = []
            handles = [
                block.mlp.register_forward_pre_hook(lambda _, given, kept=inputs: kept.append(given[0]))
                for block in blocks(model)
            ]
            with torch.no_grad():
                out = model(torch.tensor([probe_tokens(item)]), output_attentions=True, output_hidden_states=True)
                self.units.append([units_of(b.mlp, x[0]) for b, x in zip(blocks(model), inputs, strict=True)])
            for handle in handles:
                handle.remove()
            self.states.append([h[0] for h in out.hidden_states[1:]])
            self.maps.append([a[0] for a in out.attentions])


def attention_reference(base: list[Tensor], arm: list[Tensor], head: int) -> dict[str, float]:
    """Means over all queries but the first of each item, of one layer and head."""
    rows: dict[str, list[float]] = {}
    for p_map, q_map in zip(base, arm, strict=True):
        for t in range(1, p_map.shape[-1]):
            p, q = p_map[head, t, : t + 1].double(), q_map[head, t, : t + 1].double()
            back = torch.arange(t, -1, -1, dtype=torch.float64)

            def kl(a: Tensor, b: Tensor) -> float:
                return float(torch.where(a > 0, a * (a / b).log(), 0.0).sum())

            middle = (p + q) / 2
            for name, value in {
                "entropy_base": float(torch.special.entr(p).sum()), "entropy": float(torch.special.entr(q).sum()),
                "distance_base": float(p @ back), "distance": float(q @ back),
                "first_token_base": float(p[0]), "first_token": float(q[0]),
                "divergence": (kl(p, middle) + kl(q, middle)) / 2,
            }.items():  # fmt: skip
                rows.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in rows.items()}


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_every_measure_is_that_of_a_plain_eager_forward(family: str, dtype: torch.dtype, relative: float) -> None:
    plain_models = [
        make_model(family, seed, dtype, attention="eager", num_hidden_layers=LAYERS, n_layer=LAYERS) for seed in (0, 1)
    ]
    models = [make_model(family, seed, dtype, num_hidden_layers=LAYERS, n_layer=LAYERS) for seed in (0, 1)]
    probes = items(3)
    found = capture(side(models[0]), side(models[1]), {"a": probes, "b": probes[:2]}, token_budget=40)
    base, arm = (Plain(model, probes) for model in plain_models)
    near = {"rel": relative, "abs": 1e-10 if dtype == torch.float64 else 1e-5}

    hidden = [row for row in found["hidden"] if row["suite"] == "a"]
    assert [row["layer"] for row in hidden] == list(range(LAYERS))
    for layer in range(LAYERS - 1):  # transformers gives the last one after the final norm
        x, y = (torch.cat([states[layer] for states in side.states]) for side in (base, arm))
        assert hidden[layer]["tokens"] == len(x)
        for name, value in hidden_reference(x, y).items():
            assert hidden[layer][name] == pytest.approx(value, **near), (layer, name)

    attention = [row for row in found["attention"] if row["suite"] == "a"]
    assert [(row["layer"], row["head"]) for row in attention] == [(n, h) for n in range(LAYERS) for h in range(4)]
    for row in attention:
        maps = [[m[row["layer"]] for m in side.maps] for side in (base, arm)]
        for name, value in attention_reference(*maps, row["head"]).items():
            assert row[name] == pytest.approx(value, **near), (row["layer"], row["head"], name)

    for row in [row for row in found["neurons"] if row["suite"] == "a"]:
        (a, fired_a), (b, fired_b) = (
            tuple(torch.cat([u[row["layer"]][k].double() for u in side.units]) for k in (0, 1)) for side in (base, arm)
        )
        change = (b.mean(0) - a.mean(0)).abs() / a.std(0, correction=0)
        assert row["mean_change"] == pytest.approx(float(change.mean()), **near)
        rates = [(fired > 0).double().mean(0) for fired in (fired_a, fired_b)]
        assert row["firing_change"] == pytest.approx(float((rates[0] - rates[1]).abs().mean()), **near)
        assert row["top_units"] == change.sort(descending=True).indices[:8].tolist()


@pytest.mark.parametrize("family", ["Qwen3", "Gemma 3", "Mixtral", "Qwen3-MoE"])
def test_attention_of_the_other_documented_families_is_that_of_an_eager_forward(family: str) -> None:
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(AutoModelForCausalLM.from_config(family_config(family, vocab_size=97)).eval())
    probes = items(3, count=3)
    found = capture(side(models[0]), side(models[1]), {"s": probes}, token_budget=40)
    assert len(found["hidden"]) == 2
    assert len(found["neurons"]) == (0 if family in ("Mixtral", "Qwen3-MoE") else 2), "experts are not one MLP"
    for model in models:
        model.set_attn_implementation("eager")
    kept: list[list[tuple[Tensor, ...]]] = [[], []]
    for k, model in enumerate(models):
        for item in probes:
            with torch.no_grad():
                kept[k].append(model(torch.tensor([probe_tokens(item)]), output_attentions=True).attentions)
    for row in found["attention"]:
        base, arm = ([maps[row["layer"]][0] for maps in side_maps] for side_maps in kept)
        for name, value in attention_reference(base, arm, row["head"]).items():
            assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-5), (row["layer"], row["head"], name)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_base_against_itself_shows_nothing(family: str) -> None:
    model = make_model(family)
    before = model.config._attn_implementation
    found = capture(side(model), side(model), {"s": items(1)}, token_budget=64)
    assert all(row["cka"] == pytest.approx(1, abs=1e-6) for row in found["hidden"])
    assert all(row["cosine_drift"] == pytest.approx(0, abs=1e-6) for row in found["hidden"])
    assert all(row["procrustes"] == pytest.approx(0, abs=1e-6) for row in found["hidden"])
    assert all(row["divergence"] < 1e-6 for row in found["attention"])
    assert all((row["mean_change"], row["firing_change"], row["top_units"]) == (0, 0, []) for row in found["neurons"])
    assert model.config._attn_implementation == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_adapter_is_compared_with_itself_switched_off() -> None:
    model = make_model("Llama")
    peft = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    other = make_model("Llama")
    off, on = SideModel(model, peft.disable_adapter), side(model)
    found = capture(off, on, {"s": items(2)}, token_budget=64)
    assert all(row["divergence"] > 1e-4 for row in found["attention"])
    merged = get_peft_model(make_model("Llama"), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    merged.load_state_dict(peft.state_dict())
    again = capture(side(other), side(merged.merge_and_unload()), {"s": items(2)}, token_budget=64)
    for one, two in zip(found["hidden"], again["hidden"], strict=True):
        assert one["cka"] == pytest.approx(two["cka"], abs=1e-4)
        assert one["cosine_drift"] == pytest.approx(two["cosine_drift"], abs=1e-5)


@pytest.mark.parametrize("most", [0, 20_000, 1 << 30])
def test_what_the_base_left_is_kept_for_the_next_arm(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, whether all batches are kept, some, or none; the base runs once for each that is kept."""
    monkeypatch.setattr(kept_base, "MOST_BYTES", most)
    base, *arms = (make_model("Llama", seed, torch.float32, num_hidden_layers=LAYERS) for seed in (0, 1, 2, 1))
    probes, kept = {"a": items(3), "b": items(4, count=3)}, KeptBase()
    runs = []
    base.register_forward_hook(lambda *_: runs.append(1))
    base.get_decoder().register_forward_hook(lambda *_: runs.append(1))
    counts = []
    for arm in arms:
        wanted = capture(side(base), side(arm), probes, token_budget=40)
        runs.clear()
        assert capture(side(base), side(arm), probes, token_budget=40, kept=kept) == wanted
        counts.append(len(runs))
    assert counts[0] > 2
    assert counts[1] == counts[2]
    assert counts[1] == counts[0] if most == 0 else counts[1] < counts[0]
    assert (counts[1] == 0) == (most == 1 << 30)


def test_an_adapter_switched_off_is_kept_too() -> None:
    kept, found = KeptBase(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        model = get_peft_model(make_model("Llama", 0, torch.float32), config)
        given = SideModel(model.base_model.model, model.disable_adapter), side(model.base_model.model)
        found.append(capture(*given, {"a": items(3)}, token_budget=60, kept=kept))
        assert found[-1] == capture(*given, {"a": items(3)}, token_budget=60)
    assert found[0] != found[1]


def test_of_a_suite_that_was_not_finished_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, base, arm = KeptBase(), *(make_model("Llama", seed, torch.float32) for seed in (0, 1))
    real, calls = capture_module._compare, []

    def fails(*given: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise CannotCapture("later")
        real(*given)

    monkeypatch.setattr(capture_module, "_compare", fails)
    with pytest.raises(CannotCapture, match="later"):
        capture(side(base), side(arm), {"a": items(3)}, token_budget=30, kept=kept)
    assert kept.suite("a") is None
    again = capture(side(base), side(arm), {"a": items(3)}, token_budget=30, kept=kept)
    assert again == capture(side(base), side(arm), {"a": items(3)}, token_budget=30)


def test_maps_of_one_layer_at_a_time_and_no_more_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "_MAP_ELEMENTS", 4 * 13 * 13)  # one item of the longest
    monkeypatch.setattr(attention_module, "_QUERY_BLOCK", 5)
    sizes: list[int] = []
    real = Queries.scores

    def counted(self: Queries, chosen: slice, block: slice, out: Tensor) -> None:
        sizes.append(out.numel())
        real(self, chosen, block, out)

    monkeypatch.setattr(Queries, "scores", counted)
    model, arm = make_model("Llama"), make_model("Llama", seed=1)
    small = capture(side(model), side(arm), {"s": items(1)}, token_budget=200)
    blocks_of_five = sum(-(-len(probe_tokens(item)) // 5) for item in items(1))
    assert len(sizes) == 2 * 2 * blocks_of_five, "both sides of two layers, item by item, five queries at a time"
    assert max(sizes) == 4 * 5 * max(len(probe_tokens(item)) for item in items(1))
    monkeypatch.undo()
    whole = capture(side(model), side(arm), {"s": items(1)}, token_budget=200)
    for one, two in zip(small["attention"], whole["attention"], strict=True):
        assert list(one.values())[1:] == pytest.approx(list(two.values())[1:], rel=1e-5)


def test_a_model_built_otherwise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("Llama")
    monkeypatch.setattr(capture_module, "_LAST_PROJECTIONS", ("elsewhere",))
    found = capture(side(model), side(model), {"s": items(1)}, token_budget=64)
    assert found["neurons"] == []
    assert len(found["hidden"]) == 2
    monkeypatch.setattr(model.config, "num_hidden_layers", 7)
    with pytest.raises(CannotCapture, match="7 blocks"):
        capture(side(model), side(model), {"s": items(1)}, token_budget=64)
    assert model.config._attn_implementation == "sdpa"
