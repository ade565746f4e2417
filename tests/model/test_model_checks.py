"""Base models and adapters that cannot be used: one line that says why, before anything is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from one_adapter import adapt, load_adapter
from tiny_families import family_config, save_family
from tiny_models import save_tiny_model, tiny_tokenizer

from rankscope.model.load import inspect_model, load_model, load_tokenizer
from rankscope.model.model_source import no_progress_bars
from rankscope.study.problems import InputProblems
from rankscope.study.study import Arm, ModelSpec


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may break."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def change_config(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def refused(folder: Path, **arguments: Any) -> str:
    with pytest.raises(InputProblems) as caught:
        inspect_model(ModelSpec(id=str(folder)), folder, **arguments)
    (problem,) = caught.value.problems
    line = str(problem).replace(str(folder), "MODEL")
    assert "\n" not in line
    return line


def test_an_unknown_architecture(folder: Path) -> None:
    change_config(folder, model_type="starling")
    assert "found the architecture starling, which this version of transformers does not know" in refused(folder)


def test_an_architecture_that_brings_its_own_code(folder: Path) -> None:
    change_config(folder, model_type="starling", auto_map={"AutoConfig": "x.Config"})
    assert "needs code of its own" in refused(folder)


def test_no_architecture(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    assert "Should have a `model_type` key in its config.json" in refused(folder)


@pytest.mark.parametrize(
    ("kind", "words"), [("t5", "t5, an encoder with a decoder"), ("vit", "vit, which is no causal")]
)
def test_no_causal_language_model(folder: Path, kind: str, words: str) -> None:
    change_config(folder, model_type=kind, is_encoder_decoder=kind == "t5")
    assert words in refused(folder)


def test_a_multimodal_model_is_refused_and_its_text_part_is_not(tmp_path: Path) -> None:
    text = family_config("Gemma 3")
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8}  # fmt: skip
    config = transformers.Gemma3Config(text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4)
    with no_progress_bars():
        whole = transformers.Gemma3ForConditionalGeneration(config)
        whole.save_pretrained(tmp_path / "whole")
        tiny_tokenizer().save_pretrained(tmp_path / "whole")
    line = refused(tmp_path / "whole")
    assert "gemma3, which reads more than text, expected its text part saved alone" in line
    with pytest.raises(InputProblems, match="reads more than text"):
        load_model(ModelSpec(id=str(tmp_path / "whole")), tmp_path, "float32", "cpu")
    with no_progress_bars():  # what docs/models.md says to do
        part = transformers.Gemma3ForCausalLM(whole.config.text_config)
        part.model, part.lm_head = whole.model.language_model, whole.lm_head
        part.save_pretrained(tmp_path / "part")
        tiny_tokenizer().save_pretrained(tmp_path / "part")
    loaded = load_model(ModelSpec(id=str(tmp_path / "part")), tmp_path, "float32", "cpu")
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        assert torch.allclose(loaded.model(ids).logits, whole.eval()(input_ids=ids).logits, atol=1e-5)


def test_weights_that_are_not_there_are_never_random(folder: Path) -> None:
    change_config(folder, num_hidden_layers=3)
    with pytest.raises(InputProblems, match=r"no weights for model.layers.2.input_layernorm.weight and 8 more"):
        load_model(ModelSpec(id=str(folder)), folder, "float32", "cpu")


def test_a_quantised_base_on_a_cpu(folder: Path) -> None:
    change_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert "weights quantised with bitsandbytes, on a CPU, expected the model's own weights" in refused(
        folder, device="cpu"
    )
    assert inspect_model(ModelSpec(id=str(folder)), folder, device="cuda").layer_count == 2
    with pytest.raises(InputProblems, match="on a CPU"):
        load_model(ModelSpec(id=str(folder)), folder, "float32", "cpu")


def test_a_tokenizer_without_eos(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputProblems, match="no EOS token"):
        load_tokenizer(ModelSpec(id=str(folder)), folder)


def test_a_tokenizer_of_another_model(folder: Path) -> None:
    save_tiny_model(folder, vocab_size=100)
    with pytest.raises(InputProblems) as caught:
        load_tokenizer(ModelSpec(id=str(folder)), folder)
    assert "a tokenizer with token 260, for a model of 100 tokens" in str(caught.value)


def test_added_tokens_beyond_the_vocabulary_are_allowed(folder: Path) -> None:
    """Gemma 3's tokenizer has one for images, which no text contains."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(folder)
    assert len(load_tokenizer(ModelSpec(id=str(folder)), folder)) == 262


def test_gemma_2_is_loaded_with_the_attention_that_it_has(tmp_path: Path) -> None:
    """Its soft-capping is no part of torch's fused attention, so transformers refuses that for it."""
    with no_progress_bars():
        save_family(tmp_path, "Gemma 2")
    loaded = load_model(ModelSpec(id=str(tmp_path)), tmp_path, "float32", "cpu")
    assert loaded.model.config._attn_implementation == "eager"


LORA = Arm(label="lora", method="lora", rank=2, alpha=4, targets=("q_proj",), learning_rate=1e-3)
PROMPT = Arm(label="p", method="prompt-tuning", virtual_tokens=3, learning_rate=1e-3)
PREFIX = Arm(label="p", method="prefix-tuning", virtual_tokens=3, learning_rate=1e-3)
BOTTLENECK = Arm(label="a", method="adapters", bottleneck=3, learning_rate=1e-3)


@pytest.mark.parametrize("arm", [LORA, PROMPT, PREFIX, BOTTLENECK], ids=lambda arm: arm.method)
def test_an_adapter_of_another_base(tiny_folder: Path, tmp_path: Path, arm: Arm) -> None:
    other = save_tiny_model(tmp_path / "other", hidden_size=64, num_key_value_heads=4)
    with adapt(load_model(ModelSpec(id=str(other)), other, "float32", "cpu"), arm, 0) as adapted:
        (tmp_path / "adapter").mkdir()
        adapted.save(tmp_path / "adapter")
    base = load_model(ModelSpec(id=str(tiny_folder)), tiny_folder, "float32", "cpu")
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        before = base.model(ids).logits
        with pytest.raises(InputProblems) as caught, load_adapter(base, arm, tmp_path / "adapter"):
            pass
        assert "\n" not in str(caught.value)
        assert "64" in str(caught.value)
        assert torch.equal(base.model(ids).logits, before), "what failed leaves nothing behind"


def test_an_adapter_of_a_larger_vocabulary(tiny_folder: Path, tmp_path: Path) -> None:
    """An adapter that holds an embedding of its own, as PEFT saves it after tokens were added."""
    import peft

    other = save_tiny_model(tmp_path / "other", vocab_size=300)
    model = transformers.AutoModelForCausalLM.from_pretrained(other)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], task_type="CAUSAL_LM")
    peft.get_peft_model(model, config).save_pretrained(str(tmp_path / "adapter"))
    base = load_model(ModelSpec(id=str(tiny_folder)), tiny_folder, "float32", "cpu")
    with pytest.raises(InputProblems) as caught, load_adapter(base, LORA, tmp_path / "adapter"):
        pass
    assert "embed_tokens" in str(caught.value)
    assert "300" in str(caught.value)
