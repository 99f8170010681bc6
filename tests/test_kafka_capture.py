"""Capture from a real Apache Kafka: never glued, never forked, nothing lost or doubled whatever fails, every gap explained."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiokafka
import pytest
from conftest import need
from crc32c import crc32c
from kafka_cluster import KafkaCluster, missing, send, wait_for

from eslab.capture import capture, plan
from eslab.errors import EslabError, SourceChanged, SourceError, TopicNotFound
from eslab.lab import Lab
from eslab.locking import writer_lock
from eslab.segments import Log, reaches
from eslab.sources import Hole, kafka_connections
from eslab.sources import kafka as kafka_module
from eslab.sources.kafka import KafkaSource


def take(url: str, folder: Path, topic: str, **bounds: Any) -> list[str]:
    """One capture into `folder/log`; what it had to say."""
    said: list[str] = []
    with KafkaSource(url) as source, writer_lock(folder):
        log = Log(folder / "log")
        todo = plan(source, log, [topic], **bounds)
        list(capture(source, log, todo, say=said.append))
    return [*todo.notices, *said]


Row = tuple[int, bytes | None, bytes | None, int, tuple[tuple[str, bytes | None], ...]]


def held(folder: Path, incarnation: int = 0) -> list[Row]:
    """Every record of an incarnation of partition 0: offset, key, value, time and headers."""
    return [
        (
            row["offset"],
            row["key"],
            row["value"],
            row["timestamp_ms"],
            tuple((head["key"].decode(), head["value"]) for head in row["headers"]),
        )
        for life, segments in Log(folder / "log").lives().items()
        if life[1:] == (0, incarnation)
        for reach in reaches(segments)
        for table in reach.read(["offset", "key", "value", "timestamp_ms", "headers"])
        for row in table.to_pylist()
    ]


def incarnations(folder: Path) -> list[int]:
    return sorted({life[2] for life in Log(folder / "log").lives()})


def holes(folder: Path) -> list[Hole]:
    return [hole for _, hole in Log(folder / "log").holes()]


def consumed(bootstrap: str, topic: str) -> list[Row]:
    """The topic by aiokafka's own consumer, read committed."""

    async def loop() -> list[Row]:
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="none", isolation_level="read_committed"
        )
        await consumer.start()
        try:
            at = aiokafka.TopicPartition(topic, 0)
            consumer.assign([at])
            (start,), (end,) = (await consumer.beginning_offsets([at])).values(), (await consumer.end_offsets([at])).values()
            consumer.seek(at, start)
            found: list[Row] = []
            while await consumer.position(at) < end:
                for batch in (await consumer.getmany(timeout_ms=500)).values():
                    found += [(it.offset, it.key, it.value, it.timestamp, tuple(it.headers)) for it in batch]
            return found
        finally:
            await consumer.stop()

    return asyncio.run(loop())


def numbered(count: int, first: int = 0, size: int = 0) -> Iterator[dict[str, Any]]:
    return (
        {"key": b"k%d" % (n % 7), "value": b"%d" % n + b"." * size, "headers": [("n", b"%d" % n), ("n", None)][: n % 3]}
        for n in range(first, first + count)
    )


def values(rows: list[Row]) -> list[int]:
    return [int((value or b"").rstrip(b".")) for _, _, value, *_ in rows]


