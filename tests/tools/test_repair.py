"""`rankscope repair` on a tiny model and an adapter that was made badly on purpose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from test_repair_choice import suite
from test_score import call, save_adapter
from tiny_models import save_tiny_model
from tiny_study import choice_rows, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from rankscope.data.encoder import Encoder
from rankscope.evaluate.score_suites import score_suite
from rankscope.model.weights.adapter_file import read_adapter
from rankscope.records import Item, RepairRecord, Suite
from rankscope.records.record_base import parse_record
from rankscope.tools.repair import Request, choosing_items, repair
from rankscope.tools.repair_candidates import AdapterCandidates, ModelCandidates
from rankscope.tools.score_request import SuiteOptions, model_spec, read_suites


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, an adapter of it, a fully changed copy, and rows: those that are kept have the base's own answers."""
    folder = tmp_path_factory.mktemp("repair")
    save_tiny_model(folder / "model", initializer_range=0.3)
    save_adapter(folder / "model", folder / "adapter")
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    small = json.dumps({**config, "lora_alpha": 2})  # so small that a smaller dial is nearer to the base
    (folder / "adapter" / "adapter_config.json").write_text(small)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload().save_pretrained(folder / "tuned")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "tuned")
    for name, teacher, prefix in (("task", "tuned", "t"), ("keep", "model", "k")):
        rows = choice_rows(80, prefix, 3)
        write_rows(folder / f"{name}.jsonl", rows)
        write_rows(folder / f"{name}.jsonl", answered(folder, teacher, rows, folder / f"{name}.jsonl"))
    return folder


def answered(folder: Path, teacher: str, rows: list[dict[str, object]], path: Path) -> list[dict[str, object]]:
    """The rows with the answers that this model gives."""
    model = AutoModelForCausalLM.from_pretrained(folder / teacher).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    encoder = Encoder(tokenizer, context_tokens=128)
    ((read, _),) = read_suites([str(path)], SuiteOptions(), encoder).values()
    found = {one.item_id: one.predicted for one in score_suite(model, tokenizer, read, token_budget=4096)}
    return [{**row, "answer_index": row["choices"].index(found[row["id"]])} for row in rows]  # type: ignore[attr-defined]


def request(here: Path, out: Path, **changes: Any) -> Request:
    given = {
        "base": model_spec(str(here / "model"), dtype="auto", chat="auto"), "task": (str(here / "task.jsonl"),),
        "keep": (str(here / "keep.jsonl"),), "out": out, "adapter": here / "adapter", **changes,
    }  # fmt: skip
    return Request(**given)


@pytest.fixture(scope="module")
def done(here: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RepairRecord, Path]:
    out = tmp_path_factory.mktemp("repaired") / "out"
    found = repair(request(here, out, margin=0.9))
    record = found.record
    if record.chosen is None:  # what is written is looked at whatever the tiny model's items say
        record = record.model_copy(update={"chosen": record.points[2].name})
    type(found)(record, found._candidates, out).write("the card")
    return record, out


def test_every_candidate_is_scored_and_the_first_is_the_change_as_it_is(done: tuple[RepairRecord, Path]) -> None:
    record, _ = done
    names = [point.name for point in record.points]
    assert names[0] == "dial 1"
    assert {"dial 0.5", "dial 0.5 below, 1 above", "energy 0.7", "intruders x 0", "control of intruders x 0"} <= set(
        names
    )
    assert len(names) == len(set(names))
    assert record.points[0].gain == record.before.gain
    assert record.before.gain.mean > 0.2
    assert record.before.forgetting.mean > 0.2
    by_name = {point.name: point for point in record.points}
    moved = [by_name[f"dial {s}"].kl_nats for s in ("0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.85", "1")]
    assert moved == sorted(moved)
    assert record.select_items == {"task": 20, "keep": 20}
    assert record.judge_items == {"task": 60, "keep": 60}
    assert by_name["energy 0.5"].ranks_left is not None


def right(model: PreTrainedModel | PeftModel, items: Sequence[Item]) -> dict[str, float]:
    """By item whether the likeliest choice is right: plain forwards of one choice each, without anything of ours."""
    found = {}
    for item in items:
        sums = []
        for choice in item.choices_ids:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*item.prompt_ids, *choice]])).logits[0]
            wanted = logits[-len(choice) - 1 : -1].log_softmax(-1)
            sums.append(float(wanted.gather(1, torch.tensor(choice)[:, None]).sum()))
        found[item.item_id] = float(int(np.argmax(sums)) == item.answer_index)
    return found


