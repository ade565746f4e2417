"""The collector rests while modules are imported, and is afterwards as it was."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys

import pytest

from rankscope.edges.heavy_imports import collector_rests
from rankscope.edges.worker_process import PRELOADED


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_rests_inside_and_is_as_it_was_afterwards(on: bool) -> None:
    (gc.enable if on else gc.disable)()
    try:
        with collector_rests():
            assert not gc.isenabled()
        assert gc.isenabled() == on
        with pytest.raises(ImportError), collector_rests():
            importlib.import_module("no_such_module_anywhere")
        assert gc.isenabled() == on
    finally:
        gc.enable()


def test_what_the_fork_server_imports_is_never_looked_through_again() -> None:
    (preloaded,) = PRELOADED
    script = f"import gc, {preloaded}; print(gc.isenabled(), gc.get_freeze_count() > 100_000, len(gc.get_objects()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    enabled, frozen, left = done.stdout.split()
    assert (enabled, frozen) == ("True", "True")
    assert int(left) < 10_000
