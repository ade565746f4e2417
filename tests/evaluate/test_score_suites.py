"""Suites of every form, scored by tiny random models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from scoring_models import choice_item, make_model, plain_logprobs, random_items
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rankscope.data.encoder import Encoder, answer_end
from rankscope.evaluate import score_suites
from rankscope.evaluate.score_suites import SuitePlan, eos_ids, first_largest, grade_choices, grade_written, score_suite
from rankscope.model.forward import NotFinite
from rankscope.records import Item, Row, Suite, Turn
from rankscope.study.study import SuiteSource


def mixed_suite() -> Suite:
    text = Item("text", "text", (), (tuple(range(5, 25)),), text_bytes=61)
    opened = Item("open", "open", (3, 4, 5), answers=("Paris", "Lutetia"))
    number = Item("number", "number", (3, 4, 5, 6), answers=("#### 18",))
    return Suite("mixed", None, "recall", (opened, *random_items(4, seed=1), text, number), max_new_tokens=12)


def test_every_form_in_the_suites_order(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    suite = mixed_suite()
    found = score_suite(llama, tokenizer, suite, token_budget=100)
    assert [row.item_id for row in found] == [item.item_id for item in suite.items]
    opened, *choices, text, number = found
    assert opened.answer == "Paris"
    assert opened.f1 is not None
    assert opened.predicted is not None
    for row, item in zip(choices, suite.items[1:5], strict=True):
        wanted = plain_logprobs(llama, item)
        assert row.choice_logprobs == pytest.approx(wanted, abs=1e-4)
        assert row.score == float(first_largest(wanted) == 0)
        assert (row.predicted, row.answer) == (f"choice {first_largest(wanted)}", "choice 0")
        assert row.prompt_tokens == len(item.prompt_ids)
    assert text.score is None
    assert text.loss_nats == pytest.approx(
        -plain_logprobs(llama, choice_item("", (5,), [tuple(range(6, 25))]))[0], abs=1e-4
    )
    assert (text.scored_tokens, text.text_bytes, text.prompt_tokens) == (19, 61, 0)
    assert number.f1 is None
    assert number.score in (0.0, 1.0)


def test_a_planned_suite_gives_the_same(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    suite = mixed_suite()
    plan = SuitePlan(suite, 100)
    first = score_suite(llama, tokenizer, plan, token_budget=100)
    assert first == score_suite(llama, tokenizer, plan, token_budget=100)
    assert first == score_suite(llama, tokenizer, suite, token_budget=100)


def test_ids_may_repeat(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    items = tuple(replace(item, item_id="same") for item in random_items(5, seed=2))
    found = score_suite(llama, tokenizer, Suite("s", None, "recall", items), token_budget=100)
    assert len({row.choice_logprobs for row in found}) == 5


def test_sum_and_mean_per_character_can_differ() -> None:
    item = replace(choice_item("x", (3,), [(4,), (5, 6)], right=1), choice_characters=(2, 20))
    row = grade_choices("s", item, (-3.0, -8.0))
    assert (row.score, row.score_normalized, row.predicted) == (0.0, 1.0, "choice 0")


def test_the_first_of_equals_is_chosen() -> None:
    assert first_largest([-2.0, -1.0, -1.0]) == 1


def test_a_choice_item_without_an_answer_has_no_score() -> None:
    row = grade_choices("s", replace(choice_item("x", (3,), [(4,), (5,)]), answer_index=None), (-1.0, -2.0))
    assert (row.score, row.score_normalized, row.answer) == (None, None, None)


@pytest.mark.parametrize(
    ("form", "text", "score", "f1"),
    [
        ("open", "the Paris", 1.0, 1.0),
        ("open", "Paris today", 0.0, 2 / 3),
        ("number", "2 * 9 = 18, so it is\n#### 18", 1.0, None),
        ("number", "17", 0.0, None),
    ],
)
def test_written_answers(form: str, text: str, score: float, f1: float | None) -> None:
    item = Item("x", form, (3,), answers=("Paris",) if form == "open" else ("18",))  # type: ignore[arg-type]
    row = grade_written("s", item, text)
    assert row.score == score
    assert row.f1 == pytest.approx(f1)


@pytest.mark.parametrize(
    ("form", "answers", "written", "wanted"),
    [
        ("open", ("Paris",), "\n Paris\nThe capital", "Paris"),
        ("open", ("Paris\nFrance",), " Paris\nFrance\nQuestion: next", "Paris\nFrance"),
        ("number", ("18",), " nine\nplus\n\nnine\n#### 18\nQuestion: next", "nine\nplus\n\nnine\n#### 18"),
    ],
)
def test_where_written_answers_end(
    form: str,
    answers: tuple[str, ...],
    written: str,
    wanted: str,
    llama: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = tokenizer(written, add_special_tokens=False).input_ids

    def speak(*_: object, stop: score_suites.StopStrings, **__: object) -> list[list[int]]:
        size = next((size for size in range(1, len(tokens) + 1) if stop(tokens[:size])), len(tokens))
        return [tokens[:size]]

    monkeypatch.setattr(score_suites, "greedy", speak)
    items = [Item("x", form, (3,), answers=answers)]  # type: ignore[arg-type]
    assert score_suites.generate_answers(llama, tokenizer, items, form, 99, 100) == [wanted]  # type: ignore[arg-type]


TURNS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }} [over]\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize(
    ("answers", "written"),
    [(("Paris",), "Paris [over]\nuser:"), (("Paris",), "Paris [over]"), (("Paris\nFrance", "[over]"), "Paris [over]")],
)
def test_what_a_chat_template_ends_a_turn_with_is_no_part_of_the_answer(
    answers: tuple[str, ...],
    written: str,
    llama: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a token that ends a turn, the template's own text does, and every answer that is generated has it."""
    asking = copy.deepcopy(tokenizer)
    asking.chat_template = TURNS
    assert answer_end(asking)[1] == "[over]"
    tokens = asking(written, add_special_tokens=False).input_ids
    monkeypatch.setattr(score_suites, "greedy", lambda *_, **__: [tokens])
    items = [Item("x", "open", (3,), answers=answers)]
    (text,) = score_suites.generate_answers(llama, asking, items, "open", 99, 100)
    assert grade_written("s", replace(items[0], answers=("Paris",)), text).score == 1.0


