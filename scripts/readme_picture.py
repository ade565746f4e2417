"""Draws the README's picture from a finished study: python scripts/readme_picture.py demo docs/demo.png"""

from __future__ import annotations

import argparse
from pathlib import Path

import rankscope
from rankscope.report.card_picture import png


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    args.picture.write_bytes(png(rankscope.load(args.study).chart("fronts")))


if __name__ == "__main__":
    main()
