"""Looking for an id without knowing what it is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import pandas as pd
import pyarrow as pa

from eslab.cuts import Clock
from eslab.events import Events
from eslab.sql import query
from eslab.views import tables

__all__ = ["Found", "find_anything"]


def find_anything(events: Events, told: str) -> list[tuple[str, str, int, dt.datetime, dt.datetime]]:
    """Every meaning that an id has: (as what, of which aggregate or event type, how often, first and last order_at). One scan of the id columns."""
    return query(
        events,
        """with found as materialized (
            select * from {rows} where $id in (aggregate_id, event_id, correlation_id, causation_id, trace_id, record_key)
        ), meanings as (
            select 1 as rank, 'aggregate' as kind, aggregate as name, order_at from found where aggregate_id = $id and aggregate <> ''
            union all select 2, 'event', event_type, order_at from found where event_id = $id and first
            union all select 3, 'correlation', '', order_at from found where correlation_id = $id and first
            union all select 4, 'causation', '', order_at from found where causation_id = $id and first
            union all select 5, 'trace', '', order_at from found where trace_id = $id and first
            union all select 6, 'key', topic, order_at from found where record_key = $id and first
        ) select kind, name, count(*), min(order_at), max(order_at) from meanings group by rank, kind, name order by rank, kind, name""",
        {"id": told},
    )


class Found:
    """Where an id is known."""

    def __init__(self, what: str, rows: Sequence[tuple[str, str, int, dt.datetime, dt.datetime]], clock: Clock) -> None:
        self.what, self._rows, self._clock = what, rows, clock

    def __len__(self) -> int:
        return len(self._rows)

    def df(self) -> pd.DataFrame:
        """One row per meaning: as (aggregate, event, correlation, causation, trace, key), name (the aggregate's or event type's), steps, first, last."""
        zone = self._clock.tz or dt.UTC
        frame = pd.DataFrame(self._rows, columns=["as", "name", "count", "first", "last"])
        for name in ("first", "last"):
            frame[name] = pd.to_datetime(frame[name], utc=True).dt.tz_convert(zone)
        return frame

    def arrow(self) -> pa.Table:
        """What `df` has, in Arrow."""
        return pa.Table.from_pandas(self.df(), preserve_index=False)

    def __repr__(self) -> str:
        lines = [
            f"{self.what} is {kind} {name}: {count:,} from {self._clock.show(first)} to {self._clock.show(last)}"
            for kind, name, count, first, last in self._rows
        ]
        nothing = f"{self.what}: nothing captured has this id, as an aggregate, event, correlation, causation, trace or key"
        return tables.visible("\n".join(lines) or nothing)

    def _repr_html_(self) -> str:
        rows = [[kind, name, count, self._clock.show(first), self._clock.show(last)] for kind, name, count, first, last in self._rows]
        return tables.html(["as", "name", "count", "first", "last"], rows, caption=self.what, empty="nothing captured has this id")
