"""The order in which rows are trained on, and rows -> tensors without padding, common prefixes once."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from rankscope.records import Example
from rankscope.study.study import Budget

WORTH_SHARING = 0.95
"""Prefixes are shared where at most this share of a batch's tokens is left: attention has to add gradients up then."""


@dataclass(frozen=True)
class Batch:
    """Rows in one flat sequence of T tokens; B rows, whose inputs are R together, P completion tokens. All tensors are
    int64.

    A row's last token is only ever a target, never an input, so R is the sum of (token count - 1) over the rows. Tokens
    that begin several rows alike may stand once for all of them; else T is R, one row after another. How long rows are
    is known on the host too: to read it back from a GPU would wait for all that the GPU has to do.
    """

    input_ids: torch.Tensor
    """(T,)"""
    position_ids: torch.Tensor
    """(T,), from 0 in each row"""
    lengths: tuple[int, ...]
    """Inputs of each of the B rows; they sum to R"""
    starts: torch.Tensor
    """(B + 1,): where in R each row begins, and R"""
    target_positions: torch.Tensor
    """(P,): where in T the logits stand that predict a token with loss; each once"""
    target_ids: torch.Tensor
    """(P,): the tokens with loss: the completions, or what the rows' masks leave of them"""
    row_tokens: torch.Tensor | None = None
    """(R,): where in T each input of each row stands, one row after another; None where nothing is shared"""


def collate(
    examples: Sequence[Example], device: torch.device | str | None = None, *, share_prefixes: bool = False
) -> Batch:
    """The examples as one Batch, in their order. `share_prefixes`: what several begin with, before the first token that
    predicts one with loss, stands in it once, where that leaves out enough.

    Raises ValueError for no example or one without prompt or completion: a first token has nothing to be predicted
    from."""
    if not examples:
        raise ValueError("no examples to collate")
    inputs, lengths, target_positions, targets, prefixes = [], [], [], [], []
    start = 0
    for example in examples:
        prompt_count, count = len(example.prompt_ids), example.token_count
        if prompt_count == 0 or count == prompt_count:
            raise ValueError(f"example {example.item_id} has an empty prompt or completion")
        lengths.append(count - 1)
        ids = np.array(example.prompt_ids + example.completion_ids, dtype=np.int64)
        inputs.append(ids[:-1])
        predicted = np.arange(prompt_count, count) if example.loss_mask is None else np.flatnonzero(example.loss_mask)
        if len(predicted) == 0 or predicted[0] == 0:
            raise ValueError(f"example {example.item_id} has no loss, or loss on its first token")
        prefixes.append(int(predicted[0]) - 1)
        target_positions.append(start + predicted.astype(np.int64) - 1)
        targets.append(ids[predicted])
        start += count - 1

    parts = [np.concatenate(part) for part in (inputs, [np.arange(n) for n in lengths], target_positions, targets)]
    parts.append(np.cumsum([0, *lengths], dtype=np.int64))
    if share_prefixes and (shared := _shared_tokens(inputs, prefixes)) is not None:
        kept, row_tokens = shared
        parts[:3] = parts[0][kept], parts[1][kept], row_tokens[parts[2]]
        parts.append(row_tokens)
    # One copy to the device, which does not wait for it: memory of the host that is not pinned is staged at once.
    moved = torch.from_numpy(np.concatenate(parts)).to(device, non_blocking=True)
    input_ids, position_ids, read, target_ids, starts, *rest = moved.split([len(part) for part in parts])
    return Batch(input_ids, position_ids, tuple(lengths), starts, read, target_ids, *rest)


def _shared_tokens(
    inputs: Sequence[npt.NDArray[np.int64]], prefixes: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Of rows' inputs, of which so many first ones may be shared: which of all R are kept (T,), and where among those
    each of the R stands. None where too few would be left out.

    In alphabetical order a row has most in common with the one before it.
    """
    ordered = sorted(range(len(inputs)), key=lambda i: inputs[i].astype(">i8").tobytes())
    starts = np.cumsum([0, *map(len, inputs)])
    stands = np.arange(starts[-1])
    for before, row in pairwise(ordered):
        count = min(prefixes[before], prefixes[row])
        differs = np.flatnonzero(inputs[before][:count] != inputs[row][:count])
        count = int(differs[0]) if len(differs) else count
        stands[starts[row] : starts[row] + count] = stands[starts[before] : starts[before] + count]
    kept, row_tokens = np.unique(stands, return_inverse=True)
    return (kept, row_tokens) if len(kept) <= WORTH_SHARING * len(stands) else None


def repeated(batch: Batch, count: int) -> Batch:
    """The same rows `count` times, one copy after another: a batch for so many arms."""
    if count == 1:
        return batch
    copies = torch.arange(count, device=batch.input_ids.device)[:, None]
    firsts, shared = copies * len(batch.input_ids), batch.row_tokens
    return Batch(
        input_ids=batch.input_ids.repeat(count),
        position_ids=batch.position_ids.repeat(count),
        lengths=batch.lengths * count,
        starts=torch.cat([(copies * batch.starts[-1] + batch.starts[:-1]).flatten(), batch.starts[-1:] * count]),
        target_positions=(firsts + batch.target_positions).flatten(),
        target_ids=batch.target_ids.repeat(count),
        row_tokens=None if shared is None else (firsts + shared).flatten(),
    )


def order(row_count: int, batch_size: int, epochs: float, seed: int) -> list[list[int]]:
    """The rows of every step: each epoch a new seeded shuffle of all rows, cut into batches, never sorted by length.

    An epoch's last batch may be smaller. Of a last epoch that is a fraction, that share of the rows is seen, rounded
    up. The same arguments give the same order in every process; `random.Random` seeded with a text promises that.
    """
    if row_count < 1 or batch_size < 1 or not (math.isfinite(epochs) and epochs > 0):
        raise ValueError(f"no steps in {row_count} rows, batches of {batch_size} and {epochs} epochs")
    steps: list[list[int]] = []
    seen = Budget(batch_size=batch_size, epochs=epochs).rows_seen(row_count)
    for epoch, seen_count in enumerate(seen):
        shuffled = list(range(row_count))
        random.Random(f"rankscope order {seed} {epoch}").shuffle(shuffled)
        steps += [shuffled[i : min(i + batch_size, seen_count)] for i in range(0, seen_count, batch_size)]
    return steps


def split_micro(batch_indices: Sequence[int], token_counts: Sequence[int], budget_tokens: int) -> list[list[int]]:
    """A batch in consecutive micro-batches of at most `budget_tokens` tokens each, but at least one row.

    `token_counts` holds the tokens of every row of the set: those of row i are `token_counts[i]`.
    """
    parts: list[list[int]] = []
    filled = 0
    for index in batch_indices:
        if not parts or filled + token_counts[index] > budget_tokens:
            parts.append([])
            filled = 0
        parts[-1].append(index)
        filled += token_counts[index]
    return parts
