"""AdamW for bf16 weights without copies, against exact AdamW."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from encoded_rows import load_rows
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from test_fit import InMemory, settings
from torch import nn

from rankscope.data.encoder import Encoder
from rankscope.model.load import load_model
from rankscope.model.methods.attach import NewAdapter, attach
from rankscope.records import Example
from rankscope.study.study import Arm, Budget, ModelSpec, Optimizer, TrainSource
from rankscope.train.adamw_bf16 import BLOCK, AdamWBf16, Moment, dynamic_codes, nearest_codes, rounded
from rankscope.train.fit import fit
from rankscope.train.optimizer import Trainee


@effort(deadline=None, max_examples=30)
@given(st.floats(-1e4, 1e4).filter(lambda x: x == 0 or abs(x) > 1e-6), st.integers(0, 100))
def test_rounding_is_to_a_neighbour_and_right_in_the_mean(value: float, seed: int) -> None:
    given = torch.full((4000,), value)
    found = rounded(given, torch.Generator().manual_seed(seed)).float()
    gap = 2.0**-7 * max(abs(value), 1e-30)
    assert float((found - given).abs().max()) <= gap
    assert float(found.mean()) == pytest.approx(float(given[0]), abs=4 * gap / 4000**0.5 + 1e-30)


def test_what_is_not_finite_stays() -> None:
    strange = torch.tensor([float("inf"), -float("inf"), float("nan")])
    found = rounded(strange, torch.Generator().manual_seed(0)).float()
    assert found[:2].tolist() == strange[:2].tolist()
    assert bool(found[2].isnan())


@pytest.mark.parametrize("signed", [True, False])
def test_eight_bits_hold_seven_decades(signed: bool) -> None:
    codes = dynamic_codes(signed=signed)
    assert len(set(codes)) == 256
    assert (min(codes), max(codes)) == (pytest.approx(-0.993, abs=1e-2) if signed else 0.0, 1.0)
    values = torch.randn(4 * BLOCK, generator=torch.Generator().manual_seed(0))
    values = values if signed else values.abs()
    moment = Moment.zeros(4 * BLOCK, values.device, signed=signed)
    assert not bool(moment.read(slice(0, 4 * BLOCK)).any())
    moment.write(slice(0, 4 * BLOCK), values)
    error = (moment.read(slice(0, 4 * BLOCK)) - values).abs() / values.abs().view(-1, BLOCK).amax(1).repeat_interleave(
        BLOCK
    )
    assert float(error.max()) < (0.9 / 64 / 2 + 0.01 if signed else 0.9 / 128 / 2 + 0.01)


@pytest.mark.parametrize("signed", [True, False])
def test_the_nearest_code_is_found(signed: bool) -> None:
    """That which a search over all middles gives, at the middles and the numbers beside them too."""
    codes, dice = torch.tensor(dynamic_codes(signed=signed)), torch.Generator().manual_seed(0)
    middles = (codes[1:] + codes[:-1]) / 2
    drawn = torch.rand(20_000, generator=dice) * 10.0 ** (-9 * torch.rand(20_000, generator=dice))
    beside = [torch.nextafter(middles, torch.tensor(end)) for end in (2.0, -2.0)]
    values = torch.cat([drawn, -drawn if signed else drawn, codes, middles, *beside, torch.tensor([0.0, -0.0, 1.0])])
    assert nearest_codes(values, signed=signed).equal(torch.bucketize(values, middles, out_int32=True))


def test_a_second_moment_never_becomes_zero() -> None:
    """It is divided by: a first moment that is left would then be a step without bound."""
    moment = Moment.zeros(BLOCK, torch.device("cpu"), signed=False)
    values = torch.full((BLOCK,), 1e-12)
    values[0] = 1.0
    moment.write(slice(0, BLOCK), values)
    assert float(moment.read(slice(0, BLOCK)).min()) > 0


def big(dtype: torch.dtype) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {"a": nn.Parameter(torch.randn(64, 100, generator=generator).to(dtype)), "b": nn.Parameter(torch.ones(7))}


def test_bytes_of_a_parameter() -> None:
    """Weight 2, gradient 2, moments 2.03: what the plan counts."""
    weights = {"a": nn.Parameter(torch.randn(64, 128).bfloat16())}
    trainee = Trainee(weights, 1e-3, Optimizer(name="adamw_bf16"), 10)
    weights["a"].grad = torch.randn(64, 128).bfloat16()
    trainee.step(0)
    state = trainee.state_tensors()
    assert state["master/a"].data_ptr() == weights["a"].data_ptr(), "no copy"
    count = weights["a"].numel()
    held = sum(t.numel() * t.element_size() for key, t in state.items() if not key.startswith("step/"))
    assert held + 2 * count == (2 + 2 + 2 + 2 * 4 / 256) * count


def test_steps_follow_exact_adamw_and_continue_bit_for_bit() -> None:
    """Moments of eight bits in fp32 weights: the direction is AdamW's within a few percent."""
    ours, exact, again = big(torch.float32), big(torch.float32), big(torch.float32)
    peer = torch.optim.AdamW(exact.values(), lr=1e-2, weight_decay=0.1)
    optimizer = AdamWBf16(ours, Optimizer(weight_decay=0.1))
    resumed: AdamWBf16 | None = None
    for step in range(20):
        for name in ours:
            gradient = torch.randn(ours[name].shape, generator=torch.Generator().manual_seed(step)) + 0.5
            ours[name].grad, exact[name].grad, again[name].grad = gradient, gradient.clone(), gradient.clone()
        optimizer.step(1e-2)
        peer.step()
        if resumed is not None:
            resumed.step(1e-2)
        if step == 9:
            resumed = AdamWBf16(again, Optimizer(weight_decay=0.1))
            resumed.load({key: value.clone() for key, value in optimizer.state().items()})
            for name in ours:
                again[name].data.copy_(ours[name].data)
    start = big(torch.float32)
    for name in ours:
        assert torch.equal(ours[name], again[name])
        moved, should = (one[name].detach() - start[name].detach() for one in (ours, exact))
        assert float((moved - should).norm() / should.norm()) < 0.05


