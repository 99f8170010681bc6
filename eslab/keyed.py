"""Rows by key, kept as Arrow: in memory, and past a bound in a temporary file that goes with them."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

__all__ = ["Keeper", "KeyedRows"]

IN_MEMORY: Final = 256 << 20  # bytes of rows; past that they go to a temporary file outside the lab
BATCH: Final = 8192  # rows
BATCH_BYTES: Final = 16 << 20  # of a batch whose rows are large, about


class KeyedRows:
    """Rows in the order of their first column, a text that no two share."""

    def __init__(self, schema: pa.Schema, batches: Sequence[pa.RecordBatch]) -> None:
        self.schema, self.batches = schema, batches
        self._lasts = [batch.column(0)[len(batch) - 1].as_py() for batch in batches]

    def __len__(self) -> int:
        return sum(len(batch) for batch in self.batches)

    def keys(self) -> Iterator[str]:
        """The first column, in order."""
        for batch in self.batches:
            yield from batch.column(0).to_pylist()

    def find(self, key: object) -> tuple[pa.RecordBatch, int] | None:
        """The batch and the row that hold this key; None for one that is not there, or no text."""
        if not isinstance(key, str):
            return None
        at = bisect_left(self._lasts, key)
        if at == len(self.batches):
            return None
        ids = self.batches[at].column(0)
        row = bisect_left(range(len(ids)), key, key=lambda one: ids[one].as_py())
        return (self.batches[at], row) if ids[row].as_py() == key else None

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row, by column name."""
        for batch in self.batches:
            yield from batch.to_pylist()

    def table(self) -> pa.Table:
        return pa.Table.from_batches(self.batches, self.schema)


class Keeper:
    """Takes rows in the order of their keys. Memory: at most about 256 MB, whatever comes."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[tuple[Any, ...]] = []
        self._large = [at for at, field in enumerate(schema) if pa.types.is_binary(field.type)]
        self._waiting = 0
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        self._folder: Path | None = None
        self._writer: Any = None

    def add(self, *row: Any) -> None:
        """Keep one row; its key comes after all that were kept before."""
        self._rows.append(row)
        for at in self._large:
            self._waiting += len(row[at] or b"")
        if len(self._rows) >= BATCH or self._waiting >= BATCH_BYTES:
            self._flush()

    def finish(self) -> KeyedRows:
        """All that was added."""
        self._flush()
        batches: Sequence[pa.RecordBatch] = self._batches
        if self._writer is not None and self._folder is not None:
            self._writer.close()
            reader = pa.ipc.open_file(pa.memory_map(str(self._folder / "rows.arrow")))
            batches = [reader.get_batch(at) for at in range(reader.num_record_batches)]
        rows = KeyedRows(self._schema, batches)
        if self._folder is not None:
            weakref.finalize(rows, shutil.rmtree, str(self._folder), True)
        return rows

    def abandon(self) -> None:
        """Remove the temporary file of work that did not end."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = zip(zip(*self._rows, strict=True), self._schema, strict=True)
        batch = pa.record_batch([pa.array(column, field.type) for column, field in columns], schema=self._schema)
        self._rows, self._waiting = [], 0
        self._bytes += batch.nbytes
        if self._writer is None and self._bytes > IN_MEMORY:
            self._folder = Path(tempfile.mkdtemp(prefix="eslab-"))
            self._writer = pa.ipc.new_file(str(self._folder / "rows.arrow"), self._schema)
            for kept in self._batches:
                self._writer.write_batch(kept)
            self._batches = []
        if self._writer is None:
            self._batches.append(batch)
        else:
            self._writer.write_batch(batch)
