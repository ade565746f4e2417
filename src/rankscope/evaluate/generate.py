"""Greedy decoding of many rows at once: finished rows leave and waiting rows enter.

Shapes: T tokens of a flat row, n rows that are decoded now, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteriaList

from rankscope.evaluate.choices import beginning_of
from rankscope.evaluate.stops import StopStrings
from rankscope.model.attend import LAYOUT_KEY, REFUSALS, layout_attention_on
from rankscope.model.branches import Beginning
from rankscope.model.forward import Forward, NotFinite, evaluating, forward_of, probe_ids
from rankscope.model.parts import key_value_width, sliding_window, text_config
from rankscope.model.prompted import virtual_tokens, without_virtual_tokens
from rankscope.model.slots import FillLayout, Slots, StepLayout

logger = logging.getLogger(__name__)

MOST_ROWS = 128
"""Rows at once: beyond, a step of a small model is not cheaper by row any more, and memory grows."""
CPU_CACHE_BYTES = 1 << 30
PROBE_PROMPT_TOKENS = 12
PROBE_STEPS = 4


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
    enter in batches of at most `token_budget` padded tokens, the longest first; at most `MOST_ROWS` rows are decoded
    at once, and no more than fit `cache_bytes` of keys and values (by default `cache_bytes_of`), one row at least. A
    model that keeps anything but keys and values, or has an attention of its own, is run by its own `generate`.

    Raises NotFinite where logits are not finite, and ValueError for an empty prompt.
    """
    if not all(prompts):
        raise ValueError("an empty prompt cannot be continued")
    limit = context_tokens or getattr(text_config(model), "max_position_embeddings", None)
    limit = limit - virtual_tokens(model) if isinstance(limit, int) else None
    room = [max_new_tokens if limit is None else min(max_new_tokens, limit - len(prompt)) for prompt in prompts]
    rows = [_Row(prompt, space) for prompt, space in zip(prompts, room, strict=True)]
    ending = _Ending(frozenset(eos_ids), stop)
    waiting = sorted((row for row in rows if row.room > 0), key=lambda row: -len(row.prompt))
    with evaluating(model):
        if not waiting:
            pass
        elif _slots_hold(model, max(len(row.prompt) + row.room for row in waiting) + virtual_tokens(model)):
            longest = max(len(row.prompt) + row.room for row in waiting)
            fitting = (cache_bytes or cache_bytes_of(model)) // (_bytes_per_token(model) * longest)
            size = max(1, min(MOST_ROWS, len(waiting), fitting))
            _Decoder(model, size).run(waiting, ending, token_budget)
        else:
            for row in waiting:
                _own_generate(model, row, ending)
    return [row.tokens for row in rows]


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


