"""One step's gradients of all arms of a pack, in micro-batches: the task's rows, replayed rows, the penalty.

Shapes: N arms of a pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from rankscope.model.attention.unpadded_rows import TrainingForward
from rankscope.model.base_divergence import LossSums
from rankscope.model.double_precision import widest_float
from rankscope.model.methods.attach import Pack
from rankscope.model.sharding.shard import compute_device
from rankscope.model.sharding.team import SOLO, MicroBatch, Team
from rankscope.plan.checkpointing_choice import BUSY_TOKENS
from rankscope.records import Example, StepRecord
from rankscope.train.objective import Objective
from rankscope.train.optimizer import Trainee, take_gradients
from rankscope.train.remedies import BaseForward, Remedies, kl_weights

SECOND_TRIES = 2
"""How often a batch that ran out of memory is tried again as it was, of each budget: each costs a step."""


class StepRows(NamedTuple):
    """The rows of one step: the task's, the same for every arm, and those that are replayed."""

    task: Sequence[Example]
    replayed: Sequence[Example] = ()


class StepLosses(NamedTuple):
    """Of each arm that ran, in nats per token: the task's loss, that of replayed rows, KL(base || arm) of arms
    for which it is penalised; and the tokens that these are means over."""

    task: list[float]
    tokens: int
    replayed: list[float] | None
    replayed_tokens: int
    divergence: list[float | None] | None

    def record(self, arm: int, step: int, rate: float, norm: float, validation_loss: float | None) -> StepRecord:
        """A line of train.jsonl, of the arm at this place."""
        return StepRecord(
            step=step, loss_nats_per_token=self.task[arm], learning_rate=rate, gradient_norm=norm,
            completion_tokens=self.tokens,
            replay_loss_nats_per_token=None if self.replayed is None else self.replayed[arm],
            replay_tokens=self.replayed_tokens or None,
            kl_nats_per_token=None if self.divergence is None else self.divergence[arm],
            validation_loss_nats_per_token=validation_loss,
        )  # fmt: skip


