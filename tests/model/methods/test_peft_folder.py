"""Adapter folders of users: every form that is accepted is what PEFT computes and leaves the base bit for bit as it
was; every other is refused in one true line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from base_digest import digest
from own_forward import choice_items
from peft_forms import EVERYWHERE, FORMS, lora, peft_scores, save_form
from safetensors.torch import load_file, save_file

from rankscope.evaluate.choice_scoring import choice_logprobs
from rankscope.model.load import LoadedModel
from rankscope.model.methods.attach import SavedAdapter, attach
from rankscope.model.methods.peft_folder import KNOWN_SETTINGS, read_peft_config
from rankscope.study.problems import InputProblems

Bases = Callable[[str], LoadedModel]
Folders = Callable[[str], Path]


def largest(found: Any, expected: Any) -> float:
    return max(abs(a - b) for x, y in zip(found, expected, strict=True) for a, b in zip(x, y, strict=True))


def is_exact(base: LoadedModel, checkpoint: Path, folder: Path) -> None:
    """On it is what PEFT computes, off it is the base, and afterwards every bit of the base is what it was."""
    items = choice_items()
    before, scores = digest(base.model), choice_logprobs(base.model, items, token_budget=512)
    with attach(base, SavedAdapter(folder)) as pack:
        found = choice_logprobs(base.model, items, token_budget=512)
        assert largest(found, peft_scores(checkpoint, folder, items)) < 1e-4
        assert largest(found, scores) > 1e-2
        with pack.members[0].off():
            assert largest(choice_logprobs(base.model, items, token_budget=512), scores) < 1e-5
        assert largest(choice_logprobs(base.model, items, token_budget=512), found) < 1e-5
    assert digest(base.model) == before


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["Llama", "GPT-2"])
def test_what_is_accepted_is_pefts_and_leaves_the_base_alone(
    folder_of: Folders, base_of: Bases, family: str, form: str, tmp_path: Path
) -> None:
    if family == "GPT-2" and form not in EVERYWHERE:
        pytest.skip("PEFT has it for linear layers alone")
    folder = save_form(folder_of(family), FORMS[form], tmp_path)
    is_exact(base_of(family), folder_of(family), folder)


@pytest.mark.parametrize("family", ["Llama", "GPT-2", "Qwen2"])
def test_embeddings_that_were_saved_along_stand_in_their_place(
    folder_of: Folders, base_of: Bases, family: str, tmp_path: Path
) -> None:
    folder = save_form(folder_of(family), lora(), tmp_path, save_embedding_layers=True)
    assert any("embed_tokens" in key or "wte" in key for key in load_file(folder / "adapter_model.safetensors"))
    is_exact(base_of(family), folder_of(family), folder)


def test_experts_that_no_module_owns(folder_of: Folders, base_of: Bases, tmp_path: Path) -> None:
    form = lora(target_modules=["q_proj"], target_parameters=["experts.down_proj"])
    is_exact(base_of("Mixtral"), folder_of("Mixtral"), save_form(folder_of("Mixtral"), form, tmp_path))


def renamed(folder: Path, rename: Callable[[str], str]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({rename(key): value for key, value in tensors.items()}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("form", ["lora", "dora", "head saved whole"])
def test_keys_with_the_adapters_name_in_them_are_read(
    folder_of: Folders, base_of: Bases, form: str, tmp_path: Path
) -> None:
    """As a state dict of the running model has them."""
    base, items = base_of("Llama"), choice_items()
    folder = save_form(folder_of("Llama"), FORMS[form], tmp_path)
    expected = peft_scores(folder_of("Llama"), folder, items)
    names = {"lora_A.weight": "lora_A.default.weight", "lora_B.weight": "lora_B.default.weight"}
    names |= {"lora_magnitude_vector": "lora_magnitude_vector.default"}
    names |= {"lm_head.weight": "lm_head.modules_to_save.default.weight"}

    def rename(key: str) -> str:
        end = next((end for end in names if key.endswith(end)), None)
        return key if end is None else key.removesuffix(end) + names[end]

    renamed(folder, rename)
    with attach(base, SavedAdapter(folder)):
        assert largest(choice_logprobs(base.model, items, token_budget=512), expected) < 1e-4


def test_own_biases_as_older_versions_saved_them(folder_of: Folders, base_of: Bases, tmp_path: Path) -> None:
    """`c_attn.bias`, which is `c_attn.base_layer.bias` now: PEFT itself leaves such biases out without a word."""
    base, items = base_of("GPT-2"), choice_items()
    folder = save_form(folder_of("GPT-2"), FORMS["own biases"], tmp_path)
    expected = peft_scores(folder_of("GPT-2"), folder, items)
    renamed(folder, lambda key: key.replace(".base_layer.", "."))
    assert largest(peft_scores(folder_of("GPT-2"), folder, items), expected) > 1e-2
    with attach(base, SavedAdapter(folder)):
        assert largest(choice_logprobs(base.model, items, token_budget=512), expected) < 1e-4


# ---- what is refused -------------------------------------------------------------------------------------------------


def line_of(base: LoadedModel, folder: Path) -> str:
    before = digest(base.model)
    with pytest.raises(InputProblems) as caught, attach(base, SavedAdapter(folder)):
        pytest.fail("put on")
    assert digest(base.model) == before
    (problem,) = caught.value.problems
    return str(problem)


SETTINGS = [
    ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication: found [[0, 2], [1, 2]]: layers that are used more"),
    ({"alora_invocation_tokens": [5, 6]}, "alora_invocation_tokens: found [5, 6]: which of a row's tokens it changes"),
    ({"use_qalora": True}, "use_qalora: found true: a setting whose effect is not known here"),
    ({"megatron_config": {"a": 1}}, "megatron_config: found a mapping with a: a setting whose effect"),
    ({"of_a_later_version": 3}, "of_a_later_version: found 3: a setting whose effect is not known here, expected an"),
    ({"task_type": "SEQ_CLS"}, 'task_type: found "SEQ_CLS", expected CAUSAL_LM, an adapter of a language model'),
    ({"init_lora_weights": "pissa_niter_4"}, "found init_lora_weights pissa_niter_4, with which PEFT changes the base"),
    ({"modules_to_save": 10**12}, "modules_to_save: found 1000000000000, expected a list, or null"),
    ({"modules_to_save": [0]}, "modules_to_save: found [0], expected a list of texts"),
    ({"rank_pattern": -1}, "rank_pattern: found -1, expected a mapping, or null"),
    ({"alpha_pattern": ["(a|a)*b"]}, 'alpha_pattern: found ["(a|a)*b"], expected a mapping, or null'),
    ({"lora_dropout": "../../etc"}, 'lora_dropout: found "../../etc", expected a whole number or a number, or null'),
    ({"corda_config": 0}, "corda_config: found 0, expected a mapping, or null"),
    ({"use_bdlora": []}, "`BdLoraConfig` must be a `BdLoraConfig`, a dict, or None"),
    ({"peft_type": "MISS"}, 'peft_type: found "MISS", expected one of LORA, ADALORA, VERA'),
]


@pytest.mark.parametrize(("settings", "words"), SETTINGS, ids=lambda value: str(value)[:30])
def test_a_setting_that_is_not_known_is_refused(
    folder_of: Folders, base_of: Bases, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    folder = save_form(folder_of("Llama"), FORMS["lora"], tmp_path)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    assert words in line_of(base_of("Llama"), folder)


@pytest.mark.parametrize("value", [None, False, {}, []])
def test_a_later_setting_that_is_not_used_is_no_hindrance(
    folder_of: Folders, base_of: Bases, tmp_path: Path, value: object
) -> None:
    folder = save_form(folder_of("Llama"), FORMS["lora"], tmp_path)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"of_a_later_version": value}))
    with attach(base_of("Llama"), SavedAdapter(folder)):
        pass


def test_every_accepted_kind_is_tested_and_reads_its_own_defaults(folder_of: Folders, tmp_path: Path) -> None:
    kinds = set()
    for number, form in enumerate(FORMS.values()):
        kinds.add(read_peft_config(save_form(folder_of("Llama"), form, tmp_path / str(number)))["peft_type"])
    assert kinds == set(KNOWN_SETTINGS)


def test_a_prefix_behind_a_projection_is_refused(folder_of: Folders, base_of: Bases, tmp_path: Path) -> None:
    folder = save_form(folder_of("Llama"), FORMS["prefix"], tmp_path)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prefix_projection": True}))
    assert "the network that makes the prefix is not in the file" in line_of(base_of("Llama"), folder)


def test_tensors_of_the_bases_own_that_no_setting_explains(folder_of: Folders, base_of: Bases, tmp_path: Path) -> None:
    folder = save_form(folder_of("Llama"), FORMS["lora"], tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {"base_model.model.model.norm.weight": torch.ones(32)}, folder / "adapter_model.safetensors")
    assert "a tensor for model.norm.weight, which is the base's own" in line_of(base_of("Llama"), folder)


def test_embeddings_of_a_larger_vocabulary(folder_of: Folders, base_of: Bases, tmp_path: Path) -> None:
    folder = save_form(folder_of("Llama"), FORMS["lora"], tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    name, width = "base_model.model.model.embed_tokens.weight", base_of("Llama").model.config.hidden_size
    save_file(tensors | {name: torch.ones(999, width)}, folder / "adapter_model.safetensors")
    assert f"embed_tokens.weight of shape [999, {width}], in this base [" in line_of(base_of("Llama"), folder)


@pytest.mark.parametrize(
    ("form", "change", "words"),
    [
        ("lora", lambda t: t.popitem(), "no tensor for "),
        ("ia3", lambda t: t.update({"base_model.model.model.layers.7.mlp.down_proj.ia3_l": torch.ones(1, 64)}),
         "a tensor for model.layers.7.mlp.down_proj.ia3_l, which is not in this base (1 such)"),
        ("own biases", lambda t: t.pop("base_model.model.transformer.h.0.attn.c_attn.base_layer.bias"),
         "no tensor for transformer.h.0.attn.c_attn.bias, which is in this base (1 such)"),
    ],
)  # fmt: skip
def test_modules_that_are_not_the_same(
    folder_of: Folders, base_of: Bases, tmp_path: Path, form: str, change: Callable[[Any], object], words: str
) -> None:
    family = "GPT-2" if form == "own biases" else "Llama"
    folder = save_form(folder_of(family), FORMS[form], tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    assert words in line_of(base_of(family), folder)


def test_a_pickle_is_not_opened(folder_of: Folders, base_of: Bases, tmp_path: Path) -> None:
    folder = save_form(folder_of("Llama"), FORMS["lora"], tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    found = line_of(base_of("Llama"), folder)
    assert "found adapter_model.bin, expected adapter_model.safetensors: pickles are not opened, load the ad" in found


def test_a_folder_without_an_adapter(base_of: Bases, tmp_path: Path) -> None:
    assert "no adapter_config.json" in line_of(base_of("Llama"), tmp_path)
    assert "no such folder" in line_of(base_of("Llama"), tmp_path / "none")
