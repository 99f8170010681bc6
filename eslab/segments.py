"""The log on disk: immutable Parquet segments, committed by name, and the one writer's lock.

The format is told in docs/format.md, so that a stranger can read it with pyarrow alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import crc32c
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eslab.errors import CorruptLog, DiskFull, LabBusy
from eslab.model import Life
from eslab.sources import RECORDS, Chunk, Hole, Marker

__all__ = [
    "Footer",
    "Log",
    "OpenTransaction",
    "Reach",
    "Segment",
    "SegmentWriter",
    "commit_file",
    "enough_disk",
    "holes_of",
    "is_writing",
    "reaches",
    "uncovered",
    "writer_lock",
]

FORMAT_VERSION = 1
ROW_GROUP_BYTES = 8 << 20  # one row group is what a reader holds at once, and what a writer keeps back
DEPTH = 3  # topic, partition, incarnation
LOCK_TRIES = 10  # half a second: `is_writing` of another process holds the lock for an instant
LOSSY = frozenset({"compaction", "retention", "not requested", "unknown"})
"""The causes of holes that may have held records; transaction markers and aborted data never were events."""

_DICTIONARY = ["timestamp_type", "leader_epoch", "producer_id", "producer_epoch", "transactional"]
_DELTA = dict.fromkeys(("offset", "timestamp_ms", "producer_timestamp_ms"), "DELTA_BINARY_PACKED")


class OpenTransaction(msgspec.Struct, frozen=True):
    """A transaction whose data a segment holds and whose end it does not: the producer, and its first and last offset there."""

    producer_id: int
    first: int
    last: int


class Footer(msgspec.Struct, frozen=True, kw_only=True):
    """What a segment says of itself, in its Parquet metadata under the key `eslab`."""

    format_version: int = FORMAT_VERSION
    topic: str
    partition: int
    incarnation: int
    start: int
    next: int
    rows: int
    source: str
    isolation: str
    topic_id: str | None = None
    cluster_id: str | None = None
    before: tuple[Hole, ...] = ()
    """Holes that end at or before `start`; a segment that later covers them wins."""
    holes: tuple[Hole, ...] = ()
    markers: tuple[Marker, ...] = ()
    open: tuple[OpenTransaction, ...] = ()
    """Of a segment read uncommitted: the transactions that have data in it behind their last marker in it."""
    last_leader_epoch: int | None = None
    level: int = 0
    """How often its records were merged."""
    merged: tuple[int, ...] = ()
    """The starts of the segments that were merged into this one; those that still stand are there for readers of before the merge."""
    checksums: dict[str, int] = {}
    """CRC-32C of each column's content, see `Checksums`."""
    self_checksum: int = 0
    """CRC-32C of this footer's own JSON with a 0 here, its last field."""

    @property
    def life(self) -> Life:
        return self.topic, self.partition, self.incarnation


@dataclass(frozen=True, slots=True)
class Segment:
    """A committed file and what it says of itself."""

    path: Path
    footer: Footer

    def read(self, columns: list[str] | None = None, within: tuple[int, int] | None = None) -> Iterator[pa.Table]:
        """Yield the records, one row group at a time; of those groups alone that have offsets in `[start, next)`, if that is given. Raises `CorruptLog` where a page's checksum does not hold."""
        try:
            with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
                told = file.schema_arrow
                if (told.names, told.types) != (RECORDS.names, RECORDS.types):  # Parquet's own metadata is under no checksum
                    raise CorruptLog(f"{self.path}: its columns are not those of a segment; run `eslab verify` and restore the file")
                for at in range(file.num_row_groups):
                    if within is None or _meet(file.read_row_group(at, columns=["offset"])["offset"], within):
                        yield file.read_row_group(at, columns=columns)
        except (OSError, pa.ArrowException) as exc:
            raise CorruptLog(f"{self.path}: cannot be read ({exc}); run `eslab verify` to see which histories it touches") from exc


def _meet(offsets: pa.ChunkedArray, within: tuple[int, int]) -> bool:
    """Whether rising offsets meet a range. They are read: Parquet's own statistics are under no checksum."""
    return bool(len(offsets)) and offsets[0].as_py() < within[1] and offsets[-1].as_py() >= within[0]


