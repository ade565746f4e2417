"""Training rows without padding: linear layers, norms and the loss see real tokens only, and on a CPU what several rows
begin with once.

A batch is one long row of T tokens, its B sequences one after another. Only inside attention are sequences laid side by
side, those of nearly the same length together; on CUDA torch's kernel for sequences of unequal length takes the row as
it is. A model whose own padded forward gives other states keeps its padded rows.

Shapes: T tokens, B sequences, P positions whose states are read, D hidden size, H heads, K heads of keys, d head size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import PreTrainedModel

from rankscope.data.training_batches import Batch, collate
from rankscope.model.attention.cpu_causal import causal_attention
from rankscope.model.attention.joined_attention import HALF
from rankscope.model.attention.registration import (
    LAYOUT_KEY,
    SHARE_OF_MISTAKE,
    FastPathCheck,
    Scores,
    attention_installed,
)
from rankscope.model.attention.sequence_buckets import Buckets, buckets_of
from rankscope.model.forward import hidden_states, last_feed_forward_at
from rankscope.model.sharding.shard import compute_device, gathered
from rankscope.records import Example

_UNPADDED = FastPathCheck(
    fast="training rows run without padding",
    slow="training rows are padded",
    # What a model raises that does not pass the layout on; a RuntimeError would be a fault of ours.
    refusals=(KeyError, TypeError, ValueError),
)
_VARLEN = FastPathCheck(
    fast="attention of rows without padding runs in torch's kernel for sequences of unequal length",
    slow="attention of rows without padding runs in plain matrix products",
)
_LAST_FEED_FORWARD = FastPathCheck(
    fast="in training the last feed-forward runs where states are read",
    slow="in training the last feed-forward runs at every position",
)
_SHARED = FastPathCheck(
    fast="training rows that begin alike share their prefix",
    slow="every training row has its prefix for itself",
)


@dataclass(frozen=True)
class RowLayout:
    """Causal attention within each of the sequences that stand one after another in a flat row.

    `starts` (B + 1,) in int32: where they begin, and the end; `lengths` of them in tokens. `varlen`: torch's kernel for
    sequences of unequal length is used where it can be (half precision, no soft cap, no dropout), else `buckets`.
    `row_tokens`: as of a Batch that shares prefixes, which only `buckets` know.
    """

    starts: Tensor
    lengths: tuple[int, ...]
    varlen: bool = False
    row_tokens: Tensor | None = None

    @staticmethod
    def of(batch: Batch, *, varlen: bool = False) -> RowLayout:
        """The layout of a batch's rows; nothing is read back from its device."""
        return RowLayout(
            batch.starts.to(torch.int32), batch.lengths, varlen and batch.row_tokens is None, batch.row_tokens
        )  # fmt: skip

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)

    @cached_property
    def buckets(self) -> Buckets:
        """Made at first use, on the device of `starts`: the kernel never asks for them."""
        return buckets_of(list(self.lengths), self.starts.device, self.row_tokens)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        """As `registration.Layout`: query (H, T, d), key and value (K, T, d) to (T, H, d)."""
        q, k, v = (states.transpose(0, 1) for states in (query, key, value))
        window = scores.window if scores.window is not None and scores.window < self.longest else None
        if self.varlen and q.dtype in HALF and scores.softcap is None and not scores.dropout:
            reach = (-1 if window is None else window - 1, 0)
            out = varlen_attn(
                q.contiguous(), k.contiguous(), v.contiguous(), self.starts, self.starts, self.longest, self.longest,
                scale=scores.scale, window_size=reach, enable_gqa=q.shape[1] != k.shape[1],
            )  # fmt: skip
            assert isinstance(out, Tensor)
            return out
        if q.dtype == torch.bfloat16 and not q.is_cuda:
            # Softmax in bf16 would round the weights; the products of a bucket are too small to gain from bf16.
            q, k, v = q.float(), k.float(), v.float()
        out = causal_attention(q, k, v, self.buckets, replace(scores, window=window))
        return out.to(query.dtype)


