"""Penalties and replayed rows against a plain two-model loop of PyTorch and PEFT, alone and in packs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from one_adapter import open_pack
from peft import get_peft_model
from test_fit import FULL, LORA, InMemory, base, examples, padded, settings
from test_fit_packed import MIXED, lora
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, get_cosine_schedule_with_warmup

from rankscope.data.training_batches import collate, order
from rankscope.model.methods.peft_modules import lora_config
from rankscope.records import Example
from rankscope.study.methods.remedy_settings import Retain
from rankscope.study.study import Arm, Optimizer
from rankscope.train.fit import FitSettings, fit
from rankscope.train.remedies import Remedies, replay_order
from rankscope.train.training_state import FitResult

STEPS = 12
OLD = examples(30, seed=7)
PLAIN = Optimizer(weight_decay=0.01, warmup_fraction=0.0)


def with_remedies(arm: Arm, remedies: Remedies, **changes: Any) -> FitSettings:
    rate = arm.learning_rate if isinstance(arm.learning_rate, float) else 1e-3
    return settings(learning_rate=rate, optimizer=PLAIN, remedies=remedies, **changes)


def train(folder: Path, arms: Sequence[Arm], given: Sequence[FitSettings], **how: Any) -> list[FitResult]:
    with open_pack(base(folder), arms, given[0].seed) as pack:
        return fit(pack, examples(), given, checkpoints=InMemory(), until_step=STEPS, **how)


def log_probabilities(model: PreTrainedModel, rows: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """(P, V) at every token with loss, and the tokens (P,), from padded rows and the model's own logits."""
    ids, mask, labels = padded(rows)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    wanted = labels[:, 1:]
    return torch.log_softmax(logits[wanted != -100], -1), wanted[wanted != -100]


def divergence(reference: Tensor, own: Tensor) -> Tensor:
    return (reference.exp() * (reference - own)).sum()


def two_models(folder: Path, arm: Arm, given: FitSettings) -> list[dict[str, float]]:
    """A plain loop over the arm and a second, frozen model: what each step minimises, part by part."""
    frozen = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if arm.method != "full":
        torch.manual_seed(given.seed)
        model = get_peft_model(model, lora_config(arm))
    model.train()
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    start = {name: p.detach().clone() for name, p in weights.items()}
    rows, remedies = examples(), given.remedies
    batches = order(len(rows), given.budget.batch_size, given.budget.epochs, given.seed)
    optimizer = torch.optim.AdamW(weights.values(), lr=given.learning_rate, weight_decay=given.optimizer.weight_decay)
    scheduler = get_cosine_schedule_with_warmup(optimizer, 0, len(batches))
    replayed = [[] for _ in batches]
    if remedies.replayed:
        lengths = [sum(rows[i].token_count for i in batch) for batch in batches]
        replayed = replay_order(lengths, [r.token_count for r in remedies.replayed], remedies.share, given.seed)
    found = []
    for batch, again in zip(batches[:STEPS], replayed, strict=False):
        parts = {"task": [rows[i] for i in batch], "replay": [remedies.replayed[i] for i in again]}
        total, count, step = torch.zeros(()), 0, {}
        for name, part in parts.items():
            if not part:
                continue
            own, targets = log_probabilities(model, part)
            entropy = -own.gather(1, targets[:, None]).sum()
            step[name] = entropy.item() / len(targets)
            total, count = total + entropy, count + len(targets)
            if (weight := remedies.kl_weight(on_replay=name == "replay")) > 0:
                with torch.no_grad():
                    reference, _ = log_probabilities(frozen, part)
                kl = divergence(reference, own)
                total = total + weight * kl
                step["kl"] = kl.item() / len(targets)
        loss = total / count
        if remedies.l2_weight:
            loss = loss + remedies.l2_weight / 2 * sum((p - start[n]).square().sum() for n, p in weights.items())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), given.optimizer.clip_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        found.append(step)
    return found


