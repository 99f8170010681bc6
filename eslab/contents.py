"""What a lab holds, told: topics, gaps, suspect clocks, and what a snapshot brought."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from eslab.cuts import Clock
from eslab.events import Manifest, Suspect, TopicCounts
from eslab.model import Life
from eslab.sources import CONSUMER_OFFSETS, Hole
from eslab.views import tables
from eslab.wording import many

__all__ = ["Gaps", "Info", "Snapshot", "span", "told_of"]


def span(manifest: Manifest) -> tuple[dt.datetime, dt.datetime] | None:
    """The first and last moment of all captured records, by order_at."""
    firsts = [counts.first_us for counts in manifest.topics.values() if counts.first_us is not None]
    lasts = [counts.last_us for counts in manifest.topics.values() if counts.last_us is not None]
    return (_utc(min(firsts)), _utc(max(lasts))) if firsts and lasts else None


def _utc(micros: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=micros)


def _minutes(ms: int) -> str:
    return f"{ms / 60_000:,.0f}" if ms >= 6_000_000 else f"{ms / 60_000:.3g}"


def told_of(life: Life, suspect: Suspect) -> str:
    """A clock that ran ahead, and the line that mends it."""
    topic, partition, _ = life
    whom = ", ".join(
        f"{name} {value}" for name, value in (("source", suspect.source), ("producer", suspect.producer_id)) if value is not None
    )
    by = (
        f"source={suspect.source!r}, "
        if suspect.source is not None
        else f"producer_id={suspect.producer_id}, "
        if suspect.producer_id is not None
        else ""
    )
    where = f"offset {suspect.start}" if suspect.next - suspect.start == 1 else f"offsets {suspect.start}–{suspect.next - 1}"
    return (
        f"{topic}[{partition}]: a clock ran up to {_minutes(suspect.ahead_ms)} min ahead at {where}{f' ({whom})' if whom else ''}; "
        f"{many(suspect.shadowed, 'record')} {'stands' if suspect.shadowed == 1 else 'stand'} in its shadow. To mend it: lab.distrust({by}topic={topic!r}, partition={partition}, offsets=({suspect.start}, {suspect.next}))"
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot brought."""

    url: str
    captured: int
    counts: dict[str, int]
    before: dict[str, int]

    def __repr__(self) -> str:
        fresh = {name: count - self.before[name] for name, count in self.counts.items()}
        notes = [
            many(fresh["tombstones"], "tombstone") if name == "tombstones" else f"{fresh[name]:,} {word}"
            for name, word in (("undecodable", "undecodable"), ("unassigned", "without an aggregate's id"), ("tombstones", ""))
            if fresh[name] > 0
        ]
        return f"<Snapshot of {self.url}: {many(self.captured, 'record')} captured{', of them ' + ', '.join(notes) if notes else ''}; {self.counts['records']:,} in the lab>"

    def _repr_html_(self) -> str:
        return f"<p>{tables.escape(repr(self).strip('<>'))}</p>"


