"""The fine-tuning methods: each is one value in a file `*_method.py` of this folder, found by listing it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rankscope.study.file_listing import offered_by_files
from rankscope.study.methods.arm import KNOWN, Arm, Entry, Method, MethodName, arm_label
from rankscope.study.methods.method_types import Dial, Fraction, Frozen, Rate

__all__ = [
    "METHODS", "Arm", "ArmEntry", "Dial", "Entry", "Fraction", "Frozen", "Method", "MethodName", "Rate", "arm_label",
    "method_named",
]  # fmt: skip


KNOWN.update(offered_by_files(__name__, __path__, ending="_method", attribute="METHODS", what="methods"))
METHODS = MappingProxyType(KNOWN)
"""Every method by its name."""

_BY_KEY = {"adapters": "given-adapters", "models": "given-models"}
"""Keys of an entry that say its method, whatever its label: what was trained elsewhere."""


def method_named(label: str, entry: Mapping[str, Any]) -> Any:
    """The method of an entry as written: its own, the one that a key of it says, or the one that its label names."""
    given = entry.get("method")
    if given is not None:
        return given
    return next((method for key, method in _BY_KEY.items() if entry.get(key) is not None), label)


if TYPE_CHECKING:
    ArmEntry = Entry
else:
    ArmEntry = Annotated[
        reduce(operator.or_, (method.entry for method in METHODS.values())), Field(discriminator="method")
    ]
"""The entry of any method in a study file, told apart by its `method`."""
