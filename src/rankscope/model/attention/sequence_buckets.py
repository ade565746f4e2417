"""Which tokens of a flat row stand where, when its sequences are laid side by side for attention.

Shapes: T tokens of the flat row; in a bucket b sequences, n tokens of the longest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SHORT = 48
"""Sequences up to here share a bucket whatever their length: the calls cost more than the padding."""

_SPREAD = 1.2
"""Longest over shortest in a bucket of longer sequences."""


@dataclass(frozen=True)
class Bucket:
    """Sequences of nearly the same length laid side by side: `count` of them, the longest of `longest` tokens.

    `gather` (b n,): the token of each place, where padding points at the first token of its own sequence, so that what
    is not finite stays in its sequence. `unread` (b, 1, n, 1): True where no token stands, or one that is taken from
    another sequence; None where every place is read.
    """

    count: int
    longest: int
    gather: Tensor
    unread: Tensor | None


@dataclass(frozen=True)
class Repeats:
    """Further places (X,) of tokens that stand in several sequences, and the tokens there (X,)."""

    places: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Buckets:
    """All sequences of a flat row, bucket by bucket. `places` (T,): where each token stands among the places of all,
    in the first of its sequences; `repeats`: where else, None where each stands in one."""

    parts: tuple[Bucket, ...]
    places: Tensor
    repeats: Repeats | None = None


def buckets_of(lengths: list[int], device: torch.device, row_tokens: Tensor | None = None) -> Buckets:
    """Sorts sequences of these lengths in tokens, which stand one after another, into buckets. `row_tokens`: where in
    the flat row each of their tokens stands, where it is not the next one."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if groups and lengths[i] <= max(_SHORT, _SPREAD * lengths[groups[-1][0]]):
            groups[-1].append(i)
        else:
            groups.append([i])
    count = np.array(lengths)
    starts = np.cumsum(count) - count
    flat = np.arange(count.sum()) if row_tokens is None else row_tokens.cpu().numpy()
    tokens, reals = [], []
    for group in groups:
        column = np.arange(count[group].max())
        reals.append(column < count[group][:, None])
        tokens.append(flat[starts[group][:, None] + np.where(reals[-1], column, 0)])
    token = np.concatenate([part.ravel() for part in tokens])
    stands = np.flatnonzero(np.concatenate([real.ravel() for real in reals]))  # the places of tokens
    places = np.empty(int(flat.max()) + 1, dtype=np.int64)
    places[token[stands][::-1]] = stands[::-1]  # the first place of each is written last
    read = np.zeros(len(token), dtype=bool)
    read[places] = True
    repeated = stands[~read[stands]]

    def moved(values: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(device)

    parts, before = [], 0
    for group, part in zip(groups, tokens, strict=True):
        own = read[before : before + part.size].reshape(part.shape)
        before += part.size
        unread = None if own.all() else moved(~own[:, None, :, None])
        parts.append(Bucket(len(group), part.shape[1], moved(part.ravel()), unread))
    repeats = Repeats(moved(repeated), moved(token[repeated])) if len(repeated) else None
    return Buckets(tuple(parts), moved(places), repeats)
