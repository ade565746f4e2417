"""One step, scores and answers by a model's own forward, to compare ours with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_families import WINDOW
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from rankscope.data.training_batches import collate
from rankscope.model.load import LoadedModel, load_model
from rankscope.model.methods.attach import Adapted
from rankscope.model.model_source import no_progress_bars
from rankscope.model.output_head import head_logits
from rankscope.records import Example, Item
from rankscope.study.study import ModelSpec


def fresh(folder: Path) -> LoadedModel:
    return load_model(ModelSpec(id=str(folder)), folder, "float32", "cpu")


def plain(folder: Path) -> PreTrainedModel:
    """The checkpoint as transformers alone loads it."""
    with no_progress_bars():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def rows() -> list[Example]:
    """Rows shorter and longer than the window."""
    generator = torch.Generator().manual_seed(1)
    lengths = [(3, 2), (WINDOW + 12, 9), (1, 1), (WINDOW - 4, 5)]
    return [
        Example(
            item_id=str(i),
            prompt_ids=tuple(torch.randint(5, 250, (prompt,), generator=generator).tolist()),
            completion_ids=tuple(torch.randint(5, 250, (completion,), generator=generator).tolist()),
        )
        for i, (prompt, completion) in enumerate(lengths)
    ]


def own_loss(model: torch.nn.Module, examples: list[Example]) -> Tensor:
    """The model's own loss: right-padded rows, a mask, labels."""
    longest = max(example.token_count for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, example in enumerate(examples):
        whole = torch.tensor(example.prompt_ids + example.completion_ids)
        ids[i, : len(whole)], mask[i, : len(whole)] = whole, 1
        labels[i, len(example.prompt_ids) : len(whole)] = whole[len(example.prompt_ids) :]
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss


def our_loss(adapted: Adapted, examples: list[Example]) -> Tensor:
    forward, batch = adapted.training_forward(), collate(examples)
    with forward.ready():
        logits = head_logits(adapted.model, forward.target_states(batch))
        return torch.nn.functional.cross_entropy(logits, batch.target_ids)


def gradients(parameters: dict[str, torch.nn.Parameter], loss: Tensor) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), found, strict=True)
    }


def shake(adapted: Adapted, seed: int = 0) -> None:
    """Make an adapter that changes nothing yet into one that does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters.values():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * noise.to(parameter.dtype))


def assert_same_step(adapted: Adapted, examples: list[Example]) -> None:
    ours, own = our_loss(adapted, examples), own_loss(adapted.model, examples)
    assert ours.item() == pytest.approx(own.item(), abs=1e-5)
    found, expected = gradients(adapted.parameters, ours), gradients(adapted.parameters, own)
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest > 1e-3
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max().item() <= 1e-5 * max(1.0, largest), name


def own_scores(model: PreTrainedModel, item: Item) -> list[float]:
    scores = []
    for choice in item.choices_ids:
        with torch.no_grad():
            logprobs = model(torch.tensor([[*item.prompt_ids, *choice]])).logits[0].double().log_softmax(-1)
        start = len(item.prompt_ids) - 1
        scores.append(sum(float(logprobs[start + t, token]) for t, token in enumerate(choice)))
    return scores


def own_continuation(model: torch.nn.Module, prompt: tuple[int, ...], count: int) -> list[int]:
    """Greedy decoding by whole forwards, without a cache."""
    tokens = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            following = int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
        if following == 2:
            break
        tokens.append(following)
    return tokens[len(prompt) :]


def choice_items() -> list[Item]:
    """Items that branch, with prompts on both sides of the window."""
    generator = torch.Generator().manual_seed(2)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(5, 250, (count,), generator=generator).tolist())

    return [
        Item(item_id=str(i), form="choices", prompt_ids=draw(n), choices_ids=tuple(draw(k) for k in (3, 1, 5)))
        for i, n in enumerate((4, WINDOW + 7))
    ]
