"""Per-process cache of a study: its settings, plan, token files and loaded base models, shared by its jobs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rankscope.analyse.kept_base import KeptBase
from rankscope.data.token_files import TrainingSet, open_suite, open_training
from rankscope.edges.executors import WorkPlace
from rankscope.edges.machine import commit, machine_line, versions
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.first_tokens import KeptBatches
from rankscope.evaluate.judge_grading import Desk
from rankscope.evaluate.score_suites import SuitePlan
from rankscope.jobs.attempts import Attempts
from rankscope.model.attention.registration import HeldPaths, share_answers
from rankscope.model.load import LoadedModel, load_model
from rankscope.model.model_checks import check_model_files
from rankscope.model.sharding.team import SOLO, Team
from rankscope.plan.checkpointing_choice import KEEPS, CheckpointsBlocks, may_checkpoint
from rankscope.plan.resolve import dtype_of, samples_id
from rankscope.plan.run_time import SCORING_BATCH_TOKENS
from rankscope.records import (
    ModelFacts,
    Plan,
    PlannedRun,
    PlannedSearch,
    Provenance,
    ReplayFacts,
    RunRecord,
    RunStatus,
    Suite,
    SuiteFacts,
)
from rankscope.study.read_study import study_of
from rankscope.study.study import SUPERVISED, Arm, ModelSpec, Study
from rankscope.train.fit import FitSettings
from rankscope.train.objective import OBJECTIVES, Objective
from rankscope.train.remedies import NONE, Remedies

_NOWHERE = Path("/")  # what relative paths would start at: a study in its folder has none


class JobContext:
    """What the jobs of one study share inside a process. `stop_requested` is asked between steps and items."""

    in_gang = False
    """Whether this is a process of a gang (it may be its only one): an error ends it, and its parent takes it up."""

    def __init__(self, folder: StudyFolder, text: str, plan: Plan) -> None:
        self.folder = folder
        self.study: Study = study_of(text)
        self.plan = plan
        self.place = WorkPlace(lambda: False)
        self.stop_requested: Callable[[], bool] = self.place.stop_requested
        self.team: Team = SOLO
        self._training: dict[tuple[str, str], TrainingSet] = {}
        self._suites: dict[tuple[str, str], Suite] = {}
        self._bases: dict[str, LoadedModel] = {}
        self._first_logprobs: tuple[str, KeptBatches] = ("", {})
        self._suite_plans: dict[tuple[str, str], SuitePlan] = {}
        self._kept_bases: dict[str, KeptBase] = {}
        self._held_paths: dict[str, HeldPaths] = {}
        self._tokenizers: dict[str, PreTrainedTokenizerBase] = {}  # a large vocabulary takes seconds to read
        self._attempts = Attempts()

    def begin(self, place: WorkPlace) -> None:
        """A job begins here: what it works on is a new attempt."""
        self.place, self.stop_requested, self._attempts = place, place.stop_requested, Attempts()

    @cached_property
    def runs(self) -> dict[str, PlannedRun]:
        """Every planned run, by its id."""
        return {run.run_id: run for run in self.plan.runs}

    @cached_property
    def searches(self) -> dict[str, PlannedSearch]:
        """Every planned search, by its id."""
        return {search.search_id: search for search in self.plan.searches}

    @property
    def evaluate_tokens(self) -> int:
        """Tokens of one scoring batch."""
        return SCORING_BATCH_TOKENS[self.plan.resolved.device]

    @property
    def objective(self) -> Objective:
        """What the study's runs minimise."""
        return OBJECTIVES[SUPERVISED.name]

    def spec(self, model: str) -> ModelSpec:
        """What the study says of a base model."""
        return next(spec for spec in self.study.models if spec.name == model)

    def facts(self, model: str) -> ModelFacts:
        """What the plan says of a base model."""
        return next(facts for facts in self.plan.models if facts.name == model)

    # ---- rows as tokens ----

    def training(self, model: str, train_set: str) -> TrainingSet:
        """What the runs of a training set train and validate on."""
        key = (model, train_set)
        if key not in self._training:
            facts = next(t for t in self.plan.train_sets if (t.model, t.name) == key)
            self._training[key] = open_training(self.folder.tokens(facts.content_sha256), facts)
        return self._training[key]

    def suite(self, model: str, name: str) -> Suite:
        """A suite as tokens, read from the study folder and kept for this process."""
        key = (model, name)
        if key not in self._suites:
            facts = self.suite_facts(model)[name]
            self._suites[key] = open_suite(self.folder.tokens(facts.content_sha256), facts)
        return self._suites[key]

    def suite_facts(self, model: str) -> dict[str, SuiteFacts]:
        """The suites that a model is asked, by name, in the study's order."""
        return {facts.name: facts for facts in self.plan.suites if facts.model == model}

    def suite_hashes(self, model: str) -> dict[str, str]:
        """The content hash of every suite that a model is asked, by name."""
        return {name: facts.content_sha256 for name, facts in self.suite_facts(model).items()}

    def suite_plan(self, model: str, name: str) -> SuitePlan:
        """The suite with its scoring batches, planned once for all runs of this process."""
        key = (model, name)
        if key not in self._suite_plans:
            self._suite_plans[key] = SuitePlan(self.suite(model, name), self.evaluate_tokens)
        return self._suite_plans[key]

    def desk(self, *, twice: bool = False) -> Desk:
        """What grading uses of this study; `twice` as of `Desk`."""
        return Desk(self.folder, lambda: self.stop_requested(), twice)

    # ---- models ----

    def base(self, model: str, *, own: bool = False, arm: Arm | None = None) -> LoadedModel:
        """The frozen base, shared by all LoRA jobs of this process; `own`: a fresh one whose weights `arm` changes."""
        if own:
            self.make_room()
            return self._load(model)
        if model not in self._bases:
            self._bases.clear()  # one base at a time: they may be large
            self._bases[model] = self._load(model)
        return self._bases[model]

    def kept_base(self, model: str) -> KeptBase:
        """What a base left of its probe items, for the runs of this process that are looked into."""
        if model not in self._kept_bases:
            self._kept_bases.clear()  # as for bases
            self._kept_bases[model] = KeptBase()
        return self._kept_bases[model]

    def first_logprobs(self, model: str) -> KeptBatches:
        """What a base says first after the prompts that choose, for the runs of this process."""
        if self._first_logprobs[0] != model:
            self._first_logprobs = (model, {})
        return self._first_logprobs[1]

    def fine_tuned(self, model: str, weights: Path, *, beside: bool = False) -> LoadedModel:
        """A fully fine-tuned copy of the base, from the folder of its weights; `beside`: the base stays loaded."""
        if not beside:
            self.make_room()
        return self._load(model, weights)

    def make_room(self) -> None:
        """The plan counts one model for each worker: on a GPU a shared base would stand in the way of a whole one."""
        if self.plan.resolved.device == "cuda":
            self._bases.clear()

    def _load(self, model: str, weights: Path | None = None) -> LoadedModel:
        spec, resolved = self.spec(model), self.plan.resolved
        check_model_files([state for state in self.plan.model_files if state.name == model])
        known = self._tokenizers.get(model)
        loaded = load_model(
            spec, _NOWHERE, dtype_of(spec, resolved), resolved.device, weights=weights, tokenizer=known
        )  # fmt: skip
        self._tokenizers[model] = loaded.tokenizer
        share_answers(loaded.model, self._held_paths.setdefault(model, {}))
        return loaded

    # ---- settings ----

    def micro_batch_tokens(self, run: PlannedRun | PlannedSearch) -> int:
        """What the study gives, or was measured to be best for the run's base and training set, or the plan's."""
        given = self.study.execution.micro_batch_tokens
        packing = self.folder.read_packing(run.model, run.train_set)
        if isinstance(given, int):
            return given
        return packing.micro_batch_tokens if packing is not None else self.plan.resolved.micro_batch_tokens

    def dials_of(self, search: PlannedSearch, arm: Arm) -> tuple[float, ...]:
        """The dials at which a search scores what it trained: 1 alone where nothing is chosen for retention."""
        by_loss = self.plan.choice_of(search.model, search.train_set).select == "loss" and arm.dial is None
        return (1.0,) if by_loss else self.study.dials_of(arm)

    def remedies(self, model: str, train_set: str, arm: Arm) -> Remedies:
        """What an arm does beside its task. The samples that it replays are written by then."""
        whole_and_near = arm.traits.whole and arm.retain is not None and arm.retain.kl is not None
        base = self.base(model).model if whole_and_near else None
        train = next(t for t in self.plan.train_sets if (t.model, t.name) == (model, train_set))
        facts = train.replay_of(arm)
        if arm.replay is None or facts is None:
            return Remedies(arm.retain, base=base)
        if facts.samples_sha256 is None:
            path = self.folder.tokens(facts.content_sha256)
        else:
            path = self.folder.samples(self.samples_id(model, facts))
        return Remedies(arm.retain, open_training(path).train, arm.replay.token_share, base)

    def samples_id(self, model: str, facts: ReplayFacts) -> str:
        """Names the samples that a base writes for a replay."""
        return samples_id(facts, self.facts(model), dtype_of(self.spec(model), self.plan.resolved))

    def fit_settings(
        self,
        learning_rate: float,
        seed: int,
        micro_batch_tokens: int,
        remedies: Remedies = NONE,
        checkpointing: CheckpointsBlocks = KEEPS,
    ) -> FitSettings:
        """The settings of one training run."""
        return FitSettings(
            learning_rate=learning_rate, seed=seed, budget=self.study.budget, optimizer=self.study.optimizer,
            micro_batch_tokens=micro_batch_tokens, checkpoint_seconds=60.0 * self.study.checkpoint.minutes,
            objective=self.objective, remedies=remedies, checkpointing=checkpointing.planned,
            may_checkpoint=checkpointing.allowed,
        )  # fmt: skip

    def checkpointing(self, model: str, train_set: str, arm: Arm) -> CheckpointsBlocks:
        """Of an arm's training."""
        own = (model, train_set, arm.label)
        of_arm = [run for run in self.plan.runs if (run.model, run.train_set, run.arm.label) == own]
        allowed = may_checkpoint(self.study.budget, self.facts(model), arm)
        return CheckpointsBlocks(any(run.checkpointing for run in of_arm), allowed)

    def run_settings(self, run: PlannedRun, learning_rate: float) -> FitSettings:
        """Those of a planned run at this rate, its remedies among them."""
        remedies = self.remedies(run.model, run.train_set, run.arm)
        checkpointing = self.checkpointing(run.model, run.train_set, run.arm)
        return self.fit_settings(learning_rate, run.seed, self.micro_batch_tokens(run), remedies, checkpointing)

    def search_settings(self, search: PlannedSearch, arm: Arm, learning_rate: float) -> FitSettings:
        """Those of an arm that a search tries at this rate."""
        remedies = self.remedies(search.model, search.train_set, arm)
        checkpointing = self.checkpointing(search.model, search.train_set, arm)
        return self.fit_settings(learning_rate, search.seed, self.micro_batch_tokens(search), remedies, checkpointing)

    # ---- records ----

    def write_status(self, status: RunStatus) -> None:
        """Keep a run's status with the time of now. Raises Superseded where a later attempt has begun."""
        now, attempt = datetime.now(UTC), self._attempts.number(self.folder, status.run_id)
        update = {"updated_at": now.isoformat(timespec="seconds"), "attempt": attempt}
        self.folder.write_status(status.model_copy(update=update))

    def write_run(self, run_id: str, model: str, run: PlannedRun | None, learning_rate: float | None) -> None:
        """run.json: settings as resolved, and where the numbers come from."""
        wanted = (model, run.train_set) if run is not None else None
        train = next((t for t in self.plan.train_sets if (t.model, t.name) == wanted), None)
        dump = self.study.model_dump(mode="json", by_alias=True)
        self.folder.write_run(
            RunRecord(
                run_id=run_id, model=model, train_set=run.train_set if run is not None else None,
                arm=run.arm if run is not None else None, seed=run.seed if run is not None else None,
                learning_rate=learning_rate, resolved=self.plan.resolved,
                settings={key: dump[key] for key in ("budget", "optimizer", "validation")},
                provenance=Provenance(
                    commit=commit(), versions=versions(), machine=machine_line(self.plan.resolved.device),
                    model_sha256=self.facts(model).content_sha256,
                    train_sha256=train.content_sha256 if train is not None else None,
                    suites_sha256=self.suite_hashes(model),
                ),
            )
        )  # fmt: skip


_CONTEXTS: dict[tuple[str, str, str], JobContext] = {}


def job_context(url: str, place: WorkPlace) -> JobContext:
    """This process's context for the study as it is planned now; one study at a time is kept."""
    folder = StudyFolder.open(url)
    text, plan = folder.read_study_text(), folder.read_plan()
    if text is None or plan is None:
        raise FileNotFoundError(f"{url} holds no study and plan")
    key = (url, text, plan.model_dump_json())
    if key not in _CONTEXTS:
        _CONTEXTS.clear()
        _CONTEXTS[key] = JobContext(folder, text, plan)
    _CONTEXTS[key].begin(place)
    return _CONTEXTS[key]
