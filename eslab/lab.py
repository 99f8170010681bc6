"""The one object of a notebook: it delegates, it holds no logic."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import duckdb
import pandas as pd
from tqdm.auto import tqdm

from eslab import building, cuts, history, replay, sql, verify
from eslab.capture import CapturePlan, Offsets, capture, plan
from eslab.cuts import Clock
from eslab.errors import ConfigError, LabBusy, MomentError, NotALab
from eslab.events import Events, Manifest, Suspect, newest_manifest
from eslab.history import History
from eslab.mapping import Distrust, read_mapping, write_distrust
from eslab.model import EACH, Coordinates, Cut, Life, Selection
from eslab.projection import MergeProjection, Projection
from eslab.segments import Log, is_writing, writer_lock
from eslab.sources import Chunk, Hole, Source, TopicPartition
from eslab.sources.opening import open_source
from eslab.views import tables
from eslab.world import World

__all__ = ["Found", "Gaps", "Info", "Lab"]

Bound = int | str | dt.datetime | Mapping[Any, Any] | None
"""Where a snapshot starts or stops: an offset for every partition, a time, or offsets by topic and partition."""

REBUILD_S = 2.0  # of a follow: how old its events may be while records keep coming


class Lab:
    """A folder with captured topics, and every question that can be asked of them.

    A missing or empty folder is an empty lab, and nothing is written until something is captured; a folder that holds other things is
    refused (`NotALab`). `tz` is the zone in which times without one are read and all are shown. `trusted=False` keeps SQL on a stranger's lab
    from reading anything but its folder. `say` takes the one-line notices.
    """

    def __init__(self, path: str | Path, *, tz: str | None = None, trusted: bool = True, say: Callable[[str], None] = print) -> None:
        self.path = Path(path).expanduser().absolute()
        try:
            self.tz = ZoneInfo(tz) if tz is not None else None
        except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
            raise ConfigError(f'tz={tz!r} is no time zone; write it like "Europe/Berlin" or "UTC"') from exc
        if self.path.exists() and not is_lab(self.path) and (not self.path.is_dir() or any(self.path.iterdir())):
            raise NotALab(f"{self.path} holds something else than a lab; choose an empty folder, or one that eslab made")
        self._log = Log(self.path / "log")
        self._trusted, self._say = trusted, say
        self._seen: tuple[tuple[object, ...], Events] | None = None
        self._connection: tuple[int, duckdb.DuckDBPyConnection] | None = None
        self._keep: Any = None

    # --- capturing

    def snapshot(
        self,
        url: str | Path | Source,
        topics: str | Sequence[str] | None = None,
        *,
        start: Bound = None,
        stop: Bound = None,
        follow: bool = False,
        progress: bool = True,
        **settings: Any,
    ) -> Snapshot:
        """Capture what the topics hold and the lab does not yet: resumable, incremental, up to the last stable offset.

        `start` (inclusive) and `stop` (exclusive) are times, an offset for every partition, or {topic: {partition: offset}}; an earlier start than what is captured
        fills in. `follow` goes on until Ctrl-C. `settings` go to the source. Holds the lab's writer lock; raises `LabBusy`, `SourceError`, `DiskFull`; whatever
        ends it, what was committed stays and the next call goes on from there.
        """
        names = [topics] if isinstance(topics, str) else None if topics is None else list(topics)
        with open_source(url, **settings) as source, writer_lock(self.path):
            lower, upper = self._offsets(source, names, start), self._offsets(source, names, stop)

            def planned() -> CapturePlan:
                return plan(source, self._log, names, start=lower, stop=upper)

            first = planned()
            for notice in first.notices:
                self._say(notice)
            before = self._counts()
            with _Bar("capturing", first.offsets, shown=progress) as bar:
                again = self._following(planned, bar) if follow else None
                for _ in capture(source, self._log, first, again=again, on_chunk=bar.chunk):
                    pass
            self._build(progress=progress)
            return Snapshot(source.url, bar.records, self._counts(), before)

    def distrust(
        self,
        *,
        source: str | None = None,
        producer_id: int | None = None,
        topic: str | None = None,
        partition: int | None = None,
        offsets: tuple[int, int] | None = None,
    ) -> None:
        """Take the timestamps of these records for wrong: each stands at the time of its predecessor. Kept in lab.toml; the events are sorted anew."""
        rule = Distrust(source=source, producer_id=producer_id, topic=topic, partition=partition, offsets=offsets)
        with writer_lock(self.path):
            write_distrust(self.path, rule)
            self._build()

    def _offsets(self, source: Source, topics: list[str] | None, bound: Bound) -> Offsets | None:
        if bound is None or isinstance(bound, int):
            return bound
        if isinstance(bound, Mapping):
            return dict(_flat(bound))
        moment = Clock(self.tz, span(newest_manifest(self.path) or Manifest())).read(bound)
        millis = -(-int(moment.timestamp() * 1_000_000) // 1000)  # the first whole millisecond that is not before it
        return {(one.topic, one.partition): source.offset_at(one.topic, one.partition, millis) for one in source.partitions(topics)}

    def _following(self, planned: Callable[[], CapturePlan], bar: _Bar) -> Callable[[], CapturePlan]:
        built = time.monotonic()

        def again() -> CapturePlan:
            nonlocal built
            todo = planned()
            if not todo.parts or time.monotonic() - built > REBUILD_S:
                self._build()
                built = time.monotonic()
            bar.more(todo.offsets)
            return todo

        return again

    # --- the events as they are now

    def _build(self, *, progress: bool = False) -> None:
        """Bring events and lab.duckdb up to the log. The caller holds the writer's lock."""
        mapping, last = read_mapping(self.path), newest_manifest(self.path)
        if not building.outdated(last, self._log, mapping):
            if last is not None and not sql.is_current(Events(self.path, last)):
                sql.write_database(Events(self.path, last), self._log)
            return
        with _Bar("sorting events", shown=progress) as bar:
            manifest = building.update(self.path, self._log, mapping, say=self._say, on_records=bar.count)
        sql.write_database(Events(self.path, manifest), self._log)
        for state in manifest.lives:
            known = next((one.suspects for one in last.lives if one.life == state.life), []) if last else []
            for suspect in state.suspects:
                if suspect not in known:
                    self._say(told_of(state.life, suspect))

    def _now(self) -> Events:
        """The newest events. Builds them where the log has moved on and nobody is writing."""
        state = self._stamp()
        if self._seen is None or self._seen[0] != state:
            if building.outdated(newest_manifest(self.path), self._log, read_mapping(self.path)) and not is_writing(self.path):
                with contextlib.suppress(LabBusy), writer_lock(self.path):  # busy: a capture began in between, and builds them
                    self._build()
                state = self._stamp()
            manifest = newest_manifest(self.path) or Manifest()
            if self._seen is None or self._seen[1].manifest.number != manifest.number:
                self._seen = (state, Events(self.path, manifest))
            self._seen = (state, self._seen[1])
        return self._seen[1]

    def _stamp(self) -> tuple[object, ...]:
        """What changes when the log, lab.toml or the events do."""
        stats = []
        for name in ("lab.toml", "events"):
            try:
                told = (self.path / name).stat()
                stats.append((told.st_mtime_ns, told.st_size, told.st_ino))
            except FileNotFoundError:
                stats.append((0, 0, 0))
        return (*stats, self._log.paths())

    def _clock(self) -> Clock:
        return Clock(self.tz, span(self._now().manifest))

    def _counts(self) -> dict[str, int]:
        manifest = newest_manifest(self.path) or Manifest()
        names = ("records", "events", "tombstones", "undecodable", "unassigned")
        return {name: sum(getattr(counts, name) for counts in manifest.topics.values()) for name in names}

    # --- asking

    def cut(
        self,
        at: str | dt.datetime | None = None,
        *,
        event_id: str | Coordinates | tuple[str, int, int] | None = None,
        offsets: Mapping[str, Mapping[int, int]] | None = None,
    ) -> Cut:
        """The cut at a moment: a time (all that was recorded until then, inclusive), an event (all up to and with it in the lab's order), next offsets by topic and partition
        (exclusive), or all that is captured now.
        """
        events = self._now()
        if sum(one is not None for one in (at, event_id, offsets)) > 1:
            raise MomentError("name one moment: a time, event_id= or offsets=")
        if event_id is not None:
            return cuts.at_event(events, event_id)
        if offsets is not None:
            return cuts.at_offsets(events, offsets)
        if at is None:
            return events.cut
        clock = self._clock()
        moment = clock.read(at)
        return cuts.at_time(events, moment, f"recorded until {clock.show(moment)}")

    def moment(self, told: str | dt.datetime) -> dt.datetime:
        """The moment that a time names, made absolute: in the lab's zone (else in UTC), a bare `10:31` on the lab's day."""
        self._now()
        return self._clock().read(told).astimezone(self.tz or dt.UTC)

    def history(
        self,
        aggregate: str,
        aggregate_id: str,
        *,
        projection: Projection | None = None,
        at: str | dt.datetime | Cut | None = None,
        clock: str = "recorded",
    ) -> History:
        """The history of one aggregate until a moment (default: all of it), by a projection (default: merge the fields of `data`).

        `clock="happened"` takes `at` as the time in the payloads. Raises `UnknownId` if no event belongs to it.
        """
        events = self._now()
        selection = self._selection(events, at, clock)
        return history.open_history(events, aggregate, str(aggregate_id), projection or self._default(aggregate), selection, self._clock())

    def replay(
        self,
        projection: Projection | str,
        *,
        at: str | dt.datetime | Cut | None = None,
        keys: Sequence[str] | None = None,
        ended: bool = False,
        clock: str = "recorded",
        progress: bool = True,
    ) -> World:
        """Fold a projection (or, by an aggregate's name, the default one) over every aggregate until a moment; over `keys` alone if they are given.

        Keys that a tombstone ended are left out unless `ended`. A handler that raises fails its key: see `World.failed`.
        """
        events = self._now()
        chosen = self._default(projection) if isinstance(projection, str) else projection
        todo = replay.plan(events, chosen, self._selection(events, at, clock), keys=keys, ended=ended)
        with _Bar(f"replaying {chosen.name}", todo.rows if keys is None else None, unit="steps", shown=progress) as bar:
            return replay.run(todo, on_rows=bar.count)

    def sql(self, query: str, **parameters: Any) -> duckdb.DuckDBPyRelation:
        """Run SQL over `events`, `history`, `records`, `gaps`, `problems` and `types."<event type>"`; `$name` takes a parameter.

        Returns DuckDB's relation: `.df()`, `.to_arrow_table()`. A DataFrame of the caller joins by its name. Raises `QueryError`.
        """
        events = self._now()
        if self._connection is None or self._connection[0] != events.manifest.number:
            tz = self.tz.key if self.tz else None
            self._connection = (events.manifest.number, sql.connect(events, self._log, tz=tz, trusted=self._trusted))
        try:
            return self._connection[1].sql(query, params=parameters or None)
        except duckdb.Error as exc:
            raise sql.one_line(exc) from exc

    def find(self, anything: str) -> Found:
        """Where an id is known: as an aggregate's, an event's, a correlation, a causation, a trace, a record key."""
        return Found(str(anything), cuts.find_anything(self._now(), str(anything)), self._clock())

    def gaps(self) -> Gaps:
        """Every range of offsets that the log has no record for, and why."""
        return Gaps(list(self._log.holes()))

    def verify(self, *, progress: bool = True) -> verify.Verification:
        """Read the whole log and say whether it still is what was captured."""
        with _Bar("verifying", unit="files", shown=progress) as bar:
            return verify.verify(self.path, self._log, newest_manifest(self.path), on_file=lambda: bar.count(1))

    def export(self, path: str | Path) -> Path:
        """Write all relations as tables into one self-contained DuckDB file, replacing an older one."""
        target = Path(path).expanduser().absolute()
        sql.export(self._now(), self._log, target)
        return target

    def info(self) -> Info:
        """What the lab holds."""
        events = self._now()
        size = sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file()) if self.path.exists() else 0
        return Info(self.path, events.manifest, len(list(self._log.holes())), size, self._clock())

    def _default(self, aggregate: str) -> Projection:
        paths = {}
        for topic, told in read_mapping(self.path).topics.items():
            found = [path for name, path in told.aggregates if name == aggregate]
            if any(EACH in path for path in found):
                paths[topic] = [path[len(data) :] for path in found for data in told.envelope.data if path[: len(data)] == data]
        return MergeProjection(aggregate, paths)

    def _selection(self, events: Events, at: str | dt.datetime | Cut | None, clock: str) -> Selection:
        if clock not in ("recorded", "happened"):
            raise MomentError(f'clock={clock!r}; it is "recorded" (when the log got it) or "happened" (the time in the payload)')
        if clock == "happened":
            if isinstance(at, Cut):
                raise MomentError('a cut says what was recorded; with clock="happened" give a time')
            return Selection(events.cut, self._clock().read(at) if at is not None else _EVER)
        return Selection(at if isinstance(at, Cut) else events.cut if at is None else self.cut(at))

    def __repr__(self) -> str:
        return repr(self.info())

    def _repr_html_(self) -> str:
        return self.info()._repr_html_()


