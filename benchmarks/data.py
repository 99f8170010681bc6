"""Synthetic orders for the benchmarks: a source that makes its records as it is read."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eslab.sources import RECORDS, Chunk, Partition, TopicPartition

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
    """A source of so many events, always the same ones, made a chunk at a time; of so many orders, by default of an eighth as many as there are events yet.

    An order has events for ever, or, where they are `brief`, for a hundredth of the time. Every event is caused by the one before it; in `flows`, of five events each, the first by what the log has not.
    """

    url = "benchmark:"
    isolation = "none"

    def __init__(self, events: int, *, keys: int | None = None, brief: bool = False, flows: bool = False) -> None:
        self.events, self._keys, self._flows = events, keys, flows
        self._recent = events // 800 if brief else None  # orders that have events at a time
        self._ends = [events // PARTITIONS] * PARTITIONS

    def partitions(self, topics: Sequence[str] | None) -> list[Partition]:
        return [Partition("orders", at, 0, end, end, "benchmark", "benchmark") for at, end in enumerate(self._ends)]

    def read(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> Iterator[Chunk]:
        for (topic, partition), (start, stop) in ranges.items():
            for begin in range(start, stop, CHUNK):
                end = min(begin + CHUNK, stop)
                yield Chunk(topic, partition, begin, end, self._table(partition, begin, end))

    def _table(self, partition: int, begin: int, end: int) -> pa.Table:
        """The same kind of records as `value` makes, column by column: a million a second."""
        chance = np.random.default_rng([partition, begin])
        offsets = np.arange(begin, end)
        numbers = offsets * PARTITIONS + partition
        born = np.maximum(numbers // 8, 1) + 8
        among = self._keys or (born if self._recent is None else np.minimum(born, self._recent))
        latest = among if self._keys else born
        keys = _joined("ord-", _padded(latest - 1 - (chance.random(len(numbers)) * among).astype(np.int64), 8))
        kind = pa.DictionaryArray.from_arrays(pa.array(numbers % len(TYPES), pa.int32()), list(TYPES)).cast(pa.string())
        total = pa.array(np.round(chance.uniform(5, 500, len(numbers)), 2)).cast(pa.string())
        skus = [_text(numbers % 977 + at) for at in range(2)]
        causes = _joined("evt-", _padded(np.maximum(numbers - 1, 0), 12))
        if self._flows:
            causes = pc.if_else(pa.array(numbers % 5 == 0), _joined("cmd-", _text(numbers // 5)), causes)
        group, span = _padded(numbers // 5, 32), _padded(numbers, 16)
        values = _joined(
            '{"eventId":"evt-', _padded(numbers, 12), '","eventType":"', kind, '","eventVersion":"1.0","timestamp":', _text(BEGIN_MS + numbers * 7),
            ',"source":"orders@2.3.1","correlationId":"corr-', _text(numbers // 5), '","causationId":"', causes,
            '","data":{"orderId":"', keys, '","customerId":"cust-', _text(numbers % 9973), '","total":', total, ',"currency":"EUR","status":"',
            pc.utf8_lower(pc.utf8_slice_codeunits(kind, 5)), '","lines":[{"sku":"sku-', skus[0], '","quantity":1},{"sku":"sku-', skus[1],
            '","quantity":2}]},"metadata":{"traceId":"', group, '","spanId":"', span, '"}}',
        )  # fmt: skip
        told = {"offset": pa.array(offsets), "timestamp_ms": pa.array(BEGIN_MS + numbers * 7), "key": keys, "value": values}
        told["headers"] = pa.array([[]] * len(numbers), RECORDS.field("headers").type)
        columns = [told[field.name].cast(field.type) if field.name in told else pa.nulls(len(numbers), field.type) for field in RECORDS]
        return pa.table(columns, schema=RECORDS)

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


def _text(numbers: np.ndarray) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def _padded(numbers: np.ndarray, width: int) -> pa.Array:
    return pc.utf8_lpad(_text(numbers), width, "0")


def _joined(*parts: str | pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "")
