"""Record batches as a broker sends them → columns, holes and markers: pure functions, no connection.

The format (magic 2) is the one of Kafka 0.11 and later: a header of 61 bytes, then records whose fields are zigzag
varints, compressed as one block. Records are decoded by column: one tight loop finds where each record starts, and NumPy
decodes each field of all of them at once, because a Python object per record costs three times as much.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, NoReturn

import cramjam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from crc32c import crc32c

from eslab.errors import SourceError
from eslab.sources import RECORDS, Cause, Chunk, Hole, Marker
from eslab.sources.batch_codecs import PAD, PIECE, Scratch

__all__ = ["Batch", "FetchedBytes", "Scratch", "decode"]

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Span = tuple[int, int, Cause]

_HEADER = struct.Struct(">qiibIhiqqqhii")
_PREFIX: Final = 12  # base offset and length: what the length does not count
_MAGIC_AT: Final = 16
_CRC_FROM: Final = 21  # the checksum covers everything from the attributes on
_LEGACY: Final = 2  # magic below this is the message format of before Kafka 0.11
_APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x08, 0x10, 0x20
_MARKER_KEY = struct.Struct(">hh")
_MAX_OFFSET: Final = 2**63 - 1
_MIN_RECORD: Final = 7  # length, attributes, two deltas, two lengths, a header count: a byte each


class Batch(NamedTuple):
    """A batch header; `[at, end)` are its records' bytes and `[base, next)` its offsets."""

    base: int
    next: int
    leader_epoch: int
    crc: int
    attributes: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    records: int
    at: int
    end: int

    @property
    def control(self) -> bool:
        return bool(self.attributes & _CONTROL)

    @property
    def transactional(self) -> bool:
        return bool(self.attributes & _TRANSACTIONAL)


@dataclass(frozen=True)
class FetchedBytes:
    """What one fetch brought for one partition, asked from `start` on and wanted up to `stop`.

    `aborted` holds (producer id, first offset) of the aborted transactions that overlap it: complete for these bytes, in any
    order, and empty where nothing is to be filtered. `log_start` is -1 where the broker does not say.
    """

    topic: str
    partition: int
    start: int
    stop: int
    data: bytes
    log_start: int = -1
    aborted: Sequence[tuple[int, int]] = ()

    @cached_property
    def batches(self) -> list[Batch]:
        """The whole batches; the last one of a response is often cut, and left out. Raises `SourceError` for what are none."""
        return list(_headers(self))

    @cached_property
    def next(self) -> int:
        """The position to fetch from next, never past `stop`. Reads headers only."""
        last = self.batches[-1] if self.batches else None
        if last is None:
            return self.start
        return min(max(self.start, last.next), self.stop)

    def corrupt(self, offset: int, why: str, cause: BaseException | None = None) -> NoReturn:
        raise SourceError(
            f"{self.topic}[{self.partition}] cannot be read at offset {offset}: {why}; "
            "the broker's log or the way to it is damaged, compare with kafka-dump-log.sh"
        ) from cause


def decode(fetched: FetchedBytes, scratch: Scratch) -> Iterator[Chunk]:
    """Yield the chunks that cover `[fetched.start, fetched.next)`, each of at most some `PIECE` bytes (one batch may be more).

    Checks every checksum and every length; raises `SourceError` naming the offset. The chunks own their memory.
    """
    at = fetched.start
    active = _AbortedProducers(fetched.aborted)
    kept: list[tuple[Batch, int, int]] = []
    named: list[Span] = [(at, fetched.log_start, "retention")] if fetched.log_start > at else []
    markers: list[Marker] = []
    scratch.used = 0
    for batch in fetched.batches:
        if batch.base >= fetched.stop:
            break
        aborted = active.filters(batch, marker := _checked_marker(fetched, batch))
        if marker and batch.base >= fetched.start:
            markers.append(marker)
        if batch.records == 0 or batch.next <= fetched.start:
            continue  # a batch that compaction emptied explains its offsets no better than its absence
        if batch.control or aborted:
            named.append((batch.base, batch.next, "control" if batch.control else "aborted"))
            continue
        kept.append((batch, *_decompressed(fetched, batch, scratch)))
        if scratch.used >= PIECE:
            yield _chunk(fetched, at, min(batch.next, fetched.stop), _columns(fetched, kept, scratch), named=named, markers=markers)
            at = min(batch.next, fetched.stop)
            kept, named, markers = [], [], []
            scratch.used = 0
    if at < fetched.next:
        yield _chunk(fetched, at, fetched.next, _columns(fetched, kept, scratch), named=named, markers=markers)


