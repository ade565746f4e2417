"""Folders of what was trained elsewhere: what is read of them, and every way in which they are not two seeds of one arm."""
# ruff: noqa: E501 - a table of messages reads better so

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from given_adapters import save_adapter
from safetensors.torch import load_file
from tiny_models import save_tiny_model

from rankscope.model.given_folders import content_of, copy_into, look_at
from rankscope.model.load import inspect_model
from rankscope.records import ModelFacts
from rankscope.study.methods.given_method import Found, GivenAdapters, GivenModels
from rankscope.study.problems import InputProblems
from rankscope.study.study import ModelSpec


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("given") / "base")


def facts_of(base: Path) -> ModelFacts:
    return inspect_model(ModelSpec(id=str(base)), Path("/"))


def look(base: Path, *folders: str) -> Found:
    return look_at(GivenAdapters(method="given-adapters", adapters=folders), Path("/"), facts_of(base), "arms.theirs")


def line_of(base: Path, *folders: str, models: bool = False) -> str:
    entry = GivenModels(method="given-models", models=folders) if models else None
    entry = entry or GivenAdapters(method="given-adapters", adapters=folders)
    with pytest.raises(InputProblems) as caught:
        look_at(entry, Path("/"), facts_of(base), "arms.theirs")
    (problem,) = caught.value.problems
    return str(problem)


def test_rank_scale_and_targets_are_those_of_the_file(base: Path, tmp_path: Path) -> None:
    folders = [save_adapter(base, tmp_path / f"a{seed}", seed) for seed in (0, 1)]
    found = look(base, *folders)
    assert (found.rank, found.alpha, found.targets) == (4, 8.0, ("q_proj", "v_proj"))
    tensors = load_file(tmp_path / "a0" / "adapter_model.safetensors")
    assert found.parameters == sum(tensor.numel() for tensor in tensors.values())
    assert len(set(found.sha256)) == 2
    assert look(base, save_adapter(base, tmp_path / "all", 0, target_modules="all-linear")).targets == "all-linear"
    one = look(base, save_adapter(base, tmp_path / "one", 0, layers_to_transform=[1]))
    assert one.targets == ("model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj")


def test_the_hash_is_of_what_is_judged_and_a_copy_has_it(base: Path, tmp_path: Path) -> None:
    folder = Path(save_adapter(base, tmp_path / "a", 0))
    before = content_of(folder, facts_of(base), adapter=True)
    (folder / "optimizer.pt").write_bytes(b"a pickle")
    assert content_of(folder, facts_of(base), adapter=True) == before
    (tmp_path / "copy").mkdir()
    copy_into(folder, tmp_path / "copy", adapter=True)
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert content_of(tmp_path / "copy", facts_of(base), adapter=True) == before


def test_what_is_no_adapter_of_this_base_is_one_line(base: Path, tmp_path: Path) -> None:
    wider = save_tiny_model(tmp_path / "wider", hidden_size=64)
    deeper = save_tiny_model(tmp_path / "deeper", num_hidden_layers=3)
    good = save_adapter(base, tmp_path / "good", 0)
    shutil.copytree(good, tmp_path / "again")
    (tmp_path / "empty").mkdir()
    expected = "a folder with adapter_config.json and adapter_model.safetensors, as PEFT saves LoRA adapters"
    assert (
        line_of(base, str(tmp_path / "empty"))
        == f"{tmp_path}/empty: adapter: found no adapter_config.json, expected {expected}"
    )
    other = line_of(base, save_adapter(wider, tmp_path / "w", 0))
    assert (
        other
        == f"{tmp_path}/w: adapter: found factors of model.layers.0.self_attn.q_proj for [64, 64], in base [32, 32], expected an adapter made for base"
    )
    other = line_of(base, save_adapter(deeper, tmp_path / "d", 0))
    assert "found factors of model.layers.2.self_attn.q_proj, which is no linear module of base, expected" in other
    whole = line_of(base, save_adapter(base, tmp_path / "whole", 0, modules_to_save=["lm_head"]))
    assert "tensors beside lora_A and lora_B" in whole
    assert whole.endswith("expected a plain LoRA, whose change is B A times a scale")
    rank = line_of(base, good, save_adapter(base, tmp_path / "r8", 1, r=8))
    assert rank == f"{tmp_path}/r8: arms.theirs: found rank 8, expected 4, as in the first folder: one arm has one rank"
    same = line_of(base, good, str(tmp_path / "again"))
    assert (
        same
        == f"{tmp_path}/again: arms.theirs: found what {good} holds, expected another training run in each folder, one for each seed"
    )


def test_models_are_of_the_bases_shape_and_not_the_base(base: Path, tmp_path: Path) -> None:
    theirs = save_tiny_model(tmp_path / "theirs", seed=1)
    entry = GivenModels(method="given-models", models=(str(theirs),))
    found = look_at(entry, Path("/"), facts_of(base), "arms.theirs")
    assert (found.rank, found.parameters) == (None, facts_of(base).parameter_count)
    assert (
        line_of(base, str(base), models=True)
        == f"{base}: model: found base itself, expected a model fine-tuned from base, of its shape"
    )
    wider = save_tiny_model(tmp_path / "wider", intermediate_size=128)
    assert "found other linear modules, expected a model fine-tuned from base" in line_of(base, str(wider), models=True)
    (tmp_path / "none").mkdir()
    assert "found no config.json, expected a folder with a model, as transformers saves it" in line_of(
        base, str(tmp_path / "none"), models=True
    )
