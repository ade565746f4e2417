"""Log-likelihoods of choices against one plain forward for each choice, and against lm-eval."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scoring_models import FAMILIES, choice_item, make_model, plain_logprobs, random_items
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import rankscope.evaluate.choice_scoring as choices_module
from rankscope.data.encoder import Encoder
from rankscope.evaluate.choice_scoring import choice_logprobs, choices_with_greedy, tree_logprobs
from rankscope.evaluate.prompt_choice_tree import ChoicePlan, Reads, TreeBatch
from rankscope.model.attention import scoring_layout as layout_module
from rankscope.model.forward import NotFinite
from rankscope.records import Item, Row
from rankscope.study.study import SuiteSource

TREES = ("Llama", "Qwen2", "Qwen3", "Mistral", "Phi3", "Gemma2", "Gemma3", "GPTNeoX", "GPT2", "Granite", "Cohere")
ROWS = ("Bloom", "Mamba")


def assert_close(found: Sequence[Sequence[float]], wanted: Sequence[Sequence[float]], nats: float = 1e-4) -> None:
    assert [len(row) for row in found] == [len(row) for row in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=nats, rel=0)


def force_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices_module._TREES, "holds", lambda *_: False)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_equal_plain_forwards(
    family: str, model_of: Callable[[str], PreTrainedModel], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = make_model(family)
    items = random_items(8, seed=3)
    assert_close(choice_logprobs(model, items, token_budget=200), [plain_logprobs(model, item) for item in items])
    used = "plain rows" if family in ROWS else "as a tree below their prompt"
    assert used in caplog.text


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "GPT2"])
def test_rows_equal_plain_forwards(
    family: str, model_of: Callable[[str], PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    force_rows(monkeypatch)
    model, items = model_of(family), random_items(8, seed=4)
    assert_close(choice_logprobs(model, items, token_budget=200), [plain_logprobs(model, item) for item in items])


@pytest.mark.parametrize("family", TREES)
def test_bfloat16_keeps_the_tree(family: str) -> None:
    model = make_model(family).to(torch.bfloat16)
    window = 9 if "sliding_window" in FAMILIES[family] else None
    assert choices_module._compare_trees(model, window) == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mistake", ["mask", "positions", "window"])
def test_a_model_that_gets_trees_wrong_runs_rows(
    mistake: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("Mistral" if mistake == "window" else "Llama").to(dtype)
    window = 9 if mistake == "window" else None
    assert choices_module._compare_trees(model, window) == ""
    if mistake == "positions":
        monkeypatch.setattr(choices_module, "tree_logprobs", in_a_row)
    else:
        honest = layout_module._tree_sees

        def wrong(*given: Any) -> torch.Tensor:
            seen = honest(*given[:-2], None if mistake == "window" else given[-2], given[-1])
            return torch.ones_like(seen) if mistake == "mask" else seen

        monkeypatch.setattr(layout_module, "_tree_sees", wrong)
    assert "differ" in choices_module._compare_trees(model, window)


def in_a_row(model: PreTrainedModel, batches: Sequence[TreeBatch]) -> Iterator[tuple[Reads, torch.Tensor]]:
    """Trees whose tokens count their positions through."""
    positions = [torch.arange(len(batch.position_ids)) + len(batch.prefix_ids) for batch in batches]
    wrong = [replace(batch, position_ids=own) for batch, own in zip(batches, positions, strict=True)]
    return tree_logprobs(model, wrong)


def test_a_lost_prefix_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices_module, "prefix_kv", lambda model, ids: None)
    assert "differ" in choices_module._compare_trees(make_model("Llama"), None)


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma2", "GPT2", "Mistral", "Bloom"])
def test_few_shot_equals_plain_forwards(family: str, model_of: Callable[[str], PreTrainedModel]) -> None:
    model = model_of(family)
    prefix = tuple(range(20, 90))
    items = [choice_item(one.item_id, (*prefix, *one.prompt_ids), one.choices_ids) for one in random_items(9, seed=13)]
    plan = ChoicePlan(items, 150)
    assert {batch.prefix_ids for batch in plan.trees} == {prefix}
    found = choice_logprobs(model, items, token_budget=150, plan=plan)
    assert_close(found, [plain_logprobs(model, item) for item in items])


def test_order_and_budget_do_not_matter(llama: PreTrainedModel) -> None:
    items = random_items(25, seed=6)
    wanted = choice_logprobs(llama, items, token_budget=10_000)
    for budget in (1, 64, 333):
        assert_close(choice_logprobs(llama, items, token_budget=budget), wanted, nats=2e-5)
    backwards = choice_logprobs(llama, items[::-1], token_budget=333)
    assert_close(backwards[::-1], wanted, nats=2e-5)


def test_a_plan_is_reused(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    items = random_items(9, seed=7)
    plan = ChoicePlan(items, 100)
    first = choice_logprobs(llama, items, token_budget=100, plan=plan)
    assert choice_logprobs(llama, items, token_budget=100, plan=plan) == first
    assert first == choice_logprobs(llama, items, token_budget=100)


def test_text_without_a_prompt_scores_all_but_the_first_token(llama: PreTrainedModel) -> None:
    tokens = (7, 8, 9, 10, 11)
    text = Item(item_id="t", form="text", prompt_ids=(), choices_ids=(tokens,))
    (found,) = choice_logprobs(llama, [text], token_budget=100)
    assert found == pytest.approx(plain_logprobs(llama, choice_item("t", tokens[:1], [tokens[1:]])), abs=1e-4)


def test_logits_are_read_in_chunks(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    items = random_items(12, seed=8)
    wanted = choice_logprobs(llama, items, token_budget=300)
    monkeypatch.setattr("rankscope.model.output_head.CHUNK_ELEMENTS", {"cpu": 1000})
    assert_close(choice_logprobs(llama, items, token_budget=300), wanted, nats=1e-5)


def test_nan_is_not_an_answer() -> None:
    model = make_model("Llama")
    items = random_items(3, seed=9)
    choice_logprobs(model, items, token_budget=100)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NotFinite):
        choice_logprobs(model, items, token_budget=100)
    fresh = make_model("Llama")
    with torch.no_grad():
        fresh.lm_head.weight[0, 0] = float("inf")
    with pytest.raises(NotFinite):
        choice_logprobs(fresh, items, token_budget=100)


def test_no_items_and_impossible_items(llama: PreTrainedModel) -> None:
    assert choice_logprobs(llama, [], token_budget=100) == []
    for item in (choice_item("a", (), [(3,), (4,)]), choice_item("b", (3,), [(4,), ()]), choice_item("c", (3,), [])):
        with pytest.raises(ValueError, match="at least one token"):
            choice_logprobs(llama, [item], token_budget=100)


@pytest.mark.parametrize("family", ["Llama", "GPT2", "Mamba"])
def test_greedy_is_what_the_model_itself_would_write(family: str, model_of: Callable[[str], PreTrainedModel]) -> None:
    """One choice is the most likely continuation, one leaves it at its last token, one at its first."""
    model = model_of(family)
    items, wanted = [], []
    for item in random_items(5, seed=6):
        ids = list(item.prompt_ids)
        for _ in range(3):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        best = tuple(ids[-3:])
        late, early = (*best[:2], (best[2] + 1) % 320), ((best[0] + 1) % 320, *best[1:])
        items.append(Item(item.item_id, "choices", item.prompt_ids, (late, best, early, best[:1])))
        wanted.append([False, True, False, True])
    found = choices_with_greedy(model, items, token_budget=120)
    assert [[greedy for _, greedy in row] for row in found] == wanted
    plain = choice_logprobs(model, items, token_budget=120)
    assert [value for row in found for value, _ in row] == pytest.approx([value for row in plain for value in row])


# ---- lm-eval --------------------------------------------------------------------------------------------------------


def encode_pair(tokenizer: PreTrainedTokenizerFast, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Tokens of both, split at the context's length; white space at the context's end goes to the continuation."""
    stripped = context.rstrip()
    whole = tokenizer(stripped + context[len(stripped) :] + continuation, add_special_tokens=False).input_ids
    size = len(tokenizer(stripped, add_special_tokens=False).input_ids)
    return whole[:size], whole[size:]