@dataclass(frozen=True, slots=True)
class Info:
    """What a lab holds: topics, records, events, time range, gaps, sizes, suspect clocks."""

    path: Path
    manifest: Manifest
    gaps: int
    bytes: int
    clock: Clock
    again: str = ""
    """The line of shell that shows it again."""

    def df(self) -> pd.DataFrame:
        """One row per topic."""
        rows = [
            {
                "topic": topic,
                "partitions": len({state.partition for state in self.manifest.lives if state.topic == topic}),
                **{name: getattr(counts, name) for name in ("records", "events", "tombstones", "undecodable", "unassigned")},
                "first": self._moment(counts.first_us),
                "last": self._moment(counts.last_us),
            }
            for topic, counts in self.manifest.topics.items()
        ]
        return pd.DataFrame(
            rows, columns=["topic", "partitions", "records", "events", "tombstones", "undecodable", "unassigned", "first", "last"]
        )

    @property
    def notices(self) -> list[str]:
        """What deserves a word: suspect clocks."""
        return [told_of(state.life, suspect) for state in self.manifest.lives for suspect in state.suspects]

    def arrow(self) -> pa.Table:
        """What `df` has, in Arrow."""
        return pa.Table.from_pandas(self.df(), preserve_index=False)

    def __repr__(self) -> str:
        if not self.manifest.topics:
            return f'<Lab {self.path}: empty; fill it with lab.snapshot("kafka://host:port", ["topic"])>'
        total = {
            name: sum(getattr(counts, name) for counts in self.manifest.topics.values())
            for name in ("records", "events", "undecodable", "unassigned")
        }
        covered = span(self.manifest)
        times = f"{self.clock.show(covered[0])} to {self.clock.show(covered[1])}" if covered else "no times"
        head = f"<Lab {self.path.resolve()}: {many(total['records'], 'record')}, {many(total['events'], 'event')}, {many(len(self.manifest.topics), 'topic')}, {times}, {many(self.gaps, 'gap')}, {tables.size(self.bytes)}>"
        lines = [f"  {topic}: {_told(topic, counts)}" for topic, counts in self.manifest.topics.items()]
        aggregates = ", ".join(self.manifest.aggregates) or "none (name one in lab.toml)"
        return "\n".join([head, *lines, f"  aggregates: {aggregates}", *(f"  suspect clock: {notice}" for notice in self.notices)])

    def _repr_html_(self) -> str:
        frame = self.df()
        frame["first"], frame["last"] = ([self.clock.show(moment) for moment in frame[name]] for name in ("first", "last"))
        head, *_ = repr(self).splitlines()
        notices = tables.paragraphs([f"aggregates: {', '.join(self.manifest.aggregates) or 'none'}", *self.notices])
        shown = tables.html(list(frame.columns), frame.itertuples(index=False), caption=head.strip("<>"), empty="empty")
        return shown + notices + tables.shell(self.again)

    def _moment(self, micros: int | None) -> dt.datetime | None:
        return None if micros is None else _utc(micros).astimezone(self.clock.tz or dt.UTC)


def _told(topic: str, counts: TopicCounts) -> str:
    if topic == CONSUMER_OFFSETS:
        odd = f", {counts.malformed:,} malformed" if counts.malformed else ""
        return f"{many(counts.records, 'record')}, {many(counts.commits, 'commit')} of consumer groups{odd}"
    return f"{many(counts.records, 'record')}, {many(counts.events, 'event')}" + (
        f", {counts.undecodable:,} undecodable" if counts.undecodable else ""
    )


class Gaps:
    """Ranges of offsets without records, and why."""

    def __init__(self, holes: Sequence[tuple[Life, Hole]]) -> None:
        self._holes = holes

    def __len__(self) -> int:
        return len(self._holes)

    def df(self) -> pd.DataFrame:
        """One row per gap: topic, partition, incarnation, start, next (exclusive), offsets, cause."""
        rows = [(*life, hole.start, hole.next, hole.next - hole.start, hole.cause) for life, hole in self._holes]
        return pd.DataFrame(rows, columns=["topic", "partition", "incarnation", "start", "next", "offsets", "cause"])

    def arrow(self) -> pa.Table:
        """What `df` has, in Arrow."""
        return pa.Table.from_pandas(self.df(), preserve_index=False)

    def __repr__(self) -> str:
        causes = self.df().groupby("cause")["offsets"].agg(["count", "sum"])
        said = ", ".join(f"{row['count']:,} by {cause} ({many(int(row['sum']), 'offset')})" for cause, row in causes.iterrows())
        return f"<Gaps: {said or 'none'}>"

    def _repr_html_(self) -> str:
        frame = self.df()
        return tables.html(
            list(frame.columns), frame.head(50).itertuples(index=False), caption=repr(self).strip("<>"), empty="every offset has its record"
        )
