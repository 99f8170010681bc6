"""KafkaSource against a real Apache Kafka, and the embedded broker."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import aiokafka
import confluent_kafka as ck
import pytest
from kafka_cluster import QUIET, KafkaCluster, free_ports, send, wait_for

from eslab.errors import SourceChanged, SourceError, SourceUnreachable, TopicNotFound
from eslab.model import Record
from eslab.sources import Chunk, Hole, Marker, Source, table_to_records
from eslab.sources import kafka as kafka_module
from eslab.sources.kafka import KafkaSource
from eslab.sources.kafka_connections import Connections, TryAgainError
from eslab.sources.kafka_protocol import MetadataRequest
from eslab.sources.opening import open_groups, open_source


@pytest.fixture
def source(kafka: KafkaCluster) -> Iterator[KafkaSource]:
    with KafkaSource(kafka.url) as source:
        yield source


def bounds(source: KafkaSource, topic: str) -> dict[tuple[str, int], tuple[int, int]]:
    return {(it.topic, it.partition): (it.log_start, it.end) for it in source.partitions([topic])}


def records(chunks: Iterable[Chunk]) -> list[Record]:
    return [record for chunk in chunks for record in table_to_records(chunk.topic, chunk.partition, chunk.records)]


def covered(chunks: Iterable[Chunk], start: int, stop: int) -> tuple[list[Record], list[Hole], list[Marker]]:
    """The contents of one partition's chunks, once it is sure that they cover each offset exactly once."""
    chunks = list(chunks)
    spans = [start, *(edge for chunk in chunks for edge in (chunk.start, chunk.next)), stop]
    assert all(spans[at] == spans[at + 1] for at in range(0, len(spans), 2)), spans
    for chunk in chunks:
        offsets = chunk.records["offset"].to_pylist() + [at for hole in chunk.holes for at in range(hole.start, hole.next)]
        assert sorted(offsets) == list(range(chunk.start, chunk.next))
        assert all(left.next < right.start or left.cause != right.cause for left, right in pairwise(chunk.holes))
    holes = [hole for chunk in chunks for hole in chunk.holes]
    return records(chunks), holes, [marker for chunk in chunks for marker in chunk.markers]


def read_whole(source: KafkaSource, topic: str, start: int = 0) -> tuple[list[Record], list[Hole], list[Marker]]:
    ((at, (_, end)),) = bounds(source, topic).items()
    return covered(source.read({at: (start, end)}), start, end)


def numbered(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"value": b"%d" % number} for number in range(first, first + count)]


def test_fulfils_the_contract_of_sources(source: KafkaSource):
    assert isinstance(source, Source)


def test_records_come_back_as_they_were_written(kafka: KafkaCluster, source: KafkaSource):
    topic = kafka.create_topic()
    written = [
        {"key": b"k", "value": b"v", "timestamp": 1_700_000_000_123},
        {"key": None, "value": None, "timestamp": 1_700_000_000_000},
        {"key": b"", "value": b"", "timestamp": 1},
        {"key": bytes(range(256)), "value": "ü€".encode() * 5000, "headers": [("a", b"1"), ("a", None), ("ü", b"")]},
    ]
    kafka.produce(topic, written)

    found, holes, _ = read_whole(source, topic)

    assert [(it.key, it.value) for it in found] == [(it["key"], it["value"]) for it in written]
    assert [it.timestamp_ms for it in found[:3]] == [1_700_000_000_123, 1_700_000_000_000, 1]
    assert [it.headers for it in found] == [(), (), (), (("a", b"1"), ("a", None), ("ü", b""))]
    assert {(it.timestamp_type, it.producer_timestamp_ms, it.producer_id, it.producer_epoch, it.transactional) for it in found} == {
        ("create", None, None, None, False)
    }
    assert found[0].leader_epoch is not None
    assert holes == []


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_codec_gives_what_aiokafkas_consumer_gives(kafka: KafkaCluster, source: KafkaSource, codec: str):
    topic = kafka.create_topic()
    kafka.produce(
        topic,
        ({"key": b"k%d" % (n % 7), "value": b"value %d " % n * (n % 50), "headers": [("n", b"%d" % n)] * (n % 3)} for n in range(3000)),
        compression_type=codec,
        batch_size=10_000,
    )

    found, _, _ = read_whole(source, topic)

    assert [(it.offset, it.timestamp_ms, it.key, it.value, it.headers) for it in found] == asyncio.run(consume(kafka, topic, 3000))


