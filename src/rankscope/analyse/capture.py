"""One pass over the probe items, base and arm together: the only place that looks inside a running model.

A batch goes through the base, of which each layer leaves its hidden states and its attention's queries and keys, and
then through the arm, where each layer is compared as soon as it has run. The base's part of it is let go then, or kept
for the next arm (`kept_base.py`). Attention runs in the model's own kernel: maps are computed beside it, of one layer
at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rankscope.analyse.attention_and_neurons import AttentionStream, NeuronStream, Queries, Side
from rankscope.analyse.hidden_states import HiddenStream
from rankscope.analyse.kept_base import HOST, BaseBatch, KeptBase
from rankscope.model.attention.registration import attention_installed
from rankscope.model.decoder_parts import blocks, text_config
from rankscope.model.forward import evaluating, hidden_states
from rankscope.model.sharding.shard import compute_device
from rankscope.records import Item

_LAST_PROJECTIONS = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "w2")
_NONLINEARITIES = ("act_fn", "act", "activation_fn", "activation")


class CannotCapture(RuntimeError):
    """The model is built otherwise than the families whose insides are known."""


@dataclass(frozen=True)
class SideModel:
    """A model to look into, and what must hold while it runs (an adapter that is switched off)."""

    model: PreTrainedModel
    during: Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Streams:
    """The sums of one suite over batches: hidden states, attention and neurons, each by layer."""

    hidden: HiddenStream
    attention: AttentionStream
    neurons: NeuronStream

    @classmethod
    def new(cls) -> Streams:
        """Streams in which nothing is summed up yet."""
        return cls(HiddenStream(), AttentionStream(), NeuronStream())

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of the tables hidden, attention and neurons, without the suite."""
        return {"hidden": self.hidden.rows(), "attention": self.attention.rows(), "neurons": self.neurons.rows()}