class Accumulator:
    """A batch's gradients, in micro-batches of at most `token_budget` tokens of all arms together, but at least a row.

    `remedies` of each arm. Where the device's memory does not hold a micro-batch, the batch is begun again: first as it
    was, where torch can give back memory that it keeps and does not use (in pieces that fit nothing), then with half
    the budget for good; where that would leave the device idle, `may_checkpoint` lets activations be computed twice
    first. All this changes nothing but rounding, and a run that was planned too large still ends.
    """

    def __init__(
        self,
        pack: Pack,
        forward: TrainingForward,
        objective: Objective,
        remedies: Sequence[Remedies],
        trainees: Sequence[Trainee],
        token_budget: int,
        team: Team = SOLO,
    ) -> None:
        self.token_budget = token_budget
        self.may_checkpoint = False
        self._second_tries = SECOND_TRIES
        self._team = team
        self._pack, self._forward, self._trainees = pack, forward, trainees
        self._objective, self._remedies = objective, remedies
        self._base = BaseForward(pack, forward, remedies[0].base)

    @property
    def checkpointing(self) -> bool:
        """Whether activations are computed again in the backward pass."""
        return bool(self._pack.model.is_activation_checkpointing)

    def gradients(self, rows: StepRows, arms: Sequence[int], seed: int) -> StepLosses:
        """Leaves the gradients of what each arm minimises: the mean over all its tokens with loss of the cross-entropy
        and the weighted divergence. Returns the losses.

        `seed` is that of dropout. Raises torch.OutOfMemoryError where one row alone is too large, and in a team at
        once: the other processes wait for this one's part, so they can only be ended.
        """
        while True:
            torch.manual_seed(seed)
            try:
                with self._pack.running(arms):
                    return self._accumulate(rows, arms)
            except torch.OutOfMemoryError:
                if self._team.size > 1 or not self._may_try_again([*rows.task, *rows.replayed], len(arms)):
                    raise
            # Outside the handler, whose traceback would keep the failed step's tensors alive.
            for arm in arms:
                self._trainees[arm].drop_gradients()
            give_back_unused(compute_device(self._pack.model))

    def validation_losses(self, rows: Sequence[Example], arms: Sequence[int]) -> list[float | None]:
        """Of each of these arms on these rows, in the unit of the objective, without dropout; None where there is no
        row."""
        if not rows:
            return [None] * len(arms)
        found: list[float | None] = []
        self._pack.model.eval()
        for arm in arms:
            with self._pack.running([arm]):
                found.append(self._objective.validation_loss(self._forward, rows, self.token_budget, self._team))
        self._pack.model.train()
        return found

    def _accumulate(self, rows: StepRows, arms: Sequence[int]) -> StepLosses:
        weights = [sum(map(self._objective.row_weight, part)) for part in rows]
        device = compute_device(self._pack.model)
        dtype = widest_float(device)
        totals = torch.zeros(2, len(arms), dtype=dtype, device=device)  # of the task, of replayed rows
        divergence, near = torch.zeros(len(arms), dtype=dtype, device=device), [0] * len(arms)
        remedies = [self._remedies[arm] for arm in arms]
        for on_replay, part in enumerate(rows):
            kl = kl_weights(remedies, on_replay=bool(on_replay), device=device)
            own = [one.kl_weight(on_replay=bool(on_replay)) > 0 for one in remedies]  # the others' tokens are not its
            near = [count + weights[on_replay] * has for count, has in zip(near, own, strict=True)]
            for micro_batch in self._micro_batches(part, len(arms)):
                sums = self._losses([part[i] for i in micro_batch.rows], len(arms), kl)
                if micro_batch.filler:
                    sums = LossSums(*(values * 0.0 for values in sums))
                (sums.objective / sum(weights)).sum().backward()
                take_gradients([self._trainees[arm] for arm in arms])
                totals[on_replay] += sums.cross_entropy.detach() / weights[on_replay]
                divergence += 0 if kl is None else sums.divergence * (kl > 0)
        self._team.sum_in_place([held for arm in arms for held in self._trainees[arm].whole_gradients()])
        totals, divergence = self._team.sum(totals), self._team.sum(divergence)
        return StepLosses(
            totals[0].tolist(), weights[0], totals[1].tolist() if rows.replayed else None, weights[1],
            [value / count if count else None for value, count in zip(divergence.tolist(), near, strict=True)]
            if any(near)
            else None,
        )  # fmt: skip

    def _losses(self, rows: Sequence[Example], arms: int, kl: torch.Tensor | None) -> LossSums:
        if kl is None:
            losses = self._objective.summed_losses(self._forward, rows, arms)
            return LossSums(losses, losses, losses)
        return self._objective.summed_losses_near_base(self._forward, rows, self._base.states(rows), kl)

    def _may_try_again(self, rows: Sequence[Example], arms: int) -> bool:
        """As it was, a few times for each budget; then with half the budget, or with activations computed twice."""
        device = compute_device(self._pack.model)
        if self._second_tries and keeps_unused(device):
            self._second_tries -= 1
            return True
        self._second_tries = SECOND_TRIES
        little = self.token_budget < 2 * BUSY_TOKENS[device.type] or len(self._micro_batches(rows, arms)) == len(rows)
        if self.may_checkpoint and little and not self.checkpointing:
            checkpoint_blocks(self._pack.model)
            return True
        return self._halve_budget(rows, arms)

    def _halve_budget(self, rows: Sequence[Example], arms: int) -> bool:
        """Halve the budget until this batch has more micro-batches; False where each is a single row already."""
        count = len(self._micro_batches(rows, arms))
        if count == len(rows):
            return False
        while len(self._micro_batches(rows, arms)) == count:
            self.token_budget = max(1, self.token_budget // 2)
        return True

    def _micro_batches(self, rows: Sequence[Example], arms: int) -> list[MicroBatch]:
        tokens = [self._objective.row_tokens(row) * arms for row in rows]
        return self._team.share(tokens, self.token_budget)


def checkpoint_blocks(model: PreTrainedModel) -> None:
    """From now on blocks keep their input only and are computed again in the backward pass (arXiv 1604.06174)."""
    model.activation_checkpointing_enable({"use_reentrant": False})


def keeps_unused(device: torch.device) -> bool:
    """Whether torch keeps freed memory of this device for itself, so that giving it back may help."""
    return device.type == "cuda"


def give_back_unused(device: torch.device) -> None:
    """Give what torch keeps and does not use back to the device."""
    if keeps_unused(device):
        torch.cuda.empty_cache()
