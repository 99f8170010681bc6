"""The records of decompressed batches → the columns of `RECORDS`, every field of all of them at once.

A record is its length and then fields, all zigzag varints with bytes between. First each record's start is found, then NumPy decodes
one field of every record after another, because a Python object per record costs three times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eslab.sources import RECORDS
from eslab.sources.fetched_bytes import Batches, Ints

__all__ = ["APPEND_TIME", "TRANSACTIONAL", "CorruptError", "columns", "varint"]

Bytes = npt.NDArray[np.uint8]

APPEND_TIME, TRANSACTIONAL = 0x08, 0x10  # of a batch's attributes
_MIN_RECORD: Final = 7  # length, attributes, two deltas, two lengths, a header count: a byte each
_ABREAST: Final = 30  # a record alone costs 0.2 us, a step of all batches abreast 6 us

_PAIRS = np.arange(1 << 16)  # the two bytes at a place, the first one low
_RAW = np.where(_PAIRS & 0x80, (_PAIRS & 0x7F) | (_PAIRS >> 8 & 0x7F) << 7, _PAIRS & 0x7F)
_VALUE = ((_RAW >> 1) ^ -(_RAW & 1)).astype(np.int16)
_SIZE = np.where(_PAIRS & 0x80, np.where(_PAIRS & 0x8000, 3, 2), 1).astype(np.int8)  # 3: more than two, to be read on
_STEP = np.where(_SIZE == 3, 0, _SIZE + np.maximum(_VALUE, 0)).astype(np.int64)  # to the next record; 0: its length has more bytes
_STEPS: list[int] = _STEP.tolist()


class CorruptError(Exception):
    """Which record (its position among those decoded together) is not one, and why."""

    def __init__(self, row: int, why: str) -> None:
        super().__init__(why)
        self.row = row


def columns(buffer: bytearray, batches: Batches, first: Ints, end: Ints) -> pa.Table:
    """The records of these batches, whose bytes stand at `[first, end)` in the buffer. Raises `CorruptError`.

    Positions only grow, and each is checked against its record's end before the next jump. The table owns its memory.
    """
    data = np.frombuffer(buffer, dtype=np.uint8)
    length, at = _varints(data, _starts(buffer, batches.records, first, end))
    _check(length >= 0, "a record of negative length")
    end = at + length
    _check(data[at] < 128, "attributes that no Kafka writes")  # one byte, 0 so far; aiokafka would take this for a number of two
    timestamp_delta, at = _varints(data, at + 1)
    offset_delta, at = _varints(data, at)
    key_at, key_length, at = _bytes_at(data, at, end)
    value_at, value_length, at = _bytes_at(data, at, end)
    header_count, at = _varints(data, at)
    _check((header_count >= 0) & (header_count <= (end - at) // 2), "an impossible number of headers")
    headers, at = _headers(buffer, data, at, end, header_count)
    _check(at == end, "a record shorter than itself")

    def of_batch(fact: Ints) -> Ints:
        return np.repeat(fact, batches.records)

    offset = of_batch(batches.base) + offset_delta
    _check((offset_delta >= 0) & (offset_delta < of_batch(batches.next - batches.base)), "an offset outside of it")
    _check(np.diff(offset, prepend=-1) > 0, "offsets that do not ascend")
    appended = of_batch(batches.attributes & APPEND_TIME) != 0
    created = of_batch(batches.base_timestamp) + timestamp_delta
    found = {
        "offset": pa.array(offset),
        "timestamp_ms": pa.array(np.where(appended, of_batch(batches.max_timestamp), created)),
        "timestamp_type": pa.array(["create", "append"]).take(pa.array(appended.astype(np.int8))),
        "producer_timestamp_ms": pa.array(created, mask=~appended),
        "key": _binary(buffer, key_at, key_length),
        "value": _binary(buffer, value_at, value_length),
        "headers": headers,
        "leader_epoch": _or_null(of_batch(batches.leader_epoch), np.int32),
        "producer_id": _or_null(of_batch(batches.producer_id), np.int64),
        "producer_epoch": _or_null(of_batch(batches.producer_epoch), np.int16),
        "transactional": pa.array(of_batch(batches.attributes & TRANSACTIONAL) != 0),
    }
    return pa.table([found[name] for name in RECORDS.names], schema=RECORDS)


def _check(holds: npt.NDArray[np.bool_], why: str) -> None:
    if not holds.all():
        raise CorruptError(int(np.argmin(holds)), why)


def _or_null(values: Ints, kind: npt.DTypeLike) -> pa.Array[Any]:
    """The batch fact, null where the batch says -1: none."""
    facts: pa.Array[Any] = pa.array(values.astype(kind), mask=values == -1)
    return facts


# --- where records start --------------------------------------------------------------------------


def _starts(buffer: bytearray, counts: Ints, first: Ints, end: Ints) -> Ints:
    """Where each record starts, by its length alone; each batch's last one ends where the batch does."""
    slot = np.cumsum(counts) - counts
    if (short := counts * _MIN_RECORD > end - first).any():
        at = int(np.argmax(short))
        raise CorruptError(int(slot[at]), f"{counts[at]} records in {end[at] - first[at]} bytes")
    starts = np.empty(int(counts.sum()), dtype=np.int64)
    left: Sequence[int] = range(len(counts))
    if int(counts.max()) * _ABREAST < len(starts):
        left = np.flatnonzero(_walk_abreast(buffer, counts, first, slot, starts) != end).tolist()
    for batch in left:
        row, count = int(slot[batch]), int(counts[batch])
        starts[row : row + count] = _walk(buffer, row, count, int(first[batch]), int(end[batch]))
    return starts


