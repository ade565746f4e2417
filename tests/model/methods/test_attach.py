"""Every method of docs/models.md, each cell of its table, against PEFT and against the model's own forward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from one_adapter import adapt, load_adapter, open_pack
from own_forward import (
    assert_same_step,
    choice_items,
    fresh,
    gradients,
    our_loss,
    own_continuation,
    own_loss,
    own_scores,
    plain,
    rows,
    shake,
)
from safetensors.torch import load_file
from table_of_docs import table as table_of
from tiny_families import FAMILIES, WINDOW

from rankscope.evaluate.adapter_scoring import AdapterNotApplied, check_adapter
from rankscope.evaluate.choice_scoring import choice_logprobs
from rankscope.evaluate.generation import greedy
from rankscope.model.load import LoadedModel, inspect_model, load_model
from rankscope.model.methods.bottleneck_modules import Bottleneck
from rankscope.model.methods.peft_modules import lora_config
from rankscope.model.methods.virtual_tokens_modules import PromptTooLong, virtual_tokens
from rankscope.model.model_source import no_progress_bars
from rankscope.study.methods import METHODS as EVERY_METHOD
from rankscope.study.problems import InputProblems
from rankscope.study.study import Arm, ModelSpec

TABLE = table_of("models.md", "method")
METHODS = {name: method for name, method in EVERY_METHOD.items() if method.trained}
SIZES: dict[str, dict[str, Any]] = {
    **{method: {"rank": 4, "alpha": 8.0, "targets": "all-linear"} for method in ("lora", "rslora", "dora", "pissa")},
    **{method: {"virtual_tokens": 3} for method in ("prompt-tuning", "prefix-tuning")},
    "adapters": {"bottleneck": 6},
    "last-k-layers": {"layers": 1},
}
ARMS = {method: Arm(label=method, method=method, learning_rate=1e-3, **SIZES.get(method, {})) for method in METHODS}
ADAPTERS = [method for method in METHODS if not METHODS[method].whole]
IN_MODULES = [method for method in METHODS if not METHODS[method].virtual_tokens(ARMS[method])]
PROMPTED = [method for method in METHODS if METHODS[method].virtual_tokens(ARMS[method])]
SOME_FAMILIES = ["Llama", "GPT-2", "Gemma 2", "Mistral"]
"""Where methods can go wrong: grouped heads, transposed weights, learned positions, a window in some layers or all."""
Bases = Callable[[str], LoadedModel]
Folders = Callable[[str], Path]


def test_the_table_is_what_the_stages_go_by() -> None:
    assert list(TABLE) == list(METHODS)
    for method, row in TABLE.items():
        traits = METHODS[method]
        size = "none" if traits.size is None else f"{traits.size[0]}, -{traits.size[1]}"
        said = {
            "size, label": size,
            "delta": traits.delta or "none",
            "training rows": "padded" if traits.virtual_tokens(ARMS[method]) else "unpadded",
            "merged export": "yes" if traits.merges else "no",
            "dial": "yes" if traits.has_dial else "no",
            "packed": "yes" if traits.can_pack(ARMS[method]) else "no",
            "base in 4 bits": "yes" if traits.on_quantized else "no",
            "checkpointing": "no" if traits.loses_by_checkpointing else "yes",
        }
        assert {key: row[key] for key in said} == said, method
        assert ARMS[method].has_delta == (row["delta"] != "none")


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_counted_exactly(folder_of: Folders, base_of: Bases, family: str) -> None:
    facts = inspect_model(ModelSpec(id=str(folder_of(family))), folder_of(family))
    for method, arm in ARMS.items():
        base = fresh(folder_of(family)) if METHODS[method].whole else base_of(family)
        with adapt(base, arm, 0) as adapted:
            assert adapted.trainable_parameters == arm.trainable_parameters(facts), method


@pytest.mark.parametrize("method", ADAPTERS)
@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_an_adapter_off_is_the_base_and_on_is_not(base_of: Bases, family: str, method: str) -> None:
    base, items = base_of(family), choice_items()
    before = choice_logprobs(base.model, items, token_budget=512)
    names = [name for name, _ in base.model.named_parameters()]
    with adapt(base, ARMS[method], 0) as adapted:
        if method not in PROMPTED and method != "pissa":  # whose start cancels but for rounding
            with pytest.raises(AdapterNotApplied):
                check_adapter(adapted.model, adapted.off, items, before, token_budget=512, tolerance_nats=1e-4)
        shake(adapted)
        check_adapter(adapted.model, adapted.off, items, before, token_budget=512, tolerance_nats=1e-4)
        assert not [name for name, p in adapted.model.named_parameters() if p.requires_grad and "start" in name]
    assert choice_logprobs(base.model, items, token_budget=512) == before, "the base is plain again"
    assert [name for name, _ in base.model.named_parameters()] == names
    assert not any(p.requires_grad for p in base.model.parameters())


@pytest.mark.parametrize("method", IN_MODULES)
@pytest.mark.parametrize("family", ["Llama", "GPT-2"])
def test_one_step_is_the_models_own(folder_of: Folders, base_of: Bases, family: str, method: str) -> None:
    base = fresh(folder_of(family)) if METHODS[method].whole else base_of(family)
    with adapt(base, ARMS[method], 0) as adapted:
        shake(adapted)
        assert_same_step(adapted, rows())


@pytest.mark.parametrize("method", PROMPTED)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_of_virtual_tokens_is_pefts_own(folder_of: Folders, base_of: Bases, family: str, method: str) -> None:
    """Loss and gradients of PEFT's own forward, which puts the virtual tokens in front itself."""
    with adapt(base_of(family), ARMS[method], 0) as adapted:
        (weight,) = adapted.parameters.values()
        ours = our_loss(adapted, rows())
        found = gradients(adapted.parameters, ours)["embedding.weight"]
        assert adapted.peft is not None
        theirs = peft.get_peft_model(plain(folder_of(family)), adapted.peft.peft_config["default"])
    own = theirs.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        own.copy_(weight)
    loss = own_loss(theirs, rows())
    assert ours.item() == pytest.approx(loss.item(), abs=1e-5)
    (expected,) = torch.autograd.grad(loss, [own])
    assert expected.abs().max() > 1e-4
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("method", PROMPTED)
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_answers_after_virtual_tokens(base_of: Bases, family: str, method: str) -> None:
    """Trees of choices and cached, padded decoding, against whole unpadded forwards."""
    items = choice_items()
    with adapt(base_of(family), ARMS[method], 0) as adapted:
        model = adapted.model
        assert virtual_tokens(model) == 3
        for item, scores in zip(items, choice_logprobs(model, items, token_budget=512), strict=True):
            assert scores == pytest.approx(own_scores(model, item), abs=2e-4)
        prompts = [item.prompt_ids for item in items]
        written = greedy(model, prompts, max_new_tokens=WINDOW + 3, eos_ids={2}, token_budget=512)
        assert written == [own_continuation(model, prompt, WINDOW + 3) for prompt in prompts]
        with adapted.off():
            assert virtual_tokens(model) == 0
    assert virtual_tokens(base_of(family).model) == 0


