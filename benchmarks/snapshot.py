"""`snapshot`: from a broker to fsynced segments, and on to sorted events; beside a bare aiokafka loop that keeps nothing.

On a real Apache Kafka where Java and Maven are (or ESLAB_TEST_KAFKA names one), else on the embedded broker, which holds less.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.brokers import apache, embedded, fill, why_no_apache
from benchmarks.consumers import Spent, aiokafka_getmany, capture
from benchmarks.data import PARTITIONS
from benchmarks.report import begin, row
from eslab import Lab

ROUNDS = 3


def whole(bootstrap: str, topic: str, partitions: int, events: int, folder: Path) -> Spent:
    """What `lab.snapshot` takes: segments, sorted events, lab.duckdb."""
    began = Spent.now()
    lab = Lab(folder, say=lambda text: None)
    assert lab.snapshot(f"kafka://{bootstrap}", topic, progress=False).captured == events
    return began.since()


def run() -> None:
    begin("snapshot")
    kind, events, partitions = ("apache", 500_000, PARTITIONS) if why_no_apache() is None else ("embedded", 30_000, 4)
    with tempfile.TemporaryDirectory() as name, apache(Path(name)) if kind == "apache" else embedded() as bootstrap:
        topic = fill(bootstrap, events, partitions=partitions, distinct=events)
        rates: dict[str, list[float]] = {"bare": [], "capture": [], "whole": []}
        for turn in range(ROUNDS):
            for stage, way in (("bare", aiokafka_getmany), ("capture", capture), ("whole", whole)):
                rates[stage].append(events / way(bootstrap, topic, partitions, events, Path(name) / f"{stage}-{turn}").seconds)
        peer = statistics.median(rates["bare"])
        for stage in ("capture", "whole"):
            params = {"stage": stage, "n": events, "broker": kind}
            row("snapshot", statistics.median(rates[stage]), "records/s", "higher", params, "aiokafka_getmany", peer)
