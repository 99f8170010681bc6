"""Where consumer groups stood: samples, kept in the lab as Parquet files that are written once, and the commits in a captured `__consumer_offsets`."""

from __future__ import annotations

import datetime as dt
import os
import uuid
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eslab.decode import LATEST_MS
from eslab.decode.consumer_offsets import NONE, CommitReader, Commits
from eslab.durable import enough_disk
from eslab.errors import UnknownGroup
from eslab.segments import Log, reaches
from eslab.sources import CONSUMER_OFFSETS, TopicPartition

__all__ = ["SAMPLES", "DecodedCommits", "by_time", "of_group", "read_commits", "read_samples", "write_samples"]

_TIME = pa.timestamp("us", tz="UTC")

_FIELDS: list[pa.Field[Any]] = [
    pa.field("group", pa.string(), nullable=False),
    pa.field("topic", pa.string(), nullable=False),
    pa.field("partition", pa.int32(), nullable=False),
    pa.field("committed", pa.int64()),
    pa.field("log_start", pa.int64()),
    pa.field("log_end", pa.int64()),
    pa.field("sampled_at", _TIME, nullable=False),
    pa.field("committed_at", _TIME),
    pa.field("origin", pa.string(), nullable=False),
]
SAMPLES = pa.schema(_FIELDS)
"""One row: where a group stood on a partition at one moment.

`committed` is the next offset the group will read (null: it has committed none), `committed_at` when it said so (null: unknown).
`log_start` and `log_end` bound the partition then (null: not asked). `origin` is demo, watch or commits.
"""


def of_group(samples: pa.Table, group: str) -> pa.Table:
    """The samples of one group. Raises `UnknownGroup` if there are none."""
    known = sorted(samples["group"].unique().to_pylist())
    if group not in known:
        there = ", ".join(known) or "none: watch a cluster with `eslab watch`, or snapshot its __consumer_offsets"
        raise UnknownGroup(f"the lab has no positions of a group {group!r}; it has {there}")
    return samples.filter(pc.equal(samples["group"], group))


def write_samples(folder: str | Path, table: pa.Table) -> Path:
    """Commit the samples as one new file under `folder`/samples and return it; the file is there whole or not at all.

    It is named by its first `sampled_at`, with a number behind where that name is taken. Raises `ValueError` without rows,
    or with columns other than `SAMPLES`.
    """
    if not table.num_rows:
        raise ValueError("there are no samples to write")
    table = table.select(SAMPLES.names).cast(SAMPLES)
    first: dt.datetime = pc.min(table["sampled_at"]).cast(pa.timestamp("s", tz="UTC"), safe=False).as_py()
    samples = Path(folder) / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    temporary = samples / f".{uuid.uuid4().hex}.tmp"
    try:
        with enough_disk(temporary), temporary.open("xb") as file:
            pq.write_table(table, file, compression="zstd", compression_level=1)
            file.flush()
            os.fsync(file.fileno())
        return _link(temporary, samples, f"{first:%Y%m%dT%H%M%SZ}")
    finally:
        temporary.unlink(missing_ok=True)


def _link(temporary: Path, folder: Path, name: str) -> Path:
    """Give the file the first free of `name`, `name-1`, ...: a link, for a rename would replace what stands there."""
    for nth in count():
        path = folder / f"{name}{f'-{nth}' if nth else ''}.parquet"
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            continue
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return path
    raise AssertionError("count() does not end")


def read_samples(folder: str | Path, log: Log | None = None) -> pa.Table:
    """Every known sample of the lab in `folder`, by time, group, topic and partition: what stands in samples/, and the commits that its log holds.

    An empty table where there is none. `log` is the lab's, where the caller has read its footers already. Decodes all captured commits: 1 M in about a second.
    """
    folder = Path(folder)
    files = sorted((folder / "samples").glob("*.parquet"))
    tables = [pq.ParquetFile(file).read().select(SAMPLES.names).cast(SAMPLES) for file in files]  # 1 ms a file, where read_table takes 1.6
    return by_time(pa.concat_tables([SAMPLES.empty_table(), *tables, read_commits(log or Log(folder / "log")).samples]))


def by_time(samples: pa.Table) -> pa.Table:
    """The samples in their usual order: by time, group, topic and partition; equal ones as they stood."""
    return samples.take(pa.array(np.lexsort((_places(samples), samples["sampled_at"].cast(pa.int64()).to_numpy()))))


