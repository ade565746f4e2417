"""`rankscope doctor`: published sizes, honest limits, and a fix for what is missing."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from rankscope.cli import app
from rankscope.plan.run_cost import KNOWN_MODELS
from rankscope.records import MachineFacts
from rankscope.tools.doctor import examine, fixes

GPU = MachineFacts(
    device="cuda", device_name="a GPU", core_count=8, memory_bytes=128 * 10**9, device_memory_bytes=80 * 10**9,
    bfloat16_is_fast=True, disk_free_bytes=10**12, bitsandbytes=True, flops_per_second=1e14,
)  # fmt: skip
SMALL = GPU.model_copy(update={"device": "cpu", "memory_bytes": 8 * 10**9, "device_memory_bytes": 8 * 10**9})
PUBLISHED = {
    "SmolLM2-135M": 134_515_008, "SmolLM2-360M": 361_821_120, "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824, "Llama-3.1-8B": 8_030_261_248, "Llama-2-13B": 13_015_864_320,
    "Mistral-Small-24B": 23_572_403_200, "Llama-3.1-70B": 70_553_706_496,
}  # fmt: skip


@pytest.mark.parametrize("shape", KNOWN_MODELS, ids=lambda shape: shape.name)
def test_the_shapes_have_the_published_numbers_of_parameters(shape) -> None:  # type: ignore[no-untyped-def]
    assert shape.facts().parameter_count == PUBLISHED[shape.name]


def largest(machine: MachineFacts, tmp_path) -> list[str | None]:  # type: ignore[no-untyped-def]
    found = examine(tmp_path, machine)
    for way in found["trainable"]:
        if way["fits"]:
            assert way["fits"]["memory_bytes"] <= found["usable_memory_bytes"]
            assert way["fits"]["memory_bytes"] == sum(way["fits"]["memory_parts_bytes"].values())
        if way["too_large"]:
            assert way["too_large"]["memory_bytes"] > found["usable_memory_bytes"]
    return [way["fits"] and way["fits"]["model"] for way in found["trainable"]]


def test_what_fits_grows_from_full_to_lora_to_4_bits(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """20 bytes a parameter in full, 2 with LoRA, half a byte in 4 bits (docs/plan.md)."""
    assert largest(GPU, tmp_path) == ["Llama-3.2-3B", "Mistral-Small-24B", "Llama-3.1-70B"]
    assert largest(SMALL, tmp_path) == ["SmolLM2-135M", "Llama-3.2-1B", None]


def test_what_is_missing_comes_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    slow = SMALL.model_copy(update={"bfloat16_is_fast": False, "disk_free_bytes": 10**9})
    text = " ".join(fixes(slow))
    for word in ("torch sees no GPU", "float32", "another --out", "HF_HUB_OFFLINE"):
        assert word in text
    assert "rankscope[quant]" in " ".join(fixes(GPU.model_copy(update={"bitsandbytes": False})))


def test_it_prints_a_table_and_json() -> None:
    printed = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "100"})
    assert printed.exit_code == 0, printed.output
    assert "full fine-tuning" in printed.stdout
    assert printed.stdout.splitlines()[-1].startswith("Next: rankscope ")
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert found["machine"]["device"] in ("cpu", "cuda")
    assert [way["way"] for way in found["trainable"]][:2] == ["full fine-tuning", "LoRA, rank 16"]
