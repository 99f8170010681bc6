"""Where records come from: the contract that memory, files and Kafka fulfil alike.

A source is asked which partitions there are, and then for ranges of offsets; it answers in chunks. It keeps no
position and writes nothing, so a capture may ask again for what it did not commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Protocol, Self, get_args, runtime_checkable

import pyarrow as pa

from eslab.model import Record

__all__ = [
    "CONSUMER_OFFSETS",
    "RECORDS",
    "Cause",
    "Chunk",
    "GroupPosition",
    "Hole",
    "Marker",
    "Partition",
    "Source",
    "TopicPartition",
    "records_to_table",
    "table_to_records",
]

TopicPartition = tuple[str, int]

CONSUMER_OFFSETS: Final = "__consumer_offsets"
"""Kafka's own topic of what consumer groups committed: captured like any other, but its records are no events."""

RECORDS = pa.schema(
    [
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp_ms", pa.int64(), nullable=False),
        ("timestamp_type", pa.string()),
        ("producer_timestamp_ms", pa.int64()),
        ("key", pa.binary()),
        ("value", pa.binary()),
        pa.field("headers", pa.list_(pa.struct([("key", pa.binary()), ("value", pa.binary())])), nullable=False),
        ("leader_epoch", pa.int32()),
        ("producer_id", pa.int64()),
        ("producer_epoch", pa.int16()),
        ("transactional", pa.bool_()),
    ]
)
"""The columns of captured records; the fields are those of `eslab.model.Record`, verbatim."""

Cause = Literal["control", "aborted", "compaction", "retention", "not requested", "unknown"]
CAUSES: tuple[str, ...] = get_args(Cause)


@dataclass(frozen=True, slots=True, order=True)
class Hole:
    """Offsets `[start, next)` that hold no record, and why.

    control: transaction markers. aborted: data of aborted transactions. compaction: removed by the broker's cleaner. retention: below the
    log start when it was read. not requested: before the `start=` of a partial snapshot.
    """

    start: int
    next: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class Marker:
    """The end of a transaction, as the log holds it."""

    offset: int
    producer_id: int
    producer_epoch: int
    kind: Literal["commit", "abort"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What stands in the offsets `[start, next)` of one partition.

    `records` has the schema `RECORDS`, ascending by offset. Records and holes together cover every offset of the range
    exactly once. `next` is the position to read on from: past markers and compacted offsets, not the last record + 1. `epochs` are the leaders
    that wrote it, each with the offset after its last batch in here; none where the source knows of none.
    """

    topic: str
    partition: int
    start: int
    next: int
    records: pa.Table
    holes: tuple[Hole, ...] = ()
    markers: tuple[Marker, ...] = ()
    epochs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition as its source describes it now.

    Offsets `[log_start, end)` can be read; `end` is the last stable offset where there are transactions, and
    `high_watermark` what stands beyond it. `topic_id` and `cluster_id` are None where the source has none: then
    only the records themselves can tell whether a partition is still the same.
    """

    topic: str
    partition: int
    log_start: int
    end: int
    high_watermark: int
    topic_id: str | None = None
    cluster_id: str | None = None


@dataclass(frozen=True, slots=True)
class GroupPosition:
    """Where a group stands on a partition: the next offset it will read (None: it has committed none), and the partition's ends (None: not told)."""

    group: str
    topic: str
    partition: int
    committed: int | None
    log_start: int | None
    log_end: int | None


@runtime_checkable
class Source(Protocol):
    """A place to capture from. Every method may raise the errors under `eslab.errors.SourceError`."""

    @property
    def url(self) -> str:
        """How to name this source to a person: no secret in it."""

    @property
    def isolation(self) -> str:
        """ "read_committed" or "read_uncommitted"; "none" where there are no transactions."""

    def partitions(self, topics: Sequence[str] | None) -> list[Partition]:
        """Describe every partition of these topics (None: of every topic but internal ones), sorted.

        Raises `TopicNotFound` naming those that are not there. Creates nothing.
        """

    def read(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> Iterator[Chunk]:
        """Yield the chunks that cover `[start, stop)` of each partition: in order within one, in any order across them.

        A `start` below the log start begins with a hole. Chunks are a few MB; memory does not grow with the range.
        """

    def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int:
        """Return the first offset whose timestamp is at or after this one; the partition's end if there is none."""

    def epoch_end(self, topic: str, partition: int, leader_epoch: int) -> int | None:
        """Return where the log of this leader epoch ends (exclusive), None where that is not to be had."""

    def close(self) -> None:
        """Give back connections and threads. Safe to call twice."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def records_to_table(records: Iterable[Record]) -> pa.Table:
    """The records as columns of `RECORDS`; topic and partition are left to whoever keeps them."""
    rows = list(records)
    columns = {name: [getattr(row, name) for row in rows] for name in RECORDS.names if name != "headers"}
    columns["headers"] = [[{"key": key.encode("utf-8", "surrogateescape"), "value": value} for key, value in row.headers] for row in rows]
    return pa.table([pa.array(columns[field.name], field.type) for field in RECORDS], schema=RECORDS)


def table_to_records(topic: str, partition: int, table: pa.Table) -> Iterator[Record]:
    """The rows of a `RECORDS` table as values, one by one."""
    for batch in table.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            headers = tuple((head["key"].decode("utf-8", "surrogateescape"), head["value"]) for head in row.pop("headers"))
            yield Record(topic=topic, partition=partition, headers=headers, **row)