class TrainingForward:
    """How a model computes the states that predict completions: from rows without padding, or from padded ones.

    `skips`: of rows without padding, the last feed-forward runs at the positions that are read only. `shares`: batches
    may share prefixes.
    """

    def __init__(
        self, model: PreTrainedModel, *, unpadded: bool, varlen: bool = False, skips: bool = False, shares: bool = False
    ) -> None:
        self.model = model
        self.unpadded = unpadded
        self.varlen = unpadded and varlen
        self.skips = unpadded and skips
        self.shares = unpadded and shares

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Training steps happen inside; the model's own attention is back afterwards."""
        with attention_installed(self.model) if self.unpadded else nullcontext():
            yield

    def target_states(self, batch: Batch) -> Tensor:
        """(P, D): the final states at `batch.target_positions`; gradients pass."""
        if not self.unpadded:
            return _padded_states(self.model, batch).index_select(0, batch.target_positions)
        few = 2 * len(batch.target_positions) < len(batch.input_ids)  # else the copies cost what is saved
        # With checkpointing the forward runs again in the backward pass, without what stands around it here.
        skips = self.skips and few and not self.model.is_activation_checkpointing
        with last_feed_forward_at(self.model, batch.target_positions) if skips else nullcontext():
            states = _unpadded_states(self.model, batch, varlen=self.varlen)
        return states.index_select(0, batch.target_positions)


def training_forward(model: PreTrainedModel) -> TrainingForward:
    """The fastest forward that gives this model's own states, found out at first use."""
    with gathered(model):  # a sharded model's dtype is that of its masters, but for what is gathered
        if not _UNPADDED.holds(model, partial(_compare_rows, model)):
            return TrainingForward(model, unpadded=False)
        varlen = _may_use_varlen(model) and _VARLEN.holds(
            model, partial(_compare_rows, model, varlen=True), model.dtype
        )
        skips = _LAST_FEED_FORWARD.holds(model, partial(_compare_skipping, model))
        shares = compute_device(model).type == "cpu" and _SHARED.holds(model, partial(_compare_sharing, model))
    draws = _drops_out(model)
    return TrainingForward(
        model, unpadded=True, varlen=varlen, skips=skips and not draws, shares=shares and not draws
    )  # fmt: skip


def padded_forward(model: PreTrainedModel) -> TrainingForward:
    """The forward over padded rows, for what stands in a model and does not know rows without padding."""
    return TrainingForward(model, unpadded=False)


def _may_use_varlen(model: PreTrainedModel) -> bool:
    return compute_device(model).type == "cuda" and model.dtype in HALF


def _drops_out(model: PreTrainedModel) -> bool:
    """Whether some dropout draws: for fewer positions it would draw others than for all. That of attention weights is
    mostly no module, but a number that a module holds."""

    def draws(module: nn.Module) -> bool:
        numbers = (value for name, value in vars(module).items() if "drop" in name and isinstance(value, float))
        return any(value > 0 for value in numbers) or (isinstance(module, nn.Dropout) and module.p > 0)

    return any(map(draws, model.modules()))


def _unpadded_states(model: PreTrainedModel, batch: Batch, *, varlen: bool) -> Tensor:
    """(T, D), with the attention installed."""
    extra: dict[str, Any] = {LAYOUT_KEY: RowLayout.of(batch, varlen=varlen)}
    return hidden_states(model, batch.input_ids[None], position_ids=batch.position_ids[None], **extra)[0]


def _padded_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(T, D) from rows side by side, padded on the right, with a mask and the model's own attention."""
    starts = batch.starts[:-1, None]
    column = torch.arange(max(batch.lengths), device=starts.device)
    real = starts + column < batch.starts[1:, None]
    token = torch.where(real, starts + column, 0)
    states = hidden_states(
        model, batch.input_ids[token], attention_mask=real.long(), position_ids=batch.position_ids[token],
        use_cache=False,
    )  # fmt: skip
    return states.flatten(0, 1).index_select(0, torch.nonzero(real.flatten()).flatten())


# ---- may this model run without padding? -----------------------------------------------------------------------------


