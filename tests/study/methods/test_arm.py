"""The methods of a study: their entries, labels, ids, rates, what they count, and what does not fit a model."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import jsonschema
import pytest
from made_facts import LLAMA_8B, STUDY, model_facts, suite_facts, train_facts
from pydantic import ValidationError

from rankscope.plan.plan_checks import check_arms
from rankscope.plan.resolve import run_id, search_arms
from rankscope.plan.run_cost import disk_bytes, evaluate_flops, memory_parts, train_flops
from rankscope.records import ModelFacts
from rankscope.study.json_schema import study_schema
from rankscope.study.methods import METHODS, Method, arm_label
from rankscope.study.methods.scaling_method import ia3_modules
from rankscope.study.study import Arm, Budget, Study
from rankscope.study.yaml_text import load_yaml

ARMS = """\
arms:
  full:
  lora: {ranks: [4]}
  rslora: {ranks: [4, 8]}
  dora: {ranks: [4], alpha: 4r, targets: [q_proj], dropout: 0.1}
  pissa: {ranks: [4]}
  ia3:
  prompt-tuning: {virtual_tokens: [8, 16], learning_rate: 0.3}
  prefix-tuning: {virtual_tokens: [8]}
  adapters: {bottlenecks: [16]}
  ln-tuning: {learning_rate: auto}
  full-frozen-embeddings:
  last-k-layers: {layers: [1, 2]}
  mine: {method: adapters, bottlenecks: [4]}
