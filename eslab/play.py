"""A lab from a list, for lessons and tests: a temporary folder that goes with the object, and the same code as for Kafka."""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import duckdb

from eslab.again import NOWHERE
from eslab.decode.envelopes import ENVELOPES
from eslab.errors import SourceError
from eslab.events import Events
from eslab.lab import Lab
from eslab.mapping import TopicMapping, first_id, write_topic
from eslab.model import Record, dumps, parse_path
from eslab.sources.memory import MemorySource

__all__ = ["Play", "play"]

TOPIC: Final = "events"
BEGIN: Final = dt.datetime(2026, 1, 1, 9, tzinfo=dt.UTC)
"""When the first event without a timestamp happens; each further one a second later."""

_ASKED: Final[set[Lab]] = set()
"""Labs that stay as long as Python does: a relation of DuckDB's reads its files when it is looked at, and can hold no lab."""


class Play(Lab):
    """A lab of one's own making. `publish` adds one more event."""

    def __init__(self, events: Iterable[Mapping[str, Any] | Record], *, tz: str | None, aggregates: Mapping[str, str] | None) -> None:
        folder = tempfile.mkdtemp(prefix="eslab-play-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        super().__init__(Path(folder), tz=tz)
        self._shell = NOWHERE  # the folder goes with the object
        self._source = MemorySource()
        self._published = 0
        if aggregates:
            write_topic(
                self.path, TOPIC, TopicMapping(ENVELOPES["default"], tuple((name, parse_path(path)) for name, path in aggregates.items()))
            )
        for event in events:
            self._append(event)
        if self._published:
            self.snapshot(self._source, progress=False)

    def publish(self, event: Mapping[str, Any] | Record) -> None:
        """Add one event, and capture it."""
        self._append(event)
        self.snapshot(self._source, progress=False)

    def sql(self, query: str, **parameters: Any) -> duckdb.DuckDBPyRelation:
        _ASKED.add(self)
        return super().sql(query, **parameters)

    def _write_database(self, events: Events) -> None:
        """Nobody else opens this folder."""

    def _append(self, event: Mapping[str, Any] | Record) -> None:
        now = BEGIN + dt.timedelta(seconds=self._published)
        self._published += 1
        if isinstance(event, Record):
            self._source.append(event)
            return
        if not isinstance(event, Mapping):
            raise SourceError(
                f'{event!r} is no event; give a dict like {{"eventType": "OrderCreated", "data": {{...}}}}, or an eslab.Record'
            )
        identity = first_id(event)
        self._source.append(
            Record(
                topic=TOPIC,
                timestamp_ms=int(_moment(event.get("timestamp"), now).timestamp() * 1000),
                timestamp_type="create",
                key=None if identity is None else str(identity).encode(errors="backslashreplace"),
                value=dumps({**event, "timestamp": event.get("timestamp", now)}),
            )
        )


def _moment(told: Any, default: dt.datetime) -> dt.datetime:
    try:
        moment = told if isinstance(told, dt.datetime) else dt.datetime.fromisoformat(str(told))
    except ValueError:
        return default
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def play(events: Iterable[Mapping[str, Any] | Record] = (), *, tz: str | None = "UTC", aggregates: Mapping[str, str] | None = None) -> Play:
    """A lab with these events, in this order.

    Each is an envelope (topic "events", partition 0, key = the first `...Id` in its data; recorded at its `timestamp`, or one second after the one before from a fixed
    instant on) or an `eslab.Record`, whose offset is given anew. `aggregates` maps names to id paths, as lab.toml would; by default they are inferred.
    """
    return Play(events, tz=tz, aggregates=aggregates)
