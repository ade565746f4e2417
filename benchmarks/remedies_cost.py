"""What remedies cost: `retain: kl` against the same arms without it, and the base's samples against greedy decoding.

    python benchmarks/remedies_cost.py [--quick] [--device cpu|cuda] [--json FILE] [--only WORD]

Ours is with the remedy, the peer without, so a ratio of 0.6 is 1.7 times the time. The floors: 1 / 1.8 for one arm,
1 / 1.4 an arm in a pack of four, whose base runs once for all. On a CPU seconds are of this process's own time, which
other programs do not stretch. Samples at temperature 1 against the scorer's own greedy
decoder, both without an end, so that they write the same number of tokens. The difference is that of the mean task loss
of the first step in nats per token, which the penalty does not enter; of samples that of the tokens written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from table import Table, Timed, compare, parser_of
from torch import Tensor

from rankscope.data.encoder import Encoder
from rankscope.data.sources import RowReader
from rankscope.evaluate.generation import greedy
from rankscope.evaluate.sampling import sample
from rankscope.model.load import LoadedModel, load_model
from rankscope.model.methods.attach import NewAdapter, attach
from rankscope.records import Example
from rankscope.study.methods.remedy_settings import Retain
from rankscope.study.study import Arm, Budget, ModelSpec, Optimizer, TrainSource
from rankscope.train.fit import FitSettings, fit
from rankscope.train.remedies import Remedies

RANKS = (4, 8, 16, 32)
CONTEXT_TOKENS = 256


class Unkept:
    """A run that is only timed has no checkpoint."""

    def load(self) -> None:
        return None

    def save(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        """It is not resumed."""


def base(device: str) -> LoadedModel:

    return load_model(ModelSpec(id="bundled"), Path(), "float32", device)


def rows(loaded: LoadedModel, count: int) -> list[Example]:
    """Questions of the bundled world with their answers, about 20 tokens each."""

    source = TrainSource(world="medical/taught/train", domain="medical")
    found = [row for batch in RowReader(source, base=Path(), name="train").batches() for row in batch][:count]
    return Encoder(loaded.tokenizer, context_tokens=CONTEXT_TOKENS).training(found, source, "world")


def training(ranks: tuple[int, ...], steps: int, kl: float | None, device: str) -> Callable[[], Any]:
    """Some steps of LoRA arms that train together; gives the task's loss at the first step of each."""
    loaded = base(device)
    examples = rows(loaded, 32 * steps)
    remedies = Remedies(None if kl is None else Retain(kl=kl))
    settings = FitSettings(
        1e-3, 0, Budget(epochs=1, batch_size=32, max_sequence_tokens=CONTEXT_TOKENS), Optimizer(), 4096, 1e9,
        remedies=remedies,
    )  # fmt: skip
    arms = [
        Arm(label=f"r{rank}", method="lora", rank=rank, alpha=2.0 * rank, targets="all-linear", learning_rate=1e-3)
        for rank in ranks
    ]

    def work() -> list[float]:
        with attach(loaded, *(NewAdapter(arm, 0) for arm in arms)) as pack:
            found = fit(pack, examples, [settings] * len(arms), checkpoints=Unkept())
        return [result.steps[0].loss_nats_per_token for result in found]

    return partial(timed, work, device)


def timed(work: Callable[[], Any], device: str) -> Timed:
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    result = work()
    return Timed(clock() - start, result)


def writing(count: int, tokens: int, temperature: float | None, device: str) -> Callable[[], Any]:
    """So many rows of so many tokens from the start token, drawn, or by greedy decoding; gives how many tokens."""
    loaded = base(device)
    prompts = [(loaded.tokenizer.bos_token_id or loaded.tokenizer.eos_token_id,)] * count

    def greedily() -> int:
        found = greedy(loaded.model, prompts, max_new_tokens=tokens, eos_ids=(), token_budget=2048)
        return sum(map(len, found))

    def drawn() -> int:
        found = sample(
            loaded.model, prompts, temperature=temperature or 1.0, seed=0, max_new_tokens=tokens, eos_ids=(),
            token_budget=2048,
        )  # fmt: skip
        return sum(len(one.tokens) for one in found)

    return partial(timed, greedily if temperature is None else drawn, device)


def largest(ours: list[float], peer: list[float]) -> float:
    return max(abs(mine - theirs) for mine, theirs in zip(ours, peer, strict=True))


def main() -> None:
    arguments = parser_of(__doc__, "two steps, and 32 rows of 16 tokens").parse_args()
    steps, count, tokens = (2, 32, 16) if arguments.quick else (6, 128, 48)
    table, device = Table(arguments), arguments.device
    works = {
        f"retain: kl, LoRA r=16, {steps} steps of 32 facts": (
            "without it", partial(training, (16,), steps, 0.3, device), partial(training, (16,), steps, None, device),
            largest,
        ),
        f"retain: kl, a pack of ranks {', '.join(map(str, RANKS))}, {steps} steps": (
            "without it", partial(training, RANKS, steps, 0.3, device), partial(training, RANKS, steps, None, device),
            largest,
        ),
        f"{count} samples of {tokens} tokens": (
            "greedy decoding",
            partial(writing, count, tokens, 1.0, device),
            partial(writing, count, tokens, None, device),
            lambda ours, peer: float(abs(ours - peer)),
        ),
    }  # fmt: skip
    for work, (peer_name, ours, peer, difference) in works.items():
        if arguments.only in work:
            table.add(compare(work, peer_name, device, ours, peer, difference))


if __name__ == "__main__":
    main()
