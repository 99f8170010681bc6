"""From the log to sorted events: decode, put in order, sort, and merge with what stands.

Nothing in the log is changed, and a crash anywhere leaves the last manifest as it was.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import secrets
import shutil
import threading
import time
import typing
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, Self

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eslab import runs, typed
from eslab.decode import EVENT, TOMBSTONE_KIND, UNDECODABLE, decode
from eslab.decode.consumer_offsets import CommitReader
from eslab.duck import session
from eslab.durable import commit_file, enough_disk
from eslab.errors import ConfigError
from eslab.events import EVENTS, LifeState, Manifest, Run, TopicCounts, manifest_name, newest_manifest, next_number
from eslab.mapping import SAMPLE, Mapping, TopicMapping, infer, write_topic
from eslab.model import EACH, Cut, Life, Record, format_path
from eslab.ordering import put_in_order
from eslab.segments import LOSSY, Log, Reach, Segment, reaches
from eslab.sources import CONSUMER_OFFSETS, Hole, records_to_table
from eslab.transactions import Transactions
from eslab.wording import many

__all__ = ["between", "outdated", "rows_of", "sweep", "update"]

CHUNK_ROWS: Final = 250_000  # sorted in memory at once
CHUNK_BYTES: Final = 256 << 20
LEARNED_ROWS: Final = 10_000  # of events whose types are learned in one go
KEEP_S: Final = 24 * 3600  # how long what no manifest names any more stays, for readers that hold an older one
DECODERS: Final = 2  # threads: DuckDB and Arrow leave the interpreter while they work, checking JSON does not

_DECODED: Final = ["offset", "timestamp_ms", "timestamp_type", "key", "value", "producer_id", "transactional"]


def outdated(manifest: Manifest | None, log: Log, mapping: Mapping) -> bool:
    """Whether the log, or the rules to read it by, have moved on from this manifest."""
    lives = log.lives()
    if manifest is None:
        return bool(lives)
    return _rules_changed(manifest, mapping) or any(fresh for _, fresh in _fresh(manifest, lives)) or _moved(manifest, lives)


def update(
    folder: Path, log: Log, mapping: Mapping, *, say: Callable[[str], None], on_records: Callable[[int], None] = lambda count: None
) -> Manifest:
    """Bring the events up to the log and return the manifest that says so. The caller holds the writer's lock.

    Reads only what the last manifest has not seen; everything where the rules changed or an earlier range was filled in, since that may
    move the order of all that follows. Raises `ConfigError` if a topic's mapping fits none of its events.
    """
    (folder / "events").mkdir(parents=True, exist_ok=True)
    lives = log.lives()
    mapping = _complete(folder, lives, mapping, say)
    last = newest_manifest(folder)
    base = Manifest() if last is None or _rules_changed(last, mapping) or _filled_in(last, lives) else last
    todo = [(life, reach) for life, fresh in _fresh(base, lives) for reach in fresh]
    if last is base and not todo and not _moved(last, lives):
        return last
    number = next_number(folder)
    name = f"{number:08d}-{secrets.token_hex(4)}"
    with _Build(folder / "events", mapping, base) as build:
        build.take(todo, lives, on_records)
        _check_mapping(mapping, build.topics)
        fresh = build.finish()
        kept, merged, level = _tiers(base.runs) if fresh else (base.runs, [], 0)
        inputs = [*fresh, *(runs.RunFile(folder / "events" / file) for run in merged for file in run.files)]
        columns = typed.stored(build.types)
        tables = (typed.with_columns(build.con, table, columns) for table in runs.merge(inputs, columns=EVENTS.names))
        written = runs.write_run(folder / "events", name, tables) if fresh else []
    run = Run(level, sum(one.rows for one in written), [one.path.name for one in written], columns)
    holes = list(log.holes())
    for state in build.lives.values():
        state.lossy = _lossy(hole for life, hole in holes if life == state.life)
        state.segments = _standing(lives.get(state.life, []))
        state.seen = _end(state.life, lives.get(state.life, []))
        state.origin = _origin(lives.get(state.life, [])) or state.origin
    gaps = f"{name}-gaps.parquet"
    _write_gaps(folder / "events" / gaps, holes)
    new = Manifest(
        number=number,
        runs=[*kept, run] if run.rows else kept,
        lives=[build.lives[life] for life in sorted(build.lives)],
        topics=dict(sorted(build.topics.items())),
        aggregates=build.aggregates,
        types=build.types,
        gaps=gaps,
        transactions=_write_transactions(folder / "events", name, lives),
    )
    keep = _files(new)
    _retire(folder / "events", _files(last) - keep if last else ())
    _commit(folder / "events", new)
    _clean(folder / "events", keep)
    return new


def _rules_changed(manifest: Manifest, mapping: Mapping) -> bool:
    return any(mapping.fingerprint(topic) != counts.fingerprint for topic, counts in manifest.topics.items())


def _fresh(manifest: Manifest, lives: dict[Life, list[Segment]]) -> Iterator[tuple[Life, list[Reach]]]:
    """What the log holds that the manifest has not seen, by life: up to the first open transaction, which may yet be aborted."""
    seen = {state.life: state.covered for state in manifest.lives}
    for life, segments in lives.items():
        stable = Transactions(life, segments).stable_end
        walk = [Reach(one.segment, _seen_up_to(seen.get(life, []), one.start), min(one.next, stable)) for one in reaches(segments)]
        yield life, [one for one in walk if one.start < one.next]


def _end(life: Life, segments: list[Segment]) -> int:
    """Where a life that was read uncommitted ends: what comes later may tell how a transaction of before ended."""
    return max((one.footer.next for one in segments), default=0) if Transactions(life, segments).uncommitted else 0


def _origin(segments: list[Segment]) -> str:
    """Stands for the topic that these were captured from; "" where its source gave it no id."""
    told = {f"{one.footer.cluster_id} {one.footer.topic_id}" for one in segments if one.footer.topic_id is not None}
    return hashlib.sha256(min(told).encode()).hexdigest()[:8] if told else ""


def _moved(manifest: Manifest, lives: dict[Life, list[Segment]]) -> bool:
    """Whether the log holds the same events otherwise: markers came, or segments were merged. A new manifest then remembers what stands now."""
    known = {state.life: (state.seen, state.segments) for state in manifest.lives}
    return any(known.get(life) != (_end(life, segments), _standing(segments)) for life, segments in lives.items())


def _standing(segments: list[Segment]) -> dict[int, int]:
    """Each segment that adds something, by start, with the checksum of what it says of itself."""
    return {one.segment.footer.start: one.segment.footer.self_checksum for one in reaches(segments)}


def _seen_up_to(covered: list[tuple[int, int]], start: int) -> int:
    return next((next_ for low, next_ in covered if low <= start < next_), start)


def _filled_in(manifest: Manifest, lives: dict[Life, list[Segment]]) -> bool:
    known = {state.life: state.next for state in manifest.lives}
    return any(reach.start < known.get(life, 0) for life, fresh in _fresh(manifest, lives) for reach in fresh)


def _tiers(old: list[Run]) -> tuple[list[Run], list[Run], int]:
    """Which runs stay, which are merged with the new one, and its level.

    A binary counter: n snapshots write each row at most 1 + log2(n) times and leave at most that many runs.
    """
    kept, level = list(old), 0
    while kept and kept[-1].level == level:
        kept.pop()
        level += 1
    return kept, old[len(kept) :], level


def _complete(folder: Path, lives: dict[Life, list[Segment]], mapping: Mapping, say: Callable[[str], None]) -> Mapping:
    """The mapping with every captured topic in it: what was not configured is inferred, written down and said."""
    topics = dict(mapping.topics)
    for topic in sorted({life[0] for life in lives} - topics.keys() - {CONSUMER_OFFSETS}):
        told, remarks, said = infer(topic, _sample([segments for life, segments in lives.items() if life[0] == topic]))
        topics[topic] = told
        write_topic(folder, topic, told, remarks)
        say(said)
    return Mapping(topics, mapping.distrust)


def _sample(partitions: list[list[Segment]]) -> Iterator[tuple[bytes | None, bytes | None]]:
    for segments in partitions:
        left = max(1, SAMPLE // len(partitions))
        for table in (table for reach in reaches(segments) for table in reach.segment.read(["key", "value"])):
            head = table.slice(0, left)
            yield from zip(head["key"].to_pylist(), head["value"].to_pylist(), strict=True)
            left -= head.num_rows
            if left <= 0:
                break


def _check_mapping(mapping: Mapping, topics: dict[str, TopicCounts]) -> None:
    for topic, counts in topics.items():
        if counts.events and counts.unassigned == counts.events and mapping.topics[topic].aggregates:
            paths = " or ".join(format_path(path) for _, path in mapping.topics[topic].aggregates)
            raise ConfigError(
                f"lab.toml: topic {topic}: none of its {many(counts.events, 'event')} has {paths}; correct the id there. "
                "All that was captured is safe and is read again then"
            )


def _lossy(holes: Iterator[Hole]) -> dict[str, tuple[int, int, int]]:
    out: dict[str, tuple[int, int, int]] = {}
    for hole in holes:
        if hole.cause in LOSSY:
            count, first, _ = out.get(hole.cause, (0, hole.start, 0))
            out[hole.cause] = (count + hole.next - hole.start, first, hole.next)
    return out


# --- one build --------------------------------------------------------------------------------------------


class _Build:
    """One pass over new parts of the log: decoded, put in order, sorted in memory and, past one chunk, in spills."""

    def __init__(self, folder: Path, mapping: Mapping, base: Manifest) -> None:
        copy = msgspec.json.decode(msgspec.json.encode(base), type=Manifest)
        self.lives = {state.life: state for state in copy.lives}
        self.topics, self.types, self.aggregates = copy.topics, copy.types, copy.aggregates
        self._mapping = mapping
        self._folder = folder / f".spill-{os.getpid()}-{secrets.token_hex(4)}"
        self.con = session()
        self._engines = threading.local()
        self._spills: list[runs.Sorted] = []
        self._pending: list[pa.Table] = []
        self._rows = self._bytes = 0

    def __enter__(self) -> Self:
        self._folder.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        self.con.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def take(self, todo: Sequence[tuple[Life, Reach]], lives: dict[Life, list[Segment]], on_records: Callable[[int], None]) -> None:
        """Decode these parts of the log and keep their rows for the sort. Two threads decode ahead; order and counts follow the log's."""
        for life in lives:  # one whose records all wait for the end of a transaction is known all the same
            self.lives.setdefault(life, LifeState(*life))
            self.topics.setdefault(life[0], TopicCounts(self._mapping.fingerprint(life[0])))
        for life, reach in todo:
            state = self.lives.setdefault(life, LifeState(*life))
            state.covered = _cover(state.covered, reach.start, reach.next)
            counts = self.topics.setdefault(life[0], TopicCounts(self._mapping.fingerprint(life[0])))
            if life[0] in self._mapping.topics:
                counts.decimals = [format_path(path) for path in self._mapping.topics[life[0]].decimals]
            if life[0] == CONSUMER_OFFSETS:
                _count_commits(counts, reach, on_records)
        # Types are learned of several small parts at once: to ask for one takes as long as for thousands of events
        latest, waiting = list[typed.Part](), 0
        for life, records, (events, id_columns) in self._decoded([part for part in todo if part[0][0] != CONSUMER_OFFSETS], lives):
            told, counts = self._mapping.topics[life[0]], self.topics[life[0]]
            events = events.append_column("order_at", put_in_order(self.lives[life], records, events, self._mapping.distrust))
            rows = _by_aggregate(events, told, id_columns)
            _count(counts, records, events, rows)
            for one in pc.value_counts(rows["aggregate"]).to_pylist():
                if one["values"]:
                    self.aggregates[one["values"]] = self.aggregates.get(one["values"], 0) + one["counts"]
            latest.append((events, tuple(str(path[0]) for path in told.decimals if len(path) == 1)))
            waiting += len(events)
            if waiting > LEARNED_ROWS:
                typed.learn(self.con, self.types, latest)
                latest, waiting = [], 0
            self._keep(rows)
            on_records(records.num_rows)
        if latest:
            typed.learn(self.con, self.types, latest)

    def _decoded(
        self, todo: Sequence[tuple[Life, Reach]], lives: dict[Life, list[Segment]]
    ) -> Iterator[tuple[Life, pa.Table, tuple[pa.Table, list[pa.Array]]]]:
        parts = ((life, records) for life, reach in todo for records in self._held(life, lives[life], reach))
        waiting: deque[tuple[Life, pa.Table, Future[tuple[pa.Table, list[pa.Array]]]]] = deque()
        with ThreadPoolExecutor(DECODERS) as pool:
            for life, records in parts:
                waiting.append((life, records, pool.submit(self._decode, life, records)))
                if len(waiting) > DECODERS:
                    first, table, future = waiting.popleft()
                    yield first, table, future.result()
            for first, table, future in waiting:
                yield first, table, future.result()

    def _held(self, life: Life, segments: list[Segment], reach: Reach) -> Iterator[pa.Table]:
        def aborted(count: int) -> None:
            self.topics[life[0]].aborted += count

        return _held(life, segments, reach, aborted)

    def _decode(self, life: Life, records: pa.Table) -> tuple[pa.Table, list[pa.Array]]:
        if not hasattr(self._engines, "con"):
            self._engines.con = session()
        told = self._mapping.topics[life[0]]
        ids = [path for _, path in told.aggregates]
        return decode(self._engines.con, records, life=life, envelope=told.envelope, ids=ids, decimals=told.decimals)

    def finish(self) -> list[runs.Sorted]:
        """All that was taken, sorted."""
        rest = [runs.InMemory(runs.sort(pa.concat_tables(self._pending)))] if self._pending else []
        return [*self._spills, *rest]

    def _keep(self, rows: pa.Table) -> None:
        self._pending.append(rows)
        self._rows += rows.num_rows
        self._bytes += rows.nbytes
        if self._rows >= CHUNK_ROWS or self._bytes >= CHUNK_BYTES:
            self._spills.append(runs.spill(runs.sort(pa.concat_tables(self._pending)), self._folder))
            self._pending, self._rows, self._bytes = [], 0, 0


