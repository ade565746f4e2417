"""An arm and its method: what one entry of a study's `arms` becomes, and all that the stages may ask of a method.

A method is one value of a subclass of `Method`, in a file `NAME_method.py` of this folder whose `METHODS` lists it; how
it is put on a model stands in `model/methods/NAME_modules.py`. No stage asks for a method's name.

Letters: R rank, D hidden size, L layers, v virtual tokens, m units of a bottleneck, K width of a layer's keys,
p trained parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rankscope.study.methods.method_types import (
    OTHER_METHOD,
    Dial,
    Frozen,
    Given,
    ModelShape,
    Rate,
    Size,
    StepWork,
    Unfit,
    code_on_base,
)
from rankscope.study.methods.remedy_settings import Replay, Retain

KNOWN: dict[str, Method] = {}
"""Every method by its name. The package fills it from the files of its folder when it is imported."""


def known_method(name: str) -> str:
    """The name, where a method has it. Raises ValueError otherwise."""
    if name not in KNOWN:
        raise ValueError(f"no method is called {name}")
    return name


MethodName = Annotated[str, AfterValidator(known_method)]


class Arm(BaseModel):
    """One arm of the study: a method with its settings, and its label. The base model is no arm.

    Settings that only one method has (`virtual_tokens`, `layers`, ...) stand beside these fields: `setting` reads them.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, int | float | bool | str]

    label: str
    method: MethodName
    rank: int | None = None
    alpha: float | None = None
    targets: Literal["all-linear"] | tuple[str, ...] | None = None
    dropout: float = 0.0
    learning_rate: Rate | None = None
    """None of an arm that was trained elsewhere: nobody knows it."""
    dial: float | None = None
    """The share of its change at which it is judged, where the study fixes it; None: it is chosen."""
    retain: Retain | None = None
    replay: Replay | None = None
    given: Given | None = None
    """Where it was trained elsewhere: it is judged and never trained."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty_settings(cls, given: Any) -> Any:
        """Plans of earlier versions wrote `null` for the settings that an arm did not have."""
        return {k: v for k, v in given.items() if v is not None} if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _has_its_settings(self) -> Arm:
        found, expected = set(self.__pydantic_extra__), self.traits.own_settings
        if found != expected:
            raise ValueError(f"{self.method} has the settings {sorted(expected)}, found {sorted(found)}")
        if (self.learning_rate is None) != (self.given is not None):
            raise ValueError(f"{self.label} has a learning rate, or was trained elsewhere")
        return self

    @property
    def traits(self) -> Method:
        """The method's value: what the stages ask of it."""
        return KNOWN[self.method]

    @property
    def has_delta(self) -> bool:
        """Whether weight matrices change, so that there is a delta with a spectrum."""
        return self.traits.delta is not None

    def setting(self, name: str) -> Any:
        """A setting that only this arm's method has. Raises KeyError where it has none of that name."""
        return self.__pydantic_extra__[name]

    @property
    def remedy(self) -> str | None:
        """What it does against forgetting while it trains, in a few words; None where it does nothing."""
        return "; ".join(str(one) for one in (self.retain, self.replay) if one is not None) or None

    @property
    def plain(self) -> Arm:
        """The same arm without a remedy."""
        return self.model_copy(update={"retain": None, "replay": None})

    def trainable_parameters(self, model: ModelShape) -> int:
        """How many parameters training changes in this model, exactly."""
        return self.traits.trainable_parameters(self, model)

    def stored_parameters(self, model: ModelShape) -> int:
        """How many parameters are saved: the whole model's, or the adapter's."""
        return self.traits.stored_parameters(self, model)

    @property
    def size(self) -> int | None:
        """The number that the label ends with; None for a method that has one size only."""
        size = self.traits.size
        return None if size is None else getattr(self, size.setting)


COMMON_SETTINGS = ("method", "learning_rate", "dial", "retain", "replay")
"""What every entry gives to all of its arms alike."""


class Entry(Frozen):
    """What the entry of every method has in a study file; `arms` gives one arm for each of its sizes."""

    method: str
    learning_rate: Rate = Field(
        "auto",
        description="a number above 0 such as 2e-4, or auto, or auto_shared. auto searches a rate for each arm on "
        "held-out training rows; auto_shared searches one for all sizes of the entry.",
    )
    dial: Dial | None = Field(
        None,
        description="a number above 0, at most 1, or null. The share of its change at which the arm is judged and "
        "exported, in place of the one that is chosen for it.",
    )
    retain: Retain | None = Field(
        None,
        description="a mapping with `kl`, `l2` or both, such as {kl: 0.1}, or null. A penalty on the distance to the "
        "base.",
    )
    replay: Replay | None = Field(
        None,
        description="a mapping with `self`, or with `path` and `share`, such as {self: 0.2}, or null. Old text that is "
        "trained on beside the task.",
    )

    def arms(self, key: str) -> tuple[Arm, ...]:
        """The entry's arms in the order of its sizes; `key` is its name in the file."""
        size = KNOWN[self.method].size
        common = {key: getattr(self, key) for key in COMMON_SETTINGS}
        if size is None:
            return (Arm.model_validate({"label": key, **common, **self.settings_at(None)}),)
        return tuple(
            Arm.model_validate(
                {
                    "label": arm_label(key, self.method, number),
                    size.setting: number,
                    **common,
                    **self.settings_at(number),
                }
            )
            for number in getattr(self, size.key)
        )

    def settings_at(self, size: int | None) -> dict[str, object]:
        """An arm's own settings beside its size: those of the entry, unless a method says otherwise."""
        named = KNOWN[self.method].size
        return self.model_dump(exclude={*COMMON_SETTINGS, *([] if named is None else [named.key])})


