"""plan.json: models, training sets, suites and machine as they were found; every run, what it costs and can tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from rankscope.records.data_facts import TrainFacts
from rankscope.records.gang_record import Gang, Placed
from rankscope.records.machine_facts import Device
from rankscope.records.record_base import FORMAT_VERSION, Record
from rankscope.records.schedule_record import Schedule
from rankscope.records.settings_record import PlannedChoice
from rankscope.records.suite_record import SuiteFacts
from rankscope.study.methods import Arm, MethodName


class ModelFacts(Record):
    """A base model, looked at without loading its weights. Shapes are (out, in), as in `delta`."""

    name: str
    source: str
    revision: str | None
    content_sha256: str
    architecture: str
    parameter_count: int
    hidden_size: int
    layer_count: int
    vocab_size: int
    context_tokens: int
    tied_embeddings: bool
    linear_shapes: dict[str, tuple[int, int]]
    """Every linear module inside the blocks (never the output head) by its full path."""
    norm_parameters: dict[str, int] = {}
    """Parameters of every normalisation, by its path."""
    block_parameters: list[int] = []  # from the first block
    quantization: Literal["nf4"] | None = None
    """How the linear modules' weights are held in memory; None: in the compute dtype."""
    checkpointing: bool = True
    """Whether the architecture can compute its activations again in the backward pass."""
    vocabulary_parameters: int = 0
    """Embeddings of tokens and positions, and the output head; once where it is tied."""
    key_value_width: int = 0
    """Width of a layer's keys over all its key heads; 0 where the model keeps anything but keys and values."""


class SourceState(Record):
    """A file (or a data set of the hub, or a task of lm-eval) that rows come from, as it was when they were encoded.

    A source of several files has a state for each: the file beside `aliases.json`, every file of a folder, a task's
    YAML and the Python beside it. A file that was not there has neither size nor hash.
    """

    name: str
    """The training set or suite, as the study places it: `train.medical`, `suites.medqa`."""
    file: str
    """As the study names it, or the path of a file that belongs to it."""
    path: str | None = None
    """The file's absolute path."""
    size_bytes: int | None = None
    modified_ns: int | None = None
    sha256: str | None = None
    revision: str | None = None
    """In place of a file's size and hash: the commit of a hub data set, or the version of the package it is part of."""


class StudyMarker(Record):
    """rankscope-study.json: the first file of a study folder, which says whose folder it is."""

    format_version: int = FORMAT_VERSION
    study: str
    study_sha256: str
    """Of study.yaml as the folder was begun with; settings may change later."""


RUNG_FRACTIONS = (0.25, 1.0)
"""Where a rate search measures its candidates, as shares of a run: all of them, then those that are trained through."""