def _compare_rows(model: PreTrainedModel, *, varlen: bool = False) -> str:
    """Why the states of rows without padding are not those of the model's own padded forward, or nothing."""
    return _compare(model, _batch_of_random_tokens(model), partial(_unpadded_states, model, varlen=varlen))


def _compare_skipping(model: PreTrainedModel) -> str:
    """The same where the last feed-forward runs at every third position only."""
    batch = _batch_of_random_tokens(model)

    def states(few: Batch) -> Tensor:
        with last_feed_forward_at(model, few.target_positions):
            return _unpadded_states(model, few, varlen=False).index_select(0, few.target_positions)

    return _compare(model, replace(batch, target_positions=batch.target_positions[1::3]), states)


def _compare_sharing(model: PreTrainedModel) -> str:
    """The same where sequences share the eight tokens that they begin with."""
    ids = tuple(_batch_of_random_tokens(model).input_ids.tolist())
    rows = [Example(f"{start}", ids[:9], ids[start : start + count]) for start, count in ((9, 21), (30, 4), (34, 33))]
    plain, shared = (collate(rows, compute_device(model), share_prefixes=share) for share in (False, True))

    def states(one: Batch) -> Tensor:
        return _unpadded_states(model, one, varlen=False).index_select(0, one.target_positions)

    return _compare(model, shared, states, plain)


@torch.no_grad()  # not inference_mode: masks that are kept for training are made here
def _compare(
    model: PreTrainedModel, batch: Batch, states: Callable[[Batch], Tensor], plain: Batch | None = None
) -> str:
    """Why `states` of a batch differ from the model's own, or nothing; each token's difference is of its own size.
    `plain`: the same rows without shared prefixes, where the batch has such.

    In fp32 1e-4 is allowed, in half precision 0.05. There two right ways lie as far apart as each from the exact
    states, and in some models further (a mean of 0.045 and at most 0.12 for Gemma 3 270M in bf16): beyond 0.05 they
    must be far nearer to its own than what known mistakes give, as a whole and at the worst token.
    """
    was_training = model.training
    model.eval()
    try:
        rows = batch if plain is None else plain
        own = _padded_states(model, rows).index_select(0, rows.target_positions).float()

        def apart(one: Batch) -> Tensor:
            return (states(one).float() - own).abs().mean(-1) / own.abs().mean(-1).clamp_min(1e-6)

        with attention_installed(model):
            error = _mean_and_largest(apart(batch))
            # By token, so that one wrong place among many right ones is found. Not "greater than": NaN must not pass.
            if bool(error[1] < (1e-4 if model.dtype == torch.float32 else 0.05)):
                return ""
            if model.dtype != torch.float32 and bool(torch.isfinite(error).all()):
                wrong = torch.stack([_mean_and_largest(apart(one)) for one in _mistakes(batch)]).amin(0)
                if bool((error <= SHARE_OF_MISTAKE * wrong).all()):
                    return ""
    finally:
        model.train(was_training)
    return f"states differ by {float(error[1]):.2g} of them"


def _mistakes(batch: Batch) -> list[Batch]:
    """The batch with rows that see one another, and without positions."""
    joined = replace(batch, lengths=(sum(batch.lengths),), starts=batch.starts[[0, -1]])
    return [joined, replace(batch, position_ids=torch.zeros_like(batch.position_ids))]


def _mean_and_largest(error: Tensor) -> Tensor:
    return torch.stack([error.mean(), error.max()])


def _batch_of_random_tokens(model: PreTrainedModel) -> Batch:
    """Sequences of unequal length, longer than a small sliding window, read everywhere."""
    lengths = (23, 7, 40, 1)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.get_text_config().vocab_size, (sum(lengths),), generator=generator)
    positions = torch.cat([torch.arange(length) for length in lengths])
    starts = torch.tensor([0, *accumulate(lengths)])
    device = compute_device(model)
    return Batch(
        ids.to(device), positions.to(device), lengths, starts.to(device),
        target_positions=torch.arange(len(ids), device=device), target_ids=ids.to(device),
    )  # fmt: skip