def test_the_repaired_adapter_in_plain_peft_gives_the_recorded_predictions(
    here: Path, done: tuple[RepairRecord, Path]
) -> None:
    record, out = done
    base = AutoModelForCausalLM.from_pretrained(here / "model").eval()
    repaired = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(here / "model"), out).eval()
    encoder = Encoder(AutoTokenizer.from_pretrained(here / "model"), context_tokens=128)
    point = next(p for p in record.points if p.name == record.chosen)
    for name, recorded, sign in (("task", point.gain, 1), ("keep", point.forgetting, -1)):
        ((read, _),) = read_suites([str(here / f"{name}.jsonl")], SuiteOptions(), encoder).values()
        before, after = right(base, read.items), right(repaired, read.items)
        judges = [item_id for item_id in before if item_id not in choosing_items(read)]
        assert len(judges) == record.judge_items[name]
        assert sign * np.mean([after[i] - before[i] for i in judges]) == pytest.approx(recorded.mean, abs=1e-9)
        assert after != before
    assert (out / "README.md").read_text() == "the card"
    assert parse_record(RepairRecord, (out / "repair.json").read_bytes(), "repair.json") == record


def test_three_clusters_are_enough_and_two_of_them_judge() -> None:
    items = tuple(Item(str(i), "open", (i,), answers=("a",), cluster=f"text-{i % 3}") for i in range(60))
    chosen = choosing_items(Suite("kept", None, "recall", items, 4))
    assert len(chosen) == 20
    assert len({item.cluster for item in items if item.item_id in chosen}) == 1


def test_a_dial_of_1_is_the_adapter_itself_bit_for_bit(here: Path, tmp_path: Path) -> None:
    from rankscope.model.load import load_model

    base = load_model(model_spec(str(here / "model"), dtype="auto", chat="auto"), Path(), "float32", "cpu")
    AdapterCandidates(base, here / "adapter").write("dial 1", tmp_path / "same", {})
    before, after = read_adapter(here / "adapter"), read_adapter(tmp_path / "same")
    for module, delta in before.deltas.items():
        other = after.deltas[module]
        assert torch.equal(delta.a, other.a)
        assert torch.equal(delta.b, other.b)
        assert delta.scale == other.scale
    tuned = load_model(
        model_spec(str(here / "model"), dtype="auto", chat="auto"), Path(), "float32", "cpu", weights=here / "tuned"
    )
    ModelCandidates(base, tuned, here / "tuned").write("dial 1", tmp_path / "whole", {})
    one, other_model = (AutoModelForCausalLM.from_pretrained(f) for f in (here / "tuned", tmp_path / "whole"))
    ours = dict(other_model.named_parameters())
    assert all(torch.equal(p, ours[name]) for name, p in one.named_parameters())


def test_a_dial_is_alpha_alone(here: Path, tmp_path: Path) -> None:
    from rankscope.model.load import load_model

    base = load_model(model_spec(str(here / "model"), dtype="auto", chat="auto"), Path(), "float32", "cpu")
    made = AdapterCandidates(base, here / "adapter")
    made.write("dial 0.7", tmp_path / "dialled", {})
    before, after = (
        json.loads((f / "adapter_config.json").read_text()) for f in (here / "adapter", tmp_path / "dialled")
    )
    assert after["lora_alpha"] == pytest.approx(0.7 * before["lora_alpha"])
    made.write("dial 0.5 below, 1 above", tmp_path / "layers", {})
    by_layer = read_adapter(tmp_path / "layers").deltas
    scales = {
        module: delta.scale / read_adapter(here / "adapter").deltas[module].scale for module, delta in by_layer.items()
    }
    assert {round(scale, 6) for module, scale in scales.items() if ".layers.0." in module} == {0.5}
    assert {round(scale, 6) for module, scale in scales.items() if ".layers.1." in module} == {1.0}


