"""What each stage hands to the next: frozen, versioned records. Imports no stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from rankscope.config.study import Arm, Kind, Method

FORMAT_VERSION = 1
"""The layout of the JSON records and tables below; a reader refuses a newer one."""

RESULTS_VERSION = 2
"""Part of every run id: raised when the same settings would give other numbers."""

Form = Literal["choices", "open", "number", "text"]
State = Literal["planned", "running", "done", "failed", "diverged", "does not fit", "not needed"]
Relation = Literal["in-domain", "out-of-domain", "general"]


class Record(BaseModel):
    """A record that is written to disk as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# ---- data: rows and encoded rows ------------------------------------------------------------------------------------


class Turn(NamedTuple):
    """One turn of a conversation, without white space around it."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Row:
    """One row as read and checked. Exactly one of the shapes: choices, answer, prompt + completion, text, messages.

    `messages` ends with an assistant's turn, and a user's stands before the first of those.
    """

    item_id: str
    place: str
    question: str | None = None
    context: str | None = None
    choices: tuple[str, ...] | None = None
    answer_index: int | None = None
    answer: str | None = None
    aliases: tuple[str, ...] = ()
    rationale: str | None = None
    prompt: str | None = None
    completion: str | None = None
    text: str | None = None
    messages: tuple[Turn, ...] | None = None
    cluster: str | None = None
    """Rows of one cluster (questions on one text, say) are no independent evidence."""


@dataclass(frozen=True)
class Example:
    """A training row as tokens: loss on `completion_ids` (the learned EOS included), none on `prompt_ids`.

    `loss_mask`, over prompt and completion together, says which tokens have loss where that is not so: in a
    conversation of several assistant's turns. Nothing of `prompt_ids` ever has loss.
    """

    item_id: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...] | None = None

    @property
    def token_count(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def target_count(self) -> int:
        """Tokens with loss."""
        return len(self.completion_ids) if self.loss_mask is None else sum(self.loss_mask)


@dataclass(frozen=True)
class Item:
    """A suite's item as tokens. A text's tokens are its one choice, after an empty or BOS-only prompt."""

    item_id: str
    form: Form
    prompt_ids: tuple[int, ...]
    choices_ids: tuple[tuple[int, ...], ...] = ()
    choice_characters: tuple[int, ...] = ()
    answer_index: int | None = None
    answers: tuple[str, ...] = ()
    text_bytes: int = 0
    prompt_text: str = ""
    choice_texts: tuple[str, ...] = ()
    cluster: str | None = None
    parts: tuple[Item, ...] = ()
    """Where choices follow different prompts: an item for each prompt, whose choices in order are this item's."""


@dataclass(frozen=True)
class Graded:
    """What a suite's own grader says of one item; scores from 0 to 1."""

    score: float
    score_normalized: float | None
    predicted: str | None
    answer: str | None


@dataclass(frozen=True)
class Grading:
    """How a suite of lm-eval is answered and graded. `grade` takes ids of items and for each what the model gave to
    each of its requests: (log-likelihood, is greedy) for each choice, or the text written until one of `stops`."""

    stops: tuple[str, ...]
    needs_greedy: bool
    grade: Callable[[Sequence[str], Sequence[Sequence[Any]]], list[Graded]]


@dataclass(frozen=True)
class Suite:
    """Encoded items of one suite with what the verdict needs to know of it. `left_out` maps a reason to a count.
    `grading` is None where an item's form says how it is graded."""

    name: str
    domain: str | None
    kind: Kind | None
    items: tuple[Item, ...]
    max_new_tokens: int = 256
    left_out: dict[str, int] = field(default_factory=dict)
    grading: Grading | None = None


# ---- facts: what the plan calculates with ---------------------------------------------------------------------------


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
    block_parameters: list[int] = []
    """Parameters of every block, from the first."""
    quantization: Literal["nf4"] | None = None
    """How the linear modules' weights are held in memory; None: in the compute dtype."""
    checkpointing: bool = True
    """Whether the architecture can compute its activations again in the backward pass."""
    vocabulary_parameters: int = 0
    """Embeddings of tokens and positions, and the output head; once where it is tied."""
    key_value_width: int = 0
    """Width of a layer's keys over all its key heads; 0 where the model keeps anything but keys and values."""


