"""A number of every key's state, over time: one pass over the events, the same numbers as a replay at each point.

By the clock of happenings, a key whose events came in another order than they happened in is folded again from its beginning for each point that a late one moves.
"""

from __future__ import annotations

import datetime as dt
import math
import numbers
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice, pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eslab import buckets
from eslab.cuts import Clock
from eslab.errors import MomentError, ProjectionError
from eslab.events import Events
from eslab.folding import Failure, Fold, Rows, events_of, stretches
from eslab.model import Event
from eslab.replay import ReplayPlan, may_miss, slices
from eslab.sql import HAPPENED, query, undecodable
from eslab.views import tables
from eslab.wording import Length, many, read_length

if TYPE_CHECKING:
    from eslab.views.charts import Drawn

__all__ = ["Timeline", "open_timeline"]

POINTS: Final = 2_000
SHOWN: Final = 20

Measure = Callable[[Any], Any]
Aggregation = str | Callable[[Sequence[float]], float]
_NAMED: Final = ("sum", "mean", "min", "max", "count")


class Timeline:
    """One row per point in time: `value`, what the measures of all keys come to then, and `keys`, how many have one. Each is that of `lab.replay(..., at=time)`."""

    def __init__(self, table: pa.Table, name: str, every: Length, clock: Clock, failed: Sequence[Failure], notes: tuple[str, ...]) -> None:
        self.table, self.name, self.every, self.clock = table, name, every, clock
        self.failed, self.notes = tuple(failed), notes

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def arrow(self) -> pa.Table:
        """time, value (null where no key has a measure and their aggregate is none), keys."""
        return self.table

    def df(self) -> pd.DataFrame:
        """One row per point, by time."""
        frame: pd.DataFrame = self.table.to_pandas().set_index("time")
        return frame

    def chart(self) -> Drawn:
        """The value over time, in at most 2,000 points."""
        from eslab.views import charts  # noqa: PLC0415  Altair is loaded when a chart is drawn

        points = self.table.append_column("name", pa.repeat(self.name, len(self)))
        if len(self) > POINTS:
            points = buckets.thin(points, "name", highs=["value"], lows=["value"], most=POINTS)
        drawn: Drawn = charts.timeline(points, name=self.name, every=self.every.words, zone=self.clock.zone, notes=self.notes)
        return drawn

    def _said(self) -> str:
        if not len(self):
            return f"Timeline of {self.name}: no events"
        first, last = (self.clock.show(self.table["time"][at].as_py()) for at in (0, -1))
        span = pc.min_max(self.table["value"]).as_py()
        return f"Timeline of {self.name}: per {self.every.words} from {first} to {last}; {span['min']} to {span['max']}"

    def __repr__(self) -> str:
        return tables.visible("\n".join([f"<{self._said()}>", *(f"  {note}" for note in self.notes)]))

    def _repr_html_(self) -> str:
        shown = [[self.clock.show(row["time"]), row["value"], row["keys"]] for row in self.table.slice(0, SHOWN).to_pylist()]
        more = f"; the first {SHOWN} of {len(self):,} points" if len(self) > SHOWN else ""
        return tables.html(["time", "value", "keys"], shown, caption=self._said() + more, empty="no events") + tables.paragraphs(self.notes)


