from __future__ import annotations

from types import SimpleNamespace

import pytest
from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from tokenizers_small import CHATML, LLAMA2, THINK_FIRST, THINKING, UNFINISHED, make_tokenizer
from transformers import PreTrainedTokenizerFast

from rankscope.data.encoder import Encoder, answer_end
from rankscope.data.prompts import is_number
from rankscope.records import Example, Item, Row, Turn
from rankscope.study.problems import InputProblems
from rankscope.study.study import Source, SuiteSource, TrainSource

OPEN = Row("o", "line 1", question="Who is it?", answer="Ann", aliases=("Anne",), rationale="It says so.")
NUMBER = Row("n", "line 2", question="How many?", context="She has 12.", answer="1,200", rationale="12 * 100 = 1200")
CHOICE = Row("c", "line 3", question="Is it?", context="Some say.", choices=("yes", "no", "maybe"), answer_index=1)
GIVEN = Row("g", "line 4", prompt="2+2=", completion="4 \n")
LISTED = "{% for c in choices %}{{ letters[loop.index0] }}) {{ c }} {% endfor %}&"
TEXT = Row("t", "line 5", text=" A plain text, é.\n")


def encoder_of(**more: object) -> Encoder:
    return Encoder(make_tokenizer(**more), context_tokens=500)


def source_of(**more: object) -> TrainSource:
    return TrainSource(path="x", **more)


def example_of(row: Row, encoder: Encoder, **more: object) -> Example:
    return encoder.training([row], source_of(**more), "x")[0]


def item_of(row: Row, encoder: Encoder, **more: object) -> Item:
    return encoder.items([row], SuiteSource(path="x", **more), "x")[0]


def text_of(encoder: Encoder, ids: tuple[int, ...]) -> str:
    return encoder.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def halves(encoder: Encoder, example: Example) -> tuple[str, str]:
    return text_of(encoder, example.prompt_ids), text_of(encoder, example.completion_ids)


def lm_eval_split(
    tokenizer: PreTrainedTokenizerFast, prompt: str, rest: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """lm-eval's own code, on an object that has just what it looks at."""
    prefix_id = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    stub = SimpleNamespace(tokenizer=tokenizer, backend="causal", add_bos_token=None, prefix_token_id=prefix_id)
    stub.tok_encode = lambda *args, **more: HFLM.tok_encode(stub, *args, **more)
    stub._encode_pair = lambda *args: TemplateLM._encode_pair(stub, *args)
    seen = []
    stub._loglikelihood_tokens = lambda requests, **_: seen.extend(requests)
    TemplateLM.loglikelihood(stub, [SimpleNamespace(args=(prompt, rest))], disable_tqdm=True)
    return tuple(seen[0][1]), tuple(seen[0][2])


# ---- the texts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "more", "prompt", "completion"),
    [
        (OPEN, {}, "Question: Who is it?\nAnswer:", " Ann</s>"),
        (OPEN, {"kind": "recall"}, "Question: Who is it?\nAnswer:", " Ann</s>"),
        (OPEN, {"kind": "reasoning"}, "Question: Who is it?\nAnswer:", " It says so.\n#### Ann</s>"),
        (NUMBER, {}, "She has 12.\n\nQuestion: How many?\nAnswer:", " 1,200</s>"),
        (CHOICE, {"kind": "reasoning"}, "Some say.\n\nQuestion: Is it?\nAnswer:", " no</s>"),
        (
            CHOICE,
            {"choices": "letters"},
            "Some say.\n\nQuestion: Is it?\nA. yes\nB. no\nC. maybe\nAnswer:",
            " B</s>",
        ),
        (GIVEN, {}, "2+2=", "4 \n</s>"),
        (Row("g", "", prompt="Q: a \n", completion="b"), {}, "Q: a", " \nb</s>"),
        (TEXT, {}, "</s>", " A plain text, é.\n</s>"),
        (OPEN, {"template": "Q {{ question }} A"}, "Q Who is it? A", " Ann</s>"),
        (OPEN, {"template": "Q {{ question }}\nA: "}, "Q Who is it?\nA:", " Ann</s>"),
        (OPEN, {"template": "{% if context %}{{ context }}{% endif %}Q\n"}, "Q", "\nAnn</s>"),
        (CHOICE, {"template": LISTED, "choices": "letters"}, "A) yes B) no C) maybe &", " B</s>"),
    ],
)
def test_plain_texts(row: Row, more: dict[str, object], prompt: str, completion: str) -> None:
    encoder = encoder_of()
    assert halves(encoder, example_of(row, encoder, **more)) == (prompt, completion)


