"""`first`: the first event after which a predicate holds, for every order; beside one replay. `ESLAB_BENCH_EVENTS` is how many events there are (10,000,000)."""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

from benchmarks.fold import status
from benchmarks.labs import orders
from benchmarks.report import begin, row

EVENTS = int(os.environ.get("ESLAB_BENCH_EVENTS", "10000000"))
ROUNDS = 5


def large(state: Any) -> bool:
    return state["total"] > 2500


def never(state: Any) -> bool:
    return state["total"] < 0


def run() -> None:
    begin("first")
    lab = orders(EVENTS)
    for predicate in (large, never):
        ours, theirs = [], []
        for _ in range(ROUNDS):
            began = time.process_time()
            found = lab.first(status, predicate, progress=False)
            ours.append(time.process_time() - began)
            began = time.process_time()
            world = lab.replay(status, progress=False)
            theirs.append(time.process_time() - began)
            assert found.keys == len(world)
        params = {"n": EVENTS, "held": len(found)}
        row("first", statistics.median(ours), "s", "lower", params, "one_replay", statistics.median(theirs))
