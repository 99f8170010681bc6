"""From a source to segments: resumable, exactly once, and never gluing two lives of a partition together.

Plan, then do: `plan` decides from the log and the source's own description what to read into which incarnation;
`capture` reads it and yields each segment as it is committed. The caller holds the writer's lock.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from eslab.errors import EslabError, SourceChanged
from eslab.model import Life
from eslab.segment_writer import SegmentWriter
from eslab.segments import Log, Segment, reaches, uncovered
from eslab.sources import RECORDS, Chunk, Hole, Partition, Source, TopicPartition
from eslab.wording import many

__all__ = ["CapturePlan", "Offsets", "Part", "capture", "plan"]

SEGMENT_BYTES = 32 << 20  # one fsynced file a response is as slow as the bare loop; tens of MB are not
SEGMENT_S = 10.0  # what a killed capture has to read again, at most
WRITES_AHEAD = 2  # row groups that wait to be written
FOLLOW_S = 0.5  # between two looks at the ends of an idle source

Offsets = int | Mapping[TopicPartition, int]
"""An offset for every partition, or one for each (partitions not named: no bound)."""

Leader = tuple[int, int]
"""A leader epoch, and the offset after the last batch that is held of it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One range of offsets `[start, stop)` to read into one life; `before` explains what no segment holds in front of it."""

    life: Life
    start: int
    stop: int
    before: tuple[Hole, ...]
    facts: dict[str, Any]
    leader: Leader | None = None
    """The last leader of this life that the log knows, and where the log of it ends: as far as that the source must hold what it held."""


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """What a capture will read, and what it has to say about it."""

    parts: tuple[Part, ...]
    notices: tuple[str, ...] = ()
    news: tuple[str, ...] = ()
    """Those of the notices that a capture which follows its source must hear of, too."""
    ends: dict[Life, int] = field(default_factory=dict)

    @property
    def offsets(self) -> int:
        """How many offsets there are to read (records, at most)."""
        return sum(part.stop - part.start for part in self.parts)


def plan(
    source: Source, log: Log, topics: Sequence[str] | None, *, start: Offsets | None = None, stop: Offsets | None = None
) -> CapturePlan:
    """Decide what to read: what lies in `[start, stop)` and is not in the log yet.

    Without `start`: from where the log ends, or from the log start of a partition never captured. Raises what
    `Source.partitions` raises. Writes nothing.
    """
    lives = log.lives()
    parts: list[Part] = []
    notices: list[str] = []
    waiting: list[str] = []
    ends: dict[Life, int] = {}
    for partition in source.partitions(topics):
        incarnation, word = _incarnation(source, partition, lives)
        life = (partition.topic, partition.partition, incarnation)
        notices += [f"{partition.topic}[{partition.partition}]: {word}"] if word else []
        if partition.high_watermark > partition.end:
            held = partition.high_watermark - partition.end
            waiting.append(
                f"{partition.topic}[{partition.partition}]: {many(held, 'offset')} from {partition.end} on, held back by an open transaction"
            )
        asked = _bound(start, partition)
        covered = [(reach.start, reach.next) for reach in reaches(lives.get(life, []))]
        low = asked if asked is not None else covered[-1][1] if covered else partition.log_start
        high = min(partition.end, bound) if (bound := _bound(stop, partition)) is not None else partition.end
        facts = {"source": source.url, "isolation": source.isolation, "topic_id": partition.topic_id, "cluster_id": partition.cluster_id}
        ends[life] = high
        for begin, end in uncovered(max(low, 0 if covered else partition.log_start), high, covered):
            told = max((next_ for _, next_ in covered if next_ <= begin), default=0)
            parts.append(Part(life, begin, end, tuple(_before(told, begin, partition.log_start)), facts, _last_leader(lives.get(life, []))))
    return CapturePlan(tuple(parts), tuple(notices + waiting), tuple(notices), ends)


def _bound(bound: Offsets | None, partition: Partition) -> int | None:
    if bound is None or isinstance(bound, int):
        return bound
    return bound.get((partition.topic, partition.partition))


def _before(told: int, start: int, log_start: int) -> Iterator[Hole]:
    """Why nothing is held in `[told, start)`: the broker no longer has it, or nobody asked."""
    lost = min(max(log_start, told), start)
    if told < lost:
        yield Hole(told, lost, "retention")
    if lost < start:
        yield Hole(lost, start, "not requested")


# --- identity -------------------------------------------------------------------------------------


def _incarnation(source: Source, now: Partition, lives: Mapping[Life, Sequence[Segment]]) -> tuple[int, str]:
    """Which life of the partition the source holds now, and a word if that deserves one.

    The topic's id decides, then the end of the last captured leader epoch, which wins over an equal id (a log truncated under
    the same id). Where the source has no ids, the log's end and the records that both still have decide.
    """
    known = sorted((life for life in lives if life[:2] == (now.topic, now.partition)), reverse=True)
    if not known:
        return 0, ""
    fresh = known[0][2] + 1
    for life in known:
        last = max(lives[life], key=lambda segment: segment.footer.next).footer
        if now.topic_id is None or last.topic_id is None:
            return _by_content(source, now, life, lives[life], fresh)
        if (now.topic_id, now.cluster_id) != (last.topic_id, last.cluster_id):
            continue
        leader = _last_leader(lives[life])
        end = source.epoch_end(now.topic, now.partition, leader[0]) if leader else None
        held = leader[1] if leader and end is not None else last.next
        if (end if end is not None else now.high_watermark) < held:
            return fresh, f"truncated below offset {held}, which was captured; what comes now is incarnation {fresh}"
        return life[2], ""
    return fresh, f"deleted and made anew, or another cluster's; what comes now is incarnation {fresh}"


def _last_leader(segments: Sequence[Segment]) -> Leader | None:
    """Of the last segment that knows it: where retention took the end of one away, nothing tells who wrote that."""
    told = [(one.footer.next, one.footer.last_leader_epoch) for one in segments if one.footer.last_leader_epoch is not None]
    return max(((epoch, next_) for next_, epoch in told), key=lambda leader: leader[1], default=None)


def _by_content(source: Source, now: Partition, life: Life, segments: Sequence[Segment], fresh: int) -> tuple[int, str]:
    walk = reaches(segments)
    next_ = walk[-1].next
    if now.high_watermark < next_:
        return fresh, f"ends at {now.high_watermark}, below offset {next_} that was captured; what comes now is incarnation {fresh}"
    overlap = max(now.log_start, walk[0].start)
    if overlap >= next_:
        return life[2], f"continuity unproven: the source no longer has any offset below {next_}, so nothing shows that it is the same log"
    ours = (table for reach in walk for table in reach.read(_IDENTITY) if table["offset"][-1].as_py() >= overlap)
    theirs = (chunk.records for chunk in source.read({(now.topic, now.partition): (overlap, next_)}))
    at = _first_difference(ours, theirs, overlap)
    if at is None:
        return life[2], ""
    return fresh, f"the record at offset {at} is not the one captured before; what comes now is incarnation {fresh}"


_IDENTITY = ["offset", "timestamp_ms", "key", "value", "headers"]


def _first_difference(ours: Iterator[pa.Table], theirs: Iterator[pa.Table], low: int) -> int | None:
    """The first offset that both hold with different content, or that only the source holds. Ours may hold more: compaction."""
    held = _Rows(ours)
    for table in theirs:
        if not table.num_rows:
            continue
        table = table.select(_IDENTITY)
        first, last = table["offset"][0].as_py(), table["offset"][-1].as_py()
        mine = held.between(max(first, low), last + 1)
        mine = mine.filter(pc.is_in(mine["offset"], table["offset"].combine_chunks()))
        if mine.num_rows != table.num_rows:
            only = table.filter(pc.invert(pc.is_in(table["offset"], mine["offset"].combine_chunks())))
            return int(only["offset"][0].as_py())
        if not mine.equals(table):
            pairs = zip(mine.to_pylist(), table.to_pylist(), strict=True)
            return next((int(left["offset"]) for left, right in pairs if left != right), None)
    return None


class _Rows:
    """A stream of tables, asked for ranges of ascending offsets."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._kept = pa.schema([RECORDS.field(name) for name in _IDENTITY]).empty_table()

    def between(self, start: int, stop: int) -> pa.Table:
        while not self._kept.num_rows or self._kept["offset"][-1].as_py() < stop - 1:
            table = next(self._tables, None)
            if table is None:
                break
            self._kept = pa.concat_tables([self._kept, table.select(_IDENTITY).cast(self._kept.schema)])
        self._kept = self._kept.filter(pc.greater_equal(self._kept["offset"], start))
        return self._kept.filter(pc.less(self._kept["offset"], stop)).combine_chunks()


