"""Record batches as a broker sends them → columns, holes and markers: pure functions, no connection.

The format (magic 2) is the one of Kafka 0.11 and later: a head of 61 bytes, then records, compressed as one block.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import cramjam
import numpy as np
import pyarrow as pa
from crc32c import crc32c

from eslab.sources import RECORDS, Cause, Chunk, Hole, Marker
from eslab.sources.batch_codecs import PAD, PIECE, Scratch
from eslab.sources.batch_records import TRANSACTIONAL, CorruptError, columns, varint
from eslab.sources.fetched_bytes import Batches, DamagedError, FetchedBytes, Ints

__all__ = ["decode"]

Span = tuple[int, int, Cause]

_CODEC, _CONTROL = 0x07, 0x20  # of a batch's attributes
_SUM_BEFORE: Final = 40  # the checksum covers everything from the attributes on, so many bytes before the records
_MARKER_KEY = struct.Struct(">hh")


def decode(fetched: FetchedBytes, scratch: Scratch) -> Iterator[Chunk]:
    """Yield the chunks that cover `[fetched.start, fetched.next)`, each of at most some `PIECE` bytes (one batch may be more).

    Checks every checksum and every length; raises `SourceError` naming the offset, after the chunks of what comes before. The chunks own their memory.
    """
    at = fetched.start
    try:
        for chunk in _decode(fetched, scratch):
            yield chunk
            at = chunk.next
    except DamagedError as exc:
        if at < exc.offset:
            yield from _decode(replace(fetched, start=at, stop=exc.offset), scratch)
        raise


def _decode(fetched: FetchedBytes, scratch: Scratch) -> Iterator[Chunk]:
    at, data, batches = fetched.start, memoryview(fetched.data), fetched.batches
    special = _Special(fetched)
    named: list[Span] = [(at, fetched.log_start, "retention")] if fetched.log_start > at else []
    kept: list[tuple[int, int, int]] = []
    wanted = int(np.searchsorted(batches.base, fetched.stop))
    plain = (batches.attributes & (_CONTROL | TRANSACTIONAL) == 0) & (batches.records > 0) & (batches.next > at)
    rows = zip(batches.at.tolist(), batches.end.tolist(), batches.crc.tolist(), batches.attributes.tolist(), plain.tolist(), strict=True)
    scratch.used = 0
    for row, (first, end, crc, attributes, is_plain) in zip(range(wanted), rows, strict=False):
        # librdkafka's mock broker writes its control batches with a checksum of 0
        if crc32c(data[first - _SUM_BEFORE : end]) != crc and not (attributes & _CONTROL and crc == 0):
            fetched.corrupt(int(batches.base[row]), "the checksum of the batch does not fit its bytes")
        if not is_plain and not special.keeps(row):
            continue
        try:
            kept.append((row, *scratch.add(attributes & _CODEC, data[first:end])))
        except (cramjam.DecompressionError, ValueError, struct.error, MemoryError) as exc:
            fetched.corrupt(int(batches.base[row]), f"the batch does not decompress ({exc or type(exc).__name__})", exc)
        if scratch.used >= PIECE:
            next_ = min(int(batches.next[row]), fetched.stop)
            yield _chunk(fetched, at, next_, _records(fetched, kept, scratch), named + special.named, special.markers)
            at, kept, named = next_, [], []
            special.forget()
            scratch.used = 0
    if at < fetched.next:
        yield _chunk(fetched, at, fetched.next, _records(fetched, kept, scratch), named + special.named, special.markers)


def _records(fetched: FetchedBytes, kept: Sequence[tuple[int, int, int]], scratch: Scratch) -> pa.Table:
    """The records of these batches (row, first and end place in `scratch`)."""
    if not kept:
        return RECORDS.empty_table()
    rows, first, end = np.array(kept, dtype=np.int64).T
    batches: Batches = fetched.batches.take(rows)
    # a shift past the last record: the decoder needs no care at the end of the last one
    scratch.bytes[scratch.used : scratch.used + PAD] = bytes(PAD)
    try:
        return columns(scratch.bytes, batches, first, end)
    except CorruptError as exc:
        at = int(np.searchsorted(np.cumsum(batches.records), exc.row, side="right"))
        fetched.corrupt(int(batches.base[min(at, len(rows) - 1)]), f"the batch holds {exc}", exc)


# --- transactions -------------------------------------------------------------------------------


class _Special:
    """The batches that are not simply records, followed one by one: markers, transactions (aborted ones are left out), emptied batches."""

    def __init__(self, fetched: FetchedBytes) -> None:
        self._fetched = fetched
        self._ahead = sorted(((first, producer) for producer, first in fetched.aborted), reverse=True)
        self._active: set[int] = set()
        self.named: list[Span] = []
        self.markers: list[Marker] = []

    def forget(self) -> None:
        self.named, self.markers = [], []

    def keeps(self, row: int) -> bool:
        """Whether the batch's records are wanted; if not, what stands there is noted."""
        batches, start = self._fetched.batches, self._fetched.start
        base, next_, attributes, producer = (
            int(column[row]) for column in (batches.base, batches.next, batches.attributes, batches.producer_id)
        )
        while self._ahead and self._ahead[-1][0] < next_:
            self._active.add(self._ahead.pop()[1])
        marker = self._marker(row) if attributes & _CONTROL and batches.records[row] else None
        if marker and marker.kind == "abort":
            self._active.discard(producer)
        if marker and base >= start:
            self.markers.append(marker)
        if batches.records[row] == 0 or next_ <= start:
            return False  # a batch that compaction emptied explains its offsets no better than its absence
        if attributes & _CONTROL:
            self.named.append((base, next_, "control"))
            return False
        if attributes & TRANSACTIONAL and producer in self._active:
            self.named.append((base, next_, "aborted"))
            return False
        return True

    def _marker(self, row: int) -> Marker | None:
        """The end of a transaction that a control batch holds, if it does."""
        fetched, batches = self._fetched, self._fetched.batches
        base, at = int(batches.base[row]), int(batches.at[row])
        try:
            for _ in range(2):  # length; attributes are one byte that no varint continues
                _, at = varint(fetched.data, at)
            for _ in range(2):  # timestamp and offset deltas
                _, at = varint(fetched.data, at)
            size, at = varint(fetched.data, at)
        except IndexError as exc:
            fetched.corrupt(base, "a control batch without a record", exc)
        if size < _MARKER_KEY.size or at + size > batches.end[row]:
            fetched.corrupt(base, "a control batch without a key")
        _, kind = _MARKER_KEY.unpack_from(fetched.data, at)
        if kind > 1:  # Kafka's own bookkeeping in its metadata log: it ends no transaction
            return None
        return Marker(base, int(batches.producer_id[row]), int(batches.producer_epoch[row]), "commit" if kind else "abort")