def test_every_known_eos_ends_a_text(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("Llama")
    model.generation_config.eos_token_id = [2, 77]
    model.config.eos_token_id = 78
    assert eos_ids(model, tokenizer) == {2, 77, 78}


def test_a_model_of_nan_is_a_failed_run(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("Llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    for form in ("choices", "text", "open"):
        items = tuple(item for item in mixed_suite().items if item.form == form)
        with pytest.raises(NotFinite):
            score_suite(model, tokenizer, Suite("s", None, "recall", items), token_budget=100)


# ---- metric: loss ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["Llama", "Gemma3"])
def test_the_loss_of_a_reference_is_that_of_transformers(
    model_of: Callable[[str], PreTrainedModel], tokenizer: PreTrainedTokenizerFast, family: str
) -> None:
    """transformers' own loss, the mean over the labels that are not -100, of the same tokens."""
    model = model_of(family)
    rows = [
        Row("a", "line 1", question="Which river flows through the old town?", answer="The answer is Thames."),
        Row("b", "line 2", prompt="The town of the", completion=" north is old"),
        Row("c", "line 3", messages=(Turn("user", "Which?"), Turn("assistant", "The north."))),
        Row("d", "line 4", question="Which?", choices=("old", "the town"), answer_index=1),
        Row("e", "line 5", text="The river flows through the town."),
    ]
    source = SuiteSource(path="x", kind="recall", metric="loss")
    items = Encoder(tokenizer, context_tokens=256).items(rows, source, "x")
    found = score_suite(model, tokenizer, Suite("s", None, "recall", items), token_budget=200)
    for item, row in zip(items, found, strict=True):
        ids = torch.tensor([[*item.prompt_ids, *item.choices_ids[0]]])
        labels = ids.clone()
        labels[:, : len(item.prompt_ids)] = -100
        with torch.no_grad():
            wanted = float(model(input_ids=ids, labels=labels).loss)
        assert row.scored_tokens == len(item.choices_ids[0])
        assert row.loss_nats is not None
        assert row.loss_nats / row.scored_tokens == pytest.approx(wanted, abs=1e-4)
        assert (row.score, row.predicted, row.answer) == (None, None, item.answers[0])


def test_the_loss_of_a_reference_is_minus_lm_evals_log_likelihood(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    """lm-eval's `hf` model on the same context and continuation."""
    row = Row("a", "line 1", question="Which river flows through the old town?", answer="The answer is Thames.")
    source = SuiteSource(path="x", kind="recall", metric="loss")
    items = Encoder(tokenizer, context_tokens=256).items([row], source, "x")
    (found,) = score_suite(llama, tokenizer, Suite("s", None, "recall", items), token_budget=200)
    theirs = HFLM(pretrained=llama, tokenizer=tokenizer, backend="causal", batch_size=1)
    request = Instance("loglikelihood", {}, (items[0].prompt_text, " " + items[0].answers[0]), 0)
    ((wanted, _),) = theirs.loglikelihood([request], disable_tqdm=True)
    assert found.loss_nats == pytest.approx(-wanted, abs=1e-4)
