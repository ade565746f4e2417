"""What is decided once for a study on a machine (dtype, workers, micro-batches), and the ids of what follows from it.

An id is a hash of all that decides the trained weights, and of nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from rankscope.plan.checkpointing_choice import LEAST_MICRO_BATCH_TOKENS, micro_batch_tokens
from rankscope.plan.gang_choice import ALONE, GangNeed, Room, choose_scoring
from rankscope.plan.run_need import Dtype, gang_key, run_need, run_scoring
from rankscope.plan.worker_share import on_cores, on_gpus, workers_kept
from rankscope.records import (
    RESULTS_VERSION,
    Gang,
    MachineFacts,
    ModelFacts,
    ReplayFacts,
    Resolved,
    TrainFacts,
)
from rankscope.records.machine_facts import Device
from rankscope.study.methods import arm_label
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Arm, ModelSpec, Study, TrainSource

USABLE_MEMORY = 0.9
"""Share of the memory that the plan may count on: the rest is the system's and the allocator's."""


def dtype_of(spec: ModelSpec, resolved: Resolved) -> Dtype:
    """The dtype in which this model is loaded: its own where the study gives it, else the study's."""
    return resolved.dtype if spec.dtype == "auto" else spec.dtype


def available_bytes(machine: MachineFacts, device: Device) -> int:
    """Memory that all workers on the device may use together."""
    total = machine.device_memory_bytes if device == "cuda" else machine.memory_bytes
    return int(total * USABLE_MEMORY)


def resolve(
    study: Study,
    arms: Sequence[Arm],
    models: Sequence[ModelFacts],
    train_sets: dict[str, list[TrainFacts]],
    machine: MachineFacts,
    previous: Resolved | None,
    file: str,
) -> Resolved:
    """The study's own choices first, then what an earlier plan decided, then what suits the machine.

    One worker for each GPU; on CPU one for each core as far as memory and the number of runs allow. The cores are
    shared out among them. `checkpointing_choice` says how large micro-batches are, and who computes activations twice.
    Gangs are chosen for arms that one device does not hold. `machine` has the GPUs that the study takes.
    Raises InputProblems where an earlier plan was made for a device that this machine lacks, or for more.
    """
    given = {spec.dtype for spec in study.models}
    explicit = given.pop() if len(given) == 1 else "auto"
    if previous is not None:
        _check_machine(previous, machine, file)
        changed = workers_kept(previous, study.execution, machine)
        kept = previous.model_copy(update=changed if explicit == "auto" else {**changed, "dtype": explicit})
        return _with_ways(kept, previous, study, arms, models, train_sets, machine)
    auto: Dtype = "bfloat16" if machine.bfloat16_is_fast or study.optimizer.name == "adamw_bf16" else "float32"
    start = Resolved(
        dtype=auto if explicit == "auto" else explicit,
        device=machine.device,
        worker_count=1,
        thread_count=machine.core_count,
        micro_batch_tokens=LEAST_MICRO_BATCH_TOKENS,
    )
    room = Room.of(machine, USABLE_MEMORY, machine.device)

    @cache
    def needs_at(tokens: int) -> Sequence[GangNeed]:
        trial = start.model_copy(update={"micro_batch_tokens": tokens})
        return tuple(_needs(study, arms, models, train_sets, trial, machine).values())

    def fitting(tokens: int) -> list[int]:
        """What each arm needs that fits, all its processes together where they share a memory."""
        found = [need for need in needs_at(tokens) if need.fits(room)]
        return [need.device_bytes * (need.gang.size if room.shared else 1) for need in found]

    tokens = micro_batch_tokens(needs_at, machine.device, room)
    if machine.device != "cpu":
        share = on_gpus(study.execution, machine)
    else:
        run_count = len(arms) * len(study.all_seeds) * sum(len(train_sets[facts.name]) for facts in models)
        share = on_cores(study.execution, machine, run_count, fitting(tokens), room.device_bytes)
    made = start.model_copy(update={"micro_batch_tokens": tokens, **share})
    return _with_ways(made, made, study, arms, models, train_sets, machine)


def _with_ways(
    resolved: Resolved,
    previous: Resolved,
    study: Study,
    arms: Sequence[Arm],
    models: Sequence[ModelFacts],
    train_sets: dict[str, list[TrainFacts]],
    machine: MachineFacts,
) -> Resolved:
    """With the gangs of what one device does not hold, and who computes its activations twice; what `previous` decided
    stays."""
    needs = _needs(study, arms, models, train_sets, resolved, machine)
    scoring = _scoring_gangs(study, arms, models, train_sets, resolved, machine)
    update = {
        "gangs": {**_gangs(needs), **previous.gangs},
        "scoring_gangs": {**scoring, **previous.scoring_gangs},
        "checkpointed": sorted({*_checkpointed(needs), *previous.checkpointed}),
    }
    return resolved.model_copy(update=update)