"""
ALL = STUDY.replace(STUDY[STUDY.index("arms:") : STUDY.index("seeds:")], ARMS)
WHOLE = LLAMA_8B.model_copy(
    update={
        "vocabulary_parameters": 2 * 128_256 * 4096,
        "block_parameters": [218_112_000] * 32,
        "norm_parameters": {f"n{i}": 4096 for i in range(65)},
        "key_value_width": 1024,
    }
)
"""Llama-3.1-8B with the facts that methods other than LoRA count with."""


def test_every_method_has_an_entry_of_its_own() -> None:
    assert {method.entry.model_fields["method"].default for method in METHODS.values()} == set(METHODS)


def test_labels_and_arms(read: Callable[..., Study]) -> None:
    arms = {arm.label: arm for arm in read(ALL).expand_arms()}
    assert list(arms) == [
        "full", "lora-r4", "rslora-r4", "rslora-r8", "dora-r4", "pissa-r4", "ia3", "prompt-tuning-v8",
        "prompt-tuning-v16", "prefix-tuning-v8", "adapters-b16", "ln-tuning", "full-frozen-embeddings",
        "last-k-layers-k1", "last-k-layers-k2", "mine-b4",
    ]  # fmt: skip
    assert (arms["rslora-r8"].alpha, arms["dora-r4"].alpha, arms["pissa-r4"].alpha) == (16, 16, 4)
    assert arms["prompt-tuning-v16"].setting("virtual_tokens") == arms["prompt-tuning-v16"].size == 16
    assert arms["mine-b4"].setting("bottleneck") == 4
    assert arms["last-k-layers-k2"].setting("layers") == 2
    assert {label for label, arm in arms.items() if not arm.has_delta} == {
        "prompt-tuning-v8", "prompt-tuning-v16", "prefix-tuning-v8", "adapters-b16", "ln-tuning", "mine-b4",
    }  # fmt: skip
    assert read(ALL).virtual_tokens == 16
    assert arm_label("small-v8", "prompt-tuning", 8) == "small-v8"


def test_the_schema_takes_them_all() -> None:
    jsonschema.Draft202012Validator(study_schema()).validate(load_yaml(ALL, "study.yaml", "a study"))


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("prompt-tuning: {}", "arms.prompt-tuning.virtual_tokens: found nothing, expected a list of different whole "
         "numbers above 0, such as [16]"),
        ("prompt-tuning: {virtual_tokens: [8, 8]}", "arms.prompt-tuning.virtual_tokens: found [8, 8], expected a list "
         "of different whole numbers above 0, such as [16]"),
        ("prefix-tuning: {virtual_tokens: [0]}", "arms.prefix-tuning.virtual_tokens[0]: found 0, expected a whole "
         "number above 0"),
        ("adapters: {ranks: [8]}", "arms.adapters.ranks: found the unknown key `ranks`, expected one of method, "
         "learning_rate, dial, retain, replay, bottlenecks"),
        ("ia3: {layers: [8]}", "arms.ia3.layers: found the unknown key `layers`, expected one of method, "
         "learning_rate, dial, retain, replay"),
        ("last-k-layers: {layers: 2}", "arms.last-k-layers.layers: found 2, expected a list of different whole numbers "
         "above 0, such as [2, 4]"),
    ],
)  # fmt: skip
def test_wrong_entries(lines: Callable[..., list[str]], entry: str, line: str) -> None:
    found = lines(STUDY.replace("full: {learning_rate: 1e-5}", entry))
    assert f"study.yaml: line 10, {line}" in found


def test_a_label_that_two_sizes_make(lines: Callable[..., list[str]]) -> None:
    text = STUDY.replace(
        "full: {learning_rate: 1e-5}", "a-b4: {method: full}\n  a: {method: adapters, bottlenecks: [4]}"
    )
    assert "found the arm `a-b4`, which `a-b4` makes too" in lines(text)[0]


def pinned(arms: dict[str, object]) -> list[str]:
    study = Study.model_validate(
        {
            "name": "small",
            "model": [{"id": "bundled"}],
            "train": {"medical": {"path": "train.jsonl", "domain": "medical"}},
            "suites": {"medqa": {"path": "test.jsonl", "domain": "medical", "kind": "recall"}},
            "arms": arms,
            "seeds": [0],
        }
    )
    return [
        run_id(arm, 0, study, model_facts(), train_facts(), "float32", search_arms(arm, study.arms_of(key)))
        for key in study.arms
        for arm in study.arms_of(key)
    ]


def test_ids_of_full_and_lora_stay_what_they_are() -> None:
    """A study that was run stays run: these were written down for results version 2 and change with it only."""
    lora = {"method": "lora", "ranks": [4, 8], "learning_rate": 2e-4}
    assert pinned({"lora": lora, "full": {"method": "full"}}) == [
        "lora-r4-s0-ccddf8042b16", "lora-r8-s0-32ac2643a7f8", "full-s0-1295e25daf99",
    ]  # fmt: skip
    searched = {"method": "lora", "ranks": [4], "learning_rate": "auto", "targets": ["q_proj"]}
    assert pinned({"lora": searched}) == ["lora-r4-s0-642678b357b0"]


def test_ids_of_other_methods_say_their_size_and_differ() -> None:
    sizes = {"method": "prompt-tuning", "virtual_tokens": [8, 16], "learning_rate": 0.1}
    other = {"method": "prefix-tuning", "virtual_tokens": [8], "learning_rate": 0.1}
    found = pinned(
        {"a": sizes, "b": other, "c": {"method": "rslora", "ranks": [4]}, "d": {"method": "dora", "ranks": [4]}}
    )
    assert [id_.rsplit("-", 1)[0] for id_ in found] == [
        "prompt-tuning-v8-s0", "prompt-tuning-v16-s0", "prefix-tuning-v8-s0", "rslora-r4-s0", "dora-r4-s0",
    ]  # fmt: skip
    assert len({id_.rsplit("-", 1)[1] for id_ in found}) == 5


@pytest.mark.parametrize("method", METHODS)
def test_rates_are_half_decades(method: str) -> None:
    rates = METHODS[method].rate_grid
    assert rates == sorted(rates)
    assert len(rates) == 7
    assert rates[-1] / rates[0] == pytest.approx(1000)
    assert all(2.9 <= b / a <= 3.4 for a, b in pairwise(rates))


def arm(method: str, **settings: object) -> Arm:
    return Arm.model_validate({"label": "x", "method": method, "learning_rate": 1e-3, **settings})


def low_rank(method: str, rank: int = 16) -> Arm:
    return arm(method, rank=rank, alpha=float(rank), targets="all-linear")


def test_parameters_of_llama_8b() -> None:
    """By hand, for 32 blocks of width 4096 with keys of 1024 and feed-forwards of 14336."""
    known = {
        low_rank("lora"): 41_943_040,
        low_rank("pissa"): 41_943_040,
        low_rank("dora"): 41_943_040 + 32 * (2 * 4096 + 2 * 1024 + 2 * 14_336 + 4096),
        arm("ia3"): 32 * (1024 + 1024 + 14_336),
        arm("prompt-tuning", virtual_tokens=16): 16 * 4096,
        arm("prefix-tuning", virtual_tokens=16): 16 * 2 * 32 * 1024,
        arm("adapters", bottleneck=64): 32 * (2 * 4096 * 64 + 64 + 4096),
        arm("ln-tuning"): 65 * 4096,
        arm("full-frozen-embeddings"): 8_030_261_248 - 2 * 128_256 * 4096,
        arm("last-k-layers", layers=2): 2 * 218_112_000,
    }
    assert {a.method: a.trainable_parameters(WHOLE) for a in known} == {a.method: n for a, n in known.items()}


def test_what_methods_cost_is_in_the_order_of_their_work() -> None:
    train, budget, suites = train_facts(), Budget(epochs=1), [suite_facts()]

    def work(given: Arm) -> float:
        return sum(train_flops(given, WHOLE, train, budget))

    assert work(low_rank("lora")) < work(low_rank("dora")) < work(low_rank("pissa")) < work(arm("full"))
    assert work(arm("ln-tuning")) < work(low_rank("lora"))
    one, two = work(arm("last-k-layers", layers=1)), work(arm("last-k-layers", layers=2))
    assert one < two < work(arm("full-frozen-embeddings")) < work(arm("full"))
    prompt, prefix = arm("prompt-tuning", virtual_tokens=40), arm("prefix-tuning", virtual_tokens=40)
    # rows of 40 tokens: as many virtual ones double the work of a prompt, and only attention's of a prefix
    assert work(prompt) / work(prefix) == pytest.approx(2, rel=0.02)
    assert evaluate_flops(prompt, WHOLE, suites) > evaluate_flops(prefix, WHOLE, suites)
    assert evaluate_flops(low_rank("pissa"), WHOLE, suites) > evaluate_flops(low_rank("lora"), WHOLE, suites)


def test_memory_and_disk_of_methods() -> None:
    lora, pissa = (memory_parts(low_rank(method), WHOLE, "bfloat16", 1024, 0.5) for method in ("lora", "pissa"))
    assert pissa["weights"] - lora["weights"] == 2 * 41_943_040
    assert pissa["moments"] == lora["moments"]
    part = memory_parts(arm("last-k-layers", layers=2), WHOLE, "bfloat16", 1024, 0.5)
    assert part["weights"] == 2 * 8_030_261_248
    assert part["moments"] == 8 * 2 * 218_112_000
    suites = [suite_facts(item_count=0)]
    assert disk_bytes(low_rank("pissa"), WHOLE, "bfloat16", suites, keep_full=False)[1] == 2 * 2 * 41_943_040
    assert disk_bytes(arm("last-k-layers", layers=2), WHOLE, "bfloat16", suites, keep_full=False)[1] == 0
    assert disk_bytes(arm("last-k-layers", layers=2), WHOLE, "bfloat16", suites, keep_full=True)[1] == 2 * 8_030_261_248


def test_ia3_knows_the_modules_of_the_families() -> None:
    gpt = [
        f"transformer.h.{i}.{name}"
        for i in (1, 11)
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    assert ia3_modules(gpt) == ([gpt[0], gpt[4]], [gpt[3], gpt[7]])
    assert ia3_modules(["a.qkv_proj", "a.o_proj", "a.gate_up_proj", "a.down_proj"]) == (["a.qkv_proj"], ["a.down_proj"])


@pytest.mark.parametrize(
    ("entry", "facts", "words"),
    [
        (
            "pissa: {ranks: [2048]}",
            WHOLE,
            "rank 2048, above the smaller side of a target of llama-8b, expected",
        ),
        ("last-k-layers: {layers: [33]}", WHOLE, "33, expected at most 32, the blocks of llama-8b"),
        ("prompt-tuning: {virtual_tokens: [131072]}", WHOLE, "131072, expected less than the context of llama-8b"),
        ("prefix-tuning: {virtual_tokens: [8]}", LLAMA_8B, "prefix-tuning of llama-8b, which keeps no keys and values"),
        ("ln-tuning:", LLAMA_8B, "ln-tuning of llama-8b, in which it knows nothing to train"),
        ("ia3:", WHOLE.model_copy(update={"linear_shapes": {"a.in": (4, 4)}}), "ia3 of llama-8b, in which it knows"),
    ],
)
def test_what_a_model_cannot_have_is_said_before_anything_runs(
    read: Callable[..., Study], entry: str, facts: ModelFacts, words: str
) -> None:
    study = read(
        STUDY.replace("full: {learning_rate: 1e-5}", entry).replace(
            "  lora: {ranks: [4, 8], alpha: 2r, learning_rate: 2e-4}\n", ""
        )
    )
    problems, warnings = check_arms(study, facts, "study.yaml")
    assert warnings == []
    assert len(problems) == 1
    assert words in str(problems[0])


# ---- the record ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "nothing"}, "no method is called nothing"),
        ({"method": "lora", "rank": 4, "layers": 2}, r"lora has the settings \[\], found \['layers'\]"),
        ({"method": "adapters"}, r"adapters has the settings \['bottleneck'\], found \[\]"),
        (
            {"method": "prompt-tuning", "virtual_tokens": 4, "bottleneck": 4},
            r"found \['bottleneck', 'virtual_tokens'\]",
        ),
    ],
)
def test_an_arm_has_the_settings_of_its_method_and_no_other(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Arm.model_validate({"label": "x", "learning_rate": 1e-3, **settings})


def test_an_arm_is_written_and_read_as_earlier_plans_have_it() -> None:
    """Flat, and `null` for what an arm does not have."""
    prompt = arm("prompt-tuning", virtual_tokens=8)
    written = prompt.model_dump(mode="json")
    assert written == {
        "label": "x", "method": "prompt-tuning", "rank": None, "alpha": None, "targets": None, "dropout": 0.0,
        "learning_rate": 1e-3, "dial": None, "retain": None, "replay": None, "given": None,
        "virtual_tokens": 8,
    }  # fmt: skip
    assert Arm.model_validate(written) == Arm.model_validate({**written, "bottleneck": None, "layers": None}) == prompt
    assert prompt != arm("prompt-tuning", virtual_tokens=9)
    with pytest.raises(KeyError):
        prompt.setting("layers")


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_every_setting_of_an_entry_is_described(method: Method) -> None:
    assert all(field.description for field in method.entry.model_fields.values())
    assert method.title
    assert method.entry.__doc__