def capture(
    base: SideModel,
    arm: SideModel,
    probes: Mapping[str, Sequence[Item]],
    *,
    token_budget: int,
    kept: KeptBase | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Rows of the tables hidden, attention and neurons, each with its suite, from one pass over the probe items.

    An item is read as its prompt and, where it has choices, the right one. `token_budget` bounds a batch's padded
    tokens. A model without one MLP in each layer (a mixture of experts) has no rows of neurons. `kept` has what this
    base left of these probe items before, in batches of as many tokens, and takes what it leaves now. Of sharded models
    all processes call this and do the same. Raises CannotCapture where the model's layers are not found.
    """
    rows: dict[str, list[dict[str, Any]]] = {"hidden": [], "attention": [], "neurons": []}
    device, memory = compute_device(base.model), kept or KeptBase()
    for suite, items in probes.items():
        streams, fresh = Streams.new(), dict[int, BaseBatch]()
        known = memory.suite(suite)
        if known is not None:
            streams.neurons.take_base_sums(known.units)
        for number, (ids, lengths) in enumerate(batches(items, token_budget)):
            given = ids.to(device), lengths.to(device)
            of_base = known.batches.get(number) if known is not None else None
            if of_base is None:
                of_base = _of_base(base, *given, None if known is not None else streams.neurons)
                if kept is not None and known is None and memory.has_room(of_base):
                    fresh[number] = of_base.on(HOST)
            _compare(of_base.on(device), arm, *given, streams)
        if kept is not None and known is None:
            memory.keep(suite, fresh, streams.neurons.base_sums)
        for table, found in streams.tables().items():
            rows[table] += [{"suite": suite, **row} for row in found]
    return rows


def probe_tokens(item: Item) -> tuple[int, ...]:
    """The tokens of an item that are looked at."""
    if item.choices_ids:
        return item.prompt_ids + item.choices_ids[item.answer_index or 0]
    return item.prompt_ids


def batches(items: Sequence[Item], token_budget: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids (B, T), padded on the right, which no token sees, and lengths (B,); the longest items first."""
    rows = sorted((probe_tokens(item) for item in items), key=len, reverse=True)
    rows = [row for row in rows if row]
    while rows:
        count = max(1, token_budget // len(rows[0]))
        taken, rows = rows[:count], rows[count:]
        lengths = torch.tensor([len(row) for row in taken])
        padded = [[*row, *([row[-1]] * (len(taken[0]) - len(row)))] for row in taken]
        yield torch.tensor(padded), lengths


def _of_base(base: SideModel, ids: Tensor, lengths: Tensor, neurons: NeuronStream | None) -> BaseBatch:
    """What a batch leaves of the base; its units are added to `neurons`, where they are not known."""
    found = BaseBatch({}, {})
    _run(base, "base", ids, lengths, found.states.__setitem__, found.queries.__setitem__, neurons)
    return found


def _compare(base: BaseBatch, arm: SideModel, ids: Tensor, lengths: Tensor, streams: Streams) -> None:
    """Runs the arm on a batch, each layer against the base's."""
    states, queries = dict(base.states), dict(base.queries)

    def compare_states(layer: int, hidden: Tensor) -> None:
        streams.hidden.add(layer, states.pop(layer), hidden)

    def compare_attention(layer: int, asked: Queries) -> None:
        streams.attention.add(layer, queries.pop(layer), asked, lengths)

    _run(arm, "arm", ids, lengths, compare_states, compare_attention, streams.neurons)
    if states or queries:
        raise CannotCapture(f"{type(arm.model).__name__}: base and arm did not run the same layers")


def _run(
    side: SideModel,
    name: Side,
    ids: Tensor,
    lengths: Tensor,
    on_states: Callable[[int, Tensor], None],
    on_attention: Callable[[int, Queries], None],
    neurons: NeuronStream | None,
) -> None:
    """One batch through one side, watched."""
    real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]

    def on_units(layer: int, activation: Tensor, nonlinear: Tensor) -> None:
        if neurons is not None:
            neurons.add(layer, name, activation, nonlinear, real)

    with side.during(), evaluating(side.model), _watching(side.model, real, on_states, on_attention, on_units):
        hidden_states(side.model, ids)


# ---- hooks ----------------------------------------------------------------------------------------------------------


@contextmanager
def _watching(
    model: PreTrainedModel,
    real: Tensor,
    on_states: Callable[[int, Tensor], None],
    on_attention: Callable[[int, Queries], None],
    on_units: Callable[[int, Tensor, Tensor], None],
) -> Iterator[None]:
    """Inside, every layer reports what it does with the real tokens (B, T): states (n, D), queries, units (B, T, F)."""
    rows = torch.nonzero(real.flatten()).flatten()
    with ExitStack() as stack:
        try:
            found = blocks(model)
        except LookupError as error:
            raise CannotCapture(str(error)) from error
        for number, block in enumerate(found):
            for handle in _hooks(number, block, rows, on_states, on_units):
                stack.callback(handle.remove)
        stack.enter_context(_observed_attention(model, on_attention))
        yield


def _hooks(
    number: int, block: nn.Module, rows: Tensor, on_states: Callable[..., None], on_units: Callable[..., None]
) -> Iterator[Any]:
    mlp = getattr(block, "mlp", None)
    mlp = getattr(mlp, "wrapped", mlp)  # a bottleneck adapter stands around it
    last = next((m for name in _LAST_PROJECTIONS if isinstance(m := getattr(mlp, name, None), nn.Module)), None)
    act = next((m for name in _NONLINEARITIES if isinstance(m := getattr(mlp, name, None), nn.Module)), None)
    nonlinear: list[Tensor] = []

    def after_block(_: nn.Module, __: Any, output: Any) -> None:
        states = output if isinstance(output, Tensor) else output[0]
        on_states(number, states.flatten(0, 1).index_select(0, rows))

    def after_nonlinearity(_: nn.Module, __: Any, output: Tensor) -> None:
        nonlinear.append(output)

    def before_last(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        on_units(number, inputs[0], nonlinear.pop())

    yield block.register_forward_hook(after_block)
    if last is None or act is None:  # a mixture of experts: its units are not those of one MLP
        return
    yield act.register_forward_hook(after_nonlinearity)
    yield last.register_forward_pre_hook(before_last)


@contextmanager
def _observed_attention(model: PreTrainedModel, on_attention: Callable[[int, Queries], None]) -> Iterator[None]:
    """Inside, attention runs in the kernel that the model has, and its queries and keys are seen on the way."""
    name = text_config(model)._attn_implementation
    own = None if name in (None, "eager") else ALL_ATTENTION_FUNCTIONS[name]

    def kernel(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
        scaling = kwargs.get("scaling")
        scaling = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
        visible = mask if mask is None else mask[..., : key.shape[-2]]
        on_attention(int(cast("int", module.layer_idx)), Queries(query, key, visible, scaling, kwargs.get("softcap")))
        function = own or sys.modules[type(module).__module__].eager_attention_forward
        return function(module, query, key, value, mask, **kwargs)

    masks = ALL_MASK_ATTENTION_FUNCTIONS["eager" if own is None else name]
    with attention_installed(model, kernel, masks):
        yield
