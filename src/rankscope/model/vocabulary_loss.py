"""Cross-entropy of completions without the logits of all positions: a chunk at a time, its gradient at once.

Shapes: P positions with loss, D hidden size, V vocabulary, N arms, whose positions stand one after another.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rankscope.model.forward import chunk_rows, head_logits


def summed_cross_entropy(model: PreTrainedModel, states: Tensor, target_ids: Tensor, arms: int = 1) -> Tensor:
    """(N,): cross-entropy in nats, summed over each arm's completion tokens; states are (P, D), targets (P,).

    Only a chunk of logits exists at a time, in the backward pass too: the gradient of a sum is known as soon as its
    chunk is. It reaches the head's weights where those are trained.
    """
    head = [p for p in model.get_output_embeddings().parameters() if p.requires_grad]
    if not torch.is_grad_enabled() or (not states.requires_grad and not head):
        return torch.stack([_chunk_losses(model, s, t) for s, t in _by_arm(states, target_ids, arms)])
    losses: Tensor = _HeadLoss.apply(states, model, target_ids, arms, *head)
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
        """Of several arms each has its own factor; the head is trained by one arm alone."""
        states, *of_head = ctx.saved_tensors
        by_arm = gradients[0].repeat_interleave(len(states) // len(gradients[0]))
        head = [(held * gradients[0]).to(dtype) for held, dtype in zip(of_head, ctx.dtypes, strict=True)]
        return states * by_arm[:, None].to(states.dtype), None, None, None, *head
