"""Adapter folders in PEFT's format, of ours and of users: what of them can be used exactly, and how it is put on.

An adapter is refused unless every setting of its adapter_config.json is known: either it means nothing for a model
that is only run, or PEFT's layers do what it says inside the model itself. Weights of the base's own that a file brings
along (biases, embeddings) stand in place of the originals, which are never written to.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rankscope.model.methods.installed import Installed, Replaced
from rankscope.model.weights.adapter_file import (
    CONFIG,
    adapter_config,
    adapter_tensors,
    initialisation_that_moves_the_base,
    read_adapter,
)
from rankscope.model.weights.module_patterns import check_patterns, wrong_types
from rankscope.model.weights.weight_delta import LowRank, matrices
from rankscope.study.problems import InputProblems, Problem, show

Factors = dict[str, LowRank]
"""An adapter's factors by module path."""

PREFIX = "base_model.model."

_EVERY = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "init_weights",
}  # fmt: skip
_LORA = {
    "r", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora", "init_lora_weights", "rank_pattern",
    "alpha_pattern", "megatron_core", "trainable_token_indices", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "qalora_group_size", "runtime_config", "ensure_weight_tying",
}  # fmt: skip
_LYCORIS = {"r", "alpha", "rank_pattern", "alpha_pattern", "rank_dropout", "module_dropout", "use_effective_conv2d"}
_ORTHOGONAL = {"r", "fan_in_fan_out", "bias"}
_PROMPT = {"num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"}
KNOWN_SETTINGS: dict[str, set[str]] = {
    "LORA": _LORA | {"use_dora", "lora_bias", "target_parameters"},
    "ADALORA": _LORA
    | {"target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"},
    "VERA": {"r", "projection_prng_key", "save_projection", "vera_dropout", "d_initial", "fan_in_fan_out", "bias"},
    "IA3": {"feedforward_modules", "fan_in_fan_out", "init_ia3_weights"},
    "LN_TUNING": set(),
    "LOHA": _LYCORIS,
    "LOKR": _LYCORIS | {"decompose_both", "decompose_factor", "rank_dropout_scale"},
    "OFT": _ORTHOGONAL
    | {"oft_block_size", "module_dropout", "coft", "eps", "block_share", "use_cayley_neumann"}
    | {"num_cayley_neumann_terms"},
    "BOFT": _ORTHOGONAL | {"boft_block_size", "boft_block_num", "boft_n_butterfly_factor", "boft_dropout"},
    "HRA": _ORTHOGONAL | {"apply_GS"},
    "PROMPT_TUNING": _PROMPT
    | {"prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"},
    "PREFIX_TUNING": _PROMPT | {"encoder_hidden_size"},
}
"""By `peft_type`, the settings that may have any value, beside those that every type has."""

_WHY = {
    "layer_replication": "layers that are used more than once make another model",
    "alora_invocation_tokens": "which of a row's tokens it changes depends on where these stand",
    "prefix_projection": "the network that makes the prefix is not in the file",
}
"""What else is said of settings that are refused."""


def read_peft_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of an adapter that can be used exactly as PEFT uses it.

    Raises InputProblems where there is none, for a kind that is not known, and with each setting that is not.
    """
    config = adapter_config(folder)
    place, kind = str(folder / CONFIG), str(config.get("peft_type"))
    if kind not in KNOWN_SETTINGS:
        expected = f"one of {', '.join(KNOWN_SETTINGS)}"
        raise InputProblems([Problem(place, "peft_type", show(config.get("peft_type")), expected)])
    problems = [Problem(place, *told) for told in wrong_types(config)]
    problems = problems or [Problem(place, *told) for told in _unusable(kind, config)]
    if problems:
        raise InputProblems(problems)
    return config


def _unusable(kind: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(setting, what was found, what was expected) of each setting that rules the adapter out."""
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        yield "task_type", show(config["task_type"]), "CAUSAL_LM, an adapter of a language model"
    if moved := initialisation_that_moves_the_base(dict(config)):
        found = f"init_lora_weights {moved}, with which PEFT changes the base when it loads the adapter"
        expected = "a plain LoRA: save it with PEFT's `path_initial_model_for_weight_conversion` first"
        yield "init_lora_weights", found, expected
    usual = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])
    }
    for key in sorted(config.keys() - _EVERY - KNOWN_SETTINGS[kind]):
        value = config[key]
        if value and value != usual.get(key):
            why = _WHY.get(key, "a setting whose effect is not known here")
            yield key, f"{show(value)}: {why}", "an adapter without it"


