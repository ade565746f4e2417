"""Training in little memory: micro-batches that halve, blocks computed twice, moments and bases in few bits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from one_adapter import adapt, open_pack
from test_fit import FULL, LORA, InMemory, base, examples, run, settings
from tiny_models import save_tiny_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from rankscope.data.training_batches import collate
from rankscope.model.load import dequantized_weight, inspect_model, is_quantized, load_model
from rankscope.model.methods.attach import Adapted
from rankscope.plan.run_cost import activation_bytes, memory_parts
from rankscope.records import Example
from rankscope.study.study import Arm, Budget, ModelSpec, Optimizer
from rankscope.train import accumulate
from rankscope.train.fit import fit
from rankscope.train.objective import SupervisedFineTuning
from rankscope.train.optimizer import Trainee
from rankscope.train.training_state import FitResult


def losses(result: FitResult) -> list[float]:
    return [record.loss_nats_per_token for record in result.steps]


# ---- out of memory --------------------------------------------------------------------------------------------------


@contextmanager
def small_device(
    monkeypatch: pytest.MonkeyPatch, holds: Callable[[int, bool], bool]
) -> Iterator[list[tuple[int, bool]]]:
    """A device that holds a forward pass where `holds` says so, of its tokens and whether activations are computed
    twice; gives these of every pass that was tried."""
    tried: list[tuple[int, bool]] = []
    real = SupervisedFineTuning.summed_losses

    def summed_losses(own: SupervisedFineTuning, forward: Any, rows: Sequence[Example], arms: int = 1) -> Tensor:
        tokens = arms * sum(row.token_count - 1 for row in rows)
        tried.append((tokens, bool(forward.model.is_activation_checkpointing)))
        if not holds(*tried[-1]):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(own, forward, rows, arms)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedFineTuning, "summed_losses", summed_losses)
        yield tried


@pytest.mark.parametrize("arm", [LORA, FULL], ids=lambda a: a.label)
def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, arm: Arm
) -> None:
    given = settings(micro_batch_tokens=400)
    small, _ = run(tiny_folder, arm, settings(micro_batch_tokens=50))
    with small_device(monkeypatch, lambda tokens, _: tokens <= 60) as tried:
        result, _ = run(tiny_folder, arm, given)
    assert max(tried)[0] > 60
    assert result.state == "done"
    assert result.micro_batch_tokens in (50, 100)
    assert sum(tokens > 60 for tokens, _ in tried) <= 3, "the smaller size is kept, not found again at every step"
    assert losses(result)[:10] == pytest.approx(losses(small)[:10], abs=1e-5)


def test_a_failed_half_step_leaves_nothing_behind(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second micro-batch fails after the first left its gradients and drew its dropout."""
    arm = LORA.model_copy(update={"dropout": 0.3})
    real, calls = SupervisedFineTuning.summed_losses, []

    def forward(*arguments: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedFineTuning, "summed_losses", forward)
        result, weights = run(tiny_folder, arm, settings(micro_batch_tokens=120))
    assert result.micro_batch_tokens == 60
    expected, same = run(tiny_folder, arm, settings(micro_batch_tokens=60))
    assert losses(result) == losses(expected)
    assert all(torch.equal(weights[name], same[name]) for name in same)


