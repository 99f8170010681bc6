"""What if: a history, or a world, with some events left out, changed, put in, or come at another time. Nothing is written."""

from __future__ import annotations

import dataclasses
import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eslab import keying, replay
from eslab.again import NOWHERE, Shell
from eslab.altering import Altered, Named
from eslab.cuts import Clock, OrderKey
from eslab.errors import MomentError, WhatIfError
from eslab.events import EVENTS, Events
from eslab.history import History
from eslab.model import Coordinates, Cut, Selection
from eslab.moments import Moments, Place
from eslab.overlay import standing
from eslab.projection import Projection
from eslab.timelines import Timelines, paired
from eslab.views import tables
from eslab.worldlines import WorldTimelines

__all__ = ["WhatIf", "WorldWhatIf", "reopened"]


class Verbs(ABC):
    """What can be done to events. Each verb returns a new what-if, and sees what the verbs before it left; what it names wrongly it says at once.

    An event is named by its id (its first occurrence is meant), or as (topic, partition, offset), or by its coordinates.
    """

    _altered: Altered

    @abstractmethod
    def _with(self, altered: Altered) -> Self:
        """The same with other changes."""

    def drop(self, event: Named, *, effects: bool = False) -> Self:
        """Leave an event out; with `effects` all occurrences of it, and of every event that it caused, and that these caused (by causation id, over all topics), too."""
        return self._with(self._altered.drop(event, effects=effects))

    def edit(self, event: Named, changes: Mapping[str, Any]) -> Self:
        """Change what an event says: `.edit("evt-8", {"data.total": 10, "data.note": eslab.MISSING})`. Paths go into data and metadata (`data.items[0].price`; `MISSING` takes a value away), or name a
        part: type, version, source, happened_at, id, correlation_id, causation_id. With another id in it, it belongs to another aggregate."""
        return self._with(self._altered.edit(event, changes))

    def move(self, event: Named, *, before: Named | None = None, after: Named | None = None, at: str | dt.datetime | None = None) -> Self:
        """Let an event have come right before or after another one, or at a time: it is recorded then. What it says, happened_at too, stays."""
        return self._with(self._altered.move(event, before=before, after=after, at=at))

    def delay(self, event: Named, by: str | float | dt.timedelta) -> Self:
        """Let an event have come so much later ("30s", "5m", seconds): it is recorded then. What it says, happened_at too, stays; those behind it in its partition are not held up."""
        return self._with(self._altered.delay(event, by))

    def duplicate(self, event: Named, *, delay: str | float | dt.timedelta | None = None) -> Self:
        """Let an event have been delivered once more, right behind itself or so much later, with the same id."""
        return self._with(self._altered.duplicate(event, delay))

    def insert(
        self,
        event: Mapping[str, Any] | None,
        *,
        before: Named | None = None,
        after: Named | None = None,
        at: str | dt.datetime | None = None,
        topic: str | None = None,
        key: str | None = None,
    ) -> Self:
        """Put an event in, as `eslab.play` takes them: `{"eventType": ..., "data": {...}}`; None and `key=` for a tombstone. Right before or after another event, or at a time; else at the time in its payload.

        `topic` is by whose rules it is read (default: the one it stands beside, or of a history its own, or the only one), `key` its record key (default: the first id in its data).
        """
        return self._with(self._altered.insert(event, before=before, after=after, at=at, topic=topic, key=key, end=self._end()))

    def _end(self) -> Any:
        """The record behind which an event goes that has neither place nor time."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of what was asked for: that an id was seen more than once."""
        return self._altered.notes

    def _told(self) -> str:
        done = "; ".join(self._altered.said) or "nothing changed yet"
        return done + "".join(f" ({note})" for note in self.notes)


class WhatIf(Verbs):
    """A history with changes: `.history` is what it comes to, `.compare()` holds it against what it was. A value: a verb returns another one, and changes nothing."""

    def __init__(self, before: History, altered: Altered) -> None:
        self.before, self._altered = before, altered
        self._history: History | None = None

    def _with(self, altered: Altered) -> Self:
        return type(self)(self.before, altered)

    def _end(self) -> Any:
        places = self.before.places()
        return places[-1] if places else None

    @property
    def history(self) -> History:
        """The history with the changes in it: everything that can be asked of a history can be asked of it, but for a cut, which is of the log."""
        if self._history is None:
            self._history = changed(self.before, self._altered)
        return self._history

    def compare(self) -> Timelines:
        """Both timelines side by side, and where they part. Folds each once."""
        line = self.before.shell.line("what-if", self._altered.words, at=self.before.until)
        return timelines(self.before, self.history, self._altered).shown_by(line)

    def __repr__(self) -> str:
        return tables.visible(f"<WhatIf on {self.before.aggregate} {self.before.aggregate_id}: {self._told()}>")

    def _repr_html_(self) -> str:
        return f"<p>{tables.escape(repr(self).strip('<>'))}</p>" + self.compare()._repr_html_()


