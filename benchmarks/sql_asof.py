"""`sql_asof`: a SQL projection as of a moment; beside DuckDB with the same aggregation bare over the same files. `ESLAB_BENCH_EVENTS` is how many there are (10,000,000)."""

from __future__ import annotations

import datetime as dt
import os
import statistics
import time

import duckdb

from benchmarks.data import BEGIN_MS
from benchmarks.labs import orders
from benchmarks.report import begin, row
from eslab import SqlProjection
from eslab.sql import literal

EVENTS = int(os.environ.get("ESLAB_BENCH_EVENTS", "10000000"))
ROUNDS = 5

ASKED = "select event_type, count(*) as events, max(order_at) as latest from {} group by all order by all"
counts = SqlProjection("counts", ASKED.format("events"))


def run() -> None:
    begin("sql_asof")
    lab = orders(EVENTS)
    moment = dt.datetime.fromtimestamp((BEGIN_MS + EVENTS * 7 // 2) / 1000, dt.UTC)
    cut = lab.cut(moment)
    paths = ", ".join(literal(str(path)) for path in lab._now().paths)
    bare = ASKED.format(f"read_parquet([{paths}]) where first and kind = 'event' and order_at <= $moment")
    ours, theirs = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        answer = lab.replay(counts, at=cut, progress=False).arrow()
        ours.append(EVENTS / (time.perf_counter() - began))
        began = time.perf_counter()
        with duckdb.connect() as con:
            con.execute("set TimeZone = 'UTC'")
            plain = con.sql(bare, params={"moment": moment}).to_arrow_table()
        theirs.append(EVENTS / (time.perf_counter() - began))
        assert answer.to_pylist() == plain.to_pylist()
    row("sql_asof", statistics.median(ours), "events/s", "higher", {"n": EVENTS}, "duckdb", statistics.median(theirs))
