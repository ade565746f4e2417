"""What a plan says of a suite: what is asked, how it is scored, and the hash of both."""

from __future__ import annotations

from rankscope.records.record_base import Record
from rankscope.records.row_records import Form
from rankscope.study.graders import GradeEntry
from rankscope.study.study import Kind
from rankscope.study.study_settings import Metric

KIND_NOT_KNOWN = "not known"
"""In place of a suite's kind, which nobody has to say."""


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
    metric: Metric = "score"
    grade: GradeEntry | None = None
    """How written answers are graded; None where the form says it."""
    grader_code_sha256: str | None = None
    """Of the user's own code that grades, which lies in the token file."""
    held_out: str | None = None
    """The training set whose rows these are, which are then trained and validated on no more."""
    cluster_sizes: list[int] | None = None
    """Items of each cluster, in the order in which a draw of those that choose settings takes them; an item of no
    cluster is one of its own. None where no two items share one, and in plans that are older than this field."""
