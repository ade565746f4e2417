"""Reads the turns of a record that is a conversation, as the tools that train on such records write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from rankscope.data.question_rows import Refused, checked, given, is_clean, needed, text
from rankscope.records import Turn
from rankscope.study.problems import show

Role = Literal["system", "user", "assistant", "tool", "function"]

_ROLES: dict[str, Role] = {
    "system": "system", "user": "user", "assistant": "assistant", "tool": "tool", "function": "function",
}  # fmt: skip
_SPEAKERS: dict[str, Role] = {
    **_ROLES,
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "observation": "tool",
}
_GIVEN_TO_TEMPLATES = ("name", "tool_call_id")


def messages_turns(record: Mapping[object, object]) -> tuple[Turn, ...]:
    """`messages`: a list of {role, content}. Raises Refused, as all functions here do."""
    return _whole(record, "messages", _turns(record["messages"], "messages", "role", "content", _ROLES))


def sharegpt_turns(record: Mapping[object, object]) -> tuple[Turn, ...]:
    """`conversations`: a list of {from, value}, or of {role, content}."""
    listed = record["conversations"]
    first = listed[0] if isinstance(listed, list) and listed else None
    named = isinstance(first, Mapping) and "from" not in first and "role" in first
    keys = ("role", "content") if named else ("from", "value")
    return _whole(record, "conversations", _turns(listed, "conversations", *keys, _SPEAKERS))


def alpaca_turns(record: Mapping[object, object]) -> tuple[Turn, ...]:
    """`instruction`, with `input` after a blank line where there is one, answered by `output`."""
    instruction, more = needed(record, "instruction"), text(record, "input")
    asked = instruction if more is None else f"{instruction}\n\n{more}"
    turns = (Turn("user", asked), Turn("assistant", needed(record, "output")))
    return _with_system(record, turns, "instruction")


def prompt_turns(record: Mapping[object, object]) -> tuple[Turn, ...]:
    """`prompt` and `completion` as lists of {role, content}, as TRL has them; the prompt has no loss."""
    parts = [record.get(field) for field in ("prompt", "completion")]
    for field, part in zip(("prompt", "completion"), parts, strict=True):
        if not isinstance(part, list) or not part:
            raise Refused(field, show(part), "a list of turns, since the other of prompt and completion is one")
    asked, answered = (
        _turns(part, field, "role", "content", _ROLES)
        for field, part in zip(("prompt", "completion"), parts, strict=True)
    )
    return _whole(record, "prompt with completion", [*(turn._replace(trained=False) for turn in asked), *answered])


def _turns(listed: object, field: str, role_key: str, text_key: str, roles: Mapping[str, Role]) -> list[Turn]:
    if not isinstance(listed, list):
        raise Refused(field, show(listed), f"a list of turns, each with {role_key} and {text_key}")
    turns = []
    for number, turn in enumerate(listed, start=1):
        place = f"{field}, turn {number}"
        if not isinstance(turn, Mapping):
            raise Refused(place, show(turn), f"a turn with {role_key} and {text_key}")
        named = turn.get(role_key)
        said = named.strip().lower() if isinstance(named, str) else ""
        if said not in roles:
            raise Refused(f"{place}: {role_key}", show(named), f"one of {', '.join(roles)}")
        turns.append(_turn(roles[said], turn, turn.get(text_key), f"{place}: {text_key}", said == "function_call"))
    return turns


def _turn(role: Role, turn: Mapping[object, object], content: object, place: str, is_call: bool) -> Turn:
    calls: list[Any] = []
    if is_call:
        calls, content = [content], ""
    elif role == "assistant":
        listed = turn.get("tool_calls") or []
        calls = list(listed) if isinstance(listed, list) else [listed]
        calls += [turn["function_call"]] if turn.get("function_call") else []
    more: dict[str, Any] = {key: turn[key] for key in _GIVEN_TO_TEMPLATES if isinstance(turn.get(key), str)}
    if calls:
        more["tool_calls"] = [_call(one, place) for one in calls]
    said = _content(content, place)
    if not said and not calls:
        raise Refused(place, show(content), "text that is not empty")
    written = json.dumps(more, ensure_ascii=False, sort_keys=True) if more else ""
    if not is_clean(written):
        raise Refused(place, "half of a surrogate pair", "text that can be written as UTF-8")
    return Turn(role, said, written)


def _content(content: object, place: str) -> str:
    """The text of a turn, given as one or in parts."""
    if content is None:
        return ""
    if not isinstance(content, list) or not any(isinstance(part, Mapping | str) for part in content):
        return checked(content, place, True)
    found = []
    for part in content:
        if isinstance(part, Mapping) and part.get("type", "text") != "text":
            raise Refused(place, f"a part of type {show(part.get('type'))}", "parts of text: nothing else is read")
        found.append(checked(part.get("text") if isinstance(part, Mapping) else part, place, False))
    return "".join(found).strip()


def _call(call: object, place: str) -> dict[str, Any]:
    """A call of a tool as chat templates read it; its arguments may be given as JSON."""
    expected = "calls of tools, each with the name of a function and its arguments"
    try:
        call = json.loads(call) if isinstance(call, str) else call
        inner = call.get("function") or call if isinstance(call, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise Refused(place, show(call), expected)
        arguments = inner.get("arguments")
        arguments = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments or {}
        json.dumps(arguments)
    except (ValueError, TypeError, RecursionError) as error:
        raise Refused(place, "a call of a tool that is no valid JSON", expected) from error
    if not isinstance(arguments, Mapping):
        raise Refused(place, f"the arguments {show(arguments)}", expected)
    kept = {key: value for key, value in arguments.items() if value is not None}
    own_id = {"id": call["id"]} if isinstance(call, Mapping) and isinstance(call.get("id"), str) else {}
    return {"type": "function", "function": {"name": inner["name"], "arguments": kept}} | own_id


def _whole(record: Mapping[object, object], field: str, turns: list[Turn]) -> tuple[Turn, ...]:
    """The turns in an order that can be trained, with the text of a `system` column before them."""
    if given(record, "tools") and record["tools"] != "[]":
        expected = "what tools there are in the system turn (or `columns:` that name the fields to read)"
        raise Refused("tools", "definitions of tools, which are not read", expected)
    _check_order(turns, field)
    return _with_system(record, tuple(turns), field)


def _check_order(turns: list[Turn], field: str) -> None:
    """At most one system turn, which is the first; a user's before the first assistant's; an assistant's at the end."""
    later_system = next((i for i, turn in enumerate(turns) if turn.role == "system" and i > 0), None)
    if later_system is not None:
        place = f"{field}, turn {later_system + 1}"
        raise Refused(place, "a system turn", "a user's or an assistant's (a system turn is the first)")
    asked = [turn for turn in turns if turn.role != "system"]
    if not asked or asked[0].role != "user":
        place = f"{field}, turn {len(turns) - len(asked) + 1}"
        found = f"{_article(asked[0].role)} turn" if asked else "nothing"
        raise Refused(place, found, "a user's turn, which it would answer")
    if turns[-1].role != "assistant":
        expected = "an assistant's turn at the end, to be learned or scored"
        raise Refused(f"{field}, turn {len(turns)}", f"{_article(turns[-1].role)} turn at the end", expected)


def _article(role: str) -> str:
    return {"assistant": "an assistant's", "user": "a user's"}.get(role, f"a {role}")


def _with_system(record: Mapping[object, object], turns: tuple[Turn, ...], field: str) -> tuple[Turn, ...]:
    """With the text of a `system` column before them."""
    if not given(record, "system"):
        return turns
    system = text(record, "system")
    if system is None:
        return turns
    if turns[0].role == "system":
        raise Refused("system", f"a system text beside the system turn of {field}", "one of them")
    return (Turn("system", system), *turns)
