"""The first event after which a key's state is as a predicate asks, for every key, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, overload

import pandas as pd
import pyarrow as pa

from eslab.cuts import Clock
from eslab.errors import ProjectionError
from eslab.folding import Failure, Fold, Rows, Step, stretches
from eslab.model import Coordinates, Event, pack_state, unpack_state
from eslab.projection import Handler, Projection
from eslab.replay import ReplayPlan, may_miss, slices
from eslab.views import tables

__all__ = ["First", "Firsts", "find_firsts"]

SHOWN = 20
COLUMNS = ["key", "version", "event", "id", "state"]

Predicate = Callable[[Any], Any]

_SCHEMA = pa.schema(
    [
        ("aggregate_id", pa.string()),
        ("version", pa.int64()),
        ("event_type", pa.string()),
        ("event_id", pa.string()),
        ("order_at", pa.timestamp("us", tz="UTC")),
        ("recorded_at", pa.timestamp("us", tz="UTC")),
        ("topic", pa.string()),
        ("partition_id", pa.int32()),
        ("incarnation", pa.int32()),
        ("record_offset", pa.int64()),
        ("state", pa.binary()),
    ]
)
_RECORD = ("topic", "partition_id", "incarnation", "record_offset")
_ORDER = [(name, "ascending") for name in ("order_at", *_RECORD)]


@dataclass(frozen=True, slots=True)
class First:
    """A key, and its first event after which the predicate held."""

    key: str
    version: int
    event_type: str | None
    event_id: str | None
    at: Coordinates
    state: Any

    def __repr__(self) -> str:
        event = f"{self.event_type or 'a tombstone'} {self.event_id or self.at}"
        return tables.visible(f"<First of {self.key}: version {self.version}, {event}; {tables.show(self.state)}>")

    def _repr_html_(self) -> str:
        return tables.html(COLUMNS, [self.row()], caption="the first event after which it held")

    def row(self) -> list[Any]:
        """What a table shows of it, in the order of COLUMNS."""
        return [self.key, self.version, self.event_type or "(tombstone)", self.event_id or str(self.at), self.state]


class Firsts(Sequence[First]):
    """One row per key for which the predicate ever held, in the lab's order of the events that brought it about.

    `failed` are the keys whose handler raised before it held, `partial` those that may miss events.
    """

    def __init__(self, table: pa.Table, name: str, failed: Sequence[Failure], partial: frozenset[str], keys: int, clock: Clock) -> None:
        self._table, self._name, self._clock = table, name, clock
        self.failed, self.partial, self.keys = tuple(failed), partial, keys

    @property
    def first(self) -> First | None:
        """The earliest of all; None if it never held."""
        return self[0] if len(self) else None

    @overload
    def __getitem__(self, at: int) -> First: ...
    @overload
    def __getitem__(self, at: slice) -> list[First]: ...
    def __getitem__(self, at: int | slice) -> First | list[First]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        (row,) = self._table.slice(range(len(self))[at], 1).to_pylist()
        coordinates = Coordinates(row["topic"], row["partition_id"], row["incarnation"], row["record_offset"])
        return First(row["aggregate_id"], row["version"], row["event_type"], row["event_id"], coordinates, unpack_state(row["state"]))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def arrow(self) -> pa.Table:
        """aggregate_id, version, event_type, event_id, recorded_at, at (the record), state (JSON)."""
        at = [str(Coordinates(*row.values())) for row in self._table.select(_RECORD).to_pylist()]
        recorded = self._table["recorded_at"].cast(pa.timestamp("us", tz=str(self._clock.zone)))
        kept = self._table.select(["aggregate_id", "version", "event_type", "event_id"])
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

    def _said(self) -> str:
        said = f"{self._name}: held for {len(self):,} of {self.keys:,} keys"
        if self.first is not None:
            said += f", first at {self._clock.show(self._table['recorded_at'][0].as_py())} ({self.first.key}, version {self.first.version})"
        said += f"; {len(self.failed):,} keys FAILED before it held" if self.failed else ""
        return said + (f"; {len(self.partial):,} keys are partial" if self.partial else "")

    def __repr__(self) -> str:
        return tables.visible(f"<{self._said()}>")

    def _repr_html_(self) -> str:
        rows = [one.row() for one in self[:SHOWN]]
        more = f"; the first {SHOWN}" if len(self) > SHOWN else ""
        return tables.html(COLUMNS, rows, caption=self._said() + more, empty="it never held")


def find_firsts(todo: ReplayPlan, predicate: Predicate, clock: Clock, *, on_rows: Callable[[int], None] = lambda count: None) -> Firsts:
    """Fold every key until the predicate holds for its state. It is asked after each event that a handler folded, and not of a key that a tombstone ended.

    Raises `ProjectionError` where the predicate raises, naming the key.
    """
    if not callable(predicate):
        raise ProjectionError(f"{predicate!r:.80} is no predicate; give a function that takes a key's state and says whether it is so")
    watching = _Watching(todo.projection, predicate)
    found: list[tuple[Any, ...]] = []
    failed, partial, keys = list[Failure](), set[str](), 0
    key: str | None = None
    for part in slices(todo):
        rows = Rows(part)
        partial |= may_miss(todo, part)
        steps = watching.counted(watching.steps(rows))
        for here, count in stretches(rows):
            if here != key:
                key = here
                keys += 1
                watching.begin()
            done = watching.found is not None or watching.failure is not None
            watching.run(islice(steps, count))
            if watching.refused is not None:
                raise watching.refused
            if done:
                continue
            if watching.found is not None:
                found.append((here, *watching.found))
            elif watching.failure is not None:
                failed.append(watching.failure)
        on_rows(part.table.num_rows)
    columns = zip(*found, strict=True) if found else [()] * len(_SCHEMA)
    table = pa.table([pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)], _SCHEMA)
    name = getattr(predicate, "__name__", "the predicate").replace("<lambda>", "the predicate")
    return Firsts(table.sort_by(_ORDER), f"{name} over {todo.projection.name}", failed, frozenset(partial), keys, clock)


class _Watching(Fold):
    """A fold that asks a predicate after each step until it holds."""

    def __init__(self, projection: Projection, predicate: Predicate) -> None:
        super().__init__(projection)
        self._folded, self._predicate = projection, predicate
        self._version = 0
        self.refused: ProjectionError | None = None
        """What the predicate raised: it fails the whole question, where a handler fails its key alone."""
        self.found: tuple[Any, ...] | None = None

    def begin(self) -> None:
        super().begin()
        self._version, self.found = 0, None

    def counted(self, steps: Iterable[Step]) -> Iterator[Step]:
        """The same steps; `_version` is that of the one which is folded."""
        for step in steps:
            self._version += 1
            yield step

    def _handler(self, type_: Any, *, ends: bool) -> Handler:
        handler = super()._handler(type_, ends=ends)
        if type_ is None or self._folded.handler(type_) is None:
            return handler  # the state stays, or is over

        def watched(state: Any, event: Event) -> Any:
            after = handler(state, event)
            if self.found is None and after is not None and self._holds(after, event):
                self.found = (self._version, *_facts(event), pack_state(after))
            return after

        return watched

    def _holds(self, state: Any, event: Event) -> bool:
        try:
            return bool(self._predicate(state))
        except Exception as exc:
            self.refused = ProjectionError(
                f"the predicate raised {type(exc).__name__}: {exc} on {event.aggregate} {event.aggregate_id} after {event.type} "
                f"{event.id or event.coordinates}: {tables.show(state):.200}"
            )
            raise self.refused from exc


def _facts(event: Event) -> tuple[Any, ...]:
    """What is kept of an event, in the order of the table's columns: the event itself would keep its rows in memory."""
    type_ = event.type if isinstance(event.type, str) else None
    return (type_, event.id, event.order_at, event.recorded_at, *event.coordinates)
