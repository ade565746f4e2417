"""What a run does against forgetting beside its task: rows that are replayed, and a penalty on leaving the base.

Shapes: N arms of a pack.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rankscope.data.training_batches import collate
from rankscope.model.attention.unpadded_rows import TrainingForward, training_forward
from rankscope.model.base_divergence import BaseStates
from rankscope.model.methods.attach import Pack
from rankscope.model.sharding.shard import compute_device, gathered
from rankscope.records import Example
from rankscope.study.methods.remedy_settings import Retain


@dataclass(frozen=True)
class Remedies:
    """What one arm does beside its task.

    `retain`: its penalty. `replayed`: rows of which each batch has so many that their tokens are `share` of all tokens.
    `base`: the untouched base as a model of its own, for an arm that trains the base's own weights; adapters are
    switched off instead.
    """

    retain: Retain | None = None
    replayed: Sequence[Example] = ()
    share: float = 0.0
    base: PreTrainedModel | None = None

    def kl_weight(self, *, on_replay: bool) -> float:
        """What the divergence is multiplied by at the tokens of the task, or at replayed ones."""
        if self.retain is None or self.retain.kl is None:
            return 0.0
        return self.retain.kl if (self.retain.on == "replay") == on_replay else 0.0

    @property
    def l2_weight(self) -> float:
        """Of half the squared distance of the weights to the base's."""
        return 0.0 if self.retain is None or self.retain.l2 is None else self.retain.l2


NONE = Remedies()


def replay_order(task_tokens: Sequence[int], replay_tokens: Sequence[int], share: float, seed: int) -> list[list[int]]:
    """The replayed rows of every step, as many as bring their tokens to `share` of all tokens seen so far.

    `task_tokens` of every step, `replay_tokens` of every row that may be replayed. Rows come in seeded shuffles of all,
    one after another. Depends on nothing else, so that a resumed run replays the same rows. A step may have none where
    one row of the last one was long.
    """
    if not replay_tokens or not 0 < share < 1:
        raise ValueError(f"nothing to replay: {len(replay_tokens)} rows, a share of {share}")
    rows = _endless_shuffles(len(replay_tokens), seed)
    steps: list[list[int]] = []
    wanted = filled = 0.0
    for tokens in task_tokens:
        wanted += tokens * share / (1 - share)
        own: list[int] = []
        while filled < wanted:
            own.append(next(rows))
            filled += replay_tokens[own[-1]]
        steps.append(own)
    return steps


def _endless_shuffles(count: int, seed: int) -> Iterator[int]:
    turn = 0
    while True:
        shuffled = list(range(count))
        random.Random(f"rankscope replay {seed} {turn}").shuffle(shuffled)
        yield from shuffled
        turn += 1


class BaseForward:
    """The base's final states for a micro-batch, computed once for all arms of a pack, without gradient or dropout."""

    def __init__(self, pack: Pack, forward: TrainingForward, own: PreTrainedModel | None) -> None:
        """`own`: the base as a model of its own; None: the pack's model with its adapters off."""
        self._pack, self._forward, self._own = pack, forward, own

    @torch.no_grad()
    def states(self, rows: Sequence[Example]) -> BaseStates:
        """Those that predict the rows' tokens with loss. Called where the pack's training forward is ready."""
        forward = self._forward if self._own is None else training_forward(self._own)
        batch = collate(rows, compute_device(self._pack.model), share_prefixes=forward.shares)
        if self._own is not None:
            with forward.ready(), gathered(self._own):
                return BaseStates(self._own, forward.target_states(batch))
        with self._pack.members[0].off(), _evaluating(self._pack.model), gathered(self._pack.model):
            return BaseStates(self._pack.model, forward.target_states(batch))


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """No dropout inside. Not inference mode: masks that are kept for the trained forward may be made here."""
    model.eval()
    try:
        yield
    finally:
        model.train()


def kl_weights(remedies: Sequence[Remedies], *, on_replay: bool, device: torch.device) -> Tensor | None:
    """(N,) of the arms that run; None where no arm has any, and the base is not asked."""
    weights = [one.kl_weight(on_replay=on_replay) for one in remedies]
    return torch.tensor(weights, dtype=torch.float32, device=device) if any(weights) else None
