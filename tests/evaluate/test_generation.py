"""Greedy decoding against `model.generate`, one prompt at a time, in fp32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scoring_models import VOCABULARY, make_model, random_items
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from rankscope.evaluate.continuous_batching import IDLE_SHARE
from rankscope.evaluate.generation import greedy
from rankscope.evaluate.stop_strings import StopStrings
from rankscope.model.attention.cached_decoder import Decoder
from rankscope.model.attention.kv_cache import KVCache
from rankscope.model.forward import NotFinite
from rankscope.plan.run_time import DECODED_ROWS

EOS = frozenset(range(2, 22))
"""Many tokens end a text, so that rows of a batch end at different times."""


def prompts(count: int, seed: int = 0, longest: int = 30) -> list[tuple[int, ...]]:
    return [item.prompt_ids for item in random_items(count, seed, longest_prompt=longest)]


def own(model: PreTrainedModel, prompt: tuple[int, ...], max_new_tokens: int) -> list[int]:
    """The model's own greedy tokens, without the EOS."""
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=sorted(EOS), pad_token_id=0
    )
    ids = torch.tensor([prompt])
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)[0].tolist()
    new = whole[len(prompt) :]
    return new[:-1] if new and new[-1] in EOS else new


@pytest.mark.parametrize(
    "family", ["Llama", "Qwen2", "Mistral", "Gemma2", "Gemma3", "GPT2", "GPTNeoX", "Bloom", "Mamba"]
)
def test_same_tokens_as_generate(family: str, model_of: Callable[[str], PreTrainedModel]) -> None:
    model = model_of(family)
    given = prompts(4 if family == "Mamba" else 9, seed=2)
    limit = 8 if family == "Mamba" else 20
    found = greedy(model, given, max_new_tokens=limit, eos_ids=EOS, token_budget=100)
    assert found == [own(model, prompt, limit) for prompt in given]
    assert len({len(tokens) for tokens in found}) > 1


