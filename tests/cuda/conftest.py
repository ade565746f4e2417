"""The device of these tests: CUDA, or what RANKSCOPE_TEST_DEVICE names (`cpu` tries out the tests themselves)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tiny_models import save_tiny_model

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cuda)


@pytest.fixture(scope="session")
def device() -> str:
    name = os.environ.get("RANKSCOPE_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return name


@pytest.fixture
def on_cuda(device: str) -> None:
    if device != "cuda":
        pytest.skip("only on CUDA")


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose head size (64) the kernels of half precision take, with fewer heads of keys."""
    return save_tiny_model(
        tmp_path_factory.mktemp("small"), hidden_size=256, intermediate_size=512, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.05,
    )  # fmt: skip
