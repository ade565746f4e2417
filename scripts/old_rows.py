"""Writes what the bundled base was trained on as a user's own old rows, to be replayed (studies/remedies.yaml).

    python scripts/old_rows.py studies/old-rows.jsonl

Every fact that the base knows, asked in one of the ways it was told in, and a tenth as many problems of arithmetic
(with their steps) and of deduction. The suites ask the same facts in other words and no problem of these: the best case
for old data, of which a user seldom has as much.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rankscope.data.world import Row, make_world


def old_rows() -> list[Row]:
    """The rows, in a fixed order."""
    world = make_world(0)
    facts = {str(row["fact"]): row for row in reversed(world.rows("pretrain/questions"))}
    rows = [{key: row[key] for key in ("id", "question", "answer")} for row in reversed(facts.values())]
    problems = len(rows) // 10
    return [*rows, *(row for name in ("arithmetic", "deduction") for row in world.rows(f"{name}/train")[:problems])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    rows = old_rows()
    with out.open("x", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    print(f"{len(rows)} rows in {out}")


if __name__ == "__main__":
    main()
