"""The history of one aggregate: its events in the lab's order, with the state between each two."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np
import pandas as pd
import pyarrow as pa

from eslab import cuts, keying, stepping
from eslab.blaming import Cause, Causes, Explanation, explained, last_of_each, of_path
from eslab.changes import Changes, diff
from eslab.cuts import Clock
from eslab.errors import MomentError, UnknownId, VersionOutOfRange
from eslab.events import Events, Slice
from eslab.folding import FOLD_COLUMNS, Rows, apply, events_of
from eslab.model import EACH, MISSING, Coordinates, Cut, Event, Path, Selection, format_path, pack_state, parse_path, value_at
from eslab.projection import Projection
from eslab.views import tables
from eslab.wording import many

if TYPE_CHECKING:
    from eslab.views.stepper import Stepper

__all__ = ["History", "Moment", "State", "Step", "open_history"]

LIMIT: Final = 20_000  # steps that a stepper is sent unless more are asked for: about 15 MB, open within two seconds
EVERY: Final = 512  # steps between two kept states: a seek folds at most so many, 1 to 2 ms, and a million events keep 2,000 states
SHOWN: Final = 50
COLUMNS: Final = (*FOLD_COLUMNS, "event_id", "event_version", "topic", "partition_id", "incarnation", "record_offset")
"""What a history reads at first, in one go: each column more is a fraction of a millisecond, and each one that is read later a whole one."""

Predicate = Callable[[Any], Any]
"""Takes a state and says whether it is so."""

Moment = str | dt.datetime | int | Cut | None
"""A time, a version, a cut, or None for all that the history holds."""


@dataclass(frozen=True, slots=True)
class Step:
    """One record of a history and the state after it.

    `marks` say what is not usual: duplicate (an event id seen before in this history; folded again, as delivered), undecodable and unhandled (the state stays), tombstone
    (the state is reset), failed (the handler raised: the state stays, and nothing after it is folded), skipped (comes after a failure).
    """

    version: int
    event: Event
    before: Any
    after: Any
    marks: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def changes(self) -> Changes:
        """What this step changed."""
        return diff(self.before, self.after)

    def __repr__(self) -> str:
        marks = f" [{', '.join(self.marks)}]" if self.marks else ""
        problem = f": {self.problem}" if self.problem else ""
        return tables.visible(
            f"<Step {self.version}: {self.event.type or 'undecodable'} {self.event.id or self.event.coordinates}{marks}{problem}>"
        )

    def _repr_html_(self) -> str:
        problem = f"<p><strong>{tables.escape(self.problem)}</strong></p>" if self.problem else ""
        return f"<p>{tables.escape(repr(self).strip('<>'))}</p>{problem}{self.changes._repr_html_()}"


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The state of an aggregate after `version` steps (0: before the first).

    `value` is the caller's own; `event` the last event folded; `partial` says why events may be missing, "" if none are known
    to be. `note` says what the moment asked for means here, where that is not plain.
    """

    aggregate: str
    aggregate_id: str
    value: Any
    version: int
    event: Event | None
    partial: str = ""
    note: str = ""
    _cut: Callable[[], Cut] = field(default=lambda: Cut({}), repr=False)

    @property
    def cut(self) -> Cut:
        """The cut that this state stands at. Scans order_at of all events where the moment was not a cut."""
        return self._cut()

    def __getitem__(self, key: Any) -> Any:
        return self.value[key]

    def _said(self) -> str:
        notes = "".join(f" ({note})" for note in (self.note, f"partial: {self.partial}" if self.partial else "") if note)
        return f"{self.aggregate} {self.aggregate_id} version {self.version}{notes}"

    def __repr__(self) -> str:
        return tables.visible(f"{self._said()}\n{tables.show(self.value)}")

    def _repr_html_(self) -> str:
        items = self.value.items() if isinstance(self.value, dict) else [("", self.value)]
        return tables.html(["field", "value"], items, caption=self._said(), empty="initial state, empty")


