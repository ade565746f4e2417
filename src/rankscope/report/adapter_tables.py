"""What the terminal says of adapters: the audit of one, and what compressing one gave."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from rich.console import Console
from rich.markup import escape

from rankscope.report.plain_table import plain_table

_SHOWN = 40
"""With more modules than this a line is one kind of matrix over its layers; --json has every module."""


def print_audit(console: Console, found: Mapping[str, Any]) -> None:
    """`found` is what `audit --json` prints."""
    modules: list[dict[str, Any]] = found["modules"]
    groups = {_short(m["module"]): [m] for m in modules}
    if len(modules) > _SHOWN:
        groups = defaultdict(list)
        for module in modules:
            groups[module["module"].rsplit(".", 1)[-1]].append(module)
    with_base = any(m["relative_norm"] is not None for m in modules)
    table = plain_table()
    table.add_column("module" if len(groups) == len(modules) else "all layers", overflow="fold", min_width=12)
    headings = ["rank", "used", "stable", "effective", "90 %", "95 %", "99 %", "norm"]
    headings += ["of base", "intruders", "random"] if with_base else []
    for heading in headings:  # 90 %: the rank that holds that share of the energy
        table.add_column(heading, justify="right", no_wrap=True)
    for name, members in groups.items():
        table.add_row(escape(name), *_cells(members, with_base))
    console.print(table)
    console.print(f"\n[bold]{escape(_summary(found, modules))}[/]")
    for note in found["notes"]:
        console.print(f"Note: {escape(note)}")


def _short(module: str) -> str:
    """`model.layers.3.self_attn.q_proj` as `3.self_attn.q_proj`."""
    parts = module.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[number:])


def _summary(found: Mapping[str, Any], modules: Sequence[Mapping[str, Any]]) -> str:
    if found["suggested_rank"] is None:
        return "The adapter changes nothing: every B A is zero."
    used = _mean(modules, "utilisation")
    text = (
        f"{len(modules)} matrices use {100 * (used or 0):.0f} % of their rank on average (stable rank / rank). "
        f"Rank {found['suggested_rank']} holds 90 % of the energy of every one; the adapter has {found['rank']}."
    )
    if any(m["intruders"] is not None for m in modules):
        count, random = (sum(m[key] or 0 for m in modules) for key in ("intruders", "intruders_random"))
        text += f" Intruder dimensions among the 10 largest of each: {count}; a random change as large has {random}."
    return text


def _cells(members: Sequence[Mapping[str, Any]], with_base: bool) -> list[str]:
    ranks = sorted({m["rank"] for m in members})
    used = _mean(members, "utilisation")
    cells = [
        str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}",
        "-" if used is None else f"{100 * used:.0f} %",
        _number(_mean(members, "stable_rank")),
        _number(_mean(members, "effective_rank")),
        *(_largest([m["energy_rank"][share] for m in members]) for share in ("90", "95", "99")),
        _number(_mean(members, "frobenius_norm")),
    ]
    if with_base:
        relative = _mean(members, "relative_norm")
        cells.append("-" if relative is None else f"{100 * relative:.2g} %")
        cells += [_sum(members, "intruders"), _sum(members, "intruders_random")]
    return cells


def _mean(members: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [m[key] for m in members if m[key] is not None]
    return mean(values) if values else None


def _sum(members: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [m[key] for m in members if m[key] is not None]
    return str(sum(values)) if values else "-"


def _largest(values: Sequence[int | None]) -> str:
    return str(max((v for v in values if v is not None), default="-"))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def compressed_sentence(ranks: Mapping[str, int], discarded: float, bytes_before: int, bytes_after: int) -> str:
    """One line on what `compress` wrote."""
    low, high = min(ranks.values()), max(ranks.values())
    span = f"rank {low}" if low == high else f"ranks {low} to {high}"
    return (
        f"{len(ranks)} matrices at {span}; {100 * discarded:.6g} % of the energy is discarded; "
        f"{bytes_before / 1e6:.2f} MB became {bytes_after / 1e6:.2f} MB"
    )
