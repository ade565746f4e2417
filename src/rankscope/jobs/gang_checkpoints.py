"""The state of a run that several processes train: torch's distributed checkpoints, written while training goes on.

Each process writes the parts that it holds, as safetensors (torch's own format has a pickle in it); the first puts
`state.json` beside them, with the results so far and the SHA-256 of every file, and gives the folder its name when all
is there. What was the newest state before is kept too, and is taken where the newest is damaged.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from rankscope.edges.checked_files import sums_of
from rankscope.edges.storages import Storage
from rankscope.model.sharding.team import ProcessTeam

logger = logging.getLogger(__name__)

GANG = ".gang"
"""What the name of a gang's state has behind the name of the state of one process."""

_STATE = "state.json"


class GangCheckpoints:
    """A `Checkpoints` of all processes of a team, which call every method together. `group` is theirs, for this alone.

    `save` returns as soon as the state is copied to the host's memory; `wait` until the last one stands.
    """

    def __init__(
        self, storage: Storage, name: str, team: ProcessTeam, mesh: DeviceMesh, group: dist.ProcessGroup
    ) -> None:
        self._storage, self._team, self._mesh, self._group = storage, team, mesh, group
        self._now, self._before = f"{name}{GANG}", f"{name}{GANG}-before"
        self._writing: threading.Thread | None = None
        self._failure: list[BaseException] = []

    def load(self) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """(tensors, metadata) of the newest whole state, each process its parts; None where there is none."""
        found = self._team.told(self._newest)
        if found is None:
            return None
        path, state = found
        reader = HuggingFaceStorageReader(path)
        kept = reader.read_metadata().state_dict_metadata
        tensors = {
            key: self._room(cast(TensorStorageMetadata, entry), sharded=key in state["sharded"])
            for key, entry in kept.items()
        }
        load(tensors, storage_reader=HuggingFaceStorageReader(path), process_group=self._group)
        return tensors, state["metadata"]

    def save(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Replace the state by this one, keeping the one before; written in the background."""
        self.wait()
        stack = contextlib.ExitStack()
        draft = Path(self._team.told(lambda: str(stack.enter_context(self._storage.local_draft(self._now)))))
        writer = HuggingFaceStorageWriter(str(draft), save_distributed=True)
        future = async_save(dict(tensors), storage_writer=writer, process_group=self._group)
        state = {
            "metadata": dict(metadata),
            "sharded": sorted(key for key, tensor in tensors.items() if isinstance(tensor, DTensor)),
            "processes": self._team.size,
        }
        self._writing = threading.Thread(
            target=self._finish, args=(cast("Future[Any]", future), stack, draft, state), name="gang-checkpoint"
        )
        self._writing.start()

    def wait(self) -> None:
        """Until what is being written stands. Raises what went wrong with it."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._failure:
            raise self._failure.pop()

    def _finish(self, future: Future[Any], stack: contextlib.ExitStack, draft: Path, state: dict[str, Any]) -> None:
        """Of the first process: it knows when all have written."""
        try:
            with stack:
                future.result()
                if self._team.rank == 0:
                    content = {**state, "sums": sums_of(draft)}
                    (draft / _STATE).write_text(json.dumps(content), encoding="utf-8")
                    self._storage.remove(self._before)
                    self._storage.rename(self._now, self._before)
        except BaseException as error:  # told by `wait`, in the thread that trains
            self._failure.append(error)

    def _newest(self) -> tuple[str, dict[str, Any]] | None:
        for name in (self._now, self._before):
            path = self._storage.local_copy(name)
            if path is None:
                continue
            try:
                state = json.loads((path / _STATE).read_text(encoding="utf-8"))
                sums = {file: digest for file, digest in sums_of(path).items() if file != _STATE}
                if sums == state["sums"]:
                    return str(path), state
                why = "a file has not the checksum that it was written with"
            except (OSError, ValueError, KeyError) as error:
                why = str(error)
            logger.warning("%s/%s is damaged (%s) and is not used", self._storage.url, name, why)
        return None

    def _room(self, entry: TensorStorageMetadata, *, sharded: bool) -> Tensor:
        """An empty tensor in the host's memory, or this process's part of one."""
        dtype = entry.properties.dtype
        if not sharded:
            return torch.empty(entry.size, dtype=dtype)
        like = distribute_tensor(torch.empty(entry.size, dtype=dtype, device="meta"), self._mesh, [Shard(0)])
        local = torch.empty_like(like.to_local(), device="cpu")
        return DTensor.from_local(
            local, self._mesh, [Shard(0)], run_check=False, shape=like.shape, stride=like.stride()
        )
