"""`capture`: from a real Apache Kafka to fsynced segments, beside the ways in which Python reads a topic; each in a process of its own, in turns.

On the Kafka that ESLAB_TEST_KAFKA names, or on one that is started here (Java, Maven). `ESLAB_BENCH_RECORDS` is how many records there are (2,000,000).
Rows: `capture` against each peer; `capture_small` for producers with small batches; `capture_rss_mb`, the most memory that a capture of five times as many
records ever held, beside that of one of half as many: 10 M beside 1 M.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.brokers import apache, fill, why_no_apache
from benchmarks.data import PARTITIONS
from benchmarks.report import begin, row

RECORDS = int(os.environ.get("ESLAB_BENCH_RECORDS", "2000000"))
ROUNDS = 3
BATCHES = (10, 40)
PEERS = ("aiokafka_getmany", "confluent_consume", "usual_script")


def read(way: str, bootstrap: str, topic: str, records: int) -> dict[str, float]:
    """What `benchmarks.consumers` tells of one way."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.consumers", way, bootstrap, topic, str(PARTITIONS), str(records), folder]
        told: dict[str, float] = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent).stdout
        )
    print(
        f"  {way:<18} {records / told['seconds']:>10,.0f} records/s {told['cpu_s'] / records * 1e6:>6.2f} CPU s per million {told['peak_mb']:>7,.0f} MB"
    )
    return told


def speeds(ways: Sequence[str], bootstrap: str, topic: str, records: int) -> dict[str, float]:
    """Records a second of each way: the median of rounds in turns."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way in ways:
            found[way].append(records / read(way, bootstrap, topic, records)["seconds"])
    return {way: statistics.median(rates) for way, rates in found.items()}


def run() -> None:
    if reason := why_no_apache():
        sys.exit(f"capture is measured on a real Kafka: {reason}")
    for bench in ("capture", "capture_small", "capture_rss_mb"):
        begin(bench)
    with tempfile.TemporaryDirectory() as name, apache(Path(name)) as bootstrap:
        rates = speeds(("capture", *PEERS), bootstrap, fill(bootstrap, RECORDS), RECORDS)
        for peer in PEERS:
            row("capture", rates["capture"], "records/s", "higher", {"n": RECORDS}, peer, rates[peer])
        few = RECORDS // 5
        for batch in BATCHES:
            rates = speeds(("capture", "aiokafka_getmany"), bootstrap, fill(bootstrap, few, batch=batch), few)
            params = {"n": few, "batch": batch}
            row("capture_small", rates["capture"], "records/s", "higher", params, "aiokafka_getmany", rates["aiokafka_getmany"])
        peaks = [read("capture", bootstrap, fill(bootstrap, records), records)["peak_mb"] for records in (RECORDS // 2, RECORDS * 5)]
        row("capture_rss_mb", peaks[1], "MB", "lower", {"n": RECORDS * 5}, f"capture of {RECORDS // 2:,}", peaks[0])