# --- reading --------------------------------------------------------------------------------------


def capture(
    source: Source,
    log: Log,
    first: CapturePlan,
    *,
    again: Callable[[], CapturePlan] | None = None,
    on_chunk: Callable[[Chunk], None] = lambda chunk: None,
    say: Callable[[str], None] = lambda notice: None,
) -> Iterator[Segment]:
    """Read what the plan names and yield each segment once it is committed.

    `again` makes the next plan of a capture that follows its source; without it the capture ends with the first. Whatever ends
    it early (an error, Ctrl-C), whole chunks that were read are committed first, if the source is still what it was; closing
    the iterator commits nothing more. Memory is bounded by two row groups a partition. `say` hears at once of what retention takes away meanwhile.
    """
    log.sweep()
    todo: CapturePlan | None = first
    with _Background() as background:
        while todo is not None:
            began = time.monotonic()
            for round_ in _rounds(todo.parts):
                yield from _read(source, log, round_, on_chunk, say, background)
            if again is None:
                return
            time.sleep(max(0.0, FOLLOW_S - (time.monotonic() - began)))  # a trickle must not become a file a record
            todo = again()


class _Background:
    """One thread that writes row groups while the next are fetched and decoded. Few wait for it, so that memory stays bounded."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "eslab-writer")
        self._waiting: deque[Future[None]] = deque()

    def __call__(self, work: Callable[[], None]) -> Future[None]:
        while len(self._waiting) >= WRITES_AHEAD:
            wait([self._waiting[0]])
            self._waiting.popleft()
        self._waiting.append(self._pool.submit(work))
        return self._waiting[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def _rounds(parts: Sequence[Part]) -> Iterator[dict[TopicPartition, Part]]:
    """The parts as rounds that name each partition at most once."""
    by_partition: dict[TopicPartition, list[Part]] = {}
    for part in parts:
        by_partition.setdefault(part.life[:2], []).append(part)
    for row in zip_longest(*by_partition.values()):
        yield {part.life[:2]: part for part in row if part}


def _read(
    source: Source,
    log: Log,
    parts: Mapping[TopicPartition, Part],
    on_chunk: Callable[[Chunk], None],
    say: Callable[[str], None],
    background: _Background,
) -> Iterator[Segment]:
    writers: dict[TopicPartition, SegmentWriter] = {}
    leaders = {place: part.leader for place, part in parts.items()}
    try:
        for chunk in source.read({place: (part.start, part.stop) for place, part in parts.items()}):
            place = (chunk.topic, chunk.partition)
            part = parts[place]
            writer = writers.get(place)
            if writer is None:
                before = part.before if chunk.start == part.start else ()
                writer = writers[place] = SegmentWriter(log, part.life, chunk.start, before=before, facts=part.facts, background=background)
            writer.append(chunk)
            on_chunk(chunk)
            for notice in _lost(chunk, of_a_broker=source.isolation != "none"):
                say(notice)
            if writer.bytes >= SEGMENT_BYTES or time.monotonic() - writer.opened >= SEGMENT_S or chunk.next == part.stop:
                yield _commit(source, writers, leaders, part)
    except GeneratorExit:
        raise
    except BaseException:
        with contextlib.suppress(EslabError):  # what ended the capture is what the caller must hear of
            for place in [place for place, writer in writers.items() if writer.whole]:
                _commit(source, writers, leaders, parts[place])
        raise
    finally:
        for writer in writers.values():
            writer.abort()


def _lost(chunk: Chunk, *, of_a_broker: bool) -> Iterator[str]:
    """What to say at once of the holes of a chunk."""
    for hole in chunk.holes:
        range_ = f"{chunk.topic}[{chunk.partition}]: offsets {hole.start}–{hole.next - 1}"
        if hole.cause == "retention":
            yield (
                f"{range_} are lost: retention removed them before they were captured; histories of keys in that range are partial. Capture more often, or raise retention.ms"
            )
        elif hole.cause == "unknown" and of_a_broker:  # of a file it is a blank line
            yield (
                f"{range_} are in the log by the broker's own account, and it gives nothing of them: a gap of unknown cause. Look at the broker's own "
                "log, and at the partition with kafka-dump-log.sh"
            )


def _commit(
    source: Source, writers: dict[TopicPartition, SegmentWriter], leaders: dict[TopicPartition, Leader | None], part: Part
) -> Segment:
    """Commit one writer, after asking once more whether its partition still is what it was when the reading began."""
    place = part.life[:2]
    writer = writers.pop(place)
    held = [*filter(None, [leaders[place]]), *writer.epochs.items()]
    try:
        _still_there(source, part, held)
        leaders[place] = max(held, default=None)
        return writer.commit()
    except BaseException:
        writer.abort()
        raise


def _still_there(source: Source, part: Part, held: Sequence[Leader]) -> None:
    """Raise `SourceChanged` unless the partition is the one that the reading began with, and has all that is held of each leader."""
    topic, number, _ = part.life
    now = next((one for one in source.partitions([topic]) if one.partition == number), None)
    if now is None or (now.topic_id, now.cluster_id) != (part.facts["topic_id"], part.facts["cluster_id"]):
        raise SourceChanged(
            f"{topic}[{number}] was deleted and made anew while it was captured; what was committed before stands, the rest of it is lost. "
            "Run the same again to capture the new one"
        )
    for epoch, next_ in held:
        end = source.epoch_end(topic, number, epoch)
        if end is not None and end < next_:
            raise SourceChanged(
                f"{topic}[{number}] was truncated below offset {next_} while it was captured: another leader took over without what the last one "
                "had; what was committed before stands. Run the same again to capture what there is now"
            )
