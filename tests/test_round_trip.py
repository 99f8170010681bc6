"""Every byte and every batch fact, from the broker's bytes to the file: made at will, captured in parts, read back by the stranger's reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka_cluster import QUIET, send
from logs import TORTURE, few
from test_format import footer, read_gaps, read_log
from test_record_batches import batch, marker

from eslab.capture import capture, plan
from eslab.segments import Log, check
from eslab.sources import Chunk, Partition, TopicPartition
from eslab.sources.kafka import KafkaSource
from eslab.sources.memory import MemorySource
from eslab.sources.record_batches import FetchedBytes, Scratch, decode

CONTROL, APPEND = 0x20, 0x08
TRANSACTIONAL = 0x10
LEADER_EPOCH = 7  # what `batch` writes, and 3 as the producer's epoch
PRODUCER_EPOCH = 3

content = st.none() | st.binary(max_size=12) | st.sampled_from([b"", b"\x00", bytes(range(256)), b"x" * 5000])
headers = st.lists(st.tuples(st.sampled_from(["", "a", "a", "ü", "\x00"]), st.none() | st.binary(max_size=4)), max_size=4)
records = st.lists(st.tuples(st.integers(0, 1 << 42), content, content, headers), min_size=1, max_size=5)


@dataclass(frozen=True)
class Batch:
    """What a producer sent at once; without records a marker of its transaction."""

    records: list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]
    codec: int
    append: bool
    producer: int
    transactional: bool
    commit: bool
    gap: int

    def built(self, base: int) -> bytes:
        if not self.records:
            return marker(base, self.producer, int(self.commit))
        attributes = APPEND * self.append | TRANSACTIONAL * self.transactional
        return batch(base, self.records, codec=self.codec, attributes=attributes, producer=self.producer)

    def rows(self, base: int) -> Iterator[dict[str, Any]]:
        latest = max((stamp for stamp, *_ in self.records), default=0)
        for offset, (stamp, key, value, heads) in enumerate(self.records, base):
            yield {
                "offset": offset,
                "timestamp_ms": latest if self.append else stamp,
                "timestamp_type": "append" if self.append else "create",
                "producer_timestamp_ms": stamp if self.append else None,
                "key": key,
                "value": value,
                "headers": [{"key": name.encode(), "value": told} for name, told in heads],
                "leader_epoch": LEADER_EPOCH,
                "producer_id": self.producer if self.producer >= 0 else None,
                "producer_epoch": PRODUCER_EPOCH,
                "transactional": self.transactional,
            }


plain = st.builds(
    Batch, records, st.integers(0, 4), st.booleans(), st.sampled_from([-1, 5]), st.just(False), st.just(True), st.sampled_from([0, 0, 0, 3])
)
within = st.builds(
    Batch, records, st.integers(0, 4), st.booleans(), st.integers(6, 8), st.just(True), st.just(True), st.sampled_from([0, 0, 0, 3])
)
ends = st.builds(Batch, st.just([]), st.just(0), st.just(False), st.integers(6, 8), st.just(True), st.booleans(), st.just(0))


class Broker(MemorySource):
    """One partition, told in the bytes of a fetch: whole batches from the one that holds the position on, and the list of aborted transactions."""

    def __init__(self, batches: list[Batch], isolation: str) -> None:
        super().__init__([])
        self._level, self._scratch = isolation, Scratch()
        self.placed: list[tuple[int, Batch]] = []
        end = 0
        for one in batches:
            self.placed.append((end + one.gap, one))
            end += one.gap + max(len(one.records), 1)
        self._end = end

    @property
    def isolation(self) -> str:
        return self._level

    def aborted(self) -> list[tuple[int, int]]:
        """(producer id, first offset) of each aborted transaction, the last first: no order is promised."""
        found, first = [], {}
        for base, one in self.placed:
            if one.records and one.transactional:
                first.setdefault(one.producer, base)
            elif not one.records and (began := first.pop(one.producer, None)) is not None and not one.commit:
                found.append((one.producer, began))
        return found[::-1]

    def open(self) -> int:
        """Where the first transaction without an end begins."""
        first: dict[int, int] = {}
        for base, one in self.placed:
            if not one.records:
                first.pop(one.producer, None)
            elif one.transactional:
                first.setdefault(one.producer, base)
        return min(first.values(), default=self._end)

    def partitions(self, topics: Any) -> list[Partition]:
        end = self._end if self._level == "read_uncommitted" else self.open()
        return [Partition("t", 0, 0, end, self._end, "id", "cluster")]

    def epoch_end(self, topic: str, partition: int, leader_epoch: int) -> int:
        return self._end

    def read(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> Iterator[Chunk]:
        aborted = self.aborted() if self._level == "read_committed" else []
        for start, stop in ranges.values():
            at = start
            while at < stop:
                rest = [(base, one) for base, one in self.placed if base + max(len(one.records), 1) > at]
                data = b"".join(one.built(base) for base, one in rest[:2])
                overlapping = [(producer, first) for producer, first in aborted if first < rest[min(1, len(rest) - 1)][0] + 100]
                for chunk in decode(FetchedBytes("t", 0, at, stop, data, 0, overlapping), self._scratch):
                    yield chunk
                    at = chunk.next


def check_round_trip(folder: Path, batches: list[Batch], isolation: str, parts: list[int]) -> None:
    source, log = Broker(batches, isolation), Log(folder / "log")
    for stop in [*sorted(parts), 10**9]:
        list(capture(source, log, plan(source, log, None, stop=stop)))
    ((partition,), aborted) = source.partitions(None), {}
    if isolation == "read_committed":
        for producer, first in source.aborted():
            closed = next(base for base, one in source.placed if base > first and one.producer == producer and not one.records)
            aborted |= dict.fromkeys(((producer, offset) for offset in range(first, closed)), True)
    sent = [row for base, one in source.placed for row in one.rows(base) if row["offset"] < partition.end]
    wanted = [row for row in sent if not (row["transactional"] and (row["producer_id"], row["offset"]) in aborted)]
    found = read_log(folder / "log").get(("t", 0, 0), [])
    assert found == wanted
    told = {
        one["offset"]: (one["producer_id"], one["producer_epoch"], one["kind"])
        for path in sorted((folder / "log").glob("*/*/*/*.parquet"))
        for one in footer(path)["markers"]
    }
    assert told == {
        base: (one.producer, PRODUCER_EPOCH, "commit" if one.commit else "abort")
        for base, one in source.placed
        if not one.records and base < partition.end
    }
    causes = dict.fromkeys(range(partition.end), "compaction") | dict.fromkeys(told, "control")
    causes |= {row["offset"]: "aborted" for row in sent}
    for row in wanted:
        causes.pop(row["offset"])
    assert read_gaps(folder / "log").get(("t", 0, 0), {}) == causes
    assert all(check(segment) == [] for segments in log.lives().values() for segment in segments)


batches = st.lists(plain | within | within | ends, max_size=9)


@given(batches, st.sampled_from(["read_committed", "read_uncommitted"]), st.lists(st.integers(0, 40), max_size=3))
@few(60)
def test_what_a_broker_holds_is_what_the_log_holds_byte_for_byte(tmp_path_factory, made, isolation, parts):
    check_round_trip(tmp_path_factory.mktemp("log"), made, isolation, parts)


@pytest.mark.torture
@pytest.mark.timeout(0)
@given(batches, st.sampled_from(["read_committed", "read_uncommitted"]), st.lists(st.integers(0, 40), max_size=3))
@TORTURE
def test_very_much_that_a_broker_may_hold_is_what_the_log_holds(tmp_path_factory, made, isolation, parts):
    check_round_trip(tmp_path_factory.mktemp("log"), made, isolation, parts)


def test_a_log_that_forgets_one_fact_is_caught(tmp_path, monkeypatch):
    made = [Batch([(1, None, b"", [("a", None), ("a", b"")])], 0, False, 6, True, True, 0), Batch([], 0, False, 6, True, True, 0)]
    check_round_trip(tmp_path / "whole", made, "read_committed", [])
    for name, other in (("transactional", False), ("producer_epoch", 4), ("headers", [{"key": b"a", "value": None}]), ("value", None)):
        plain_rows = Batch.rows
        with monkeypatch.context() as patch:
            patch.setattr(
                Batch,
                "rows",
                lambda self, base, name=name, other=other, rows=plain_rows: ({**row, name: other} for row in rows(self, base)),
            )
            with pytest.raises(AssertionError):
                check_round_trip(tmp_path / name, made, "read_committed", [])


named = headers.map(lambda heads: [(name.replace("\0", "0"), told) for name, told in heads])  # for librdkafka a NUL ends a name


@given(st.lists(st.tuples(st.integers(1, 1 << 41), content, content, named), min_size=1, max_size=20))
@few(6)
def test_what_a_producer_sends_to_a_broker_is_what_the_log_holds(embedded_topics, tmp_path_factory, sent):
    """Through librdkafka's producer and its own broker, which know nothing of our encoder."""
    address, topic = embedded_topics()
    told = [{"timestamp": stamp, "key": key, "value": value, "headers": heads} for stamp, key, value, heads in sent]
    send(ck.Producer({"bootstrap.servers": address}, logger=QUIET), topic, told)
    folder = tmp_path_factory.mktemp("log")
    with KafkaSource(f"kafka://{address}") as source:
        log = Log(folder / "log")
        list(capture(source, log, plan(source, log, [topic])))
    rows = read_log(folder / "log")[topic, 0, 0]
    names = ("timestamp_ms", "timestamp_type", "key", "value", "headers", "producer_id", "producer_epoch", "transactional")
    assert [[row[name] for name in names] for row in rows] == [
        [stamp, "create", key, value, [{"key": name.encode(), "value": told} for name, told in heads], None, None, False]
        for stamp, key, value, heads in sent
    ]


@pytest.fixture(scope="module")
def embedded_topics() -> Iterator[Any]:
    """A broker inside this process, and a new topic on it at each call."""
    broker = ck.Producer({"test.mock.num.brokers": 1}, logger=QUIET)
    (node,) = broker.list_topics(timeout=10).brokers.values()
    made: list[str] = []

    def topic() -> tuple[str, str]:
        made.append(f"t{len(made)}")
        return f"{node.host}:{node.port}", made[-1]

    yield topic
    del broker
