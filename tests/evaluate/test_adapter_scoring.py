"""Several adapters in one forward against each of them alone; adapters that do nothing, or too much, are noticed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from one_adapter import load_adapter, open_factors
from peft import LoraConfig, get_peft_model
from scoring_models import make_model, random_items
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import rankscope.evaluate.adapter_scoring as adapter_module
import rankscope.evaluate.choice_scoring as choices_module
from rankscope.evaluate.adapter_scoring import (
    AdapterChangesBase,
    AdapterNotApplied,
    Logprobs,
    check_adapter,
    packed_logprobs,
    suites_logprobs,
)
from rankscope.evaluate.choice_scoring import choice_logprobs
from rankscope.evaluate.prompt_choice_tree import ChoicePlan
from rankscope.evaluate.score_suites import SuitePlan, score_suite
from rankscope.model.load import LoadedModel
from rankscope.model.methods.attach import Pack
from rankscope.model.methods.peft_folder import Factors, plain_factors
from rankscope.records import Item, Suite
from rankscope.study.study import Arm

SETTINGS: tuple[dict[str, Any], ...] = (
    {"r": 3, "lora_alpha": 6},
    {"r": 8, "lora_alpha": 4, "use_rslora": True},
    {
        "r": 5,
        "lora_alpha": 10,
        "rank_pattern": {"q_proj|c_attn|query_key_value": 2},
        "alpha_pattern": {"up_proj|c_fc|dense_h_to_4h": 3},
    },
)
ARMS = [Arm(label=f"arm-{number}", method="lora", learning_rate=1.0) for number in range(len(SETTINGS))]
BUDGET = 200


def save(family: str, folder: Path, seed: int, **settings: Any) -> Path:
    """A random adapter of the family's model, in PEFT's format."""
    config = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **settings)
    peft = get_peft_model(make_model(family), config)
    dice = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=dice) * 0.2)
    peft.save_pretrained(folder)
    return folder


@pytest.fixture
def adapters(tmp_path: Path) -> Callable[[str], list[Path]]:
    def made(family: str) -> list[Path]:
        return [save(family, tmp_path / str(i), i, **settings) for i, settings in enumerate(SETTINGS)]

    return made


def alone(base: LoadedModel, folders: list[Path], items: list[Item]) -> list[list[tuple[float, ...]]]:
    found = []
    for number, folder in enumerate(folders):
        with load_adapter(base, ARMS[number], folder):
            found.append(choice_logprobs(base.model, items, token_budget=BUDGET))
    return found


def factors_of(base: LoadedModel, folders: list[Path]) -> list[Factors]:
    found = [plain_factors(base.model, folder) for folder in folders]
    assert None not in found
    return [one for one in found if one is not None]


def loaded(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    return LoadedModel(model.requires_grad_(False), tokenizer)


def assert_same(found: Any, wanted: Any, nats: float = 1e-4) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours is not None
        for one, other in zip(ours, theirs, strict=True):
            assert one == pytest.approx(other, abs=nats, rel=0)


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Mistral", "Gemma2", "GPT2", "GPTNeoX", "Bloom"])
@pytest.mark.parametrize("grouped", [False, True])
def test_arms_together_equal_each_alone(
    family: str, grouped: bool, adapters: Callable[[str], list[Path]], tokenizer: PreTrainedTokenizerFast
) -> None:
    base, folders, items = loaded(make_model(family), tokenizer), adapters(family), random_items(7, seed=5)
    wanted = alone(base, folders, items)
    before = choice_logprobs(base.model, items, token_budget=BUDGET)
    with open_factors(base, ARMS, factors_of(base, folders), grouped=grouped) as pack:
        assert_same(packed_logprobs(pack, ChoicePlan(items, BUDGET)), wanted)
    assert choice_logprobs(base.model, items, token_budget=BUDGET) == before, "the base is plain again"
    apart = max(
        abs(a - b) for one, two in zip(wanted[0], wanted[1], strict=True) for a, b in zip(one, two, strict=True)
    )
    assert apart > 0.01, "the arms differ, so that one for another would show"


def test_a_shared_prefix_is_each_arms_own(
    adapters: Callable[[str], list[Path]], tokenizer: PreTrainedTokenizerFast
) -> None:
    base, folders = loaded(make_model("Llama"), tokenizer), adapters("Llama")
    start = tuple(int(token) for token in torch.randint(3, 300, (90,), generator=torch.Generator().manual_seed(3)))
    items = [
        Item(item.item_id, "choices", start + item.prompt_ids, item.choices_ids, answer_index=0)
        for item in random_items(8, seed=6, longest_prompt=12)
    ]
    plan = ChoicePlan(items, BUDGET)
    assert any(batch.prefix_ids for batch in plan.trees)
    wanted = alone(base, folders, items)
    with open_factors(base, ARMS, factors_of(base, folders)) as pack:
        assert_same(packed_logprobs(pack, plan), wanted)


def test_an_arm_without_finite_numbers_leaves_the_others_alone(
    adapters: Callable[[str], list[Path]], tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, folders, items = loaded(make_model("Llama"), tokenizer), adapters("Llama"), random_items(5, seed=7)
    wanted = alone(base, folders, items)
    for runs_trees in (True, False):
        if not runs_trees:
            monkeypatch.setattr(choices_module._TREES, "holds", lambda *_: False)
        with open_factors(base, ARMS, factors_of(base, folders)) as pack:
            with torch.no_grad():
                next(iter(pack.members[1].parameters.values())).fill_(torch.nan)
            found = packed_logprobs(pack, ChoicePlan(items, BUDGET))
        assert found[1] is None
        assert_same([found[0], found[2]], [wanted[0], wanted[2]])


def test_nothing_to_score_gives_nothing(
    adapters: Callable[[str], list[Path]], tokenizer: PreTrainedTokenizerFast
) -> None:
    base = loaded(make_model("Llama"), tokenizer)
    with open_factors(base, ARMS, factors_of(base, adapters("Llama"))) as pack:
        assert packed_logprobs(pack, ChoicePlan([], BUDGET)) == [[], [], []]


@pytest.mark.parametrize("why", ["use_dora", "modules_to_save", "trainable_token_indices"])
def test_what_is_more_than_a_plain_lora_takes_its_turn(
    why: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_module, "DEVICES", {"cpu"})
    more: dict[str, Any] = {"use_dora": True, "modules_to_save": ["lm_head"], "trainable_token_indices": [4, 5]}
    base = loaded(make_model("Llama"), tokenizer)
    folders = [save("Llama", tmp_path / "a", 1, r=2), save("Llama", tmp_path / "b", 2, r=2, **{why: more[why]})]
    assert [plain_factors(base.model, folder) is not None for folder in folders] == [True, False]
    suite = SuitePlan(Suite("s", "d", "recall", tuple(random_items(3, seed=1))), BUDGET)
    assert suites_logprobs(base, ARMS[:2], folders, [suite]) == [{}, {}]


def test_an_adapter_of_another_base_does_not_fit(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    folder = save("Llama", tmp_path / "a", 1, r=2)
    assert plain_factors(loaded(make_model("Llama", intermediate_size=40), tokenizer).model, folder) is None
    assert plain_factors(loaded(make_model("GPT2"), tokenizer).model, folder) is None
    assert plain_factors(loaded(make_model("Llama"), tokenizer).model, folder) is not None


def test_a_suite_is_the_same_when_its_numbers_are_known(
    adapters: Callable[[str], list[Path]], tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, folders = loaded(make_model("Llama"), tokenizer), adapters("Llama")
    plan = SuitePlan(Suite("s", "d", "recall", tuple(random_items(12, seed=8))), BUDGET)
    assert suites_logprobs(base, ARMS, folders, [plan]) == [{}, {}, {}], "on a CPU they take turns"
    monkeypatch.setattr(adapter_module, "DEVICES", {"cpu"})
    assert suites_logprobs(base, ARMS[:1], folders[:1], [plan]) == [{}], "one alone gains nothing"
    found = suites_logprobs(base, ARMS, folders, [plan])
    for number, folder in enumerate(folders):
        with load_adapter(base, ARMS[number], folder):
            one = score_suite(base.model, tokenizer, plan, token_budget=BUDGET)
            two = score_suite(base.model, tokenizer, plan, token_budget=BUDGET, logprobs=found[number]["s"])
        assert [p.score for p in one] == [p.score for p in two]
        assert_same([[p.choice_logprobs for p in two]], [[p.choice_logprobs for p in one]])


# ---- may several share a forward? ------------------------------------------------------------------------------------


def test_adapters_that_do_not_fit_together_share_smaller_forwards(
    adapters: Callable[[str], list[Path]],
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(adapter_module, "DEVICES", {"cpu"})
    base, folders = loaded(make_model("Llama"), tokenizer), adapters("Llama")
    items = random_items(6, seed=8)
    plan = SuitePlan(Suite("made", None, None, tuple(items)), BUDGET)
    wanted = alone(base, folders, items)
    real, sizes = adapter_module.packed_logprobs, []

    def small_device(pack: Pack, plan: ChoicePlan) -> list[Logprobs | None]:
        sizes.append(len(pack.members))
        if len(pack.members) > 2:
            raise torch.OutOfMemoryError("too many")
        return real(pack, plan)

    monkeypatch.setattr(adapter_module._ONE_FORWARD, "holds", lambda *_: True)
    monkeypatch.setattr(adapter_module, "packed_logprobs", small_device)
    found = suites_logprobs(base, [*ARMS, ARMS[0]], [*folders, folders[0]], [plan])
    assert sizes == [4, 2, 2]
    assert_same([one["made"] for one in found], [*wanted, wanted[0]])
    assert "4 adapters in one forward do not fit" in caplog.text
    three = suites_logprobs(base, ARMS, folders, [plan])
    assert three[0] == {}, "one of three is left, which is scored alone"
    assert_same([one["made"] for one in three[1:]], wanted[1:])
    assert base.model.training is False


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["Llama", "Mistral", "GPT2"])
def test_one_forward_holds_on_this_device(
    family: str, dtype: torch.dtype, adapters: Callable[[str], list[Path]], tokenizer: PreTrainedTokenizerFast
) -> None:
    base = loaded(make_model(family).to(dtype), tokenizer)
    assert adapter_module._compare_one_forward(base, ARMS, factors_of(base, adapters(family))) == ""


def test_the_check_of_one_forward_runs_trees_that_fork(
    adapters: Callable[[str], list[Path]], tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[ChoicePlan] = []
    honest = adapter_module.packed_logprobs

    def noted(pack: Any, plan: ChoicePlan) -> Any:
        plans.append(plan)
        return honest(pack, plan)

    monkeypatch.setattr(adapter_module, "packed_logprobs", noted)
    base = loaded(make_model("Llama"), tokenizer)
    assert adapter_module._compare_one_forward(base, ARMS, factors_of(base, adapters("Llama"))) == ""
    (plan,) = plans
    assert sum(len(batch.shape.owners) for batch in plan.trees) == 2


def _turned(layout: Any, layer: int, query: Any, key: Any, value: Any, scores: Any) -> Any:
    """Every adapter's queries over the next one's keys."""
    return true_attend(layout, layer, query, key.roll(key.shape[1] // len(ARMS), 1), value, scores)


def _missing(*_: Any) -> Any:
    raise RuntimeError("no such kernel on this device")


true_attend = adapter_module.AdaptersAsHeads.attend


@pytest.mark.parametrize(
    ("attend", "why"), [(_turned, "they differ by"), (_missing, "it refuses (RuntimeError: no su")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_one_forward_gives_other_scores_adapters_take_turns_with_a_note(
    attend: Any, why: str, dtype: torch.dtype, adapters: Callable[[str], list[Path]],
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(adapter_module, "DEVICES", {"cpu"})
    base, folders = loaded(make_model("Llama").to(dtype), tokenizer), adapters("Llama")
    plan = SuitePlan(Suite("s", "d", "recall", tuple(random_items(4, seed=8))), BUDGET)
    assert all(suites_logprobs(base, ARMS, folders, [plan]))
    other = loaded(make_model("Llama").to(dtype), tokenizer)
    monkeypatch.setattr(adapter_module.AdaptersAsHeads, "attend", attend)
    assert suites_logprobs(other, ARMS, folders, [plan]) == [{}, {}, {}]
    (note,) = [record.message for record in caplog.records if "one after another" in record.message]
    assert why in note


# ---- is the adapter what changes the scores? -------------------------------------------------------------------------

ITEMS = random_items(3, seed=1)


def adapted(scale: float) -> tuple[peft.PeftModel, list[tuple[float, ...]]]:
    """A model with a LoRA adapter whose B is `scale` everywhere, and the base's scores."""
    base = make_model("Llama")
    scores = choice_logprobs(base, ITEMS, token_budget=100)
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, scale)
    return wrapped, scores


def test_an_adapter_that_works_passes() -> None:
    wrapped, base = adapted(0.1)
    check_adapter(wrapped.get_base_model(), wrapped.disable_adapter, ITEMS, base, token_budget=100)


def test_an_adapter_that_does_nothing_is_refused() -> None:
    wrapped, base = adapted(0.0)
    with pytest.raises(AdapterNotApplied, match="exactly the base's"):
        check_adapter(wrapped.get_base_model(), wrapped.disable_adapter, ITEMS, base, token_budget=100)


def test_an_adapter_that_stays_on_is_refused() -> None:
    wrapped, base = adapted(0.1)
    with pytest.raises(AdapterChangesBase, match="nats from the base's"):
        check_adapter(wrapped.get_base_model(), nullcontext, ITEMS, base, token_budget=100)


def test_a_check_needs_items() -> None:
    wrapped, _ = adapted(0.1)
    with pytest.raises(ValueError, match="some items"):
        check_adapter(wrapped.get_base_model(), wrapped.disable_adapter, [], [], token_budget=100)