class TrainFacts(Record):
    """A training set after the rules on lengths and overlap."""

    model: str = ""
    """The base model whose tokenizer counted; filled in by the plan."""
    name: str
    domain: str | None
    content_sha256: str
    row_count: int
    validation_count: int
    token_count: int
    completion_token_count: int
    dropped: dict[str, int] = {}
    warnings: list[str] = []
    revision: str | None = None
    """Commit of a hub data set, or the fingerprint of a local one; None for a file or the bundled world."""


class HarnessFacts(Record):
    """The task of lm-eval that a suite is; `task_sha256` is lm-eval's own `task_hashes` entry for these documents."""

    task: str
    output_type: str
    version: int | float | str | None
    task_sha256: str
    num_fewshot: int
    metric: str | None
    filter: str
    lm_eval_version: str


class SuiteFacts(Record):
    """A suite, as scored."""

    model: str = ""
    """The base model whose tokenizer counted; filled in by the plan."""
    name: str
    domain: str | None
    kind: Kind | None
    form: Form
    content_sha256: str
    item_count: int
    token_count: int
    max_new_tokens: int
    left_out: dict[str, int] = {}
    revision: str | None = None
    """Commit of a hub data set, or the fingerprint of a local one; None for a file or the bundled world."""
    harness: HarnessFacts | None = None


class MachineFacts(Record):
    """What the plan may count on."""

    device: Literal["cpu", "cuda"]
    device_name: str
    core_count: int
    memory_bytes: int
    device_memory_bytes: int
    bfloat16_is_fast: bool
    disk_free_bytes: int
    bitsandbytes: bool = False
    """Whether the package that quantises is installed."""
    flops_per_second: float | None = None
    """Matrix-product speed measured in the compute dtype, one worker; None where it was not measured."""


class Resolved(Record):
    """What is decided once, stored in plan.json and reused on resume."""

    dtype: Literal["float32", "bfloat16"]
    device: Literal["cpu", "cuda"]
    worker_count: int
    thread_count: int
    micro_batch_tokens: int


# ---- plan and runs --------------------------------------------------------------------------------------------------


class PlannedRun(Record):
    """One arm on one training set of one base model with one seed, and what it will cost."""

    run_id: str
    model: str
    train_set: str
    arm: Arm
    seed: int
    trainable_parameters: int
    step_count: int
    train_tokens: int
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


class PlannedSearch(Record):
    """The learning-rate search of one arm (or of several that share a rate), before its runs."""

    search_id: str
    model: str
    train_set: str
    arms: list[Arm]
    rates: list[float]
    seed: int
    step_count: int
    train_flops: float
    seconds: float


class Packing(Record):
    """packing/NAME.json: how many LoRA arms of one base and training set train together, and the tokens of a
    micro-batch; decided once, from a few steps, and the same on resume.

    `seconds_per_token` maps `ARMS x TOKENS` to the measured seconds of a step per token of one arm.
    """

    model: str
    train_set: str
    arms_together: int
    micro_batch_tokens: int
    seconds_per_token: dict[str, float] = {}


class PackMembers(Record):
    """packs/DIGEST.json: the runs that began to train together, while not all of them are trained."""

    run_ids: list[str]


class MeasuredSpeed(Record):
    """What a few real steps of one arm and a few scored items took, in one worker beside the others."""

    model: str
    train_set: str
    arm: str
    method: Method
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
    looks: list[int] = []
    """With adaptive seeds the numbers of seeds after which the verdict is asked; `runs` are then the most."""
    power: list[PlannedPower] = []


class Provenance(Record):
    """Where a number came from."""

    commit: str | None
    versions: dict[str, str]
    machine: str
    model_sha256: str
    train_sha256: str | None
    suites_sha256: dict[str, str]


class RunRecord(Record):
    """run.json: the settings of a run as they were resolved."""

    format_version: int = FORMAT_VERSION
    run_id: str
    model: str
    train_set: str | None
    arm: Arm | None
    seed: int | None
    learning_rate: float | None
    resolved: Resolved
    settings: dict[str, Any]
    provenance: Provenance


class RunStatus(Record):
    """status.json: written whole at each change of state; a run is done when `state` says so."""

    format_version: int = FORMAT_VERSION
    run_id: str
    state: State
    reason: str | None = None
    steps_done: int = 0
    steps_total: int = 0
    items_scored: int = 0
    trainable_parameters: int | None = None
    final_train_loss: float | None = None
    validation_loss: float | None = None
    train_seconds: float | None = None
    evaluate_seconds: float | None = None
    peak_memory_bytes: int | None = None
    adapter_bytes: int | None = None
    arms_together: int | None = None
    """Arms that trained in one pack, this one included; `train_seconds` is its share of their time."""
    micro_batch_tokens: int | None = None
    """Tokens of a micro-batch, of all arms together, when training ended: fewer than planned where memory ran out."""
    updated_at: str = ""


