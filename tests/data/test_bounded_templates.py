"""Templates that do not end or eat memory are refused soon; all others are rendered as transformers renders them."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from chat_templates import FAMILIES
from tokenizers_small import make_tokenizer

from rankscope.data.bounded_templates import TEMPLATE_ERRORS, BoundedTemplate
from rankscope.data.encoder import Encoder
from rankscope.data.prompts import PromptMaker
from rankscope.data.template_sizes import TooCostly
from rankscope.records import Row
from rankscope.study.problems import InputProblems
from rankscope.study.study import Source

DOUBLED = "{% set ns = namespace(x='a') %}{% for i in range(99) %}BODY{% endfor %}{{ ns.x }}"
BOMBS = {
    "long range": "{% for i in range(10**9) %}x{% endfor %}",
    "two loops": "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "empty passes": "{% for i in range(9999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "repeated text": "{{ 'a' * 10**10 }}",
    "constant text": "{{ 'a' * 10000000000 }}",
    "repeated list": "{{ [1] * 10**10 }}",
    "power": "{{ 10**(10**10) }}",
    "macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "two macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive loop": "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "sum doubled": DOUBLED.replace("BODY", "{% set ns.x = ns.x + ns.x %}"),
    "joined doubled": DOUBLED.replace("BODY", "{% set ns.x = ns.x ~ ns.x %}"),
    "block doubled": DOUBLED.replace("BODY", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
    "list doubled": DOUBLED.replace("BODY", "{% set ns.x = [ns.x, ns.x] %}"),
    "centred": "{{ 'a' | center(10**10) }}",
    "justified": "{{ 'a'.ljust(10**10) }}",
    "formatted": "{{ '%10000000000d' % 5 }}",
    "formatted by value": "{{ '{:{w}}'.format(5, w=10**10) }}",
    "replaced": "{{ ('a' * 100000) | replace('', 'b' * 100000) }}",
    "replaced by method": "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
    "shared parts": "{{ (['a' * 1000000] * 100000) | join }}",
    "mapped": "{{ range(99999) | map('center', 99999) | join }}",
    "indented": "{{ ('a\n' * 100000) | indent(99999) }}",
    "filler": "{{ [] | batch(10**9, 'x') | list }}",
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep blocks": "{% if 1 %}" * 500 + "{% endif %}" * 500,
    "long source": "x" * 1_000_001,
}


@pytest.mark.parametrize("source", BOMBS.values(), ids=BOMBS)
def test_a_template_without_an_end_is_refused(source: str) -> None:
    started = time.process_time()
    for chat in (True, False) if "10**10" in source else (True,):
        with pytest.raises(TEMPLATE_ERRORS):
            BoundedTemplate(source, chat=chat).render({})
    assert time.process_time() - started < 20


def test_a_template_takes_little_memory_before_it_is_refused() -> None:
    tracemalloc.start()
    try:
        for name in ("repeated text", "joined doubled", "block doubled", "mapped", "shared parts", "replaced"):
            with pytest.raises(TooCostly):
                BoundedTemplate(BOMBS[name], chat=True).render({})
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", FAMILIES)
def test_chat_templates_are_written_as_transformers_does(name: str) -> None:
    tokenizer = make_tokenizer(bos=True)
    tokenizer.chat_template = FAMILIES[name].replace("strftime_now('%d %b %Y')", "'1 Jan'")
    encoder = Encoder(tokenizer, context_tokens=100)
    turns = [
        {"role": "user", "content": " Who? "},
        {"role": "assistant", "content": "Ann, ”é“"},
        {"role": "user", "content": "Why?"},
    ]
    wanted = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert encoder.chat_text(turns) == wanted
    open_end = tokenizer.apply_chat_template(turns[:2], tokenize=False, continue_final_message=True)
    assert encoder.chat_text(turns[:2], add_generation_prompt=False) == open_end


def test_what_transformers_offers_is_there() -> None:
    source = (
        "{%- set ns = namespace(n=0) -%}{%- for m in messages -%}{%- if m.skip is defined -%}{%- continue -%}"
        "{%- endif -%}{%- generation -%}{{ m | tojson }}{%- endgeneration -%}{%- set ns.n = ns.n + 1 -%}"
        "{%- endfor -%}{{ ns.n ~ '|' ~ strftime_now('%%') }}{{ messages[5] }}"
    )
    messages = [{"a": "<é>"}, {"skip": 1}, {"b": [1.5, None]}]
    found = BoundedTemplate(source, chat=True).render({"messages": messages})
    assert found == '{"a": "<é>"}{"b": [1.5, null]}2|%'
    with pytest.raises(TEMPLATE_ERRORS, match="no system"):
        BoundedTemplate("{{ raise_exception('no system') }}", chat=True).render({})


def test_the_bombs_of_studies_and_tokenizers_are_one_line() -> None:
    bomb = BOMBS["repeated text"]
    with pytest.raises(InputProblems, match="more than 30,000,000 characters"):
        PromptMaker(Source(path="f", template=bomb), "f").message(Row("i", "line 1", question="q", answer="a"))
    tokenizer = make_tokenizer()
    tokenizer.chat_template = bomb
    with pytest.raises(InputProblems, match="a template that fails: text of more than") as caught:
        Encoder(tokenizer, context_tokens=9)
    assert len(caught.value.problems) == 1


def test_named_templates_need_a_default() -> None:
    tokenizer = make_tokenizer()
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer.chat_template = {"rag": plain, "tool_use": plain}
    with pytest.raises(InputProblems, match=r"several templates \(rag, tool_use\), expected one named default"):
        Encoder(tokenizer, context_tokens=9)
    tokenizer.chat_template = {"rag": "x", "default": plain}
    assert Encoder(tokenizer, context_tokens=9).chat
