"""`advance`: the whole world carried on over the last hundredth of the events; beside a replay of all of them. `ESLAB_BENCH_EVENTS` is how many there are (10,000,000)."""

from __future__ import annotations

import datetime as dt
import os
import statistics
import time

from benchmarks.data import BEGIN_MS
from benchmarks.fold import status
from benchmarks.labs import orders
from benchmarks.report import begin, row

EVENTS = int(os.environ.get("ESLAB_BENCH_EVENTS", "10000000"))
ROUNDS = 3


def run() -> None:
    begin("advance")
    lab = orders(EVENTS)
    before = lab.cut(dt.datetime.fromtimestamp((BEGIN_MS + EVENTS * 7 * 99 // 100) / 1000, dt.UTC))
    early = lab.replay(status, at=before, progress=False)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        then = early.advance(lab.cut(), progress=False)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        anew = lab.replay(status, progress=False)
        theirs.append(time.perf_counter() - began)
        assert then.arrow().combine_chunks().equals(anew.arrow().combine_chunks())
    params = {"n": EVENTS, "between": then.events - early.events}
    row("advance", statistics.median(ours), "s", "lower", params, "replay", statistics.median(theirs))
