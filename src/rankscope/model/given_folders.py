"""What lies in folders that arms were trained into elsewhere: LoRA adapters and whole models, read before any is used.

Nothing is loaded onto a model: of adapters the files are read, of models the configuration and the hashes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from rankscope.model.load import inspect_model
from rankscope.model.methods.peft_folder import read_peft_config
from rankscope.model.weights.adapter_file import CONFIG, WEIGHTS, Adapter, read_adapter
from rankscope.records import ModelFacts
from rankscope.study.methods.given_method import Found, GivenAdapters, GivenEntry
from rankscope.study.methods.lora_method import matches_target
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import ModelSpec

_OWN_FILES = (".json", ".safetensors")
"""What of a model's folder is its configuration and its weights; pickles are never opened."""


def look_at(entry: GivenEntry, base: Path, facts: ModelFacts, place: str) -> Found:
    """What the entry's folders hold, for a base with these facts; relative paths start at `base`.

    Raises InputProblems for a folder that holds no adapter or model that can be used exactly, one of another base,
    folders that differ in what makes an arm (rank, scale, targets), and a content that stands twice.
    """
    folders = [base / Path(folder).expanduser() for folder in entry.folders]
    if isinstance(entry, GivenAdapters):
        found = [_adapter(folder, facts) for folder in folders]
    else:
        found = [_model(folder, facts) for folder in folders]
    problems = []
    for folder, one in zip(folders, found, strict=True):
        if said := _differs(found[0], one):
            problems.append(Problem(str(folder), place, *said))
    hashes = [one.sha256[0] for one in found]
    for i, sha256 in enumerate(hashes):
        if hashes.index(sha256) < i:
            expected = "another training run in each folder, one for each seed"
            problems.append(Problem(str(folders[i]), place, f"what {folders[hashes.index(sha256)]} holds", expected))
    if problems:
        raise InputProblems(problems)
    return found[0].model_copy(update={"sha256": tuple(hashes)})


def files_of(folder: Path, *, adapter: bool) -> list[Path]:
    """The files that are judged and copied: an adapter's two, or a model's configuration and weights."""
    if adapter:
        return [folder / CONFIG, folder / WEIGHTS]
    return sorted(path for path in folder.glob("*") if path.suffix in _OWN_FILES and path.is_file())


def content_of(folder: Path, facts: ModelFacts, *, adapter: bool) -> str:
    """The hash of what a folder holds, as `Found.sha256` has it. Raises InputProblems where it holds nothing that can
    be used."""
    return (_adapter(folder, facts) if adapter else _model(folder, facts)).sha256[0]


def copy_into(folder: Path, target: Path, *, adapter: bool) -> None:
    """Copy what is judged into a folder of the study; nothing is written where it came from."""
    for path in files_of(folder, adapter=adapter):
        shutil.copyfile(path, target / path.name)


# ---- adapters -------------------------------------------------------------------------------------------------------


def _adapter(folder: Path, facts: ModelFacts) -> Found:
    read_peft_config(folder)
    adapter = read_adapter(folder)
    problems = [Problem(str(folder), "adapter", *said) for said in (*_beside(adapter), *_misfits(adapter, facts))]
    if problems:
        raise InputProblems(problems[:1])  # the first of many matrices says it
    digest = hashlib.sha256()
    for path in files_of(folder, adapter=True):
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    parameters = sum(delta.rank * sum(delta.shape) for delta in adapter.deltas.values())
    return Found(
        sha256=(digest.hexdigest(),),
        parameters=parameters,
        rank=adapter.rank,
        alpha=float(adapter.config["lora_alpha"]),
        targets=_targets(list(adapter.deltas), facts),
    )


def _beside(adapter: Adapter) -> list[tuple[str, str]]:
    """What is more than scale B A, and could not be dialled."""
    expected = "a plain LoRA, whose change is B A times a scale"
    if adapter.rest:
        return [(f"{len(adapter.rest)} tensors beside lora_A and lora_B, such as {min(adapter.rest)}", expected)]
    return [(note, expected) for note in adapter.notes]


def _misfits(adapter: Adapter, facts: ModelFacts) -> list[tuple[str, str]]:
    """Modules that the base has not, or has in another shape."""
    expected = f"an adapter made for {facts.name}"
    found = []
    for module, delta in adapter.deltas.items():
        shape = facts.linear_shapes.get(module)
        if shape is None:
            found.append((f"factors of {module}, which is no linear module of {facts.name}", expected))
        elif tuple(delta.shape) != tuple(shape):
            found.append((f"factors of {module} for {list(delta.shape)}, in {facts.name} {list(shape)}", expected))
    return found


def _targets(modules: Sequence[str], facts: ModelFacts) -> str | tuple[str, ...]:
    """As a study would name these modules: all-linear, the ends of their names, or every path."""
    if set(modules) == set(facts.linear_shapes):
        return "all-linear"
    ends = tuple(sorted({module.rpartition(".")[2] for module in modules}))
    named = {module for module in facts.linear_shapes if any(matches_target(module, end) for end in ends)}
    return ends if named == set(modules) else tuple(sorted(modules))


# ---- models ---------------------------------------------------------------------------------------------------------


def _model(folder: Path, facts: ModelFacts) -> Found:
    if not (folder / "config.json").is_file():
        expected = "a folder with a model, as transformers saves it"
        raise InputProblems([Problem(str(folder), "model", "no config.json", expected)])
    own = inspect_model(ModelSpec(id=str(folder)), Path("/"))
    expected = f"a model fine-tuned from {facts.name}, of its shape"
    for name in ("architecture", "linear_shapes", "vocab_size", "parameter_count"):
        theirs, ours = getattr(own, name), getattr(facts, name)
        if theirs != ours:
            told = f"{name.replace('_', ' ')} {theirs}, of {facts.name} {ours}"
            found = "other linear modules" if name == "linear_shapes" else told
            raise InputProblems([Problem(str(folder), "model", found, expected)])
    if own.content_sha256 == facts.content_sha256:
        raise InputProblems([Problem(str(folder), "model", f"{facts.name} itself", expected)])
    return Found(sha256=(own.content_sha256,), parameters=own.parameter_count)


def _differs(first: Found, other: Found) -> tuple[str, str] | None:
    """(found, expected) where two folders are not two seeds of one arm."""
    for name in ("rank", "alpha", "targets"):
        theirs, ours = getattr(other, name), getattr(first, name)
        if theirs != ours:
            shown = [", ".join(value) if isinstance(value, tuple) else f"{value}" for value in (theirs, ours)]
            return f"{name} {shown[0]}", f"{shown[1]}, as in the first folder: one arm has one {name}"
    return None
