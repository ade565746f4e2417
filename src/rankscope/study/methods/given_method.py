"""Arms that were trained elsewhere: LoRA adapters and whole models in folders of the user's, one for each seed.

They are judged as any arm is, and never trained. What is read in the folders when a study is planned stands beside
them as `found`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rankscope.study.methods.arm import Arm, Entry, Method
from rankscope.study.methods.full_method import FullMethod
from rankscope.study.methods.lora_method import LoraMethod
from rankscope.study.methods.method_types import Frozen, Given, ModelShape, Size, Unfit

Folder = Annotated[str, Field(min_length=1, description="a folder")]
Folders = Annotated[tuple[Folder, ...], Field(min_length=1)]
_NEVER = "nothing, or null. It was trained elsewhere."


class Found(Frozen):
    """What the folders of an entry held when the study was planned; rank, alpha and targets of adapters."""

    sha256: tuple[str, ...] = Field(
        description="a list of hashes. Of each folder's content, in the order of the seeds."
    )
    parameters: int = Field(description="a whole number. Parameters that were trained.")
    rank: int | None = Field(None, description="a whole number, or null. The largest of a module.")
    alpha: float | None = Field(None, description="a number, or null. Of the adapters' configuration.")
    targets: Literal["all-linear"] | tuple[str, ...] | None = Field(
        None, description="all-linear, a list of module names, or null. Where the adapters are."
    )


class GivenEntry(Entry):
    """What both kinds have. Nothing that is said of training can be said of them."""

    learning_rate: None = Field(None, description=_NEVER)  # type: ignore[assignment]
    retain: None = Field(None, description=_NEVER)
    replay: None = Field(None, description=_NEVER)
    found: Found | None = Field(
        None,
        description="a mapping, or null. What was read in the folders; written by rankscope, not for you to write.",
    )

    folders_key: ClassVar[str]
    """The setting that holds the folders."""

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders in the order of the seeds."""
        return tuple(getattr(self, self.folders_key))

    def at(self, folders: Sequence[str]) -> GivenEntry:
        """The same entry with its folders under other names."""
        return self.model_copy(update={self.folders_key: tuple(folders)})

    def arms(self, key: str) -> tuple[Arm, ...]:
        """The one arm. Until the folders were looked at, nothing is known of it."""
        found = self.found or Found(sha256=(), parameters=0)
        given = Given(sha256=found.sha256, parameters=found.parameters)
        known = {"rank": found.rank, "alpha": found.alpha, "targets": found.targets}
        common = {"label": key, "method": self.method, "dial": self.dial, "learning_rate": None}
        return (Arm.model_validate({**common, **known, "given": given}),)


class GivenAdapters(GivenEntry):
    """LoRA adapters that were trained elsewhere, as PEFT saves them: judged like any arm, never trained."""

    method: Literal["given-adapters"] = Field("given-adapters", description="the method")
    adapters: Folders = Field(
        description="a list of folders with an adapter each, such as [run-1/adapter, run-2/adapter]. One for each of "
        "the study's seeds, all of one rank, which is read from the file; `method` need not be given beside it."
    )

    folders_key: ClassVar[str] = "adapters"


class GivenModels(GivenEntry):
    """Whole models that were fine-tuned elsewhere, as transformers saves them: judged like any arm, never trained."""

    method: Literal["given-models"] = Field("given-models", description="the method")
    models: Folders = Field(
        description="a list of folders with a model each, such as [run-1/model, run-2/model]. One for each of the "
        "study's seeds, fine-tuned from the base; `method` need not be given beside it."
    )

    folders_key: ClassVar[str] = "models"


def _trained(arm: Arm) -> int:
    return 0 if arm.given is None else arm.given.parameters


@dataclass(frozen=True, kw_only=True)
class GivenAdapterMethod(LoraMethod):
    """As LoRA, but for what training would ask: its rank and targets are those of the file."""

    size: Size | None = None
    trained: bool = False

    @property
    def own_settings(self) -> set[str]:
        return set()

    def trainable_parameters(self, arm: Arm, model: ModelShape) -> int:
        return _trained(arm)

    def misfits(self, arms: Sequence[Arm], model: ModelShape) -> tuple[list[Unfit], list[str]]:
        """None: whether it fits was seen when its folders were read."""
        return [], []

    def described(self, arm: Arm) -> str:
        return f"A LoRA adapter of rank {arm.rank} that was trained elsewhere"


@dataclass(frozen=True, kw_only=True)
class GivenModelMethod(FullMethod):
    """As full fine-tuning, but for what training would ask."""

    trained: bool = False

    @property
    def own_settings(self) -> set[str]:
        return set()

    def trainable_parameters(self, arm: Arm, model: ModelShape) -> int:
        return _trained(arm)

    def misfits(self, arms: Sequence[Arm], model: ModelShape) -> tuple[list[Unfit], list[str]]:
        """None: whether it fits was seen when its folders were read."""
        return [], []

    def described(self, arm: Arm) -> str:
        return "A model that was fully fine-tuned elsewhere"


METHODS: tuple[Method, ...] = (
    GivenAdapterMethod(name="given-adapters", entry=GivenAdapters, title="LoRA trained elsewhere"),
    GivenModelMethod(name="given-models", entry=GivenModels, title="full fine-tuning elsewhere"),
)