def reads_peft(folder: Path, kinds: Collection[str]) -> bool:
    """Whether the folder holds an adapter of PEFT's of one of these kinds."""
    return (folder / CONFIG).is_file() and str(adapter_config(folder).get("peft_type")) in kinds


def virtual_token_count(folder: Path) -> int:
    """The tokens that the adapter puts before every sequence; mostly 0. Raises InputProblems for a damaged file."""
    if not (folder / CONFIG).is_file():
        return 0
    return int(adapter_config(folder).get("num_virtual_tokens") or 0)


def other_base(model: PreTrainedModel, folder: Path) -> list[str]:
    """A note where the adapter says that it was made for a model of another name; its shapes fit all the same."""
    if not (folder / CONFIG).is_file():
        return []
    recorded = Path(str(adapter_config(folder).get("base_model_name_or_path") or "")).name
    here = Path(str(model.config.name_or_path)).name
    return [f"{folder} says that it was made for {recorded}, not {here}"] if recorded and recorded != here else []


def plain_factors(model: PreTrainedModel, folder: Path) -> Factors | None:
    """Of the adapter in `folder`; None where it is anything but scale B A on linear layers that the model has."""
    try:
        read_peft_config(folder)
        adapter = read_adapter(folder)
    except InputProblems:
        return None
    if adapter.notes or adapter.rest or adapter.embeddings:
        return None
    linear = {name: module for name, module in model.named_modules() if type(module) in (nn.Linear, Conv1D)}
    shapes = {name: tuple(weight.shape) for name, weight in matrices(model, linear).items()}
    if any(shapes.get(name) != delta.shape for name, delta in adapter.deltas.items()):
        return None
    return dict(adapter.deltas)


# ---- adapters that live in the model's modules -----------------------------------------------------------------------


_SAID = (
    "Unsupported layer type",  # norms, which have no in and out
    "PiSSA changes the base weights",  # ours does not
    "Careful, disabling adapter layers",  # of trained biases, which ours puts back
    "The PEFT config's `base_model_name_or_path` was renamed",  # `other_base` tells the user
    "Model has `tie_word_embeddings=True`",  # nothing is merged or saved
)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Without what PEFT says to us rather than to the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it asks transformers by a name that will be dropped
        for said in _SAID:
            warnings.filterwarnings("ignore", said, UserWarning)
        yield