def _held(life: Life, segments: list[Segment], reach: Reach, on_aborted: Callable[[int], None]) -> Iterator[pa.Table]:
    """The records of a reach but for those of aborted transactions, which are counted."""
    transactions = Transactions(life, segments)
    for records in reach.read(_DECODED):
        if transactions.uncommitted:
            aborted = pc.fill_null(pc.equal(transactions.outcomes(records), "aborted"), False)
            on_aborted(pc.sum(aborted).as_py() or 0)
            records = records.filter(pc.invert(aborted))
        if records.num_rows:
            yield records


def between(log: Log, mapping: Mapping, low: Cut, high: Cut, order_ms: typing.Mapping[Life, int]) -> Iterator[pa.Table]:
    """The rows of what lies between two cuts, decoded from the log once more, in no order: those that `update` made of it, at the cost of that part of the log alone.

    `order_ms` is where the clock of each life stood at the lower cut. Writes nothing.
    """
    lives = log.lives()
    with session() as con:
        for life, next_ in high.offsets.items():
            start, told = low.offsets.get(life, 0), mapping.topics[life[0]]
            state = LifeState(*life, order_ms=order_ms.get(life))
            walk = [Reach(one.segment, max(one.start, start), min(one.next, next_)) for one in reaches(lives.get(life, []))]
            for reach in (one for one in walk if one.start < one.next):
                for records in _held(life, lives[life], reach, lambda count: None):
                    order = partial(put_in_order, state, records, distrust=mapping.distrust)
                    yield _rows(con, life, records, told, order)


