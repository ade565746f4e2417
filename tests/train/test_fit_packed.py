"""Arms that train packed are the arms that train alone, in PEFT's layers and a plain PyTorch loop."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from one_adapter import open_pack
from peft import PeftModel, get_peft_model
from test_fit import InMemory, base, examples, padded, settings
from torch import Tensor
from transformers import AutoModelForCausalLM

from rankscope.data.training_batches import order
from rankscope.model.methods.peft_modules import lora_config
from rankscope.study.study import Arm, Budget, Optimizer
from rankscope.train.fit import FitSettings, fit
from rankscope.train.training_state import FitResult

STEPS = 20
BUDGET = Budget(epochs=4, batch_size=8, max_sequence_tokens=64)
Trained = tuple[FitResult, dict[str, Tensor]]


def lora(rank: int, method: Any = "lora", targets: Any = "all-linear", rate: float = 3e-3) -> Arm:
    """Of scale 2 by either method: a larger one makes rounding grow faster along the steps (docs/log.md)."""
    alpha = 2.0 * (math.sqrt(rank) if method == "rslora" else rank)
    return Arm(label=f"{method}-{rank}", method=method, rank=rank, alpha=alpha, targets=targets, learning_rate=rate)


MIXED = [lora(8), lora(3, "rslora", rate=2e-3), lora(32, targets=("q_proj", "v_proj"), rate=4e-3), lora(1, rate=1e-3)]


def alike(arms: Sequence[Arm], **changes: Any) -> list[FitSettings]:
    shared = {"budget": BUDGET, "optimizer": Optimizer(weight_decay=0.01, warmup_fraction=0.1), **changes}
    return [settings(learning_rate=arm.learning_rate, **shared) for arm in arms]


def train(
    folder: Path, arms: Sequence[Arm], given: Sequence[FitSettings], kept: InMemory | None = None,
    dtype: str = "float32", **how: Any,
) -> list[Trained]:  # fmt: skip
    """Results and weights in PEFT's layout."""
    with open_pack(base(folder, dtype), arms, given[0].seed) as pack:
        results = fit(pack, examples(), given, checkpoints=kept or InMemory(), **how)
        return [(result, weights_of(member.parameters)) for result, member in zip(results, pack.members, strict=True)]


def weights_of(parameters: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    return {n: (p.T if "lora_B" in n else p).detach().clone() for n, p in parameters.items()}


def losses(result: FitResult) -> list[float]:
    return [record.loss_nats_per_token for record in result.steps]


def alone(folder: Path, arm: Arm, given: FitSettings, step_count: int = STEPS) -> tuple[list[float], dict[str, Tensor]]:
    """PEFT and PyTorch, nothing of ours but the order of rows: losses of the first steps, and the weights then."""
    torch.manual_seed(given.seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), lora_config(arm)).train()
    batches = order(len(examples()), given.budget.batch_size, given.budget.epochs, given.seed)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        weights.values(), lr=given.learning_rate, weight_decay=given.optimizer.weight_decay
    )  # fmt: skip
    warmup = math.ceil(given.optimizer.warmup_fraction * len(batches))

    def factor(step: int) -> float:
        after = (step - warmup) / (len(batches) - warmup)
        return (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * after))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    found, rows = [], examples()
    for batch in batches[:step_count]:
        ids, mask, labels = padded([rows[i] for i in batch])
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), given.optimizer.clip_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found, {name: p.detach().clone() for name, p in weights.items()}


def assert_as_alone(folder: Path, arm: Arm, given: FitSettings, found: Trained) -> None:
    expected, weights = alone(folder, arm, given)
    assert losses(found[0]) == pytest.approx(expected, abs=1e-5)
    assert found[1].keys() == weights.keys()
    worst = max((found[1][name] - weight).abs().max().item() for name, weight in weights.items())
    # AdamW divides a gradient by its own size: one that is all rounding moves its weight by up to the rate in each of
    # the first steps, in whichever direction. So weights agree to a fifth of one such step, or to 1e-4.
    assert worst <= max(1e-4, 0.2 * given.learning_rate)


