"""Conversations: what is trained and scored of them, under templates of every manner and plainly."""

from __future__ import annotations

import pytest
from chat_templates import FAMILIES, GEMMA, LLAMA3, MISTRAL, PHI3, QWEN3, QWEN25, SWITCHED
from tokenizers_small import LLAMA2, THINK_FIRST, UNFINISHED, make_tokenizer

from rankscope.data.encoder import Encoder
from rankscope.data.training_batches import collate
from rankscope.records import Example, Item, Row, Turn
from rankscope.study.problems import InputProblems
from rankscope.study.study import SuiteSource, TrainSource

U1, A1, U2, A2 = Turn("user", "Hi"), Turn("assistant", "Oh"), Turn("user", "Why?"), Turn("assistant", "So.")
SYSTEM = Turn("system", "Be brief.")
TWO = Row("two", "line 7", messages=(U1, A1, U2, A2))
ONE = Row("one", "line 8", messages=(U1, A1))
ASKED = Row("q", "line 9", question="Who?", answer="Ann")
REWRITES = {"qwen3", "switched"}
"""Templates that print an answer otherwise once later turns follow, or otherwise than it is asked for."""


def encoder_of(template: str | None, *, system: str | None = None) -> Encoder:
    bos = template is None or "bos_token" in template
    return Encoder(make_tokenizer(bos=bos, template=template), context_tokens=500, system_prompt=system)


def text_of(encoder: Encoder, ids: tuple[int, ...]) -> str:
    return encoder.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def example_of(encoder: Encoder, row: Row, **more: object) -> Example:
    return encoder.training([row], TrainSource(path="x", **more), "rows.jsonl")[0]


def item_of(encoder: Encoder, row: Row, **more: object) -> Item:
    return encoder.items([row], SuiteSource(path="x", **{"kind": "recall"} | more), "rows.jsonl")[0]


def whole(encoder: Encoder, example: Example) -> str:
    return text_of(encoder, example.prompt_ids + example.completion_ids)


def trained(encoder: Encoder, example: Example) -> list[str]:
    """The parts with loss, as text."""
    ids = example.prompt_ids + example.completion_ids
    mask = example.loss_mask or (False,) * len(example.prompt_ids) + (True,) * len(example.completion_ids)
    parts, open_part = [], False
    for token, lost in zip(ids, mask, strict=True):
        if lost and not open_part:
            parts.append(())
        if lost:
            parts[-1] = (*parts[-1], token)
        open_part = lost
    return [text_of(encoder, part) for part in parts]


def refusal(encoder: Encoder, row: Row) -> str:
    with pytest.raises(InputProblems) as caught:
        example_of(encoder, row)
    (problem,) = caught.value.problems
    return str(problem)


# ---- every assistant's turn has loss --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*sorted(set(FAMILIES) - REWRITES), "plain", "unfinished"])
def test_every_assistants_turn_is_trained_through_its_end(name: str) -> None:
    template = None if name == "plain" else FAMILIES.get(name, UNFINISHED)
    encoder = encoder_of(template)
    example = example_of(encoder, TWO)
    parts = trained(encoder, example)
    end = {"mistral": "</s>", "plain": "</s>", "unfinished": ""}.get(name, "<|im_end|>")
    assert [part.strip() for part in parts] == ["Oh" + end, "So." + (end or "</s>")]
    assert example.completion_ids[-1] in encoder.eos_ids
    assert example.loss_mask is not None
    assert not any(example.loss_mask[: len(example.prompt_ids)])
    assert example.loss_mask[len(example.prompt_ids)]
    assert example.target_count == sum(example.loss_mask) < len(example.completion_ids)
    if template is not None and name != "unfinished":
        turns = [turn._asdict() for turn in TWO.messages or ()]
        rendered = encoder.tokenizer.apply_chat_template(turns, tokenize=False, date_string="01 Jan 2025")
        assert rendered.startswith(whole(encoder, example))