def rows_of(con: duckdb.DuckDBPyConnection, life: Life, record: Record, told: TopicMapping, order_at: dt.datetime) -> pa.Table:
    """The rows that one record makes, as it stands at a time in the lab's order. `con` is only used to run expressions, in UTC."""
    return _rows(con, life, records_to_table([record]), told, lambda events: pa.array([order_at], EVENTS.field("order_at").type))


def _rows(
    con: duckdb.DuckDBPyConnection, life: Life, records: pa.Table, told: TopicMapping, order: Callable[[pa.Table], pa.Array]
) -> pa.Table:
    """The rows that records of one life make; `order` tells the place in time of each."""
    ids = [path for _, path in told.aggregates]
    events, id_columns = decode(con, records, life=life, envelope=told.envelope, ids=ids, decimals=told.decimals)
    return _by_aggregate(events.append_column("order_at", order(events)), told, id_columns)


def _cover(covered: list[tuple[int, int]], start: int, next_: int) -> list[tuple[int, int]]:
    """The ranges with one more, neighbours made one."""
    out: list[tuple[int, int]] = []
    for low, high in sorted([*covered, (start, next_)]):
        if out and low <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return out


def _by_aggregate(events: pa.Table, told: TopicMapping, id_columns: list[pa.Array]) -> pa.Table:
    """One row per (aggregate, event), the first of each record flagged.

    Tombstones and undecodable records belong to the aggregate that their key names, under the topic's first mapping; what belongs to none has "".
    """
    size = events.num_rows
    rows, names, ids = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [pa.array([], pa.string())]
    for number, ((_, path), column) in enumerate(zip(told.aggregates, id_columns, strict=True)):
        if EACH in path:
            parents, found = pc.list_parent_indices(column).to_numpy(), column.flatten()
        else:
            if number == 0:
                column = pc.if_else(pc.equal(events["kind"], EVENT), column, events["record_key"]).combine_chunks()
            parents, found = np.arange(size), column
        there = pc.fill_null(pc.not_equal(found, ""), False)
        kept = there.to_numpy(zero_copy_only=False)
        rows.append(parents[kept])
        names.append(np.full(kept.sum(), number))
        ids.append(found.filter(there))
        if EACH in path and number == 0:
            keyed = pc.and_(
                pc.not_equal(events["kind"], EVENT), pc.fill_null(pc.not_equal(events["record_key"], ""), False)
            ).combine_chunks()
            rows.append(np.flatnonzero(keyed.to_numpy(zero_copy_only=False)))
            names.append(np.full(len(rows[-1]), number))
            ids.append(events["record_key"].combine_chunks().filter(keyed))
    row, name, identity = np.concatenate(rows), np.concatenate(names), pa.concat_arrays(ids)
    aggregates = [aggregate for aggregate, _ in told.aggregates]
    name = np.array([aggregates.index(aggregate) for aggregate in aggregates], np.int64)[name] if aggregates else name
    belongs = np.zeros(size, np.bool_)
    belongs[row] = True
    alone = np.flatnonzero(~belongs)
    if len(told.aggregates) > 1 or any(EACH in path for _, path in told.aggregates):
        row, name, identity = _distinct(row, name, identity)
    row = np.concatenate([row, alone])
    aggregate = pc.take(pa.array([*aggregates, ""], pa.string()), pa.array(np.concatenate([name, np.full(len(alone), len(aggregates))])))
    identity = pa.concat_arrays([identity.cast(pa.string()), pa.repeat(pa.scalar("", pa.string()), len(alone))])
    order = np.argsort(row, kind="stable")
    first = np.empty(len(row), np.bool_)
    first[order] = np.diff(row[order], prepend=-1) > 0
    table = events.take(pa.array(row)).append_column("aggregate", aggregate).append_column("aggregate_id", identity)
    return table.append_column("first", pa.array(first)).select(EVENTS.names).cast(EVENTS)


