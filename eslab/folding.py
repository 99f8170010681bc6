"""The fold itself: sorted rows in, states out. History and replay both stand on these two functions."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

from eslab.decode import TOMBSTONE_KIND, UNDECODABLE
from eslab.errors import ProjectionError
from eslab.events import Slice
from eslab.model import MISSING, TOMBSTONE, Event, loads
from eslab.projection import Projection

__all__ = ["FOLD_COLUMNS", "Rows", "apply", "events_of", "lazy_events_of", "readable"]

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

    def value(self, column: str, row: int) -> Any:
        return self.list(column)[row]

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


def events_of(rows: Rows) -> Iterator[Event]:
    """The events of the rows in their order, their data decoded a block at a time. For folds that see every row once."""
    types, texts = _types(rows), rows.list("data")
    for start in range(0, len(rows), BLOCK):
        for at, data in enumerate(_decode(texts[start : start + BLOCK]), start):
            yield Event(rows, at, types[at], data)


def lazy_events_of(rows: Rows) -> list[Event]:
    """The same events, each decoded only where its data is asked for."""
    return [Event(rows, at, type_) for at, type_ in enumerate(_types(rows))]


def _types(rows: Rows) -> list[Any]:
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


def readable(event: Event) -> bool:
    """Whether the event's data can be had: JSON by the grammar may still hold a number that fits no float."""
    try:
        event.data  # noqa: B018  # decodes it where that was not done
    except ValueError:
        return False
    return True


def apply(projection: Projection, state: Any, event: Event) -> tuple[Any, str | None]:
    """Fold one event: the state after it, and a mark where the event did not do what events do.

    The marks: "undecodable" and "unhandled" left the state as it was; "tombstone" reset it. Raises whatever the handler
    raises, and `ProjectionError` if it returns None.
    """
    if event.type is None or (event.undecoded and not readable(event)):
        return state, "undecodable"
    handler = projection.handler(event.type)
    if handler is None:
        return (projection.initial(), "tombstone") if event.type is TOMBSTONE else (state, "unhandled")
    after = handler(state, event)
    if after is None:
        raise ProjectionError(f"{getattr(handler, '__name__', handler)} returned None for {event.type}; a handler returns the new state")
    return after, None