def open_timeline(
    todo: ReplayPlan,
    measure: Measure,
    *,
    agg: Aggregation,
    every: str | float | dt.timedelta | None,
    start: dt.datetime | None,
    stop: dt.datetime | None,
    span: tuple[dt.datetime, dt.datetime] | None,
    clock: Clock,
    by: str = "recorded",
    on_rows: Callable[[int], None] = lambda count: None,
) -> Timeline:
    """Fold every event once, and measure each key where a point lies between two of its events. `by` the time in the payloads ("happened"), keys with late events are folded more often.

    `span`: the first and the last order_at there is. Memory: 24 bytes for each change of a key's measure between two points; by the time in the payloads, the rows of one key too. Raises
    `ProjectionError` for a measure that fails or is no number, `MomentError` for a width that is none.
    """
    if not callable(measure):
        raise ProjectionError(
            "measure= is a function that takes a key's state and returns a number, or None for a key that is not to count"
        )
    if not callable(agg) and agg not in _NAMED:
        raise ProjectionError(f"agg={agg!r} is none of {', '.join(_NAMED)}, and no function of the numbers of all keys")
    if start is not None and stop is not None and stop <= start:
        raise MomentError(f"stop= ({clock.show(stop)}) must lie after start= ({clock.show(start)})")
    width = None if every is None else read_length(every, name="every")
    if by == "happened" and (start is None or stop is None):
        span = _happenings(todo.events)
    low, high = (None if told is None else buckets.micros(told) for told in (start or (span and span[0]), stop or (span and span[1])))
    name = getattr(measure, "__name__", "measure").replace("<lambda>", "measure")
    name = f"{agg if isinstance(agg, str) else getattr(agg, '__name__', 'agg')} of {name} of {todo.projection.name}"
    if low is None or high is None:
        return Timeline(_table(np.empty(0, np.int64), [], np.empty(0), clock), name, width or buckets.choose(0, POINTS), clock, (), ())
    width = width or buckets.choose(high - low, POINTS)
    points = buckets.edges(low, max(low, high), width, clock.zone)
    changes = _Happened(todo, measure, points) if by == "happened" else _Changes(todo, measure, points)
    for part in slices(todo):
        changes.take(Rows(part))
        changes.partial |= may_miss(todo, part)
        on_rows(part.table.num_rows)
    changes.end_key()
    values, keys = changes.over_time(agg)
    unread = undecodable(todo.events, todo.selection)
    notes = [f"{len(changes.failed):,} keys failed, and count until then"] if changes.failed else []
    notes += [f"{len(changes.partial):,} keys are partial: events of theirs may be missing"] if changes.partial else []
    notes += [f"{many(unread, 'undecodable record')} in range"] if unread else []
    return Timeline(_table(points, values, keys, clock), name, width, clock, changes.failed, tuple(notes))


def _happenings(events: Events) -> tuple[dt.datetime, dt.datetime] | None:
    """When the first and the last of all events happened; None where there are none."""
    ((first, last),) = query(events, f"select min({HAPPENED}), max({HAPPENED}) from {{rows}} where first")
    return None if first is None else (first, last)


class _Changes:
    """What each key's measure was from which point on."""

    def __init__(self, todo: ReplayPlan, measure: Measure, points: np.ndarray) -> None:
        self.failed: list[Failure] = []
        self.partial: set[str] = set()
        self._measure, self._points, self._ended_too = measure, points, todo.ended
        self._fold, self._projection = Fold(todo.projection), todo.projection
        self._key: str | None = None
        self._number = -1
        self._last = math.nan
        self._at, self._of, self._values, self._before = array("q"), array("q"), array("d"), array("d")

    def take(self, rows: Rows) -> None:
        """Fold the next rows, and measure the state before each point that they reach."""
        fold, steps = self._fold, self._fold.steps(rows)
        for key, point, count in self._stretches(rows):
            if key != self._key:
                self._key, self._last = key, math.nan
                self._number += 1
                fold.begin()
            failed = fold.failure is not None
            fold.run(islice(steps, count))
            if fold.failure is not None and not failed:
                self.failed.append(fold.failure)
            if point < len(self._points):
                self._note(point, self._measured(key))

    def _stretches(self, rows: Rows) -> Iterator[tuple[str, int, int]]:
        """Each key, the first point at or after some of its events, and how many these are."""
        if not len(rows):
            return
        ids = rows.column("aggregate_id").combine_chunks()
        points = self._points_of(rows)
        moved = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False) | (np.diff(points) != 0)
        starts = np.concatenate([[0], np.flatnonzero(moved) + 1])
        counts = np.diff(starts, append=len(rows))
        yield from zip(ids.take(pa.array(starts)).to_pylist(), points[starts].tolist(), counts.tolist(), strict=True)

    def _points_of(self, rows: Rows) -> np.ndarray:
        """For each row the first point that counts it."""
        found: np.ndarray = np.searchsorted(self._points, rows.column("order_at").cast(pa.int64()).to_numpy(), side="left")
        return found

    def end_key(self) -> None:
        """No more of the last key comes."""

    def _measured(self, key: str) -> float:
        """The measure of the state that the fold is at; NaN for none."""
        if self._fold.failure is not None or (self._fold.over and not self._ended_too):
            return math.nan
        try:
            told = self._measure(self._fold.state)
        except Exception as exc:
            raise ProjectionError(
                f"measure= raised {type(exc).__name__}: {exc} on the state of {self._projection.aggregate} {key}: {tables.show(self._fold.state):.200}"
            ) from exc
        if told is None:
            return math.nan
        if not isinstance(told, numbers.Real) and not hasattr(told, "as_integer_ratio"):
            raise ProjectionError(f"measure= returned {told!r:.80} for {self._projection.aggregate} {key}; it returns a number, or None")
        value = float(told)
        if not math.isfinite(value):
            raise ProjectionError(
                f"measure= returned {told!r:.80} for {self._projection.aggregate} {key}, which does not add up; return None"
            )
        return value

    def _note(self, point: int, value: float) -> None:
        if value != self._last and not (math.isnan(value) and math.isnan(self._last)):
            self._at.append(point)
            self._of.append(self._number)
            self._values.append(value)
            self._before.append(self._last)
            self._last = value

    def over_time(self, agg: Aggregation) -> tuple[list[Any], np.ndarray]:
        """The aggregate at each point, and how many keys have a measure there."""
        size = len(self._points)
        at, of = np.asarray(self._at), np.asarray(self._of)
        values, before = np.asarray(self._values), np.asarray(self._before)
        keys = np.cumsum(np.bincount(at, (~np.isnan(values)).astype(float) - ~np.isnan(before), minlength=size)).astype(np.int64)
        if agg == "count":
            return keys.tolist(), keys
        if agg in ("sum", "mean"):
            sums = np.cumsum(np.bincount(at, np.nan_to_num(values) - np.nan_to_num(before), minlength=size))
            if agg == "sum":
                return _plain(sums), keys
            return [one / count if count else None for one, count in zip(sums.tolist(), keys.tolist(), strict=True)], keys
        return list(self._swept(agg, at, of, values)), keys

    def _swept(self, agg: Aggregation, at: np.ndarray, of: np.ndarray, values: np.ndarray) -> Iterator[Any]:
        """The aggregate of all keys anew at each point."""
        order = np.argsort(at, kind="stable")
        bounds = np.searchsorted(at[order], np.arange(len(self._points) + 1))
        now = np.full(self._number + 1, math.nan)
        function: Any = {"min": np.min, "max": np.max}.get(agg) if isinstance(agg, str) else lambda held: agg(held.tolist())
        for low, high in pairwise(bounds.tolist()):
            changed = order[low:high]
            now[of[changed]] = values[changed]
            held = now[~np.isnan(now)]
            yield float(function(held)) if len(held) else None


