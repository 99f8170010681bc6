"""Synthetic orders for the benchmarks: a source that makes its records as it is read."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import msgspec
import pyarrow as pa

from eslab.model import Record
from eslab.sources import Chunk, Partition, TopicPartition, records_to_table

PARTITIONS = 8
CHUNK = 20_000
BEGIN_MS = 1_773_270_000_000
TYPES = ("OrderCreated", "OrderConfirmed", "OrderPaid", "OrderShipped", "OrderDelivered")


def value(number: int, random_: random.Random) -> tuple[bytes, bytes]:
    """Key and value of one event of about 450 bytes; orders have eight events on average."""
    order = f"ord-{random_.randrange(max(number // 8, 1) + 8):08d}"
    kind = TYPES[number % len(TYPES)]
    data = {
        "orderId": order,
        "customerId": f"cust-{number % 9973}",
        "total": round(random_.uniform(5, 500), 2),
        "currency": "EUR",
        "status": kind[5:].lower(),
        "lines": [{"sku": f"sku-{number % 977 + at}", "quantity": at + 1} for at in range(2)],
    }
    event = {
        "eventId": f"evt-{number:012d}",
        "eventType": kind,
        "eventVersion": "1.0",
        "timestamp": BEGIN_MS + number * 7,
        "source": "orders@2.3.1",
        "correlationId": f"corr-{number // 5}",
        "causationId": f"evt-{max(number - 1, 0):012d}",
        "data": data,
        "metadata": {"traceId": f"{number // 5:032x}", "spanId": f"{number:016x}"},
    }
    return order.encode(), msgspec.json.encode(event)


class Orders:
    """A source of so many events, the same for the same seed, made a chunk at a time."""

    url = "benchmark:"
    isolation = "none"

    def __init__(self, events: int) -> None:
        self.events = events
        self._ends = [events // PARTITIONS] * PARTITIONS

    def partitions(self, topics: Sequence[str] | None) -> list[Partition]:
        return [Partition("orders", at, 0, end, end, "benchmark", "benchmark") for at, end in enumerate(self._ends)]

    def read(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> Iterator[Chunk]:
        for (topic, partition), (start, stop) in ranges.items():
            for begin in range(start, stop, CHUNK):
                end = min(begin + CHUNK, stop)
                yield Chunk(topic, partition, begin, end, self._table(partition, begin, end))

    def _table(self, partition: int, begin: int, end: int) -> pa.Table:
        random_ = random.Random(f"{partition}:{begin}")
        records = []
        for offset in range(begin, end):
            number = offset * PARTITIONS + partition
            key, payload = value(number, random_)
            records.append(
                Record(topic="orders", partition=partition, offset=offset, timestamp_ms=BEGIN_MS + number * 7, key=key, value=payload)
            )
        return records_to_table(records)

    def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int:
        return min(max(0, (timestamp_ms - BEGIN_MS) // 7 // PARTITIONS), self._ends[partition])

    def epoch_end(self, topic: str, partition: int, leader_epoch: int) -> None:
        return None

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
