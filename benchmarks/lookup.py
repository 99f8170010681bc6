"""`lookup_ms`: one history by its id, in a warm process, out of one live run and out of eight; beside bare DuckDB over the same files.

The runs are those of snapshots one after the other. Orders live briefly, as in a shop, so that one has its events in a run or two; or, the worst case, for ever:
then it has some in every run.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable

import duckdb
import numpy as np

from benchmarks.labs import in_runs
from benchmarks.report import begin, row
from eslab.sql import literal

SIZES = (100_000, 1_000_000, 10_000_000)
RUNS = (1, 8)
LOOKS = 300


def run() -> None:
    begin("lookup_ms")
    for events, count, brief in (*itertools.product(SIZES, RUNS, (True,)), (SIZES[1], 8, False)):
        lab = in_runs(events, count, brief=brief)
        ids = [one for (one,) in lab.sql(f"select distinct aggregate_id from history using sample {LOOKS * 20} (reservoir, 1)").fetchall()]
        wanted = random.Random(1).sample(sorted(ids), LOOKS)
        paths = ", ".join(literal(str(path)) for path in lab._now().paths)
        with duckdb.connect() as con:
            query = f"select * from read_parquet([{paths}]) where aggregate = 'order' and aggregate_id = $id order by order_at"

            def bare(one: str) -> None:
                con.sql(query, params={"id": one}).to_arrow_table()

            def ours(one: str) -> None:
                history = lab.history("order", one)
                history.at(version=len(history))

            mine, theirs = _alternated(ours, bare, wanted)
        for percentile in (50, 95):
            row(
                "lookup_ms",
                float(np.percentile(mine, percentile)),
                "ms",
                "lower",
                {"p": percentile, "n": events, "runs": count, "live": "briefly" if brief else "for ever"},
                "duckdb",
                float(np.percentile(theirs, percentile)),
            )


def _alternated(left: Callable[[str], None], right: Callable[[str], None], ids: list[str]) -> tuple[list[float], list[float]]:
    """Milliseconds of both on every id in turn, the first twenty not counted."""
    times: tuple[list[float], list[float]] = ([], [])
    for one in ids:
        for look, kept in zip((left, right), times, strict=True):
            began = time.perf_counter()
            look(one)
            kept.append((time.perf_counter() - began) * 1000)
    return times[0][20:], times[1][20:]