def _walk(buffer: bytearray, row: int, count: int, at: int, end: int) -> list[int]:
    """The starts of one batch's records. Raises `CorruptError`."""
    starts: list[int] = []
    append, steps = starts.append, _STEPS
    try:
        for _ in range(count):
            append(at)
            step = steps[buffer[at] | buffer[at + 1] << 8]
            if step:
                at += step
            else:
                size, body = varint(buffer, at)
                at = body + max(size, 0)
    except IndexError as exc:
        raise CorruptError(row + len(starts) - 1, "a record longer than itself") from exc
    if at != end:
        raise CorruptError(row + count - 1, f"records that end {at - end} bytes past its end")
    return starts


def _walk_abreast(buffer: bytearray, counts: Ints, first: Ints, slot: Ints, starts: Ints) -> Ints:
    """Fill `starts` for all batches at once, a step for the n-th record of each; return where each batch's walk ended.

    A walk stands still at a record of 8 KiB or more, and where it leaves the buffer all end: what did not end where its batch does is to be walked alone.
    """
    pairs: npt.NDArray[np.uint16] = np.ndarray(len(buffer) - 1, "<u2", buffer, strides=(1,))
    order = np.argsort(-counts, kind="stable")
    at, slot = first[order], slot[order]
    lanes = len(counts) - np.searchsorted(np.sort(counts), np.arange(counts.max()), side="right")
    for lane in lanes.tolist():
        here, rows = at[:lane], slot[:lane]
        starts[rows] = here
        rows += 1
        try:
            here += _STEP[pairs[here]]
        except IndexError:
            return np.full_like(first, -1)
    reached = np.empty_like(at)
    reached[order] = at
    return reached


# --- numbers and bytes ------------------------------------------------------------------------------


def varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
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
    """The zigzag varint at each place, and the places after them. Nearly all have one or two bytes: those are looked up."""
    pair = data.take(at) | data.take(at + 1).astype(np.uint16) << 8
    value, size = _VALUE.take(pair).astype(np.int64), _SIZE.take(pair)
    after = at + size
    if (size == 3).any():
        rows = np.flatnonzero(size == 3)
        value[rows], after[rows] = _long_varints(data, at[rows], rows)
    return value, after


def _long_varints(data: Bytes, at: Ints, rows: Ints) -> tuple[Ints, Ints]:
    raw = np.zeros(len(at), dtype=np.uint64)
    after = at.copy()
    more = np.arange(len(at))
    shift = 0
    while more.size:
        if shift > 63:
            raise CorruptError(int(rows[more[0]]), "a number of more than ten bytes")
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


def _headers(buffer: bytearray, data: Bytes, at: Ints, end: Ints, count: Ints) -> tuple[pa.Array[Any], Ints]:
    """The headers of each record. A pass over all records that have an n-th one, and where that are few, these one by one."""
    total = int(count.sum())
    key_at, key_length, value_at, value_length = np.zeros((4, total), dtype=np.int64)
    first = np.cumsum(count) - count
    for number in range(int(count.max(initial=0))):
        rows = np.flatnonzero(count > number)
        if len(rows) < _ABREAST:
            found = [one.data for one in (key_at, key_length, value_at, value_length)]  # written to twice as fast as an array
            for row in rows.tolist():
                slots = range(int(first[row]) + number, int(first[row] + count[row]))
                at[row] = _walk_headers(buffer, row, int(at[row]), int(end[row]), slots, found)
            break
        slot = first[rows] + number
        try:
            key_at[slot], key_length[slot], after = _bytes_at(data, at[rows], end[rows])
            _check(key_length[slot] >= 0, "a header without a name")
            value_at[slot], value_length[slot], at[rows] = _bytes_at(data, after, end[rows])
        except CorruptError as exc:
            raise CorruptError(int(rows[exc.row]), str(exc)) from exc
    offsets = pa.array(np.append(first, total), pa.int32())
    pairs = pa.StructArray.from_arrays(
        [_binary(buffer, key_at, key_length), _binary(buffer, value_at, value_length)],
        fields=list(RECORDS.field("headers").type.value_type),
    )
    return pa.ListArray.from_arrays(offsets, pairs, type=RECORDS.field("headers").type), at


def _walk_headers(buffer: bytearray, row: int, at: int, end: int, slots: range, found: Sequence[memoryview]) -> int:
    """Note where the names and values of one record's headers stand, and return the place after them. Raises `CorruptError`."""
    key_at, key_length, value_at, value_length = found
    try:
        for slot in slots:
            size, at = varint(buffer, at)
            if size < 0:
                raise CorruptError(row, "a header without a name")
            if size > end - at:
                raise CorruptError(row, "a record longer than itself")
            key_at[slot], key_length[slot] = at, size
            size, at = varint(buffer, at + size)
            size = max(size, -1)
            if size > end - at:
                raise CorruptError(row, "a record longer than itself")
            value_at[slot], value_length[slot] = at, size
            at += max(size, 0)
    except IndexError as exc:
        raise CorruptError(row, "a number of more than ten bytes") from exc
    return at


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
