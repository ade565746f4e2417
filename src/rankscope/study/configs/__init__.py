"""Configs of fine-tuning tools: each tool is a file `*_config.py` of this folder with TOOLS, found by listing it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from rankscope.study.configs.config_tool import ConfigTool

__all__ = ["ConfigTool", "config_tools"]


@cache
def config_tools() -> Mapping[str, ConfigTool]:
    """Every tool by its name, in the order of the files' names. Raises ValueError where two have one name."""
    found: dict[str, ConfigTool] = {}
    for module in sorted(one.name for one in pkgutil.iter_modules(__path__)):
        if module.endswith("_config"):
            for tool in importlib.import_module(f"{__name__}.{module}").TOOLS:
                if tool.name in found:
                    raise ValueError(f"two tools are called {tool.name}")
                found[tool.name] = tool
    return MappingProxyType(found)
