"""Conversations as text: by a tokenizer's chat template, or plainly for a model without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import jinja2

from rankscope.data.prompts import TEMPLATE_ERRORS
from rankscope.records import Turn
from rankscope.study.problems import InputProblems, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Some templates print today's date. A study that is resumed tomorrow must see today's prompts: so the date is fixed.
_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}"
    '{{ format.replace("%Y", "2025").replace("%m", "01").replace("%d", "01").replace("%B", "January")'
    '.replace("%b", "Jan").replace("%A", "Wednesday").replace("%a", "Wed").replace("%H", "00").replace("%M", "00")'
    '.replace("%S", "00") }}'
    "{%- endmacro -%}"
)
_THINKING_OPTIONS = ("enable_thinking", "thinking")
"""How templates name the option that lets a model think before it answers; what a template does not read is nothing."""

_MARK = "rankscope-answer-mark"
_QUESTION = (Turn("user", "Which one?"),)


@dataclass(frozen=True)
class Conversation:
    """A conversation's text through what ends its last assistant's turn, and where its assistant's turns stand in it:
    `starts[i]` is where all text before turn i ends, `ends[i]` where what ends the turn does."""

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]


class Frame(Protocol):
    """What is written around turns. `end_id`: the token that ends an assistant's turn, None where none does."""

    end_id: int | None

    def before(self, turns: Sequence[Turn]) -> str: ...

    def conversation(self, turns: Sequence[Turn], file: str, place: str) -> Conversation: ...