def test_whole_models_are_repaired_too(here: Path, tmp_path: Path) -> None:
    found = repair(request(here, tmp_path / "out", adapter=None, model=here / "tuned", margin=0.5))
    by_name = {point.name: point for point in found.record.points}
    assert by_name["spectrum cut"].ranks_left is not None
    assert by_name["dial 0.5"].kl_nats < by_name["dial 1"].kl_nats
    adapter = repair(request(here, tmp_path / "other", margin=0.5)).record
    own = {point.name: point for point in adapter.points}
    for name in ("dial 1", "dial 0.5", "dial 0.7 below, 1 above"):  # merged or not, it is the same change
        assert by_name[name].kl_nats == pytest.approx(own[name].kl_nats, rel=1e-3)
        assert by_name[name].forgetting.mean == pytest.approx(own[name].forgetting.mean, abs=0.04)


def test_the_command_writes_a_card_or_says_that_nothing_helps(here: Path, tmp_path: Path) -> None:
    words = ["repair", here / "adapter", "--base", here / "model", "--task", here / "task.jsonl", "--keep",
             here / "keep.jsonl", "--json"]  # fmt: skip
    found = call(*words, "--margin", 0.9, "--out", tmp_path / "as-it-is")
    assert found.exit_code == 3  # it keeps a margin of 90 points as it is
    record = json.loads(found.stdout)
    assert record["chosen"] is None
    assert set(record["before"]) == {"gain", "forgetting"}
    assert set(record["before"]["forgetting"]) == {"mean", "low", "high"}
    assert sorted(path.name for path in (tmp_path / "as-it-is").iterdir()) == ["README.md", "repair.json"]
    found = call(*words, "--margin", 0.2, "--out", tmp_path / "out")
    record = json.loads(found.stdout)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert found.exit_code == (0 if record["chosen"] else 3)
    assert ("adapter_model.safetensors" in files) == (record["chosen"] is not None)
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(f"| {point['name']} |" in card for point in record["points"] if point["name"] != record["chosen"])
    assert ("**, chosen |" in card) == (record["chosen"] is not None)


WRONG = [
    (["--margin", "2"], "repair: --margin: found 2, expected a share above 0 and below 1, such as 0.03"),
    (["--model", "model"], "repair: found both ADAPTER and --model, expected one of them"),
    (["--keep", "few.jsonl"], "few: --keep: found 4 items, expected at least 8: some choose, the others judge"),
    (
        ["--keep", "two.jsonl"],
        "two: --keep: found 60 items in 2 clusters, expected at least 3 clusters, which stay whole",
    ),
    (
        ["--task", "two.jsonl"],
        "two: --task: found 60 items in 2 clusters, expected at least 3 clusters, which stay whole",
    ),
    (["--keep", "text.jsonl"], "text: --keep: found plain text, which has no right answers"),
    (["--keep", "none.jsonl"], "none.jsonl: --suite: found no such file"),
]


@pytest.mark.parametrize(("more", "line"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_input_is_a_line(here: Path, tmp_path: Path, more: list[str], line: str) -> None:
    write_rows(here / "few.jsonl", choice_rows(4, "f", 0))
    two = [{**row, "cluster": f"text-{i % 2}"} for i, row in enumerate(choice_rows(60, "c", 0))]
    write_rows(here / "two.jsonl", two)
    write_rows(here / "text.jsonl", [{"id": str(i), "text": f"The oak number {i}."} for i in range(20)])
    more = [str(here / word) if word.endswith(".jsonl") or word == "model" else word for word in more]
    found = call("repair", here / "adapter", "--base", here / "model", "--task", here / "task.jsonl", "--keep",
                 here / "keep.jsonl", "--out", tmp_path / "out", *more)  # fmt: skip
    assert found.exit_code == 2
    assert line in found.stderr.replace(f"{here}/", "")
    assert "Traceback" not in found.stderr


def test_an_adapter_that_does_more_than_add_is_refused(here: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    dora = LoraConfig(r=2, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM")
    save_adapter(here / "model", here / "dora", dora)
    found = call("repair", here / "dora", "--base", here / "model", "--task", here / "task.jsonl", "--keep",
                 here / "keep.jsonl", "--out", tmp_path / "out")  # fmt: skip
    assert found.exit_code == 2
    assert "a plain LoRA of the base" in found.stderr


def test_suites_of_the_choice_are_split_by_their_own_items() -> None:
    assert suite(np.zeros(12), [np.ones(12)], 4).selects.sum() == 4
