"""What may be asked: the typed form of a study file, and what an objective is. `read_study.py` reads the YAML."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rankscope.study.decision_settings import Decision
from rankscope.study.execution_settings import Execution
from rankscope.study.methods import Arm, ArmEntry, Dial, Fraction, Frozen, method_named
from rankscope.study.source_settings import ShortSuite, Source, SuiteSource, TrainSource, as_its_set, is_task_file
from rankscope.study.study_settings import (
    NAME,
    Budget,
    ChoiceStyle,
    Count,
    Kind,
    ModelSpec,
    Name,
    NotNegative,
    Optimizer,
    OptimizerName,
    Positive,
    Schedule,
    Selection,
    ShortModel,
    ShortOptimizer,
    Validation,
    mismatch,
)


@dataclass(frozen=True)
class ObjectiveFacts:
    """What is minimised, for whoever trains nothing.

    `loss_on`: the tokens of a row that have loss, for which logits are made. `reference_forwards`: passes of a frozen
    copy of the model over each row, without gradient, beside the trained forward and backward (one for a preference
    loss that compares with the base).
    """

    name: str
    loss_unit: str
    loss_on: str
    reference_forwards: float

    def logit_positions(self, row_tokens: float, completion_tokens: float) -> float:
        """Of rows with so many tokens, of which so many are completions: the positions whose logits are made."""
        return completion_tokens if self.loss_on == "completions" else row_tokens


SUPERVISED = ObjectiveFacts(
    name="supervised fine-tuning", loss_unit="nats per token", loss_on="completions", reference_forwards=0.0
)
"""Cross-entropy of completions, their end-of-sequence token included, given their prompts."""

__all__ = [
    "AdaptiveSeeds", "Analysis", "Arm", "Budget", "Checkpoint", "ChoiceStyle", "Decision", "Execution", "Fraction",
    "Frozen", "Keep", "Kind", "ModelSpec", "Name", "Optimizer", "OptimizerName", "Schedule", "Selection", "Source",
    "Study", "SuiteSource", "TrainSource", "Validation", "is_task_file",
]  # fmt: skip

Seed = Annotated[int, Field(ge=0, lt=2**31, description="a whole number from 0 to 2147483647")]
_SETTINGS = "a mapping of settings."


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class Checkpoint(Frozen):
    """When a run is saved, so that it can go on from there; also on SIGTERM."""

    minutes: Positive = Field(default=10, description="a number above 0. Minutes from one checkpoint to the next.")


class Keep(Frozen):
    """What stays of fully fine-tuned weights once they were scored; adapters are always kept."""

    full: Literal["none", "best", "all"] = Field(
        default="none",
        description="none, best or all. best: of each arm, those of the run with the lowest validation loss.",
    )


class Analysis(Frozen):
    """What is looked at inside of every run after it was scored; off, since it takes a share of a study's time."""

    enabled: bool = Field(
        default=False, description="true or false. Whether spectra, hidden states, attention and neurons are looked at."
    )
    probe_items: Count = Field(
        default=64, description="a whole number above 0. So many items, drawn from all suites, are looked at inside."
    )
    derived: bool = Field(
        default=True,
        description="true or false. The largest adapter is cut to the lower ranks, its intruder dimensions are scaled, "
        "and both are scored like runs of one seed; they are no candidates of the verdict.",
    )
    intruder_factor: NotNegative = Field(
        default=0.5, description="a number of 0 or more. What intruder dimensions are multiplied by."
    )


