"""From a study file to a plan: models looked at, rows encoded where they changed, every run calculated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rankscope.data.encode_study import Prepared, prepare
from rankscope.decide.planned_power import planned_power
from rankscope.edges.study_folder import StudyFolder
from rankscope.model.load import inspect_model, load_tokenizer
from rankscope.plan.make_plan import make_plan
from rankscope.records import MachineFacts, MeasuredSpeed, Plan
from rankscope.study.resolved_study import absolute, dump_study, pinned
from rankscope.study.study import Study


@dataclass(frozen=True)
class StudyPlanner:
    """A study, and the folder of its file, which relative paths start at."""

    study: Study
    base: Path

    def plan(self, machine: MachineFacts, out: StudyFolder | None, measured: Sequence[MeasuredSpeed] = ()) -> Plan:
        """Look at models, rows and machine, and calculate every run; trains nothing. Raises InputProblems.

        `out` is the study's folder, whose earlier plan decides what must stay as it was (dtype, workers,
        micro-batches). `measured` is what `measure_study` found.
        """
        models = [inspect_model(spec, self.base, device=machine.device) for spec in self.study.models]
        prepared: dict[str, Prepared] = {}
        for spec, facts in zip(self.study.models, models, strict=True):
            room = facts.context_tokens - self.study.virtual_tokens
            tokenizer = load_tokenizer(spec, self.base)
            prepared[spec.name] = prepare(self.study, self.base, tokenizer, room, spec.system_prompt)
        previous = out.read_plan() if out is not None else None
        plan = make_plan(
            self.study,
            models,
            {name: [training.facts for training in data.training.values()] for name, data in prepared.items()},
            {name: [facts for _, facts in data.suites.values()] for name, data in prepared.items()},
            machine,
            previous=previous.resolved if previous is not None else None,
            measured=measured,
        )
        return plan.model_copy(update={"power": planned_power(plan, self.study.decision)})

    def text(self, plan: Plan) -> str:
        """The study with absolute paths, at the commits that were planned: study.yaml of its folder."""
        return dump_study(pinned(absolute(self.study, self.base), plan))

    def settle(self, folder: StudyFolder, plan: Plan) -> None:
        """Write what the folder's jobs work by."""
        folder.write_study(self.text(plan), plan)


def same_work(one: Plan, other: Plan) -> bool:
    """Whether two plans ask for the same runs on the same data; what a machine says of speed and room may differ."""

    def work(plan: Plan) -> tuple[object, ...]:
        ids = [(run.run_id, run.arm.label) for run in plan.runs], [search.search_id for search in plan.searches]
        return plan.resolved, plan.models, plan.train_sets, plan.suites, ids

    return work(one) == work(other)
