"""Sorted runs: immutable Parquet files of rows in key order, found by the first key of each row group.

A run is a list of files, none of whose keys overlap. Everything that is sorted, a run's file or a spill, is read alike: by a range of keys.
"""

from __future__ import annotations

import os
import secrets
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate, pairwise, takewhile
from pathlib import Path
from typing import Final, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eslab.durable import commit_file, enough_disk
from eslab.errors import CorruptLog
from eslab.segments import DAMAGED

__all__ = [
    "KEY",
    "ROW_GROUP",
    "InMemory",
    "Key",
    "RunFile",
    "Sorted",
    "Spill",
    "merge",
    "ranges",
    "read_index",
    "read_merged",
    "sort",
    "spill",
    "write_run",
]

KEY: Final = ("aggregate", "aggregate_id", "order_at", "topic", "partition_id", "incarnation", "record_offset")
"""The sort key; `order_at` counts as microseconds since 1970."""
Key = tuple[str | int, ...]
"""Values of KEY, or of its beginning: a shorter key sorts before every longer one that begins with it."""

ROW_GROUP: Final = 4096  # rows; one look-up decodes one group: 3 ms, against 7 at 16 k, while narrow scans run at half speed
FILE_ROWS: Final = 40 * ROW_GROUP
FILE_BYTES: Final = 256 << 20  # in memory, of one file's rows: bounds a merge where payloads are large
SPILL_ROWS: Final = ROW_GROUP

_INDEX = b"eslab.index"
_CHECKSUM = b"eslab.index.crc32"
_DICTIONARY = [
    "aggregate", "aggregate_id", "topic", "partition_id", "incarnation", "first", "kind", "problem", "event_type", "event_version", "source",
    "timestamp_type", "correlation_id",
]  # fmt: skip
_DELTA = dict.fromkeys(("order_at", "recorded_at", "happened_at", "record_offset"), "DELTA_BINARY_PACKED")


class Sorted(Protocol):
    """Rows in key order, in batches: the first key of each, and its rows; the last key of all; what a row takes in memory on average."""

    firsts: list[Key]
    sizes: list[int]
    last: Key
    row_bytes: float

    def read(self, begin: int, end: int, columns: Sequence[str] | None) -> pa.Table:
        """The rows of batches `[begin, end)`."""


class _Index(msgspec.Struct):
    firsts: list[tuple[str, str, int, str, int, int, int]]
    sizes: list[int]
    last: tuple[str, str, int, str, int, int, int]
    ids: list[int]
    """How many ids each row group has."""
    hashes: bytes
    """Of each row group the hashes of its ids, sorted: four bytes each, little-endian."""


def read_index(metadata: pq.FileMetaData) -> _Index:
    """The index of a run's file. Raises `KeyError` where there is none, `ValueError` where it is not what was written: pages have checksums of their own, the footer has none."""
    told = metadata.metadata or {}
    if zlib.crc32(told[_INDEX]) != int(told[_CHECKSUM]):
        raise ValueError("its index is not what was written")
    return msgspec.json.decode(told[_INDEX], type=_Index)


class RunFile:
    """One file of a run; its footer is read once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Read, not mapped: mapped pages would count as the process's memory, and grow with the lab. So would row groups that pyarrow buffers before it
            # reads them: it keeps them for as long as the file is open
            self._file = pq.ParquetFile(path, pre_buffer=False)
            index = read_index(self._file.metadata)
        except (*DAMAGED, KeyError, TypeError, ValueError) as exc:
            raise CorruptLog(
                f"{path}: a derived file is missing or damaged ({exc}); delete the folder events/ and it is built again from the log"
            ) from exc
        self.firsts: list[Key] = list(index.firsts)
        self.sizes = index.sizes
        self.last: Key = index.last
        self._ids = [0, *accumulate(index.ids)]
        self._hashes = np.frombuffer(index.hashes, "<u4")
        metadata = self._file.metadata
        self.row_bytes = sum(metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups)) / max(metadata.num_rows, 1)

    def may_hold(self, aggregate: str, aggregate_id: str) -> bool:
        """Whether there can be a row of this id: of those that have none, all but one in millions are told without a look at their rows."""
        low = (aggregate, aggregate_id)
        if self.last[:2] < low:
            return False
        begin, end = max(bisect_left(self.firsts, low) - 1, 0), bisect_left(self.firsts, (aggregate, aggregate_id + "\0"))
        wanted = np.uint32(hash_of(aggregate, aggregate_id))
        hashes = (self._hashes[self._ids[at] : self._ids[at + 1]] for at in range(begin, end))
        return any(wanted in some[some.searchsorted(wanted) :][:1] for some in hashes)

    def read(self, begin: int, end: int, columns: Sequence[str] | None) -> pa.Table:
        try:
            return self._file.read_row_groups(list(range(begin, end)), columns=columns, use_threads=end - begin > 1)
        except DAMAGED as exc:
            raise CorruptLog(
                f"{self.path}: a derived file is damaged ({exc}); delete the folder events/ and it is built again from the log"
            ) from exc


class Spill:
    """A sorted table put aside in an Arrow file, read a batch at a time.

    Read, not mapped: mapped pages would count as the process's memory, and grow with the topic.
    """

    def __init__(self, path: Path, firsts: list[Key], sizes: list[int], last: Key) -> None:
        self.firsts, self.sizes, self.last = firsts, sizes, last
        self.row_bytes = path.stat().st_size / max(sum(sizes), 1)
        self._reader = pa.ipc.open_file(pa.OSFile(str(path)))

    def read(self, begin: int, end: int, columns: Sequence[str] | None) -> pa.Table:
        table = pa.Table.from_batches([self._reader.get_batch(at) for at in range(begin, end)], self._reader.schema)
        return table.select(columns) if columns else table


class InMemory:
    """A sorted table, read like a spill."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        starts = range(0, table.num_rows, SPILL_ROWS)
        self.firsts: list[Key] = [key_at(table, at) for at in starts]
        self.sizes = [min(SPILL_ROWS, table.num_rows - at) for at in starts]
        self.last: Key = key_at(table, table.num_rows - 1)
        self.row_bytes = table.nbytes / max(table.num_rows, 1)

    def read(self, begin: int, end: int, columns: Sequence[str] | None) -> pa.Table:
        table = self._table.slice(begin * SPILL_ROWS, (end - begin) * SPILL_ROWS)
        return table.select(columns) if columns else table


