"""Text as lm-eval's `generate_until` has it: greedy, up to the first stop string, white space kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rankscope.evaluate.generate import StopStrings, greedy


class FirstStop(StopStrings):
    """lm-eval's stop strings: the first one ends the text, even before there is any."""

    def cut(self, text: str) -> str | None:
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        return text[: min(found)] if found else None


def written_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[int, ...]],
    until: Sequence[str],
    max_new_tokens: int,
    eos_ids: Collection[int],
    token_budget: int,
) -> list[str]:
    """What is written after each prompt, cut at the first of `until` (Ref.: lm-eval 0.4.13, `HFLM.generate_until`).

    Raises NotFinite where logits are not finite.
    """

    def decode(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    stop = FirstStop([text for text in until if text], decode)
    found = greedy(model, prompts, max_new_tokens=max_new_tokens, eos_ids=eos_ids, token_budget=token_budget, stop=stop)
    texts = [decode(tokens) for tokens in found]
    return [text if (cut := stop.cut(text)) is None else cut for text in texts]
