"""Runs made from another without training: the largest adapter at lower ranks, dialled by layer, and with its intruders
scaled. Of whole models: `derive_whole.py`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rankscope.analyse.intruder_scaling import control, intruder_change, with_change
from rankscope.analyse.update_spectra import energy_rank
from rankscope.edges.executors import WorkPlace
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.judge_client import GradingStopped
from rankscope.evaluate.score_suites import predictions_frame, score_suite
from rankscope.jobs.gang_work import score_in_gang
from rankscope.jobs.job_context import JobContext, job_context
from rankscope.jobs.known_answers import run_answers
from rankscope.model.load import LoadedModel
from rankscope.model.methods.attach import GivenFactors, attach
from rankscope.model.sharding.shard import whole_tensor
from rankscope.model.weights.adapter_file import Adapter, read_adapter
from rankscope.model.weights.after_training import AfterTraining
from rankscope.model.weights.svd_cache import SvdCache
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
    factor, as much taken off the whole change (`control`), or the change multiplied by `below` in the blocks below the
    middle and by `above` in the others (`layers`)."""

    name: str
    derivation: str
    rank: int | None = None
    energy: float | None = None
    factor: float | None = None
    below: float | None = None
    above: float | None = None


LAYER_DIALS = ((0.5, 1.0), (1.0, 0.5))
"""(below, above) the middle."""


def derived_sources(study: Study, folder: StudyFolder, plan: Plan) -> list[PlannedRun]:
    """Of each base model and training set the first run of the largest LoRA, of several one without a remedy, where the
    study derives runs.

    One that diverged is passed over; for one that failed or is still to do nothing else is taken, so that a study that
    was stopped derives the same as one that never was.
    """
    if not (study.analysis.enabled and study.analysis.derived):
        return []
    first: dict[tuple[str, str], tuple[PlannedRun, str]] = {}
    for run in sorted(plan.runs, key=lambda r: (-(r.arm.rank or 0), r.arm.remedy or "", r.arm.label, r.seed)):
        status = folder.read_status(run.run_id)
        state = status.state if status is not None else "planned"
        if run.arm.traits.delta == "factored" and run.fits and state != "diverged":
            first.setdefault((run.model, run.train_set), (run, state))
    return [run for run, state in first.values() if state == "done"]


@dataclass(frozen=True)
class Derive:
    """Make one derivation of a finished run, without training, and score it, as far as it is missing."""

    folder: str
    run_id: str
    name: str
    seconds: float = 0.0
    slots: int = 1

    def run(self, place: WorkPlace) -> None:
        """Make and score the derivation, as far as it is missing."""
        context = job_context(self.folder, place)
        run = context.runs[self.run_id]
        with context.folder.lock(f"{self.run_id}-{self.name}"):
            if not derivation_missing(context, run, _wanted(context, run, self.name)):
                return
            if run.scoring.alone:
                derive(context, run, self.name)
            else:
                score_in_gang(context, run, work="derive", run_ids=[self.run_id], name=self.name)

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        """The run itself is done: only the traceback is kept."""
        folder.write_error(f"{folder.run_folder(self.run_id)}/derived/{self.name}", details)
        return {f"{self.run_id} {self.name}": error}


def derive(context: JobContext, run: PlannedRun, name: str) -> None:
    """Make and score one derivation of a run whose adapter is there; of a gang all processes call this."""
    weights = context.folder.weights(run.run_id, whole=False)
    if weights is not None:
        with suppress(GradingStopped):
            _derive(context, run, _wanted(context, run, name), weights)


def _wanted(context: JobContext, run: PlannedRun, name: str) -> Derivation:
    return next(d for d in derivations(context.study, context.plan, run) if d.name == name)


