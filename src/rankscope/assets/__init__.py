"""The bundled base model: where it lies, and a check that it is whole. `scripts/make_base.py` made it."""

from __future__ import annotations

import hashlib
from pathlib import Path

SUMS_FILE = "SHA256SUMS"


class CorruptAssetError(RuntimeError):
    """A bundled file is missing or is not the one that was published."""


def bundled_base_path() -> Path:
    """The folder of the bundled base, its files checked. Raises CorruptAssetError naming the first bad file."""
    folder = Path(__file__).parent / "base"
    check_sums(folder)
    return folder


def check_sums(folder: Path) -> None:
    """Compare every file named in the folder's SHA256SUMS (`<hex digest>  <file name>` per line)."""
    sums = folder / SUMS_FILE
    if not sums.is_file():
        raise CorruptAssetError(f"{sums}: not found, expected the checksums of the bundled model; reinstall rankscope")
    for line in sums.read_text("utf-8").splitlines():
        expected, _, name = line.partition("  ")
        path = folder / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
        if found != expected:
            raise CorruptAssetError(f"{path}: found sha256 {found}, expected {expected}; reinstall rankscope")
