"""Every family of docs/models.md, each cell of its table: a tiny random checkpoint against its own forward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from one_adapter import adapt, load_adapter
from own_forward import (
    assert_same_step,
    choice_items,
    fresh,
    gradients,
    own_continuation,
    own_scores,
    plain,
    rows,
    shake,
)  # fmt: skip
from table_of_docs import table
from tiny_families import FAMILIES, WINDOW

from rankscope.data.training_batches import collate
from rankscope.evaluate.choice_scoring import choice_logprobs
from rankscope.evaluate.generation import greedy
from rankscope.model.attention.unpadded_rows import TrainingForward
from rankscope.model.forward import forward_of
from rankscope.model.load import LoadedModel, inspect_model, linear_shapes
from rankscope.model.model_source import no_progress_bars
from rankscope.study.study import Arm, ModelSpec

TABLE = table("models.md", "family")
FULL = Arm(label="full", method="full", learning_rate=1e-3)
LORA = Arm(label="lora-r4", method="lora", rank=4, alpha=8, targets="all-linear", learning_rate=1e-3)
MIXTURES = ("Mixtral", "Qwen3-MoE")


def test_the_table_names_the_families_that_are_tested() -> None:
    assert set(TABLE) == set(FAMILIES)
    assert all(row["full"] == row["scoring"] == row["generation"] == row["export"] == "yes" for row in TABLE.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_of_full_fine_tuning_is_the_models_own(folder_of: Callable[[str], Path], family: str) -> None:
    base = fresh(folder_of(family))
    with adapt(base, FULL, 0) as adapted:
        assert_same_step(adapted, rows())


@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_of_lora_is_the_models_own(base_of: Callable[[str], LoadedModel], family: str) -> None:
    with adapt(base_of(family), LORA, 0) as adapted:
        shake(adapted)
        assert_same_step(adapted, rows())


@pytest.mark.parametrize("family", FAMILIES)
def test_training_rows_are_padded_where_the_table_says(base_of: Callable[[str], LoadedModel], family: str) -> None:
    with adapt(base_of(family), LORA, 0) as adapted:
        assert TABLE[family]["training rows"] == ("unpadded" if adapted.training_forward().unpadded else "padded")
    assert forward_of(base_of(family).model).direct


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_adapts_the_modules_that_the_table_and_peft_say(
    folder_of: Callable[[str], Path], base_of: Callable[[str], LoadedModel], family: str
) -> None:
    model = base_of(family).model
    with adapt(base_of(family), LORA, 0) as adapted:
        assert adapted.peft is not None
        ours = {
            name.replace("base_model.model.", "", 1).partition(".lora_A")[0]
            for name in adapted.parameters
            if "lora_A" in name
        }
        assert not [name for name in adapted.parameters if "router" in name or ".gate." in name or "experts" in name]
    assert ours == set(linear_shapes(model))
    assert set(TABLE[family]["LoRA"].split(", ")) == {name.rpartition(".")[2] for name in ours}
    other = peft.get_peft_model(plain(folder_of(family)), peft.LoraConfig(r=4, target_modules="all-linear"))
    theirs = {
        name for name, module in other.get_base_model().named_modules() if isinstance(module, peft.tuners.lora.Linear)
    }
    assert theirs == ours
    experts = other.peft_config["default"].target_parameters
    assert bool(experts) == (family in MIXTURES), "PEFT's own all-linear adapts fused experts, which ours leaves alone"


@pytest.mark.parametrize("family", FAMILIES)
def test_facts_count_what_is_trained(
    folder_of: Callable[[str], Path], base_of: Callable[[str], LoadedModel], family: str
) -> None:
    folder = folder_of(family)
    facts = inspect_model(ModelSpec(id=str(folder)), folder)
    with adapt(base_of(family), LORA, 0) as adapted:
        assert adapted.trainable_parameters == LORA.trainable_parameters(facts)
    assert facts.parameter_count == sum(p.numel() for p in base_of(family).model.parameters())
    assert len(facts.block_parameters) == facts.layer_count == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_choices_and_answers_are_the_models_own(base_of: Callable[[str], LoadedModel], family: str) -> None:
    """Scoring and generation with an adapter, prompts on both sides of the window."""
    base = base_of(family)
    items = choice_items()
    with adapt(base, LORA, 0) as adapted:
        shake(adapted)
        found = choice_logprobs(adapted.model, items, token_budget=512)
        for item, scores in zip(items, found, strict=True):
            assert scores == pytest.approx(own_scores(adapted.model, item), abs=2e-4)
        prompts = [item.prompt_ids for item in items]
        written = greedy(adapted.model, prompts, max_new_tokens=WINDOW + 3, eos_ids={2}, token_budget=512)
        assert written == [own_continuation(adapted.model, prompt, WINDOW + 3) for prompt in prompts]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_adapter_is_peft_s_and_merges(
    folder_of: Callable[[str], Path], base_of: Callable[[str], LoadedModel], family: str, tmp_path: Path
) -> None:
    folder, base, ids = folder_of(family), base_of(family), torch.arange(20, 50)[None]
    with torch.no_grad():
        before = base.model(ids).logits
        with adapt(base, LORA, 0) as adapted:
            shake(adapted)
            expected = adapted.model(ids).logits
            adapted.save(tmp_path / "adapter")
        assert torch.equal(base.model(ids).logits, before)
        assert (expected - before).abs().max() > 1e-2
        theirs = peft.PeftModel.from_pretrained(plain(folder), str(tmp_path / "adapter"))
        assert torch.allclose(theirs(ids).logits, expected, atol=1e-5)
        with load_adapter(base, LORA, tmp_path / "adapter"):
            assert torch.equal(base.model(ids).logits, expected)
        with no_progress_bars(), load_adapter(fresh(folder), LORA, tmp_path / "adapter") as loaded:
            loaded.merged().save_pretrained(tmp_path / "merged")
        assert torch.allclose(plain(tmp_path / "merged")(ids).logits, expected, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_full_checkpoint_is_a_plain_model(folder_of: Callable[[str], Path], family: str, tmp_path: Path) -> None:
    base, ids = fresh(folder_of(family)), torch.arange(20, 50)[None]
    with adapt(base, FULL, 0) as adapted, torch.no_grad():
        shake(adapted)
        expected = adapted.model(ids).logits
        adapted.save(tmp_path)
        assert torch.allclose(plain(tmp_path)(ids).logits, expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_skipping_what_is_not_read_changes_nothing(base_of: Callable[[str], LoadedModel], family: str) -> None:
    model, batch = base_of(family).model, collate(rows())
    assert 2 * len(batch.target_positions) < len(batch.input_ids)
    with adapt(base_of(family), LORA, 0) as adapted:
        shake(adapted)
        forward = adapted.training_forward()
        assert forward.skips
        with forward.ready():
            found = [TrainingForward(model, unpadded=True, skips=skips).target_states(batch) for skips in (True, False)]
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
        few, all_ = (gradients(adapted.parameters, states.square().mean()) for states in found)
    for name, gradient in all_.items():
        torch.testing.assert_close(few[name], gradient, rtol=1e-3, atol=1e-6)
