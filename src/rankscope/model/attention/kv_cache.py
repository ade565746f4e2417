"""Keys and values of rows that are decoded together, each row in a slot of its own, and the layouts that use them.

The rows decoded now fill the first slots without a gap; where one ends, the last moves into its slot. So a step runs
one token of each row as one flat row, without padding and without copying what is kept.

Shapes as in attend.py; n rows, R tokens of room in a slot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.model.attention.registration import Scores, attend
from rankscope.model.attention.scoring_layout import Beginning, BranchLayout, Shape, laid, padded

SPARE_TOKENS = 16


class Slots:
    """Keys and values (slots, K, R, d) of every layer, from the first token of each row; `lengths` (n,) are filled."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.count = count
        self.device = device
        self.lengths = torch.zeros(0, dtype=torch.int64, device=device)
        self.longest = 0
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}

    def buffers(self, layer: int, key: Tensor, value: Tensor, needed: int) -> tuple[Tensor, Tensor]:
        """The layer's buffers, with room for `needed` tokens; `key` and `value` are some (K, T, d) of this layer."""
        held = self._buffers.get(layer)
        if held is not None and held[0].shape[2] >= needed:
            return held
        # Zeros: what is masked must still be a number.
        grown = [
            states.new_zeros(self.count, states.shape[0], needed + SPARE_TOKENS, states.shape[2])
            for states in (key, value)
        ]
        if held is not None:
            rows = len(self.lengths)
            for new, old in zip(grown, held, strict=True):
                new[:rows, :, : old.shape[2]] = old[:rows]
        self._buffers[layer] = (grown[0], grown[1])
        return self._buffers[layer]

    def keep(self, alive: list[int]) -> list[int]:
        """Drops all rows but these; returns which row each slot holds now (the old indices, in the new order)."""
        count = len(alive)
        holes = sorted(set(range(count)) - set(alive))
        movers = [index for index in alive if index >= count]
        order = list(range(count))
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        if holes:
            to, source = torch.tensor([holes, movers], device=self.device)
            for pair in self._buffers.values():
                for buffer in pair:
                    buffer[to, :, : self.longest] = buffer[source, :, : self.longest]
        self.lengths = self.lengths[torch.tensor(order, dtype=torch.int64, device=self.device)]
        self.longest = int(self.lengths.max()) if order else 0
        return order


class FillLayout:
    """Prompts (rows,) tokens long, one after another in a flat row, whose keys and values go into the next slots.

    Each comes after `beginning`. The model's last layer, number `last`, is asked for their last tokens only.
    Afterwards, `commit` makes them rows of the slots.
    """

    def __init__(self, slots: Slots, lengths: Tensor, beginning: Beginning | None, last: int | None = None) -> None:
        none = torch.zeros(0, dtype=torch.int64, device=lengths.device)
        ends = torch.cumsum(lengths, 0)
        self._tree = BranchLayout(Shape(lengths, none, none, none, none), beginning, read=ends - 1, last=last)
        self._slots, self._lengths = slots, lengths
        self._places = padded(ends - lengths, lengths)[0]
        self._before = 0 if beginning is None else beginning[0][0].shape[1]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        places = self._places
        rows, width = places.shape
        first, start, stop = len(self._slots.lengths), self._before, self._before + width
        buffers = self._slots.buffers(layer, key, value, stop)
        for index, (buffer, states) in enumerate(zip(buffers, (key, value), strict=True)):
            buffer[first : first + rows, :, start:stop] = laid(states, places)
            if self._tree.beginning is not None:
                buffer[first : first + rows, :, :start] = self._tree.beginning[layer][index]
        return self._tree.attend(layer, query, key, value, scores)

    def commit(self) -> None:
        slots = self._slots
        slots.lengths = torch.cat([slots.lengths, self._lengths + self._before])
        slots.longest = int(slots.lengths.max())


class StepLayout:
    """The next token of each row, in the order of the slots. Afterwards, `commit` counts them."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._rows = torch.arange(len(slots.lengths), device=slots.device)
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        slots, rows = self._slots, len(self._rows)
        seen = slots.longest + 1
        keys, values = slots.buffers(layer, key, value, seen)
        keys[self._rows, :, slots.lengths] = key.transpose(0, 1)
        values[self._rows, :, slots.lengths] = value.transpose(0, 1)
        heads, _, size = query.shape
        # All queries of a group of heads are queries to their head of keys.
        grouped = query.transpose(0, 1).reshape(rows, key.shape[0], -1, size)
        mask = self._mask(scores.window, query.dtype)
        output = attend(grouped, keys[:rows, :, :seen], values[:rows, :, :seen], scores, mask=mask)
        return output.reshape(rows, heads, -1)

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """(n, 1, 1, longest + 1): a row's own tokens, those out of the window left out."""
        if (window, dtype) not in self._masks:
            lengths = self._slots.lengths[:, None]
            place = torch.arange(self._slots.longest + 1, device=lengths.device)
            seen = place <= lengths
            if window is not None:
                seen &= lengths - place < window
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._masks[window, dtype] = mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None, None]
        return self._masks[window, dtype]

    def commit(self) -> None:
        self._slots.lengths = self._slots.lengths + 1
        self._slots.longest += 1