def check(result: FitResult, expected: Sequence[dict[str, float]]) -> None:
    columns: dict[str, Callable[[Any], float | None]] = {
        "task": lambda record: record.loss_nats_per_token,
        "replay": lambda record: record.replay_loss_nats_per_token,
        "kl": lambda record: record.kl_nats_per_token,
    }
    for name, read in columns.items():
        assert [read(record) for record in result.steps] == pytest.approx(
            [step.get(name) for step in expected], abs=1e-5
        )


CASES = {
    "kl": Remedies(Retain(kl=0.5)),
    "replay": Remedies(replayed=OLD, share=0.3),
    "kl on replay": Remedies(Retain(kl=0.5, on="replay"), replayed=OLD, share=0.3),
}


@pytest.mark.parametrize("remedies", CASES.values(), ids=CASES)
def test_one_arm_is_a_plain_loop_over_two_models(tiny_folder: Path, remedies: Remedies) -> None:
    given = with_remedies(LORA, remedies)
    (result,) = train(tiny_folder, [LORA], [given])
    expected = two_models(tiny_folder, LORA, given)
    check(result, expected)
    assert expected[-1]["task"] < expected[0]["task"] - 0.2, "the comparison must cover real learning"


def test_each_arm_of_a_pack_is_a_plain_loop_over_two_models_of_its_own(tiny_folder: Path) -> None:
    penalties = (Retain(kl=0.1), None, Retain(kl=2.0), Retain(kl=0.5))
    given = [with_remedies(arm, Remedies(kept)) for arm, kept in zip(MIXED, penalties, strict=True)]
    results = train(tiny_folder, MIXED, given)
    for arm, own, result in zip(MIXED, given, results, strict=True):
        check(result, two_models(tiny_folder, arm, own))


def test_a_pack_that_replays_is_kept_near_the_base_where_each_arm_says(tiny_folder: Path) -> None:
    penalties = (Retain(kl=0.5, on="replay"), Retain(kl=2.0))
    given = [
        with_remedies(arm, Remedies(kept, replayed=OLD, share=0.3))
        for arm, kept in zip(MIXED[:2], penalties, strict=True)
    ]
    for arm, own, result in zip(MIXED[:2], given, train(tiny_folder, MIXED[:2], given), strict=True):
        check(result, two_models(tiny_folder, arm, own))


@pytest.mark.parametrize("kept", [Retain(kl=0.5), Retain(l2=3.0), Retain(kl=0.2, l2=1.0)], ids=str)
def test_full_fine_tuning_is_kept_near_a_second_model(tiny_folder: Path, kept: Retain) -> None:
    remedies = Remedies(kept, base=base(tiny_folder).model)
    given = with_remedies(FULL, remedies)
    (result,) = train(tiny_folder, [FULL], [given])
    check(result, two_models(tiny_folder, FULL, given))