class _Decoder:
    """A model with the slots of at most `size` rows."""

    def __init__(self, model: PreTrainedModel, size: int) -> None:
        self.slots = Slots(size, model.device)
        self._model, self._forward = model, forward_of(model)
        self._beginning: Beginning | None = beginning_of(model, ())

    def run(self, waiting: list[_Row], ending: _Ending, token_budget: int) -> None:
        """Decodes all of `waiting`, which are in order of their length, the longest first."""
        active: list[_Row] = []
        following = torch.zeros(0, dtype=torch.int64, device=self._model.device)
        with without_virtual_tokens(self._model), layout_attention_on(self._model):
            while waiting or active:
                free = self.slots.count - len(active)
                if waiting and (not active or free >= max(1, self.slots.count // 4)):
                    size = max(1, min(free, token_budget // len(waiting[0].prompt)))
                    entering, waiting = waiting[:size], waiting[size:]
                    logits = self.fill([row.prompt for row in entering])
                    active += entering
                    following = torch.cat([following, _best(logits)])
                    fresh = range(len(active) - len(entering), len(active))
                else:
                    following = _best(self.step(following))
                    fresh = range(len(active))
                active, following = self._settle(active, following, fresh, ending)

    def _settle(
        self, active: list[_Row], following: Tensor, fresh: range, ending: _Ending
    ) -> tuple[list[_Row], Tensor]:
        """Gives the `fresh` of the `active` rows their next tokens and lets finished ones go."""
        tokens = following.tolist()
        done = {index for index in fresh if ending.take(active[index], tokens[index])}
        if not done:
            return active, following
        order = self.slots.keep([index for index in range(len(active)) if index not in done])
        kept = torch.tensor(order, dtype=torch.int64, device=following.device)
        return [active[index] for index in order], following[kept]

    def fill(self, prompts: Sequence[tuple[int, ...]]) -> Tensor:
        """Puts prompts into the next slots; logits (prompts, V) of what follows each."""
        device = self._model.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        ids = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        ends = lengths.cumsum(0)
        positions = torch.arange(len(ids), device=device) - (ends - lengths).repeat_interleave(lengths)
        layout = FillLayout(self.slots, lengths, self._beginning)
        before = 0 if self._beginning is None else self._beginning[0][0].shape[1]
        logits = self._logits(ids, ends - 1, positions + before, layout)
        layout.commit()
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        """Appends tokens (n,) to the rows of the slots; logits (n, V) of what follows each."""
        layout = StepLayout(self.slots)
        everywhere = torch.arange(len(tokens), device=tokens.device)
        logits = self._logits(tokens, everywhere, self.slots.lengths, layout)
        layout.commit()
        return logits

    def _logits(self, ids: Tensor, read: Tensor, positions: Tensor, layout: FillLayout | StepLayout) -> Tensor:
        arguments: dict[str, Any] = {"position_ids": positions[None], LAYOUT_KEY: layout}
        return torch.cat(list(self._forward.logits_at(ids[None], read, **arguments)))


def _best(logits: Tensor) -> Tensor:
    """The most likely tokens (n,) of logits (n, V). Raises NotFinite where one is NaN or infinite."""
    largest, tokens = logits.max(-1)
    if not bool(torch.isfinite(largest).all()):
        raise NotFinite("a logit is not finite")
    return tokens


def _bytes_per_token(model: PreTrainedModel) -> int:
    """Keys and values of one token in all layers."""
    return 2 * int(text_config(model).num_hidden_layers) * key_value_width(model) * model.dtype.itemsize


def cache_bytes_of(model: PreTrainedModel) -> int:
    """What the slots may take: 1 GiB of main memory, or a quarter of what is free on a CUDA device."""
    if model.device.type != "cuda":
        return CPU_CACHE_BYTES
    free, _ = torch.cuda.mem_get_info(model.device)
    return int(free) // 4


# ---- may this model be decoded in slots? ----------------------------------------------------------------------------


_decided: WeakKeyDictionary[PreTrainedModel, dict[tuple[Any, ...], bool]] = WeakKeyDictionary()


def _slots_hold(model: PreTrainedModel, longest: int) -> bool:
    """Whether rows in slots give the model's own logits; decided once for each model, attention and window."""
    window = sliding_window(model)
    window = None if window is None or longest <= window else window
    virtual = virtual_tokens(model)
    decided = _decided.setdefault(model, {})
    key = (model.config._attn_implementation, window, model.dtype, virtual)
    if key not in decided:
        reason = "virtual tokens stand before a window" if virtual and window is not None else _probe(model, window)
        decided[key] = not reason
        if reason:
            logger.info("%s: decoded by its own generate, because %s", type(model).__name__, reason)
    return decided[key]


def _probe(model: PreTrainedModel, window: int | None) -> str:
    """Runs two rows of random tokens, of unlike lengths, in slots and alone. Returns why slots do not hold, or nothing.

    A key in the wrong place, a wrong position or a lost window moves logits by their own size.
    """
    if not key_value_width(model):
        return "it keeps more than keys and values"
    long = PROBE_PROMPT_TOKENS if window is None else window + 2
    tokens = probe_ids(model, long + PROBE_STEPS)
    wanted: list[Tensor] = []
    forward = forward_of(model)
    starts = [long, long // 2]
    for start in starts:
        read = torch.arange(start - 1, start + PROBE_STEPS, device=model.device)
        wanted.append(torch.cat(list(forward.logits_at(tokens[None, : start + PROBE_STEPS], read))))
    try:
        decoder = _Decoder(model, len(starts))
        with without_virtual_tokens(model), layout_attention_on(model):
            found = [decoder.fill([tuple(tokens[:start].tolist()) for start in starts])]
            for step in range(PROBE_STEPS):
                found.append(decoder.step(torch.stack([tokens[start + step] for start in starts])))
    except REFUSALS as refusal:
        return f"it refuses the attention ({type(refusal).__name__})"
    error = (torch.stack(found, 1) - torch.stack(wanted)).abs().max()
    allowed = (1e-4 if model.dtype == torch.float32 else 5e-2) * max(1.0, float(torch.stack(wanted).abs().max()))
    return "" if float(error) <= allowed else f"logits differ by {float(error):.2g}"


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
