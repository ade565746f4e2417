"""Scoring, writing and looking inside on a GPU: as on the CPU in fp32; adapters in one forward as each alone."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from one_adapter import load_adapter, open_pack
from scoring_models import make_model, plain_logprobs, random_items
from trained_on import loaded_on, lora

from rankscope.analyse.capture import SideModel, capture
from rankscope.analyse.update_spectra import module_rows
from rankscope.evaluate.adapter_scoring import dialled_logprobs, suites_logprobs
from rankscope.evaluate.choice_scoring import choice_logprobs
from rankscope.evaluate.first_tokens import Side, first_logprobs
from rankscope.evaluate.generation import greedy
from rankscope.evaluate.score_suites import SuitePlan
from rankscope.model.weights.gram_spectrum import gram_values
from rankscope.model.weights.svd_cache import SvdCache
from rankscope.model.weights.weight_delta import LowRank
from rankscope.records import Item, Suite

ARMS = [lora(3), lora(16), lora(8)]
BUDGET = 400
FAMILIES = ["Llama", "Mistral", "Gemma2", "Gemma3", "GPT2", "GPTNeoX"]


def with_a_shared_beginning(items: list[Item]) -> list[Item]:
    start = tuple(int(token) for token in torch.randint(3, 300, (90,), generator=torch.Generator().manual_seed(3)))
    return [Item(one.item_id, "choices", start + one.prompt_ids, one.choices_ids, answer_index=0) for one in items]


def of_known_tokens(item: Item) -> Item:
    """For the small model, whose vocabulary is smaller."""
    prompt, *choices = [tuple(5 + token % 250 for token in ids) for ids in (item.prompt_ids, *item.choices_ids)]
    return Item(item.item_id, "choices", prompt, tuple(choices), answer_index=0)


def assert_near(found: object, expected: object, nats: float) -> None:
    flat = [[x for row in side for x in row] for side in (found, expected)]  # type: ignore[attr-defined]
    assert flat[0] == pytest.approx(flat[1], abs=nats)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_likelihoods_are_those_of_the_cpus_plain_forward(family: str, device: str) -> None:
    model = make_model(family)
    items = [*random_items(6, seed=2), *with_a_shared_beginning(random_items(6, seed=4, longest_prompt=12))]
    expected = [plain_logprobs(model, item) for item in items]
    found = choice_logprobs(model.to(device), items, token_budget=BUDGET)  # type: ignore[arg-type]
    assert_near(found, expected, 5e-4)


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma3"])
def test_half_precision_scores_stay_near(family: str, device: str) -> None:
    items = with_a_shared_beginning(random_items(8, seed=4, longest_prompt=12))
    model = make_model(family, initializer_range=0.05)
    expected = [plain_logprobs(model, item) for item in items]
    found = choice_logprobs(model.to(device, torch.bfloat16), items, token_budget=BUDGET)  # type: ignore[arg-type]
    assert_near(found, expected, 0.5)


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "GPT2"])
def test_written_tokens_are_those_of_the_cpu(family: str, device: str) -> None:
    prompts = [item.prompt_ids for item in random_items(9, seed=2, longest_prompt=30)]
    expected = greedy(make_model(family), prompts, max_new_tokens=40, eos_ids=range(2, 12), token_budget=200)
    model = make_model(family).to(device)  # type: ignore[arg-type]
    assert greedy(model, prompts, max_new_tokens=40, eos_ids=range(2, 12), token_budget=200) == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_together_are_each_alone(
    tmp_path: Path, small_folder: Path, device: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rankscope.evaluate.adapter_scoring.DEVICES", {device})
    base = loaded_on(small_folder, device, dtype)
    folders = []
    for i, arm in enumerate(ARMS):
        folders.append(tmp_path / str(i))
        folders[-1].mkdir()
        with open_pack(base, [arm], i) as pack:
            generator = torch.Generator().manual_seed(i)
            with torch.no_grad():
                for weight in pack.members[0].parameters.values():
                    weight.add_(0.03 * torch.randn(weight.shape, generator=generator).to(weight.device, weight.dtype))
            pack.members[0].save(folders[-1])
    items = [*random_items(8, seed=5), *with_a_shared_beginning(random_items(8, seed=6, longest_prompt=12))]
    items = [of_known_tokens(item) for item in items]
    plan = SuitePlan(Suite("made", None, None, tuple(items)), BUDGET)
    found = suites_logprobs(base, ARMS, folders, [plan])
    assert all(found), "they share a forward on CUDA"
    scores = []
    for arm, folder, own in zip(ARMS, folders, found, strict=True):
        with load_adapter(base, arm, folder):
            scores.append(choice_logprobs(base.model, items, token_budget=BUDGET))
        assert_near(own["made"], scores[-1], 1e-3 if dtype == "float32" else 0.3)
    apart = max(abs(a - b) for x, y in zip(scores[0], scores[1], strict=True) for a, b in zip(x, y, strict=True))
    assert apart > 0.5, "one for another would show"
    dialled = dialled_logprobs(base, ARMS[1], folders[1], (0.5, 1.0), [plan])
    assert_near(dialled[1]["made"], scores[1], 1e-3 if dtype == "float32" else 0.3)


def test_what_is_captured_is_what_the_cpu_captures(device: str) -> None:
    items = {"made": random_items(12, seed=1)}

    def rows(where: str) -> dict[str, list[dict[str, Any]]]:
        sides = [SideModel(make_model("Llama", seed=seed).to(where), nullcontext) for seed in (0, 1)]  # type: ignore[arg-type]
        return capture(*sides, items, token_budget=200)

    found, expected = rows(device), rows("cpu")
    assert found.keys() == expected.keys()
    for table, own in expected.items():
        assert own
        for mine, theirs in zip(found[table], own, strict=True):
            named = [{k: v for k, v in row.items() if not isinstance(v, float)} for row in (mine, theirs)]
            assert named[0] == named[1]
            numbers = [{k: v for k, v in row.items() if isinstance(v, float)} for row in (mine, theirs)]
            assert numbers[0] == pytest.approx(numbers[1], rel=2e-3, abs=2e-4)


def test_first_tokens_are_those_of_the_cpu(device: str) -> None:
    prompts = [item.prompt_ids for item in random_items(5, seed=3)]

    def logprobs(where: str) -> torch.Tensor:
        return first_logprobs(Side(make_model("Llama").to(where), nullcontext), prompts).cpu()  # type: ignore[arg-type]

    torch.testing.assert_close(logprobs(device), logprobs("cpu"), atol=2e-4, rtol=1e-4)


def test_spectra_of_full_changes(device: str) -> None:
    matrix = torch.randn(300, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 17
    expected = torch.linalg.svdvals(matrix)
    found = gram_values(matrix.float().to(device)).cpu()
    assert float((found - expected).abs().max()) <= 1e-6 * float(expected[0])


@pytest.mark.parametrize("rank", [4, 60])
def test_measures_of_a_low_rank_change_beside_a_base_on_the_device(rank: int, device: str, tmp_path: Path) -> None:
    """The control's factors are drawn on the CPU, the base's vectors lie on the device."""
    dice = torch.Generator().manual_seed(1)
    weight, b, a = (torch.randn(*shape, generator=dice) / 9 for shape in ((96, 80), (96, rank), (rank, 80)))

    def row(where: str) -> dict[str, Any]:
        delta, cache = {"m": LowRank(a=a.to(where), b=b.to(where), scale=0.5)}, SvdCache(tmp_path / where)
        (found,) = module_rows(delta, {"m": weight.to(where)}, cache, model_sha256=None, seed=0, widest=None)
        return found

    found, expected = row(device), row("cpu")
    assert found["intruders_random"] == expected["intruders_random"]
    numbers = {key for key, value in expected.items() if isinstance(value, float)}
    assert len(numbers) > 5
    for key in numbers:
        assert found[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-4), key
