"""Where a base model's files are (a folder, an object store, a GGUF file, the hub), and what they are refused for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from transformers.utils import logging

from rankscope.assets import bundled_base_path
from rankscope.data.hub_data import hub_problem, token_of
from rankscope.model.fetched_model import fetched
from rankscope.model.gguf_model import dequantized, is_panic
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.store_urls import is_url
from rankscope.study.study import ModelSpec


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """transformers shows a bar for every load and save; a study does hundreds."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def model_path(spec: ModelSpec, base: Path) -> str:
    """A folder to load from, or the hub id as it is. `base` is the study file's folder.

    A URL's folder is fetched to this machine first, and a GGUF file is dequantised into a folder. Raises InputProblems
    where a folder is named that holds no configuration or no safetensors.
    """
    if spec.id == "bundled":
        return str(bundled_base_path())
    if spec.gguf_file is not None:
        with no_progress_bars():
            return str(dequantized(gguf_path(spec, base), "float32" if spec.dtype == "float32" else "bfloat16"))
    where = fetched(spec.id) if is_url(spec.id) else base / Path(spec.id).expanduser()
    folder = Path(os.path.abspath(where))  # a link is checked where the link stands
    if not folder.exists():
        if is_folder(spec, base):
            raise InputProblems([Problem(str(folder), "model", "nothing there", "a model folder or a hub id")])
        return spec.id
    if not folder.is_dir():
        raise InputProblems([Problem(str(folder), "model", "a file", "a model folder with config.json")])
    if not (folder / "config.json").is_file():
        expected = "a model folder saved by transformers"
        for file in sorted(folder.glob("*.gguf"))[:1]:
            expected += f"; of a GGUF file `model: {{id: {spec.id}, gguf_file: {file.name}}}`"
        raise InputProblems([Problem(str(folder), "model", "no config.json", expected)])
    if not list(folder.glob("*.safetensors")):
        other = ", ".join(sorted(p.name for p in folder.glob("*.bin"))) or "no weights"
        raise InputProblems([Problem(str(folder), "model", other, "weights as *.safetensors (pickles are not opened)")])
    return str(folder)


def weights_source(spec: ModelSpec, base: Path) -> str:
    """What the model's weights are read from: its folder, its GGUF file, or the hub id. Raises as `model_path`."""
    if spec.gguf_file is None or not (is_url(spec.id) or is_folder(spec, base)):
        return spec.id if spec.gguf_file is not None else model_path(spec, base)
    return str(gguf_path(spec, base))


def is_folder(spec: ModelSpec, base: Path) -> bool:
    """Whether an id is a folder's, there or not; else it is the hub's."""
    folder = base / Path(spec.id).expanduser()
    return folder.exists() or spec.id.startswith((".", "/", "~")) or spec.id.count("/") > 1


def gguf_path(spec: ModelSpec, base: Path) -> Path:
    """The model's GGUF file on this machine; that of a hub id or URL is fetched. Raises InputProblems where it is not
    there."""
    assert spec.gguf_file is not None
    if is_url(spec.id):
        return fetched(spec.id) / spec.gguf_file
    if is_folder(spec, base):
        return Path(os.path.abspath(base / Path(spec.id).expanduser())) / spec.gguf_file
    options = {name: value for name, value in hub_options(spec).items() if name in ("revision", "token")}
    with refusing(spec):
        return Path(hf_hub_download(spec.id, spec.gguf_file, **options))


def hub_options(spec: ModelSpec) -> dict[str, Any]:
    """What every `from_pretrained` of this base is told: code, revision, token."""
    options: dict[str, Any] = {"trust_remote_code": spec.trust_remote_code}
    if spec.revision is not None:
        options["revision"] = spec.revision
    token = token_of(spec.token_env, spec.id)
    if token is not None:
        options["token"] = token
    return options


def hub_refusal(spec: ModelSpec, error: Exception) -> InputProblems:
    """What the hub's refusal means, as a problem of the study's `model`."""
    token = spec.token_env or "HF_TOKEN (or the variable that `token_env` names)"
    return hub_problem(error, what="model", hub_id=spec.id, place="model", revision=spec.revision, token=token)


@contextmanager
def refusing(spec: ModelSpec) -> Iterator[None]:
    """Whatever transformers, tokenizers or safetensors raise over a model's files as one line about the model.

    A damaged file may raise anything there. Memory that is out on a GPU is no fault of the files and goes on.
    """
    try:
        yield
    except (InputProblems, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise hub_refusal(spec, error) from error
    except BaseException as error:
        if not is_panic(error):
            raise
        raise hub_refusal(spec, RuntimeError(str(error))) from error
