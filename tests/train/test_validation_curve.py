"""The validation curve is what a validation at that step gives, and training knows nothing of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from one_adapter import open_pack
from test_fit import InMemory, base, examples, settings

from rankscope.records import StepRecord
from rankscope.study.study import Arm, Budget
from rankscope.train.fit import fit
from rankscope.train.objective import SupervisedFineTuning
from rankscope.train.training_state import FitResult
from rankscope.train.validation_curve import NO_CURVE, POINTS, TOKEN_SHARE, ValidationCurve, validation_curve

DROPPING = Arm(label="dropping", method="lora", rank=4, alpha=8, targets="all-linear", learning_rate=1e-2, dropout=0.2)
PACKED = [
    Arm(label=f"lora-r{rank}", method="lora", rank=rank, alpha=8, targets="all-linear", learning_rate=1e-2)
    for rank in (4, 2)
]
HELD_OUT = ValidationCurve(examples(6, seed=9))
GIVEN = settings(budget=Budget(epochs=2, batch_size=8, max_sequence_tokens=64))  # 10 steps


def train(
    folder: Path, arms: list[Arm], curve: ValidationCurve, kept: InMemory | None = None, until: int | None = None
) -> tuple[list[FitResult], dict[str, torch.Tensor], list[float]]:
    """Results, weights, and the validation loss of each arm where training stopped."""
    with open_pack(base(folder), arms, GIVEN.seed) as pack:
        given = [replace(GIVEN, learning_rate=rate, curve=curve) for rate in (1e-2, 3e-3)[: len(arms)]]
        results = fit(pack, examples(), given, checkpoints=kept or InMemory(), until_step=until)
        weights = {
            f"{i} {n}": p.detach().clone() for i, own in enumerate(pack.members) for n, p in own.parameters.items()
        }
        losses = []
        for i in range(len(arms)):
            with pack.running([i]):
                forward = pack.members[i].training_forward()
                losses.append(SupervisedFineTuning().validation_loss(forward, HELD_OUT.rows, 10_000))
        return results, weights, losses


def without(steps: list[StepRecord]) -> list[StepRecord]:
    return [step.model_copy(update={"validation_loss_nats_per_token": None}) for step in steps]


@pytest.mark.parametrize("arms", [[DROPPING], PACKED], ids=["with dropout", "packed"])
def test_it_changes_no_bit_of_training_and_is_the_loss_at_that_step(tiny_folder: Path, arms: list[Arm]) -> None:
    """Dropout draws random numbers; and after an interruption the curve goes on."""
    plain, weights, _ = train(tiny_folder, arms, NO_CURVE)
    watched, same, at_the_end = train(tiny_folder, arms, HELD_OUT)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    for one, other in zip(plain, watched, strict=True):
        assert one.steps == without(other.steps)
        points = [s.step for s in other.steps if s.validation_loss_nats_per_token is not None]
        assert points == [1, 3, 5, 7, 9]

    kept = InMemory()
    _, _, at_six = train(tiny_folder, arms, HELD_OUT, kept, until=6)
    for result, sixth, last in zip(watched, at_six, at_the_end, strict=True):
        assert result.steps[5].validation_loss_nats_per_token == pytest.approx(sixth, abs=1e-6)
        assert result.steps[9].validation_loss_nats_per_token == pytest.approx(last, abs=1e-6)
        assert abs(sixth - last) > 1e-3, "training moved it"
    resumed, _, _ = train(tiny_folder, arms, HELD_OUT, kept)
    assert [result.steps for result in resumed] == [result.steps for result in watched]


def test_the_rows_are_as_many_as_their_share_of_the_tokens_allows() -> None:
    rows, objective = examples(200), SupervisedFineTuning()
    tokens = sum(row.token_count for row in rows)
    assert len(validation_curve(rows, objective, 1000 * tokens).rows) == 200
    some = validation_curve(rows, objective, 40 * tokens).rows
    seen = POINTS * sum(row.token_count for row in some)
    assert 0.5 * TOKEN_SHARE * 40 * tokens < seen < 1.2 * TOKEN_SHARE * 40 * tokens
    assert validation_curve(rows, objective, tokens // 10) == NO_CURVE
    assert validation_curve(rows, objective, 0) == NO_CURVE


@pytest.mark.parametrize(
    ("steps", "points"), [(1, {0}), (3, {0, 1, 2}), (10, {1, 3, 5, 7, 9}), (101, {20, 40, 60, 80, 100})]
)
def test_points_are_spread_over_a_run_and_the_last_step_has_one(steps: int, points: set[int]) -> None:
    assert {step for step in range(steps) if HELD_OUT.at(step, steps) == HELD_OUT.rows} == points
    assert not any(NO_CURVE.at(step, steps) for step in range(steps))
