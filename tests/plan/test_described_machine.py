"""A machine in a few characters."""

from __future__ import annotations

import pytest

from rankscope.plan.described_machine import described_machine
from rankscope.study.problems import InputProblems


@pytest.mark.parametrize(("text", "count", "gigabytes"), [("8x80GB", 8, 80), ("80GB", 1, 80), ("2 x 24 gb", 2, 24)])
def test_gpus_and_their_memory(text: str, count: int, gigabytes: int) -> None:
    machine = described_machine(text)
    assert (machine.device, machine.device_count) == ("cuda", count)
    assert machine.device_memory_bytes == gigabytes * 10**9
    assert machine.memory_bytes == 2 * count * gigabytes * 10**9
    assert machine.described


@pytest.mark.parametrize(
    "text", ["8", "8x", "GB", "0x80GB", "8x0GB", "8x80TB", "-1x80GB", "0x8x80GB", "2x2x8x80GB", "H100", ""]
)
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputProblems) as caught:
        described_machine(text)
    (problem,) = caught.value.problems
    assert "expected a number of GPUs and the memory of each, such as 8x80GB;" in str(problem)


def test_several_nodes_of_gpus() -> None:
    machine, one = described_machine("4x8x80GB"), described_machine("8x80GB")
    assert machine == one.model_copy(update={"node_count": 4, "device_name": "4 nodes of 8 x 80 GB, described"})
