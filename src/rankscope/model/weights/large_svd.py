"""Singular value decompositions of large matrices: kept on disk by content hash, or the largest parts at random.

Shapes: a matrix is (out, in), K = min(out, in), k parts that are asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rankscope.model.weights.weight_delta import Svd, normal, working
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


# ---- only the largest parts ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TopSvd:
    """The largest parts of a matrix by a randomised method, and how wrong they may be.

    `error_bounds` (k,): each value is too small by at most sqrt(value^2 + e^2) - value (Weyl, on the Gram matrix); e
    bounds the spectral norm of what the subspace misses: the smaller of the root of `missed_energy`, which is its
    squared Frobenius norm, and an estimate that fails with a probability of 1e-10 (Halko, Martinsson & Tropp 2011,
    arXiv 0909.4061, lemma 4.1).
    """

    svd: Svd
    error_bounds: Tensor
    missed_energy: float


def randomised_top_svd(
    matrix: Tensor, count: int, generator: torch.Generator, *, extra: int = 10, power_steps: int = 2
) -> TopSvd:
    """The `count` largest singular triples of (out, in) by a random range finder with power steps (arXiv 0909.4061).

    Raises ValueError where `count` is not between 1 and the smaller side.
    """
    if not 1 <= count <= min(matrix.shape):
        raise ValueError(f"{count} of {min(matrix.shape)} singular values")
    whole = working(matrix)
    width = min(count + extra, min(matrix.shape))
    basis = torch.linalg.qr(whole @ normal((whole.shape[1], width), whole, generator)).Q
    for _ in range(power_steps):
        basis = torch.linalg.qr(whole.T @ basis).Q
        basis = torch.linalg.qr(whole @ basis).Q
    small = basis.T @ whole
    u, values, vh = torch.linalg.svd(small, full_matrices=False)
    probes = whole @ normal((whole.shape[1], 10), whole, generator)
    missed = (probes - basis @ (basis.T @ probes)).norm(dim=0).max()
    energy = float((whole.double().square().sum() - small.double().square().sum()).clamp(min=0))
    # 10 probes: P(norm > 10 sqrt(2 / pi) max |probe|) <= 10^-10
    missed_norm = min(float(10 * (2 / torch.pi) ** 0.5 * missed), energy**0.5)
    bounds = (values[:count].square() + missed_norm**2).sqrt() - values[:count]
    return TopSvd(Svd(basis @ u, values, vh).truncated(count), bounds, energy)
