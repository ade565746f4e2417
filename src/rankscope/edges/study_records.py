"""The records of a study folder: JSON files by what they are, each read back checked and written whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rankscope.edges.storages import Storage
from rankscope.records import (
    DialLosses,
    HandedOn,
    MeasuredSpeed,
    Packing,
    PackMembers,
    Plan,
    Record,
    RunRecord,
    RunStatus,
    SearchRecord,
    SettingsFile,
    Stage,
    StepRecord,
    StudyMarker,
    VerdictFile,
)
from rankscope.records.record_base import parse_record, record_json
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.store_urls import without_secrets

MARKER = "rankscope-study.json"
_R = TypeVar("_R", bound=Record)


class StudyRecords:
    """Reading gives None where there is nothing yet.

    Raises InputProblems, from every read, for a file that is damaged or of another format version.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    @property
    def url(self) -> str:
        """How the user names this folder."""
        return self.storage.url

    def place(self, name: str) -> str:
        """A file of the folder as messages name it."""
        return f"{self.url}/{name}"

    # ---- the study ----

    def read_marker(self) -> StudyMarker | None:
        """rankscope-study.json, the first file of the folder; None where there is none."""
        return self._record(MARKER, StudyMarker)

    def read_study_text(self) -> str | None:
        """study.yaml: the study as it was resolved."""
        content = self.storage.read("study.yaml")
        try:
            return None if content is None else content.decode("utf-8")
        except UnicodeDecodeError as error:
            problem = Problem(self.place("study.yaml"), "", "no UTF-8 text", "the study as rankscope wrote it")
            raise InputProblems([problem]) from error

    def write_study(self, text: str, plan: Plan) -> None:
        """study.yaml and plan.json, by which the folder's jobs work."""
        self.storage.write("study.yaml", text.encode())
        self.storage.write("plan.json", record_json(plan))

    def read_plan(self) -> Plan | None:
        """plan.json; None before the study was planned."""
        return self._record("plan.json", Plan)

    # ---- runs ----

    def run_folder(self, run_id: str) -> str:
        """A run's folder; a base's own is `base` (or `base/NAME` where a study has several base models)."""
        return run_id if run_id.split("/")[0] == "base" else f"runs/{run_id}"

    def read_run(self, run_id: str) -> RunRecord | None:
        """run.json of a run or a base: its settings and where its numbers come from; None before it began."""
        return self._record(f"{self.run_folder(run_id)}/run.json", RunRecord)

    def write_run(self, record: RunRecord) -> None:
        """Keep run.json of a run or a base."""
        self.storage.write(f"{self.run_folder(record.run_id)}/run.json", record_json(record))

    def read_status(self, run_id: str) -> RunStatus | None:
        """status.json: the state of a run or a base; None before it began."""
        return self._record(f"{self.run_folder(run_id)}/status.json", RunStatus)

    def write_status(self, status: RunStatus) -> None:
        """`running` is news, and every other state a fact that must outlive a power cut."""
        name = f"{self.run_folder(status.run_id)}/status.json"
        self.storage.write(name, record_json(status), durable=status.state != "running")

    def read_stage(self) -> Stage | None:
        """What is being worked on, as it was last said."""
        return self._record("stage.json", Stage)

    def write_stage(self, stage: Stage | None) -> None:
        """None: nothing more is being worked on."""
        if stage is None:
            self.storage.remove("stage.json")
        else:
            self.storage.write("stage.json", record_json(stage), durable=False)

    def write_steps(self, run_id: str, records: Sequence[Record], *, whole: bool = True) -> None:
        """train.jsonl: one line a step. `whole`: all of them, a fact that must outlive a power cut, and no news."""
        text = "".join(record.model_dump_json(exclude_none=True) + "\n" for record in records)
        self.storage.write(f"{self.run_folder(run_id)}/train.jsonl", text.encode(), durable=whole)

    def read_steps(self, run_id: str) -> list[dict[str, Any]]:
        """The lines of train.jsonl; empty where there is none."""
        name = f"{self.run_folder(run_id)}/train.jsonl"
        content = self.storage.read(name) or b""
        try:
            return [_step(line) for line in content.splitlines()]
        except (ValueError, RecursionError) as error:
            expected = "a step of the training in each line; without the file the run has no curve"
            raise InputProblems([Problem(self.place(name), "", "a damaged line", expected)]) from error

    def write_error(self, job: str, details: str) -> str:
        """The traceback of what failed, below the folder of a run, a search or a pack; how messages name the file."""
        self.storage.write(f"{job}/error.txt", without_secrets(details).encode())
        return self.place(f"{job}/error.txt")

    # ---- packs and searches ----

    def read_packing(self, model: str, train_set: str) -> Packing | None:
        """How many arms train together, as it was measured for a base model and training set; None before that."""
        return self._record(f"packing/{model} {train_set}.json", Packing)

    def write_packing(self, packing: Packing) -> None:
        """Keep how many arms train together."""
        self.storage.write(f"packing/{packing.model} {packing.train_set}.json", record_json(packing))

    def read_packs(self) -> list[PackMembers]:
        """Packs that began to train and did not end."""
        names = [name for name in self.storage.list("packs") if name.endswith(".json")]
        found = (self.read_pack(name) for name in names)
        return [pack for pack in found if pack is not None]

    def read_pack(self, name: str) -> PackMembers | None:
        """One file of `packs/`."""
        return self._record(f"packs/{name}", PackMembers) if name.endswith(".json") else None

    def read_search(self, search_id: str) -> SearchRecord | None:
        """search.json: what a rate search found; None before it ended."""
        return self._record(f"searches/{search_id}/search.json", SearchRecord)

    def write_search(self, record: SearchRecord) -> None:
        """Keep what a rate search found: the search has ended."""
        self.storage.write(f"searches/{record.search_id}/search.json", record_json(record))

    def read_settings(self) -> SettingsFile | None:
        """settings.json: the rate and the dial of every arm, as far as they are chosen."""
        return self._record("settings.json", SettingsFile)

    def write_settings(self, settings: SettingsFile) -> None:
        self.storage.write("settings.json", record_json(settings))

    def read_dial_losses(self, run_id: str) -> DialLosses | None:
        """dials.json of a run."""
        return self._record(f"{self.run_folder(run_id)}/dials.json", DialLosses)

    def write_dial_losses(self, losses: DialLosses) -> None:
        self.storage.write(f"{self.run_folder(losses.run_id)}/dials.json", record_json(losses))

    def read_rungs(self, search_id: str) -> dict[str, Any] | None:
        """What a search has measured so far, by arm, rate and step; None before it began."""
        name = f"searches/{search_id}/rungs.json"
        content = self.storage.read(name)
        if content is None:
            return None
        try:
            measured: dict[str, Any] = json.loads(content)
            for entry in measured.values():
                float(entry["loss"] or 0), float(entry["seconds"] or 0)
            return measured
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            problem = Problem(self.place(name), "", "no JSON object", "what a search wrote; delete the file to redo it")
            raise InputProblems([problem]) from error

    def write_rungs(self, search_id: str, measured: dict[str, Any]) -> None:
        """Keep what a search has measured so far."""
        self.storage.write(f"searches/{search_id}/rungs.json", json.dumps(measured).encode())

    def read_handed_on(self, tracker: str) -> HandedOn:
        """What a tracker was given so far."""
        return self._record(f"tracked/{tracker}.json", HandedOn) or HandedOn()

    def write_handed_on(self, tracker: str, handed_on: HandedOn) -> None:
        self.storage.write(f"tracked/{tracker}.json", record_json(handed_on), durable=False)

    # ---- what was measured, decided, reported ----

    def write_measured(self, name: str, speed: MeasuredSpeed) -> None:
        """Keep a measured speed under a name of its own."""
        self.storage.write(f"measured/{name}.json", record_json(speed))

    def read_measured(self) -> list[MeasuredSpeed]:
        """Every speed that was measured for this study."""
        found = (self._record(f"measured/{name}", MeasuredSpeed) for name in self.storage.list("measured"))
        return [speed for speed in found if speed is not None]

    def read_verdicts(self) -> VerdictFile | None:
        """verdict.json; None before the first verdict."""
        return self._record("verdict.json", VerdictFile)

    def verdicts(self) -> VerdictFile:
        """verdict.json. Raises InputProblems before the first verdict."""
        found = self.read_verdicts()
        if found is None:
            expected = "a study that has ended; `rankscope status` says what is left"
            raise InputProblems([Problem(self.url, "verdict.json", "no verdict yet", expected)])
        return found

    def write_verdicts(self, verdicts: VerdictFile) -> None:
        """Replace verdict.json."""
        self.storage.write("verdict.json", record_json(verdicts))

    def write_report(self, page: str) -> None:
        """Replace report.html."""
        self.storage.write("report.html", page.encode())

    def write_report_pdf(self, print_page: Callable[[Path], bytes]) -> str:
        """Write report.pdf, which `print_page` makes of report.html; its place as messages name it."""
        page = self.storage.local_copy("report.html")
        if page is None:
            raise FileNotFoundError(self.place("report.html"))
        self.storage.write("report.pdf", print_page(page))
        return self.place("report.pdf")

    @property
    def report_place(self) -> str:
        """report.html as messages name it."""
        return self.place("report.html")

    def outcome_files(self) -> list[Path]:
        """Local copies of the files that say how the study ended, as far as they are there."""
        found = (self.storage.local_copy(name) for name in ("verdict.json", "report.html", "study.yaml"))
        return [path for path in found if path is not None]

    def _record(self, name: str, kind: type[_R]) -> _R | None:
        content = self.storage.read(name)
        return None if content is None else parse_record(kind, content, self.place(name))


def _step(line: bytes) -> dict[str, Any]:
    """A line of train.jsonl. Raises ValueError for what is none."""
    step, fields = json.loads(line), StepRecord.model_fields
    needed = {name for name, field in fields.items() if field.is_required()}
    if not isinstance(step, dict) or not needed <= step.keys() <= fields.keys():
        raise ValueError("no step")
    if not all(value is None or isinstance(value, int | float) for value in step.values()):
        raise ValueError("no numbers")
    return step
