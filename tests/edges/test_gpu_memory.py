"""Torch is told to let a GPU's memory grow before it is imported, and what the user has set stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rankscope.edges.gpu_memory import ALLOCATOR_VARIABLES, EXPANDABLE, let_segments_grow


@pytest.mark.parametrize(
    ("given", "platform", "wanted"),
    [
        ({}, "linux", {"PYTORCH_CUDA_ALLOC_CONF": EXPANDABLE}),
        ({}, "darwin", {}),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "linux", {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}),
        ({"PYTORCH_CUDA_ALLOC_CONF": ""}, "linux", {"PYTORCH_CUDA_ALLOC_CONF": ""}),
    ],
)
def test_segments_may_grow_unless_the_user_has_set_how(
    given: dict[str, str], platform: str, wanted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(given))
    monkeypatch.setattr(sys, "platform", platform)
    let_segments_grow()
    assert os.environ == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="only there is it set")
def test_the_command_tells_torch_before_it_imports_it() -> None:
    code = (
        "import os, sys, rankscope.cli as cli\n"
        "cli.app = lambda **_: print('torch' in sys.modules, os.environ['PYTORCH_CUDA_ALLOC_CONF'])\n"
        "cli.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_VARIABLES}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == f"False {EXPANDABLE}"
