"""Small types that methods and their settings are described with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto", "auto_shared"]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Dial = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
"""s in W0 + s (W - W0): how much of the trained change is applied."""
Matrix = tuple[int, int]
"""Shape of a weight, (out, in)."""


def _once(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(sizes)) != len(sizes):
        raise ValueError("a size stands twice")
    return sizes


Count = Annotated[int, Field(gt=0, description="a whole number above 0")]
Sizes = Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_once)]


class Frozen(BaseModel):
    """Settings never change after they were read, and a key that nobody reads is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Given(Frozen):
    """Of an arm that was trained elsewhere: the content of each seed's folder, and how many parameters were trained."""

    sha256: tuple[str, ...]
    parameters: int


class ModelShape(Protocol):
    """The facts of a base model that methods count with; `records.ModelFacts` has them, and says what they are."""

    @property
    def name(self) -> str: ...
    @property
    def parameter_count(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def layer_count(self) -> int: ...
    @property
    def context_tokens(self) -> int: ...
    @property
    def linear_shapes(self) -> Mapping[str, Matrix]: ...
    @property
    def norm_parameters(self) -> Mapping[str, int]: ...
    @property
    def block_parameters(self) -> Sequence[int]: ...
    @property
    def vocabulary_parameters(self) -> int: ...
    @property
    def key_value_width(self) -> int: ...


class Size(NamedTuple):
    """The setting that makes several arms of one entry: `key` is a list in the file, `letter` stands before the number
    in labels, `setting` is the arm's. `noun`: what one calls it."""

    key: str
    letter: str
    setting: str
    noun: str = "size"


class Unfit(NamedTuple):
    """Why a model cannot have an arm: the setting of the entry that is at fault, what it is, what it could be."""

    setting: str
    found: str
    expected: str


class StepWork(NamedTuple):
    """What one token costs in a training step, as multiples of a plain forward: `matrices` of the blocks, `attention`,
    and the `head` at positions with loss; and `own_flops`, the method's own products."""

    matrices: float
    attention: float
    head: float
    own_flops: float


OTHER_METHOD = "an arm of another method"


def code_of_folder() -> str:
    """Markdown with Python that loads a whole model from the exported folder."""
    return (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("PATH_OF_THIS_FOLDER")\n'
        'tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")\n```'
    )


def code_on_base(base: str, before: str, after: str, load: str) -> str:
    """Markdown with Python that loads the base and then, by the line `load`, something onto it; `before` and `after`
    are the imports around those of transformers."""
    bundled = base == "bundled"
    path = "str(bundled_base_path())" if bundled else repr(base)
    more = "from rankscope.assets import bundled_base_path\n" if bundled else ""
    imports = f"{before}from transformers import AutoModelForCausalLM, AutoTokenizer\n{more}{after}"
    lines = f"base_path = {path}\nbase = AutoModelForCausalLM.from_pretrained(base_path)\n"
    return f"```python\n{imports}\n{lines}{load}tokenizer = AutoTokenizer.from_pretrained(base_path)\n```"
