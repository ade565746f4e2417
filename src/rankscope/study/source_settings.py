"""Where rows come from and how they are asked: the settings of training sets and suites, one mapping for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from rankscope.study.graders import GRADERS, GradeEntry, Grader, grader_of
from rankscope.study.methods import Frozen
from rankscope.study.methods.remedy_settings import Share
from rankscope.study.study_settings import NAME, ChoiceStyle, Count, Kind, Name, mismatch

AUTO, READY = "auto", "ready"
"""The key of a suite that stands for suites which we choose, and what it says for those that are ready by name."""

ORIGINS = ("path", "hub", "world", "harness", "held_out", AUTO)
"""Where the rows of a source come from: exactly one of these is given."""


class Source(Frozen):
    """Where rows come from (exactly one of `path`, `hub` and `world`) and how they become prompts."""

    path: str | None = Field(
        default=None,
        description="the path of a file of rows (.jsonl, .json, .csv, .tsv, .parquet). Relative to the study file.",
    )
    hub: str | None = Field(
        default=None, description="the id of a Hugging Face data set, or a folder with one. In place of `path`."
    )
    config: str | None = Field(default=None, description="the name of the data set's configuration. With `hub`.")
    split: str | None = Field(default=None, description="the name of the data set's split. With `hub`.")
    revision: str | None = Field(
        default=None,
        description="a branch, tag or commit. With `hub`; refs/convert/parquet for a set that is a loading script.",
    )
    columns: dict[str, str | tuple[str, ...]] | None = Field(
        default=None,
        description="a mapping from fields to the columns that hold them, such as {question: problem, answer: "
        "solution}. Only these are read; `choices` may be a list of columns, one for each choice.",
    )
    bad_rows: Literal["refuse", "drop"] = Field(
        default="refuse",
        description="refuse or drop. What happens where rows cannot be read; dropped ones are counted.",
    )
    world: str | None = Field(
        default=None,
        description="the name of a split of the bundled world. Such as medical/taught/train; nothing is downloaded.",
    )
    world_seed: int = Field(default=0, ge=0, description="a whole number of 0 or more. Another seed, other facts.")
    domain: Name | None = Field(
        default=None, description=f"{NAME}. Suites of a training set's domain measure its gain, all others forgetting."
    )
    choices: ChoiceStyle = Field(
        default="text",
        description="text or letters. Whether the choices' texts are scored, or their letters after a list of them.",
    )
    template: str | None = Field(
        default=None, description="a jinja2 template. It makes the prompt of a row, in place of Question: and Answer:."
    )
    limit: Count | None = Field(default=None, description="a whole number above 0. So many rows are drawn at random.")

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        names = [name for name in ORIGINS if name in type(self).model_fields]
        given = [f"`{name}`" for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            *most, last = (f"`{name}`" for name in names)
            raise mismatch(" and ".join(given) or "none of them", f"exactly one of {', '.join(most)} and {last}")
        return self


class TrainSource(Source):
    """Rows to train on."""

    kind: Kind | None = Field(
        default=None, description="recall or reasoning. reasoning trains a row's rationale before its answer."
    )


HELD_OUT_SHARE = 0.1
"""Of the rows of a training set, where a suite with `held_out` does not say it."""

OF_THE_SET = ("domain", "kind", "choices", "template")
"""What a suite with `held_out` has as its training set has it, unless it says so itself (its domain it cannot say)."""


def as_its_set(suite: Mapping[str, Any], sets: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, as written, of a suite with `held_out`, with what it has from its training set filled in."""
    own = sets.get(suite["held_out"]) if isinstance(suite["held_out"], str) else None
    if not isinstance(own, Mapping):
        return dict(suite)
    given = {key: value for key, value in suite.items() if value is not None}
    from_set = {key: own[key] for key in OF_THE_SET if own.get(key) is not None}
    return {**from_set, **given}


_NAMES = sorted(name for name, grader in GRADERS.items() if not grader.model_fields)
_KEYS = sorted(name for name, grader in GRADERS.items() if grader.model_fields)
_GRADES = f"{', '.join(_NAMES)}, or a mapping with {', '.join(_KEYS[:-1])} or {_KEYS[-1]}"


class SuiteSource(Source):
    """Items to score: rows, or a task of lm-eval."""

    kind: Kind | None = Field(
        default=None,
        description="recall or reasoning. reasoning compares numbers as numbers, and of a worked solution what follows "
        "####. Without, answers are compared as words, as those of recall are, and tables by kind leave the suite out.",
    )
    harness: str | None = Field(
        default=None,
        min_length=1,
        description="the name of an lm-eval task, or a YAML file of one. In place of rows; needs rankscope[harness].",
    )
    num_fewshot: int | None = Field(
        default=None,
        ge=0,
        description="a whole number of 0 or more. Examples before each question of a `harness` suite.",
    )
    metric: str | None = Field(
        default=None,
        description="loss, or with `harness` a metric of the task such as acc_norm or exact_match,flexible-extract. "
        "loss judges rows by the mean loss of their reference's tokens, in nats; else a task has its first metric.",
    )
    max_new_tokens: Count = Field(
        default=256, description="a whole number above 0. The longest answer that is written."
    )
    grade: GradeEntry | None = Field(
        default=None,
        description=f"{_GRADES}. How written answers to rows of any shape are graded, from 0 to 1; see below.",
    )
    trust_code: bool = Field(
        default=False, description="true or false. Whether code of your own that `grade` names may run."
    )
    held_out: Name | None = Field(
        default=None,
        description="the name of a training set. In place of rows: a seeded `share` of that set is trained and "
        "validated on no more, and asked here, in its domain; rows without a question are judged by `metric: loss` "
        "unless `grade` is given.",
    )
    share: Share | None = Field(
        default=None,
        description="a share of the training set's rows above 0 and below 1, such as 0.1. With `held_out`, where it is "
        "0.1 if not given; `limit` is the most rows that are taken.",
    )

    auto: str | None = Field(
        default=None,
        min_length=1,
        description="ready, or a folder with files of rows. In place of rows: up to four suites that this machine can "
        "reach, of mmlu, commonsense_qa, gsm8k, openbookqa and, with rankscope[harness], arc_easy, hellaswag and "
        "winogrande; or one for each file. `NAME: auto` alone is `NAME: {auto: ready}`.",
    )
    chosen_for: Name | None = Field(
        default=None,
        description="a suite's name. Written beside a suite that was chosen for an `auto` of this name, so that it "
        "stays chosen; not for you to write.",
    )

    @property
    def held_out_share(self) -> float:
        """The share of its training set's rows that a suite with `held_out` takes."""
        return HELD_OUT_SHARE if self.share is None else self.share

    @property
    def judged_by_loss(self) -> bool:
        """Whether items are worth the loss of their reference, instead of a score."""
        return self.harness is None and self.metric == "loss"

    @property
    def grader(self) -> Grader | None:
        """What grades written answers; None where a row's shape says how it is scored."""
        return grader_of(self.grade)


def is_task_file(harness: str) -> bool:
    """Whether a suite's `harness` is a YAML file of its own, not a task's name."""
    return harness.endswith((".yaml", ".yml"))


def _written_out(suite: Any) -> Any:
    return {AUTO: READY} if suite == AUTO else suite


ShortSuite = Annotated[SuiteSource, BeforeValidator(_written_out, json_schema_input_type=Literal["auto"] | SuiteSource)]
"""A suite; `auto` alone stands for ready ones."""
