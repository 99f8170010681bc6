"""A projection folded over every aggregate, as of a selection: plan, then run.

Events are sorted by aggregate on disk, so a replay streams one aggregate after another in flat memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from eslab.errors import ProjectionError, UnknownId
from eslab.events import Events, Slice
from eslab.folding import FOLD_COLUMNS, Failure, Fold, Rows, decoded, event_types, stretches
from eslab.model import Event, Selection
from eslab.projection import Projection
from eslab.sql import undecodable
from eslab.views import tables
from eslab.world import World, WorldBuilder

__all__ = ["ReplayPlan", "last_event", "may_miss", "plan", "run", "slices"]


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
        told = f"{self.projection.name} over {what} of {self.projection.aggregate}: {self.rows:,} rows in {self.files:,} files"
        return tables.visible(f"<ReplayPlan {told}>")

    def _repr_html_(self) -> str:
        return f"<p>{tables.escape(repr(self).strip('<>'))}</p>"


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
    wanted = None if keys is None else tuple(sorted({keys} if isinstance(keys, str) else set(keys)))
    return ReplayPlan(events, projection, selection, wanted, ended, len(events.paths), known[projection.aggregate])


def run(todo: ReplayPlan, *, on_rows: Callable[[int], None] = lambda count: None) -> World:
    """Fold, and return the last state of every key.

    A handler that raises fails its key alone. Memory: one slice of rows, and the states (at most 256 MB, then a temporary file).
    """
    builder = WorldBuilder()
    folding = _Folding(todo, builder)
    try:
        for part in slices(todo):
            folding.take(part)
            on_rows(part.table.num_rows)
        folding.end_key()
    except BaseException:
        builder.abandon()
        raise
    return builder.finish(
        todo.projection,
        todo.selection,
        failed=folding.failed,
        partial=frozenset(folding.partial),
        ended=folding.ended,
        events=folding.steps,
        undecodable=undecodable(todo.events, todo.selection),
    )


def slices(todo: ReplayPlan) -> Iterator[Slice]:
    """The rows to fold, every key's in order, one key after another."""
    aggregate = todo.projection.aggregate
    if todo.keys is None:
        yield from todo.events.scan(aggregate, FOLD_COLUMNS, todo.selection)
    else:
        yield from (todo.events.lookup(aggregate, key, FOLD_COLUMNS, todo.selection) for key in todo.keys)


class _Folding:
    """One key after another, each handed to the builder when its rows are over."""

    def __init__(self, todo: ReplayPlan, builder: WorldBuilder) -> None:
        self.failed: list[Failure] = []
        self.partial: set[str] = set()
        self.ended = 0
        self.steps = 0
        self._todo, self._builder = todo, builder
        self._fold = Fold(todo.projection)
        self._key: str | None = None
        self._version = 0

    def take(self, part: Slice) -> None:
        """Fold the next rows."""
        rows = Rows(part)
        self.steps += len(rows)
        self.partial |= may_miss(self._todo.events, part)
        types, data, step = event_types(rows), decoded(rows), self._fold.step
        handlers = self._fold.handlers(types)
        for key, start, stop in stretches(rows):
            if key != self._key:
                self.end_key()
                self._key, self._version = key, 0
                self._fold.begin()
            self._version += stop - start
            for at, value in zip(range(start, stop), data, strict=False):
                step(Event(rows, at, types[at], value), handlers[types[at]])

    def end_key(self) -> None:
        """Hand over the state of the key that was being folded."""
        fold = self._fold
        if self._key is None:
            return
        if fold.failure is None and fold.over and not self._todo.ended:
            self.ended += 1
            return
        if fold.failure is None:
            try:
                self._builder.add(self._key, self._version, fold.state)
            except ProjectionError as exc:
                fold.fail(last_event(self._todo, self._key), str(exc))
        if fold.failure is not None:
            self.failed.append(fold.failure)


def last_event(todo: ReplayPlan, key: str) -> Event:
    """The last event of a key that has some: looked up again, since the rows that it came with are gone."""
    rows = Rows(todo.events.lookup(todo.projection.aggregate, key, FOLD_COLUMNS, todo.selection))
    return Event(rows, len(rows) - 1, None)


def may_miss(events: Events, part: Slice) -> set[str]:
    """The keys among these rows with an event in a partition that has lost some."""
    table = part.table
    mask = None
    for topic, partition, incarnation in events.lossy:
        here = pc.and_(pc.equal(table["partition_id"], partition), pc.equal(table["incarnation"], incarnation))
        here = pc.and_(pc.equal(table["topic"], topic), here)
        mask = here if mask is None else pc.or_(mask, here)
    return set() if mask is None else set(pc.unique(table["aggregate_id"].filter(mask)).to_pylist())
