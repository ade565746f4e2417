"""The one loop with every method: stopped and resumed bit for bit, and only what the method trains is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from one_adapter import open_pack
from test_fit import InMemory, base, examples, run, settings

from rankscope.study.study import Arm
from rankscope.train.fit import fit
from rankscope.train.objective import SupervisedFineTuning

SIZES: dict[str, dict[str, Any]] = {
    "rslora": {"rank": 2, "alpha": 4.0, "targets": "all-linear"},
    "dora": {"rank": 2, "alpha": 4.0, "targets": "all-linear"},
    "pissa": {"rank": 2, "alpha": 2.0, "targets": "all-linear", "dropout": 0.1},
    "ia3": {},
    "prompt-tuning": {"virtual_tokens": 3},
    "prefix-tuning": {"virtual_tokens": 3},
    "adapters": {"bottleneck": 4},
    "ln-tuning": {},
    "full-frozen-embeddings": {},
    "last-k-layers": {"layers": 1},
}
ARMS = [Arm(label=method, method=method, learning_rate=1e-2, **given) for method, given in SIZES.items()]  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.method)
def test_a_resumed_run_is_bit_for_bit_the_run_never_stopped(tiny_folder: Path, arm: Arm, dtype: str) -> None:
    given = settings()
    whole, expected = run(tiny_folder, arm, given, dtype)
    kept = InMemory()
    for until in (9, None):
        with open_pack(base(tiny_folder, dtype), [arm], given.seed) as pack:
            (result,) = fit(pack, examples(), [given], checkpoints=kept, until_step=until)
            weights = {name: p.detach().clone() for name, p in pack.members[0].parameters.items()}
    assert result.steps == whole.steps
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.method)
def test_only_what_the_method_trains_is_changed(tiny_folder: Path, arm: Arm) -> None:
    loaded = base(tiny_folder)
    before = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    with open_pack(loaded, [arm], 3) as pack:
        (adapted,) = pack.members
        own = set(adapted.parameters)
        start = {name: p.detach().clone() for name, p in adapted.parameters.items()}
        forward, objective = adapted.training_forward(), SupervisedFineTuning()
        first = objective.validation_loss(forward, examples(), 10_000)
        fit(pack, examples(), [settings()], checkpoints=InMemory())
        moved = [name for name, p in adapted.parameters.items() if not torch.equal(p, start[name])]
        assert objective.validation_loss(forward, examples(), 10_000) < first - 0.01
    assert set(moved) == own, "every trained weight has moved"
    changed = {name for name, p in loaded.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == (own if arm.traits.whole else set())