async def consume(kafka: KafkaCluster, topic: str, count: int) -> list[tuple[Any, ...]]:
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, enable_auto_commit=False, auto_offset_reset="none")
    await consumer.start()
    try:
        at = aiokafka.TopicPartition(topic, 0)
        consumer.assign([at])
        consumer.seek(at, 0)
        found: list[tuple[Any, ...]] = []
        while len(found) < count:
            for batch in (await consumer.getmany(timeout_ms=1000)).values():
                found += [(it.offset, it.timestamp, it.key, it.value, tuple(it.headers)) for it in batch]
        return found
    finally:
        await consumer.stop()


def test_with_log_append_time_the_producers_own_time_is_kept(kafka: KafkaCluster, source: KafkaSource):
    topic = kafka.create_topic(message_timestamp_type="LogAppendTime")
    before = time.time() * 1000
    kafka.produce(topic, [{"value": b"a", "timestamp": 1_000}, {"value": b"b", "timestamp": 2_000}])

    found, _, _ = read_whole(source, topic)

    assert [(it.timestamp_type, it.producer_timestamp_ms) for it in found] == [("append", 1_000), ("append", 2_000)]
    assert all(it.timestamp_ms >= before - 1000 for it in found)


def transact(producer: ck.Producer, topic: str, values: list[dict[str, Any]], *, commit: bool) -> None:
    producer.begin_transaction()
    send(producer, topic, values, partition=0)
    (producer.commit_transaction if commit else producer.abort_transaction)(30)


@pytest.fixture
def transactional(kafka: KafkaCluster) -> ck.Producer:
    producer = kafka.producer(transactional_id=f"tx-{uuid.uuid4().hex}")
    producer.init_transactions(30)
    return producer


def test_aborted_records_and_markers_are_holes_with_their_causes(kafka: KafkaCluster, source: KafkaSource, transactional: ck.Producer):
    topic = kafka.create_topic()
    transact(transactional, topic, numbered(3), commit=True)
    transact(transactional, topic, numbered(2, 100), commit=False)
    kafka.produce(topic, numbered(1, 200))
    kafka.wait_until_stable(topic, at_least=8)

    found, holes, markers = read_whole(source, topic)

    assert [it.value for it in found] == [b"0", b"1", b"2", b"200"]
    assert holes == [Hole(3, 4, "control"), Hole(4, 6, "aborted"), Hole(6, 7, "control")]
    assert [(it.offset, it.kind) for it in markers] == [(3, "commit"), (6, "abort")]
    assert [it.transactional for it in found] == [True, True, True, False]
    assert found[0].producer_id == markers[0].producer_id is not None


def test_read_uncommitted_shows_aborted_records_and_their_markers(kafka: KafkaCluster, transactional: ck.Producer):
    topic = kafka.create_topic()
    transact(transactional, topic, numbered(2), commit=False)
    kafka.wait_until_stable(topic, at_least=3)

    with KafkaSource(kafka.url, isolation="read_uncommitted") as source:
        found, holes, markers = read_whole(source, topic)

    assert [it.value for it in found] == [b"0", b"1"]
    assert holes == [Hole(2, 3, "control")]
    assert [it.kind for it in markers] == ["abort"]


def test_each_start_within_mixed_transactions_tells_aborted_from_committed(kafka: KafkaCluster, source: KafkaSource):
    topic = kafka.create_topic()
    producers = [kafka.producer(transactional_id=f"tx-{uuid.uuid4().hex}") for _ in range(2)]
    for producer in producers:
        producer.init_transactions(30)
    for turn in range(3):  # interleaved: one aborts while the other is still writing
        for which, producer in enumerate(producers):
            producer.begin_transaction()
            send(producer, topic, [{"value": b"bad" if which else b"good"}] * 2)
        for producer in producers[:: 1 if turn % 2 else -1]:
            (producer.abort_transaction if producer is producers[1] else producer.commit_transaction)(30)
            send(kafka.producer(), topic, [{"value": b"good"}])
    end = kafka.wait_until_stable(topic, at_least=24)
    whole, _, _ = read_whole(source, topic)

    assert {it.value for it in whole} == {b"good"}
    assert len(whole) == 12
    for start in range(end):
        found, _, _ = covered(source.read({(topic, 0): (start, end)}), start, end)
        assert found == [it for it in whole if it.offset >= start]


