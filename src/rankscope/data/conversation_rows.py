"""Conversations as tools write them (messages, ShareGPT, Alpaca) -> turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from rankscope.data.record_fields import Refused, checked, given, needed, text
from rankscope.records import Turn
from rankscope.study.problems import show

Role = Literal["system", "user", "assistant"]

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_SPEAKERS: dict[str, Role] = {
    **_ROLES,
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}


def messages_turns(record: Mapping[object, object]) -> tuple[Turn, ...]:
    """`messages`: a list of {role, content}."""
    return _turns(record, "messages", "role", "content", _ROLES)


def sharegpt_turns(record: Mapping[object, object]) -> tuple[Turn, ...]:
    """`conversations`: a list of {from, value}, or of {role, content}."""
    listed = record["conversations"]
    first = listed[0] if isinstance(listed, list) and listed else None
    if isinstance(first, Mapping) and "from" not in first and "role" in first:
        return _turns(record, "conversations", "role", "content", _SPEAKERS)
    return _turns(record, "conversations", "from", "value", _SPEAKERS)


def alpaca_turns(record: Mapping[object, object]) -> tuple[Turn, ...]:
    """`instruction`, with `input` after a blank line where there is one, answered by `output`."""
    instruction, more = needed(record, "instruction"), text(record, "input")
    asked = instruction if more is None else f"{instruction}\n\n{more}"
    turns = (Turn("user", asked), Turn("assistant", needed(record, "output")))
    return _with_system(record, turns, "instruction")


def _turns(
    record: Mapping[object, object], field: str, role_key: str, text_key: str, roles: Mapping[str, Role]
) -> tuple[Turn, ...]:
    listed = record[field]
    if not isinstance(listed, list):
        raise Refused(field, show(listed), f"a list of turns, each with {role_key} and {text_key}")
    turns = []
    for number, turn in enumerate(listed, start=1):
        place = f"{field}, turn {number}"
        if not isinstance(turn, Mapping):
            raise Refused(place, show(turn), f"a turn with {role_key} and {text_key}")
        named = turn.get(role_key)
        role = roles.get(named.strip().lower()) if isinstance(named, str) else None
        if role is None:
            raise Refused(f"{place}: {role_key}", show(named), f"one of {', '.join(roles)}")
        content = turn.get(text_key)
        if content is None or content == "" or not (said := checked(content, f"{place}: {text_key}", True)):
            raise Refused(f"{place}: {text_key}", show(content), "text that is not empty")
        turns.append(Turn(role, said))
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
        raise Refused(place, "an assistant's turn" if asked else "nothing", "a user's turn, which it would answer")
    if turns[-1].role != "assistant":
        expected = "an assistant's turn at the end, to be learned or scored"
        raise Refused(f"{field}, turn {len(turns)}", "a user's turn at the end", expected)


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
