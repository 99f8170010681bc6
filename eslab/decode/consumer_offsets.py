"""The records of `__consumer_offsets`: Kafka's own bytes in, commits of consumer groups out.

A key is an int16 type and a body, a value an int16 version and a body, all big-endian (apache/kafka, OffsetCommitKey.json and OffsetCommitValue.json).
Only offset commits are read: key types 0 and 1, value versions 0 to 4. What else stands in that topic (members, group epochs, assignments) is counted.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

__all__ = ["NONE", "CommitReader", "Commits", "Malformed", "read_key", "read_value"]

NONE: Final = -1
"""In place of an offset, a time or a topic id that is not there."""

Place = tuple[str, str, int]
"""group, topic, partition"""


class Malformed(ValueError):
    """Bytes that are not what their own version says."""


def read_key(key: bytes) -> Place | None:
    """The group, topic and partition that a key names; None for a key of another type. Raises `Malformed`."""
    (kind,) = _unpack(">h", key, 0)
    if kind not in (0, 1):
        return None
    group, at = _string(key, 2)
    topic, at = _string(key, at)
    (partition,) = _unpack(">i", key, at)
    if at + 4 != len(key) or partition < 0:
        raise Malformed("not the key of a partition")
    return group, topic, partition


def read_value(value: bytes) -> tuple[int, int, bytes | None] | None:
    """The committed offset, the commit time in ms and the topic's id (None: not told); None for a version that is not known. Raises `Malformed`."""
    (version,) = _unpack(">h", value, 0)
    if not 0 <= version <= 4:
        return None
    (offset,) = _unpack(">q", value, 2)
    at = 14 if version >= 3 else 10  # past the leader epoch, where there is one
    if version < 4:
        (size,) = _unpack(">h", value, at)
        at += 2
    else:
        size, at = _uvarint(value, at)
        size -= 1
    if size < 0:
        raise Malformed("no metadata")
    (time_ms,) = _unpack(">q", value, at + size)
    at += size + 8
    topic_id = None
    if version == 1:
        _unpack(">q", value, at)  # when it would expire
        at += 8
    elif version == 4:
        topic_id, at = _tags(value, at)
    if at != len(value):
        raise Malformed(f"{len(value) - at} bytes too many")
    return offset, time_ms, topic_id


def _tags(value: bytes, at: int) -> tuple[bytes | None, int]:
    topic_id = None
    count, at = _uvarint(value, at)
    for _ in range(count):
        tag, at = _uvarint(value, at)
        size, at = _uvarint(value, at)
        if at + size > len(value) or (tag == 0 and size != 16):
            raise Malformed("a tagged field that ends elsewhere")
        topic_id = value[at : at + size] if tag == 0 else topic_id
        at += size
    return topic_id if topic_id != bytes(16) else None, at


def _string(data: bytes, at: int) -> tuple[str, int]:
    (size,) = _unpack(">h", data, at)
    end = at + 2 + size
    if size < 0 or end > len(data):
        raise Malformed("a text that ends elsewhere")
    try:
        return data[at + 2 : end].decode(), end
    except UnicodeDecodeError as exc:
        raise Malformed("a text that is not UTF-8") from exc


def _uvarint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise Malformed("a number that does not end")


def _unpack(form: str, data: bytes, at: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, data, at)
    except struct.error as exc:
        raise Malformed("too short") from exc


# --- many at once ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Commits:
    """Commits in the order of their records: of each, the positions of its place and of its topic's id (`NONE`: not told) in `places` and `topic_ids`.

    `offset` is `NONE` where the commit was taken back (a tombstone: the group was deleted, or its commits expired); `commit_ms` is then `NONE` too.
    `others` counts records that are no commits, or in a version that is not known; `malformed` those that are not what they say.
    """

    places: tuple[Place, ...]
    topic_ids: tuple[bytes, ...]
    place: np.ndarray
    topic_id: np.ndarray
    offset: np.ndarray
    commit_ms: np.ndarray
    record_ms: np.ndarray
    others: int
    malformed: int


