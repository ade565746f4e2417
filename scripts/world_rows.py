"""Writes a split of the bundled world as a file of rows, for a study's `path`, or for any other program that trains.

    python scripts/world_rows.py medical/taught/train facts-train.jsonl
    python scripts/world_rows.py medical/taught/test facts-test.jsonl --seed 0

The world is invented: no text holds its facts, so no base model can know what a `taught` split says before it is taught
it. A study reads the same rows without a file (`world: medical/taught/train`). Rows are JSONL: question, choices and
answer_index, or question and answer, or text. A file that is there is not written over.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rankscope.data.world import make_world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("split")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="another seed, other facts")
    args = parser.parse_args()
    try:
        rows = make_world(args.seed).rows(args.split)
        with args.out.open("x", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    except FileExistsError:
        parser.error(f"{args.out}: found a file, expected a new one")
    except (OSError, ValueError) as error:  # no such split, or no such folder
        parser.error(str(error))
    print(f"{args.out}: {len(rows)} rows")


if __name__ == "__main__":
    main()
