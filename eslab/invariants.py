"""What is to hold for the state of every key, and which keys break it: since when, after which event, and how many they were over time."""

from __future__ import annotations

import datetime as dt
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from eslab import buckets
from eslab.again import Again
from eslab.cuts import Clock
from eslab.errors import ProjectionError
from eslab.folding import Failure, Rows, Step, keep
from eslab.looking import COLUMNS, Gathered, Looking, Predicate, Turn, Turns, told_of, walk
from eslab.model import Cut, Event, pack_state
from eslab.projection import Projection
from eslab.replay import ReplayPlan, last_event
from eslab.views import tables
from eslab.wording import many

if TYPE_CHECKING:
    from eslab.views.charts import Drawn

__all__ = ["Check", "Invariant", "Violation", "Violations", "by_projection", "find_violations"]

POINTS: Final = 2_000
SHOWN: Final = 20

Span = tuple[dt.datetime, dt.datetime]


@dataclass(frozen=True, slots=True)
class Invariant:
    """What is to hold for the state of every key: `predicate(state)` says whether it does. `projection` may be the name of an aggregate, for its default one."""

    name: str
    projection: Projection | str
    predicate: Predicate

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ProjectionError(f"{self.name!r:.80} is no name; an invariant is called by a text")
        if not isinstance(self.projection, (Projection, str)):
            raise ProjectionError(
                f"invariant {self.name!r}: {self.projection!r:.80} folds no events; give an eslab.Projection, or the name of an aggregate"
            )
        if not callable(self.predicate):
            raise ProjectionError(
                f"invariant {self.name!r}: {self.predicate!r:.80} is no predicate; give a function that takes a key's state and says whether it holds"
            )

    def __repr__(self) -> str:
        over = self.projection if isinstance(self.projection, str) else self.projection.name
        return tables.visible(f"<Invariant {self.name}, over {over}>")

    def _repr_html_(self) -> str:
        return tables.paragraphs([repr(self).strip("<>")])


def by_projection(invariants: Iterable[Invariant]) -> list[list[Invariant]]:
    """Those that one pass over the events answers together. Raises `ProjectionError` where two have one name."""
    groups: dict[Any, list[Invariant]] = {}
    names = set[str]()
    for one in invariants:
        if one.name in names:
            raise ProjectionError(f"two invariants are called {one.name!r}; give each a name of its own")
        names.add(one.name)
        groups.setdefault(one.projection if isinstance(one.projection, str) else id(one.projection), []).append(one)
    return list(groups.values())


# --- what is found --------------------------------------------------------------------------------


class Violation(Turn):
    """A key that breaks an invariant, the event after which it last came to do so, and its state at the moment that was asked about."""

    said = "the event after which it was broken"


class Violations(Turns[Violation]):
    """One row per key that breaks an invariant at a moment, in the lab's order of the events after which they did; `keys` were asked.

    `mended` keys broke it before that, and do not any more. `failed` are the keys whose handler raised: nothing is known of their states. `partial` may miss events.
    """

    each = Violation

    def __init__(
        self,
        name: str,
        aggregate: str,
        found: pa.Table,
        moves: pa.Table,
        clock: Clock,
        *,
        keys: int,
        mended: int,
        failed: Sequence[Failure],
        partial: frozenset[str],
    ) -> None:
        super().__init__(found, clock)
        self.name, self.aggregate, self.keys, self.mended = name, aggregate, keys, mended
        self.failed, self.partial = tuple(failed), partial
        self._moves = moves

    @property
    def ok(self) -> bool:
        """Whether every key is known to keep it."""
        return not len(self) and not self.failed

    def over_time(self) -> pd.DataFrame:
        """How many keys broke it, by time: a row for each moment at which that changed."""
        frame: pd.DataFrame = self.moves().to_pandas().set_index("time")
        return frame

    def moves(self) -> pa.Table:
        """The same in Arrow: time, violators."""
        return self._moves.set_column(0, "time", self._moves["time"].cast(pa.timestamp("us", tz=str(self._clock.zone))))

    def summary(self) -> str:
        """What there is to say, in a line."""
        said = f"{self.name}: {len(self):,} of {many(self.keys, self.aggregate)} break{'s' * (len(self) == 1)} it"
        if len(self):
            said += f", the first since {self._clock.show(self[0].recorded_at)} ({self[0].key}, version {self[0].version})"
        said += f"; {self.mended:,} did before" if self.mended else ""
        said += f"; {many(len(self.failed), 'key')} FAILED" if self.failed else ""
        return said + (f"; {many(len(self.partial), 'key')} may miss events" if self.partial else "")

    def __repr__(self) -> str:
        return tables.visible(f"<{self.summary()}>")

    def html(self) -> str:
        """The first of them, as a table."""
        rows = [[self._clock.show(one.recorded_at), *one.row()] for one in self[:SHOWN]]
        more = f"; the first {SHOWN}" if len(self) > SHOWN else ""
        return tables.html(["since", *COLUMNS], rows, caption=self.summary() + more, empty="no key breaks it")

    def _repr_html_(self) -> str:
        return self.html() + tables.shell(self.again)


