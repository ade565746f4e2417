"""What GPUs torch sees, asked of a short process of its own: `python -m rankscope.edges.gpu_facts look|measure`.

Who asks torch.cuda in his own process makes a CUDA context there, which takes hundreds of megabytes of the first GPU
for as long as he lives, and after which no child of his that is forked can use a GPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

from pydantic import ValidationError

from rankscope.edges.matrix_speed import matrix_flops_per_second
from rankscope.records.record_base import Record
from rankscope.study.problems import InputProblems, Problem

_SECONDS = 300.0
"""How long the process may take: importing torch from a cold network disk takes minutes."""


class GpuFacts(Record):
    """Of the GPUs that torch sees, in its order; speeds are those of the first one, None where nobody measured."""

    names: list[str]
    memories_bytes: list[int]
    bfloat16_is_fast: bool
    flops_per_second: float | None = None
    flops_per_second_float32: float | None = None

    @property
    def name(self) -> str:
        """All of them, for people."""
        kinds = dict.fromkeys(self.names)
        return ", ".join(f"{self.names.count(kind)} x {kind}" if len(self.names) > 1 else kind for kind in kinds)


def gpu_facts(*, measure: bool) -> GpuFacts | None:
    """What the GPUs are, and with `measure` how fast; None where torch sees none. Each is asked once a process.

    Raises InputProblems where the process that looks at them fails or does not end.
    """
    import torch

    if torch.version.cuda is None and torch.version.hip is None:  # a torch for CPUs
        return None
    if torch.cuda.is_initialized():  # a worker at its work: it has a context
        return look(measure=measure)
    return _asked("measure" if measure else "look")


@cache
def _asked(what: str) -> GpuFacts | None:
    command = [sys.executable, "-m", "rankscope.edges.gpu_facts", what]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise InputProblems([_problem(f"no answer within {_SECONDS:g} s")]) from None
    said = done.stdout.strip().rpartition("\n")[2]
    if done.returncode == 0 and said == "null":
        return None
    try:
        if done.returncode == 0:
            return GpuFacts.model_validate_json(said)
    except ValidationError:
        pass
    why = done.stderr.strip().rpartition("\n")[2] or said or "nothing was said"
    raise InputProblems([_problem(f"looking at them ended with exit code {done.returncode}: {why}")])


def _problem(found: str) -> Problem:
    expected = "GPUs that torch can use, or CUDA_VISIBLE_DEVICES= in the environment to go on without"
    return Problem("this machine", "GPUs", " ".join(found.split()), expected)


def look(*, measure: bool) -> GpuFacts | None:
    """As `gpu_facts`, in this process, which then has a CUDA context."""
    import torch

    if not torch.cuda.is_available():
        return None
    seen = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    fast = torch.cuda.is_bf16_supported(including_emulation=False)
    speeds: list[float | None] = [None, None]
    if measure:
        dtypes = (torch.bfloat16 if fast else torch.float32, torch.float32)
        speeds = [matrix_flops_per_second(dtype, "cuda") for dtype in dtypes]
    return GpuFacts(
        names=[one.name for one in seen],
        memories_bytes=[one.total_memory for one in seen],
        bfloat16_is_fast=fast,
        flops_per_second=speeds[0],
        flops_per_second_float32=speeds[1],
    )


def main(what: str) -> None:
    """Print the facts as JSON, `null` where there is no GPU."""
    found = look(measure=what == "measure")
    print(json.dumps(None if found is None else found.model_dump()))


if __name__ == "__main__":
    main(sys.argv[1])