class StepRecord(Record):
    """A line of train.jsonl. Loss is the mean over the batch's completion tokens, before the update."""

    step: int
    loss_nats_per_token: float
    learning_rate: float
    gradient_norm: float
    completion_tokens: int


class ProbedRate(Record):
    """A candidate of a search on the probe items of one suite: measured after the choice, never used for it."""

    arm: str
    learning_rate: float
    steps: int
    suite: str
    accuracy: float


class SearchRecord(Record):
    """search.json: a learning-rate search. `losses[i][k]`: rate i after rung k, None where it was dropped.

    `rates` may reach beyond the planned grid, where the best was its last. `probe_items` are the item ids that
    `probed` is of, by suite.
    """

    format_version: int = FORMAT_VERSION
    search_id: str
    model: str
    train_set: str
    arms: list[str]
    seed: int
    rates: list[float]
    rung_steps: list[int]
    losses: list[list[float | None]]
    chosen: float | None
    at_end_of_grid: bool
    train_seconds: float
    probe_seconds: float = 0.0
    probe_items: dict[str, list[str]] = {}
    probed: list[ProbedRate] = []


@dataclass(frozen=True)
class Prediction:
    """One item scored: a row of predictions.parquet (docs/records.md says what each column holds)."""

    suite: str
    item_id: str
    score: float | None
    score_normalized: float | None
    f1: float | None
    predicted: str | None
    answer: str | None
    choice_logprobs: tuple[float, ...] | None
    prompt_tokens: int
    loss_nats: float | None = None
    scored_tokens: int | None = None
    text_bytes: int | None = None
    cluster: str | None = None


# ---- verdict --------------------------------------------------------------------------------------------------------


class Interval(Record):
    """A mean with its two-sided interval at the study's confidence; None where the data cannot give one."""

    mean: float | None
    low: float | None
    high: float | None


class ArmCost(Record):
    train_seconds: float | None
    search_seconds: float | None
    peak_memory_bytes: int | None
    adapter_bytes: int | None


class SuiteOutcome(Record):
    """One arm on one suite: accuracy, and its change from the base (mean over seeds)."""

    suite: str
    relation: Relation
    kind: Kind | None
    item_count: int
    base_accuracy: float | None
    accuracy: float | None
    change: Interval


class ArmVerdict(Record):
    """One arm's row of the verdict. `status`: eligible, ineligible, open; or failed, diverged, does not fit."""

    label: str
    method: str
    rank: int | None
    learning_rate: float | None
    trainable_parameters: int | None
    seeds: list[int]
    gain: Interval
    forgetting: Interval
    per_suite: list[SuiteOutcome]
    status: str
    cost: ArmCost


class Recommended(Record):
    label: str
    method: str
    rank: int | None
    alpha: float | None
    targets: list[str] | str | None
    learning_rate: float | None
    trainable_parameters: int


class DetectableEffect(Record):
    """The smallest true difference that this design would find with 80 % power."""

    gain: float | None
    forgetting: float | None


class MoreNeeded(Record):
    """How many seeds (or items per suite, at the present seeds) would decide, were the estimates the truth."""

    seeds: int | None
    items: int | None


class SuiteNoise(Record):
    """How many items of a suite the base answers otherwise when it is merely scored in other batches."""

    suite: str
    item_count: int
    changed_items: int


class Verdict(Record):
    model: str
    train_set: str
    kind: Literal["recommended", "tradeoff", "no_gain", "cannot_distinguish"]
    decided: bool
    recommended: Recommended | None
    candidates: list[str]
    refuted: list[str]
    rule: str
    reasons: list[str]
    minimum_detectable_effect: DetectableEffect
    more_needed: MoreNeeded
    arms: list[ArmVerdict]
    findings: list[str] = []
    """What was forgotten, in plain words: by which arms, recall against reasoning."""
    noise: list[SuiteNoise] = []


class VerdictFile(Record):
    format_version: int = FORMAT_VERSION
    verdicts: list[Verdict]
    notes: list[str] = []
