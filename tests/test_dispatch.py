"""A replay on an executor is the replay without one: threads, processes, a Dask cluster; and what is said of executors that die."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections import Counter
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from eslab import dispatch, events, play, runs
from eslab.errors import ExecutorError, ProjectionError, UnknownId
from eslab.model import Record
from eslab.projection import Projection, SqlProjection

KEYS = 60


@pytest.fixture(scope="module")
def lab():
    """Carts in several runs of small row groups: one that spans many, some that fail, some that ended."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ROW_GROUP", 4)
        told = [{"eventType": "Added", "data": {"cartId": f"c{min(number % 90, KEYS - 1):02d}", "n": number}} for number in range(400)]
        made = play([*told, *(Record(topic="events", key=f"c{at}".encode(), timestamp_ms=1_900_000_000_000) for at in (20, 30))])
        made.publish({"eventType": "Added", "timestamp": 1_900_000_001_000, "data": {"cartId": "c05", "n": 1}})
    return made


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(dispatch, "SMALLEST", 16)
    monkeypatch.setattr(dispatch, "KEYS", 7)


def sums() -> Projection:
    made = Projection("sums", aggregate="cart", initial={"sum": 0})

    @made.on("Added")
    def added(state: Any, event: Any) -> Any:
        if event.data["n"] == 277:
            raise ValueError("277")
        return {"sum": state["sum"] + event.data["n"]}

    return made


def told(world: Any) -> Any:
    return world.arrow(), world.failed, world.ended, world.events, world.partial, world.undecodable, world.selection


def test_in_threads_each_event_is_folded_once_and_the_world_is_the_same(lab):
    calls: Counter[int] = Counter()
    counting, lock = sums(), threading.Lock()
    intact = counting.handler("Added")

    @counting.on("Added")
    def added(state, event):
        with lock:
            calls[event.offset] += 1
        return intact(state, event)

    with ThreadPoolExecutor(3) as pool:
        world = lab.replay(counting, executor=pool, progress=False)
        assert told(world) == told(lab.replay(sums(), progress=False))
        assert set(calls.values()) == {1}
        assert len(world.failed) == 1
        assert world.ended == 2
        assert world["c05"] == lab.history("cart", "c05", projection=sums()).at().value
        for options in (
            {"ended": True},
            {"keys": [f"c{number:02d}" for number in range(0, KEYS, 2)]},
            {"at": lab.cut(offsets={"events": {0: 200}})},
            {"strict": True},
        ):
            assert told(lab.replay(sums(), executor=pool, progress=False, **options)) == told(lab.replay(sums(), progress=False, **options))


def test_no_part_holds_half_a_key(lab):
    ranges = lab._now().key_ranges("cart", 8)
    assert len(ranges) > 5
    assert [len(low) for low, _ in ranges] == [1, *[2] * (len(ranges) - 1)]
    assert [high for _, high in ranges][:-1] == [low for low, _ in ranges][1:]


def test_a_bound_that_parts_a_key_would_be_seen(lab, monkeypatch):
    def anywhere(self, aggregate, rows):
        return [(low, high or (aggregate + "\0",)) for low, high in runs.ranges(self._sources(), (aggregate,), (aggregate + "\0",), rows)]

    monkeypatch.setattr(events.Events, "key_ranges", anywhere)
    with ThreadPoolExecutor(2) as pool:
        assert told(lab.replay("cart", executor=pool, progress=False)) != told(lab.replay("cart", progress=False))


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def test_in_processes_the_world_is_the_same(lab, processes):
    made, lock = sums(), threading.Lock()
    assert told(lab.replay(made, executor=processes, progress=False)) == told(lab.replay(made, progress=False))
    assert told(lab.replay("cart", executor=processes, progress=False)) == told(lab.replay("cart", progress=False))
    with pytest.raises(ExecutorError, match=r"projection 'locked' cannot travel to another process: TypeError: .*lock"):
        lab.replay(Projection("locked", aggregate="cart", evolve=lambda state, event: lock and state), executor=processes)


