"""Rows as text: the prompt, and what is scored or trained after it."""

from __future__ import annotations

import re

from rankscope.data.bounded_templates import TEMPLATE_ERRORS, BoundedTemplate
from rankscope.data.question_rows import split_solution
from rankscope.records import Form, Row
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Source, SuiteSource

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_NUMBER = re.compile(r"[-+−]?\s*[$€£]?\s*[-+−]?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?(?<=\d)\.?\s*%?", re.ASCII)


def is_number(text: str) -> bool:
    """Whether an answer is a plain number: sign, currency sign, thousands' commas, decimals and % allowed."""
    return _NUMBER.fullmatch(text.strip()) is not None


def reference_answer(row: Row, *, reasoning: bool) -> str:
    """What an open answer is compared with. Of a worked solution that a reasoning suite asks for it is what follows
    `####`, in a completion or an assistant's turn too."""
    given = row.answer or (row.completion or "").strip()
    if row.messages is not None:
        given = row.messages[-1].content
    return split_solution(given)[1] if reasoning else given


def form_of(row: Row, *, reasoning: bool) -> Form:
    """How a row is scored: choices before an answer, and an answer as a number if the suite's kind is reasoning."""
    if row.text is not None:
        return "text"
    if row.choices is not None:
        return "choices"
    return "number" if reasoning and is_number(reference_answer(row, reasoning=True)) else "open"


def asked_form(row: Row, source: Source) -> Form:
    """How a row of this source is scored: by its reference's loss or a written answer where a suite says so, else as
    its shape says."""
    if isinstance(source, SuiteSource) and source.judged_by_loss:
        return "reference"
    if isinstance(source, SuiteSource) and source.grade is not None and row.text is None:
        return "open"
    return form_of(row, reasoning=getattr(source, "kind", None) == "reasoning")


def runs_on(row: Row) -> bool:
    """Whether no space stands between a given prompt and its completion."""
    return bool(row.prompt and row.completion and row.prompt[-1].isalnum() and row.completion[0].isalnum())


class PromptMaker:
    """How one source's rows become a message (for a chat template) or a plain prompt, and what follows it.

    Raises InputProblems if the source's template is not valid jinja2; its methods raise it for a row that the template
    cannot be used on, or that has more choices than there are letters.
    """

    def __init__(self, source: Source, file: str) -> None:
        self._letters = source.choices == "letters"
        self._file = file
        self._kind = getattr(source, "kind", None)
        self._template: BoundedTemplate | None = None
        if source.template is not None:
            try:
                self._template = BoundedTemplate(source.template, chat=False)
            except TEMPLATE_ERRORS as error:
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
        joined = row.question is None and row.messages is None
        return "" if joined or prompt[-1:].isspace() else " "

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
        if row.messages is not None:
            return row.messages[-1].content
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

    def _rendered(self, template: BoundedTemplate, row: Row) -> str:
        if row.text is not None:
            raise self._problem(
                row.place, "text, for which a template makes no prompt", "rows with a question or prompt"
            )
        if row.messages is not None and [turn.role for turn in row.messages] != ["user", "assistant"]:
            found = "a conversation of more than one question and answer, for which a template makes no prompt"
            raise self._problem(row.place, found, "one user's and one assistant's turn, or no `template`")
        try:
            values = {"context": row.context or "", "question": row.question or "", "choices": list(row.choices or ())}
            prompt = row.messages[0].content if row.messages else row.prompt or ""
            text = template.render(values | {"letters": list(LETTERS), "prompt": prompt})
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