@pytest.fixture(scope="module")  # and no longer: idle, each node takes a twentieth of a core
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Three nodes, for leaders that die and followers that lag."""
    need("kafka", missing())
    with KafkaCluster(tmp_path_factory.mktemp("trio"), nodes=3, heap="384m") as cluster:
        yield cluster


# --- identity -------------------------------------------------------------------------------------


def test_a_topic_made_anew_is_never_glued_whether_it_ends_above_or_below_what_was_captured(kafka: KafkaCluster, tmp_path):
    topic = kafka.create_topic()
    kafka.produce(topic, numbered(10))
    take(kafka.url, tmp_path, topic)
    for incarnation, (count, first) in enumerate([(25, 100), (4, 200)], 1):
        kafka.delete_topic(topic)
        kafka.create_topic(topic)
        kafka.produce(topic, numbered(count, first))
        said = wait_for(lambda: take(kafka.url, tmp_path, topic), "the new topic")
        assert "deleted and made anew" in said[0]
        assert values(held(tmp_path, incarnation)) == list(range(first, first + count))
        assert held(tmp_path, incarnation) == consumed(kafka.bootstrap, topic)
    assert values(held(tmp_path, 0)) == list(range(10))
    assert incarnations(tmp_path) == [0, 1, 2]


def test_a_log_truncated_under_the_same_topic_id_is_never_glued_whether_between_two_captures_or_in_the_midst_of_one(
    own_kafka: KafkaCluster, tmp_path, monkeypatch
):
    between, amidst = own_kafka.create_topic(), own_kafka.create_topic()
    kept = {}
    for topic in (between, amidst):
        own_kafka.produce(topic, numbered(5))
        kept[topic] = wait_for(lambda topic=topic: own_kafka.log_file(topic).stat().st_size, "the first five on disk")
    own_kafka.produce(between, numbered(5, 5))
    for first in range(5, 50, 5):  # a batch each
        own_kafka.produce(amidst, numbered(5, first))
    take(own_kafka.url, tmp_path / "between", between)
    with KafkaSource(own_kafka.url) as source:
        before = source.partitions([between])[0].topic_id

    def another_leader_without_the_last(chunk: Any) -> None:
        if chunk.next != 10:
            return
        own_kafka.kill()  # what was not flushed yet is lost with the machine
        for topic, size in kept.items():
            with own_kafka.log_file(topic).open("r+b") as log:
                log.truncate(size)
        own_kafka.start()
        own_kafka.produce(between, numbered(20, 100))
        own_kafka.produce(amidst, numbered(100, 100))

    monkeypatch.setattr(kafka_module, "FETCH_BYTES", 200)
    monkeypatch.setattr("eslab.capture.SEGMENT_BYTES", 1)  # a commit for each chunk
    with KafkaSource(own_kafka.url) as source, writer_lock(tmp_path / "amidst"):
        log = Log(tmp_path / "amidst" / "log")
        with pytest.raises(SourceChanged, match=rf"{amidst}\[0\] was truncated below offset 10 while it was captured"):
            list(capture(source, log, plan(source, log, [amidst]), on_chunk=another_leader_without_the_last))
    monkeypatch.undo()

    with KafkaSource(own_kafka.url) as source:
        assert source.partitions([between])[0].topic_id == before
    said = take(own_kafka.url, tmp_path / "between", between)
    assert f"{between}[0]: truncated below offset 10, which was captured; what comes now is incarnation 1" in said
    assert values(held(tmp_path / "between", 0)) == list(range(10))
    assert held(tmp_path / "between", 1) == consumed(own_kafka.bootstrap, between)
    assert values(held(tmp_path / "between", 1)) == [*range(5), *range(100, 120)]

    assert values(held(tmp_path / "amidst")) == list(range(5)), "what both leaders have"
    assert take(own_kafka.url, tmp_path / "amidst", amidst) == []
    assert held(tmp_path / "amidst") == consumed(own_kafka.bootstrap, amidst)
    assert incarnations(tmp_path / "amidst") == [0]


def test_a_compacted_topic_captured_again_and_again_is_never_forked_and_its_holes_are_explained(kafka: KafkaCluster, tmp_path):
    topic = kafka.create_topic(cleanup_policy="compact", segment_ms=100, min_cleanable_dirty_ratio=0.001, delete_retention_ms=100)
    late = tmp_path / "late"
    written: list[tuple[int, int]] = []

    def compacted() -> bool:
        first = len(written)
        kafka.produce(topic, numbered(20, first))
        written.extend((offset, offset) for offset in range(first, first + 20))
        assert take(kafka.url, tmp_path / "often", topic) == []
        return len(consumed(kafka.bootstrap, topic)) < len(written) - 30

    wait_for(compacted, "compaction")
    take(kafka.url, late, topic)
    often = held(tmp_path / "often")
    assert incarnations(tmp_path / "often") == [0]
    assert set(held(late)) <= set(often), "what compaction left is what was captured before it"
    assert {hole.cause for hole in holes(late)} == {"compaction"}
    assert len(held(late)) + sum(hole.next - hole.start for hole in holes(late)) == len(written)


def test_another_clusters_topic_of_the_same_name_is_another_incarnation(kafka: KafkaCluster, trio: KafkaCluster, tmp_path):
    topic = kafka.create_topic()
    trio.create_topic(topic)
    kafka.produce(topic, numbered(10))
    trio.produce(topic, numbered(30, 500))
    take(kafka.url, tmp_path, topic)

    said = take(trio.url, tmp_path, topic)

    assert "another cluster's" in said[0]
    assert (values(held(tmp_path, 0)), values(held(tmp_path, 1))) == (list(range(10)), list(range(500, 530)))
    kafka.produce(topic, numbered(5, 10))
    assert take(kafka.url, tmp_path, topic) == [], "back on the first cluster its own life goes on"
    assert values(held(tmp_path, 0)) == list(range(15))


# --- gaps -----------------------------------------------------------------------------------------


def test_every_kind_of_gap_is_explained_at_once(kafka: KafkaCluster, tmp_path):
    topic = kafka.create_topic()
    producer = kafka.producer(transactional_id=f"tx-{uuid.uuid4().hex}")
    producer.init_transactions(30)
    kafka.produce(topic, numbered(10))
    for commit in (True, False):  # 10–12 and a marker, 14–16 aborted and a marker
        producer.begin_transaction()
        send(producer, topic, numbered(3, 10))
        (producer.commit_transaction if commit else producer.abort_transaction)(30)
    kafka.wait_until_stable(topic, at_least=18)
    kafka.produce(topic, numbered(10, 20))
    kafka.delete_records(topic, 0, 4)

    take(kafka.url, tmp_path, topic, start=6)
    told = [Hole(0, 4, "retention"), Hole(4, 6, "not requested"), Hole(13, 14, "control"), Hole(14, 17, "aborted"), Hole(17, 18, "control")]
    assert holes(tmp_path) == told
    take(kafka.url, tmp_path, topic, start=0)
    assert holes(tmp_path) == [told[0], *told[2:]]
    assert held(tmp_path) == consumed(kafka.bootstrap, topic)


@pytest.mark.parametrize("how", ["delete_records", "retention_ms", "retention_bytes"])
def test_retention_that_overtook_a_capture_is_told_before_the_rest_is_read(kafka: KafkaCluster, tmp_path, how):
    if how != "delete_records" and not kafka.owned:
        pytest.skip("a broker that is not ours looks for what is old every five minutes")
    topic = kafka.create_topic()
    old = {"timestamp": 1_700_000_000_000}
    kafka.produce(topic, ({**record, **old} for record in numbered(10)))
    take(kafka.url, tmp_path, topic)
    kafka.produce(topic, ({**record, **old} for record in numbered(15, 10)))
    kafka.produce(topic, numbered(5, 25))  # so much later that a new file of the log begins
    if how == "delete_records":
        kafka.delete_records(topic, 0, 25)
    else:
        kafka.alter_topic(topic, **{how: 86_400_000 if how == "retention_ms" else 1})
        wait_for(lambda: kafka.start_of(topic) == 25, "retention")

    said = take(kafka.url, tmp_path, topic)

    (notice,) = said
    assert notice.startswith(f"{topic}[0]: offsets 10–24 are lost: retention removed them before they were captured")
    assert holes(tmp_path) == [Hole(10, 25, "retention")]
    assert values(held(tmp_path)) == [*range(10), *range(25, 30)]


def test_retention_that_overtakes_a_running_capture_is_told_at_once(kafka: KafkaCluster, tmp_path, monkeypatch):
    monkeypatch.setattr(kafka_module, "FETCH_BYTES", 20_000)
    topic = kafka.create_topic(segment_bytes=1 << 20)
    kafka.produce(topic, numbered(6000, size=1000), batch_size=10_000)
    said: list[tuple[int, str]] = []
    reached = [0]

    def on_chunk(chunk: Any) -> None:
        if not reached[0]:
            kafka.delete_records(topic, 0, 4500)
            time.sleep(1.5)  # until the files are gone
        reached[0] = chunk.next

    with KafkaSource(kafka.url) as source, writer_lock(tmp_path):
        log = Log(tmp_path / "log")
        list(capture(source, log, plan(source, log, [topic]), on_chunk=on_chunk, say=lambda notice: said.append((reached[0], notice))))

    ((at, notice),) = said
    assert at < 6000
    assert "are lost: retention removed them" in notice
    (hole,) = holes(tmp_path)
    assert (hole.next, hole.cause) == (4500, "retention")
    assert values(held(tmp_path)) == [*range(hole.start), *range(4500, 6000)]


# --- nothing lost, nothing doubled -----------------------------------------------------------------


class Proxy:
    """A way to a broker that can be cut: every connection breaks after so many bytes from it, until it is mended."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.cut_after: int | None = None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:  # noqa: FBT001
        passed = 0
        try:
            while data := source.recv(4096):
                passed += len(data)
                if counted and self.cut_after is not None and passed > self.cut_after:
                    self.cuts += 1
                    break  # in the middle of a response
                sink.sendall(data)
        except OSError:
            pass
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # a close alone would not wake the other direction's thread
            one.close()

    def close(self) -> None:
        self._server.close()


