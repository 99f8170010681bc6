"""The fold itself: sorted rows in, states out. History, replay and compare all stand on it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from eslab.decode import EVENT, TOMBSTONE_KIND, UNDECODABLE, with_decimals
from eslab.errors import ProjectionError
from eslab.events import Slice
from eslab.model import MISSING, TOMBSTONE, Coordinates, Event, loads
from eslab.projection import Handler, Projection

__all__ = ["FOLD_COLUMNS", "Failure", "Fold", "Rows", "apply", "decoded", "event_types", "events_of", "stretches"]

FOLD_COLUMNS: Final = ("kind", "event_type", "event_version", "data")
"""What a fold reads of every row, beside the key; the rest is read when a handler asks for it."""
BLOCK: Final = 64  # events whose data is decoded by one call: 64 to 128 are the fastest, more only feed the garbage collector


class Rows:
    """The columns of a slice as Python values, each read only where an event is asked for it."""

    def __init__(self, rows: Slice) -> None:
        self._slice = rows
        self._lists: dict[str, list[Any]] = {}

    def __len__(self) -> int:
        return int(self._slice.table.num_rows)

    @property
    def only_events(self) -> bool:
        """Whether there is no tombstone and no undecodable record."""
        return bool(pc.all(pc.equal(self._slice.column("kind"), EVENT)).as_py())

    def column(self, name: str) -> pa.ChunkedArray:
        return self._slice.column(name)

    def value(self, column: str, row: int) -> Any:
        return self.list(column)[row]

    def data(self, row: int) -> Any:
        """The data of one row, decoded. Raises `ValueError` where it cannot be."""
        text = self.value("data", row)
        return None if text is None else self.exact(row, loads(text))

    def exact(self, row: int, data: Any) -> Any:
        """The data of a row with a `Decimal` wherever lab.toml declares one; changes it in place."""
        return with_decimals(data, self._slice.decimals.get(self.value("topic", row), ())) if self.declares else data

    @property
    def declares(self) -> bool:
        """Whether lab.toml declares decimals of any topic."""
        return bool(self._slice.decimals)

    def list(self, column: str) -> list[Any]:
        """A whole column; times as aware datetimes in UTC."""
        values = self._lists.get(column)
        if values is None:
            values = self._lists[column] = _to_list(self._slice.column(column))
        return values


def _to_list(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        return [None if micros is None else _EPOCH + dt.timedelta(microseconds=micros) for micros in column.cast(pa.int64()).to_pylist()]
    values: list[Any] = column.to_pylist()
    return values


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def stretches(rows: Rows) -> Iterator[tuple[str, int, int]]:
    """Each key with its rows: first, and next after the last. A key's rows follow each other, and may go on in the next slice."""
    if not len(rows):
        return
    ids = rows.column("aggregate_id").combine_chunks()
    changes = pc.not_equal(ids[1:], ids[:-1])
    starts = [0, *(pc.indices_nonzero(changes).to_numpy() + 1).tolist()]
    yield from zip(ids.take(starts).to_pylist(), starts, [*starts[1:], len(rows)], strict=True)


def decoded(rows: Rows) -> Iterator[Any]:
    """The data of each row, decoded a block at a time; `MISSING` where it cannot be. For folds that see every row once."""
    texts = rows.list("data")
    for start in range(0, len(rows), BLOCK):
        values = _decode(texts[start : start + BLOCK])
        yield from map(rows.exact, range(start, start + BLOCK), values) if rows.declares else values


def events_of(rows: Rows) -> list[Event]:
    """The rows as events, each decoded only where its data is asked for."""
    return [Event(rows, at, type_) for at, type_ in enumerate(event_types(rows))]


def event_types(rows: Rows) -> list[Any]:
    """What `Event.type` is in each row: a text, `TOMBSTONE`, or None for an undecodable record."""
    if rows.only_events:
        return rows.list("event_type")
    special = {TOMBSTONE_KIND: TOMBSTONE, UNDECODABLE: None}
    return [special.get(kind, type_) for kind, type_ in zip(rows.list("kind"), rows.list("event_type"), strict=True)]


def _decode(texts: Sequence[str | None]) -> Sequence[Any]:
    """One JSON call for the whole block: every text was found to be one JSON value when it was built."""
    try:
        values: list[Any] = loads("[" + ",".join([text or "null" for text in texts]) + "]")
    except ValueError:
        return [_decode_one(text) for text in texts]
    return values


def _decode_one(text: str | None) -> Any:
    try:
        return loads(text or "null")
    except ValueError:
        return MISSING


def _readable(event: Event) -> bool:
    """Whether the event's data can be had: JSON by the grammar may still hold a number that fits no float."""
    try:
        event.data  # noqa: B018  # decodes it where that was not done
    except ValueError:
        return False
    return True


def apply(projection: Projection, state: Any, event: Event) -> tuple[Any, str | None]:
    """Fold one event: the state after it, and a mark where the event did not do what events do.

    The marks: "undecodable", "unhandled" and "ignored" left the state as it was; "tombstone" reset it. Raises whatever the handler
    raises, and `ProjectionError` if it returns None.
    """
    if event.type is None or (event.undecoded and not _readable(event)):
        return state, "undecodable"
    handler = projection.handler(event.type)
    if handler is None:
        if event.type is TOMBSTONE:
            return projection.initial(), "tombstone"
        return state, "ignored" if projection.ignores(event.type) else "unhandled"
    after = handler(state, event)
    return (after, None) if after is not None else _nothing_returned(handler, event)


def _nothing_returned(handler: Handler, event: Event) -> NoReturn:
    """Raise `ProjectionError`: a handler that returns None was meant to return something."""
    raise ProjectionError(f"{getattr(handler, '__name__', handler)} returned None for {event.type}; a handler returns the new state")


# --- one key after another --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failure:
    """A key whose fold ended in an error, and the event it was at."""

    key: str
    event_id: str | None
    at: Coordinates
    error: str


class Fold:
    """One projection folded over the events of one key at a time.

    `over` says that a tombstone ended the key. A handler that raises leaves a `failure`, and nothing more of that key is folded.
    """

    __slots__ = ("_projection", "failure", "over", "state")

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self.state: Any = None
        self.over = False
        self.failure: Failure | None = None

    def begin(self) -> None:
        """Stand before the first event of another key."""
        self.state, self.over, self.failure = self._projection.initial(), False, None

    def handlers(self, types: Sequence[Any]) -> Mapping[Any, Handler | None]:
        """What `step` wants to be told with an event of each type."""
        return {one: None if one is None else self._projection.handler(one) for one in set(types)}

    def step(self, event: Event, handler: Handler | None) -> None:
        """Fold one event. What happens to nearly every one is done in place, a call less for each; whatever is odd goes through `apply`."""
        if self.failure is not None:
            return
        try:
            if handler is None or event.undecoded:
                self.state, mark = apply(self._projection, self.state, event)
                if mark not in ("undecodable", "unhandled", "ignored"):  # they leave the state as it is, ended or not
                    self.over = mark == "tombstone"
            else:
                after = handler(self.state, event)
                self.state = after if after is not None else _nothing_returned(handler, event)
                self.over = False
        except Exception as exc:  # noqa: BLE001  # a handler is the user's: whatever it raises fails this key and no other
            self.fail(event, f"{type(exc).__name__}: {exc}")

    def fail(self, event: Event, error: str) -> None:
        self.failure = Failure(event.aggregate_id, event.id, event.coordinates, error)
