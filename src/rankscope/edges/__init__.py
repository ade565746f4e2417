"""The replaceable outside: storage, executors, the machine, trackers. Each a small protocol with one file a kind.

Plug-ins need no list of them: `modules_of` finds the modules of a package by looking into its folder.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def modules_of(package: str) -> list[ModuleType]:
    """Every module directly inside a package, imported, sorted by name; sub-packages are left out."""
    folder = importlib.import_module(package).__path__
    names = sorted(found.name for found in pkgutil.iter_modules(folder) if not found.ispkg)
    return [importlib.import_module(f"{package}.{name}") for name in names]


def named_in(package: str, name: str) -> ModuleType | None:
    """The module of a package whose `NAME` is `name`; None where none has it."""
    return next((module for module in modules_of(package) if name == module.NAME), None)


def names_in(package: str) -> list[str]:
    """The `NAME` of every module of a package, sorted."""
    return sorted(module.NAME for module in modules_of(package))
