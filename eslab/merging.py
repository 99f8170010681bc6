"""Small segments into larger ones, while readers read.

A capture that follows its source commits a segment every few seconds. Eight neighbours of one level become one of the next, so that each record is
written again at most a few times. The merged file takes the place of the first by renaming; a reader that opened the log before still finds all
others under their names, trims what it reads to the range that it knows, and loses nothing. A day later the others are removed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

from eslab.checksums import Checksums
from eslab.errors import CorruptLog
from eslab.segment_writer import SegmentWriter
from eslab.segments import Log, Reach, Segment, reaches
from eslab.sources import RECORDS, Chunk

__all__ = ["merge"]

NEIGHBOURS: Final = 8  # as many small files become one: log8 of the number of segments is how often a record is written
SEGMENT_BYTES: Final = 64 << 20  # of files: larger ones gain nothing
KEEP_S: Final = 24 * 3600  # how long merged files stay for readers that opened the log before


def merge(log: Log) -> list[Segment]:
    """Merge what there is to merge, remove what was merged a day ago, and return the new segments. The caller holds the writer's lock.

    Raises `CorruptLog` rather than merge what is not what was committed: damage must not get a new checksum.
    """
    made = []
    for segments in log.lives().values():
        while run := _next_run(reaches(segments)):
            merged = _merge(log, run)
            made.append(merged)
            segments = [merged if one.path == merged.path else one for one in segments]
        _remove_old(segments)
    return made


def _next_run(walk: Iterable[Reach]) -> list[Segment]:
    """The first neighbours that are to become one: of one level, told alike, small together."""
    run: list[Segment] = []
    for reach in walk:
        segment = reach.segment
        if run and not _fits(run[-1], segment, reach):
            run = []
        run.append(segment)
        if len(run) == NEIGHBOURS:
            if sum(one.path.stat().st_size for one in run) <= SEGMENT_BYTES:
                return run
            run = run[1:]
    return []


def _fits(last: Segment, segment: Segment, reach: Reach) -> bool:
    names = ("level", "source", "isolation", "topic_id", "cluster_id")
    alike = all(getattr(last.footer, name) == getattr(segment.footer, name) for name in names)
    return alike and last.footer.next == segment.footer.start == reach.start


def _merge(log: Log, run: list[Segment]) -> Segment:
    first = run[0].footer
    facts = {name: getattr(first, name) for name in ("source", "isolation", "topic_id", "cluster_id")}
    writer = SegmentWriter(log, first.life, first.start, before=first.before, facts=facts)
    try:
        for segment in run:
            for chunk in _chunks(segment):
                writer.append(chunk)
        starts = [start for segment in run for start in (segment.footer.start, *segment.footer.merged)]
        return writer.commit(replaces=sorted(set(starts)), level=first.level + 1)
    except BaseException:
        writer.abort()
        raise


def _chunks(segment: Segment) -> Iterator[Chunk]:
    """The segment as a source would have answered it, row group by row group; its holes and markers go with the records before them."""
    footer, sums = segment.footer, Checksums()
    tables = list(segment.read())  # some MB: the first level's are small, and larger ones are bounded by SEGMENT_BYTES
    at = footer.start
    for number, table in enumerate(tables, 1):
        sums.add(table)
        next_ = footer.next if number == len(tables) else int(table["offset"][-1].as_py()) + 1
        yield _chunk(segment, at, next_, table)
        at = next_
    if sums.differ(footer.checksums):
        raise CorruptLog(f"{segment.path}: its content is not what was committed, so it is not merged; run `eslab verify`")
    if at < footer.next:
        yield _chunk(segment, at, footer.next, RECORDS.empty_table())


def _chunk(segment: Segment, start: int, next_: int, table: pa.Table) -> Chunk:
    footer = segment.footer
    holes = tuple(hole for hole in footer.holes if start <= hole.start < next_)
    markers = tuple(marker for marker in footer.markers if start <= marker.offset < next_)
    last = footer.last_leader_epoch if next_ == footer.next else None
    return Chunk(footer.topic, footer.partition, start, next_, table, holes, markers, () if last is None else ((last, next_),))


def _remove_old(segments: list[Segment]) -> None:
    """Remove the files whose records stand in a merged one that is older than a day."""
    by_start = {segment.footer.start: segment for segment in segments}
    for merged in segments:
        if not merged.footer.merged or not _older(merged.path):
            continue
        for start in merged.footer.merged:
            old = by_start.get(start)
            if old is not None and old is not merged and old.footer.next <= merged.footer.next:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(old.path)  # noqa: PTH108 - the tests of crashes count the steps of os


def _older(path: Path) -> bool:
    return path.stat().st_mtime < time.time() - KEEP_S