def test_an_open_transaction_holds_back_the_end(kafka: KafkaCluster, source: KafkaSource, transactional: ck.Producer):
    topic = kafka.create_topic()
    kafka.produce(topic, numbered(2))
    transactional.begin_transaction()
    send(transactional, topic, numbered(1, 10))
    kafka.produce(topic, numbered(2, 20))

    (held,) = source.partitions([topic])
    found, _, _ = read_whole(source, topic)
    transactional.commit_transaction(30)
    kafka.wait_until_stable(topic, at_least=6)

    assert (held.end, held.high_watermark) == (2, 5)
    assert [it.value for it in found] == [b"0", b"1"]
    assert source.partitions([topic])[0].end == 6


def test_compacted_offsets_are_holes_and_the_rest_stays(kafka: KafkaCluster, source: KafkaSource):
    topic = kafka.create_topic(cleanup_policy="compact", segment_ms=100, min_cleanable_dirty_ratio=0.001, delete_retention_ms=100)
    kafka.produce(topic, ({"key": b"%d" % (n % 5), "value": b"%d" % n} for n in range(50)))
    time.sleep(0.2)  # segment.ms: the next record closes the segment

    def compacted() -> bool:
        kafka.produce(topic, [{"key": b"end", "value": b"x"}])
        return len(read_whole(source, topic)[0]) < 40

    wait_for(compacted, "compaction")
    found, holes, _ = read_whole(source, topic)

    assert [(it.offset, it.value) for it in found[:5]] == [(n, b"%d" % n) for n in range(45, 50)]
    assert holes[0] == Hole(0, 45, "compaction")
    assert {hole.cause for hole in holes} == {"compaction"}
    assert covered(source.read({(topic, 0): (10, 20)}), 10, 20) == ([], [Hole(10, 20, "compaction")], [])


def test_offsets_below_the_log_start_are_lost_to_retention(kafka: KafkaCluster, source: KafkaSource):
    topic = kafka.create_topic()
    kafka.produce(topic, numbered(10))
    kafka.delete_records(topic, 0, 4)

    (partition,) = source.partitions([topic])
    found, holes, _ = read_whole(source, topic)

    assert partition.log_start == 4
    assert [it.offset for it in found] == [4, 5, 6, 7, 8, 9]
    assert holes == [Hole(0, 4, "retention")]
    assert covered(source.read({(topic, 0): (1, 3)}), 1, 3) == ([], [Hole(1, 3, "retention")], [])


def test_chunks_never_go_past_what_was_asked(kafka: KafkaCluster, source: KafkaSource):
    topic = kafka.create_topic()
    kafka.produce(topic, numbered(100), linger_ms=500)  # one batch

    found, holes, _ = covered(source.read({(topic, 0): (13, 57)}), 13, 57)

    assert [it.value for it in found] == [b"%d" % n for n in range(13, 57)]
    assert holes == []
    assert list(source.read({(topic, 0): (5, 5)})) == []


def test_a_topic_made_anew_has_another_id(kafka: KafkaCluster, source: KafkaSource):
    topic = kafka.create_topic()
    (before,) = source.partitions([topic])
    kafka.delete_topic(topic)
    kafka.create_topic(topic)

    after = wait_for(lambda: [it for it in source.partitions([topic]) if it.topic_id != before.topic_id], "the new topic")

    assert after[0].cluster_id == before.cluster_id
    assert before.topic_id is not None
    assert len(before.topic_id) == 32


def test_a_position_past_the_end_of_a_topic_made_anew_is_a_changed_source(kafka: KafkaCluster, source: KafkaSource):
    topic = kafka.create_topic()
    kafka.produce(topic, numbered(3))

    with pytest.raises(SourceChanged, match=rf"{topic}\[0\].* ends at offset 3, before 10 "):
        list(source.read({(topic, 0): (10, 20)}))


