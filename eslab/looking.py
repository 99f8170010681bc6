"""A fold that looks at the state of every key after each event that may have changed it: what questions over all keys take one pass with."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Final, Generic, TypeVar, overload

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eslab.again import Again
from eslab.cuts import Clock
from eslab.decode import TOMBSTONE_KIND
from eslab.errors import ProjectionError
from eslab.folding import Fold, Rows, Step, stretches
from eslab.model import Coordinates, Event, unpack_state
from eslab.projection import Handler, Projection
from eslab.replay import ReplayPlan, may_miss, slices
from eslab.views import tables

__all__ = ["COLUMNS", "Gathered", "Looking", "Predicate", "Turn", "Turns", "told_of", "walk"]

COLUMNS: Final = ["key", "version", "event", "id", "source", "state"]

Predicate = Callable[[Any], Any]
"""Takes a key's state and says whether it is so."""

_SCHEMA: Final = pa.schema(
    [
        ("aggregate_id", pa.string()),
        ("version", pa.int64()),
        ("event_type", pa.string()),
        ("event_id", pa.string()),
        ("source", pa.string()),
        ("order_at", pa.timestamp("us", tz="UTC")),
        ("recorded_at", pa.timestamp("us", tz="UTC")),
        ("topic", pa.string()),
        ("partition_id", pa.int32()),
        ("incarnation", pa.int32()),
        ("record_offset", pa.int64()),
        ("state", pa.binary()),
    ]
)
_TOLD: Final = ("aggregate_id", "version", "event_type", "event_id", "source")
_RECORD: Final = ("topic", "partition_id", "incarnation", "record_offset")
_EVENT: Final = ("event_type", "event_id", "source", "order_at", "recorded_at", *_RECORD)
_ORDER: Final = [(name, "ascending") for name in ("order_at", *_RECORD)]


# --- what is found --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """A key, the event by which it turned, and a state of it."""

    said: ClassVar[str] = ""
    key: str
    version: int
    event_type: str | None
    event_id: str | None
    source: str | None
    recorded_at: dt.datetime | None
    at: Coordinates
    state: Any

    def __repr__(self) -> str:
        event = f"{self.event_type or '(undecodable)'} {self.event_id or self.at}"
        return tables.visible(f"<{type(self).__name__} of {self.key}: version {self.version}, {event}; {tables.show(self.state)}>")

    def _repr_html_(self) -> str:
        return tables.html(COLUMNS, [self.row()], caption=self.said)

    def row(self) -> list[Any]:
        """What a table shows of it, in the order of COLUMNS."""
        return [self.key, self.version, self.event_type or "(undecodable)", self.event_id or str(self.at), self.source, self.state]


T = TypeVar("T", bound=Turn)


class Turns(Again, Sequence[T], Generic[T]):
    """One row per key that turned, in the lab's order of the events by which they did."""

    each: ClassVar[type[Turn]]

    def __init__(self, table: pa.Table, clock: Clock) -> None:
        self._table, self._clock = table, clock

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> list[T]: ...
    def __getitem__(self, at: int | slice) -> T | list[T]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        (row,) = self._table.slice(range(len(self))[at], 1).to_pylist()
        recorded = row["recorded_at"] and row["recorded_at"].astimezone(self._clock.zone)
        place = Coordinates(*(row[name] for name in _RECORD))
        event = (row["event_type"], row["event_id"], row["source"], recorded, place)
        made: T = self.each(row["aggregate_id"], row["version"], *event, unpack_state(row["state"]))  # type: ignore[assignment]
        return made

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def arrow(self) -> pa.Table:
        """aggregate_id, version, event_type, event_id, source, recorded_at, at (the record), state (JSON)."""
        at = [str(Coordinates(*row.values())) for row in self._table.select(_RECORD).to_pylist()]
        recorded = self._table["recorded_at"].cast(pa.timestamp("us", tz=str(self._clock.zone)))
        kept = self._table.select(_TOLD)
        return (
            kept.append_column("recorded_at", recorded)
            .append_column("at", pa.array(at, pa.string()))
            .append_column("state", self._table["state"].cast(pa.string()))
        )

    def df(self) -> pd.DataFrame:
        """What `arrow` has, by aggregate_id, with the states as values."""
        frame: pd.DataFrame = self.arrow().to_pandas().set_index("aggregate_id")
        frame["state"] = pd.Series(map(unpack_state, self._table["state"].to_pylist()), index=frame.index, dtype=object)
        return frame


