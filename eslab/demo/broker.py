"""Where the story is published: the embedded broker, or a cluster of the user's, and how it gets there in chunks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from eslab.demo.story import PARTITIONS
from eslab.errors import AccessDenied, SourceError, SourceUnreachable
from eslab.model import Record

CHUNK_BYTES = 3_500_000  # per partition: the embedded broker keeps 5 MB of each, then drops the oldest batches
CHUNK_RECORDS = 40_000  # a chunk takes about a second, so that the progress moves
_OVERHEAD = 70  # bytes that a record takes beside key, value and headers, generously
_TIMEOUT_S = 15
_MARK = "eslab.demo"  # header of the first record in each partition on a user's cluster: whose topic this is
_CONFIG = {"retention.ms": "-1", "message.timestamp.after.max.ms": str(2**63 - 1)}


class Broker:
    """A place that holds the demo's topics. `url` names it as a source; `ends` holds what stood in each partition at first."""

    def __init__(self, producer: Producer, address: str, ends: dict[tuple[str, int], int], mark: bytes | None) -> None:
        self.url = f"kafka://{address}"
        self.address = address
        self.ends = ends
        self._producer = producer
        self._mark = mark
        self._failure: Any = None

    def publish(self, chunk: Iterable[Record]) -> None:
        """Write the records and wait until the broker has them all. What stands there already, from an earlier run, is left out."""
        for record in chunk:
            if record.offset < self.ends.get((record.topic, record.partition), 0):
                continue
            headers = list(record.headers)
            if self._mark and not record.offset:
                headers.append((_MARK, self._mark))
            self._produce(record, headers)
        self._producer.flush()
        if self._failure is not None:
            raise SourceError(
                f"{self.address} did not take a record of the demo: {self._failure}; run the demo again, it goes on where it stopped"
            )

    def _produce(self, record: Record, headers: list[tuple[str, bytes | None]]) -> None:
        while True:
            try:
                self._producer.produce(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    partition=record.partition,
                    timestamp=record.timestamp_ms,
                    headers=headers,
                    on_delivery=self._delivered,
                )
            except BufferError:
                self._producer.poll(1)
            else:
                return

    def _delivered(self, error: Any, _message: Any) -> None:
        self._failure = self._failure or error


def chunks(story: Iterable[Record]) -> Iterator[list[Record]]:
    """The records in pieces that the embedded broker can hold."""
    chunk: list[Record] = []
    sizes: dict[tuple[str, int], int] = {}
    for record in story:
        where = record.topic, record.partition
        size = _OVERHEAD + len(record.key or b"") + len(record.value or b"")
        if record.headers:
            size += sum(10 + len(key) + len(value or b"") for key, value in record.headers)
        sizes[where] = sizes.get(where, 0) + size
        if chunk and (sizes[where] > CHUNK_BYTES or len(chunk) >= CHUNK_RECORDS):
            yield chunk
            chunk, sizes = [], {where: size}
        chunk.append(record)
    if chunk:
        yield chunk


def embedded(topics: Sequence[str]) -> Broker:
    """A new broker within this process, with these topics, empty. It goes with the object."""
    producer = Producer(_producing({"test.mock.num.brokers": 1, "bootstrap.servers": "", "enable.idempotence": False}))
    for topic in topics:
        cluster = producer.list_topics(topic, timeout=_TIMEOUT_S)  # asking is what makes a topic there
    node = next(iter(cluster.brokers.values()))
    return Broker(producer, f"{node.host}:{node.port}", {}, None)


def cluster(address: str, topics: Sequence[str], mark: str) -> Broker:
    """The user's Kafka at `host:port`, with these topics: new ones, or the demo's own of an earlier run with the same `mark`.

    Raises `SourceError` if one of them exists and holds anything else; nothing is created then.
    """
    admin = AdminClient({"bootstrap.servers": address, "logger": _silent()})
    try:
        found = admin.list_topics(timeout=_TIMEOUT_S).topics
        existing = [topic for topic in topics if topic in found]
        ends = _check(admin, address, existing, {topic: len(found[topic].partitions) for topic in existing}, mark)
        missing = [NewTopic(topic, num_partitions=PARTITIONS, config=_CONFIG) for topic in topics if topic not in found]
        for future in admin.create_topics(missing).values() if missing else ():
            future.result()
    except KafkaException as exc:
        raise _ours(exc, address) from exc
    producer = Producer(_producing({"bootstrap.servers": address, "enable.idempotence": True, "compression.type": "lz4"}))
    return Broker(producer, address, ends, mark.encode())


def _producing(more: dict[str, Any]) -> dict[str, Any]:
    batches = {"linger.ms": 50, "batch.size": 1_000_000, "batch.num.messages": 100_000, "queue.buffering.max.messages": 2 * CHUNK_RECORDS}
    return {"acks": "all", "max.in.flight": 1, "logger": _silent(), **batches, **more}


def _check(admin: AdminClient, address: str, topics: Sequence[str], partitions: dict[str, int], mark: str) -> dict[tuple[str, int], int]:
    """The end of each partition of these topics, if all of them are the demo's."""
    if not topics:
        return {}
    resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
    configs = {resource.name: future.result() for resource, future in admin.describe_configs(resources).items()}
    reading = {"group.id": "eslab-demo", "enable.auto.commit": False, "fetch.wait.max.ms": 5, "fetch.message.max.bytes": 10_000}
    consumer = Consumer({"bootstrap.servers": address, "logger": _silent(), **reading})
    ends = {}
    try:
        for topic in topics:
            fits = partitions[topic] == PARTITIONS and all(configs[topic][name].value == value for name, value in _CONFIG.items())
            for partition in range(PARTITIONS if fits else 0):
                start, ends[topic, partition] = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_TIMEOUT_S)
                # an empty partition with the demo's settings is one that was made just before a run broke off
                fits &= start == 0 and (not ends[topic, partition] or _first_mark(consumer, topic, partition) == mark.encode())
            if not fits:
                raise SourceError(
                    f"{address} has a topic {topic} that is not this demo's ({mark}); nothing was written: delete it, or ask for the demo it holds"
                )
    finally:
        consumer.close()
    return ends


def _first_mark(consumer: Consumer, topic: str, partition: int) -> bytes | None:
    consumer.assign([TopicPartition(topic, partition, 0)])
    message = consumer.poll(_TIMEOUT_S)
    if message is None or message.error():
        return None
    return next((value for key, value in message.headers() or () if key == _MARK), None)


def _ours(exc: KafkaException, address: str) -> SourceError:
    error = exc.args[0]
    if "AUTHORIZATION" in error.name():
        return AccessDenied(f"{address} does not allow the demo to make or read its topics: {error.str()}")
    if error.name().startswith("_"):  # librdkafka's own: nothing came back from a broker
        return SourceUnreachable(f"{address} did not answer: {error.str()}; the demo needs no Kafka unless it is asked to use one")
    return SourceError(f"{address} refused what the demo asked: {error.str()}")


def _silent() -> logging.Logger:
    """A logger that keeps librdkafka's lines out of notebooks; what fails is raised."""
    logger = logging.getLogger("eslab.demo.broker")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger
