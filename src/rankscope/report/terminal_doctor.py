"""What `rankscope doctor` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rankscope.report import words


def print_doctor(console: Console, found: Mapping[str, Any]) -> None:
    """`found` is what `doctor --json` prints."""
    machine = found["machine"]
    speed = machine["flops_per_second"]
    memory = words.size(machine["device_memory_bytes"])
    facts = {
        "device": f"{machine['device_name']} ({machine['device']}), {machine['core_count']} CPU cores",
        "memory": f"{memory}, of which a plan uses {words.size(found['usable_memory_bytes'])}",
        "dtype": f"{found['dtype']} where a study says auto",
        "speed": "not measured" if speed is None else f"{speed / 1e9:,.0f} GFLOP/s in large matrix products"
        + (", one thread" if machine["device"] == "cpu" else ""),
        "disk": f"{words.size(machine['disk_free_bytes'])} free",
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
        model = way["reason"] or (f"{fits['model']} ({words.parameters(fits['parameters'])})" if fits else "none")
        more = f"{large['model']}: {words.size(large['memory_bytes'])}" if large else ""
        table.add_row(way["way"], escape(model), words.size(fits["memory_bytes"]) if fits else "", escape(more))
    console.print(table)
    console.print("[dim]With gradient checkpointing, one row of 1,024 tokens at a time; docs/plan.md.[/]")
    if found["fixes"]:
        console.print("\n[bold]What would help[/]")
        for fix in found["fixes"]:
            console.print(f"- {escape(fix)}")
