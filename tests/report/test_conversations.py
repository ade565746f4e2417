"""Prompts of known families' templates become turns without tokens; a plain prompt is one turn of the user."""

from __future__ import annotations

import jinja2
import pytest
from chat_templates import FAMILIES

from rankscope.report.conversations import conversation, middle_cut

MARKED = {
    "llama 3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{q}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama 2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{q} [/INST]",
    "gemma": "<bos><start_of_turn>user\n{q}<end_of_turn>\n<start_of_turn>model\n",
    "gpt-oss": "<|start|>system<|message|>Be brief.<|end|><|start|>user<|message|>{q}<|end|><|start|>assistant",
    "deepseek": "<｜begin▁of▁sentence｜>Be brief.<｜User｜>{q}<｜Assistant｜>",
    "cohere": "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>{q}<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|>"
    "<|CHATBOT_TOKEN|>",
    "granite": "<|start_of_role|>user<|end_of_role|>{q}<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    "bundled": "<|begin|><|user|>{q}<|assistant|>",
    "qwen 3": "<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
}
QUESTION = "Question: is 3 < 5, and [x] > <b>y</b>?"


@pytest.mark.parametrize("family", MARKED)
def test_the_marks_of_a_template_are_gone_and_who_spoke_is_told(family: str) -> None:
    turns = conversation(MARKED[family].replace("{q}", QUESTION))
    assert turns[-1] == ("user", QUESTION)
    assert all("|" not in turn.text and "INST" not in turn.text for turn in turns)
    assert {turn.who for turn in turns} <= {"system", "user"}


@pytest.mark.parametrize("family", FAMILIES)
def test_templates_as_tokenizers_render_them_give_their_own_messages(family: str) -> None:
    asked = [("user", "What is 2 + 2?"), ("assistant", "It is 4."), ("user", QUESTION)]
    messages = [{"role": who, "content": text} for who, text in asked]
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["strftime_now"] = lambda form: "1 Jan 2026"
    template = environment.from_string(FAMILIES[family])
    prompt = template.render(messages=messages, bos_token="<s>", eos_token="</s>", add_generation_prompt=True)
    turns = conversation(prompt)
    assert [turn for turn in turns if turn.who != "system"] == asked


def test_a_prompt_without_a_template_is_one_turn_without_our_closing_word() -> None:
    assert conversation("A text.\n\nQuestion: Who?\nAnswer:") == [("user", "A text.\n\nQuestion: Who?")]
    assert conversation("Answer: no. Is that so?") == [("user", "Answer: no. Is that so?")]
    assert conversation("") == []


def test_the_end_of_a_long_text_stays() -> None:
    text = "a" * 3000 + " What is asked?"
    cut = middle_cut(text, 1000)
    assert cut.endswith("What is asked?")
    assert "(2,015 characters left out)" in cut
    assert middle_cut("short", 1000) == "short"