def lm_eval_logprobs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, questions: Sequence[tuple[str, Sequence[str]]]
) -> list[tuple[float, ...]]:
    """What lm-eval's `hf` model gives for the same strings."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    peer = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, max_length=1024)
    pairs = [(prompt, choice) for prompt, choices in questions for choice in choices]
    requests = [instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    values = iter(value for value, _ in peer.loglikelihood(requests, disable_tqdm=True))
    return [tuple(next(values) for _ in choices) for _, choices in questions]


def as_items(tokenizer: PreTrainedTokenizerFast, questions: Sequence[tuple[str, Sequence[str]]]) -> list[Item]:
    items = []
    for index, (prompt, choices) in enumerate(questions):
        pairs = [encode_pair(tokenizer, prompt, choice) for choice in choices]
        assert all(pair[0] == pairs[0][0] for pair in pairs)
        items.append(choice_item(str(index), pairs[0][0], [pair[1] for pair in pairs]))
    return items


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rows", [False, True])
def test_equals_lm_eval(
    rows: bool, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rows:
        force_rows(monkeypatch)
    names = ["Ob", "the Ob", "the Obra and the Odra", "the answer is 12, or -3.5"]
    questions = [
        (f"Question: Which river flows {'far ' * size}north?\nAnswer:", [f" {name}" for name in names[size % 3 :]])
        for size in range(8)
    ]
    questions += [("Question: Is it?\nA. yes\nB. no\nAnswer:", [" A", " B"])]
    wanted = lm_eval_logprobs(llama, tokenizer, questions)
    assert_close(choice_logprobs(llama, as_items(tokenizer, questions), token_budget=500), wanted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["medmcqa/validation", "mmlu_law/test"])
def test_equals_lm_eval_on_real_items(
    name: str, shared_data: Path, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    lines = (shared_data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    short = [one for one in records if len(one["question"]) + max(map(len, one["choices"])) < 700][:40]
    assert len(short) == 40
    rows = [
        Row(str(index), "", one["question"], choices=tuple(one["choices"]), answer_index=one["answer_index"])
        for index, one in enumerate(short)
    ]
    items = Encoder(tokenizer, context_tokens=1024).items(rows, SuiteSource(path="x", kind="recall"), "x")
    pairs = [(f"Question: {one['question']}\nAnswer:", [f" {choice}" for choice in one["choices"]]) for one in short]
    wanted = lm_eval_logprobs(llama, tokenizer, pairs)
    # The peer adds in fp32, whose steps are 1.2e-4 at the 1500 nats of the longest choices.
    assert_close(choice_logprobs(llama, items, token_budget=2000), wanted, nats=1e-3)