@contextmanager
def through(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every connection of the source go through the proxy, whatever address the cluster names."""
    plain = kafka_connections._Connection
    with monkeypatch.context() as patch:
        patch.setattr(kafka_connections, "_Connection", lambda host, port, **more: plain("127.0.0.1", proxy.port, **more))
        yield
    proxy.close()


def test_a_network_cut_in_mid_fetch_loses_and_doubles_nothing(kafka: KafkaCluster, tmp_path, monkeypatch):
    topic = kafka.create_topic()
    kafka.produce(topic, numbered(3000, size=500), batch_size=20_000)
    monkeypatch.setattr(kafka_module, "FETCH_BYTES", 300_000)  # large enough to go past the stream
    host, port = kafka.bootstrap.split(":")
    proxy = Proxy((host, int(port)))
    proxy.cut_after = 450_000  # each connection brings one response and half of the next

    with through(proxy, monkeypatch):
        take(f"kafka://127.0.0.1:{proxy.port}", tmp_path, topic)

    assert proxy.cuts >= 3
    assert held(tmp_path) == consumed(kafka.bootstrap, topic)
    assert (len(held(tmp_path)), holes(tmp_path)) == (3000, [])


def during(kafka: KafkaCluster, folder: Path, topic: str, trouble: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture in whose midst the trouble begins; what it captured is the topic."""
    monkeypatch.setattr(kafka_module, "FETCH_BYTES", 100_000)
    begun: list[threading.Thread] = []

    def on_chunk(chunk: Any) -> None:
        if not begun and chunk.next > 500:
            begun.append(threading.Thread(target=trouble))
            begun[0].start()

    with KafkaSource(kafka.url) as source, writer_lock(folder):
        log = Log(folder / "log")
        list(capture(source, log, plan(source, log, [topic]), on_chunk=on_chunk))
    begun[0].join()
    assert held(folder) == consumed(kafka.bootstrap, topic)
    assert (len(held(folder)), holes(folder), incarnations(folder)) == (3000, [], [0])


def test_a_broker_that_is_restarted_in_mid_capture_loses_and_doubles_nothing(own_kafka: KafkaCluster, tmp_path, monkeypatch):
    topic = own_kafka.create_topic()
    own_kafka.produce(topic, numbered(3000, size=500), batch_size=20_000)
    during(own_kafka, tmp_path, topic, own_kafka.restart, monkeypatch)


def test_a_leader_that_dies_in_mid_capture_loses_and_doubles_nothing(trio: KafkaCluster, tmp_path, monkeypatch):
    topic = trio.create_topic(replicas=3)
    trio.produce(topic, numbered(3000, size=500), batch_size=20_000)
    leader = trio.admin.list_topics(topic, timeout=10).topics[topic].partitions[0].leader
    during(trio, tmp_path, topic, lambda: trio.kill(leader), monkeypatch)
    trio.start(leader)


def test_a_broker_that_stands_still_for_a_while_is_waited_for(trio: KafkaCluster, tmp_path, monkeypatch):
    topic = trio.create_topic(replicas=1)
    trio.produce(topic, numbered(3000, size=500), batch_size=20_000)
    monkeypatch.setattr(kafka_connections, "REQUEST_MS", 1500)
    leader = trio.admin.list_topics(topic, timeout=10).topics[topic].partitions[0].leader
    process = trio._processes[leader]

    def stand_still() -> None:
        process.send_signal(signal.SIGSTOP)
        time.sleep(4)
        process.send_signal(signal.SIGCONT)

    during(trio, tmp_path, topic, stand_still, monkeypatch)


def sealed(batch: bytearray) -> bytes:
    struct.pack_into(">I", batch, 17, crc32c(bytes(batch[21:])))
    return bytes(batch)


def bad_crc(batch: bytearray) -> bytes:
    batch[-1] ^= 1
    return bytes(batch)


def unknown_codec(batch: bytearray) -> bytes:
    batch[22] |= 7
    return sealed(batch)


def cut_short(batch: bytearray) -> bytes:
    """It claims to go on where the file ends."""
    struct.pack_into(">i", batch, 8, 1 << 20)
    return sealed(batch)


def with_a_damaged_batch(cluster: KafkaCluster, damaged: Callable[[bytearray], bytes]) -> str:
    """A topic of three batches of five, of which the broker's disk damaged the second."""
    topic = cluster.create_topic()
    for first in (0, 5, 10):
        cluster.produce(topic, numbered(5, first), linger_ms=200)
    data = cluster.log_file(topic).read_bytes()
    at = 12 + struct.unpack_from(">i", data, 8)[0]
    end = at + 12 + struct.unpack_from(">i", data, at + 8)[0]
    assert struct.unpack_from(">q", data, at) == (5,), "a batch for each five"
    with cluster.log_file(topic).open("r+b") as log:
        log.seek(at)
        log.write(damaged(bytearray(data[at:end])))
    return topic


@pytest.mark.parametrize(
    ("damaged", "why"),
    [
        (bad_crc, "the checksum of the batch does not fit its bytes"),
        (unknown_codec, "the batch does not decompress (codec 7 is none of Kafka's)"),
    ],
)
def test_a_batch_that_is_damaged_on_the_brokers_disk_is_told_and_what_stands_before_and_behind_it_is_captured(
    own_kafka: KafkaCluster, tmp_path, damaged, why
):
    topic = with_a_damaged_batch(own_kafka, damaged)

    with pytest.raises(SourceError) as told:
        take(own_kafka.url, tmp_path, topic)

    assert f"{topic}[0] cannot be read at offset 5: " in str(told.value)
    assert why in str(told.value)
    assert values(held(tmp_path)) == list(range(5))
    take(own_kafka.url, tmp_path, topic, start=10)
    assert values(held(tmp_path)) == [*range(5), *range(10, 15)]
    assert holes(tmp_path) == [Hole(5, 10, "not requested")]


def test_what_the_broker_itself_no_longer_finds_behind_a_damaged_length_is_a_gap_of_unknown_cause_and_told(
    own_kafka: KafkaCluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(kafka_module, "EMPTY_S", 0.2)
    monkeypatch.setattr(kafka_module, "PATIENCE_S", 1)
    topic = with_a_damaged_batch(own_kafka, cut_short)

    (notice,) = take(own_kafka.url, tmp_path, topic)

    assert f"{topic}[0]: offsets 5–14 are in the log by the broker's own account, and it gives nothing of them" in notice
    assert holes(tmp_path) == [Hole(5, 15, "unknown")]
    assert values(held(tmp_path)) == list(range(5))


def test_two_captures_at_once_of_the_same_topic_are_both_whole(kafka: KafkaCluster, tmp_path):
    topic = kafka.create_topic()
    kafka.produce(topic, numbered(5000, size=200), batch_size=20_000)
    threads = [threading.Thread(target=take, args=(kafka.url, tmp_path / name, topic)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held(tmp_path / "one") == held(tmp_path / "two") == consumed(kafka.bootstrap, topic)


# --- the user's cluster is only read ----------------------------------------------------------------


def test_a_mistyped_topic_is_named_and_nothing_is_created_anywhere(kafka: KafkaCluster, tmp_path):
    before = kafka.topics()
    lab = Lab(tmp_path / "lab", say=lambda notice: None)
    with pytest.raises(TopicNotFound, match="has no topic ordrs"):
        lab.snapshot(kafka.url, "ordrs", progress=False)
    with pytest.raises(TopicNotFound):
        lab.snapshot(kafka.url, "ordrs", start="2026-01-01T00:00:00Z", progress=False)
    assert kafka.topics() == before
    assert not list((tmp_path / "lab").rglob("*.parquet"))


def test_a_topic_deleted_in_mid_capture_is_told_what_was_committed_stands_and_it_is_not_made_again(
    kafka: KafkaCluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(kafka_module, "FETCH_BYTES", 50_000)
    monkeypatch.setattr("eslab.capture.SEGMENT_BYTES", 100_000)
    topic = kafka.create_topic()
    kafka.produce(topic, numbered(3000, size=500), batch_size=20_000)
    committed: list[int] = []

    def all_of_it(source: KafkaSource, log: Log) -> None:
        for segment in capture(source, log, plan(source, log, [topic])):
            if not committed:
                kafka.delete_topic(topic)
            committed.append(segment.footer.next)

    with KafkaSource(kafka.url) as source, writer_lock(tmp_path), pytest.raises(EslabError) as told:
        all_of_it(source, Log(tmp_path / "log"))
    assert isinstance(told.value, TopicNotFound | SourceChanged)
    assert topic in str(told.value)
    assert topic not in kafka.topics()
    assert values(held(tmp_path)) == list(range(committed[-1]))


# --- a follower that lags: the last of the tests, for it goes on lagging


def test_a_lagging_follower_is_believed_by_nobody(trio: KafkaCluster, tmp_path, monkeypatch):
    topic = trio.create_topic(replicas=3)
    leader = trio.admin.list_topics(topic, timeout=10).topics[topic].partitions[0].leader
    follower = next(node for node in (1, 2, 3) if node != leader)
    trio.kill(follower)
    trio.produce(topic, numbered(3000, size=1000), acks=1, batch_size=50_000)
    settings = trio._file(follower)
    usual = settings.read_text()
    # its requests to the leader wait for more than there is: it stays behind for a minute
    settings.write_text(
        f"{usual}replica.fetch.min.bytes=1000000000\nreplica.fetch.wait.max.ms=60000\nreplica.lag.time.max.ms=90000\nreplica.socket.timeout.ms=120000\n"
    )
    trio.start(follower)
    settings.write_text(usual)
    host, port = trio.address(follower).split(":")
    asked: list[int] = []
    plain = kafka_module._Cluster._by_leader

    async def to_the_follower(self: Any, positions: Any, out: Any) -> Any:
        """For the first rounds, everything is asked of the one who lags."""
        found = await plain(self, positions, out)
        asked.append(1)
        return {(host, int(port)): dict(positions)} if len(asked) <= 3 else found

    monkeypatch.setattr(kafka_module._Cluster, "_by_leader", to_the_follower)
    monkeypatch.setattr(kafka_module, "EMPTY_S", 1)

    take(trio.url, tmp_path, topic)

    assert len(asked) > 3
    assert values(held(tmp_path)) == list(range(3000))
    assert holes(tmp_path) == []
