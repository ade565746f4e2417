"""The one form of table that the terminal prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table


def plain_table(*headings: str, numbers: Sequence[str] = ()) -> Table:
    """A table without lines, as narrow as its cells: columns of text, then `numbers`, to the right and never broken."""
    table = Table(*headings, box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
