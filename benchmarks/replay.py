"""`replay`: a projection over every aggregate on one core; beside a hand-written loop over the same files."""

from __future__ import annotations

import statistics
import time
from typing import Any

import msgspec
import pyarrow.parquet as pq

from benchmarks.labs import orders
from benchmarks.report import begin, row
from eslab import Event, Lab, Projection

EVENTS = 1_000_000
ROUNDS = 3

status = Projection("status", aggregate="order")


@status.on("OrderCreated")
def created(state: Any, event: Event) -> Any:
    return {"status": "created", "total": event.data["total"], "events": 1}


@status.on("OrderConfirmed", "OrderPaid", "OrderShipped", "OrderDelivered")
def moved(state: Any, event: Event) -> Any:
    return {"status": event.data["status"], "total": state.get("total", 0) + event.data["total"], "events": state.get("events", 0) + 1}


def hand_loop(lab: Lab) -> dict[str, Any]:
    """The least that gives the same answer: three columns, one JSON call an event, if and elif."""
    decode = msgspec.json.decode
    world: dict[str, Any] = {}
    key, state = None, {}
    for path in sorted(lab._now().paths):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=16_384, columns=["aggregate_id", "event_type", "data"]):
                columns = [column.to_pylist() for column in batch.columns]
                for one, kind, text in zip(*columns, strict=True):
                    if one != key:
                        if key is not None:
                            world[key] = state
                        key, state = one, {}
                    data = decode(text)
                    if kind == "OrderCreated":
                        state = {"status": "created", "total": data["total"], "events": 1}
                    elif kind in ("OrderConfirmed", "OrderPaid", "OrderShipped", "OrderDelivered"):
                        state = {
                            "status": data["status"],
                            "total": state.get("total", 0) + data["total"],
                            "events": state.get("events", 0) + 1,
                        }
    if key is not None:
        world[key] = state
    return world


def run() -> None:
    begin("replay")
    lab = orders(EVENTS)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        world = lab.replay(status, progress=False)
        ours.append(EVENTS / (time.perf_counter() - began))
        began = time.perf_counter()
        plain = hand_loop(lab)
        theirs.append(EVENTS / (time.perf_counter() - began))
    assert dict(world) == plain
    row("replay", statistics.median(ours), "events/s", "higher", {"n": EVENTS}, "hand_loop", statistics.median(theirs))
