"""Encodes what arms replay beside the task: rows of the user's, or the prompts that the base goes on from.

Where those are prompts of suites, each training set has its own.

Both become token files like a training set's. A prompt's completion is empty there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

import numpy as np

from rankscope.data.encode_sets import Encoding, TrainingRows
from rankscope.data.overlap import NearItems
from rankscope.data.sources import RowReader, for_each_batch
from rankscope.data.token_writers import TrainingWriter
from rankscope.records import Example, ReplayFacts, Row, SuiteFacts, TrainFacts
from rankscope.study.methods.remedy_settings import Replay
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Study, TrainSource

SAMPLE_SEED = 0
"""Of the samples that the base writes: one set for all arms and seeds."""


class SuitePrompts(Protocol):
    """Gives by suite the prompts, as token ids, that an arm on a training set replays from: of items that choose
    settings. Raises InputProblems (at `place`) where there are none, or where no suite is left that gives none."""

    def __call__(
        self, train_set: str, replay: Replay, place: str, suites: Mapping[str, SuiteFacts]
    ) -> Mapping[str, Sequence[tuple[int, ...]]]: ...


def encode_replays(
    study: Study, folder: Path, by: Encoding, suites: Mapping[str, SuiteFacts], ask: SuitePrompts | None
) -> dict[str, list[ReplayFacts]]:
    """By training set what the study's arms replay, each source once, whatever number of arms share it. `ask` gives
    prompts of suites. Raises InputProblems, and ValueError where an arm needs `ask` and there is none."""
    labels: dict[str, list[str]] = {}
    sources: dict[str, tuple[str, Replay]] = {}
    for key, entry in study.arms.items():
        if entry.replay is None:
            continue
        same = json.dumps(entry.replay.model_dump(mode="json", exclude={"share", "own"}), sort_keys=True)
        labels.setdefault(same, []).extend(arm.label for arm in study.arms_of(key))
        sources.setdefault(same, (key, entry.replay))
    problems: list[Problem] = []
    found: dict[str, list[ReplayFacts]] = {train_set: [] for train_set in study.train}
    for same, (key, replay) in sources.items():
        place = f"arms.{key}.replay"
        own: dict[str, ReplayFacts] = {}
        try:
            if replay.path is not None:
                own = dict.fromkeys(found, _rows(place, replay.path, folder, by, study.budget.max_sequence_tokens))
            elif not replay.asks_suites:
                own = dict.fromkeys(found, _prompts(place, replay, folder, by))
            elif ask is None:
                raise ValueError(f"{place} replays from prompts of suites, and nobody knows which items choose")
            else:
                own = {name: _suite_prompts(place, replay, by, ask(name, replay, place, suites)) for name in found}
        except InputProblems as error:
            problems += error.problems
        for name, facts in own.items():
            found[name].append(facts.model_copy(update={"arms": labels[same]}))
    if problems:
        raise InputProblems(problems)
    return found


def _rows(name: str, path: str, folder: Path, by: Encoding, longest: int) -> ReplayFacts:
    """Rows by the rules of a training set: those that a suite asks, that repeat, or that are too long are dropped.

    A rationale is always trained: an answer alone would unlearn how the base comes to it.
    """
    source = TrainSource(path=path, domain="replay", kind="reasoning")
    rows = RowReader(source, base=folder, name=name)
    with TrainingWriter(by.into) as writer:
        work = TrainingRows(source, rows.file, by, writer, longest, None)
        if (error := for_each_batch(rows, name, by.progress, work.add)) is not None:
            raise error
        kept, dropped = work.in_order(), work.dropped(rows)
        if not len(kept):
            why = ", ".join(f"{count} dropped: {reason}" for reason, count in dropped.items())
            raise InputProblems([Problem(rows.file, name, f"no usable row ({why})", "at least one to replay")])
        facts = ReplayFacts(
            arms=[],
            content_sha256="",
            row_count=len(kept),
            token_count=int(writer.token_counts[kept].sum(dtype=np.int64)),
            completion_token_count=int(writer.target_counts[kept].sum(dtype=np.int64)),
            dropped=dropped,
            warnings=work.warnings(),
        )
        return facts.model_copy(update={"content_sha256": _written(writer, kept)})


def _prompts(name: str, replay: Replay, folder: Path, by: Encoding) -> ReplayFacts:
    """What the base's samples begin with: a user's message of each line by the chat template, where there is one, else
    the line itself; without a file the beginning-of-sequence token."""
    encoder, warnings = by.encoder, []
    prompts: list[tuple[int, ...]] = [(encoder.tokens.prefix_id,)]
    if replay.prompts is not None:
        lines = _lines(folder, replay.prompts, name)
        warnings = _near(lines, by)
        prompts = encoder.prompt_ids(lines)
    return _encoded(name, replay, by, prompts).model_copy(update={"warnings": warnings})


def _suite_prompts(
    name: str, replay: Replay, by: Encoding, asked: Mapping[str, Sequence[tuple[int, ...]]]
) -> ReplayFacts:
    """Of each suite one after another, so that few samples are of all."""
    turns = zip_longest(*asked.values())
    prompts = [ids for turn in turns for ids in turn if ids is not None]
    return _encoded(name, replay, by, prompts).model_copy(update={"prompts_from": list(asked)})


def _encoded(name: str, replay: Replay, by: Encoding, given: Sequence[tuple[int, ...]]) -> ReplayFacts:
    """The prompts that leave room for an answer, as a token file. Raises InputProblems where none does."""
    encoder = by.encoder
    room = encoder.context_tokens - replay.max_tokens
    prompts = [ids for ids in given if len(ids) <= room]
    dropped = len(given) - len(prompts)
    if room < 1 or not prompts:
        found = f"no prompt that leaves room for {replay.max_tokens} tokens in a context of {encoder.context_tokens}"
        raise InputProblems([Problem(replay.file or "study", f"{name}.max_tokens", found, "shorter ones")])
    with TrainingWriter(by.into) as writer:
        writer.add([Example(f"prompt-{i}", ids, ()) for i, ids in enumerate(prompts)])
        content = _written(writer, np.arange(len(prompts)))
    decides = [content, replay.samples, replay.temperature, replay.max_tokens, SAMPLE_SEED, sorted(encoder.eos_ids)]
    turns, rest = divmod(replay.samples, len(prompts))  # sample i goes on from prompt i % prompts
    asked = turns * sum(map(len, prompts)) + sum(map(len, prompts[:rest]))
    return ReplayFacts(
        arms=[],
        content_sha256=content,
        samples_sha256=hashlib.sha256(json.dumps(decides).encode()).hexdigest(),
        row_count=replay.samples,
        token_count=asked + replay.samples * replay.max_tokens,
        completion_token_count=replay.samples * replay.max_tokens,
        dropped={"longer than the model's context": dropped} if dropped else {},
    )


def _written(writer: TrainingWriter, rows: np.ndarray) -> str:
    """The hash that names the token file of these rows, none of which is held out."""
    nothing = TrainFacts(
        name="replay", domain=None, content_sha256="", row_count=len(rows), validation_count=0,
        token_count=int(writer.token_counts[rows].sum(dtype=np.int64)),
        completion_token_count=int(writer.target_counts[rows].sum(dtype=np.int64)),
    )  # fmt: skip
    return writer.finish(rows, np.zeros(0, dtype=np.int64), nothing).content_sha256


def _lines(folder: Path, path: str, name: str) -> list[str]:
    expected = "a text file with one prompt in each line"
    try:
        text = (folder / Path(path).expanduser()).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        found = "no UTF-8 text" if isinstance(error, UnicodeDecodeError) else "a file that cannot be read"
        found = "no such file" if isinstance(error, FileNotFoundError) else found
        raise InputProblems([Problem(path, f"{name}.prompts", found, expected)]) from error
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not lines:
        raise InputProblems([Problem(path, f"{name}.prompts", "no prompt", expected)])
    return lines


def _near(lines: list[str], by: Encoding) -> list[str]:
    """Items of suites that stand among the prompts: what is replayed then keeps what is measured."""
    near = NearItems(by.asked)
    near.add([Row(f"prompt-{i}", f"line {i + 1}", prompt=line, completion="") for i, line in enumerate(lines)])
    return [
        f"{len(ids)} of {by.asked.item_count(suite)} items of suite {suite} stand among the prompts of a replay, the "
        f"first is {ids[0]}: its forgetting is that of items which gave prompts"
        for suite, ids in near.ids().items()
        if ids
    ]
