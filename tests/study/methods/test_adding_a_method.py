"""A stranger adds a method in two new files, and nothing else: a study trains, scores and judges it beside LoRA."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_study import tiny_study

import rankscope

pytestmark = pytest.mark.slow

WHAT_IT_IS = '''
"""One trained factor for the output of every block's feed-forward."""

from typing import Literal

from pydantic import Field

from rankscope.study.methods.arm import Arm, Entry, Method
from rankscope.study.methods.method_types import ModelShape


class ScalarArms(Entry):
    """The output of every block's feed-forward is multiplied by a trained number."""

    method: Literal["scalar"] = Field("scalar", description="the method")
    start: float = Field(1.0, gt=0, description="a number above 0: what every factor is at first")


class ScalarMethod(Method):
    def trainable_parameters(self, arm: Arm, model: ModelShape) -> int:
        return model.layer_count

    def described(self, arm: Arm) -> str:
        return f"Trained factors, from {arm.setting('start')},"


METHODS = (
    ScalarMethod(
        name="scalar", title="scalars", entry=ScalarArms, rate_decades=(-3, 0), merges=False, peft_format=False
    ),
)
'''

HOW_IT_IS_PUT_ON = '''
"""A factor around every block's feed-forward."""

from contextlib import contextmanager

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rankscope.model.decoder_parts import blocks, feed_forward_name
from rankscope.model.methods.installed import Installed, MethodModules

FILE = "scalars.safetensors"


class Scaled(nn.Module):
    def __init__(self, wrapped, start):
        super().__init__()
        self.wrapped, self.factor, self.active = wrapped, nn.Parameter(start.clone()), True

    def forward(self, *args, **kwargs):
        output = self.wrapped(*args, **kwargs)
        return output * self.factor.to(output.dtype) if self.active else output


def on(model, starts):
    made = []
    for block, start in zip(blocks(model), starts, strict=True):
        name = feed_forward_name(block)
        made.append(Scaled(getattr(block, name), start))
        setattr(block, name, made[-1])
    parameters = {str(i): scaled.factor for i, scaled in enumerate(made)}

    @contextmanager
    def off():
        for scaled in made:
            scaled.active = False
        yield
        for scaled in made:
            scaled.active = True

    def save(folder):
        save_file({name: factor.detach().cpu() for name, factor in parameters.items()}, folder / FILE)

    return Installed(parameters, save, off)


def put_on(model, arm):
    return on(model, torch.full((len(blocks(model)),), arm.setting("start")))


def load(model, folder):
    held = load_file(folder / FILE)
    return on(model, [held[str(i)] for i in range(len(held))])


MODULES = {"scalar": MethodModules(put_on, load, lambda folder: (folder / FILE).is_file())}
'''


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source tree with two files more."""
    root = tmp_path_factory.mktemp("stranger")
    before = Path(rankscope.__file__).parent
    after = shutil.copytree(before, root / "rankscope", ignore=shutil.ignore_patterns("__pycache__"))
    (after / "study" / "methods" / "scalar_method.py").write_text(WHAT_IT_IS)
    (after / "model" / "methods" / "scalar_modules.py").write_text(HOW_IT_IS_PUT_ON)
    return root


def rankscope_of(source: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(source)}
    done = subprocess.run(
        [sys.executable, "-m", "rankscope", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 3), done.stderr[-2000:]  # 3: a verdict that cannot distinguish
    return done.stdout


def test_a_method_in_two_files_is_studied_to_the_verdict(source: Path, tmp_path: Path) -> None:
    arms = {"scalar": {"learning_rate": 0.1, "start": 0.9}, "lora": {"ranks": [2], "learning_rate": 1e-2}}
    study = tiny_study(tmp_path / "input", arms=arms, budget={"epochs": 2, "batch_size": 8, "max_sequence_tokens": 128})
    out = tmp_path / "out"
    rankscope_of(source, "run", str(study), "--out", str(out))
    planned = json.loads((out / "plan.json").read_text())["runs"]
    assert {run["trainable_parameters"] for run in planned if run["arm"]["label"] == "scalar"} == {2}
    (verdict,) = json.loads((out / "verdict.json").read_text())["verdicts"]
    (arm,) = [arm for arm in verdict["arms"] if arm["label"] == "scalar"]
    assert arm["seeds"] == [0, 1]
    assert arm["status"] in ("eligible", "ineligible", "open")
    assert arm["gain"]["mean"] is not None
    assert arm["trainable_parameters"] == 2
    runs = sorted(path for path in (out / "runs").iterdir() if path.name.startswith("scalar-s"))
    assert [json.loads((run / "status.json").read_text())["state"] for run in runs] == ["done", "done"]
    losses = [json.loads(line)["loss_nats_per_token"] for line in (runs[0] / "train.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    saved = runs[0] / "adapter" / "scalars.safetensors"
    assert saved.is_file()
    card = rankscope_of(source, "export", str(out), "--arm", "scalar", "--out", str(tmp_path / "export"))
    assert "scalar" in card
    assert "Trained factors, from 0.9, for `model`" in (tmp_path / "export" / "README.md").read_text()
    scored = rankscope_of(
        source, "score", str(tmp_path / "input" / "model"), "--suite", str(tmp_path / "input" / "taught.jsonl"),
        "--adapter", str(saved.parent), "--json",
    )  # fmt: skip
    assert str(saved.parent) in scored


def test_the_files_say_what_a_study_may_hold(source: Path) -> None:
    schema = json.loads(rankscope_of(source, "schema"))
    start = schema["$defs"]["ScalarArms"]["properties"]["start"]
    assert start["description"] == "a number above 0: what every factor is at first"
    assert "scalar" in schema["properties"]["arms"]["properties"]
