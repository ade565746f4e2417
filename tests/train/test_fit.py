"""The loop against plain PyTorch and PEFT, and against itself after an interruption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from one_adapter import load_adapter, open_pack
from peft import get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

from rankscope.data.training_batches import order
from rankscope.model.load import LoadedModel, load_model
from rankscope.model.methods.peft_modules import lora_config
from rankscope.records import Example
from rankscope.study.study import Arm, Budget, ModelSpec, Optimizer
from rankscope.train.fit import FitSettings, fit
from rankscope.train.training_state import FitResult

LORA = Arm(label="lora-r4", method="lora", rank=4, alpha=8, targets="all-linear", learning_rate=1e-2)
FULL = Arm(label="full", method="full", learning_rate=1e-3)


class InMemory:
    """Checkpoints that live as long as the test."""

    def __init__(self) -> None:
        self.saved: tuple[dict[str, Tensor], dict[str, str]] | None = None
        self.count = 0

    def load(self) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        return self.saved

    def save(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        self.saved = ({key: value.clone() for key, value in tensors.items()}, dict(metadata))
        self.count += 1


def examples(count: int = 40, seed: int = 0) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(5, 200, (length,), generator=generator).tolist())

    return [Example(item_id=str(i), prompt_ids=ids(3, 30), completion_ids=ids(1, 12)) for i in range(count)]


def settings(**changes: object) -> FitSettings:
    given = {
        "learning_rate": 1e-2, "seed": 3, "budget": Budget(epochs=5, batch_size=8, max_sequence_tokens=64),
        "optimizer": Optimizer(weight_decay=0.01), "micro_batch_tokens": 10_000, "checkpoint_seconds": 1e9, **changes,
    }  # fmt: skip
    return FitSettings(**given)  # type: ignore[arg-type]


def base(folder: Path, dtype: str = "float32") -> LoadedModel:
    return load_model(ModelSpec(id=str(folder)), folder, dtype, "cpu")  # type: ignore[arg-type]


def run(folder: Path, arm: Arm, given: FitSettings, dtype: str = "float32") -> tuple[FitResult, dict[str, Tensor]]:
    with open_pack(base(folder, dtype), [arm], given.seed) as pack:
        (result,) = fit(pack, examples(), [given], checkpoints=InMemory())
        return result, {name: p.detach().clone() for name, p in pack.members[0].parameters.items()}


def padded(rows: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded ids, mask and labels, as any other trainer has them."""
    longest = max(row.token_count for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        whole = torch.tensor(row.prompt_ids + row.completion_ids)
        ids[i, : len(whole)], mask[i, : len(whole)] = whole, 1
        labels[i, len(row.prompt_ids) : len(whole)] = whole[len(row.prompt_ids) :]
    return ids, mask, labels


def plain_losses(folder: Path, arm: Arm, given: FitSettings, step_count: int) -> list[float]:
    """PEFT and PyTorch, nothing of ours but the order of rows: padding, full logits, AdamW, transformers' schedule."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if arm.method == "lora":
        torch.manual_seed(given.seed)
        model = get_peft_model(model, lora_config(arm))
    model.train()
    batches = order(40, given.budget.batch_size, given.budget.epochs, given.seed)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=given.learning_rate, weight_decay=given.optimizer.weight_decay)
    scheduler = get_cosine_schedule_with_warmup(optimizer, 0, len(batches))
    losses, rows = [], examples()
    for batch in batches[:step_count]:
        ids, mask, labels = padded([rows[i] for i in batch])
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, given.optimizer.clip_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("arm", [LORA, FULL], ids=lambda a: a.label)
def test_losses_are_those_of_a_plain_loop(tiny_folder: Path, arm: Arm) -> None:
    given = settings(optimizer=Optimizer(weight_decay=0.01, warmup_fraction=0.0))
    result, _ = run(tiny_folder, arm, given)
    expected = plain_losses(tiny_folder, arm, given, 20)
    found = [record.loss_nats_per_token for record in result.steps[:20]]
    assert found == pytest.approx(expected, abs=1e-5)
    assert expected[-1] < expected[0] - 0.3, "the comparison must cover real learning"


@pytest.mark.parametrize("arm", [LORA, FULL], ids=lambda a: a.label)
def test_micro_batches_change_nothing_but_rounding(tiny_folder: Path, arm: Arm) -> None:
    whole, _ = run(tiny_folder, arm, settings())
    parts, _ = run(tiny_folder, arm, settings(micro_batch_tokens=50))
    found = [record.loss_nats_per_token for record in parts.steps[:20]]
    assert found == pytest.approx([record.loss_nats_per_token for record in whole.steps[:20]], abs=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("arm", [LORA, FULL], ids=lambda a: a.label)
def test_a_resumed_run_is_bit_for_bit_the_run_never_stopped(tiny_folder: Path, arm: Arm, dtype: str) -> None:
    given = settings()
    whole, expected = run(tiny_folder, arm, given, dtype)
    kept = InMemory()
    for until in (7, 16, None):
        with open_pack(base(tiny_folder, dtype), [arm], given.seed) as pack:
            (result,) = fit(pack, examples(), [given], checkpoints=kept, until_step=until)
            weights = {name: p.detach().clone() for name, p in pack.members[0].parameters.items()}
    assert result.steps == whole.steps
    assert result.state == whole.state == "done"
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_signal_stops_with_a_checkpoint(tiny_folder: Path) -> None:
    kept, seen = InMemory(), []
    with open_pack(base(tiny_folder), [LORA], 3) as pack:
        (result,) = fit(
            pack, examples(), [settings()], checkpoints=kept, on_step=lambda _, r: seen.append(len(r.steps)),
            should_stop=lambda: len(seen) >= 4,
        )  # fmt: skip
    assert (result.state, len(result.steps), kept.count) == ("paused", 4, 1)


def test_checkpoints_come_on_a_timer(tiny_folder: Path) -> None:
    kept = InMemory()
    with open_pack(base(tiny_folder), [LORA], 3) as pack:
        fit(pack, examples(), [settings(checkpoint_seconds=1e-9)], checkpoints=kept)
    assert kept.count == 25


def test_a_rate_far_too_high_is_labelled_diverged(tiny_folder: Path) -> None:
    result, _ = run(tiny_folder, FULL, settings(learning_rate=3.0))
    assert result.state == "diverged"
    assert result.reason is not None
    assert "nats per token" in result.reason or "not finite" in result.reason


def test_a_loss_that_is_not_finite_ends_the_run_before_it_changes_a_weight(tiny_folder: Path) -> None:
    loaded = base(tiny_folder)
    with open_pack(loaded, [LORA], 0) as pack:
        after = pack.members[0].parameters
        with torch.no_grad():
            next(iter(after.values())).fill_(float("nan"))
        before = {name: p.detach().clone() for name, p in after.items()}
        (result,) = fit(pack, examples(), [settings()], checkpoints=InMemory())
    assert result.state == "diverged"
    assert "not finite at step 1 of" in str(result.reason)
    assert all(torch.equal(before[name], after[name].detach()) or before[name].isnan().any() for name in before)


def test_bfloat16_keeps_small_updates_in_its_masters(tiny_folder: Path) -> None:
    """An update below a bf16 weight's last bit must still add up over the steps."""
    given = settings(learning_rate=1e-5, optimizer=Optimizer(schedule="constant", warmup_fraction=0.0))
    kept = InMemory()
    with open_pack(base(tiny_folder, "bfloat16"), [FULL], 0) as pack:
        first = {name: p.detach().float().clone() for name, p in pack.members[0].parameters.items()}
        fit(pack, examples(), [given], checkpoints=kept, until_step=20)
    assert kept.saved is not None
    moved = [(kept.saved[0][f"0/master/{name}"] - first[name]).abs().max().item() for name in first]
    assert min(moved) > 5e-5


def test_the_seed_reaches_the_adapter_and_the_order(tiny_folder: Path) -> None:
    one, weights_one = run(tiny_folder, LORA, settings(seed=1))
    same, weights_same = run(tiny_folder, LORA, settings(seed=1))
    other, weights_other = run(tiny_folder, LORA, settings(seed=2))
    assert one.steps == same.steps
    assert all(torch.equal(weights_one[name], weights_same[name]) for name in weights_one)
    assert one.steps[0].loss_nats_per_token != other.steps[0].loss_nats_per_token
    name = next(name for name in weights_one if "lora_A" in name)
    assert not torch.equal(weights_one[name], weights_other[name])


def test_the_global_random_state_is_left_alone(tiny_folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(tiny_folder, LORA, settings(budget=Budget(epochs=1, batch_size=8, max_sequence_tokens=64)))
    assert torch.equal(torch.rand(3), expected)


def test_a_saved_adapter_scores_as_it_was_trained(tiny_folder: Path, tmp_path: Path) -> None:
    loaded = base(tiny_folder, "bfloat16")
    ids = torch.tensor([[7, 8, 9, 10]])
    plain = loaded.model(ids).logits
    with open_pack(loaded, [LORA], 3) as pack:
        fit(pack, examples(), [settings()], checkpoints=InMemory())
        trained = loaded.model(ids).logits
        with pack.members[0].off():
            assert torch.equal(loaded.model(ids).logits, plain)
        pack.members[0].save(tmp_path)
    assert torch.equal(loaded.model(ids).logits, plain), "the base is plain again"
    assert not torch.equal(trained, plain)
    with load_adapter(loaded, LORA, tmp_path):
        torch.testing.assert_close(loaded.model(ids).logits, trained, rtol=0.02, atol=0.02)
