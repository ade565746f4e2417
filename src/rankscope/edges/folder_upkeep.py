"""Upkeep of a study folder: full checkpoints that are not kept, damaged files that are set aside and made again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial

from rankscope.edges.storages import Busy
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Plan, PlannedRun
from rankscope.study.problems import InputProblems


def keep_best(folder: StudyFolder, plan: Plan, is_finished: Callable[[PlannedRun], bool]) -> None:
    """Of each arm's full checkpoints of runs that are finished leave the one with the lowest validation loss.

    A run that somebody works on keeps its weights: they are yet to be scored, at other dials too, or looked into. So
    does one whose look inside failed (its reason says so), which is tried again.
    """
    groups: dict[tuple[str, str, str], list[tuple[float, str]]] = {}
    for run in plan.runs:
        status = folder.read_status(run.run_id) if run.arm.traits.whole else None
        if status is None or status.state != "done" or status.validation_loss is None:
            continue
        if status.reason or status.activity:
            continue
        if folder.has_weights(run.run_id, whole=True) and is_finished(run):
            key = (run.model, run.train_set, run.arm.label)
            groups.setdefault(key, []).append((status.validation_loss, run.run_id))
    for run_id in _all_but_the_best(groups.values()):
        with suppress(Busy), folder.lock(run_id):
            folder.remove_weights(run_id)


def set_aside_damaged(folder: StudyFolder, plan: Plan, bases: Collection[str]) -> list[str]:
    """Rename to NAME.damaged what can no longer be read and is made again by a run; a sentence for each.

    `bases` are the base models' run ids. Weights and tokens are looked at where a run still needs them. Call it under
    the study's lock.
    """
    reads: dict[str, Callable[[], object]] = {"settings.json": folder.read_settings}
    for search in plan.searches:
        reads[f"searches/{search.search_id}/search.json"] = partial(folder.read_search, search.search_id)
        reads[f"searches/{search.search_id}/rungs.json"] = partial(folder.read_rungs, search.search_id)
        for table in ("selection", "first_tokens"):
            name = f"searches/{search.search_id}/{table}.parquet"
            reads[name] = partial(folder.read_frame, name)
    for facts in plan.train_sets:
        reads[f"packing/{facts.model} {facts.name}.json"] = partial(folder.read_packing, facts.model, facts.name)
    for name in folder.storage.list("packs"):
        reads[f"packs/{name}"] = partial(folder.read_pack, name)
    for run_id in (*bases, *(run.run_id for run in plan.runs)):
        reads |= _reads_of_run(folder, run_id)
    told = _set_aside(folder, reads)
    left = [run for run in plan.runs if (status := folder.read_status(run.run_id)) is None or status.state != "done"]
    reads = {}
    for run in left:
        name = f"{folder.run_folder(run.run_id)}/{'model' if run.arm.traits.whole else 'adapter'}"
        reads[name] = partial(folder.weights, run.run_id, whole=run.arm.traits.whole)
    hashes = {facts.content_sha256 for facts in plan.train_sets} | {facts.content_sha256 for facts in plan.suites}
    hashes |= {replay.content_sha256 for facts in plan.train_sets for replay in facts.replays}
    for file in folder.storage.list("replay") if left else ():
        if file.endswith(".arrow"):
            reads[f"replay/{file}"] = partial(folder.samples, file.removesuffix(".arrow"))
    for content_sha256 in sorted(hashes) if left else ():
        if folder.has_tokens(content_sha256):
            reads[f"tokens/{content_sha256}.arrow"] = partial(folder.tokens, content_sha256)
    return told + _set_aside(folder, reads)


def _reads_of_run(folder: StudyFolder, run_id: str) -> dict[str, Callable[[], object]]:
    own = folder.run_folder(run_id)
    reads: dict[str, Callable[[], object]] = {
        f"{own}/status.json": partial(folder.read_status, run_id),
        f"{own}/run.json": partial(folder.read_run, run_id),
        f"{own}/train.jsonl": partial(folder.read_steps, run_id),
    }
    reads[f"{own}/dials.json"] = partial(folder.read_dial_losses, run_id)
    for name in ("predictions", "again", "items", "first_tokens"):
        reads[f"{own}/{name}.parquet"] = partial(folder.check_table, f"{own}/{name}.parquet")
    for part in ("derived", "analysis", "dials"):
        for file in folder.storage.list(f"{own}/{part}"):
            if file.endswith(".parquet"):
                reads[f"{own}/{part}/{file}"] = partial(folder.check_table, f"{own}/{part}/{file}")
    reads[f"{own}/analysis/directions.safetensors"] = partial(folder.read_directions, run_id)
    return reads


def _set_aside(folder: StudyFolder, reads: Mapping[str, Callable[[], object]]) -> list[str]:
    told = []
    for name, read in reads.items():
        try:
            read()
        except (InputProblems, OSError) as error:
            for one in (name, f"{name}.sha256"):  # the hash too: it may be what cannot be read
                if one == name or folder.storage.exists(one):
                    folder.storage.remove(f"{one}.damaged")
                    folder.storage.rename(one, f"{one}.damaged")
            why = error.problems[0].found if isinstance(error, InputProblems) else error.strerror or str(error)
            told.append(f"{folder.place(name)} is damaged ({why}): set aside as {name.rpartition('/')[2]}.damaged")
    return told


def _all_but_the_best(groups: Iterable[list[tuple[float, str]]]) -> list[str]:
    return [run_id for group in groups for _, run_id in sorted(group)[1:]]
