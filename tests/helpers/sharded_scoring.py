"""What a team of processes scores and sees in a tiny model that it shares out, and one process: for `gloo_team`."""

from __future__ import annotations

import random
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sharded_models import load, lora

from rankscope.analyse.capture import SideModel, capture
from rankscope.evaluate import generation
from rankscope.evaluate.adapter_scoring import packed_logprobs
from rankscope.evaluate.choice_scoring import choice_logprobs, choices_with_greedy
from rankscope.evaluate.first_tokens import Side, first_token_divergences
from rankscope.evaluate.generation import greedy
from rankscope.evaluate.prompt_choice_tree import ChoicePlan
from rankscope.evaluate.sampling import sample
from rankscope.jobs.derive_whole import weights_replaced
from rankscope.model.forward import NotFinite
from rankscope.model.load import LoadedModel
from rankscope.model.methods.attach import GivenFactors, attach
from rankscope.model.sharding.shard import whole_tensor
from rankscope.model.weights.after_training import AfterTraining
from rankscope.model.weights.dialled import Interpolation
from rankscope.model.weights.weight_delta import LowRank, matrices
from rankscope.records import Item

DICE = random.Random(0)
ITEMS = [
    Item(str(i), "choices", (3, 9, *DICE.choices(range(5, 260), k=4 + 3 * i)), ((40 + i, 41), (40 + i, 7), (8,)))
    for i in range(7)
]
"""Some in one batch and some alone, in an odd number of batches, with a prefix that all share."""

PROMPTS = [item.prompt_ids for item in ITEMS]
BUDGET = 60


def seen(folder: Path, *, sharded: bool, offload: bool = False) -> dict[str, Any]:
    """All that is asked of a base and of another whole model, in parts or whole."""
    how: dict[str, Any] = {"sharded": sharded, "offload": offload}
    base, other = load(folder / "base", lora(4), **how), load(folder / "other", lora(4), **how)
    model = base.model
    found: dict[str, Any] = {
        "choices": choice_logprobs(model, ITEMS, token_budget=BUDGET),
        "likeliest": choices_with_greedy(model, ITEMS, token_budget=BUDGET),
        "written": _written(base),
        "drawn": sample(model, PROMPTS, temperature=1.0, seed=0, max_new_tokens=6, eos_ids=[2], token_budget=BUDGET),
        "one row": greedy(model, PROMPTS[:1], max_new_tokens=5, eos_ids=[2], token_budget=BUDGET),
        "its own generate": _by_its_own_generate(base),
        "inside": capture(_side(base), _side(other), {"suite": ITEMS[:4]}, token_budget=BUDGET),
        "gathered": {name: whole_tensor(w).numpy().copy() for name, w in matrices(model, _modules(base)).items()},
    }
    found |= _adapters(base) | _dials(base, other)
    return found


def _written(base: LoadedModel) -> list[list[int]]:
    return greedy(base.model, PROMPTS, max_new_tokens=9, eos_ids=[2], token_budget=BUDGET, cache_bytes=1 << 14)


def _by_its_own_generate(base: LoadedModel) -> list[list[int]]:
    kept, generation.decodes_in_cache = generation.decodes_in_cache, lambda *_: False
    try:
        return greedy(base.model, PROMPTS[:3], max_new_tokens=3, eos_ids=[2], token_budget=BUDGET)
    finally:
        generation.decodes_in_cache = kept


def _side(loaded: LoadedModel) -> SideModel:
    return SideModel(loaded.model, nullcontext)


def _modules(loaded: LoadedModel) -> list[str]:
    return [name for name, _ in loaded.model.named_modules() if name.endswith("_proj")]


def _adapters(base: LoadedModel) -> dict[str, Any]:
    """Two low-rank adapters: alone, in one forward, and how far they move the first token."""
    dice = torch.Generator().manual_seed(0)
    shapes = {name: weight.shape for name, weight in matrices(base.model, _modules(base)).items()}
    factors = [
        {
            name: LowRank(torch.randn(r, shape[1], generator=dice), 0.1 * torch.randn(shape[0], r, generator=dice), 0.3)
            for name, shape in shapes.items()
        }
        for r in (2, 4)
    ]
    with attach(base, *(GivenFactors(own) for own in factors)) as pack:
        sides = [Side(pack.model, partial(pack.running, [i])) for i in range(2)]
        moved = first_token_divergences(Side(pack.model, partial(pack.running, [])), sides, ITEMS, token_budget=BUDGET)
        together = packed_logprobs(pack, ChoicePlan(ITEMS, BUDGET))
        with pack.running([1]):
            alone = choice_logprobs(pack.model, ITEMS, token_budget=BUDGET)
    return {"moved": moved, "together": together, "alone": alone}


def _dials(base: LoadedModel, other: LoadedModel) -> dict[str, Any]:
    """A whole model between the base and itself, back where it was, and with its spectrum cut."""
    found: dict[str, Any] = {"as trained": choice_logprobs(other.model, ITEMS, token_budget=BUDGET)}
    between = Interpolation(other.model, base.model)
    between.turn_to(0.5)
    found["half"] = choice_logprobs(other.model, ITEMS, token_budget=BUDGET)
    between.turn_to(1.0)
    found["back"] = choice_logprobs(other.model, ITEMS, token_budget=BUDGET)
    before = dict(base.model.named_parameters())
    with weights_replaced(other.model, before, AfterTraining(0.5, 1.0, cut_noise=True), 2) as ranks:
        found["cut"] = choice_logprobs(other.model, ITEMS, token_budget=BUDGET)
    found["ranks"] = ranks
    found["put back"] = choice_logprobs(other.model, ITEMS, token_budget=BUDGET)
    return found


def not_finite_in_one(folder: Path) -> str:
    """The second process meets numbers that are not finite, in rows that only it decodes."""
    base = load(folder / "base", lora(4), sharded=True)
    rank = torch.distributed.get_rank()

    def choose(logits: torch.Tensor, rows: Any) -> torch.Tensor:
        return generation.most_likely(logits * (float("nan") if rank == 1 else 1.0))

    rows = generation.rows_to_write(base.model, PROMPTS, 5)
    try:
        generation.write(base.model, rows, generation.Ending(frozenset([2])), choose, token_budget=BUDGET)
    except NotFinite as error:
        return str(error)
    return ""


def scoring(folder: Path) -> dict[str, Any]:
    """Both ways, one after another, in one team."""
    return {
        "sharded": seen(folder, sharded=True),
        "offloaded": seen(folder, sharded=True, offload=True),
        "solo": seen(folder, sharded=False),
        "not finite": not_finite_in_one(folder),
    }
