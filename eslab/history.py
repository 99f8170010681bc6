"""The history of one aggregate: its events in the lab's order, with the state between each two."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, overload

import pandas as pd
import pyarrow as pa

from eslab import keying, stepping
from eslab.again import NOWHERE, Shell
from eslab.blaming import Cause, Causes, Explanation, explained, last_of_each, of_path
from eslab.changes import Changes, diff, follow
from eslab.cuts import Clock, OrderKey, until
from eslab.errors import MomentError, ProjectionError, UnknownId, VersionOutOfRange
from eslab.events import Events, Slice
from eslab.folding import FOLD_COLUMNS, Rows
from eslab.model import EACH, MISSING, Coordinates, Cut, Event, Path, Selection, format_path, pack_state, parse_path, value_at
from eslab.moments import Moment, Moments
from eslab.projection import Projection
from eslab.sql import undecodable
from eslab.stepping import Folded
from eslab.steps import State, Step
from eslab.tape import Tape
from eslab.views import tables
from eslab.wording import many

if TYPE_CHECKING:
    from eslab.views.stepper import Stepper

__all__ = ["History", "Moment", "State", "Step", "open_history"]

LIMIT: Final = 20_000  # steps that a stepper is sent unless more are asked for: about 15 MB, open within two seconds
SHOWN: Final = 50
ANY: Final = 10**15  # a version that no history has, and no word of a line holds
COLUMNS: Final = (*FOLD_COLUMNS, "event_id", "event_version", "topic", "partition_id", "incarnation", "record_offset")
"""What a history reads at first, in one go: each column more is a fraction of a millisecond, and each one that is read later a whole one."""

Predicate = Callable[[Any], Any]
"""Takes a state and says whether it is so. What one raises is raised on, as a `ProjectionError` that names the step."""


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
        shell: Shell = NOWHERE,
        *,
        rows: Slice | None = None,
    ) -> None:
        """`shell` asks for this aggregate, by its projection, clock and cut. `rows` are the events of the history, where they are not those that the selection holds."""
        self.aggregate, self.aggregate_id, self.projection, self.selection = aggregate, aggregate_id, projection, selection
        self._events, self._clock = events, clock
        self.shell, self.until = shell, until(selection, clock)
        found = keying.lookup(events, projection, aggregate_id, COLUMNS, selection) if rows is None else rows
        self._tape = Tape(Rows(found), projection)
        self._moments = Moments(self._name, events, self._tape, selection, clock)
        self._causes: list[Cause] | None = None
        self.partial = _partial(events, self._tape.rows, selection.cut)

    @cached_property
    def unread(self) -> int:
        """How many records there are in its range that could not be read, and whose key names nothing they belong to: some may be its own."""
        return undecodable(self._events, self.selection, of_none=True)

    def __len__(self) -> int:
        return len(self._tape)

    @overload
    def __getitem__(self, at: int) -> Step: ...
    @overload
    def __getitem__(self, at: slice) -> list[Step]: ...
    def __getitem__(self, at: int | slice) -> Step | list[Step]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        position = at + len(self) if at < 0 else at
        if not 0 <= position < len(self):
            raise VersionOutOfRange(f"{self._name} has {many(len(self), 'step')}, h[0] to h[{len(self) - 1}]; there is no h[{at}]")
        return self._lined(self._tape.step(position))

    def __iter__(self) -> Iterator[Step]:
        return map(self._lined, self._tape.steps(0, len(self)))

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
        place = self._moments.place(moment, version=version, event_id=event_id, cut=cut)
        value, failed = self._tape.state_after(place.held)
        steps = len(place.held)
        event = self._tape.events[place.held[-1]] if steps else None
        note = "; ".join(filter(None, [place.note, failed]))
        line = self._line("at", cut or (steps if event_id is not None else moment if version is None else version))
        return State(self.aggregate, self.aggregate_id, value, steps, event, self.partial, note, place.cut, line)

    def diff(self, before: Moment, after: Moment) -> Changes:
        """What changed between two moments, each a time, a version or a cut."""
        return diff(self.at(before).value, self.at(after).value).shown_by(self._line("diff", before, after))

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
        return next(map(self._lined, filter(stops, self._tape.steps(self._position_at(after), len(self)))), None)

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
        for step in filter(stops, self._tape.steps(0, last)):
            found = step
        return found and self._lined(found)

    def _stops(self, event_type: str | None, when: Predicate | None, changed: str | None, *, failed: bool) -> Callable[[Step], bool]:
        if event_type is None and when is None and changed is None and not failed:
            raise MomentError("run until what? give event_type=, when= (a function of the state), changed= (a path) or failed=True")
        at = {one.version for one in of_path(self._caused(), self._path(changed))} if changed is not None else set()

        def stops(step: Step) -> bool:
            return (
                (event_type is not None and step.event.type == event_type)
                or step.version in at
                or (failed and "failed" in step.marks)
                or (when is not None and _holds(when, step))
            )

        return stops

    def watch(self, *paths: str) -> pd.DataFrame:
        """The values at some paths over time: a row for each step that changed one of them, a column for each path; `MISSING` where nothing stands."""
        wanted = {path: self._path(path) for path in paths}
        if not wanted:
            raise MomentError('watch what? name paths, like h.watch("status", "items[0].price")')
        events, rows = [], []
        for event, _, causes, state in self._traced():
            if any(next(of_path(causes, path), None) for path in wanted.values()):
                events.append((causes[0].version, event.type_name, event.id, event.recorded_at))
                rows.append([copy.deepcopy(value_at(state, path, MISSING)) for path in wanted.values()])
        frame = pd.DataFrame(events, columns=["version", "event_type", "event_id", "recorded_at"]).set_index("version")
        frame["recorded_at"] = pd.to_datetime(frame["recorded_at"], utc=True).dt.tz_convert(self._clock.zone)
        values = pd.DataFrame(rows, frame.index, [*wanted], dtype=object)  # as they are: pandas makes an integer beside a null a float
        return pd.concat([frame, values], axis=1)

    def changes(self) -> Causes:
        """Every change of every step, in their order, with the event that made it. Made once, by folding every step once; `blame`, `explain` and `run_until` read it."""
        found = Causes(self._caused(), said=f"what changed {self._name}", clock=self._clock)
        return found.shown_by(self.shell.line("changes", at=self.until))

    def blame(self, path: str | None = None, *, at: Moment = None) -> Causes:
        """The events that changed what stands at a path (`a.b[0]`), newest first; without a path, the last change of every value that an event set or removed.

        A change within it counts, and so does one of what holds it. `at`: as it was known at a moment. Raises `UnknownPath` where nothing ever stood.
        """
        until = self._position_at(at)
        caused = [one for one in self._caused() if one.version <= until]
        if path is None:
            found, said = last_of_each(caused)[::-1], f"what set the values of {self._name}"
        else:
            wanted = self._path(path)
            found, said = list(of_path(caused, wanted))[::-1], f"what set {format_path(wanted)} of {self._name}"
            if not found:
                explained(wanted, found, self._tape.state_at, until, self._clock)
        return Causes(found, said=said, clock=self._clock).shown_by(self._line_of("blame", path, at))

    def explain(self, path: str, *, at: Moment = None) -> Explanation:
        """Why what stands at a path does, in two sentences: since when and by what, and what was there before. Raises `UnknownPath` where nothing ever stood."""
        wanted = self._path(path)
        told = explained(wanted, list(of_path(self._caused(), wanted))[::-1], self._tape.state_at, self._position_at(at), self._clock)
        return dataclasses.replace(told, again=self._line_of("explain", path, at))

    def _caused(self) -> list[Cause]:
        """The table of all changes."""
        if self._causes is None:
            deque(self._traced(), 0)
        assert self._causes is not None
        return self._causes

    def _traced(self) -> Iterator[tuple[Event, Folded, list[Cause], Any]]:
        """Every step, folded once: its event, what the fold says, what it changed, and the state after it, to be read alone. Leaves the table of all changes."""
        state, table, handlers = self._tape.state_at(0), list[Cause](), dict[Any, str]()
        for position, (event, folded) in enumerate(zip(self._tape.events, self._tape.folded(0, len(self)), strict=True)):
            state, changes = follow(state, folded.state)
            if changes and event.type not in handlers:
                handlers[event.type] = self._handler(event)
            causes = [Cause(position + 1, change, event, handlers[event.type]) for change in changes]
            table += causes
            yield event, folded, causes, state
        self._causes = table

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

    # --- the lines of shell

    @property
    def again(self) -> str:
        """The line of shell that shows this history again; "" where none does."""
        return self.shell.line("history", at=self.until)

    def _line(self, command: str, *moments: Moment) -> str:
        """One whose words are moments of this history; "" where one has no word."""
        words = [self._word(one) for one in moments]
        return "" if None in words else self.shell.line(command, *[one for one in words if one is not None])

    def _line_at_any(self) -> tuple[str, str] | None:
        """What stands before and behind the version in the line of the state at one."""
        before, version, behind = self._line("at", ANY).rpartition(f"v{ANY}")
        return (f"{before}v", behind) if version else None

    def _line_of(self, command: str, path: str | None, at: Moment) -> str:
        """One about what stands at a path, as it was known at a moment."""
        word = self.until if at is None else self._word(at)
        return "" if word is None and at is not None else self.shell.line(command, *([] if path is None else [path]), at=word)

    def _word(self, moment: Moment) -> str | None:
        """A moment as the shell calls it in the whole of this history: a version, which is the same where this one is only its beginning, or a time."""
        if self._scattered:
            return self.until if moment is None else None
        if isinstance(moment, Cut):
            return None
        if self.until is None and isinstance(moment, (str, dt.datetime)) and not {"bookmark", "cut"} & {*self.shell.options}:
            return self._clock.word(self._clock.read(moment))
        return f"v{moment if isinstance(moment, int) else len(self._moments.place(moment).held)}"

    @property
    def _scattered(self) -> bool:
        """Whether its steps may stand anywhere in the whole of this history: what had happened by a time."""
        return self.until is not None and self.selection.happened_until is not None

    def _lined(self, step: Step) -> Step:
        """A step, with its line."""
        return dataclasses.replace(step, shell=NOWHERE if self._scattered else self.shell)

    def places(self) -> list[OrderKey]:
        """Where each step stands in the lab's order."""
        return [(event.order_at, *event.coordinates) for event in self._tape.events]

    @property
    def failure(self) -> tuple[int, str] | None:
        """The version of the step whose handler raised, and what; None if none did. Folds all that was not folded yet."""
        self._tape.state_at(len(self))
        return None if self._tape.failure is None else (self._tape.failure[0] + 1, self._tape.failure[1])

    def df(self) -> pd.DataFrame:
        """One row per step, by version: what came, when, where from, the paths it changed, and the state after it."""
        rows = [
            {
                "version": version,
                "event_type": None if event.type is None else event.type_name,
                "recorded_at": event.recorded_at,
                "happened_at": event.happened_at,
                "event_id": event.id,
                "source": event.source,
                "at": str(event.coordinates),
                "marks": ", ".join(folded.marks),
                "changed": [format_path(one.change.path) for one in causes],
                "state": copy.deepcopy(state),
            }
            for version, (event, folded, causes, state) in enumerate(self._traced(), 1)
        ]
        columns = ["version", "event_type", "recorded_at", "happened_at", "event_id", "source", "at", "marks", "changed", "state"]
        frame = pd.DataFrame(rows, columns=columns).set_index("version")
        for name in ("recorded_at", "happened_at"):
            frame[name] = pd.to_datetime(frame[name], utc=True).dt.tz_convert(self._clock.zone)
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
        notes = [one for one in (f"partial: {self.partial}" if self.partial else "", self._unread) if one]
        if last - first < len(self):
            notes.append(f"only steps {first + 1:,} to {last:,} of {len(self):,} are shown; .step(limit={len(self)}) shows all")
        script = stepping.write(
            self._tape.rows,
            self._tape.folded(first, last),
            name=self._name,
            projection=f"{self.projection.name} v{self.projection.version}",
            first=first,
            last=last,
            notes=notes,
            initial=self._tape.state_at(first),
            show=self._clock.show_each,
            line=self._line_at_any(),
        )
        steps = Steps(
            self._name,
            script.first,
            script.last,
            script.lines,
            self.at,
            self._position_of,
            lambda version: self.diff(version - 1, version),
            lambda position: self._line("at", position),
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
        return tables.visible(f"<History of {self._name}: {self._said()}>")

    def _said(self) -> str:
        if not len(self):
            return f"no steps in {self.selection.cut.label or 'this selection'}"
        first, last = (self._clock.show(self._tape.events[at].order_at) for at in (0, -1))
        said = f"{len(self)} step{'s' * (len(self) != 1)}, {first} to {last}, {self.projection.name} v{self.projection.version}"
        return ", ".join(one for one in (said, f"partial: {self.partial}" if self.partial else "", self._unread) if one)

    @property
    def _unread(self) -> str:
        return f"{many(self.unread, 'undecodable record')} without a key in range, which may belong here" if self.unread else ""

    def _repr_html_(self) -> str:
        steps = self[: SHOWN // 2] + self[-SHOWN // 2 :] if len(self) > SHOWN else self[:]
        rows = [
            [
                step.version,
                step.event.type_name,
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
            caption=f"{self._name}: {self._said()}{more}",
            empty="no steps",
            rare={"marks"},
        ) + tables.shell(self.again)

    def _position_of(self, state: State) -> int:
        """How many steps this history has folded where it stands at that state. Raises `MomentError` if it never does."""
        told = f"{state.aggregate} {state.aggregate_id} version {state.version}" if isinstance(state, State) else f"{state!r:.80}"
        if not isinstance(state, State) or (state.aggregate, state.aggregate_id) != (self.aggregate, self.aggregate_id):
            raise MomentError(f"{told} is no state of {self._name}; give one of this history, such as h.at(version=3)")
        last = self._tape.events[state.version - 1].coordinates if 0 < state.version <= len(self) else None
        if (state.event.coordinates if state.event else None) != last or self._tape.state_at(state.version) != state.value:
            raise MomentError(
                f"{told} is the state of another history of it: other events, or another projection; give one of this history"
            )
        return state.version


def _holds(predicate: Predicate, step: Step) -> bool:
    try:
        return bool(predicate(step.after))
    except Exception as exc:
        raise ProjectionError(
            f"when= raised {type(exc).__name__}: {exc} on the state after {step!r:.200}: {tables.show(step.after)}"
        ) from exc


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


def open_history(
    events: Events,
    aggregate: str,
    aggregate_id: str,
    projection: Projection,
    selection: Selection,
    clock: Clock,
    shell: Shell = NOWHERE,
) -> History:
    """The history of one aggregate. Raises `UnknownId` if no captured event belongs to it."""
    projection.check()
    if projection.aggregate != aggregate:
        raise UnknownId(f"projection {projection.name!r} folds {projection.aggregate!r}, not {aggregate!r}")
    keying.count(events, projection)
    history = History(events, aggregate, aggregate_id, projection, keying.narrowed(events, projection, selection), clock, shell)
    if not len(history) and not len(Rows(keying.lookup(events, projection, aggregate_id, FOLD_COLUMNS, Selection(events.cut)))):
        raise UnknownId(
            f"no captured event belongs to {aggregate} {aggregate_id!r}; lab.find({aggregate_id!r}) looks for it as any id, and lab.gaps() says what was not captured"
        )
    return history