def derivations(study: Study, plan: Plan, run: PlannedRun) -> list[Derivation]:
    """One for each lower rank among the run's sisters, one by energy, the intervention with its control, and dials by
    layer."""
    assert run.arm.rank is not None
    sisters = [r.arm for r in plan.runs if (r.model, r.train_set) == (run.model, run.train_set)]
    ranks = {a.rank for a in sisters if a.method == run.arm.method and a.rank is not None and a.rank < run.arm.rank}
    factor = study.analysis.intruder_factor
    return [
        *(Derivation(f"rank-{rank}", "truncated", rank=rank) for rank in sorted(ranks)),
        Derivation(f"energy-{ENERGY:g}", "energy", energy=ENERGY),
        Derivation(f"intruders-{factor:g}", "intruders", factor=factor),
        Derivation(f"control-{factor:g}", "control", factor=factor),
        *(layers_derivation(below, above) for below, above in LAYER_DIALS),
    ]


def layers_derivation(below: float, above: float) -> Derivation:
    """The change at one dial below the middle of the blocks and at another above."""
    return Derivation(f"layers-{below:g}-{above:g}", "layers", below=below, above=above)


def derivation_missing(context: JobContext, run: PlannedRun, wanted: Derivation) -> bool:
    """Whether a derivation is not there, or was not scored on the suites as they are."""
    held = context.folder.derived_facts(run.run_id, wanted.name)
    return any(held.get(k) != v for k, v in _suite_hashes(context, run).items())


def _suite_hashes(context: JobContext, run: PlannedRun) -> dict[str, str]:
    return {f"suite {name}": sha256 for name, sha256 in context.suite_hashes(run.model).items()}


def _derive(context: JobContext, run: PlannedRun, wanted: Derivation, weights: Path) -> None:
    base = context.base(run.model)
    adapter = read_adapter(weights)
    changes = _interventions(context, run, adapter) if wanted.factor is not None else None
    factors, facts = _factors(adapter, wanted, changes, context.facts(run.model).layer_count)
    if factors is None:
        return
    with attach(base, GivenFactors(factors, run.arm)):
        keep_derived(context, run, wanted, facts, base)


def keep_derived(
    context: JobContext, run: PlannedRun, wanted: Derivation, facts: dict[str, Any], model: LoadedModel
) -> None:
    """Score the model as it is now on every suite and keep that as this derivation, with what it amounts to."""
    predictions: list[Prediction] = []
    for suite in context.suite_facts(run.model):
        plan = context.suite_plan(run.model, suite)
        predictions += score_suite(
            model.model, model.tokenizer, plan, token_budget=context.evaluate_tokens, desk=context.desk(),
            answers=run_answers(context, run, plan.suite),
        )  # fmt: skip
    metadata = {k: str(v) for k, v in {**asdict(wanted), **facts}.items() if v is not None}
    frame = predictions_frame(run.run_id, predictions)
    context.folder.write_derived(run.run_id, wanted.name, frame, metadata | _suite_hashes(context, run))


Factors = dict[str, LowRank]
"""By module."""


def _factors(
    adapter: Adapter, wanted: Derivation, changes: Factors | None, layer_count: int
) -> tuple[Factors | None, dict[str, Any]]:
    """The factors, and what they amount to. None where the base's SVDs are out of reach."""
    if wanted.below is not None and wanted.above is not None:
        dialled = AfterTraining(wanted.below, wanted.above).factors(adapter.deltas, layer_count)
        return dialled, {"mean_rank": adapter.rank}
    if wanted.factor is None:
        return _truncated(adapter, wanted)
    if changes is None:
        return None, {}
    made: Factors = {}
    for module, delta in adapter.deltas.items():
        change = changes[module]
        made[module] = with_change(delta, change) if wanted.derivation == "intruders" else control(delta, change)
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


def _interventions(context: JobContext, run: PlannedRun, adapter: Adapter) -> Factors | None:
    """(factor - 1) times the intruder part of W0 + delta by module, of rank q, which may be 0."""
    factor, cache = context.study.analysis.intruder_factor, SvdCache()
    weights = matrices(context.base(run.model).model, adapter.deltas)
    sha = context.facts(run.model).content_sha256
    made: Factors = {}
    for module, delta in adapter.deltas.items():
        weight = whole_tensor(weights[module])
        content = f"{sha} {weight.dtype} {module}"
        if min(weight.shape) > WIDEST and not cache.holds(weight, content):
            return None
        made[module] = intruder_change(cache, weight, content, delta.to(weight.device), factor)
    return made
