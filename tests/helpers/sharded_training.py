"""What a team of processes does with a tiny model, and one process with the same: functions for `gloo_team`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sharded_models import FROZEN, FULL, load, lora
from test_fit import InMemory, examples, settings
from torch import Tensor
from transformers import PreTrainedModel

from rankscope.evaluate.choice_scoring import choice_logprobs
from rankscope.model.methods.attach import NewAdapter, Pack, attach
from rankscope.model.sharding.shard import whole_tensor
from rankscope.model.sharding.team import SOLO, ProcessTeam
from rankscope.records import Item
from rankscope.study.methods.remedy_settings import Retain
from rankscope.study.study import Arm, Budget
from rankscope.train.accumulate import Accumulator, StepRows
from rankscope.train.fit import FitSettings, fit
from rankscope.train.optimizer import Trainee
from rankscope.train.remedies import Remedies


def gradients(
    folder: Path,
    arms: Sequence[Arm],
    *,
    sharded: bool,
    tokens: int,
    rows: int,
    replayed: int = 0,
    retain: Retain | None = None,
    dtype: Any = "float32",
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of one batch, and every gradient of its mean loss."""
    with attach(load(folder, arms[0], sharded=sharded, dtype=dtype), *(NewAdapter(arm, 0) for arm in arms)) as pack:
        _shake(pack)
        near = Remedies(retain, base=_base_beside(folder, arms[0], retain, sharded=sharded))
        optimizer = settings().optimizer
        trainees = [Trainee(member.parameters, 1e-3, optimizer, 10, near.l2_weight) for member in pack.members]
        team = ProcessTeam() if sharded else SOLO
        forward = pack.training_forward()
        work = Accumulator(pack, forward, settings().objective, [near] * len(arms), trainees, tokens, team)
        with forward.ready():
            found = work.gradients(StepRows(examples()[:rows], examples(5, 9)[:replayed]), range(len(arms)), 0)
        gradients = {
            f"{i}/{name}": whole_tensor(master.grad).clone()
            for i, (member, trainee) in enumerate(zip(pack.members, trainees, strict=True))
            for name, master in zip(member.parameters, trainee._masters, strict=True)
            if master.grad is not None
        }
        return [*found.task, *(found.replayed or []), *(found.divergence or [])], gradients


def _base_beside(folder: Path, arm: Arm, retain: Retain | None, *, sharded: bool) -> PreTrainedModel | None:
    """The base that a whole model is kept near, which is no part of it; another than it, so that they differ."""
    if retain is None or not arm.traits.whole:
        return None
    return load(folder.parent / "untied", lora(4), sharded=sharded).model