def _distinct(row: np.ndarray, name: np.ndarray, identity: pa.Array) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """An event names each aggregate once, however many paths lead to it; what stays is in the order of the mapping."""
    table = pa.table({"row": row, "name": name, "id": identity, "at": np.arange(len(row))})
    kept = np.sort(table.group_by(["row", "name", "id"]).aggregate([("at", "min")])["at_min"].to_numpy())
    return row[kept], name[kept], identity.take(pa.array(kept))


# --- what was found ---------------------------------------------------------------------------------------


def _count(counts: TopicCounts, records: pa.Table, events: pa.Table, rows: pa.Table) -> None:
    kinds = {one["values"]: one["counts"] for one in pc.value_counts(events["kind"]).to_pylist()}
    counts.records += events.num_rows
    counts.events += kinds.get(EVENT, 0)
    counts.tombstones += kinds.get(TOMBSTONE_KIND, 0)
    counts.undecodable += kinds.get(UNDECODABLE, 0)
    counts.unassigned += pc.sum(pc.and_(pc.equal(rows["aggregate"], ""), pc.equal(rows["kind"], EVENT))).as_py() or 0
    counts.bytes += records["value"].nbytes + records["key"].nbytes
    span = pc.min_max(events["order_at"].cast(pa.int64())).as_py()
    counts.first_us = span["min"] if counts.first_us is None else min(counts.first_us, span["min"])
    counts.last_us = span["max"] if counts.last_us is None else max(counts.last_us, span["max"])


