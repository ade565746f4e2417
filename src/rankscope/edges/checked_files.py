"""Files that are checked when they are read back: training states, and SHA-256 sums beside weights and tokens."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rankscope.edges.storages import Storage

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

_SUM = "rankscope_sha256"


class StoredCheckpoints:
    """The state of a run or pack as one safetensors file, `NAME.safetensors`, and the one before, `NAME.before...`.

    What a gang of processes trains has folders in their place, `NAME.gang` and `NAME.gang-before`, which only
    `remove` knows here.

    A file whose checksum is wrong is never used: the one before it is, else training starts again; the log says which.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        self.name = name
        self._now, self._before = f"{name}.safetensors", f"{name}.before.safetensors"

    def exist(self) -> bool:
        """Whether a state was saved, of one process or of a gang."""
        return any(self._storage.exists(name) for name in (self._now, f"{self.name}.gang"))

    def load(self) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """(tensors, metadata) of the newest whole state; None where there is none."""
        for name in (self._now, self._before):
            found = self._read(name)
            if found is not None:
                return found
        return None

    def save(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Replace the state by this one, keeping the one before."""
        from safetensors.torch import save_file

        held = {key: value.contiguous().cpu() for key, value in tensors.items()}
        named = {**metadata, _SUM: checksum(held, metadata)}
        with self._storage.local_draft(self._now) as draft:
            save_file(held, draft, named)
            self._storage.rename(self._now, self._before)

    def remove(self) -> None:
        """Delete the state and the one before it, of a gang too, once a run has ended."""
        for name in (self._now, self._before, f"{self.name}.gang", f"{self.name}.gang-before"):
            self._storage.remove(name)

    def _read(self, name: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        from safetensors import SafetensorError, safe_open

        path = self._storage.local_copy(name)
        if path is None:
            return None
        try:
            with safe_open(path, framework="pt") as opened:
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
                metadata = dict(opened.metadata() or {})
        except (SafetensorError, OSError, ValueError) as error:
            logger.warning("%s/%s is damaged (%s) and is not used", self._storage.url, name, error)
            return None
        known = metadata.pop(_SUM, None)
        if known != checksum(tensors, metadata):
            logger.warning("%s/%s does not have its own checksum and is not used", self._storage.url, name)
            return None
        return tensors, metadata


def write_sums(storage: Storage, name: str, local: Path) -> None:
    """Write `NAME.sha256`, as `sha256sum` does, for the file or folder `local` that is about to stand as `name`."""
    lines = [f"{digest}  {file}\n" for file, digest in sums_of(local).items()]
    storage.write(f"{name}.sha256", "".join(lines).encode())


def damage_of(storage: Storage, name: str) -> str | None:
    """What is wrong with a file or folder that has sums; None where nothing is, or where there are none."""
    content, local = storage.read(f"{name}.sha256"), storage.local_copy(name)
    if content is None or local is None:
        return None
    lines = [line.partition("  ") for line in content.decode(errors="replace").splitlines()]
    known = {file: digest for digest, _, file in lines}
    try:
        found = sums_of(local)
    except OSError as error:
        return f"{error.strerror or error}"
    wrong = sorted(file for file, digest in known.items() if found.get(file) != digest)
    return f"another content of {wrong[0]} than was saved" if wrong else None


def sums_of(local: Path) -> dict[str, str]:
    """SHA-256 by name: of each file of a folder, or of the one file, whose name is then `.`."""
    files = sorted(path for path in local.rglob("*") if path.is_file()) if local.is_dir() else [local]
    found = {}
    for path in files:
        with path.open("rb") as stream:
            found[str(path.relative_to(local))] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes and bytes of all tensors, and of the metadata, in a fixed order."""
    import torch

    digest = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
