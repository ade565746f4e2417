"""Log-likelihoods of choices and of text, with the prompt computed once for all choices of an item.

Shapes: B lines of a batch, T tokens, N positions read, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rankscope.evaluate.tree import Batch, ChoicePlan, tree_mask
from rankscope.model.forward import NotFinite, evaluating, forward_of, probe_ids
from rankscope.model.prompted import virtual_tokens
from rankscope.records import Item

logger = logging.getLogger(__name__)

PROBE_PROMPT_TOKENS = 12
PROBE_CHOICE_TOKENS = 5
TOLERANCE_NATS = 1e-4
SHARE_OF_MISTAKE = 0.25
"""In half precision rounding hides small errors: the tree must be at least this much nearer than a known mistake."""

Window = int | None


def plan_batches(items: Sequence[Item], token_budget: int) -> ChoicePlan:
    """The batches for `items`, to be built once and passed to `choice_logprobs` for every arm."""
    return ChoicePlan(items, token_budget)


def choice_logprobs(
    model: PreTrainedModel, items: Sequence[Item], *, token_budget: int, plan: ChoicePlan | None = None
) -> list[tuple[float, ...]]:
    """Summed log-likelihood in nats of every choice given its prompt, in the order of `items`.

    sum over t of log p(choice[t] | prompt, choice[:t]), log-softmax in fp32, added in double: what lm-eval's
    `loglikelihood` returns. `token_budget` bounds the padded tokens of a batch. A model that cannot run choices as
    branches of one sequence is noticed by a probe and runs plain rows; the log says which was used.

    Raises NotFinite where a log-likelihood is NaN or infinite, ValueError for an item that cannot be scored.
    """
    plan = plan or ChoicePlan(items, token_budget)
    return plan.by_item(_sums(model, plan, None).tolist())


def choices_with_greedy(
    model: PreTrainedModel, items: Sequence[Item], *, token_budget: int
) -> list[tuple[tuple[float, bool], ...]]:
    """Of every choice what `choice_logprobs` gives, and whether each of its tokens is the most likely one where it
    stands: lm-eval's `loglikelihood` with its `is_greedy`."""
    plan = ChoicePlan(items, token_budget)
    misses = torch.zeros(plan.choice_count, dtype=torch.int64)
    sums = _sums(model, plan, misses)
    greedy = plan.by_item((misses == 0).tolist())
    return [tuple(zip(a, map(bool, b), strict=True)) for a, b in zip(plan.by_item(sums.tolist()), greedy, strict=True)]


def _sums(model: PreTrainedModel, plan: ChoicePlan, misses: Tensor | None) -> Tensor:
    """Log-likelihoods of all choices in double; `misses` counts of each the tokens that are not the most likely."""
    sums = torch.zeros(plan.choice_count, dtype=torch.float64)
    if not plan.choice_count:
        return sums
    virtual = virtual_tokens(model)
    window = _window_that_matters(model, plan.longest + virtual)
    # A mask that knows the window does not know virtual tokens; rows need no mask.
    use_trees = not plan.branches or ((window is None or not virtual) and _trees_hold(model, window))
    with evaluating(model):
        for batch in plan.trees if use_trees else plan.rows:
            missed: list[Tensor] | None = None if misses is None else []
            sums.index_add_(0, batch.target_choice, _target_logprobs(model, batch, window, missed).double())
            if misses is not None and missed:
                misses.index_add_(0, batch.target_choice, torch.cat(missed))
    if not bool(torch.isfinite(sums).all()):
        raise NotFinite("a log-likelihood is not finite")
    return sums


def _target_logprobs(
    model: PreTrainedModel, batch: Batch, window: Window, missed: list[Tensor] | None = None
) -> Tensor:
    """Log-probabilities (M,) in fp32, on the CPU, of the scored tokens of a batch. To `missed`, where it is given, is
    added for each of them 1 where another token is more likely, else 0."""
    device = model.device
    target_read, target_ids = batch.target_read.to(device), batch.target_ids.to(device)
    found: list[Tensor] = []
    start = done = 0
    forward = forward_of(model)
    arguments = _tree_arguments(model, batch, window)
    for logits in forward.logits_at(batch.input_ids.to(device), batch.read.to(device), **arguments):
        stop = start + len(logits)
        last = int(torch.searchsorted(batch.target_read, stop))
        rows, ids = target_read[done:last] - start, target_ids[done:last]
        found.append(logits.log_softmax(-1)[rows, ids])
        if missed is not None:
            missed.append((logits.argmax(-1)[rows] != ids).long().cpu())
        start, done = stop, last
    return torch.cat(found).cpu()


