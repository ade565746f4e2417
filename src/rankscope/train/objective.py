"""What a run minimises, as a value: the batch that it wants, its summed loss, and its validation.

The loop (`fit.py`) knows rows, tokens and a loss to be divided and differentiated; everything else it asks here.
Supervised fine-tuning is the one objective there is. Another one is a class with these methods, whose facts stand in
`study/study.py`.

Shapes: N arms packed together, T tokens of a batch, P positions with loss, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rankscope.data.training_batches import collate, repeated
from rankscope.model.attention.unpadded_rows import TrainingForward
from rankscope.model.base_divergence import BaseStates, LossSums, summed_losses_near_base
from rankscope.model.head_loss import summed_cross_entropy
from rankscope.model.sharding.shard import compute_device, gathered, in_forward
from rankscope.model.sharding.team import SOLO, Team
from rankscope.records import Example
from rankscope.study.study import SUPERVISED, ObjectiveFacts


class TrainingRows(Protocol):
    """A training set's token file: the rows that are trained on, and those that are held out of it."""

    @property
    def train(self) -> Sequence[Example]:
        """Rows to train on."""
        ...

    @property
    def validation(self) -> Sequence[Example]:
        """Rows that are held out."""
        ...


class Objective(Protocol):
    """What a run minimises: the mean of a loss over weights that add up, so that micro-batches change nothing."""

    @property
    def facts(self) -> ObjectiveFacts:
        """Its name, unit and cost, as the plan and the report know it."""
        ...

    def training_rows(self, data: TrainingRows) -> Sequence[Example]:
        """The rows of the token file that are trained on."""
        ...

    def validation_rows(self, data: TrainingRows) -> Sequence[Example]:
        """The rows of the token file that its loss is measured on."""
        ...

    def row_tokens(self, row: Example) -> int:
        """Tokens that a row puts through the model: what micro-batches are cut by."""
        ...

    def row_weight(self, row: Example) -> int:
        """What a row counts in the mean; a batch's summed loss is divided by the sum over its rows."""
        ...

    def summed_losses(self, forward: TrainingForward, rows: Sequence[Example], arms: int) -> Tensor:
        """(N,): the loss of `rows` summed for each of the `arms` that run, in the graph of its parameters.

        The model sees the rows of all arms, one arm's after another's. Called where `forward` is ready.
        """
        ...

    def summed_losses_near_base(
        self, forward: TrainingForward, rows: Sequence[Example], base: BaseStates, weights: Tensor
    ) -> LossSums:
        """The same with KL(base || arm) at the positions with loss, times each arm's weight (N,)."""
        ...

    def validation_loss(
        self, forward: TrainingForward, rows: Sequence[Example], token_budget: int, team: Team = SOLO
    ) -> float:
        """Mean loss over `rows`, in the unit of the facts, in batches of at most `token_budget` tokens, shared out
        among the team."""
        ...


class SupervisedFineTuning:
    """Cross-entropy of the completions given their prompts, in nats per completion token."""

    facts = SUPERVISED

    def training_rows(self, data: TrainingRows) -> Sequence[Example]:
        """All that are not held out."""
        return data.train

    def validation_rows(self, data: TrainingRows) -> Sequence[Example]:
        """All that are held out."""
        return data.validation

    def row_tokens(self, row: Example) -> int:
        """Prompt and completion."""
        return row.token_count

    def row_weight(self, row: Example) -> int:
        """Tokens with loss."""
        return row.target_count

    def summed_losses(self, forward: TrainingForward, rows: Sequence[Example], arms: int = 1) -> Tensor:
        """(N,): cross-entropy summed over each arm's tokens with loss, in nats."""
        model = forward.model
        batch = repeated(collate(rows, compute_device(model), share_prefixes=forward.shares), arms)
        return in_forward(
            model, lambda: summed_cross_entropy(model, forward.target_states(batch), batch.target_ids, arms)
        )

    def summed_losses_near_base(
        self, forward: TrainingForward, rows: Sequence[Example], base: BaseStates, weights: Tensor
    ) -> LossSums:
        """(N,) each: cross-entropy and divergence over each arm's tokens with loss, in nats, and what is minimised."""
        model = forward.model
        batch = collate(rows, compute_device(model), share_prefixes=forward.shares)

        def sums() -> LossSums:
            states = forward.target_states(repeated(batch, len(weights)))
            return summed_losses_near_base(model, states, batch.target_ids, base, weights)

        if base.model is model:
            return in_forward(model, sums)
        with gathered(base.model):  # a model of its own, whose head is asked here
            return in_forward(model, sums)

    @torch.no_grad()
    def validation_loss(
        self, forward: TrainingForward, rows: Sequence[Example], token_budget: int, team: Team = SOLO
    ) -> float:
        """Mean over the tokens with loss of `rows`, in nats per token."""
        total = 0.0
        with forward.ready(), gathered(forward.model):
            for batch in team.share([self.row_tokens(row) for row in rows], token_budget):
                loss = self.summed_losses(forward, [rows[i] for i in batch.rows]).item()
                total += 0.0 if batch.filler else loss
        summed = team.sum(torch.tensor(total, dtype=torch.float64)).item()
        return summed / sum(self.row_weight(row) for row in rows)


OBJECTIVES: dict[str, Objective] = {SUPERVISED.name: SupervisedFineTuning()}
"""By the name in their facts."""