def _count_commits(counts: TopicCounts, reach: Reach, on_records: Callable[[int], None]) -> None:
    reader = CommitReader()
    for records in reach.read(["offset", "timestamp_ms", "key", "value"]):
        reader.add(records)
        counts.records += records.num_rows
        counts.bytes += records["value"].nbytes + records["key"].nbytes
        on_records(records.num_rows)
    found = reader.result()
    counts.commits += len(found.place)
    counts.malformed += found.malformed


# --- committing -------------------------------------------------------------------------------------------


def _files(manifest: Manifest) -> set[str]:
    """Every file in `events/` that this manifest is or names."""
    return {
        manifest_name(manifest.number),
        *filter(None, [manifest.gaps, manifest.transactions]),
        *(name for run in manifest.runs for name in run.files),
    }


def _write_gaps(path: Path, holes: list[tuple[Life, Hole]]) -> None:
    columns = list(zip(*((*life, hole.start, hole.next, hole.cause) for life, hole in holes), strict=True)) or [()] * 6
    schema = pa.schema([("topic", pa.string()), ("partition_id", pa.int32()), ("incarnation", pa.int32()), ("start_offset", pa.int64()), ("next_offset", pa.int64()), ("cause", pa.string())])  # fmt: skip
    temporary = path.with_name(f".tmp-{path.name}")
    with enough_disk(temporary):
        pq.write_table(
            pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema), temporary
        )
        commit_file(temporary, path)


