"""What `rankscope audit` and `rankscope compress` print: per kind of matrix and layer, and in sum."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rankscope.records import Interval
from rankscope.report import wording

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
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
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


def print_doctor(console: Console, found: Mapping[str, Any]) -> None:
    """`found` is what `doctor --json` prints."""
    machine = found["machine"]
    speed = machine["flops_per_second"]
    memory = wording.size(machine["device_memory_bytes"])
    facts = {
        "device": f"{machine['device_name']} ({machine['device']}), {machine['core_count']} CPU cores",
        "memory": f"{memory}, of which a plan uses {wording.size(found['usable_memory_bytes'])}",
        "dtype": f"{found['dtype']} where a study says auto",
        "speed": "not measured" if speed is None else f"{speed / 1e9:,.0f} GFLOP/s in large matrix products"
        + (", one thread" if machine["device"] == "cpu" else ""),
        "disk": f"{wording.size(machine['disk_free_bytes'])} free",
        "versions": ", ".join(f"{name} {version}" for name, version in list(found["versions"].items())[:5]),
    }  # fmt: skip
    for name, value in facts.items():
        console.print(f"[bold]{name:<9}[/]{escape(value)}", soft_wrap=True)
    console.print()
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("the largest that trains here")
    table.add_column("model like")
    table.add_column("needs", justify="right", no_wrap=True)
    table.add_column("too large")
    for way in found["trainable"]:
        fits, large = way["fits"], way["too_large"]
        model = way["reason"] or (f"{fits['model']} ({wording.parameters(fits['parameters'])})" if fits else "none")
        more = f"{large['model']}: {wording.size(large['memory_bytes'])}" if large else ""
        table.add_row(way["way"], escape(model), wording.size(fits["memory_bytes"]) if fits else "", escape(more))
    console.print(table)
    console.print("[dim]With gradient checkpointing, one row of 1,024 tokens at a time; docs/plan.md.[/]")
    if found["fixes"]:
        console.print("\n[bold]What would help[/]")
        for fix in found["fixes"]:
            console.print(f"- {escape(fix)}")


def print_scores(console: Console, suites: Sequence[Any], confidence: float, notes: Sequence[str]) -> None:
    """`suites` have name, n and arms, each with adapter, accuracy, change, lost, won, p_value, loss_nats_per_token."""
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("suite", overflow="fold", min_width=8)
    table.add_column("items", justify="right", no_wrap=True)
    table.add_column("model", overflow="fold", min_width=8)
    for heading in ("accuracy", "to the base", "lost", "won", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    adapters = {arm.adapter for suite in suites for arm in suite.arms if arm.adapter is not None}
    names = [Path(adapter).name for adapter in adapters]
    for suite in suites:
        for place, arm in enumerate(suite.arms):
            first = (escape(suite.name), f"{suite.n:,}") if place == 0 else ("", "")
            table.add_row(*first, escape(_name(arm.adapter, names)), *_score_cells(arm))
    console.print(table)
    console.print(
        f"\nAccuracy in %, differences in percentage points with {100 * confidence:g} % intervals over items; lost and "
        "won count items against the base, p is McNemar's exact test."
    )
    for note in notes:
        console.print(f"Note: {escape(note)}")


def _name(adapter: str | None, names: Sequence[str]) -> str:
    """The adapter's folder without its path, where that tells it from the others."""
    if adapter is None:
        return "base"
    short = Path(adapter).name
    return short if names.count(short) == 1 else adapter


def _score_cells(arm: Any) -> list[str]:
    if arm.loss_nats_per_token is not None:
        return [f"{arm.loss_nats_per_token:.3f} nats/token", "", "", "", ""]
    if arm.accuracy.mean is None:
        return ["-", "", "", "", ""]
    flips = ["" if value is None else f"{value:,}" for value in (arm.lost, arm.won)]
    p_value = "" if arm.p_value is None else f"{arm.p_value:.2g}"
    return [_span(arm.accuracy, ""), _span(arm.change, "+"), *flips, p_value]


def _span(interval: Interval, sign: str) -> str:
    if interval.mean is None:
        return ""
    mean = f"{100 * interval.mean:{sign}.1f}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} ({100 * interval.low:{sign}.1f} to {100 * interval.high:{sign}.1f})"