def test_the_first_steps_of_a_mix_are_those_of_each_alone(tiny_folder: Path) -> None:
    given = alike(MIXED)
    for arm, own, found in zip(MIXED, given, train(tiny_folder, MIXED, given), strict=True):
        assert_as_alone(tiny_folder, arm, own, found)
        assert found[0].state == "done"
        assert [record.learning_rate for record in found[0].steps][1] == pytest.approx(own.learning_rate)
        assert losses(found[0])[-1] < losses(found[0])[0] - 0.01, "the comparison must cover real learning"


RANKS = st.lists(st.one_of(st.integers(1, 128), st.sampled_from([1, 8, 128])), min_size=2, max_size=3)


@pytest.mark.parametrize(
    "examples_drawn", [pytest.param(2, id="few"), pytest.param(25, id="many", marks=pytest.mark.slow)]
)
def test_any_ranks_rates_and_micro_batches(tiny_folder: Path, examples_drawn: int) -> None:
    @effort(max_examples=examples_drawn, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(ranks=RANKS, data=st.data(), micro_batch_tokens=st.sampled_from([1, 100, 300, 10_000]))
    def check(ranks: list[int], data: st.DataObject, micro_batch_tokens: int) -> None:
        arms = [
            lora(
                rank,
                data.draw(st.sampled_from(["lora", "rslora"])),
                data.draw(st.sampled_from(["all-linear", ("q_proj", "v_proj"), ("down_proj",)])),
                data.draw(st.sampled_from([1e-4, 5e-4, 2e-3])),
            )
            for rank in ranks
        ]
        given = alike(arms, micro_batch_tokens=micro_batch_tokens, budget=BUDGET.model_copy(update={"batch_size": 4}))
        for arm, own, found in zip(arms, given, train(tiny_folder, arms, given, until_step=STEPS), strict=True):
            assert_as_alone(tiny_folder, arm, own, found)

    check()


def test_micro_batches_hold_the_tokens_of_all_arms(tiny_folder: Path) -> None:
    whole, parts = (train(tiny_folder, MIXED, alike(MIXED, micro_batch_tokens=n)) for n in (10_000, 200))
    for (one, weights), (other, same) in zip(whole, parts, strict=True):
        assert losses(other) == pytest.approx(losses(one), abs=1e-5)
        assert other.micro_batch_tokens == 200
        assert max((weights[name] - same[name]).abs().max().item() for name in weights) < 1e-4


def test_gradient_checkpointing_gives_the_same(tiny_folder: Path) -> None:
    budget = BUDGET.model_copy(update={"gradient_checkpointing": True})
    plain, saved = (train(tiny_folder, MIXED, alike(MIXED, budget=b)) for b in (BUDGET, budget))
    for (one, weights), (other, same) in zip(plain, saved, strict=True):
        assert losses(other) == pytest.approx(losses(one), abs=1e-6)
        assert all(torch.allclose(weights[name], same[name], rtol=1e-5, atol=1e-6) for name in weights)


# ---- an arm that diverges --------------------------------------------------------------------------------------------

WILD = lora(4, rate=1e25)
"""Its weights overflow within a few steps."""


@pytest.mark.parametrize("place", [0, pytest.param(1, marks=pytest.mark.slow), 4])
def test_an_arm_that_diverges_leaves_the_others_alone(tiny_folder: Path, place: int) -> None:
    arms = [*MIXED[:place], WILD, *MIXED[place:]]
    given = alike(arms)
    seen: list[int] = []
    trained = train(tiny_folder, arms, given, on_step=lambda arm, _: seen.append(arm))
    wild, _ = trained.pop(place)
    assert wild.state == "diverged"
    assert "not finite at step" in str(wild.reason)
    assert 1 <= len(wild.steps) < STEPS - 1, "it diverges on the way"
    assert seen.count(place) == len(wild.steps) + 1
    for (found, weights), (expected, same) in zip(trained, train(tiny_folder, MIXED, alike(MIXED)), strict=True):
        assert found.state == "done"
        assert losses(found) == pytest.approx(losses(expected), abs=1e-5)
        assert max((weights[name] - same[name]).abs().max().item() for name in same) < 1e-4


def test_where_all_arms_diverge_the_pack_ends(tiny_folder: Path) -> None:
    arms = [WILD, lora(2, rate=1e25)]
    for result, _ in train(tiny_folder, arms, alike(arms)):
        assert result.state == "diverged"
        assert len(result.steps) < STEPS - 1


def test_each_arm_is_judged_by_its_own_losses(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here an arm must have come down by 4 %; one does, one hardly moves, and both train to the end."""
    monkeypatch.setattr("rankscope.train.fit.DIVERGED_FACTOR", 0.96)
    arms = [lora(4, rate=1e-9), lora(8, rate=1e-2)]
    (still, _), (learned, _) = train(tiny_folder, arms, alike(arms))
    assert (still.state, learned.state) == ("diverged", "done")
    assert "the training loss rose from" in str(still.reason)
    assert len(still.steps) == len(learned.steps) == STEPS


# ---- stopped and gone on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arms", "dtype"),
    [
        pytest.param([MIXED[0], WILD, MIXED[1]], "float32", id="one diverged, float32"),
        pytest.param(MIXED[1:3], "bfloat16", id="all well, bfloat16"),
        pytest.param(MIXED, "float32", id="all well, float32", marks=pytest.mark.slow),
        pytest.param([MIXED[0], WILD, MIXED[1]], "bfloat16", id="one diverged, bfloat16", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_pack_is_bit_for_bit_the_pack_never_stopped(
    tiny_folder: Path, arms: Sequence[Arm], dtype: str
) -> None:
    given = alike(arms, micro_batch_tokens=300)
    whole = train(tiny_folder, arms, given, dtype=dtype)
    kept = InMemory()
    for until in (1, 9, None):
        parts = train(tiny_folder, arms, given, kept, dtype, until_step=until)
    for (expected, weights), (found, same) in zip(whole, parts, strict=True):
        assert found.steps == expected.steps
        assert (found.state, found.reason) == (expected.state, expected.reason)
        if found.state == "done":
            assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert (whole[1][0].state == "diverged") == (WILD in arms)


def test_a_signal_stops_all_arms_at_one_step(tiny_folder: Path) -> None:
    kept, seen = InMemory(), []
    found = train(
        tiny_folder, MIXED, alike(MIXED), kept, on_step=lambda arm, result: seen.append((arm, len(result.steps))),
        should_stop=lambda: len(seen) >= 3 * len(MIXED),
    )  # fmt: skip
    assert [(result.state, len(result.steps)) for result, _ in found] == [("paused", 3)] * len(MIXED)
    assert seen == [(arm, step) for step in (1, 2, 3) for arm in range(len(MIXED))]
    assert kept.count == 1


def test_checkpoints_leave_out_what_a_diverged_arm_no_longer_needs(tiny_folder: Path) -> None:
    kept = InMemory()
    train(tiny_folder, [MIXED[0], WILD], alike([MIXED[0], WILD]), kept, until_step=12)
    assert kept.saved is not None
    assert {key.split("/")[0] for key in kept.saved[0]} == {"0"}
    assert [arm["state"] for arm in json.loads(kept.saved[1]["arms"])] == ["paused", "diverged"]


# ---- the steps and the files of each arm -----------------------------------------------------------------------------


def test_each_arm_has_its_own_clipping_and_its_share_of_the_time(tiny_folder: Path) -> None:
    tight = Optimizer(weight_decay=0.0, clip_norm=1e-3)
    arms = MIXED[1:3]
    given = alike(arms, optimizer=tight)
    for arm, own, found in zip(arms, given, train(tiny_folder, arms, given), strict=True):
        assert_as_alone(tiny_folder, arm, own, found)
        assert all(record.gradient_norm > 1e-2 for record in found[0].steps), "the norm before clipping"
        assert found[0].train_seconds > 0


def test_a_trained_arm_loads_in_plain_peft(tiny_folder: Path, tmp_path: Path) -> None:
    loaded, ids = base(tiny_folder), torch.arange(20, 50)[None]
    given = alike(MIXED)
    with open_pack(loaded, MIXED, 3) as pack:
        fit(pack, examples(), given, checkpoints=InMemory())
        expected = []
        for i, member in enumerate(pack.members):
            (tmp_path / str(i)).mkdir()
            member.save(tmp_path / str(i))
            with torch.no_grad(), pack.running([i]):
                expected.append(loaded.model(ids).logits)
    for i, logits in enumerate(expected):
        plain = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
        with torch.no_grad():
            assert not torch.allclose(plain(ids).logits, logits, atol=1e-3)
            found = PeftModel.from_pretrained(plain, str(tmp_path / str(i)))(ids).logits
        torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)