def wrapped(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """The model with PEFT's layers for `config` in its modules, in the model's own precision."""
    with quiet_peft():
        return get_peft_model(model, config, autocast_adapter_dtype=False)


def installed(peft: PeftModel, *, replaced: Replaced | None = None) -> Installed:
    """What PEFT put into a model's modules. `replaced` are weights of the base's own that came with it."""

    @contextmanager
    def off() -> Iterator[None]:
        with quiet_peft(), peft.disable_adapter():
            if replaced is None:
                yield
                return
            with replaced.off():
                yield

    parameters = {name: p for name, p in peft.named_parameters() if p.requires_grad}
    return Installed(parameters, partial(save_peft, peft), off, peft.merge_and_unload, peft)


def save_peft(peft: PeftModel, folder: Path) -> None:
    """As PEFT saves it, in safetensors, without its empty template of a README: an export writes a real card."""
    peft.save_pretrained(str(folder), safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)


def load_peft(model: PreTrainedModel, folder: Path) -> Installed:
    """A saved adapter that lives in the model's modules, on the model.

    Raises InputProblems where it cannot be used exactly, or was made for another base: other shapes, or modules that
    are not the same.
    """
    config, tensors = read_peft_config(folder), adapter_tensors(folder)
    check_patterns(folder / CONFIG, config, (name for name, _ in model.named_modules()))
    own = _of_the_base(model, config, tensors, folder)
    views = _parametrized(model, config)
    rest = {key: tensor for key, tensor in tensors.items() if _base_name(key) not in own}
    replaced = Replaced(model, views | own) if own or views else None
    try:
        settings = PeftConfig.from_pretrained(str(folder))
        settings.inference_mode = True
        with torch.random.fork_rng():  # PEFT draws weights that are then written over
            peft = wrapped(model, settings)
        _check_names(peft, rest, own, folder)
        with quiet_peft():
            set_peft_model_state_dict(peft, rest)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:  # TypeError: settings that are not what PEFT reads
        raise InputProblems([misfit(model, folder, str(error))]) from error
    peft.eval()
    return installed(peft, replaced=replaced)


def _base_name(key: str) -> str:
    """The name that a tensor of the base's own has in the plain model."""
    return key.removeprefix(PREFIX).replace(".base_layer.", ".")


def _of_the_base(
    model: PreTrainedModel, config: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path
) -> dict[str, Tensor]:
    """The file's tensors that stand in place of the base's own, by the model's names: biases and embeddings. Modules
    that are saved whole are not among them: PEFT puts copies beside those.

    Raises InputProblems for a tensor of the base's that is neither, or has another shape.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    copied = tuple(config.get("modules_to_save") or ())
    embeddings = [m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None]
    own: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = _base_name(key)
        if name not in named or any(module.endswith(copied) for module in _modules_around(name)):
            continue
        is_bias = name.endswith(".bias") and config.get("bias", "none") != "none"
        if not is_bias and not any(named[name] is weight for weight in embeddings):
            raise InputProblems([misfit(model, folder, f"a tensor for {name}, which is the base's own")])
        if tensor.shape != named[name].shape:
            found = f"{name} of shape {list(tensor.shape)}, in this base {list(named[name].shape)}"
            raise InputProblems([misfit(model, folder, found)])
        own[name] = tensor
    return own


def _parametrized(model: PreTrainedModel, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Views of the parameters that `target_parameters` names, by name: PEFT registers them anew for every forward,
    which torch counts as a write though nothing is written."""
    ends = tuple(f".{name}" for name in config.get("target_parameters") or ())
    return {name: p.data for name, p in model.named_parameters() if f".{name}".endswith(ends)}


def _modules_around(parameter: str) -> Iterator[str]:
    """`a.b.c` of the parameter `a.b.c.weight`, then `a.b`, then `a`."""
    module = parameter.rpartition(".")[0]
    while module:
        yield module
        module = module.rpartition(".")[0]


def _check_names(peft: PeftModel, rest: Mapping[str, Tensor], own: Mapping[str, Tensor], folder: Path) -> None:
    """PEFT leaves out tensors without a module and modules without a tensor, and only warns: here that is an error."""
    with quiet_peft():
        wanted = {_base_name(key) for key in get_peft_model_state_dict(peft, save_embedding_layers=False)}
    held = {_base_name(key) for key in rest}
    for names, found, where in (
        (wanted - held - own.keys(), "no tensor", "in this base"),
        (held - wanted, "a tensor", "not in this base"),
    ):
        if names:
            text = f"{found} for {min(names)}, which is {where} ({len(names)} such)"
            raise InputProblems([misfit(peft.get_base_model(), folder, text)])


def misfit(model: PreTrainedModel, folder: Path, message: str) -> Problem:
    """What does not fit: of PEFT's message the first shape that differs."""
    lines = [line.strip() for line in message.splitlines() if "size mismatch" in line] or [message.strip()]
    expected = f"an adapter made for {model.config.name_or_path or type(model).__name__}"
    return Problem(str(folder), "adapter", lines[0].splitlines()[0][:200], expected)
