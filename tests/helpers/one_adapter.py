"""Short ways through the one door, `attach`: a single adapter in PEFT's own layers, and packs of arms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from rankscope.model.load import LoadedModel
from rankscope.model.methods.attach import Adapted, GivenFactors, NewAdapter, Pack, SavedAdapter, attach
from rankscope.model.methods.peft_folder import Factors
from rankscope.study.study import Arm


@contextmanager
def adapt(base: LoadedModel, arm: Arm, seed: int) -> Iterator[Adapted]:
    """A new arm, of LoRA in PEFT's own layers."""
    with attach(base, NewAdapter(arm, seed), packed=False) as pack:
        yield pack.members[0]


@contextmanager
def load_adapter(base: LoadedModel, arm: Arm, folder: Path) -> Iterator[Adapted]:
    """A saved arm, of LoRA in PEFT's own layers."""
    with attach(base, SavedAdapter(folder, arm), packed=False) as pack:
        yield pack.members[0]


def open_pack(base: LoadedModel, arms: Sequence[Arm], seed: int, **how: Any) -> AbstractContextManager[Pack]:
    """New arms, packed where they can be."""
    return attach(base, *(NewAdapter(arm, seed) for arm in arms), **how)


def open_factors(
    base: LoadedModel, arms: Sequence[Arm], factors: Sequence[Factors], **how: Any
) -> AbstractContextManager[Pack]:
    """Arms of these factors, packed."""
    return attach(base, *map(GivenFactors, factors, arms), **how)
