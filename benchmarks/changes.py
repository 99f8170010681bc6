"""`changes`: every change of a long history, each with its event and handler; beside a fold of the same history."""

from __future__ import annotations

import statistics
import time

from benchmarks.fold import status
from benchmarks.labs import giant
from benchmarks.report import begin, row
from eslab.model import value_at

EVENTS = 200_000
ROUNDS = 5


def run() -> None:
    begin("changes")
    lab = giant(EVENTS)
    (key,) = lab.replay(status, progress=False)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        began = time.process_time()
        changes = lab.history("order", key, projection=status).changes()
        ours.append(EVENTS / (time.process_time() - began))
        began = time.process_time()
        world = lab.replay(status, keys=key, progress=False)
        theirs.append(EVENTS / (time.process_time() - began))
        last = {one.change.path: one.change.after for one in changes}
        assert last == {path: value_at(world[key], path) for path in last}
    row("changes", statistics.median(ours), "events/s", "higher", {"n": EVENTS}, "fold", statistics.median(theirs))
