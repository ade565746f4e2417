"""Tokenises many texts at a time on all cores, and splits a prompt's tokens from its continuation's as lm-eval does.

Prompt and continuation are one text, of which what lies beyond the prompt's own tokens is the continuation. Where the
tokenizer always splits at the boundary between them, they are tokenised apart instead, which gives the same tokens: so
a prompt is tokenised once and not once more for each continuation. That is so for byte-level BPE with pre-tokenizers
that never join a space to what stands before it, and after a special token.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

from tokenizers import pre_tokenizers

from rankscope.study.problems import InputProblems, Problem, show

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]

_SETTING = "TOKENIZERS_PARALLELISM"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BEFORE = (*"aB1.'\"/-)_$é中²٣’😀", "\u0301", "\u200b", "\x00")
"""Characters of every kind that regular expressions of tokenizers tell apart: what may stand at a prompt's end."""
_AFTER = (*_BEFORE, *" \n\t\xa0")


class BatchTokenizer:
    """A tokenizer's own tokens. `prefix_id` is the BOS token, or EOS where there is none: what a text alone is
    predicted from. `vocabulary_size`: how many tokens the model has embeddings for, where that is known; `beyond` are
    the tokens that it has none for, and a text with one of them raises BeyondEmbeddings."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary_size: int | None = None) -> None:
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        known = tokenizer.added_tokens_decoder if vocabulary_size is not None else {}
        self.beyond = {token_id: str(token) for token_id, token in known.items() if token_id >= (vocabulary_size or 0)}
        self._backend: Any = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        bos_id: int | None = tokenizer.bos_token_id
        self.prefix_id: int = tokenizer.eos_token_id if bos_id is None else bos_id
        self._prefix_text: str = tokenizer.decode(self.prefix_id)
        self._leading_ids = self._leading()
        self._splits_at_space = self._backend is not None and _splits_at_space(tokenizer)
        added = tokenizer.added_tokens_decoder.values()
        self._added = [token.content for token in added]
        self._special = [token.content for token in added if token.special and not token.normalized]
        self._alone: dict[str, bool] = {}
        self._special_ends = frozenset(text[-1:] for text in self._special)

    def split(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
        """Each (prompt, continuation) as (prompt ids, continuation ids), by the rule of lm-eval's causal models.

        White space at the prompt's end goes to the continuation; both are tokenised as one text, of which what lies
        beyond the prompt's own tokens is the continuation, even if the prompt's tokens are not how the text begins.
        A blank prompt is the BOS token, or EOS where there is none (Ref.: lm-eval 0.4.13, `TemplateLM.loglikelihood`,
        `_encode_pair`). Where that leaves no continuation, which lm-eval refuses, it is tokenised by itself.
        """
        moved = [(prompt.rstrip(), prompt[len(prompt.rstrip()) :] + rest) for prompt, rest in pairs]
        whole = [bool(prompt) and not self._splits(prompt, rest) for prompt, rest in moved]
        contexts = list(dict.fromkeys(prompt for prompt, _ in moved if prompt))
        rests = list(dict.fromkeys(rest for (_, rest), joined in zip(moved, whole, strict=True) if not joined))
        joins = [prompt + rest for (prompt, rest), joined in zip(moved, whole, strict=True) if joined]
        every = self.plain([*contexts, *joins, *rests])
        counts = len(contexts), len(contexts) + len(joins)
        context_ids = dict(zip(contexts, self._with_leading(contexts, every[: counts[0]]), strict=True))
        joined_ids = iter(self._with_leading(joins, every[counts[0] : counts[1]]))
        rest_ids = dict(zip(rests, every[counts[1] :], strict=True))
        found: list[tuple[Ids, Ids]] = []
        for (prompt, rest), joined in zip(moved, whole, strict=True):
            if joined:
                prompt_ids = context_ids[prompt]
                beyond = next(joined_ids)[len(prompt_ids) :]
                found.append((prompt_ids, beyond or self.plain([rest])[0]))
            elif prompt:
                found.append((context_ids[prompt], rest_ids[rest]))
            else:
                ids = rest_ids[rest]
                found.append(((self.prefix_id,), ids[1:] if ids[:1] == (self.prefix_id,) else ids))
        return found

    def tokenize(self, texts: Sequence[str]) -> list[Ids]:
        """Tokens with the BOS that the tokenizer puts first, but never a second one where the text itself begins so."""
        return self._with_leading(texts, self.plain(texts))

    def plain(self, texts: Sequence[str]) -> list[Ids]:
        """Tokens of the texts and nothing else."""
        found = self._plain(texts) if texts else []
        for ids in found if self.beyond else ():
            if not self.beyond.keys().isdisjoint(ids):
                token_id = next(token_id for token_id in ids if token_id in self.beyond)
                name = self._tokenizer.name_or_path or "tokenizer"
                raise BeyondEmbeddings(name, self.beyond[token_id], token_id, self._vocabulary_size or 0)
        return found

    def _plain(self, texts: Sequence[str]) -> list[Ids]:
        if self._backend is None:
            encoded = self._tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
            return [tuple(ids) for ids in encoded["input_ids"]]
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = self._tokenizer.split_special_tokens
        with _in_parallel():
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [tuple(encoding.ids) for encoding in encodings]

    def _with_leading(self, texts: Sequence[str], plain: Sequence[Ids]) -> list[Ids]:
        if not self._leading_ids:
            return list(plain)
        return [
            ids if text.startswith(self._prefix_text) else self._leading_ids + ids
            for text, ids in zip(texts, plain, strict=True)
        ]

    def _leading(self) -> Ids:
        """What the tokenizer itself puts before a text. What it may put behind is left away: the end is ours."""
        own, plain = self._tokenizer("a")["input_ids"], list(self.plain(["a"])[0])
        starts = [i for i in range(len(own)) if own[i : i + len(plain)] == plain]
        return tuple(own[: starts[0]]) if starts else ()

    def _splits(self, prompt: str, rest: str) -> bool:
        """Whether the tokenizer is known to split here. The prompt does not end in white space."""
        if not self._splits_at_space or not rest:
            return False
        if rest[0] == " " or (rest[0] == "\n" and prompt[-1] in _LETTERS):
            return True
        if prompt[-1] not in self._special_ends:
            return False
        return any(prompt.endswith(text) and self._stands_alone(text) for text in self._special)

    def _stands_alone(self, special: str) -> bool:
        """Whether no other added token can share characters with this one, wherever a text has it."""
        if special not in self._alone:
            self._alone[special] = not any(_overlap(special, other) for other in self._added)
        return self._alone[special]


@contextmanager
def _in_parallel() -> Iterator[None]:
    """The tokenizer's own threads are used here, whatever is set for processes that train."""
    before = os.environ.get(_SETTING)
    os.environ[_SETTING] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SETTING]
        else:
            os.environ[_SETTING] = before


