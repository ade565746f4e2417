"""Runs made from another without training: the largest adapter at lower ranks, and with its intruders scaled."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rankscope.analyse.merged_spectra import merged_top
from rankscope.analyse.update_spectra import INTRUDER_TOP, energy_rank, intruder_columns
from rankscope.edges.study_folder import FolderStore
from rankscope.evaluate.score_suites import predictions_frame, score_suite
from rankscope.jobs.job_context import Bench, bench
from rankscope.model.methods.attach import GivenFactors, attach
from rankscope.model.weights.adapter_file import Adapter, read_adapter
from rankscope.model.weights.large_svd import SvdCache
from rankscope.model.weights.weight_delta import LowRank, matrices
from rankscope.records import Plan, PlannedRun, Prediction
from rankscope.study.study import Study

ENERGY = 0.9
"""The share of every matrix's energy that the adapter of unequal ranks keeps."""

WIDEST = 2048
"""Intruders are scaled where the base's matrices have at most this smaller side, or their SVDs are cached."""


@dataclass(frozen=True)
class Derivation:
    """What is made of an adapter: `truncated` to a rank, truncated to an `energy` share, `intruders` multiplied by a
    factor, or as much taken off the whole change (`control`)."""

    name: str
    derivation: str
    rank: int | None = None
    energy: float | None = None
    factor: float | None = None


def derived_sources(study: Study, store: FolderStore, plan: Plan) -> list[PlannedRun]:
    """Of each base model and training set the first run of the largest LoRA, where the study derives runs.

    One that diverged is passed over; for one that failed or is still to do nothing else is taken, so that a study that
    was stopped derives the same as one that never was.
    """
    if not (study.analysis.enabled and study.analysis.derived):
        return []
    first: dict[tuple[str, str], tuple[PlannedRun, str]] = {}
    for run in sorted(plan.runs, key=lambda r: (-(r.arm.rank or 0), r.arm.label, r.seed)):
        status = store.read_status(run.run_id)
        state = status.state if status is not None else "planned"
        if run.arm.traits.delta == "factored" and run.fits and state != "diverged":
            first.setdefault((run.model, run.train_set), (run, state))
    return [run for run, state in first.values() if state == "done"]


def derived_ids(study: Study, plan: Plan, run: PlannedRun) -> list[str]:
    """What `derive` may be asked of a run: `RUN_ID NAME` of each derivation."""
    return [f"{run.run_id} {wanted.name}" for wanted in derivations(study, plan, run)]


def derive(folder: str, run_ids: tuple[str, ...]) -> None:
    """Make and score these derivations (`RUN_ID NAME`) as far as they are missing."""
    here = bench(folder)
    for derived_id in run_ids:
        run_id, name = derived_id.split(" ")
        run = here.runs[run_id]
        (wanted,) = (d for d in derivations(here.study, here.plan, run) if d.name == name)
        with here.store.lock(f"{run_id}-{name}"):
            if _is_missing(here, run, wanted) and here.store.adapter_folder(run_id).is_dir():
                _derive(here, run, wanted)


def derivations(study: Study, plan: Plan, run: PlannedRun) -> list[Derivation]:
    """One for each lower rank among the run's sisters, one by energy, and the intervention with its control."""
    assert run.arm.rank is not None
    sisters = [r.arm for r in plan.runs if (r.model, r.train_set) == (run.model, run.train_set)]
    ranks = {a.rank for a in sisters if a.method == run.arm.method and a.rank is not None and a.rank < run.arm.rank}
    factor = study.analysis.intruder_factor
    return [
        *(Derivation(f"rank-{rank}", "truncated", rank=rank) for rank in sorted(ranks)),
        Derivation(f"energy-{ENERGY:g}", "energy", energy=ENERGY),
        Derivation(f"intruders-{factor:g}", "intruders", factor=factor),
        Derivation(f"control-{factor:g}", "control", factor=factor),
    ]


def _is_missing(here: Bench, run: PlannedRun, wanted: Derivation) -> bool:
    held = here.store.frame_metadata(here.store.derived_path(run.run_id, wanted.name))
    return any(held.get(k) != v for k, v in _suite_hashes(here, run).items())