def arm_label(key: str, method: str, size: int | None) -> str:
    """The entry's key, and the method's letter with its size where it has one: `lora-r16`, `prompt-tuning-v8`."""
    named = KNOWN[method].size
    if size is None or named is None:
        return key
    return key if key.endswith(f"-{named.letter}{size}") else f"{key}-{named.letter}{size}"


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """What a fine-tuning method is and what it costs. `title` is its name in a sentence.

    `whole`: it trains weights of the base itself, so it needs a copy of its own and is saved as a whole model.
    `delta`: what its change of the weight matrices is; None where none changes, and there is no spectrum then.
    `merges`: it changes weights alone, so it can be exported as a plain model. `on_quantized`: it can be trained on a
    base in 4 bits. `peft_format`: what is saved is an adapter that PEFT loads. `loses_by_checkpointing`: what gradient
    checkpointing would drop, so that the two cannot be used together; "" where nothing is.
    `rate_decades`: `auto` tries rates from 10**low to 10**high, two for each decade.
    `trained`: the study trains it; what was trained elsewhere is only judged.
    `dial_by`: how its change is scaled after training, W0 + s (W - W0): by the `factors`' scale, or by interpolating
    `weights`; None where it cannot be, so that its dial is 1.
    """

    name: str
    title: str
    entry: type[Entry]
    rate_decades: tuple[int, int]
    size: Size | None = None
    whole: bool = False
    dial_by: Literal["factors", "weights"] | None = None
    delta: Literal["factored", "dense"] | None = None
    merges: bool = True
    on_quantized: bool = True
    peft_format: bool = True
    loses_by_checkpointing: str = ""
    trained: bool = True

    @property
    def own_settings(self) -> set[str]:
        """The settings that its arms have beside those of every arm."""
        renamed = {} if self.size is None else {self.size.key: self.size.setting}
        return {renamed.get(key, key) for key in self.entry.model_fields} - set(Arm.model_fields)

    @property
    def has_dial(self) -> bool:
        """Whether the change can be scaled after training, W0 + s (W - W0)."""
        return self.dial_by is not None

    @property
    def rate_grid(self) -> list[float]:
        """The learning rates that `auto` tries first: 1e-6, 3e-6, 1e-5, ..."""
        low, high = self.rate_decades
        return [float(f"{digit}e{power}") for power in range(low, high) for digit in (1, 3)] + [float(f"1e{high}")]

    def can_pack(self, arm: Arm) -> bool:
        """Whether it can train beside other arms over one base: only where its change is scale B A and nothing else."""
        return False

    def alpha_per_rank(self, arm: Arm) -> float | None:
        """The scale alpha/r, which arms should share if rank alone is to differ; None where there is no such thing."""
        return None

    # ---- what it costs ----------------------------------------------------------------------------------------------

    @abstractmethod
    def trainable_parameters(self, arm: Arm, model: ModelShape) -> int:
        """Exactly as many as training changes."""

    def stored_parameters(self, arm: Arm, model: ModelShape) -> int:
        """Parameters of what is saved: the whole model, or the adapter."""
        return model.parameter_count if self.whole else self.trainable_parameters(arm, model)

    def virtual_tokens(self, arm: Arm) -> int:
        """Positions before every sequence that its tokens attend to."""
        return 0

    def computed_virtual_tokens(self, arm: Arm) -> int:
        """Of these the ones that pass through the blocks' matrices."""
        return 0

    def step_work(self, arm: Arm, model: ModelShape, *, checkpointing: bool) -> StepWork:
        """An adapter's: frozen weights need the gradient of their input but none of their own, so 2 passes of the
        matrices and of the head and 3 of attention; its own parameters take 6 p. Checkpointing does the forward again.
        """
        again = 1 if checkpointing else 0
        own = self.own_step_flops(arm, model)
        return StepWork(2 + again, 3 + again, 2, (1 + again / 3) * own)

    def own_step_flops(self, arm: Arm, model: ModelShape) -> float:
        """FLOPs of its own products for a token, forward and backward."""
        return 6.0 * self.trainable_parameters(arm, model)

    def own_forward_flops(self, arm: Arm, model: ModelShape) -> float:
        """FLOPs of its own products for a token, forward."""
        return 2.0 * self.stored_parameters(arm, model)

    # ---- whether it fits --------------------------------------------------------------------------------------------

    def misfits(self, arms: Sequence[Arm], model: ModelShape) -> tuple[list[Unfit], list[str]]:
        """Why this model cannot have these arms of one entry, and warnings of those that it can have."""
        return [unfit for arm in arms for unfit in self.unfit(arm, model)], []

    def unfit(self, arm: Arm, model: ModelShape) -> list[Unfit]:
        """Why this model cannot have this arm."""
        if self.trainable_parameters(arm, model) == 0:
            found = f"{arm.method} of {model.name}, in which it knows nothing to train"
            return [Unfit("method", found, OTHER_METHOD)]
        return []

    # ---- what a model card says -------------------------------------------------------------------------------------

    @abstractmethod
    def described(self, arm: Arm) -> str:
        """What the trained thing is, as the subject of a sentence: `A LoRA adapter of rank 8`."""

    def card_settings(self, arm: Arm) -> dict[str, object]:
        """Its own settings, by their names in words."""
        return {}

    def loading_code(self, base: str) -> str:
        """Python that loads the exported folder; `base` is a hub id, a folder, or `bundled`."""
        load = 'model = PeftModel.from_pretrained(base, "PATH_OF_THIS_FOLDER")\n'
        return code_on_base(base, "from peft import PeftModel\n", "", load)
