"""Where consumer groups stood, on disk: sample files that are written once, read without a lock, and merged when they are many.

The format is told in docs/format.md. A file appears under its name whole or not at all; a merge puts the merged file in the place of its first by renaming, and
a footer says which files stand in it, so that a reader counts none twice whatever a killed merge left.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eslab.checksums import Checksums
from eslab.durable import enough_disk, replace_file, sync
from eslab.errors import CorruptLog
from eslab.segments import DAMAGED, self_checksum

__all__ = ["SAMPLES", "check_samples", "merge_samples", "read_files", "write_samples"]

FORMAT_VERSION: Final = 1
NEIGHBOURS: Final = 8
"""As many files of one level become one: a day of minute files is read as a dozen, and each row is written again four times."""
MERGED_BYTES: Final = 64 << 20  # of files: larger ones gain nothing
STALE_S: Final = 3600  # a temporary file that is older was left by a process that was killed: none takes so long to write
TRIES: Final = 20  # how often a reader begins again because a merge took away what it had just listed

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


class SampleFooter(msgspec.Struct, frozen=True, kw_only=True):
    """What a sample file says of itself, in its Parquet metadata under the key `eslab`."""

    format_version: int = FORMAT_VERSION
    rows: int
    level: int = 0
    """How often its rows were merged."""
    merged: dict[str, int] = {}
    """The files that stand in this one, by name, each with the checksum of its own footer: another file may come under a name that is free again."""
    checksums: dict[str, int] = {}
    """CRC-32C of each column's content, as in a segment."""
    self_checksum: int = 0


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    footer: SampleFooter


# --- writing --------------------------------------------------------------------------------------


def write_samples(folder: str | Path, table: pa.Table) -> Path:
    """Commit the samples as one new file under `folder`/samples and return it; the file is there whole or not at all.

    It is named by its first `sampled_at`, with a number behind where that name is taken. Makes the folder a lab. Raises `ValueError` without rows,
    or with columns other than `SAMPLES`.
    """
    if not table.num_rows:
        raise ValueError("there are no samples to write")
    table = table.select(SAMPLES.names).cast(SAMPLES)
    samples = Path(folder) / "samples"
    (Path(folder) / "log").mkdir(parents=True, exist_ok=True)  # what makes a folder a lab
    samples.mkdir(parents=True, exist_ok=True)
    temporary = _write(samples, table)
    try:
        return _link(temporary, samples, _name(table))
    finally:
        temporary.unlink(missing_ok=True)


def _name(table: pa.Table) -> str:
    first: dt.datetime = pc.min(table["sampled_at"]).cast(pa.timestamp("s", tz="UTC"), safe=False).as_py()
    return f"{first:%Y%m%dT%H%M%SZ}"


def _write(samples: Path, table: pa.Table, *, level: int = 0, merged: dict[str, int] | None = None) -> Path:
    """A temporary file with these rows, on disk."""
    sums = Checksums()
    sums.add(table)
    footer = SampleFooter(rows=table.num_rows, level=level, merged=merged or {}, checksums=sums.result())
    footer = msgspec.structs.replace(footer, self_checksum=self_checksum(msgspec.json.encode(footer)))
    temporary = samples / f".{os.getpid()}-{secrets.token_hex(8)}.tmp"
    try:
        with enough_disk(temporary):
            with pq.ParquetWriter(
                temporary, SAMPLES, compression="zstd", compression_level=1, write_page_checksum=True, store_schema=False
            ) as writer:
                writer.write_table(table)
                writer.add_key_value_metadata({"eslab": msgspec.json.encode(footer).decode()})
            sync(temporary)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _link(temporary: Path, folder: Path, name: str) -> Path:
    """Give the file the first free of `name`, `name-1`, ...: a link, for a rename would replace what stands there."""
    for nth in count():
        path = folder / f"{name}{f'-{nth}' if nth else ''}.parquet"
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            continue
        sync(folder)
        return path
    raise AssertionError("count() does not end")


# --- reading --------------------------------------------------------------------------------------


def read_files(folder: str | Path) -> list[pa.Table]:
    """The rows of every sample file of a lab, in the order of their names, as `SAMPLES`; none twice. Raises `CorruptLog` for a damaged file."""
    for _ in range(TRIES):
        try:
            read = [_read(path) for path in _paths(Path(folder))]
        except FileNotFoundError:  # merged since it was listed
            continue
        held = _held([file for file, _ in read])
        return [table for file, table in read if not _stands_in(file, held)]
    raise CorruptLog(f"{folder}/samples: files keep going away while they are read; run the same again")


def _paths(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "samples").glob("*.parquet") if not path.name.startswith("."))


