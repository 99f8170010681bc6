"""Event ids that the log holds more than once: deliveries again, and what only says that it is one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

import pandas as pd
import pyarrow as pa

from eslab.again import Again
from eslab.changes import same
from eslab.cuts import Clock
from eslab.events import Events
from eslab.model import Coordinates, loads
from eslab.sql import ORDER, table
from eslab.views import tables
from eslab.wording import many

__all__ = ["Duplicate", "Duplicates", "find_duplicates"]

SHOWN: Final = 50
_PLACE: Final = ("topic", "partition_id", "incarnation", "record_offset")

# Ids first, from one narrow column: only the rows of those that come again are then read whole
_QUERY: Final = f"""
    with repeated as materialized (
        select event_id from {{rows}} where first and kind = 'event' and not list_contains($copies::varchar[], topic) group by event_id having count(*) > 1
    ), numbered as materialized (
        select event_id, event_type, event_version, data, {", ".join(_PLACE)}, recorded_at, order_at,
            row_number() over (partition by event_id order by {ORDER}) as nth, count(*) over (partition by event_id) as seen
        from {{rows}} semi join repeated using (event_id) where first and kind = 'event' and not list_contains($copies::varchar[], topic)
    )
    select later.event_id, later.event_type, later.nth, later.seen, {", ".join(f"later.{name}" for name in _PLACE)}, later.recorded_at, later.order_at,
        {", ".join(f"one.{name} as first_{name}" for name in (*_PLACE, "recorded_at", "order_at"))},
        epoch_us(later.order_at) - epoch_us(one.order_at) as after_us,
        later.event_type = one.event_type and later.event_version is not distinct from one.event_version as alike,
        later.data = one.data as verbatim, case when alike and not verbatim then [one.data, later.data] end as both
    from numbered as later join numbered as one on later.event_id = one.event_id and one.nth = 1
    where later.nth > 1 order by {", ".join(f"later.{name}" for name in ORDER.split(", "))}"""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """One more occurrence of an event id, the `nth` (from 2 on) of `seen`; `after` is the time since the first one, in the lab's order.

    `equal`: type, version and data are those of the first, as JSON values. If not, two events share an id, and whoever leaves out duplicates loses one.
    """

    event_id: str
    event_type: str
    nth: int
    seen: int
    at: Coordinates
    first_at: Coordinates
    recorded_at: dt.datetime | None
    after: dt.timedelta
    equal: bool

    def __repr__(self) -> str:
        differs = "" if self.equal else ", with another payload"
        after = tables.duration(self.after.total_seconds())
        return tables.visible(
            f"<Duplicate {self.event_type} {self.event_id}: at {self.first_at}, again {after} later at {self.at}{differs}>"
        )

    def _repr_html_(self) -> str:
        return f"<p>{tables.escape(repr(self).strip('<>'))}</p>"


class Duplicates(Again, Sequence[Duplicate]):
    """Every occurrence of an event id after its first, in the lab's order; `ids` has each id once. `copies` are the topics of dead letters, which were left out."""

    def __init__(self, table: pa.Table, copies: Collection[str], clock: Clock) -> None:
        self._table, self._clock = table, clock
        self.copies = tuple(copies)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids that were seen more than once, in the order in which they came again."""
        return tuple(dict.fromkeys(self._table["event_id"].to_pylist()))

    @overload
    def __getitem__(self, at: int) -> Duplicate: ...
    @overload
    def __getitem__(self, at: slice) -> list[Duplicate]: ...
    def __getitem__(self, at: int | slice) -> Duplicate | list[Duplicate]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        (row,) = self._table.slice(range(len(self))[at], 1).to_pylist()
        recorded = row["recorded_at"] and row["recorded_at"].astimezone(self._clock.zone)
        return Duplicate(
            row["event_id"],
            row["event_type"],
            row["nth"],
            row["seen"],
            _at(row),
            _at(row, "first_"),
            recorded,
            dt.timedelta(microseconds=row["after_us"]),
            row["equal"],
        )

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def arrow(self) -> pa.Table:
        """event_id, event_type, nth, seen; where and when it stands, and the same of its first occurrence (first_...); after_us, equal."""
        zoned = pa.timestamp("us", tz=str(self._clock.zone))
        return self._table.cast(pa.schema([one.with_type(zoned) if pa.types.is_timestamp(one.type) else one for one in self._table.schema]))

    def df(self) -> pd.DataFrame:
        """One row per occurrence after the first: event_id, event_type, nth, seen, first_at, at, first_recorded_at, recorded_at, after (a timedelta), equal."""
        rows = self._table.to_pylist()
        frame = pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype="str") for name in ("event_id", "event_type")})
        frame["nth"] = pd.Series([row["nth"] for row in rows], dtype="int64")
        frame["seen"] = pd.Series([row["seen"] for row in rows], dtype="int64")
        frame["first_at"] = pd.Series([str(_at(row, "first_")) for row in rows], dtype="str")
        frame["at"] = pd.Series([str(_at(row)) for row in rows], dtype="str")
        for name in ("first_recorded_at", "recorded_at"):
            frame[name] = pd.to_datetime(pd.Series([row[name] for row in rows], dtype=object), utc=True).dt.tz_convert(self._clock.zone)
        frame["after"] = pd.to_timedelta(pd.Series([row["after_us"] for row in rows], dtype="int64"), unit="us")
        frame["equal"] = pd.Series([row["equal"] for row in rows], dtype="bool")
        return frame

    def _said(self) -> str:
        if not len(self):
            return f"Duplicates: no event id was seen more than once{self._without()}"
        other = sum(not equal for equal in self._table["equal"].to_pylist())
        differ = f", {other:,} with another payload" if other else ""
        return f"Duplicates: {many(len(self.ids), 'event id')} seen more than once, {many(len(self), 'occurrence')} too many{differ}{self._without()}"

    def _without(self) -> str:
        return f"; without the copies in {', '.join(self.copies)}" if self.copies else ""

    def __repr__(self) -> str:
        return tables.visible(f"<{self._said()}>")

    def _repr_html_(self) -> str:
        rows = (
            [
                one.event_id,
                one.event_type,
                str(one.first_at),
                str(one.at),
                self._clock.show(one.recorded_at),
                tables.duration(one.after.total_seconds()),
                "equal" if one.equal else "another",
            ]
            for one in self[:SHOWN]
        )
        more = f"; the first {SHOWN}" if len(self) > SHOWN else ""
        columns = ["event", "type", "first at", "again at", "recorded", "after", "payload"]
        return tables.html(columns, rows, caption=self._said() + more, empty="none") + tables.shell(self.again)


def find_duplicates(events: Events, copies: Collection[str], clock: Clock) -> Duplicates:
    """Every event id that is there more than once, over all topics but those of copies. Two scans: of the ids, and of the rows of those that come again.

    An event without an id is called by its place, so it is never a duplicate.
    """
    found = table(events, _QUERY, {"copies": list(copies)})
    both = found["both"].to_pylist()
    equal = [
        alike and (verbatim or _same(*texts))
        for alike, verbatim, texts in zip(found["alike"].to_pylist(), found["verbatim"].to_pylist(), both, strict=True)
    ]
    kept = found.drop_columns(["alike", "verbatim", "both"]).append_column("equal", pa.array(equal, pa.bool_()))
    return Duplicates(kept, copies, clock)


def _same(one: str, other: str) -> bool:
    """Whether two JSON texts are of equal values. What cannot be decoded is equal to nothing but its own text."""
    try:
        return same(loads(one), loads(other))
    except ValueError:
        return False


def _at(row: dict[str, Any], side: str = "") -> Coordinates:
    return Coordinates(*(row[f"{side}{name}"] for name in _PLACE))
