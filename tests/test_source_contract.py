"""The source contract, run by every adapter against records that were written down beside it."""

import csv
import gzip
import importlib.util
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eslab.errors import TopicNotFound
from eslab.model import Record
from eslab.sources import RECORDS, Chunk, Source, TopicPartition, records_to_table, table_to_records
from eslab.sources.files import FileSource
from eslab.sources.memory import MemorySource

Truth = dict[TopicPartition, list[Record]]
Case = tuple[Source, Truth]

COUNT = 6_000  # of each partition: more than one mark of a text file, more than one block of a Parquet file


@cache
def _records(*, step: int = 1) -> list[Record]:
    """Two topics, three partitions, interleaved; every seventh a tombstone; timestamps that fall back now and then; `step` > 1 leaves holes."""
    return [
        Record(
            topic=topic,
            partition=partition,
            offset=5 * (step > 1) + at * step,
            timestamp_ms=1_700_000_000_000 + at * 1000 - (30_000 if at % 50 == 0 else 0),
            timestamp_type="create",
            key=f"ord-{at % 97}".encode(),
            value=None if at % 7 == 6 else json.dumps({"eventType": "Ü", "n": at}).encode(),
            headers=(("trace", b"t"), ("empty", b""), ("trace", None)) if at % 3 == 0 else (),
        )
        for at in range(COUNT)
        for topic, partition in (("orders", 0), ("orders", 2), ("payments", 0))
    ]


def _truth(records: list[Record]) -> Truth:
    truth: Truth = {}
    for record in records:
        truth.setdefault((record.topic, record.partition), []).append(record)
    return truth


@contextmanager
def memory(_: Path) -> Iterator[Case]:
    records = _records()
    yield MemorySource(records), _truth(records)


@contextmanager
def jsonl(folder: Path, opener=open) -> Iterator[Case]:
    """Two plain files, one of them with a blank line in each hundred."""
    truth: Truth = {}
    for topic, blank in (("orders", 100), ("payments", COUNT + 1)):
        with opener(folder / (f"{topic}.jsonl" + (".gz" if opener is gzip.open else "")), "wb") as file:
            log = truth[topic, 0] = []
            for at in range(COUNT):
                time = 1_700_000_000_000 + at * 1000 - (30_000 if at % 50 == 0 else 0)
                value = json.dumps({"timestamp": time, "n": at}).encode()
                if at % blank == 1:
                    file.write(b"\r\n")
                else:
                    file.write(value + b"\n")
                    log.append(Record(topic=topic, offset=at, timestamp_ms=time, value=value))
    yield FileSource(folder), truth


def jsonl_gz(folder: Path):
    return jsonl(folder, gzip.open)


@contextmanager
def kcat(folder: Path) -> Iterator[Case]:
    """One interleaved dump with holes, in two files that go on from each other."""
    records = _records(step=3)
    half = len(records) // 2
    for name, some in (("dump-2.json", records[:half]), ("dump-10.json", records[half:])):
        (folder / name).write_text("".join(_kcat_line(record) + "\n" for record in some))
    yield FileSource(folder / "*.json"), _truth(records)


def _kcat_line(record: Record) -> str:
    line = {"topic": record.topic, "partition": record.partition, "offset": record.offset, "tstype": "create", "ts": record.timestamp_ms}
    if record.headers:
        line["headers"] = [part if part is None or isinstance(part, str) else part.decode() for pair in record.headers for part in pair]
    text = {"key": record.key and record.key.decode(), "payload": record.value and record.value.decode()}
    return json.dumps(line | text, ensure_ascii=False)


@contextmanager
def csv_records(folder: Path) -> Iterator[Case]:
    records = _records(step=2)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["topic", "partition", "offset", "timestamp_ms", "timestamp_type", "key", "value", "headers"])
    for r in records:
        headers = json.dumps([part if part is None or isinstance(part, str) else part.decode() for pair in r.headers for part in pair])
        writer.writerow(
            [r.topic, r.partition, r.offset, r.timestamp_ms, r.timestamp_type, *((v or b"").decode() for v in (r.key, r.value)), headers]
        )
    (folder / "export.csv").write_bytes(text.getvalue().encode("utf-8-sig"))
    yield FileSource(str(folder / "export.csv")), _truth(records)


@contextmanager
def parquet(folder: Path) -> Iterator[Case]:
    """An export in small row groups, sorted by time and not by partition."""
    records = _records(step=2)
    table = records_to_table(records)
    table = table.append_column("topic", pa.array([record.topic for record in records]))
    table = table.append_column("partition", pa.array([record.partition for record in records], pa.int32()))
    pq.write_table(table, folder / "export.parquet", row_group_size=5_000)
    yield FileSource(folder), _truth(records)


@contextmanager
def kafka(_: Path) -> Iterator[Case]:
    """The embedded broker: four partitions a topic, the other ones empty."""
    if importlib.util.find_spec("eslab.sources.kafka") is None:
        pytest.skip("no Kafka source yet")
    from confluent_kafka import Producer

    from eslab.sources.opening import open_source

    broker = Producer({"test.mock.num.brokers": 1, "linger.ms": 50})
    records = _records()
    for r in records:
        broker.produce(r.topic, r.value, r.key, r.partition, timestamp=r.timestamp_ms, headers=list(r.headers))
        broker.poll(0)
    broker.flush(30)
    address = next(iter(broker.list_topics(timeout=10).brokers.values()))
    truth = _truth(records) | {
        (topic, at): [] for topic, used in (("orders", (0, 2)), ("payments", (0,))) for at in range(4) if at not in used
    }
    with open_source(f"kafka://{address.host}:{address.port}") as source:
        yield source, truth


