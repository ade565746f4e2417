"""What attention maps look like and MLP units do, and how far both moved: computed a layer at a time, never kept.

docs/measures.md holds the formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from rankscope.model.weights.weight_delta import working

_MAP_ELEMENTS = 1 << 19
"""Elements of the maps that are held at once, for each side: on a CPU they stay in its cache."""

_QUERY_BLOCK = 64
"""Queries taken together: they see no key after the last of them, so that nearly half of a map need not be made."""

_UNSEEN = -1e30
"""Finite, so that 0 times it is 0."""

_TINY = 1e-30

MEASURES = ("entropy", "distance", "first_token")


@dataclass(frozen=True)
class Queries:
    """What a layer's attention was asked, as the model's own kernel got it.

    query (B, H, T, d); key (B, H or fewer, T, d); mask None for plain causal, or (B or 1, 1 or H, T, T): boolean with
    True where a key is seen, or additive. `softcap` is Gemma 2's (arXiv 2408.00118).
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    scaling: float
    softcap: float | None = None

    def scores(self, items: slice, block: slice, out: Tensor) -> None:
        """Into `out` (b, H, t, s): scores of some items' queries in `block` over the s keys up to its end."""
        query, key = working(self.query[items, :, block]), working(self.key[items, :, : block.stop])
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key = key.repeat_interleave(groups, dim=1)
        torch.matmul(query * self.scaling, key.transpose(-1, -2), out=out)
        if self.softcap is not None:
            out.div_(self.softcap).tanh_().mul_(self.softcap)
        out += self._bias(items, block, out)

    def _bias(self, items: slice, block: slice, scores: Tensor) -> Tensor:
        """What hides keys, to be added to scores (b, H, t, s): 0 where a key is seen."""
        if self.mask is None:
            return _causal(*scores.shape[-2:], scores.dtype, scores.device)
        mask = (self.mask[items] if len(self.mask) > 1 else self.mask)[..., block, : block.stop]
        if mask.dtype != torch.bool:
            return mask.clamp(min=_UNSEEN)
        return torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device).masked_fill_(~mask, _UNSEEN)


