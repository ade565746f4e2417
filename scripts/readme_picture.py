"""Draws the README's picture from a finished study: python scripts/readme_picture.py demo docs/demo.png"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import vl_convert

from rankscope.edges.store import FolderStore
from rankscope.report import figures, frames
from rankscope.report.drawing import spec_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    store = FolderStore(args.study)
    verdicts, seeds = store.read_verdicts(), store.read_frame(args.study / "tables" / "seeds.parquet")
    if verdicts is None:
        raise SystemExit(f"{args.study}: no verdict.json")
    verdict = verdicts.verdicts[0]
    arms = frames.arm_frame(verdict)
    points = frames.seed_frame(seeds if seeds is not None else pd.DataFrame(), arms)
    chart = figures.trade_off(arms, points, retention_margin=3.0, min_gain=1.0)
    if chart is None:
        raise SystemExit(f"{args.study}: no arm has both gain and forgetting")
    spec = {"$schema": "https://vega.github.io/schema/vega-lite/v6.json", **spec_of(chart), "background": "white"}
    args.picture.write_bytes(vl_convert.vegalite_to_png(spec, scale=1.5))


if __name__ == "__main__":
    main()