class History(Sequence[Step]):
    """The steps of one aggregate under one projection. `h[0]` is version 1.

    Rows are read once; a state is folded from the nearest kept one, at most 512 steps, so that no step is folded more often than asked for.
    """

    def __init__(
        self,
        events: Events,
        aggregate: str,
        aggregate_id: str,
        projection: Projection,
        selection: Selection,
        clock: Clock,
        *,
        rows: Slice | None = None,
    ) -> None:
        """`rows` are the events of the history, where they are not those that the selection holds."""
        self.aggregate, self.aggregate_id, self.projection, self.selection = aggregate, aggregate_id, projection, selection
        self._events, self._clock = events, clock
        self._rows = Rows(keying.lookup(events, projection, aggregate_id, COLUMNS, selection) if rows is None else rows)
        self._list = events_of(self._rows)
        self._kept: dict[int, Any] = {0: projection.initial()}
        self._failure: tuple[int, str] | None = None
        self._causes: list[Cause] | None = None
        self._seen = _first_seen(self._rows.list("event_id"))
        self.partial = _partial(events, self._rows, selection.cut)

    def __len__(self) -> int:
        return len(self._list)

    @overload
    def __getitem__(self, at: int) -> Step: ...
    @overload
    def __getitem__(self, at: slice) -> list[Step]: ...
    def __getitem__(self, at: int | slice) -> Step | list[Step]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        position = at + len(self) if at < 0 else at
        if not 0 <= position < len(self):
            raise VersionOutOfRange(
                f"{self.aggregate} {self.aggregate_id} has {many(len(self), 'step')}, h[0] to h[{len(self) - 1}]; there is no h[{at}]"
            )
        return self._step(position, self._state_at(position))

    def __iter__(self) -> Iterator[Step]:
        return self._steps(0, len(self))

    def _steps(self, first: int, last: int) -> Iterator[Step]:
        """The steps at positions first to last (exclusive)."""
        state = self._state_at(first)
        for position in range(first, last):
            step = self._step(position, state)
            yield step
            state = copy.deepcopy(step.after)

    def at(
        self,
        moment: Moment = None,
        *,
        version: int | None = None,
        event_id: str | Coordinates | tuple[str, int, int] | None = None,
        cut: Cut | None = None,
    ) -> State:
        """Return the state at a moment, inclusive; exactly one way to name it.

        A time: after every record recorded until then (with clock="happened": that happened until then). An event id: after everything in the lab's order
        up to and with that event, whoever's it is. A version: after so many steps. Before the first event and after the last are answers. Raises
        `VersionOutOfRange`, `UnknownEvent`, `NaiveTime`.
        """
        named = [one for one in (moment, version, event_id, cut) if one is not None]
        if len(named) > 1:
            raise MomentError("name one moment: a time, version=, event_id= or cut=")
        if event_id is not None:
            return self._at_event(event_id)
        asked = named[0] if named else None
        if isinstance(asked, bool) or (asked is not None and not isinstance(asked, (str, dt.datetime, int, Cut))):
            raise MomentError(f"{asked!r} is no moment; give a time, version=, event_id= or cut=")
        if isinstance(asked, int):
            return self._at_version(asked)
        if isinstance(asked, Cut):
            note = cuts.changed_since(self._events, asked, self.projection.upcast_by)
            return self._state_of(np.flatnonzero(self._rows_before(asked)), lambda: asked, note)
        if asked is None:
            return self._state_of(np.arange(len(self)), lambda: self.selection.cut)
        return self._at_time(self._clock.read(asked))

    def diff(self, before: Moment, after: Moment) -> Changes:
        """What changed between two moments, each a time, a version or a cut."""
        return diff(self.at(before).value, self.at(after).value)

    def run_until(
        self,
        *,
        event_type: str | None = None,
        when: Predicate | None = None,
        changed: str | None = None,
        failed: bool = False,
        after: Moment = 0,
    ) -> Step | None:
        """The first step past a moment (default: the beginning) at which one of these is so; None if it never is.

        `event_type`: the event is of it. `when(state)` holds after it. `changed`: it changed what stands at a path, or within it. `failed`: its handler raised.
        """
        stops = self._stops(event_type, when, changed, failed=failed)
        return next(filter(stops, self._steps(self._position_at(after), len(self))), None)

    def run_back_until(
        self,
        *,
        event_type: str | None = None,
        when: Predicate | None = None,
        changed: str | None = None,
        failed: bool = False,
        before: Moment = None,
    ) -> Step | None:
        """The last step before the one at a moment, or of all, at which one of these is so, as `run_until` takes them; None if it never was.

        From a step: `h.run_back_until(changed="total", before=step.version)` is the one before it.
        """
        stops = self._stops(event_type, when, changed, failed=failed)
        last = len(self) if before is None else max(self._position_at(before) - 1, 0)
        found = None
        for step in filter(stops, self._steps(0, last)):
            found = step
        return found

    def _stops(self, event_type: str | None, when: Predicate | None, changed: str | None, *, failed: bool) -> Callable[[Step], bool]:
        if event_type is None and when is None and changed is None and not failed:
            raise MomentError("run until what? give event_type=, when= (a function of the state), changed= (a path) or failed=True")
        at = {one.version for one in of_path(self._caused(), self._path(changed))} if changed is not None else set()

        def stops(step: Step) -> bool:
            return (
                (event_type is not None and step.event.type == event_type)
                or step.version in at
                or (failed and "failed" in step.marks)
                or (when is not None and bool(when(step.after)))
            )

        return stops

    def watch(self, *paths: str) -> pd.DataFrame:
        """The values at some paths over time: a row for each step that changed one of them, a column for each path; `MISSING` where nothing stands."""
        wanted = {path: self._path(path) for path in paths}
        if not wanted:
            raise MomentError('watch what? name paths, like h.watch("status", "items[0].price")')
        at = {one.version for path in wanted.values() for one in of_path(self._caused(), path)}
        rows = []
        for step in self:
            if step.version in at:
                event = step.event
                told = {"version": step.version, "event_type": event.type if isinstance(event.type, str) else "(tombstone)"}
                told |= {"event_id": event.id, "recorded_at": event.recorded_at}
                rows.append(told | {path: value_at(step.after, own, MISSING) for path, own in wanted.items()})
        frame = pd.DataFrame(rows, columns=["version", "event_type", "event_id", "recorded_at", *wanted]).set_index("version")
        frame["recorded_at"] = pd.to_datetime(frame["recorded_at"], utc=True).dt.tz_convert(self._clock.zone)
        return frame

    def changes(self) -> Causes:
        """Every change of every step, in their order, with the event that made it. Folds every step once; `blame` and `explain` read it."""
        return Causes(self._caused(), said=f"what changed {self._name}", clock=self._clock)

    def blame(self, path: str | None = None, *, at: Moment = None) -> Causes:
        """The events that changed what stands at a path (`a.b[0]`), newest first; without a path, the last change of every value that an event set or removed.

        A change within it counts, and so does one of what holds it. `at`: as it was known at a moment. Raises `UnknownPath` where nothing ever stood.
        """
        until = self._position_at(at)
        caused = [one for one in self._caused() if one.version <= until]
        if path is None:
            return Causes(last_of_each(caused)[::-1], said=f"what set the values of {self._name}", clock=self._clock)
        wanted = self._path(path)
        found = list(of_path(caused, wanted))[::-1]
        if not found:
            explained(wanted, found, self._state_at, until, self._clock)
        return Causes(found, said=f"what set {format_path(wanted)} of {self._name}", clock=self._clock)

    def explain(self, path: str, *, at: Moment = None) -> Explanation:
        """Why what stands at a path does, in two sentences: since when and by what, and what was there before. Raises `UnknownPath` where nothing ever stood."""
        wanted = self._path(path)
        return explained(wanted, list(of_path(self._caused(), wanted))[::-1], self._state_at, self._position_at(at), self._clock)

    def _caused(self) -> list[Cause]:
        if self._causes is None:
            self._causes = [Cause(step.version, change, step.event, self._handler(step.event)) for step in self for change in step.changes]
        return self._causes

    def _handler(self, event: Event) -> str:
        handler = self.projection.handler(event.type)
        return "" if handler is None else getattr(handler, "__name__", type(handler).__name__).strip("_")

    def _path(self, text: str) -> Path:
        path = parse_path(text)
        if EACH in path:
            raise MomentError(f"{text}: [] names many values; blame one of them, like {text.replace('[]', '[0]')}")
        return path

    @property
    def _name(self) -> str:
        return f"{self.aggregate} {self.aggregate_id}"

    def df(self) -> pd.DataFrame:
        """One row per step, by version: what came, when, where from, the paths it changed, and the state after it."""
        zone = self._clock.tz or dt.UTC
        rows = []
        for step in self:
            event = step.event
            rows.append(
                {
                    "version": step.version,
                    "event_type": "(tombstone)" if event.type is not None and not isinstance(event.type, str) else event.type,
                    "recorded_at": event.recorded_at,
                    "happened_at": event.happened_at,
                    "event_id": event.id,
                    "source": event.source,
                    "at": str(event.coordinates),
                    "marks": ", ".join(step.marks),
                    "changed": [format_path(change.path) for change in step.changes],
                    "state": step.after,
                }
            )
        columns = ["version", "event_type", "recorded_at", "happened_at", "event_id", "source", "at", "marks", "changed", "state"]
        frame = pd.DataFrame(rows, columns=columns).set_index("version")
        for name in ("recorded_at", "happened_at"):
            frame[name] = pd.to_datetime(frame[name], utc=True).dt.tz_convert(zone)
        return frame

    def arrow(self) -> pa.Table:
        """What `df` has, in Arrow: the states as JSON (`Decimal` and `datetime` as docs/format.md writes them)."""
        frame = self.df().reset_index()
        frame["state"] = [pack_state(state).decode() for state in frame["state"]]
        return pa.Table.from_pandas(frame, preserve_index=False)

    def step(self, *, at: Moment = None, height: int = 640, limit: int = LIMIT) -> Stepper:
        """The debugger: a widget that steps through this history, opened at a moment (default: the last step); `height` in pixels.

        Folds every step once. At most `limit` steps are sent, the last ones or those around the moment, and the widget says so.
        """
        from eslab.views.stepper import Stepper, Steps  # noqa: PLC0415  # widgets are imported where one is drawn

        if limit < 1:
            raise MomentError(f"limit={limit} shows no step; give 1 or more")
        first, last = self._window(at, limit)
        notes = [f"partial: {self.partial}"] if self.partial else []
        if last - first < len(self):
            notes.append(f"only steps {first + 1:,} to {last:,} of {len(self):,} are shown; .step(limit={len(self)}) shows all")
        name = f"{self.aggregate} {self.aggregate_id}"
        script = stepping.write(
            self._rows,
            self._fold(first, last),
            name=name,
            projection=f"{self.projection.name} v{self.projection.version}",
            first=first,
            last=last,
            notes=notes,
            initial=self._state_at(first),
            show=self._clock.show,
        )
        steps = Steps(
            name, script.first, script.last, script.lines, self.at, self._position_of, lambda version: self.diff(version - 1, version)
        )
        return Stepper(steps, position=min(self._position_at(at), script.last), height=height)

    def _window(self, at: Moment, limit: int) -> tuple[int, int]:
        """The steps to show, first (exclusive) to last: all, or `limit` of them around the moment."""
        if len(self) <= limit:
            return 0, len(self)
        first = max(0, min(self._position_at(at) - limit // 2, len(self) - limit))
        return first, first + limit

    def _position_at(self, at: Moment) -> int:
        return len(self) if at is None else self._position_of(self.at(at))

    def __repr__(self) -> str:
        return tables.visible(f"<History of {self.aggregate} {self.aggregate_id}: {self._said()}>")

    def _said(self) -> str:
        if not self._list:
            return f"no steps in {self.selection.cut.label or 'this selection'}"
        first, last = (self._clock.show(self._list[at].order_at) for at in (0, -1))
        said = f"{len(self)} step{'s' * (len(self) != 1)}, {first} to {last}, {self.projection.name} v{self.projection.version}"
        return said + (f", partial: {self.partial}" if self.partial else "")

    def _repr_html_(self) -> str:
        steps = self[: SHOWN // 2] + self[-SHOWN // 2 :] if len(self) > SHOWN else self[:]
        rows = [
            [
                step.version,
                step.event.type or "(undecodable)",
                self._clock.show(step.event.recorded_at),
                "; ".join(map(str, step.changes)),
                ", ".join(step.marks),
            ]
            for step in steps
        ]
        more = f"; the first and last {SHOWN // 2}" if len(self) > SHOWN else ""
        return tables.html(
            ["version", "event", "recorded", "changes", "marks"],
            rows,
            caption=f"{self.aggregate} {self.aggregate_id}: {self._said()}{more}",
            empty="no steps",
        )

    # --- folding

    def _state_at(self, position: int) -> Any:
        """A fresh state after `position` steps; past a failed step, the state before it."""
        if self._failure is not None:
            position = min(position, self._failure[0])
        start = max(at for at in self._kept if at <= position)
        state = copy.deepcopy(self._kept[start])
        for at in range(start, position):
            self._keep(at, state)
            state, mark = self._apply(at, state)
            if mark == "failed":
                return self._state_at(at)
        return state

    def _keep(self, position: int, state: Any) -> None:
        if position % EVERY == 0 and position not in self._kept:
            self._kept[position] = copy.deepcopy(state)

    def _apply(self, position: int, state: Any) -> tuple[Any, str | None]:
        """Fold one step; `state` is given away: a handler that fails may have changed it."""
        try:
            return apply(self.projection, state, self._list[position])
        except Exception as exc:  # noqa: BLE001  # a handler is the user's: whatever it raises is shown at its step
            self._failure = (position, f"{type(exc).__name__}: {exc}")
            return state, "failed"

    def _step(self, position: int, before: Any) -> Step:
        after, mark = self._fold_one(position, copy.deepcopy(before))
        return Step(
            position + 1, self._list[position], before, copy.deepcopy(before) if mark == "failed" else after, *self._told(position, mark)
        )

    def _fold(self, first: int, last: int) -> Iterator[stepping.Folded]:
        """The steps at positions first to last (exclusive), each folded once; the state is lent until the next one is asked for."""
        state = self._state_at(first)
        for position in range(first, last):
            self._keep(position, state)
            state, mark = self._fold_one(position, state)
            if mark == "failed":
                state = self._state_at(position)  # what a handler left half done is no state
            event_type = self._list[position].type
            yield stepping.Folded(event_type if isinstance(event_type, str) else None, state, *self._told(position, mark))

    def _fold_one(self, position: int, state: Any) -> tuple[Any, str | None]:
        """The state after a step, and its mark; `state` is given away."""
        if self._failure is not None and position > self._failure[0]:
            return state, "skipped"
        return self._apply(position, state)

    def _told(self, position: int, mark: str | None) -> tuple[tuple[str, ...], str | None]:
        """The marks of a step, and what there is to say about them; to be ignored on purpose is none."""
        problem, mark = None, None if mark == "ignored" else mark
        if mark == "undecodable":
            problem = self._rows.value("problem", position) or "its data holds a number that no float can hold"
        elif self._failure is not None and mark in ("failed", "skipped"):
            at, error = self._failure
            problem = error if mark == "failed" else f"step {at + 1} failed: {error}"
        first = self._seen.get(self._rows.value("event_id", position) or "")
        if first is None or first == position:
            return ((mark,) if mark else ()), problem
        return ("duplicate", *((mark,) if mark else ())), problem or f"the same event id as step {first + 1}"

    # --- moments

    def _position_of(self, state: State) -> int:
        """How many steps this history has folded where it stands at that state. Raises `MomentError` if it never does."""
        told = f"{state.aggregate} {state.aggregate_id} version {state.version}" if isinstance(state, State) else f"{state!r:.80}"
        if not isinstance(state, State) or (state.aggregate, state.aggregate_id) != (self.aggregate, self.aggregate_id):
            raise MomentError(
                f"{told} is no state of {self.aggregate} {self.aggregate_id}; give one of this history, such as h.at(version=3)"
            )
        last = self._list[state.version - 1].coordinates if 0 < state.version <= len(self) else None
        if (state.event.coordinates if state.event else None) != last or self._state_at(state.version) != state.value:
            raise MomentError(
                f"{told} is the state of another history of it: other events, or another projection; give one of this history"
            )
        return state.version

    def _at_version(self, version: int) -> State:
        if not 0 <= version <= len(self):
            raise VersionOutOfRange(f"{self.aggregate} {self.aggregate_id} has {len(self)} versions; there is no version {version}")
        if not version:
            return self._state_of(np.arange(0), lambda: Cut({}, label="before the first event"))
        coordinates = self._list[version - 1].coordinates
        return self._state_of(np.arange(version), lambda: cuts.at_event(self._events, coordinates))

    def _at_time(self, moment: dt.datetime) -> State:
        if self.selection.happened_until is not None:
            return self._state_of(np.flatnonzero(self._happened_by(moment)), lambda: self.selection.cut, self._beyond(moment))
        version = bisect_right(self._rows.list("order_at"), moment)
        return self._state_of(np.arange(version), lambda: cuts.at_time(self._events, moment), self._beyond(moment))

    def _happened_by(self, moment: dt.datetime) -> np.ndarray:
        return self._rows.within(dataclasses.replace(self.selection, happened_until=moment))

    def _at_event(self, told: str | Coordinates | tuple[str, int, int]) -> State:
        key, seen = cuts.find_event(self._events, told)
        version = bisect_right(range(len(self)), key, key=self._place)
        note = f"event {told} was seen {seen} times; this is its first" if seen > 1 else ""
        return self._state_of(np.arange(version), lambda: cuts.at_event(self._events, told), note)

    def places(self) -> list[cuts.OrderKey]:
        """Where each step stands in the lab's order."""
        return list(map(self._place, range(len(self))))

    @property
    def failure(self) -> tuple[int, str] | None:
        """The version of the step whose handler raised, and what; None if none did. Folds all that was not folded yet."""
        self._state_at(len(self))
        return None if self._failure is None else (self._failure[0] + 1, self._failure[1])

    def _place(self, position: int) -> cuts.OrderKey:
        """Where a step stands in the lab's order."""
        event = self._list[position]
        return event.order_at, *event.coordinates

    def _beyond(self, moment: dt.datetime) -> str:
        if self._list and moment < self._list[0].order_at:
            return f"first event at {self._clock.show(self._list[0].order_at)}"
        ends = [counts.last_us for counts in self._events.manifest.topics.values() if counts.last_us is not None]
        last = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=max(ends, default=0))
        return f"log ends at {self._clock.show(last)}" if moment > last else ""

    def _rows_before(self, cut: Cut) -> np.ndarray:
        return self._rows.within(Selection(cut))

    def _state_of(self, held: np.ndarray, cut: Callable[[], Cut], note: str = "") -> State:
        """The state after the steps at these positions; where they are the first ones, from the kept states."""
        version = len(held)
        if version == 0 or held[-1] == version - 1:
            value = self._state_at(version)
            failed = self._failure is not None and version > self._failure[0]
        else:
            value, failed = self.projection.initial(), False
            for position in held:
                try:
                    value, _ = apply(self.projection, value, self._list[position])
                except Exception as exc:  # noqa: BLE001
                    note = "; ".join(filter(None, [note, f"step {position + 1} failed: {type(exc).__name__}: {exc}"]))
                    break
        if failed and self._failure is not None:
            note = "; ".join(filter(None, [note, f"step {self._failure[0] + 1} failed: {self._failure[1]}; this is the state before it"]))
        event = self._list[held[-1]] if version else None
        return State(self.aggregate, self.aggregate_id, value, version, event, self.partial, note, cut)


def _first_seen(event_ids: Sequence[str | None]) -> dict[str, int]:
    seen: dict[str, int] = {}
    for position, event_id in enumerate(event_ids):
        if event_id is not None:
            seen.setdefault(event_id, position)
    return seen


def _partial(events: Events, rows: Rows, cut: Cut) -> str:
    """Why events may be missing: what the partitions that hold this aggregate have lost. "" if nothing."""
    lossy = events.lossy(cut)
    if not lossy or not len(rows):
        return ""
    here = dict.fromkeys(zip(rows.list("topic"), rows.list("partition_id"), rows.list("incarnation"), strict=True))
    return "; ".join(
        f"{topic}[{partition}] lacks {many(count, 'offset')} in {first}–{next_ - 1} ({cause})"
        for topic, partition, incarnation in here
        for cause, (count, first, next_) in lossy.get((topic, partition, incarnation), {}).items()
    )


def open_history(events: Events, aggregate: str, aggregate_id: str, projection: Projection, selection: Selection, clock: Clock) -> History:
    """The history of one aggregate. Raises `UnknownId` if no captured event belongs to it."""
    projection.check()
    if projection.aggregate != aggregate:
        raise UnknownId(f"projection {projection.name!r} folds {projection.aggregate!r}, not {aggregate!r}")
    keying.count(events, projection)
    history = History(events, aggregate, aggregate_id, projection, keying.narrowed(events, projection, selection), clock)
    if not len(history) and not len(Rows(keying.lookup(events, projection, aggregate_id, FOLD_COLUMNS, Selection(events.cut)))):
        raise UnknownId(
            f"no captured event belongs to {aggregate} {aggregate_id!r}; lab.find({aggregate_id!r}) looks for it as any id, and lab.gaps() says what was not captured"
        )
    return history
