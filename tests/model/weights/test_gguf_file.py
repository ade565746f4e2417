"""A GGUF file is read back, by transformers and by llama.cpp's reader, as the model that it was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_families import SMALL
from transformers import AutoModelForCausalLM, AutoTokenizer

from rankscope.assets import bundled_base_path
from rankscope.model.weights.gguf_file import NotForGguf, write_gguf

BASE = bundled_base_path()
gguf = pytest.importorskip("gguf", reason="GGUF is an extra: pip install 'rankscope[gguf]'")


def made(folder: Path, kind: str, dtype: torch.dtype = torch.float32, **given: Any) -> Path:
    """A tiny random model with the bundled tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, "vocab_size": len(tokenizer) + 3, **given})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "dtype", "given"),
    [
        ("Llama", torch.float32, {}),
        ("Llama", torch.bfloat16, {"tie_word_embeddings": True}),
        ("Mistral", torch.float32, {"sliding_window": None}),
        ("Qwen2", torch.float32, {}),
        ("Qwen3", torch.bfloat16, {"head_dim": 128}),  # transformers reads no other size of a head for it
    ],
)
def test_transformers_reads_every_weight_back(tmp_path: Path, kind: str, dtype: torch.dtype, given: dict) -> None:  # type: ignore[type-arg]
    folder = made(tmp_path / "model", kind, dtype, **given)
    write_gguf(folder, folder / "model.gguf", "tiny")
    before = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    after = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32).eval()
    weights, read = before.state_dict(), after.state_dict()
    assert weights.keys() == read.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, read[name]), name
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.allclose(before(ids).logits, after(ids).logits, atol=1e-5)


def test_the_bundled_base_keeps_its_tokens_and_its_template(tmp_path: Path) -> None:
    write_gguf(BASE, tmp_path / "base.gguf", "bundled")
    fields = gguf.GGUFReader(tmp_path / "base.gguf").fields
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    assert fields["tokenizer.ggml.tokens"].contents() == [tokenizer.convert_ids_to_tokens(i) for i in range(3072)]
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    assert fields["tokenizer.ggml.add_bos_token"].contents() is True
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="base.gguf", dtype=torch.float32)
    assert all(torch.equal(tensor, read.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "given", "why"),
    [
        ("Phi3", {}, "its architecture is phi3"),
        ("Mistral", {"sliding_window": 9}, "a sliding window of 9"),
        ("Llama", {"attention_bias": True}, "biases"),
        ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "scaled"),
    ],
)
def test_what_is_not_known_to_be_read_alike_is_not_written(
    tmp_path: Path,
    kind: str,
    given: dict,
    why: str,  # type: ignore[type-arg]
) -> None:
    folder = made(tmp_path / "model", kind, **given)
    with pytest.raises(NotForGguf, match=why):
        write_gguf(folder, folder / "model.gguf", "tiny")
    assert not (folder / "model.gguf").exists()


def test_a_tokenizer_that_splits_text_in_its_own_way_is_not_written(tmp_path: Path) -> None:
    folder = made(tmp_path / "model", "Llama")
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(NotForGguf, match="no name for how its tokenizer splits"):
        write_gguf(folder, folder / "model.gguf", "tiny")
