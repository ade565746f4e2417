"""Configs for other tools: each is a file `*_writer.py` of this folder with WRITERS, found by listing it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from rankscope.results.tool_configs.trained_arm import ToolWriter
from rankscope.study.file_listing import offered_by_files

__all__ = ["ToolWriter", "tool_writers"]


@cache
def tool_writers() -> Mapping[str, ToolWriter]:
    """Every writer by its tool's name, in the order of the files' names. Raises ValueError where two have one name."""
    found = offered_by_files(__name__, __path__, ending="_writer", attribute="WRITERS", what="writers")
    return MappingProxyType(found)
