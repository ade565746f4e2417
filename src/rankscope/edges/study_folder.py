"""The study folder: every path, file name, lock and record of a study is behind `StudyFolder`.

docs/records.md shows the layout. What lies below is a `Storage`, so that the same folder may be on a disk or elsewhere.
Records are in `study_records.py`, Parquet tables in `study_tables.py` and `dial_tables.py`; here are weights,
checkpoints, tokens and locks.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from rankscope.edges.checked_files import StoredCheckpoints, damage_of, write_sums
from rankscope.edges.dial_tables import DialTables
from rankscope.edges.judge_replies import JudgeReplies
from rankscope.edges.storages import Busy, open_storage
from rankscope.edges.study_records import MARKER
from rankscope.records import PackMembers, Plan, SamplesRecord, StudyMarker
from rankscope.records.record_base import record_json
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.read_study import study_of
from rankscope.study.store_urls import cache_folder, is_url

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 0.2


class StudyFolder(JudgeReplies, DialTables):
    """All that a study has on disk, by what it is rather than by where it lies.

    Reading gives None where there is nothing yet. Every read of a record raises InputProblems where the file is
    damaged or of another format version.
    """

    @classmethod
    def open(cls, url: str | Path) -> StudyFolder:
        """The study folder at a path or URL; nothing is made yet. Raises InputProblems for an unknown scheme."""
        return cls(open_storage(url))

    def check_writable(self) -> None:
        """Raises InputProblems where nothing could be written here, before any work is done."""
        self.storage.check_writable()

    def remove_drafts(self) -> int:
        """Delete what killed processes left unfinished, under the study's lock; how many."""
        return self.storage.remove_drafts()

    _refreshed_at = float("-inf")

    # ---- the study ----

    def claim(self, name: str, study: str) -> None:
        """Mark the folder as this study's, before anything else is written into it. `study` is the study's text.

        Raises InputProblems for a folder that is not empty and is no study's, or is another study's.
        """
        marker = self.read_marker()
        if marker is None:
            # Another process may have begun the same study in between: then its marker is there by now.
            mine = self.storage.is_empty() or (marker := self.read_marker()) is not None or self._study_name() == name
            if not mine:
                found = "files that are no study's"
                if self.storage.exists("plan.json"):
                    found = "a study folder of format 1, which rankscope 0.1 reads"
                raise InputProblems([Problem(self.url, "--out", found, "a new or empty folder, or this study's own")])
            made = StudyMarker(study=name, study_sha256=hashlib.sha256(study.encode()).hexdigest())
            if marker is None and self.storage.create(MARKER, record_json(made)):
                return
            marker = self.read_marker()
        if marker is not None and marker.study != name:
            expected = f"a folder of the study {name}, or a new one"
            raise InputProblems([Problem(self.url, "--out", f"the study {marker.study}", expected)])

    def _study_name(self) -> str | None:
        """The study whose plan and text lie here, though the marker is lost; None where they are not whole."""
        try:
            text = self.read_study_text()
            return study_of(text).name if text is not None and self.read_plan() is not None else None
        except InputProblems:
            return None

    def planned(self) -> Plan:
        """The plan. Raises InputProblems where this is no study's folder, or one that was never planned."""
        plan = self.read_plan() if self.read_marker() is not None else None
        if plan is not None:
            return plan
        found = "no plan.json" if self.storage.exists(MARKER) else f"no {MARKER}"
        if not self.storage.exists(""):
            found = "no such folder"
        elif self.storage.exists("plan.json"):
            found = "a study folder of format 1, which rankscope 0.1 reads"
        raise InputProblems([Problem(self.url, "DIR", found, "a study folder that `rankscope run` made")])

    def tokens(self, content_sha256: str) -> Path:
        """A local token file. Raises InputProblems where it is not there."""
        path = self.storage.local_copy(f"tokens/{content_sha256}.arrow")
        if path is None:
            place = self.place(f"tokens/{content_sha256}.arrow")
            raise InputProblems([Problem(place, "", "no such file", "the tokens that the plan names; run it again")])
        self._check_sums(f"tokens/{content_sha256}.arrow", "the tokens that were planned with")
        return path

    def has_tokens(self, content_sha256: str) -> bool:
        """Whether the token file of this content hash is there."""
        return self.storage.exists(f"tokens/{content_sha256}.arrow")

    def add_tokens(self, content_sha256: str, path: Path) -> None:
        """Keep a copy of a token file that was made elsewhere."""
        with self.storage.local_draft(f"tokens/{content_sha256}.arrow") as draft:
            _link_or_copy(path, draft)
            write_sums(self.storage, f"tokens/{content_sha256}.arrow", draft)

    # ---- what the base writes to be replayed ----

    def samples(self, samples_id: str) -> Path:
        """The local token file of samples. Raises InputProblems where it is not there or no longer what was written."""
        name = f"replay/{samples_id}.arrow"
        path = self.storage.local_copy(name)
        if path is None:
            expected = "the samples that the base writes before training; run the study again"
            raise InputProblems([Problem(self.place(name), "", "no such file", expected)])
        self._check_sums(name, "the samples that the base wrote")
        return path

    def has_samples(self, samples_id: str) -> bool:
        """Whether the base wrote these already."""
        return self.storage.exists(f"replay/{samples_id}.arrow")

    def add_samples(self, record: SamplesRecord, path: Path) -> None:
        """Keep a copy of the token file of samples, and beside it how they were drawn."""
        name = f"replay/{record.samples_id}"
        self.storage.write(f"{name}.json", record_json(record))
        with self.storage.local_draft(f"{name}.arrow") as draft:
            _link_or_copy(path, draft)
            write_sums(self.storage, f"{name}.arrow", draft)

    def _check_sums(self, name: str, expected: str) -> None:
        why = damage_of(self.storage, name)
        if why is not None:
            raise InputProblems([Problem(self.place(name), "", why, f"{expected}; delete it to have it made again")])

    def local_folder(self) -> Path:
        """Where trackers write: this folder where it is a local one, else a folder of the study's name here."""
        marker = self.read_marker()
        return self.storage.local_copy("") or Path(marker.study if marker is not None else "study")

    def disk_folder(self) -> Path:
        """Where the disk fills on this machine: this folder, or the cache of one that lies in a store."""
        return cache_folder() if is_url(self.url) else self.local_folder()

    @contextmanager
    def local_study_file(self) -> Iterator[Path]:
        """study.yaml as a local file. Raises InputProblems where there is none."""
        path = self.storage.local_copy("study.yaml")
        if path is None:
            problem = Problem(self.place("study.yaml"), "", "no such file", "a study folder that `rankscope run` made")
            raise InputProblems([problem])
        yield path

    # ---- weights ----

    def _weights_name(self, run_id: str, whole: bool) -> str:
        return f"{self.run_folder(run_id)}/{'model' if whole else 'adapter'}"

    def has_weights(self, run_id: str, *, whole: bool) -> bool:
        """`whole`: a model of its own, else an adapter."""
        return self.storage.exists(self._weights_name(run_id, whole))

    def weights(self, run_id: str, *, whole: bool) -> Path | None:
        """The local folder of a run's adapter or model, as trained; only to be read. Raises InputProblems where it is
        no longer what was saved."""
        name = self._weights_name(run_id, whole)
        self._check_sums(name, "the weights that were saved")
        return self.storage.local_copy(name)

    def save_weights(self, run_id: str, fill: Callable[[Path], object], *, whole: bool) -> None:
        """`fill` writes the files into an empty local folder, which then stands as the run's weights."""
        with self.storage.local_draft(self._weights_name(run_id, whole)) as draft:
            draft.mkdir()
            fill(draft)
            write_sums(self.storage, self._weights_name(run_id, whole), draft)

    def remove_weights(self, run_id: str) -> None:
        """Delete a whole model that was scored and is not to be kept; adapters are never deleted."""
        self.storage.remove(self._weights_name(run_id, whole=True))
        self.storage.remove(f"{self._weights_name(run_id, whole=True)}.sha256")

    def adapter_bytes(self, run_id: str) -> int | None:
        """Bytes of the adapter's weights; None where there is no adapter."""
        name = self._weights_name(run_id, whole=False)
        sizes = [self.storage.size_bytes(f"{name}/{f}") for f in self.storage.list(name) if f.endswith(".safetensors")]
        return sum(size or 0 for size in sizes) if sizes else None

    def is_trained(self, run_id: str) -> bool:
        """Whether a run's weights were saved, or will never be. Weights without a status were not: it comes first."""
        status = self.read_status(run_id)
        saved = self.has_weights(run_id, whole=False) or self.has_weights(run_id, whole=True)
        return status is not None and (saved or status.state in ("done", "diverged"))

    def checkpoints(self, run_id: str) -> StoredCheckpoints:
        """Where a run that trains alone keeps its state."""
        return StoredCheckpoints(self.storage, f"{self.run_folder(run_id)}/checkpoint")

    def set_aside(self, name: str, why: str) -> str:
        """Rename a file or folder to NAME.WHY, with a number where that is taken; its new name."""
        new, count = f"{name}.{why}", 1
        while self.storage.exists(new):
            count += 1
            new = f"{name}.{why}-{count}"
        self.storage.rename(name, new)
        return new

    # ---- packs ----

    @contextmanager
    def pack(self, run_ids: Sequence[str]) -> Iterator[StoredCheckpoints]:
        """The checkpoint of runs that train together, and a note of who they are, both gone when they are trained."""
        name = hashlib.sha256(" ".join(run_ids).encode()).hexdigest()[:16]
        checkpoints = StoredCheckpoints(self.storage, f"packs/{name}")
        self.storage.write(f"packs/{name}.json", record_json(PackMembers(run_ids=list(run_ids))))
        yield checkpoints
        if all(self.is_trained(run_id) for run_id in run_ids):
            checkpoints.remove()
            self.storage.remove(f"packs/{name}.json")

    def packs_of(self, run_id: str) -> list[str]:
        """What lies here of packs that a run began to train in: notes and checkpoints."""
        notes = [name for name in self.storage.list("packs") if name.endswith(".json")]
        mine = [name for name in notes if (pack := self.read_pack(name)) is not None and run_id in pack.run_ids]
        stems = [name.removesuffix(".json") for name in mine]
        return [f"packs/{name}" for name in self.storage.list("packs") if name.split(".")[0] in stems]

    def search_checkpoints(self, search_id: str, candidate: str) -> StoredCheckpoints:
        """Where one candidate of a search (an arm at a rate) keeps its state."""
        return StoredCheckpoints(self.storage, f"searches/{search_id}/{candidate}")

    # ---- locks ----

    def lock(self, name: str = "study", *, shared: bool = False) -> AbstractContextManager[None]:
        """Hold the named lock; given back however the process ends. Raises Busy."""
        return self.storage.lock(name, shared=shared)

    def is_worked_on(self) -> bool:
        """Whether a process works on the study now. Where no lock can be taken at all, as in a folder that may only be
        read, it is taken to be nobody."""
        try:
            return self.storage.is_locked("study")
        except OSError:
            return False

    def refresh(self, every_seconds: float = 0.0) -> None:
        """See what jobs on other machines wrote; nothing where that was done within the last `every_seconds`. A store
        is listed each time, which for ten thousand runs is hundreds of requests."""
        now = time.monotonic()
        if now - self._refreshed_at >= every_seconds:
            self._refreshed_at = now
            self.storage.refresh()

    @contextmanager
    def wait_lock(
        self, name: str, should_stop: Callable[[], bool] = lambda: False, *, quietly: bool = False
    ) -> Iterator[bool]:
        """Hold the named lock, waiting for whoever has it, and saying so unless `quietly`. Gives False where
        `should_stop` comes first."""
        told = False
        while not should_stop():
            with ExitStack() as held:
                try:
                    held.enter_context(self.lock(name))
                except Busy:
                    if not told and not quietly:
                        told = True
                        logger.warning("%s: another process works on %s; waiting for it", self.url, name)
                else:
                    yield True
                    return
            time.sleep(_WAIT_SECONDS)
        yield False


def _link_or_copy(path: Path, draft: Path) -> None:
    """The same content without a second copy where both are on one disk."""
    try:
        os.link(path, draft)
    except OSError:
        shutil.copyfile(path, draft)
