"""`sql_sum`: the sum of a number of the payloads, on one core, by typed relation; beside the same sum read from the JSON of the same rows. `ESLAB_BENCH_EVENTS` is how many events there are (10,000,000).

Both look at every event of the lab; the relation is of one of its five types.
"""

from __future__ import annotations

import os
import statistics
import time

from benchmarks.labs import orders
from benchmarks.report import begin, row

EVENTS = int(os.environ.get("ESLAB_BENCH_EVENTS", "10000000"))
ROUNDS = 5

TYPED = 'select sum(total), count(*) from types."OrderPaid"'
JSON = "select sum((data ->> 'total')::double), count(*) from events where event_type = 'OrderPaid'"


def run() -> None:
    begin("sql_sum")
    lab = orders(EVENTS)
    lab.sql("set threads = 1")
    rates: dict[str, list[float]] = {TYPED: [], JSON: []}
    for _ in range(ROUNDS):
        answers = []
        for query, kept in rates.items():
            began = time.process_time()
            answers += lab.sql(query).fetchall()
            kept.append(EVENTS / (time.process_time() - began))
        (one, events), (other, as_many) = answers
        assert events == as_many
        assert abs(one - other) < 1e-6 * other
    row(
        "sql_sum",
        statistics.median(rates[TYPED]),
        "events/s",
        "higher",
        {"n": EVENTS, "summed": events},
        "json_text",
        statistics.median(rates[JSON]),
    )
