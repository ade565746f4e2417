"""Final hidden states without vocabulary logits, and logits only where they are read.

Shapes: B batch, T tokens, D hidden size, V vocabulary, Q positions read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rankscope.model.attention.registration import FastPathCheck, why_different
from rankscope.model.decoder_parts import blocks, feed_forward_name, text_config
from rankscope.model.methods.virtual_tokens_modules import virtual_tokens
from rankscope.model.output_head import (
    HeadMismatch,
    TargetLogprobs,
    chunk_rows,
    head_logits,
    of_logits,
    target_logprobs,
)
from rankscope.model.sharding.shard import compute_device, gathered, is_sharded

PROBE_TOKENS = 8


class NotFinite(ArithmeticError):
    """The model's numbers are NaN or infinite: a failed run, never an answer."""


def hidden_states(
    model: PreTrainedModel,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | dict[str, Tensor] | None = None,
    position_ids: Tensor | None = None,
    past_key_values: Any = None,
    use_cache: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Hidden states (B, T, D) after the last norm, for tokens `input_ids` (B, T); no vocabulary logits are made.

    `attention_mask` is (B, T) with 1 for real tokens, or (B, 1, T, T_keys) additive, or a dictionary of those by layer
    type where the model mixes types. `past_key_values` is a transformers Cache that grows in place.

    Raises HeadMismatch where the model's decoder gives no final hidden states.
    """
    given = {"attention_mask": attention_mask, "position_ids": position_ids, "past_key_values": past_key_values}
    kwargs.update({name: value for name, value in given.items() if value is not None})
    outputs = model.get_decoder()(input_ids=input_ids, use_cache=use_cache, **kwargs)
    states = getattr(outputs, "last_hidden_state", None)
    if not isinstance(states, Tensor):
        raise HeadMismatch(f"{type(model).__name__}: its decoder gives no final hidden states")
    return states


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """No dropout and no gradients inside; the model's training mode comes back afterwards.

    Inference tensors may not be written to in place, as the weights of a sharded model are when they are gathered.
    """
    was_training = model.training
    if was_training:
        model.eval()
    try:
        with gathered(model), torch.no_grad() if is_sharded(model) else torch.inference_mode():
            yield
    finally:
        if was_training:
            model.train()


def probe_ids(model: PreTrainedModel, count: int) -> Tensor:
    """`count` token ids (count,), always the same for a vocabulary, spread over it."""
    size = text_config(model).vocab_size
    return (torch.arange(count, device=compute_device(model)) * 7919 + 17) % size


@contextmanager
def last_feed_forward_at(model: PreTrainedModel, positions: Tensor) -> Iterator[None]:
    """The last block's feed-forward runs at flat positions (Q,) into B*T only; elsewhere it gives 0, never read.

    Not around a forward that is computed again later (gradient checkpointing): the second time it would be whole.
    Raises LookupError where the block's feed-forward is not known.
    """
    block = blocks(model)[-1]
    feed_forward = getattr(block, feed_forward_name(block))
    plain, own = feed_forward.forward, vars(feed_forward).get("forward")

    def forward(states: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = plain(states.flatten(0, 1).index_select(0, positions)[None], *args, **kwargs)
        first = output[0] if isinstance(output, tuple) else output
        whole = torch.zeros_like(states)
        whole.view(-1, states.shape[-1]).index_copy_(0, positions, first.flatten(0, -2))
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    feed_forward.forward = forward
    try:
        yield
    finally:
        del feed_forward.forward
        if own is not None:
            feed_forward.forward = own


class Forward:
    """How a model gives logits at chosen positions: through its output head (`direct`), or by its own whole forward.

    `skips`: the last feed-forward runs at those positions only.
    """

    def __init__(self, model: PreTrainedModel, *, direct: bool, skips: bool) -> None:
        self.model = model
        self.direct = direct
        self.skips = direct and skips

    def logits_at(self, input_ids: Tensor, positions: Tensor, **kwargs: Any) -> Iterator[Tensor]:
        """Logits (n, V) in fp32 of tokens (B, T) at flat positions (Q,) into B*T, in order, a chunk at a time.

        Raises HeadMismatch where the model's decoder gives no final hidden states.
        """
        if not self.direct:
            yield self._own_logits(input_ids, positions, **kwargs)
            return
        for part in self._states_at(input_ids, positions, **kwargs).split(chunk_rows(self.model)):
            yield head_logits(self.model, part)

    def target_logprobs_at(
        self, input_ids: Tensor, positions: Tensor, rows: Tensor, ids: Tensor, *, best: bool = False, **kwargs: Any
    ) -> TargetLogprobs:
        """As `output_head.target_logprobs`: tokens `ids` (M,), each after the position that `rows` (M,) names of
        `positions` (Q,) into B*T."""
        if not self.direct:
            own = of_logits(self._own_logits(input_ids, positions, **kwargs), rows, ids, best=best)
            return TargetLogprobs(own.logprobs.cpu(), None if own.best is None else own.best.cpu())
        states = self._states_at(input_ids, positions, **kwargs)
        return target_logprobs(self.model, states, rows, ids, best=best)

    def _own_logits(self, input_ids: Tensor, positions: Tensor, **kwargs: Any) -> Tensor:
        own: Tensor = self.model(input_ids=input_ids, use_cache=kwargs.pop("use_cache", False), **kwargs).logits
        return own.flatten(0, 1)[positions].float()

    def _states_at(self, input_ids: Tensor, positions: Tensor, **kwargs: Any) -> Tensor:
        """Final hidden states (Q, D)."""
        few = self.skips and len(positions) < input_ids.numel()
        with last_feed_forward_at(self.model, positions) if few else nullcontext():
            return hidden_states(self.model, input_ids, **kwargs).flatten(0, 1)[positions]


# ---- what may this model do? -----------------------------------------------------------------------------------------

_HEAD = FastPathCheck(
    fast="logits are made by its head, where they are read",
    slow="its own logits are used, which takes more memory",
    slow_level=logging.WARNING,
    refusals=(HeadMismatch,),
)
_LAST_FEED_FORWARD = FastPathCheck(
    fast="the last feed-forward runs where logits are read",
    slow="the last feed-forward runs at every position",
)


def forward_of(model: PreTrainedModel) -> Forward:
    """The fastest `Forward` that gives this model's own logits, found out at first use.

    Weights and adapters may change since; the architecture does not. Raises NotFinite where the model's own logits are
    not finite at that first use.
    """
    if not _HEAD.holds(model, partial(compare_head, model)):
        return Forward(model, direct=False, skips=False)
    # Virtual tokens stand among the positions of the blocks, but not among those that are asked for.
    skips = not virtual_tokens(model) and _LAST_FEED_FORWARD.holds(model, partial(_compare_skipping, model))
    return Forward(model, direct=True, skips=skips)


def compare_head(model: PreTrainedModel) -> str:
    """Why `head_logits(hidden_states(x))` are not the model's own logits of a few tokens, or nothing.

    They may differ by 1e-4 (fp32; 0.02 in half precision, where the model itself rounds its soft-capping) of the
    largest logit. Raises NotFinite where the model's own logits are not finite.
    """
    tokens = probe_ids(model, PROBE_TOKENS)[None]
    with evaluating(model):
        own = model(input_ids=tokens, use_cache=False).logits.float()
        if not bool(torch.isfinite(own).all()):
            raise NotFinite("the model's logits are not finite")
        ours = head_logits(model, hidden_states(model, tokens))
    return why_different(ours, own, 1e-4 if model.dtype == torch.float32 else 2e-2)


def _compare_skipping(model: PreTrainedModel) -> str:
    """Why logits at some positions change when the last feed-forward sees those positions only, or nothing."""
    tokens = probe_ids(model, PROBE_TOKENS)[None]
    positions = torch.arange(1, PROBE_TOKENS, 3, device=compute_device(model))
    with evaluating(model):
        whole = torch.cat(list(Forward(model, direct=True, skips=False).logits_at(tokens, positions)))
        found = torch.cat(list(Forward(model, direct=True, skips=True).logits_at(tokens, positions)))
    return why_different(found, whole, 1e-5 if model.dtype == torch.float32 else 2e-2)