# --- batches ------------------------------------------------------------------------------------


def _headers(fetched: FetchedBytes) -> Iterator[Batch]:
    data, at, expected = fetched.data, 0, 0
    while len(data) - at > _MAGIC_AT:
        base, length = struct.unpack_from(">qi", data, at)
        end = at + _PREFIX + length
        if data[at + _MAGIC_AT] < _LEGACY:
            raise SourceError(
                f"{fetched.topic}[{fetched.partition}] holds messages at offset {base} in the format of before Kafka 0.11, which eslab "
                "does not read; copy the topic to a new one (kafka-console-consumer, MirrorMaker) and capture that"
            )
        if length < _HEADER.size - _PREFIX:
            fetched.corrupt(base, f"a batch claims a length of {length} bytes")
        if end > len(data):
            return
        base, _, epoch, _, crc, attributes, last, first_ms, max_ms, producer, producer_epoch, _, count = _HEADER.unpack_from(data, at)
        if base < expected or last < 0 or not 0 <= count <= last + 1 or base + last >= _MAX_OFFSET:
            fetched.corrupt(base, f"a batch claims {count} records over {last + 1} offsets from {base}, after offset {expected - 1}")
        expected = base + last + 1
        yield Batch(
            base, expected, epoch, crc, attributes, first_ms, max_ms, producer, producer_epoch, count, at + _HEADER.size, end
        )  # fmt: skip
        at = end


def _checked_marker(fetched: FetchedBytes, batch: Batch) -> Marker | None:
    """Check the batch's sum; return the end of a transaction that it holds, if it does."""
    with memoryview(fetched.data) as whole, whole[batch.at - _HEADER.size + _CRC_FROM : batch.end] as covered:
        # librdkafka's mock broker writes its control batches with a checksum of 0
        if crc32c(covered) != batch.crc and not (batch.control and batch.crc == 0):
            fetched.corrupt(batch.base, "the checksum of the batch does not fit its bytes")
    if not batch.control or batch.records == 0:
        return None
    try:
        at = batch.at
        for _ in range(2):  # length; attributes are one byte that no varint continues
            _, at = _varint(fetched.data, at)
        for _ in range(2):  # timestamp and offset deltas
            _, at = _varint(fetched.data, at)
        size, at = _varint(fetched.data, at)
    except IndexError as exc:
        fetched.corrupt(batch.base, "a control batch without a record", exc)
    if size < _MARKER_KEY.size or at + size > batch.end:
        fetched.corrupt(batch.base, "a control batch without a key")
    _, kind = _MARKER_KEY.unpack_from(fetched.data, at)
    if kind > 1:  # Kafka's own bookkeeping in its metadata log: it ends no transaction
        return None
    return Marker(batch.base, batch.producer_id, batch.producer_epoch, "commit" if kind else "abort")


class _AbortedProducers:
    """Which producers' transactional batches belong to an aborted transaction, followed batch by batch."""

    def __init__(self, aborted: Sequence[tuple[int, int]]) -> None:
        self._ahead = sorted(((first, producer) for producer, first in aborted), reverse=True)
        self._active: set[int] = set()

    def filters(self, batch: Batch, marker: Marker | None) -> bool:
        while self._ahead and self._ahead[-1][0] < batch.next:
            self._active.add(self._ahead.pop()[1])
        if marker and marker.kind == "abort":
            self._active.discard(batch.producer_id)
        return batch.transactional and batch.producer_id in self._active


def _decompressed(fetched: FetchedBytes, batch: Batch, scratch: Scratch) -> tuple[int, int]:
    try:
        with memoryview(fetched.data) as whole, whole[batch.at : batch.end] as block:
            return scratch.add(batch.attributes & 7, block)
    except (cramjam.DecompressionError, ValueError, KeyError, struct.error) as exc:
        fetched.corrupt(batch.base, f"the batch does not decompress ({exc or type(exc).__name__})", exc)


# --- records ------------------------------------------------------------------------------------


class _CorruptError(Exception):
    """Which record (its position among those decoded together) is not one, and why."""

    def __init__(self, row: int, why: str) -> None:
        super().__init__(why)
        self.row = row