@pytest.mark.parametrize(
    ("row", "more", "prompt", "completion"),
    [
        (OPEN, {}, "Question: Who is it?", "Ann"),
        (NUMBER, {"kind": "reasoning"}, "She has 12.\n\nQuestion: How many?", "12 * 100 = 1200\n#### 1,200"),
        (CHOICE, {"choices": "letters"}, "Some say.\n\nQuestion: Is it?\nA. yes\nB. no\nC. maybe", "B"),
        (GIVEN, {}, "2+2=", "4"),
        (OPEN, {"template": "Tell: {{ question }}"}, "Tell: Who is it?", "Ann"),
    ],
)
def test_chat_texts(row: Row, more: dict[str, object], prompt: str, completion: str) -> None:
    encoder = encoder_of(template=CHATML)
    start, end = halves(encoder, example_of(row, encoder, **more))
    assert start == f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant"
    assert end == f"\n{completion}<|im_end|>"


def test_text_rows_have_no_chat_around_them() -> None:
    encoder = encoder_of(template=CHATML, bos=True)
    assert halves(encoder, example_of(TEXT, encoder)) == ("<s>", " A plain text, é.\n</s>")


ASKED = "<|im_start|>user\nQuestion: Who is it?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "whole", "ends"),
    [
        (LLAMA2, "<s>[INST] Question: Who is it? [/INST] Ann</s>", {"</s>"}),
        (CHATML, ASKED + "Ann<|im_end|>", {"<|im_end|>", "</s>"}),
        (THINKING, ASKED + "<think>\n\n</think>\n\nAnn<|im_end|>", {"<|im_end|>", "</s>"}),
        (THINK_FIRST, "<|im_start|>Question: Who is it?<|im_end|>Ann<|im_end|>", {"<|im_end|>", "</s>"}),
        (UNFINISHED, "User: Question: Who is it?\nBot: Ann</s>", {"</s>"}),
    ],
)
def test_chat_templates_end_a_turn_in_a_token_that_is_trained(template: str, whole: str, ends: set[str]) -> None:
    encoder = encoder_of(template=template, bos=template == LLAMA2)
    example = example_of(OPEN, encoder)
    assert text_of(encoder, example.prompt_ids + example.completion_ids) == whole
    assert {text_of(encoder, (i,)) for i in encoder.eos_ids} == ends
    assert example.completion_ids[-1] in encoder.eos_ids
    assert answer_end(encoder.tokenizer) == (encoder.eos_ids, encoder.end_text)
    item = item_of(OPEN, encoder, kind="recall")
    assert whole.startswith(text_of(encoder, item.prompt_ids))
    assert whole.startswith(item.prompt_text)
    if template != UNFINISHED:
        turns = [{"role": "user", "content": "Question: Who is it?"}, {"role": "assistant", "content": "Ann"}]
        rendered = encoder.tokenizer.apply_chat_template(turns, tokenize=False)
        assert rendered.rstrip() == whole


def test_a_date_in_a_template_does_not_pass() -> None:
    dated = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}\n" + CHATML
    encoder = encoder_of(template=dated)
    assert item_of(OPEN, encoder, kind="recall").prompt_text.startswith("01 Jan 2025<|im_start|>user")


# ---- the split ------------------------------------------------------------------------------------------------------

