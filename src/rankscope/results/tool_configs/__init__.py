"""Configs for other tools: each is a file `*_writer.py` of this folder with WRITERS, found by listing it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from rankscope.results.tool_configs.trained_arm import ToolWriter

__all__ = ["ToolWriter", "tool_writers"]


@cache
def tool_writers() -> Mapping[str, ToolWriter]:
    """Every writer by its tool's name, in the order of the files' names. Raises ValueError where two have one name."""
    found: dict[str, ToolWriter] = {}
    for module in sorted(one.name for one in pkgutil.iter_modules(__path__)):
        if module.endswith("_writer"):
            for writer in importlib.import_module(f"{__name__}.{module}").WRITERS:
                if writer.name in found:
                    raise ValueError(f"two writers are called {writer.name}")
                found[writer.name] = writer
    return MappingProxyType(found)