def _columns(fetched: FetchedBytes, kept: Sequence[tuple[Batch, int, int]], scratch: Scratch) -> pa.Table:
    """The records of these batches, whose bytes stand in `scratch` at the given places."""
    if not kept:
        return RECORDS.empty_table()
    batches = [batch for batch, _, _ in kept]
    counts = np.array([batch.records for batch in batches])
    # a shift past the last record: the decoder needs no care at the end of the last one
    scratch.bytes[scratch.used : scratch.used + PAD] = bytes(PAD)
    try:
        starts = _starts(scratch.bytes, kept)
        return _table(scratch.bytes, starts, batches, counts)
    except _CorruptError as exc:
        row = int(np.searchsorted(np.cumsum(counts), exc.row, side="right"))
        fetched.corrupt(batches[min(row, len(batches) - 1)].base, f"the batch holds {exc}", exc)


def _starts(data: bytearray, kept: Sequence[tuple[Batch, int, int]]) -> Ints:
    """Where each record starts, by its length alone: the one loop over records that is left to Python."""
    starts: list[int] = []
    append = starts.append
    for batch, first, end in kept:
        at = first
        if batch.records * _MIN_RECORD > end - at:
            raise _CorruptError(len(starts), f"{batch.records} records in {end - at} bytes")
        try:
            for _ in range(batch.records):
                append(at)
                byte = data[at]
                if byte < 128:
                    at += (byte >> 1) + 1
                elif (second := data[at + 1]) < 128:
                    at += ((byte & 127 | second << 7) >> 1) + 2
                else:
                    size, body = _varint(data, at)
                    at = body + max(size, 0)
        except IndexError as exc:
            raise _CorruptError(len(starts) - 1, "a record longer than itself") from exc
        if at != end:
            raise _CorruptError(len(starts) - 1, f"records that end {at - end} bytes past its end")
    return np.array(starts, dtype=np.int64)


def _varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """The zigzag varint at this place and the place after it. Raises `IndexError` past the end, and after ten bytes."""
    raw = shift = 0
    while True:
        if shift > 63:
            raise IndexError("a number of more than ten bytes")
        byte = data[at]
        raw |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return (raw >> 1) ^ -(raw & 1), at
        shift += 7


def _varints(data: Bytes, at: Ints) -> tuple[Ints, Ints]:
    """The zigzag varint at each place, and the places after them."""
    byte = data[at]
    raw = (byte & 0x7F).astype(np.uint64)
    after = at + 1
    more = np.flatnonzero(byte & 0x80)
    shift = 7
    while more.size:
        if shift > 63:
            raise _CorruptError(int(more[0]), "a number of more than ten bytes")
        byte = data[after[more]]
        raw[more] |= (byte & 0x7F).astype(np.uint64) << np.uint64(shift)
        after[more] += 1
        more = more[byte >= 0x80]
        shift += 7
    return (raw >> np.uint64(1)).astype(np.int64) ^ -(raw & np.uint64(1)).astype(np.int64), after


def _bytes_at(data: Bytes, at: Ints, end: Ints) -> tuple[Ints, Ints, Ints]:
    """The length-prefixed value at each place: where it starts, its length (negative: null), the place after it."""
    length, start = _varints(data, at)
    size = np.maximum(length, 0)
    _check(size <= end - start, "a record longer than itself")
    return start, length, start + size


def _check(holds: npt.NDArray[np.bool_], why: str) -> None:
    if not holds.all():
        raise _CorruptError(int(np.argmin(holds)), why)


