"""GPUs are looked at by another process; this one never touches CUDA."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import call, problems
from tiny_study import tiny_study

from rankscope.edges import gpu_facts
from rankscope.edges.gpu_facts import GpuFacts
from rankscope.edges.machine import look_at_machine, machine_line
from rankscope.study.problems import InputProblems
from rankscope.tools.doctor import examine

TWO = GpuFacts(
    names=["NVIDIA H100", "NVIDIA H100"], memories_bytes=[85_000_000_000, 80_000_000_000], bfloat16_is_fast=True,
    flops_per_second=4e14, flops_per_second_float32=5e13,
)  # fmt: skip


class Gpus:
    """What the process that looks at GPUs will say, in place of a real one; and how often one was started."""

    def __init__(self, folder: Path) -> None:
        self.study = tiny_study(folder / "input")
        self._answer, self._asked = folder / "answer.sh", folder / "asked"
        self.says(TWO.model_dump_json())

    def says(self, text: str, code: int = 0, error: str = "") -> None:
        script = f"#!/bin/sh\necho \"$@\" >> {self._asked}\ncat <<'END'\n{text}\nEND\necho '{error}' >&2\nexit {code}\n"
        self._answer.write_text(script)
        self._answer.chmod(0o755)
        gpu_facts._asked.cache_clear()

    @property
    def python(self) -> str:
        return str(self._answer)

    @property
    def asked(self) -> list[str]:
        return self._asked.read_text().splitlines() if self._asked.exists() else []


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpus]:
    """A torch that is made for CUDA, and two GPUs as another process sees them; whoever looks at one here fails."""
    made = Gpus(tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(sys, "executable", made.python)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this process looks at a GPU")

    names = ("_lazy_init", "is_available", "device_count", "get_device_properties", "get_device_name",
             "is_bf16_supported")  # fmt: skip
    for name in names:
        monkeypatch.setattr(torch.cuda, name, refuse)
    yield made
    gpu_facts._asked.cache_clear()


def test_facts_come_from_another_process_and_once(gpus: Gpus, tmp_path: Path) -> None:
    machine = look_at_machine(tmp_path)
    assert (machine.device, machine.device_count, machine.device_name) == ("cuda", 2, "2 x NVIDIA H100")
    assert machine.device_memory_bytes == 80_000_000_000, "of the smaller one"
    assert machine.device_memories_bytes == [85_000_000_000, 80_000_000_000]
    assert (machine.flops_per_second, machine.speed_in("float32")) == (4e14, 5e13)
    again = look_at_machine(tmp_path)
    assert again.model_copy(update={"disk_free_bytes": machine.disk_free_bytes}) == machine
    assert gpus.asked == ["-m rankscope.edges.gpu_facts measure"]


def test_the_commands_of_the_driver_make_no_cuda_context(gpus: Gpus, tmp_path: Path) -> None:
    study, out = gpus.study, tmp_path / "none"
    planned = json.loads(call("plan", study, "--out", out, "--json").stdout)
    assert planned["resolved"]["gpus"] == [0, 1]
    assert planned["resolved"]["device"] == "cuda"
    assert planned["schedule"]["devices"] == [0, 1]
    assert examine(tmp_path)["machine"]["device_count"] == 2
    assert "cores" in machine_line()
    assert not torch.cuda.is_initialized()
    assert gpus.asked == ["-m rankscope.edges.gpu_facts measure"]


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        (
            "execution.gpus=[7]",
            "study: execution.gpus: found GPU 7 on a machine with 2 GPUs, expected numbers from 0 to 1",
        ),
        ("execution.gpus=[0, 0]", "execution.gpus: found GPU 0 twice, expected each GPU once"),
        ("execution.shards=4", "found shards: 4 on a machine with 2 GPUs, expected auto, or a power of two up to 2"),
    ],
)
def test_gpus_that_are_not_there_are_refused_before_anything_is_trained(
    gpus: Gpus, tmp_path: Path, setting: str, line: str
) -> None:
    study, out = gpus.study, tmp_path / "none"
    for command in ("plan", "run"):
        (told,) = problems(call(command, study, "--out", out, "--set", setting))
        assert told.endswith(line)
        assert not out.exists()


def test_a_gpu_where_there_is_none_is_refused(gpus: Gpus, tmp_path: Path) -> None:
    gpus.says("null")
    study, out = gpus.study, tmp_path / "none"
    (told,) = problems(call("run", study, "--out", out, "--set", "execution.gpus=[0]"))
    assert "found gpus: [0] on a machine without a GPU" in told
    assert not out.exists()


def test_a_look_that_fails_says_why_in_one_line(gpus: Gpus, tmp_path: Path) -> None:
    gpus.says("", 134, "CUDA error: unspecified launch failure")
    with pytest.raises(InputProblems) as caught:
        look_at_machine(tmp_path)
    (told,) = map(str, caught.value.problems)
    assert told == (
        "this machine: GPUs: found looking at them ended with exit code 134: CUDA error: unspecified launch failure, "
        "expected GPUs that torch can use, or CUDA_VISIBLE_DEVICES= in the environment to go on without"
    )
    gpus.says("no JSON")
    with pytest.raises(InputProblems, match="exit code 0: no JSON"):
        look_at_machine(tmp_path)


def test_the_real_process_agrees_with_torch() -> None:
    """On a machine without a GPU, or with a torch for CPUs, it says that there is none."""
    if torch.cuda.is_available():
        pytest.skip("tests marked cuda look at real GPUs")
    assert gpu_facts.look(measure=False) is None
    if torch.version.cuda is None:
        assert gpu_facts.gpu_facts(measure=False) is None
