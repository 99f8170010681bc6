"""The one object of a notebook: it delegates, it holds no logic."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, overload
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import duckdb
import pandas as pd

from eslab import advancing, building, compare, cuts, dispatch, history, keying, replay, sql, sqlworld, upcasters, verify, watching
from eslab.again import NOWHERE, Option, Shell
from eslab.altering import Altered
from eslab.around import Around, find_around
from eslab.bookmarks import Bookmarks
from eslab.capture import CapturePlan, Offsets, capture, plan
from eslab.compare import Comparison
from eslab.contents import Gaps, Info, Snapshot, span, told_of
from eslab.cuts import Clock
from eslab.dead_letters import DeadLetters, find_dead_letters
from eslab.duplicates import Duplicates, find_duplicates
from eslab.endings import Endings, endings, types
from eslab.errors import ConfigError, LabBusy, MomentError, NotALab, ProjectionError
from eslab.events import Events, Manifest, newest_manifest
from eslab.exploring import Explorer, read_wanted
from eslab.firsts import Firsts, find_firsts
from eslab.freezing import strict as frozen
from eslab.history import History
from eslab.invariants import Check, Invariant, by_projection, find_violations
from eslab.lag import Lag, groups, open_lag
from eslab.late import MIN, Late, find_late
from eslab.locking import is_writing, writer_lock
from eslab.mapping import Distrust, read_mapping, write_distrust
from eslab.merging import merge
from eslab.model import Coordinates, Cut, Selection
from eslab.origins import origin
from eslab.positions import read_samples
from eslab.progress import Bar
from eslab.projection import MergeProjection, Projection, SqlProjection
from eslab.replay import ReplayPlan
from eslab.sagas import Sagas, find_sagas
from eslab.samples import merge_samples
from eslab.search import Found, find_anything
from eslab.segments import Log
from eslab.sources import Source, TopicPartition
from eslab.sources.opening import open_groups, open_source
from eslab.sqlworld import SqlWorld
from eslab.throughput import Throughput, open_throughput
from eslab.timeline import Timeline, open_timeline
from eslab.tracing import Trace, find_trace
from eslab.transactions import waiting
from eslab.upcasters import Upcasters
from eslab.upcasting import Rehearsal, rehearse
from eslab.watching import Watch
from eslab.whatif import WhatIf, WorldWhatIf, reopened
from eslab.wording import read_length
from eslab.world import World

__all__ = ["Lab"]

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
        if "?" in str(self.path):
            raise NotALab(f"{self.path}: DuckDB takes what follows a ? in a path for options; choose a folder without one in its path")
        if self.path.exists() and not is_lab(self.path) and (not self.path.is_dir() or any(self.path.iterdir())):
            raise NotALab(f"{self.path} holds something else than a lab; choose an empty folder, or one that eslab made")
        self._shell = Shell(str(Path(path).expanduser()), tz)
        self._log = Log(self.path / "log")
        self._trusted, self._say = trusted, say
        self._seen: tuple[tuple[object, ...], Events] | None = None
        self._connection: tuple[int, duckdb.DuckDBPyConnection] | None = None
        self._macros: dict[str, SqlProjection] = {}
        self._upcasters = Upcasters()
        self._invariants: dict[str, Invariant] = {}
        self._told: set[tuple[Cut, str]] = set()

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
        names = _names(topics)
        with open_source(url, **settings) as source, writer_lock(self.path):
            lower, upper = self._offsets(source, names, start), self._offsets(source, names, stop)

            def planned() -> CapturePlan:
                return plan(source, self._log, names, start=lower, stop=upper)

            first = planned()
            for notice in first.notices:
                self._say(notice)
            before = self._counts()
            with Bar("capturing", first.offsets, shown=progress) as bar:
                again = self._following(planned, bar) if follow else None
                for _ in capture(source, self._log, first, again=again, on_chunk=bar.chunk, say=self._say):
                    pass
            self._merge()
            self._build(progress=progress)
            for notice in waiting(self._log.lives()):
                self._say(notice)
            return Snapshot(source.url, bar.records, self._counts(), before)

    def watch(
        self,
        url: str,
        *,
        every: str | float | dt.timedelta = "5s",
        groups: str | Sequence[str] | None = None,
        stop: str | float | dt.timedelta | threading.Event | None = None,
        progress: bool = True,
        **settings: Any,
    ) -> Watch:
        """Ask a cluster again and again where its consumer groups (all, or these) stand, and keep the answers as samples, a file a minute.

        Goes on until Ctrl-C, or for as long as `stop` says, or until that event is set. What was told is kept whatever ends it; a killed process loses the last minute.
        A cluster that goes away for a while is asked again. Only asks, joins no group and creates nothing; a snapshot may run at the same time. `settings` are those of a
        Kafka source. Raises `SourceError`, `DiskFull`.
        """
        asked = None if groups is None else {groups} if isinstance(groups, str) else set(groups)
        every_s, event, for_s = read_length(every, name="every").s, threading.Event(), None
        if isinstance(stop, threading.Event):
            event = stop
        elif stop is not None:
            for_s = read_length(stop, name="stop").s
        with open_groups(url, patience_s=every_s, **settings) as source, Bar("watching", unit="samples", shown=progress) as bar:
            return watching.watch(
                self.path,
                url,
                lambda: source.positions(asked),
                every_s=every_s,
                stop=event,
                for_s=for_s,
                say=self._say,
                on_poll=bar.count,
                on_file=self._merge_samples,
            )

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

    def _following(self, planned: Callable[[], CapturePlan], bar: Bar) -> Callable[[], CapturePlan]:
        built, told = time.monotonic(), set[str]()

        def again() -> CapturePlan:
            nonlocal built
            todo = planned()
            for notice in todo.news:
                if notice not in told:
                    self._say(notice)
            told.update(todo.news)
            if not todo.parts or time.monotonic() - built > REBUILD_S:
                self._merge()
                self._build()
                built = time.monotonic()
            bar.more(todo.offsets)
            return todo

        return again

    def _merge(self) -> None:
        """Make few large files of many small ones. The caller holds the writer's lock."""
        merge(self._log)
        merge_samples(self.path)

    def _merge_samples(self) -> None:
        """The same for a watch, which holds no lock: where a capture runs, that one merges."""
        if not is_writing(self.path):
            with contextlib.suppress(LabBusy), writer_lock(self.path):
                merge_samples(self.path)

    # --- the events as they are now

    def _build(self, *, progress: bool = False) -> None:
        """Bring events and lab.duckdb up to the log. The caller holds the writer's lock."""
        building.sweep(self.path)
        mapping, last = read_mapping(self.path), newest_manifest(self.path)
        if not building.outdated(last, self._log, mapping):
            if last is not None and not sql.is_current(Events(self.path, last)):
                self._write_database(Events(self.path, last))
            return
        with Bar("sorting events", shown=progress) as bar:
            manifest = building.update(self.path, self._log, mapping, say=self._say, on_records=bar.count)
        self._write_database(Events(self.path, manifest))
        said = set(sql.renamed(last.types)) if last else set()
        for notice in sql.renamed(manifest.types):
            if notice not in said:
                self._say(notice)
        for state in manifest.lives:
            known = next((one.suspects for one in last.lives if one.life == state.life), []) if last else []
            for suspect in state.suspects:
                if suspect not in known:
                    self._say(told_of(state.life, suspect))

    def _write_database(self, events: Events) -> None:
        sql.write_database(events, self._log)

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

    def _clock(self, events: Events | None = None) -> Clock:
        return Clock(self.tz, span((events or self._now()).manifest))

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
        version: tuple[str, str, int] | None = None,
        offsets: Mapping[str, Mapping[int, int]] | None = None,
        bookmark: str | None = None,
        group: str | None = None,
    ) -> Cut:
        """The cut at a moment; without one, all that is captured now. One of:

        a time (all that was recorded until then, inclusive); `event_id` (all up to and with it in the lab's order); `version`, such as ("order", "ord-1", 3) (all up to and with
        that step); `offsets`, the next ones (exclusive) by topic and partition; `bookmark`; `group` with a time or without (up to where that consumer group had committed: a lower bound).
        """
        events, clock = self._now(), self._clock()
        named = [one for one in (event_id, version, offsets, bookmark) if one is not None]
        if len(named) + (group is not None or at is not None) > 1:
            raise MomentError("name one moment: a time, event_id=, version=, offsets=, bookmark=, or group= with a time or without")
        if bookmark is not None:
            return self._known(events, self.bookmarks.cut(bookmark))
        if event_id is not None:
            found = cuts.at_event(events, event_id)
        elif version is not None:
            if not isinstance(version, tuple) or len(version) != 3:
                raise MomentError(f'version={version!r} names no step; write it like version=("order", "ord-1", 3)')
            found = cuts.at_version(events, *version)
        elif offsets is not None:
            found = cuts.at_offsets(events, offsets)
        elif group is not None:
            found = cuts.at_group(events, read_samples(self.path, self._log), group, None if at is None else clock.read(at), clock)
        else:
            found = cuts.select(events, at, clock=clock).cut
        return self._stamped(found)

    def _stamped(self, cut: Cut) -> Cut:
        """A cut that was made just now, with the upcasters that are declared."""
        return cut if cut.upcasters is not None else dataclasses.replace(cut, upcasters=self._upcasters.fingerprint)

    def bookmark(self, name: str, at: str | dt.datetime | Cut | None = None, *, replace: bool = False) -> Cut:
        """Keep a cut under a name, in the lab: a time, any cut, or all that is captured now. `lab.cut(bookmark=name)` gives it back; `replace` moves a name to another cut."""
        events = self._now()
        cut = self._stamped(self._selection(events, at).cut)
        if not events.cut.offsets:
            raise MomentError("the lab is empty: there is nothing yet that a bookmark could point into")
        self.bookmarks.add(name, cut, replace=replace)
        return cut

    @property
    def bookmarks(self) -> Bookmarks:
        """The bookmarks by name; `lab.bookmarks.remove(name)` forgets one."""
        return Bookmarks(self.path)

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
        cut: Cut | None = None,
    ) -> History:
        """The history of one aggregate until a moment (default: all of it), by a projection (default: merge the fields of `data`).

        `clock="happened"` takes `at` as the time in the payloads: of all that is captured, or of a `cut`. Raises `UnknownId` if no event belongs to it.
        """
        events = self._now()
        selection = self._selection(events, at, clock, cut)
        shell = self._asking(projection=projection).of(aggregate, str(aggregate_id), **self._worded_cut(selection, at, cut))
        return history.open_history(
            events, aggregate, str(aggregate_id), self._folded(projection or aggregate), selection, self._clock(events), shell
        )

    @overload
    def replay(
        self,
        projection: Projection | str,
        *,
        at: str | dt.datetime | Cut | None = None,
        keys: str | Sequence[str] | None = None,
        ended: bool = False,
        strict: bool = False,
        clock: str = "recorded",
        cut: Cut | None = None,
        executor: Executor | None = None,
        progress: bool = True,
    ) -> World: ...
    @overload
    def replay(
        self,
        projection: SqlProjection,
        *,
        at: str | dt.datetime | Cut | None = None,
        clock: str = "recorded",
        cut: Cut | None = None,
        progress: bool = True,
    ) -> SqlWorld: ...
    def replay(
        self,
        projection: Projection | SqlProjection | str,
        *,
        at: str | dt.datetime | Cut | None = None,
        keys: str | Sequence[str] | None = None,
        ended: bool = False,
        strict: bool = False,
        clock: str = "recorded",
        cut: Cut | None = None,
        executor: Executor | None = None,
        progress: bool = True,
    ) -> World | SqlWorld:
        """Fold a projection (or, by an aggregate's name, the default one) over every aggregate until a moment; over `keys` alone if they are given.

        `clock="happened"` takes `at` as the time in the payloads: of all that is captured, or of a `cut`.
        Keys that a tombstone ended are left out unless `ended`. A handler that raises fails its key: see `World.failed`. `strict` freezes states, and the data of events, so that a
        handler which changes what it was given fails its key, too, and is named. A SQL projection is one query over what had come until then: it has neither `keys`, `ended` nor `strict`.
        An `executor` folds in parts: threads, processes (`ProcessPoolExecutor`), or a Dask cluster (`client.get_executor()`) whose workers see the lab's folder.
        """
        events = self._now()
        selection = self._selection(events, at, clock, cut)
        if isinstance(projection, SqlProjection):
            if keys is not None or ended or strict or executor is not None:
                raise ProjectionError(
                    f"SQL projection {projection.name!r} has no keys and no handlers: say in its query what is wanted, and drop keys=, ended=, strict= and executor="
                )
            line = self._asking(projection=projection).line("replay", **self._worded(selection, at, cut))
            return sqlworld.evaluate(events, self._log, projection, selection, tz=self._zone, trusted=self._trusted).shown_by(line)
        chosen = frozen(self._folded(projection)) if strict else self._folded(projection)
        todo = replay.plan(events, chosen, selection, keys=keys, ended=ended)
        with Bar(f"replaying {chosen.name}", todo.rows if keys is None else None, unit="steps", shown=progress) as bar:
            world = replay.run(todo, on_rows=bar.count) if executor is None else dispatch.run(todo, executor, on_rows=bar.count)
        failed = {failure.key for failure in world.failed}
        for notice in replay.unknown_keys(todo, lambda key: key in failed or key in world):
            self._say(notice)
        shell = self._asking(projection=projection).of(key=todo.keys, ended=_flag(ended), strict=_flag(strict))
        return self._carried(world, todo, shell, at, cut)

    def _carried(self, world: World, todo: ReplayPlan, shell: Shell, at: str | dt.datetime | Cut | None, cut: Cut | None) -> World:
        """A world that can go on, and that the shell shows at a moment."""
        start = advancing.begin(todo)
        words = [todo.projection.aggregate] if "projection" not in shell.options else []

        def go_on(
            world: World, told: Cut | str | dt.datetime | None, *, progress: bool
        ) -> World:  # given the world: one that held itself would stay
            events = self._now()
            until = self._selection(events, told)
            selection = dataclasses.replace(todo.selection, cut=until.cut, recorded_until=until.recorded_until)
            selection = keying.narrowed(events, todo.projection, selection)
            then = dataclasses.replace(todo, events=events, selection=selection)
            with Bar(f"advancing {todo.projection.name}", unit="steps", shown=progress) as bar:
                made = advancing.advance(world, start, then, self._log, read_mapping(self.path), on_rows=bar.count)
            still = told is None or isinstance(told, Cut) or selection.happened_until is None
            return self._carried(made, then, shell, told if still else until.cut, None)

        return world.carried_by(go_on).shown_by(shell.line("replay", *words, **self._worded(todo.selection, at, cut)))

    def plan(
        self,
        projection: Projection | str,
        *,
        at: str | dt.datetime | Cut | None = None,
        keys: str | Sequence[str] | None = None,
        ended: bool = False,
        clock: str = "recorded",
        cut: Cut | None = None,
    ) -> ReplayPlan:
        """What `replay` with these options would read, and about how long it would take: its first rows are folded to tell, and the answer thrown away."""
        events = self._now()
        return replay.plan(events, self._folded(projection), self._selection(events, at, clock, cut), keys=keys, ended=ended, sample=True)

    def timeline(
        self,
        projection: Projection | str,
        *,
        measure: Callable[[Any], Any],
        every: str | float | dt.timedelta | None = None,
        agg: str | Callable[[Sequence[float]], float] = "sum",
        start: str | dt.datetime | None = None,
        stop: str | dt.datetime | None = None,
        ended: bool = False,
        clock: str = "recorded",
        progress: bool = True,
    ) -> Timeline:
        """`measure(state)`, a number or None, of every key, summed over time: `.chart()`, `.df()`. One pass over the events; each point is what a replay until then would sum up to.

        A point per "5s", "1m", "1d" (default: 2,000 points or less), from `start` to `stop`. `agg`: sum, mean, min, max, count, or a function of the numbers of all keys. A key counts until it ends or fails.
        `clock="happened"` takes the time in the payloads for that of the events.
        """
        events, zoned = self._now(), self._clock()
        todo = replay.plan(events, self._folded(projection), self._selection(events, None, clock), ended=ended)
        with Bar(f"measuring {todo.projection.name}", todo.rows, unit="steps", shown=progress) as bar:
            return open_timeline(
                todo,
                measure,
                agg=agg,
                every=every,
                start=_read(zoned, start),
                stop=_read(zoned, stop),
                span=span(events.manifest),
                clock=zoned,
                by=clock,
                on_rows=bar.count,
            )

    def first(
        self,
        projection: Projection | str,
        predicate: Callable[[Any], Any],
        *,
        at: str | dt.datetime | Cut | None = None,
        keys: str | Sequence[str] | None = None,
        progress: bool = True,
    ) -> Firsts:
        """The first event of every key after which `predicate(state)` holds; `.first` is the earliest of all. One pass over the events."""
        events = self._now()
        todo = replay.plan(events, self._folded(projection), self._selection(events, at), keys=keys)
        with Bar(f"searching {todo.projection.name}", todo.rows if keys is None else None, unit="steps", shown=progress) as bar:
            found = find_firsts(todo, predicate, self._clock(), on_rows=bar.count)
        shell = self._asking(when=predicate, projection=projection)
        return found.shown_by(shell.line("first", *_named(projection), key=todo.keys, **self._worded(todo.selection, at)))

    @overload
    def what_if(self, of: History) -> WhatIf: ...
    @overload
    def what_if(
        self,
        of: Projection | str,
        *,
        at: str | dt.datetime | Cut | None = None,
        ended: bool = False,
        clock: str = "recorded",
        cut: Cut | None = None,
    ) -> WorldWhatIf: ...
    def what_if(
        self,
        of: History | Projection | str,
        *,
        at: str | dt.datetime | Cut | None = None,
        ended: bool = False,
        clock: str = "recorded",
        cut: Cut | None = None,
    ) -> WhatIf | WorldWhatIf:
        """A history, or the world of a projection, with other events: `lab.what_if(h).drop("evt-7").edit("evt-8", {"data.total": 10}).compare()`.

        Verbs: drop (alone, or with its effects), edit, insert, move, duplicate, delay. Each returns another what-if, and nothing is written. `.compare()` shows both timelines and where they part; of
        a history `.history` is the changed one; of a world only the keys are folded that are touched. The options are those of `replay`; a history brings its own moment.
        """
        events = self._now()
        clock_ = self._clock(events)
        altered = Altered(events, self._log, read_mapping(self.path), clock_)
        if isinstance(of, History):
            if (at, cut, clock, ended) != (None, None, "recorded", False):
                raise MomentError("a history brings its own moment and clock: give at=, clock= and cut= to lab.history")
            return WhatIf(reopened(of, events, clock_), altered)
        projection = self._folded(of)
        projection.check()
        keying.count(events, projection)
        selection = self._selection(events, at, clock, cut)
        shell = self._asking(projection=of).of(ended=_flag(ended), **self._worded(selection, at, cut))
        return WorldWhatIf(projection, keying.narrowed(events, projection, selection), altered, shell, ended=ended)

    def invariant(self, name: str, projection: Projection | str, predicate: Callable[[Any], Any]) -> Invariant:
        """Declare what is to hold for the state of every key: `predicate(state)` says whether it does. For this object alone: nothing is stored; the same name again replaces it."""
        self._invariants[name] = declared = Invariant(name, projection, predicate)
        return declared

    def check(self, *invariants: Invariant, at: str | dt.datetime | Cut | None = None, progress: bool = True) -> Check:
        """The keys that break an invariant (these, or all that were declared) at a moment: since when, after which event, and how many they were over time (`.chart()`).

        One pass over the events for each projection. Raises `ProjectionError` where a predicate raises, naming key and event.
        """
        events = self._now()
        clock = self._clock(events)
        chosen = invariants or tuple(self._invariants.values())
        if not chosen:
            raise ProjectionError("there is no invariant to check; lab.invariant(name, projection, predicate) declares one")
        selection = self._selection(events, at)
        todo = [(replay.plan(events, self._folded(group[0].projection), selection), group) for group in by_projection(chosen)]
        with Bar("checking", sum(one.rows for one, _ in todo), unit="steps", shown=progress) as bar:
            found = [line for plan, group in todo for line in find_violations(plan, group, clock, on_rows=bar.count)]
        until = None if isinstance(at, Cut) else _read(clock, at)
        told, here = self._worded(selection, at), {one.name: self._asking(invariant=one) for one in chosen}
        for line in found:
            line.shown_by(here[line.name].line("check", **told))
        shell = NOWHERE if NOWHERE in here.values() else self._shell.of(invariant=[str(one.options["invariant"]) for one in here.values()])
        return Check(found, [*here], selection.cut, span(events.manifest), until, clock).shown_by(shell.line("check", **told))

    def compare(
        self,
        left: Projection | str,
        right: Projection | str,
        *,
        at: str | dt.datetime | Cut | None = None,
        keys: str | Sequence[str] | None = None,
        ended: bool = False,
        clock: str = "recorded",
        cut: Cut | None = None,
        progress: bool = True,
    ) -> Comparison:
        """Fold two projections (or, by an aggregate's name, the default one) side by side: the keys that come out differently, and the first event after which each does.

        Both are folded in one pass; a handler that raises fails its key, on its side. The options are those of `replay`.
        """
        events = self._now()
        sides = [self._folded(one) for one in (left, right)]
        selection = self._selection(events, at, clock, cut)
        total = keying.count(events, sides[0]) if keys is None else None
        with Bar(f"comparing {sides[0].name} with {sides[1].name}", total, unit="steps", shown=progress) as bar:
            found = compare.compare(
                events, sides[0], sides[1], selection, self._clock(), keys=keys, ended=ended, on_rows=bar.count, say=self._say
            )
        whole = NOWHERE if isinstance(left, str) and isinstance(right, str) else self._asking(left=left, right=right)
        told = self._worded_cut(selection, at, cut)
        return found.asked_by(
            whole.of(sides[0].aggregate, ended=_flag(ended), **self._worded(selection, at, cut)),
            (self._asking(projection=left).of(**told), self._asking(projection=right).of(**told)),
            _listed(keys),
        )

    def upcaster(
        self, event_type: str, *, from_version: str | int | None, to_version: str | int
    ) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
        """Declare how data of one version of an event type becomes data of a newer one; running the cell again replaces it.

        The function takes the data, its own to change, and returns the new data. Upcasters are chained, and applied in every fold of this object (histories, replays, comparisons);
        SQL shows events as they were written. `from_version=None` is for events that tell no version. Raises `ProjectionError` for a circle, or a gap between versions.
        """

        def declare(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
            self._upcasters = self._upcasters.declared(upcasters.raised(event_type, from_version, to_version, function))
            return function

        return declare

    @property
    def upcasters(self) -> Upcasters:
        """The upcasters that were declared on this object; nothing of them is stored."""
        return self._upcasters

    def upcast_check(self, *, progress: bool = True) -> Rehearsal:
        """Take every captured event through its upcasters, keep nothing, and say what came of it: how many of each version, what failed, which versions no upcaster knows."""
        events = self._now()
        with Bar("upcasting", sum(counts.events for counts in events.manifest.topics.values()), unit="events", shown=progress) as bar:
            return rehearse(events, self._upcasters, on_rows=bar.count)

    def sql(self, query: str, **parameters: Any) -> duckdb.DuckDBPyRelation:
        """Run SQL over `events`, `history`, `records`, `gaps`, `problems`, `misfits` and `types."<event type>"`; `$name` takes a parameter.

        Returns DuckDB's relation: `.df()`, `.to_arrow_table()`. A DataFrame of the caller joins by its name. Raises `QueryError`.
        """
        try:
            return self._sql().sql(query, params=parameters or None)
        except duckdb.Error as exc:
            raise sql.one_line(exc) from exc

    def register(self, projection: SqlProjection) -> None:
        """Make a SQL projection a macro of `lab.sql`: `from revenue_as_of(TIMESTAMPTZ '...')`. For this object alone: nothing is stored; the same name again replaces it."""
        sqlworld.register(self._sql(), self._now(), projection)
        self._macros[projection.name] = projection

    def _sql(self) -> duckdb.DuckDBPyConnection:
        """The connection over the newest events, with a macro for each SQL projection that was registered."""
        events = self._now()
        if self._connection is None or self._connection[0] != events.manifest.number:
            con = sql.connect(events, self._log, tz=self._zone, trusted=self._trusted)
            self._connection = (events.manifest.number, con)
            for projection in self._macros.values():
                sqlworld.register(con, events, projection)
        return self._connection[1]

    @property
    def _zone(self) -> str | None:
        return self.tz.key if self.tz else None

    def find(self, anything: Any, *, whole: bool = False) -> Found:
        """Where an id or a value is known: as an aggregate's, an event's, a correlation, a causation, a trace, a span, a record key, an event type, a source, or as a value in data and metadata.

        The answer says how much it searched and whether that was all; a value that stands nearly everywhere is not looked for further than some hundred thousand events, but with `whole`.
        """
        found = find_anything(self._now(), anything, self._clock(), whole=whole)
        return found.shown_by(self._shell.line("find", found.what, whole=_flag(whole)))

    def explore(
        self,
        *,
        topic: str | None = None,
        aggregate: str | None = None,
        aggregate_id: str | None = None,
        event_type: str | None = None,
        start: str | dt.datetime | None = None,
        stop: str | dt.datetime | None = None,
        search: str | None = None,
        newest: bool = False,
    ) -> Explorer:
        """The records that fit, to leaf through: events, tombstones and what could not be read, in the lab's order or the `newest` first. In a notebook a click opens the stepper.

        All filters must fit; `start` is inclusive, `stop` exclusive. `search` is a text in an id, the key, the type, data or metadata; a page says how much of it looked through. `.page(after)` is a page.
        """
        events = self._now()
        clock = self._clock(events)
        asked = {
            "topic": topic,
            "aggregate": aggregate,
            "aggregate_id": aggregate_id,
            "event_type": event_type,
            "start": start,
            "stop": stop,
        }
        return Explorer(
            events,
            read_wanted(clock, **asked, search=search, newest=newest),
            clock,
            self._shell,
            lambda name, key: history.open_history(
                events, name, key, self._folded(name), Selection(events.cut), clock, self._asking().of(name, key)
            ),
        )

    def trace(
        self,
        told: str | Coordinates | tuple[str, int, int],
        *,
        done: str | Iterable[str] | None = None,
        compensated: str | Iterable[str] | None = None,
    ) -> Trace:
        """What caused an event and what it caused, over all topics, with the times between: of an event id, a place (topic, partition, offset), or a correlation id. `.chart()` is its waterfall.

        A saga in which no event is of an ending type (`done`, `compensated`; default: learned from where sagas end here) is open at its last event; a cause outside the log, such as a command, is a root.
        Effects recorded before their causes are marked. Raises `UnknownEvent`.
        """
        events, done, compensated = self._now(), _listed(done), _listed(compensated)
        return self._traced(events, told, endings(events, done, compensated), self._shell.of(done=done, compensated=compensated))

    def _traced(self, events: Events, told: str | Coordinates | tuple[str, int, int], ends: Endings, shell: Shell) -> Trace:
        found = find_trace(events, told, ends, self._clock())
        return found.shown_by(shell.line("trace", found.told))

    def sagas(
        self,
        *,
        done: str | Iterable[str] | None = None,
        compensated: str | Iterable[str] | None = None,
        stuck_after: str | float | dt.timedelta = "1h",
        begin: str | Iterable[str] | None = None,
        at: str | dt.datetime | Cut | None = None,
    ) -> Sagas:
        """One instance for each correlation id: steps, durations, and whether it is finished, compensated, running or stuck; `["cor-1"]` is the trace of one.

        `done` and `compensated` are the event types that end one; without `done` they are learned from where sagas end here, if three or more did, and the answer says from how many. One without an end is stuck when
        nothing came after its last event for so long, by a moment (default: the last that is captured). `begin` keeps those that have an event of these types.
        """
        events, done, compensated, begin = self._now(), _listed(done), _listed(compensated), _listed(begin)
        selection = self._selection(events, at)
        ends = endings(events, done, compensated, selection)
        shell, length = self._shell.of(done=done, compensated=compensated), read_length(stuck_after, name="stuck_after", least=0)
        return find_sagas(
            events,
            selection,
            ends,
            begin=types(begin, "begin"),
            stuck_after=length,
            now=None if at is None or isinstance(at, Cut) else self._clock().read(at),
            trace=lambda correlation_id: self._traced(events, correlation_id, ends, shell),
            clock=self._clock(),
            shell=shell.of(stuck_after=str(length), begin=begin, **self._worded(selection, at)),
        )

    def around(
        self,
        moment: str | dt.datetime | None = None,
        *,
        event_id: str | Coordinates | tuple[str, int, int] | None = None,
        before: str | float | dt.timedelta = "1m",
        after: str | float | dt.timedelta = "1m",
    ) -> Around:
        """Everything near a moment, or near an event, over all topics in the lab's order: events, tombstones and what could not be read. Of very many, the nearest 10,000."""
        events, clock = self._now(), self._clock()
        if (moment is None) == (event_id is None):
            raise MomentError("name one moment: a time, or event_id=")
        at = clock.read(moment) if moment is not None else cuts.find_event(events, event_id or "")[0][0]
        low, high = read_length(before, name="before", least=0), read_length(after, name="after", least=0)
        asked = {"event": event_id} if isinstance(event_id, str) else {}
        line = self._shell.line("around", *([] if asked else [clock.word(at)]), **asked, before=str(low), after=str(high))
        return find_around(events, at, low, high, clock).shown_by(line)

    def late(self, *, min: str | float | dt.timedelta = MIN, topic: str | None = None) -> Late:  # noqa: A002  the word that reads best
        """The events that arrived after their time, the latest first: those whose place in the lab's order is `min` or more after their happened_at (default: a minute)."""
        line = self._shell.line("late", min=str(read_length(min, name="min", least=0)), topic=topic)
        return find_late(self._now(), min, topic, self._clock()).shown_by(line)

    def duplicates(self) -> Duplicates:
        """The event ids that were seen more than once, over all topics but those of dead letters: each occurrence after the first, how long after, and whether its payload is the same."""
        found = find_duplicates(self._now(), read_mapping(self.path).dead_letters, self._clock())
        return found.shown_by(self._shell.line("duplicates"))

    def dead_letters(self) -> DeadLetters:
        """The records of the topics that lab.toml names by `dead_letters = true`: each one's original, reason, retries, and fate: handled later, redelivered, or lost (`DeadLetter` says when it is which)."""
        found = find_dead_letters(self._now(), self._log, read_mapping(self.path).dead_letters, self._clock())
        return found.shown_by(self._shell.line("dead-letters"))

    def throughput(
        self,
        topics: str | Sequence[str] | None = None,
        *,
        every: str | float | dt.timedelta | None = None,
        start: str | dt.datetime | None = None,
        stop: str | dt.datetime | None = None,
    ) -> Throughput:
        """Records and bytes by topic and time, from `start` (inclusive) to `stop` (exclusive), per "5s", "1m", "1d" (default: 2,000 points or less).

        Without `topics`, all but Kafka's own. A record counts at its own timestamp; one whose clock is distrusted, or that has none, at its order_at.
        """
        names, clock = _names(topics), self._clock()
        rules = read_mapping(self.path).distrust
        within = {"start": _read(clock, start), "stop": _read(clock, stop)}
        found = open_throughput(self._now(), self._log, rules, names, every=every, **within, clock=clock)
        told = {name: clock.word(moment) for name, moment in within.items() if moment is not None}
        return dataclasses.replace(found, again=self._shell.line("throughput", *names or (), every=str(found.every), **told))

    def lag(
        self,
        group: str,
        *,
        topics: str | Sequence[str] | None = None,
        every: str | float | dt.timedelta | None = None,
        start: str | dt.datetime | None = None,
        stop: str | dt.datetime | None = None,
    ) -> Lag:
        """How far a consumer group was behind: `.at("14:30")`, `.stalls()` (since when, how long, how far), `.chart()`, `.df()`, `.sum()`.

        From its samples (the demo's, those of `eslab watch`, the commits in a captured `__consumer_offsets`) and the captured records; from `start` (inclusive) to `stop`
        (exclusive), by default from the first sample on. What is not known is null, never 0. Raises `UnknownGroup` and tells the groups there are.
        """
        clock = self._clock()
        return open_lag(
            self._now(),
            self._log,
            read_samples(self.path, self._log),
            group,
            _names(topics),
            start=_read(clock, start),
            stop=_read(clock, stop),
            every=every,
            clock=clock,
            shell=self._shell.of(group, topic=_listed(topics)),
        )

    def groups(self) -> pd.DataFrame:
        """The consumer groups whose positions are known: group, topics, samples, first, last."""
        return groups(read_samples(self.path, self._log), self._clock())

    def gaps(self) -> Gaps:
        """Every range of offsets that the log has no record for, and why."""
        return Gaps(list(self._log.holes()))

    def verify(self, *, progress: bool = True) -> verify.Verification:
        """Read the whole log and say whether it still is what was captured."""
        with Bar("verifying", unit="files", shown=progress) as bar:
            found = verify.verify(self.path, self._log, newest_manifest(self.path), on_file=lambda: bar.count(1))
        return dataclasses.replace(found, again=self._shell.line("verify"))

    def export(self, path: str | Path) -> Path:
        """Write all relations as tables into one self-contained DuckDB file, replacing an older one."""
        target = Path(path).expanduser().absolute()
        sql.export(self._now(), self._log, target)
        return target

    def info(self) -> Info:
        """What the lab holds."""
        events = self._now()
        size = sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file()) if self.path.exists() else 0
        return Info(self.path, events.manifest, len(list(self._log.holes())), size, self._clock(), self._shell.line("info"))

    def _folded(self, projection: Projection | str) -> Projection:
        """The projection, through the upcasters; by an aggregate's name, its default one."""
        if isinstance(projection, str):
            projection = MergeProjection(projection, read_mapping(self.path).elements(projection))
        if not isinstance(projection, Projection):
            raise ProjectionError(f"{projection!r:.80} folds no events; give an eslab.Projection, or the name of an aggregate")
        return self._upcasters.under(projection)

    def _selection(self, events: Events, at: str | dt.datetime | Cut | None, clock: str = "recorded", cut: Cut | None = None) -> Selection:
        chosen = cuts.select(events, at, clock=self._clock(events), by=clock, cut=cut)
        self._known(events, chosen.cut)
        return chosen

    def _asking(self, **code: Any) -> Shell:
        """The shell, with the files that the projections and functions of these options come from; `NOWHERE` if one comes from none, or if it is all seen through upcasters, which the shell has not."""
        files = {name: origin(one) for name, one in code.items() if one is not None and not isinstance(one, str)}
        seen = self._upcasters.steps and not any(isinstance(one, SqlProjection) for one in code.values())
        return NOWHERE if seen or None in files.values() else self._shell.of(**files)

    def _worded(self, selection: Selection, at: str | dt.datetime | Cut | None, cut: Cut | None = None) -> dict[str, Option]:
        """The moment of a selection in the words of the shell."""
        return {"at": cuts.until(selection, self._clock()), **self._worded_cut(selection, at, cut)}

    def _worded_cut(self, selection: Selection, at: str | dt.datetime | Cut | None, cut: Cut | None) -> dict[str, Option]:
        """Its cut, by the name of a bookmark that stands there, and its clock."""
        told: dict[str, Option] = {} if selection.happened_until is None else {"clock": "happened"}
        chosen = at if isinstance(at, Cut) else cut
        if chosen is None:
            return told
        name = self.bookmarks.name_of(chosen)
        return {"bookmark": name, "cut": chosen.to_json() if name is None else None, **told}

    def _known(self, events: Events, cut: Cut) -> Cut:
        """The cut, once it is sure to be of this lab; what has changed since it was made is said once."""
        notice = cuts.changed_since(events, cut, self._upcasters.fingerprint)
        if notice and (cut, notice) not in self._told:
            self._told.add((cut, notice))
            self._say(f"{repr(cut.label) if cut.label else 'a cut'}: {notice}")
        return cut

    def __repr__(self) -> str:
        return repr(self.info())

    def _repr_html_(self) -> str:
        return self.info()._repr_html_()