def test_a_missing_topic_is_named_and_not_created(kafka: KafkaCluster, source: KafkaSource):
    there = kafka.create_topic()
    before = kafka.topics()
    ghost = f"ghost-{uuid.uuid4().hex}"

    with pytest.raises(TopicNotFound, match=ghost):
        source.partitions([there, ghost])
    with pytest.raises(TopicNotFound, match=ghost):
        list(source.read({(ghost, 0): (0, 1)}))
    with pytest.raises(TopicNotFound, match="no partition 7"):
        list(source.read({(there, 7): (0, 1)}))

    assert kafka.topics() == before


@pytest.mark.usefixtures("transactional")  # makes Kafka create its internal topic
def test_without_names_every_topic_but_internal_ones_is_described(kafka: KafkaCluster, source: KafkaSource):
    topic = kafka.create_topic(partitions=3)

    found = {it.topic for it in source.partitions(None)}

    assert topic in found
    assert "__transaction_state" in kafka.topics()
    assert not any(name.startswith("__") for name in found)
    assert [it.partition for it in source.partitions([topic])] == [0, 1, 2]


def test_many_partitions_are_read_side_by_side(kafka: KafkaCluster, source: KafkaSource):
    topic = kafka.create_topic(partitions=5)
    for partition in range(5):
        kafka.produce(topic, numbered(200, partition * 1000), partition=partition)
    asked = bounds(source, topic)

    chunks = list(source.read(asked))

    for (name, partition), (start, end) in asked.items():
        found, _, _ = covered([it for it in chunks if it.partition == partition], start, end)
        assert [it.value for it in found] == [b"%d" % n for n in range(partition * 1000, partition * 1000 + 200)], name


def test_a_broker_killed_and_started_again_is_waited_for(own_kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kafka_module, "FETCH_BYTES", 100_000)  # many responses, so that the kill falls between them
    topic = own_kafka.create_topic()
    own_kafka.produce(topic, ({"value": b"%d" % n + b"." * 1000} for n in range(3000)), batch_size=50_000)
    with KafkaSource(own_kafka.url) as source:
        chunks = source.read({(topic, 0): (0, 3000)})
        first = next(chunks)
        own_kafka.kill()
        starter = threading.Thread(target=own_kafka.start)
        starter.start()
        try:
            found, holes, _ = covered([first, *chunks], 0, 3000)
        finally:
            starter.join()
        end = source.epoch_end(topic, 0, found[0].leader_epoch or 0)

    assert first.next < 3000
    assert [it.value and int(it.value.rstrip(b".")) for it in found] == list(range(3000))
    assert holes == []
    assert end == 3000


def test_a_broker_that_stays_away_ends_the_reading(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kafka_module, "PATIENCE_S", 1)
    broker = ck.Producer({"test.mock.num.brokers": 1}, logger=QUIET)
    (node,) = broker.list_topics(timeout=10).brokers.values()
    send(broker, "orders", numbered(10))
    with KafkaSource(f"kafka://{node.host}:{node.port}") as source:
        asked = bounds(source, "orders")
        del broker

        with pytest.raises(SourceUnreachable, match="connection refused"):
            list(source.read(asked))


def test_a_node_that_answers_without_a_broker_is_waited_for_as_one_that_does_not_answer(embedded: str, monkeypatch: pytest.MonkeyPatch):
    send(ck.Producer({"bootstrap.servers": embedded}, logger=QUIET), "orders", numbered(10))
    plain, answers = Connections.send, iter(["knows no broker", "is away", "knows no broker"])

    async def send_to_one_that_restarts(self: Connections, address: Any, request: Any, **more: Any) -> Any:
        response = await plain(self, address, request, **more)
        if not isinstance(request, MetadataRequest) or not (how := next(answers, "")):
            return response
        if how == "is away":
            raise TryAgainError(SourceUnreachable("nothing answers"))
        return SimpleNamespace(to_object=lambda: response.to_object() | {"brokers": [], "topics": []})

    monkeypatch.setattr(Connections, "send", send_to_one_that_restarts)
    with KafkaSource(f"kafka://{embedded}") as source:
        assert bounds(source, "orders")["orders", 0] == (0, 10), "from the first word on"
        answers = iter(["knows no broker", "is away"])
        assert bounds(source, "orders")["orders", 0] == (0, 10)
        monkeypatch.setattr(kafka_module, "PATIENCE_S", 0)
    with KafkaSource(f"kafka://{embedded}") as source:
        answers = iter(["knows no broker"] * 9)
        with pytest.raises(SourceUnreachable, match="answers, but knows of no broker; is the cluster starting"):
            source.partitions(["orders"])


