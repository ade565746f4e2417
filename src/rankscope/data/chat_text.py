"""Conversations as text: by a tokenizer's chat template, or plainly for a model without one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from rankscope.data.bounded_templates import TEMPLATE_ERRORS
from rankscope.data.chat_rendering import ANSWER_MARK, lm_eval_chat, own_template, with_fixed_date, written
from rankscope.records import Turn
from rankscope.study.problems import InputProblems, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_THINKING_OPTIONS = ("enable_thinking", "thinking")
"""How templates name the option that lets a model think before it answers; what a template does not read is nothing."""

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
    """`User: ...`, `Assistant: ...` and `Tool: ...` with blank lines between, a system turn as it is at the top; an
    assistant's turn ends with EOS."""

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
            if has_calls(turn):
                found, expected = "a call of a tool", "a model with a chat template, which says how one is written"
                raise InputProblems([Problem(file, f"{place}: turn {number}", found, expected)])
            text += "\n\n" if number > 1 else ""
            if is_trained(turn):
                starts.append(len(text) + len("Assistant:"))
            text += self._turn(turn)
            if is_trained(turn):
                ends.append(len(text))
        return Conversation(text, tuple(starts), tuple(ends))

    def _turn(self, turn: Turn) -> str:
        if turn.role == "system":
            return turn.content
        end = self._end if turn.role == "assistant" else ""
        return f"{turn.role.capitalize()}: {turn.content}{end}"


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
        self._template = with_fixed_date(own_template(tokenizer))
        header = self._render(_QUESTION, generation=True)
        before, after = self._around_answer(_QUESTION)
        self._addition = before[len(header) :] if before.startswith(header) else None
        if header != self._render(_QUESTION, generation=True, thinking=True):
            self._addition = ""
        self.end_text, end_token, self.end_id = self._turn_end(after)
        self._closing = self.end_text + end_token

    def text(self, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
        """Turns as lm-eval hands them to its `hf` model's template; a system turn is dropped where none is taken."""

        return lm_eval_chat(self._tokenizer, turns, add_generation_prompt, self._template)

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
            self._check_tools(turns, file, place)
            whole = self._render(turns)
            starts: list[int] = []
            ends: list[int] = []
            for i, turn in enumerate(turns):
                _check_end(self._closing[len(self.end_text) :], turn, i + 1, file, place)
                if not is_trained(turn):
                    continue
                before = self.before(turns[:i])
                last, answer = i == len(turns) - 1, self._answer(turns[: i + 1], before)
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

    def _answer(self, turns: Sequence[Turn], before: str) -> str:
        """What the last of the turns is written as, through what ends it: a call of a tool as the template has it."""
        if not has_calls(turns[-1]):
            return turns[-1].content + self._closing
        written = self._render(turns).removeprefix(before)
        end = self._closing[len(self.end_text) :]
        return written[: written.find(end) + len(end)] if end in written and end else written.rstrip()

    def _check_tools(self, turns: Sequence[Turn], file: str, place: str) -> None:
        """Raises InputProblems where the template leaves out what a tool said."""
        at = next((i for i, turn in enumerate(turns) if turn.role in ("tool", "function")), None)
        if at is not None and ANSWER_MARK not in self._render(
            [*turns[:at], turns[at]._replace(content=ANSWER_MARK), *turns[at + 1 :]]
        ):
            found = f"a {turns[at].role} turn, which the chat template leaves out"
            raise InputProblems([Problem(file, f"{place}: turn {at + 1}", found, "a template that writes such turns")])

    @cached_property
    def _takes_system(self) -> bool:
        try:
            return ANSWER_MARK in self._rendered([Turn("system", ANSWER_MARK), *_QUESTION])
        except TEMPLATE_ERRORS:
            return False

    def _around_answer(self, turns: Sequence[Turn]) -> tuple[str, str]:
        before, found, after = self._render([*turns, Turn("assistant", ANSWER_MARK)]).rpartition(ANSWER_MARK)
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
        messages = [
            {"role": turn.role, "content": turn.content} | (json.loads(turn.more) if turn.more else {})
            for turn in turns
        ]
        options = dict.fromkeys(_THINKING_OPTIONS, thinking)
        return written(self._tokenizer, self._template, messages, generation, options)

    @property
    def _name(self) -> str:
        return self._tokenizer.name_or_path or "tokenizer"

    def _problem(self, found: str, expected: str) -> InputProblems:
        return InputProblems([Problem(self._name, "chat template", found, expected)])


def is_trained(turn: Turn) -> bool:
    """Whether the turn has loss."""
    return turn.role == "assistant" and turn.trained


def has_calls(turn: Turn) -> bool:
    """Whether the turn calls a tool, in words that only a chat template knows."""
    return '"tool_calls":' in turn.more


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
