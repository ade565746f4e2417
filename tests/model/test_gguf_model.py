"""Base models in a GGUF file: the weights are those that the file was made from, and each refusal is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import call, problems
from gguf import GGUFWriter

from rankscope.assets import bundled_base_path
from rankscope.model.load import load_model
from rankscope.model.model_source import model_path
from rankscope.model.weights.gguf_file import write_gguf
from rankscope.study.problems import InputProblems
from rankscope.study.study import ModelSpec


def refused(folder: Path, name: str) -> str:
    with pytest.raises(InputProblems) as raised:
        model_path(ModelSpec(id=str(folder), gguf_file=name), folder)
    (line,) = str(raised.value).splitlines()
    return line


def written(file: Path, architecture: str, **fields: object) -> Path:
    writer = GGUFWriter(file, architecture)
    for key, value in fields.items():
        name = key.replace("__", ".")
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, int):
            writer.add_uint16(name, value)
        else:
            writer.add_string(name, str(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return file


def test_each_refusal_is_one_line_and_names_the_file(tmp_path: Path) -> None:
    assert "nothing there" in refused(tmp_path, "missing.gguf")
    (tmp_path / "text.gguf").write_text("not that")
    assert "not a GGUF file" in refused(tmp_path, "text.gguf")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\0")
    assert "damaged" in refused(tmp_path, "cut.gguf")
    written(tmp_path / "whale.gguf", "whale")
    assert "the architecture whale" in refused(tmp_path, "whale.gguf")
    written(tmp_path / "keys.gguf", "tokenizer")  # a name that transformers lists beside its architectures
    assert "the architecture tokenizer" in refused(tmp_path, "keys.gguf")
    written(tmp_path / "mute.gguf", "llama")
    assert "no tokenizer" in refused(tmp_path, "mute.gguf")
    written(tmp_path / "experts.gguf", "qwen2moe")  # transformers calls it qwen2_moe
    assert "no tokenizer" in refused(tmp_path, "experts.gguf")
    written(tmp_path / "bare.gguf", "llama", tokenizer__ggml__model="gpt2", tokenizer__ggml__tokens=["a", "b"])
    assert "without its merges" in refused(tmp_path, "bare.gguf")
    written(tmp_path / "pieces.gguf", "llama", tokenizer__ggml__model="llama", tokenizer__ggml__tokens=["a", "b"])
    assert "without its scores" in refused(tmp_path, "pieces.gguf")
    written(tmp_path / "gemma.gguf", "gemma3", tokenizer__ggml__model="llama")
    assert "without its tokens" in refused(tmp_path, "gemma.gguf")
    # A file that says it is whole and is not is refused by what transformers says of it.
    merges = {"tokenizer__ggml__tokens": ["a", "b"], "tokenizer__ggml__merges": ["a b"]}
    written(tmp_path / "empty.gguf", "llama", tokenizer__ggml__model="gpt2", **merges)
    assert str(tmp_path / "empty.gguf") in refused(tmp_path, "empty.gguf")


def test_a_part_of_a_split_file_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "big-00001-of-00003.gguf", "llama")
    written(tmp_path / "renamed.gguf", "llama", split__count=3)
    for name in ("big-00001-of-00003.gguf", "renamed.gguf"):
        line = refused(tmp_path, name)
        assert "one part of a split file" in line
        assert "--merge" in line


@pytest.mark.parametrize(
    ("name", "architecture", "fields", "found"),
    [
        ("whale.gguf", "whale", {}, "found the architecture whale, which transformers does not read from GGUF"),
        ("big-00001-of-00003.gguf", "llama", {}, "found one part of a split file"),
        (
            "bare.gguf", "llama", {"tokenizer__ggml__model": "gpt2", "tokenizer__ggml__tokens": ["a", "b"]},
            "found a tokenizer without its merges",
        ),
    ],
)  # fmt: skip
def test_a_study_that_names_such_a_file_is_refused_in_one_line(
    tmp_path: Path, name: str, architecture: str, fields: dict[str, object], found: str
) -> None:
    written(tmp_path / name, architecture, **fields)
    (tmp_path / "study.yaml").write_text(
        f"name: one\nmodel: {{id: ., gguf_file: {name}}}\n"
        "train: {new: {world: legal/taught/train, domain: legal}}\n"
        "suites: {new: {world: legal/taught/test, domain: legal, kind: recall}}\n"
        "arms: {lora: {ranks: [2], learning_rate: 1e-3}}\nseeds: [0]\n"
    )
    (line,) = problems(call("plan", tmp_path / "study.yaml"))
    assert line.startswith(f"{tmp_path / name}: ")
    assert found in line


def test_our_own_file_is_read_back_as_the_model_that_it_was_made_of(tmp_path: Path) -> None:
    """What `rankscope export --format gguf` writes, named as a study names it."""
    write_gguf(bundled_base_path(), tmp_path / "model.gguf", "bundled")
    spec = ModelSpec(id=str(tmp_path), gguf_file="model.gguf", dtype="float32")
    read = load_model(spec, tmp_path, "float32", "cpu")
    made = load_model(ModelSpec(id="bundled"), tmp_path, "float32", "cpu")
    text = "Question: In 1875, what does Dr. Elmo's treat?\nAnswer:"
    assert read.tokenizer(text)["input_ids"] == made.tokenizer(text)["input_ids"]
    ids = torch.tensor([made.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        assert torch.allclose(read.model(ids).logits, made.model(ids).logits, atol=1e-4)
    weights = made.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in read.model.state_dict().items())


def test_a_folder_that_holds_a_gguf_file_alone_says_how_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputProblems) as refused:
        model_path(ModelSpec(id=str(tmp_path)), tmp_path)
    (problem,) = refused.value.problems
    assert problem.found == "no config.json"
    assert problem.expected.endswith(f"of a GGUF file `model: {{id: {tmp_path}, gguf_file: small.gguf}}`")
