"""A projection folded over every aggregate, as of a selection: plan, then run.

Events are sorted by aggregate on disk, so a replay streams one aggregate after another in flat memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from eslab.errors import ProjectionError, UnknownId
from eslab.events import Events, Slice
from eslab.folding import FOLD_COLUMNS, Rows, apply, decoded, event_types, nothing_returned
from eslab.model import MISSING, Event, Life, Selection
from eslab.projection import Projection
from eslab.world import Failure, World, WorldBuilder

__all__ = ["ReplayPlan", "plan", "run"]


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What a replay will read. `rows` counts (aggregate, event) rows, at most."""

    events: Events
    projection: Projection
    selection: Selection
    keys: tuple[str, ...] | None
    ended: bool
    files: int
    rows: int

    def __repr__(self) -> str:
        what = f"{len(self.keys):,} keys" if self.keys is not None else "every key"
        return f"<ReplayPlan {self.projection.name} over {what} of {self.projection.aggregate}: {self.rows:,} rows in {self.files:,} files>"


def plan(
    events: Events, projection: Projection, selection: Selection, *, keys: Sequence[str] | None = None, ended: bool = False
) -> ReplayPlan:
    """Decide what to read. Raises `ProjectionError` if there is nothing to fold with, `UnknownId` for an aggregate that no event has."""
    projection.check()
    known = events.manifest.aggregates
    if projection.aggregate not in known:
        raise UnknownId(
            f"no captured event belongs to an aggregate {projection.aggregate!r}; the lab has {', '.join(known) or 'none'} (see lab.toml)"
        )
    wanted = None if keys is None else tuple(sorted(set(keys)))
    return ReplayPlan(events, projection, selection, wanted, ended, len(events.paths), known[projection.aggregate])


def run(todo: ReplayPlan, *, on_rows: Callable[[int], None] = lambda count: None) -> World:
    """Fold, and return the last state of every key.

    A handler that raises fails its key alone. Memory: one slice of rows, and the states (at most 256 MB, then a temporary file).
    """
    builder = WorldBuilder()
    fold = _Fold(todo, builder)
    try:
        for rows in _slices(todo):
            fold.take(rows)
            on_rows(rows.table.num_rows)
        fold.end_key()
    except BaseException:
        builder.abandon()
        raise
    return builder.finish(
        todo.projection, todo.selection, failed=fold.failed, partial=frozenset(fold.partial), ended=fold.ended, events=fold.events
    )


def _slices(todo: ReplayPlan) -> Iterator[Slice]:
    aggregate = todo.projection.aggregate
    if todo.keys is None:
        yield from todo.events.scan(aggregate, FOLD_COLUMNS, todo.selection)
    else:
        yield from (todo.events.lookup(aggregate, key, FOLD_COLUMNS, todo.selection) for key in todo.keys)


class _Fold:
    """The state of one key at a time."""

    def __init__(self, todo: ReplayPlan, builder: WorldBuilder) -> None:
        self.failed: list[Failure] = []
        self.partial: set[str] = set()
        self.ended = 0
        self.events = 0
        self._todo, self._builder = todo, builder
        self._lossy = list(todo.events.lossy)
        self._key: str | None = None
        self._state: Any = None
        self._version = 0
        self._over = self._broken = False

    def take(self, part: Slice) -> None:
        """Fold the next rows.

        What happens to nearly every event is done in place, a call less for each; whatever is odd goes through `apply`. The answers are the same.
        """
        projection = self._todo.projection
        rows = Rows(part)
        self.events += len(rows)
        if self._lossy:
            self.partial.update(_touched(part.table, self._lossy))
        keys, types = rows.list("aggregate_id"), event_types(rows)
        handlers = {one: projection.handler(one) for one in set(types)}
        for at, data in enumerate(decoded(rows)):
            if keys[at] != self._key:
                self.end_key()
                self._key, self._state, self._version = keys[at], projection.initial(), 0
                self._over = self._broken = False
            if self._broken:
                continue
            event_type = types[at]
            event = Event(rows, at, event_type, data)
            handler = handlers[event_type]
            try:
                if handler is None or event_type is None or data is MISSING:
                    self._state, mark = apply(projection, self._state, event)
                    if mark not in ("undecodable", "unhandled"):  # they leave the state as it is, ended or not
                        self._over = mark == "tombstone"
                else:
                    after = handler(self._state, event)
                    self._state = after if after is not None else nothing_returned(handler, event)
                    self._over = False
            except Exception as exc:  # noqa: BLE001  # a handler is the user's: whatever it raises fails this key and no other
                self._broken = True
                self.failed.append(Failure(keys[at], event.id, event.coordinates, f"{type(exc).__name__}: {exc}"))
                continue
            self._version += 1

    def end_key(self) -> None:
        """Hand over the state of the key that was being folded."""
        if self._key is None or self._broken:
            return
        if self._over and not self._todo.ended:
            self.ended += 1
            return
        try:
            self._builder.add(self._key, self._version, self._state)
        except ProjectionError as exc:
            rows = Rows(self._todo.events.lookup(self._todo.projection.aggregate, self._key, FOLD_COLUMNS, self._todo.selection))
            event = Event(rows, len(rows) - 1, None)
            self.failed.append(Failure(self._key, event.id, event.coordinates, str(exc)))


def _touched(table: pa.Table, lossy: Sequence[Life]) -> set[str]:
    """The keys with an event in a partition that has lost some."""
    mask = pa.repeat(pa.scalar(False), table.num_rows)
    for topic, partition, incarnation in lossy:
        here = pc.and_(pc.equal(table["partition_id"], partition), pc.equal(table["incarnation"], incarnation))
        mask = pc.or_(mask, pc.and_(pc.equal(table["topic"], topic), here))
    return set(pc.unique(table["aggregate_id"].filter(mask)).to_pylist())
