"""A process's hold on one study: settings and plan read, rows encoded once, base models loaded once."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from rankscope.data.encode_study import Prepared, prepare
from rankscope.edges.machine import commit, machine_line, versions
from rankscope.edges.study_folder import FolderStore, RunCheckpoints
from rankscope.evaluate.score_suites import SuitePlan
from rankscope.model.load import LoadedModel, load_model, load_tokenizer
from rankscope.plan.make_plan import dtype_of
from rankscope.records import ModelFacts, Plan, PlannedRun, PlannedSearch, Provenance, RunRecord, RunStatus
from rankscope.study.objective import SUPERVISED
from rankscope.study.resolved_study import read_resolved
from rankscope.study.study import ModelSpec, Study
from rankscope.train.fit import FitSettings
from rankscope.train.objective import OBJECTIVES, Objective
from rankscope.train.training_state import FitResult

EVALUATE_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens in one scoring batch, by device; fixed, since another batching may round differently."""

_STATUS_SECONDS = 1.0


class Bench:
    """What the jobs of one study share inside a process."""

    def __init__(self, folder: Path) -> None:
        self.store = FolderStore(folder)
        self.folder = folder
        self.study: Study = read_resolved(folder / "study.yaml")
        plan = self.store.read_plan()
        if plan is None:
            raise FileNotFoundError(f"{folder} holds no plan.json")
        self.plan: Plan = plan
        self._prepared: dict[str, Prepared] = {}
        self._bases: dict[str, LoadedModel] = {}
        self._suite_plans: dict[tuple[str, str], SuitePlan] = {}

    @cached_property
    def runs(self) -> dict[str, PlannedRun]:
        return {run.run_id: run for run in self.plan.runs}

    @cached_property
    def searches(self) -> dict[str, PlannedSearch]:
        return {search.search_id: search for search in self.plan.searches}

    @property
    def evaluate_tokens(self) -> int:
        return EVALUATE_TOKENS[self.plan.resolved.device]

    @property
    def objective(self) -> Objective:
        """What the study's runs minimise."""
        return OBJECTIVES[SUPERVISED.name]

    def spec(self, model: str) -> ModelSpec:
        return next(spec for spec in self.study.models if spec.name == model)

    def facts(self, model: str) -> ModelFacts:
        return next(facts for facts in self.plan.models if facts.name == model)

    def prepared(self, model: str) -> Prepared:
        if model not in self._prepared:
            spec = self.spec(model)
            tokenizer = load_tokenizer(spec, self.folder)
            context_tokens = self.facts(model).context_tokens - self.study.virtual_tokens
            self._prepared[model] = prepare(self.study, self.folder, tokenizer, context_tokens, spec.system_prompt)
        return self._prepared[model]

    def plan_of(self, model: str, suite: str) -> SuitePlan:
        """The suite with its scoring batches, planned once for all runs of this process."""
        key = (model, suite)
        if key not in self._suite_plans:
            self._suite_plans[key] = SuitePlan(self.prepared(model).suites[suite][0], self.evaluate_tokens)
        return self._suite_plans[key]

    def base(self, model: str, *, own: bool = False) -> LoadedModel:
        """The frozen base, shared by all LoRA jobs of this process; `own`: a fresh one whose weights may change."""
        if own:
            self._make_room()
            return self._load(model)
        if model not in self._bases:
            self._bases.clear()  # one base at a time: they may be large
            self._bases[model] = self._load(model)
        return self._bases[model]

    def fine_tuned(self, model: str, weights: Path) -> LoadedModel:
        """A fully fine-tuned copy of the base, from the folder of its weights."""
        self._make_room()
        return self._load(model, weights)

    def _make_room(self) -> None:
        """The plan counts one model for each worker: on a GPU a shared base would stand in the way of a whole one."""
        if self.plan.resolved.device == "cuda":
            self._bases.clear()

    def _load(self, model: str, weights: Path | None = None) -> LoadedModel:
        spec, resolved = self.spec(model), self.plan.resolved
        return load_model(spec, self.folder, dtype_of(spec, resolved), resolved.device, weights=weights)

    # ---- records ----

    def micro_batch_tokens(self, run: PlannedRun | PlannedSearch) -> int:
        """What the study gives, or was measured to be best for the run's base and training set, or the plan's."""
        given = self.study.execution.micro_batch_tokens
        packing = self.store.read_packing(run.model, run.train_set)
        if isinstance(given, int):
            return given
        return packing.micro_batch_tokens if packing is not None else self.plan.resolved.micro_batch_tokens

    def fit_settings(self, learning_rate: float, seed: int, micro_batch_tokens: int) -> FitSettings:
        return FitSettings(
            learning_rate=learning_rate,
            seed=seed,
            budget=self.study.budget,
            optimizer=self.study.optimizer,
            micro_batch_tokens=micro_batch_tokens,
            checkpoint_seconds=60.0 * self.study.checkpoint.minutes,
            objective=self.objective,
        )

    def checkpoints(self, run_id: str) -> RunCheckpoints:
        return RunCheckpoints(self.store.run_folder(run_id) / "checkpoint.safetensors")

    def write_status(self, status: RunStatus) -> None:
        self.store.write_status(
            status.model_copy(update={"updated_at": datetime.now(UTC).isoformat(timespec="seconds")})
        )

    def write_run(self, run_id: str, model: str, run: PlannedRun | None, learning_rate: float | None) -> None:
        """run.json: settings as resolved, and where the numbers come from."""
        wanted = (model, run.train_set) if run is not None else None
        train = next((t for t in self.plan.train_sets if (t.model, t.name) == wanted), None)
        dump = self.study.model_dump(mode="json", by_alias=True)
        self.store.write_run(
            RunRecord(
                run_id=run_id,
                model=model,
                train_set=run.train_set if run is not None else None,
                arm=run.arm if run is not None else None,
                seed=run.seed if run is not None else None,
                learning_rate=learning_rate,
                resolved=self.plan.resolved,
                settings={key: dump[key] for key in ("budget", "optimizer", "validation")},
                provenance=Provenance(
                    commit=commit(),
                    versions=versions(),
                    machine=machine_line(),
                    model_sha256=self.facts(model).content_sha256,
                    train_sha256=train.content_sha256 if train is not None else None,
                    suites_sha256={
                        suite.name: suite.content_sha256 for suite in self.plan.suites if suite.model == model
                    },
                ),
            )
        )


class StatusWriter:
    """Writes a run's progress into its status.json about once a second."""

    def __init__(self, bench: Bench, status: RunStatus) -> None:
        self._bench, self._status, self._last = bench, status, 0.0

    def __call__(self, result: FitResult) -> None:
        if time.monotonic() - self._last < _STATUS_SECONDS:
            return
        self._last = time.monotonic()
        update: dict[str, object] = {
            "steps_done": len(result.steps),
            "train_seconds": result.train_seconds,
            "peak_memory_bytes": result.peak_memory_bytes,
        }
        if result.steps:
            update["final_train_loss"] = result.steps[-1].loss_nats_per_token
        self._bench.write_status(self._status.model_copy(update=update))


_BENCHES: dict[tuple[str, str], Bench] = {}


def bench(folder: str) -> Bench:
    """This process's bench for the study as it is planned now."""
    texts = [(Path(folder) / name).read_text(encoding="utf-8") for name in ("plan.json", "study.yaml")]
    key = (folder, "\n".join(texts))
    if key not in _BENCHES:
        _BENCHES.clear()
        _BENCHES[key] = Bench(Path(folder))
    return _BENCHES[key]
