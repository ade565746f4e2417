"""Functions run by several processes together, as torch's launcher would: gloo, one thread each."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


def run_together(work: Callable[..., Any], folder: Path, size: int = 2, **given: Any) -> list[Any]:
    """What `work(folder, **given)` returns in each of `size` processes; AssertionError with the traceback of one that
    fails. The work is a function of a module, and what it returns pickles."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rankscope.jobs.run_job"])
    pipes, processes = [], []
    for rank in range(size):
        ours, theirs = context.Pipe()
        process = context.Process(target=_member, args=(theirs, rank, size, str(folder), work, given), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        answers = [_answer(pipe) for pipe in pipes]
    finally:
        for process in processes:
            process.join(timeout=5)
            process.kill()
    failed = [why for ok, why in answers if not ok]
    assert not failed, "\n".join(map(str, failed))
    return [value for _, value in answers]


def _answer(pipe: Connection) -> tuple[bool, Any]:
    if not pipe.poll(500):
        return False, "no answer in 500 seconds"
    try:
        answer: tuple[bool, Any] = pipe.recv()
        return answer
    except EOFError:
        return False, "a process ended without an answer"


def _member(
    pipe: Connection, rank: int, size: int, folder: str, work: Callable[..., Any], given: dict[str, Any]
) -> None:
    import torch
    import torch.distributed as dist

    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/rendezvous-{work.__name__}", size)
    dist.init_process_group("cpu:gloo", store=store, rank=rank, world_size=size)
    try:
        pipe.send((True, work(Path(folder), **given)))
    except Exception:
        pipe.send((False, f"rank {rank}: {traceback.format_exc()}"))
    finally:
        dist.destroy_process_group()