class _Happened(_Changes):
    """The same by the time in the payloads: of a key, each point counts what had happened by then, in the lab's order."""

    def __init__(self, todo: ReplayPlan, measure: Measure, points: np.ndarray) -> None:
        super().__init__(todo, measure, points)
        self._held: list[tuple[int, Rows, int, Any]] = []

    def take(self, rows: Rows) -> None:
        """Hold the rows of a key until all of them are there."""
        points, told = self._points_of(rows).tolist(), events_of(rows)
        held = [(point, rows, row, event.type) for row, (point, event) in enumerate(zip(points, told, strict=True))]
        at = 0
        for key, count in stretches(rows):
            if key != self._key:
                self.end_key()
                self._key, self._last = key, math.nan
                self._number += 1
            self._held += held[at : at + count]
            at += count

    def end_key(self) -> None:
        """Fold the key that was held, point by point: on from where it stands, or from its beginning where something came in between."""
        key, held, fold = self._key, self._held, self._fold
        self._held = []
        if key is None:
            return
        fold.begin()
        places = sorted(range(len(held)), key=lambda place: held[place][0])
        reached, done = -1, 0
        for point, group in groupby(places, key=lambda place: held[place][0]):
            new = list(group)
            done += len(new)
            if new[0] < reached:
                new = sorted(places[:done])
                fold.begin()
            reached = new[-1]
            fold.run(fold.step(Event.undecoded(*held[place][1:])) for place in new)
            if point < len(self._points):
                self._note(point, self._measured(key))
        if fold.failure is not None:
            self.failed.append(fold.failure)

    def _points_of(self, rows: Rows) -> np.ndarray:
        happened = pc.coalesce(rows.column("happened_at"), rows.column("recorded_at"), rows.column("order_at"))
        found: np.ndarray = np.searchsorted(self._points, happened.cast(pa.int64()).to_numpy(), side="left")
        return found


def _plain(values: np.ndarray) -> list[Any]:
    """Whole numbers where all of them are."""
    whole = bool(np.all(values == np.rint(values))) and bool(np.all(np.abs(values) < 2**53))
    out: list[Any] = values.astype(np.int64).tolist() if whole else values.tolist()
    return out


def _table(points: np.ndarray, values: list[Any], keys: np.ndarray, clock: Clock) -> pa.Table:
    times = pa.array(points).cast(pa.timestamp("us", tz=str(clock.zone)))
    numbers_ = pa.array(values, None if values and any(one is not None for one in values) else pa.float64())
    return pa.table({"time": times, "value": numbers_, "keys": pa.array(keys.astype(np.int64))})
