"""How an exported folder is served: the lines for vLLM and Ollama on its card, and Ollama's Modelfile."""

from __future__ import annotations

import re
import shlex
from typing import Literal

from rankscope.study.study import Arm

Files = Literal["adapter", "model", "gguf"]
"""What an exported folder holds: an adapter, a whole model, or that and model.gguf beside it."""

GGUF_FILE = "model.gguf"
MODELFILE = "Modelfile"

_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for --max-lora-rank (docs.vllm.ai, engine arguments)."""


def modelfile() -> str:
    """Ollama's description of the exported model; its chat template is in the GGUF file."""
    return f"FROM ./{GGUF_FILE}\n"


def serving_lines(arm: Arm, base: str, name: str, files: Files) -> str:
    """Markdown with a line for vLLM and one for Ollama; `base` is the base's hub id or a place to fill in, `name` what
    the study calls the arm."""
    name = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.") or "model"
    ollama = (
        "Ollama takes a whole model: `rankscope export DIR --arm "
        f"{shlex.quote(arm.label)} --format gguf --out OTHER_DIR` writes one with a Modelfile."
    )
    if files == "gguf":
        ollama = f"Ollama, in this folder: `ollama create {name} -f {MODELFILE}`, then `ollama run {name}`."
    return f"{_vllm(arm, base, name, files)}\n\n{ollama}"


def _vllm(arm: Arm, base: str, name: str, files: Files) -> str:
    if files != "adapter":
        return f"vLLM: `vllm serve PATH_OF_THIS_FOLDER --served-model-name {name}`."
    plain = arm.traits.can_pack(arm.model_copy(update={"dropout": 0.0}))  # scale B A and nothing else
    fitting = [rank for rank in _VLLM_RANKS if arm.rank is not None and rank >= arm.rank]
    if not plain or not fitting:
        return "vLLM takes no adapter of this kind; one that merges is served with `rankscope export DIR --merged`."
    options = f"--enable-lora --max-lora-rank {fitting[0]} --lora-modules {name}=PATH_OF_THIS_FOLDER"
    served = "PATH_OF_THE_BASE" if base == "bundled" else shlex.quote(base)
    return f"vLLM: `vllm serve {served} {options}`."