def test_an_end_that_moved_back_ends_the_reading(embedded: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kafka_module, "PATIENCE_S", 1)
    send(ck.Producer({"bootstrap.servers": embedded}, logger=QUIET), "orders", numbered(10))

    with KafkaSource(f"kafka://{embedded}") as source, pytest.raises(SourceChanged, match="ends at offset 10 now, before 20"):
        list(source.read({("orders", 0): (0, 20)}))


@pytest.fixture
def giving(embedded: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], str]:
    """The address of a broker with ten records, of whose answers no more than so many bytes come."""
    monkeypatch.setattr(kafka_module, "EMPTY_S", 0.1)
    monkeypatch.setattr(kafka_module, "PATIENCE_S", 0.4)
    plain = kafka_module.rows_of
    send(ck.Producer({"bootstrap.servers": embedded}, logger=QUIET), "orders", numbered(10))

    def only(size: int) -> str:
        monkeypatch.setattr(
            kafka_module,
            "rows_of",
            lambda response: ((at, row | {"message_set": row.get("message_set", b"")[:size]}) for at, row in plain(response)),
        )
        return f"kafka://{embedded}"

    return only


def test_offsets_of_which_a_broker_gives_nothing_although_it_has_them_are_a_hole_of_unknown_cause(giving):
    with KafkaSource(giving(0)) as source:
        assert covered(source.read({("orders", 0): (0, 10)}), 0, 10) == ([], [Hole(0, 10, "unknown")], [])


def test_a_batch_that_never_comes_whole_is_told_and_is_no_hole(giving):
    with (
        KafkaSource(giving(70)) as source,
        pytest.raises(SourceError, match=r"orders\[0\] cannot be read at offset 0: only 70 bytes come of the batch there"),
    ):
        list(source.read({("orders", 0): (0, 10)}))