def hash_of(aggregate: str, aggregate_id: str) -> int:
    """What stands for an id in a run's index."""
    return zlib.crc32(aggregate_id.encode("utf-8", "surrogatepass"), zlib.crc32(aggregate.encode("utf-8", "surrogatepass")))


def sort(table: pa.Table) -> pa.Table:
    """The table in key order."""
    return table.take(pc.sort_indices(table, sort_keys=[(name, "ascending") for name in KEY])).combine_chunks()


def spill(table: pa.Table, folder: Path) -> Spill:
    """Put a sorted table aside in this folder."""
    path = folder / f"{secrets.token_hex(8)}.arrow"
    batches = table.to_batches(max_chunksize=SPILL_ROWS)
    with enough_disk(path), pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    starts = range(0, table.num_rows, SPILL_ROWS)
    return Spill(path, [key_at(table, at) for at in starts], [len(batch) for batch in batches], key_at(table, table.num_rows - 1))


def key_at(table: pa.Table, row: int, depth: int = len(KEY)) -> Key:
    """The first `depth` values of a row's key."""
    return tuple(table[name][row].value if name == "order_at" else table[name][row].as_py() for name in KEY[:depth])


def read_range(source: Sorted, low: Key, high: Key | None, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows with low <= key < high (None: to the end). No row is looked at where the range begins and ends with a batch."""
    begin = bisect_left(source.firsts, low)
    end = len(source.firsts) if high is None else bisect_left(source.firsts, high)
    inside = begin > 0 and source.firsts[begin : begin + 1] != [low]  # the batch before may end within the range
    begin -= inside
    over = high is not None and source.firsts[end : end + 1] != [high] and source.last >= high
    alike = _shared(source.firsts[begin], source.firsts[end] if end < len(source.firsts) else source.last, low, high or low)
    wanted = [*KEY[alike : max(len(low) * inside, len(high or ()) * over)]]
    table = source.read(begin, max(begin, end), None if columns is None else list(dict.fromkeys([*columns, *wanted])))
    start = _row(table, low, alike) if inside else 0
    stop = _row(table, high, alike) if high is not None and over else table.num_rows
    table = table.slice(start, max(stop - start, 0))
    return table if columns is None else table.select(columns)


def _shared(*keys: Key) -> int:
    """How many of their first values are the same in all keys."""
    return sum(1 for _ in takewhile(lambda values: len({*values}) == 1, zip(*keys, strict=False)))


def _row(table: pa.Table, key: Key, alike: int) -> int:
    """The first row whose key is not below this one; the first `alike` values are those of every row."""
    low, high = 0, table.num_rows
    for name, wanted in [*zip(KEY, key, strict=False)][alike:]:
        value = (table[name].cast(pa.int64()) if name == "order_at" else table[name]).__getitem__
        low = bisect_left(range(high), wanted, low, key=lambda row: value(row).as_py())
        high = bisect_right(range(high), wanted, low, key=lambda row: value(row).as_py())
    return low


def merge(sources: Sequence[Sorted], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of all sources in key order, a file's worth at a time."""
    for low, high in ranges(sources):
        if (table := read_merged(sources, low, high, columns)).num_rows:
            yield table


def ranges(sources: Sequence[Sorted], low: Key = (), high: Key | None = None, rows: int = FILE_ROWS) -> Iterator[tuple[Key, Key | None]]:
    """Split a range of keys into ranges of about `rows` rows in all sources together, fewer where rows are large."""
    heaviest = max((source.row_bytes for source in sources), default=1.0)
    rows = max(1, min(rows, int(FILE_BYTES / max(heaviest, 1.0))))
    for begin, end in pairwise([low, *_splitters(sources, low, high, rows), high]):
        assert begin is not None
        yield begin, end


def read_merged(
    sources: Sequence[Sorted], low: Key, high: Key | None, columns: Sequence[str] | None = None, *, at_once: bool = False
) -> pa.Table:
    """The rows of all sources with low <= key < high in key order; `at_once` reads the sources in threads."""
    near = sorted(
        (source for source in sources if source.last >= low and (high is None or source.firsts[0] < high)),
        key=lambda source: source.firsts[0],
    )
    if all(left.last < right.firsts[0] for left, right in pairwise(near)):  # files of one run, say
        parts = [read_range(source, low, high, columns) for source in near or sources[:1]]
        return pa.concat_tables(parts) if parts else pa.table({})
    named = None if columns is None else list(dict.fromkeys([*columns, *KEY]))
    read = partial(read_range, low=low, high=high, columns=named)
    table = sort(pa.concat_tables((_threads(os.getpid()).map if at_once else map)(read, near)))
    return table if columns is None else table.select(columns)


@cache
def _threads(_process: int) -> ThreadPoolExecutor:  # a process that was forked has not the threads of its parent
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="eslab-read")


