"""Regular expressions of a foreign adapter: those that do not end are refused in a line, in seconds."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import save_tiny_model

from rankscope.model.load import load_model
from rankscope.model.methods.peft_folder import load_peft
from rankscope.model.weights.adapter_file import read_adapter
from rankscope.model.weights.module_patterns import check_patterns
from rankscope.study.problems import InputProblems
from rankscope.study.study import ModelSpec

BOMB = r"(([a-z_.]|\d)+)+!"
NAMES = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(80)]
CONFIG = Path("adapter_config.json")


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": BOMB}, {"exclude_modules": BOMB}, {"layers_pattern": BOMB}, {"layers_pattern": ["x", BOMB]},
        {"rank_pattern": {"q_proj": 2, BOMB: 4}}, {"alpha_pattern": {BOMB: 4}},
    ],
)  # fmt: skip
def test_a_bomb_is_refused_in_a_line(config: dict[str, object]) -> None:
    began = time.monotonic()
    with pytest.raises(InputProblems, match="which does not end on the names of the modules") as error:
        check_patterns(CONFIG, config, NAMES)
    assert len(error.value.problems) == 1
    assert time.monotonic() - began < 30, "a second, and what a busy machine adds"


def test_a_pattern_that_is_none_says_so() -> None:
    with pytest.raises(InputProblems, match="no regular expression"):
        check_patterns(CONFIG, {"target_modules": "(q_proj"}, NAMES)


def test_what_people_write_passes_and_a_timer_of_others_goes_on() -> None:
    fine = {
        "target_modules": r".*\.(q|k|v|o)_proj", "exclude_modules": ["a(", "b"], "layers_pattern": "layers",
        "rank_pattern": {r"^model\.layers\.\d+\.self_attn": 4}, "alpha_pattern": None,
    }  # fmt: skip
    left = signal.getitimer(signal.ITIMER_REAL)[0]
    check_patterns(CONFIG, fine, NAMES)
    now = signal.getitimer(signal.ITIMER_REAL)[0]
    assert (left > 0) == (now > 0), "the time limit of this test itself"


def test_no_door_lets_one_in(tmp_path: Path) -> None:
    """Audit and compress read the file, score puts the adapter on a model."""
    save_tiny_model(tmp_path / "model")
    model = load_model(ModelSpec(id="model"), tmp_path, "float32", "cpu").model
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    q_proj = model.get_submodule("model.layers.0.self_attn.q_proj").weight
    tensors = {
        f"{prefix}.lora_A.weight": torch.ones(2, q_proj.shape[1]),
        f"{prefix}.lora_B.weight": torch.ones(q_proj.shape[0], 2),
    }
    save_file(tensors, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": BOMB}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    place = re.escape(f"{adapter / 'adapter_config.json'}: target_modules: found")
    with pytest.raises(InputProblems, match=place):
        read_adapter(adapter)
    with pytest.raises(InputProblems, match=place):
        load_peft(model, adapter)
