"""From a study file to a plan: models looked at, rows encoded where something changed, every run calculated.

What an earlier plan of the same folder says stays true as long as the study, its sources and its models are what they
were: then no source is opened and no tokenizer is loaded.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rankscope.data.encode_study import encode_study
from rankscope.data.encoder import Encoder
from rankscope.data.source_state import changed_sources, source_states
from rankscope.data.token_files import token_path
from rankscope.data.token_writers import code_sha256
from rankscope.decide.planned_power import planned_power
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.lm_eval.load_task import load_task
from rankscope.jobs.earlier_plan import finished_among, pinned, unscorable
from rankscope.jobs.given_arms import as_found_before, with_found
from rankscope.jobs.ready_suites import with_chosen_suites
from rankscope.jobs.selection_prompts import selection_prompts
from rankscope.model.load import inspect_model, load_tokenizer
from rankscope.model.model_checks import changed_model_files, model_states, tokenizer_sha256
from rankscope.model.model_source import weights_source
from rankscope.plan.make_plan import make_plan
from rankscope.plan.worker_share import device_of, place_problems
from rankscope.records import MachineFacts, MeasuredSpeed, ModelFacts, Plan, SourceState, SuiteFacts, TrainFacts
from rankscope.study.methods.given_method import GivenEntry
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.read_study import absolute, dump_study, study_of
from rankscope.study.store_urls import is_url
from rankscope.study.study import ModelSpec, Study

_NAMED = 4
"""Runs that a message names."""

Progress = Callable[[str, int, int | None], None]
"""(what is read, rows done, rows in all where that is known)"""


@dataclass(frozen=True)
class _Facts:
    """What a plan is calculated from, and the state in which it was found."""

    models: list[ModelFacts]
    training: dict[str, list[TrainFacts]]
    suites: dict[str, list[SuiteFacts]]
    sources: list[SourceState]
    model_files: list[SourceState]


@dataclass
class StudyPlanner:
    """A study, and the folder `base` of its file, which relative paths start at.

    Token files are made in a temporary folder; a study's folder gets them when the plan is settled there.
    """

    study: Study
    base: Path
    progress: Progress = lambda *_: None
    _made: TemporaryDirectory[str] | None = field(default=None, init=False)
    _facts: _Facts | None = field(default=None, init=False)
    _planned_in: StudyFolder | None = field(default=None, init=False)
    _known: set[str] = field(default_factory=set, init=False)
    _asked: Study = field(init=False)

    def __post_init__(self) -> None:
        models = tuple(_with_a_name(spec, self.base) for spec in self.study.models)
        self.study = self._asked = self.study.model_copy(update={"models": models})

    def __enter__(self) -> StudyPlanner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def plan(
        self,
        machine: MachineFacts,
        out: StudyFolder,
        measured: Sequence[MeasuredSpeed] = (),
        *,
        as_begun: bool = True,
    ) -> Plan:
        """Look at models, rows and machine, and calculate every run; trains nothing and writes nothing into `out`.

        `out` is the study's folder, whose earlier plan decides what must stay as it was (dtype, workers,
        micro-batches) unless `as_begun` is false. `measured` is what `measure_study` found. Raises InputProblems, and
        where a source or model of finished runs has changed.
        """
        previous = out.read_plan() if out.read_marker() is not None else None
        self._resolve(out if previous is not None else None)
        facts = self._facts or (self._as_planned(previous, out) if previous is not None else None)
        if facts is None:
            device = device_of(self.study.execution, machine)
            if wrong := place_problems(self.study.execution, device, machine, "study"):
                raise InputProblems(wrong)  # before rows are read, which may take long
            facts = self._look(machine)
        plan = make_plan(
            self.study, facts.models, facts.training, facts.suites, machine,
            previous=previous.resolved if previous is not None and as_begun else None, measured=measured,
        )  # fmt: skip
        found = {"sources": facts.sources, "model_files": facts.model_files}
        lost = [
            f"{run_id} cannot be scored on {', '.join(suites)}: its weights were not kept (`keep: {{full: none}}`); "
            "`rankscope run --retrain` trains it again"
            for run_id, suites in (unscorable(out, plan) if previous is not None else {}).items()
        ]
        lost += self._on_this_machine_alone(out)
        power = planned_power(plan, self.study.decision)
        return plan.model_copy(update={**found, "power": power, "warnings": [*plan.warnings, *lost]})

    def _resolve(self, out: StudyFolder | None) -> None:
        """Put suites in the place of each `auto`, and what was found of given arms beside them: those of the study as
        its folder has it, else what can be reached; what given arms hold is looked at with all else."""
        asks_suites = any(source.auto is not None for source in self._asked.suites.values())
        if not asks_suites and not any(isinstance(entry, GivenEntry) for entry in self._asked.arms.values()):
            return
        before = None
        if out is not None:
            with contextlib.suppress(InputProblems):  # damaged: written anew
                before = study_of(out.read_study_text() or "")
        if before is None and self.study is not self._asked:
            return
        chosen = with_chosen_suites(self._asked, self.base, before)
        if before is not None:
            chosen = as_found_before(chosen, self.base, before)
        if chosen != self.study:
            self.study, self._facts = chosen, None

    def _on_this_machine_alone(self, out: StudyFolder) -> list[str]:
        """A study in a store may be gone on with anywhere, unless its model lies in a folder of this machine."""
        return [
            f"the model {spec.name} is a folder of this machine: no other can go on with {out.url}; a hub id or a "
            "store's URL can be read everywhere"
            for spec in self.study.models
            if is_url(out.url) and spec.id != "bundled" and (self.base / Path(spec.id).expanduser()).is_dir()
        ]

    def text(self, plan: Plan) -> str:
        """The study with absolute paths, at the commits that were planned: study.yaml of its folder."""
        return dump_study(pinned(absolute(self.study, self.base, self._known), plan))

    def settle(self, folder: StudyFolder, plan: Plan) -> None:
        """Write what the folder's jobs work by: token files first, then study and plan."""
        for content_sha256 in sorted(_token_hashes(plan)):
            if not folder.has_tokens(content_sha256):
                folder.add_tokens(content_sha256, self._tokens(content_sha256))
        folder.write_study(self.text(plan), plan)

    def _tokens(self, content_sha256: str) -> Path:
        """The token file where it was made, or in the folder whose plan still holds."""
        if self._made is not None:
            return token_path(Path(self._made.name), content_sha256)
        assert self._planned_in is not None
        return self._planned_in.tokens(content_sha256)

    def close(self) -> None:
        """Delete token files that no folder took over."""
        if self._made is not None:
            self._made.cleanup()
            self._made = None

    def no_longer_wanted(self, folder: StudyFolder, plan: Plan) -> list[str]:
        """Finished runs of the folder that `plan` does not ask for: the study was changed since."""
        before = folder.read_plan()
        wanted = {run.run_id for run in plan.runs}
        return finished_among(folder, [run.run_id for run in before.runs if run.run_id not in wanted] if before else [])

    def _look(self, machine: MachineFacts) -> _Facts:
        """Open everything: inspect the models, read and encode the rows."""
        models = [
            inspect_model(spec, self.base, device=device_of(self.study.execution, machine))
            for spec in self.study.models
        ]
        self.study = with_found(self.study, self.base, models)
        sources = source_states(self.study, self.base)
        self.close()
        self._made = TemporaryDirectory(prefix="rankscope-tokens-")
        training: dict[str, list[TrainFacts]] = {}
        suites: dict[str, list[SuiteFacts]] = {}
        done: dict[tuple[object, ...], str] = {}
        files = {
            spec.name: model_states(spec.name, weights_source(spec, self.base), spec.id if is_url(spec.id) else None)
            for spec in self.study.models
        }
        for spec, facts in zip(self.study.models, models, strict=True):
            own = tokenizer_sha256(files[spec.name]) or spec.name
            key = (own, facts.context_tokens, facts.vocab_size, spec.chat, spec.chat_template, spec.system_prompt)
            if key in done:  # the same tokens as another base's: encoded once
                training[spec.name], suites[spec.name] = training[done[key]], suites[done[key]]
                continue
            done[key] = spec.name
            room = facts.context_tokens - self.study.virtual_tokens
            encoder = Encoder(
                load_tokenizer(spec, self.base), context_tokens=room, system_prompt=spec.system_prompt,
                vocabulary_size=facts.vocab_size,
            )  # fmt: skip
            tokens = Path(self._made.name)
            encoded = encode_study(
                self.study, self.base, encoder, tokens, load_task=load_task, progress=self.progress,
                suite_prompts=partial(selection_prompts, self.study, tokens),
            )  # fmt: skip
            training[spec.name] = list(encoded.training.values())
            suites[spec.name] = list(encoded.suites.values())
        self._facts = _Facts(models, training, suites, sources, [one for states in files.values() for one in states])
        return self._facts

    def _as_planned(self, before: Plan, out: StudyFolder) -> _Facts | None:
        """What the earlier plan says, where it still holds; None where the study or, before any run was finished, a
        source or model has changed.

        Raises InputProblems where runs are finished, others are not, and the rows or the model are no longer the same.
        """
        try:
            text = out.read_study_text() or ""
            stored = study_of(text)
        except InputProblems:  # damaged: written anew, from the study that is asked for now
            return None
        rows = [*stored.train.values(), *stored.suites.values()]
        self._known = {spec.id for spec in stored.models} | {source.hub for source in rows if source.hub is not None}
        if text != self.text(before) or self._graders_changed(before):
            return None
        if not all(out.has_tokens(content_sha256) for content_sha256 in _token_hashes(before)):
            return None
        runs = [run.run_id for run in before.runs if run.fits]
        finished = finished_among(out, runs)
        changed = self._changed(before) if len(finished) < len(runs) else []
        if changed and not finished:
            return None
        if changed:
            named = ", ".join(finished[:_NAMED]) + (", ..." if len(finished) > _NAMED else "")
            expected = f"what it was for {len(finished)} finished runs, which would no longer belong here ({named}):"
            expected += " put it back, or give another --out"
            raise InputProblems([Problem(file, name, found, expected) for file, name, found in changed])
        self._planned_in = out
        return _Facts(
            before.models,
            {facts.name: [t for t in before.train_sets if t.model == facts.name] for facts in before.models},
            {facts.name: [s for s in before.suites if s.model == facts.name] for facts in before.models},
            before.sources,
            before.model_files,
        )

    def _graders_changed(self, before: Plan) -> bool:
        """Whether a file of the user's own that grades says something else by now; its suites are then scored anew."""
        for name, source in self.study.suites.items():
            file = source.grader.code_file() if source.grader is not None else None
            path = self.base / Path(file).expanduser() if file is not None else None
            if path is not None and path.is_file():
                sha256 = code_sha256(path.read_text(encoding="utf-8"))
                if any(facts.name == name and facts.grader_code_sha256 != sha256 for facts in before.suites):
                    return True
        return False

    def _changed(self, before: Plan) -> list[tuple[str, str, str]]:
        """(file, whose it is, what is found) of the rows and models that are not what they were.

        Rows that are gone have not changed: their tokens are in the study folder.
        """
        rows = changed_sources(before.sources, self.study, self.base)
        found = [
            (one.file, one.name, "a new file" if one.how == "new" else "another content")
            for one in rows
            if one.how != "gone"
        ]
        models = changed_model_files(before.model_files)
        return found + [(state.file, f"model {state.name}", how) for state, how in models]


def _with_a_name(spec: ModelSpec, base: Path) -> ModelSpec:
    """A model given as `.` by its folder's path: it then has one name here and in the study's folder."""
    whole = spec.model_copy(update={"id": os.path.abspath(base / Path(spec.id).expanduser())})
    return whole if Path(whole.id).is_dir() and whole.name != spec.name else spec


def _token_hashes(plan: Plan) -> set[str]:
    training = {facts.content_sha256 for facts in plan.train_sets}
    training |= {replay.content_sha256 for facts in plan.train_sets for replay in facts.replays}
    return training | {facts.content_sha256 for facts in plan.suites}
