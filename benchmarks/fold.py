"""`fold`: a projection over every aggregate on one core; beside a hand-written loop over the same files, and the repository of the library `eventsourcing`.

`fold_two`: what two processes gain, beside what they gain a loop that does nothing but decode. `ESLAB_BENCH_EVENTS` is how many there are (10,000,000).
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import msgspec
import pyarrow.parquet as pq

from benchmarks.labs import orders
from benchmarks.report import begin, row
from eslab import Event, Lab, Projection

EVENTS = int(os.environ.get("ESLAB_BENCH_EVENTS", "10000000"))
PEER_EVENTS = 100_000
ROUNDS = 5
PIECES = 8

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


def repository(lab: Lab) -> float:
    """Events a second that the library `eventsourcing` makes aggregates of, in memory: `Repository.get` of the orders of the first events."""
    from eventsourcing.application import Application  # noqa: PLC0415
    from eventsourcing.domain import Aggregate, event  # noqa: PLC0415

    class Order(Aggregate):
        @event("OrderCreated")
        def __init__(self, data: dict[str, Any]) -> None:
            self.status, self.total, self.events = "created", data["total"], 1

        @event("OrderMoved")
        def move(self, data: dict[str, Any]) -> None:
            self.status, self.total, self.events = data["status"], self.total + data["total"], self.events + 1

    application: Application[Any] = Application()
    rows = lab.sql(f"select aggregate_id, data from history order by aggregate_id, version limit {PEER_EVENTS}").fetchall()
    made: dict[str, Any] = {}
    for key, data in rows:
        payload = msgspec.json.decode(data)
        if key in made:
            made[key].move(data=payload)
        else:
            made[key] = Order(data=payload)
    application.save(*made.values())
    began = time.process_time()
    for order in made.values():
        application.repository.get(order.id)
    return len(rows) / (time.process_time() - began)


def decoded(paths: Sequence[str]) -> int:
    """Decode the data of every event in these files, and nothing else."""
    count = 0
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=16_384, columns=["data"], use_threads=False):
                for text in batch.column(0).to_pylist():
                    msgspec.json.decode(text)
                    count += 1
    return count


def run() -> None:
    begin("fold")
    begin("fold_two")
    lab = orders(EVENTS)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    ours, theirs = [], []
    for _ in range(ROUNDS):
        began = time.process_time()
        world = lab.replay(status, progress=False)
        ours.append(EVENTS / (time.process_time() - began))
        began = time.process_time()
        plain = hand_loop(lab)
        theirs.append(EVENTS / (time.process_time() - began))
        assert dict(world) == plain
        del world, plain
    row("fold", statistics.median(ours), "events/s", "higher", {"n": EVENTS}, "hand_loop", statistics.median(theirs))
    row("fold", statistics.median(ours), "events/s", "higher", {"n": EVENTS}, "eventsourcing", repository(lab))
    os.sched_setaffinity(0, cores)
    two(lab)


def two(lab: Lab) -> None:
    """The gain of two processes over one, ours and the bare loop's, alternated."""
    paths = [str(path) for path in sorted(lab._now().paths)]
    gains: dict[str, list[float]] = {"ours": [], "bare": []}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as one, ProcessPoolExecutor(2, mp_context=context) as pair:
        for _ in range(ROUNDS + 1):  # the first warms them up
            seconds = []
            for pool in (one, pair):
                began = time.perf_counter()
                lab.replay(status, executor=pool, progress=False)
                seconds.append(time.perf_counter() - began)
            gains["ours"].append(seconds[0] / seconds[1])
            seconds = []
            for pool in (one, pair):
                began = time.perf_counter()
                assert sum(pool.map(decoded, [paths[at::PIECES] for at in range(PIECES)])) == EVENTS
                seconds.append(time.perf_counter() - began)
            gains["bare"].append(seconds[0] / seconds[1])
    row(
        "fold_two",
        statistics.median(gains["ours"][1:]),
        "x of one",
        "higher",
        {"n": EVENTS},
        "bare_gain",
        statistics.median(gains["bare"][1:]),
    )
