"""Prompts and continuations tokenised apart: the same tokens as of one text, wherever that is done."""

from __future__ import annotations

import os
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers_small import LINES, make_tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rankscope.assets import bundled_base_path
from rankscope.data.batch_tokenizer import BatchTokenizer

WORDS = r"'(?i:[sdmt]|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TRAILING = r"\S+ ?|\s+"
"""Joins a space to what stands before it."""


def trained(pattern: str | None, *added: AddedToken | str, metaspace: bool = False) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    steps = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, byte_level])
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    else:
        tokenizer.normalizer = normalizers.NFC()
    special = ["</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*LINES, "so. So 'tis"], trainer)
    tokenizer.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    made = {
        "bundled": lambda: AutoTokenizer.from_pretrained(bundled_base_path()),
        "byte-level": lambda: make_tokenizer(bos=True),
        "words": lambda: trained(WORDS),
        "trailing": lambda: trained(TRAILING),
        "whole text": lambda: trained(None, metaspace=True),
        "joining": lambda: trained(None, AddedToken("A: B", normalized=False)),
        "stripping": lambda: trained(None, AddedToken("<x>", rstrip=True, normalized=False)),
    }
    tokenizer: PreTrainedTokenizerFast = made[kind]()
    return tokenizer


SPLITTING = ("bundled", "byte-level", "words")
OTHERS = ("trailing", "whole text", "joining", "stripping")
PIECES = (
    *("a", "So", "B", "é", "e\u0301", "中", "1", "234", "²", "'", "'s", '"', ".", ":", "/", "_", "😀", "\u200b", "ﬁ"),
    *(" ", "  ", "\n", "\n\n", "\t", "\r\n", "\xa0", "Answer", "Question:"),
    *("</s>", "<|im_start|>", "<|im_end|>", "<s>", "<", "|>", "A: B", "<x>", "<|end|>", "<|assistant|>"),
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


def as_one_text(tokenizer: PreTrainedTokenizerFast, prompt: str, rest: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The rule, with the tokenizer's own call."""

    def tokens(text: str, *, leading: bool) -> list[int]:
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        bos = tokenizer.bos_token
        return [tokenizer.bos_token_id, *ids] if leading and bos and not text.startswith(bos) else ids

    prefix = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    stripped = prompt.rstrip()
    rest = prompt[len(stripped) :] + rest
    if not stripped:
        ids = tokens(rest, leading=False)
        return (prefix,), tuple(ids[1:] if ids[:1] == [prefix] else ids)
    prompt_ids = tokens(stripped, leading=True)
    beyond = tokens(stripped + rest, leading=True)[len(prompt_ids) :]
    return tuple(prompt_ids), tuple(beyond or tokens(rest, leading=False))


@pytest.mark.parametrize("kind", [*SPLITTING, *OTHERS])
@settings(max_examples=120, deadline=None, derandomize=True)
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
@example(pairs=[("Question: So?\nAnswer:", " B"), ("Question: So?\nAnswer:", " no"), ("A:", " B"), ("<x>", " a")])
@example(pairs=[("<|im_start|>assistant\n", "So."), ("<|im_end|>", "\u0301a"), ("a<|im_start|>", "1 2"), ("So ", "a")])
def test_the_tokens_are_those_of_one_text(kind: str, pairs: list[tuple[str, str]]) -> None:
    tokenizer = tokenizer_of(kind)
    wanted = [as_one_text(tokenizer, prompt, rest) for prompt, rest in pairs]
    assert BatchTokenizer(tokenizer).split(pairs) == wanted


def test_which_tokenizers_split_at_a_space() -> None:
    found = {kind: BatchTokenizer(tokenizer_of(kind))._splits_at_space for kind in (*SPLITTING, *OTHERS)}
    assert found == dict.fromkeys(SPLITTING, True) | dict.fromkeys(OTHERS, False)


def test_a_special_token_that_others_overlap_is_no_boundary() -> None:
    added = (
        AddedToken("<|im_end|>>", normalized=False, special=True),
        AddedToken("<y>", normalized=False, special=True),
    )
    tokens = BatchTokenizer(trained(None, *added))
    assert [tokens._stands_alone(text) for text in ("<|im_end|>", "<|im_start|>", "<y>")] == [False, True, True]
    assert tokens.split([("a<|im_end|>", ">")]) == [as_one_text(tokens._tokenizer, "a<|im_end|>", ">")]


def test_what_workers_are_told_of_threads_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = BatchTokenizer(tokenizer_of("words"))
    for value in ("false", None):
        if value is None:
            monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
        else:
            monkeypatch.setenv("TOKENIZERS_PARALLELISM", value)
        tokens.plain(["a", "b"])
        assert os.environ.get("TOKENIZERS_PARALLELISM") == value


def test_a_tokenizer_s_own_truncation_and_padding_are_off() -> None:
    tokenizer = trained(WORDS)
    tokenizer.backend_tokenizer.enable_truncation(1)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    (ids,) = BatchTokenizer(tokenizer).plain(["So it is."])
    assert list(ids) == trained(WORDS)("So it is.")["input_ids"]
