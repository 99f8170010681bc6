"""`decode_sort`: from segments to sorted events, 1 in 1,000 poisoned; beside one DuckDB COPY that extracts and sorts the same columns.

`ESLAB_BENCH_EVENTS` is how many there are (10,000,000). Each side in a process of its own, in turns, which tells its seconds and the most memory that it held.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.data import Orders
from benchmarks.labs import LABS
from benchmarks.report import begin, peak_mb, row

EVENTS = int(os.environ.get("ESLAB_BENCH_EVENTS", "10000000"))
ROUNDS = 3
POISON = b'{"eventType": "OrderPaid", "data": {"orderId": '
RULES = 'format_version = 1\n\n[topics.orders]\nenvelope = "default"\naggregates = [{ name = "order", id = "data.orderId" }]\n'


class Poisoned(Orders):
    """The synthetic orders, with every thousandth cut short."""

    def read(self, ranges: Mapping[tuple[str, int], tuple[int, int]]) -> Iterator[object]:
        for chunk in super().read(ranges):
            bad = pa.array(chunk.records["offset"].to_numpy() % 1000 == 500)
            values = pc.if_else(bad, pa.scalar(POISON), chunk.records["value"].combine_chunks())
            yield type(chunk)(
                chunk.topic,
                chunk.partition,
                chunk.start,
                chunk.next,
                chunk.records.set_column(5, chunk.records.schema.field("value"), values),
            )


def lab_folder() -> Path:
    """A log of so many records, captured once and kept; no events."""
    from eslab.capture import capture, plan  # noqa: PLC0415
    from eslab.locking import writer_lock  # noqa: PLC0415
    from eslab.segments import Log  # noqa: PLC0415

    folder = LABS / f"poisoned-{EVENTS}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lab.toml").write_text(RULES)
    source, log = Poisoned(EVENTS), Log(folder / "log")
    with writer_lock(folder):
        for _ in capture(source, log, plan(source, log, None)):
            pass
    return folder


def ours(folder: Path) -> None:
    from eslab import building  # noqa: PLC0415
    from eslab.mapping import read_mapping  # noqa: PLC0415
    from eslab.segments import Log  # noqa: PLC0415

    shutil.rmtree(folder / "events", ignore_errors=True)
    building.update(folder, Log(folder / "log"), read_mapping(folder), say=print)


def duckdb_copy(folder: Path) -> None:
    import duckdb  # noqa: PLC0415

    paths = ["eventId", "eventType", "eventVersion", "source", "timestamp", "correlationId", "causationId", "metadata.traceId", "metadata.spanId", "metadata.parentSpanId", "data.orderId"]  # fmt: skip
    con = duckdb.connect()
    con.execute("set threads = 2; set memory_limit = '2GB'; set preserve_insertion_order = false")
    con.execute(f"set temp_directory = '{folder / 'duckdb-temporary'}'")
    names = ", ".join(f"found[{number}] as c{number}" for number in range(1, len(paths) + 1))
    con.execute(f"""copy (
        select 'order' as aggregate, found[{len(paths)}] as aggregate_id, make_timestamp(timestamp_ms * 1000) as order_at, 'orders' as topic, partition, "offset", {names},
            jsons[1] as data, jsons[2] as metadata, key, timestamp_type
        from (
            select *, case when json_valid(value) then json_extract_string(value, {["$." + path for path in paths]}) end as found,
                case when json_valid(value) then json_extract(value, ['$.data', '$.metadata']) end as jsons
            from (select * replace (decode(value) as value, decode(key) as key), regexp_extract(filename, '/(\\d+)/\\d+/\\d+.parquet', 1)::int as partition
                from read_parquet('{folder}/log/*/*/*/*.parquet', filename = true)))
        order by aggregate, aggregate_id, order_at, topic, partition, "offset"
    ) to '{folder}/peer.parquet' (format parquet, compression zstd, compression_level 1, row_group_size 4096)""")


def measured(way: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.decode_sort", way, str(folder)]
    told: dict[str, float] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent).stdout
    )
    return told


def run() -> None:
    begin("decode_sort")
    folder = lab_folder()
    rates: dict[str, list[float]] = {"ours": [], "duckdb_copy": []}
    peaks: dict[str, list[float]] = {"ours": [], "duckdb_copy": []}
    for _ in range(ROUNDS):
        for way in ("ours", "duckdb_copy"):
            told = measured(way, folder)
            rates[way].append(EVENTS / told["seconds"])
            peaks[way].append(told["peak_mb"])
    speed = {way: statistics.median(found) for way, found in rates.items()}
    row("decode_sort", speed["ours"], "events/s", "higher", {"n": EVENTS}, "duckdb_copy", speed["duckdb_copy"])
    row("decode_sort", max(peaks["ours"]), "MB", "lower", {"n": EVENTS}, "duckdb_copy", max(peaks["duckdb_copy"]))


if __name__ == "__main__":
    began = time.perf_counter()
    {"ours": ours, "duckdb_copy": duckdb_copy}[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps({"seconds": time.perf_counter() - began, "peak_mb": peak_mb()}))