class Gathered:
    """Turns as they come. What is told of their events is taken from the columns of a slice, for all of them at once."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self._new: list[tuple[str, int, int, bytes]] = []

    def add(self, key: str, version: int, row: int, state: bytes) -> None:
        """A key that turned with the event in that row of the slice that is folded now; `state` is packed."""
        self._new.append((key, version, row, state))

    def add_kept(self, key: str, version: int, event: pa.Table, state: bytes) -> None:
        """The same, with an event of which `told_of` was kept."""
        self._parts.append(_turns(event, [key], [version], [state]))

    def take(self, rows: Rows) -> None:
        """These rows are folded: keep what is told of them."""
        if self._new:
            keys, versions, at, states = zip(*self._new, strict=True)
            self._parts.append(_turns(told_of(rows, at), keys, versions, states))
            self._new.clear()

    def table(self) -> pa.Table:
        """All of them, in the lab's order."""
        return pa.concat_tables([_SCHEMA.empty_table(), *self._parts]).sort_by(_ORDER)


def told_of(rows: Rows, at: Sequence[int]) -> pa.Table:
    """What is told of the events in some rows, which as values would hold all of the rows in memory."""
    chosen = pa.array(at, pa.int64())
    columns = {name: rows.column(name).take(chosen) for name in ("kind", *_EVENT)}
    ended = pc.equal(columns["kind"].cast(pa.string()), TOMBSTONE_KIND)
    columns["event_type"] = pc.if_else(ended, "(tombstone)", columns["event_type"].cast(pa.string()))
    return pa.table({name: columns[name].cast(_SCHEMA.field(name).type) for name in _EVENT})


def _turns(events: pa.Table, keys: Sequence[str], versions: Sequence[int], states: Sequence[bytes]) -> pa.Table:
    own = {"aggregate_id": keys, "version": versions, "state": states}
    columns = [pa.array(own[one.name], one.type) if one.name in own else events[one.name] for one in _SCHEMA]
    return pa.table(columns, schema=_SCHEMA)


# --- one pass -------------------------------------------------------------------------------------


class Looking(Fold):
    """A fold that calls `look` with the state and the event after each one that a handler folded.

    A subclass says what `look` does. It may override `start`, `fail` and `_end` to hear where a key begins, fails, or is ended by a tombstone.
    """

    def __init__(self, projection: Projection) -> None:
        super().__init__(projection)
        self._folded = projection
        self._begins = 0
        self.key = ""
        self.refused: ProjectionError | None = None
        """What a predicate raised: it fails the whole question, where a handler fails its key alone."""

    def look(self, state: Any, event: Event) -> None:
        """See a state, which must not be changed, and the event after which it is so."""
        raise NotImplementedError

    def refuse(self, what: str, exc: Exception, state: Any, event: Event) -> ProjectionError:
        """What a predicate raised, as one sentence that names the key and the event."""
        self.refused = ProjectionError(
            f"{what} raised {type(exc).__name__}: {exc} on {event.aggregate} {event.aggregate_id} after {event.type_name} "
            f"{event.id or event.coordinates}: {tables.show(state):.200}"
        )
        return self.refused

    def place(self, event: Event) -> tuple[int, int]:
        """The version that the key at hand has with this event, and its row among those that are folded now."""
        row = event._row  # noqa: SLF001  counting the steps instead would cost every event a step of its own
        return row - self._begins + 1, row

    def stand(self, key: str, begins: int) -> None:
        """Say which key is folded, and at which row its events begin: a negative one where the first of them were in earlier rows."""
        self.key, self._begins = key, begins

    def leave(self, rows: Rows) -> None:
        """Hear that these rows are folded: what is to be kept of them is taken now."""

    def start(self, steps: Iterable[Step]) -> Iterable[Step]:
        """The steps of a key from its first one on, before they are folded."""
        return steps

    def _handler(self, type_: Any, *, ends: bool) -> Handler:
        handler = super()._handler(type_, ends=ends)
        if type_ is None or self._folded.handler(type_) is None:
            return handler  # the state stays, or is over
        look = self.look

        def looked(state: Any, event: Event) -> Any:
            after = handler(state, event)
            if after is not None:
                look(after, event)
            return after

        return looked


def walk(
    todo: ReplayPlan,
    fold: Looking,
    on_key: Callable[[str], None],
    *,
    on_rows: Callable[[int], None] = lambda count: None,
) -> frozenset[str]:
    """Fold every key, and call `on_key` with each when all its events are. Returns the keys that may miss some. Raises what a predicate raised."""
    partial = set[str]()
    key: str | None = None
    folded = 0
    for part in slices(todo):
        rows = Rows(part)
        partial |= may_miss(todo, part)
        steps, row = fold.steps(rows), 0
        for here, count in stretches(rows):
            own: Iterable[Step] = islice(steps, count)
            fresh = here != key
            if fresh:
                if key is not None:
                    on_key(key)
                key, folded = here, 0
                fold.begin()
            fold.stand(here, row - folded)
            fold.run(fold.start(own) if fresh else own)
            if fold.refused is not None:
                raise fold.refused
            row, folded = row + count, folded + count
        fold.leave(rows)
        on_rows(part.table.num_rows)
    if key is not None:
        on_key(key)
    return frozenset(partial)
