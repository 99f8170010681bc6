"""Read uncommitted: how each transaction ended is told from the markers in the log, and events are those that were committed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
from hypothesis import given
from hypothesis import strategies as st
from kafka_cluster import KafkaCluster, send, wait_for
from logs import RULES, few, new_lab

from eslab.lab import Lab
from eslab.model import Record
from eslab.segments import Log, check
from eslab.sources import RECORDS, Chunk, Hole, Marker, Partition, TopicPartition, records_to_table
from eslab.sources.memory import MemorySource
from eslab.transactions import Transactions

STEP = 5  # offsets a chunk, so that transactions reach over several


@dataclass(frozen=True)
class Entry:
    """One offset of the topic: data of a producer (in a transaction unless `plain`), a marker, or nothing any more."""

    producer: int
    kind: str  # data, plain, commit, abort, compacted


class Topic(MemorySource):
    """One partition as a broker tells it to a reader of this isolation."""

    def __init__(self, entries: list[Entry], isolation: str = "read_uncommitted") -> None:
        super().__init__([])
        self._entries, self._level = entries, isolation

    @property
    def isolation(self) -> str:
        return self._level

    @property
    def _stable(self) -> int:
        open_: dict[int, int] = {}
        for offset, one in enumerate(self._entries):
            if one.kind == "data":
                open_.setdefault(one.producer, offset)
            elif one.kind in ("commit", "abort"):
                open_.pop(one.producer, None)
        return min(open_.values(), default=len(self._entries))

    def partitions(self, topics: Any) -> list[Partition]:
        end = len(self._entries)
        return [Partition("orders", 0, 0, end if self._level == "read_uncommitted" else self._stable, end, "id", "cluster")]

    def outcome(self, offset: int) -> str | None:
        """What became of the record at this offset, by looking ahead; unknown where something was compacted before a marker came."""
        one = self._entries[offset]
        if one.kind != "data":
            return None
        for entry in self._entries[offset:]:
            if entry.kind == "compacted":
                return "unknown"
            if entry.producer == one.producer and entry.kind in ("commit", "abort"):
                return "committed" if entry.kind == "commit" else "aborted"
        return "open"

    def read(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> Iterator[Chunk]:
        for (topic, partition), (start, stop) in ranges.items():
            for low in range(start, stop, STEP):
                yield self._chunk(topic, partition, low, min(low + STEP, stop))

    def _chunk(self, topic: str, partition: int, start: int, stop: int) -> Chunk:
        rows, holes, markers = [], [], []
        for offset in range(start, stop):
            one = self._entries[offset]
            aborted = self._level == "read_committed" and self.outcome(offset) == "aborted"
            if one.kind in ("commit", "abort"):
                markers.append(Marker(offset, one.producer, 0, one.kind))
                holes.append(Hole(offset, offset + 1, "control"))
            elif one.kind == "compacted" or aborted:
                holes.append(Hole(offset, offset + 1, "aborted" if aborted else "compaction"))
            else:
                value = json.dumps({"eventType": "Changed", "data": {"orderId": f"o{one.producer}", "n": offset}}).encode()
                rows.append(
                    Record(
                        topic=topic, partition=partition, offset=offset, timestamp_ms=1_700_000_000_000 + offset, key=b"k", value=value,
                        producer_id=one.producer, producer_epoch=0, transactional=one.kind == "data",
                    )
                )  # fmt: skip
        table = records_to_table(rows) if rows else RECORDS.empty_table()
        return Chunk(topic, partition, start, stop, table, tuple(holes), tuple(markers))


KINDS = ["data", "data", "data", "plain", "commit", "abort"]
entries = st.lists(st.builds(Entry, st.integers(1, 3), st.sampled_from(KINDS)), min_size=1, max_size=30)
holed = st.lists(st.builds(Entry, st.integers(1, 3), st.sampled_from([*KINDS, "compacted"])), min_size=1, max_size=30)


def captured(folder: Any, topic: Topic, cuts: list[int]) -> Lab:
    lab = new_lab(folder, RULES)
    for stop in [*sorted(cuts), len(topic._entries)]:
        lab.snapshot(Topic(topic._entries[:stop], topic.isolation), progress=False)
    return lab


def rows(lab: Lab, query: str) -> list[tuple[Any, ...]]:
    return lab.sql(query).fetchall()


@given(entries | holed, st.lists(st.integers(0, 30), max_size=4))
@few(6)
def test_every_outcome_is_that_of_the_next_marker_or_unknown_however_the_log_was_split(tmp_path_factory, told, cuts):
    topic = Topic(told)
    lab = captured(tmp_path_factory.mktemp("lab") / "lab", topic, cuts)
    found = dict(rows(lab, "select record_offset, outcome from records order by 1"))
    assert found == {offset: topic.outcome(offset) for offset, one in enumerate(told) if one.kind in ("data", "plain")}


@given(entries, st.lists(st.integers(0, 30), max_size=4))
@few(6)
def test_events_are_those_that_a_reader_of_committed_data_gets(tmp_path_factory, told, cuts):
    lab = captured(tmp_path_factory.mktemp("lab") / "lab", Topic(told), cuts)
    other = captured(tmp_path_factory.mktemp("lab") / "lab", Topic(told, "read_committed"), [])
    query = "select record_offset, order_at, data from events order by 1"
    assert rows(lab, query) == rows(other, query)
    assert lab.cut().offsets == other.cut().offsets or not rows(other, "select 1 from records")


def test_a_marker_that_may_have_been_lost_leaves_the_outcome_unknown(tmp_path):
    told = [Entry(1, "data"), Entry(2, "data"), Entry(3, "compacted"), Entry(1, "data"), Entry(1, "commit"), Entry(2, "data")]
    lab = captured(tmp_path / "lab", Topic(told), [])
    assert rows(lab, "select record_offset, outcome from records order by 1") == [
        (0, "unknown"),
        (1, "unknown"),
        (3, "committed"),
        (5, "open"),
    ]
    assert rows(lab, "select record_offset from events order by 1") == [(0,), (1,)]  # from the doubt on they wait for producer 2
    (life, segments), *_ = Log(lab.path / "log").lives().items()
    table = next(segments[0].read())
    assert Transactions(life, segments).outcomes(table).to_pylist() == ["unknown", "unknown", "committed", "open"]


def test_a_log_read_first_one_way_and_then_the_other_keeps_what_each_knew(tmp_path):
    told = [Entry(1, "data"), Entry(1, "commit"), Entry(2, "data"), Entry(2, "abort")]
    lab = new_lab(tmp_path / "lab", RULES)
    lab.snapshot(Topic(told, "read_committed"), progress=False)
    lab.snapshot(Topic([*told, Entry(2, "data"), Entry(1, "data"), Entry(2, "abort")]), progress=False)
    assert rows(lab, "select record_offset, outcome from records order by 1") == [(0, "committed"), (4, "aborted"), (5, "open")]
    assert rows(lab, "select record_offset from events") == [(0,)]


def test_the_outcome_stands_in_lab_duckdb_and_survives_merging_and_verify(tmp_path, monkeypatch):
    told = [Entry(1, "data"), Entry(2, "data"), Entry(1, "abort"), Entry(2, "commit")] * 8
    lab = new_lab(tmp_path / "lab", RULES)
    for stop in range(1, len(told) + 1):
        lab.snapshot(Topic(told[:stop]), progress=False)
    assert any(segment.footer.level for segments in Log(lab.path / "log").lives().values() for segment in segments)
    wanted = [("aborted", 8), ("committed", 8)]
    query = "select outcome, count(*) from records group by all order by 1"
    assert rows(lab, query) == wanted
    monkeypatch.chdir(lab.path)
    with duckdb.connect("lab.duckdb", read_only=True) as con:
        assert con.execute(query).fetchall() == wanted
    assert lab.verify(progress=False).ok
    assert all(check(segment) == [] for segments in Log(lab.path / "log").lives().values() for segment in segments)


def test_many_producers_interleaved_are_resolved_as_one_by_one(tmp_path):
    chance = random.Random(1)
    told = [Entry(chance.randint(1, 200), chance.choice(["data"] * 6 + ["commit", "abort", "plain"])) for _ in range(5000)]
    topic = Topic(told)
    lab = captured(tmp_path / "lab", topic, [777, 3000])
    found = rows(lab, "select record_offset, outcome from records order by 1")
    assert found == [(offset, topic.outcome(offset)) for offset, one in enumerate(told) if one.kind in ("data", "plain")]
    for life, segments in Log(lab.path / "log").lives().items():
        for segment in segments:
            for table in segment.read():
                told_now = Transactions(life, segments).outcomes(table)
                assert told_now.to_pylist() == [topic.outcome(offset) for offset in table["offset"].to_pylist()]


def test_on_a_real_kafka_an_open_transaction_is_told_and_its_end_resolves_it(kafka: KafkaCluster, tmp_path):
    topic = kafka.create_topic("orders")
    first, second = (kafka.producer(transactional_id=f"tx-{name}") for name in ("first", "second"))
    for producer in (first, second):
        producer.init_transactions(30)
        producer.begin_transaction()
    event = {"key": b"o1", "value": b'{"eventType": "Changed", "data": {"orderId": "o1"}}'}
    send(first, topic, [event] * 2)
    send(second, topic, [event])
    send(kafka.producer(), topic, [event])
    lab = new_lab(tmp_path / "lab", RULES)
    said: list[str] = []
    lab._say = said.append
    uncommitted = {"isolation": "read_uncommitted", "progress": False}
    assert lab.snapshot(kafka.url, topic, **uncommitted).captured == 4
    query = "select record_offset, outcome from records order by 1"
    assert rows(lab, query) == [(0, "open"), (1, "open"), (2, "open"), (3, None)]
    assert rows(lab, "from events") == []
    assert any("2 transactions are open" in one and "from offset 0 on" in one for one in said), said

    first.abort_transaction(30)
    second.commit_transaction(30)
    kafka.wait_until_stable(topic, at_least=6)
    wait_for(lambda: lab.snapshot(kafka.url, topic, **uncommitted) and rows(lab, query)[0][1] == "aborted", "the markers")
    assert rows(lab, query) == [(0, "aborted"), (1, "aborted"), (2, "committed"), (3, None)]
    assert rows(lab, "select record_offset from events order by 1") == [(2,), (3,)]
    plain = new_lab(tmp_path / "plain", RULES)
    plain.snapshot(kafka.url, topic, progress=False)
    assert rows(plain, "select record_offset, data from events order by 1") == rows(
        lab, "select record_offset, data from events order by 1"
    )
    assert rows(plain, "select start_offset, next_offset, cause from gaps order by 1")[0] == (0, 2, "aborted")
    assert len(lab.history("order", "o1")) == 2
