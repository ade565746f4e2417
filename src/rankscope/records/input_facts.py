"""What the plan calculates with: base models, training sets, suites, the machine."""

from __future__ import annotations

from typing import Literal

from rankscope.records.record_base import Record
from rankscope.records.row_records import Form
from rankscope.study.study import Kind


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
