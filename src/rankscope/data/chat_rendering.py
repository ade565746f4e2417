"""Writes turns by a tokenizer's chat template as transformers and lm-eval do, with an end to its time and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jinja2

from rankscope.data.bounded_templates import chat_template
from rankscope.study.problems import InputProblems, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER_MARK = "rankscope-answer-mark"
"""Stands for a text whose place in what a template writes is looked for."""

# Some templates print today's date. A study that is resumed tomorrow must see today's prompts: so the date is fixed.
_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}"
    '{{ format.replace("%Y", "2025").replace("%m", "01").replace("%d", "01").replace("%B", "January")'
    '.replace("%b", "Jan").replace("%A", "Wednesday").replace("%a", "Wed").replace("%H", "00").replace("%M", "00")'
    '.replace("%S", "00") }}'
    "{%- endmacro -%}"
)


def lm_eval_chat(
    tokenizer: PreTrainedTokenizerBase,
    turns: list[dict[str, str]],
    add_generation_prompt: bool,
    template: str | None = None,
) -> str:
    """Turns by the template as lm-eval's `hf` model asks for them: without `add_generation_prompt` the last one is left
    open; a system turn is dropped where none is taken. Raises one of TEMPLATE_ERRORS, or InputProblems."""
    source = own_template(tokenizer) if template is None else template

    def rendered(given: list[dict[str, str]]) -> str:
        if add_generation_prompt:
            return written(tokenizer, source, given, True, {})
        last = given[-1] | {"content": f"{given[-1]['content']}{ANSWER_MARK} "}
        text, found, after = written(tokenizer, source, [*given[:-1], last], False, {}).rpartition(ANSWER_MARK)
        if not found:
            raise jinja2.TemplateError("the last turn is not written")
        return text if after.startswith(" ") else text.rstrip()

    try:
        return rendered(turns)
    except jinja2.TemplateError:
        return rendered([turn for turn in turns if turn["role"] != "system"])


def own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's chat template, of several the default. Raises InputProblems where they have none."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        names = ", ".join(map(str, template))
        template = template.get("default")
        if not isinstance(template, str):
            name = tokenizer.name_or_path or "tokenizer"
            expected = "one named default, or `chat: never`"
            raise InputProblems([Problem(name, "chat template", f"several templates ({names})", expected)])
    return str(template)


def with_fixed_date(template: str) -> str:
    """The template with 1 January 2025 for today, where it asks for the date."""
    return _FIXED_DATE + template if "strftime_now" in template else template


def written(
    tokenizer: PreTrainedTokenizerBase, source: str, messages: list[dict[str, Any]], generation: bool, options: Any
) -> str:
    """The messages by a chat template, as transformers renders it, but with an end to its time and memory."""
    tokens = {
        name: list(map(str, token)) if isinstance(token, list | tuple) else str(token)
        for name, token in tokenizer.special_tokens_map.items()
    }
    given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": generation}
    return chat_template(source).render(tokens | options | given)
