"""How far a fine-tuned model moves what the base would say first: KL(base || arm) at the first answer token.

It needs prompts and no answers. Two forms: over the whole vocabulary, and over the first tokens of an item's choices
alone, renormalised. docs/measures.md has the formulas.

Shapes: B prompts of a batch, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rankscope.model.decoder_parts import text_config
from rankscope.model.double_precision import in_double
from rankscope.model.forward import NotFinite, evaluating, forward_of
from rankscope.model.sharding.shard import compute_device, team_of
from rankscope.records import Item

_MOST_LOGITS = 1 << 25
"""Log-probabilities in double precision that one model holds at once: 268 MB."""


@dataclass(frozen=True)
class Side:
    """One of the models that are compared: `model` runs as this one inside `running()`."""

    model: PreTrainedModel
    running: Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Moved:
    """Of one prompt the divergence in nats; over the choices None where they do not differ in their first token."""

    first_token_nats: float
    choices_nats: float | None


KEPT_BYTES = 1 << 26
"""So much of a base's log-probabilities is kept for the arms that are compared with it later: 67 MB."""

KeptBatches = dict[tuple[tuple[int, ...], ...], Tensor]
"""A base's log-probabilities (B, V), double, on its device, by the prompts of a batch."""


def first_token_divergences(
    base: Side, arms: Sequence[Side], items: Sequence[Item], *, token_budget: int, kept: KeptBatches | None = None
) -> list[list[Moved]]:
    """Of every arm, and of every item in its order, how far the distribution of the first answer token moved.

    Base and arms run the same batches; of sharded models all processes call this, and each runs its part of them.
    Log-softmax and sums are in double. Items without a prompt are no items here: ValueError. Raises NotFinite where a
    divergence is NaN or infinite.

    `kept` is what earlier calls kept of the same base, and grows up to KEPT_BYTES; of a team nothing is kept, since its
    processes run the base's forward together or not at all.
    """
    found = torch.zeros(len(arms), len(items), 2, dtype=torch.float64)
    team, tokens = team_of(base.model), [_choice_tokens(item) for item in items]
    batches = list(_batches(items, token_budget, text_config(base.model).vocab_size))
    for numbers, counts in team.turns(batches):
        prompts = [items[number].prompt_ids for number in numbers]
        before = _of_base(base, prompts, kept if team.size == 1 else None)
        for arm, own in zip(arms, found, strict=True):
            after = first_logprobs(arm, prompts)
            whole = _divergence(before, after)
            for row, number in enumerate(numbers if counts else []):
                own[number, 0] = whole[row]
                own[number, 1] = _over_choices(before[row], after[row], tokens[number])
    found = team.sum(found)
    if not bool(torch.isfinite(found[..., 0]).all()):
        raise NotFinite("a divergence of the first answer token is not finite")
    return [
        [Moved(nats, over if chosen else None) for (nats, over), chosen in zip(own, tokens, strict=True)]
        for own in found.tolist()
    ]


def _of_base(base: Side, prompts: Sequence[Sequence[int]], kept: KeptBatches | None) -> Tensor:
    """The base's `first_logprobs`, computed or kept."""
    if kept is None:
        return first_logprobs(base, prompts)
    batch = tuple(map(tuple, prompts))
    found = kept.get(batch)
    if found is None:
        found = first_logprobs(base, prompts)
        if sum(map(_bytes_of, kept.values())) + _bytes_of(found) <= KEPT_BYTES:
            kept[batch] = found
    return found


def _bytes_of(values: Tensor) -> int:
    return values.numel() * values.element_size()


def first_logprobs(side: Side, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Log-probabilities (B, V), double, of the token after each prompt. Nothing sees the padding on the right."""
    width = max(map(len, prompts))
    ids = np.zeros((len(prompts), width), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    ends = torch.tensor([row * width + len(prompt) - 1 for row, prompt in enumerate(prompts)])
    device = compute_device(side.model)
    with side.running(), evaluating(side.model):
        parts = forward_of(side.model).logits_at(torch.from_numpy(ids).to(device), ends.to(device))
        return torch.cat([in_double(part).log_softmax(-1) for part in parts])


def _batches(items: Sequence[Item], token_budget: int, vocabulary: int) -> Iterator[list[int]]:
    """Items of like length together, longest first, within the budgets of padded tokens and of logits."""
    if not all(item.prompt_ids for item in items):
        raise ValueError("an item without a prompt has no first answer token")
    order = sorted(range(len(items)), key=lambda number: (-len(items[number].prompt_ids), number))
    start = 0
    while start < len(order):
        most = min(token_budget // len(items[order[start]].prompt_ids), _MOST_LOGITS // vocabulary)
        yield order[start : start + max(1, most)]
        start += max(1, most)


def _divergence(before: Tensor, after: Tensor) -> Tensor:
    """Sum over the last axis of p_before (log p_before - log p_after); what has no probability before adds nothing."""
    terms = before.exp() * (before - after)
    return torch.where(before == -math.inf, torch.zeros_like(terms), terms).sum(-1)


def _choice_tokens(item: Item) -> list[int]:
    """The different first tokens of an item's choices; none where they do not differ."""
    tokens = sorted({choice[0] for choice in item.choices_ids if choice})
    return tokens if item.form == "choices" and len(tokens) > 1 else []


def _over_choices(before: Tensor, after: Tensor, tokens: Sequence[int]) -> float:
    """The divergence over these tokens, each side renormalised over them; 0 over none."""
    if not tokens:
        return 0.0
    chosen = torch.tensor(tokens, device=before.device)
    return float(_divergence(before[chosen].log_softmax(-1), after[chosen].log_softmax(-1)))
