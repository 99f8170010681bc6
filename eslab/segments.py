"""The log on disk: immutable Parquet segments, committed by name.

The format is told in docs/format.md, so that a stranger can read it with pyarrow alone.
"""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import crc32c
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eslab.checksums import Checksums
from eslab.errors import CorruptLog
from eslab.listing import Listing, entries
from eslab.model import Life
from eslab.sources import RECORDS, Hole, Marker

__all__ = [
    "DAMAGED",
    "Footer",
    "Log",
    "OpenTransaction",
    "Reach",
    "Segment",
    "check",
    "holes_of",
    "merge_holes",
    "reaches",
    "read_footer",
    "self_checksum",
    "uncovered",
]

FORMAT_VERSION = 1
DAMAGED = (OSError, pa.ArrowException, UnicodeDecodeError)
"""What pyarrow raises for a Parquet file that is none, or that is damaged: the last where the name of a column is."""
LOSSY = frozenset({"compaction", "retention", "not requested", "unknown"})
"""The causes of holes that may have held records; transaction markers and aborted data never were events."""


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
            with pq.ParquetFile(self.path, page_checksum_verification=True, pre_buffer=False) as file:
                told = file.schema_arrow
                if (told.names, told.types) != (RECORDS.names, RECORDS.types):  # Parquet's own metadata is under no checksum
                    raise CorruptLog(f"{self.path}: its columns are not those of a segment; run `eslab verify` and restore the file")
                for at in range(file.num_row_groups):
                    if within is None or _meet(file.read_row_group(at, columns=["offset"])["offset"], within):
                        yield file.read_row_group(at, columns=columns)
        except DAMAGED as exc:
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
        self._segments: dict[tuple[str, int, int], Segment] = {}
        self._listing = Listing(folder)

    def paths(self) -> tuple[str, ...]:
        """Every segment that stands now. Segments never change but by merging, so equal paths are an equal log."""
        return self._listing.paths()

    def _files(self) -> list[tuple[str, int, int]]:
        """Each segment's path, inode and time: a merge puts another file in the place of the first, and the next one may get the inode that became free."""
        found: list[tuple[str, int, int]] = []
        for entry in entries(self.folder):
            with contextlib.suppress(FileNotFoundError):  # merged a day ago, and removed just now
                found.append((entry.path, entry.inode(), entry.stat().st_mtime_ns))
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
    except (*DAMAGED, KeyError, msgspec.MsgspecError) as exc:
        raise CorruptLog(
            f"{path}: no segment of eslab, or a damaged one ({exc}); run `eslab verify`, restore the file or move it away"
        ) from exc
    if footer.format_version != FORMAT_VERSION:
        raise CorruptLog(f"{path}: format version {footer.format_version}, this eslab reads {FORMAT_VERSION}; use the eslab that wrote it")
    if self_checksum(told) != footer.self_checksum:
        raise CorruptLog(f"{path}: its footer was changed after it was written; run `eslab verify` and restore the file")
    return footer


def self_checksum(told: bytes) -> int:
    """CRC-32C of a footer's JSON as it stands, with a 0 in its last field's place: a field that a later eslab adds does not change it."""
    head, name, _ = told.rpartition(b'"self_checksum":')
    return int(crc32c.crc32c(head + name + b"0}"))


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
