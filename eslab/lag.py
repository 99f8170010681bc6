"""How far a consumer group was behind, at any past moment: from its positions and from what is captured."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eslab import buckets, consumption
from eslab.again import NOWHERE, Option, Shell
from eslab.buckets import micros, moment
from eslab.consumption import NONE, Part
from eslab.cuts import Clock
from eslab.errors import MomentError, UnknownTopic
from eslab.events import Events
from eslab.lag_tables import frame, summed, table
from eslab.positions import of_group
from eslab.segments import Log
from eslab.stalls import Stalls
from eslab.standings import parts_of
from eslab.views import tables
from eslab.wording import Length, many, read_length, some

if TYPE_CHECKING:
    from eslab.views.charts import Drawn

__all__ = ["Lag", "Standing", "groups", "open_lag"]

POINTS: Final = 2_000  # of a whole chart
SUMS, PARTS, RANGES = (
    640,
    1_300,
    60,
)  # of them: of all partitions together, of single ones, and shaded ranges; each panel draws the same rows
DRAWN: Final = 8  # partitions with a line of their own: those that were furthest behind
WORTH: Final = 0.05  # of the highest: below it a line would only lie on the axis
SHOWN: Final = 20  # rows of a view


@dataclass(frozen=True)
class Standing:
    """Where a group stood at one moment: a row per partition. `lag` is the sum of what is known, and `unknown` names the rest."""

    group: str
    time: dt.datetime
    table: pa.Table
    clock: Clock
    again: str = ""
    """The line of shell that shows it again."""

    @property
    def lag(self) -> int | None:
        """Offsets behind, over all partitions of which it is known; None if it is of none."""
        return _sum(self.table["lag"])

    @property
    def lag_s(self) -> float | None:
        """How long ago the oldest record came that was not consumed, in seconds; None if it is not known of any partition."""
        found: float | None = pc.max(self.table["lag_s"]).as_py()
        return found

    @property
    def unknown(self) -> list[str]:
        """The partitions whose lag is not known, and why."""
        return [
            f"{row['topic']}[{row['partition']}]: {row['why']}" for row in self.table.filter(pc.invert(self.table["known"])).to_pylist()
        ]

    def df(self) -> pd.DataFrame:
        """One row per partition: topic, partition, committed, end, lag, records, lag_s, known, why."""
        return frame(self.arrow())

    def arrow(self) -> pa.Table:
        """The same, as Arrow."""
        return self.table.drop_columns(["time"])

    def _said(self) -> str:
        behind = "lag unknown" if self.lag is None else f"{many(self.lag, 'offset')} and {tables.duration(self.lag_s)} behind"
        part = (
            f", not counting {len(self.unknown)} of {many(self.table.num_rows, 'partition')}, of which it is not known"
            if self.unknown and self.lag is not None
            else ""
        )
        return f"{self.group} at {self.clock.show(self.time)}: {behind}{part}"

    def __repr__(self) -> str:
        return "\n".join([f"<{self._said()}>", *(f"  unknown: {one}" for one in some(self.unknown))])

    def _repr_html_(self) -> str:
        columns = ["topic", "partition", "committed", "end", "lag", "records", "lag in time", ""]
        rows = (
            [
                row["topic"],
                row["partition"],
                *(_or_dash(row[name]) for name in ("committed", "end", "lag", "records")),
                tables.duration(row["lag_s"]),
                row["why"],
            ]
            for row in self.table.to_pylist()
        )
        return tables.html(columns, rows, caption=self._said(), empty="no partitions") + tables.shell(self.again)


@dataclass(frozen=True)
class Lag:
    """How far a group was behind, from `start` to `stop`: `.at("14:30")`, `.stalls()`, `.chart()`, `.df()`, `.sum()`.

    Offset lag = max(log end - max(committed, log start), 0); time lag = how long ago the first record came that was not consumed, 0 if there was none. The log's times are
    the lab's (order_at). What is not known is null, never 0.
    """

    group: str
    parts: tuple[Part, ...]
    start: dt.datetime
    stop: dt.datetime
    every: Length
    clock: Clock
    notes: tuple[str, ...] = ()
    shell: Shell = NOWHERE
    asked: Mapping[str, Option] = field(default_factory=dict)
    """What was asked for, in the words of the shell: every, start, stop."""

    @property
    def again(self) -> str:
        """The line of shell that shows it again."""
        return self.shell.line("lag", **self.asked)

    # --- tables

    def at(self, at: str | dt.datetime) -> Standing:
        """Where the group stood at a moment, whether or not it lies between start and stop."""
        when = self.clock.read(at)
        times = [np.array([micros(when)])] * len(self.parts)
        line = self.shell.line("lag", at=self.clock.word(when))
        return Standing(self.group, when, table(self.parts, times, self.clock.zone), self.clock, line)

    def df(self) -> pd.DataFrame:
        """One row per moment and partition: time, topic, partition, committed, end, lag, records, lag_s, known, why.

        `lag` is in offsets, `records` the captured records among them (gaps inflate the other), `lag_s` in seconds; `why` says why the lag is not known.
        """
        return frame(self.arrow())

    def arrow(self) -> pa.Table:
        """The same, as Arrow."""
        return table(self.parts, [self._grid] * len(self.parts), self.clock.zone)

    def sum(self) -> pd.DataFrame:
        """One row per moment: time, produced, consumed, lag (sums over the partitions of which it is known), lag_s (the longest), unknown (how many it leaves out)."""
        return frame(self.sums())

    def sums(self) -> pa.Table:
        """The same, as Arrow."""
        return summed(self.parts, self._grid, self.clock.zone)

    def peaks(self) -> pa.Table:
        """One row per partition: topic, partition, lag and lag_s at the end, highest and highest_at, longest_s and longest_at; null where it is not known."""
        time = pa.timestamp("us", tz=str(self.clock.zone))
        schema = pa.schema(
            [
                ("topic", pa.string()),
                ("partition", pa.int32()),
                ("lag", pa.int64()),
                ("lag_s", pa.float64()),
                ("highest", pa.int64()),
                ("highest_at", time),
                ("longest_s", pa.float64()),
                ("longest_at", time),
            ]
        )
        return pa.table([list(column) for column in zip(*self._peaks, strict=True)], schema=schema) if self._peaks else schema.empty_table()

    @cached_property
    def _grid(self) -> np.ndarray:
        low, high = micros(self.start), micros(self.stop)
        inner = buckets.edges(low, high, self.every, self.clock.zone)
        return np.unique(np.concatenate([[low, high], inner[(inner > low) & (inner < high)]]))

    @cached_property
    def _moments(self) -> list[np.ndarray]:
        """For each partition the moments at which it can be furthest behind."""
        low, high = micros(self.start), micros(self.stop)
        return [consumption.moments(part, low, high) for part in self.parts]

    @cached_property
    def _peaks(self) -> list[tuple[Any, ...]]:
        """The rows of `peaks`."""
        out = []
        for part, at in zip(self.parts, self._moments, strict=True):
            when = np.unique(np.append(at, self._grid))
            values = consumption.evaluate(part, when)
            peaks: list[Any] = []
            for column in (values.lag, values.lag_us):
                top = int(np.argmax(column))
                known = column[top] != NONE
                peaks += [column[top].item(), moment(int(when[top])).astimezone(self.clock.zone)] if known else [None, None]
            highest, highest_at, longest, longest_at = peaks
            last = (_known(values.lag[-1]), _seconds(values.lag_us[-1]))
            out.append((part.topic, part.partition, *last, highest, highest_at, None if longest is None else longest / 1e6, longest_at))
        return out

    @cached_property
    def _totals(self) -> pa.Table:
        """The sums at every moment at which a partition can be furthest behind."""
        return summed(self.parts, np.unique(np.concatenate([self._grid, *self._moments])), self.clock.zone)

    # --- answers

    def stalls(self, *, min_duration: str | float | dt.timedelta = "5m", min_lag: int = 1) -> Stalls:
        """When the group stood still on a partition for so long while its log went on: since when, until when, how far behind.

        A stall begins when something waits that is not consumed, and is over when nothing has waited for longer than a minute (or since the sample before).
        """
        if isinstance(min_lag, bool) or not isinstance(min_lag, int) or min_lag < 1:
            raise MomentError(f"min_lag={min_lag!r} is no number of offsets; write a whole number from 1 on")
        width = read_length(min_duration, name="min_duration")
        low, high = micros(self.start), micros(self.stop)
        found = [stall for part in self.parts for stall in consumption.stalls(part, low, high, at_least_us=width.us, min_lag=min_lag)]
        looked_at = f"of {width.words} or longer from {self.clock.show(self.start)} to {self.clock.show(self.stop)}"
        shown = (min_duration, min_lag) == ("5m", 1)  # what the shell shows
        line = self.shell.line("lag", **{**self.asked, "every": None}) if shown else ""
        return Stalls(self.group, tuple(sorted(found, key=lambda one: (one.since, one.topic, one.partition))), self.clock, looked_at, line)

    def chart(self) -> Drawn:
        """Produced against consumed, lag in offsets and lag in seconds: an Altair chart that needs no network. A peak of one moment keeps its height."""
        from eslab.views import charts  # noqa: PLC0415  Altair is loaded when a chart is drawn

        chosen = self._furthest()
        parts = [self.parts[one] for one in chosen]
        fine = table(parts, [np.unique(np.append(self._moments[one], self._grid)) for one in chosen], self.clock.zone)
        names = pa.array(
            [f"{topic}[{partition}]" for topic, partition in zip(fine["topic"].to_pylist(), fine["partition"].to_pylist(), strict=True)],
            pa.string(),
        )
        fine = (
            fine.append_column("partition_name", names)
            .select(["time", "partition_name", "lag", "lag_s"])
            .rename_columns(["time", "partition", "lag", "lag_s"])
        )
        notes = [*self.notes]
        if len(chosen) < len(self.parts) and chosen:
            notes.append(
                f"of {len(self.parts)} partitions a line for each of the {len(chosen)} that were furthest behind; the bold line has all"
            )
        everything = self._totals.append_column("partition", pa.array(["all partitions"] * self._totals.num_rows))
        highest = {name: pc.max(self._totals[name]).as_py() or 0 for name in ("lag", "lag_s")}
        drawn: Drawn = charts.lag(
            buckets.thin(fine, "partition", highs=["lag", "lag_s"], most=PARTS, heights=highest),
            buckets.thin(everything, "partition", highs=["lag", "lag_s"], most=SUMS),
            self._unknown_ranges(),
            group=self.group,
            partitions=[part.name for part in parts],
            zone=self.clock.zone,
            notes=notes,
        )
        return drawn

    def _furthest(self) -> list[int]:
        """The partitions that get a line of their own, in their order; none where there is only one."""
        if len(self.parts) == 1:
            return []
        heights = [(row[4] or 0, row[6] or 0) for row in self._peaks]
        most = [max(column) * WORTH for column in zip(*heights, strict=True)]
        worth = [
            one for one, height in enumerate(heights) if any(value and value >= least for value, least in zip(height, most, strict=True))
        ]
        return sorted(sorted(worth, key=lambda one: (*(-value for value in heights[one]), one))[:DRAWN])

    def _unknown_ranges(self) -> list[tuple[dt.datetime, dt.datetime, str]]:
        """Where the lag of some partitions is not known, and of which: the longest ranges first."""
        unknown, times = self._totals["unknown"].to_numpy(), self._totals["time"]
        bounds = [*np.flatnonzero(np.diff(unknown, prepend=-1)).tolist(), len(unknown) - 1]
        found = [
            (times[low].as_py(), times[high].as_py(), int(unknown[low])) for low, high in pairwise(bounds) if unknown[low] and high > low
        ]
        longest = sorted(found, key=lambda one: one[0] - one[1])[:RANGES]
        return [(low, high, self.at(low).unknown[0] + (f" and {count - 1} more" if count > 1 else "")) for low, high, count in longest]

    # --- faces

    @property
    def known_since(self) -> dt.datetime | None:
        """The first moment at which the lag of any partition is known."""
        firsts = [int(part.seen_at[known[0]]) for part in self.parts if len(known := np.flatnonzero(part.committed != NONE))]
        return max(moment(min(firsts)).astimezone(self.clock.zone), self.start) if firsts else None

    def _said(self) -> str:
        topics = len({part.topic for part in self.parts})
        where = f"{many(len(self.parts), 'partition')} of {many(topics, 'topic')}"
        if self.known_since is None:
            return f"Lag of {self.group}: {where}; it has committed nothing"
        last = self.at(self.stop)
        now = "unknown" if last.lag is None else f"{many(last.lag, 'offset')}, {tables.duration(last.lag_s)}"
        highest = self._totals.sort_by([("lag", "descending"), ("time", "ascending")]).slice(0, 1).to_pylist()[0]
        longest = self._totals.sort_by([("lag_s", "descending"), ("time", "ascending")]).slice(0, 1).to_pylist()[0]
        peaks = f"; highest {many(highest['lag'], 'offset')} at {self.clock.show(highest['time'])}" if highest["lag"] is not None else ""
        peaks += (
            f", longest {tables.duration(longest['lag_s'])} at {self.clock.show(longest['time'])}" if longest["lag_s"] is not None else ""
        )
        return f"Lag of {self.group}: {where}, known since {self.clock.show(self.known_since)}{peaks}; at the end, {self.clock.show(self.stop)}: {now}"

    def __repr__(self) -> str:
        never = [f"{part.name}: it has committed nothing" for part in self.parts if not (part.committed != NONE).any()]
        return "\n".join([f"<{self._said()}>", *(f"  {one}" for one in (*self.notes, *some(never)))])

    def _repr_html_(self) -> str:
        columns = ["partition", "lag at the end (offsets)", "highest (offsets)", "at", "longest", "at"]
        order = sorted(self._peaks, key=lambda row: -(row[4] or 0))
        rows = (
            [
                f"{topic}[{partition}]",
                _or_dash(last),
                _or_dash(highest),
                self.clock.show(highest_at),
                tables.duration(longest),
                self.clock.show(longest_at),
            ]
            for topic, partition, last, _, highest, highest_at, longest, longest_at in order[:SHOWN]
        )
        more = f"<p>and {len(order) - SHOWN} more partitions: .df() has them all</p>" if len(order) > SHOWN else ""
        return (
            tables.html(columns, rows, caption=self._said(), empty="no partitions")
            + more
            + tables.paragraphs(self.notes)
            + tables.shell(self.again)
        )


def _sum(column: pa.ChunkedArray) -> int | None:
    found: int | None = pc.sum(column).as_py()
    return found


def _known(value: np.integer[Any]) -> int | None:
    return None if value == NONE else int(value)


def _seconds(us: np.integer[Any]) -> float | None:
    return None if us == NONE else int(us) / 1e6


def _or_dash(value: Any) -> Any:
    return "—" if value is None else value


def groups(samples: pa.Table, clock: Clock) -> pd.DataFrame:
    """The groups of which there are samples, a row each: group, topics, samples, first, last."""
    frame = samples.select(["group", "topic", "sampled_at"]).to_pandas()
    frame["sampled_at"] = frame["sampled_at"].dt.tz_convert(clock.zone)
    of_each = frame.groupby("group")
    topics = of_each["topic"].agg(lambda names: ", ".join(sorted(set(names))))
    times = of_each["sampled_at"].agg(["size", "min", "max"]).set_axis(["samples", "first", "last"], axis="columns")
    told: pd.DataFrame = topics.rename("topics").to_frame().join(times).reset_index()
    return told


def open_lag(
    events: Events,
    log: Log,
    samples: pa.Table,
    group: str,
    topics: Sequence[str] | None,
    *,
    start: dt.datetime | None,
    stop: dt.datetime | None,
    every: str | float | dt.timedelta | None,
    clock: Clock,
    shell: Shell = NOWHERE,
) -> Lag:
    """The lag of a group on these topics (None: all that it reads), by default from its first sample to the last thing that is known.

    Raises `UnknownGroup`, `UnknownTopic`, and `MomentError` for a range or a width that is none.
    """
    width = None if every is None else read_length(every, name="every")
    samples = of_group(samples, group)
    read = sorted(samples["topic"].unique().to_pylist())
    if unknown := [topic for topic in topics or () if topic not in read]:
        raise UnknownTopic(f"{group} has no positions on {', '.join(unknown)}; it has on {', '.join(read)}")
    if topics is not None and not topics:
        raise UnknownTopic(f"topics={topics!r} names none; {group} has positions on {', '.join(read)}")
    chosen = read if topics is None else sorted(set(topics))
    parts = parts_of(events, log, samples.filter(pc.is_in(samples["topic"], pa.array(chosen))), chosen)
    first, last = _span(parts)
    low = moment(first) if start is None else start
    high = max(moment(last), low) if stop is None else stop - dt.timedelta(microseconds=1)
    if high < low:
        raise MomentError(f"stop= ({clock.show(stop)}) must lie after start= ({clock.show(low)})")
    asked = {name: clock.word(moment) for name, moment in (("start", start), ("stop", stop)) if moment is not None}
    asked |= {} if width is None else {"every": str(width)}
    width = width or buckets.choose(micros(high) - micros(low), POINTS)
    zoned = low.astimezone(clock.zone), high.astimezone(clock.zone)
    return Lag(group, parts, *zoned, width, clock, _notes(events, parts, chosen), shell, asked)


def _span(parts: Sequence[Part]) -> tuple[int, int]:
    """The first sample, and the last sample or record."""
    seen = [part.seen_at for part in parts if len(part.seen_at)]
    came = [life.times for part in parts for life in part.lives if len(life.times)]
    return min(int(times[0]) for times in seen), max(int(times[-1]) for times in (*seen, *came))


def _notes(events: Events, parts: Sequence[Part], topics: Sequence[str]) -> tuple[str, ...]:
    missing = sorted({part.topic for part in parts if not part.lives})
    suspects = sorted({state.topic for state in events.manifest.lives if state.suspects and state.topic in topics})
    return (
        *(f"{topic} is not captured: its log end is known from samples alone, and time lags are not" for topic in missing),
        *(f"{topic}: a clock ran ahead; lab.info() says which, and how to mend it" for topic in suspects),
    )