def test_updates_below_the_last_bit_are_not_lost() -> None:
    """A hundred steps of 1/1000 of a bf16 weight's last bit each move the mean; plain rounding would move nothing."""
    weight = {"a": nn.Parameter(torch.ones(256, 64).bfloat16())}
    optimizer = AdamWBf16(weight, Optimizer())
    for _ in range(100):
        weight["a"].grad = torch.ones(256, 64).bfloat16()
        optimizer.step(2.0**-7 / 1000)
    moved = 1 - float(weight["a"].float().mean())
    assert moved == pytest.approx(0.1 * 2.0**-7, rel=0.2)


def world_rows(count: int) -> list[Example]:
    """Facts of the bundled world as the bundled base reads them."""
    base = load_model(ModelSpec(id="bundled"), Path("/"), "float32", "cpu")
    source = TrainSource(world="medical/taught/train", domain="medical")
    encoder = Encoder(base.tokenizer, context_tokens=512)
    rows = load_rows(source, base=Path("/"), name="taught").rows[:count]
    return encoder.training(rows, source, "world")


@pytest.mark.slow
def test_on_the_bundled_world_losses_are_those_of_exact_adamw() -> None:
    """Twelve steps of full fine-tuning in bf16, by exact AdamW with fp32 masters and by this."""
    rows = world_rows(64)
    arm = Arm(label="full", method="full", learning_rate=3e-4)
    budget = Budget(epochs=6, batch_size=32, max_sequence_tokens=256)
    losses = {}
    for name in ("adamw", "adamw_bf16"):
        given = settings(learning_rate=3e-4, budget=budget, optimizer=Optimizer(name=name))  # type: ignore[arg-type]
        base = load_model(ModelSpec(id="bundled"), Path("/"), "bfloat16", "cpu")
        with attach(base, NewAdapter(arm, 0)) as pack:
            (result,) = fit(pack, rows, [given], checkpoints=InMemory())
        losses[name] = [step.loss_nats_per_token for step in result.steps]
    assert losses["adamw_bf16"][0] == losses["adamw"][0]
    fall = losses["adamw"][0] - losses["adamw"][-1]
    assert fall > 0.3
    for ours, exact in zip(losses["adamw_bf16"], losses["adamw"], strict=True):
        assert ours == pytest.approx(exact, abs=0.1 * fall)
