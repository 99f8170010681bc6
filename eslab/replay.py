"""A projection folded over every aggregate, as of a selection: plan, then run.

Events are sorted by aggregate on disk, so a replay streams one aggregate after another in flat memory.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Final

import pyarrow.compute as pc

from eslab import keying
from eslab.events import Between, Events, Slice
from eslab.folding import FOLD_COLUMNS, Failure, Fold, Rows, stretches
from eslab.keyed import KeyedRows
from eslab.model import AGGREGATE, Event, Selection
from eslab.projection import Projection
from eslab.sql import undecodable
from eslab.views import tables
from eslab.wording import many
from eslab.world import World, WorldBuilder

__all__ = ["Folding", "Part", "ReplayPlan", "fold", "last_event", "may_miss", "plan", "run", "slices", "unknown_keys"]

SAMPLE: Final = 16  # keys that are folded to tell how long all of them will take; of a whole world it is a slice of rows
SHOWN: Final = 5  # keys that a notice names


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What a replay will read: `rows` counts (aggregate, event) rows, at most. `seconds` is how long it will take, where a sample was asked for."""

    events: Events
    projection: Projection
    selection: Selection
    keys: tuple[str, ...] | None
    ended: bool
    files: int
    rows: int
    seconds: float | None = None
    between: Between | None = None
    """Only the keys between two, for one part of a replay."""

    def __repr__(self) -> str:
        what = many(len(self.keys), "key") if self.keys is not None else "every key"
        told = f"{self.projection.name} over {what} of {self.projection.aggregate}: {many(self.rows, 'row')} in {many(self.files, 'file')}"
        return tables.visible(f"<ReplayPlan {told}{'' if self.seconds is None else f', about {_shown(self.seconds)}'}>")

    def _repr_html_(self) -> str:
        return f"<p>{tables.escape(repr(self).strip('<>'))}</p>"


def _shown(seconds: float) -> str:
    return f"{seconds:.1g} s" if seconds < 1 else f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} minutes"


def plan(
    events: Events,
    projection: Projection,
    selection: Selection,
    *,
    keys: Sequence[str] | None = None,
    ended: bool = False,
    sample: bool = False,
) -> ReplayPlan:
    """Decide what to read; with `sample`, fold the first of it to tell how long the rest will take (not by other keys than the aggregate's: they are sorted first).

    Raises `ProjectionError` if there is nothing to fold with, `UnknownId` for an aggregate that no event has.
    """
    projection.check()
    rows = keying.count(events, projection)
    wanted = None if keys is None else tuple(sorted({keys} if isinstance(keys, str) else set(keys)))
    todo = ReplayPlan(events, projection, keying.narrowed(events, projection, selection), wanted, ended, len(events.paths), rows)
    return dataclasses.replace(todo, seconds=_seconds(todo)) if sample and projection.key is AGGREGATE else todo


def _seconds(todo: ReplayPlan) -> float:
    """How long a replay takes, as its first slices do: their reading, and what the handlers cost."""
    if todo.keys is not None:
        share, parts = SAMPLE / max(len(todo.keys), 1), slices(dataclasses.replace(todo, keys=todo.keys[:SAMPLE]))
    else:
        share, parts = 0.0, islice(slices(todo), 1)
    began, rows = time.perf_counter(), 0

    def count(more: int) -> None:
        nonlocal rows
        rows += more

    fold(todo, parts, on_rows=count)
    spent = time.perf_counter() - began
    return spent / min(share or rows / max(todo.rows, 1) or 1, 1)


@dataclass(frozen=True, slots=True)
class Part:
    """What some keys came to: their rows as `World` keeps them, and what there is to say."""

    rows: KeyedRows
    failed: Sequence[Failure]
    partial: frozenset[str]
    ended: int
    steps: int

    def world(self, todo: ReplayPlan) -> World:
        """The world of these keys alone."""
        count = undecodable(todo.events, todo.selection)
        return World(todo.projection, todo.selection, self.rows, self.failed, self.partial, self.ended, self.steps, count)


def run(todo: ReplayPlan, *, on_rows: Callable[[int], None] = lambda count: None) -> World:
    """Fold, and return the last state of every key.

    A handler that raises fails its key alone. Memory: one slice of rows, and the states (at most 256 MB, then a temporary file).
    """
    return fold(todo, slices(todo), on_rows=on_rows).world(todo)