@pytest.mark.parametrize("method", [m for m in ADAPTERS if m != "adapters"])
@pytest.mark.parametrize("family", ["Llama", "GPT-2"])
def test_a_saved_adapter_is_pefts(folder_of: Folders, base_of: Bases, family: str, method: str, tmp_path: Path) -> None:
    base, ids = base_of(family), torch.arange(20, 50)[None]
    with torch.no_grad():
        with adapt(base, ARMS[method], 0) as adapted:
            shake(adapted)
            expected = adapted.model(ids).logits
            adapted.save(tmp_path)
        theirs = peft.PeftModel.from_pretrained(plain(folder_of(family)), str(tmp_path))
        assert torch.allclose(theirs(input_ids=ids).logits[:, -30:], expected, atol=1e-4)
        with load_adapter(base, ARMS[method], tmp_path) as loaded:
            assert torch.allclose(loaded.model(ids).logits, expected, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize("method", METHODS)
def test_stored_parameters_are_those_on_disk(folder_of: Folders, method: str, tmp_path: Path) -> None:
    folder = folder_of("Llama")
    with no_progress_bars(), adapt(fresh(folder), ARMS[method], 0) as adapted:
        adapted.save(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    facts = inspect_model(ModelSpec(id=str(folder)), folder)
    assert sum(tensor.numel() for tensor in load_file(file).values()) == ARMS[method].stored_parameters(facts)


@pytest.mark.parametrize("method", [m for m in ADAPTERS if METHODS[m].merges])
@pytest.mark.parametrize("family", ["Llama", "GPT-2"])
def test_a_merged_model_scores_as_its_adapter(folder_of: Folders, family: str, method: str, tmp_path: Path) -> None:
    ids = torch.arange(20, 50)[None]
    with no_progress_bars(), torch.no_grad():
        base = fresh(folder_of(family))
        with adapt(base, ARMS[method], 0) as adapted:
            shake(adapted)
            expected = adapted.model(ids).logits
            (tmp_path / "adapter").mkdir()
            adapted.save(tmp_path / "adapter")
        with load_adapter(base, ARMS[method], tmp_path / "adapter") as loaded:
            loaded.merged().save_pretrained(tmp_path / "merged")
        assert torch.allclose(plain(tmp_path / "merged")(ids).logits, expected, atol=1e-4)


@pytest.mark.parametrize("method", [m for m in ADAPTERS if not METHODS[m].merges])
def test_what_is_no_weight_cannot_be_merged(base_of: Bases, method: str) -> None:
    with adapt(base_of("Llama"), ARMS[method], 0) as adapted, pytest.raises(InputProblems) as caught:
        adapted.merged()
    assert method in str(caught.value)
    assert "without --merged" in str(caught.value)


@pytest.mark.parametrize("family", ["Llama", "GPT-2", "Qwen3-MoE"])
def test_bottlenecks_are_saved_and_loaded(base_of: Bases, family: str, tmp_path: Path) -> None:
    base, ids = base_of(family), torch.arange(20, 50)[None]
    with torch.no_grad():
        before = base.model(ids).logits
        with adapt(base, ARMS["adapters"], 0) as adapted:
            assert torch.equal(adapted.model(ids).logits, before), "a new adapter changes nothing"
            shake(adapted)
            expected = adapted.model(ids).logits
            adapted.save(tmp_path)
        assert not torch.equal(expected, before)
        with load_adapter(base, ARMS["adapters"], tmp_path) as loaded:
            assert torch.equal(loaded.model(ids).logits, expected)
    assert not any(isinstance(module, Bottleneck) for module in base.model.modules())


def test_a_bottleneck_is_its_formula() -> None:
    torch.manual_seed(0)
    made = Bottleneck(torch.nn.Identity(), 8, 3, torch.zeros(1))
    torch.nn.init.normal_(made.up.weight)
    x = torch.randn(5, 8)
    inner = torch.nn.functional.gelu(x @ made.down.weight.T + made.down.bias)
    assert torch.allclose(made(x), x + inner @ made.up.weight.T + made.up.bias, atol=1e-6)


@pytest.mark.parametrize("family", ["Llama", "GPT-2"])
def test_pissa_trains_as_pefts_does_and_is_saved_as_peft_converts_it(
    folder_of: Folders, base_of: Bases, family: str, tmp_path: Path
) -> None:
    arm = ARMS["pissa"]
    theirs = peft.get_peft_model(plain(folder_of(family)), lora_config(arm, base_of(family).model))
    theirs.save_pretrained(str(tmp_path / "start"))
    own = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    with adapt(base_of(family), arm, 0) as adapted:
        loss, peft_loss = our_loss(adapted, rows()), own_loss(theirs, rows())
        assert loss.item() == pytest.approx(peft_loss.item(), abs=1e-5)
        found, expected = gradients(adapted.parameters, loss), gradients(own, peft_loss)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert torch.allclose(found[name], gradient, atol=1e-5 * max(1.0, float(gradient.abs().max()))), name
        with torch.no_grad():
            for name, parameter in adapted.parameters.items():
                parameter.sub_(0.1 * expected[name])
                own[name].sub_(0.1 * expected[name])
        (tmp_path / "ours").mkdir()
        adapted.save(tmp_path / "ours")
    theirs.save_pretrained(str(tmp_path / "peft"), path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    ours, converted = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "peft"))
    assert ours.keys() == converted.keys()
    assert all(torch.allclose(ours[name], converted[name], atol=1e-5) for name in converted)
    one, other = (peft.LoraConfig.from_pretrained(str(tmp_path / name)) for name in ("ours", "peft"))
    assert (one.r, one.lora_alpha) == (other.r, other.lora_alpha) == (8, 16)


@pytest.mark.parametrize("method", PROMPTED)
def test_a_prefix_starts_as_drawn_tokens(base_of: Bases, method: str) -> None:
    """As if three drawn tokens stood in front: the loss before any step is theirs, not that of noise."""
    base = base_of("Llama")
    with adapt(base, ARMS[method], 5) as adapted:
        found = our_loss(adapted, rows()).item()
        weight = next(iter(adapted.parameters.values())).detach().clone()
    with adapt(base, ARMS[method], 6) as other:
        assert not torch.equal(next(iter(other.parameters.values())), weight)
    torch.manual_seed(5)
    drawn = tuple(torch.randint(0, base.model.config.vocab_size, (1, 3)).flatten().tolist())
    if method == "prompt-tuning":  # PEFT draws these, and other numbers before
        table = base.model.get_input_embeddings().weight
        drawn = tuple(int((table - row).abs().sum(1).argmin()) for row in weight)
    longer = [type(row)(row.item_id, drawn + row.prompt_ids, row.completion_ids) for row in rows()]
    assert found == pytest.approx(own_loss(base.model, longer).item(), abs=1e-4)


@pytest.mark.parametrize("method", PROMPTED)
def test_virtual_tokens_that_a_window_cannot_hold_are_refused(base_of: Bases, method: str) -> None:
    arm = Arm(label="x", method=method, virtual_tokens=WINDOW, learning_rate=1e-3)  # type: ignore[arg-type]
    with pytest.raises(PromptTooLong, match="9 virtual tokens"), adapt(base_of("Mistral"), arm, 0):
        pass


@pytest.mark.parametrize("method", ADAPTERS)
def test_bfloat16(folder_of: Folders, method: str, tmp_path: Path) -> None:
    base, ids = (
        load_model(ModelSpec(id=str(folder_of("Llama"))), Path("/"), "bfloat16", "cpu"),
        torch.arange(20, 50)[None],
    )
    with torch.no_grad():
        before = base.model(ids).logits
    with adapt(base, ARMS[method], 0) as adapted:
        loss = our_loss(adapted, rows())
        assert all(torch.isfinite(g).all() for g in gradients(adapted.parameters, loss).values())
        shake(adapted)
        with torch.no_grad(), adapted.off():
            assert torch.equal(adapted.model(ids).logits, before)
        with torch.no_grad():
            expected = adapted.model(ids).logits
        adapted.save(tmp_path)
    with torch.no_grad(), load_adapter(base, ARMS[method], tmp_path) as loaded:
        difference = (loaded.model(ids).logits - expected).float().abs().mean() / expected.float().abs().mean()
    assert difference <= (0.05 if method == "pissa" else 0.0), "PiSSA's halves are one product once saved, and round so"


def test_one_low_rank_update_is_added_for_scoring_on_a_small_model_and_nothing_stays(
    base_of: Bases, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, items = base_of("Llama"), choice_items()

    def logprobs() -> list[float]:
        return [value for item in choice_logprobs(base.model, items, token_budget=4096) for value in item]

    before = logprobs()
    with open_pack(base, [ARMS["lora"]], 0) as pack:
        shake(pack.members[0])
        own = logprobs()
        with pack.summed():
            summed = logprobs()
            with pack.members[0].off():
                assert logprobs() == before
        assert logprobs() == own
        monkeypatch.setattr("rankscope.model.methods.attach.SUMMED_BYTES", 0)
        with pack.summed():
            assert logprobs() == own, "too large to be copied"
    assert summed == pytest.approx(own, abs=1e-5)
    assert summed != own, "the products were others"
    assert own != pytest.approx(before, abs=1e-2)
    monkeypatch.undo()
    with open_pack(base, [ARMS["lora"], ARMS["rslora"]], 0) as pack, pack.running([0]):
        shake(pack.members[0])
        own = logprobs()
        with pack.summed():
            assert logprobs() == own, "of several arms nothing changes"
