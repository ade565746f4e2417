"""A model whose rows are decoded in slots: prompts are filled in, then every step appends a token to each row.

Shapes: T tokens of a flat row, n rows that are decoded now, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rankscope.evaluate.choice_scoring import beginning_of
from rankscope.model.attention.fast_path_check import Probed, Window, window_that_matters
from rankscope.model.attention.kv_cache import FillLayout, Slots, StepLayout
from rankscope.model.attention.registration import LAYOUT_KEY, REFUSALS, layout_attention_on
from rankscope.model.attention.scoring_layout import Beginning
from rankscope.model.decoder_parts import key_value_width, text_config
from rankscope.model.forward import NotFinite, forward_of, probe_ids
from rankscope.model.methods.virtual_tokens_modules import without_virtual_tokens

CPU_CACHE_BYTES = 1 << 30
PROBE_PROMPT_TOKENS = 12
PROBE_STEPS = 4


class Decoder:
    """A model with the slots of at most `size` rows."""

    def __init__(self, model: PreTrainedModel, size: int) -> None:
        self.slots = Slots(size, model.device)
        self._model, self._forward = model, forward_of(model)
        self._beginning: Beginning | None = beginning_of(model, ())

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Rows are filled and stepped inside."""
        with without_virtual_tokens(self._model), layout_attention_on(self._model):
            yield

    def fill(self, prompts: Sequence[tuple[int, ...]]) -> Tensor:
        """Puts prompts into the next slots; logits (prompts, V) of what follows each."""
        device = self._model.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        ids = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        ends = lengths.cumsum(0)
        positions = torch.arange(len(ids), device=device) - (ends - lengths).repeat_interleave(lengths)
        last = text_config(self._model).num_hidden_layers - 1
        layout = FillLayout(self.slots, lengths, self._beginning, last)
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


def best(logits: Tensor) -> Tensor:
    """The most likely tokens (n,) of logits (n, V). Raises NotFinite where one is NaN or infinite."""
    largest, tokens = logits.max(-1)
    if not bool(torch.isfinite(largest).all()):
        raise NotFinite("a logit is not finite")
    return tokens


def bytes_per_token(model: PreTrainedModel) -> int:
    """Keys and values of one token in all layers."""
    return 2 * int(text_config(model).num_hidden_layers) * key_value_width(model) * model.dtype.itemsize


def cache_bytes_of(model: PreTrainedModel) -> int:
    """What the slots may take: 1 GiB of main memory, or a quarter of what is free on a CUDA device."""
    if model.device.type != "cuda":
        return CPU_CACHE_BYTES
    free, _ = torch.cuda.mem_get_info(model.device)
    return int(free) // 4


# ---- may this model be decoded in slots? ----------------------------------------------------------------------------


def _probe(model: PreTrainedModel, window: Window) -> str:
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
        decoder = Decoder(model, len(starts))
        with decoder.ready():
            found = [decoder.fill([tuple(tokens[:start].tolist()) for start in starts])]
            for step in range(PROBE_STEPS):
                found.append(decoder.step(torch.stack([tokens[start + step] for start in starts])))
    except REFUSALS as refusal:
        return f"it refuses the attention ({type(refusal).__name__})"
    error = (torch.stack(found, 1) - torch.stack(wanted)).abs().max()
    allowed = (1e-4 if model.dtype == torch.float32 else 5e-2) * max(1.0, float(torch.stack(wanted).abs().max()))
    return "" if float(error) <= allowed else f"logits differ by {float(error):.2g}"


_slots = Probed(_probe, fast="decoded in slots", slow="decoded by its own generate")


def slots_hold(model: PreTrainedModel, longest: int) -> bool:
    """Whether rows of at most `longest` tokens give in slots the model's own logits; decided once."""
    return _slots.holds(model, window_that_matters(model, longest))
