"""Adapters that a user already has: any folder that PEFT (or rankscope's `adapters` method) saved, on its base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import get_peft_model_state_dict

from rankscope.model.load import LoadedModel
from rankscope.model.methods.adapt import Adapted, load_adapter
from rankscope.model.methods.bottleneck_modules import SETTINGS_FILE
from rankscope.model.methods.packed_lora import open_factors, plain_factors
from rankscope.model.weights.adapter_file import (
    CONFIG,
    adapter_config,
    adapter_tensors,
    initialisation_that_moves_the_base,
)
from rankscope.study.methods import Arm
from rankscope.study.problems import InputProblems, Problem, show

_METHODS: dict[str, str] = {
    "LORA": "lora",
    "IA3": "ia3",
    "LN_TUNING": "ln-tuning",
    "PROMPT_TUNING": "prompt-tuning",
    "PREFIX_TUNING": "prefix-tuning",
    # In the model's modules like IA3's vectors: PEFT puts them in and takes them out.
    **dict.fromkeys(("LOHA", "LOKR", "OFT", "BOFT", "HRA"), "ia3"),
}


@contextmanager
def saved_adapter(base: LoadedModel, folder: Path) -> Iterator[Adapted]:
    """The adapter in `folder` on `base`, which is plain again afterwards.

    Raises InputProblems for a folder that holds none, for a kind that is not known, for one that would change the
    base's weights, and for one that was made for another base: other shapes, or modules that are not the same.
    """
    arm = _arm(folder)
    factors = plain_factors(base, folder)
    with load_adapter(base, arm, folder) as adapted:
        if adapted.peft is not None and not arm.traits.virtual_tokens(arm):
            _check_modules(adapted, folder, base)
        if factors is None:
            yield adapted
            return
    with open_factors(base, [arm], [factors]) as pack:  # the same numbers in fewer passes than PEFT's layers take
        yield pack.members[0]


def _arm(folder: Path) -> Arm:
    """What `load_adapter` needs to know of it; the settings themselves are the folder's."""
    if (folder / SETTINGS_FILE).is_file():
        return Arm.model_validate({"label": folder.name, "method": "adapters", "bottleneck": 1, "learning_rate": 1.0})
    config = adapter_config(folder)
    place = str(folder / CONFIG)
    kind = str(config.get("peft_type"))
    if kind not in _METHODS:
        raise InputProblems(
            [Problem(place, "peft_type", show(config.get("peft_type")), f"one of {', '.join(_METHODS)}")]
        )
    if moved := initialisation_that_moves_the_base(config):
        found = f"init_lora_weights {moved}, with which PEFT changes the base when it loads the adapter"
        expected = "a plain LoRA: save it with PEFT's `path_initial_model_for_weight_conversion` first"
        raise InputProblems([Problem(place, "init_lora_weights", found, expected)])
    tokens = {"virtual_tokens": config["num_virtual_tokens"]} if config.get("num_virtual_tokens") else {}
    return Arm.model_validate({"label": folder.name, "method": _METHODS[kind], "learning_rate": 1.0, **tokens})


def _check_modules(adapted: Adapted, folder: Path, base: LoadedModel) -> None:
    """PEFT leaves out tensors without a module and modules without a tensor, and only warns: here that is an error."""
    held = set(adapter_tensors(folder))
    wanted = set(get_peft_model_state_dict(adapted.peft, save_embedding_layers=False))
    expected = f"an adapter made for {base.model.config.name_or_path or type(base.model).__name__}"
    for names, what in ((sorted(wanted - held), "no tensor"), (sorted(held - wanted), "a tensor")):
        names = [name for name in names if what == "no tensor" or _of_adapter(name, wanted)]
        if names:
            found = (
                f"{what} for {names[0].removeprefix('base_model.model.')}, which is {_sides(what)} ({len(names)} such)"
            )
            raise InputProblems([Problem(str(folder), "adapter", found, expected)])


def _of_adapter(name: str, wanted: set[str]) -> bool:
    """Whether a tensor belongs to the adapter itself; a file may also hold embeddings that were saved along."""
    kinds = {key.removesuffix(".weight").rpartition(".")[2] for key in wanted}
    return name.removesuffix(".weight").rpartition(".")[2] in kinds


def _sides(what: str) -> str:
    return "in this base" if what == "no tensor" else "not in this base"


def virtual_token_count(folder: Path) -> int:
    """The tokens that the adapter puts before every sequence; mostly 0. Raises InputProblems where there is none."""
    if (folder / SETTINGS_FILE).is_file():
        return 0
    return int(adapter_config(folder).get("num_virtual_tokens") or 0)


def other_base(base: LoadedModel, folder: Path) -> list[str]:
    """A note where the adapter says that it was made for a model of another name; its shapes fit all the same."""
    if (folder / SETTINGS_FILE).is_file():
        return []
    recorded = Path(str(adapter_config(folder).get("base_model_name_or_path") or "")).name
    here = Path(str(base.model.config.name_or_path)).name
    return [f"{folder} says that it was made for {recorded}, not {here}"] if recorded and recorded != here else []
