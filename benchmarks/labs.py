"""Labs of synthetic orders, built once and kept under benchmarks/out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from benchmarks.data import Orders
from eslab import Lab, building, runs
from eslab.events import EVENTS, Run, newest_manifest

LABS = Path(__file__).parent / "out" / "labs"


def orders(events: int, *, brief: bool = False) -> Lab:
    """A lab of so many events in one sorted run."""
    lab = Lab(LABS / f"orders-{events}{'-brief' * brief}", tz="UTC", say=lambda text: None)
    lab.snapshot(Orders(events, brief=brief), progress=True)
    return lab


def flows(events: int) -> Lab:
    """A lab of so many events in sagas of five, each event caused by the one before it."""
    lab = Lab(LABS / f"flows-{events}", tz="UTC", say=lambda text: None)
    lab.snapshot(Orders(events, flows=True), progress=True)
    return lab


def giant(events: int) -> Lab:
    """A lab of so many events of one order."""
    lab = Lab(LABS / f"giant-{events}", tz="UTC", say=lambda text: None)
    lab.snapshot(Orders(events, keys=1), progress=True)
    return lab


def in_runs(events: int, count: int, *, brief: bool = False) -> Lab:
    """The same lab in so many live runs, each of as many events as the others: those that a series of snapshots may leave."""
    whole = orders(events, brief=brief)
    if count == 1:
        return whole
    folder = whole.path.with_name(f"{whole.path.name}-{count}-runs")
    if not (folder / "events").exists():
        shutil.copytree(
            whole.path, folder, ignore=shutil.ignore_patterns("events"), copy_function=lambda one, other: Path(other).hardlink_to(one)
        )
        (folder / "events").mkdir()
        manifest = newest_manifest(whole.path)
        assert manifest is not None
        made = []
        for number in range(count):
            written = runs.write_run(folder / "events", f"{number:08d}-part", _share(whole, number, count))
            made.append(Run(count - number, sum(one.rows for one in written), [one.path.name for one in written]))
        for name in filter(None, [manifest.gaps, manifest.transactions]):
            shutil.copy(whole.path / "events" / name, folder / "events" / name)
        building._commit(folder / "events", msgspec.structs.replace(manifest, number=1, runs=made))
    return Lab(folder, tz="UTC", say=lambda text: None)


def _share(lab: Lab, number: int, count: int) -> Iterator[pa.Table]:
    """Every so-many-th part of the log's offsets, in key order."""
    files = [runs.RunFile(path) for path in lab._now().paths]
    last = max(next_ for next_ in lab.cut().offsets.values())
    low, high = last * number // count, last * (number + 1) // count
    for table in runs.merge(files, EVENTS.names):
        offsets = table["record_offset"].to_numpy()
        part = table.filter(pa.array(np.logical_and(offsets >= low, offsets < high)))
        if part.num_rows:
            yield part
