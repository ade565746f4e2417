"""The Parquet tables of a study folder: predictions, items, analyses, derived runs, and the tidy tables of the end.

pandas and pyarrow are imported when a table is read or written: `rankscope status` needs neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rankscope.edges.study_records import StudyRecords
from rankscope.study.problems import InputProblems, Problem

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

_METADATA, _SUM = b"rankscope", b"rankscope_schema_sha256"

SCORES = ("suite", "item_id", "score", "loss_nats", "scored_tokens", "text_bytes")
"""The columns of predictions that gain, forgetting and losses are made of."""


class StudyTables(StudyRecords):
    """Frames by what they hold. Reading gives None where there is no table; raises InputProblems for a damaged one."""

    # ---- scores ----

    def read_predictions(self, run_id: str, columns: Sequence[str] | None = None) -> pd.DataFrame | None:
        """All columns, or only these."""
        return self.read_frame(self.predictions_name(run_id), columns)

    def read_scores(self, run_ids: Sequence[str], dials: Mapping[str, float] | None = None) -> pd.DataFrame:
        """Of several runs' predictions what statistics need, joined: SCORES, floats with NaN for what was not scored.
        `dials`: of runs that are not taken as they were trained, at which dial.

        run_id, suite and item_id are categories in the order of their text. Runs without predictions have no rows.
        """
        import numpy as np
        import pandas as pd
        import pyarrow as pa

        at = dials or {}
        read = {run_id: self._scores(self.predictions_name(run_id, at.get(run_id, 1.0))) for run_id in run_ids}
        tables = {run_id: table for run_id, table in read.items() if table is not None}
        ids = sorted(tables)
        codes = np.repeat([ids.index(r) for r in tables], [t.num_rows for t in tables.values()]).astype(np.int32)
        empty = pa.table({name: pa.array([], kind) for name, kind in _score_types().items()})
        joined = pa.concat_tables([empty, *tables.values()]).unify_dictionaries()
        del read, tables
        frame = joined.to_pandas(split_blocks=True, self_destruct=True)
        del joined
        pa.default_memory_pool().release_unused()
        frame.insert(0, "run_id", pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(ids)))
        for name in ("suite", "item_id"):
            frame[name] = frame[name].cat.reorder_categories(sorted(frame[name].cat.categories))
        return frame

    def has_predictions(self, run_id: str) -> bool:
        """Whether the run has been scored."""
        return self.storage.exists(self.predictions_name(run_id))

    def write_predictions(self, run_id: str, frame: pd.DataFrame, suites_sha256: Mapping[str, str]) -> None:
        """`suites_sha256`: of every suite that was scored, the content that was asked."""
        self.write_frame(self.predictions_name(run_id), frame, suites_sha256)

    def scored_suites(self, run_id: str) -> dict[str, str]:
        """The content hash of every suite that the run's predictions are of, by name."""
        return self.read_metadata(self.predictions_name(run_id))

    def read_second_predictions(self, base_id: str) -> pd.DataFrame | None:
        """The base scored once more in other batches."""
        return self.read_frame(f"{self.run_folder(base_id)}/again.parquet")

    def write_second_predictions(self, base_id: str, frame: pd.DataFrame, suites_sha256: Mapping[str, str]) -> None:
        """Keep what the base scored in other batches."""
        self.write_frame(f"{self.run_folder(base_id)}/again.parquet", frame, suites_sha256)

    def suites_scored_again(self, base_id: str) -> dict[str, str]:
        """The content hash of every suite that was scored in other batches, by name."""
        return self.read_metadata(f"{self.run_folder(base_id)}/again.parquet")

    def read_items(self, base_id: str) -> pd.DataFrame | None:
        """What was asked: suite, item_id, prompt, choices."""
        return self.read_frame(f"{self.run_folder(base_id)}/items.parquet")

    def write_items(self, base_id: str, frame: pd.DataFrame) -> None:
        """Keep what was asked: suite, item_id, prompt, choices."""
        self.write_frame(f"{self.run_folder(base_id)}/items.parquet", frame)

    # ---- runs made from others ----

    def derived_names(self, run_id: str) -> list[str]:
        """What was made of a run without training, by name."""
        names = self.storage.list(f"{self.run_folder(run_id)}/derived")
        return [name.removesuffix(".parquet") for name in names if name.endswith(".parquet")]

    def read_derived(self, run_id: str, name: str) -> pd.DataFrame | None:
        """The predictions of one run made from another without training."""
        return self.read_frame(f"{self.run_folder(run_id)}/derived/{name}.parquet")

    def derived_facts(self, run_id: str, name: str) -> dict[str, str]:
        """What the derivation was, and the content hash of every suite that it was scored on."""
        return self.read_metadata(f"{self.run_folder(run_id)}/derived/{name}.parquet")

    def write_derived(self, run_id: str, name: str, frame: pd.DataFrame, facts: Mapping[str, str]) -> None:
        """Keep a derived run; `facts`: what it was made by, and the hashes of its suites."""
        self.write_frame(f"{self.run_folder(run_id)}/derived/{name}.parquet", frame, facts)

    # ---- analyses ----

    def read_analysis(self, run_id: str, name: str) -> pd.DataFrame | None:
        """One of spectra, hidden, attention, neurons of a run."""
        return self.read_frame(f"{self.run_folder(run_id)}/analysis/{name}.parquet")

    def write_analysis(self, run_id: str, name: str, frame: pd.DataFrame, stamp: Mapping[str, str]) -> None:
        """Keep one table of a run's analysis; `stamp` says what it was made from."""
        self.write_frame(f"{self.run_folder(run_id)}/analysis/{name}.parquet", frame, stamp)

    def analysis_stamp(self, run_id: str, name: str) -> dict[str, str]:
        """What `write_analysis` was given."""
        return self.read_metadata(f"{self.run_folder(run_id)}/analysis/{name}.parquet")

    def has_analysis(self, run_id: str, name: str) -> bool:
        """Whether this table of the run's analysis is there."""
        return self.storage.exists(f"{self.run_folder(run_id)}/analysis/{name}.parquet")

    def has_directions(self, run_id: str) -> bool:
        """Whether the run's leading left singular vectors are there."""
        return self.storage.exists(f"{self.run_folder(run_id)}/analysis/directions.safetensors")

    def read_directions(self, run_id: str) -> dict[str, NDArray[np.floating]] | None:
        """A run's leading left singular vectors, (out, directions) by module."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        name = f"{self.run_folder(run_id)}/analysis/directions.safetensors"
        content, sums = self.storage.read(name), self.storage.read(f"{name}.sha256")
        if content is None:
            return None
        try:
            if sums is not None and sums.decode(errors="replace") != hashlib.sha256(content).hexdigest():
                raise ValueError("another content than was saved")
            return load(content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise self._damaged(name, error) from error

    def write_directions(self, run_id: str, content: bytes) -> None:
        """Keep a run's leading left singular vectors, as safetensors, with their hash beside them."""
        name = f"{self.run_folder(run_id)}/analysis/directions.safetensors"
        self.storage.write(f"{name}.sha256", hashlib.sha256(content).hexdigest().encode())
        self.storage.write(name, content)

    def write_analysis_note(self, run_id: str, reason: str | None) -> None:
        """Why a part of the analysis is missing; None where nothing is."""
        content = json.dumps({"reason": reason}).encode()
        self.storage.write(f"{self.run_folder(run_id)}/analysis/notes.json", content)

    # ---- tables/ ----

    def read_table(self, name: str) -> pd.DataFrame | None:
        """One of the tidy tables that docs/records.md lists."""
        return self.read_frame(f"tables/{name}.parquet")

    def write_table(self, name: str, frame: pd.DataFrame) -> None:
        """Replace one of the tidy tables."""
        self.write_frame(f"tables/{name}.parquet", frame)

    def table_names(self) -> list[str]:
        """The names of all tidy tables that are there."""
        return [name.removesuffix(".parquet") for name in self.storage.list("tables") if name.endswith(".parquet")]

    # ---- how a table is kept ----

    def predictions_name(self, run_id: str, dial: float = 1.0) -> str:
        """The file of a run's predictions, as it was trained or at a dial below 1."""
        own = self.run_folder(run_id)
        return f"{own}/predictions.parquet" if dial == 1 else f"{own}/dials/{dial:g}.parquet"

    def write_frame(self, name: str, frame: pd.DataFrame, metadata: Mapping[str, str] | None = None) -> None:
        """Every page with a checksum; `metadata` goes into the schema."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(frame, preserve_index=False)
        held = dict(table.schema.metadata or {})
        if metadata is not None:
            held[_METADATA] = json.dumps(dict(metadata)).encode()
        table = table.replace_schema_metadata(held)
        table = table.replace_schema_metadata({**held, _SUM: _schema_sum(table.schema)})
        with self.storage.local_draft(name) as draft:
            pq.write_table(table, draft, write_page_checksum=True)

    def read_frame(self, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame | None:
        """Pages are checked by Parquet's own checksums, names, types and metadata by ours."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.storage.local_copy(name)
        if path is None:
            return None
        try:
            file = pq.ParquetFile(path, page_checksum_verification=True)
            _check_schema(file.schema_arrow)
            return file.read(columns=list(columns) if columns is not None else None).to_pandas()
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
            raise self._damaged(name, error) from error

    def check_table(self, name: str) -> None:
        """Read every page, a row group at a time, keeping nothing. Raises InputProblems for a damaged table."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.storage.local_copy(name)
        if path is None:
            return
        try:
            file = pq.ParquetFile(path, page_checksum_verification=True)
            _check_schema(file.schema_arrow)
            for group in range(file.num_row_groups):
                file.read_row_group(group, use_threads=False)
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
            raise self._damaged(name, error) from error

    def _scores(self, name: str) -> pa.Table | None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path, types = self.storage.local_copy(name), _score_types()
        if path is None:
            return None
        try:
            file = pq.ParquetFile(path, read_dictionary=["suite", "item_id"], page_checksum_verification=True)
            table = file.read([column for column in types if column in file.schema_arrow.names], use_threads=False)
            columns = {
                column: table[column].cast(kind) if column in table.column_names else pa.nulls(table.num_rows, kind)
                for column, kind in types.items()
            }
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:  # KeyError: no such column
            raise self._damaged(name, error) from error
        return pa.table(columns)

    def read_metadata(self, name: str) -> dict[str, str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.storage.local_copy(name)
        if path is None:
            return {}
        try:
            schema = pq.ParquetFile(path).schema_arrow
            _check_schema(schema)
            return dict(json.loads((schema.metadata or {}).get(_METADATA, b"{}")))
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> InputProblems:
        found = f"a damaged table ({str(error).splitlines()[0][:120] if str(error) else type(error).__name__})"
        expected = "a whole Parquet file; delete it to have it made again"
        return InputProblems([Problem(self.place(name), "", found, expected)])


def _score_types() -> dict[str, pa.DataType]:
    import pyarrow as pa

    names = pa.dictionary(pa.int32(), pa.string())
    return {column: names if column in ("suite", "item_id") else pa.float64() for column in SCORES}


def _schema_sum(schema: pa.Schema) -> bytes:
    """SHA-256 of the names, the types and the metadata of a table."""
    held = {key: value for key, value in sorted((schema.metadata or {}).items()) if key != _SUM}
    # Parquet calls the values of a list `element`, Arrow `item`.
    fields = [f"{field.name} {field.type}".replace("<element: ", "<item: ") for field in schema]
    return hashlib.sha256(repr((fields, held)).encode()).hexdigest().encode()


def _check_schema(schema: pa.Schema) -> None:
    """Raises ValueError where a table's head is no longer what was written; one without a sum is taken as it is."""
    known = (schema.metadata or {}).get(_SUM)
    if known is not None and known != _schema_sum(schema):
        raise ValueError("its names, types or metadata were changed")
