"""Supervised fine-tuning against plain PyTorch, and the loop under an objective that is not it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from test_fit import LORA, InMemory, base, examples, padded, settings
from torch import Tensor

from rankscope.data.training_batches import order
from rankscope.model.attention.unpadded_rows import TrainingForward, training_forward
from rankscope.model.methods.attach import NewAdapter, attach
from rankscope.records import Example
from rankscope.study.study import SUPERVISED
from rankscope.train.fit import fit
from rankscope.train.objective import OBJECTIVES, Objective, SupervisedFineTuning


def own_losses(model: torch.nn.Module, rows: Sequence[Example]) -> Tensor:
    """(rows,): cross-entropy summed over each row's completion, from the model's own forward over padded rows."""
    ids, mask, labels = padded(rows)
    logits = model(ids, attention_mask=mask).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none").sum(1)


def test_the_loss_is_the_cross_entropy_of_completions(tiny_folder: Path) -> None:
    model, rows, objective = base(tiny_folder).model, examples(12), OBJECTIVES[SUPERVISED.name]
    rows[3] = replace(rows[3], loss_mask=(*(False,) * (rows[3].token_count - 1), True))
    plain = [row for i, row in enumerate(rows) if i != 3]
    forward = training_forward(model)
    with torch.no_grad(), forward.ready():
        found = objective.summed_losses(forward, plain, 1)
        last = objective.summed_losses(forward, [rows[3]], 1)
    with torch.no_grad():
        assert found.item() == pytest.approx(own_losses(model, plain).sum().item(), rel=1e-5)
        ids = torch.tensor([rows[3].prompt_ids + rows[3].completion_ids])
        assert last.item() == pytest.approx(-model(ids).logits[0, -2].log_softmax(-1)[ids[0, -1]].item(), rel=1e-5)
    assert [objective.row_weight(row) for row in rows] == [
        1 if i == 3 else len(row.completion_ids) for i, row in enumerate(rows)
    ]


@pytest.mark.parametrize("budget", [1, 60, 100_000])
def test_validation_is_the_mean_over_all_tokens_with_loss(tiny_folder: Path, budget: int) -> None:
    model, rows, objective = base(tiny_folder).model, examples(9), SupervisedFineTuning()
    with torch.no_grad():
        expected = own_losses(model, rows).sum().item() / sum(len(row.completion_ids) for row in rows)
    assert objective.validation_loss(training_forward(model), rows, budget) == pytest.approx(expected, rel=1e-5)


@dataclass(frozen=True)
class Data:
    train: Sequence[Example]
    validation: Sequence[Example]


class RowMean(SupervisedFineTuning):
    """Another objective: every row counts the same, whatever its length, and the first two rows are not trained on."""

    facts = replace(SUPERVISED, name="row mean", loss_unit="nats per row")

    def training_rows(self, data: Data) -> Sequence[Example]:  # type: ignore[override]
        return data.train[2:]

    def row_weight(self, row: Example) -> int:
        return 1

    def summed_losses(self, forward: TrainingForward, rows: Sequence[Example], arms: int = 1) -> Tensor:
        parts = [SupervisedFineTuning.summed_losses(self, forward, [row], arms) / row.target_count for row in rows]
        return torch.stack(parts).sum(0)


@pytest.mark.parametrize("micro_batch_tokens", [80, 10_000])
def test_the_loop_asks_the_objective_for_rows_loss_and_weights(tiny_folder: Path, micro_batch_tokens: int) -> None:
    objective: Objective = RowMean()
    data = Data(examples(40), examples(5, seed=1))
    rows = objective.training_rows(data)
    given = settings(objective=objective, micro_batch_tokens=micro_batch_tokens)
    loaded = base(tiny_folder)
    with torch.no_grad():
        losses = own_losses(loaded.model, rows)
        per_row = losses / torch.tensor([len(row.completion_ids) for row in rows])
    with attach(loaded, NewAdapter(LORA, given.seed)) as pack:
        (result,) = fit(pack, rows, [given], checkpoints=InMemory(), until_step=1)
        validation = objective.validation_loss(
            pack.members[0].training_forward(), objective.validation_rows(data), 1000
        )
    first = result.steps[0]
    assert first.completion_tokens == given.budget.batch_size, "the weight of a batch is its rows"
    chosen = order(len(rows), given.budget.batch_size, given.budget.epochs, given.seed)[0]
    assert first.loss_nats_per_token == pytest.approx(per_row[chosen].mean().item(), rel=1e-4)
    assert 0 < validation < 20
