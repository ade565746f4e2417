"""After a run was scored: what changed inside, into runs/ID/analysis/."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import save
from torch import Tensor

from rankscope.analyse.capture import CannotCapture, SideModel, capture
from rankscope.analyse.update_spectra import module_rows
from rankscope.jobs.job_context import JobContext
from rankscope.model.load import LoadedModel
from rankscope.model.sharding.shard import whole_tensor
from rankscope.model.weights.adapter_file import read_adapter
from rankscope.model.weights.gram_spectrum import gram_left
from rankscope.model.weights.svd_cache import SvdCache
from rankscope.model.weights.weight_delta import DenseDelta, LowRank, changes, matrices, merged_changes
from rankscope.records import Item, PlannedRun
from rankscope.study.problems import InputProblems

VERSION = 2
"""Raised when the same run would give other numbers: analyses are then done again where the weights are still there."""

TABLES = ("spectra", "hidden", "attention", "neurons")
DIRECTIONS_KEPT = 8
"""Left singular vectors of each change that are kept, for the comparison between arms."""

_PROBE_SEED = 0
_CONTROL_SEED = 0
_WIDEST = {"cpu": 2048, "cuda": None, "mps": 2048}
"""By device: matrices with a smaller side above this are compared with the base's only where its SVD is cached."""


@dataclass(frozen=True)
class Trained:
    """A run's trained model, what switches its adapter off (None: it is a model of its own), its saved weights, and
    what makes its scoring faster, as `Pack.summed`."""

    model: LoadedModel
    off: Callable[[], AbstractContextManager[Any]] | None
    weights: Path
    summed: Callable[[], AbstractContextManager[Any]] = nullcontext


def analysis_missing(context: JobContext, run: PlannedRun) -> bool:
    """Whether the study wants an analysis of this run that is not there as it would be now."""
    if not context.study.analysis.enabled:
        return False
    folder = context.folder
    whole = folder.has_directions(run.run_id) and all(folder.has_analysis(run.run_id, name) for name in TABLES)
    return not whole or folder.analysis_stamp(run.run_id, TABLES[-1]) != _stamp(context, run)


def look_inside(context: JobContext, run: PlannedRun, trained: Trained) -> None:
    """Write the run's spectra, hidden states, attention and neurons. What a model's build hides is left out, with the
    reason in the files' metadata."""
    stamp = _stamp(context, run)
    rows, directions, reason = _weights(context, run, trained)
    frames = {"spectra": pd.DataFrame(rows)}
    context.folder.write_directions(run.run_id, save(directions))
    base = SideModel(trained.model.model, trained.off) if trained.off is not None else _own(context.base(run.model))
    try:
        if run.arm.traits.virtual_tokens(run.arm):
            raise CannotCapture("virtual tokens stand before the base's, so that layers do not see the same")
        found = capture(
            base, _own(trained.model), probes(context, run.model), token_budget=context.evaluate_tokens,
            kept=context.kept_base(run.model),
        )  # fmt: skip
    except CannotCapture as error:
        found, reason = {}, f"{reason} {error}".strip()
    frames |= {name: pd.DataFrame(found.get(name, [])) for name in TABLES[1:]}
    for name in TABLES:  # neurons last: its stamp says that all are there
        context.folder.write_analysis(run.run_id, name, frames[name], stamp if name == TABLES[-1] else {})
    context.folder.write_analysis_note(run.run_id, reason or None)


def probes(context: JobContext, model: str) -> dict[str, list[Item]]:
    """A seeded sample of the suites' questions, as even over the suites as they allow; plain text has none."""
    asked = [name for name, facts in context.suite_facts(model).items() if facts.form != "text"]
    suites = {name: suite for name in asked if (suite := context.suite(model, name)).items}
    left, sample = context.study.analysis.probe_items, {}
    for done, (name, suite) in enumerate(sorted(suites.items(), key=lambda entry: len(entry[1].items))):
        count = min(len(suite.items), round(left / (len(suites) - done)))
        chosen = random.Random(f"{_PROBE_SEED} {name}").sample(range(len(suite.items)), count)
        sample[name] = [suite.items[i] for i in sorted(chosen)]
        left -= count
    return {name: sample[name] for name in suites if sample[name]}


