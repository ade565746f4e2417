"""Turns of tools, of TRL's prompts and completions, and in parts: read as meant, or refused with the reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chat_templates import LLAMA3, QWEN25
from tokenizers_small import make_tokenizer

from rankscope.data.encoder import Encoder
from rankscope.data.row_shapes import content_id, mapped, parse
from rankscope.records import Row
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import SuiteSource, TrainSource

CALL = {"type": "function", "function": {"name": "sum", "arguments": '{"a": 2, "b": 3}'}, "id": "c1"}
TOOLS: list[dict[str, Any]] = [
    {"role": "user", "content": "2+3?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "5", "name": "sum", "tool_call_id": "c1"},
    {"role": "assistant", "content": "It is 5."},
]
TOOL_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<call>{{ c.function.name }}{{ c.function.arguments | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN_TRAIN = TrainSource(path="x", domain="d")


def row_of(record: object) -> Row:
    row = parse(record, file="f", place="line 1")
    assert isinstance(row, Row), str(row)
    return row


def encoder_of(template: str | None) -> Encoder:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return Encoder(tokenizer, context_tokens=500)


def trained(encoder: Encoder, record: object) -> tuple[str, list[str]]:
    """The whole text, and the pieces of it that have loss."""
    (example,) = encoder.training([row_of(record)], PLAIN_TRAIN, "f")
    ids = example.prompt_ids + example.completion_ids
    mask = example.loss_mask or [False] * len(example.prompt_ids) + [True] * len(example.completion_ids)
    pieces: list[list[int]] = []
    for i, (token, has_loss) in enumerate(zip(ids, mask, strict=True)):
        if has_loss:
            pieces += [] if i and mask[i - 1] else [[]]
            pieces[-1].append(token)
    return encoder.tokenizer.decode(ids), [encoder.tokenizer.decode(piece) for piece in pieces]


def test_tools_are_written_by_the_template_and_what_they_say_has_no_loss() -> None:
    whole, pieces = trained(encoder_of(TOOL_TEMPLATE), {"messages": TOOLS})
    assert whole == (
        "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n"
        '<call>sum{"a": 2, "b": 3}</call><|im_end|>\n<|im_start|>tool\n5<|im_end|>\n'
        "<|im_start|>assistant\nIt is 5.<|im_end|>"
    )
    assert [piece.strip() for piece in pieces] == ['<call>sum{"a": 2, "b": 3}</call><|im_end|>', "It is 5.<|im_end|>"]


def test_tools_without_a_template_for_them_are_refused_with_the_reason() -> None:
    plain = [TOOLS[0], {"role": "assistant", "content": "Let me see."}, *TOOLS[2:]]
    whole, pieces = trained(encoder_of(None), {"messages": plain})
    assert whole == "User: 2+3?\n\nAssistant: Let me see.</s>\n\nTool: 5\n\nAssistant: It is 5.</s>"
    assert pieces == [" Let me see.</s>", " It is 5.</s>"]
    leaves_out = QWEN25.replace("{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}")
    for template, record, said in [
        (None, TOOLS, "line 1: turn 2: found a call of a tool, expected a model with a chat template"),
        (leaves_out, plain, "line 1: turn 3: found a tool turn, which the chat template leaves out"),
    ]:
        with pytest.raises(InputProblems, match=said):
            trained(encoder_of(template), {"messages": record})
    with pytest.raises(InputProblems, match="found a call of a tool at the end, expected an answer in words"):
        encoder_of(TOOL_TEMPLATE).items([row_of({"messages": TOOLS[:2]})], SuiteSource(path="x", kind="recall"), "f")


def test_calls_of_other_tools_are_the_same_turns() -> None:
    legacy = [TOOLS[0], {"role": "assistant", "content": "", "function_call": CALL["function"]}]
    sharegpt = [
        {"from": "human", "value": "2+3?"},
        {"from": "function_call", "value": json.dumps({"name": "sum", "arguments": {"a": 2, "b": 3}})},
        {"from": "observation", "value": "5"},
        {"from": "gpt", "value": "It is 5."},
    ]
    whole, _ = trained(encoder_of(TOOL_TEMPLATE), {"conversations": sharegpt})
    assert whole == trained(encoder_of(TOOL_TEMPLATE), {"messages": TOOLS})[0]
    (call,) = [turn for turn in row_of({"messages": legacy}).messages or () if turn.more]
    assert json.loads(call.more)["tool_calls"][0]["function"]["arguments"] == {"a": 2, "b": 3}


@pytest.mark.parametrize("template", [None, TOOL_TEMPLATE, LLAMA3])
def test_only_the_completion_of_a_prompt_in_turns_is_trained(template: str | None) -> None:
    turns = [{"role": role, "content": said} for role, said in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    asked = {"prompt": turns[:3], "completion": turns[3:]}
    encoder = encoder_of(template)
    whole, pieces = trained(encoder, asked)
    every, both = trained(encoder, {"messages": turns})
    assert whole == every
    assert pieces == both[1:]
    assert row_of(asked).item_id != row_of({"messages": turns}).item_id
    assert row_of(asked).item_id == content_id(vars(row_of(asked)))
    assert mapped({name: json.dumps(part) for name, part in asked.items()}, None, cells=True) == asked
    assert mapped({"prompt": "[INST] a"}, None, cells=True) == {"prompt": "[INST] a"}


def test_numbers_and_parts_of_text_are_read() -> None:
    assert row_of({"prompt": "2+3=", "completion": 5}).completion == "5"
    assert row_of({"prompt": "2+3=", "completion": 2.5}).completion == "2.5"
    parts = [{"type": "text", "text": "Who "}, {"type": "text", "text": "is it?"}]
    row = row_of({"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": ["Ann"]}]})
    assert [turn.content for turn in row.messages or ()] == ["Who is it?", "Ann"]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"prompt": "p", "completion": [TOOLS[3]]}, 'prompt: found "p", expected a list of turns'),
        ({"prompt": [TOOLS[0]], "completion": "c"}, 'completion: found "c", expected a list of turns'),
        ({"prompt": [TOOLS[0]], "completion": [TOOLS[0]]}, "found a user's turn at the end"),
        ({"prompt": "p", "completion": True}, "completion: found true"),
        ({"messages": TOOLS, "tools": [{"name": "sum"}]}, "tools: found definitions of tools, which are not read"),
        ({"messages": [TOOLS[2], TOOLS[3]]}, "found a tool turn, expected a user's turn"),
        ({"messages": [TOOLS[0], {"role": "assistant", "tool_calls": ["{"]}]}, "no valid JSON"),
        ({"messages": [TOOLS[0], {"role": "assistant", "tool_calls": [3]}]}, "calls of tools, each with the name"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}, 'a part of type "image"'),
        ({"messages": [TOOLS[0], {"role": "tool", "content": ""}]}, "text that is not empty"),
    ],
)
def test_what_is_not_read_is_refused_with_the_reason(record: object, said: str) -> None:
    problem = parse(record, file="f", place="line 1")
    assert isinstance(problem, Problem)
    assert said in str(problem)
