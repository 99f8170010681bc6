"""`capture`: from a real Apache Kafka to fsynced segments, beside the ways in which Python reads a topic; each in a process of its own, in turns.

On the Kafka that ESLAB_TEST_KAFKA names, or on one that is started here (Java, Maven). `ESLAB_BENCH_RECORDS` is how many records there are (2,000,000).
Rows: `capture` against each peer; `capture_small` for producers with small batches; `capture_rss_mb`, the most memory that a capture ever held, beside
that of one of a tenth of the records.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.data import PARTITIONS, value
from benchmarks.report import begin, row

RECORDS = int(os.environ.get("ESLAB_BENCH_RECORDS", "2000000"))
ROUNDS = 3
DISTINCT = 100_000  # values; a batch of 256 KiB holds some 600, so that repeating them helps no codec
BATCHES = (10, 40)


@contextmanager
def broker(folder: Path) -> Iterator[Any]:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import kafka_cluster  # noqa: PLC0415  the tests' own means to start a broker

    if given := os.environ.get("ESLAB_TEST_KAFKA"):
        yield kafka_cluster.KafkaCluster.at(given)
    elif reason := kafka_cluster.missing():
        sys.exit(f"capture is measured on a real Kafka: {reason}")
    else:
        with kafka_cluster.KafkaCluster(folder / "kafka") as cluster:
            yield cluster


def fill(cluster: Any, records: int, *, batch: int | None = None) -> str:
    """A topic of 8 partitions, lz4; batches as full as a busy producer's, or of so many records."""
    topic = cluster.create_topic(f"bench-{time.time_ns()}", partitions=PARTITIONS)
    config = {"batch_num_messages": batch} if batch else {"batch_size": 262_144}
    producer = cluster.producer(compression_type="lz4", linger_ms=50, **config)
    chance = random.Random(1)
    values = [value(number, chance) for number in range(min(DISTINCT, records))]
    for number in range(records):
        key, payload = values[number % len(values)]
        while True:
            try:
                producer.produce(topic, payload, key, partition=number // 100 % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1000 == 0:
            producer.poll(0)
    producer.flush()
    return topic


def read(way: str, cluster: Any, topic: str, records: int) -> dict[str, float]:
    """What `benchmarks.consumers` tells of one way."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.consumers", way, cluster.bootstrap, topic, str(PARTITIONS), str(records), folder]
        told: dict[str, float] = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent).stdout
        )
    return told


def speeds(ways: list[str], cluster: Any, topic: str, records: int) -> tuple[dict[str, float], float]:
    """Records a second of each way (the median of rounds in turns), and the most memory of a capture."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    peak = 0.0
    for _ in range(ROUNDS):
        for way in ways:
            told = read(way, cluster, topic, records)
            found[way].append(records / told["seconds"])
            peak = max(peak, told["peak_mb"]) if way == "capture" else peak
    return {way: statistics.median(rates) for way, rates in found.items()}, peak


def run() -> None:
    for bench in ("capture", "capture_small", "capture_rss_mb"):
        begin(bench)
    with tempfile.TemporaryDirectory() as name, broker(Path(name)) as cluster:
        topic = fill(cluster, RECORDS)
        rates, peak = speeds(["capture", "aiokafka_getmany", "confluent_consume", "usual_script"], cluster, topic, RECORDS)
        for peer in ("aiokafka_getmany", "confluent_consume", "usual_script"):
            row("capture", rates["capture"], "records/s", "higher", {"n": RECORDS}, peer, rates[peer])
        tenth = read("capture", cluster, fill(cluster, RECORDS // 10), RECORDS // 10)["peak_mb"]
        row("capture_rss_mb", peak, "MB", "lower", {"n": RECORDS}, f"capture of {RECORDS // 10:,}", tenth)
        for batch in BATCHES:
            few = RECORDS // 5
            rates, _ = speeds(["capture", "aiokafka_getmany"], cluster, fill(cluster, few, batch=batch), few)
            row(
                "capture_small",
                rates["capture"],
                "records/s",
                "higher",
                {"n": few, "batch": batch},
                "aiokafka_getmany",
                rates["aiokafka_getmany"],
            )
