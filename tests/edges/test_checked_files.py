"""Training states come back bit for bit, and a damaged one is never used."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from rankscope.edges.checked_files import StoredCheckpoints
from rankscope.edges.storages.local_disk import LocalDisk


@pytest.fixture
def checkpoints(tmp_path: Path) -> StoredCheckpoints:
    return StoredCheckpoints(LocalDisk(tmp_path), "runs/a/checkpoint")


def state(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.randn(3, 4).T, "b": torch.ones(2, dtype=torch.bfloat16), "step": torch.tensor(value)}


def test_a_state_comes_back_bit_for_bit(checkpoints: StoredCheckpoints) -> None:
    assert checkpoints.load() is None
    tensors = state(7.0)
    checkpoints.save(tensors, {"steps": "[]"})
    loaded = checkpoints.load()
    assert loaded is not None
    assert all(torch.equal(loaded[0][key], tensors[key]) for key in tensors)
    assert loaded[1] == {"steps": "[]"}
    checkpoints.remove()
    assert checkpoints.load() is None


@pytest.mark.parametrize("damage", ["cut", "zeroed", "bit in a tensor", "bit in the header", "empty"])
def test_the_state_before_a_damaged_one_is_used(
    checkpoints: StoredCheckpoints, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.save(state(1.0), {"steps": "[1]"})
    checkpoints.save(state(2.0), {"steps": "[2]"})
    path = tmp_path / "runs" / "a" / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    match damage:
        case "cut":
            content = content[: len(content) // 2]
        case "zeroed":
            content = bytearray(len(content))
        case "bit in a tensor":
            content[-3] ^= 1
        case "bit in the header":
            content[content.index(b"[2]") + 1] ^= 1
        case _:
            content = bytearray()
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        loaded = checkpoints.load()
    assert loaded is not None
    assert loaded[1] == {"steps": "[1]"}
    assert float(loaded[0]["step"]) == 1.0
    assert "is not used" in caplog.text


def test_two_damaged_states_mean_a_new_start(checkpoints: StoredCheckpoints, tmp_path: Path) -> None:
    checkpoints.save(state(1.0), {})
    checkpoints.save(state(2.0), {})
    for path in (tmp_path / "runs" / "a").iterdir():
        path.write_bytes(b"")
    assert checkpoints.load() is None
