"""Training rows without padding: linear layers, norms and the loss see real tokens only.

A batch is one long row of T tokens, its sequences one after another. Only inside attention are sequences laid side by
side, those of nearly the same length together.
The attention is registered with transformers, so one function serves every model that uses its attention registry; a
check against the model's own padded forward decides once per model whether it may be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from rankscope.data.training_batches import Batch
from rankscope.model.attention.cpu_causal import Scores, causal_attention
from rankscope.model.attention.length_buckets import Buckets, buckets_of
from rankscope.model.forward import hidden_states, last_feed_forward_at

ATTENTION_NAME = "rankscope_ragged"
LAYOUT_KEY = "rankscope_layout"


@dataclass(frozen=True)
class Layout:
    """Where the sequences of a ragged row begin: `starts` (B + 1,) in int32, and the longest of them. On CUDA torch's
    kernel for sequences of unequal length reads these; elsewhere the sequences go by `buckets`."""

    starts: Tensor
    longest: int
    buckets: Buckets

    @staticmethod
    def of(lengths: Tensor) -> Layout:
        """The layout of sequences of these `lengths` (B,), which stand one after another."""
        counts = lengths.tolist()
        starts = nn.functional.pad(torch.cumsum(lengths, 0), (1, 0)).to(torch.int32)
        return Layout(starts=starts, longest=max(counts), buckets=buckets_of(counts, lengths.device))


def ragged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence of a ragged row; signature and shapes of transformers' registry."""
    layout: Layout = kwargs[LAYOUT_KEY]
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    scale = scaling if scaling is not None else q.shape[-1] ** -0.5
    window = sliding_window if sliding_window is not None and sliding_window < layout.longest else None
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and softcap is None and not dropout:
        reach = (-1 if window is None else window - 1, 0)
        out = varlen_attn(
            q.contiguous(), k.contiguous(), v.contiguous(), layout.starts, layout.starts, layout.longest,
            layout.longest, scale=scale, window_size=reach, enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
        assert isinstance(out, Tensor)
        return out[None], None
    if q.dtype == torch.bfloat16 and not q.is_cuda:
        # Softmax in bf16 would round the weights; the products of a bucket are too small to gain from bf16.
        q, k, v = q.float(), k.float(), v.float()
    out = causal_attention(q, k, v, layout.buckets, Scores(scale, window, softcap, dropout))
    return out.to(query.dtype)[None], None


def _no_mask(*_: Any, **__: Any) -> None:
    """The layout carries what a mask would."""


@contextmanager
def _ragged_attention_on(model: PreTrainedModel) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def register() -> None:
    """Make the attention known to transformers; does nothing the second time."""
    AttentionInterface.register(ATTENTION_NAME, ragged_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, _no_mask)


class TokenPath:
    """How a model computes the states that predict completions: ragged where that is proven equal, else padded.

    `skips`: of ragged rows, the last feed-forward runs at the positions that are read only.
    """

    def __init__(self, model: PreTrainedModel, *, ragged: bool, skips: bool = False) -> None:
        self.model = model
        self.ragged = ragged
        self.skips = ragged and skips

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Training steps happen inside; the model's own attention is back afterwards."""
        if not self.ragged:
            yield
            return
        with _ragged_attention_on(self.model):
            yield

    def target_states(self, batch: Batch) -> Tensor:
        """(P, D): the final states at `batch.target_positions`."""
        if self.ragged:
            skips = self.skips and not self.model.is_activation_checkpointing
            return _ragged_states_at_targets(self.model, batch, skips=skips)
        return _padded_states(self.model, batch).index_select(0, batch.target_positions)


_known: WeakKeyDictionary[PreTrainedModel, tuple[bool, bool]] = WeakKeyDictionary()
"""What a model's path may do; the answers only, since a path would keep its model in memory for good."""


def token_path_of(model: PreTrainedModel) -> TokenPath:
    """The model's `TokenPath`, checked at first use."""
    if model not in _known:
        _known[model] = _check(model)
    ragged, skips = _known[model]
    return TokenPath(model, ragged=ragged, skips=skips and not _drops_out(model))


def _drops_out(model: PreTrainedModel) -> bool:
    """Whether some dropout draws: for fewer positions it would draw others than for all."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())


def padded_path(model: PreTrainedModel) -> TokenPath:
    """The path of rows that are padded, for what stands in a model and does not know ragged rows."""
    return TokenPath(model, ragged=False)


def _ragged_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    extra: dict[str, Any] = {LAYOUT_KEY: Layout.of(batch.sequence_lengths)}
    states = hidden_states(model, batch.input_ids[None], position_ids=batch.position_ids[None], **extra)
    return states[0]


def _ragged_states_at_targets(model: PreTrainedModel, batch: Batch, *, skips: bool) -> Tensor:
    few = skips and 2 * len(batch.target_positions) < len(batch.input_ids)  # else the copies cost what is saved
    with last_feed_forward_at(model, batch.target_positions) if few else nullcontext():
        states = _ragged_states(model, batch)
    return states.index_select(0, batch.target_positions)


def _padded_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Rows side by side, padded on the right, with a mask and the model's own attention."""
    lengths = batch.sequence_lengths
    column = torch.arange(int(lengths.max()), device=lengths.device)
    real = column < lengths[:, None]
    token = torch.where(real, (torch.cumsum(lengths, 0) - lengths)[:, None] + column, 0)
    states = hidden_states(
        model, batch.input_ids[token], attention_mask=real.long(), position_ids=batch.position_ids[token],
        use_cache=False,
    )  # fmt: skip
    return states.flatten(0, 1).index_select(0, torch.nonzero(real.flatten()).flatten())


@torch.no_grad()
def _check(model: PreTrainedModel) -> tuple[bool, bool]:
    """Whether rows may be ragged, and whether the last feed-forward may then skip what is not read."""
    register()
    batch = _probe(model)
    was_training = model.training
    model.eval()
    try:
        expected = _padded_states(model, batch)
        # A model that does not pass our layout to its attention.
        refusals: tuple[type[Exception], ...] = (KeyError, TypeError, ValueError)
        ragged = _answers(model, expected, lambda: _ragged_states(model, batch), refusals)
        few = replace(batch, target_positions=batch.target_positions[1::3])
        # A feed-forward that is not known, or wants its states in another form.
        refusals = (LookupError, TypeError, ValueError, RuntimeError)
        skips = ragged and _answers(
            model, expected[few.target_positions], lambda: _ragged_states_at_targets(model, few, skips=True), refusals
        )
    finally:
        model.train(was_training)
    return ragged, skips


def _probe(model: PreTrainedModel) -> Batch:
    """Sequences of unequal length, longer than a small sliding window."""
    lengths = torch.tensor([23, 7, 40, 1])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.get_text_config().vocab_size, (int(lengths.sum()),), generator=generator)
    positions = torch.cat([torch.arange(int(n)) for n in lengths])
    device = model.device
    return Batch(
        input_ids=ids.to(device), position_ids=positions.to(device), sequence_lengths=lengths.to(device),
        target_positions=torch.arange(len(ids), device=device), target_ids=ids.to(device),
    )  # fmt: skip


def _answers(
    model: PreTrainedModel, expected: Tensor, states: Callable[[], Tensor], refusals: tuple[type[Exception], ...]
) -> bool:
    """Whether ragged `states` (n, D) are the expected ones but for rounding; False where the model refuses."""
    try:
        with _ragged_attention_on(model):
            found = states().float()
    except refusals:
        return False
    # By token, so that one wrong place among many right ones is found; a wrong mask moves a state by its own size.
    expected = expected.float()
    error = (found - expected).abs().mean(-1) / expected.abs().mean(-1).clamp_min(1e-6)
    return bool((error.max() < (1e-4 if model.dtype == torch.float32 else 0.05)).item())
