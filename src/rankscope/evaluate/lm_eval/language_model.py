"""lm-eval's `rankscope` model: its three kinds of request answered by our scorers. Importing this file registers it.

    import rankscope.evaluate.lm_eval.language_model
    lm_eval.simple_evaluate(model="rankscope", model_args="pretrained=FOLDER,adapter=FOLDER", tasks=[...])

What is tokenised, cut and stopped is lm-eval 0.4.13's `hf` model's (`lm_eval/models/huggingface.py`), so that the same
task gives the same result; what is computed once is more: every context once for all its continuations.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from rankscope.data.batch_tokenizer import Ids
from rankscope.data.chat_rendering import lm_eval_chat
from rankscope.data.encoder import Encoder
from rankscope.evaluate.choice_scoring import choices_with_greedy
from rankscope.evaluate.generation import written_texts
from rankscope.evaluate.lm_eval.task import generation_settings
from rankscope.evaluate.score_suites import eos_ids
from rankscope.model.load import LoadedModel, load_model
from rankscope.model.methods.attach import SavedAdapter, attach
from rankscope.model.methods.virtual_tokens_modules import virtual_tokens
from rankscope.records import Item
from rankscope.study.problems import InputProblems, Problem, show
from rankscope.study.study import ModelSpec

TOKEN_BUDGET = {"cpu": 2048, "cuda": 16384}


@register_model("rankscope")
class RankscopeLM(TemplateLM):
    """A base model, with an adapter or without, for lm-eval.

    pretrained: `bundled`, a folder or a hub id, or a LoadedModel. adapter (or `peft`, as the `hf` model calls it): a
    folder that PEFT saved. dtype: float32, bfloat16 or auto (bfloat16 on CUDA, else float32). batch_size is accepted
    and not used: batches hold up to `token_budget` tokens. Raises InputProblems for a model, adapter or argument that
    is none.
    """

    def __init__(
        self,
        pretrained: str | LoadedModel,
        adapter: str | None = None,
        *,
        peft: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        token_budget: int | None = None,
        max_length: int | None = None,
        trust_remote_code: bool = False,
        batch_size: int | str | None = None,
        max_batch_size: int | str | None = None,
        **unknown: object,
    ) -> None:
        super().__init__()
        if unknown:
            _refuse(next(iter(unknown)), "an argument that this model does not have", "one of pretrained, adapter, "
                    "revision, dtype, device, token_budget, max_length, trust_remote_code")  # fmt: skip
        if isinstance(pretrained, LoadedModel):
            loaded = pretrained
        else:
            cuda = torch.cuda.is_available() and not (device or "").startswith("cpu")
            device = "cuda" if cuda else "cpu"  # lm-eval asks for cuda unless it is told otherwise
            loaded = load_model(_spec(pretrained, revision, trust_remote_code), Path(), _dtype(dtype, device), device)
        self.loaded, self.tokenizer = loaded, loaded.tokenizer
        self.model = loaded.model
        self._device = self.model.device
        self._stack = ExitStack()
        folder = adapter if adapter is not None else peft
        if folder is not None:
            self._stack.enter_context(attach(loaded, SavedAdapter(Path(folder))))
        self.token_budget = token_budget or TOKEN_BUDGET.get(self.model.device.type, TOKEN_BUDGET["cuda"])
        self.max_length = (max_length or _context_tokens(loaded)) - virtual_tokens(self.model)
        self._encoder = Encoder(self.tokenizer, context_tokens=self.max_length, chat=False)

    def close(self) -> None:
        """Take the adapter off a model that was handed in."""
        self._stack.close()

    # ---- what TemplateLM asks ----

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        if add_special_tokens is not None:
            return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))
        return list(self._encoder.tokens.tokenize([string])[0])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The tokenizer's own chat template; without the system turn where it takes none."""
        return lm_eval_chat(self.tokenizer, chat_history, add_generation_prompt)

    # ---- the three kinds of request ----

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy decoding would write it) of each (context, continuation)."""
        pairs = [request.args for request in requests]
        found = self._loglikelihood_tokens(
            [(pair, list(a), list(b)) for pair, (a, b) in zip(pairs, self._encoder.tokens.split(pairs), strict=True)]
        )
        for pair, answer in zip(pairs, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, answer)
        return found

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Requests with the same context become one item. What is too long loses tokens on the left, as in `hf`."""
        keep = self.max_length + 1
        contexts: dict[Ids, dict[Ids, int]] = {}
        places: list[tuple[Ids, int]] = []
        for _, context, continuation in requests:
            if len(continuation) > self.max_length:
                _refuse("max_length", f"a continuation of {len(continuation)} tokens", f"at most {self.max_length}")
            room = max(keep - len(continuation), 1)
            prompt = tuple(context[-room:])
            choices = contexts.setdefault(prompt, {})
            places.append((prompt, choices.setdefault(tuple(continuation), len(choices))))
        items = [Item(str(i), "choices", prompt, tuple(held)) for i, (prompt, held) in enumerate(contexts.items())]
        scores = choices_with_greedy(self.model, items, token_budget=self.token_budget)
        by_prompt = dict(zip(contexts, scores, strict=True))
        return [by_prompt[prompt][place] for prompt, place in places]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood in nats of each whole text; beyond the context in windows of its size."""
        windows: list[tuple[Any, list[int], list[int]]] = []
        owner: list[int] = []
        texts = [request.args[0] for request in requests]
        for number, ids in enumerate(self._encoder.tokens.tokenize(texts)):
            for window in get_rolling_token_windows(list(ids), self.prefix_token_id, self.max_length, 1):
                context, continuation = make_disjoint_window(window)
                windows.append((None, context, continuation))
                owner.append(number)
        sums = [0.0] * len(texts)
        for number, (value, _) in zip(owner, self._loglikelihood_tokens(windows), strict=True):
            sums[number] += value
        for text, value in zip(texts, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), value)
        return sums

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """What greedy decoding writes after each context, up to the first stop string."""
        written = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(number)
        for numbers in groups.values():
            settings = generation_settings(requests[numbers[0]].args[1], "generation_kwargs")
            contexts = [requests[number].args[0] for number in numbers]
            for number, text in zip(numbers, self._written(contexts, *settings), strict=True):
                written[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return written

    def _written(self, contexts: Sequence[str], until: tuple[str, ...], max_new_tokens: int) -> list[str]:
        room = self.max_length - max_new_tokens
        if room < 1:
            _refuse("max_gen_toks", str(max_new_tokens), f"less than the context of {self.max_length} tokens")
        prompts = [ids[-room:] for ids in self._encoder.tokens.tokenize(contexts)]
        ends = eos_ids(self.model, self.tokenizer)
        return written_texts(self.model, self.tokenizer, prompts, until, max_new_tokens, ends, self.token_budget)


def _spec(pretrained: str, revision: str | None, trust_remote_code: bool) -> ModelSpec:
    return ModelSpec(id=pretrained, revision=revision, trust_remote_code=bool(trust_remote_code))


def _dtype(given: str, device: str) -> Literal["float32", "bfloat16"]:
    if given == "float32" or (given == "auto" and device != "cuda"):
        return "float32"
    if given not in ("auto", "bfloat16"):
        _refuse("dtype", show(given), "auto, float32 or bfloat16")
    return "bfloat16"


def _context_tokens(loaded: LoadedModel) -> int:
    config = loaded.model.config.get_text_config(decoder=True)
    return int(getattr(config, "max_position_embeddings", 0) or 2048)


def _refuse(place: str, found: str, expected: str) -> None:
    raise InputProblems([Problem("model_args", place, found, expected)])