def _splitters(sources: Sequence[Sorted], low: Key, high: Key | None, rows: int) -> list[Key]:
    firsts = sorted(
        (key, size)
        for source in sources
        for key, size in zip(source.firsts, source.sizes, strict=True)
        if key > low and (high is None or key < high)
    )
    out: list[Key] = []
    held = 0
    for key, size in firsts:
        if held + size > rows and (not out or key > out[-1]):
            out.append(key)
            held = 0
        held += size
    return out


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written and committed."""

    path: Path
    rows: int
    bytes: int


def write_run(folder: Path, name: str, tables: Iterable[pa.Table]) -> list[Written]:
    """Write sorted tables as the files of a run and commit each. Raises `CorruptLog` if they are not in order."""
    out: list[Written] = []
    last: Key = ()
    for table in tables:
        for piece in _pieces(table):
            firsts = [key_at(piece, at) for at in range(0, piece.num_rows, ROW_GROUP)]
            if any(left > right for left, right in pairwise([last, *firsts])):
                raise CorruptLog(
                    f"{folder}: rows about to be written are not in order; this is a defect of eslab, and nothing was committed"
                )
            last = key_at(piece, piece.num_rows - 1)
            out.append(_write_file(folder / f"{name}-{len(out):05d}.parquet", piece, firsts, last))
    return out


def _pieces(table: pa.Table) -> Iterator[pa.Table]:
    """The table in pieces that one file holds."""
    rows = FILE_ROWS
    if table.num_rows and table.nbytes > FILE_BYTES:
        rows = max(ROW_GROUP, int(table.num_rows * FILE_BYTES / table.nbytes) // ROW_GROUP * ROW_GROUP)
    for start in range(0, table.num_rows, rows):
        yield table.slice(start, rows)


def _write_file(path: Path, table: pa.Table, firsts: list[Key], last: Key) -> Written:
    temporary = path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}")
    groups = [table.slice(at, ROW_GROUP) for at in range(0, table.num_rows, ROW_GROUP)]
    hashes = [_hashes(group) for group in groups]
    index = msgspec.json.encode(
        {
            "firsts": firsts,
            "sizes": [group.num_rows for group in groups],
            "last": last,
            "ids": [len(some) for some in hashes],
            "hashes": b"".join(some.tobytes() for some in hashes),
        }
    ).decode()
    with enough_disk(temporary):
        with pq.ParquetWriter(
            temporary,
            table.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=_DICTIONARY,
            column_encoding=_DELTA,
            write_statistics=list(KEY),
            write_page_checksum=True,
            store_schema=False,
        ) as writer:
            writer.write_table(table, row_group_size=ROW_GROUP)
            writer.add_key_value_metadata({_INDEX.decode(): index, _CHECKSUM.decode(): str(zlib.crc32(index.encode()))})
        size = temporary.stat().st_size
        commit_file(temporary, path)
    return Written(path, table.num_rows, size)


def _hashes(rows: pa.Table) -> np.ndarray:
    """The hashes of the ids of some rows, sorted."""
    ids = dict.fromkeys(zip(rows["aggregate"].to_pylist(), rows["aggregate_id"].to_pylist(), strict=True))
    return np.unique(np.array([hash_of(*one) for one in ids], "<u4"))