@lru_cache(maxsize=64)
def _causal(size: int, keys: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, keys): the last query sees all keys. Kept for the other layers and items."""
    return torch.full((size, keys), _UNSEEN, dtype=dtype, device=device).triu(keys - size + 1)


class AttentionStream:
    """Sums of attention's measures over the queries of one suite, base and arm, by layer and head, in float64.

    The first token of an item, which sees itself only, is left out.
    """

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}
        self._queries: dict[int, int] = {}

    def add(self, layer: int, base: Queries, arm: Queries, lengths: Tensor) -> None:
        """Both sides' queries of one layer for items of `lengths` (B,) tokens, padded on the right."""
        count, heads, size, _ = base.query.shape
        step = max(1, _MAP_ELEMENTS // (heads * size * size))
        sums = self._sums.setdefault(layer, torch.zeros(7, heads, dtype=torch.float64, device=base.query.device))
        positions = torch.arange(size, device=base.query.device)
        for start in range(0, count, step):
            items = slice(start, min(start + step, count))
            counted = (positions >= 1) & (positions < lengths[items, None])
            for first in range(0, int(lengths[items].max()), _QUERY_BLOCK):
                block = slice(first, min(first + _QUERY_BLOCK, size))
                sums += _measured(base, arm, items, block, counted[:, block])
        self._queries[layer] = self._queries.get(layer, 0) + int((lengths - 1).clamp(min=0).sum())

    def rows(self) -> list[dict[str, Any]]:
        """A row for each layer and head: the means over queries, of base and arm, and the divergence in nats."""
        found = []
        for layer, sums in sorted(self._sums.items()):
            queries = self._queries[layer]
            for head, values in enumerate((sums / max(queries, 1)).T.tolist()):
                row: dict[str, Any] = {"layer": layer, "head": head, "queries": queries}
                for i, name in enumerate(MEASURES):
                    row[f"{name}_base"], row[name] = values[2 * i], values[2 * i + 1]
                row["divergence"] = max(values[6], 0.0)
                found.append(row if queries else {**row, **dict.fromkeys(row.keys() - {"layer", "head", "queries"})})
        return found


def _measured(base: Queries, arm: Queries, items: slice, block: slice, counted: Tensor) -> Tensor:
    """Sums over the counted queries (b, t) in `block`: (7, H), in the order of `rows`. Both sides go together.

    An entropy is ln Z - sum p s of the scores s, with ln Z from the largest of both: a logarithm for each query instead
    of one for each key.
    """
    query = base.query
    heads, device = query.shape[1], query.device
    dtype = torch.promote_types(query.dtype, torch.float32)
    scores = torch.empty(2, *counted.shape[:1], heads, counted.shape[1], block.stop, dtype=dtype, device=device)
    for asked, out in zip((base, arm), scores, strict=True):
        asked.scores(items, block, out)
    maps = scores.softmax(-1)
    entropy = scores.amax(-1) - maps.amax(-1).log_() - torch.linalg.vecdot(maps, scores)
    positions = torch.arange(block.stop, device=device, dtype=dtype)
    distance, first = positions[block] - maps @ positions, maps[..., 0].clone()
    twice = maps[0].add_(maps[1])  # the maps' sum, which sums to 2: the entropy of its half is ln 2 - sum t ln t / 2
    middle = math.log(2) - torch.linalg.vecdot(twice, twice.clamp(min=_TINY).log_()) / 2
    divergence = (middle - entropy.mean(0)).clamp_(min=0)
    by_query = torch.cat([entropy, distance, first, divergence[None]])
    return torch.einsum("mbht,bt->mh", by_query, counted.to(dtype)).double()


TOP_SHARE = 0.01
TOP_LEAST = 8
"""The most changed units of a layer: this share of them, and at least so many."""

_PART_ELEMENTS = 1 << 17
"""Units of so many tokens are summed at once: what is made of them stays in a core's cache."""

Side = Literal["base", "arm"]


@dataclass
class UnitSums:
    """Over tokens, in double: activations, their squares, and how often the unit's nonlinearity was above zero (F,)."""

    tokens: int
    total: Tensor
    squares: Tensor
    fired: Tensor


class NeuronStream:
    """Sums of the activations of one suite's MLP units, base and arm, by layer, in float64."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, Side], UnitSums] = {}

    def add(self, layer: int, side: Side, activation: Tensor, nonlinear: Tensor, real: Tensor) -> None:
        """Activations and outputs of the nonlinearity (B, T, F), of which the tokens where `real` (B, T) count."""
        sums = self._sums.get((layer, side))
        if sums is None:
            zeros = torch.zeros(3, activation.shape[-1], dtype=torch.float64, device=activation.device)
            sums = self._sums[layer, side] = UnitSums(0, *zeros)
        sums.tokens += int(real.sum())
        counted = real.flatten().float()  # products with zeros and ones are faster than picking rows
        rows = max(1, _PART_ELEMENTS // activation.shape[-1])
        for here, part, before in zip(
            counted.split(rows), activation.flatten(0, 1).split(rows), nonlinear.flatten(0, 1).split(rows), strict=True
        ):
            precise = working(part)
            here = here.to(precise.dtype)
            sums.total += here @ precise
            sums.squares += here @ precise.square()
            sums.fired += here @ torch.gt(before, 0, out=torch.empty_like(precise))

    @property
    def base_sums(self) -> dict[int, UnitSums]:
        """Those of the base, by layer."""
        return {layer: sums for (layer, side), sums in self._sums.items() if side == "base"}

    def take_base_sums(self, sums: dict[int, UnitSums]) -> None:
        """Those of a base that has gone through the whole suite before."""
        self._sums |= {(layer, "base"): own for layer, own in sums.items()}

    def rows(self) -> list[dict[str, Any]]:
        """A row for each layer; see `layer_row`."""
        layers = sorted({layer for layer, _ in self._sums})
        return [{"layer": layer, **layer_row(self._sums[layer, "base"], self._sums[layer, "arm"])} for layer in layers]


def layer_row(base: UnitSums, arm: UnitSums) -> dict[str, Any]:
    """The change of one layer.

    mean_change: mean over units of |mean of the arm - mean of the base| / standard deviation of the base over
    tokens, units that never vary left out (None where none does). firing_change: mean of |firing rate of the arm - of
    the base|. top_units: the most changed by the first, most changed first.
    """
    mean = base.total / base.tokens
    spread = (base.squares / base.tokens - mean.square()).clamp(min=0).sqrt()
    varies = spread > 1e-7 * (1e-30 + mean.abs())
    change = (arm.total / arm.tokens - mean).abs() / torch.where(varies, spread, math.inf)
    rate, base_rate = arm.fired / arm.tokens, base.fired / base.tokens
    units = len(mean)
    count = min(max(TOP_LEAST, round(TOP_SHARE * units)), units)
    top = torch.sort(change, descending=True, stable=True).indices[:count]
    return {
        "units": units,
        "tokens": base.tokens,
        "mean_change": float(change[varies].mean()) if bool(varies.any()) else None,
        "firing_change": float((rate - base_rate).abs().mean()),
        "firing_base": float(base_rate.mean()),
        "firing": float(rate.mean()),
        "largest_change": float(change.max()),
        "top_units": [int(unit) for unit in top if float(change[unit]) > 0],
    }
