"""Everything that stands near a moment, over all topics."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eslab.again import Again
from eslab.cuts import Clock
from eslab.events import Events
from eslab.model import Coordinates
from eslab.sql import ORDER, query, table
from eslab.views import tables
from eslab.wording import Length, many

__all__ = ["Around", "find_around"]

MOST: Final = 10_000  # records; more in one answer are for SQL
SHOWN: Final = 100
_US: Final = dt.timedelta(microseconds=1)
_COLUMNS: Final = """order_at, kind, event_type, event_id, topic, partition_id, incarnation, record_offset, record_key, source, correlation_id, causation_id,
    happened_at, recorded_at"""


def find_around(events: Events, moment: dt.datetime, before: Length, after: Length, clock: Clock, *, most: int = MOST) -> Around:
    """Every record whose place in the lab's order is at most `before` before the moment and at most `after` behind it, in that order.

    At most `most`, the nearest; of equally near ones the first. One scan of the times of all events, and only so many records in memory.
    """
    us = (moment - _EPOCH) // _US
    within = {"low": us - before.us, "high": us + after.us}
    told = "first and epoch_us(order_at) between $low and $high"
    ((there,),) = query(events, f"select count(*) from {{rows}} where {told}", within)
    found = table(
        events,
        f"""select {_COLUMNS}, epoch_us(order_at) - $moment as since_us from {{rows}} where {told} order by abs(since_us), {ORDER} limit {most}""",
        {**within, "moment": us},
    )
    return Around(found.sort_by([(name.strip(), "ascending") for name in ORDER.split(",")]), moment, before, after, there, clock)


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Around(Again):
    """The records near a moment, over all topics, in the lab's order. `total` is how many there are, where that is more than these."""

    def __init__(self, rows: pa.Table, moment: dt.datetime, before: Length, after: Length, total: int, clock: Clock) -> None:
        self._rows, self._before, self._after, self._clock = rows, before, after, clock
        self.moment, self.total = moment, total

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    @property
    def complete(self) -> bool:
        return len(self) == self.total

    def arrow(self) -> pa.Table:
        """order_at, since_us (from the moment; negative before it), kind (event, tombstone, undecodable), event_type, event_id, where it stands, key, source, ids, other times."""
        zoned = pa.timestamp("us", tz=str(self._clock.zone))
        return self._rows.cast(pa.schema([one.with_type(zoned) if pa.types.is_timestamp(one.type) else one for one in self._rows.schema]))

    def df(self) -> pd.DataFrame:
        """One row per record: order_at, `since` the moment, kind, event_type, event_id, at, key, source, correlation_id, causation_id, happened_at, recorded_at."""
        rows = self.arrow()
        frame: pd.DataFrame = rows.select(["order_at", "kind", "event_type", "event_id"]).to_pandas()
        frame.insert(1, "since", pd.to_timedelta(rows["since_us"].to_pandas(), unit="us"))
        frame["at"] = pd.Series([str(_place(row)) for row in rows.to_pylist()], dtype="str")
        frame["key"] = rows["record_key"].to_pandas()
        for name in ("source", "correlation_id", "causation_id", "happened_at", "recorded_at"):
            frame[name] = rows[name].to_pandas()
        return frame

    @property
    def said(self) -> str:
        """What it is, in one line."""
        topics = ", ".join(f"{one['values']} {one['counts']:,}" for one in pc.value_counts(self._rows["topic"]).to_pylist())
        there = many(self.total, "record")
        if not self.complete:
            there = f"the {many(len(self), 'record')} nearest to it of {self.total:,}"
        return f"Around {self._clock.show(self.moment)}: {there} from {self._before} before to {self._after} after it{f' ({topics})' if topics else ''}"

    def __repr__(self) -> str:
        return tables.visible(f"<{self.said}>")

    def _repr_html_(self) -> str:
        near = max(0, min(int(pc.sum(pc.less(self._rows["since_us"], 0)).as_py() or 0) - SHOWN // 2, len(self) - SHOWN))
        shown = self._rows.slice(near, SHOWN).to_pylist()
        cells = [
            [
                self._clock.show(row["order_at"]),
                f"{'-' if row['since_us'] < 0 else '+'}{tables.duration(abs(row['since_us']) / 1e6)}",
                row["event_type"] or f"({row['kind']})",
                row["event_id"] or "",
                str(_place(row)),
                row["record_key"],
                row["source"] or "",
            ]
            for row in shown
        ]
        more = f"; the {SHOWN} next to it" if len(self) > SHOWN else ""
        names = ["time", "from it", "event", "id", "at", "key", "source"]
        return tables.html(names, cells, caption=self.said + more, empty="nothing") + tables.shell(self.again)


def _place(row: dict[str, Any]) -> Coordinates:
    return Coordinates(row["topic"], row["partition_id"], row["incarnation"], row["record_offset"])