def _own(loaded: LoadedModel) -> SideModel:
    return SideModel(loaded.model, nullcontext)


def _stamp(context: JobContext, run: PlannedRun) -> dict[str, str]:
    suites = {n: f.content_sha256 for n, f in context.suite_facts(run.model).items() if f.form != "text"}
    return {"version": str(VERSION), "probe_items": str(context.study.analysis.probe_items), **suites}


# ---- weights --------------------------------------------------------------------------------------------------------


def _weights(
    context: JobContext, run: PlannedRun, trained: Trained
) -> tuple[list[dict[str, Any]], dict[str, Tensor], str]:
    """(rows of the spectra, leading left directions by module, why there are none)."""
    rows: list[dict[str, Any]] = []
    directions: dict[str, Tensor] = {}
    try:
        for own, leading in _spectra(context, run, trained):
            rows += own
            directions |= leading
    except InputProblems as error:
        return rows, directions, str(error.problems[0])
    return rows, directions, "" if rows else f"{run.arm.method} changes no weight matrix;"


Spectrum = tuple[list[dict[str, Any]], dict[str, Tensor]]
"""Of one matrix the rows of the table and the leading left directions by module."""


def _spectra(context: JobContext, run: PlannedRun, trained: Trained) -> Iterator[Spectrum]:
    """Of every matrix in turn. The processes of a gang gather each together, and one of them decomposes it."""
    team, deltas = context.team, _deltas(context, run, trained)
    while True:
        mine: Matrix | None = None
        count = 0
        for _, matrix in zip(range(team.size), deltas, strict=False):
            mine = matrix if count == team.rank else mine
            count += 1
        own = None if mine is None else _spectrum(context, run, *mine)
        yield from (one for one in team.all_of(own) if one is not None)
        if count < team.size:
            return


def _spectrum(
    context: JobContext, run: PlannedRun, module: str, delta: LowRank | DenseDelta, weight: Tensor
) -> Spectrum:
    facts, widest = context.facts(run.model), _WIDEST[context.plan.resolved.device]
    rows = list(
        module_rows(
            {module: delta}, {module: weight}, SvdCache(), model_sha256=f"{facts.content_sha256} {weight.dtype}",
            seed=_CONTROL_SEED, widest=widest,
        )
    )  # fmt: skip
    leads = rows[-1]["frobenius_norm"] > 0
    return rows, {module: _leading(delta).contiguous().cpu()} if leads else {}


Matrix = tuple[str, LowRank | DenseDelta, Tensor]
"""(module, delta, W0)."""


def _deltas(context: JobContext, run: PlannedRun, trained: Trained) -> Iterator[Matrix]:
    """One at a time, whole; none where a method changes no weight matrix."""
    modules = context.facts(run.model).linear_shapes
    if not run.arm.has_delta:
        return
    if trained.off is not None and run.arm.traits.delta == "dense":
        yield from merged_changes(trained.model.model)
        return
    if trained.off is not None:
        adapter = read_adapter(trained.weights)
        before: Mapping[str, Tensor] = matrices(trained.model.model, adapter.deltas)
        for module, delta in adapter.deltas.items():
            weight = whole_tensor(before[module])
            yield module, delta.to(weight.device), weight
        return
    before, after = matrices(context.base(run.model).model, modules), matrices(trained.model.model, modules)
    for module in modules:
        weight = whole_tensor(before[module])
        yield module, changes({module: weight}, {module: whole_tensor(after[module])})[module], weight


def _leading(delta: LowRank | DenseDelta) -> Tensor:
    count = min(DIRECTIONS_KEPT, delta.rank, *delta.shape)
    if isinstance(delta, DenseDelta):
        return gram_left(delta.weight, count)[1].to(delta.dense().dtype)
    return delta.svd().left[:, :count]
