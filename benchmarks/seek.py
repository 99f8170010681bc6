"""`seek_ms`: a moment in an aggregate of a million events, after the first look; beside a fold from its beginning."""

from __future__ import annotations

import datetime as dt
import random
import time

import numpy as np

from benchmarks.data import BEGIN_MS
from benchmarks.fold import status
from benchmarks.labs import giant
from benchmarks.report import begin, row

EVENTS = 1_000_000
LOOKS = 200


def run() -> None:
    begin("seek_ms")
    lab = giant(EVENTS)
    began = time.perf_counter()
    history = lab.history("order", "ord-00000000", projection=status)
    history.at()
    history.at(lab.moment("2026-03-12T00:00:00Z"))
    first = (time.perf_counter() - began) * 1000
    chance, taken = random.Random(1), dict[str, list[float]](time=[], version=[])
    for _ in range(LOOKS):
        version = chance.randint(0, EVENTS)
        moment = dt.datetime.fromtimestamp((BEGIN_MS + version * 7) / 1000, dt.UTC)
        for how, ask in (("version", lambda: history.at(version=version)), ("time", lambda: history.at(moment))):
            began = time.perf_counter()
            ask()
            taken[how].append((time.perf_counter() - began) * 1000)
    for how, found in taken.items():
        for percentile in (50, 95):
            row(
                "seek_ms",
                float(np.percentile(found, percentile)),
                "ms",
                "lower",
                {"p": percentile, "n": EVENTS, "by": how},
                "first_look",
                first,
            )