def _tree_arguments(model: PreTrainedModel, batch: Batch, window: Window) -> dict[str, Any]:
    """Mask and positions for the model. Rows without branches need neither: nothing sees the padding on their right."""
    if batch.ends is None or batch.depths is None:
        return {}
    ends, depths = batch.ends.to(model.device), batch.depths.to(model.device)
    if window is None:
        return {"attention_mask": tree_mask(ends, depths, model.dtype), "position_ids": depths}
    near = tree_mask(ends, depths, model.dtype, window)
    kinds = set(getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ())
    if not kinds:
        return {"attention_mask": near, "position_ids": depths}
    whole = tree_mask(ends, depths, model.dtype)
    masks = {kind: near if kind == "sliding_attention" else whole for kind in kinds}
    return {"attention_mask": masks, "position_ids": depths}


def _window_that_matters(model: PreTrainedModel, longest: int) -> Window:
    """The sliding window in tokens, where some item is longer than it."""
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not isinstance(window, int) or longest <= window or (kinds and "sliding_attention" not in kinds):
        return None
    return window


# ---- may this model run trees? --------------------------------------------------------------------------------------


_decided: WeakKeyDictionary[PreTrainedModel, dict[tuple[Any, ...], bool]] = WeakKeyDictionary()


def _trees_hold(model: PreTrainedModel, window: Window) -> bool:
    """Whether trees give this model's plain scores; decided once for each model, attention and window."""
    attention = str(getattr(model.config, "_attn_implementation", None))
    decided = _decided.setdefault(model, {})
    key = (attention, window, model.dtype)
    if key not in decided:
        reason = "" if attention in ("eager", "sdpa") else f"its attention is {attention}"
        reason = reason or _probe(model, window)
        decided[key] = not reason
        used = f"plain rows, because {reason}" if reason else "one sequence for each item"
        logger.info("%s: choices are scored as %s", type(model).__name__, used)
    return decided[key]


def _probe(model: PreTrainedModel, window: Window) -> str:
    """Scores an item of random tokens as a tree and as plain rows. Returns why trees do not hold, or nothing.

    In fp32 they agree to 1e-4 nats. In half precision the tree is nearer to the rows than each of the mistakes that a
    model could make: to ignore the mask, the positions, or the window.
    """
    prompt_tokens = PROBE_PROMPT_TOKENS if window is None else window + 2
    tokens = probe_ids(model, prompt_tokens + 4 * PROBE_CHOICE_TOKENS).tolist()
    tails = [tokens[prompt_tokens + k * PROBE_CHOICE_TOKENS :][:PROBE_CHOICE_TOKENS] for k in range(4)]
    item = Item("probe", "choices", tuple(tokens[:prompt_tokens]), tuple(map(tuple, tails)))
    plan = ChoicePlan([item], token_budget=1 << 20)
    (tree,) = plan.trees
    assert tree.ends is not None
    assert tree.depths is not None
    count = tree.input_ids.shape[1]
    with evaluating(model):
        rows = _by_choice(plan.rows, [_target_logprobs(model, batch, window) for batch in plan.rows])

        def distances(batch: Batch, window: Window) -> Tensor:
            tree = _by_choice([batch], [_target_logprobs(model, batch, window)])
            return torch.tensor([tree[key] - value for key, value in rows.items()]).abs()

        try:
            errors = distances(tree, window)
            if model.dtype not in (torch.bfloat16, torch.float16):
                return "" if float(errors.max()) <= TOLERANCE_NATS else f"they differ by {float(errors.max()):.2g} nats"
            blind = replace(tree, ends=torch.full_like(tree.ends, count))
            shifted = replace(tree, depths=torch.arange(count)[None])
            mistakes = [distances(blind, window), distances(shifted, window)]
            mistakes += [] if window is None else [distances(tree, None)]
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError) as refusal:
            # Each architecture refuses a mask that it does not know in its own way.
            return f"it refuses the mask ({type(refusal).__name__})"
    nearest = min(float(mistake.norm()) for mistake in mistakes)
    error = float(errors.norm())
    return "" if error <= SHARE_OF_MISTAKE * nearest else f"they differ by {error:.2g} nats"


def _by_choice(batches: Sequence[Batch], values: Sequence[Tensor]) -> dict[tuple[int, int], float]:
    """Log-probabilities by choice and place in it (the positions of a choice ascend)."""
    table: dict[tuple[int, int], float] = {}
    for batch, logprobs in zip(batches, values, strict=True):
        seen: dict[int, int] = {}
        for choice, value in zip(batch.target_choice.tolist(), logprobs.tolist(), strict=True):
            place = seen.get(choice, 0)
            seen[choice] = place + 1
            table[choice, place] = value
    return table
