"""What score_speed.py scores: rows and their prompts as text, the same for both sides, and the models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from table import DATA

from rankscope.data.encoder import Encoder
from rankscope.model.load import load_tokenizer
from rankscope.records import Row
from rankscope.study.study import ModelSpec, SuiteSource

Style = Literal["text", "letters", "generated"]
CONTEXT_TOKENS = 2048
NEW_TOKENS = 128


@dataclass(frozen=True)
class Work:
    """One row of the table: a file of questions, how they are answered, and the file of the five examples before each.

    `items` for the bundled model; the larger one gets a tenth. `subjects` picks questions by the subject in their id,
    each with the examples of its own subject, as MMLU is asked.
    """

    name: str
    file: str
    items: int
    style: Style = "text"
    examples: str | None = None
    subjects: tuple[str, ...] = ("",)


WORKS = (
    Work("medmcqa, zero-shot, text choices", "medmcqa/validation.jsonl", 300),
    Work("mmlu_law, zero-shot, text choices", "mmlu_law/test.jsonl", 100),
    Work("medmcqa, 5-shot, text choices", "medmcqa/validation.jsonl", 100, examples="medmcqa/extra_train.jsonl"),
    Work(
        "MMLU (3 subjects), 5-shot, letters", "mmlu_medical/test.jsonl", 180, "letters", "mmlu_medical/dev.jsonl",
        ("anatomy", "medical_genetics", "virology"),
    ),
    Work("GSM8K, zero-shot, generated", "gsm8k/test.jsonl", 100, "generated"),
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """Rows for us, and for the peer the same as strings: a prompt and what may follow it (nothing where generated)."""

    style: Style
    source: SuiteSource
    rows: tuple[Row, ...]
    strings: tuple[tuple[str, tuple[str, ...]], ...]
    right: tuple[int | None, ...]


def asked(work: Work, model: str, count: int) -> Asked:
    """`count` questions of the work, the same number of each subject. Raises FileNotFoundError without its files."""
    source = SuiteSource(
        path="rows", kind="reasoning" if work.style == "generated" else "recall",
        choices="letters" if work.style == "letters" else "text",
    )  # fmt: skip
    encoder = Encoder(load_tokenizer(ModelSpec(id=model), Path()), context_tokens=CONTEXT_TOKENS, chat=False)
    rows: list[Row] = []
    for subject in work.subjects:
        context = _examples(work.examples, subject, source, encoder) if work.examples else None
        records = [one for one in _records(work.file) if subject in one["id"]][: count // len(work.subjects)]
        rows += [_row(one, context, work.style) for one in records]
    strings = []
    for row, item in zip(rows, encoder.items(rows, source, work.file), strict=True):
        letters = "ABCDEFGH"[: len(row.choices or ())]
        follow = letters if work.style == "letters" else row.choices or ()
        strings.append((item.prompt_text, tuple(f" {choice}" for choice in follow)))
    return Asked(work.style, source, tuple(rows), tuple(strings), tuple(row.answer_index for row in rows))


def _records(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / file).read_text(encoding="utf-8").splitlines()]


def _row(record: dict[str, Any], context: str | None, style: Style) -> Row:
    if style == "generated":
        return Row(record["id"], "", record["question"], answer=record["answer"])
    choices, right = tuple(record["choices"]), record["answer_index"]
    return Row(record["id"], "", record["question"], context=context, choices=choices, answer_index=right)


def _examples(file: str, subject: str, source: SuiteSource, encoder: Encoder) -> str:
    """Five questions with their answers, as text to stand before a question."""
    rows = [_row(one, None, "text") for one in _records(file) if subject in one["id"]][:5]
    items = encoder.items(rows, source, file)
    answers = [
        "ABCDEFGH"[row.answer_index or 0] if source.choices == "letters" else (row.choices or ())[row.answer_index or 0]
        for row in rows
    ]
    return "\n\n".join(f"{item.prompt_text} {answer}" for item, answer in zip(items, answers, strict=True))


def save_random_model(folder: Path) -> str:
    """A random Llama of 27 million parameters (8 layers of 512) with the bundled tokenizer."""
    tokenizer = load_tokenizer(ModelSpec(id="bundled"), Path())
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=CONTEXT_TOKENS, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def sample(question: Asked, count: int) -> Asked:
    """Every so many-th question, `count` of them."""
    picked = slice(None, None, max(1, len(question.rows) // count))

    def some(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[picked])

    return Asked(question.style, question.source, some(question.rows), some(question.strings), some(question.right))
