"""Rows as text: the prompt, what is scored or trained after it, and the chat template around both."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from rankscope.config.problems import InputProblems, Problem
from rankscope.config.study import Source
from rankscope.records import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

TEMPLATE_ERRORS = (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a template can raise while it is rendered: it is code, and its author can mend it."""

_NUMBER = re.compile(r"[-+−]?\s*[$€£]?\s*[-+−]?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?(?<=\d)\.?\s*%?", re.ASCII)

# Some templates print today's date. A study that is resumed tomorrow must see today's prompts: so the date is fixed.
_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}"
    '{{ format.replace("%Y", "2025").replace("%m", "01").replace("%d", "01").replace("%B", "January")'
    '.replace("%b", "Jan").replace("%A", "Wednesday").replace("%a", "Wed").replace("%H", "00").replace("%M", "00")'
    '.replace("%S", "00") }}'
    "{%- endmacro -%}"
)


def is_number(text: str) -> bool:
    """Whether an answer is a plain number: sign, currency sign, thousands' commas, decimals and % allowed."""
    return _NUMBER.fullmatch(text.strip()) is not None


class PromptMaker:
    """How one source's rows become a message (for a chat template) or a plain prompt, and what follows it.

    Raises InputProblems if the source's template is not valid jinja2; its methods raise it for a row that the template
    cannot be used on, or that has more choices than there are letters.
    """

    def __init__(self, source: Source, file: str) -> None:
        self._letters = source.choices == "letters"
        self._file = file
        self._kind = getattr(source, "kind", None)
        self._template: jinja2.Template | None = None
        if source.template is not None:
            # The text goes to a tokenizer, not to a browser: nothing is escaped.
            environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
            try:
                self._template = environment.from_string(source.template)
            except jinja2.TemplateError as error:
                raise self._problem("template", f"a template with an error: {error}", "jinja2") from error

    def message(self, row: Row) -> str:
        """What a user would send: context, question and, for `choices: letters`, the listed choices."""
        if self._template is not None:
            return self._rendered(self._template, row)
        if row.prompt is not None:
            return row.prompt.strip()
        context = f"{row.context}\n\n" if row.context else ""
        listed = "".join(f"\n{letter}. {choice}" for letter, choice in self._lettered(row))
        return f"{context}Question: {row.question}{listed}"

    def plain(self, row: Row) -> str:
        """The prompt without a chat template: a given prompt and what a template makes as they are, of a text none."""
        if self._template is not None:
            return self._rendered(self._template, row)
        if row.text is not None:
            return ""
        return row.prompt if row.prompt is not None else f"{self.message(row)}\nAnswer:"

    def plain_gap(self, row: Row, prompt: str) -> str:
        """What stands between a plain prompt and what follows: one space, but nothing before a given completion (it
        follows its prompt exactly as given) and nothing where the prompt ends in white space."""
        return "" if row.question is None or prompt[-1:].isspace() else " "

    def choices(self, row: Row) -> tuple[str, ...]:
        """The continuations that are scored: the choices' texts, or their letters."""
        if self._letters:
            return tuple(letter for letter, _ in self._lettered(row))
        return row.choices or ()

    def completion(self, row: Row) -> str:
        """What is trained after the prompt and the gap: for reasoning `rationale\\n#### answer`, else the answer."""
        if row.text is not None:
            return row.text
        if row.completion is not None:
            return row.completion
        if row.choices is not None and row.answer_index is not None:
            answer = self.choices(row)[row.answer_index]
        else:
            answer = row.answer or ""
        if self._kind == "reasoning" and row.rationale:
            return f"{row.rationale}\n#### {answer}"
        return answer

    def _lettered(self, row: Row) -> list[tuple[str, str]]:
        if not self._letters or row.choices is None:
            return []
        if len(row.choices) > len(LETTERS):
            place, found = f"{row.place}: choices", f"{len(row.choices)} choices"
            raise self._problem(place, found, f"at most {len(LETTERS)} with `choices: letters`")
        return list(zip(LETTERS, row.choices, strict=False))

    def _rendered(self, template: jinja2.Template, row: Row) -> str:
        if row.text is not None:
            raise self._problem(
                row.place, "text, for which a template makes no prompt", "rows with a question or prompt"
            )
        try:
            text = template.render(
                context=row.context or "",
                question=row.question or "",
                choices=list(row.choices or ()),
                letters=list(LETTERS),
                prompt=row.prompt or "",
            )
        except TEMPLATE_ERRORS as error:
            found = f"a template that fails on this row: {type(error).__name__}: {error}"
            raise self._problem(
                row.place, found, "a template of context, question, choices, letters, prompt"
            ) from error
        if not text.strip():
            raise self._problem(row.place, "a template that makes an empty prompt", "a prompt")
        return text

    def _problem(self, place: str, found: str, expected: str) -> InputProblems:
        return InputProblems([Problem(self._file, place, found, expected)])


class ChatFrame:
    """What a tokenizer's chat template puts around one user message and the assistant's answer to it.

    The prompt is what the template itself writes before an assistant's answer, so that an answer is scored exactly
    where it is trained; nearly always that is the template's generation prompt. `end_text` is what it writes after the
    answer, through the token that ends the turn (`end_id`, None where it writes none).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        template = tokenizer.get_chat_template()
        self._template = _FIXED_DATE + template if "strftime_now" in template else template
        header = self._render("Which one?", None)
        before, after = self._around_answer("Which one?")
        self._addition = before[len(header) :] if before.startswith(header) else None
        self.end_text, self.end_id = self._turn_end(after)

    def prompt(self, message: str) -> str:
        """All text before the assistant's answer to this message."""
        if self._addition is None:
            return self._around_answer(message)[0]
        return self._render(message, None) + self._addition

    def _around_answer(self, message: str) -> tuple[str, str]:
        mark = "rankscope-answer-mark"
        before, found, after = self._render(message, mark).rpartition(mark)
        if not found:
            raise self._problem("a template that drops the assistant's message", "one that prints it")
        return before, after

    def _turn_end(self, after: str) -> tuple[str, int | None]:
        added = self._tokenizer.added_tokens_decoder.items()
        special = {str(token): token_id for token_id, token in added if token.special}
        places = [(after.index(token), -len(token), token) for token in special if token in after]
        if not places:
            return after.rstrip(), None
        start, _, token = min(places)
        return after[:start], special[token]

    def _render(self, message: str, answer: str | None) -> str:
        turns = [{"role": "user", "content": message}]
        if answer is not None:
            turns.append({"role": "assistant", "content": answer})
        try:
            text: str = self._tokenizer.apply_chat_template(
                turns, chat_template=self._template, tokenize=False, add_generation_prompt=answer is None
            )
        except TEMPLATE_ERRORS as error:
            raise self._problem(f"a template that fails: {error}", "one for a user's message") from error
        return text

    def _problem(self, found: str, expected: str) -> InputProblems:
        return InputProblems([Problem(self._tokenizer.name_or_path or "tokenizer", "chat template", found, expected)])
