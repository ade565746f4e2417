"""Scores of adapters: several of them in one forward pass, and the check that an adapter is what changes a score.

As in training (`model/methods/packed_lora.py`), each of N packed adapters is one more copy of the rows, to which every
adapted layer adds that adapter's update. They must be LoRA; the prompts, the batches and what is read are the same for
all.

Shapes: N adapters packed together, T tokens, Q positions read and M scored tokens of a batch, H heads.

AdapterProblem
├── AdapterChangesBase   switched off, the model is not the base
└── AdapterNotApplied    switched on, the model still is the base
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rankscope.evaluate.answer_count import count_answers
from rankscope.evaluate.choice_scoring import choice_logprobs, layout_of, probe_item, target_logprobs, trees_for
from rankscope.evaluate.prompt_choice_tree import ChoicePlan, Reads
from rankscope.evaluate.score_suites import SuitePlan
from rankscope.model.attention.kv_cache import prefix_kv
from rankscope.model.attention.registration import LAYOUT_KEY, FastPathCheck, Scores, attention_installed
from rankscope.model.attention.scoring_layout import PrefixKV, TreeLayout, moved
from rankscope.model.decoder_parts import window_that_matters
from rankscope.model.forward import NotFinite, evaluating, forward_of
from rankscope.model.load import LoadedModel
from rankscope.model.methods.attach import GivenFactors, Pack, attach
from rankscope.model.methods.peft_folder import Factors, plain_factors
from rankscope.model.sharding.shard import compute_device, is_sharded, team_of
from rankscope.model.weights.dialled import dialled_factors
from rankscope.model.weights.weight_delta import LowRank
from rankscope.records import Item
from rankscope.study.study import Arm

DEVICES = {"cuda"}
"""Where the calls cost more than the products: on a CPU adapters that take turns are as fast."""

SHARE_OF_DISTANCE = {torch.float32: 1e-3}
"""Of the distance between two adapters' scores, how far one's may lie from its own alone; 0.25 in half precision."""

TOLERANCE_NATS = 1e-3

logger = logging.getLogger(__name__)

Logprobs = list[tuple[float, ...]]

_ONE_FORWARD = FastPathCheck(
    fast="several adapters are scored in one forward", slow="several adapters are scored one after another",
    slow_level=logging.WARNING,
)  # fmt: skip


class AdaptersAsHeads:
    """A layout for the rows of `count` adapters, one adapter's flat row after another's, each laid out as `inner` says.

    To attention an adapter is a set of heads of its own. The prefix of `inner` holds the keys of all, one by one.
    """

    def __init__(self, inner: TreeLayout, count: int) -> None:
        self._inner, self._count = inner, count

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        """As `registration.Layout`, with N T tokens."""
        split = [states.unflatten(1, (self._count, -1)).transpose(0, 1).flatten(0, 1) for states in (query, key, value)]
        output = self._inner.attend(layer, split[0], split[1], split[2], scores)  # (T, N * H, d)
        return output.unflatten(1, (self._count, -1)).transpose(0, 1).flatten(0, 1)


def packed_logprobs(pack: Pack, plan: ChoicePlan) -> list[Logprobs | None]:
    """Of every member what `choice_logprobs` gives for the plan's items; None for one whose numbers are not finite.

    A forward holds N times the plan's token budget. A model that cannot run trees scores one member after another.
    """
    model, count, team = pack.model, len(pack.members), team_of(pack.model)
    if not plan.choice_count:
        return [plan.by_item([]) for _ in range(count)]
    with evaluating(model), pack.running(()):  # decided on the plain base, which takes any number of rows
        trees = trees_for(model, plan, window_that_matters(model, plan.longest))
        forward_of(model)
    if trees is None:
        return [_alone(pack, member, plan) for member in range(count)]
    sums = torch.zeros(count * plan.choice_count, dtype=torch.float64)
    with evaluating(model):
        for ids, group in groupby(trees, key=lambda batch: batch.prefix_ids):
            prefix = _prefix_of_all(pack, ids)
            with attention_installed(model):
                for batch, counts in team.turns(list(group)):
                    reads = _reads_of_all(batch.reads, count, len(batch.input_ids), plan.choice_count)
                    arguments: dict[str, Any] = {
                        "position_ids": moved(batch.position_ids.repeat(count), compute_device(model))[None],
                        LAYOUT_KEY: AdaptersAsHeads(layout_of(model, batch, prefix), count),
                    }
                    found = target_logprobs(model, batch.input_ids.repeat(count)[None], reads, **arguments)
                    if counts:
                        sums.index_add_(0, reads.target_choice, found.double())
                        count_answers(len(reads.target_choice.unique()))
    rows = team.sum(sums).view(count, -1)
    return [plan.by_item(row.tolist()) if bool(torch.isfinite(row).all()) else None for row in rows]


def suites_logprobs(
    base: LoadedModel, arms: Sequence[Arm], folders: Sequence[Path], suites: Sequence[SuitePlan]
) -> list[dict[str, Logprobs]]:
    """Of each saved adapter, by suite, what `score_suite` takes as `logprobs`, all adapters in one forward.

    What is not there must be scored alone: suites whose answers are written or must be the most likely, adapters whose
    numbers are not finite. Nothing is found on devices that are not in `DEVICES`, of fewer than two adapters, where one
    is anything but a LoRA, and where adapters of random numbers do not get the scores that each gets alone.
    """
    if compute_device(base.model).type not in DEVICES or len(folders) < 2:
        return [{} for _ in folders]
    factors = [one for folder in folders if (one := plain_factors(base.model, folder)) is not None]
    return _in_one_forward(base, arms, factors, suites) if len(factors) == len(folders) else [{} for _ in folders]


def dialled_logprobs(
    base: LoadedModel, arm: Arm, folder: Path, dials: Sequence[float], suites: Sequence[SuitePlan]
) -> list[dict[str, Logprobs]]:
    """Of one saved adapter with its scale times each dial what `suites_logprobs` gives of several adapters."""
    if compute_device(base.model).type not in DEVICES or len(dials) < 2:
        return [{} for _ in dials]
    factors = plain_factors(base.model, folder)
    if factors is None:
        return [{} for _ in dials]
    return _in_one_forward(base, [arm] * len(dials), [dialled_factors(factors, dial) for dial in dials], suites)


def _in_one_forward(
    base: LoadedModel, arms: Sequence[Arm], factors: Sequence[Factors], suites: Sequence[SuitePlan]
) -> list[dict[str, Logprobs]]:
    """By adapter and suite, where the device and the model let adapters share a forward.

    Where the device's memory does not hold all of them, half of them share one; what is left alone is scored alone.
    """
    if len(factors) < 2:
        return [{} for _ in factors]
    try:
        return _of_all(base, arms, factors, suites)
    except torch.OutOfMemoryError:
        if is_sharded(base.model):  # the other processes wait for this one: they can only be ended
            raise
        logger.warning(
            "%d adapters in one forward do not fit the device's memory: half of them share one", len(factors)
        )
    if base.model.device.type == "cuda":
        torch.cuda.empty_cache()
    half = len(factors) // 2
    first = _in_one_forward(base, arms[:half], factors[:half], suites)
    return first + _in_one_forward(base, arms[half:], factors[half:], suites)


def _of_all(
    base: LoadedModel, arms: Sequence[Arm], factors: Sequence[Factors], suites: Sequence[SuitePlan]
) -> list[dict[str, Logprobs]]:
    found: list[dict[str, Logprobs]] = [{} for _ in factors]
    wanted = [plan for plan in suites if plan.scored and not (plan.suite.grading and plan.suite.grading.needs_greedy)]
    if not wanted:
        return found
    ranks = tuple(max(factor.rank for factor in own.values()) for own in factors)
    compare = partial(_compare_one_forward, base, arms, factors)
    if not _ONE_FORWARD.holds(base.model, compare, base.model.dtype, ranks):
        return found
    with attach(base, *map(GivenFactors, factors, arms)) as pack:
        for plan in wanted:
            shared = ChoicePlan(plan.scored, max(1, plan.token_budget // len(factors)))
            for own, logprobs in zip(found, packed_logprobs(pack, shared), strict=True):
                if logprobs is not None:
                    own[plan.suite.name] = logprobs
    return found


def _alone(pack: Pack, member: int, plan: ChoicePlan) -> Logprobs | None:
    with pack.running([member]):
        try:
            return choice_logprobs(pack.model, (), token_budget=plan.token_budget, plan=plan)
        except NotFinite:
            return None


def _prefix_of_all(pack: Pack, ids: tuple[int, ...]) -> PrefixKV | None:
    """Keys and values (N K, S, d) of the prefix that all prompts of some batches share, member after member."""
    made: list[PrefixKV] = []
    for member in range(len(pack.members)):
        with pack.running([member]):
            one = prefix_kv(pack.model, ids)
        if one is None:
            return None
        made.append(one)
    keys_and_values = ([torch.cat(parts) for parts in zip(*layer, strict=True)] for layer in zip(*made, strict=True))
    return [(keys, values) for keys, values in keys_and_values]


def _reads_of_all(reads: Reads, count: int, tokens: int, choices: int) -> Reads:
    """What is read of a batch of `tokens`, from the rows of all members; choices are numbered member after member."""

    def shifted(values: Tensor, by: int) -> Tensor:
        return (values + by * torch.arange(count)[:, None]).flatten()

    return Reads(
        read=shifted(reads.read, tokens),
        target_read=shifted(reads.target_read, len(reads.read)),
        target_ids=reads.target_ids.repeat(count),
        target_choice=shifted(reads.target_choice, choices),
    )


def _compare_one_forward(base: LoadedModel, arms: Sequence[Arm], factors: Sequence[Factors]) -> str:
    """Why adapters of these shapes get other scores in one forward than each alone, or nothing.

    The adapters are of random numbers and change the model much, so that one's rows under another's factors would show.
    """
    first = probe_item(base.model, 80)
    second = Item("second", "choices", (*first.prompt_ids[:70], *first.prompt_ids[:69:-1]), first.choices_ids)
    plan = ChoicePlan([first, second], token_budget=64)  # so small that the prefix is worth being shared
    made = [_random_like(own, seed) for seed, own in enumerate(factors)]
    with attach(base, *map(GivenFactors, made, arms)) as pack:
        together = packed_logprobs(pack, plan)
        alone = [_alone(pack, member, plan) for member in range(len(arms))]
    if None in together or None in alone:
        return "a log-likelihood is not finite"
    found, own = (torch.tensor([[x for row in one or () for x in row] for one in side]) for side in (together, alone))
    apart = float(torch.pdist(own.double(), p=torch.inf).min())
    error = float((found - own).abs().max())
    allowed = SHARE_OF_DISTANCE.get(base.model.dtype, 0.25) * apart
    return "" if error <= allowed else f"they differ by {error:.2g} nats, and two adapters by {apart:.2g}"


def _random_like(factors: Factors, seed: int) -> Factors:
    """Factors of the same shapes that add about half of its inputs' size to every adapted layer's outputs."""
    dice = torch.Generator().manual_seed(seed)
    made: Factors = {}
    for module, (a, b, scale) in factors.items():
        new_a = torch.randn(a.shape, generator=dice) / a.shape[1] ** 0.5
        made[module] = LowRank(new_a, torch.randn(b.shape, generator=dice) * 0.5 / (b.shape[1] ** 0.5 * scale), scale)
    return made


# ---- is the adapter what changes the scores? -------------------------------------------------------------------------


class AdapterProblem(RuntimeError):
    """An adapter does not do what its scores would claim."""


class AdapterChangesBase(AdapterProblem):
    """With the adapter off, the scores are not the base's."""


