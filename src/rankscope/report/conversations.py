"""A rendered prompt as the conversation that it is: who said what, without the tokens of a chat template.

Templates mark turns in a few ways only (docs of Llama, Qwen, Gemma, Mistral, Phi, DeepSeek, Cohere, Granite, gpt-oss);
what looks like a special token and names no speaker is left out. It is for reading: no score ever sees it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_SPEAKERS = {
    "user": "user", "human": "user", "inst": "user", "question": "user", "/inst": "assistant",
    "assistant": "assistant", "model": "assistant", "bot": "assistant", "chatbot": "assistant",
    "system": "system", "developer": "system", "sys": "system", "system_prompt": "system",
    "tool": "tool", "ipython": "tool", "function": "tool",
}  # fmt: skip

_NAMED = (
    r"<\|(?:im_start|start)\|>(?P<im>\w+)(?:<\|(?:message|channel)\|>(?:\w+<\|message\|>)?|\n)?",  # Qwen, gpt-oss
    r"<\|start_header_id\|>(?P<header>\w+)<\|end_header_id\|>",  # Llama 3
    r"<(?:start_of_turn|\|turn)>(?P<turn>\w+)\n?",  # Gemma
    r"<\|?start_of_role\|?>(?P<role>\w+)<\|?end_of_role\|?>",  # Granite
    r"<<(?P<sys>/?)SYS>>",  # Llama 2
    r"\[(?P<bracket>/?(?:INST|SYSTEM_PROMPT))\]",  # Mistral, Llama 2
    r"<[|｜](?P<bar>[^<>|｜\n]{1,60})[|｜]>",  # <|user|>, <｜User｜>, <|USER_TOKEN|>, and every other token in bars
)
_ALONE = r"</?s>|<[A-Z]{2,}_TOKEN>|<(?:bos|eos|pad|unk|end_of_turn|turn\|)>|<think>\s*</think>"
_TOKEN = re.compile("|".join(_NAMED) + f"|(?P<alone>{_ALONE})")


class Turn(NamedTuple):
    """What one speaker said: `user`, `assistant`, `system` or `tool`."""

    who: str
    text: str


def conversation(prompt: str) -> list[Turn]:
    """The turns of a prompt in their order, empty ones left out; one of the user where it has no template.

    Of a plain prompt the closing `Answer:` is left out: the answer stands below it.
    """
    turns: list[Turn] = []
    who, start, marked = "user", 0, False
    for found in _TOKEN.finditer(prompt):
        speaker = _speaker(found)
        unmarked = speaker is not None and not marked  # DeepSeek's system text stands before the first mark
        turns.append(Turn("system" if unmarked else who, prompt[start : found.start()]))
        start = found.end()
        if speaker is not None:
            who, marked = speaker, True
    turns.append(Turn(who, prompt[start:]))
    told = _joined(turns)
    if not marked and told:
        told[-1] = Turn(told[-1].who, re.sub(r"\s*\bAnswer:\s*$", "", told[-1].text))
    return [turn for turn in told if turn.text]


def _speaker(found: re.Match[str]) -> str | None:
    """Who speaks from this token on; None where it names nobody."""
    parts = found.groupdict()
    if parts["sys"] is not None:
        return "user" if parts["sys"] else "system"
    if parts["bracket"] == "/SYSTEM_PROMPT":
        return "user"
    name = next((parts[key] for key in ("im", "header", "turn", "role", "bracket", "bar") if parts[key]), None)
    if name is None:
        return None
    name = name.lower().removesuffix("_token").strip("▁ ")
    if parts["bar"] or parts["bracket"]:
        return _SPEAKERS.get(name)
    return _SPEAKERS.get(name, name)  # a role that only this template has keeps its name


def _joined(turns: list[Turn]) -> list[Turn]:
    """Neighbouring turns of one speaker as one, without the white space around them."""
    told: list[Turn] = []
    for turn in turns:
        if told and told[-1].who == turn.who:
            told[-1] = Turn(turn.who, told[-1].text + turn.text)
        elif turn.text.strip():
            told.append(turn)
    return [Turn(turn.who, turn.text.strip()) for turn in told]


def middle_cut(text: str, most: int) -> str:
    """The text with its middle left out where it is longer than `most` characters: a question stands at the end."""
    if len(text) <= most:
        return text
    first = most // 4
    gone = len(text) - most
    return f"{text[:first].rstrip()} … ({gone:,} characters left out) … {text[-(most - first) :].lstrip()}"
