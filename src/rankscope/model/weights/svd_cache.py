"""Singular value decompositions of the base's matrices, kept on disk by content hash. A matrix is (out, in)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rankscope.model.weights.weight_delta import Svd, working
from rankscope.study.store_urls import cache_folder

_LAYOUT = "1"
"""Part of every key: raised when the files would hold something else."""

_FREE_DISK_SHARE = 0.1
"""A file is kept only where it takes less than this share of the free disk; else it is computed anew."""


class SvdCache:
    """SVDs of weight matrices in files named by the hash of what they were computed from."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = (folder if folder is not None else cache_folder()) / "svd"

    def svd(self, weight: Tensor, content: str | None = None) -> Svd:
        """SVD of (out, in) in the working precision, on the weight's device.

        `content` names the matrix where its hash is known (the model's content hash and the module); else the weight
        itself is hashed. A file that cannot be read is computed anew.
        """
        path = self._path(weight, content)
        if (found := _load(path, weight)) is not None:
            return found
        svd = Svd(*torch.linalg.svd(working(weight), full_matrices=False))
        self._save(path, svd)
        return svd

    def holds(self, weight: Tensor, content: str | None = None) -> bool:
        """Whether the SVD of (out, in) is on disk already; `content` as in `svd`."""
        return self._path(weight, content).is_file()

    def _path(self, weight: Tensor, content: str | None) -> Path:
        digest = hashlib.sha256(f"{_LAYOUT} {tuple(weight.shape)} {weight.dtype} ".encode())
        digest.update(content.encode() if content is not None else _bytes_of(weight))
        return self._folder / f"{digest.hexdigest()[:40]}.safetensors"

    def _save(self, path: Path, svd: Svd) -> None:
        size = sum(t.numel() * t.element_size() for t in (svd.left, svd.values, svd.right))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if size > _FREE_DISK_SHARE * shutil.disk_usage(path.parent).free:
                return
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        except OSError:  # no place to write: the cache is a convenience
            return
        os.close(handle)
        try:
            tensors = {"left": svd.left, "values": svd.values, "right": svd.right}
            save_file({key: t.contiguous().cpu() for key, t in tensors.items()}, name)
            os.replace(name, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()


def _load(path: Path, weight: Tensor) -> Svd | None:
    if not path.is_file():
        return None
    try:
        held = load_file(path, device=str(weight.device))
    except (SafetensorError, OSError):
        return None
    small = min(weight.shape)
    if {k: tuple(t.shape) for k, t in held.items()} != {
        "left": (weight.shape[0], small), "values": (small,), "right": (small, weight.shape[1]),
    }:  # fmt: skip
        return None
    return Svd(held["left"], held["values"], held["right"])


def _bytes_of(weight: Tensor) -> memoryview:
    return weight.detach().cpu().contiguous().view(torch.uint8).numpy().data.cast("B")
