"""What one fetch brought: the heads of its batches as columns, read once for position and decoding. Pure: no connection."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, NoReturn, Self

import numpy as np
import numpy.typing as npt

from eslab.errors import SourceError

__all__ = ["Batches", "DamagedError", "FetchedBytes", "Ints"]

Ints = npt.NDArray[np.int64]

_HEAD: Final = np.dtype([
    ("base", ">i8"), ("length", ">i4"), ("leader_epoch", ">i4"), ("magic", ">i1"), ("crc", ">u4"), ("attributes", ">i2"), ("last", ">i4"),
    ("base_timestamp", ">i8"), ("max_timestamp", ">i8"), ("producer_id", ">i8"), ("producer_epoch", ">i2"), ("sequence", ">i4"), ("records", ">i4"),
])  # fmt: skip
_PREFIX = struct.Struct(">qi")  # base offset and length: what the length does not count
_MAGIC_AT: Final = 16
_LEGACY: Final = 2  # magic below this is the message format of before Kafka 0.11
_MAX_OFFSET: Final = 2**63 - 1


class Batches(NamedTuple):
    """The heads of batches, a row each; `[at, end)` are its records' bytes and `[base, next)` its offsets."""

    base: Ints
    next: Ints
    leader_epoch: Ints
    crc: Ints
    attributes: Ints
    base_timestamp: Ints
    max_timestamp: Ints
    producer_id: Ints
    producer_epoch: Ints
    records: Ints
    at: Ints
    end: Ints

    def take(self, rows: Sequence[int] | Ints | slice) -> Self:
        return type(self)(*(column[rows] for column in self))


class DamagedError(SourceError):
    """Bytes at this offset that are no batch of records."""

    def __init__(self, offset: int, said: str) -> None:
        super().__init__(said)
        self.offset = offset


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
    def batches(self) -> Batches:
        """The whole batches; the last one of a response is often cut, and left out.

        What is no batch is left out with all behind it, so that what stands before is not lost: the next fetch begins with it, and then this raises `SourceError`.
        """
        ends = self._ends()
        at = np.array([0, *ends[:-1]], dtype=np.int64)[: len(ends)]
        told = np.frombuffer(self.data, dtype=np.uint8)[at[:, None] + np.arange(_HEAD.itemsize)].view(_HEAD)[:, 0]
        facts: dict[str, Any] = {name: told[name].astype(np.int64) for name in Batches._fields if name in told.dtype.names}
        base, last, records = facts["base"], told["last"].astype(np.int64), facts["records"]
        sound = (last >= 0) & (records >= 0) & (records <= last + 1) & (base < _MAX_OFFSET - last)
        next_ = base + last + 1
        sound &= base >= np.concatenate(([0], next_))[: len(base)]
        batches = Batches(next=next_, at=at + _HEAD.itemsize, end=np.array(ends, dtype=np.int64), **facts)
        if not sound.all():
            bad = int(np.argmin(sound))
            reached = int(next_[bad - 1]) if bad else 0
            if reached <= self.start:
                self.corrupt(
                    int(base[bad]),
                    f"a batch claims {records[bad]} records over {last[bad] + 1} offsets from {base[bad]}, after offset {reached - 1}",
                )
            batches = batches.take(slice(bad))
        return batches

    def _ends(self) -> list[int]:
        """Where each whole batch ends, by its length alone."""
        data, size, at = self.data, len(self.data), 0
        ends: list[int] = []
        while size - at > _MAGIC_AT:
            base, length = _PREFIX.unpack_from(data, at)
            legacy = data[at + _MAGIC_AT] < _LEGACY
            if legacy or length < _HEAD.itemsize - _PREFIX.size:
                if self._advances(ends):
                    break
                if legacy:
                    raise SourceError(
                        f"{self.topic}[{self.partition}] holds messages at offset {base} in the format of before Kafka 0.11, which eslab "
                        "does not read; copy the topic to a new one (kafka-console-consumer, MirrorMaker) and capture that"
                    )
                self.corrupt(base, f"a batch claims a length of {length} bytes")
            at += _PREFIX.size + length
            if at <= size:
                ends.append(at)
        return ends

    def _advances(self, ends: Sequence[int]) -> bool:
        """Whether the last of these whole batches goes past `start`."""
        if not ends:
            return False
        last = np.frombuffer(self.data, _HEAD, 1, [0, *ends][-2])[0]
        return int(last["base"]) + int(last["last"]) + 1 > self.start

    @cached_property
    def next(self) -> int:
        """The position to fetch from next, never past `stop`. Reads heads only."""
        reached = self.batches.next
        return min(max(self.start, int(reached[-1])), self.stop) if len(reached) else self.start

    def corrupt(self, offset: int, why: str, cause: BaseException | None = None) -> NoReturn:
        raise DamagedError(
            offset,
            f"{self.topic}[{self.partition}] cannot be read at offset {offset}: {why}; the broker's log or the way to it is damaged, compare with "
            "kafka-dump-log.sh. What came before is captured; a snapshot whose start= is past that batch captures what follows",
        ) from cause