@pytest.mark.parametrize("name", [*sorted(FAMILIES), "plain", "unfinished", "think first", "llama2"])
@pytest.mark.parametrize("row", [ONE, TWO, ASKED], ids=lambda row: row.item_id)
def test_what_is_scored_begins_where_it_is_trained(name: str, row: Row) -> None:
    """The last turn of a suite's item has the prompt, token for token, that the same row has in training."""
    others = {"plain": None, "unfinished": UNFINISHED, "think first": THINK_FIRST, "llama2": LLAMA2}
    encoder = encoder_of(FAMILIES[name] if name in FAMILIES else others[name])
    item = item_of(encoder, row)
    answer = row.answer or (row.messages or ())[-1].content
    assert item.answers == (answer,)
    assert item.form == "open"
    if row is TWO and name in REWRITES:
        assert item.prompt_ids
        return
    example = example_of(encoder, row)
    ids = example.prompt_ids + example.completion_ids
    assert ids[: len(item.prompt_ids)] == item.prompt_ids
    assert text_of(encoder, ids[len(item.prompt_ids) :]).strip().startswith(answer)
    start = len(example.prompt_ids)
    if example.loss_mask is not None:
        start = max(i for i in range(1, len(ids)) if example.loss_mask[i] and not example.loss_mask[i - 1])
    # White space at the prompt's end belongs to the answer's tokens when it is trained, to the prompt when it goes on.
    assert text_of(encoder, ids[start : len(item.prompt_ids)]).strip() == ""
    assert start <= len(item.prompt_ids)
    bos = encoder.tokenizer.bos_token_id
    assert ids.count(bos) == item.prompt_ids.count(bos) == (1 if bos is not None else 0)


def test_one_exchange_is_encoded_as_a_question_is() -> None:
    for template in (None, *FAMILIES.values(), UNFINISHED, THINK_FIRST):
        encoder = encoder_of(template)
        asked = Row("x", "", prompt="User: Hi\n\nAssistant:" if template is None else "Hi", completion=" Oh")
        talk, given = example_of(encoder, ONE), example_of(encoder, asked)
        assert (talk.prompt_ids, talk.completion_ids) == (given.prompt_ids, given.completion_ids)
        assert talk.loss_mask is None


def test_the_plain_text_of_a_conversation() -> None:
    encoder = encoder_of(None)
    row = Row("x", "", messages=(SYSTEM, *(TWO.messages or ())))
    example = example_of(encoder, row)
    text = "<s>Be brief.\n\nUser: Hi\n\nAssistant: Oh</s>\n\nUser: Why?\n\nAssistant: So.</s>"
    assert whole(encoder, example) == text
    assert trained(encoder, example) == [" Oh</s>", " So.</s>"]
    assert item_of(encoder, row).prompt_text == text.removeprefix("<s>").removesuffix(" So.</s>")


def test_the_loss_of_a_batch_is_where_the_masks_are() -> None:
    encoder = encoder_of(QWEN25)
    rows = [example_of(encoder, TWO), example_of(encoder, ASKED)]
    batch = collate(rows)
    targets = [
        token
        for row in rows
        for i, token in enumerate(row.prompt_ids + row.completion_ids)
        if (row.loss_mask[i] if row.loss_mask else i >= len(row.prompt_ids))
    ]
    assert batch.target_ids.tolist() == targets
    assert len(targets) == sum(row.target_count for row in rows)
    flat = [token for row in rows for token in (row.prompt_ids + row.completion_ids)[1:]]
    assert [flat[i] for i in batch.target_positions.tolist()] == targets  # the token after each position


def test_a_mask_without_loss_or_with_loss_on_the_first_token_is_refused() -> None:
    for mask in ((False, False, False), (True, False, True)):
        with pytest.raises(ValueError, match="loss"):
            collate([Example("x", (1,), (2, 3), mask)])


# ---- templates that rewrite what was said ---------------------------------------------------------------------------


def test_a_template_that_rewrites_history_is_refused_at_the_turn() -> None:
    for template in (QWEN3, SWITCHED):
        said = refusal(encoder_of(template), TWO)
        assert said.startswith("rows.jsonl: line 7: turn 2: found a turn that the chat template writes otherwise once")
        assert "`chat: never`" in said
    with_system = Row("x", "line 3", messages=(SYSTEM, U1, A1, U2, A2))
    said = refusal(encoder_of(MISTRAL), with_system)  # its system text moves to the last user turn
    assert said.startswith("rows.jsonl: line 3: turn 3: found a turn that the chat template writes otherwise")
    assert item_of(encoder_of(QWEN3), TWO).prompt_text.endswith("assistant\n<think>\n\n</think>\n\n")


def test_thoughts_that_a_template_strips_are_refused() -> None:
    thought = Row("x", "line 3", messages=(U1, Turn("assistant", "<think>hm</think>Oh")))
    assert "line 3: turn 2: found a turn that the chat template does not print as it is given" in refusal(
        encoder_of(QWEN3), thought
    )
    assert trained(encoder_of(QWEN25), example_of(encoder_of(QWEN25), thought))[0].strip().startswith("<think>hm")


