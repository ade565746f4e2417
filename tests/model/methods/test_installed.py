"""What is put on a model and taken off leaves it bit for bit as it was: tensors, modules, hooks, configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from base_digest import digest
from own_forward import choice_items, our_loss, rows, shake
from torch import nn

from rankscope.evaluate.choice_scoring import choice_logprobs
from rankscope.model.load import LoadedModel
from rankscope.model.methods.attach import NewAdapter, SavedAdapter, attach, method_modules
from rankscope.model.methods.installed import BaseChanged, plain_again
from rankscope.study.methods import METHODS as EVERY_METHOD
from rankscope.study.methods.method_types import Given
from rankscope.study.study import Arm

Bases = Callable[[str], LoadedModel]
METHODS = {name: method for name, method in EVERY_METHOD.items() if method.trained}
SIZES = {"virtual_tokens": 3, "bottleneck": 6, "layers": 1}


def arm_of(method: str) -> Arm:
    own = {key: SIZES[key] for key in METHODS[method].own_settings}
    rank = {"rank": 4, "alpha": 8.0, "targets": "all-linear"} if METHODS[method].size == METHODS["lora"].size else {}
    return Arm.model_validate({"label": method, "method": method, "learning_rate": 1e-3, **own, **rank})


ADAPTERS = [name for name, method in METHODS.items() if not method.whole]


def test_every_method_can_be_put_on() -> None:
    assert set(method_modules()) == set(EVERY_METHOD)
    given = Arm(label="theirs", method="given-adapters", given=Given(sha256=("0",), parameters=1))
    with pytest.raises(ValueError, match="theirs was trained elsewhere"):
        method_modules()["given-adapters"].put_on(nn.Linear(1, 1), given)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ADAPTERS)
@pytest.mark.parametrize("family", ["Llama", "GPT-2", "Gemma 2", "Qwen3-MoE"])
def test_a_method_leaves_the_base_as_it_was(base_of: Bases, family: str, method: str, tmp_path: Path) -> None:
    """After a step of training, scoring with it and without it, saving, and loading what was saved."""
    base, arm = base_of(family), arm_of(method)
    before = digest(base.model)
    for packed in (True, False):
        folder = tmp_path / str(packed)
        folder.mkdir()
        with attach(base, NewAdapter(arm, 0), packed=packed) as pack:
            member = pack.members[0]
            base.model.train()
            our_loss(member, rows()).backward()
            base.model.eval()
            shake(member)
            choice_logprobs(base.model, choice_items(), token_budget=512)
            with member.off():
                choice_logprobs(base.model, choice_items(), token_budget=512)
            member.save(folder)
            assert digest(base.model) != before
        assert digest(base.model) == before
        with attach(base, SavedAdapter(folder, arm), packed=packed):
            choice_logprobs(base.model, choice_items(), token_budget=512)
        assert digest(base.model) == before
        with attach(base, SavedAdapter(folder)):
            pass
        assert digest(base.model) == before


def test_arms_in_a_pack_leave_the_base_as_it_was(base_of: Bases) -> None:
    base = base_of("Llama")
    before = digest(base.model)
    with attach(base, *(NewAdapter(arm_of(method), 0) for method in ("lora", "rslora", "lora"))) as pack:
        assert len(pack.members) == 3
    assert digest(base.model) == before


@pytest.mark.parametrize("method", ADAPTERS)
def test_an_error_leaves_the_base_as_it_was(base_of: Bases, method: str) -> None:
    base = base_of("Llama")
    before = digest(base.model)
    with pytest.raises(KeyboardInterrupt), attach(base, NewAdapter(arm_of(method), 0)):
        raise KeyboardInterrupt
    assert digest(base.model) == before


def test_a_weight_that_was_written_to_is_noticed(base_of: Bases) -> None:
    model = base_of("Llama").model
    weight = model.model.layers[0].mlp.up_proj.weight
    kept = weight.detach().clone()
    said = r"1 weights of the base were changed, model.layers.0.mlp.up_proj.weight the first"
    with pytest.raises(BaseChanged, match=said), plain_again(model), torch.no_grad():
        weight.add_(1)
    with torch.no_grad():
        weight.copy_(kept)


def test_whatever_was_done_to_the_model_is_undone(base_of: Bases) -> None:
    model = base_of("Llama").model
    before = digest(model)
    with plain_again(model):
        block = model.model.layers[0]
        block.mlp.up_proj = torch.nn.Identity()
        block.register_forward_hook(lambda *_: None)
        block.self_attn.q_proj.weight = torch.nn.Parameter(torch.zeros(1))
        model.model.norm.weight.data = torch.zeros(32)
        model.requires_grad_(True)
        model.train()
        model.config.pretraining_tp = 9
        model.generation_config.temperature = 0.1
        model.added = torch.nn.Linear(1, 1)
        model.model.layers[1].self_attn.forward = lambda: None
        assert digest(model) != before
    assert digest(model) == before
