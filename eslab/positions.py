"""Where consumer groups stood: samples, kept in the lab as Parquet files that are written once."""

from __future__ import annotations

import datetime as dt
import os
import uuid
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["SAMPLES", "by_time", "read_samples", "write_samples"]

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
        with temporary.open("xb") as file:
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


def read_samples(folder: str | Path) -> pa.Table:
    """Every sample of the lab in `folder`, by time, group, topic and partition; an empty table where there is none."""
    files = sorted((Path(folder) / "samples").glob("*.parquet"))
    tables = [pq.read_table(file, schema=SAMPLES) for file in files]
    return by_time(pa.concat_tables([SAMPLES.empty_table(), *tables]))


def by_time(samples: pa.Table) -> pa.Table:
    """The samples in their usual order: by time, group, topic and partition."""
    return samples.sort_by([("sampled_at", "ascending"), ("group", "ascending"), ("topic", "ascending"), ("partition", "ascending")])
