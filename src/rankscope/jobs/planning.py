"""From a study file to a plan: models looked at, rows encoded where they changed, every run calculated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rankscope.data.encode_study import Encoded, encode_study
from rankscope.data.token_files import token_path
from rankscope.decide.statistical_power import planned_power
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.lm_eval.load_task import load_task
from rankscope.model.load import inspect_model, load_tokenizer
from rankscope.plan.make_plan import make_plan
from rankscope.records import MachineFacts, MeasuredSpeed, ModelFacts, Plan
from rankscope.study.resolved_study import absolute, dump_study, pinned
from rankscope.study.study import Study


@dataclass(frozen=True)
class StudyPlanner:
    """A study, and the folder of its file, which relative paths start at."""

    study: Study
    base: Path

    def plan(
        self,
        machine: MachineFacts,
        out: StudyFolder | None,
        measured: Sequence[MeasuredSpeed] = (),
        tokens: Path | None = None,
    ) -> Plan:
        """Look at models, rows and machine, and calculate every run; trains nothing. Raises InputProblems.

        `out` is the study's folder, whose earlier plan decides what must stay as it was (dtype, workers,
        micro-batches). `measured` is what `measure_study` found. Token files are left in the local folder `tokens`,
        where one is given.
        """
        if tokens is None:
            with TemporaryDirectory() as temporary:
                return self.plan(machine, out, measured, Path(temporary))
        models = [inspect_model(spec, self.base, device=machine.device) for spec in self.study.models]
        encoded = self.encode(models, tokens)
        previous = out.read_plan() if out is not None else None
        plan = make_plan(
            self.study,
            models,
            {name: list(data.training.values()) for name, data in encoded.items()},
            {name: list(data.suites.values()) for name, data in encoded.items()},
            machine,
            previous=previous.resolved if previous is not None else None,
            measured=measured,
        )
        return plan.model_copy(update={"power": planned_power(plan, self.study.decision)})

    def encode(self, models: Sequence[ModelFacts], into: Path) -> dict[str, Encoded]:
        """Write the token files of every base model into a local folder; the facts of the sets by model."""
        encoded: dict[str, Encoded] = {}
        for spec, facts in zip(self.study.models, models, strict=True):
            room = facts.context_tokens - self.study.virtual_tokens
            tokenizer = load_tokenizer(spec, self.base)
            encoded[spec.name] = encode_study(self.study, self.base, spec, tokenizer, room, into, load_task=load_task)
        return encoded

    def text(self, plan: Plan) -> str:
        """The study with absolute paths, at the commits that were planned: study.yaml of its folder."""
        return dump_study(pinned(absolute(self.study, self.base), plan))

    def settle(self, folder: StudyFolder, plan: Plan, tokens: Path) -> None:
        """Write what the folder's jobs work by; token files that it does not have are taken from `tokens`."""
        hashes = {facts.content_sha256 for facts in plan.train_sets} | {facts.content_sha256 for facts in plan.suites}
        for content_sha256 in sorted(hashes):
            if not folder.has_tokens(content_sha256):
                folder.add_tokens(content_sha256, token_path(tokens, content_sha256))
        folder.write_study(self.text(plan), plan)


def same_work(one: Plan, other: Plan) -> bool:
    """Whether two plans ask for the same runs on the same data; what a machine says of speed and room may differ."""

    def work(plan: Plan) -> tuple[object, ...]:
        ids = [(run.run_id, run.arm.label) for run in plan.runs], [search.search_id for search in plan.searches]
        return plan.resolved, plan.models, plan.train_sets, plan.suites, ids

    return work(one) == work(other)