def test_an_executor_that_dies_is_one_clear_sentence(lab):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        deadly = Projection("deadly", aggregate="cart", evolve=lambda state, event: os._exit(3))
        with pytest.raises(
            ExecutorError,
            match=r"replaying deadly: the executor lost part \d+ \(BrokenProcessPool: .*; nothing was kept\. Give it a new executor",
        ):
            lab.replay(deadly, executor=pool, progress=False)
    with pytest.raises(ExecutorError, match=r"lost part 1 \(BrokenProcessPool"):
        lab.replay(sums(), executor=pool, progress=False)


class Losing(ThreadPoolExecutor):
    """Loses every part so often."""

    def __init__(self, times: int) -> None:
        super().__init__(2)
        self.times, self.lost = times, Counter[Any]()

    def submit(self, function: Any, part: Any, *rest: Any) -> Any:  # type: ignore[override]
        self.lost[part.between] += 1
        if self.lost[part.between] > self.times:
            return super().submit(function, part, *rest)
        failed: Future[Any] = Future()
        failed.set_exception(OSError("worker gone\nand more"))
        return failed


def test_a_part_that_is_lost_is_asked_for_once_more(lab):
    with Losing(1) as pool:
        assert told(lab.replay(sums(), executor=pool, progress=False)) == told(lab.replay(sums(), progress=False))
        assert set(pool.lost.values()) == {2}
    with Losing(2) as pool, pytest.raises(ExecutorError, match=r"lost part 1 \(OSError: worker gone\)"):
        lab.replay(sums(), executor=pool, progress=False)


def test_what_is_no_executor_is_refused_and_a_lab_s_own_errors_come_through(lab, tmp_path):
    with pytest.raises(ExecutorError, match="is none; give a"):
        lab.replay("cart", executor=4, progress=False)
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ProjectionError, match="executor="):
            lab.replay(SqlProjection("counts", "select count(*) from events"), executor=pool)
        with pytest.raises(UnknownId):
            lab.replay("parcel", executor=pool, progress=False)


# --- a Dask cluster, and a notebook -----------------------------------------------------------------

CELLS = [
    """
import json, os, signal
from pathlib import Path
from distributed import Client, LocalCluster
import eslab
from eslab import dispatch
dispatch.SMALLEST = 16
cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None, local_directory=FOLDER)
client = Client(cluster)
pids = set(client.run(os.getpid).values())
lab = eslab.Lab(LAB, tz="UTC")
""",
    """
flag = Path(FOLDER) / "killed"
FEE = 3                            # what a handler refers to travels with it
carts = eslab.Projection("carts", aggregate="cart", initial={"sum": 0, "pids": []})

@carts.on("Added")
def added(state, event):
    if event.data["n"] == 100 and not flag.exists():
        flag.write_text(json.dumps([os.getpid(), event.aggregate_id]))
        os.kill(os.getpid(), signal.SIGKILL)
    return {"sum": state["sum"] + event.data["n"] + FEE, "pids": sorted({*state["pids"], os.getpid()})}
""",
    """
world = lab.replay(carts, executor=client.get_executor(pure=False, retries=2), progress=False)
folded = {pid for state in world.values() for pid in state["pids"]}
killed, cart = json.loads(flag.read_text())  # its earlier parts may have come home before it died: of this one nothing may have
print(json.dumps({
    "sums": {key: state["sum"] for key, state in world.items()},
    "here": os.getpid() in folded, "killed": killed in pids, "again": killed in world[cart]["pids"], "workers": len(pids),
}))
client.close(); cluster.close()
""",
]


def test_on_a_dask_cluster_a_projection_of_a_cell_is_folded_by_its_workers_and_a_killed_one_costs_a_retry(lab, tmp_path):
    told_ = f"LAB, FOLDER = {str(lab.path)!r}, {str(tmp_path)!r}\n"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(told_ + CELLS[0]), *map(nbformat.v4.new_code_cell, CELLS[1:])])
    NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(Path(__file__).parent.parent)}}
    ).execute()
    said = json.loads("".join(out["text"] for out in notebook.cells[-1].outputs if out.get("name") == "stdout"))
    wanted: Counter[str] = Counter()
    for key, n in lab.sql("select data ->> 'cartId', (data ->> 'n')::int from events").fetchall():
        wanted[key] += n + 3
    ended = {"c20", "c30"}
    assert said == {
        "sums": {key: wanted[key] for key in wanted.keys() - ended},
        "here": False,
        "killed": True,
        "again": False,
        "workers": 2,
    }
