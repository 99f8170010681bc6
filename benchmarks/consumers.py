"""Ways to read a topic, each run in a process of its own: `python -m benchmarks.consumers NAME BOOTSTRAP TOPIC PARTITIONS RECORDS FOLDER`.

`capture` is eslab's, from the broker to fsynced segments. The others are its peers: two bare loops that keep nothing, and the script that people
write today. Prints one JSON object: records, the seconds that reading took, the CPU seconds and the most memory of the process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

from benchmarks.report import peak_mb

DEADLINE_S = 300


class Spent(NamedTuple):
    """Seconds on the wall, and on both cores by this process."""

    seconds: float
    cpu_s: float

    @classmethod
    def now(cls) -> Self:
        return cls(time.perf_counter(), time.process_time())

    def since(self) -> Self:
        now = self.now()
        return type(self)(now.seconds - self.seconds, now.cpu_s - self.cpu_s)


WAY = Callable[[str, str, int, int, Path], Spent]


def capture(bootstrap: str, topic: str, partitions: int, records: int, folder: Path) -> Spent:
    from eslab.capture import capture, plan  # noqa: PLC0415
    from eslab.locking import writer_lock  # noqa: PLC0415
    from eslab.segments import Log  # noqa: PLC0415
    from eslab.sources.kafka import KafkaSource  # noqa: PLC0415

    began = Spent.now()
    with KafkaSource(f"kafka://{bootstrap}") as source, writer_lock(folder):
        log = Log(folder / "log")
        rows = sum(segment.footer.rows for segment in capture(source, log, plan(source, log, [topic])))
    took = began.since()
    assert rows == records, (rows, records)
    return took


def aiokafka_getmany(bootstrap: str, topic: str, partitions: int, records: int, folder: Path) -> Spent:
    async def loop(consumer: Any) -> None:
        seen = 0
        async for found in getmany(consumer, max_records=100_000):
            seen += len(found)
            if seen >= records:
                return

    return asyncio.run(timed(loop, bootstrap, topic, partitions, max_partition_fetch_bytes=16 << 20))


def confluent_consume(bootstrap: str, topic: str, partitions: int, records: int, folder: Path) -> Spent:
    import confluent_kafka as ck  # noqa: PLC0415

    consumer = ck.Consumer({
        "bootstrap.servers": bootstrap, "group.id": "bench", "enable.auto.commit": False,
        "fetch.message.max.bytes": 16 << 20, "queued.max.messages.kbytes": 1 << 18,
    })  # fmt: skip
    consumer.assign([ck.TopicPartition(topic, at, 0) for at in range(partitions)])
    began, seen = Spent.now(), 0
    while seen < records:
        assert began.since().seconds < DEADLINE_S, f"{seen:,} of {records:,}"
        seen += len(consumer.consume(100_000, 0.2))
    took = began.since()
    consumer.close()
    return took


def usual_script(bootstrap: str, topic: str, partitions: int, records: int, folder: Path) -> Spent:
    import pandas as pd  # noqa: PLC0415

    async def loop(consumer: Any) -> None:
        rows: list[dict[str, Any]] = []
        async for found in getmany(consumer):
            rows += [
                {
                    "topic": one.topic, "partition": one.partition, "offset": one.offset, "timestamp": one.timestamp, "key": one.key,
                    "value": one.value, "headers": one.headers,
                }
                for one in found
            ]  # fmt: skip
            if len(rows) >= records:
                break
        pd.DataFrame(rows).to_parquet(folder / "usual.parquet")

    return asyncio.run(timed(loop, bootstrap, topic, partitions))


async def timed(loop: Callable[[Any], Awaitable[None]], bootstrap: str, topic: str, partitions: int, **options: Any) -> Spent:
    """What the loop takes over an aiokafka consumer that stands at the beginning of the topic."""
    import aiokafka  # noqa: PLC0415

    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest", **options)
    await consumer.start()
    try:
        places = [aiokafka.TopicPartition(topic, at) for at in range(partitions)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        began = Spent.now()
        await asyncio.wait_for(loop(consumer), DEADLINE_S)
        return began.since()
    finally:
        await consumer.stop()


async def getmany(consumer: Any, **options: Any) -> AsyncIterator[list[Any]]:
    while True:
        for found in (await consumer.getmany(timeout_ms=1000, **options)).values():
            yield found


WAYS: dict[str, WAY] = {one.__name__: one for one in (capture, aiokafka_getmany, confluent_consume, usual_script)}

if __name__ == "__main__":
    name, bootstrap, topic, partitions, records, folder = sys.argv[1:]
    took = WAYS[name](bootstrap, topic, int(partitions), int(records), Path(folder))
    print(json.dumps({"records": int(records), **took._asdict(), "peak_mb": peak_mb()}))
