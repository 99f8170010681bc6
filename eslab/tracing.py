"""What caused an event and what it caused, over all topics: the trees that causes make, with the times between."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import pyarrow as pa

from eslab.again import Again
from eslab.causation import Branch, grown
from eslab.cuts import Clock, find_event
from eslab.endings import Endings
from eslab.errors import UnknownEvent
from eslab.events import Events
from eslab.linking import PLACE, asked_for, captured, facts_of, last_steps, linked_with
from eslab.model import Coordinates
from eslab.sql import query
from eslab.views import tables, waterfall
from eslab.wording import many

if TYPE_CHECKING:
    from eslab.views.charts import Drawn

__all__ = ["Trace", "Traced", "find_trace"]

MOST: Final = 10_000  # events of one trace: the nearest to what was asked for; more are no tree that anyone reads
LINES: Final = 20  # of a repr
SHOWN: Final = 200  # rows of the views
NAME: Final = 48  # characters of an id in a line

Told = str | Coordinates | tuple[str, int, int]

_SECOND: Final = dt.timedelta(seconds=1)
_TIME: Final = pa.timestamp("us", tz="UTC")
_SCHEMA: Final = pa.schema(
    [
        ("depth", pa.int32()),
        ("event_id", pa.string()),
        ("event_type", pa.string()),
        ("topic", pa.string()),
        ("partition_id", pa.int32()),
        ("incarnation", pa.int32()),
        ("record_offset", pa.int64()),
        ("record_key", pa.string()),
        ("source", pa.string()),
        ("correlation_id", pa.string()),
        ("causation_id", pa.string()),
        ("happened_at", _TIME),
        ("recorded_at", _TIME),
        ("order_at", _TIME),
        ("after_us", pa.int64()),
        ("seen", pa.int64()),
        ("marks", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True, slots=True)
class Traced:
    """One event in its tree, or a cause that is no captured event (`facts` is None).

    `after` is the time since its cause, negative where it stands before it in the lab's order; `again` are the places where it was seen once more.
    """

    event_id: str
    depth: int
    parent: int | None
    facts: Mapping[str, Any] | None
    after: dt.timedelta | None
    again: Sequence[Coordinates]
    marks: Sequence[str]

    @property
    def open(self) -> bool:
        """Whether its saga ends here without an end."""
        return any(mark.startswith(_OPEN) for mark in self.marks)

    @property
    def at(self) -> Coordinates | None:
        """Where its record stands."""
        return None if self.facts is None else Coordinates(*(self.facts[name] for name in PLACE[1:]))

    def __repr__(self) -> str:
        called = f"{_fact(self, 'event_type') or ''} {self.event_id}".strip()
        parts = [
            called,
            *([f"at {self.at}"] if self.at else []),
            *([f"{tables.duration(self.after / _SECOND)} after its cause"] if self.after else []),
            *self.marks,
        ]
        return tables.visible(f"<Traced: {tables.show('; '.join(parts))}>")

    def _repr_html_(self) -> str:
        facts = [[name, value] for name, value in (self.facts or {}).items() if name != "places"]
        return tables.html(["field", "value"], [["marks", ", ".join(self.marks)], *facts], caption=repr(self).strip("<>"))


class Trace(Again, Sequence[Traced]):
    """Causes and effects as trees, each cause before its effects. `complete` is False where there is more of it than a trace holds.

    `roots` have no cause here, `open` are the last events of sagas without an end, `backwards` the effects that were recorded before their causes: clocks or partitions lie.
    """

    def __init__(self, told: str, found: Sequence[Traced], ends: str, clock: Clock, *, complete: bool) -> None:
        self.told, self._found, self._ends, self._clock = told, tuple(found), ends, clock
        self.complete = complete

    @property
    def roots(self) -> list[Traced]:
        return [one for one in self if one.parent is None]

    @property
    def open(self) -> list[Traced]:
        return [one for one in self if one.open]

    @property
    def backwards(self) -> list[Traced]:
        return [one for one in self if one.after is not None and one.after < dt.timedelta()]

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Traced]:
        return iter(self._found)

    def __getitem__(self, at: Any) -> Any:
        return self._found[at]

    def arrow(self) -> pa.Table:
        """One row per event, in the order of the tree: depth, event_id, event_type, where it stands, key, source, ids, times, after_us (since its cause), seen (how often), marks."""
        zoned = pa.timestamp("us", tz=str(self._clock.zone))
        rows = [
            {
                **(one.facts or {}),
                "depth": one.depth,
                "event_id": one.event_id,
                "after_us": None if one.after is None else one.after // dt.timedelta(microseconds=1),
                "seen": 0 if one.facts is None else one.facts["seen"],
                "marks": list(one.marks),
            }
            for one in self
        ]
        made = pa.Table.from_pylist(rows, _SCHEMA)
        return made.cast(pa.schema([one.with_type(zoned) if pa.types.is_timestamp(one.type) else one for one in _SCHEMA]))

    def df(self) -> pd.DataFrame:
        """One row per event, in the order of the tree: depth, event_type, event_id, at, key, causation_id, correlation_id, source, three times, `after` (since its cause), seen, marks."""
        zone = self._clock.zone
        frame = pd.DataFrame(
            {
                "depth": [one.depth for one in self],
                "event_type": [_fact(one, "event_type") for one in self],
                "event_id": [one.event_id for one in self],
                "at": [None if one.at is None else str(one.at) for one in self],
                "key": [_fact(one, "record_key") for one in self],
                "causation_id": [_fact(one, "causation_id") for one in self],
                "correlation_id": [_fact(one, "correlation_id") for one in self],
                "source": [_fact(one, "source") for one in self],
                "after": pd.to_timedelta([one.after for one in self]),
                "seen": [_fact(one, "seen") or 0 for one in self],
                "marks": [", ".join(one.marks) for one in self],
            }
        )
        for place, name in enumerate(("happened_at", "recorded_at", "order_at"), 8):
            frame.insert(place, name, pd.to_datetime([_fact(one, name) for one in self], utc=True).tz_convert(zone))
        return frame

    def tree(self) -> list[list[str]]:
        """A row for each event, as text: its type in the tree, id, where it stands, time, time since its cause, marks."""
        return list(waterfall.cells(self._rows()))

    def chart(self) -> Drawn:
        """The trace as a waterfall over time: for each event a line from its cause to it."""
        from eslab.views import charts  # noqa: PLC0415  Altair is loaded when a chart is drawn

        more = [f"the first {SHOWN} of {len(self):,}"] if len(self) > SHOWN else []
        drawn: Drawn = charts.trace(self._rows()[:SHOWN], name=self.told, zone=self._clock.zone, notes=[*self.notes, *more])
        return drawn

    @property
    def notes(self) -> list[str]:
        """What a reader must know beside the tree, as sentences."""
        out = [self._ends] if self._ends else []
        if not self.complete:
            out.append(
                f"there is more of it: these are the {many(len(self), 'event')} nearest to what was asked for, and ends are not told"
            )
        if self.backwards:
            out.append(
                f"{many(len(self.backwards), 'effect')} recorded before {'its cause' if len(self.backwards) == 1 else 'their causes'}: clocks or partitions lie"
            )
        return out

    def _rows(self) -> list[waterfall.Row]:
        days = {one.facts["order_at"].astimezone(self._clock.zone).date() for one in self if one.facts is not None}
        shown = [None if one.facts is None else self._clock.show(one.facts["order_at"]) for one in self]
        return [
            waterfall.Row(
                depth=one.depth,
                parent=one.parent,
                name=one.event_id,
                type=_fact(one, "event_type") or "",
                at="" if one.at is None else str(one.at),
                topic=_fact(one, "topic") or "",
                moment=_fact(one, "order_at"),
                time="" if time is None else time if len(days) > 1 else time.split(" ", 1)[1],  # one day stands in the headline
                after_s=None if one.after is None else one.after / _SECOND,
                open=one.open,
                marks=", ".join([*one.marks, *_again(one)]),
            )
            for one, time in zip(self, shown, strict=True)
        ]

    @property
    def said(self) -> str:
        """What it is, in one line."""
        here = [one.facts for one in self if one.facts is not None]
        if not here:
            return f"Trace of {self.told}: nothing"
        first, last = (pick(one["order_at"] for one in here) for pick in (min, max))
        topics = len({one["topic"] for one in here})
        parts = [f"{many(len(here), 'event')} in {many(topics, 'topic')} over {tables.duration((last - first) / _SECOND)}"]
        parts += [many(len(self.roots), "root")] if len(self.roots) > 1 else []
        parts += [many(len(self.open), "open end")] if self.open else []
        return f"Trace of {self.told}: {', '.join([*parts, f'from {self._clock.show(first)}'])}"

    def __repr__(self) -> str:
        lines = [self.said, *waterfall.lines(self._rows()[:LINES], longest=NAME)]
        if len(self) > LINES:
            lines.append(f"and {many(len(self) - LINES, 'event')} more: .df() has them all")
        return tables.visible("\n".join([*lines, *self.notes]))

    def _repr_html_(self) -> str:
        more = f"; the first {SHOWN}" if len(self) > SHOWN else ""
        return waterfall.html(self._rows()[:SHOWN], caption=self.said + more, notes=self.notes) + tables.shell(self.again)


_OPEN: Final = "open:"


def _fact(one: Traced, name: str) -> Any:
    return None if one.facts is None else one.facts[name]


def _again(one: Traced) -> list[str]:
    if not one.again:
        return []
    more = one.facts["seen"] - 1 - len(one.again) if one.facts is not None else 0
    return [f"again at {', '.join(map(str, one.again))}{f' and {more:,} more' if more else ''}"]


def find_trace(events: Events, told: Told, endings: Endings, clock: Clock, *, most: int = MOST) -> Trace:
    """The trees of causes and effects that hold an event, or the events of a correlation id.

    They are all that is linked, through whatever causes, with the event or with an event of its correlation; of an event seen several times, as it was at first. A cause that no captured event is, such
    as a command, is a root. At most `most` events, the nearest. Scans the id columns of all events a few times. Raises `UnknownEvent`.
    """
    name = told if isinstance(told, str) else _name_at(events, told)
    asked, whole = asked_for(events, name, most)
    if not asked:
        raise UnknownEvent(f"no captured event is called, correlated or caused by {name!r}; lab.find(...) looks for any id")
    ids, linked = linked_with(events, asked, most)
    facts = facts_of(events, ids)
    branches = grown([(one["event_id"], one["causation_id"] or None) for one in facts], asked)  # an empty id names nothing
    complete = whole and linked
    beyond = set() if complete else captured(events, [one.name for one in branches if one.row is None])
    ends = _open_ends(events, branches, facts, endings) if complete else {}
    found = [
        _traced(branch, facts, branches, [*ends.get(branch.row, ()), *(["not followed further"] if branch.name in beyond else [])])
        for branch in branches
    ]
    return Trace(name, found, endings.said(events.manifest.types), clock, complete=complete)


def _traced(branch: Branch, facts: Sequence[Mapping[str, Any]], branches: Sequence[Branch], more: Sequence[str]) -> Traced:
    if branch.row is None:
        return Traced(branch.name, 0, None, None, None, (), tuple(more) or ("outside the log",))
    own = facts[branch.row]
    marks = ["its causes are a circle"] if branch.circle else []
    cause = None if branch.parent is None else branches[branch.parent].row
    after = None if cause is None else own["order_at"] - facts[cause]["order_at"]
    if after is not None and after < dt.timedelta():
        marks.append(f"recorded {tables.duration(-after / _SECOND)} before its cause")
    again = [Coordinates(*(place[name] for name in PLACE[1:])) for place in own["places"][1:]]
    return Traced(branch.name, branch.depth, branch.parent, own, after, again, (*marks, *more))


def _name_at(events: Events, told: Told) -> str:
    """The id of the event at a place."""
    (_, topic, partition, incarnation, offset), _ = find_event(events, told)
    place = Coordinates(topic, partition, incarnation, offset)
    ((name,),) = query(
        events,
        "select event_id from {rows} where first and topic = $topic and partition_id = $partition and incarnation = $incarnation and record_offset = $offset",
        place._asdict(),
    )
    if name is None:
        raise UnknownEvent(f"{place} holds no event but a tombstone or what could not be read; it has no cause and no effects")
    return str(name)


def _open_ends(
    events: Events, branches: Sequence[Branch], facts: Sequence[Mapping[str, Any]], endings: Endings
) -> dict[int | None, list[str]]:
    """The last event of every saga (a correlation id; without one, a tree) in which none is of a type that ends one: its row, and what is said of it."""
    if not endings.all:
        return {}
    sagas: dict[tuple[str, str], list[int]] = defaultdict(list)
    root = ""
    for branch in branches:
        root = branch.name if branch.parent is None else root
        if branch.row is not None:
            correlation = facts[branch.row]["correlation_id"]
            sagas[("correlation", correlation) if correlation else ("tree", root)].append(branch.row)
    without = {key: held for key, held in sagas.items() if not any(facts[row]["event_type"] in endings.all for row in held)}
    if not without:
        return {}
    ((now,),) = query(events, "select max(order_at) from {rows}")
    lasts = last_steps(events, [name for kind, name in without if kind == "correlation"], endings.all)
    opened = [max(held) for (kind, _), held in without.items() if kind == "tree"]
    opened += [branch.row for branch in branches if branch.row is not None and branch.name in lasts]
    return {row: [f"{_OPEN} nothing came after it for {tables.duration((now - facts[row]['order_at']) / _SECOND)}"] for row in opened}