class AdapterNotApplied(AdapterProblem):
    """With the adapter on, every score is the base's."""


def check_adapter(
    model: PreTrainedModel,
    adapter_off: Callable[[], AbstractContextManager[object]],
    probe_items: Sequence[Item],
    base_logprobs: Sequence[tuple[float, ...]],
    *,
    token_budget: int,
    tolerance_nats: float = TOLERANCE_NATS,
) -> None:
    """Scores `probe_items` with the adapter off and on, and compares with the base's `choice_logprobs` of the same.

    `adapter_off` gives a context in which the model runs without its adapter. Only for an adapter that was trained: a
    new one changes nothing yet.

    Raises AdapterChangesBase where a score with the adapter off is more than `tolerance_nats` from the base's,
    AdapterNotApplied where no score changes at all with it on, and ValueError without items.
    """
    if not probe_items:
        raise ValueError("an adapter can only be checked on some items")
    with adapter_off():
        off = choice_logprobs(model, probe_items, token_budget=token_budget)
    distance = _largest_difference(off, base_logprobs)
    if not distance <= tolerance_nats:
        raise AdapterChangesBase(f"with the adapter off, a score is {distance:.3g} nats from the base's")
    on = choice_logprobs(model, probe_items, token_budget=token_budget)
    if _largest_difference(on, off) == 0.0:
        raise AdapterNotApplied(f"with the adapter on, the scores of {len(on)} items are exactly the base's")


def _largest_difference(left: Sequence[tuple[float, ...]], right: Sequence[tuple[float, ...]]) -> float:
    pairs = zip(left, right, strict=True)
    return max(abs(a - b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))
