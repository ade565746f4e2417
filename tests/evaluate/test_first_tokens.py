"""KL of the first answer token against two models that are run one row at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from tiny_models import save_tiny_model

from rankscope.evaluate import first_tokens
from rankscope.evaluate.first_tokens import KeptBatches, Side, first_token_divergences
from rankscope.model.load import load_model
from rankscope.records import Item
from rankscope.study.study import ModelSpec

ITEMS = [
    Item(f"i{n}", "choices", tuple(range(3, 4 + n)), ((5, 6), (7,), (7, 8), (9,)), answer_index=0) for n in range(7)
]


@pytest.fixture
def two(tmp_path: Path) -> list[torch.nn.Module]:
    save_tiny_model(tmp_path / "model")
    base, arm = (load_model(ModelSpec(id="model"), tmp_path, "float32", "cpu").model for _ in range(2))
    dice = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in arm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=dice) / 20)
    return [base, arm]


def plain(model: torch.nn.Module, item: Item) -> list[float]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([item.prompt_ids])).logits[0, -1].double()
    exps = [math.exp(x - float(logits.max())) for x in logits.tolist()]
    return [x / sum(exps) for x in exps]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("budget", [8, 16, 4096])
def test_it_is_that_of_two_models_run_alone(two: list[torch.nn.Module], budget: int) -> None:
    sides = [Side(model, nullcontext) for model in two]  # type: ignore[arg-type]
    (found,) = first_token_divergences(sides[0], sides[1:], ITEMS, token_budget=budget)
    for item, one in zip(ITEMS, found, strict=True):
        p, q = (plain(model, item) for model in two)
        assert one.first_token_nats == pytest.approx(kl(p, q), abs=1e-5)
        firsts = (5, 7, 9)  # two choices begin alike
        ours, theirs = ([side[t] / sum(side[u] for u in firsts) for t in firsts] for side in (p, q))
        assert one.choices_nats == pytest.approx(kl(ours, theirs), abs=1e-5)
        assert one.first_token_nats > 1e-4


def test_a_model_is_at_no_distance_from_itself_and_choices_that_begin_alike_tell_nothing(
    two: list[torch.nn.Module],
) -> None:
    side = Side(two[0], nullcontext)  # type: ignore[arg-type]
    alike = Item("a", "choices", (3, 4), ((5, 6), (5, 7)), answer_index=0)
    written = Item("w", "open", (3, 4), answers=("x",))
    (found,) = first_token_divergences(side, [side], [*ITEMS[:2], alike, written], token_budget=64)
    assert [one.first_token_nats for one in found] == [0.0] * 4
    assert [one.choices_nats for one in found] == [0.0, 0.0, None, None]


@pytest.mark.parametrize("most", [0, 1 << 26])
def test_the_base_runs_once_for_arms_that_come_one_after_another(
    two: list[torch.nn.Module], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(first_tokens, "KEPT_BYTES", most)
    runs: list[int] = []

    @contextmanager
    def counted() -> Iterator[None]:
        runs.append(1)
        yield

    base, arm = Side(two[0], counted), Side(two[1], nullcontext)  # type: ignore[arg-type]
    kept: KeptBatches = {}
    found = [first_token_divergences(base, [arm], ITEMS, token_budget=8, kept=kept) for _ in range(2)]
    batches = len(runs) if most else len(runs) // 2
    assert batches > 1
    assert len(kept) == (batches if most else 0)
    assert found[0] == found[1]
    assert found[0] == first_token_divergences(base, [arm], ITEMS, token_budget=8)


def test_an_item_without_a_prompt_is_refused(two: list[torch.nn.Module]) -> None:
    side = Side(two[0], nullcontext)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without a prompt"):
        first_token_divergences(side, [side], [Item("t", "text", (), ((5,),))], token_budget=64)
