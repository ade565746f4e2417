"""A batch's gradients in as many micro-batches as the memory asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rankscope.data.batch import Batch, collate, split_micro
from rankscope.model.adapt import Adapted
from rankscope.model.forward import head_logits
from rankscope.model.ragged import TokenPath
from rankscope.records import Example
from rankscope.train.optimize import Trainee


class Accumulator:
    """Forward and backward of a batch, in micro-batches of at most `token_budget` tokens (but at least one row).

    Where the device's memory does not hold one, the budget is halved for good and the batch is begun again:
    micro-batches change nothing but rounding, and a run that was planned too large still ends.
    """

    def __init__(self, adapted: Adapted, path: TokenPath, trainee: Trainee, token_budget: int) -> None:
        self.token_budget = token_budget
        self._adapted, self._path, self._trainee = adapted, path, trainee

    def gradients(self, rows: Sequence[Example], seed: int) -> tuple[float, int]:
        """Leaves the gradients of the mean loss per completion token; that loss in nats, and the number of tokens.

        `seed` is that of dropout. Raises torch.OutOfMemoryError where one row alone is too large.
        """
        while True:
            torch.manual_seed(seed)
            try:
                return self._accumulate(rows)
            except torch.OutOfMemoryError:
                if not self._smaller(rows):
                    raise
            # Outside the handler, whose traceback would keep the failed step's tensors alive.
            self._trainee.drop_gradients()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _accumulate(self, rows: Sequence[Example]) -> tuple[float, int]:
        token_count = sum(row.target_count for row in rows)
        total = 0.0
        for part in self._parts(rows, self.token_budget):
            batch = collate(part, device=self._adapted.model.device)
            loss = summed_loss(self._adapted, self._path, batch) / token_count
            loss.backward()
            self._trainee.take_gradients()
            total += loss.item()
        return total, token_count

    def _smaller(self, rows: Sequence[Example]) -> bool:
        """Halve the budget until this batch has more micro-batches; False where each is a single row already."""
        count = len(self._parts(rows, self.token_budget))
        if count == len(rows):
            return False
        while len(self._parts(rows, self.token_budget)) == count:
            self.token_budget = max(1, self.token_budget // 2)
        return True

    @staticmethod
    def _parts(rows: Sequence[Example], token_budget: int) -> list[list[Example]]:
        indices = split_micro(range(len(rows)), [row.token_count for row in rows], token_budget)
        return [[rows[i] for i in part] for part in indices]


def summed_loss(adapted: Adapted, path: TokenPath, batch: Batch) -> Tensor:
    """Cross-entropy summed over the completion tokens, in nats; logits exist for those positions only."""
    logits = head_logits(adapted.model, path.target_states(batch))
    return nn.functional.cross_entropy(logits, batch.target_ids, reduction="sum")
