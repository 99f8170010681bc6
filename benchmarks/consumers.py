"""Ways to read a topic, each run in a process of its own: `python -m benchmarks.consumers NAME BOOTSTRAP TOPIC PARTITIONS RECORDS FOLDER`.

`capture` is eslab's, from the broker to fsynced segments. The others are its peers: two bare loops that keep nothing, and the script that people
write today. Prints one JSON object: records, the seconds that reading took, the most memory that the process ever held.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

DEADLINE_S = 300
WAY = Callable[[str, str, int, int, Path], float]


def capture(bootstrap: str, topic: str, partitions: int, records: int, folder: Path) -> float:
    from eslab.capture import capture, plan  # noqa: PLC0415
    from eslab.locking import writer_lock  # noqa: PLC0415
    from eslab.segments import Log  # noqa: PLC0415
    from eslab.sources.kafka import KafkaSource  # noqa: PLC0415

    began = time.perf_counter()
    with KafkaSource(f"kafka://{bootstrap}") as source, writer_lock(folder):
        log = Log(folder / "log")
        rows = sum(segment.footer.rows for segment in capture(source, log, plan(source, log, [topic])))
    took = time.perf_counter() - began
    assert rows == records, (rows, records)
    return took


def aiokafka_getmany(bootstrap: str, topic: str, partitions: int, records: int, folder: Path) -> float:
    import aiokafka  # noqa: PLC0415

    async def loop() -> float:
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=bootstrap, max_partition_fetch_bytes=16 << 20, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            places = [aiokafka.TopicPartition(topic, at) for at in range(partitions)]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            began, seen = time.perf_counter(), 0
            while seen < records:
                assert time.perf_counter() - began < DEADLINE_S, f"{seen:,} of {records:,}"
                seen += sum(map(len, (await consumer.getmany(timeout_ms=1000, max_records=100_000)).values()))
            return time.perf_counter() - began
        finally:
            await consumer.stop()

    return asyncio.run(loop())


def confluent_consume(bootstrap: str, topic: str, partitions: int, records: int, folder: Path) -> float:
    import confluent_kafka as ck  # noqa: PLC0415

    consumer = ck.Consumer({
        "bootstrap.servers": bootstrap, "group.id": "bench", "enable.auto.commit": False,
        "fetch.message.max.bytes": 16 << 20, "queued.max.messages.kbytes": 1 << 18,
    })  # fmt: skip
    consumer.assign([ck.TopicPartition(topic, at, 0) for at in range(partitions)])
    began, seen = time.perf_counter(), 0
    while seen < records:
        assert time.perf_counter() - began < DEADLINE_S, f"{seen:,} of {records:,}"
        seen += len(consumer.consume(100_000, 0.2))
    took = time.perf_counter() - began
    consumer.close()
    return took


def usual_script(bootstrap: str, topic: str, partitions: int, records: int, folder: Path) -> float:
    import aiokafka  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415

    async def loop() -> float:
        consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
        await consumer.start()
        try:
            places = [aiokafka.TopicPartition(topic, at) for at in range(partitions)]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            began, rows = time.perf_counter(), []
            while len(rows) < records:
                for found in (await consumer.getmany(timeout_ms=1000)).values():
                    rows += [
                        {
                            "topic": one.topic, "partition": one.partition, "offset": one.offset, "timestamp": one.timestamp, "key": one.key,
                            "value": one.value, "headers": one.headers,
                        }
                        for one in found
                    ]  # fmt: skip
            pd.DataFrame(rows).to_parquet(folder / "usual.parquet")
            return time.perf_counter() - began
        finally:
            await consumer.stop()

    return asyncio.run(loop())


WAYS: dict[str, WAY] = {one.__name__: one for one in (capture, aiokafka_getmany, confluent_consume, usual_script)}

if __name__ == "__main__":
    name, bootstrap, topic, partitions, records, folder = sys.argv[1:]
    took = WAYS[name](bootstrap, topic, int(partitions), int(records), Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)
    print(json.dumps({"records": int(records), "seconds": took, "peak_mb": peak}))
