"""The study folder: every file is written beside its place and renamed, so a file exists only when it is whole."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.torch import save_file

from rankscope.records import Packing, PackMembers, Plan, Record, RunRecord, RunStatus, SearchRecord, VerdictFile

if TYPE_CHECKING:
    from torch import Tensor

_R = TypeVar("_R", bound=Record)


def write_whole(path: Path, fill: Callable[[Path], object]) -> None:
    """`fill` writes the file that then stands at `path`, replacing what was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        fill(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def write_record(path: Path, record: Record) -> None:
    write_whole(path, lambda temporary: temporary.write_text(record.model_dump_json(indent=1), encoding="utf-8"))


def read_record(path: Path, kind: type[_R]) -> _R | None:
    """None where there is no file."""
    return kind.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def remove_leftovers(folder: Path) -> int:
    """Delete what a killed process left half-written; the number removed. Call it under the study's lock."""
    count = 0
    for path in folder.rglob(".*"):
        if path.name == ".locks" or ".locks" in path.parts or not path.exists():
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        count += 1
    return count


logger = logging.getLogger(__name__)

_WAIT_SECONDS = 0.2


class Busy(Exception):
    """Another process works on this study or run."""


class FolderStore:
    """A study folder on a local or shared disk, laid out as docs/records.md says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # ---- paths ----

    def run_folder(self, run_id: str) -> Path:
        """A run's folder; the base's own is `base/` (or `base/NAME` where a study has several base models)."""
        return self.folder / run_id if run_id.split("/")[0] == "base" else self.folder / "runs" / run_id

    def adapter_folder(self, run_id: str) -> Path:
        return self.run_folder(run_id) / "adapter"

    def model_folder(self, run_id: str) -> Path:
        return self.run_folder(run_id) / "model"

    def derived_path(self, run_id: str, name: str) -> Path:
        """The predictions of what was made of a run without training."""
        return self.run_folder(run_id) / "derived" / f"{name}.parquet"

    # ---- whole files ----

    def write_text(self, relative: str, text: str) -> Path:
        path = self.folder / relative
        write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8") and None)
        return path

    def write_bytes(self, path: Path, content: bytes) -> None:
        write_whole(path, lambda temporary: temporary.write_bytes(content))

    def write_folder(self, target: Path, fill: Callable[[Path], None]) -> None:
        """Fill a folder beside `target`, then rename it there, replacing what was."""
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            fill(temporary)
            if target.exists():
                shutil.rmtree(target)
            temporary.chmod(0o755)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    # ---- records ----

    def read_plan(self) -> Plan | None:
        return read_record(self.folder / "plan.json", Plan)

    def write_plan(self, plan: Plan) -> None:
        self.write_text("plan.json", plan.model_dump_json(indent=1))

    def read_run(self, run_id: str) -> RunRecord | None:
        return read_record(self.run_folder(run_id) / "run.json", RunRecord)

    def write_run(self, record: RunRecord) -> None:
        write_record(self.run_folder(record.run_id) / "run.json", record)

    def read_status(self, run_id: str) -> RunStatus | None:
        return read_record(self.run_folder(run_id) / "status.json", RunStatus)

    def write_status(self, status: RunStatus) -> None:
        write_record(self.run_folder(status.run_id) / "status.json", status)

    def read_search(self, search_id: str) -> SearchRecord | None:
        return read_record(self.folder / "searches" / search_id / "search.json", SearchRecord)

    def read_rungs(self, search_id: str) -> dict[str, Any] | None:
        """What a search has measured so far, by arm, rate and step; None before it began."""
        path = self.folder / "searches" / search_id / "rungs.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def write_search(self, record: SearchRecord) -> None:
        write_record(self.folder / "searches" / record.search_id / "search.json", record)

    def read_packing(self, model: str, train_set: str) -> Packing | None:
        return read_record(self.folder / "packing" / f"{model} {train_set}.json", Packing)

    def write_packing(self, packing: Packing) -> None:
        write_record(self.folder / "packing" / f"{packing.model} {packing.train_set}.json", packing)

    def read_packs(self) -> list[PackMembers]:
        """Packs that began to train and did not end."""
        found = (read_record(path, PackMembers) for path in sorted((self.folder / "packs").glob("*.json")))
        return [pack for pack in found if pack is not None]

    @contextmanager
    def pack(self, run_ids: Sequence[str]) -> Iterator[RunCheckpoints]:
        """The checkpoint of runs that train together, and a note of who they are, both gone when they are trained."""
        name = hashlib.sha256(" ".join(run_ids).encode()).hexdigest()[:16]
        checkpoints = RunCheckpoints(self.folder / "packs" / f"{name}.safetensors")
        note = self.folder / "packs" / f"{name}.json"
        write_record(note, PackMembers(run_ids=list(run_ids)))
        yield checkpoints
        if all(self.is_trained(run_id) for run_id in run_ids):
            checkpoints.remove()
            note.unlink()

    def is_trained(self, run_id: str) -> bool:
        """Whether a run's weights were saved, or will never be."""
        status = self.read_status(run_id)
        saved = self.adapter_folder(run_id).is_dir() or self.model_folder(run_id).is_dir()
        return saved or (status is not None and status.state in ("done", "diverged"))

    def read_verdicts(self) -> VerdictFile | None:
        return read_record(self.folder / "verdict.json", VerdictFile)

    def write_verdicts(self, verdicts: VerdictFile) -> None:
        self.write_text("verdict.json", verdicts.model_dump_json(indent=1))

    def write_lines(self, run_id: str, records: list[Record]) -> None:
        """train.jsonl: one line a step."""
        text = "".join(record.model_dump_json() + "\n" for record in records)
        path = self.run_folder(run_id) / "train.jsonl"
        write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8") and None)

    # ---- tables ----

    def write_frame(self, path: Path, frame: pd.DataFrame, metadata: dict[str, str] | None = None) -> None:
        """A Parquet file; `metadata` goes into its schema."""
        table = pa.Table.from_pandas(frame, preserve_index=False)
        if metadata is not None:
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), "rankscope": json.dumps(metadata)})
        write_whole(path, lambda temporary: pq.write_table(table, temporary))

    def read_frame(self, path: Path) -> pd.DataFrame | None:
        return pd.read_parquet(path) if path.is_file() else None

    def frame_metadata(self, path: Path) -> dict[str, str]:
        """What `write_frame` was given; empty where there is no file."""
        if not path.is_file():
            return {}
        return dict(json.loads((pq.read_schema(path).metadata or {}).get(b"rankscope", b"{}")))

    # ---- locks ----

    @contextmanager
    def lock(self, name: str = "study", *, shared: bool = False) -> Iterator[None]:
        """Hold the named lock, which the kernel gives back however the process ends. Raises Busy."""
        path = self.folder / ".locks" / f"{name.replace('/', '-')}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as stream:
            try:
                fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                holder = stream.read().strip()
                who = f"another rankscope process (pid {holder}) is" if holder else "other rankscope processes are"
                raise Busy(f"{self.folder}: {who} working on it") from None
            stream.seek(0)
            stream.truncate()
            if not shared:
                stream.write(str(os.getpid()))
                stream.flush()
            yield

    @contextmanager
    def wait_lock(self, name: str, should_stop: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Hold the named lock, waiting for whoever has it. Gives False where `should_stop` comes first."""
        told = False
        while not should_stop():
            with contextlib.ExitStack() as held:
                try:
                    held.enter_context(self.lock(name))
                except Busy:
                    if not told:
                        told = True
                        logger.warning("%s: another process works on %s; waiting for it", self.folder, name)
                else:
                    yield True
                    return
            time.sleep(_WAIT_SECONDS)
        yield False


class RunCheckpoints:
    """A run's checkpoint: one safetensors file, replaced whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        if not self.path.is_file():
            return None
        with safe_open(self.path, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, dict(opened.metadata())  # noqa: SIM118

    def save(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        held = {key: value.contiguous().cpu() for key, value in tensors.items()}
        write_whole(self.path, lambda temporary: save_file(held, temporary, metadata))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def write_plan(store: FolderStore, study: str, plan: Plan) -> None:
    """Write study.yaml (the text `study`) and plan.json, by which the folder's jobs work."""
    store.write_text("study.yaml", study)
    store.write_plan(plan)


def is_planned(store: FolderStore, plan: Plan, text: str) -> bool:
    """Whether the folder holds this study and plan already, so that its files can stay while others work by them."""
    before, path = store.read_plan(), store.folder / "study.yaml"
    return before is not None and same_work(before, plan) and path.read_text(encoding="utf-8") == text


def same_work(one: Plan, other: Plan) -> bool:
    """Whether two plans ask for the same runs on the same data; what a machine says of speed and room may differ."""

    def work(plan: Plan) -> tuple[object, ...]:
        ids = [(run.run_id, run.arm.label) for run in plan.runs], [search.search_id for search in plan.searches]
        return plan.resolved, plan.models, plan.train_sets, plan.suites, ids

    return work(one) == work(other)


def keep_best(store: FolderStore, plan: Plan) -> None:
    """Of each arm's full checkpoints that are scored leave the one with the lowest validation loss."""
    groups: dict[tuple[str, str, str], list[tuple[float, str]]] = {}
    for run in plan.runs:
        status = store.read_status(run.run_id)
        if run.arm.traits.whole and status is not None and status.validation_loss is not None:
            key = (run.model, run.train_set, run.arm.label)
            groups.setdefault(key, []).append((status.validation_loss, run.run_id))
    for group in groups.values():
        for _, run_id in sorted(group)[1:]:
            shutil.rmtree(store.model_folder(run_id), ignore_errors=True)
