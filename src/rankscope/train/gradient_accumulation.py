"""A batch's gradients in as many micro-batches as the memory asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rankscope.data.training_batches import Batch, collate, repeated, split_micro
from rankscope.model.attention.unpadded_rows import TokenPath
from rankscope.model.methods.attach import Pack
from rankscope.model.vocabulary_loss import summed_cross_entropy
from rankscope.records import Example
from rankscope.train.optimizer import Trainee


class Accumulator:
    """Forward and backward of a batch, in micro-batches of at most `token_budget` tokens (but at least one row).

    The tokens are those of all arms together. Where the device's memory does not hold a micro-batch, the budget is
    halved for good and the batch is begun again: micro-batches change nothing but rounding, and a run that was planned
    too large still ends.
    """

    def __init__(self, pack: Pack, path: TokenPath, trainees: Sequence[Trainee], token_budget: int) -> None:
        self.token_budget = token_budget
        self._pack, self._path, self._trainees = pack, path, trainees

    def gradients(self, rows: Sequence[Example], arms: Sequence[int], seed: int) -> tuple[list[float], int]:
        """Leaves the gradients of each arm's mean loss per completion token; these losses in nats, and the number of
        tokens.

        `seed` is that of dropout. Raises torch.OutOfMemoryError where one row alone is too large.
        """
        while True:
            torch.manual_seed(seed)
            try:
                with self._pack.running(arms):
                    return self._accumulate(rows, arms)
            except torch.OutOfMemoryError:
                if not self._smaller(rows, len(arms)):
                    raise
            # Outside the handler, whose traceback would keep the failed step's tensors alive.
            for arm in arms:
                self._trainees[arm].drop_gradients()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _accumulate(self, rows: Sequence[Example], arms: Sequence[int]) -> tuple[list[float], int]:
        token_count = sum(row.target_count for row in rows)
        total = torch.zeros(len(arms), dtype=torch.float64, device=self._pack.model.device)
        for part in self._parts(rows, len(arms)):
            batch = repeated(collate(part, device=self._pack.model.device), len(arms))
            losses = summed_losses(self._pack.model, self._path, batch, len(arms)) / token_count
            losses.sum().backward()
            for arm in arms:
                self._trainees[arm].take_gradients()
            total += losses.detach()
        return total.tolist(), token_count

    def _smaller(self, rows: Sequence[Example], arms: int) -> bool:
        """Halve the budget until this batch has more micro-batches; False where each is a single row already."""
        count = len(self._parts(rows, arms))
        if count == len(rows):
            return False
        while len(self._parts(rows, arms)) == count:
            self.token_budget = max(1, self.token_budget // 2)
        return True

    def _parts(self, rows: Sequence[Example], arms: int) -> list[list[Example]]:
        indices = split_micro(range(len(rows)), [row.token_count * arms for row in rows], self.token_budget)
        return [[rows[i] for i in part] for part in indices]


def summed_losses(model: PreTrainedModel, path: TokenPath, batch: Batch, arms: int = 1) -> Tensor:
    """(arms,): cross-entropy summed over each arm's completion tokens, in nats."""
    return summed_cross_entropy(model, path.target_states(batch), batch.target_ids, arms)
