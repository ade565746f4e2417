"""Log-likelihoods of choices and of text, with whatever prompts and choices have in common computed once.

Shapes: T tokens of a batch, Q positions read, M scored tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rankscope.evaluate.answer_count import count_answers
from rankscope.evaluate.prompt_choice_tree import ChoicePlan, Reads, RowBatch, TreeBatch, prompt_tree, tree_batch
from rankscope.model.attention.joined_attention import log_sums_by_kernel
from rankscope.model.attention.kv_cache import prefix_kv
from rankscope.model.attention.registration import LAYOUT_KEY, SHARE_OF_MISTAKE, FastPathCheck, attention_installed
from rankscope.model.attention.scoring_layout import PrefixKV, TreeLayout, moved
from rankscope.model.decoder_parts import text_config, window_that_matters
from rankscope.model.forward import NotFinite, evaluating, forward_of, probe_ids
from rankscope.model.methods.virtual_tokens_modules import virtual_tokens, without_virtual_tokens
from rankscope.model.sharding.shard import compute_device, team_of
from rankscope.model.sharding.team import SOLO, Team
from rankscope.records import Item

PROBE_PROMPT_TOKENS = 12
PROBE_CHOICE_TOKENS = 5
TOLERANCE_NATS = 1e-4


def choice_logprobs(
    model: PreTrainedModel, items: Sequence[Item], *, token_budget: int, plan: ChoicePlan | None = None
) -> list[tuple[float, ...]]:
    """Summed log-likelihood in nats of every choice given its prompt, in the order of `items`.

    sum over t of log p(choice[t] | prompt, choice[:t]), log-softmax in fp32, added in double: what lm-eval's
    `loglikelihood` returns. `token_budget` bounds the padded tokens of a batch. A model that does not give
    the same with choices as a tree below their prompt runs a plain row for each choice; the log says which was used.
    Of a sharded model all processes call this, and each runs its part of the batches.

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
    window, team = window_that_matters(model, plan.longest + virtual_tokens(model)), team_of(model)
    with evaluating(model):
        trees = trees_for(model, plan, window)
        if trees is None:
            found = row_logprobs(model, plan.rows, misses, team)
        else:
            found = tree_logprobs(model, trees, misses, team)
        for reads, logprobs in found:
            sums.index_add_(0, reads.target_choice, logprobs.double())
            count_answers(len(reads.target_choice.unique()))
    sums = team.sum(sums)  # a choice has its number from one process, and zero from the others
    if misses is not None:
        misses.copy_(team.sum(misses))
    if not bool(torch.isfinite(sums).all()):
        raise NotFinite("a log-likelihood is not finite")
    return sums


def trees_for(model: PreTrainedModel, plan: ChoicePlan, window: int | None) -> tuple[TreeBatch, ...] | None:
    """The plan's trees as this model may run them; None where it may not. Found out at first use.

    `window`: the model's sliding window in tokens where some prompt with a choice is longer.
    """
    conditions = (model.config._attn_implementation, window, model.dtype, virtual_tokens(model))
    if not _TREES.holds(model, partial(_compare_trees, model, window), *conditions):
        return None
    # A window would end inside a shared prefix, at another place for each token.
    return plan.trees if window is None else plan.trees_without_prefixes


def row_logprobs(
    model: PreTrainedModel, batches: Sequence[RowBatch], misses: Tensor | None = None, team: Team = SOLO
) -> Iterator[tuple[Reads, Tensor]]:
    """Log-probabilities (M,) of the scored tokens of each batch, of a team of this process's batches. Nothing sees the
    padding, so no mask is needed."""
    for batch, counts in team.turns(batches):
        found = target_logprobs(model, batch.input_ids, batch.reads, misses if counts else None)
        if counts:
            yield batch.reads, found


def tree_logprobs(
    model: PreTrainedModel, batches: Iterable[TreeBatch], misses: Tensor | None = None, team: Team = SOLO
) -> Iterator[tuple[Reads, Tensor]]:
    """Log-probabilities (M,) of the scored tokens of each batch, of a team of this process's batches."""
    virtual, device = virtual_tokens(model), compute_device(model)
    for ids, group in groupby(batches, key=lambda batch: batch.prefix_ids):
        prefix = prefix_kv(model, ids)
        with without_virtual_tokens(model), attention_installed(model):
            for batch, counts in team.turns(list(group)):
                arguments = {
                    "position_ids": moved(batch.position_ids + virtual, device)[None],
                    LAYOUT_KEY: layout_of(model, batch, prefix),
                }
                found = target_logprobs(
                    model, batch.input_ids[None], batch.reads, misses if counts else None, **arguments
                )
                if counts:
                    yield batch.reads, found


