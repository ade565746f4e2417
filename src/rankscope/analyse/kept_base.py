"""What a base leaves of the probe items, kept in main memory for every arm that is compared with it.

An arm is compared with the base layer by layer, and the base's layers are the same for all arms: they are computed once
for a base and its probe items, as far as `MOST_BYTES` go. Shapes as in `capture.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rankscope.analyse.attention_and_neurons import Queries, UnitSums

MOST_BYTES = 4 << 30
"""Of all batches that are kept for one base; the others are run again for each arm. The same in every process of a
gang, which must run as many forwards."""

HOST = torch.device("cpu")


@dataclass(frozen=True)
class BaseBatch:
    """Of one batch, by layer: hidden states (n, D) of its real tokens, and what attention was asked."""

    states: dict[int, Tensor]
    queries: dict[int, Queries]

    @property
    def byte_count(self) -> int:
        """Bytes; a mask that layers share counts once."""
        tensors = [*self.states.values()]
        for asked in self.queries.values():
            tensors += [part for part in (asked.query, asked.key, asked.mask) if part is not None]
        return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())

    def on(self, device: torch.device) -> BaseBatch:
        """The same there; a tensor that layers share is moved once."""
        there: dict[tuple[int, torch.Size, tuple[int, ...]], Tensor] = {}

        def moved(one: Tensor) -> Tensor:
            key = (one.data_ptr(), one.shape, one.stride())
            if key not in there:
                there[key] = one.to(device)
            return there[key]

        queries = {
            layer: replace(
                asked, query=moved(asked.query), key=moved(asked.key),
                mask=None if asked.mask is None else moved(asked.mask),
            )
            for layer, asked in self.queries.items()
        }  # fmt: skip
        return BaseBatch({layer: moved(states) for layer, states in self.states.items()}, queries)


@dataclass
class KeptSuite:
    """Of one suite the batches that are kept, by their number, and the sums of the base's MLP units by layer."""

    batches: dict[int, BaseBatch]
    units: dict[int, UnitSums]


class KeptBase:
    """Of one base and one set of probe items, cut into the same batches whenever they are asked for."""

    def __init__(self) -> None:
        self._suites: dict[str, KeptSuite] = {}
        self._bytes = 0

    def suite(self, name: str) -> KeptSuite | None:
        """What is kept of a suite; None before the base has gone through all of it."""
        return self._suites.get(name)

    def has_room(self, batch: BaseBatch) -> bool:
        """Whether one more batch is kept; counts it if so."""
        size = batch.byte_count
        if self._bytes + size > MOST_BYTES:
            return False
        self._bytes += size
        return True

    def keep(self, name: str, batches: dict[int, BaseBatch], units: dict[int, UnitSums]) -> None:
        """A suite that the base has gone through."""
        self._suites[name] = KeptSuite(batches, units)