def fold(todo: ReplayPlan, parts: Iterable[Slice], *, on_rows: Callable[[int], None] = lambda count: None) -> Part:
    """Fold rows that hold every key whole, in the order of the keys."""
    folding = Folding(todo)
    try:
        for part in parts:
            folding.take(part)
            on_rows(part.table.num_rows)
        return folding.finish()
    except BaseException:
        folding.builder.abandon()
        raise


def slices(todo: ReplayPlan) -> Iterator[Slice]:
    """The rows to fold, every key's in order, one key after another."""
    return keying.scan(todo.events, todo.projection, FOLD_COLUMNS, todo.selection, todo.keys, todo.between)


def unknown_keys(todo: ReplayPlan, seen: Callable[[str], bool]) -> Iterator[str]:
    """One word on the keys that were asked for and that no captured event belongs to, if there are any. Looks up those that were not `seen`."""
    if todo.projection.key is not AGGREGATE:
        return  # these are told by a scan of everything alone
    aggregate, everything = todo.projection.aggregate, Selection(todo.events.cut)
    unseen = (key for key in todo.keys or () if not seen(key))
    unknown = [key for key in unseen if not todo.events.lookup(aggregate, key, (), everything).table.num_rows]
    if unknown:
        named = ", ".join(map(repr, unknown[:SHOWN])) + (f" and {len(unknown) - SHOWN:,} more" if len(unknown) > SHOWN else "")
        yield f"no captured event belongs to {many(len(unknown), f'{aggregate} key')} that keys= names: {named}"


class Folding:
    """One key after another, each handed to the builder when its rows are over."""

    def __init__(self, todo: ReplayPlan) -> None:
        self.builder = WorldBuilder()
        self._failed: list[Failure] = []
        self._partial: set[str] = set()
        self._steps = 0
        self._todo = todo
        self._fold = Fold(todo.projection)
        self.key: str | None = None
        self._version = 0

    def take(self, part: Slice, *, over: bool = False) -> None:
        """Fold the next rows. `over`: a key among them may begin as one that has ended."""
        rows, fold = Rows(part), self._fold
        self._steps += len(rows)
        self._partial |= may_miss(self._todo, part)
        steps = fold.steps(rows, over=over)
        for key, count in stretches(rows):
            if key != self.key:
                self._end_key()
                self.key, self._version = key, self._begin(key)
            fold.run(islice(steps, count))
            self._version += count

    def finish(self) -> Part:
        """What all came to."""
        self._end_key()
        self.builder.flush()
        refused = [Failure.of(last_event(self._todo, key), error) for key, error in self.builder.refused]
        failed = sorted([*self._failed, *refused], key=attrgetter("key"))
        return Part(self.builder.finish(), failed, frozenset(self._partial), self.builder.ended, self._steps)

    def _begin(self, key: str) -> int:
        """Make the fold stand before a key's rows, and return the version that it has there."""
        self._fold.begin()
        return 0

    def _end_key(self) -> None:
        """Hand over the state of the key that was being folded."""
        fold = self._fold
        if fold.failure is not None:
            self._failed.append(fold.failure)
        elif self.key is not None:
            self.builder.add(self.key, self._version, fold.state, over=fold.over and not self._todo.ended)


def last_event(todo: ReplayPlan, key: str) -> Event:
    """The last event of a key that has some: looked up again, since the rows that it came with are gone."""
    rows = Rows(keying.lookup(todo.events, todo.projection, key, FOLD_COLUMNS, todo.selection))
    return Event.undecoded(rows, len(rows) - 1, None)


def may_miss(todo: ReplayPlan, part: Slice) -> set[str]:
    """The keys among these rows with an event in a partition that has lost some before the plan's cut."""
    mask = None
    for topic, partition, incarnation in todo.events.lossy(todo.selection.cut):
        here = pc.and_(pc.equal(part.column("partition_id"), partition), pc.equal(part.column("incarnation"), incarnation))
        here = pc.and_(pc.equal(part.column("topic"), topic), here)
        mask = here if mask is None else pc.or_(mask, here)
    return set() if mask is None else set(pc.unique(part.column("aggregate_id").filter(mask)).to_pylist())
