"""Sequences of unequal length laid side by side, those of nearly the same length together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_SHORT = 48
"""Sequences up to here share a bucket whatever their length: the calls cost more than the padding."""

_SPREAD = 1.2
"""Longest over shortest in a bucket of longer sequences."""


@dataclass(frozen=True)
class Bucket:
    """`count` sequences side by side, the longest of `longest` tokens. `gather` (b n,): the token of each place, where
    padding points at the first token of its own sequence, so that what is not finite stays in its sequence. `padding`
    (b, 1, n, 1): True where no token stands, None where one stands everywhere."""

    count: int
    longest: int
    gather: Tensor
    padding: Tensor | None


@dataclass(frozen=True)
class Buckets:
    """All sequences of a row. `places` (T,): where each token stands among the places of all buckets together."""

    parts: tuple[Bucket, ...]
    places: Tensor


def buckets_of(lengths: list[int], device: torch.device) -> Buckets:
    """Buckets for sequences of these lengths, which stand one after another."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if groups and lengths[i] <= max(_SHORT, _SPREAD * lengths[groups[-1][0]]):
            groups[-1].append(i)
        else:
            groups.append([i])
    count = np.array(lengths)
    starts = np.cumsum(count) - count
    parts, places, before = [], np.empty(int(count.sum()), dtype=np.int64), 0
    for group in groups:
        longest = int(count[group].max())
        column = np.arange(longest)
        real = column < count[group][:, None]
        token = starts[group][:, None] + np.where(real, column, 0)
        places[token[real]] = before + np.flatnonzero(real)
        before += token.size
        padding = None if real.all() else torch.from_numpy(~real[:, None, :, None]).to(device)
        parts.append(Bucket(len(group), longest, torch.from_numpy(token.ravel()).to(device), padding))
    return Buckets(tuple(parts), torch.from_numpy(places).to(device))
