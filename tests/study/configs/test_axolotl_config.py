"""axolotl's config in our words, and its own formats as templates that write what axolotl writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_cases import read

from rankscope.data.prompts import PromptMaker
from rankscope.records import Row
from rankscope.study.configs.config_file import read_config
from rankscope.study.problems import InputProblems
from rankscope.study.study import TrainSource


def written(template: str, question: str, context: str | None) -> str:
    """The prompt that the study makes by a template."""
    source = TrainSource(path="rows.jsonl", domain="mine", template=template)
    row = Row(item_id="a", place="line 1", question=question, context=context, answer="Yes.")
    return PromptMaker(source, "rows.jsonl").plain(row)


def test_alpaca_is_written_as_axolotl_writes_it(tmp_path: Path) -> None:
    (data,) = read("axolotl/qlora-small.yml", tmp_path).train
    assert data.columns == {"question": "instruction", "context": "input", "answer": "output"}
    assert data.template is not None
    assert written(data.template, "Sum up.", None) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSum up.\n\n### Response:\n"
    )
    assert written(data.template, "Sum up.", "A text.").endswith(
        "### Instruction:\nSum up.\n\n### Input:\nA text.\n\n### Response:\n"
    )


def test_a_format_of_ones_own_is_a_template(tmp_path: Path) -> None:
    config = read("axolotl/own-format-dora.yml", tmp_path)
    (data,) = config.train
    assert data.columns == {"question": "ask", "context": "about", "answer": "reply"}
    assert data.template is not None
    assert written(data.template, "Where is it?", "12") == (
        "Answer as the shop does.\nCustomer: Where is it?\nOrder: 12\nShop:\n"
    )
    assert written(data.template, "Hi", None) == "Answer as the shop does.\nCustomer: Hi\nShop:\n"
    assert config.model.chat == "never"
    assert (config.adapter.method, config.validation_rows) == ("dora", 200)


def test_conversations_text_and_test_sets(tmp_path: Path) -> None:
    config = read("axolotl/conversations-and-text.yml", tmp_path)
    assert [data.columns for data in config.train] == [{"conversations": "conversations"}, {"text": "body"}]
    assert [(data.where, data.split) for data in config.test] == [("acme/dialogues", "test")]
    assert (config.adapter.method, config.schedule, config.max_steps) == ("rslora", "constant", 200)
    assert "house_flag: not known here" in config.not_carried
    assert any(line.startswith("chat_template: gemma3: a template that axolotl has") for line in config.not_carried)


def test_full_fine_tuning_has_no_adapter(tmp_path: Path) -> None:
    config = read("axolotl/full-8b.yaml", tmp_path)
    assert (config.adapter.method, config.batch_size, config.epochs) == ("full", 8, 1)


@pytest.mark.parametrize("kind", ["pygmalion", "llama2_chat", "input_output"])
def test_a_prompt_that_only_axolotl_has_is_asked_for_in_one_line(kind: str) -> None:
    values = {"base_model": "a/b", "micro_batch_size": 1, "datasets": [{"path": "a/c", "type": kind}]}
    lines = read_config(values, "x.yaml", [], "axolotl").not_carried
    assert [line for line in lines if kind in line] == [
        f"datasets[0].type: {kind}: a prompt that only axolotl has by this name: put its text into the study as the "
        "`template` of the training set, and its columns as `columns`"
    ]


def test_a_warm_up_below_one_is_a_share() -> None:
    values = {"base_model": "a/b", "micro_batch_size": 1, "warmup_steps": 0.1, "datasets": [{"path": "a/c"}]}
    config = read_config(values, "x.yaml", [], "axolotl")
    assert (config.warmup_fraction, config.warmup_steps) == (0.1, None)


def test_preference_training_is_refused() -> None:
    values = {"base_model": "a/b", "rl": "dpo", "datasets": [{"path": "a/c", "type": "chatml.intel"}]}
    with pytest.raises(InputProblems, match='rl: found "dpo", expected none: a study is about supervised'):
        read_config(values, "x.yaml", [], "axolotl")