_EVER = dt.datetime.max.replace(tzinfo=dt.UTC)


def is_lab(path: Path) -> bool:
    """Whether eslab made this folder."""
    return (path / "lab.toml").is_file() or (path / "log").is_dir()


def span(manifest: Manifest) -> tuple[dt.datetime, dt.datetime] | None:
    """The first and last moment of all captured records, by order_at."""
    firsts = [counts.first_us for counts in manifest.topics.values() if counts.first_us is not None]
    lasts = [counts.last_us for counts in manifest.topics.values() if counts.last_us is not None]
    return (_utc(min(firsts)), _utc(max(lasts))) if firsts and lasts else None


def _utc(micros: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=micros)


def _flat(bound: Mapping[Any, Any]) -> Iterator[tuple[TopicPartition, int]]:
    for key, value in bound.items():
        if isinstance(value, Mapping):
            yield from (((str(key), int(partition)), int(offset)) for partition, offset in value.items())
        else:
            topic, partition = key
            yield (str(topic), int(partition)), int(value)


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
    return (
        f"{topic}[{partition}]: a clock ran up to {suspect.ahead_ms / 60_000:.1f} min ahead at offsets {suspect.start}–{suspect.next - 1}{f' ({whom})' if whom else ''}; "
        f"{suspect.shadowed:,} records stand in its shadow. To mend it: lab.distrust({by}topic={topic!r}, partition={partition}, offsets=({suspect.start}, {suspect.next}))"
    )