@pytest.mark.parametrize(("failures", "halved"), [(1, 1), (2, 1), (3, 2)])
def test_a_batch_is_tried_again_before_its_micro_batches_are_halved(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, failures: int, halved: int
) -> None:
    """As on a GPU, whose free memory may lie in pieces until torch gives it back."""
    real, calls, given_back = SupervisedFineTuning.summed_losses, [], []

    def forward(*arguments: Any) -> Tensor:
        calls.append(1)
        if len(calls) <= failures:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedFineTuning, "summed_losses", forward)
        patch.setattr(accumulate, "keeps_unused", lambda device: True)
        patch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(1))
        result, weights = run(tiny_folder, LORA, settings(micro_batch_tokens=120))
    assert (result.micro_batch_tokens, len(given_back)) == (120 // halved, failures)
    expected, same = run(tiny_folder, LORA, settings(micro_batch_tokens=120 // halved))
    assert losses(result) == losses(expected)
    assert all(torch.equal(weights[name], same[name]) for name in same)


def test_the_smaller_micro_batch_survives_a_stop(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = InMemory()
    small = small_device(monkeypatch, lambda tokens, _: tokens <= 60)
    with small, open_pack(base(tiny_folder), [LORA], 3) as pack:
        (first,) = fit(pack, examples(), [settings(micro_batch_tokens=400)], checkpoints=kept, until_step=3)
    small = small_device(monkeypatch, lambda tokens, _: tokens <= 60)
    with small as tried, open_pack(base(tiny_folder), [LORA], 3) as pack:
        fit(pack, examples(), [settings(micro_batch_tokens=400)], checkpoints=kept, until_step=5)
    assert max(tried)[0] <= 60
    assert first.micro_batch_tokens < 400


@pytest.mark.parametrize("arm", [LORA, FULL], ids=lambda a: a.label)
def test_where_memory_runs_out_activations_may_be_computed_twice(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, arm: Arm
) -> None:
    def holds(tokens: int, twice: bool) -> bool:
        return twice or tokens <= 60

    kept, given = InMemory(), settings(micro_batch_tokens=400, may_checkpoint=True)
    plain, _ = run(tiny_folder, arm, settings(micro_batch_tokens=400))
    with small_device(monkeypatch, holds) as tried, open_pack(base(tiny_folder), [arm], 3) as pack:
        (first,) = fit(pack, examples(), [given], checkpoints=kept, until_step=3)
        assert not pack.model.is_activation_checkpointing
    assert (first.micro_batch_tokens, first.checkpointing) == (400, True)
    assert [twice for _, twice in tried].count(False) == 1, "it stays so, and is not found again at every step"
    with small_device(monkeypatch, holds) as tried, open_pack(base(tiny_folder), [arm], 3) as pack:
        (result,) = fit(pack, examples(), [given], checkpoints=kept)
    assert all(twice for _, twice in tried)
    assert losses(result)[:10] == pytest.approx(losses(plain)[:10], abs=1e-5)
    with small_device(monkeypatch, holds):
        without, _ = run(tiny_folder, arm, settings(micro_batch_tokens=400))
    assert (without.checkpointing, without.micro_batch_tokens < 400) == (False, True), "only where it may be"


def test_one_row_that_does_not_fit_is_an_error(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        small_device(monkeypatch, lambda tokens, _: tokens <= 5),
        pytest.raises(torch.OutOfMemoryError, match="out of memory"),
    ):
        run(tiny_folder, LORA, settings())


# ---- gradient checkpointing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arm", [LORA, LORA.model_copy(update={"dropout": 0.2}), FULL], ids=["lora", "lora with dropout", "full"]
)
def test_gradient_checkpointing_gives_the_same_losses(tiny_folder: Path, arm: Arm) -> None:
    plain, weights = run(tiny_folder, arm, settings())
    budget = Budget(epochs=5, batch_size=8, max_sequence_tokens=64, gradient_checkpointing=True)
    saved, found = run(tiny_folder, arm, settings(budget=budget))
    assert losses(saved) == pytest.approx(losses(plain), abs=1e-6)
    for name in weights:
        torch.testing.assert_close(found[name], weights[name], rtol=1e-5, atol=1e-6)


def kept_bytes(adapted: Adapted, *, checkpointing: bool) -> tuple[int, int]:
    """Bytes that autograd keeps of one forward besides parameters, and its tokens."""
    seen: dict[int, int] = {}
    alive = []
    own = {p.untyped_storage().data_ptr() for p in adapted.model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        alive.append(tensor)  # or its address may be given to another
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    adapted.model.train()
    if checkpointing:
        adapted.model.activation_checkpointing_enable({"use_reentrant": False})
    batch, forward = collate(examples(30)), adapted.training_forward()
    with forward.ready(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward.target_states(batch)
    return sum(seen.values()), len(batch.input_ids)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("arm", [LORA, FULL], ids=lambda a: a.label)
def test_planned_activations_are_what_autograd_keeps(tmp_path: Path, arm: Arm, dtype: Any) -> None:
    folder = save_tiny_model(tmp_path, hidden_size=128, intermediate_size=384, num_hidden_layers=6)
    facts = inspect_model(ModelSpec(id=str(folder)), folder)
    with adapt(base(folder, dtype), arm, 0) as adapted:
        kept, tokens = kept_bytes(adapted, checkpointing=False)
    assert 0.8 < kept / activation_bytes(facts, dtype, tokens, checkpointing=False) < 1.25
    with adapt(base(folder, dtype), arm, 0) as adapted:
        few, _ = kept_bytes(adapted, checkpointing=True)
    block = activation_bytes(facts, dtype, tokens, checkpointing=False) / 6
    assert few < kept / 8
    assert few + block == pytest.approx(activation_bytes(facts, dtype, tokens, checkpointing=True), rel=0.15)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("arm", [LORA.model_copy(update={"rank": 8}), FULL], ids=lambda a: a.label)
def test_planned_state_is_what_training_holds(tiny_folder: Path, arm: Arm, dtype: Any) -> None:
    """Weights, masters and moments, byte for byte."""
    facts = inspect_model(ModelSpec(id=str(tiny_folder)), tiny_folder)
    parts = memory_parts(arm, facts, dtype, 1, 0.0)
    kept = InMemory()
    with open_pack(base(tiny_folder, dtype), [arm], 0) as pack:
        fit(pack, examples(), [settings()], checkpoints=kept, until_step=1)
        held_now = {*pack.model.parameters(), *pack.members[0].parameters.values()}
        weights = sum(p.numel() * p.element_size() for p in held_now)
    assert kept.saved is not None
    held = dict.fromkeys(("master", "exp_avg", "exp_avg_sq", "step"), 0)
    for key, tensor in kept.saved[0].items():
        held[key.split("/")[1]] += tensor.numel() * tensor.element_size()
    assert parts["weights"] == weights
    assert parts["moments"] == held["exp_avg"] + held["exp_avg_sq"]
    assert parts["masters"] == (held["master"] if dtype == "bfloat16" else 0)


# ---- bitsandbytes, at its boundary ----------------------------------------------------------------------------------


class FakeAdamW8bit(torch.optim.Optimizer):
    """AdamW with the arguments and the state of bitsandbytes' class: a plain number of steps, `state1`, `state2`."""

    made: dict[str, Any]

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        type(self).made = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        first, second = self.made["betas"]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(step=0, state1=torch.zeros_like(p), state2=torch.zeros_like(p))
                state["step"] += 1
                assert isinstance(state["step"], int)
                state["state1"].lerp_(p.grad, 1 - first)
                state["state2"].mul_(second).addcmul_(p.grad, p.grad, value=1 - second)
                p.mul_(1 - group["lr"] * self.made["weight_decay"])
                size = state["state2"].sqrt() / (1 - second ** state["step"]) ** 0.5 + self.made["eps"]
                p.addcdiv_(state["state1"], size, value=-group["lr"] / (1 - first ** state["step"]))


@pytest.fixture
def fake_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    package, optim, functional = (ModuleType(f"bitsandbytes{end}") for end in ("", ".optim", ".functional"))
    optim.AdamW8bit = FakeAdamW8bit  # type: ignore[attr-defined]
    functional.dequantize_4bit = lambda data, state: data.float() * state.scale  # type: ignore[attr-defined]
    for module in (package, optim, functional):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return package


@pytest.mark.usefixtures("fake_bitsandbytes")
def test_8_bit_adamw_has_the_studys_settings_and_resumes_bit_for_bit(tiny_folder: Path) -> None:
    given = settings(optimizer=Optimizer(name="adamw_8bit", weight_decay=0.01))
    whole, expected = run(tiny_folder, LORA, given)
    assert FakeAdamW8bit.made == {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    plain, _ = run(tiny_folder, LORA, settings())
    assert losses(whole)[:10] == pytest.approx(losses(plain)[:10], abs=1e-3)
    kept = InMemory()
    for until in (7, None):
        with open_pack(base(tiny_folder), [LORA], given.seed) as pack:
            (result,) = fit(pack, examples(), [given], checkpoints=kept, until_step=until)
            weights = {name: p.detach().clone() for name, p in pack.members[0].parameters.items()}
    assert result.steps == whole.steps
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_8_bit_adamw_is_not_asked_for_otherwise(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    Trainee({"w": nn.Parameter(torch.ones(2))}, 1e-3, Optimizer(), 10)
    with pytest.raises(ImportError):
        Trainee({"w": nn.Parameter(torch.ones(2))}, 1e-3, Optimizer(name="adamw_8bit"), 10)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_base_in_nf4_is_asked_for_as_qlora_has_it(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    asked: dict[str, Any] = {}
    real = AutoModelForCausalLM.from_pretrained

    def load(path: str, **options: Any) -> Any:
        asked.update(options)
        options.pop("quantization_config")
        options.pop("device_map")
        return real(path, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    load_model(ModelSpec(id=str(tiny_folder), quantization="nf4"), tiny_folder, dtype, "cpu")
    config = asked["quantization_config"]
    assert isinstance(config, BitsAndBytesConfig)
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert config.bnb_4bit_compute_dtype == getattr(torch, dtype)
    assert asked["device_map"] == {"": "cpu"}


@pytest.mark.usefixtures("fake_bitsandbytes")
def test_spectra_have_the_weight_that_products_are_made_with() -> None:
    plain = nn.Linear(3, 2)
    assert not is_quantized(plain)
    assert torch.equal(dequantized_weight(plain), plain.weight)
    packed = nn.Linear(3, 2)
    packed.weight = nn.Parameter(torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.uint8), requires_grad=False)
    packed.weight.quant_state = type("QuantState", (), {"scale": 0.5})()  # type: ignore[attr-defined]
    assert is_quantized(packed)
    assert dequantized_weight(packed).tolist() == [[0.5, 1.0, 1.5], [2.0, 2.5, 3.0]]
