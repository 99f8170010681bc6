"""A world carried on to a later cut: only the events between the two are folded, from the states that the world holds.

They are decoded from the log once more, since there they lie together: among the sorted events they are spread over all keys, and to find them there would be to read
all. Where a key has seen an event that sorts after one of its new ones, and where it failed, it is folded anew.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eslab import building, mapping, replay, runs, sql
from eslab.errors import MomentError
from eslab.events import EVENTS, PLACE, SCAN_ROWS, Events, Slice, held
from eslab.folding import FOLD_COLUMNS
from eslab.keyed import Keeper, KeyedRows, overlaid
from eslab.model import AGGREGATE, Life, Selection, unpack_state
from eslab.replay import Folding, Part, ReplayPlan
from eslab.segments import Log
from eslab.world import World

__all__ = ["Start", "advance", "begin"]

PIECE_ROWS: Final = 250_000  # of new events that are sorted in memory at once; more than one such piece goes to a temporary folder
LOOKUPS: Final = 2_000  # keys that are looked at by themselves; where more may have late events, all is folded anew


@dataclass(frozen=True, slots=True)
class Start:
    """What a world stands on; as long as all of it is the same, its states can be gone on from."""

    fingerprints: Mapping[Life, str]
    lossy: Collection[Life]
    rules: tuple[Any, ...]


def begin(todo: ReplayPlan) -> Start:
    """What the world of this replay stands on."""
    return _start(todo.events, todo, todo.selection)


def advance(
    world: World, start: Start, then: ReplayPlan, log: Log, rules: mapping.Mapping, *, on_rows: Callable[[int], None] = lambda count: None
) -> World:
    """What `replay.run(then)` returns, from a world of the same replay at an earlier cut. Raises `MomentError` for a cut that is not later.

    Memory: a few hundred thousand of the new events, and the states that they change.
    """
    seen, selection = world.selection, then.selection
    if not seen.cut <= selection.cut:
        raise MomentError(
            f"a world goes forward, and {selection.cut.label or 'that cut'} does not hold all that this one has seen; lab.replay(..., at=...) goes anywhere"
        )
    keyed = then.projection.key is not AGGREGATE
    gone_on = start == _start(then.events, then, seen) and start.lossy == set(then.events.lossy(selection.cut))
    if keyed or not then.projection.resumes or not gone_on or _other_rules(then, rules):
        return replay.run(then, on_rows=on_rows)
    clocks = _clocks(then.events, seen)
    with tempfile.TemporaryDirectory(prefix="eslab-") as folder:
        going = _GoingOn(world, then, max(clocks.values(), default=-1))
        try:
            for table in _sorted(building.between(log, rules, seen.cut, selection.cut, clocks), then, Path(folder)):
                if not going.take_new(table):
                    going.builder.abandon()
                    return replay.run(then, on_rows=on_rows)
                on_rows(table.num_rows)
            return going.world()
        except BaseException:
            going.builder.abandon()
            raise


def _start(events: Events, todo: ReplayPlan, seen: Selection) -> Start:
    return Start(events.manifest.fingerprints(seen.cut.offsets), set(events.lossy(seen.cut)), todo.projection.rules())


def _other_rules(then: ReplayPlan, rules: mapping.Mapping) -> bool:
    """Whether lab.toml says something else by now than what the events were made by."""
    topics = {life[0] for life in then.selection.cut.offsets}
    return any(
        topic not in rules.topics or rules.fingerprint(topic) != counts.fingerprint
        for topic, counts in then.events.manifest.topics.items()
        if topic in topics
    )


def _clocks(events: Events, seen: Selection) -> dict[Life, int]:
    """Where the clock of each life stood at the cut, in milliseconds: one scan of a few narrow columns."""
    found = sql.table(
        events,
        "select topic, partition_id, incarnation, epoch_ms(max(order_at)) from {rows} group by all",
        {},
        selection=dataclasses.replace(seen, happened_until=None),
    )
    return {
        (topic, partition, incarnation): ms
        for topic, partition, incarnation, ms in zip(*(column.to_pylist() for column in found.columns), strict=True)
    }


def _sorted(tables: Iterable[pa.Table], then: ReplayPlan, folder: Path) -> Iterator[pa.Table]:
    """The rows that the replay folds in the order of the keys, a few thousand at a time."""
    sources = list[runs.Sorted]()
    waiting, rows = list[pa.Table](), 0
    for table in tables:
        mine = pc.equal(table["aggregate"], then.projection.aggregate)
        if then.keys is not None:
            mine = pc.and_(mine, pc.is_in(table["aggregate_id"], value_set=pa.array(then.keys, pa.string())))
        table = table.filter(mine)
        table = table.filter(pa.array(held(table, then.selection)))
        if table.num_rows:
            waiting.append(table)
            rows += table.num_rows
        if rows >= PIECE_ROWS:
            sources.append(runs.spill(runs.sort(pa.concat_tables(waiting)), folder))
            waiting, rows = [], 0
    if waiting:
        sources.append(runs.InMemory(runs.sort(pa.concat_tables(waiting))))
    for table in runs.merge(sources, EVENTS.names) if sources else ():
        for at in range(0, table.num_rows, SCAN_ROWS):
            yield table.slice(at, SCAN_ROWS)


class _GoingOn(Folding):
    """Folds new rows from where a world left their keys."""

    def __init__(self, world: World, then: ReplayPlan, horizon_ms: int) -> None:
        super().__init__(then)
        self._world, self._then = world, then
        self._horizon_us = horizon_ms * 1000
        self._failed_before = {one.key for one in world.failed}
        self._before: dict[str, tuple[int, bytes, bool]] = {}
        self._anew: set[str] = set()
        self._looked_at = self._new = 0

    def take_new(self, table: pa.Table) -> bool:
        """Fold the next new rows, but for those of keys that are to be folded anew. False: these are too many."""
        self._new += table.num_rows
        encoded = pc.run_end_encode(table["aggregate_id"].combine_chunks())
        keys, starts = encoded.values, np.concatenate([[0], encoded.run_ends.to_numpy()[:-1]])
        self._before = _rows_of(self._world.rows, keys)
        times = table["order_at"].cast(pa.int64()).to_numpy()
        for key, at in zip(keys.to_pylist(), starts.tolist(), strict=True):
            if key in self._failed_before:
                self._anew.add(key)
            elif times[at] <= self._horizon_us and key in self._before and key != self.key and key not in self._anew:
                self._looked_at += 1
                if self._is_late(key):
                    self._anew.add(key)
        if self._looked_at > LOOKUPS or len(self._anew) > LOOKUPS:
            return False
        if self._anew:
            table = table.filter(pc.invert(pc.is_in(table["aggregate_id"], value_set=pa.array(sorted(self._anew), pa.string()))))
        part = Slice(lambda names: table, FOLD_COLUMNS, None, self._then.events.decimals)
        self.take(part, over=any(over for _, _, over in self._before.values()))
        return True

    def world(self) -> World:
        """The world with what was folded put over it."""
        world, then = self._world, self._then
        part = self.finish()
        rows = part.rows
        failed = list(part.failed)
        partial = world.partial | part.partial
        merged = _kept(overlaid(world.rows, rows, {one.key for one in failed}), rows.schema)
        if self._anew:
            again = dataclasses.replace(then, keys=tuple(sorted(self._anew)))
            anew = replay.fold(again, replay.slices(again))
            failed += anew.failed
            partial |= anew.partial
            merged = _kept(overlaid(merged, anew.rows, {one.key for one in anew.failed}), rows.schema)
        failed += [one for one in world.failed if one.key not in self._anew]
        ended = sum(pc.sum(batch.column("over")).as_py() or 0 for batch in merged.batches)
        return Part(merged, sorted(failed, key=lambda one: one.key), partial, ended, world.events + self._new).world(then)

    def _begin(self, key: str) -> int:
        found = self._before.get(key)
        if found is None:
            return super()._begin(key)
        version, state, over = found
        self._fold.resume(unpack_state(state), over=over)
        return version

    def _is_late(self, key: str) -> bool:
        """Whether one of a key's new events sorts before one that the world has seen."""
        then = self._then
        rows = then.events.lookup(then.projection.aggregate, key, PLACE, then.selection)
        seen = held(rows.table, self._world.selection)
        return bool(np.any(~seen[: np.flatnonzero(seen)[-1]])) if seen.any() else False


def _rows_of(rows: KeyedRows, keys: pa.Array) -> dict[str, tuple[int, bytes, bool]]:
    """Version, state and whether it is over, of those of these keys that a world has. They are in order."""
    found: dict[str, tuple[int, bytes, bool]] = {}
    for batch in rows.between(keys[0].as_py(), keys[-1].as_py()) if len(keys) else ():
        there = batch.filter(pc.is_in(batch.column(0), value_set=keys))
        names, *rest = (column.to_pylist() for column in there.columns)
        found.update(zip(names, zip(*rest, strict=True), strict=True))
    return found


def _kept(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> KeyedRows:
    keeper = Keeper(schema)
    try:
        for batch in batches:
            keeper.put(batch)
    except BaseException:
        keeper.abandon()
        raise
    return keeper.finish()
