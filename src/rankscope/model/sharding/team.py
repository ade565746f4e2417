"""The processes that work on one run together: what they share out, sum and agree on.

A process that works alone is a team too, whose every answer is what it was given: the training loop asks a team and
never how many processes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from rankscope.data.training_batches import split_micro

_T = TypeVar("_T")

_BUCKET_ELEMENTS = 1 << 26
"""Numbers that are copied together for one sum: gradients of adapters, which would double the memory all at once."""


@dataclass(frozen=True)
class MicroBatch:
    """Places of rows in a batch. A filler's rows count nothing: it is run so that all processes run as many."""

    rows: tuple[int, ...]
    filler: bool = False


class Team(Protocol):
    """Processes that hold one model together and take the same steps, each with its own rows of a batch."""

    @property
    def rank(self) -> int:
        """This process among them, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many they are."""
        ...

    def share(self, tokens: Sequence[int], budget_tokens: int) -> list[MicroBatch]:
        """This process's micro-batches of rows with so many tokens each; all processes get equally many."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The sum of what each process gives, the same bits everywhere."""
        ...

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Every tensor becomes its sum over the processes, which give as many of the same shapes."""
        ...

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag whether it is true in some process."""
        ...

    def turns(self, parts: Sequence[_T]) -> list[tuple[_T, bool]]:
        """The parts of some work that this process does, as many in each, and whether what it finds counts."""
        ...

    def told(self, say: Callable[[], _T]) -> _T:
        """What the first process says, or raises, in all of them; the others do not ask `say`."""
        ...

    def all_of(self, own: _T) -> list[_T]:
        """What each process gives, in their order."""
        ...


class Solo:
    """A process that works alone."""

    rank = 0
    size = 1

    def share(self, tokens: Sequence[int], budget_tokens: int) -> list[MicroBatch]:
        """Consecutive rows."""
        return [MicroBatch(tuple(part)) for part in split_micro(range(len(tokens)), tokens, budget_tokens)]

    def sum(self, values: Tensor) -> Tensor:
        """The values."""
        return values

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """They are their sums."""

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """The flags."""
        return flags

    def turns(self, parts: Sequence[_T]) -> list[tuple[_T, bool]]:
        """All of them."""
        return [(part, True) for part in parts]

    def told(self, say: Callable[[], _T]) -> _T:
        """What it says."""
        return say()

    def all_of(self, own: _T) -> list[_T]:
        """Its own."""
        return [own]


SOLO = Solo()


class ProcessTeam:
    """The processes of torch's default process group."""

    def __init__(self) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()

    def share(self, tokens: Sequence[int], budget_tokens: int) -> list[MicroBatch]:
        """As `shared_out`."""
        return shared_out(tokens, budget_tokens, self.size)[self.rank]

    def sum(self, values: Tensor) -> Tensor:
        """Over all processes."""
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """In buckets: one message for many small tensors."""
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            torch.distributed.all_reduce(flat)
            for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """One small message on the CPU for all flags."""
        raised = torch.tensor([int(flag) for flag in flags], dtype=torch.int32)
        torch.distributed.all_reduce(raised, op=torch.distributed.ReduceOp.MAX)
        return tuple(bool(flag) for flag in raised.tolist())

    def turns(self, parts: Sequence[_T]) -> list[tuple[_T, bool]]:
        """Every so many; who has one fewer than another does the last part once more, which then counts nothing."""
        own = [(part, True) for part in parts[self.rank :: self.size]]
        most = -(-len(parts) // self.size)
        return [*own, *([(parts[-1], False)] * (most - len(own)))]

    def told(self, say: Callable[[], _T]) -> _T:
        """By one message, whatever happens in the first process."""
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = say()
            except Exception as error:  # raised in all processes, below
                box[1] = error
        torch.distributed.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        answer: _T = box[0]
        return answer

    def all_of(self, own: _T) -> list[_T]:
        """By one message."""
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, own)
        return found


def shared_out(tokens: Sequence[int], budget_tokens: int, size: int) -> list[list[MicroBatch]]:
    """Of each of `size` processes its micro-batches, as many everywhere.

    Rows go, the longest first, to whoever has the fewest tokens (Graham 1969: at most 4/3 of the best makespan), so
    that no process waits long for another; each cuts its rows, in their order, by the budget. Who has fewer
    micro-batches than another runs its batch's shortest row once more as a filler.
    """
    if not tokens:
        return [[] for _ in range(size)]
    loads, rows = [0] * size, [list[int]() for _ in range(size)]
    for row in sorted(range(len(tokens)), key=lambda i: (-tokens[i], i)):
        least = min(range(size), key=lambda rank: (loads[rank], rank))
        loads[least] += tokens[row]
        rows[least].append(row)
    parts = [split_micro(sorted(own), tokens, budget_tokens) for own in rows]
    most = max(len(own) for own in parts)
    shortest = min(range(len(tokens)), key=lambda i: (tokens[i], i))
    filler = MicroBatch((shortest,), filler=True)
    return [[*(MicroBatch(tuple(part)) for part in own), *([filler] * (most - len(own)))] for own in parts]


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Consecutive tensors of one dtype, at most _BUCKET_ELEMENTS numbers together but at least one tensor."""
    found: list[list[Tensor]] = []
    filled = 0
    for tensor in tensors:
        if not found or filled + tensor.numel() > _BUCKET_ELEMENTS or found[-1][0].dtype != tensor.dtype:
            found.append([])
            filled = 0
        found[-1].append(tensor)
        filled += tensor.numel()
    return found
