"""Where the benchmarks of captures read from: a real Apache Kafka, or the embedded broker, and topics as a producer fills them."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka

from benchmarks.data import PARTITIONS, value

DISTINCT = 100_000  # values; a batch of 256 KiB holds some 600, so that repeating them helps no codec


def why_no_apache() -> str | None:
    """Why there is no real Kafka to read from: none is named by ESLAB_TEST_KAFKA, and none can be started. None if there is."""
    return None if os.environ.get("ESLAB_TEST_KAFKA") else _tests_own().missing()


@contextlib.contextmanager
def apache(folder: Path) -> Iterator[str]:
    """The bootstrap servers of the Kafka that ESLAB_TEST_KAFKA names, or of one that is started here."""
    if given := os.environ.get("ESLAB_TEST_KAFKA"):
        yield given
    else:
        with _tests_own().KafkaCluster(folder / "kafka") as cluster:
            yield cluster.bootstrap


@contextlib.contextmanager
def embedded() -> Iterator[str]:
    """The bootstrap servers of librdkafka's mock broker: 4 partitions, some 30,000 events."""
    producer = confluent_kafka.Producer({"test.mock.num.brokers": 1})
    yield next(iter(producer.list_topics().brokers.values())).host_port()
    del producer


def fill(bootstrap: str, records: int, *, partitions: int = PARTITIONS, batch: int | None = None, distinct: int = DISTINCT) -> str:
    """A topic of synthetic orders, lz4; batches as full as a busy producer's, or of so many records. Stamped now: old records fall to retention."""
    topic = f"bench-{time.time_ns()}"
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": bootstrap})
    with contextlib.suppress(confluent_kafka.KafkaException):  # the embedded broker has no admin calls, and makes topics by itself
        admin.create_topics([confluent_kafka.admin.NewTopic(topic, partitions, 1)])[topic].result(20)
    full = {"batch.num.messages": batch} if batch else {"batch.size": 262_144}
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, "compression.type": "lz4", "linger.ms": 50, **full})
    chance = random.Random(1)
    values = [value(number, chance) for number in range(min(distinct, records))]
    for number in range(records):
        key, payload = values[number % len(values)]
        while True:
            try:
                producer.produce(topic, payload, key, partition=number // 100 % partitions)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1000 == 0:
            producer.poll(0)
    producer.flush()
    return topic


def _tests_own():
    """The module with which the tests start a Kafka."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import kafka_cluster  # noqa: PLC0415

    return kafka_cluster