def test_an_interrupt_cancels_what_is_under_way_and_the_source_goes_on(embedded: str):
    send(ck.Producer({"bootstrap.servers": embedded}, logger=QUIET), "orders", numbered(10))
    main = threading.main_thread().ident
    assert main
    with KafkaSource(f"kafka://{embedded}") as source:
        asked = bounds(source, "orders")
        threading.Timer(0.5, signal.pthread_kill, (main, signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            list(source.read({("orders", 0): (0, 20)}))  # waits for offsets that are not there

        assert time.monotonic() - began < 100  # it would wait for ever
        assert len(records(source.read(asked))) == 10


def test_an_address_where_nothing_listens_is_told_at_once():
    (port,) = free_ports(1)
    began = time.monotonic()

    with KafkaSource(f"kafka://127.0.0.1:{port}") as source, pytest.raises(SourceUnreachable, match="connection refused"):
        source.partitions(None)

    assert time.monotonic() - began < 25  # an answer is waited for half a minute


@pytest.mark.parametrize("url", ["localhost:9092", "kafka://", "http://localhost:9092", "kafka://localhost:http", "kafka://host:1/topic"])
def test_an_address_that_is_none_is_refused(url: str):
    with pytest.raises(SourceError, match="write it like kafka://"):
        KafkaSource(url)


@pytest.mark.parametrize("opened", [open_source, open_groups])
@pytest.mark.parametrize(
    "url",
    [
        "kafka://bob:hunter2@localhost:9092",
        "kafka://localhost:9092?sasl.password=hunter2",
        "kafka://localhost?sasl.password=hunter2",
        "kafka:/bob:hunter2@localhost",
        "KAFKA://bob:hunter2@localhost",
        "sasl_ssl://bob:hunter2@localhost:9093",
        "bob:hunter2/@x@localhost:9092",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_shown(opened: Callable[[str], Any], url: str):
    with pytest.raises(SourceError) as refused:
        opened(url)

    assert "hunter2" not in str(refused.value)


def test_a_password_is_neither_accepted_in_the_address_nor_shown():
    with pytest.raises(SourceError) as refused:
        KafkaSource("kafka://bob:hunter2@localhost:9092")
    login = {"sasl_mechanism": "PLAIN", "sasl_plain_username": "bob", "sasl_plain_password": "hunter2"}
    source = KafkaSource("kafka://localhost:9092", security_protocol="SASL_SSL", **login)

    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in repr(source) + source.url


def test_reading_works_inside_a_running_event_loop(kafka: KafkaCluster, source: KafkaSource):
    topic = kafka.create_topic()
    kafka.produce(topic, numbered(10))

    async def cell() -> list[Record]:
        return read_whole(source, topic)[0]

    assert len(asyncio.run(cell())) == 10


def test_a_time_finds_the_offset_that_a_plain_scan_finds(kafka: KafkaCluster, source: KafkaSource):
    topic = kafka.create_topic()
    kafka.produce(topic, ({"value": b"x", "timestamp": 1_000_000 + n * 7 % 100 * 1000} for n in range(100)), batch_size=500)
    whole, _, _ = read_whole(source, topic)

    for time_ms in [-5, 0, 1_000_000, 1_000_001, 1_042_500, 1_099_000, 1_099_001]:
        plain = next((it.offset for it in whole if it.timestamp_ms >= time_ms), 100)
        assert source.offset_at(topic, 0, time_ms) == plain, time_ms


def test_a_reader_that_goes_away_leaves_the_source_usable(kafka: KafkaCluster, source: KafkaSource, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kafka_module, "FETCH_BYTES", 10_000)
    topic = kafka.create_topic()
    kafka.produce(topic, ({"value": b"." * 1000} for _ in range(500)), batch_size=5000)
    asked = bounds(source, topic)

    reading = source.read(asked)
    next(reading)
    reading.close()

    assert len(records(source.read(asked))) == 500


def test_memory_does_not_grow_while_nobody_takes_the_chunks(kafka: KafkaCluster, source: KafkaSource, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kafka_module, "FETCH_BYTES", 10_000)
    topic = kafka.create_topic()
    kafka.produce(topic, ({"value": b"." * 1000} for _ in range(500)), batch_size=5000)
    sent: list[Any] = []
    plain = kafka_module._Cluster._fetch_request
    monkeypatch.setattr(kafka_module._Cluster, "_fetch_request", lambda *args: sent.append(1) or plain(*args))

    reading = source.read(bounds(source, topic))
    next(reading)
    time.sleep(0.5)
    waiting = len(sent)

    assert waiting <= 4
    assert len(records(reading)) > 400
    assert len(sent) > waiting


def test_closing_ends_the_thread_and_the_source(kafka: KafkaCluster):
    source = KafkaSource(kafka.url)
    source.partitions(None)
    assert any(thread.name == "eslab-kafka" for thread in threading.enumerate())

    source.close()
    source.close()

    assert not any(thread.name == "eslab-kafka" for thread in threading.enumerate())
    with pytest.raises(SourceError, match="closed"):
        source.partitions(None)


def test_the_embedded_broker_is_read_too(embedded: str):
    producer = ck.Producer({"bootstrap.servers": embedded}, logger=QUIET)
    for partition in range(4):
        send(producer, "orders", [{"key": b"k", "value": b"%d" % n, "timestamp": 1000 + n} for n in range(500)], partition=partition)

    with KafkaSource(f"kafka://{embedded}") as source:
        asked = bounds(source, "orders")
        chunks = list(source.read(asked))
        with pytest.raises(TopicNotFound):
            source.partitions(["ghost"])
        (offset, topics) = source.offset_at("orders", 2, 1250), source.partitions(None)

    assert list(asked.values()) == [(0, 500)] * 4
    for partition in range(4):
        found, holes, _ = covered([it for it in chunks if it.partition == partition], 0, 500)
        assert [it.value for it in found] == [b"%d" % n for n in range(500)]
        assert holes == []
    assert offset == 250
    assert {it.topic for it in topics} == {"orders"}
    assert all(it.topic_id and it.cluster_id for it in topics)
