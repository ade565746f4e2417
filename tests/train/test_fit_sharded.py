"""A run that two processes share is the run of one process: every gradient, every loss, what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_team import run_together
from safetensors.torch import load_file
from sharded_training import everything
from tiny_models import save_tiny_model

pytestmark = pytest.mark.slow

GRADIENTS = {
    "full tied": 20, "full untied": 21, "frozen embeddings": 19, "frozen tied": 19, "last block": 9, "one LoRA": 28,
    "packed": 56, "one row": 20, "replayed": 20,
    "full near base": 20, "packed near base": 56, "near on replay": 28,
}  # fmt: skip
"""How many tensors are trained: a tied weight once, two factors of each adapted matrix of each arm."""

TRAINING = [
    "full tied", "full untied", "packed", "checkpointing", "last block", "frozen embeddings", "near start", "offloaded",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    save_tiny_model(folder / "tied")
    save_tiny_model(folder / "untied", tie_word_embeddings=False)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    """What the first process found; the second saw the same losses."""
    first, second = run_together(everything, folder)
    for name, result in first.items():
        if "losses" in result:
            assert result["losses"] == second[name]["losses"]
    return first


@pytest.mark.parametrize("name", GRADIENTS)
def test_every_gradient_is_that_of_one_process(found: dict[str, Any], name: str) -> None:
    """Of each weight apart: a factor of the number of processes in some of them would be hidden by clipping."""
    result = found[f"gradients {name}"]
    assert result["weights"] == GRADIENTS[name]
    assert max(result["errors"].values()) < 1e-6
    assert result["losses"][0] == pytest.approx(result["losses"][1], abs=1e-6)


def test_gradients_in_bf16_differ_by_rounding(found: dict[str, Any]) -> None:
    assert max(found["gradients bf16"]["errors"].values()) < 2**-7


@pytest.mark.parametrize("name", TRAINING)
def test_steps_are_those_of_one_process(found: dict[str, Any], name: str) -> None:
    ours, own = found[f"training {name}"]["losses"]
    for shared, alone in zip(ours, own, strict=True):
        assert shared == pytest.approx(alone, abs=1e-5)
    assert found[f"training {name}"]["difference"] < 1e-4


def test_masters_of_a_bf16_model_are_trained_in_fp32(found: dict[str, Any]) -> None:
    (ours,), (own,) = found["training bf16"]["losses"]
    assert ours == pytest.approx(own, abs=2e-2)
    assert ours != own


def test_a_model_is_scored_then_trained_then_scored(found: dict[str, Any]) -> None:
    """Nothing is an inference tensor afterwards, and the scores of the same weights are the same bits."""
    (before, after), (own_before, own_after) = found["scored"]["sharded"], found["scored"]["solo"]
    assert before == own_before
    assert after != before
    for ours, own in zip(after, own_after, strict=True):
        assert ours == pytest.approx(own, abs=1e-4)


def test_a_saved_model_is_whole(folder: Path, found: dict[str, Any]) -> None:
    """Before a step the very file that one process saves, names, ties and metadata too; after one, its weights."""
    files = [folder / f"saved-untouched-{sharded}" / "model.safetensors" for sharded in (True, False)]
    assert files[0].read_bytes() == files[1].read_bytes()
    ours, own = (load_file(folder / f"saved-{sharded}" / "model.safetensors") for sharded in (True, False))
    assert ours.keys() == own.keys()
    for name, tensor in own.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-4, rtol=0)