def test_a_row_that_the_template_refuses_is_named() -> None:
    row = Row("x", "line 3", messages=(U1, U2, A1))
    said = refusal(encoder_of(GEMMA), row)
    assert said.startswith("rows.jsonl: line 3: found a template that fails: Roles must alternate, expected turns that")
    assert whole(encoder_of(QWEN25), example_of(encoder_of(QWEN25), row))


def test_a_turn_that_holds_the_end_of_turns_is_refused() -> None:
    row = Row("x", "line 3", messages=(U1, Turn("assistant", "Oh<|im_end|>no")))
    assert "line 3: turn 2: found <|im_end|> in the text" in refusal(encoder_of(PHI3), row)
    assert "</s> in the text" in refusal(encoder_of(None), Row("x", "p", messages=(Turn("user", "a</s>"), A1)))


# ---- dates, thoughts, system texts ----------------------------------------------------------------------------------


def test_the_date_is_pinned_and_there_is_one_bos() -> None:
    encoder = encoder_of(LLAMA3)
    text = whole(encoder, example_of(encoder, TWO))
    assert text.startswith("<s><|im_start|>system\n\nToday: 01 Jan 2025\n\n<|im_end|>")
    assert text.count("<s>") == 1


@pytest.mark.parametrize(("template", "block"), [(QWEN3, "<think>\n\n</think>\n\n"), (SWITCHED, "<think></think>")])
def test_thinking_is_switched_off_by_the_templates_own_option(template: str, block: str) -> None:
    encoder = encoder_of(template)
    for row, answer in ((ASKED, "Ann"), (ONE, "Oh")):
        assert item_of(encoder, row).prompt_text.endswith(f"<|im_start|>assistant\n{block}")
        assert whole(encoder, example_of(encoder, row)).endswith(f"<|im_start|>assistant\n{block}{answer}<|im_end|>")


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_system_prompt_stands_before_every_conversation(name: str) -> None:
    encoder, without = encoder_of(FAMILIES[name], system="Be brief."), encoder_of(FAMILIES[name])
    for row in (ASKED, ONE):
        text = whole(encoder, example_of(encoder, row))
        assert text.count("Be brief.") == 1
        assert text.index("Be brief.") < text.index("Who?" if row is ASKED else "Hi")
        assert item_of(encoder, row).prompt_text in text + "\n"
    own = Row("x", "", messages=(Turn("system", "Mine."), U1, A1))
    assert "Be brief." not in whole(encoder, example_of(encoder, own))
    assert example_of(encoder, own) == example_of(without, own)
    plain = Row("t", "", text="A text.")
    assert example_of(encoder, plain) == example_of(without, plain)


def test_a_template_without_a_system_role_has_it_before_the_first_user() -> None:
    encoder = encoder_of(GEMMA, system="Be brief.")
    text = whole(encoder, example_of(encoder, TWO))
    assert text.startswith("<s><|im_start|>user\nBe brief.\n\nHi<|im_end|>\n<|im_start|>model\nOh<|im_end|>")


def test_a_system_prompt_needs_a_chat_template() -> None:
    with pytest.raises(InputProblems, match="system_prompt: found no chat template that is used"):
        encoder_of(None, system="Be brief.")


# ---- suites and templates of the study ------------------------------------------------------------------------------


def test_a_suite_scores_the_last_turn_with_its_aliases() -> None:
    row = Row("x", "", messages=(U1, A1, U2, Turn("assistant", "2+3=5\n#### 5")), aliases=("five",))
    encoder = encoder_of(QWEN25)
    reasoning = item_of(encoder, row, kind="reasoning")
    assert (reasoning.form, reasoning.answers) == ("number", ("5", "five"))
    assert item_of(encoder, row).answers == ("2+3=5\n#### 5", "five")
    assert reasoning.prompt_text.endswith("<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_of_the_study_takes_one_exchange() -> None:
    encoder = encoder_of(None)
    more = {"template": "Q: {{ prompt }}\nA:"}
    assert whole(encoder, example_of(encoder, ONE, **more)) == "<s>Q: Hi\nA: Oh</s>"
    assert item_of(encoder, ONE, **more).prompt_text == "Q: Hi\nA:"
    for encode in (example_of, item_of):
        with pytest.raises(InputProblems, match="line 7: found a conversation of more than one question and answer"):
            encode(encoder, TWO, **more)


def test_rows_of_all_shapes_keep_their_order() -> None:
    encoder = encoder_of(QWEN25)
    rows = [ASKED, TWO, Row("t", "", text="A text."), ONE]
    examples = encoder.training(rows, TrainSource(path="x"), "f")
    assert [example.item_id for example in examples] == ["q", "two", "t", "one"]
    assert examples == [example_of(encoder, row) for row in rows]
