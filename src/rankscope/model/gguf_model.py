"""Base models in a GGUF file: dequantised once to each machine, into a folder as transformers saves one.

What is trained and scored are the dequantised weights, in bfloat16, or in float32 where the model's `dtype` says so.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from functools import cache
from pathlib import Path
from typing import Any, Literal

import portalocker
import transformers

from rankscope.study.problems import InputProblems, Problem
from rankscope.study.store_urls import cache_folder

_MAGIC = b"GGUF"
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_READ = "a GGUF file of a decoder that transformers reads, such as Llama, Qwen, Gemma or Mistral"
_MARKS = ("quantization_config", "hf_quantizer", "is_quantized", "quantization_method")
"""What transformers leaves on a model that it dequantised, and by which it refuses to save it."""


@cache
def dequantized(file: Path, dtype: Literal["float32", "bfloat16"]) -> Path:
    """The local folder with the file's weights as safetensors, its configuration and its tokenizer.

    It is made when it is first asked for, by one process of a machine while the others wait, and again when the file
    or the version of transformers is another. Raises InputProblems where the file is not what transformers reads.
    """
    _refuse(file)
    state = file.stat()
    made_of = (str(file.resolve()), state.st_size, state.st_mtime_ns, dtype, transformers.__version__)
    folder = cache_folder() / "models" / f"gguf-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:20]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("a+") as stream:
        portalocker.lock(stream, portalocker.LOCK_EX)
        if not folder.is_dir():
            draft = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.draft")
            try:
                convert(file, draft, dtype)
                os.replace(draft, folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return folder


def convert(file: Path, out: Path, dtype: Literal["float32", "bfloat16"]) -> int:
    """Save the dequantised model and its tokenizer as a folder; the number of parameters.

    Raises InputProblems for whatever transformers says of the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    named: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    try:
        # The tokenizer first: it is the cheaper one to fail.
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **named)
        model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=getattr(torch, dtype), **named)
    except BaseException as error:  # a damaged file may raise anything there, Rust's panics too
        if isinstance(error, MemoryError) or not (isinstance(error, Exception) or is_panic(error)):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise _problem(file, lines[0].rstrip(".")) from error
    for holder in (model, model.config):
        for mark in _MARKS:
            if hasattr(holder, mark):
                delattr(holder, mark)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return sum(parameter.numel() for parameter in model.parameters())


def is_panic(error: BaseException) -> bool:
    """What the Rust libraries raise for a broken promise of theirs."""
    return type(error).__name__ == "PanicException"


def _refuse(file: Path) -> None:
    """Raises InputProblems for what need not be read to be refused, and where the tokenizer lacks its merges."""
    if not file.is_file():
        raise _problem(file, "nothing there", "a GGUF file")
    with file.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise _problem(file, "not a GGUF file", "a GGUF file")
    if _SPLIT.search(file.name):
        raise _problem(file, "one part of a split file", "a single file: llama-gguf-split --merge makes one")
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise _problem(file, "no package `gguf`, which reads it", "pip install 'rankscope[gguf]'") from error
    try:
        fields = GGUFReader(file).fields
        architecture = str(fields["general.architecture"].contents())
        split = fields["split.count"].contents() if "split.count" in fields else 0
        kind = fields["tokenizer.ggml.model"].contents() if "tokenizer.ggml.model" in fields else None
    except Exception as error:  # a damaged file
        raise _problem(file, f"a damaged GGUF file ({type(error).__name__})") from error
    if int(split) > 1:
        raise _problem(file, "one part of a split file", "a single file: llama-gguf-split --merge makes one")
    if _plain(architecture) not in _read_architectures():
        raise _problem(file, f"the architecture {architecture}, which transformers does not read from GGUF")
    if kind is None:
        raise _problem(file, "no tokenizer in the file")
    for part in _tokenizer_parts(str(kind), architecture):
        if f"tokenizer.ggml.{part}" not in fields:
            raise _problem(file, f"a tokenizer without its {part}", f"a file with tokenizer.ggml.{part}")


def _plain(architecture: str) -> str:
    """A name without the marks that llama.cpp and transformers put differently (qwen2moe, qwen2_moe)."""
    return architecture.replace("-", "").replace("_", "")


def _read_architectures() -> set[str]:
    """What transformers reads from GGUF, as plain names; it keeps two lists."""
    from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    others = {"general", "tokenizer"}  # in the first list for the keys that every file has
    return {_plain(name) for name in (*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS) if name not in others}


def _tokenizer_parts(kind: str, architecture: str) -> tuple[str, ...]:
    """What a tokenizer of this kind cannot be made without. Sentence pieces are put together by their scores, where
    the file has no merges; Gemma's by their order."""
    if kind == "gpt2":
        return "tokens", "merges"
    if kind in ("llama", "t5") and not architecture.startswith("gemma"):
        return "tokens", "scores"
    return ("tokens",)


def _problem(file: Path, found: str, expected: str = _READ) -> InputProblems:
    return InputProblems([Problem(str(file), "model.gguf_file", found, expected)])