def _write_transactions(folder: Path, name: str, lives: dict[Life, list[Segment]]) -> str | None:
    """The markers of what was read uncommitted, so that SQL can tell the outcome of each record; None where there are none."""
    tables = [told.table() for told in (Transactions(life, segments) for life, segments in lives.items()) if told.uncommitted]
    if not tables:
        return None
    path = folder / f"{name}-transactions.parquet"
    temporary = path.with_name(f".tmp-{path.name}")
    with enough_disk(temporary):
        pq.write_table(pa.concat_tables(tables), temporary)
        commit_file(temporary, path)
    return path.name


def _commit(folder: Path, manifest: Manifest) -> None:
    temporary = folder / f".tmp-manifest-{secrets.token_hex(4)}"
    with enough_disk(temporary):
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        commit_file(temporary, folder / manifest_name(manifest.number))


def _retire(folder: Path, names: Iterable[str]) -> None:
    """Let the day begin for which these stay, for readers that hold the manifest which names them."""
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.utime(folder / name)


def _clean(folder: Path, keep: Collection[str]) -> None:
    """Remove what no manifest named within the last day. No older manifest is read for that: a long `follow` makes one every other second."""
    old = time.time() - KEEP_S
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.name not in keep and path.stat().st_mtime < old:
                path.unlink()


def sweep(folder: Path) -> None:
    """Remove what a build left that died: its names begin with a dot. The caller holds the writer's lock, so no other runs now."""
    for path in [*(folder / "events").glob(".*"), *folder.glob(".lab.toml-*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