class _Bar:
    """A progress bar, or none, with the two ways in which it moves."""

    def __init__(self, what: str, total: int | None = None, *, unit: str = "records", shown: bool) -> None:
        self.records = 0
        self._bar = tqdm(total=total or None, desc=what, unit=f" {unit}", unit_scale=True, disable=not shown, leave=False, delay=0.5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def chunk(self, chunk: Chunk) -> None:
        self.records += chunk.records.num_rows
        self._bar.update(chunk.next - chunk.start)

    def count(self, rows: int) -> None:
        self._bar.update(rows)

    def more(self, offsets: int) -> None:
        if self._bar.total is not None:
            self._bar.total += offsets


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
            f"{fresh[name]:,} {word}"
            for name, word in (("undecodable", "undecodable"), ("unassigned", "without an aggregate's id"), ("tombstones", "tombstones"))
            if fresh[name] > 0
        ]
        return f"<Snapshot of {self.url}: {self.captured:,} records captured{', of them ' + ', '.join(notes) if notes else ''}; {self.counts['records']:,} in the lab>"


@dataclass(frozen=True, slots=True)
class Info:
    """What a lab holds: topics, records, events, time range, gaps, sizes, suspect clocks."""

    path: Path
    manifest: Manifest
    gaps: int
    bytes: int
    clock: Clock

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

    def __repr__(self) -> str:
        if not self.manifest.topics:
            return f'<Lab {self.path}: empty; fill it with lab.snapshot("kafka://host:port", ["topic"])>'
        total = {
            name: sum(getattr(counts, name) for counts in self.manifest.topics.values())
            for name in ("records", "events", "undecodable", "unassigned")
        }
        covered = span(self.manifest)
        times = f"{self.clock.show(covered[0])} to {self.clock.show(covered[1])}" if covered else "no times"
        head = f"<Lab {self.path}: {total['records']:,} records, {total['events']:,} events, {len(self.manifest.topics)} topics, {times}, {self.gaps:,} gaps, {_size(self.bytes)}>"
        lines = [
            f"  {topic}: {counts.records:,} records, {counts.events:,} events"
            + (f", {counts.undecodable:,} undecodable" if counts.undecodable else "")
            for topic, counts in self.manifest.topics.items()
        ]
        aggregates = ", ".join(self.manifest.aggregates) or "none (name one in lab.toml)"
        return "\n".join([head, *lines, f"  aggregates: {aggregates}", *(f"  suspect clock: {notice}" for notice in self.notices)])

    def _repr_html_(self) -> str:
        frame = self.df()
        frame["first"], frame["last"] = ([self.clock.show(moment) for moment in frame[name]] for name in ("first", "last"))
        head, *_ = repr(self).splitlines()
        notices = "".join(
            f"<p>{tables.escape(notice)}</p>" for notice in [f"aggregates: {', '.join(self.manifest.aggregates) or 'none'}", *self.notices]
        )
        return tables.html(list(frame.columns), frame.itertuples(index=False), caption=head.strip("<>"), empty="empty") + notices

    def _moment(self, micros: int | None) -> dt.datetime | None:
        return None if micros is None else _utc(micros).astimezone(self.clock.tz or dt.UTC)


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


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

    def __repr__(self) -> str:
        lines = [
            f"{self.what} is {kind} {name}: {count:,} from {self._clock.show(first)} to {self._clock.show(last)}"
            for kind, name, count, first, last in self._rows
        ]
        return (
            "\n".join(lines) or f"{self.what}: nothing captured has this id, as an aggregate, event, correlation, causation, trace or key"
        )

    def _repr_html_(self) -> str:
        rows = [[kind, name, count, self._clock.show(first), self._clock.show(last)] for kind, name, count, first, last in self._rows]
        return tables.html(["as", "name", "count", "first", "last"], rows, caption=self.what, empty="nothing captured has this id")


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

    def __repr__(self) -> str:
        causes = self.df().groupby("cause")["offsets"].agg(["count", "sum"])
        said = ", ".join(f"{row['count']:,} by {cause} ({row['sum']:,} offsets)" for cause, row in causes.iterrows())
        return f"<Gaps: {said or 'none'}>"

    def _repr_html_(self) -> str:
        frame = self.df()
        return tables.html(
            list(frame.columns), frame.head(50).itertuples(index=False), caption=repr(self).strip("<>"), empty="every offset has its record"
        )
