"""What an arm may do against forgetting while it trains: stay near the base (`retain`), see old text again (`replay`).

The description of each setting is its only documentation, as in `study_settings.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from rankscope.study.methods.method_types import Frozen

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


def _mismatch(found: str, expected: str) -> PydanticCustomError:
    return PydanticCustomError("mismatch", "found {found}, expected {expected}", {"found": found, "expected": expected})


class Retain(Frozen):
    """A penalty on the distance to the base: of what the model predicts (`kl`), of its weights (`l2`), or of both."""

    kl: Positive | None = Field(
        default=None,
        description="a number above 0 such as 0.1, or null. Adds so much times KL(base || arm) in nats at each token "
        "with loss; costs one more forward of the base.",
    )
    on: Literal["task", "replay"] = Field(
        default="task", description="task or replay. The tokens that `kl` is taken on; replay needs a `replay`."
    )
    l2: Positive | None = Field(
        default=None,
        description="a number above 0 such as 1e-3, or null. Adds half so much times the squared distance of the "
        "trained weights to the base's (L2-SP, arXiv 1802.01483); for methods that train the base's own weights.",
    )

    def __str__(self) -> str:
        kl = None if self.kl is None else f"kl {self.kl:g}" + (" on replay" if self.on == "replay" else "")
        l2 = None if self.l2 is None else f"l2 {self.l2:g}"
        return "retain " + " and ".join(part for part in (kl, l2) if part is not None)

    @model_validator(mode="after")
    def _something(self) -> Retain:
        if self.kl is None and self.l2 is None:
            raise _mismatch("neither `kl` nor `l2`", "one of them, or both")
        return self


SELECTION = "selection"
"""In the place of a file of prompts: the items that choose settings."""

SAMPLING_SETTINGS = ("prompts", "prompts_from", "samples", "temperature", "max_tokens")
"""What is said of samples that the base writes itself."""


class Replay(Frozen):
    """Text that is trained on beside the task, as a share of all tokens: rows of the user's, or what the base writes.

    Every arm has the same task tokens; these come on top.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    path: str | None = Field(
        default=None,
        description="the path of a file of rows, as of a training set. Old data; a rationale is trained too, and rows "
        "that a suite asks are dropped.",
    )
    share: Share | None = Field(
        default=None, description="a share of all tokens above 0 and below 1, such as 0.2. Of the rows of `path`."
    )
    own: Share | None = Field(
        default=None,
        alias="self",
        description="a share of all tokens above 0 and below 1, such as 0.2. Of samples that the base writes itself, "
        "once, before any training.",
    )
    prompts: str | None = Field(
        default=None,
        description="the path of a text file with one prompt in each line, or selection. What the base goes on from; "
        "selection: from the prompts of the items that choose settings, of suites outside the domain; without it, from "
        "its beginning-of-sequence token.",
    )
    prompts_from: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] | None = Field(
        default=None,
        description="a list of suites, such as [law], or null. Those that give the prompts of `prompts: selection`; at "
        "least one suite outside the domain must give none. Without it, half of them.",
    )
    samples: Annotated[int, Field(gt=0)] = Field(
        default=200, description="a whole number above 0. Samples that the base writes."
    )
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=1.0, description="a number of 0 or more. At which it samples; 0 takes the likeliest token."
    )
    max_tokens: Annotated[int, Field(gt=0)] = Field(
        default=64, description="a whole number above 0. The longest sample in tokens."
    )

    def __str__(self) -> str:
        what = "own samples" if self.own is not None else "old rows"
        after = f" after {'suite ' if self.asks_suites else ''}prompts" if self.prompts else ""
        return f"replay of {100 * self.token_share:g} % {what}{after}"

    @property
    def asks_suites(self) -> bool:
        """Whether the base goes on from prompts of suites."""
        return self.prompts == SELECTION

    @property
    def file(self) -> str | None:
        """The file that is read: of rows, or of prompts; None where none is."""
        return self.path if self.path is not None else None if self.asks_suites else self.prompts

    @property
    def token_share(self) -> float:
        """The share of all tokens that are replayed."""
        share = self.share if self.own is None else self.own
        assert share is not None
        return share

    @model_validator(mode="after")
    def _one_kind(self) -> Replay:
        if (self.path is None) == (self.own is None):
            raise _mismatch("neither `path` nor `self`" if self.path is None else "`path` and `self`", "one of them")
        if (self.path is None) != (self.share is None):
            found = "`share` without `path`" if self.path is None else "`path` without `share`"
            raise _mismatch(found, "`path` with `share`, or `self: 0.2`")
        given = [key for key in SAMPLING_SETTINGS if key in self.model_fields_set]
        if self.path is not None and any(getattr(self, key) != _DEFAULTS[key] for key in given):
            raise _mismatch(f"`{given[0]}` with `path`", "it with `self` only")
        if self.prompts_from is not None and not self.asks_suites:
            raise _mismatch("`prompts_from` without `prompts: selection`", "both or neither")
        return self


_DEFAULTS: dict[str, Any] = {key: Replay.model_fields[key].default for key in SAMPLING_SETTINGS}