def _check_machine(previous: Resolved, machine: MachineFacts, file: str) -> None:
    """Raises InputProblems where an earlier plan cannot go on here."""
    gangs = [*previous.gangs.values(), *previous.scoring_gangs.values()]
    largest = max((gang.size for gang in gangs), default=1)
    found = ""
    if previous.device == "cuda" and machine.device != "cuda":
        found = "a plan made for CUDA, on a machine without it"
    elif previous.device == "mps" and machine.device != "mps":
        found = "a plan made for a Mac's GPU, on a machine or a study without it"
    elif largest > Room.of(machine, USABLE_MEMORY, previous.device).devices:
        found = f"a plan with gangs of {largest} devices, on a machine with fewer"
    if found:
        raise InputProblems([Problem(file, "plan.json", found, "the machine it was begun on, or another --out")])


def _arms_in_place(
    study: Study,
    arms: Sequence[Arm],
    models: Sequence[ModelFacts],
    train_sets: dict[str, list[TrainFacts]],
    resolved: Resolved,
) -> Iterator[tuple[str, Arm, ModelFacts, TrainFacts, Dtype]]:
    """Every arm on every training set of every base, with the key of its gang and the dtype it computes in."""
    specs = {spec.name: spec for spec in study.models}
    for facts in models:
        for train in train_sets[facts.name]:
            for arm in arms:
                yield gang_key(facts, train, arm), arm, facts, train, dtype_of(specs[facts.name], resolved)


def _needs(
    study: Study,
    arms: Sequence[Arm],
    models: Sequence[ModelFacts],
    train_sets: dict[str, list[TrainFacts]],
    resolved: Resolved,
    machine: MachineFacts,
) -> dict[str, GangNeed]:
    """What each arm that is trained needs, alone or in a gang, by `gang_key`."""
    room = Room.of(machine, USABLE_MEMORY, resolved.device)
    trained = [arm for arm in arms if arm.given is None]
    places = _arms_in_place(study, trained, models, train_sets, resolved)
    return {key: run_need(study, arm, facts, train, dtype, resolved, room) for key, arm, facts, train, dtype in places}


def _gangs(needs: Mapping[str, GangNeed]) -> dict[str, Gang]:
    return {key: need.gang for key, need in needs.items() if need.gang != ALONE}


def _checkpointed(needs: Mapping[str, GangNeed]) -> list[str]:
    return [key for key, need in needs.items() if need.checkpointing]


def _scoring_gangs(
    study: Study,
    arms: Sequence[Arm],
    models: Sequence[ModelFacts],
    train_sets: dict[str, list[TrainFacts]],
    resolved: Resolved,
    machine: MachineFacts,
) -> dict[str, Gang]:
    """Of bases by their names, and of arms, what one device does not hold."""
    specs, room = {spec.name: spec for spec in study.models}, Room.of(machine, USABLE_MEMORY, resolved.device)
    needs: dict[str, GangNeed] = {
        facts.name: choose_scoring(None, facts, dtype_of(specs[facts.name], resolved), room, study.execution)
        for facts in models
    }
    for key, arm, facts, train, dtype in _arms_in_place(study, arms, models, train_sets, resolved):
        needs[key] = run_scoring(study, arm, facts, train, dtype, resolved, room)
    return _gangs(needs)


SEARCH_SEED = 2**31
"""The smallest integer beyond every seed that a study may have: outside `seeds`, now and when seeds are added."""

MOST_BEYOND = 2
"""How many half decades a search may go beyond its grid, where the best rate is the last one."""


def next_rate(rate: float, *, up: bool) -> float:
    """The next rate of the half-decade grid: 1e-3 -> 3e-3 -> 1e-2, or back."""
    power = math.floor(math.log10(rate) + 1e-9)
    one = round(rate / 10.0**power) == 1
    if up:
        return float(f"3e{power}") if one else float(f"1e{power + 1}")
    return float(f"3e{power - 1}") if one else float(f"1e{power}")


def search_arms(arm: Arm, entry: Sequence[Arm]) -> tuple[Arm, ...]:
    """The arms that find this arm's rate: itself (`auto`), its whole entry (`auto_shared`), none where it is given."""
    if not isinstance(arm.learning_rate, str):
        return ()
    return tuple(entry) if arm.learning_rate == "auto_shared" else (arm,)