def _table(buffer: bytearray, starts: Ints, batches: Sequence[Batch], counts: Ints) -> pa.Table:
    """Every field of every record. Positions only grow, and each is checked against its record's end before the next jump."""
    data = np.frombuffer(buffer, dtype=np.uint8)
    length, at = _varints(data, starts)
    _check(length >= 0, "a record of negative length")
    end = at + length
    _check(data[at] < 128, "attributes that no Kafka writes")  # one byte, 0 so far; aiokafka would take this for a number of two
    timestamp_delta, at = _varints(data, at + 1)
    offset_delta, at = _varints(data, at)
    key_at, key_length, at = _bytes_at(data, at, end)
    value_at, value_length, at = _bytes_at(data, at, end)
    header_count, at = _varints(data, at)
    _check((header_count >= 0) & (header_count <= (end - at) // 2), "an impossible number of headers")
    headers, at = _headers_column(buffer, data, at, end, header_count)
    _check(at == end, "a record shorter than itself")

    def of_batch(name: str) -> Ints:
        return np.repeat(np.array([getattr(batch, name) for batch in batches], dtype=np.int64), counts)

    base, attributes = of_batch("base"), of_batch("attributes")
    offset = base + offset_delta
    _check((offset_delta >= 0) & (offset_delta < of_batch("next") - base), "an offset outside of it")
    _check(np.diff(offset, prepend=-1) > 0, "offsets that do not ascend")
    appended = (attributes & _APPEND_TIME) != 0
    created = of_batch("base_timestamp") + timestamp_delta
    columns = {
        "offset": pa.array(offset),
        "timestamp_ms": pa.array(np.where(appended, of_batch("max_timestamp"), created)),
        "timestamp_type": pa.array(["create", "append"]).take(pa.array(appended.astype(np.int8))),
        "producer_timestamp_ms": pa.array(created, mask=~appended),
        "key": _binary(buffer, key_at, key_length),
        "value": _binary(buffer, value_at, value_length),
        "headers": headers,
        "leader_epoch": _or_null(of_batch("leader_epoch"), np.int32),
        "producer_id": _or_null(of_batch("producer_id"), np.int64),
        "producer_epoch": _or_null(of_batch("producer_epoch"), np.int16),
        "transactional": pa.array((attributes & _TRANSACTIONAL) != 0),
    }
    return pa.table([columns[name] for name in RECORDS.names], schema=RECORDS)


def _headers_column(buffer: bytearray, data: Bytes, at: Ints, end: Ints, count: Ints) -> tuple[pa.Array[Any], Ints]:
    """The headers of each record. A pass over all records per header that the richest of them has: few have more than ten."""
    total = int(count.sum())
    key_at, key_length, value_at, value_length = np.zeros((4, total), dtype=np.int64)
    first = np.cumsum(count) - count
    for number in range(int(count.max(initial=0))):
        rows = np.flatnonzero(count > number)
        slot = first[rows] + number
        try:
            key_at[slot], key_length[slot], after = _bytes_at(data, at[rows], end[rows])
            _check(key_length[slot] >= 0, "a header without a name")
            value_at[slot], value_length[slot], at[rows] = _bytes_at(data, after, end[rows])
        except _CorruptError as exc:
            raise _CorruptError(int(rows[exc.row]), str(exc)) from exc
    offsets = pa.array(np.append(first, total), pa.int32())
    pairs = pa.StructArray.from_arrays(
        [_binary(buffer, key_at, key_length), _binary(buffer, value_at, value_length)],
        fields=list(RECORDS.field("headers").type.value_type),
    )
    return pa.ListArray.from_arrays(offsets, pairs, type=RECORDS.field("headers").type), at


def _binary(buffer: bytearray, start: Ints, length: Ints) -> pa.Array[Any]:
    """The slices as a binary array that owns its bytes; a negative length is null.

    Slices and the gaps between them, laid end to end, are a binary array already: `filter` then copies every second one.
    """
    count = len(start)
    if not count:
        return pa.array([], pa.binary())
    bounds = np.empty(2 * count + 1, dtype=np.int32)
    bounds[0:-1:2] = start
    bounds[1::2] = start + np.maximum(length, 0)
    bounds[-1] = bounds[-2]
    valid = np.ones(2 * count, dtype=bool)
    valid[::2] = length >= 0
    slices = pa.BinaryArray.from_buffers(
        pa.binary(), 2 * count, [pa.py_buffer(np.packbits(valid, bitorder="little").data), pa.py_buffer(bounds.data), pa.py_buffer(buffer)]
    )
    wanted = np.zeros(2 * count, dtype=bool)
    wanted[::2] = True
    values: pa.Array[Any] = slices.filter(pa.array(wanted))
    return values


def _or_null(values: Ints, kind: npt.DTypeLike) -> pa.Array[Any]:
    """The batch fact, null where the batch says -1: none."""
    facts: pa.Array[Any] = pa.array(values.astype(kind), mask=values == -1)
    return facts


# --- holes --------------------------------------------------------------------------------------


def _chunk(fetched: FetchedBytes, start: int, next_: int, records: pa.Table, *, named: Sequence[Span], markers: Sequence[Marker]) -> Chunk:
    """The chunk of `[start, next_)`: what lies outside is cut off, and what no record stands on is a hole with its cause."""
    offsets = records["offset"].to_numpy()
    low, high = np.searchsorted(offsets, [start, next_])
    inside = tuple(marker for marker in markers if start <= marker.offset < next_)
    holes = tuple(_holes(offsets[low:high], start, next_, named))
    return Chunk(fetched.topic, fetched.partition, start, next_, records.slice(low, high - low), holes, inside)


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
