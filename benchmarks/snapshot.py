"""`snapshot`: from a broker to fsynced segments, and on to sorted events; beside a bare aiokafka loop that keeps nothing.

On a real Apache Kafka where Java and Maven are (or ESLAB_TEST_KAFKA names one), else on the embedded broker, which holds less.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiokafka
import confluent_kafka

from benchmarks.data import PARTITIONS, Orders
from benchmarks.report import begin, row
from eslab import Lab
from eslab.capture import capture, plan
from eslab.locking import writer_lock
from eslab.segments import Log
from eslab.sources.kafka import KafkaSource

TOPIC = "orders"
ROUNDS = 3
DEADLINE_S = 120


@contextmanager
def broker(folder: Path) -> Iterator[tuple[str, str, int, int]]:
    """(name, bootstrap servers, events it can hold, partitions)"""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import kafka_cluster  # noqa: PLC0415  the tests' own means to start a broker

    if given := os.environ.get("ESLAB_TEST_KAFKA"):
        yield "apache", given, 500_000, PARTITIONS
    elif kafka_cluster.missing() is None:
        with kafka_cluster.KafkaCluster(folder / "kafka") as cluster:
            yield "apache", cluster.bootstrap, 500_000, PARTITIONS
    else:
        producer = confluent_kafka.Producer({"test.mock.num.brokers": 1})
        yield "embedded", next(iter(producer.list_topics().brokers.values())).host_port(), 30_000, 4
        del producer


def fill(bootstrap: str, events: int, partitions: int) -> str:
    """Produce the synthetic orders, lz4, as a busy producer does."""
    topic = f"{TOPIC}-{time.time_ns()}"
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": bootstrap})
    with contextlib.suppress(confluent_kafka.KafkaException):  # the embedded broker has no admin calls, and makes topics by itself
        admin.create_topics([confluent_kafka.admin.NewTopic(topic, partitions, 1)])[topic].result(20)
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, "compression.type": "lz4", "linger.ms": 50, "batch.size": 262_144})
    source = Orders(events)
    ranges = {("orders", at): (0, events // PARTITIONS) for at in range(PARTITIONS)}
    for chunk in source.read(ranges):
        for key, value in zip(chunk.records["key"].to_pylist(), chunk.records["value"].to_pylist(), strict=True):
            producer.produce(topic, value, key, partition=chunk.partition % partitions)  # stamped now: old records fall to retention
            producer.poll(0)
        producer.flush()
    return topic


async def bare(bootstrap: str, topic: str, partitions: int, events: int) -> float:
    """Records a second of a loop that takes them and forgets them."""
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=bootstrap, max_partition_fetch_bytes=16 << 20, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        places = [aiokafka.TopicPartition(topic, at) for at in range(partitions)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        began, seen = time.perf_counter(), 0
        while seen < events:
            if time.perf_counter() - began > DEADLINE_S:
                raise TimeoutError(f"the bare loop saw {seen:,} of {events:,} records in {DEADLINE_S} s")
            batches = await consumer.getmany(timeout_ms=1000, max_records=100_000)
            seen += sum(map(len, batches.values()))
        return events / (time.perf_counter() - began)
    finally:
        await consumer.stop()


def captured(bootstrap: str, topic: str, folder: Path, events: int) -> float:
    """Records a second into fsynced segments."""
    began = time.perf_counter()
    with KafkaSource(f"kafka://{bootstrap}") as source, writer_lock(folder):
        log = Log(folder / "log")
        rows = sum(segment.footer.rows for segment in capture(source, log, plan(source, log, [topic])))
    assert rows == events
    return events / (time.perf_counter() - began)


def whole(bootstrap: str, topic: str, folder: Path, events: int) -> float:
    """Records a second of `lab.snapshot`: segments, sorted events, lab.duckdb."""
    began = time.perf_counter()
    lab = Lab(folder, say=lambda text: None)
    assert lab.snapshot(f"kafka://{bootstrap}", topic, progress=False).captured == events
    return events / (time.perf_counter() - began)


def run() -> None:
    begin("snapshot")
    with tempfile.TemporaryDirectory() as name, broker(Path(name)) as (kind, bootstrap, events, partitions):
        topic = fill(bootstrap, events, partitions)
        figures: dict[str, list[float]] = {"bare": [], "capture": [], "whole": []}
        for turn in range(ROUNDS):
            figures["bare"].append(asyncio.run(bare(bootstrap, topic, partitions, events)))
            figures["capture"].append(captured(bootstrap, topic, Path(name) / f"captured-{turn}", events))
            figures["whole"].append(whole(bootstrap, topic, Path(name) / f"whole-{turn}", events))
        peer = statistics.median(figures["bare"])
        for stage in ("capture", "whole"):
            row(
                "snapshot",
                statistics.median(figures[stage]),
                "records/s",
                "higher",
                {"stage": stage, "n": events, "broker": kind},
                "aiokafka_getmany",
                peer,
            )