class AdaptiveSeeds(Frozen):
    """Seeds 0 to `start` - 1 for every arm, then one at a time, up to `max`, for those that help the best bet most."""

    start: int = Field(ge=2, description="a whole number of 2 or more. The seeds that every arm gets; 3 where it is 2.")
    max: int = Field(le=64, description="a whole number above `start`, at most 64. The seeds that an arm gets at most.")

    @field_validator("max")
    @classmethod
    def _above_start(cls, most: int, info: ValidationInfo) -> int:
        if most <= info.data.get("start", 0):
            raise ValueError("not above start")
        return most

    @property
    def looks(self) -> tuple[int, ...]:
        """How many seeds each arm has when the verdict is asked: half as many again each time (3, 5, 8), then `max`.

        Never fewer than 3 where there may be 3: two seeds cannot show which arm is unstable, so a look at two would
        spend error and leave arms out on what is hardly known.
        """
        counts = [min(max(self.start, 3), self.max)]
        while counts[-1] < self.max:
            counts.append(min(self.max, math.ceil(1.5 * counts[-1])))
        return tuple(counts)


class Study(Frozen):
    """One question, one YAML file, one folder of results."""

    name: Name = Field(description=f"{NAME}. The study's folder is called so.")
    models: Annotated[
        tuple[ShortModel, ...],
        Field(min_length=1),
        BeforeValidator(
            _as_tuple, json_schema_input_type=ShortModel | Annotated[list[ShortModel], Field(min_length=1)]
        ),
    ] = Field(
        alias="model",
        description="`bundled`, a folder, a hub id, a mapping with `id`, or a list of these. The base models; "
        "`bundled` is small, and nothing is downloaded.",
    )
    train: dict[Name, Annotated[TrainSource, Field(description="a mapping with one of `path`, `hub` and `world`")]] = (
        Field(min_length=1, description="at least one training set, by name. Each has a verdict of its own.")
    )
    suites: dict[
        Name,
        Annotated[
            ShortSuite,
            Field(
                description="auto, or a mapping with one of `path`, `hub`, `world`, `harness`, `held_out` and `auto`"
            ),
        ],
    ] = Field(
        min_length=1,
        description="at least one suite, by name. A training set needs one of its domain.",
    )
    arms: dict[Name, Annotated[ArmEntry, Field(description="a mapping of an arm's settings")]] = Field(
        min_length=1, description="at least one arm, by label. The label is the method unless `method` is given."
    )
    validation: Validation = Field(default=Validation(), description=f"{_SETTINGS} Training rows that are held out.")
    budget: Budget = Field(default=Budget(), description=f"{_SETTINGS} What every arm gets alike.")
    optimizer: ShortOptimizer = Field(
        default=Optimizer(), description="a mapping of AdamW's settings. Or its name alone: adamw_8bit."
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | AdaptiveSeeds = Field(
        description="a list of different whole numbers of 0 or more, such as [0, 1, 2], or {start: 3, max: 8}. One "
        "seed describes, three or more can decide; with start and max, seeds are added where they help the bet."
    )
    select: Literal["retention", "loss"] = Field(
        default="retention",
        description="retention or loss. How rate and dial of an arm are chosen: of those that keep the retention "
        "margin the one with the lowest validation loss, or by validation loss alone, blind to forgetting.",
    )
    dial: Annotated[tuple[Dial, ...], Field(min_length=1, max_length=8)] = Field(
        default=(0.5, 0.7, 0.85, 1.0),
        description="a list of different numbers above 0 and at most 1, with 1 among them, such as [0.5, 1]. The "
        "shares of a trained change, W0 + s (W - W0), of which one is chosen for each arm.",
    )
    selection: Selection = Field(
        default=Selection(),
        description=f"{_SETTINGS} The items that choose settings and never judge; none do "
        "where every rate and dial is given.",
    )
    decision: Decision = Field(default=Decision(), description=f"{_SETTINGS} The margins of the verdict.")
    checkpoint: Checkpoint = Field(default=Checkpoint(), description=f"{_SETTINGS} When a run is saved.")
    keep: Keep = Field(default=Keep(), description=f"{_SETTINGS} What stays of fully fine-tuned weights.")
    analysis: Analysis = Field(default=Analysis(), description=f"{_SETTINGS} What is looked at inside the models.")
    track: tuple[Name, ...] = Field(
        default=(),
        description="a list of trackers such as [tensorboard, wandb]. Programs that runs are shown in as well.",
    )
    execution: Execution = Field(
        default=Execution(), description=f"{_SETTINGS} Where and in which pieces work is done."
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_sections_are_defaults(cls, value: Any) -> Any:
        """A section whose every line is a comment is null in YAML."""
        if not isinstance(value, dict):
            return value
        optional = {field.alias or name for name, field in cls.model_fields.items() if not field.is_required()}
        return {key: part for key, part in value.items() if part is not None or key not in optional}

    @model_validator(mode="before")
    @classmethod
    def _held_out_suites_are_as_their_sets(cls, value: Any) -> Any:
        """What is asked of held-out rows is asked as the rows are trained."""
        sets, suites = (value.get(key) if isinstance(value, dict) else None for key in ("train", "suites"))
        if not isinstance(sets, dict) or not isinstance(suites, dict):
            return value
        filled = {
            name: as_its_set(suite, sets) if isinstance(suite, dict) and suite.get("held_out") is not None else suite
            for name, suite in suites.items()
        }
        return {**value, "suites": filled}

    @field_validator("arms", mode="before")
    @classmethod
    def _method_is_the_label(cls, value: Any) -> Any:
        """An entry without `method` has the one that its label names, or its `adapters` or `models`; `full:` alone has
        no settings."""
        if not isinstance(value, dict):
            return value
        entries = {label: {} if entry is None else entry for label, entry in value.items()}
        return {
            label: {**entry, "method": method_named(label, entry)} if isinstance(entry, dict) else entry
            for label, entry in entries.items()
        }

    @field_validator("dial")
    @classmethod
    def _dial_has_one(cls, dials: tuple[float, ...]) -> tuple[float, ...]:
        """A run as it was trained is always among them."""
        if 1 not in dials or len(set(dials)) < len(dials):
            shown = ", ".join(f"{dial:g}" for dial in dials)
            raise mismatch(f"[{shown}]", "different numbers, with 1 among them")
        return tuple(sorted(map(float, dials)))

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A section may be null, which `_empty_sections_are_defaults` takes."""
        schema = handler.resolve_ref_schema(handler(core))
        for key, setting in schema["properties"].items():
            if key not in schema["required"]:
                kept = {part: setting.pop(part) for part in ("description", "default") if part in setting}
                branches = setting.pop("anyOf", None) or [dict(setting)]
                setting.clear()
                setting.update({"anyOf": [*branches, {"type": "null"}], **kept})
        return schema

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """Every seed that an arm may be trained with."""
        return tuple(range(self.seeds.max)) if isinstance(self.seeds, AdaptiveSeeds) else self.seeds

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of seeds after which the verdict is asked; empty where every arm gets every seed."""
        return self.seeds.looks if isinstance(self.seeds, AdaptiveSeeds) else ()

    def expand_arms(self) -> tuple[Arm, ...]:
        """Every arm, one for each size, in the file's order. A label is the entry's key and, say, `-r16`."""
        return tuple(arm for key in self.arms for arm in self.arms_of(key))

    def arms_of(self, key: str) -> tuple[Arm, ...]:
        """The arms of one entry: those that `auto_shared` shares a rate over."""
        return self.arms[key].arms(key)

    def dials_of(self, arm: Arm) -> tuple[float, ...]:
        """The dials at which an arm's runs are scored, ascending; 1, the run as it was trained, is the last."""
        if not arm.traits.has_dial:
            return (1.0,)
        return self.dial if arm.dial is None else tuple(sorted({arm.dial, 1.0}))

    @property
    def virtual_tokens(self) -> int:
        """The most virtual tokens that an arm puts before a sequence: room that every arm's context leaves free."""
        return max((arm.traits.virtual_tokens(arm) for arm in self.expand_arms()), default=0)