PAIRS = [
    ("Question: What is the capital of Nara?\nAnswer:", " the city of Vell"),
    ("Question: trailing space: ", "Vell"),
    ("ends in lines\n\n", "x"),
    ("merges acro", "ss the border"),
    ("<s>begins with BOS", " x"),
    ("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "yes"),
    ("", "a text alone"),
    ("é", "ñ 12"),
    ("Question: 12 + 3 =", " 15"),
]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(("prompt", "rest"), PAIRS)
def test_the_split_is_lm_evals(bos: bool, prompt: str, rest: str) -> None:
    tokenizer = make_tokenizer(bos=bos)
    encoder = Encoder(tokenizer, context_tokens=500)
    ours = encoder.tokens.split([("other", " pair"), (prompt, rest), (prompt, rest + " more")])[1]
    assert ours == lm_eval_split(tokenizer, prompt, rest)
    assert (ours[0] + ours[1]).count(tokenizer.convert_tokens_to_ids("<s>")) == (bos or "<s>" in prompt)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("template", [None, CHATML, LLAMA2, THINKING])
@pytest.mark.parametrize("more", [{}, {"choices": "letters"}, {"template": "{{ question }} = "}])
def test_items_are_what_lm_eval_would_score(bos: bool, template: str | None, more: dict[str, object]) -> None:
    tokenizer = make_tokenizer(bos=bos, template=template)
    encoder = Encoder(tokenizer, context_tokens=500)
    item = item_of(CHOICE, encoder, kind="recall", **more)
    assert len(item.choices_ids) == 3
    gap = "" if template or more.get("template") else " "
    scored = "ABC" if "choices" in more else item.choice_texts
    for ids, choice in zip(item.choices_ids, scored, strict=True):
        assert (item.prompt_ids, ids) == lm_eval_split(tokenizer, item.prompt_text, gap + choice)


def test_a_continuation_that_the_border_swallows_is_tokenized_alone() -> None:
    encoder = encoder_of()
    (alone,), swallowed = encoder.tokens.plain(["r"]), encoder.tokens.plain(["Answer"])[0]
    prompt, rest = encoder.tokens.split([("Answe", "r")])[0]
    assert len(swallowed) <= len(prompt)  # lm-eval would have nothing to score
    assert rest == alone


def test_never_two_bos() -> None:
    for template, more in ((None, {}), (LLAMA2, {}), (CHATML, {}), (None, {"template": "<s>{{ question }}"})):
        encoder = encoder_of(bos=True, template=template)
        for row in (OPEN, CHOICE, Row("t", "", text="<s>A text"), Row("t", "", text="A text")):
            if row.text and more:
                continue
            example = example_of(row, encoder, **more)
            item = item_of(row, encoder, kind="recall", **more)
            for ids in (example.prompt_ids + example.completion_ids, item.prompt_ids):
                assert ids[0] == 0
                assert ids.count(0) == 1


def test_an_eos_that_the_tokenizer_puts_behind_does_not_cut_the_split() -> None:
    plain, ending = encoder_of(bos=True), encoder_of(bos=True, ends=True)
    assert example_of(OPEN, plain) == example_of(OPEN, ending)
    assert item_of(CHOICE, plain, kind="recall") == item_of(CHOICE, ending, kind="recall")
    assert example_of(OPEN, ending).completion_ids.count(1) == 1


def test_an_end_that_is_already_given_is_not_doubled() -> None:
    encoder = encoder_of()
    example = example_of(Row("g", "", prompt="2+2=", completion=" 4</s>"), encoder)
    assert text_of(encoder, example.completion_ids) == " 4</s>"


# ---- items ----------------------------------------------------------------------------------------------------------


def test_forms_and_answers() -> None:
    encoder = encoder_of()
    item = item_of(CHOICE, encoder, kind="reasoning")
    assert (item.form, item.answer_index, item.answers) == ("choices", 1, ("no",))
    assert (item.choice_characters, item.choice_texts) == ((3, 2, 5), ("yes", "no", "maybe"))
    assert item_of(CHOICE, encoder, kind="recall", choices="letters").choice_characters == (1, 1, 1)
    item = item_of(OPEN, encoder, kind="reasoning")
    assert (item.form, item.answers, item.choices_ids) == ("open", ("Ann", "Anne"), ())
    assert item_of(NUMBER, encoder, kind="reasoning").form == "number"
    assert item_of(NUMBER, encoder, kind="recall").form == "open"
    assert item_of(GIVEN, encoder, kind="reasoning").answers == ("4",)
    text = item_of(TEXT, encoder)
    assert (text.form, text.prompt_ids, text.text_bytes) == ("text", (1,), 19)
    assert [text_of(encoder, ids) for ids in text.choices_ids] == [TEXT.text]


def test_generation_starts_where_training_put_the_answer() -> None:
    for template in (None, CHATML, LLAMA2, THINKING, UNFINISHED):
        encoder = encoder_of(bos=True, template=template)
        for more in ({}, {"template": "{{ question }} so: "}):
            example, item = example_of(OPEN, encoder, **more), item_of(OPEN, encoder, kind="recall", **more)
            whole = example.prompt_ids + example.completion_ids
            assert whole[: len(item.prompt_ids)] == item.prompt_ids
            assert text_of(encoder, whole[len(item.prompt_ids) :]).strip().startswith("Ann")


@pytest.mark.parametrize(
    "text", ["72", "-3", "1,200", "$5.50", "-$5", "$-5", "30%", ".5", "7.", "12,345,678.9", " 4 ", "−2"]
)
def test_numbers(text: str) -> None:
    assert is_number(text)


@pytest.mark.parametrize("text", ["", "-", "$", ".", "1,20", "12 apples", "1/2", "two", "1 2", "4-5", "٣", "1e5x"])
def test_no_numbers(text: str) -> None:
    assert not is_number(text)


# ---- what cannot be encoded -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "more", "said"),
    [
        (OPEN, {"template": "{{ question "}, "template: found a template with an error"),
        (OPEN, {"template": "{{ answer }}"}, "'answer' is undefined"),
        (OPEN, {"template": "{{ question.__class__.__mro__ }}"}, "SecurityError"),
        (OPEN, {"template": "{{ 1 / 0 }}"}, "line 1: found a template that fails on this row: ZeroDivisionError"),
        (OPEN, {"template": "{{ question + 1 }}"}, "TypeError"),
        (OPEN, {"template": "{{ context }}"}, "an empty prompt"),
        (TEXT, {"template": "{{ question }}"}, "line 5: found text, for which"),
        (Row("c", "line 9", question="q", choices=tuple(map(str, range(27))), answer_index=0), {"choices": "letters"},
         "line 9: choices: found 27 choices, expected at most 26"),
    ],
)  # fmt: skip
def test_one_line_for_what_no_prompt_can_be_made_of(row: Row, more: dict[str, object], said: str) -> None:
    for encode in (example_of, item_of):
        with pytest.raises(InputProblems) as caught:
            encode(row, encoder_of(), **more)
        assert said in str(caught.value.problems[0])


