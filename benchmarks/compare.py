"""`compare`: two projections side by side; beside two replays and a diff of their worlds, which tells no event.

With nothing that differs, and with a tenth of the orders that do. `x_replay` is how many times one replay of the same rows it takes.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.fold import moved, status
from benchmarks.labs import orders
from benchmarks.report import begin, row
from eslab import Event, Lab, Projection
from eslab.changes import diff

EVENTS = 1_000_000
ROUNDS = 3

tenth = status.copy(version=2)


@tenth.on("OrderPaid")
def paid(state: Any, event: Event) -> Any:
    after = moved(state, event)
    return {**after, "total": 0} if event.aggregate_id.endswith("7") else after


def two_replays(lab: Lab, left: Projection, right: Projection) -> dict[str, Any]:
    worlds = [lab.replay(one, progress=False) for one in (left, right)]
    one, other = (dict(world) for world in worlds)
    return {key: changes for key, state in one.items() if (changes := diff(state, other[key]))}


def run() -> None:
    begin("compare")
    lab = orders(EVENTS)
    for told, right in (("none", status), ("tenth", tenth)):
        ours, theirs, once = [], [], []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            lab.replay(status, progress=False)
            once.append(time.perf_counter() - began)
            began = time.perf_counter()
            found = lab.compare(status, right, progress=False)
            ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            plain = two_replays(lab, status, right)
            theirs.append(time.perf_counter() - began)
            assert list(found) == sorted(plain)
        times = statistics.median(mine / one for mine, one in zip(ours, once, strict=True))
        row(
            "compare",
            EVENTS / statistics.median(ours),
            "events/s",
            "higher",
            {"n": EVENTS, "differ": told, "x_replay": round(times, 2)},
            "two_replays",
            EVENTS / statistics.median(theirs),
        )