def _shake(pack: Pack) -> None:
    """LoRA's B is zero at the start, and with it the gradient of A."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for member in pack.members:
            if member.has_adapter:
                for parameter in member.parameters.values():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def compared_gradients(folder: Path, arms: Sequence[Arm], **how: Any) -> dict[str, Any]:
    """Of every weight how far its sharded gradient lies from the one of one process, as a share of its norm."""
    losses, found = gradients(folder, arms, sharded=True, **how)
    own_losses, own = gradients(folder, arms, sharded=False, **how)
    assert found.keys() == own.keys()
    errors = {name: float((found[name] - value).norm() / value.norm()) for name, value in own.items()}
    return {"losses": (losses, own_losses), "errors": errors, "weights": len(own)}


def trained(
    folder: Path, arms: Sequence[Arm], given: FitSettings, *, sharded: bool, steps: int = 6, **how: Any
) -> tuple[list[list[float]], dict[str, Tensor]]:
    """Losses of the first steps, and the weights after them."""
    team = ProcessTeam() if sharded else SOLO
    with attach(load(folder, arms[0], sharded=sharded, **how), *(NewAdapter(arm, 0) for arm in arms)) as pack:
        all_given = [given for _ in arms]
        results = fit(pack, examples(), all_given, checkpoints=InMemory(), until_step=steps, team=team)
        weights = {
            f"{i}/{name}": whole_tensor(parameter.detach()).clone()
            for i, member in enumerate(pack.members)
            for name, parameter in member.parameters.items()
        }
        with pack.running([0]):
            loss = settings().objective.validation_loss(pack.members[0].training_forward(), examples(9, 5), 64, team)
    return [[*(step.loss_nats_per_token for step in result.steps), loss] for result in results], weights


def compared_training(folder: Path, arms: Sequence[Arm], given: FitSettings, **how: Any) -> dict[str, Any]:
    """Losses of both, step by step and at last on held-out rows, and the largest difference of a weight."""
    losses, weights = trained(folder, arms, given, sharded=True, **how)
    own_losses, own = trained(folder, arms, given, sharded=False, **{**how, "offload": False})
    return {
        "losses": (losses, own_losses),
        "difference": max(float((weights[name].float() - value.float()).abs().max()) for name, value in own.items()),
    }


def scored_then_trained(folder: Path) -> dict[str, Any]:
    """Log-likelihoods of a few choices before and after a step of full fine-tuning, sharded and not; saved weights."""
    items = [
        Item(str(i), "choices", row.prompt_ids, (row.completion_ids, (*row.completion_ids[:1], 7)), answer_index=0)
        for i, row in enumerate(examples(6))
    ]
    found: dict[str, Any] = {}
    for sharded in (True, False):
        model = load(folder, FULL, sharded=sharded)
        before = choice_logprobs(model.model, items, token_budget=256)
        with attach(model, NewAdapter(FULL, 0)) as pack:
            team = ProcessTeam() if sharded else SOLO
            untouched = folder.parent / f"saved-untouched-{sharded}"
            _save(pack, untouched)
            fit(pack, examples(), [settings()], checkpoints=InMemory(), until_step=2, team=team)
            after = choice_logprobs(model.model, items, token_budget=256)
            _save(pack, folder.parent / f"saved-{sharded}")
        found["sharded" if sharded else "solo"] = (before, after)
    return found


def _save(pack: Pack, folder: Path) -> None:
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        folder.mkdir(exist_ok=True)
    pack.members[0].save(folder)


def everything(folder: Path) -> dict[str, Any]:
    """All comparisons, one after another, in one team."""
    tied, untied = folder / "tied", folder / "untied"
    last = Arm(label="last", method="last-k-layers", learning_rate=1e-3, layers=1)  # type: ignore[call-arg]
    packs = [lora(4), lora(8, "rslora")]
    uneven: dict[str, Any] = {"tokens": 40, "rows": 7}
    checkpointing = Budget(epochs=5, batch_size=8, max_sequence_tokens=64, gradient_checkpointing=True)
    return {
        "gradients full tied": compared_gradients(tied, [FULL], **uneven),
        "gradients full untied": compared_gradients(untied, [FULL], **uneven),
        "gradients frozen embeddings": compared_gradients(untied, [FROZEN], **uneven),
        "gradients frozen tied": compared_gradients(tied, [FROZEN], **uneven),
        "gradients last block": compared_gradients(tied, [last], **uneven),
        "gradients one LoRA": compared_gradients(tied, [lora(4)], **uneven),
        "gradients packed": compared_gradients(untied, packs, **uneven),
        "gradients one row": compared_gradients(tied, [FULL], tokens=1000, rows=1),
        "gradients replayed": compared_gradients(tied, [FULL], **uneven, replayed=3),
        "gradients full near base": compared_gradients(tied, [FULL], **uneven, replayed=3, retain=Retain(kl=0.7)),
        "gradients packed near base": compared_gradients(untied, packs, **uneven, retain=Retain(kl=0.7)),
        "gradients near on replay": compared_gradients(
            tied, [lora(4)], **uneven, replayed=3, retain=Retain(kl=0.7, on="replay")
        ),
        "gradients bf16": compared_gradients(untied, [FULL], **uneven, dtype="bfloat16"),
        "training full tied": compared_training(tied, [FULL], settings()),
        "training full untied": compared_training(untied, [FULL], settings(micro_batch_tokens=50)),
        "training packed": compared_training(tied, packs, settings()),
        "training checkpointing": compared_training(untied, [FULL], settings(budget=checkpointing)),
        "training packed checkpointing": compared_training(untied, packs, settings(budget=checkpointing)),
        "training last block": compared_training(untied, [last], settings()),
        "training frozen embeddings": compared_training(tied, [FROZEN], settings()),
        "training bf16": compared_training(tied, [FULL], settings(), dtype="bfloat16"),
        "training near start": compared_training(tied, [FULL], settings(remedies=Remedies(Retain(l2=0.3)))),
        "training offloaded": compared_training(tied, [FULL], settings(), offload=True),
        "scored": scored_then_trained(tied),
    }
