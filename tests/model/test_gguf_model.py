"""Base models in a GGUF file: the weights are those that the file was made from, and each refusal is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFWriter

from rankscope.model.model_source import model_path
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
    written(tmp_path / "mute.gguf", "llama")
    assert "no tokenizer" in refused(tmp_path, "mute.gguf")
    written(tmp_path / "bare.gguf", "llama", tokenizer__ggml__model="gpt2", tokenizer__ggml__tokens=["a", "b"])
    assert "without its merges" in refused(tmp_path, "bare.gguf")
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
