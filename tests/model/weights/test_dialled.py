"""A change in part: factors against PEFT with a smaller alpha, whole weights against plain arithmetic, 1 to the bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny_models import save_tiny_model
from transformers import AutoModelForCausalLM

from rankscope.evaluate.choice_scoring import choice_logprobs, probe_item
from rankscope.model.load import load_model
from rankscope.model.methods.attach import GivenFactors, NewAdapter, attach
from rankscope.model.methods.peft_folder import plain_factors
from rankscope.model.weights.dialled import Interpolation, dialled_factors, interpolated
from rankscope.study.methods import Arm
from rankscope.study.study import ModelSpec

LORA = Arm(label="lora-r4", method="lora", rank=4, alpha=8.0, targets="all-linear", learning_rate=1e-3)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    """A tiny model and an adapter that changes it much."""
    save_tiny_model(tmp_path / "model")
    base = load_model(ModelSpec(id="model"), tmp_path, "float32", "cpu")
    folder = tmp_path / "adapter"
    folder.mkdir()
    with attach(base, NewAdapter(LORA, 0)) as pack:
        dice = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in pack.members[0].parameters.values():
                parameter.copy_(torch.randn(parameter.shape, generator=dice) / 8)
        pack.members[0].save(folder)
    return tmp_path, folder


@pytest.mark.parametrize("dial", [0.5, 0.7, 1.0])
def test_scaled_factors_are_peft_s_adapter_with_alpha_times_the_dial(saved: tuple[Path, Path], dial: float) -> None:
    place, folder = saved
    base = load_model(ModelSpec(id="model"), place, "float32", "cpu")
    factors = plain_factors(base.model, folder)
    assert factors is not None
    item = probe_item(base.model, 12)
    with attach(base, GivenFactors(dialled_factors(factors, dial), LORA)):
        ours = choice_logprobs(base.model, [item], token_budget=512)[0]
    scaled = place / "scaled"
    shutil.copytree(folder, scaled)
    config = json.loads((scaled / "adapter_config.json").read_text())
    (scaled / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 8.0 * dial}))
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place / "model"), scaled).eval()
    theirs = []
    for choice in item.choices_ids:
        ids = torch.tensor([[*item.prompt_ids, *choice]])
        with torch.no_grad():
            logprobs = peft(input_ids=ids).logits[0].log_softmax(-1)
        start = len(item.prompt_ids) - 1
        theirs.append(sum(float(logprobs[start + t, token]) for t, token in enumerate(choice)))
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_whole_weights_are_interpolated_in_place_and_come_back_to_the_bit(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    base, trained = (load_model(ModelSpec(id="model"), tmp_path, "float32", "cpu").model for _ in range(2))
    dice = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in list(trained.parameters())[1:]:
            parameter.add_(torch.randn(parameter.shape, generator=dice) / 50)
    before = {name: p.detach().clone() for name, p in trained.named_parameters()}
    places = {name: p.data_ptr() for name, p in trained.named_parameters()}
    between = Interpolation(trained, base)
    for dial in (0.5, 0.85):
        between.turn_to(dial)
        for name, p in trained.named_parameters():
            plain = dict(base.named_parameters())[name]
            assert torch.allclose(p, plain + dial * (before[name] - plain), atol=1e-7)
            assert p.data_ptr() == places[name]
    between.turn_to(1.0)
    assert all(torch.equal(p, before[name]) for name, p in trained.named_parameters())


def test_half_precision_is_rounded_once() -> None:
    start, end = (torch.randn(64, generator=torch.Generator().manual_seed(s)).bfloat16() for s in (0, 1))
    exact = start.double() + 0.7 * (end.double() - start.double())
    assert torch.equal(interpolated(start, end, 0.7).bfloat16(), exact.float().bfloat16())