class CommitReader:
    """Takes records table by table and has their commits at the end.

    Keys repeat, so each is decoded once; values of the usual shape are decoded by NumPy, all of a table at once, and what is left of them one by one, by
    `read_value`: 2.3 million commits a second instead of 0.35.
    """

    def __init__(self) -> None:
        self._keys: dict[bytes | None, int] = {}  # of each key the position of its place, or one of the two below
        self._places: dict[Place, int] = {}
        self._ids: dict[bytes, int] = {}
        self._parts: list[np.ndarray] = []
        self._others = self._malformed = 0

    def add(self, records: pa.Table) -> None:
        """Take the columns `timestamp_ms`, `key` and `value` of the next records."""
        keys = records["key"].combine_chunks().dictionary_encode(null_encoding="encode")
        meanings = np.array([self._meaning(key) for key in keys.dictionary.to_pylist()] or [_OTHER], np.int64)
        place = meanings[keys.indices.to_numpy()]
        self._others += int((place == _OTHER).sum())
        self._malformed += int((place == _MALFORMED).sum())
        kept = np.flatnonzero(place >= 0)
        if not len(kept):
            return
        offset, commit_ms, topic_id, fate = self._values(records["value"].combine_chunks().take(pa.array(kept)))
        self._others += int((fate == _OTHER).sum())
        self._malformed += int((fate == _MALFORMED).sum())
        record_ms = records["timestamp_ms"].to_numpy()[kept]
        self._parts.append(
            np.stack([place[kept], topic_id, np.maximum(offset, NONE), np.maximum(commit_ms, NONE), record_ms])[:, fate == _READ]
        )

    def result(self) -> Commits:
        """All commits so far."""
        place, topic_id, offset, commit_ms, record_ms = np.concatenate([np.empty((5, 0), np.int64), *self._parts], axis=1)
        return Commits(tuple(self._places), tuple(self._ids), place, topic_id, offset, commit_ms, record_ms, self._others, self._malformed)

    def _meaning(self, key: bytes | None) -> int:
        if key not in self._keys:
            try:
                place = read_key(key or b"")
            except Malformed:
                self._keys[key] = _MALFORMED
            else:
                self._keys[key] = _OTHER if place is None else self._places.setdefault(place, len(self._places))
        return self._keys[key]

    def _values(self, values: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of each value the offset, commit time, position of the topic's id, and whether it was read."""
        size = len(values)
        offset, commit_ms, topic_id = (np.full(size, NONE, np.int64) for _ in range(3))
        fate = np.full(size, _READ)
        there = values.is_valid().to_numpy(zero_copy_only=False)
        usual = _Usual(values)
        held = np.flatnonzero(there & usual.fits)
        offset[held], commit_ms[held] = usual.numbers(held)
        told = np.flatnonzero(there & usual.fits & usual.with_id)
        ids = usual.ids(told).dictionary_encode()
        topic_id[told] = np.array([self._id(one) for one in ids.dictionary.to_pylist()], np.int64)[ids.indices.to_numpy()]
        for at in np.flatnonzero(there & ~usual.fits):
            try:
                read = read_value(values[at].as_py())
            except Malformed:
                fate[at] = _MALFORMED
            else:
                if read is None:
                    fate[at] = _OTHER
                else:
                    offset[at], commit_ms[at], topic_id[at] = read[0], read[1], self._id(read[2])
        return offset, commit_ms, topic_id, fate

    def _id(self, topic_id: bytes | None) -> int:
        return NONE if topic_id is None or topic_id == bytes(16) else self._ids.setdefault(topic_id, len(self._ids))


_READ, _OTHER, _MALFORMED = 0, -2, -3


class _Usual:
    """Which values have a shape that is known from a few of their bytes, and what these values hold.

    That is every value of the versions 0 to 3, and those of version 4 with up to 126 bytes of metadata and no tagged field but the topic's id.
    """

    def __init__(self, values: pa.Array) -> None:
        _, offsets, data = values.buffers()
        bounds = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1].astype(np.int64)
        content = np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
        self._data = np.concatenate([content, np.zeros(32, np.uint8)])  # so that a look past the end of the last is none past the memory
        self._start, self._size = bounds[:-1], np.diff(bounds)
        version = self._number(self._start, ">i2")
        flexible = version == 4
        metadata = self._start + np.where(version >= 3, 14, 10)
        held = np.where(flexible, self._at(metadata).astype(np.int64) - 1, self._number(metadata, ">i2"))
        self._time = metadata + np.where(flexible, 1, 2) + held
        sane = (self._size >= 20) & (version >= 0) & (version <= 4) & (held >= 0) & (~flexible | (held < 127)) & (held < self._size)
        self._time = np.where(sane, self._time, 0)
        left = self._start + self._size - self._time - 8
        tail = self._time + 8
        no_tags = (left == 1) & (self._at(tail) == 0)
        self.with_id = flexible & (left == 19) & (self._at(tail) == 1) & (self._at(tail + 1) == 0) & (self._at(tail + 2) == 16)
        self.fits = sane & np.where(flexible, no_tags | self.with_id, left == np.where(version == 1, 8, 0))

    def numbers(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The offsets and commit times of these values."""
        return self._number(self._start[rows] + 2, ">i8"), self._number(self._time[rows], ">i8")

    def ids(self, rows: np.ndarray) -> pa.Array:
        """The topics' ids of these values."""
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(rows), [None, pa.py_buffer(self._bytes(self._time[rows] + 11, 16))])

    def _at(self, where: np.ndarray) -> np.ndarray:
        byte: np.ndarray = self._data[np.clip(where, 0, len(self._data) - 1)]
        return byte

    def _number(self, where: np.ndarray, form: str) -> np.ndarray:
        number: np.ndarray = self._bytes(where, np.dtype(form).itemsize).view(form).ravel().astype(np.int64)
        return number

    def _bytes(self, where: np.ndarray, size: int) -> np.ndarray:
        found: np.ndarray = self._data[np.minimum(where, len(self._data) - size)[:, None] + np.arange(size)]
        return found