@pytest.fixture(params=[memory, jsonl, jsonl_gz, csv_records, parquet, kcat, kafka], ids=lambda maker: maker.__name__)
def case(request, tmp_path) -> Iterator[Case]:
    with request.param(tmp_path) as (source, truth):
        yield source, truth


def _read(source: Source, ranges: dict[TopicPartition, tuple[int, int]]) -> Truth:
    """Everything in these ranges, after checking that records and holes cover each of them exactly once and in order."""
    reached = {at: start for at, (start, _) in ranges.items()}
    found: Truth = {at: [] for at in ranges}
    for chunk in source.read(ranges):
        at = (chunk.topic, chunk.partition)
        assert chunk.start == reached[at]
        assert chunk.records.schema.equals(RECORDS)
        _expect_covered(chunk)
        found[at] += table_to_records(*at, chunk.records)
        reached[at] = chunk.next
    assert reached == {at: max(start, stop) for at, (start, stop) in ranges.items()}
    return found


def _expect_covered(chunk: Chunk) -> None:
    spans = [(hole.start, hole.next) for hole in chunk.holes] + [(offset, offset + 1) for offset in chunk.records["offset"].to_pylist()]
    at = chunk.start
    for start, next_ in sorted(spans):
        assert start == at < next_
        at = next_
    assert at == chunk.next


def _same(found: list[Record], truth: list[Record]) -> bool:
    """Equal in all that a source may not lose; what a broker adds (its epochs, its timestamp type) is not in the truth."""
    plain = [(r.topic, r.partition, r.offset, r.timestamp_ms, r.key, r.value, r.headers) for r in truth]
    return [(r.topic, r.partition, r.offset, r.timestamp_ms, r.key, r.value, r.headers) for r in found] == plain


def _whole(source: Source) -> dict[TopicPartition, tuple[int, int]]:
    return {(one.topic, one.partition): (one.log_start, one.end) for one in source.partitions(None)}


def test_partitions_are_described_with_their_bounds(case):
    source, truth = case
    described = source.partitions(None)
    assert described == sorted(described, key=lambda one: (one.topic, one.partition))
    assert {(one.topic, one.partition) for one in described} == truth.keys()
    for one in described:
        offsets = [record.offset for record in truth[one.topic, one.partition]]
        assert one.log_start <= min(offsets, default=one.end)
        assert one.end == max(offsets, default=one.end - 1) + 1 == one.high_watermark


def test_topics_can_be_chosen(case):
    source, _ = case
    assert {one.topic for one in source.partitions(["payments"])} == {"payments"}
    assert source.partitions([]) == []


def test_an_unknown_topic_is_named(case):
    source, _ = case
    with pytest.raises(TopicNotFound, match="ghost"):
        source.partitions(["orders", "ghost"])
    assert {one.topic for one in source.partitions(None)} == {"orders", "payments"}


def test_every_record_is_read_once_with_all_of_its_content(case):
    source, truth = case
    found = _read(source, _whole(source))
    for at, records in truth.items():
        assert _same(found[at], records)


def test_a_range_in_the_middle_holds_its_records_and_no_others(case):
    source, truth = case
    for at, (start, end) in _whole(source).items():
        third = (end - start) // 3
        for low, high in ((start + third, end - third), (start + 1, start + 2), (end - 1, end), (start + 4_500, start + 4_501)):
            if start <= low < high <= end:
                assert _same(_read(source, {at: (low, high)})[at], [record for record in truth[at] if low <= record.offset < high])


def test_ranges_of_several_partitions_may_begin_anywhere(case):
    source, truth = case
    ranges = {at: (start + (end - start) // (2 + n), end) for n, (at, (start, end)) in enumerate(_whole(source).items())}
    found = _read(source, ranges)
    for at, (low, _) in ranges.items():
        assert _same(found[at], [record for record in truth[at] if record.offset >= low])


def test_an_empty_range_yields_nothing(case):
    source, _ = case
    assert list(source.read({("orders", 0): (7, 7)})) == []
    assert list(source.read({})) == []


def test_reading_again_gives_equal_chunks(case):
    source, _ = case
    ranges = _whole(source)
    assert _read(source, ranges) == _read(source, ranges)


def test_a_time_finds_the_first_record_at_or_after_it(case):
    source, truth = case
    for at, records in truth.items():
        times = [record.timestamp_ms for record in records]
        end = _whole(source)[at][1]
        for time in (0, *(times[0] + shift for shift in (0, 1, 20_500, 4_999_000)), max(times)) if times else (0,):
            assert source.offset_at(*at, time) == next((record.offset for record in records if record.timestamp_ms >= time), end)


def test_a_time_after_every_record_finds_the_end(case):
    source, truth = case
    at = ("orders", 0)
    assert source.offset_at(*at, max(record.timestamp_ms for record in truth[at]) + 1) == _whole(source)[at][1]


def test_a_source_says_what_it_is_and_closes_twice(case):
    source, _ = case
    assert isinstance(source, Source)
    assert source.url
    assert source.isolation in ("none", "read_committed", "read_uncommitted")
    source.close()
    source.close()
