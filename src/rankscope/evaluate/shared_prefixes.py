"""Finds prompts that share a long prefix, so that it is computed once: few-shot examples, a system prompt, a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

SHORTEST = 64
"""Tokens; a shorter prefix is not worth a batch of its own."""

Span = tuple[int, int, int]
"""Shared tokens, and the first and last of the prompts in sorted order."""


@dataclass
class _Interval:
    """A node of the LCP interval tree: neighbours in sorted order that share `shared` tokens, and the best inside."""

    shared: int
    first: int
    saved: int = 0
    spans: list[Span] = field(default_factory=list)


def shared_prefixes(
    prompts: Sequence[tuple[int, ...]], *, saving: int, shortest: int = SHORTEST
) -> list[tuple[int, list[int]]]:
    """Groups of prompts as (tokens of the prefix that all share, indices), every prompt in one group.

    n prompts that share m tokens save (n - 1) m. Prompts that are alike are one group, or the groups of those among
    them that are more alike, whichever saves more. A group shares at least `shortest` tokens, never a whole prompt, and
    saves at least `saving` tokens. The last group shares nothing.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    spans = _best_spans([prompts[index] for index in order], saving, shortest)
    groups = [(shared, order[first : last + 1]) for shared, first, last in spans]
    taken = {index for _, members in groups for index in members}
    rest = [index for index in range(len(prompts)) if index not in taken]
    return [*groups, (0, rest)] if rest else groups


def _best_spans(prompts: Sequence[tuple[int, ...]], saving: int, shortest: int) -> list[Span]:
    """Builds the LCP interval tree over sorted prompts; keeps a node or its children, whichever saves more tokens.

    The tree is built bottom up with a stack (Abouelhoda, Kurtz & Ohlebusch, Replacing suffix trees with enhanced suffix
    arrays, 2004), in time linear in the prompts once the common prefixes of neighbours are known.
    """
    rows = [np.asarray(prompt, np.int64) for prompt in prompts]
    common = [common_tokens(a, b) for a, b in pairwise(rows)]
    stack = [_Interval(0, 0)]
    for place, shared in enumerate([*common, 0]):  # `shared` by prompts `place` and `place + 1`
        first = place
        carried: _Interval | None = None
        while stack[-1].shared > shared:
            closed = stack.pop()
            if carried is not None:
                closed.saved, closed.spans = closed.saved + carried.saved, closed.spans + carried.spans
            own = (place - closed.first) * closed.shared
            if closed.shared >= shortest and own >= max(saving, closed.saved):
                closed.saved, closed.spans = own, [(closed.shared, closed.first, place)]
            first, carried = closed.first, closed
        if stack[-1].shared < shared:
            stack.append(_Interval(shared, first))
        if carried is not None:
            stack[-1].saved += carried.saved
            stack[-1].spans += carried.spans
    return stack[0].spans


def common_tokens(left: NDArray[np.int64], right: NDArray[np.int64]) -> int:
    """How many tokens both begin with, leaving at least one of each."""
    size = min(len(left), len(right)) - 1
    different = np.flatnonzero(left[:size] != right[:size])
    return int(different[0]) if len(different) else size