def run_id(
    arm: Arm, seed: int, study: Study, model: ModelFacts, train: TrainFacts, dtype: str, searching: Sequence[Arm] = ()
) -> str:
    """`lora-r16-s0-0123456789ab`: method, rank, seed, and 12 hex digits of a SHA-256.

    Hashed are the arm without its label, the training rows as they are encoded and their settings without the domain,
    the model's content, dtype, budget, optimizer, validation, the seed, RESULTS_VERSION, and where the rate is searched
    its grid, the search's seed and the arms that search (`searching`, of `search_arms`). Of an arm that was trained
    elsewhere the content of the seed's folder, and of the rest what it is validated on. Suites, labels, other arms,
    other seeds, margins, checkpoints and paths are not: changing them trains nothing anew.
    """
    payload = {**_common(study, model, train, dtype), "arm": _settings(arm, train), "seed": seed}
    if arm.given is not None:
        payload |= {"budget": None, "optimizer": None, "arm": arm.given.sha256[study.all_seeds.index(seed)]}
    elif searching:
        payload["search"] = _search(searching, train)
    else:
        payload["learning_rate"] = arm.learning_rate
    return f"{_head(arm)}-s{seed}-{_digest(payload)}"


def search_id(
    searching: Sequence[Arm],
    study: Study,
    model: ModelFacts,
    train: TrainFacts,
    dtype: str,
    tried: Mapping[str, Any] | None = None,
) -> str:
    """`lora-r16-search-0123456789ab`, of what decides a search's outcome: beside what decides its arms' training,
    `tried`, which has its first rates, the searches that it goes by, and the items that choose, with their dials."""
    payload = {**_common(study, model, train, dtype), "search": _search(searching, train), "tried": dict(tried or {})}
    head = _head(searching[0]) if len(searching) == 1 else f"{searching[0].method}-shared"
    return f"{head}-search-{_digest(payload)}"


def samples_id(replay: ReplayFacts, model: ModelFacts, dtype: str) -> str:
    """Names the samples that this base writes for a replay: a hash of all that decides them."""
    return _digest([replay.samples_sha256, model.content_sha256, dtype, model.quantization, RESULTS_VERSION])


def _head(arm: Arm) -> str:
    return arm_label(arm.method, arm.method, arm.size)


def _common(study: Study, model: ModelFacts, train: TrainFacts, dtype: str) -> dict[str, Any]:
    source: TrainSource = study.train[train.name]
    eight_bit = study.optimizer.name != "adamw"  # hashed where it is not the default, so that older ids stay
    return {
        "results_version": RESULTS_VERSION,
        "model": model.content_sha256,
        "dtype": dtype,
        "train": [train.content_sha256, train.row_count, train.validation_count, train.token_count],
        "source": source.model_dump(mode="json", include={"choices", "template", "kind", "columns"}),
        "validation": study.validation.model_dump(mode="json"),
        "budget": study.budget.model_dump(mode="json", exclude={"gradient_checkpointing"}),
        "optimizer": study.optimizer.model_dump(mode="json", exclude=None if eight_bit else {"name"}),
        **({"quantization": model.quantization} if model.quantization is not None else {}),
    }


def _settings(arm: Arm, train: TrainFacts) -> dict[str, Any]:
    """An arm without its label, its rate and its dial (a run is as it was trained); the order and repetition of targets
    mean nothing. Of what it replays the share and the content, not where that lies."""
    settings = arm.model_dump(mode="json", exclude={"label", "learning_rate", "dial", "retain", "replay", "given"})
    if isinstance(arm.targets, tuple):
        settings["targets"] = sorted(set(arm.targets))
    if arm.retain is not None:  # hashed where there is one, so that older ids stay
        settings["retain"] = arm.retain.model_dump(mode="json")
    if arm.replay is not None and (facts := train.replay_of(arm)) is not None:
        settings["replay"] = {"share": arm.replay.token_share, "content": facts.identity}
    return settings


def _search(searching: Sequence[Arm], train: TrainFacts) -> dict[str, Any]:
    settings = (_settings(arm, train) for arm in searching)
    arms = sorted(settings, key=lambda one: json.dumps(one, sort_keys=True))
    return {"rates": searching[0].traits.rate_grid, "beyond": MOST_BEYOND, "seed": SEARCH_SEED, "arms": arms}


def _digest(payload: Any) -> str:
    text = json.dumps(payload, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