class Resolved(Record):
    """What is decided once, stored in plan.json and reused on resume."""

    dtype: Literal["float32", "bfloat16"]
    device: Device
    worker_count: int
    thread_count: int
    micro_batch_tokens: int
    gpus: list[int] = []
    """The GPUs that are used, as torch counts those that it sees: a worker on each; empty on a CPU. Of several nodes
    those of each."""
    node_count: int = 1
    """Machines among which the workers are shared out, each with as many."""
    gangs: dict[str, Gang] = {}
    """Of arms that one device does not hold, by model, training set and label: a gang stays as large as it began."""
    scoring_gangs: dict[str, Gang] = {}
    """The same of what one device does not hold even to score it; of a base by its model's name."""
    checkpointed: list[str] = []
    """Arms that compute their activations twice, by the same keys as `gangs`, since memory does not hold them."""

    @property
    def workers_a_node(self) -> int:
        """Workers that share a machine's memory and cores."""
        return max(1, self.worker_count // self.node_count)


class PlannedRun(Placed):
    """One arm on one training set of one base model with one seed, and what it will cost."""

    run_id: str
    model: str
    train_set: str
    arm: Arm
    seed: int
    trainable_parameters: int
    step_count: int
    train_tokens: int
    """Of the task, the same for every arm."""
    replay_tokens: int = 0
    """What is trained on beside these."""
    train_flops: float
    evaluate_flops: float
    memory_bytes: int
    disk_bytes: int
    seconds: float
    fits: bool = True
    reason: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    search_id: str | None = None
    """The search that finds this run's learning rate; None where the study gives it."""
    memory_parts_bytes: dict[str, int] = {}
    """What `memory_bytes` is the sum of, as docs/plan.md has it."""
    kept_disk_bytes: int = 0
    """What of `disk_bytes` stays when the run is done."""
    dials: list[float] = [1.0]
    """The dials s at which it is scored, W0 + s (W - W0), ascending; 1 is the run as it was trained."""
    dial_seconds: float = 0.0  # of `seconds`, scoring at the other dials
    remedy_seconds: float = 0.0
    """Of `seconds`, what training takes longer than without the arm's remedy."""
    checkpointing: bool = False
    """Whether activations are computed again in the backward pass: by the study, or since memory does not hold them."""


class PlannedSearch(Placed):
    """The learning-rate search of one arm (or of several that share a rate), before its runs.

    `rates` are tried first; none are known of a search that goes by others: `after` are their ids, the nearest rank
    first, and `wave` how many searches it waits for one after another. `tries`: the rates of either. `runs`: what each
    arm trains, in whole runs, where no rate lies beyond those.
    """

    search_id: str
    model: str
    train_set: str
    arms: list[Arm]
    rates: list[float]
    seed: int
    step_count: int
    train_flops: float
    seconds: float
    after: list[str] = []
    wave: int = 0
    tries: int = 0
    runs: float = 0.0

    def share_done(self, rungs: Iterable[str]) -> float:
        """Updates done over those that the search is expected to need, 0 to 1; `rungs` are each `arm rate step`."""
        reached: dict[str, int] = {}
        for key in rungs:
            candidate, step = key.rsplit(" ", 1)
            reached[candidate] = max(reached.get(candidate, 0), int(step))
        total = self.step_count * self.runs * len(self.arms)
        return min(1.0, sum(reached.values()) / total) if total else 0.0


class MeasuredSpeed(Record):
    """What a few real steps of one arm and a few scored items took, in one worker beside the others."""

    model: str
    train_set: str
    arm: str
    method: MethodName
    trainable_parameters: int
    train_seconds_per_token: float
    validation_seconds_per_token: float
    evaluate_seconds: float
    """Scoring every suite once, from a seeded sample of the items of each."""
    peak_memory_bytes: int


class PlannedPower(Record):
    """What one base model and training set can be expected to tell, on assumed variances (docs/measures.md).

    The chances are that an arm as good as the best is found good enough, and that one which forgets nothing is found
    eligible; seeds_for_power and items_for_power (of the smallest suite, all stretched alike) bring both to four in
    five, None where no reasonable number does. expected_runs: with adaptive seeds, where arms are equal and forget
    nothing.
    """

    model: str
    train_set: str
    arms: int
    seeds: int
    in_domain_items: int
    other_items: int
    detectable_gain: float
    detectable_forgetting: float | None
    chance_good_enough: float
    chance_eligible: float
    seeds_for_power: int | None
    items_for_power: int | None
    expected_runs: int | None = None
    said: list[str] = []
    """The same in plain words."""


class Plan(Record):
    """plan.json: every run of a study."""

    format_version: int = FORMAT_VERSION
    study: str
    resolved: Resolved
    models: list[ModelFacts]
    train_sets: list[TrainFacts]
    suites: list[SuiteFacts]
    searches: list[PlannedSearch]
    runs: list[PlannedRun]
    warnings: list[str] = []
    base_seconds: float = 0.0
    """Scoring the bases, once each."""
    derived_seconds: float = 0.0
    """Scoring runs that are made from others without training."""
    measured: list[MeasuredSpeed] = []
    """What `--measure` found; empty where the times are arithmetic alone."""
    choices: list[PlannedChoice] = []
    """How settings are chosen, of every base model and training set; empty in plans from before there were dials."""
    looks: list[int] = []
    """With adaptive seeds the numbers of seeds after which the verdict is asked; `runs` are then the most."""
    power: list[PlannedPower] = []
    sources: list[SourceState] = []
    """Where the rows came from, and what those files were: a change since then is noticed."""
    model_files: list[SourceState] = []
    """The same of the base models' folders, `name` the model's; a job compares before it loads."""
    schedule: Schedule | None = None
    """Where and when each job is expected to run."""

    @property
    def base_ids(self) -> dict[str, str]:
        """The base models' own run ids, by model name: their folders under the study."""
        if len(self.models) == 1:
            return {self.models[0].name: "base"}
        return {facts.name: f"base/{facts.name}" for facts in self.models}

    @property
    def device_hours(self) -> float:
        """Hours of all devices together: those of a gang count for each of its devices, scoring too."""
        if self.schedule is not None:
            return sum(job.seconds * len(job.devices) for job in self.schedule.jobs) / 3600
        trained: list[PlannedRun | PlannedSearch] = [*(run for run in self.runs if run.fits), *self.searches]
        seconds = sum(one.seconds * one.devices for one in trained)
        return (seconds + self.base_seconds + self.derived_seconds) / 3600

    def base_gang(self, model: str) -> Gang:
        """The devices that hold a base together while it is scored."""
        return self.resolved.scoring_gangs.get(model, Gang())

    def disk_bytes(self, runs: Sequence[PlannedRun]) -> int:
        """What stays of all `runs`, and what each worker's run has beside it while it trains."""
        beside = sorted((run.disk_bytes - run.kept_disk_bytes for run in runs), reverse=True)
        return sum(run.kept_disk_bytes for run in runs) + sum(beside[: self.resolved.worker_count])

    def choice_of(self, model: str, train_set: str) -> PlannedChoice:
        """How settings are chosen there; in an older plan by the loss alone."""
        found = (one for one in self.choices if (one.model, one.train_set) == (model, train_set))
        return next(found, PlannedChoice(model=model, train_set=train_set, select="loss"))

    def gave_prompts(self, model: str, train_set: str, arm: Arm) -> tuple[str, ...]:
        """The suites that gave the prompts of what an arm replays."""
        train = next(facts for facts in self.train_sets if (facts.model, facts.name) == (model, train_set))
        return train.gave_prompts(arm)

    def item_count(self, model: str) -> int:
        """Items that a run of this base model is scored on."""
        return sum(suite.item_count for suite in self.suites if suite.model == model)
