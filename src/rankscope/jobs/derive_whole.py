"""Runs made from a fully fine-tuned model without training: its spectrum cut at its noise, and dialled by layer.

Done while the weights are still there: a study that keeps no full checkpoint deletes them once they were scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from rankscope.evaluate.judge_client import GradingStopped
from rankscope.jobs.derive_job import LAYER_DIALS, Derivation, derivation_missing, keep_derived, layers_derivation
from rankscope.jobs.job_context import JobContext
from rankscope.model.sharding.shard import own_part, set_whole, whole_tensor
from rankscope.model.weights.after_training import AfterTraining
from rankscope.records import PlannedRun

SPECTRUM_CUT = Derivation("spectrum-cut", "spectrum cut")
"""The singular values of every matrix's change below the Donoho-Gavish threshold dropped."""


def whole_derivations(context: JobContext, run: PlannedRun) -> list[Derivation]:
    """What is still to be made of a run: nothing where the study derives nothing, of adapters, and of all seeds but the
    first."""
    analysis = context.study.analysis
    if not (analysis.enabled and analysis.derived and run.arm.traits.whole) or run.seed != context.study.all_seeds[0]:
        return []
    wanted = [SPECTRUM_CUT, *(layers_derivation(below, above) for below, above in LAYER_DIALS)]
    return [one for one in wanted if derivation_missing(context, run, one)]


def derive_whole(context: JobContext, run: PlannedRun, weights: Path) -> None:
    """Make and score what is missing, from the weights as they were trained."""
    wanted = whole_derivations(context, run)
    if not wanted:
        return
    tuned = context.fine_tuned(run.model, weights)
    before = dict(context.base(run.model).model.named_parameters())
    layer_count = context.facts(run.model).layer_count
    for one in wanted:
        if context.stop_requested():
            return
        remedy = AfterTraining(cut_noise=True)
        if one.below is not None and one.above is not None:
            remedy = AfterTraining(one.below, one.above)
        with suppress(GradingStopped), weights_replaced(tuned.model, before, remedy, layer_count) as ranks:
            mean = sum(ranks.values()) / len(ranks) if ranks else None
            keep_derived(context, run, one, {"mean_rank": mean}, tuned)


@contextmanager
def weights_replaced(
    model: nn.Module, before: Mapping[str, Tensor], remedy: AfterTraining, layer_count: int
) -> Iterator[dict[str, int]]:
    """Inside, the model has the weights that the remedy makes of it; gives the ranks that a cut left."""
    parameters = dict(model.named_parameters())
    after = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    ranks: dict[str, int] = {}
    with torch.no_grad():
        for name, parameter in parameters.items():  # a sharded model's are gathered one at a time
            made, cut = remedy.weights(
                {name: whole_tensor(before[name].detach())}, {name: whole_tensor(after[name])}, layer_count
            )
            set_whole(parameter, made[name])
            ranks |= cut
    try:
        yield ranks
    finally:
        with torch.no_grad():
            for name, value in after.items():
                own_part(parameters[name]).copy_(own_part(value))
