"""The cross-entropy of completions, with only a part of the vocabulary's logits at a time, in the backward pass too.

Shapes: D hidden size, V vocabulary, P positions with loss, N arms, whose positions stand one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rankscope.model.output_head import (
    MOST_ROWS,
    block_head,
    chunk_rows,
    head_blocks,
    head_logits,
    scaled_logits,
    sums_in_blocks,
    target_logprobs,
)


def summed_cross_entropy(model: PreTrainedModel, states: Tensor, target_ids: Tensor, arms: int = 1) -> Tensor:
    """(N,): cross-entropy in nats, summed over each arm's completion tokens; states are (P, D), targets (P,).

    Only a chunk of logits exists at a time, in the backward pass too: the gradient of a sum is known as soon as its
    chunk is. It reaches the head's weights where those are trained.
    """
    head = [p for p in model.get_output_embeddings().parameters() if p.requires_grad]
    if not torch.is_grad_enabled() or (not states.requires_grad and not head):
        if block_head(model, states) is not None:
            return -target_logprobs(model, states, torch.arange(len(states)), target_ids).logprobs.view(arms, -1).sum(1)
        return torch.stack([_chunk_losses(model, s, t) for s, t in _by_arm(states, target_ids, arms)])
    loss = _HeadLoss if block_head(model, states) is None else _BlockLoss
    losses: Tensor = loss.apply(states, model, target_ids, arms, *head)
    return losses


def _by_arm(states: Tensor, target_ids: Tensor, arms: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(states.chunk(arms), target_ids.chunk(arms), strict=True))


def _chunk_losses(model: PreTrainedModel, states: Tensor, target_ids: Tensor) -> Tensor:
    rows = chunk_rows(model)
    parts = zip(states.split(rows), target_ids.split(rows), strict=True)
    return torch.stack([_loss(model, s, t) for s, t in parts]).sum()


def _loss(model: PreTrainedModel, states: Tensor, target_ids: Tensor) -> Tensor:
    return nn.functional.cross_entropy(head_logits(model, states), target_ids, reduction="sum")


class _HeadLoss(torch.autograd.Function):
    """Rows of whole logits, a chunk at a time."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, model: PreTrainedModel, target_ids: Tensor, arms: int, *head: nn.Parameter
    ) -> Tensor:
        rows = chunk_rows(model)
        gradient, sums = torch.empty_like(states), []
        of_head = [torch.zeros_like(p, dtype=torch.float32) for p in head]
        start = 0
        with torch.enable_grad():
            for own, targets in _by_arm(states.detach(), target_ids, arms):
                total = states.new_zeros((), dtype=torch.float32)
                for part, wanted in zip(own.split(rows), targets.split(rows), strict=True):
                    part.requires_grad_(True)
                    loss = _loss(model, part, wanted)
                    found = torch.autograd.grad(loss, [part, *head])
                    gradient[start : start + len(part)] = found[0]
                    start += len(part)
                    total += loss.detach()
                    for held, new in zip(of_head, found[1:], strict=True):
                        held += new
                sums.append(total)
        ctx.save_for_backward(gradient, *of_head)
        ctx.dtypes = [p.dtype for p in head]
        return torch.stack(sums)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _scaled_gradients(ctx, gradients[0])


class _BlockLoss(torch.autograd.Function):
    """All positions, a block of the vocabulary at a time: first the log-sums, then, of logits made once more, what the
    softmax's gradient adds to the states and to the block's own weights."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, model: PreTrainedModel, target_ids: Tensor, arms: int, *head: nn.Parameter
    ) -> Tensor:
        linear = block_head(model, states)
        assert linear is not None
        groups = list(zip(states.detach().split(MOST_ROWS), target_ids.split(MOST_ROWS), strict=True))
        # Summed over groups of positions in fp32; a single group's parts are written once, in the weight's own dtype.
        of_head = [torch.empty_like(p, dtype=torch.float32 if len(groups) > 1 else p.dtype) for p in head]
        gradient, losses = torch.zeros(states.shape, dtype=torch.float32), []
        start = 0
        for own, targets in groups:
            sums = sums_in_blocks(model, linear, own, torch.arange(len(own)), targets)
            losses.append(sums.targets - sums.log_sums)
            positions = (own, targets, sums.log_sums)
            _add_gradients(model, linear, positions, gradient[start : start + len(own)], of_head, first=start == 0)
            start += len(own)
        ctx.save_for_backward(gradient.to(states.dtype), *of_head)
        ctx.dtypes = [p.dtype for p in head]
        return -torch.cat(losses).view(arms, -1).sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _scaled_gradients(ctx, gradients[0])


def _add_gradients(
    model: PreTrainedModel,
    linear: nn.Linear,
    positions: tuple[Tensor, Tensor, Tensor],
    of_states: Tensor,
    of_head: Sequence[Tensor],
    *,
    first: bool,
) -> None:
    """Add what positions (states, target ids, log-sums) give: softmax minus one-hot, through the logits' scaling.

    `of_head`: the sums of the head's trained parameters, of which the weight has two dimensions and a bias one; what
    they hold before the `first` positions is nothing.
    """
    states, targets, log_sums = positions
    states = states.to(linear.weight.dtype)
    for block, product in head_blocks(linear, states):
        with torch.enable_grad():
            product.requires_grad_(True)
            logits = scaled_logits(model, product.float())
        pull = (logits.detach() - log_sums[:, None]).exp_()
        here = ((targets >= block.start) & (targets < block.stop)).nonzero()[:, 0]
        pull[here, targets[here] - block.start] -= 1.0
        (pull,) = torch.autograd.grad(logits, product, pull)
        of_states += pull @ linear.weight[block]
        for held in of_head:
            part = pull.T @ states if held.dim() == 2 else pull.sum(0)
            held[block] = part if first else held[block] + part


def _scaled_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Of several arms each has its own factor; the head is trained by one arm alone."""
    states, *of_head = ctx.saved_tensors
    by_arm = gradient.repeat_interleave(len(states) // len(gradient))
    # In place: the weight of a large vocabulary is not held once more. Nothing asks for these gradients a second time.
    head = [torch.mul(held, gradient, out=held).to(dtype) for held, dtype in zip(of_head, ctx.dtypes, strict=True)]
    return states * by_arm[:, None].to(states.dtype), None, None, None, *head
