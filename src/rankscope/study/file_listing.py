"""Finds what the files of a package offer by listing them, so that a new file needs no entry in a central list."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any


def offered_by_files(package: str, folder: Iterable[str], *, ending: str, attribute: str, what: str) -> dict[str, Any]:
    """Values by their `name`: those of the sequence `attribute` of every module of `package` whose name has this
    ending, in the order of the modules' names.

    `folder` is the package's `__path__`; `what` names the values in an error. Raises ValueError where two have one
    name.
    """
    found: dict[str, Any] = {}
    for module in sorted(one.name for one in pkgutil.iter_modules(folder)):
        if module.endswith(ending):
            for value in getattr(importlib.import_module(f"{package}.{module}"), attribute):
                if value.name in found:
                    raise ValueError(f"two {what} are called {value.name}")
                found[value.name] = value
    return found
