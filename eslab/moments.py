"""Where in a history a moment lies: which of its steps it holds, and the cut of all events that it stands for."""

from __future__ import annotations

import dataclasses
import datetime as dt
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from eslab import cuts
from eslab.cuts import Clock
from eslab.errors import MomentError, VersionOutOfRange
from eslab.events import Events
from eslab.model import Coordinates, Cut, Selection
from eslab.tape import Tape

__all__ = ["Moment", "Moments", "Place"]

Moment = str | dt.datetime | int | Cut | None
"""A time, a version, a cut, or None for all that the history holds."""


@dataclass(frozen=True, slots=True)
class Place:
    """The positions of the steps that a moment holds; `note` says what it means here, where that is not plain."""

    held: np.ndarray
    cut: Callable[[], Cut]
    note: str = ""


class Moments:
    """The moments of one history, which is called by its `name`."""

    def __init__(self, name: str, events: Events, tape: Tape, selection: Selection, clock: Clock) -> None:
        self.name, self.events, self.tape, self.selection, self.clock = name, events, tape, selection, clock

    def place(
        self,
        moment: Moment = None,
        *,
        version: int | None = None,
        event_id: str | Coordinates | tuple[str, int, int] | None = None,
        cut: Cut | None = None,
    ) -> Place:
        """Where a moment lies; at most one way to name it. Raises `MomentError`, `VersionOutOfRange`, `UnknownEvent`, `NaiveTime`."""
        named = [one for one in (moment, version, event_id, cut) if one is not None]
        if len(named) > 1:
            raise MomentError("name one moment: a time, version=, event_id= or cut=")
        if event_id is not None:
            return self._of_event(event_id)
        asked = named[0] if named else None
        if isinstance(asked, bool) or (asked is not None and not isinstance(asked, (str, dt.datetime, int, Cut))):
            raise MomentError(f"{asked!r} is no moment; give a time, version=, event_id= or cut=")
        if isinstance(asked, int):
            return self._of_version(asked)
        if isinstance(asked, Cut):
            note = cuts.changed_since(self.events, asked, self.tape.projection.upcast_by)
            return Place(np.flatnonzero(self._before(asked)), lambda: asked, note)
        if asked is None:
            return Place(np.arange(len(self.tape)), lambda: self.selection.cut)
        return self._of_time(self.clock.read(asked))

    def _of_version(self, version: int) -> Place:
        if not 0 <= version <= len(self.tape):
            raise VersionOutOfRange(f"{self.name} has {len(self.tape)} versions; there is no version {version}")
        if not version:
            return Place(np.arange(0), lambda: Cut({}, label="before the first event"))
        coordinates = self.tape.events[version - 1].coordinates
        return Place(np.arange(version), lambda: cuts.at_event(self.events, coordinates))

    def _of_time(self, moment: dt.datetime) -> Place:
        if self.selection.happened_until is not None:
            return Place(np.flatnonzero(self._happened_by(moment)), lambda: self.selection.cut, self._beyond(moment))
        version = bisect_right(self.tape.rows.list("order_at"), moment)
        return Place(np.arange(version), lambda: cuts.at_time(self.events, moment), self._beyond(moment))

    def _of_event(self, told: str | Coordinates | tuple[str, int, int]) -> Place:
        key, seen = cuts.find_event(self.events, told)
        version = bisect_right(range(len(self.tape)), key, key=self._order)
        note = f"event {told} was seen {seen} times; this is its first" if seen > 1 else ""
        return Place(np.arange(version), lambda: cuts.at_event(self.events, told), note)

    def _before(self, cut: Cut) -> np.ndarray:
        """Which steps a cut holds."""
        return self.tape.rows.within(Selection(cut))

    def _happened_by(self, moment: dt.datetime) -> np.ndarray:
        """Which steps had happened by a moment."""
        return self.tape.rows.within(dataclasses.replace(self.selection, happened_until=moment))

    def _order(self, position: int) -> tuple[Any, ...]:
        """Where a step stands in the lab's order."""
        event = self.tape.events[position]
        return event.order_at, *event.coordinates

    def _beyond(self, moment: dt.datetime) -> str:
        if len(self.tape) and moment < self.tape.events[0].order_at:
            return f"first event at {self.clock.show(self.tape.events[0].order_at)}"
        ends = [counts.last_us for counts in self.events.manifest.topics.values() if counts.last_us is not None]
        last = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=max(ends, default=0))
        return f"log ends at {self.clock.show(last)}" if moment > last else ""
