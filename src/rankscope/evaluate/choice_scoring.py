"""Log-likelihoods of choices and of text, with whatever requests have in common computed once.

Shapes: T tokens of a batch, N positions read, M scored tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rankscope.evaluate.prompt_choice_tree import ChoicePlan, Reads, RowBatch, TreeBatch, tree_batch, tree_line
from rankscope.model.attention.fast_path_check import Probed, Window, window_that_matters
from rankscope.model.attention.registration import LAYOUT_KEY, REFUSALS, layout_attention_on
from rankscope.model.attention.scoring_layout import Beginning, BranchLayout
from rankscope.model.decoder_parts import text_config
from rankscope.model.forward import NotFinite, evaluating, forward_of, hidden_states, probe_ids
from rankscope.model.methods.virtual_tokens_modules import virtual_tokens, without_virtual_tokens
from rankscope.records import Item

PROBE_PROMPT_TOKENS = 12
PROBE_CHOICE_TOKENS = 5
TOLERANCE_NATS = 1e-4
SHARE_OF_MISTAKE = 0.25
"""In half precision rounding hides small errors: the tree must be at least this much nearer than a known mistake."""


def choice_logprobs(
    model: PreTrainedModel, items: Sequence[Item], *, token_budget: int, plan: ChoicePlan | None = None
) -> list[tuple[float, ...]]:
    """Summed log-likelihood in nats of every choice given its prompt, in the order of `items`.

    sum over t of log p(choice[t] | prompt, choice[:t]), log-softmax in fp32, added in double: what lm-eval's
    `loglikelihood` returns. `token_budget` bounds the padded tokens of a batch. A model that cannot run choices as
    branches of their prompt is noticed by a probe and runs plain rows; the log says which was used.

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
    window = window_that_matters(model, plan.longest + virtual_tokens(model))
    with evaluating(model):
        trees = trees_for(model, plan, window)
        found = row_logprobs(model, plan.rows, misses) if trees is None else tree_logprobs(model, trees, misses)
        for reads, logprobs in found:
            sums.index_add_(0, reads.target_choice, logprobs.double())
    if not bool(torch.isfinite(sums).all()):
        raise NotFinite("a log-likelihood is not finite")
    return sums


def trees_for(model: PreTrainedModel, plan: ChoicePlan, window: Window) -> tuple[TreeBatch, ...] | None:
    """The plan's trees as this model may run them; None where it may not. Decided at first use."""
    if not _trees.holds(model, window):
        return None
    # A window would end inside a beginning, at another place for each token.
    return plan.trees if window is None else plan.whole_trees


def row_logprobs(
    model: PreTrainedModel, batches: Iterable[RowBatch], misses: Tensor | None = None
) -> Iterator[tuple[Reads, Tensor]]:
    """Log-probabilities (M,) of the scored tokens of each batch. Nothing sees the padding, so no mask is needed."""
    for batch in batches:
        yield batch.reads, target_logprobs(model, batch.input_ids, batch.reads, misses)


def tree_logprobs(
    model: PreTrainedModel, batches: Iterable[TreeBatch], misses: Tensor | None = None
) -> Iterator[tuple[Reads, Tensor]]:
    """Log-probabilities (M,) of the scored tokens of each batch."""
    virtual, device = virtual_tokens(model), model.device
    for ids, group in groupby(batches, key=lambda batch: batch.beginning):
        beginning = beginning_of(model, ids)
        with without_virtual_tokens(model), layout_attention_on(model):
            for batch in group:
                arguments = {
                    "position_ids": (batch.position_ids + virtual)[None].to(device),
                    LAYOUT_KEY: layout_of(model, batch, beginning),
                }
                yield batch.reads, target_logprobs(model, batch.input_ids[None], batch.reads, misses, **arguments)


def layout_of(model: PreTrainedModel, batch: TreeBatch, beginning: Beginning | None) -> BranchLayout:
    """Who sees whom in the batch, of whose last layer only what is read is asked."""
    read, last = batch.reads.read.to(model.device), text_config(model).num_hidden_layers - 1
    return BranchLayout(batch.shape.to(model.device), beginning, read=read, last=last)


def beginning_of(model: PreTrainedModel, ids: tuple[int, ...]) -> Beginning | None:
    """Keys and values of the model's virtual tokens and of `ids`, by the model's own forward; None without either."""
    count = virtual_tokens(model) + len(ids)
    if not count:
        return None
    cache = DynamicCache(config=model.config)
    # Virtual tokens alone need some token after them, whose keys are then left away.
    hidden_states(model, torch.tensor([ids or (0,)], device=model.device), past_key_values=cache, use_cache=True)
    return [(layer.keys[0, :, :count], layer.values[0, :, :count]) for layer in cache.layers]


