"""How much was produced when: records and bytes by topic, from what is captured."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eslab import buckets
from eslab.buckets import micros
from eslab.cuts import Clock
from eslab.errors import MomentError, UnknownTopic
from eslab.events import Events
from eslab.mapping import Distrust
from eslab.segments import LOSSY, Log
from eslab.sql import literal, rows, views
from eslab.views import tables
from eslab.wording import Length, many, read_length

if TYPE_CHECKING:
    from eslab.views.charts import Drawn

__all__ = ["Throughput", "open_throughput"]

POINTS: Final = 2_000  # what a chart draws, and what the default width aims at
DRAWN: Final = 9  # topics with a line of their own; the others share one
SHOWN: Final = 20  # rows of a view
REST: Final = "other topics"
INTERNAL: Final = "__"  # how the names of Kafka's own topics begin


@dataclass(frozen=True)
class Throughput:
    """Records and bytes per bucket and topic. A bucket without records is 0: it counts what is captured, and `notes` say what is not."""

    table: pa.Table
    """time (when the bucket begins), topic, records, bytes: one row per bucket and topic, by both."""
    topics: tuple[str, ...]
    every: Length
    clock: Clock
    notes: tuple[str, ...] = ()
    again: str = ""
    """The line of shell that shows it again."""

    def df(self) -> pd.DataFrame:
        """One row per bucket and topic: time (when the bucket begins), topic, records, bytes (of keys and values)."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    def arrow(self) -> pa.Table:
        """The same, as Arrow."""
        return self.table

    def chart(self) -> Drawn:
        """Records and bytes over time, a line per topic: an Altair chart that needs no network."""
        from eslab.views import charts  # noqa: PLC0415  Altair is loaded when a chart is drawn

        busiest = self._busiest()
        kept = [self.topics[at] for at in busiest[: DRAWN if len(busiest) > DRAWN + 1 else None]]
        rest = len(kept) < len(busiest)
        points = buckets.thin(
            self._with_rest(kept) if rest else self.table, "topic", highs=["records", "bytes"], lows=["records", "bytes"], most=POINTS
        )
        drawn: Drawn = charts.throughput(
            points, topics=[*kept, REST] if rest else kept, every=self.every.words, zone=self.clock.zone, notes=self.notes
        )
        return drawn

    def _matrix(self, column: str) -> np.ndarray:
        """The column as a row per bucket and a column per topic."""
        values: np.ndarray = self.table[column].to_numpy().reshape(-1, max(len(self.topics), 1))
        return values

    def _busiest(self) -> list[int]:
        return np.argsort(-self._matrix("records").sum(axis=0), kind="stable").tolist() if self.topics else []

    def _with_rest(self, kept: Sequence[str]) -> pa.Table:
        """The topics that are kept, and all others together under one name."""
        named = pc.if_else(pc.is_in(self.table["topic"], pa.array(kept)), self.table["topic"], REST)
        table = self.table.set_column(1, "topic", named).group_by(["time", "topic"]).aggregate([("records", "sum"), ("bytes", "sum")])
        return table.rename_columns(["time", "topic", "records", "bytes"])

    def _time(self, bucket: int) -> dt.datetime:
        moment: dt.datetime = self.table["time"][bucket * len(self.topics)].as_py()
        return moment

    def _said(self) -> str:
        if not self.table.num_rows:
            return "Throughput: no records"
        records = self._matrix("records").sum(axis=1)
        top, last = int(records.argmax()), len(records) - 1
        return (
            f"Throughput: {many(int(records.sum()), 'record')}, {tables.size(self._matrix('bytes').sum())} in {many(len(self.topics), 'topic')}, per {self.every.words} "
            f"from {self.clock.show(self._time(0))} to {self.clock.show(self._time(last))}; most {records[top]:,} at {self.clock.show(self._time(top))}"
        )

    def __repr__(self) -> str:
        return "\n".join([f"<{self._said()}>", *(f"  {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        records, size = self._matrix("records"), self._matrix("bytes").sum(axis=0)
        busiest = self._busiest() if len(records) else []
        shown = []
        for at in busiest[:SHOWN]:
            top = int(records[:, at].argmax())
            total = int(records[:, at].sum())
            shown.append([self.topics[at], total, tables.size(size[at]), int(records[top, at]), self.clock.show(self._time(top))])
        columns = ["topic", "records", "bytes", f"most per {self.every.words}", "at"]
        more = f"<p>and {len(busiest) - SHOWN} more topics: .df() has them all</p>" if len(busiest) > SHOWN else ""
        return (
            tables.html(columns, shown, caption=self._said(), empty="no records")
            + more
            + tables.paragraphs(self.notes)
            + tables.shell(self.again)
        )


def open_throughput(
    events: Events,
    log: Log,
    distrust: Sequence[Distrust],
    topics: Sequence[str] | None,
    *,
    every: str | float | dt.timedelta | None,
    start: dt.datetime | None,
    stop: dt.datetime | None,
    clock: Clock,
) -> Throughput:
    """Count the captured records of these topics (None: of all but internal ones), in every incarnation, by bucket of time.

    A record counts at its own timestamp; one without a usable timestamp or with a distrusted clock, at its order_at. Reads keys and values of all these records.
    Raises `UnknownTopic`, and `MomentError` for a width that is none or too small.
    """
    width = None if every is None else read_length(every, name="every")
    lives = log.lives()
    held = sorted({topic for topic, _, _ in lives})
    if unknown := [topic for topic in topics or () if topic not in held]:
        raise UnknownTopic(f"the lab has no topic {', '.join(unknown)}; it has {', '.join(held) or 'none: fill it with lab.snapshot(...)'}")
    if start is not None and stop is not None and stop <= start:
        raise MomentError(f"stop= ({clock.show(stop)}) must lie after start= ({clock.show(start)})")
    chosen = sorted(set(topics)) if topics is not None else [topic for topic in held if not topic.startswith(INTERNAL)]
    placed = _placed(events, distrust, chosen)
    with views(events, log, placed) as con:
        con.execute("set python_enable_replacements = false")
        within = {"low": micros(start) if start else None, "high": micros(stop) if stop else None}
        ((first, last),) = con.execute(
            f"select min(us), max(us) from ({placed}) where ($low is null or us >= $low) and ($high is null or us < $high)", within
        ).fetchall()
        low, high = micros(start) if start else first, micros(stop) - 1 if stop else last
        notes = _notes(events, log, chosen)
        if low is None or high is None or not chosen:
            return Throughput(_schema(clock).empty_table(), tuple(chosen), width or buckets.choose(0, POINTS), clock, notes)
        width = width or buckets.choose(high - low, POINTS // len(chosen))
        bounds = buckets.edges(low, high, width, clock.zone)
        con.register("bounds", pa.table({"bucket": np.arange(len(bounds) - 1), "edge": bounds[:-1]}))
        counted = con.sql(
            f"""select topic, bucket, count(*) as records, sum(bytes)::bigint as bytes
            from ({placed}) as placed asof join bounds on placed.us >= bounds.edge where us between $low and $high group by all""",
            params={"low": low, "high": high},
        ).to_arrow_table()
    return Throughput(_filled(counted, chosen, bounds[:-1], clock), tuple(chosen), width, clock, notes)


def _placed(events: Events, distrust: Sequence[Distrust], topics: Sequence[str]) -> str:
    """Every record as (topic, us, bytes); `us` in microseconds."""
    odd = " or ".join(["e.recorded_at is null", *map(_rule, distrust)])
    named = ", ".join(map(literal, topics)) or "null"
    place = "topic, partition_id, incarnation, record_offset"
    producers = f" join records as r using ({place})" if any(one.producer_id is not None for one in distrust) else ""
    return f"""with odd as (
            select e.topic, e.partition_id, e.incarnation, e.record_offset, e.order_at from {rows(events, newest=False)} as e{producers} where e.first and ({odd})
        ) select records.topic, epoch_us(coalesce(odd.order_at, records.recorded_at)) as us,
            coalesce(octet_length(records.key), 0) + coalesce(octet_length(records.value), 0) as bytes
        from records left join odd using ({place}) where records.topic in ({named})"""


def _rule(one: Distrust) -> str:
    """The records that a rule distrusts, as SQL over `e` (the event) and `r` (the record)."""
    parts = []
    if one.source is not None:
        parts.append(f"e.source = {literal(one.source)}")
    if one.producer_id is not None:
        parts.append(f"r.producer_id = {one.producer_id:d}")
    if one.topic is not None:
        parts.append(f"e.topic = {literal(one.topic)}")
    if one.partition is not None:
        parts.append(f"e.partition_id = {one.partition:d}")
    if one.offsets is not None:
        parts.append(f"e.record_offset >= {one.offsets[0]:d} and e.record_offset < {one.offsets[1]:d}")
    return f"({' and '.join(parts)})"


def _schema(clock: Clock) -> pa.Schema:
    return pa.schema(
        [
            pa.field("time", pa.timestamp("us", tz=str(clock.zone)), nullable=False),
            pa.field("topic", pa.string(), nullable=False),
            pa.field("records", pa.int64(), nullable=False),
            pa.field("bytes", pa.int64(), nullable=False),
        ]
    )


def _filled(counted: pa.Table, topics: Sequence[str], begins: np.ndarray, clock: Clock) -> pa.Table:
    """One row per bucket and topic, by time, 0 where nothing was counted."""
    at = counted["bucket"].to_numpy() * len(topics) + np.searchsorted(topics, counted["topic"].to_numpy(zero_copy_only=False))
    columns: dict[str, Any] = {
        "time": pa.array(np.repeat(begins, len(topics))).cast(pa.timestamp("us", tz=str(clock.zone))),
        "topic": pa.array(list(topics) * len(begins)),
    }
    for name in ("records", "bytes"):
        values = np.zeros(len(begins) * len(topics), dtype=np.int64)
        values[at] = counted[name].to_numpy()
        columns[name] = pa.array(values)
    return pa.table(columns, schema=_schema(clock))


def _notes(events: Events, log: Log, topics: Sequence[str]) -> tuple[str, ...]:
    """What is not counted, and whose clock is not to be believed."""
    lost: dict[tuple[str, str], int] = {}
    for (topic, _, _), hole in log.holes():
        if topic in topics and hole.cause in LOSSY:
            lost[topic, hole.cause] = lost.get((topic, hole.cause), 0) + hole.next - hole.start
    suspects = {state.topic for state in events.manifest.lives if state.suspects and state.topic in topics}
    return (
        *(f"{topic}: {many(offsets, 'offset')} not captured ({cause})" for (topic, cause), offsets in sorted(lost.items())),
        *(f"{topic}: a clock ran ahead; lab.info() says which, and how to mend it" for topic in sorted(suspects)),
    )
