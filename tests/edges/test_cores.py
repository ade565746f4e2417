"""Commands take the cores that are free, their threads sleep at barriers, and thin matrices take one thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rankscope.edges import cores
from rankscope.edges.cores import WAIT_SETTINGS, free_core_count, load_of_others
from rankscope.model.weights.weight_delta import LowRank, random_like

SETTINGS = """
import json, os, sys
from rankscope.edges import cores
cores.load_of_others = lambda: float(sys.argv[1])
cores.core_count = os.cpu_count = lambda: 2
cores.share_cores()
assert "torch" not in sys.modules
import torch
print(json.dumps([torch.get_num_threads(), {name: os.environ.get(name) for name in json.loads(sys.argv[2])}]))
"""
NAMES = [*WAIT_SETTINGS, "OMP_NUM_THREADS"]


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in names}


def threads_and_settings(load: float, **given: str) -> tuple[int, dict[str, str | None]]:
    """Of a process that begins under this load, where the user has set `given`."""
    environment = without(*NAMES, "MKL_NUM_THREADS") | given
    call = [sys.executable, "-c", SETTINGS, str(load), json.dumps(NAMES)]
    done = subprocess.run(call, capture_output=True, text=True, check=True, env=environment)
    threads, settings = json.loads(done.stdout)
    return threads, settings


@pytest.mark.parametrize(("load", "threads"), [(0.0, 2), (1.0, 1)])
def test_threads_are_the_free_cores_and_sleep_at_barriers(load: float, threads: int) -> None:
    assert threads_and_settings(load) == (threads, {**WAIT_SETTINGS, "OMP_NUM_THREADS": str(threads)})


def test_what_the_user_has_set_stays() -> None:
    threads, settings = threads_and_settings(30.0, OMP_NUM_THREADS="2", GOMP_SPINCOUNT="100")
    assert threads == 2
    expected = {"OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": "100", "KMP_BLOCKTIME": None, "OMP_NUM_THREADS": "2"}
    assert settings == expected


def test_a_number_for_mkl_alone_stays_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"MKL_NUM_THREADS": "7"})
    cores.share_cores()
    assert os.environ == {"MKL_NUM_THREADS": "7", **WAIT_SETTINGS}


@pytest.mark.parametrize(
    ("own", "machine", "load", "free"),
    [(4, 4, 0.2, 4), (4, 4, 3.0, 1), (4, 4, 400.0, 1), (2, 2, 0.9, 1), (4, 64, 40.0, 2), (1, 64, 0.0, 1)],
)
def test_a_share_of_a_large_machine_counts_its_share_of_the_load(
    own: int, machine: int, load: float, free: int
) -> None:
    assert free_core_count(own, machine, load) == free


@pytest.mark.parametrize(
    ("mean", "running", "load"),
    [
        (1.9, "3/210", 1.9),  # others compute, and have for a while
        (1.9, "1/210", 0.0),  # only we do: the command before this one has ended
        (0.1, "5/210", 0.1),  # others do for a moment
        (0.7, "", 0.7),  # no such file
    ],
)
def test_load_is_what_others_compute_now(
    monkeypatch: pytest.MonkeyPatch, mean: float, running: str, load: float
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (mean, 0.0, 0.0))
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"{mean} 0.00 0.00 {running} 4711\n")
    assert load_of_others() == load


def test_the_command_sets_it_before_anything_heavy_is_imported() -> None:
    script = "import os, sys; sys.argv = ['rankscope', '--version']; from rankscope.cli import main\n"
    script += "try: main()\nfinally: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    call = [sys.executable, "-c", script]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=without(*NAMES))
    assert done.stdout.splitlines()[-1] == "PASSIVE False", done.stderr


def test_thin_matrices_are_decomposed_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    plain = torch.linalg.qr

    def watched(*args: object, **options: object) -> object:
        seen.append(torch.get_num_threads())
        return plain(*args, **options)

    monkeypatch.setattr(torch.linalg, "qr", watched)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        dice = torch.Generator().manual_seed(0)
        delta = LowRank(torch.randn(3, 40, generator=dice), torch.randn(50, 3, generator=dice), 2.0)
        values = delta.singular_values()
        delta.svd()
        control = random_like(values, delta.shape, dice)
        assert seen == [1] * 6
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(values, torch.linalg.svdvals(delta.dense())[:3])
    torch.testing.assert_close(values, torch.linalg.svdvals(control.dense())[:3])


def node(folder: Path, number: int, cores: str) -> None:
    place = folder / f"node{number}"
    place.mkdir()
    (place / "cpulist").write_text(f"{cores}\n", encoding="ascii")


def test_memory_nodes_have_the_cores_that_this_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5, 8, 9})
    node(tmp_path, 0, "0-3,8-11")
    node(tmp_path, 10, "4")
    node(tmp_path, 2, "5-7")
    node(tmp_path, 3, "")
    assert cores.memory_nodes(tmp_path) == [(0, 1, 2, 8, 9), (5,)]
    assert cores.memory_nodes(tmp_path / "none") == []


def test_workers_keep_to_a_socket_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [(0, 1, 2, 3), (4, 5, 6, 7)]
    monkeypatch.setattr(cores, "memory_nodes", lambda: nodes)
    assert cores.cores_of_workers(4, 2) == [nodes[0], nodes[0], nodes[1], nodes[1]]
    assert cores.cores_of_workers(2, 4) == nodes
    assert cores.cores_of_workers(3, 2) == [(), (), ()], "one socket would have two of them"
    assert cores.cores_of_workers(2, 5) == [(), ()], "more threads than a socket has cores"
    monkeypatch.setattr(cores, "memory_nodes", lambda: nodes[:1])
    assert cores.cores_of_workers(2, 1) == [(), ()], "who else is on a core is not known"
