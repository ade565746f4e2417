"""Configs of fine-tuning tools: each tool is a file `*_config.py` of this folder with TOOLS, found by listing it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from rankscope.study.configs.config_tool import ConfigTool
from rankscope.study.file_listing import offered_by_files

__all__ = ["ConfigTool", "config_tools"]


@cache
def config_tools() -> Mapping[str, ConfigTool]:
    """Every tool by its name, in the order of the files' names. Raises ValueError where two have one name."""
    found = offered_by_files(__name__, __path__, ending="_config", attribute="TOOLS", what="tools")
    return MappingProxyType(found)
