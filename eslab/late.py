"""Events that arrived after their time: what had happened by then, and the log did not yet know."""

from __future__ import annotations

import datetime as dt
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eslab.again import Again
from eslab.cuts import Clock
from eslab.errors import UnknownTopic
from eslab.events import Events
from eslab.sql import ORDER, table
from eslab.views import tables
from eslab.wording import many, read_length

__all__ = ["MIN", "Late", "find_late"]

MIN: Final = dt.timedelta(
    minutes=1
)  # an outbox that is polled, a batch that lingers, a retry: seconds. And so far may a clock be off before the lab suspects it
SHOWN: Final = 50


def find_late(events: Events, least: str | float | dt.timedelta, topic: str | None, clock: Clock) -> Late:
    """Every event whose place in the lab's order is at least so long after its happened_at, the latest first. One scan of two columns of times.

    Raises `MomentError` for what is no length of time, `UnknownTopic` for a topic that the lab has not.
    """
    length = dt.timedelta(microseconds=read_length(least, name="min", least=0).us)
    if topic is not None and topic not in events.manifest.topics:
        raise UnknownTopic(f"the lab has no topic {topic!r}; it has {', '.join(events.manifest.topics) or 'none'}")
    found = table(
        events,
        f"""select event_id, event_type, topic, partition_id, incarnation, record_offset, record_key, happened_at, recorded_at, order_at,
            epoch_us(order_at) - epoch_us(happened_at) as late_us
        from {{rows}} where first and kind = 'event' and late_us >= $least and late_us > 0 and coalesce(topic = $topic, true) order by late_us desc, {ORDER}""",
        {"least": length // dt.timedelta(microseconds=1), "topic": topic},
    )
    return Late(
        found, length, topic, clock, suspects=sum(len(state.suspects) for state in events.manifest.lives if topic in (None, state.topic))
    )


class Late(Again):
    """Events that arrived after their time, the latest first: a cut by time leaves out what `clock="happened"` counts."""

    def __init__(self, rows: pa.Table, least: dt.timedelta, topic: str | None, clock: Clock, *, suspects: int) -> None:
        self._rows, self._least, self._topic, self._clock, self._suspects = rows, least, topic, clock, suspects

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def arrow(self) -> pa.Table:
        """event_id, event_type, where it stands, record_key, happened_at, recorded_at, order_at, late_us."""
        zoned = pa.timestamp("us", tz=str(self._clock.zone))
        return self._rows.cast(pa.schema([one.with_type(zoned) if pa.types.is_timestamp(one.type) else one for one in self._rows.schema]))

    def df(self) -> pd.DataFrame:
        """One row per event: event_id, event_type, at, key, happened_at, recorded_at, order_at, and `late`, a timedelta."""
        zone = self._clock.zone
        rows = self._rows.to_pylist()
        frame = pd.DataFrame(
            {
                "event_id": [row["event_id"] for row in rows],
                "event_type": [row["event_type"] for row in rows],
                "at": [_at(row) for row in rows],
                "key": [row["record_key"] for row in rows],
                "late": pd.to_timedelta([row["late_us"] for row in rows], unit="us"),
            }
        )
        for place, name in enumerate(("happened_at", "recorded_at", "order_at"), 4):
            frame.insert(place, name, pd.to_datetime([row[name] for row in rows], utc=True).tz_convert(zone))
        return frame

    def __repr__(self) -> str:
        where = f" in {self._topic}" if self._topic is not None else ""
        if not len(self):
            return tables.visible(f"<Late: no event{where} arrived {_length(self._least)} or more after its time>")
        most = dt.timedelta(microseconds=self._rows["late_us"][0].as_py())
        topics = ", ".join(f"{one['values']} {one['counts']:,}" for one in pc.value_counts(self._rows["topic"]).to_pylist())
        suspect = f"; {many(self._suspects, 'suspect clock')} may make events look late: see the lab" if self._suspects else ""
        return tables.visible(
            f"<Late: {many(len(self), 'event')}{where} arrived {_length(self._least)} or more after {'its' if len(self) == 1 else 'their'} time, by up to {_length(most)} ({topics}){suspect}>"
        )

    def _repr_html_(self) -> str:
        rows = [
            [
                row["event_id"],
                row["event_type"],
                _at(row),
                self._clock.show(row["happened_at"]),
                self._clock.show(row["order_at"]),
                _length(dt.timedelta(microseconds=row["late_us"])),
            ]
            for row in self._rows.slice(0, SHOWN).to_pylist()
        ]
        more = f"; the first {SHOWN}" if len(self) > SHOWN else ""
        caption = repr(self).strip("<>") + more
        columns = ["event", "type", "at", "happened", "in the order at", "late by"]
        return tables.html(columns, rows, caption=caption, empty="none") + tables.shell(self.again)


def _at(row: dict[str, object]) -> str:
    life = f"~{row['incarnation']}" if row["incarnation"] else ""
    return f"{row['topic']}/{row['partition_id']}{life}/{row['record_offset']}"


def _length(length: dt.timedelta) -> str:
    """A length of time for people: its two largest units."""
    millis = length // dt.timedelta(milliseconds=1)
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)):
        count, millis = divmod(millis, size)
        if count:
            parts.append(f"{count:,} {unit}")
    return " ".join(parts[:2]) or "0 s"