@pytest.mark.parametrize("arms", [[FULL], MIXED], ids=["full", "a pack"])
def test_rows_that_begin_alike_are_trained_and_kept_near_as_well(
    tiny_folder: Path, arms: Sequence[Arm], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their common prefix is run once, for the base too."""
    plain, start = examples, tuple(range(20, 35))

    def alike() -> list[Example]:
        return [replace(row, prompt_ids=(*start[: 8 + i % 8], *row.prompt_ids)) for i, row in enumerate(plain())]

    monkeypatch.setitem(globals(), "examples", alike)
    batch = collate(alike()[:8], share_prefixes=True)
    assert len(batch.input_ids) < 0.8 * sum(batch.lengths)
    kept = Retain(kl=0.5)
    own_base = base(tiny_folder).model if arms == [FULL] else None
    given = [with_remedies(arm, Remedies(kept, base=own_base)) for arm in arms]
    for arm, own, result in zip(arms, given, train(tiny_folder, arms, given), strict=True):
        check(result, two_models(tiny_folder, arm, own))


@pytest.mark.parametrize("remedies", CASES.values(), ids=CASES)
def test_micro_batches_change_nothing_but_rounding(tiny_folder: Path, remedies: Remedies) -> None:
    (whole,) = train(tiny_folder, [LORA], [with_remedies(LORA, remedies)])
    (parts,) = train(tiny_folder, [LORA], [with_remedies(LORA, remedies, micro_batch_tokens=50)])
    for one, other in zip(whole.steps, parts.steps, strict=True):
        for name, value in one.model_dump(exclude_none=True).items():
            assert getattr(other, name) == pytest.approx(value, abs=1e-5, rel=1e-4), name


@pytest.mark.parametrize(("arm", "remedies"), [(LORA, CASES["kl on replay"]), (FULL, Remedies(Retain(l2=1.0)))])
def test_a_resumed_run_is_bit_for_bit_the_run_never_stopped(tiny_folder: Path, arm: Arm, remedies: Remedies) -> None:
    given, kept = with_remedies(arm, remedies), InMemory()
    (whole,) = train(tiny_folder, [arm], [given])
    for until in (5, STEPS):
        with open_pack(base(tiny_folder), [arm], given.seed) as pack:
            (result,) = fit(pack, examples(), [given], checkpoints=kept, until_step=until)
    assert result.steps == whole.steps


OTHERS = [
    Arm(label="dora", method="dora", rank=4, alpha=8.0, targets="all-linear", learning_rate=1e-2),
    Arm(label="ia3", method="ia3", learning_rate=1e-2),
    Arm(label="ln", method="ln-tuning", learning_rate=1e-2),
    Arm.model_validate({"label": "p", "method": "prompt-tuning", "virtual_tokens": 4, "learning_rate": 1e-2}),
    Arm.model_validate({"label": "a", "method": "adapters", "bottleneck": 4, "learning_rate": 1e-2}),
    lora(4).model_copy(update={"dropout": 0.1}),
]


@pytest.mark.parametrize("arm", OTHERS, ids=lambda arm: f"{arm.method} {arm.dropout:g}")
def test_the_base_of_every_method_is_the_untouched_model(tiny_folder: Path, arm: Arm) -> None:
    """After some steps the divergence that is recorded is that between the arm and a second model."""
    given = with_remedies(
        arm, Remedies(Retain(kl=1e-6)), budget=settings().budget.model_copy(update={"batch_size": 40})
    )
    with open_pack(base(tiny_folder), [arm], given.seed) as pack:
        fit(pack, examples(), [given], checkpoints=(kept := InMemory()), until_step=2)
        with torch.no_grad():
            own = _with_loss(pack.members[0].training_forward(), examples())
        dropped = arm.dropout > 0
        (result,) = fit(pack, examples(), [given], checkpoints=kept, until_step=3)
    reference, _ = log_probabilities(AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32), examples())
    expected = divergence(reference.detach(), own).item() / len(own)
    found = result.steps[2].kl_nats_per_token
    assert expected > 1e-4
    assert found == pytest.approx(expected, rel=0.5 if dropped else 1e-3)


def _with_loss(forward: Any, rows: Sequence[Example]) -> Tensor:
    from rankscope.data.training_batches import collate
    from rankscope.model.output_head import head_logits

    with forward.ready():
        return torch.log_softmax(head_logits(forward.model, forward.target_states(collate(rows))), -1)


@given(
    task=st.lists(st.integers(1, 500), min_size=1, max_size=40), old=st.lists(st.integers(1, 90), min_size=1),
    share=st.floats(0.01, 0.9), seed=st.integers(0, 9),
)  # fmt: skip
@effort(max_examples=80, deadline=None)
def test_replayed_tokens_are_the_share_of_all_tokens_at_every_step(
    task: list[int], old: list[int], share: float, seed: int
) -> None:
    steps = replay_order(task, old, share, seed)
    assert steps == replay_order(task, old, share, seed)
    assert replay_order(task[:3], old, share, seed) == steps[:3]
    seen = replayed = 0
    for tokens, step in zip(task, steps, strict=True):
        seen, replayed = seen + tokens, replayed + sum(old[i] for i in step)
        wanted = seen * share / (1 - share)
        assert wanted - 1e-6 <= replayed <= wanted + max(old)
    flat = [i for step in steps for i in step]
    first = flat[: len(old)]
    assert len(set(first)) == len(first), "every row comes once before one comes again"
