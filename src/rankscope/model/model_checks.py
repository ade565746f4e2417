"""Base models: which cannot be used, each with one line that says why, and whether their files are still the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from rankscope.data.source_state import file_facts, is_same_file
from rankscope.model.fetched_model import READ, local_file
from rankscope.records import SourceState
from rankscope.study.problems import InputProblems, Problem, show
from rankscope.study.study import ModelSpec

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "chat_template.jinja")


def model_states(name: str, path: str, url: str | None = None) -> list[SourceState]:
    """The state now of every file that decides what the model in a folder (or a GGUF file) does; none for a hub id,
    whose commit does.

    `name` is the model's in the study; with `url` the files are named as they are in the store that `path` is of.
    """
    folder = Path(path)
    files = [folder] if folder.is_file() else []
    if folder.is_dir():
        files = sorted(file for file in folder.iterdir() if _is_read(file))
    named = {file: str(file) if url is None else f"{url.rstrip('/')}/{file.name}" for file in files}
    return [SourceState(name=name, file=named[file], **file_facts(file)) for file in files]


def content_sha256(path: str, commit: str | None, states: Sequence[SourceState]) -> str:
    """Hash of what decides a model's outputs: configuration, weights, tokenizer; for a hub model of its commit."""
    digest = hashlib.sha256()
    if not Path(path).is_dir():
        digest.update(f"{path}@{commit}".encode())
        return digest.hexdigest()
    for state in states:
        file = Path(state.file).name
        if (file.endswith(".safetensors") or file in ("config.json", *_TOKENIZER_FILES)) and state.sha256 is not None:
            digest.update(file.encode())
            digest.update(bytes.fromhex(state.sha256))
    return digest.hexdigest()


def tokenizer_sha256(states: Sequence[SourceState]) -> str | None:
    """Hash of everything but weights and configuration, which is what a tokenizer is made of; None for a hub id."""
    own = [s for s in states if not s.file.endswith((".safetensors", ".safetensors.index.json", "config.json"))]
    own += [s for s in states if Path(s.file).name == "tokenizer_config.json"]
    named = [f"{Path(state.file).name} {state.sha256}" for state in own]
    return hashlib.sha256("\n".join(named).encode()).hexdigest() if named else None


def changed_model_files(states: Sequence[SourceState]) -> list[tuple[SourceState, str]]:
    """(state, what is found now) of every file that is not as it was. A file of the same size and time is the same."""
    found = []
    for state in states:
        file = local_file(state.file)
        if not file.is_file():
            found.append((state, "no such file any more"))
        elif not is_same_file(file, state):
            found.append((state, "another content"))
    return found


def check_model_files(states: Sequence[SourceState]) -> None:
    """Raises InputProblems where a model is no longer the one that was planned with."""
    changed = changed_model_files(states)
    if changed:
        expected = "the model as it was when the study was planned: put it back, or give another --out"
        raise InputProblems([Problem(state.file, f"model {state.name}", how, expected) for state, how in changed])


def _is_read(file: Path) -> bool:
    return file.is_file() and file.suffix in READ and not file.name.startswith(("adapter_", "."))


_A_DECODER = "a decoder that writes text, such as Llama, Qwen, Gemma or Mistral"


MOST = {
    "num_hidden_layers": 1000, "hidden_size": 10**6, "intermediate_size": 10**7, "num_attention_heads": 10**4,
    "num_key_value_heads": 10**4, "vocab_size": 10**7, "max_position_embeddings": 10**9, "num_local_experts": 10**4,
    "num_experts": 10**4, "n_routed_experts": 10**4,
}  # fmt: skip
"""Beyond every model that there is: building a larger one, even without weights, would take hours and all memory."""


def _refuse_sizes(spec: ModelSpec, config: Any) -> None:
    """Raises InputProblems for sizes that no model has."""
    text, problems = config.get_text_config(), []
    for name, most in MOST.items():
        given = getattr(text, name, None)
        for size in given if isinstance(given, list | tuple) else [given]:
            whole = isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= most
            if size is not None and not whole:
                expected = f"a whole number from 1 to {most:,}"
                problems.append(Problem(spec.id, f"config.json, {name}", show(size), expected))
                break
    if problems:
        raise InputProblems(problems)


_MOST_HEADER_BYTES = 100 * 2**20
"""What safetensors itself takes for the largest header."""


def refuse_headers(spec: ModelSpec, path: str) -> None:
    """Raises InputProblems for weights in a folder whose head says more than the file holds; no weight is read."""
    for file in sorted(Path(path).glob("*.safetensors")) if Path(path).is_dir() else []:
        size = file.stat().st_size
        with file.open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
            tensors = _json(stream.read(header)) if header <= min(size - 8, _MOST_HEADER_BYTES) else None
        try:
            ends = [entry["data_offsets"][1] for name, entry in (tensors or {}).items() if name != "__metadata__"]
            whole = tensors is not None and 8 + header + max(ends, default=0) == size
        except (AttributeError, KeyError, IndexError, TypeError):
            whole = False
        if not whole:
            found = f"a damaged file, whose head does not fit its {size:,} bytes"
            raise InputProblems([Problem(str(file), "", found, "a whole safetensors file")])


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def refuse_config(spec: ModelSpec, config: Any, device: str | None) -> None:
    """Raises InputProblems for a configuration whose weights would be of no use here.

    That is: a model that is no causal decoder, one that reads more than text, and quantised weights on a CPU (where
    nothing would train on them).
    """
    _refuse_sizes(spec, config)
    if getattr(config, "is_encoder_decoder", False):
        raise InputProblems([Problem(spec.id, "model", f"{config.model_type}, an encoder with a decoder", _A_DECODER)])
    if config.get_text_config(decoder=True) is not config:
        found = f"{config.model_type}, which reads more than text"
        expected = "its text part saved alone (docs/models.md says how)"
        raise InputProblems([Problem(spec.id, "model", found, expected)])
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not spec.trust_remote_code:
        found = f"{config.model_type}, which is no causal language model"
        raise InputProblems([Problem(spec.id, "model", found, _A_DECODER)])
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None and device == "cpu":
        settings = quantised if isinstance(quantised, dict) else quantised.to_dict()
        found = f"weights quantised with {settings.get('quant_method', 'an unknown method')}, on a CPU"
        raise InputProblems([Problem(spec.id, "model", found, "the model's own weights, or a machine with CUDA")])


def refuse_missing(spec: ModelSpec, missing: Collection[str]) -> None:
    """Raises InputProblems where weights of the architecture are not in the files: they would be random."""
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        found = f"no weights for {min(missing)}{more}"
        raise InputProblems([Problem(spec.id, "model", found, "files that hold every weight of the architecture")])


def refuse_vocabulary(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Raises InputProblems where the tokenizer writes tokens that the model has no embedding for.

    Tokens that were added and that no text contains (an image's place, say) may lie beyond it: only the tokenizer's own
    vocabulary and the tokens that end or begin a text are counted.
    """
    used = [tokenizer.vocab_size - 1, tokenizer.eos_token_id, tokenizer.bos_token_id]
    largest = max(token for token in used if token is not None)
    if largest >= vocab_size:
        found = f"a tokenizer with token {largest}, for a model of {vocab_size} tokens"
        raise InputProblems([Problem(spec.id, "tokenizer", found, "the tokenizer that the model was trained with")])