def is_lab(path: Path) -> bool:
    """Whether eslab made this folder."""
    return (path / "lab.toml").is_file() or (path / "log").is_dir()


def _names(topics: str | Sequence[str] | None) -> list[str] | None:
    return [topics] if isinstance(topics, str) else None if topics is None else list(topics)


def _named(projection: Projection | str) -> list[str]:
    """An aggregate's name, which the shell takes as a word."""
    return [projection] if isinstance(projection, str) else []


def _listed(told: str | Iterable[str] | None) -> list[str] | None:
    """What may be one or several, as the values of an option that is repeated."""
    return None if told is None else [told] if isinstance(told, str) else list(told)


def _flag(told: bool) -> Option:  # noqa: FBT001  that is all it is about
    return "" if told else None


def _read(clock: Clock, told: str | dt.datetime | None) -> dt.datetime | None:
    return None if told is None else clock.read(told)


def _flat(bound: Mapping[Any, Any]) -> Iterator[tuple[TopicPartition, int]]:
    for key, value in bound.items():
        if isinstance(value, Mapping):
            yield from (((str(key), int(partition)), int(offset)) for partition, offset in value.items())
        else:
            try:
                topic, partition = key
                yield (str(topic), int(partition)), int(value)
            except (TypeError, ValueError):
                raise MomentError(f'{bound!r} names no offsets; write them like {{"orders": {{0: 17}}}}') from None
