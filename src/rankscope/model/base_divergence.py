"""Cross-entropy of completions and KL(base || arm) at the same positions, a chunk of logits at a time.

Shapes: P positions with loss, N arms, D hidden size, V vocabulary. States (N P, D) stand one arm's after another's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rankscope.model.output_head import chunk_rows, head_logits


class BaseStates(NamedTuple):
    """What the base makes of the same rows: the model whose output head is the base's, and its final states (P, D)."""

    model: PreTrainedModel
    states: Tensor


class LossSums(NamedTuple):
    """(N,) each, in nats: `cross_entropy` and `divergence` summed over an arm's positions, and `objective`, the
    cross-entropy plus the arm's weight times the divergence, through which gradients flow."""

    objective: Tensor
    cross_entropy: Tensor
    divergence: Tensor


def summed_losses_near_base(
    model: PreTrainedModel, states: Tensor, target_ids: Tensor, base: BaseStates, weights: Tensor
) -> LossSums:
    """The sums for `states` (N P, D) and targets (P,); `weights` (N,) multiply the divergence.

    KL(base || arm) = sum_v p_base(v) (log p_base(v) - log p_arm(v)), over the whole vocabulary at every position. The
    base's logits are made once for all arms, and only a chunk of them exists at a time. An arm of weight 0 has a
    divergence of 0, which is then not computed. Gradients reach the states, and the head's weights where those train.
    """
    head = [p for p in model.get_output_embeddings().parameters() if p.requires_grad]
    return LossSums(*_NearBase.apply(states, model, target_ids, base, weights.tolist(), *head))


class _NearBase(torch.autograd.Function):
    """As `head_loss._HeadLoss`: the gradient of a sum is known as soon as its chunk is, so no logits are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        model: PreTrainedModel,
        target_ids: Tensor,
        base: BaseStates,
        weights: list[float],
        *head: nn.Parameter,
    ) -> tuple[Tensor, Tensor, Tensor]:
        count, rows = len(target_ids), chunk_rows(model)
        wants = ctx.needs_input_grad[0] or bool(head)
        gradient = torch.empty_like(states) if wants else states.new_empty(0)
        of_head = [torch.zeros_like(p, dtype=torch.float32) for p in head]
        sums = states.new_zeros((2, len(weights)), dtype=torch.float32)
        for start in range(0, count, rows):
            here = slice(start, min(start + rows, count))
            reference = nn.functional.log_softmax(head_logits(base.model, base.states[here]), -1)
            for arm, weight in enumerate(weights):
                own = slice(arm * count + here.start, arm * count + here.stop)
                with torch.enable_grad():
                    part = states.detach()[own].requires_grad_(wants)
                    entropy, divergence = _sums(model, part, target_ids[here], reference, weight)
                    if wants:
                        found = torch.autograd.grad(entropy + weight * divergence, [part, *head])
                        gradient[own] = found[0]
                        for held, new in zip(of_head, found[1:], strict=True):
                            held += new
                sums[0, arm] += entropy.detach()
                sums[1, arm] += divergence.detach()
        ctx.save_for_backward(gradient, *of_head)
        ctx.dtypes = [p.dtype for p in head]
        entropies, divergences = sums.unbind(0)
        total = entropies + torch.tensor(weights, device=sums.device) * divergences
        ctx.mark_non_differentiable(entropies, divergences)
        return total, entropies, divergences

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of several arms each has its own factor; the head is trained by one arm alone."""
        states, *of_head = ctx.saved_tensors
        by_arm = gradients[0].repeat_interleave(len(states) // len(gradients[0]))
        head = [(held * gradients[0]).to(dtype) for held, dtype in zip(of_head, ctx.dtypes, strict=True)]
        return states * by_arm[:, None].to(states.dtype), None, None, None, None, *head


def _sums(
    model: PreTrainedModel, states: Tensor, target_ids: Tensor, reference: Tensor, weight: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and divergence, summed; `reference` (P, V) are the base's log-probabilities."""
    logits = head_logits(model, states)
    if weight == 0:
        return nn.functional.cross_entropy(logits, target_ids, reduction="sum"), logits.new_zeros(())
    log_probabilities = nn.functional.log_softmax(logits, -1)
    entropy = nn.functional.nll_loss(log_probabilities, target_ids, reduction="sum")
    divergence = nn.functional.kl_div(log_probabilities, reference, reduction="sum", log_target=True)
    return entropy, divergence
