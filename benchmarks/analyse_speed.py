"""Looking inside against what one would write otherwise: seconds, peak memory, and the largest difference.

    python benchmarks/analyse_speed.py [--quick] [--device cpu|cuda] [--json FILE] [--only WORD]

Both sides have the same numbers, in fp32. Peers: dense SVDs of torch, `peft.tuners.lora.intruders`, the formulas that
Gradience publishes (eigenvalues of B^T B A A^T), and an eager forward with output_attentions and output_hidden_states,
then numpy. Differences are relative for singular values and stable ranks, absolute for cosines, counts and what is
captured. What takes a minute is timed once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import sides_capture as capture
import sides_weights as weights
from sides_capture import Size
from table import Row, Side, Table, compare, parser_of

LAYERS_OF_7B = 32
PROBE_ITEMS = 200


def relative(ours: list[float], peer: list[float]) -> float:
    return max(abs(mine / theirs - 1) for mine, theirs in zip(ours, peer, strict=True))


def absolute(ours: list[float], peer: list[float]) -> float:
    return max(abs(mine - theirs) for mine, theirs in zip(ours, peer, strict=True))


@dataclass(frozen=True)
class Comparison:
    """A row to be measured. What is `slow` is timed once, without a warm-up; the peer does 1 / `times` of the work."""

    work: str
    peer_name: str
    ours: Side
    peer: Side
    difference: Callable[[Any, Any], float]
    slow: bool = False
    times: float = 1.0
    prepare: Callable[[], None] = lambda: None
    on_cpu_only: bool = False

    def row(self, device: str) -> Row:
        """Measured in processes of their own."""
        if device == "cuda" and self.on_cpu_only:
            return Row(self.work, self.peer_name, reason="not measured: an audit runs on the CPU")
        self.prepare()
        repeats, warm_ups = (1, 0) if self.slow else (3, 1)
        found = compare(
            self.work, self.peer_name, device, self.ours, self.peer, self.difference, repeats=repeats, warm_ups=warm_ups
        )
        if found.peer_seconds is None or found.ours_seconds is None:
            return found
        seconds = found.peer_seconds * self.times
        return replace(found, peer_seconds=seconds, ratio=seconds / found.ours_seconds)


def comparisons(quick: bool, device: str, folder: Path) -> Iterator[Comparison]:
    """The rows of the full table, or the same rows at a size that takes seconds."""
    yield from of_weights(quick, device, folder)
    yield from of_audits(quick, folder)
    yield from of_captures(quick, device)


def of_weights(quick: bool, device: str, folder: Path) -> Iterator[Comparison]:
    width = 512 if quick else 4096
    yield Comparison(
        f"singular values of a LoRA delta, {width} x {width}, r={weights.RANK}", "torch dense SVD of B A",
        partial(weights.our_values, width, device), partial(weights.dense_values, width, device), relative, not quick,
    )  # fmt: skip
    shape = (384, 256) if quick else (3808, 1088)
    for work, ours, peer in (
        ("singular values of a full change", weights.our_full_values, weights.dense_full_values),
        ("top-10 intruders of a full change", weights.our_full_cosines, weights.dense_full_cosines),
    ):
        sides = partial(ours, shape, device), partial(peer, shape, device)
        yield Comparison(f"{work}, {shape[0]} x {shape[1]}", "torch dense SVD", *sides, absolute, not quick)
    for width in (384, 512) if quick else (2048, 4096):
        work = f"top-10 intruders, {width} x {width}, r={weights.INTRUDER_RANK}, base SVD cached"
        fill = partial(weights.fill_cache, width, device, folder)
        for peer_name, ours, peer in (
            ("peft.tuners.lora.intruders", weights.our_count, partial(weights.peft_count, width, device)),
            ("dense SVD of W", weights.our_cosines, partial(weights.dense_cosines, width, device, folder)),
        ):
            mine = partial(ours, width, device, folder)
            yield Comparison(work, peer_name, mine, peer, absolute, not quick, prepare=fill)


def of_audits(quick: bool, folder: Path) -> Iterator[Comparison]:
    width, layers = (512, 2) if quick else (4096, LAYERS_OF_7B)
    count = layers * len(weights.shapes(width))
    work = f"audit of {count} matrices of {layers} layers of width {width}, r={weights.RANK}"
    write = partial(weights.write_adapter, width, layers, folder)
    yield Comparison(
        work, "Gradience's formulas", partial(weights.our_audit, folder), partial(weights.gram_audit, folder), relative,
        prepare=write, on_cpu_only=True,
    )  # fmt: skip
    yield Comparison(
        work, f"dense SVDs: 3 matrices, times {count} / 3", partial(weights.our_first_layer, folder),
        partial(weights.dense_audit, width), relative, not quick, count / 3, prepare=write, on_cpu_only=True,
    )  # fmt: skip


def of_captures(quick: bool, device: str) -> Iterator[Comparison]:
    """Against width, depth and length."""
    base = Size(128, 2, 20, device=device) if quick else Size(256, 4, PROBE_ITEMS, device=device)
    sizes = [base, replace(base, layers=2 * base.layers), replace(base, width=2 * base.width)]
    sizes += [
        replace(base, width=2 * base.width, layers=2 * base.layers),
        replace(base, items=base.items // 5, shortest=256, longest=512),
    ]
    for size in sizes:
        lengths = f"{size.shortest} to {size.longest} tokens"
        yield Comparison(
            f"capture of {size.items} probe items of {lengths}, width {size.width}, {size.layers} layers",
            "eager forward with all maps and states, then numpy", partial(capture.our_capture, size),
            partial(capture.eager_capture, size), absolute, slow=not quick and size.width * size.layers > 1024,
        )  # fmt: skip
    yield Comparison(
        f"the same for a further arm, width {base.width}, {base.layers} layers", "ours, the base run again",
        partial(capture.kept_capture, base), partial(capture.our_capture, base), absolute,
    )  # fmt: skip


def main() -> None:
    arguments = parser_of(__doc__, "small matrices and models").parse_args()
    table = Table(arguments)
    with tempfile.TemporaryDirectory() as folder:
        for wanted in comparisons(arguments.quick, arguments.device, Path(folder)):
            if arguments.only in wanted.work or arguments.only in wanted.peer_name:
                table.add(wanted.row(arguments.device))


if __name__ == "__main__":
    main()
