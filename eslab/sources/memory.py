"""Records in a list: the reference of the source contract, and what `eslab.play` captures from."""

from __future__ import annotations

import uuid
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Self

from eslab.errors import TopicNotFound
from eslab.model import Record
from eslab.sources import Chunk, Hole, Partition, TopicPartition, records_to_table

__all__ = ["MemorySource"]

CHUNK = 10_000  # records; a few MB at the usual few hundred bytes each


class MemorySource:
    """Partitions held in memory. `append` gives each record the next offset of its partition, as a broker does."""

    url = "memory:"
    isolation = "none"

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._topic_ids: dict[str, str] = {}
        self._logs: dict[TopicPartition, list[Record]] = {}
        for record in records:
            self.append(record)

    def append(self, record: Record) -> Record:
        """Keep the record at the end of its partition and return it with the offset that it got."""
        log = self._logs.setdefault((record.topic, record.partition), [])
        self._topic_ids.setdefault(record.topic, uuid.uuid4().hex)
        kept = replace(record, offset=log[-1].offset + 1 if log else 0)
        log.append(kept)
        return kept

    def partitions(self, topics: Sequence[str] | None) -> list[Partition]:
        if unknown := [topic for topic in topics or () if topic not in self._topic_ids]:
            raise TopicNotFound(f"{self.url} has no topic {', '.join(unknown)}; it has {', '.join(sorted(self._topic_ids)) or 'none'}")
        return [
            Partition(topic, partition, log[0].offset, log[-1].offset + 1, log[-1].offset + 1, self._topic_ids[topic], "memory")
            for (topic, partition), log in sorted(self._logs.items())
            if topics is None or topic in topics
        ]

    def read(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> Iterator[Chunk]:
        for (topic, partition), (start, stop) in ranges.items():
            log = self._logs[topic, partition]
            while start < stop:
                at = bisect_left(log, start, key=_offset)
                rows = log[at : min(at + CHUNK, bisect_left(log, stop, key=_offset))]
                next_ = stop if not rows or rows[-1] is log[-1] else min(stop, rows[-1].offset + 1)
                epochs = {row.leader_epoch: row.offset + 1 for row in rows if row.leader_epoch is not None}
                yield Chunk(
                    topic, partition, start, next_, records_to_table(rows), tuple(_holes(start, rows, next_)), epochs=tuple(epochs.items())
                )
                start = next_

    def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int:
        log = self._logs[topic, partition]
        return next((record.offset for record in log if record.timestamp_ms >= timestamp_ms), log[-1].offset + 1)

    def epoch_end(self, topic: str, partition: int, leader_epoch: int) -> None:
        return None

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _offset(record: Record) -> int:
    return record.offset


def _holes(start: int, rows: Sequence[Record], next_: int) -> Iterator[Hole]:
    at = start
    for record in rows:
        if record.offset > at:
            yield Hole(at, record.offset, "unknown")
        at = record.offset + 1
    if at < next_:
        yield Hole(at, next_, "unknown")
