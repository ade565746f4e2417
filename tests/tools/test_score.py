"""`rankscope score` and `rankscope harness`: models and adapters that a user already has."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from harness_tasks import save_task
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from scipy import stats
from tiny_models import save_tiny_model
from tiny_study import choice_rows, write_rows
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

import rankscope.evaluate.adapter_scoring as adapter_module
import rankscope.tools.score as score_module
from rankscope.cli import app
from rankscope.tools.score_request import model_spec, suite_options

COUNT = 24


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def save_adapter(base: Path, out: Path, config: Any = None, seed: int = 1) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base)
    lora = LoraConfig(r=2, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    peft = get_peft_model(model, config or lora)
    dice = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name or "prompt" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=dice) * 0.3)
    peft.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two adapters of it, one of another base, and files of rows."""
    folder = tmp_path_factory.mktemp("score")
    save_tiny_model(folder / "model", initializer_range=0.3)
    save_tiny_model(folder / "wide", hidden_size=48)
    save_tiny_model(folder / "deep", num_hidden_layers=3)
    save_adapter(folder / "model", folder / "one")
    save_adapter(folder / "model", folder / "two", seed=2)
    save_adapter(
        folder / "model", folder / "queries", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    save_adapter(folder / "wide", folder / "of-wide")
    save_adapter(folder / "deep", folder / "of-deep")
    prompt = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    save_adapter(folder / "model", folder / "prompt", prompt)
    write_rows(folder / "trees.jsonl", choice_rows(COUNT, "m", 0))
    sums = [{"id": f"s{i}", "question": f"{i} and 2?", "answer": str(i + 2)} for i in range(3)]
    write_rows(folder / "sums.jsonl", sums)
    write_rows(folder / "text.jsonl", [{"id": "a", "text": "The oak is a tree."}])
    write_rows(folder / "asked.jsonl", [{"id": "a", "question": "Which tree?"}])
    return folder


def test_adapters_in_one_forward_give_the_same_table(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA."""
    words = ["score", here / "model", "--suite", here / "trees.jsonl", "--suite", here / "text.jsonl"]
    words += ["--adapter", here / "one", "--adapter", here / "two", "--dtype", "float32", "--json"]
    in_turn = json.loads(call(*words, "--items", tmp_path / "in-turn.parquet").stdout)
    monkeypatch.setattr(adapter_module, "DEVICES", {"cpu"})
    together = json.loads(call(*words, "--items", tmp_path / "together.parquet").stdout)
    assert together.keys() == in_turn.keys()
    one, two = (pd.read_parquet(tmp_path / f"{how}.parquet") for how in ("in-turn", "together"))
    assert list(one["predicted"]) == list(two["predicted"])
    assert one["loss_nats"].to_numpy() == pytest.approx(two["loss_nats"].to_numpy(), abs=1e-4, nan_ok=True)
    base, adapted = two[two["run_id"] == "base"], two[two["run_id"] != "base"]
    assert len(adapted) == 2 * len(base)
    assert list(base["choice_logprobs"].dropna().iloc[0]) != list(adapted["choice_logprobs"].dropna().iloc[0])


@pytest.mark.parametrize("together", [False, True])
def test_progress_counts_every_answer_once(here: Path, together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices, texts and written answers of the base and of two adapters, scored in turn or in one forward."""
    if together:
        monkeypatch.setattr(adapter_module, "DEVICES", {"cpu"})
    heard: list[tuple[str, int, int]] = []
    suites = [str(here / name) for name in ("trees.jsonl", "text.jsonl", "sums.jsonl")]
    adapters = [str(here / "one"), str(here / "two")]
    score_module.score_models(
        model_spec(str(here / "model"), dtype="float32", chat="auto"), adapters, suites,
        suite_options(kind="auto", choices="text", limit=None, max_new_tokens=4, num_fewshot=None, metric=None),
        lambda *told: heard.append(told),
    )  # fmt: skip
    choices = len(choice_rows(1, "m", 0)[0]["choices"])
    whole = 3 * (choices * COUNT + 1 + 3)
    assert {total for _, _, total in heard} == {whole}
    done = [count for _, count, _ in heard]
    assert done == sorted(done)
    assert done[-1] == whole
    assert {what for what, _, _ in heard} >= {"the base", *adapters}


def test_json_table_and_items_agree_and_the_base_is_loaded_once(here: Path, tmp_path: Path, monkeypatch: Any) -> None:
    loads = []
    plain = score_module.load_model
    monkeypatch.setattr(score_module, "load_model", lambda *a, **k: loads.append(a) or plain(*a, **k))
    items = tmp_path / "items.parquet"
    words = ["score", here / "model", "--suite", here / "trees.jsonl", "--suite", here / "text.jsonl"]
    words += ["--adapter", here / "one", "--adapter", here / "two", "--dtype", "float32"]
    result = call(*words, "--json", "--items", items)
    assert result.exit_code == 0, result.output
    assert len(loads) == 1
    found = json.loads(result.stdout)
    assert set(found) == {"model", "suites"}
    assert found["model"] == str(here / "model")
    trees = found["suites"]["trees"]
    assert set(trees) == {"n", "arms"}
    assert [arm["adapter"] for arm in trees["arms"]] == [None, str(here / "one"), str(here / "two")]
    assert all(set(arm) == {"adapter", "accuracy", "low", "high"} for arm in trees["arms"])
    assert found["suites"]["text"]["arms"][1]["accuracy"] is None

    frame = pd.read_parquet(items)
    wide = frame[frame["suite"] == "trees"].pivot(index="item_id", columns="run_id", values="score")
    assert trees["n"] == COUNT == len(wide)
    for arm in trees["arms"]:
        name = arm["adapter"] or "base"
        assert arm["accuracy"] == pytest.approx(wide[name].mean())
        assert 0 <= arm["low"] < arm["accuracy"] < arm["high"] <= 1

    table = call(*words)
    assert "nats/token" in table.stdout
    lost = int(((wide["base"] > 0.5) & (wide[str(here / "one")] <= 0.5)).sum())
    won = int(((wide["base"] <= 0.5) & (wide[str(here / "one")] > 0.5)).sum())
    assert lost + won > 0
    p_value = stats.binomtest(lost, lost + won, 0.5).pvalue
    wanted = [f"{100 * (wide[str(here / 'one')] - wide['base']).mean():+.1f}", str(lost), str(won), f"{p_value:.2g}"]
    flat = table.stdout.replace("\n", " ")
    assert all(word in flat for word in wanted), wanted


def test_predictions_are_those_of_the_adapter_alone(here: Path, tmp_path: Path) -> None:
    """Whatever stood on the base before: the base's numbers beside adapters, and an adapter's after another."""
    both, alone = tmp_path / "both.jsonl", tmp_path / "alone.jsonl"
    words = ["score", here / "model", "--suite", here / "trees.jsonl", "--dtype", "float32"]
    adapters = ["--adapter", here / "prompt", "--adapter", here / "two"]
    assert call(*words, *adapters, "--items", both).exit_code == 0
    assert call(*words, "--adapter", here / "two", "--items", alone).exit_code == 0
    first, second = (pd.read_json(path, lines=True) for path in (both, alone))
    for run_id in ("base", str(here / "two")):
        a, b = (frame[frame["run_id"] == run_id].reset_index(drop=True) for frame in (first, second))
        pd.testing.assert_frame_equal(a, b)
    prompts = first[first["run_id"] == str(here / "prompt")]["choice_logprobs"]
    assert prompts.tolist() != first[first["run_id"] == "base"]["choice_logprobs"].tolist()


def test_numbers_are_reasoning_and_words_are_not(here: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = call(
        "score",
        here / "model",
        "--suite",
        f"plus={here / 'sums.jsonl'}",
        "--max-new-tokens",
        4,
        "--harness-output",
        out,
    )
    assert result.exit_code == 0, result.output
    (path,) = out.rglob("results_*.json")
    found = json.loads(path.read_text())
    assert list(found["results"]) == ["plus"]
    assert "exact_match,none" in found["results"]["plus"]
    assert "f1,none" not in found["results"]["plus"]  # words would have one


def test_lm_eval_s_own_tools_read_the_output(here: Path, tmp_path: Path) -> None:
    utils = pytest.importorskip("lm_eval.utils")
    out = tmp_path / "out"
    words = ["score", here / "model", "--suite", here / "trees.jsonl", "--suite", here / "text.jsonl"]
    assert call(*words, "--adapter", here / "one", "--harness-output", out).exit_code == 0
    assert len(list(out.iterdir())) == 2
    for path in sorted(out.rglob("results_*.json")):
        found = json.loads(path.read_text())
        assert path.parent.name == utils.sanitize_model_name(found["model_name"])
        table = utils.make_table(found)
        assert "|trees" in table
        samples = list(path.parent.glob("samples_*.jsonl"))
        assert {utils.get_file_task_name(one.name) for one in samples} == {"trees", "text"}
        assert {utils.get_file_datetime(one.name) for one in samples} == {utils.get_file_datetime(path.stem)}
        rows = [json.loads(line) for line in (next(p for p in samples if "trees" in p.name)).read_text().splitlines()]
        scores = [row["acc"] for row in rows]
        assert found["results"]["trees"]["acc,none"] == pytest.approx(sum(scores) / COUNT)
        error = pd.Series(scores).std(ddof=1) / math.sqrt(COUNT)
        assert found["results"]["trees"]["acc_stderr,none"] == pytest.approx(error)
        assert found["results"]["text"]["bits_per_byte,none"] > 0
        best = [max(range(3), key=lambda k: float(row["resps"][k][0][0])) for row in rows]
        assert [row["doc"]["choices"][k] == row["target"] for k, row in zip(best, rows, strict=True)] == [
            bool(score) for score in scores
        ]


def test_wrong_input_is_one_line_each(here: Path, tmp_path: Path) -> None:
    trees = ("--suite", here / "trees.jsonl")
    cases: list[tuple[tuple[object, ...], str]] = [
        ((here / "model", *trees, "--adapter", here / "gone"), "adapter: found no such folder"),
        ((here / "model", *trees, "--adapter", here / "model"), "adapter: found no adapter_config.json"),
        ((here / "model", *trees, "--adapter", here / "of-wide"), "adapter: found size mismatch"),
        ((here / "model", *trees, "--adapter", here / "of-deep"), "layers.2.* which is not in this base"),
        ((here / "deep", *trees, "--adapter", here / "queries"), "no tensor for .*layers.2.* which is in this base"),
        ((here / "model", *trees, *(["--adapter", here / "one"] * 2)), "the same adapter again"),
        ((here / "none", *trees), "model: found nothing there"),
        ((here / "model", "--suite", here / "gone.jsonl"), "--suite: found no such file"),
        ((here / "model", "--suite", here), "--suite: found a folder"),
        ((here / "model", "--suite", here / "asked.jsonl"), "asked.jsonl: line 1"),
        ((here / "model", *trees, *trees), "beside .* expected suites of different names"),
        (
            (here / "model", *trees, "--kind", "memory"),
            '--kind: found "memory", expected one of auto, recall, reasoning',
        ),
        ((here / "model", *trees, "--limit", 0), "--limit: found 0, expected a whole number of 1 or more"),
        ((here / "model", *trees, "--items", tmp_path / "x.csv"), "expected a file that ends in .parquet or .jsonl"),
        (
            (here / "model", *trees, "--items", here / "trees.jsonl"),
            "trees.jsonl.*, a file that exists, expected a new",
        ),
        ((here / "model", *trees, "--confidence", 2), "--confidence: found 2"),
    ]
    for words, message in cases:
        result = call("score", *words)
        assert result.exit_code == 2, (message, result.output)
        assert result.stdout == ""
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, lines
        assert re.search(message, lines[0]), f"{message!r} is not in {lines[0]!r}"


def test_long_answers_that_are_compared_word_for_word_are_told(here: Path, tmp_path: Path) -> None:
    for words, told in ((3, False), (40, True)):
        rows = [{"id": "a", "question": "How does an oak grow?", "answer": "slowly " * words}]
        write_rows(tmp_path / f"{words}.jsonl", rows)
        result = call("score", here / "model", "--suite", tmp_path / f"{words}.jsonl", "--max-new-tokens", 2)
        assert result.exit_code == 0
        assert ("compared word for word" in " ".join(result.output.split())) == told


def test_without_lm_eval_one_line_says_what_to_install(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for words in (("harness", "--tasks", "arc_easy"), ("score", here / "model", "--suite", "arc_easy")):
        result = call(*words)
        assert result.exit_code == 2, result.output
        assert "pip install 'rankscope[harness]'" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_task_of_lm_eval_by_both_commands(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    task = save_task(tmp_path / "tasks")
    words = ["score", here / "model", "--suite", task, "--num-fewshot", 2, "--dtype", "float32", "--json"]
    ours = call(*words, "--adapter", here / "one")
    assert ours.exit_code == 0, ours.output
    arm = json.loads(ours.stdout)["suites"]["towns"]["arms"][1]
    arguments = f"pretrained={here / 'model'},adapter={here / 'one'},dtype=float32"
    line = ["harness", "--model", "rankscope", "--model_args", arguments, "--tasks", task, "--num_fewshot", 2]
    line += ["--output_path", tmp_path / "out", "--log_samples"]
    theirs = call(*line)
    assert theirs.exit_code == 0, theirs.output
    assert "|towns|" in theirs.output
    (path,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(path.read_text())["results"]["towns"]["acc,none"] == pytest.approx(arm["accuracy"])


@pytest.mark.slow
def test_a_chat_template_is_used_unless_told_otherwise(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model", chat=True, initializer_range=0.3)
    write_rows(tmp_path / "trees.jsonl", choice_rows(6, "m", 0))
    prompts = []
    for chat in ("auto", "never"):
        out = tmp_path / chat
        words = ["--suite", tmp_path / "trees.jsonl", "--chat", chat, "--harness-output", out]
        assert call("score", tmp_path / "model", *words).exit_code == 0
        (path,) = out.rglob("samples_*.jsonl")
        prompts.append(json.loads(path.read_text().splitlines()[0])["doc"]["prompt"])
    assert prompts == ["<|user|>Question: Which tree is m0?<|assistant|>", "Question: Which tree is m0?\nAnswer:"]
