"""What a model writes after prompts: in a KV cache, many rows at once, or by its own `generate`.

Shapes: n rows that are decoded now, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)

from rankscope.evaluate.answer_count import count_answers
from rankscope.evaluate.continuous_batching import Choose, Ending, WrittenRow, decode, most_likely, read_tokens
from rankscope.evaluate.stop_strings import FirstStop, StopStrings
from rankscope.model.attention.cached_decoder import Decoder, decodes_in_cache
from rankscope.model.decoder_parts import key_value_width, text_config
from rankscope.model.forward import evaluating, forward_of
from rankscope.model.methods.virtual_tokens_modules import virtual_tokens
from rankscope.model.sharding.shard import compute_device, team_of
from rankscope.model.sharding.team import Team
from rankscope.plan.run_time import DECODED_ROWS

CPU_CACHE_BYTES = 1 << 30


def greedy(
    model: PreTrainedModel,
    prompts: Sequence[tuple[int, ...]],
    *,
    max_new_tokens: int,
    eos_ids: Collection[int],
    token_budget: int,
    stop: StopStrings | None = None,
    cache_bytes: int | None = None,
    drafts: Sequence[tuple[int, ...]] | None = None,
) -> list[list[int]]:
    """The most likely token, again and again, after each prompt: new token ids in the order of `prompts`.

    A row ends before a token of `eos_ids` (which is not returned), after the token that completes a stop string, after
    `max_new_tokens`, or at the end of the context (the config's position limit). Prompts
    enter in batches of at most `token_budget` padded tokens, the longest first; at most `DECODED_ROWS` rows are decoded
    at once, and no more than fit `cache_bytes` of keys and values (by default `cache_bytes_of`), one row at least. A
    model that keeps anything but keys and values, or has an attention of its own, is run by its own `generate`.
    `drafts`: of each prompt what may follow it, right or wrong; they change the time that it takes, and rounding.

    Raises NotFinite where logits are not finite, and ValueError for an empty prompt.
    """
    ending = Ending(frozenset(eos_ids), stop)
    rows = rows_to_write(model, prompts, max_new_tokens)
    for row, draft in zip(rows, drafts or (), strict=drafts is not None):
        row.draft = draft[: max(0, row.room - 1)]
    write(model, rows, ending, most_likely_of, token_budget=token_budget, cache_bytes=cache_bytes)
    return [row.tokens for row in rows]


def rows_to_write(model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], max_new_tokens: int) -> list[WrittenRow]:
    """A row of each prompt with the room that the context leaves it. Raises ValueError for an empty prompt."""
    if not all(prompts):
        raise ValueError("an empty prompt cannot be continued")
    limit = getattr(text_config(model), "max_position_embeddings", None)
    limit = limit - virtual_tokens(model) if isinstance(limit, int) else None
    room = [max_new_tokens if limit is None else min(max_new_tokens, limit - len(prompt)) for prompt in prompts]
    return [WrittenRow(prompt, space) for prompt, space in zip(prompts, room, strict=True)]


def write(
    model: PreTrainedModel,
    rows: Sequence[WrittenRow],
    ending: Ending,
    choose: Choose,
    *,
    token_budget: int,
    cache_bytes: int | None = None,
) -> None:
    """Let the model write every row to its end, in batches as `greedy` has them. Of a sharded model all processes call
    this; in a KV cache each decodes its part of the rows."""
    if any(row.draft for row in rows) and not forward_of(model).direct:
        for row in rows:  # a draft's logits would be made with those of every other token
            row.draft = ()
    waiting = sorted((row for row in rows if row.room > 0), key=lambda row: -row.entering_tokens)
    if not waiting:
        return
    longest, team = max(len(row.prompt) + row.room for row in waiting) + virtual_tokens(model), team_of(model)
    with evaluating(model):
        if decodes_in_cache(model, longest):
            fitting = (cache_bytes or cache_bytes_of(model)) // (cache_bytes_per_token(model) * longest)
            most = DECODED_ROWS.get(compute_device(model).type, 128)
            decoder = Decoder(model, max(1, min(most, len(waiting), fitting)), longest)
            with decoder.ready():
                decode(decoder, waiting[team.rank :: team.size], ending, choose, token_budget, team)
            _share(waiting, team)
        else:
            for row in waiting:
                _own_generate(model, row, ending, choose)
                count_answers(1)


def most_likely_of(logits: Tensor, rows: Sequence[WrittenRow]) -> Tensor:
    """As `most_likely`, whatever the rows."""
    return most_likely(logits)


def cache_bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes of the keys and values of one token in all layers."""
    return 2 * int(text_config(model).num_hidden_layers) * key_value_width(model) * model.dtype.itemsize


def cache_bytes_of(model: PreTrainedModel) -> int:
    """Bytes that the KV cache may take: 1 GiB of main memory, or a quarter of what is free on a CUDA device."""
    device = compute_device(model)
    if device.type != "cuda":
        return CPU_CACHE_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) // 4


def _share(rows: Sequence[WrittenRow], team: Team) -> None:
    """Every process gets what the others' rows, each so many of `rows`, have become."""
    if team.size == 1:
        return
    written = team.all_of([(row.tokens, row.ended_by) for row in rows[team.rank :: team.size]])
    for rank, own in enumerate(written):
        for row, (tokens, ended_by) in zip(rows[rank :: team.size], own, strict=True):
            row.tokens, row.ended_by = tokens, ended_by


def _own_generate(model: PreTrainedModel, row: WrittenRow, ending: Ending, choose: Choose) -> None:
    """One row by the model's own `generate`, whose every token is the one that is chosen."""

    def chosen_alone(input_ids: Tensor, scores: Tensor) -> Tensor:
        alone = torch.full_like(scores, -torch.inf)
        alone[:, read_tokens(choose(scores, [row]))] = 0.0
        return alone

    def ended(input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        done = ending.take(row, int(input_ids[0, -1]))
        return torch.tensor([done], device=input_ids.device)

    prompt = torch.tensor([row.prompt], device=compute_device(model))
    settings = GenerationConfig(do_sample=False, max_new_tokens=row.room, eos_token_id=None, pad_token_id=0)
    model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        generation_config=settings,
        logits_processor=LogitsProcessorList([chosen_alone]),
        stopping_criteria=StoppingCriteriaList([ended]),
    )


def written_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[int, ...]],
    until: Sequence[str],
    max_new_tokens: int,
    eos_ids: Collection[int],
    token_budget: int,
) -> list[str]:
    """What is written after each prompt, cut at the first of `until` (Ref.: lm-eval 0.4.13, `HFLM.generate_until`).

    Raises NotFinite where logits are not finite.
    """

    def text_of(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    stop = FirstStop([text for text in until if text], text_of)
    found = greedy(model, prompts, max_new_tokens=max_new_tokens, eos_ids=eos_ids, token_budget=token_budget, stop=stop)
    texts = [text_of(tokens) for tokens in found]
    return [text if (cut := stop.cut(text)) is None else cut for text in texts]