def _places(samples: pa.Table) -> np.ndarray:
    """A number for each row, equal for equal (group, topic, partition) and ordered as they are: to sort by it is four times faster than by texts."""
    groups, topics = _ranks(samples["group"]), _ranks(samples["topic"])
    partitions = samples["partition"].to_numpy().astype(np.int64)
    places: np.ndarray = (groups * (topics.max(initial=0) + 1) + topics) * (partitions.max(initial=0) + 1) + partitions
    return places


def _ranks(texts: pa.ChunkedArray) -> np.ndarray:
    encoded = texts.combine_chunks().dictionary_encode()
    ranks = np.empty(len(encoded.dictionary), np.int64)
    ranks[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(ranks))
    of_rows: np.ndarray = ranks[encoded.indices.to_numpy()]
    return of_rows


# --- commits --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DecodedCommits:
    """What `__consumer_offsets` tells, as `SAMPLES`, and what of it was left out.

    `others` are records that are no commits or are in a version that this eslab does not know, `malformed` those that are not what they say, `of_former_lives`
    commits on a topic that was deleted and made anew since.
    """

    samples: pa.Table
    others: int = 0
    malformed: int = 0
    of_former_lives: int = 0


def read_commits(log: Log) -> DecodedCommits:
    """The commits in the newest incarnation of `__consumer_offsets`; nothing where it was not captured.

    `sampled_at` is when the broker took the commit, or for one that was taken back (then `committed` is null), when it wrote that down. Of several commits of a
    group on one partition in one millisecond the last stands.
    """
    lives = log.lives()
    newest = {(topic, partition): (topic, partition, incarnation) for topic, partition, incarnation in sorted(lives)}
    reader = CommitReader()
    for life in newest.values():
        if life[0] == CONSUMER_OFFSETS:
            for reach in reaches(lives[life]):
                for table in reach.read(["offset", "timestamp_ms", "key", "value"]):
                    reader.add(table)
    commits = reader.result()
    ids = {place: max(lives[life], key=lambda one: one.footer.next).footer.topic_id for place, life in newest.items()}
    former = _of_former_lives(commits, ids)
    return DecodedCommits(_as_samples(commits, ~former), commits.others, commits.malformed, int(former.sum()))


def _of_former_lives(commits: Commits, topic_ids: dict[TopicPartition, str | None]) -> np.ndarray:
    """Which commits name a topic's id that is not that of the newest captured life of their partition."""
    now = np.array([topic_ids.get((topic, partition)) or "" for _, topic, partition in commits.places] or [""])[commits.place]
    then = np.array([*(one.hex() for one in commits.topic_ids), ""])[commits.topic_id]
    former: np.ndarray = (now != "") & (then != "") & (now != then)
    return former


def _as_samples(commits: Commits, kept: np.ndarray) -> pa.Table:
    place, offset, commit_ms = commits.place[kept], commits.offset[kept], commits.commit_ms[kept]
    commit_ms = np.where(commit_ms > LATEST_MS, NONE, commit_ms)  # no time that anything could show
    sampled_ms = np.clip(np.where(commit_ms == NONE, commits.record_ms[kept], commit_ms), 0, LATEST_MS)
    groups, topics, partitions = zip(*commits.places, strict=True) if commits.places else ((), (), ())
    which, size = pa.array(place), len(place)
    columns = {
        "group": pa.array(groups, pa.string()).take(which),
        "topic": pa.array(topics, pa.string()).take(which),
        "partition": pa.array(partitions, pa.int32()).take(which),
        "committed": pa.array(offset, mask=offset == NONE),
        "log_start": pa.nulls(size, pa.int64()),
        "log_end": pa.nulls(size, pa.int64()),
        "sampled_at": pa.array(sampled_ms * 1000).cast(_TIME),
        "committed_at": pa.array(commit_ms * 1000, mask=commit_ms == NONE).cast(_TIME),
        "origin": pa.repeat("commits", size),
    }
    samples = pa.table(columns, schema=SAMPLES)
    order = np.lexsort((place, sampled_ms))
    last = np.append((np.diff(place[order]) != 0) | (np.diff(sampled_ms[order]) != 0), True)[:size]  # numpy 2: bool with bool
    return samples.take(pa.array(np.sort(order[last])))
