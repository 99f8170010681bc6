"""Small logs in which events name causes and correlations: every id from a small pool, so that duplicates, circles and events that name themselves happen."""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from logs import BASE_MS, RULES, Log, captured
from oracle import Oracle

from eslab.lab import Lab
from eslab.model import Record

HOSTILE = ["<b>e</b>", "e\u202e", "it's", "Robert'); drop table reached; --", "e\n3", "$name {rows}"]
NAMES = ["e1", "e2", "e3", "e4", "e5", "e6", "c1", "c2", *HOSTILE]
TYPES = ["Began", "Paid", "Ended", "Undone"]


def chained(seed: int, most: int = 14) -> list[Record]:
    chance = random.Random(seed)
    one = chance.choice
    names = chance.sample(NAMES, chance.randint(3, len(NAMES)))

    def told() -> Record:
        causes = [None, "", "cmd", *names]
        value = {
            "eventId": one([*names, None]),
            "eventType": one(TYPES),
            "causationId": one(causes),
            "correlationId": one([None, "c1", "c1", "c2", one(names), ""]),
            "data": {"orderId": "a"},
        }
        kept = {name: part for name, part in value.items() if part is not None}
        body = None if chance.random() < 0.05 else b"{broken" if chance.random() < 0.05 else json.dumps(kept).encode()
        at = BASE_MS + chance.randint(0, 9) * one([1, 1000, 60_000])
        return Record(topic=one(["orders", "audit"]), partition=chance.randint(0, 1), timestamp_ms=at, key=b"a", value=body)

    anchor = Record(topic="orders", timestamp_ms=BASE_MS, key=b"a", value=b'{"eventType": "Began", "data": {"orderId": "a"}}')
    return [anchor, *(told() for _ in range(chance.randint(0, most)))]


@contextlib.contextmanager
def lab_of(records: list[Record]) -> Iterator[tuple[Lab, Oracle]]:
    """A lab with these records, and its oracle."""
    with tempfile.TemporaryDirectory() as folder:
        lab = captured(Path(folder) / "lab", Log(records, RULES))
        yield lab, Oracle(lab.path)
