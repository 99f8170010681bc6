"""Rows by key, kept as Arrow: in memory, and past a bound in a temporary file that goes with them."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Keeper", "KeyedRows", "overlaid"]

IN_MEMORY: Final = 256 << 20  # bytes of rows; past that they go to a temporary file outside the lab
BATCH: Final = 8192  # rows
BATCH_BYTES: Final = 16 << 20  # of a batch whose rows are large, about


class KeyedRows:
    """Rows in the order of their first column, a text that no two share. `batches` that are on disk are read when they are asked for."""

    def __init__(self, schema: pa.Schema, batches: Sequence[pa.RecordBatch], lasts: Sequence[str], rows: int) -> None:
        self.schema, self.batches = schema, batches
        self._lasts, self._rows = lasts, rows
        self._near: tuple[int, pa.RecordBatch] = (-1, None)

    def __len__(self) -> int:
        return self._rows

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
        if self._near[0] != at:  # whoever asks for one key often asks for the next one too
            self._near = (at, self.batches[at])
        batch = self._near[1]
        ids = batch.column(0)
        row = bisect_left(range(len(ids)), key, key=lambda one: ids[one].as_py())
        return (batch, row) if ids[row].as_py() == key else None

    def between(self, first: str, last: str) -> Iterator[pa.RecordBatch]:
        """The batches that may hold keys from the one to the other, both inclusive."""
        yield from (
            self.batches[at] for at in range(bisect_left(self._lasts, first), min(bisect_left(self._lasts, last) + 1, len(self.batches)))
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row, by column name."""
        for batch in self.batches:
            yield from batch.to_pylist()

    def table(self) -> pa.Table:
        return pa.Table.from_batches(self.batches, self.schema)


def overlaid(rows: KeyedRows, changed: KeyedRows, gone: Collection[str] = ()) -> Iterator[pa.RecordBatch]:
    """Both in order, a batch at a time: of a key that both have, the changed row, and none of a key that is gone."""
    waiting = list[pa.RecordBatch]()
    rest = iter(changed.batches)
    missing = pa.array(sorted(gone), pa.string())
    for batch in rows.batches:
        last = batch.column(0)[len(batch) - 1].as_py()
        while not waiting or waiting[-1].column(0)[len(waiting[-1]) - 1].as_py() <= last:
            more = next(rest, None)
            if more is None:
                break
            waiting.append(more)
        over, waiting = _parted(waiting, last)
        table = pa.Table.from_batches(over, rows.schema)
        replaced = pa.concat_arrays([table[0].combine_chunks(), missing])
        kept = batch.filter(pc.invert(pc.is_in(batch.column(0), value_set=replaced))) if len(replaced) else batch
        table = pa.concat_tables([pa.Table.from_batches([kept]), table])
        if over:
            table = table.take(pc.sort_indices(table, sort_keys=[(rows.schema.names[0], "ascending")]))
        yield from table.combine_chunks().to_batches()
    yield from waiting
    yield from rest


def _parted(batches: list[pa.RecordBatch], last: str) -> tuple[list[pa.RecordBatch], list[pa.RecordBatch]]:
    """The rows up to a key (inclusive), and those after it."""
    below, above = list[pa.RecordBatch](), list[pa.RecordBatch]()
    for batch in batches:
        ids = batch.column(0)
        at = bisect_right(range(len(ids)), last, key=lambda row, ids=ids: ids[row].as_py())  # type: ignore[misc]
        below += [batch.slice(0, at)] if at else []
        above += [batch.slice(at)] if at < len(ids) else []
    return below, above


class _OnDisk(Sequence[pa.RecordBatch]):
    """The batches of an Arrow file: read, not mapped, since mapped pages would count as the process's memory."""

    def __init__(self, path: Path) -> None:
        self._reader = pa.ipc.open_file(pa.OSFile(str(path)))

    def __len__(self) -> int:
        return int(self._reader.num_record_batches)

    def __getitem__(self, at: Any) -> Any:
        return (
            [self[one] for one in range(*at.indices(len(self)))] if isinstance(at, slice) else self._reader.get_batch(range(len(self))[at])
        )


class Keeper:
    """Takes rows in the order of their keys. Memory: at most about 256 MB, whatever comes."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._columns: list[list[Any]] = [[] for _ in schema]
        self._large = [at for at, field in enumerate(schema) if pa.types.is_binary(field.type)]
        self._waiting = 0
        self._batches: list[pa.RecordBatch] = []
        self._lasts: list[str] = []
        self._kept = self._bytes = 0
        self._folder: Path | None = None
        self._writer: Any = None

    def add(self, *row: Any) -> None:
        """Keep one row; its key comes after all that were kept before."""
        self.extend(*([value] for value in row))

    def extend(self, *columns: Sequence[Any]) -> None:
        """Keep some rows, column by column."""
        for kept, column in zip(self._columns, columns, strict=True):
            kept.extend(column)
        for at in self._large:
            self._waiting += sum(len(value) for value in columns[at] if value)
        if len(self._columns[0]) >= BATCH or self._waiting >= BATCH_BYTES:
            self._flush()

    def finish(self) -> KeyedRows:
        """All that was added."""
        self._flush()
        batches: Sequence[pa.RecordBatch] = self._batches
        if self._writer is not None and self._folder is not None:
            self._writer.close()
            batches = _OnDisk(self._folder / "rows.arrow")
        rows = KeyedRows(self._schema, batches, self._lasts, self._kept)
        if self._folder is not None:
            weakref.finalize(rows, shutil.rmtree, str(self._folder), True)
        return rows

    def abandon(self) -> None:
        """Remove the temporary file of work that did not end."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def put(self, batch: pa.RecordBatch) -> None:
        """Keep a batch as it is, after all that was kept before."""
        self._flush()
        if len(batch):
            self._put(batch)

    def _flush(self) -> None:
        if not self._columns[0]:
            return
        arrays = [pa.array(column, field.type) for column, field in zip(self._columns, self._schema, strict=True)]
        self._columns, self._waiting = [[] for _ in self._schema], 0
        self._put(pa.record_batch(arrays, schema=self._schema))

    def _put(self, batch: pa.RecordBatch) -> None:
        self._lasts.append(batch.column(0)[len(batch) - 1].as_py())
        self._kept += len(batch)
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