def _read(path: Path) -> tuple[_File, pa.Table]:
    """A file and its rows. 1 ms a file, where `read_table` takes 1.6."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            footer, table = _footer(path, file.metadata), file.read()
            return _File(path, footer), table.select(SAMPLES.names).cast(SAMPLES)
    except FileNotFoundError:
        raise
    except (*DAMAGED, KeyError) as exc:
        raise CorruptLog(f"{path}: cannot be read ({exc}); run `eslab verify`, restore the file or move it away") from exc


def _footer(path: Path, metadata: Any) -> SampleFooter:
    try:
        told = (metadata.metadata or {})[b"eslab"]
        footer = msgspec.json.decode(told, type=SampleFooter)
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise CorruptLog(f"{path}: no sample file of eslab, or a damaged one ({exc}); restore the file or move it away") from exc
    if footer.format_version != FORMAT_VERSION:
        raise CorruptLog(f"{path}: format version {footer.format_version}, this eslab reads {FORMAT_VERSION}; use the eslab that wrote it")
    if self_checksum(told) != footer.self_checksum:
        raise CorruptLog(f"{path}: its footer was changed after it was written; restore the file")
    return footer


def _held(files: Sequence[_File]) -> set[tuple[str, int]]:
    """Name and checksum of each file that stands in another one."""
    return {(name, checksum) for file in files for name, checksum in file.footer.merged.items()}


def _stands_in(file: _File, held: set[tuple[str, int]]) -> bool:
    return (file.path.name, file.footer.self_checksum) in held


# --- merging --------------------------------------------------------------------------------------


def merge_samples(folder: Path) -> None:
    """Merge what there is to merge. Watches may write new files meanwhile; the caller holds the writer's lock, so that no other merges.

    Raises `CorruptLog` rather than merge what is not what was committed.
    """
    for left in (folder / "samples").glob(".*.tmp"):
        if left.stat().st_mtime < time.time() - STALE_S:
            left.unlink(missing_ok=True)
    files = [_File(path, _footer(path, _metadata(path))) for path in _paths(folder)]
    held = _held(files)
    for file in files:
        if _stands_in(file, held):
            file.path.unlink()
    files = [file for file in files if not _stands_in(file, held)]
    while (at := _next_run(files)) is not None:
        files[at : at + NEIGHBOURS] = [_merge(files[at : at + NEIGHBOURS])]


def _metadata(path: Path) -> Any:
    try:
        return pq.read_metadata(path)
    except DAMAGED as exc:
        raise CorruptLog(f"{path}: cannot be read ({exc}); run `eslab verify`, restore the file or move it away") from exc


def _next_run(files: Sequence[_File]) -> int | None:
    """Where the first neighbours begin that are to become one: of one level, small together."""
    for at in range(len(files) - NEIGHBOURS + 1):
        run = files[at : at + NEIGHBOURS]
        if len({one.footer.level for one in run}) == 1 and sum(one.path.stat().st_size for one in run) <= MERGED_BYTES:
            return at
    return None


def _merge(run: Sequence[_File]) -> _File:
    tables = []
    for file in run:
        read, table = _read(file.path)
        if problems := list(_differences(read, table)):
            raise CorruptLog(f"{problems[0]}, so it is not merged; run `eslab verify`")
        tables.append(table)
    first, *others = run
    held = {file.path.name: file.footer.self_checksum for file in others}
    temporary = _write(first.path.parent, pa.concat_tables(tables), level=first.footer.level + 1, merged=held)
    try:
        replace_file(temporary, first.path)
    finally:
        temporary.unlink(missing_ok=True)
    for file in others:
        file.path.unlink()
    return _File(first.path, _footer(first.path, _metadata(first.path)))


# --- checking -------------------------------------------------------------------------------------


def check_samples(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each sample file, and every way in which it is not what was committed. Reads all of them once."""
    seen: dict[int, Path] = {}
    for path in _paths(folder):
        try:
            file, table = _read(path)
        except FileNotFoundError:  # merged since it was listed
            continue
        except CorruptLog as exc:
            yield path, [f"{exc}; what consumer groups had committed then is not known without it"]
            continue
        problems = list(_differences(file, table))
        twin = seen.setdefault(file.footer.self_checksum, path)
        if twin != path:
            problems.append(f"{path}: holds what {twin.name} holds; remove one of them")
        yield path, problems


def _differences(file: _File, table: pa.Table) -> Iterator[str]:
    sums = Checksums()
    sums.add(table)
    if changed := sums.differ(file.footer.checksums):
        yield f"{file.path}: the content of {', '.join(changed)} is not what was committed"
    elif table.num_rows != file.footer.rows:
        yield f"{file.path}: {table.num_rows} samples where {file.footer.rows} were committed"
    elif not file.path.name.startswith(_name(table)):
        yield f"{file.path}: begins at {_name(table)}, which is another file's name"
