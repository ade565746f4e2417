"""Greedy decoding in batches with cached keys and values; finished rows leave the batch.

Shapes: B rows of a batch, T tokens of its longest prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteriaList

from rankscope.evaluate.cache import bytes_per_token, cache_bytes_of, plain_cache
from rankscope.model.forward import Forward, NotFinite, evaluating, forward_of
from rankscope.model.prompted import virtual_tokens

STOP_WINDOW_TOKENS = 24


class StopStrings:
    """Says when a row has just written one of `stops`, after some text that is not blank.

    `decode` turns token ids into text. Text is only decoded after a token that holds the last character of a stop;
    what a single token holds is remembered.
    """

    def __init__(self, stops: Sequence[str], decode: Callable[[list[int]], str]) -> None:
        self.stops = tuple(stops)
        self.decode = decode
        self._last = {stop[-1] for stop in self.stops}
        self._may_end: dict[int, bool] = {}

    def __call__(self, tokens: list[int]) -> bool:
        """Whether `tokens`, generated so far, now hold a stop."""
        if not self.stops:
            return False
        last = tokens[-1]
        if last not in self._may_end:
            text = self.decode([last])
            # A part of a character decodes to the replacement mark: then only the whole text can tell.
            self._may_end[last] = "\ufffd" in text or any(end in text for end in self._last)
        if not self._may_end[last]:
            return False
        tail = self.decode(tokens[-STOP_WINDOW_TOKENS:])
        return any(stop in tail for stop in self.stops) and self.cut(self.decode(tokens)) is not None

    def cut(self, text: str) -> str | None:
        """The text before the first stop that follows some text; None where there is none."""
        begin = len(text) - len(text.lstrip())
        found = [place for stop in self.stops if (place := text.find(stop, begin)) >= 0]
        return text[: min(found)] if found else None


def greedy(
    model: PreTrainedModel,
    prompts: Sequence[tuple[int, ...]],
    *,
    max_new_tokens: int,
    eos_ids: Collection[int],
    token_budget: int,
    stop: StopStrings | None = None,
    context_tokens: int | None = None,
    cache_bytes: int | None = None,
) -> list[list[int]]:
    """The most likely token, again and again, after each prompt: new token ids in the order of `prompts`.

    A row ends before a token of `eos_ids` (which is not returned), after the token that completes a stop string, after
    `max_new_tokens`, or at the end of the context (`context_tokens`, by default the config's position limit). Prompts
    of like length share a batch, padded on the left: at most 4 * `token_budget` tokens of prompts (no logits are made
    of them) with at most `cache_bytes` of keys and values (by default `cache_bytes_of`), and one row at least. A model
    that keeps anything but keys and values is run by its own `generate`.

    Raises NotFinite where logits are not finite, and ValueError for an empty prompt.
    """
    if not all(prompts):
        raise ValueError("an empty prompt cannot be continued")
    limit = context_tokens or _setting(model, "max_position_embeddings")
    limit = None if limit is None else limit - virtual_tokens(model)
    room = [max_new_tokens if limit is None else min(max_new_tokens, limit - len(prompt)) for prompt in prompts]
    rows = [_Row(prompt, space) for prompt, space in zip(prompts, room, strict=True)]
    ending = _Ending(frozenset(eos_ids), stop)
    order = sorted((row for row in rows if row.room > 0), key=lambda row: -len(row.prompt))
    with evaluating(model):
        if plain_cache(model) is None:
            for row in order:
                _own_generate(model, row, ending)
            return [row.tokens for row in rows]
        forward = forward_of(model)
        cached_tokens = (cache_bytes or cache_bytes_of(model)) // bytes_per_token(model)
        while order:
            longest = len(order[0].prompt)
            size = max(1, min(4 * token_budget // longest, cached_tokens // (longest + max_new_tokens)))
            if virtual_tokens(model) and _setting(model, "sliding_window"):
                # Padding would stand between virtual tokens and the row, and push them out of the window.
                size = min(size, sum(len(row.prompt) == longest for row in order))
            batch, order = order[:size], order[size:]
            _decode(forward, batch, ending)
    return [row.tokens for row in rows]


def _setting(model: PreTrainedModel, name: str) -> int | None:
    value = getattr(model.config.get_text_config(decoder=True), name, None)
    return value if isinstance(value, int) else None


@dataclass(eq=False)
class _Row:
    """A prompt and what followed it so far."""

    prompt: tuple[int, ...]
    room: int
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Ending:
    eos_ids: frozenset[int]
    stop: StopStrings | None

    def take(self, row: _Row, token: int) -> bool:
        """Gives the row its next token; says whether that was its last."""
        if token in self.eos_ids:
            return True
        row.tokens.append(token)
        return len(row.tokens) >= row.room or (self.stop is not None and self.stop(row.tokens))


def _decode(forward: Forward, rows: list[_Row], ending: _Ending) -> None:
    """Decodes one batch. The keys and values of finished rows are dropped once they are an eighth of the batch."""
    device = forward.model.device
    cache = plain_cache(forward.model)
    assert cache is not None
    input_ids, real = _left_padded(rows, device)
    padded = not bool(real.all())
    positions = (real.cumsum(1) - 1).clamp(min=0)
    active: list[_Row | None] = list(rows)
    while True:
        count, width = input_ids.shape
        last = torch.arange(1, count + 1, device=device) * width - 1
        arguments: dict[str, Any] = {"position_ids": positions, "past_key_values": cache, "use_cache": True}
        if padded:
            arguments["attention_mask"] = real
        logits = torch.cat(list(forward.logits_at(input_ids, last, **arguments)))
        following = logits.argmax(-1)
        if not bool(torch.isfinite(logits.gather(1, following[:, None])).all()):
            raise NotFinite("a logit is not finite")
        for index, token in enumerate(following.tolist()):
            row = active[index]
            if row is not None and ending.take(row, token):
                active[index] = None
        left = [index for index, row in enumerate(active) if row is not None]
        if not left:
            return
        input_ids, positions = following[:, None], positions[:, -1:] + 1
        if len(left) <= count - max(1, count // 8):
            kept = torch.tensor(left, device=device)
            cache.batch_select_indices(kept)
            input_ids, positions, real = input_ids[kept], positions[kept], real[kept]
            active = [active[index] for index in left]
        real = torch.nn.functional.pad(real, (0, 1), value=1)


def _left_padded(rows: Sequence[_Row], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) and which of them are real (B, T), 1 or 0."""
    width = max(len(row.prompt) for row in rows)
    ids = [[0] * (width - len(row.prompt)) + list(row.prompt) for row in rows]
    real = [[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(real, device=device)


def _own_generate(model: PreTrainedModel, row: _Row, ending: _Ending) -> None:
    """One row by the model's own `generate`."""

    def ended(input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        done = ending.take(row, int(input_ids[0, -1]))
        return torch.tensor([done], device=input_ids.device)

    prompt = torch.tensor([row.prompt], device=model.device)
    settings = GenerationConfig(do_sample=False, max_new_tokens=row.room, eos_token_id=None, pad_token_id=0)
    model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        generation_config=settings,
        stopping_criteria=StoppingCriteriaList([ended]),
    )
