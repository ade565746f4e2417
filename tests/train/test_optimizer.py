"""Optimizers by their names, their state, and the schedule."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import nn

from rankscope.study.study import Optimizer as Settings
from rankscope.study.study import OptimizerName
from rankscope.train import optimizer as module
from rankscope.train.optimizer import OPTIMIZERS, AdamW, Trainee, rate_factor, take_gradients


def weights(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(3, 2, generator=generator).to(dtype)) for name in ("a", "b.weight")}


def gradients(of: dict[str, nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for weight in of.values():
        weight.grad = torch.randn(weight.shape, generator=generator).to(weight.dtype)


def test_every_optimizer_that_a_study_may_name_is_there() -> None:
    assert set(OPTIMIZERS) == set(get_args(OptimizerName))


def test_adamw_is_torchs_and_continues_bit_for_bit_from_its_state() -> None:
    plain, ours, settings = weights(), weights(), Settings(weight_decay=0.1)
    peer = torch.optim.AdamW(plain.values(), lr=1.0, weight_decay=0.1)
    optimizer = AdamW(ours, settings)
    for step in range(5):
        rate = 0.1 / (step + 1)
        gradients(plain, step)
        gradients(ours, step)
        peer.param_groups[0]["lr"] = rate
        peer.step()
        optimizer.step(rate)
        if step == 2:  # as after an interruption
            state = {key: value.clone() for key, value in optimizer.state().items()}
            assert set(state) == {f"{kind}/{n}" for kind in ("step", "exp_avg", "exp_avg_sq") for n in ours}
            optimizer = AdamW(ours, settings)
            optimizer.load(state)
        for name in plain:
            torch.testing.assert_close(ours[name], plain[name], rtol=1e-6, atol=1e-7)
    again = AdamW(ours, settings)
    again.load(optimizer.state())
    assert all(torch.equal(value, again.state()[key]) for key, value in optimizer.state().items())


def test_another_optimizer_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    class SignDescent(AdamW):
        """The sign of the gradient times the rate; it has no state."""

        def step(self, rate: float) -> None:
            with torch.no_grad():
                for weight in self._weights.values():
                    weight -= rate * weight.grad.sign()

    monkeypatch.setitem(module.OPTIMIZERS, "adamw", SignDescent)
    own = weights()
    before = {name: weight.detach().clone() for name, weight in own.items()}
    trainee = Trainee(own, 0.5, Settings(schedule="constant", warmup_fraction=0.0), 10)
    gradients(own, 0)
    signs = {name: weight.grad.sign() for name, weight in own.items()}  # type: ignore[union-attr]
    trainee.step(0)
    for name, weight in own.items():
        torch.testing.assert_close(weight.detach(), before[name] - 0.5 * signs[name])
    assert set(trainee.state_tensors()) == {"master/a", "master/b.weight"}


def test_weights_in_bf16_follow_masters_that_keep_small_updates() -> None:
    own = weights(torch.bfloat16)
    trainee = Trainee(own, 1e-5, Settings(schedule="constant", warmup_fraction=0.0), 2000)
    start = {name: weight.detach().clone() for name, weight in own.items()}
    for step in range(3):
        for weight in own.values():
            weight.grad = torch.ones_like(weight)
        take_gradients([trainee])
        trainee.step(step)
    assert all(torch.equal(own[name], start[name]) for name in own), "too small for bf16"
    masters = trainee.state_tensors()
    for name in own:
        moved = start[name].float() - masters[f"master/{name}"]
        torch.testing.assert_close(moved, torch.full_like(moved, 3e-5), rtol=0.02, atol=0)


def test_gradients_of_several_arms_add_up_together_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 weights of two arms, one without a gradient at first, in groups so small that some hold one tensor."""
    monkeypatch.setattr(module, "_GROUP_ELEMENTS", 8)
    arms = [weights(torch.bfloat16), weights(torch.bfloat16)]
    trainees = [Trainee(own, 0.1, Settings(), 10) for own in arms]
    wanted = [{name: torch.zeros(weight.shape) for name, weight in own.items()} for own in arms]
    for turn in range(3):
        for arm, own in enumerate(arms):
            gradients(own, 10 * turn + arm)
            if turn == 0 and arm == 1:
                own["a"].grad = None
            for name, weight in own.items():
                if weight.grad is not None:
                    wanted[arm][name] += weight.grad
        take_gradients(trainees)
        assert all(weight.grad is None for own in arms for weight in own.values())
    for trainee, sums in zip(trainees, wanted, strict=True):
        found = trainee.whole_gradients()
        assert all(torch.equal(total, sums[name]) for total, name in zip(found, sums, strict=True))


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    own = weights()
    trainee, before = Trainee(own, 0.1, Settings(), 10), {name: w.detach().clone() for name, w in own.items()}
    gradients(own, 0)
    own["a"].grad[0, 0] = math.inf  # type: ignore[index]
    assert not math.isfinite(trainee.step(0))
    assert all(torch.equal(own[name], before[name]) and own[name].grad is None for name in own)


@pytest.mark.parametrize(
    ("schedule", "last"), [("constant", 1.0), ("linear", 1 / 8), ("cosine", (1 + math.cos(math.pi * 7 / 8)) / 2)]
)
def test_the_schedule_warms_up_and_ends_where_it_should(schedule: str, last: float) -> None:
    factors = [rate_factor(step, 10, warmup=2, schedule=schedule) for step in range(10)]  # type: ignore[arg-type]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[-1] == pytest.approx(last)
