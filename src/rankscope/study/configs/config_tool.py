"""What a tool's reader of configs is, and how a config is told to be that tool's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rankscope.study.configs.config_keys import ConfigKeys
from rankscope.study.configs.config_record import TrainingConfig

Beside = Callable[[str], Any]
"""Reads a JSON file that a config names, from its folder; None where there is none."""


@dataclass(frozen=True)
class ConfigTool:
    """A fine-tuning tool. `marks`: how much each key speaks for a config being its own; `read`: the config in the
    study's words, which raises InputProblems."""

    name: str
    title: str
    marks: Mapping[str, int]
    read: Callable[[ConfigKeys, Beside], TrainingConfig]

    def likeness(self, values: Mapping[str, Any]) -> int:
        """The marks of the keys that stand in a config; 0 where it is not this tool's."""
        return sum(weight for key, weight in self.marks.items() if key in values)