class WorldWhatIf(Verbs):
    """A world with changes: `.compare()` folds the keys that they touch, and no other. A value: a verb returns another one, and changes nothing."""

    def __init__(self, projection: Projection, selection: Selection, altered: Altered, shell: Shell = NOWHERE, *, ended: bool) -> None:
        """`shell` asks for this world, but for the aggregate where that is all that names the projection."""
        self.projection, self.selection, self._altered, self._shell, self._ended = projection, selection, altered, shell, ended

    def _with(self, altered: Altered) -> Self:
        return type(self)(self.projection, self.selection, altered, self._shell, ended=self._ended)

    def compare(self) -> WorldTimelines:
        """The keys that are touched: what each was, what it comes to, and with `[key]` both timelines. Folds each of them once on either side."""
        altered, selection = self._altered, self.selection
        overlay = altered.overlay(self.projection, selection)
        todo = replay.plan(altered.events, self.projection, selection, keys=overlay.keys, ended=self._ended)
        other = dataclasses.replace(selection, cut=dataclasses.replace(selection.cut, label="what if"))
        then = dataclasses.replace(todo, selection=other)
        before = replay.fold(todo, replay.slices(todo) if overlay.keys else ()).world(todo)
        after = replay.fold(then, overlay.over(replay.slices(todo)) if overlay.keys else ()).world(then)
        words = [] if "projection" in self._shell.options else [self.projection.aggregate]
        line = self._shell.line("what-if", *words, altered.words)
        return WorldTimelines(before, after, overlay.keys, self._timelines, altered.said).shown_by(line)

    def _timelines(self, key: str) -> Timelines:
        events, clock = self._altered.events, self._altered.clock
        shell = self._shell.of(self.projection.aggregate, key, ended=None, at=None)
        return WhatIf(
            History(events, self.projection.aggregate, key, self.projection, self.selection, clock, shell), self._altered
        ).compare()

    def __repr__(self) -> str:
        return tables.visible(f"<WhatIf on the world of {self.projection.name} v{self.projection.version}: {self._told()}>")

    def _repr_html_(self) -> str:
        return f"<p>{tables.escape(repr(self).strip('<>'))}</p>" + self.compare()._repr_html_()


def reopened(history: History, events: Events, clock: Clock) -> History:
    """The history once more, over the events as they are now. Raises `WhatIfError` for what is none of the log."""
    if not isinstance(history, History):
        raise WhatIfError(f'{history!r:.80} is no history; give one, such as lab.history("order", "ord-1")')
    if isinstance(history, _Changed):
        raise WhatIfError("this is the history of a what-if; go on from the what-if itself: its verbs can be chained")
    return History(events, history.aggregate, history.aggregate_id, history.projection, history.selection, clock, history.shell)


def timelines(before: History, after: History, altered: Altered) -> Timelines:
    """Both histories row by row."""
    keys = before.places(), after.places()
    places = [standing(key) for key in keys[0]], altered.places(keys[1])
    named = [keys[0][left] if right is None else keys[1][right] for left, right in paired(*places) if left is not None or right is not None]  # type: ignore[index]
    return Timelines(before, after, places, [altered.done(Coordinates(*key[1:])) for key in named], altered.said, altered.clock)


def changed(before: History, altered: Altered) -> History:
    """The history with the changes laid over it."""
    projection, selection = before.projection, before.selection
    part = keying.lookup(altered.events, projection, before.aggregate_id, EVENTS.names, selection)
    overlay = altered.overlay(projection, selection).of(before.aggregate_id)
    return _Changed(before, altered, overlay.whole([part]))


class _Changed(History):
    """A history whose events are not all those of the log."""

    def __init__(self, before: History, altered: Altered, rows: Any) -> None:
        super().__init__(
            altered.events, before.aggregate, before.aggregate_id, before.projection, before.selection, altered.clock, rows=rows
        )
        self._moments = _Moments(self._moments, altered, self.places())
        self.partial = before.partial or self.partial


class _Moments(Moments):
    """The moments of such a history: it stands at no cut."""

    def __init__(self, of: Moments, altered: Altered, keys: Sequence[OrderKey]) -> None:
        super().__init__(of.name, of.events, of.tape, of.selection, of.clock)
        self._altered, self._keys = altered, keys
        self._stand = altered.places(keys)

    def place(self, *args: Any, **named: Any) -> Place:
        return dataclasses.replace(super().place(*args, **named), cut=_no_cut)

    def _of_event(self, told: str | Coordinates | tuple[str, int, int]) -> Place:
        place, seen = self._altered.find(told)
        note = f"event {told} was seen {seen} times; this is its first" if seen > 1 else ""
        return Place(np.arange(sum(one <= place for one in self._stand)), _no_cut, note)

    def _before(self, cut: Cut) -> np.ndarray:
        here = [Coordinates(*key[1:]) for key in self._keys]
        made = self._altered.made
        held = self._altered.holds(Selection(cut), [made[at] for at in here if at in made])
        return np.array([at in held if at in made else cut.holds(at) for at in here], np.bool_)

    def _happened_by(self, moment: dt.datetime) -> np.ndarray:
        happened = pc.coalesce(*(self.tape.rows.column(name) for name in ("happened_at", "recorded_at", "order_at")))
        held: np.ndarray = pc.less_equal(happened, pa.scalar(moment, EVENTS.field("order_at").type)).to_numpy()
        return held


def _no_cut() -> NoReturn:
    raise MomentError("a what-if stands at no cut: not all of its events are in the log; name its moments by version, time or event")