@dataclass(frozen=True, slots=True)
class Reach:
    """What a segment adds to those before it: offsets `[start, next)`, trimmed where an earlier one covers them."""

    segment: Segment
    start: int
    next: int

    def read(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The segment's records within the reach; `columns` must have `offset` in it. The file may have been merged into a longer one since."""
        footer = self.segment.footer
        whole = self.start <= footer.start and footer.next <= self.next
        for table in self.segment.read(columns, None if whole else (self.start, self.next)):
            offsets = table["offset"].to_numpy()
            low, high = np.searchsorted(offsets, [self.start, self.next])
            if low < high:
                yield table.slice(low, high - low)


def reaches(segments: Iterable[Segment]) -> list[Reach]:
    """What each segment of one life adds, in order of offsets: trim, never skip."""
    out: list[Reach] = []
    reached = -1
    for segment in sorted(segments, key=lambda one: (one.footer.start, -one.footer.next)):
        if segment.footer.next > reached:
            out.append(Reach(segment, max(segment.footer.start, reached), segment.footer.next))
            reached = segment.footer.next
    return out


class Log:
    """The folder `log/` of a lab. Reading takes no lock: what stands under its name is whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segments: dict[tuple[str, int], Segment] = {}

    def paths(self) -> tuple[str, ...]:
        """Every segment that stands now. Segments never change but by merging, so equal paths are an equal log."""
        return tuple(path for path, _ in self._files())

    def _files(self) -> list[tuple[str, int]]:
        """Each segment's path and inode: a merge puts another file in the place of the first."""
        found: list[tuple[str, int]] = []
        folders = [(str(self.folder), 0)]
        while folders:
            folder, depth = folders.pop()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
                for entry in entries:
                    if depth < DEPTH:
                        folders.append((entry.path, depth + 1))
                    elif entry.name.endswith(".parquet") and not entry.name.startswith("."):
                        found.append((entry.path, entry.inode()))
        return sorted(found)

    def lives(self) -> dict[Life, list[Segment]]:
        """Every segment that stands now, by life. Each footer is read once."""
        files = self._files()
        self._segments = {file: self._segments.get(file) or Segment(Path(file[0]), read_footer(Path(file[0]))) for file in files}
        found: dict[Life, list[Segment]] = {}
        for segment in self._segments.values():
            found.setdefault(segment.footer.life, []).append(segment)
        return dict(sorted(found.items()))

    def place(self, life: Life) -> Path:
        """The folder of a life's segments."""
        topic, partition, incarnation = life
        return self.folder / quote_topic(topic) / str(partition) / str(incarnation)

    def holes(self) -> Iterator[tuple[Life, Hole]]:
        """Every offset range from 0 on that no segment has a record for, and why; neighbours of one cause in one."""
        for life, segments in self.lives().items():
            yield from ((life, hole) for hole in holes_of(segments))

    def sweep(self) -> None:
        """Remove the temporary files of captures that died. Only under the writer's lock."""
        for path in self.folder.glob("*/*/*/.tmp-*"):
            path.unlink(missing_ok=True)


def holes_of(segments: Sequence[Segment]) -> Iterator[Hole]:
    """The offsets of one life from 0 on that none of its segments has a record for, and why."""
    return merge_holes(_holes(segments))


def _holes(segments: Sequence[Segment]) -> Iterator[Hole]:
    reached = 0
    for reach in reaches(segments):
        footer = reach.segment.footer
        told = reached
        for hole in sorted(footer.before):
            if hole.next > told:
                if hole.start > told:
                    yield Hole(told, hole.start, "unknown")
                yield Hole(max(hole.start, told), min(hole.next, reach.start), hole.cause)
                told = hole.next
        if told < reach.start:
            yield Hole(told, reach.start, "unknown")
        for hole in footer.holes:
            if hole.next > reach.start:
                yield Hole(max(hole.start, reach.start), hole.next, hole.cause)
        reached = reach.next


def uncovered(low: int, high: int, covered: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of `[low, high)` that none of these ranges (ascending) covers."""
    for start, next_ in covered:
        if low < min(start, high):
            yield low, min(start, high)
        low = max(low, next_)
    if low < high:
        yield low, high


def merge_holes(holes: Iterable[Hole]) -> Iterator[Hole]:
    """The same holes, with neighbours of one cause made one."""
    last: Hole | None = None
    for hole in holes:
        if last and last.next == hole.start and last.cause == hole.cause:
            last = Hole(last.start, hole.next, hole.cause)
        else:
            if last:
                yield last
            last = hole
    if last:
        yield last


def quote_topic(topic: str) -> str:
    """A topic's folder name. Kafka's own names stand as they are; a file's stem may hold anything."""
    quoted = urllib.parse.quote(topic, safe=" ")
    return quoted.replace(".", "%2E") if quoted.startswith(".") else quoted


def read_footer(path: Path) -> Footer:
    """The footer of a segment. Raises `CorruptLog` if it is not what was written."""
    try:
        told = (pq.read_metadata(path).metadata or {})[b"eslab"]
        footer = msgspec.json.decode(told, type=Footer)
    except (OSError, pa.ArrowException, KeyError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise CorruptLog(
            f"{path}: no segment of eslab, or a damaged one ({exc}); run `eslab verify`, restore the file or move it away"
        ) from exc
    if footer.format_version != FORMAT_VERSION:
        raise CorruptLog(f"{path}: format version {footer.format_version}, this eslab reads {FORMAT_VERSION}; use the eslab that wrote it")
    if _self_checksum(told) != footer.self_checksum:
        raise CorruptLog(f"{path}: its footer was changed after it was written; run `eslab verify` and restore the file")
    return footer


def _self_checksum(told: bytes) -> int:
    """Of a footer's JSON as it stands, so that a field which a later eslab adds does not change it."""
    head, name, _ = told.rpartition(b'"self_checksum":')
    return int(crc32c.crc32c(head + name + b"0}"))


# --- writing --------------------------------------------------------------------------------------


class SegmentWriter:
    """One segment on its way: chunks go to a temporary file, `commit` makes it appear under its name.

    Holds at most about two row groups in memory. `background` runs the writing of one while the next is gathered. A writer that is neither committed nor aborted leaves a temporary file that
    the next capture sweeps away.
    """

    def __init__(
        self,
        log: Log,
        life: Life,
        start: int,
        *,
        before: tuple[Hole, ...],
        facts: dict[str, Any],
        background: Callable[[Callable[[], None]], Future[None]] | None = None,
    ) -> None:
        self._background = background
        self._writing: Future[None] | None = None
        self.life, self.start, self.next = life, start, start
        self.rows = 0
        self.bytes = 0
        self.whole = False
        """Whether it holds whole chunks: at least one, and none half taken when Ctrl-C or an error came. Only then may it be committed."""
        self.opened = time.monotonic()
        self._before, self._facts = before, facts
        self._holes: list[Hole] = []
        self._markers: list[Marker] = []
        self._open: dict[int, OpenTransaction] = {}
        self._epoch: int | None = None
        self._checksums = Checksums()
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0
        self._folder = log.place(life)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._temporary = self._folder / f".tmp-{os.getpid()}-{secrets.token_hex(4)}.parquet"
        with enough_disk(self._temporary):
            self._writer = pq.ParquetWriter(
                self._temporary,
                RECORDS,
                compression="zstd",
                compression_level=1,
                use_dictionary=_DICTIONARY,
                column_encoding=_DELTA,
                write_statistics=["offset", "timestamp_ms"],
                write_page_checksum=True,
                store_schema=False,
            )

    def append(self, chunk: Chunk) -> None:
        """Take the next chunk of this partition. Raises `CorruptLog` if it does not begin where the last one ended."""
        if chunk.start != self.next:
            raise CorruptLog(
                f"{chunk.topic}[{chunk.partition}]: the source went from offset {self.next} to {chunk.start}; nothing was committed"
            )
        _check_cover(chunk)
        self.whole = False
        if chunk.records.num_rows:
            self._pending.append(chunk.records)
            self._pending_bytes += chunk.records.nbytes
            epoch = pc.max(chunk.records["leader_epoch"]).as_py()
            self._epoch = self._epoch if epoch is None else epoch  # 0 is an epoch: the first
        self._holes += chunk.holes
        self._markers += chunk.markers
        if self._facts["isolation"] == "read_uncommitted":
            _follow_transactions(self._open, chunk)
        self.next = chunk.next
        self.rows += chunk.records.num_rows
        self.bytes += chunk.records.nbytes
        if self._pending_bytes >= ROW_GROUP_BYTES:
            self._flush()
        self.whole = True

    def _flush(self) -> None:
        if not self._pending:
            return
        table = pa.concat_tables(self._pending)
        self._pending, self._pending_bytes = [], 0
        self._settle()
        if self._background:
            self._writing = self._background(lambda: self._write(table))
        else:
            self._write(table)

    def _write(self, table: pa.Table) -> None:
        self._checksums.add(table)
        with enough_disk(self._temporary):
            self._writer.write_table(table, row_group_size=max(table.num_rows, 1))

    def _settle(self) -> None:
        """Wait for the row group that is being written, and raise what came of it."""
        if self._writing:
            self._writing.result()
            self._writing = None

    def commit(self, *, replaces: Sequence[int] = (), level: int = 0) -> Segment:
        """Make the segment appear under its name, durably, and return it.

        With `replaces`, the starts of the segments that it was merged from, it takes the place of the first of them.
        """
        self._flush()
        self._settle()
        topic, partition, incarnation = self.life
        footer = Footer(
            topic=topic,
            partition=partition,
            incarnation=incarnation,
            start=self.start,
            next=self.next,
            rows=self.rows,
            before=self._before,
            holes=tuple(merge_holes(self._holes)),
            markers=tuple(self._markers),
            open=tuple(one for _, one in sorted(self._open.items())),
            last_leader_epoch=self._epoch,
            level=level,
            merged=tuple(start for start in replaces if start != self.start),
            checksums=self._checksums.result(),
            **self._facts,
        )
        footer = msgspec.structs.replace(footer, self_checksum=_self_checksum(msgspec.json.encode(footer)))
        with enough_disk(self._temporary):
            self._writer.add_key_value_metadata({"eslab": msgspec.json.encode(footer).decode()})
            self._writer.close()
            final = self._folder / f"{self.start:020d}.parquet"
            (replace_file if replaces else commit_file)(self._temporary, final)
        return Segment(final, footer)

    def abort(self) -> None:
        """Forget what was not committed."""
        if self._writing:
            wait([self._writing])
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()
        self._temporary.unlink(missing_ok=True)


def _follow_transactions(open_: dict[int, OpenTransaction], chunk: Chunk) -> None:
    """Keep `open_` (by producer) up to the end of the chunk: a marker ends what stands before it."""
    ended = {marker.producer_id: marker.offset for marker in chunk.markers}
    for producer in ended:
        open_.pop(producer, None)
    rows = np.flatnonzero(pc.fill_null(chunk.records["transactional"], False).to_numpy())
    if not len(rows):
        return
    producers = pc.fill_null(chunk.records["producer_id"], -1).to_numpy()[rows]
    offsets = chunk.records["offset"].to_numpy()[rows]
    order = np.argsort(producers, kind="stable")
    ids, starts = np.unique(producers[order], return_index=True)
    for producer, own in zip(ids.tolist(), np.split(offsets[order], starts[1:]), strict=True):
        after = np.searchsorted(own, ended.get(producer, -1))
        if after < len(own):
            first = open_[producer].first if producer in open_ else int(own[after])
            open_[producer] = OpenTransaction(producer, first, int(own[-1]))


def _check_cover(chunk: Chunk) -> None:
    held = chunk.records.num_rows + sum(hole.next - hole.start for hole in chunk.holes)
    if held != chunk.next - chunk.start:
        raise CorruptLog(
            f"{chunk.topic}[{chunk.partition}]: the source answered {held} of the offsets {chunk.start}–{chunk.next - 1} without a word on the rest; nothing was committed"
        )


def commit_file(temporary: Path, final: Path) -> None:
    """Give a finished file its name: fsync, link (a rename would silently replace), fsync the folder, unlink.

    Raises `FileExistsError` if the name is taken.
    """
    _sync(temporary)
    os.link(temporary, final)
    _sync(final.parent)
    temporary.unlink()


def replace_file(temporary: Path, final: Path) -> None:
    """Put a finished file in the place of another: at every moment the one or the other stands there whole."""
    _sync(temporary)
    os.replace(temporary, final)  # noqa: PTH105 - the tests of crashes count the steps of os
    _sync(final.parent)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def enough_disk(path: Path) -> Iterator[None]:
    """Turn "no space left" into `DiskFull`, with the half-written file removed."""
    try:
        yield
    except Exception as exc:
        if not _no_space(exc):
            raise
        path.unlink(missing_ok=True)
        raise _disk_full(path.parent) from exc


def _no_space(exc: Exception) -> bool:
    """Whether there was no room; DuckDB and Arrow say so in words alone."""
    return getattr(exc, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(exc)


def _disk_full(folder: Path) -> DiskFull:
    return DiskFull(f"{folder}: the disk is full; what was committed before stands. Free some room and run the same again")


class Checksums:
    """CRC-32C of each column's content, the same however the rows were split into row groups.

    A column of numbers is hashed as its little-endian values (null as 0) and its validity as one byte a row; a column of bytes as int32 lengths (null
    as -1) and the bytes themselves; headers as the count of each row, then their keys and values as two such columns.
    """

    def __init__(self) -> None:
        self._sums: dict[str, int] = {}

    def add(self, table: pa.Table) -> None:
        for name in RECORDS.names:
            for array in table[name].chunks:
                self._add(name, array)

    def result(self) -> dict[str, int]:
        return dict(self._sums)

    def differ(self, others: dict[str, int]) -> list[str]:
        """The parts whose sums are not these. One that is missing is that of nothing: 0."""
        return sorted(name for name in self._sums.keys() | others.keys() if self._sums.get(name, 0) != others.get(name, 0))

    def _add(self, name: str, array: pa.Array) -> None:
        if pa.types.is_list(array.type):
            self._hash(f"{name}.count", pc.list_value_length(array).to_numpy(zero_copy_only=False).astype("<i4"))
            flat = array.flatten()
            self._add(f"{name}.key", flat.field("key"))
            self._add(f"{name}.value", flat.field("value"))
        elif pa.types.is_binary(array.type) or pa.types.is_string(array.type):
            lengths = pc.fill_null(pc.binary_length(array), -1)
            self._hash(f"{name}.length", lengths.to_numpy(zero_copy_only=False).astype("<i4"))
            dense = array.drop_null() if array.null_count else array
            _, offsets, data = dense.buffers()
            if data is not None and len(dense):
                ends = np.frombuffer(offsets, dtype=np.int32)[dense.offset : dense.offset + len(dense) + 1]
                self._hash(f"{name}.bytes", memoryview(data)[ends[0] : ends[-1]])
        else:
            if array.null_count or name not in ("offset", "timestamp_ms"):
                self._hash(f"{name}.valid", array.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8))
            filled = pc.fill_null(array, False if pa.types.is_boolean(array.type) else 0)
            self._hash(f"{name}.value", filled.to_numpy(zero_copy_only=False))

    def _hash(self, name: str, data: Any) -> None:
        self._sums[name] = crc32c.crc32c(data, self._sums.get(name, 0))


# --- the writer's lock ------------------------------------------------------------------------------


@contextlib.contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the one writer's lock of a lab. Raises `LabBusy`, naming the holder, if another has it; `DiskFull` for any file that found no room."""
    path = folder / "log" / ".writer"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as file:
            _lock(file, folder)
            yield
    except Exception as exc:
        if not _no_space(exc):
            raise
        raise _disk_full(folder) from exc


def _lock(file: TextIO, folder: Path) -> None:
    for patience in range(LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if patience == LOCK_TRIES - 1:
                raise LabBusy(
                    f"{folder}: {_holder(file)} is writing to this lab; wait for it, or stop it, and run the same again"
                ) from None
            time.sleep(0.05)
    os.ftruncate(file.fileno(), 0)
    signed = {"pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    os.write(file.fileno(), json.dumps(signed).encode())  # past the buffer, which would try again while the file is closed


def is_writing(folder: Path) -> bool:
    """Whether some process holds the writer's lock now."""
    path = folder / "log" / ".writer"
    if not path.exists():
        return False
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _holder(file: TextIO) -> str:
    file.seek(0)
    try:
        told = json.load(file)
        return f"process {told['pid']} (since {told['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"


def check(segment: Segment) -> list[str]:
    """What is wrong with a segment: every way in which its content is not what was committed. Empty: nothing.

    Reads the whole file once.
    """
    footer = segment.footer
    problems = []
    at = f"{footer.topic}[{footer.partition}] {footer.start}–{footer.next - 1}"
    place = (quote_topic(footer.topic), str(footer.partition), str(footer.incarnation), f"{footer.start:020d}.parquet")
    if segment.path.parts[-4:] != place:
        problems.append(f"{segment.path}: holds {at}, which belongs at {'/'.join(place)}")
    sums = Checksums()
    rows, last, ascending = 0, footer.start - 1, True
    try:
        for table in segment.read():
            sums.add(table)
            offsets = table["offset"].to_numpy()
            ascending &= bool(len(offsets) == 0 or (offsets[0] > last and (np.diff(offsets) > 0).all()))
            last = int(offsets[-1]) if len(offsets) else last
            rows += table.num_rows
    except CorruptLog as exc:
        return [*problems, str(exc)]
    if changed := sums.differ(footer.checksums):
        problems.append(f"{segment.path}: {at}: the content of {', '.join(changed)} is not what was committed")
    if not ascending or rows != footer.rows or last >= footer.next:
        problems.append(f"{segment.path}: {at}: {rows} records where {footer.rows} were committed, or out of order")
    if rows + sum(hole.next - hole.start for hole in footer.holes) != footer.next - footer.start:
        problems.append(f"{segment.path}: {at}: records and holes do not cover the range")
    return problems
