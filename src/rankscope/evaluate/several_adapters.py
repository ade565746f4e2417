"""Several arms scored in one forward pass: each batch once for every arm of a pack, over one base.

As in training (`model/methods/packed_lora.py`), an arm is one more copy of the rows, to which every adapted layer
adds that arm's update. The arms must be LoRA; the prompts, the batches and what is read are the same for all.

Shapes: N arms, R positions read and M scored tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rankscope.evaluate.choice_scoring import beginning_of, choice_logprobs, layout_of, target_logprobs, trees_for
from rankscope.evaluate.prompt_choice_tree import ChoicePlan, Reads
from rankscope.evaluate.score_suites import SuitePlan
from rankscope.model.attention.fast_path_check import window_that_matters
from rankscope.model.attention.registration import LAYOUT_KEY, Scores, layout_attention_on
from rankscope.model.attention.scoring_layout import Beginning, BranchLayout
from rankscope.model.forward import NotFinite, evaluating, forward_of
from rankscope.model.load import LoadedModel
from rankscope.model.methods.attach import GivenFactors, Pack, attach
from rankscope.model.methods.peft_folder import plain_factors
from rankscope.study.study import Arm

DEVICES = {"cuda"}
"""Where the calls cost more than the products: on a CPU adapters that take turns are as fast."""

Logprobs = list[tuple[float, ...]]


class ArmsAsHeads:
    """A layout for the rows of `count` arms, one arm's flat row after another's, each laid out as `inner` says: to
    attention an arm is a set of heads of its own. The beginning of `inner` holds the keys of all arms, arm by arm."""

    def __init__(self, inner: BranchLayout, count: int) -> None:
        self._inner, self._count = inner, count

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        split = [states.unflatten(1, (self._count, -1)).transpose(0, 1).flatten(0, 1) for states in (query, key, value)]
        output = self._inner.attend(layer, split[0], split[1], split[2], scores)  # (T, arms * H, d)
        return output.unflatten(1, (self._count, -1)).transpose(0, 1).flatten(0, 1)


def arms_logprobs(pack: Pack, plan: ChoicePlan) -> list[Logprobs | None]:
    """Of every member what `choice_logprobs` gives for the plan's items; None for one whose numbers are not finite.

    A forward holds N times the plan's token budget. A model that cannot run trees scores one member after another.
    """
    model, count = pack.model, len(pack.members)
    if not plan.choice_count:
        return [plan.by_item([]) for _ in range(count)]
    with evaluating(model), pack.running(()):  # decided on the plain base, which takes any number of rows
        trees = trees_for(model, plan, window_that_matters(model, plan.longest))
        forward_of(model)
    if trees is None:
        return [_alone(pack, arm, plan) for arm in range(count)]
    sums = torch.zeros(count * plan.choice_count, dtype=torch.float64)
    with evaluating(model):
        for ids, group in groupby(trees, key=lambda batch: batch.beginning):
            beginning = _beginning(pack, ids)
            with layout_attention_on(model):
                for batch in group:
                    reads = _of_all(batch.reads, count, len(batch.input_ids), plan.choice_count)
                    arguments: dict[str, Any] = {
                        "position_ids": batch.position_ids.repeat(count)[None].to(model.device),
                        LAYOUT_KEY: ArmsAsHeads(layout_of(model, batch, beginning), count),
                    }
                    found = target_logprobs(model, batch.input_ids.repeat(count)[None], reads, **arguments)
                    sums.index_add_(0, reads.target_choice, found.double())
    rows = sums.view(count, -1)
    return [plan.by_item(row.tolist()) if bool(torch.isfinite(row).all()) else None for row in rows]


def suites_logprobs(
    base: LoadedModel, arms: Sequence[Arm], folders: Sequence[Path], suites: Sequence[SuitePlan]
) -> list[dict[str, Logprobs]]:
    """Of each saved adapter, by suite, what `score_suite` takes as `logprobs`, all adapters in one forward.

    What is not there must be scored alone: suites whose answers are written or must be the most likely, arms whose
    numbers are not finite. Nothing is found on devices that are not in `DEVICES`, of fewer than two adapters, or where
    one is anything but a LoRA.
    """
    found: list[dict[str, Logprobs]] = [{} for _ in folders]
    if base.model.device.type not in DEVICES or len(folders) < 2:
        return found
    wanted = [plan for plan in suites if plan.scored and not (plan.suite.grading and plan.suite.grading.needs_greedy)]
    factors = [one for folder in folders if (one := plain_factors(base.model, folder)) is not None] if wanted else []
    if not wanted or len(factors) < len(folders):
        return found
    with attach(base, *map(GivenFactors, factors, arms)) as pack:
        for plan in wanted:
            shared = ChoicePlan(plan.scored, max(1, plan.token_budget // len(folders)))
            for own, logprobs in zip(found, arms_logprobs(pack, shared), strict=True):
                if logprobs is not None:
                    own[plan.suite.name] = logprobs
    return found


def _alone(pack: Pack, arm: int, plan: ChoicePlan) -> Logprobs | None:
    with pack.running([arm]):
        try:
            return choice_logprobs(pack.model, (), token_budget=plan.token_budget, plan=plan)
        except NotFinite:
            return None


def _beginning(pack: Pack, ids: tuple[int, ...]) -> Beginning | None:
    """Keys and values (N K, S, d) of what all prompts of some batches begin with, arm after arm."""
    made: list[Beginning] = []
    for arm in range(len(pack.members)):
        with pack.running([arm]):
            one = beginning_of(pack.model, ids)
        if one is None:
            return None
        made.append(one)
    keys_and_values = ([torch.cat(parts) for parts in zip(*layer, strict=True)] for layer in zip(*made, strict=True))
    return [(keys, values) for keys, values in keys_and_values]


def _of_all(reads: Reads, count: int, tokens: int, choices: int) -> Reads:
    """What is read of a batch of `tokens`, from the rows of all arms; choices are numbered arm after arm."""

    def shifted(values: Tensor, by: int) -> Tensor:
        return (values + by * torch.arange(count)[:, None]).flatten()

    return Reads(
        read=shifted(reads.read, tokens),
        target_read=shifted(reads.target_read, len(reads.read)),
        target_ids=reads.target_ids.repeat(count),
        target_choice=shifted(reads.target_choice, choices),
    )