def _splits_at_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text is always split before a space that follows anything but white space, and before a line break that
    follows a letter, and what stands on either side is tokenised as if it were alone."""
    backend: Any = tokenizer.backend_tokenizer
    added = list(tokenizer.added_tokens_decoder.values())
    if any(token.lstrip or token.rstrip or token.single_word or _joins(token.content) for token in added):
        return False
    if type(backend.model).__name__ != "BPE" or backend.model.dropout:
        return False
    if backend.normalizer is not None and json.loads(backend.normalizer.__getstate__())["type"] != "NFC":
        return False
    return backend.pre_tokenizer is not None and _pre_tokenizer_splits(backend.pre_tokenizer.__getstate__())


def _joins(content: str) -> bool:
    """Whether white space follows something else in a token."""
    return any(not one.isspace() and other.isspace() for one, other in pairwise(content))


@lru_cache(maxsize=8)
def _pre_tokenizer_splits(state: bytes) -> bool:
    """Of a byte-level pre-tokenizer, by its description: tried on characters of every kind around the boundary."""
    described = json.loads(state)
    steps = described["pretokenizers"] if described["type"] == "Sequence" else [described]
    for step in steps:
        split = step["type"] == "Split" and step["behavior"] == "Isolated" and "(?<" not in str(step["pattern"])
        if not (split or step["type"] == "Digits" or (step["type"] == "ByteLevel" and not step["add_prefix_space"])):
            return False
    if not any(step["type"] == "ByteLevel" for step in steps):
        return False
    made: Any = pre_tokenizers.Sequence([])
    made.__setstate__(state)
    lefts = {one + other: None for one, other in product(_BEFORE, repeat=2)}
    rights = [f" {one}" for one in _AFTER]
    pairs = [*product(lefts, rights), *product(("a", "1B", ".z"), (f"\n{one}" for one in _AFTER))]
    alone = {text: _words(made, text) for text in {text for pair in pairs for text in pair}}
    return all(_words(made, left + right) == alone[left] + alone[right] for left, right in pairs)


def _words(made: Any, text: str) -> list[str]:
    return [word for word, _ in made.pre_tokenize_str(text)]


def _overlap(text: str, other: str) -> bool:
    """Whether the two can share characters in a longer text."""
    if text == other:
        return False
    ends = any(text.startswith(other[-i:]) or text.endswith(other[:i]) for i in range(1, min(len(text), len(other))))
    return ends or text in other or other in text


class BeyondEmbeddings(InputProblems):
    """A text with a token that the model has no embedding for."""

    def __init__(self, name: str, token: str, token_id: int, vocabulary_size: int) -> None:
        self.found = f"the token {show(token)} ({token_id}), for which the model of {vocabulary_size} has no embedding"
        super().__init__([Problem(name, "tokenizer", self.found, "text of the model's own tokens")])

    def of(self, file: str, place: str) -> InputProblems:
        """The same fault at the file and row where it was found."""
        return InputProblems([Problem(file, place, self.found, "text of the model's own tokens")])
