"""What a model writes by itself: samples at a temperature, each of which depends on its seed and prompt alone.

Shapes: n rows that are decoded now, V vocabulary.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rankscope.evaluate.continuous_batching import NOT_FINITE, Ending, WrittenRow, most_likely
from rankscope.evaluate.generation import rows_to_write, write
from rankscope.model.attention.scoring_layout import moved


@dataclass(frozen=True)
class Sample:
    """What followed a prompt: the tokens, and the token that ended it (None: it was as long as it might be)."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    ended_by: int | None

    @property
    def whole(self) -> tuple[int, ...]:
        """The tokens, with the one that ended them."""
        return self.tokens if self.ended_by is None else (*self.tokens, self.ended_by)


def sample(
    model: PreTrainedModel,
    prompts: Sequence[tuple[int, ...]],
    *,
    temperature: float,
    seed: int,
    max_new_tokens: int,
    eos_ids: Collection[int],
    token_budget: int,
) -> list[Sample]:
    """One sample of each prompt, in their order, from softmax(logits / temperature); 0 takes the likeliest token.

    A token is the first whose cumulated probability exceeds a random number; each row has random numbers of its own,
    drawn from the seed, its prompt and how often that prompt stood before. So a sample does not depend on what else is
    drawn, or on the batch, but through rounding. Rows are decoded together as the scorer's are. Raises NotFinite where
    logits are not finite, and ValueError for an empty prompt.
    """
    rows = rows_to_write(model, prompts, max_new_tokens)
    before: Counter[tuple[int, ...]] = Counter()
    for row in rows:
        row.draws = _draws(seed, row.prompt, before[row.prompt])
        before[row.prompt] += 1

    def choose(logits: Tensor, at: Sequence[WrittenRow]) -> Tensor:
        return most_likely(logits) if temperature == 0 else _drawn(logits / temperature, at)

    write(model, rows, Ending(frozenset(eos_ids)), choose, token_budget=token_budget)
    return [Sample(row.prompt, tuple(row.tokens), row.ended_by) for row in rows]


def _draws(seed: int, prompt: tuple[int, ...], copy: int) -> Iterator[float]:
    """Endless numbers in [0, 1); a generator that is seeded with a text gives the same ones in every process."""
    generator = random.Random(f"rankscope sample {seed} {copy} {prompt}")
    while True:
        yield generator.random()


def _drawn(logits: Tensor, rows: Sequence[WrittenRow]) -> Tensor:
    """(n,), as `continuous_batching.Choose`: cumulated in double: large vocabularies have many small ones."""
    device = logits.device
    logits = logits.cpu() if device.type == "mps" else logits  # which has no double
    cumulated = torch.softmax(logits.float(), -1).cumsum(-1, dtype=torch.float64)  # (n, V)
    draws = moved(torch.tensor([next(row.draws) for row in rows], dtype=torch.float64), logits.device)
    wanted = (draws * cumulated[:, -1])[:, None]
    found = torch.searchsorted(cumulated, wanted, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)
    return torch.where(torch.isfinite(logits.max(-1).values), found, NOT_FINITE).to(device)