def layout_of(model: PreTrainedModel, batch: TreeBatch, prefix: PrefixKV | None) -> TreeLayout:
    """The attention layout of a batch, of whose last layer only what is read is asked."""
    device, last = compute_device(model), text_config(model).num_hidden_layers - 1
    kernel = prefix is not None and log_sums_by_kernel(model)
    return TreeLayout(batch.shape, prefix, read=batch.reads.read, last=last, device=device, kernel=kernel)


def target_logprobs(
    model: PreTrainedModel, input_ids: Tensor, reads: Reads, misses: Tensor | None = None, **arguments: Any
) -> Tensor:
    """Log-probabilities (M,) in fp32, on the CPU, of the scored tokens of a batch. `misses`, where it is given, counts
    of every choice the tokens that are not the most likely where they stand."""
    device = compute_device(model)
    found = forward_of(model).target_logprobs_at(
        moved(input_ids, device), moved(reads.read, device), reads.target_read, reads.target_ids,
        best=misses is not None, **arguments,
    )  # fmt: skip
    if misses is not None and found.best is not None:
        misses.index_add_(0, reads.target_choice, (~found.best).long())
    return found.logprobs


# ---- may this model run trees? --------------------------------------------------------------------------------------

_TREES = FastPathCheck(
    fast="choices are scored as a tree below their prompt", slow="choices are scored as plain rows of prompt and choice"
)


def _compare_trees(model: PreTrainedModel, window: int | None) -> str:
    """Scores an item of random tokens as a tree and as plain rows: why log-likelihoods differ, or nothing.

    In fp32 they agree to 1e-4 nats. In half precision the tree is nearer to the rows than each of the mistakes that a
    model could make: to ignore who sees whom, the positions, or the window.
    """
    if virtual_tokens(model) and window is not None:
        return "virtual tokens stand before a window"
    prompt_tokens = PROBE_PROMPT_TOKENS if window is None else window + 2
    item = probe_item(model, prompt_tokens)
    plan = ChoicePlan([item], token_budget=1 << 20)
    (tree,) = plan.trees_without_prefixes
    one = prompt_tree(item.prompt_ids, [(choice, number) for number, choice in enumerate(item.choices_ids)])
    with_prefix = [] if window is not None else [tree_batch([one], prompt_tokens // 2)]
    with evaluating(model):
        rows = _by_choice(row_logprobs(model, plan.rows))

        def distances(batch: TreeBatch) -> Tensor:
            found = _by_choice(tree_logprobs(model, [batch]))
            return torch.tensor([found[key] - value for key, value in rows.items()]).abs()

        errors = torch.stack([distances(batch) for batch in [tree, *with_prefix]])
        if model.dtype not in (torch.bfloat16, torch.float16):
            return "" if float(errors.max()) <= TOLERANCE_NATS else f"they differ by {float(errors.max()):.2g} nats"
        mistakes = [distances(mistake) for mistake in _mistakes(tree, window)]
    nearest = min(float(mistake.norm()) for mistake in mistakes)
    error = max(float(one.norm()) for one in errors)
    return "" if error <= SHARE_OF_MISTAKE * nearest else f"they differ by {error:.2g} nats"


def probe_item(model: PreTrainedModel, prompt_tokens: int) -> Item:
    """An item of `prompt_tokens` and four choices, always the same for a vocabulary."""
    tokens = probe_ids(model, prompt_tokens + 4 * PROBE_CHOICE_TOKENS).tolist()
    tails = [tokens[prompt_tokens + k * PROBE_CHOICE_TOKENS :][:PROBE_CHOICE_TOKENS] for k in range(4)]
    return Item("probe", "choices", tuple(tokens[:prompt_tokens]), tuple(map(tuple, tails)))


def _mistakes(tree: TreeBatch, window: int | None) -> list[TreeBatch]:
    """The same tree with choices that see one another, with positions in a row, and with choices that see all of the
    prompt, beyond the window."""
    shape = tree.shape
    count = int(shape.tree_lengths[0])
    blind = replace(tree, shape=replace(shape, ends=torch.full_like(shape.ends, count)))
    shifted = replace(tree, position_ids=torch.arange(len(tree.position_ids)))
    if window is None:
        return [blind, shifted]
    far = int(shape.prompt_lengths[0])
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