def drafted(found: list[list[int]], kind: str) -> list[tuple[int, ...]]:
    """Drafts of what was found: right ones, half of each right, wrong ones, none, and ones that go on too long."""
    if kind == "right":
        return [tuple(tokens) for tokens in found]
    if kind == "half":
        return [(*tokens[: len(tokens) // 2], 299, 298, 297) for tokens in found]
    if kind == "wrong":
        return [(299,) * (1 + i % 7) for i in range(len(found))]
    if kind == "long":
        return [(*tokens, 2, *range(100, 180)) for tokens in found]
    return [tuple(tokens[: i % 3]) if i % 2 else () for i, tokens in enumerate(found)]


@pytest.mark.parametrize("kind", ["right", "half", "wrong", "long", "some"])
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "GPT2", "Bloom"])
def test_drafts_change_no_token(family: str, kind: str, model_of: Callable[[str], PreTrainedModel]) -> None:
    model, given = model_of(family), prompts(9, seed=2)
    found = greedy(model, given, max_new_tokens=20, eos_ids=EOS, token_budget=100)
    again = greedy(model, given, max_new_tokens=20, eos_ids=EOS, token_budget=100, drafts=drafted(found, kind))
    assert again == found


def test_a_right_draft_saves_its_steps_and_wrong_ones_are_given_up(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, entered = 0, []
    step, prefill = Decoder.step, Decoder.prefill_drafts

    def counted(self: Decoder, tokens: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        return step(self, tokens)

    def noted(self: Decoder, rows: object, drafts: list[tuple[int, ...]]) -> object:
        entered.append(sum(map(len, drafts)))
        return prefill(self, rows, drafts)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "step", counted)
    monkeypatch.setattr(Decoder, "prefill_drafts", noted)
    given = prompts(12, seed=3)
    found = greedy(llama, given, max_new_tokens=60, eos_ids=EOS, token_budget=200)
    undrafted, steps = steps, 0
    right = [tuple(tokens) for tokens in found]
    assert greedy(llama, given, max_new_tokens=60, eos_ids=EOS, token_budget=200, drafts=right) == found
    assert steps == 0
    assert undrafted > 20
    entered.clear()
    wrong = [(299,) * 5] * 12
    assert greedy(llama, given, max_new_tokens=60, eos_ids=EOS, token_budget=100, drafts=wrong) == found
    assert entered[0] > 0
    assert set(entered[1:]) == {0}


def test_no_batch_is_larger_than_its_budget_once_drafts_are_given_up(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, prefill = [], Decoder.prefill_drafts

    def noted(self: Decoder, rows: list[tuple[int, ...]], drafts: list[tuple[int, ...]]) -> object:
        entered.append(max(map(len, rows)) * len(rows))
        return prefill(self, rows, drafts)

    monkeypatch.setattr(Decoder, "prefill_drafts", noted)
    given = [(3 + i,) * (4 if i < 6 else 40) for i in range(12)]
    drafts = [(299,) * (58 if i < 6 else 1) for i in range(12)]
    greedy(llama, given, max_new_tokens=60, eos_ids=EOS, token_budget=130, drafts=drafts)
    assert max(entered[1:]) <= 130


def test_only_what_is_read_of_a_draft_must_be_finite(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows a wrong token says nothing of the model."""
    given = prompts(3, seed=5)
    found = greedy(llama, given, max_new_tokens=10, eos_ids=EOS, token_budget=200)
    prefill = Decoder.prefill_drafts

    def broken(self: Decoder, rows: object, drafts: list[tuple[int, ...]]) -> object:
        for logits in prefill(self, rows, drafts):  # type: ignore[arg-type]
            logits[1 : len(drafts[0]) + 1] = torch.nan
            yield logits

    monkeypatch.setattr(Decoder, "prefill_drafts", broken)
    longest = max(range(3), key=lambda i: len(given[i]))  # it enters first
    drafts = [(299, 298) if i == longest else () for i in range(3)]
    assert greedy(llama, given, max_new_tokens=10, eos_ids=EOS, token_budget=200, drafts=drafts) == found
    drafts[longest] = (found[longest][0], 298)
    with pytest.raises(NotFinite):
        greedy(llama, given, max_new_tokens=10, eos_ids=EOS, token_budget=200, drafts=drafts)


def test_caches_grow_and_rows_leave(llama: PreTrainedModel) -> None:
    given = prompts(10, seed=3)
    found = greedy(llama, given, max_new_tokens=90, eos_ids=EOS, token_budget=10_000)
    alone = [greedy(llama, [prompt], max_new_tokens=90, eos_ids=EOS, token_budget=1)[0] for prompt in given]
    assert found == alone
    little = greedy(llama, given, max_new_tokens=90, eos_ids=EOS, token_budget=10_000, cache_bytes=300_000)
    assert little == found
    assert max(map(len, found)) == 90
    assert min(map(len, found)) < 60


@pytest.mark.parametrize("family", ["Llama", "Mistral"])
@pytest.mark.parametrize("idle", [0.25, 2.0])
def test_rows_that_have_ended_may_be_run_along(
    family: str, idle: float, model_of: Callable[[str], PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where rows move together once a quarter of them has ended, or only where others enter."""
    model, given = model_of(family), prompts(16, seed=3)
    moves: list[int] = []
    real = KVCache.keep

    def keep(self: KVCache, alive: list[int]) -> list[int]:
        moves.append(len(alive))
        return real(self, alive)

    def write() -> list[list[int]]:
        moves.clear()
        monkeypatch.setitem(DECODED_ROWS, "cpu", 8)
        return greedy(model, given, max_new_tokens=40, eos_ids=EOS, token_budget=10_000)

    monkeypatch.setattr(KVCache, "keep", keep)
    at_once, often = write(), len(moves)
    monkeypatch.setitem(IDLE_SHARE, "cpu", idle)
    assert write() == at_once
    assert 0 < len(moves) < often


def test_ends_at_the_context(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [(3,) * 10, (4,) * 14, (5,) * 16, (6,) * 20]
    monkeypatch.setattr(llama.config, "max_position_embeddings", 16)
    found = greedy(llama, given, max_new_tokens=5, eos_ids=(), token_budget=100)
    assert [len(tokens) for tokens in found] == [5, 2, 0, 0]


def test_nothing_to_do_and_nothing_to_continue(llama: PreTrainedModel) -> None:
    assert greedy(llama, [], max_new_tokens=5, eos_ids=(), token_budget=100) == []
    with pytest.raises(ValueError, match="empty prompt"):
        greedy(llama, [(3,), ()], max_new_tokens=5, eos_ids=(), token_budget=100)


def test_nan_is_a_failed_run() -> None:
    model = make_model("Llama")
    greedy(model, [(3, 4)], max_new_tokens=2, eos_ids=(), token_budget=100)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NotFinite):
        greedy(model, [(3, 4)], max_new_tokens=2, eos_ids=(), token_budget=100)


def test_training_mode_comes_back() -> None:
    model = make_model("GPT2", resid_pdrop=0.9).train()
    first = greedy(model, [(3, 4)], max_new_tokens=8, eos_ids=(), token_budget=100)
    assert first == greedy(model, [(3, 4)], max_new_tokens=8, eos_ids=(), token_budget=100)
    assert model.training


# ---- stop strings ---------------------------------------------------------------------------------------------------


def steps_until_stop(stop: StopStrings, tokens: list[int]) -> int:
    return next((size for size in range(1, len(tokens) + 1) if stop(tokens[:size])), 0)


@pytest.mark.parametrize(
    ("text", "stops", "kept"),
    [
        ("four\nQuestion: what", ["\nQuestion:"], "four"),
        ("\nfour\nfive", ["\n"], "\nfour"),
        ("\n\n  \n", ["\n"], None),
        ("none here", ["\n", "###"], None),
        ("a ### b\n", ["\n", "###"], "a "),
        ("schön→fin", ["→"], "schön"),
    ],
)
def test_stops(text: str, stops: list[str], kept: str | None, tokenizer: PreTrainedTokenizerFast) -> None:
    stop = StopStrings(stops, tokenizer.decode)
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    assert max(tokens) < VOCABULARY
    assert stop.cut(text) == kept
    size = steps_until_stop(stop, tokens)
    assert (size > 0) == (kept is not None)
    if kept is not None:
        assert stop.cut(tokenizer.decode(tokens[:size])) == kept
        assert stop.cut(tokenizer.decode(tokens[: size - 1])) is None


def test_a_row_ends_at_its_stop(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    given = prompts(6, seed=5)
    free = greedy(llama, given, max_new_tokens=20, eos_ids=(), token_budget=300)
    mark = tokenizer.decode([free[0][4]])[-1]
    stop = StopStrings([mark], tokenizer.decode)
    ended = greedy(llama, given, max_new_tokens=20, eos_ids=(), token_budget=300, stop=stop)
    for whole, part in zip(free, ended, strict=True):
        assert part == whole[: steps_until_stop(stop, whole) or len(whole)]
    assert len(ended[0]) < 20


def test_without_stops_nothing_is_decoded() -> None:
    def refuse(tokens: list[int]) -> str:
        raise AssertionError

    assert not StopStrings([], refuse)([1, 2])
