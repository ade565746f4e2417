"""Rows in a KV cache against attention over each row's own tokens, and whether a model may be decoded in one."""

from __future__ import annotations

import logging

import pytest
import torch
from scoring_models import make_model
from test_scoring_layout import SCORES, reference, states
from torch import Tensor

from rankscope.model.attention import cached_decoder, kv_cache
from rankscope.model.attention.cached_decoder import Decoder, decodes_in_cache
from rankscope.model.attention.kv_cache import DecodeLayout, KVCache, PrefillLayout
from rankscope.model.attention.registration import Scores
from rankscope.model.forward import Forward


@pytest.mark.parametrize("scores", SCORES)
def test_rows_leave_and_enter_the_cache(scores: Scores) -> None:
    cache = KVCache(3, 90, torch.device("cpu"))
    rows: list[tuple[Tensor, Tensor]] = []  # keys and values (K, tokens, d) of each row, in the order of their slots

    def prefill(lengths: list[int], seed: int) -> None:
        query, key, value = states(sum(lengths), seed)
        layout = PrefillLayout(cache, torch.tensor(lengths), None)
        layout.attend(0, query, key, value, scores)
        layout.commit()
        rows.extend(zip(key.split(lengths, 1), value.split(lengths, 1), strict=True))

    def step(seed: int) -> None:
        query, key, value = states(len(rows), seed)
        layout = DecodeLayout(cache)
        found = layout.attend(0, query, key, value, scores)
        layout.commit()
        for row in range(len(rows)):
            rows[row] = tuple(  # type: ignore[assignment]
                torch.cat([old, new[:, row : row + 1]], 1) for old, new in zip(rows[row], (key, value), strict=True)
            )
            wanted = reference(query[:, row], *rows[row], scores)
            torch.testing.assert_close(found[row].double(), wanted, atol=1e-5, rtol=0)

    prefill([4, 2, 7], seed=10)
    for number in range(70):
        step(seed=20 + number)
    order = cache.keep([1, 2])
    assert order == [2, 1]
    rows[:] = [rows[index] for index in order]
    step(seed=100)
    prefill([5], seed=110)
    step(seed=120)
    assert cache.lengths.tolist() == [len(keys[0]) for keys, _ in rows]
    assert cache.keep([]) == []
    assert cache.longest == 0


@pytest.mark.parametrize("scores", SCORES)
def test_a_row_that_has_ended_is_run_along_and_disturbs_no_other(scores: Scores) -> None:
    cache = KVCache(2, 12, torch.device("cpu"))
    query, key, value = states(11, 0)
    prefill = PrefillLayout(cache, torch.tensor([8, 3]), None)
    prefill.attend(0, query, key, value, scores)
    prefill.commit()
    cache.end([0])
    assert cache.longest == 3
    keys, values = key[:, 8:], value[:, 8:]
    for number in range(6):
        query, key, value = states(2, 1 + number)
        layout = DecodeLayout(cache)
        found = layout.attend(0, query, key, value, scores)
        layout.commit()
        keys, values = torch.cat([keys, key[:, 1:]], 1), torch.cat([values, value[:, 1:]], 1)
        torch.testing.assert_close(found[1].double(), reference(query[:, 1], keys, values, scores), atol=1e-5, rtol=0)
        assert bool(found.isfinite().all())
    assert cache.lengths.tolist() == [8, 9]


def test_a_step_reads_nothing_back_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's meta device, where nothing has a value: reading one is an error."""
    monkeypatch.setattr(cached_decoder, "forward_of", lambda model: Forward(model, direct=True, skips=True))
    with torch.device("meta"):
        model = make_model("Mistral").to("meta")
    decoder = Decoder(model, 4, 30)
    with torch.no_grad(), decoder.ready():
        assert decoder.prefill([(3,) * 12, (4,) * 5, (5,) * 7]).shape == (3, model.config.vocab_size)
        for size in (3, 3, 2):
            if size == 2:
                decoder.cache.end([0])
                assert decoder.cache.keep([1, 2]) == [2, 1]
            assert len(decoder.step(torch.zeros(size, dtype=torch.int64, device="meta"))) == size
        assert decoder.cache.longest == 10


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "GPT2"])
def test_a_decoder_gives_the_logits_of_whole_rows(family: str) -> None:
    model, dice = make_model(family), torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 300, (size,), generator=dice).tolist() for size in (5, 14, 9)]
    with torch.no_grad():
        decoder = Decoder(model, 3, 20)
        with decoder.ready():
            logits = decoder.prefill([tuple(row) for row in rows])
            for _ in range(4):
                for row, token in zip(rows, logits.argmax(-1).tolist(), strict=True):
                    row.append(token)
                logits = decoder.step(torch.tensor([row[-1] for row in rows]))
        for row, found in zip(rows, logits, strict=True):
            torch.testing.assert_close(found, model(torch.tensor([row])).logits[0, -1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("family", "holds"), [("Llama", True), ("Mistral", True), ("Mamba", False), ("Bloom", False)])
@pytest.mark.parametrize("longest", [5, 60])
def test_only_models_that_give_their_own_logits_are_decoded_in_a_cache(family: str, holds: bool, longest: int) -> None:
    assert decodes_in_cache(make_model(family), longest) == holds


def test_a_cache_that_answers_otherwise_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    real = DecodeLayout.attend

    def attend(self: DecodeLayout, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        return real(self, layer, query, key.roll(1, 0), value, scores)

    monkeypatch.setattr(kv_cache.DecodeLayout, "attend", attend)
    assert not decodes_in_cache(make_model("Llama"), 40)
    assert "rows are decoded by its own generate, because logits differ by" in caplog.text
