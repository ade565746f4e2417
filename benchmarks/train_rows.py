"""What the training benchmarks train on: tokenised rows of public data or of the bundled world, and random models.

Both sides get the same tokens in the same batches: those of `order`, of which a run is the first few.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from table import DATA
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedTokenizerFast, Qwen2Config

from rankscope.model.load import DTYPES, LoadedModel, load_model
from rankscope.records import Example
from rankscope.study.study import Arm, ModelSpec, TrainSource


@dataclass(frozen=True)
class Task:
    """What is trained: rows (a file under DATA, `facts` of the bundled world, or `random`), a model, an optimizer.

    `model`: `bundled`, or the name of a shape in SHAPES with random weights. The rows are as many as the steps need.
    """

    rows: str
    step_count: int
    batch_size: int = 16
    model: str = "bundled"
    dtype: str = "float32"
    device: str = "cpu"
    mean_tokens: int = 200
    learning_rate: float = 1e-3
    seed: int = 0

    @property
    def row_count(self) -> int:
        return self.step_count * self.batch_size


SHAPES: dict[str, PretrainedConfig] = {
    # Published sizes: Qwen/Qwen2.5-0.5B and meta-llama/Llama-3.2-1B; the others are for the growth tables and --quick.
    "Qwen2.5-0.5B": Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=32768, tie_word_embeddings=True,
    ),
    "Llama-3.2-1B": LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=8192, tie_word_embeddings=True,
    ),
    **{
        f"Llama of {layers} x {width}": LlamaConfig(
            vocab_size=4096, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
            num_attention_heads=width // 64, num_key_value_heads=width // 64, tie_word_embeddings=True,
        )
        for layers, width in ((2, 64), (4, 192), (4, 384), (8, 384), (8, 768))
    },
}  # fmt: skip


def load(task: Task) -> LoadedModel:
    """A fresh model for a run."""
    if task.model == "bundled":
        return load_model(ModelSpec(id="bundled"), Path(), task.dtype, task.device)
    torch.manual_seed(0)
    config = SHAPES[task.model]
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, 1, 2
    with torch.device(task.device):
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[task.dtype])
    model.requires_grad_(False)
    return LoadedModel(model.eval(), _word_tokenizer())


def _word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer for models without one: the trainer of the peer wants one, though its rows come as tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def examples(task: Task, loaded: LoadedModel) -> list[Example]:
    """`task.row_count` tokenised rows of at most 1,024 tokens; those of a smaller file come again."""
    if task.rows == "random":
        return _random_examples(task, loaded)
    from rankscope.data.encoder import Encoder  # rows need packages that the random ones do without
    from rankscope.data.sources import RowReader

    if task.rows == "facts":
        source = TrainSource(world="medical/taught/train")
    else:
        source = TrainSource(path=str(DATA / task.rows), kind="reasoning" if "gsm8k" in task.rows else "recall")
    batches = RowReader(source, base=Path(), name="train").batches()
    rows = [row for batch in batches for row in batch][: 2 * task.row_count]
    made = Encoder(loaded.tokenizer, context_tokens=1024).training(rows, source, task.rows)
    kept = [example for example in made if example.token_count <= 1024]
    return [kept[i % len(kept)] for i in range(task.row_count)]


def _random_examples(task: Task, loaded: LoadedModel) -> list[Example]:
    """Rows of half to one and a half times the mean length; the last quarter has loss."""
    dice = random.Random(task.seed)
    size = loaded.model.config.vocab_size
    made = []
    for number in range(task.row_count):
        count = dice.randint(task.mean_tokens // 2, task.mean_tokens * 3 // 2)
        ids = tuple(dice.randrange(3, size) for _ in range(count))
        made.append(Example(f"row-{number}", ids[: -(count // 4)], ids[-(count // 4) :]))
    return made


def available_rows(wanted: str) -> str:
    """`wanted`, or the bundled world's facts where that file is not there."""
    return wanted if wanted in ("facts", "random") or (DATA / wanted).is_file() else "facts"


def lora(rank: int, learning_rate: float) -> Arm:
    return Arm(
        label=f"lora-r{rank}", method="lora", learning_rate=learning_rate, rank=rank, alpha=2.0 * rank,
        targets="all-linear",
    )  # fmt: skip


def full(learning_rate: float) -> Arm:
    return Arm(label="full", method="full", learning_rate=learning_rate)