class PlainFrame:
    """`User: ...` and `Assistant: ...` with blank lines between, a system turn as it is at the top; an assistant's turn
    ends with EOS."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.end_id: int | None = tokenizer.eos_token_id
        self._end = str(tokenizer.eos_token)

    def before(self, turns: Sequence[Turn]) -> str:
        """All text before the answer to these turns, without the space that the answer begins with."""
        return "".join(f"{self._turn(turn)}\n\n" for turn in turns) + "Assistant:"

    def conversation(self, turns: Sequence[Turn], file: str, place: str) -> Conversation:
        """Raises InputProblems for a turn that holds the EOS token."""
        text, starts, ends = "", [], []
        for number, turn in enumerate(turns, start=1):
            _check_end(self._end, turn, number, file, place)
            text += "\n\n" if number > 1 else ""
            if turn.role == "assistant":
                starts.append(len(text) + len("Assistant:"))
            text += self._turn(turn)
            if turn.role == "assistant":
                ends.append(len(text))
        return Conversation(text, tuple(starts), tuple(ends))

    def _turn(self, turn: Turn) -> str:
        if turn.role == "system":
            return turn.content
        return f"User: {turn.content}" if turn.role == "user" else f"Assistant: {turn.content}{self._end}"


class ChatFrame:
    """What a tokenizer's chat template puts around turns, with the date fixed and thinking switched off.

    The prompt is what the template itself writes before an assistant's answer, so that an answer is scored exactly
    where it is trained; nearly always that is the template's generation prompt, and it is that wherever the template
    can switch thinking off. `end_text` is what it writes after the answer, through the token that ends the turn
    (`end_id`, None where it writes none). `system_prompt` stands before conversations that have no system turn of their
    own; where a template takes no system turn, its text stands before the first user's, with a blank line between.

    Raises InputProblems for a template that cannot be used.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._system = () if system_prompt is None else (Turn("system", system_prompt),)
        template = tokenizer.get_chat_template()
        self._template = _FIXED_DATE + template if "strftime_now" in template else template
        header = self._render(_QUESTION, generation=True)
        before, after = self._around_answer(_QUESTION)
        self._addition = before[len(header) :] if before.startswith(header) else None
        if header != self._render(_QUESTION, generation=True, thinking=True):
            self._addition = ""
        self.end_text, end_token, self.end_id = self._turn_end(after)
        self._closing = self.end_text + end_token

    def text(self, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
        """Turns as lm-eval hands them to its `hf` model's template; a system turn is dropped where none is taken."""

        def rendered(given: list[dict[str, str]]) -> str:
            return str(
                self._tokenizer.apply_chat_template(
                    given, tokenize=False, add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt, chat_template=self._template,
                )
            )  # fmt: skip

        try:
            return rendered(turns)
        except jinja2.TemplateError:
            return rendered([turn for turn in turns if turn["role"] != "system"])

    def before(self, turns: Sequence[Turn]) -> str:
        """All text before the assistant's answer to these turns."""
        if self._addition is None:
            return self._around_answer(turns)[0]
        return self._render(turns, generation=True) + self._addition

    def conversation(self, turns: Sequence[Turn], file: str, place: str) -> Conversation:
        """The text whose assistant's turns are trained.

        Raises InputProblems, naming the turn, where the template fails, or writes a turn otherwise once later ones
        follow: what was trained would then not be what is asked.
        """
        try:
            whole = self._render(turns)
            starts: list[int] = []
            ends: list[int] = []
            for i, turn in enumerate(turns):
                _check_end(self._closing[len(self.end_text) :], turn, i + 1, file, place)
                if turn.role != "assistant":
                    continue
                before = self.before(turns[:i])
                last, answer = i == len(turns) - 1, turn.content + self._closing
                if last and not starts and not whole.startswith(before):
                    printed = self._around_answer(turns[:i])[0]
                    if before.startswith(printed) and whole.startswith(printed + answer):
                        whole = before + answer  # thinking that only the generation prompt ends
                if not whole.startswith(before) or not whole[len(before) :].startswith(answer):
                    raise InputProblems([Problem(file, f"{place}: turn {i + 1}", *_rewritten(last))])
                starts.append(len(before))
                ends.append(len(before) + len(answer))
        except _TemplateFails as error:
            raise InputProblems([Problem(file, place, str(error), "turns that the template takes")]) from error
        return Conversation(whole[: ends[-1]], tuple(starts), tuple(ends))

    @cached_property
    def _takes_system(self) -> bool:
        try:
            return _MARK in self._rendered([Turn("system", _MARK), *_QUESTION])
        except TEMPLATE_ERRORS:
            return False

    def _around_answer(self, turns: Sequence[Turn]) -> tuple[str, str]:
        before, found, after = self._render([*turns, Turn("assistant", _MARK)]).rpartition(_MARK)
        if not found:
            raise self._problem("a template that drops the assistant's message", "one that prints it")
        return before, after

    def _turn_end(self, after: str) -> tuple[str, str, int | None]:
        added = self._tokenizer.added_tokens_decoder.items()
        special = {str(token): token_id for token_id, token in added if token.special}
        places = [(after.index(token), -len(token), token) for token in special if token in after]
        if not places:
            return after.rstrip(), "", None
        start, _, token = min(places)
        return after[:start], token, special[token]

    def _render(self, turns: Sequence[Turn], *, generation: bool = False, thinking: bool = False) -> str:
        if turns[0].role != "system":
            turns = [*self._system, *turns]
        if turns[0].role == "system" and not self._takes_system:
            asked = f"{turns[0].content}\n\n{turns[1].content}" if turns[0].content else turns[1].content
            turns = [Turn("user", asked), *turns[2:]]
        try:
            return self._rendered(turns, generation=generation, thinking=thinking)
        except TEMPLATE_ERRORS as error:
            raise _TemplateFails(self._name, f"a template that fails: {error}") from error

    def _rendered(self, turns: Sequence[Turn], *, generation: bool = False, thinking: bool = False) -> str:
        text: str = self._tokenizer.apply_chat_template(
            [turn._asdict() for turn in turns],
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=generation,
            **dict.fromkeys(_THINKING_OPTIONS, thinking),
        )
        return text

    @property
    def _name(self) -> str:
        return self._tokenizer.name_or_path or "tokenizer"

    def _problem(self, found: str, expected: str) -> InputProblems:
        return InputProblems([Problem(self._name, "chat template", found, expected)])


class _TemplateFails(InputProblems):
    """A template that raises: the tokenizer's fault in general, a row's where others were rendered."""

    def __init__(self, name: str, found: str) -> None:
        super().__init__([Problem(name, "chat template", found, "one for a user's message, or `chat: never`")])
        self.found = found

    def __str__(self) -> str:
        return self.found


def _rewritten(last: bool) -> tuple[str, str]:
    if last:
        found = "a turn that the chat template does not print as it is given"
        return found, "text that the template leaves as it is (it may strip reasoning), or `chat: never`"
    found = "a turn that the chat template writes otherwise once later turns follow"
    return found, "a template that leaves earlier turns as they were, one assistant's turn a row, or `chat: never`"


def _check_end(end: str, turn: Turn, number: int, file: str, place: str) -> None:
    if end and end in turn.content:
        expected = "text without the token that ends a turn"
        raise InputProblems([Problem(file, f"{place}: turn {number}", f"{end} in the text", expected)])