# --- holes --------------------------------------------------------------------------------------


def _chunk(fetched: FetchedBytes, start: int, next_: int, records: pa.Table, named: Sequence[Span], markers: Sequence[Marker]) -> Chunk:
    """The chunk of `[start, next_)`: what lies outside is cut off, and what no record stands on is a hole with its cause."""
    offsets = records["offset"].to_numpy()
    low, high = np.searchsorted(offsets, [start, next_])
    inside = tuple(marker for marker in markers if start <= marker.offset < next_)
    holes = tuple(_holes(offsets[low:high], start, next_, named))
    return Chunk(
        fetched.topic,
        fetched.partition,
        start,
        next_,
        records.slice(low, high - low),
        holes,
        inside,
        _epochs(fetched.batches, start, next_),
    )


def _epochs(batches: Batches, start: int, next_: int) -> tuple[tuple[int, int], ...]:
    """Each leader epoch that has a batch in `[start, next_)`, and where its last one ends there."""
    inside = slice(int(np.searchsorted(batches.next, start, side="right")), int(np.searchsorted(batches.base, next_)))
    ends = dict(zip(batches.leader_epoch[inside].tolist(), np.minimum(batches.next[inside], next_).tolist(), strict=True))
    return tuple((epoch, end) for epoch, end in ends.items() if epoch >= 0)


def _holes(offsets: Ints, start: int, next_: int, named: Sequence[Span]) -> Iterator[Hole]:
    """Every offset of `[start, next_)` that no record has, neighbours of one cause as one."""
    last: Hole | None = None
    for at, until, cause in _spans(offsets, start, next_, named):
        if last and last.cause == cause and last.next == at:
            last = Hole(last.start, until, cause)
            continue
        if last:
            yield last
        last = Hole(at, until, cause)
    if last:
        yield last


def _spans(offsets: Ints, start: int, next_: int, named: Sequence[Span]) -> Iterator[Span]:
    """The gaps between records, split at the named spans; what has no name was removed by compaction."""
    edges = np.concatenate(([start - 1], offsets, [next_]))
    ahead = list(reversed(named))
    for gap in np.flatnonzero(np.diff(edges) > 1):
        at, end = int(edges[gap]) + 1, int(edges[gap + 1])
        while ahead and ahead[-1][0] < end:
            first, until, cause = ahead[-1]
            if until > at:
                if first > at:
                    yield at, first, "compaction"
                yield max(first, at), min(until, end), cause
                at = min(until, end)
            if until > end:
                break
            ahead.pop()
        if at < end:
            yield at, end, "compaction"