def target_logprobs(
    model: PreTrainedModel, input_ids: Tensor, reads: Reads, misses: Tensor | None = None, **arguments: Any
) -> Tensor:
    """Log-probabilities (M,) in fp32, on the CPU, of the scored tokens of a batch. `misses`, where it is given, counts
    of every choice the tokens that are not the most likely where they stand."""
    device = model.device
    target_read, target_ids = reads.target_read.to(device), reads.target_ids.to(device)
    found: list[Tensor] = []
    start = done = 0
    for logits in forward_of(model).logits_at(input_ids.to(device), reads.read.to(device), **arguments):
        stop = start + len(logits)
        last = int(torch.searchsorted(reads.target_read, stop))
        rows, ids = target_read[done:last] - start, target_ids[done:last]
        found.append(logits.log_softmax(-1)[rows, ids])
        if misses is not None:
            misses.index_add_(0, reads.target_choice[done:last], (logits.argmax(-1)[rows] != ids).long().cpu())
        start, done = stop, last
    return torch.cat(found).cpu()


# ---- may this model run trees? --------------------------------------------------------------------------------------


def _probe(model: PreTrainedModel, window: Window) -> str:
    """Scores an item of random tokens as a tree and as plain rows. Returns why trees do not hold, or nothing.

    In fp32 they agree to 1e-4 nats. In half precision the tree is nearer to the rows than each of the mistakes that a
    model could make: to ignore who sees whom, the positions, or the window.
    """
    prompt_tokens = PROBE_PROMPT_TOKENS if window is None else window + 2
    tokens = probe_ids(model, prompt_tokens + 4 * PROBE_CHOICE_TOKENS).tolist()
    tails = [tokens[prompt_tokens + k * PROBE_CHOICE_TOKENS :][:PROBE_CHOICE_TOKENS] for k in range(4)]
    item = Item("probe", "choices", tuple(tokens[:prompt_tokens]), tuple(map(tuple, tails)))
    plan = ChoicePlan([item], token_budget=1 << 20)
    (tree,) = plan.whole_trees
    line = tree_line(item.prompt_ids, [(choice, number) for number, choice in enumerate(item.choices_ids)])
    begun = [] if window is not None else [tree_batch([line], prompt_tokens // 2)]
    with evaluating(model):
        rows = _by_choice(row_logprobs(model, plan.rows))

        def distances(batch: TreeBatch) -> Tensor:
            found = _by_choice(tree_logprobs(model, [batch]))
            return torch.tensor([found[key] - value for key, value in rows.items()]).abs()

        try:
            errors = torch.stack([distances(batch) for batch in [tree, *begun]])
            if model.dtype not in (torch.bfloat16, torch.float16):
                return "" if float(errors.max()) <= TOLERANCE_NATS else f"they differ by {float(errors.max()):.2g} nats"
            mistakes = [distances(mistake) for mistake in _mistakes(tree, window)]
        except REFUSALS as refusal:
            return f"it refuses the attention ({type(refusal).__name__})"
    nearest = min(float(mistake.norm()) for mistake in mistakes)
    error = max(float(one.norm()) for one in errors)
    return "" if error <= SHARE_OF_MISTAKE * nearest else f"they differ by {error:.2g} nats"


_trees = Probed(_probe, fast="choices are scored as branches of their prompt", slow="choices are scored as plain rows")


def _mistakes(tree: TreeBatch, window: Window) -> list[TreeBatch]:
    """The same tree with choices that see one another, with positions in a row, and with choices that see all of the
    prompt, beyond the window."""
    shape = tree.shape
    count = int(shape.branch_lengths[0])
    blind = replace(tree, shape=replace(shape, ends=torch.full_like(shape.ends, count)))
    shifted = replace(tree, position_ids=torch.arange(len(tree.position_ids)))
    if window is None:
        return [blind, shifted]
    far = int(shape.trunk_lengths[0])
    return [blind, shifted, replace(tree, shape=replace(shape, depths=shape.depths - far))]


def _by_choice(found: Iterable[tuple[Reads, Tensor]]) -> dict[tuple[int, int], float]:
    """Log-probabilities by choice and place in it (the positions of a choice ascend)."""
    table: dict[tuple[int, int], float] = {}
    for reads, logprobs in found:
        seen: dict[int, int] = {}
        for choice, value in zip(reads.target_choice.tolist(), logprobs.tolist(), strict=True):
            place = seen.get(choice, 0)
            seen[choice] = place + 1
            table[choice, place] = value
    return table
