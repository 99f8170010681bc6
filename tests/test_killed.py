"""Captures of a real Kafka that are killed at random moments between their first fetch and their last commit, and resumed each time."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from logs import BASE_MS
from oracle import read_log

from eslab import capture, segment_writer
from eslab.lab import Lab
from eslab.sources.kafka import KafkaSource

if TYPE_CHECKING:
    from kafka_cluster import KafkaCluster

TESTS = Path(__file__).parent
PARTITIONS = 3
RECORDS = 9_000
LINKS = 5  # one kill in so many comes between a temporary file and its link


def record(number: int) -> dict[str, Any]:
    """The same record for the same number, in every process."""
    value = b'{"eventType": "Changed", "data": {"orderId": "o%d", "n": %d, "note": "%s"}}' % (number % 50, number, b"x" * (number % 500))
    headers = [("n", b"%d" % number)] * (number % 3)
    return {"key": b"o%d" % (number % 50), "value": value, "timestamp": BASE_MS + number, "headers": headers}


class Telling(KafkaSource):
    """Says through a pipe that the first chunk has come."""

    def __init__(self, url: str, pipe: int) -> None:
        super().__init__(url)
        self._pipe = pipe

    def read(self, ranges: Any) -> Iterator[Any]:
        for chunk in super().read(ranges):
            os.write(self._pipe, b".")
            yield chunk


def die_at_link(last: int) -> None:
    """Let the n-th link kill this process before it is made: the temporary file is whole by then."""
    left, intact = [last], os.link

    def link(*args: Any, **options: Any) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        intact(*args, **options)

    os.link = link


def captured(folder: Path, url: str, topic: str, *, after_s: float = -1, link: int = 0) -> tuple[bool, float]:
    """One snapshot in a fork, killed so long after its first chunk or at its n-th link; whether it lived, and how long that took from the first chunk."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        if link:
            die_at_link(link)
        Lab(folder, say=lambda notice: None).snapshot(Telling(url, writing), [topic], progress=False)
        os._exit(0)
    os.close(writing)
    os.read(reading, 1)
    begun = time.monotonic()
    if after_s >= 0:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reading)
    assert status in (0, signal.SIGKILL), status
    return status == 0, time.monotonic() - begun


def kill_many(folder: Path, url: str, topic: str, kills: int) -> None:
    """So many kills, each resumed; a lab that is complete is followed by the next. Run where nothing but imports was done before a fork."""
    capture.SEGMENT_BYTES, segment_writer.ROW_GROUP_BYTES = 60_000, 20_000  # so that there are some fifty commits to be killed in
    chance = random.Random(kills)
    lived, took_s = captured(folder / "unharmed", url, topic)
    assert lived
    number, links, resumed = 0, 0, 0
    while kills:
        at_link = kills % LINKS == 0
        lab = folder / str(number)
        resumed += lab.exists()
        how = {"link": chance.randint(1, 20)} if at_link else {"after_s": chance.uniform(0, took_s / 3)}
        lived, _ = captured(lab, url, topic, **how)
        if not lived:
            kills -= 1
            links += at_link
            assert_prefix(lab)
        number += lived
    captured(folder / str(number), url, topic)
    sys.stderr.write(f"{number} {links} {resumed}\n")


def assert_prefix(folder: Path, *, whole: bool = False) -> None:
    """The log is the topic up to some offset of each partition, record for record; with `whole`, up to the end."""
    held = {life[1]: rows for life, rows, _ in read_log(folder)}
    for partition in range(PARTITIONS):
        rows = held.get(partition, [])
        sent = [record(number) for number in range(partition, RECORDS, PARTITIONS)]
        assert len(rows) == len(sent) or not whole, f"{folder}: {len(rows)} of {len(sent)} in partition {partition}"
        for offset, (row, one) in enumerate(zip(rows, sent, strict=False)):
            headers = [{"key": name.encode(), "value": value} for name, value in one["headers"]]
            wanted = (offset, one["timestamp"], one["key"], one["value"], headers)
            found = (row["offset"], row["timestamp_ms"], row["key"], row["value"], row["headers"])
            assert found == wanted, f"{folder}[{partition}] {offset}: {found} and not {wanted}"


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=[pytest.mark.torture, pytest.mark.timeout(0)])])
def test_captures_killed_at_any_moment_end_as_the_topic_record_for_record(kafka: KafkaCluster, tmp_path: Path, kills: int):
    topic = kafka.create_topic(partitions=PARTITIONS)
    for partition in range(PARTITIONS):
        kafka.produce(
            topic,
            (record(number) for number in range(partition, RECORDS, PARTITIONS)),
            partition=partition,
            batch_size=16_000,
            enable_idempotence=True,
        )

    told = f"""
        import sys
        from pathlib import Path
        sys.path[:0] = {[str(TESTS), str(TESTS.parent)]!r}
        from test_killed import kill_many
        kill_many(Path({str(tmp_path)!r}), {kafka.url!r}, {topic!r}, {kills})
    """.replace("\n        ", "\n")
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    last, links, resumed = map(int, done.stderr.split())
    assert links >= kills // LINKS
    assert resumed >= kills // 2, "most of them are killed again after they were resumed"
    for number in range(last + 1):
        assert_prefix(tmp_path / str(number), whole=True)
        lab = Lab(tmp_path / str(number))
        assert lab.verify(progress=False).ok
        assert not [path for path in lab.path.rglob(".*") if path.name not in (".writer", ".config")]
        assert lab.sql("select count(*), count(distinct (partition_id, record_offset)) from events").fetchall() == [(RECORDS, RECORDS)]