class Check(Again, Mapping[str, Violations]):
    """What breaks the invariants at a moment, by their names. `ok` says that nothing does."""

    def __init__(
        self, found: Sequence[Violations], names: Sequence[str], cut: Cut, span: Span | None, until: dt.datetime | None, clock: Clock
    ) -> None:
        self._found = {name: next(one for one in found if one.name == name) for name in names}
        self._at = cut.label or "the moment that was asked for"
        self._clock = clock
        self._span = span and (span[0], min(span[1], until) if until is not None else span[1])

    def __getitem__(self, name: str) -> Violations:
        try:
            return self._found[name]
        except KeyError:
            raise KeyError(f"no invariant {name!r} was checked; there are {', '.join(map(repr, self._found))}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def ok(self) -> bool:
        """Whether every key is known to keep every invariant."""
        return all(one.ok for one in self.values())

    def arrow(self) -> pa.Table:
        """One row per violation: invariant, aggregate, and what `Violations.arrow` has."""
        parts = []
        for one in self.values():
            table = one.arrow()
            for at, (name, value) in enumerate((("invariant", one.name), ("aggregate", one.aggregate))):
                table = table.add_column(at, name, pa.repeat(value, table.num_rows))
            parts.append(table)
        return pa.concat_tables(parts)

    def df(self) -> pd.DataFrame:
        """What `arrow` has, with the states as values."""
        frames = []
        for one in self.values():
            frame = one.df().reset_index()
            frame.insert(0, "invariant", pd.Series(one.name, index=frame.index, dtype="str"))
            frame.insert(1, "aggregate", pd.Series(one.aggregate, index=frame.index, dtype="str"))
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def chart(self) -> Drawn:
        """How many keys broke each invariant, over time."""
        from eslab.views import charts  # noqa: PLC0415  Altair is loaded when a chart is drawn

        drawn: Drawn = charts.violators(self._points(), names=list(self), zone=self._clock.zone, notes=self._notes())
        return drawn

    def _points(self) -> pa.Table:
        """time, name, violators: the steps of each line, from the first event to the moment; at most 2,000 in all."""
        lines = []
        for one in self.values():
            times, counts = (one.moves()[column].to_pylist() for column in ("time", "violators"))
            if self._span is not None:
                first, last = self._span
                counts = [0, *counts, *(counts[-1:] or [0])]
                times = [min([first, last, *times[:1]]), *times, max([last, *times[-1:]])]
            lines.append(
                pa.table(
                    {"time": pa.array(times, _TIME), "name": pa.repeat(one.name, len(times)), "violators": pa.array(counts, pa.int64())}
                )
            )
        return buckets.thin(pa.concat_tables(lines), "name", highs=["violators"], lows=["violators"], most=POINTS)

    def _notes(self) -> list[str]:
        return [
            *(f"{one.name}: {many(len(one.failed), 'key')} failed, and count until then" for one in self.values() if one.failed),
            *(f"{one.name}: {many(len(one.partial), 'key')} may miss events" for one in self.values() if one.partial),
        ]

    def __repr__(self) -> str:
        broken = sum(not one.ok for one in self.values())
        head = f"<Check of {many(len(self), 'invariant')}, {self._at}: {f'{broken:,} BROKEN' if broken else 'all hold'}>"
        return tables.visible("\n".join([head, *(f"  {one.summary()}" for one in self.values())]))

    def _repr_html_(self) -> str:
        head = f"{many(len(self), 'invariant')}, checked on {self._at}"
        return tables.paragraphs([head]) + "".join(one.html() for one in self.values()) + tables.shell(self.again)


_TIME: Final = pa.timestamp("us", tz="UTC")


# --- one pass -------------------------------------------------------------------------------------


def find_violations(
    todo: ReplayPlan, invariants: Sequence[Invariant], clock: Clock, *, on_rows: Callable[[int], None] = lambda count: None
) -> list[Violations]:
    """Fold every key once, and ask whether the invariants hold for its state: after its first event and after each that a handler folded.

    So the violators are those that a replay would show. A key counts from its first event until a tombstone ends it, or a handler raises. Memory: the violators, and 8 bytes for
    each time that a key came to break an invariant, or ceased to. Raises `ProjectionError` where a predicate raises, naming key and event.
    """
    guard = _Guard(todo.projection, invariants)
    partial = walk(todo, guard, guard.over_with, on_rows=on_rows)
    failed = [*guard.failed, *(Failure.of(last_event(todo, key), error) for key, error in guard.unfit.items())]
    return [
        Violations(
            line.name,
            todo.projection.aggregate,
            line.found.table(),
            line.moves(),
            clock,
            keys=guard.keys - len(guard.unfit),
            mended=line.mended,
            failed=failed,
            partial=partial,
        )
        for line in guard.lines
    ]


class _Line:
    """What became of one invariant, key after key."""

    def __init__(self, invariant: Invariant) -> None:
        self.holds, self.what = invariant.predicate, f"invariant {invariant.name!r}"
        self.name = invariant.name
        self.since: tuple[int, int | pa.Table] | None = None
        """The version with which the key at hand came to break it, and the row of that event, or what is told of it; None while it holds."""
        self.mended = 0
        self.found = Gathered()
        self._broke = False
        self._rows, self._by = array("q"), array("b")
        self._times = [np.empty(0, np.int64)]

    def begin(self) -> None:
        """Stand before another key."""
        self.since, self._broke = None, False

    def turn(self, row: int, since: tuple[int, int] | None) -> None:
        """With the event in that row the key came to break it, or ceased to."""
        self._broke = True
        self._rows.append(row)
        self._by.append(-1 if since is None else 1)
        self.since = since

    def leave(self, rows: Rows) -> None:
        """Keep what these rows tell: the times of the turns, and the events with which keys came to break it."""
        if self._rows:
            self._times.append(rows.column("order_at").cast(pa.int64()).take(pa.array(self._rows)).to_numpy())
            del self._rows[:]
        self.found.take(rows)
        if self.since is not None and isinstance(self.since[1], int):
            self.since = self.since[0], told_of(rows, [self.since[1]])

    def over_with(self, key: str, state: Any) -> None:
        """Keep what there was to a key. Raises `ProjectionError` for a state of a violator that is none."""
        if self.since is None:
            self.mended += self._broke
            return
        version, event = self.since
        if isinstance(event, int):
            self.found.add(key, version, event, pack_state(state))
        else:
            self.found.add_kept(key, version, event, pack_state(state))

    def moves(self) -> pa.Table:
        """time, violators: a row for each moment after which there were more, or fewer."""
        times = np.concatenate(self._times)
        order = np.argsort(times, kind="stable")
        times, counts = times[order], np.cumsum(np.asarray(self._by, np.int64)[order])
        last = np.flatnonzero(np.diff(times, append=np.iinfo(np.int64).max))  # of those at one time
        times, counts = times[last], counts[last]
        moved = np.flatnonzero(np.diff(counts, prepend=0))
        return pa.table({"time": pa.array(times[moved]).cast(_TIME), "violators": pa.array(counts[moved], pa.int64())})


class _Guard(Looking):
    """Asks several predicates after each step, and notes where one of them turns."""

    def __init__(self, projection: Projection, invariants: Sequence[Invariant]) -> None:
        super().__init__(projection)
        self.lines = [_Line(one) for one in invariants]
        self.failed: list[Failure] = []
        self.unfit: dict[str, str] = {}
        """The keys that break one with what no state may be, and why it is none: they fail, as they do in a replay."""
        self.keys = 0

    def begin(self) -> None:
        super().begin()
        for line in self.lines:
            line.begin()

    def start(self, steps: Iterable[Step]) -> Iterable[Step]:
        rest = iter(steps)
        first = next(rest)
        event, handler = first
        if handler is keep:  # no handler folds it, and from here on the key is in every world, with its initial state
            self.look(self.state, event)
        return chain([first], rest)

    def look(self, state: Any, event: Event) -> None:
        for line in self.lines:
            try:
                holds = bool(line.holds(state))
            except Exception as exc:
                raise self.refuse(line.what, exc, state, event) from exc
            if holds is (line.since is not None):
                version, row = self.place(event)
                line.turn(row, None if holds else (version, row))

    def fail(self, event: Event, error: str) -> None:
        super().fail(event, error)
        self._gone(event)

    def _end(self, state: Any, event: Event) -> Any:
        self._gone(event)
        return super()._end(state, event)

    def _gone(self, event: Event) -> None:
        """The key is no longer one of those that are asked."""
        for line in self.lines:
            if line.since is not None:
                line.turn(self.place(event)[1], None)

    def leave(self, rows: Rows) -> None:
        for line in self.lines:
            line.leave(rows)

    def over_with(self, key: str) -> None:
        """Keep what there was to a key."""
        if self.failure is not None:
            self.failed.append(self.failure)
        else:
            self.keys += not self.over
        for line in self.lines:
            try:
                line.over_with(key, self.state)
            except ProjectionError as exc:
                self.unfit[key] = str(exc)
