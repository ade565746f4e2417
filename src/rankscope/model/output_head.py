"""A model's output head: logits of final hidden states, and log-probabilities of given tokens without all the logits.

A small model of a large vocabulary spends most of its scoring in the head: 335 million operations a position for Gemma
3 270M, whose blocks take 200 million a token. Where few positions meet it at once, its weight is read from memory for
each few of them, and the passes over their logits cost as much as the product. In `target_logprobs` a block of the head
meets many positions, and a block's logits stay in a core's cache.

Shapes: D hidden size, V vocabulary, Q positions read, M scored tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rankscope.model.attention.scoring_layout import moved
from rankscope.model.decoder_parts import text_config
from rankscope.model.sharding.shard import compute_device

CHUNK_ELEMENTS = {"cpu": 1 << 20}
"""Logits held at once, by device; a chunk that stays in a core's cache is faster on CPU."""

_CHUNK_ELEMENTS_ELSE = 1 << 27
"""On devices not named there: half a gigabyte in fp32, a thousand rows of a vocabulary of 128,256, so that the products
with the head are large."""

LEAST_CHUNK_ROWS = 32

MOST_ROWS = 512
"""Positions that one block of the head meets at once."""

BLOCK_ELEMENTS = 1 << 20
"""Logits of a block; 4 MiB in fp32."""

_LEAST_COLUMNS, _MOST_COLUMNS = 2048, 8192
"""Of a block; a vocabulary that fits into one is taken whole."""


class HeadMismatch(RuntimeError):
    """Final hidden states and the output head do not reproduce the model's own logits."""


def head_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits (..., V) in fp32 of final hidden states (..., D).

    Raises HeadMismatch where the model has no output head.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise HeadMismatch(f"{type(model).__name__}: it has no output head")
    return scaled_logits(model, head(hidden.to(head.weight.dtype)).float())


def scaled_logits(model: PreTrainedModel, logits: Tensor) -> Tensor:
    """What the model makes of its head's products.

    Logit scaling (Granite divides, Cohere and Falcon-H1 multiply) and soft-capping, cap * tanh(logits / cap) (Gemma 2,
    arXiv 2408.00118, section 2), are taken from the config.
    """
    config = model.config.get_text_config(decoder=True)
    for name in ("logit_scale", "lm_head_multiplier"):
        if isinstance(scale := getattr(config, name, None), int | float):
            logits = logits * scale
    if isinstance(scale := getattr(config, "logits_scaling", None), int | float):
        logits = logits / scale
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = torch.tanh(logits / cap) * cap
    return logits


def chunk_rows(model: PreTrainedModel) -> int:
    """Rows of logits to hold at once; of a large vocabulary enough that the head's weight is not read for each few."""
    vocabulary = text_config(model).vocab_size
    return max(LEAST_CHUNK_ROWS, CHUNK_ELEMENTS.get(compute_device(model).type, _CHUNK_ELEMENTS_ELSE) // vocabulary)


# ---- the log-probabilities of given tokens ----


@dataclass(frozen=True)
class TargetLogprobs:
    """`logprobs` (M,) in fp32, and `best` (M,): whether each token is the most likely where it stands, if asked."""

    logprobs: Tensor
    best: Tensor | None


def target_logprobs(
    model: PreTrainedModel, states: Tensor, rows: Tensor, ids: Tensor, *, best: bool = False
) -> TargetLogprobs:
    """Log-probabilities in nats, on the CPU, of tokens `ids` (M,), each at the final hidden state of `states` (Q, D)
    that `rows` (M,), ascending and on the CPU, names. `best`: also whether each is the most likely one.

    Raises HeadMismatch where the model has no output head.
    """
    head = block_head(model, states)
    size = chunk_rows(model) if head is None else MOST_ROWS
    found, done = [], 0
    for start in range(0, len(states), size):
        part = states[start : start + size]
        last = int(torch.searchsorted(rows, start + len(part)))
        here, wanted = rows[done:last] - start, ids[done:last]
        if head is None:
            found.append(of_logits(head_logits(model, part), here, wanted, best=best))
        else:
            sums = sums_in_blocks(model, head, part, here, wanted, best=best)
            found.append(TargetLogprobs(sums.targets - sums.log_sums[here], sums.best))
        done = last
    every = [one.best for one in found if one.best is not None]
    return TargetLogprobs(torch.cat([one.logprobs for one in found]).cpu(), torch.cat(every).cpu() if every else None)


def of_logits(logits: Tensor, rows: Tensor, ids: Tensor, *, best: bool = False) -> TargetLogprobs:
    """As `target_logprobs`, on the device of logits (Q, V) that are there."""
    rows, ids = moved(rows, logits.device), moved(ids, logits.device)
    return TargetLogprobs(logits.log_softmax(-1)[rows, ids], logits.argmax(-1)[rows] == ids if best else None)


# ---- a block of the vocabulary at a time ----


@dataclass(frozen=True)
class BlockSums:
    """`targets` (M,): the logits of the scored tokens; `log_sums` (Q,): the logarithm of the sum of all exponentials;
    `best` as in `TargetLogprobs`."""

    targets: Tensor
    log_sums: Tensor
    best: Tensor | None


def block_head(model: PreTrainedModel, states: Tensor) -> nn.Linear | None:
    """The model's head where blocks of it are worth while: a plain linear layer of many columns on a CPU."""
    head = model.get_output_embeddings()
    plain = type(head) is nn.Linear and type(head.weight) is nn.Parameter
    return head if plain and states.device.type == "cpu" and head.out_features > _MOST_COLUMNS else None


def head_blocks(head: nn.Linear, states: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Columns of the vocabulary, and the head's product with states (Q, D) there, in the dtype of its weight."""
    columns = min(max(BLOCK_ELEMENTS // max(1, len(states)), _LEAST_COLUMNS), _MOST_COLUMNS)
    for start in range(0, head.out_features, columns):
        block = slice(start, start + columns)
        bias = None if head.bias is None else head.bias[block]
        yield block, nn.functional.linear(states, head.weight[block], bias)


def sums_in_blocks(
    model: PreTrainedModel, head: nn.Linear, states: Tensor, rows: Tensor, ids: Tensor, *, best: bool = False
) -> BlockSums:
    """The sums of states (Q, D) for tokens as in `target_logprobs`; among equals the first is the best."""
    of_blocks, largest = [], torch.full((len(states),), -torch.inf)
    most_likely = torch.zeros(len(states), dtype=torch.int64)
    targets = torch.empty(len(ids))
    for block, product in head_blocks(head, states.to(head.weight.dtype)):
        logits = scaled_logits(model, product.float())
        here = ((ids >= block.start) & (ids < block.stop)).nonzero()[:, 0]
        targets[here] = logits[rows[here], ids[here] - block.start]
        of_blocks.append(logits.logsumexp(-1))
        if best:
            values, places = logits.max(-1)
            most_likely = torch.where(values > largest, places + block.start, most_likely)
            largest = torch.maximum(values, largest)
    return BlockSums(targets, torch.stack(of_blocks).logsumexp(0), most_likely[rows] == ids if best else None)