def test_tokenizers_that_cannot_serve() -> None:
    with pytest.raises(InputProblems, match="no EOS token"):
        Encoder(make_tokenizer(eos=False), context_tokens=100)
    with pytest.raises(InputProblems, match="no chat template"):
        Encoder(make_tokenizer(), context_tokens=100, chat=True)
    with pytest.raises(InputProblems, match="drops the assistant's message"):
        Encoder(make_tokenizer(template="{{ messages[0]['content'] }}"), context_tokens=100)
    with pytest.raises(InputProblems, match="a template that fails: no system"):
        Encoder(make_tokenizer(template="{{ raise_exception('no system') }}"), context_tokens=100)
    assert Encoder(make_tokenizer(template=CHATML), context_tokens=100, chat=False).chat is False


def test_one_call_is_the_same_as_many() -> None:
    encoder = encoder_of(bos=True)
    rows = [OPEN, CHOICE, GIVEN, NUMBER, TEXT]
    source = Source(path="x")
    assert encoder.training(rows, source, "x") == [encoder.training([row], source, "x")[0] for row in rows]
    assert encoder.items(rows, source, "x") == [encoder.items([row], source, "x")[0] for row in rows]
    assert encoder.training([], source, "x") == encoder.items([], source, "x") == []


# ---- references -----------------------------------------------------------------------------------------------------

TALK = Row(
    "m", "line 6",
    messages=(Turn("user", "Hi"), Turn("assistant", "Oh."), Turn("user", "Why?"), Turn("assistant", "So it is.")),
)  # fmt: skip


@pytest.mark.parametrize("chat", [None, CHATML])
@pytest.mark.parametrize("row", [OPEN, NUMBER, CHOICE, GIVEN, TALK, TEXT], ids=lambda row: row.item_id)
@pytest.mark.parametrize("kind", ["recall", "reasoning"])
def test_a_reference_is_what_would_be_trained_there_without_its_end(row: Row, chat: str | None, kind: str) -> None:
    encoder = encoder_of(template=chat)
    item, example = item_of(row, encoder, metric="loss", kind=kind), example_of(row, encoder, kind=kind)
    assert item.form == "reference"
    (reference,) = item.choices_ids
    whole = example.prompt_ids + example.completion_ids
    assert item.prompt_ids + reference == whole[: len(item.prompt_ids) + len(reference)]
    assert len(whole) - len(item.prompt_ids) - len(reference) == 1, "the learned end alone is not asked for"
    assert whole[-1] in encoder.eos_ids
    assert text_of(encoder, reference).strip() == item.answers[0].strip()
    assert item.text_bytes == len(item.answers[0].encode())


def test_the_loss_of_a_choice_in_letters_is_that_of_its_letter() -> None:
    item = item_of(CHOICE, encoder_of(), metric="loss", kind="recall", choices="letters")
    assert text_of(encoder_of(), item.choices_ids[0]) == " B"
    assert item.prompt_text.endswith("A. yes\nB. no\nC. maybe\nAnswer:")


@pytest.mark.parametrize("chat", [None, CHATML, LLAMA2])
def test_what_a_sample_goes_on_from_is_what_a_conversation_is_asked_with(chat: str | None) -> None:
    """A user's message by the chat template, as `apply_chat_template` writes it; without one the text alone."""
    encoder = encoder_of(template=chat)
    (ids,) = encoder.prompt_ids(["Who is it?"])
    if chat is None:
        assert ids == encoder.tokens.tokenize(["Who is it?"])[0]
        assert encoder.prompt_ids([""]) == [(encoder.tokens.prefix_id,)]
        return
    messages = [{"role": "user", "content": "Who is it?"}]
    whole = encoder.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text_of(encoder, ids).split() == whole.split()
    talk = Row("m", "line 1", messages=(Turn("user", "Who is it?"), Turn("assistant", "Ann")))
    assert ids == item_of(talk, encoder, kind="recall").prompt_ids