def _suite_hashes(here: Bench, run: PlannedRun) -> dict[str, str]:
    return {f"suite {name}": facts.content_sha256 for name, (_, facts) in here.prepared(run.model).suites.items()}


def _derive(here: Bench, run: PlannedRun, wanted: Derivation) -> None:
    base, weights = here.base(run.model), here.store.adapter_folder(run.run_id)
    adapter = read_adapter(weights)
    changes = _interventions(here, run, adapter) if wanted.factor is not None else None
    factors, facts = _factors(adapter, wanted, changes)
    if factors is None:
        return
    predictions: list[Prediction] = []
    with attach(base, GivenFactors(factors, run.arm)):
        for suite in here.prepared(run.model).suites:
            plan = here.plan_of(run.model, suite)
            predictions += score_suite(base.model, base.tokenizer, plan, token_budget=here.evaluate_tokens)
    metadata = {k: str(v) for k, v in {**asdict(wanted), **facts}.items() if v is not None}
    path = here.store.derived_path(run.run_id, wanted.name)
    frame = predictions_frame(run.run_id, predictions)
    here.store.write_frame(path, frame, metadata | _suite_hashes(here, run))


Factors = dict[str, LowRank]
"""By module."""


def _factors(adapter: Adapter, wanted: Derivation, changes: Factors | None) -> tuple[Factors | None, dict[str, Any]]:
    """The factors, and what they amount to. None where the base's SVDs are out of reach."""
    if wanted.factor is None:
        return _truncated(adapter, wanted)
    if changes is None:
        return None, {}
    made: Factors = {}
    for module, delta in adapter.deltas.items():
        change = changes[module]
        if wanted.derivation == "intruders":
            b = torch.cat([delta.b, change.b / delta.scale], 1)
            made[module] = LowRank(torch.cat([delta.a, change.a]), b, delta.scale)
            continue
        size = float(change.singular_values().norm()) if change.rank else 0.0
        whole = float(delta.singular_values().norm())
        made[module] = delta._replace(b=delta.b * max(0.0, 1 - size / whole)) if whole > 0 else delta
    count = sum(change.rank for change in changes.values())
    return made, {"mean_rank": adapter.rank, "intruders": count}


def _truncated(adapter: Adapter, wanted: Derivation) -> tuple[Factors, dict[str, Any]]:
    made: Factors = {}
    ranks, kept, total = [], 0.0, 0.0
    for module, delta in adapter.deltas.items():
        svd = delta.svd()
        zero = float(svd.values[0]) == 0
        rank = wanted.rank if wanted.rank is not None else 1 if zero else energy_rank(svd.values, wanted.energy or 1.0)
        made[module] = svd.truncated(rank).low_rank(delta.scale)
        ranks.append(min(rank, len(svd.values)))
        kept += float(svd.values[:rank].double().square().sum())
        total += float(svd.values.double().square().sum())
    return made, {"mean_rank": sum(ranks) / len(ranks), "energy_kept": kept / total if total else None}


def _interventions(here: Bench, run: PlannedRun, adapter: Adapter) -> Factors | None:
    """(factor - 1) times the intruder part of W0 + delta by module, of rank q, which may be 0."""
    factor, cache = here.study.analysis.intruder_factor, SvdCache()
    weights = matrices(here.base(run.model).model, adapter.deltas)
    sha = here.facts(run.model).content_sha256
    made: Factors = {}
    for module, delta in adapter.deltas.items():
        weight = weights[module]
        content = f"{sha} {weight.dtype} {module}"
        if min(weight.shape) > WIDEST and not cache.holds(weight, content):
            return None
        made[module] = intruder_change(cache, weight, content, delta.to(weight.device), factor)
    return made


def intruder_change(cache: SvdCache, weight: Tensor, content: str | None, delta: LowRank, factor: float) -> LowRank:
    """(factor - 1) times the sum of sigma u v^T over the q intruders of W."""
    top = merged_top(cache.svd(weight, content), delta, INTRUDER_TOP, with_left=True)
    assert top.left is not None
    left = top.left[:, intruder_columns(top.cosines)].to(delta.a.device, torch.float32)
    rows = left.T @ weight.float() + delta.scale * (left.T @ delta.b.float()) @ delta.a.float()
    return LowRank(rows.cpu(), ((factor - 1) * left).cpu(), 1.0)
