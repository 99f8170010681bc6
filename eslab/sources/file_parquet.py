"""Parquet as a format of `FileSource`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eslab.errors import SourceError
from eslab.sources import RECORDS, TopicPartition
from eslab.sources.file_rows import (
    BLOCK_BYTES,
    BLOCK_ROWS,
    JsonRows,
    Mark,
    Part,
    Range,
    Settings,
    check_at,
    columns_of,
    disorder,
    roles_of,
    row_json,
    split_name,
    to_bytes,
    to_headers,
    to_ms,
    to_table,
)

__all__ = ["Parquet"]


class Parquet:
    """Rows of record fields, or rows that become JSON objects: whole numbers and decimals digit by digit."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.home: TopicPartition = (settings.topic or split_name(path)[0], 0)
        self._row = JsonRows(settings)
        with pq.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
        if len(set(names)) < len(names):
            raise SourceError(f"{path}: two columns have the same name in {', '.join(names)}; give each its own")
        self._roles = roles_of(names)
        if not self._roles:
            self._row.check(path, names)
        self._coordinates = [self._roles[role] for role in ("topic", "partition", "offset") if role in self._roles]

    def index(self, reached: Mapping[TopicPartition, int]) -> dict[TopicPartition, Part]:
        parts: dict[TopicPartition, Part] = {}
        if "topic" not in self._roles:
            check_at(str(self.path), self.home)
            parts[self.home] = Part(reached.get(self.home, 0), reached.get(self.home, 0))
        for group, row, count in self._groups():
            if not self._coordinates:  # the footer has counted them
                home = parts[self.home]
                home.marks.append(Mark(home.next, group, row))
                home.next += count
                continue
            for first, batch in self._batches(group, row, self._coordinates):
                for at, rows, of_batch in self._split(batch, first):
                    part = parts.get(at)
                    next_ = part.next if part else reached.get(at, 0)
                    offsets = self._offsets(of_batch, next_)
                    self._check(at, rows, offsets, next_)
                    if part is None or not part.marks:
                        part = parts[at] = Part(int(offsets[0]), 0)
                    if not part.marks or part.marks[-1].place != group:
                        part.marks.append(Mark(int(offsets[0]), group, first))
                    part.next = int(offsets[-1]) + 1
        return parts

    def extend(self, parts: Mapping[TopicPartition, Part]) -> None:
        return None  # a Parquet file is written once

    def _check(self, at: TopicPartition, rows: np.ndarray[Any, Any], offsets: np.ndarray[Any, Any], next_: int) -> None:
        check_at(f"{self.path}, row {rows[0]}", at)
        behind = np.concatenate(([next_ - 1], offsets[:-1]))
        if (bad := np.flatnonzero(offsets <= behind)).size:
            disorder(f"{self.path}, row {rows[bad[0]]}", at, int(offsets[bad[0]]), int(behind[bad[0]]) + 1)

    def blocks(self, wanted: Mapping[TopicPartition, tuple[Mark, Range]]) -> Iterator[tuple[TopicPartition, pa.Table]]:
        next_ = {at: mark.offset for at, (mark, _) in wanted.items()}
        left = dict(wanted)
        begin = min(mark.place for mark, _ in wanted.values())
        for group, row, _ in self._groups():
            for first, batch in self._batches(group, row, None) if group >= begin else ():
                for at, _, part in self._split(batch, first):
                    if at not in left or group < left[at][0].place:
                        continue
                    start, stop = left[at][1]
                    offsets = self._offsets(part, next_[at])
                    next_[at] = int(offsets[-1]) + 1
                    low, high = (int(place) for place in np.searchsorted(offsets, (start, stop)))
                    if low < high:
                        yield at, self._records(part.slice(low, high - low), offsets[low:high])
                    if next_[at] >= stop:
                        del left[at]
                if not left:
                    return

    def _groups(self) -> Iterator[tuple[int, int, int]]:
        """Each row group: its number, the number of its first row, and how many rows it has."""
        with pq.ParquetFile(self.path) as file:
            meta = file.metadata
        row = 0
        for group in range(meta.num_row_groups):
            count = meta.row_group(group).num_rows
            yield group, row, count
            row += count

    def _batches(self, group: int, row: int, columns: list[str] | None) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows of a row group with the number of the first one: in small batches, however large the group is."""
        with pq.ParquetFile(self.path, pre_buffer=False) as file:
            about = file.metadata.row_group(group)
            size = max(1, min(BLOCK_ROWS, BLOCK_BYTES * about.num_rows // max(1, about.total_byte_size)))
            for batch in file.iter_batches(size, row_groups=[group], columns=columns):
                yield row, batch
                row += batch.num_rows

    def _split(self, batch: pa.RecordBatch, row: int) -> Iterator[tuple[TopicPartition, np.ndarray[Any, Any], pa.RecordBatch]]:
        """The rows of each partition in the batch, and their numbers in the file."""
        rows = np.arange(row, row + batch.num_rows)
        keys = {}
        for role in ("topic", "partition"):
            if role in self._roles:
                keys[role] = self._column(batch, role, row).cast(pa.string() if role == "topic" else pa.int64())
        if not keys:
            yield self.home, rows, batch
            return
        pairs = pa.table(keys).group_by(list(keys), use_threads=False).aggregate([]).to_pylist()
        for pair in pairs:
            at = (pair.get("topic", self.home[0]), pair.get("partition", 0))
            if len(pairs) == 1:
                yield at, rows, batch
                return
            mask = np.logical_and.reduce([pc.equal(keys[role], value).to_numpy(zero_copy_only=False) for role, value in pair.items()])
            yield at, rows[mask], batch.filter(pa.array(mask))

    def _column(self, batch: pa.RecordBatch, role: str, row: int) -> pa.Array:
        """A coordinate of the records, which none may lack."""
        column = batch.column(self._roles[role])
        if column.null_count:
            raise SourceError(f"{self.path}, row {row + column.is_null().index(True).as_py()}: no {role}")
        return column

    def _offsets(self, batch: pa.RecordBatch, next_: int) -> np.ndarray[Any, Any]:
        if "offset" in self._roles:
            return np.asarray(self._column(batch, "offset", 0).cast(pa.int64()).to_numpy(zero_copy_only=False))
        return np.arange(next_, next_ + batch.num_rows)

    def _records(self, batch: pa.RecordBatch, offsets: np.ndarray[Any, Any]) -> pa.Table:
        if not self._roles:
            fields = [self._row.of_value(row, row_json(row)) for row in batch.to_pylist()]
            columns = columns_of(fields)
        else:
            columns = {role: _as_field(role, batch.column(column)) for role, column in self._roles.items()}
            columns.setdefault("timestamp_ms", columns.get("timestamp", np.full(len(offsets), -1)))
            columns.setdefault("headers", [()] * len(offsets))
        return to_table({**columns, "offset": offsets}, len(offsets))


def _as_field(role: str, column: pa.Array) -> Any:
    """The column as that field of a record."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if role in ("key", "value"):
        return column.cast(pa.binary()) if _is_text(column.type) else [to_bytes(value) for value in column.to_pylist()]
    if role == "headers":
        return [to_headers(value) for value in column.to_pylist()]
    if role in ("timestamp", "timestamp_ms"):
        if pa.types.is_integer(column.type) and role == "timestamp_ms":
            return pc.fill_null(column.cast(pa.int64()), -1)
        return [to_ms(value) for value in column.to_pylist()]
    return column.cast(RECORDS.field(role).type) if role in RECORDS.names else column


def _is_text(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_binary,
            pa.types.is_large_string,
            pa.types.is_large_binary,
            pa.types.is_string_view,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        )
    )
