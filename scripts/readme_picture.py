"""Draws the README's picture from a finished study: python scripts/readme_picture.py demo docs/demo.png"""

from __future__ import annotations

import argparse
from pathlib import Path

from rankscope.edges.study_folder import StudyFolder
from rankscope.report.model_card import trade_off_png
from rankscope.results.frames import planned_study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    store = StudyFolder.open(args.study)
    verdicts = store.read_verdicts()
    if verdicts is None:
        raise SystemExit(f"{args.study}: no verdict.json")
    decision = planned_study(store)[0].decision
    drawn = trade_off_png(
        verdicts.verdicts[0], store.read_table("seeds"),
        retention_margin=decision.retention_margin, min_gain=decision.min_gain,
    )  # fmt: skip
    if drawn is None:
        raise SystemExit(f"{args.study}: no arm has both gain and forgetting")
    args.picture.write_bytes(drawn)


if __name__ == "__main__":
    main()
