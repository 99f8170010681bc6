"""Looking for an id or a value without knowing what it is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from eslab.again import Again
from eslab.cuts import Clock
from eslab.events import Events
from eslab.model import dumps
from eslab.sql import query
from eslab.values import Search, find_values
from eslab.views import tables
from eslab.wording import many

__all__ = ["Found", "find_anything"]


Meaning = tuple[str, str, int, dt.datetime, dt.datetime]
"""As what, of which aggregate, topic, event type or path, how often, first and last order_at."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_AS: Final = ("aggregate", "event", "correlation", "causation", "trace", "span", "key", "type", "source")
_KINDS: Final = """[
    case when aggregate_id = $id and aggregate <> '' then {'rank': 1, 'name': aggregate} end,
    case when first and event_id = $id then {'rank': 2, 'name': event_type} end,
    case when first and correlation_id = $id then {'rank': 3, 'name': ''} end,
    case when first and causation_id = $id then {'rank': 4, 'name': ''} end,
    case when first and trace_id = $id then {'rank': 5, 'name': ''} end,
    case when first and $id in (span_id, parent_span_id) then {'rank': 6, 'name': ''} end,
    case when first and record_key = $id then {'rank': 7, 'name': topic} end,
    case when first and event_type = $id then {'rank': 8, 'name': topic} end,
    case when first and source = $id then {'rank': 9, 'name': topic} end
]"""


def find_anything(events: Events, anything: Any, clock: Clock, *, whole: bool = False) -> Found:
    """Every meaning that an id or a value has; what is no text counts as JSON writes it. One scan of the columns of ids, and one of `data` and `metadata`: see `find_values`."""
    told = dumps(anything).decode() if isinstance(anything, (int, float, Decimal)) else str(anything)
    ids = query(
        events,
        f"""select meaning.rank, meaning.name, count(*), min(order_at), max(order_at) from (
            select unnest({_KINDS.replace("{", "{{").replace("}", "}}")}) as meaning, order_at from {{rows}}
            where $id in (aggregate_id, event_id, correlation_id, causation_id, trace_id, span_id, parent_span_id, record_key, event_type, source)
        ) where meaning is not null group by all order by 1, 2""",
        {"id": told},
    )
    search = find_values(events, told, whole=whole)
    meanings: list[Meaning] = [(_AS[rank - 1], name, count, first, last) for rank, name, count, first, last in ids]
    for place in sorted(search.places, key=lambda place: (-place.count, place.path)):
        first, last = (_EPOCH + dt.timedelta(microseconds=us) for us in (place.first_us, place.last_us))
        meanings.append(("value", place.name, place.count, first, last))
    return Found(told, meanings, search, clock)


class Found(Again):
    """Where an id or a value is known. `complete` is False where not all was searched; `notes` say how much was."""

    def __init__(self, what: str, rows: Sequence[Meaning], search: Search, clock: Clock) -> None:
        self.what, self._rows, self._search, self._clock = what, rows, search, clock

    @property
    def complete(self) -> bool:
        """Whether every event was searched, and all that was found is told."""
        return self._search.searched == self._search.total and not self._search.more and not self._search.unread

    @property
    def notes(self) -> list[str]:
        """How much was searched, and whether that was all."""
        search = self._search
        out = [
            f"searched: the ids, keys, types and sources of all {many(search.total, 'event')}, and every value of their data and metadata"
        ]
        if search.searched < search.total:
            out = [
                f"searched: the ids, keys, types and sources of all {many(search.total, 'event')}, but the values of {search.searched:,} alone, since it stands in so many: whole=True goes on"
            ]
        if search.more:
            out.append(f"it stands at {many(search.more, 'path')} more")
        if search.unread:
            out.append(f"{many(search.unread, 'event')} could not be looked into")
        return out

    def __len__(self) -> int:
        return len(self._rows)

    def df(self) -> pd.DataFrame:
        """One row per meaning: as (aggregate, event, correlation, causation, trace, span, key, type, source, value), name (the aggregate's, event type's, topic's; of a value its path), count, first, last."""
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
            f"{tables.show(self.what)} is {kind} {name}: {count:,} from {self._clock.show(first)} to {self._clock.show(last)}"
            for kind, name, count, first, last in self._rows
        ]
        nothing = f"{self.what}: nothing captured has this, as an id, a key, a type, a source or a value"
        return tables.visible("\n".join([*(lines or [nothing]), *self.notes]))

    def _repr_html_(self) -> str:
        rows = [[kind, name, count, self._clock.show(first), self._clock.show(last)] for kind, name, count, first, last in self._rows]
        found = tables.html(["as", "name", "count", "first", "last"], rows, caption=self.what, empty="nothing captured has this")
        return found + tables.paragraphs(self.notes) + tables.shell(self.again)
