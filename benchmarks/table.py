"""What the scripts in this folder share: flags, rows, interleaved timing of two sides, and the table they print.

A side is a function of no arguments that prepares (not timed) and returns the work (timed). It must pickle: a function
at the top of a module, or `functools.partial` of one. Each side has a process of its own, so that its peak memory is
its own; the two take turns (ours, peer, ours, peer, ...), so that a change of the machine's speed meets both.

    table = Table(arguments)
    table.add(compare("300 items", "lm-eval hf", arguments.device, partial(ours, 300), partial(peer, 300), difference))

As a program it prints what several scripts wrote with --json as one table: `python benchmarks/table.py FILE...`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Where rows of public data sets lie; the scripts say so in one line where they are missing."""

Side = Callable[[], Callable[[], Any]]


@dataclass(frozen=True)
class Row:
    """One row of a benchmark: times are medians in seconds, `ratio` is peer / ours.

    `max_difference` is that of the two results, in a unit that the script's docstring names. None was not measured,
    and then there is a `reason`. Peaks are bytes above what the imports take.
    """

    work: str
    peer: str
    ours_seconds: float | None = None
    peer_seconds: float | None = None
    ratio: float | None = None
    ours_peak_bytes: int | None = None
    peer_peak_bytes: int | None = None
    max_difference: float | None = None
    machine: str = field(default_factory=lambda: machine())
    reason: str | None = None


@dataclass(frozen=True)
class Timed:
    """What a work may return that has to prepare in between: the seconds that count, and its result."""

    seconds: float
    result: Any


class NotMeasured(RuntimeError):
    """A side could not be run; the text says why in a few words."""


def parser_of(doc: str | None, quick: str) -> argparse.ArgumentParser:
    """A parser with the flags of every script; `quick` says what --quick leaves out."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--only", default="", metavar="WORD", help="only what has this in its name")
    return parser


def machine() -> str:
    """Processor, threads and torch's version; the GPU too where there is one."""
    names = [platform.machine()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        names = models[:1] or names
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return ", ".join([*names, f"{torch.get_num_threads()} threads", f"torch {torch.__version__}"])


# ---- two sides, each in a process of its own ------------------------------------------------------------------------


def compare(
    work: str,
    peer_name: str,
    device: str,
    ours: Side,
    peer: Side,
    difference: Callable[[Any, Any], float] | None = None,
    *,
    repeats: int = 3,
    warm_ups: int = 1,
) -> Row:
    """The row of `ours` against `peer`; `difference` takes what the two works returned. A dead side is a reason."""
    if device == "cuda" and not torch.cuda.is_available():
        return Row(work, peer_name, reason="not measured: no CUDA device")
    try:
        with _Turns(ours, "ours", device) as first, _Turns(peer, "the peer", device) as second:
            for _ in range(warm_ups):
                first.turn(), second.turn()
            times = [(first.turn(), second.turn()) for _ in range(repeats)]
            mine, my_peak = first.result()
            theirs, peak = second.result()
    except NotMeasured as reason:
        return Row(work, peer_name, reason=f"not measured: {reason}")
    seconds, peer_seconds = (statistics.median(column) for column in zip(*times, strict=True))
    return Row(
        work, peer_name, seconds, peer_seconds, peer_seconds / seconds, my_peak, peak,
        difference(mine, theirs) if difference else None,
    )  # fmt: skip


def measure(side: Side, device: str, *, repeats: int = 3, warm_ups: int = 1) -> tuple[float, int, Any]:
    """One side by itself: median seconds, peak bytes, what the work returned. Raises NotMeasured."""
    if device == "cuda" and not torch.cuda.is_available():
        raise NotMeasured("no CUDA device")
    with _Turns(side, "it", device) as turns:
        for _ in range(warm_ups):
            turns.turn()
        times = [turns.turn() for _ in range(repeats)]
        result, peak = turns.result()
    return statistics.median(times), peak, result


class _Turns:
    """A process that does a side's work when it is told to."""

    def __init__(self, side: Side, name: str, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._name = name
        self._process = context.Process(target=_serve, args=(side, device, theirs))
        self._process.start()
        theirs.close()

    def __enter__(self) -> _Turns:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join()

    def turn(self) -> float:
        """Seconds of the work, done once more."""
        return float(self._ask("turn"))

    def result(self) -> tuple[Any, int]:
        """What the work returned last, and the process's peak in bytes above what its imports took."""
        found: tuple[Any, int] = self._ask("result")
        return found

    def _ask(self, what: str) -> Any:
        try:
            self._pipe.send(what)
            return self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._process.join()
            raise NotMeasured(f"{self._name} ended with exit code {self._process.exitcode}") from error


def _serve(side: Side, device: str, pipe: Connection) -> None:
    """In the child: unpickling `side` has imported its module, so what is resident now is what the imports take."""
    before = _peak_bytes()
    result: Any = None
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        if asked == "result":
            peak = torch.cuda.max_memory_allocated() if device == "cuda" else _peak_bytes() - before
            pipe.send((result, peak))
            continue
        work = side()
        _wait_for(device)
        start = time.perf_counter()
        result = work()
        _wait_for(device)
        seconds = time.perf_counter() - start
        if isinstance(result, Timed):
            seconds, result = result.seconds, result.result
        pipe.send(seconds)


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _peak_bytes() -> int:
    """Highest resident memory of this process.

    Linux counts in ru_maxrss what the parent had when it started us, so the kernel's own mark is read there.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        marks = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(marks[0].split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ---- the table ------------------------------------------------------------------------------------------------------


_HEAD = """\
| work | peer | ours, s | peer, s | peer / ours | ours, MiB | peer, MiB | largest difference |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


class Table:
    """Prints every row when it is there, as Markdown, and keeps the JSON file whole after each.

    `head` and `line`: other columns, for a script whose rows hold more than times.
    """

    def __init__(
        self, arguments: argparse.Namespace, head: str | None = None, line: Callable[[Row], str] | None = None
    ) -> None:
        self.rows: list[Row] = []
        self._json: Path | None = arguments.json
        self._line = line or _line
        print(f"Measured on {machine()}.\n\n{head or _HEAD}", flush=True)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(self._line(row), flush=True)
        if self._json is not None:
            rows = [asdict(one) for one in self.rows]
            self._json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def print_files(files: Sequence[Path]) -> None:
    """One table of the rows of many files, under each machine that some were measured on."""
    rows = [Row(**row) for file in files for row in json.loads(file.read_text(encoding="utf-8"))]
    for name in dict.fromkeys(row.machine for row in rows):
        print(f"Measured on {name}.\n\n{_HEAD}")
        print("\n".join(_line(row) for row in rows if row.machine == name), end="\n\n")


def _line(row: Row) -> str:
    if row.reason is not None:
        cells = [row.reason, *[""] * 5]
    else:
        cells = [
            _text(row.ours_seconds, ".3g"), _text(row.peer_seconds, ".3g"), _text(row.ratio, ".2f", "x"),
            _mebibytes(row.ours_peak_bytes), _mebibytes(row.peer_peak_bytes), _text(row.max_difference, ".2g"),
        ]  # fmt: skip
    return f"| {' | '.join([row.work, row.peer, *cells])} |"


def _text(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _mebibytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:.0f}"


if __name__ == "__main__":
    print_files([Path(file) for file in sys.argv[1:]])
