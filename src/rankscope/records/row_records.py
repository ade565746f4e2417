"""Rows as read, and as tokens: what is trained on and what is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from rankscope.records.record_base import Record
from rankscope.study.graders import Grader
from rankscope.study.study import Kind

Form = Literal["choices", "open", "number", "text", "reference"]
"""How an item is scored: by the log-likelihoods of its choices, by a written answer (`open`, `number`), by the loss of
a plain text, which decides nothing, or by that of its reference (where the suite's metric is the loss)."""


class Turn(NamedTuple):
    """One turn of a conversation, without white space around it. Only an assistant's turn can be `trained`.

    `more`: what a chat template gets beside role and content (`name`, `tool_calls`, `tool_call_id`), as a JSON object.
    """

    role: Literal["system", "user", "assistant", "tool", "function"]
    content: str
    more: str = ""
    trained: bool = True


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
        """Tokens of prompt and completion."""
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def target_count(self) -> int:
        """Tokens with loss."""
        return len(self.completion_ids) if self.loss_mask is None else sum(self.loss_mask)


@dataclass(frozen=True)
class Item:
    """A suite's item as tokens. A text's tokens are its one choice, after an empty or BOS-only prompt; so are a
    reference's, after its prompt."""

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
    document: str | None = None
    """JSON of what the suite's `grading` needs to know of this item."""


@dataclass(frozen=True)
class Graded:
    """What a suite's own grader says of one item; scores from 0 to 1."""

    score: float
    score_normalized: float | None
    predicted: str | None
    answer: str | None


class Grading(Record):
    """How a suite that is a task of lm-eval is answered and graded: all that is needed beside its items' documents.

    Text is written until one of `stops`. `needs_greedy`: grading asks whether a continuation is what greedy decoding
    would write. `task` is the task's configuration in JSON, as `evaluate/lm_eval` reads it.
    """

    stops: tuple[str, ...]
    needs_greedy: bool
    task: dict[str, Any]


@dataclass(frozen=True)
class Suite:
    """Encoded items of one suite with what the verdict needs to know of it. `left_out` maps a reason to a count.
    `grading` is None where an item's form says how it is graded. `items` may be a sequence that makes each item when it
    is asked for, from a token file: the same item is then another object each time."""

    name: str
    domain: str | None
    kind: Kind | None
    items: Sequence[Item]
    max_new_tokens: int = 256
    left_out: dict[str, int] = field(default_factory=dict)
    grading: Grading | None = None
    grader: Grader | None = None
    """What grades the written answers; None where the items' form or `grading` says it."""
    grader_code: str | None = None
    """The text of the user's own code that grades, as it was planned with."""
