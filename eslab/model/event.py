"""A decoded record, as a handler sees it: each part is read when it is asked for."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final, Protocol

import msgspec

from eslab.markup import escape, grid, visible
from eslab.model.exact import loads
from eslab.model.record import Coordinates
from eslab.model.sentinels import Sentinel

__all__ = ["Columns", "Event"]

SHOWN: Final = 2000  # characters of an event's data in its view


class Columns(Protocol):
    """Rows that events read their parts from, when asked."""

    def value(self, column: str, row: int) -> Any:
        """The value of a column in a row; times are aware datetimes in UTC."""

    def data(self, row: int) -> Any:
        """The data of a row, decoded. Raises `ValueError` where it cannot be."""


class Event(msgspec.Struct, eq=False, gc=False):
    """A decoded record, lazily: every part is read from its row when it is asked for.

    What a handler sees. `type` is `TOMBSTONE` for a null value; `data` is any JSON value, {} where the payload has none,
    None for a tombstone. Handlers must not change it.
    """

    # A struct, since a fold makes one for each event: it is made at a third of the cost of a class with slots
    _rows: Columns
    _row: int
    type: str | Sentinel | None
    data: Any

    @classmethod
    def undecoded(cls, rows: Columns, row: int, type_: str | Sentinel | None) -> Event:
        """An event whose data is decoded when it is asked for. Asking raises `ValueError` where it cannot be."""
        event = cls(rows, row, type_, None)
        del event.data
        return event

    def __getattr__(self, name: str) -> Any:
        if name != "data":
            raise AttributeError(f"an event has no {name!r}")
        self.data = self._rows.data(self._row)
        return self.data

    def reread(self) -> Any:
        """The data once more: the caller's own, to change. Raises `ValueError` where it cannot be decoded."""
        return self._rows.data(self._row)

    def forget(self) -> None:
        """Let go of the data: it is decoded anew when it is asked for."""
        try:  # noqa: SIM105  suppress costs several times as much, at every step of a history
            del self.data
        except AttributeError:  # it was not decoded, or cannot be
            pass

    def renewed(self, version: str | None, data: Any) -> Event:
        """The same event with this version of its type, and this data."""
        return _Renewed(self._rows, self._row, self.type, data, version)

    @property
    def type_name(self) -> str:
        """The type where it is shown: "(tombstone)", or "(undecodable)", for what has none."""
        return str(self.type) if isinstance(self.type, str) else "(undecodable)" if self.type is None else "(tombstone)"

    @property
    def metadata(self) -> Any:
        return loads(self._rows.value("metadata", self._row) or "{}")

    @property
    def id(self) -> str | None:
        return self._text("event_id")

    @property
    def version(self) -> str | None:
        """The version of the event's type, as its envelope says; not the version of a history."""
        return self._text("event_version")

    @property
    def source(self) -> str | None:
        return self._text("source")

    @property
    def recorded_at(self) -> dt.datetime | None:
        """The record's timestamp; None where it is none, or past the year 9999."""
        return self._time("recorded_at")

    @property
    def happened_at(self) -> dt.datetime | None:
        """The time in the payload."""
        return self._time("happened_at")

    @property
    def order_at(self) -> dt.datetime:
        """The time that the lab orders by: it never decreases along a partition."""
        moment = self._time("order_at")
        assert moment is not None
        return moment

    @property
    def correlation_id(self) -> str | None:
        return self._text("correlation_id")

    @property
    def causation_id(self) -> str | None:
        return self._text("causation_id")

    @property
    def trace_id(self) -> str | None:
        return self._text("trace_id")

    @property
    def span_id(self) -> str | None:
        return self._text("span_id")

    @property
    def parent_span_id(self) -> str | None:
        return self._text("parent_span_id")

    @property
    def key(self) -> str | None:
        """The record's key as text; None where it is null or no UTF-8."""
        return self._text("record_key")

    @property
    def aggregate(self) -> str:
        return str(self._rows.value("aggregate", self._row))

    @property
    def aggregate_id(self) -> str:
        return str(self._rows.value("aggregate_id", self._row))

    @property
    def coordinates(self) -> Coordinates:
        value = self._rows.value
        return Coordinates(
            value("topic", self._row), value("partition_id", self._row), value("incarnation", self._row), value("record_offset", self._row)
        )

    @property
    def topic(self) -> str:
        return self.coordinates.topic

    @property
    def partition(self) -> int:
        return self.coordinates.partition

    @property
    def offset(self) -> int:
        return self.coordinates.offset

    def __repr__(self) -> str:
        return visible(f"<Event {self.type_name} {self.id or self.coordinates}>")

    def _repr_html_(self) -> str:
        named = (
            "id",
            "version",
            "source",
            "recorded_at",
            "happened_at",
            "correlation_id",
            "causation_id",
            "trace_id",
            "key",
            "coordinates",
        )
        told = [(name, str(value)) for name in named if (value := getattr(self, name)) is not None]
        text = self._rows.value("data", self._row) or ""
        data = text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"
        rows = [[escape(name), escape(value)] for name, value in [*told, ("data", data)]]
        return grid(["field", "value"], rows, left=[True, True], caption=self.type_name)

    def _text(self, column: str) -> str | None:
        value = self._rows.value(column, self._row)
        return None if value is None else str(value)

    def _time(self, column: str) -> dt.datetime | None:
        value: dt.datetime | None = self._rows.value(column, self._row)
        return value


class _Renewed(Event, eq=False, gc=False):
    """An event whose version and data are not those that were written."""

    _version: str | None

    @property
    def version(self) -> str | None:
        return self._version
