"""Records in files: JSON lines, CSV, Parquet and kcat's JSON dump as a source."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import numpy as np
import pyarrow as pa

from eslab.errors import AccessDenied, SourceChanged, SourceError, TopicNotFound
from eslab.sources import RECORDS, Chunk, Hole, Partition, TopicPartition
from eslab.sources.file_parquet import Parquet
from eslab.sources.file_rows import Format, Mark, Part, Settings, split_name
from eslab.sources.file_text import Csv, JsonLines, Kcat, first_line, is_kcat, is_whole

__all__ = ["FileSource"]

EXTENSIONS: Final = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
INTERNAL: Final = frozenset({"__consumer_offsets", "__transaction_state"})

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


class FileSource:
    """A file, a glob, a folder, or a list of these, as topics. Nothing is written, and no file is held open between calls.

    JSON lines (.jsonl, .ndjson, .json): the value is the line, verbatim, without its line end; a line that is no JSON is a record too.
    The topic is `topic=` or the file's stem, the partition 0, the offset the line's number from 0. A blank line is a hole. A last line
    without a newline is a record only if it is a complete JSON object or array; else it may still grow, and counts in `high_watermark`.
    The key is what `key=` names, the timestamp what `timestamp=` names (a field, or a path like `data.orderId`; default: no key, the
    field "timestamp"): ISO 8601, UTC where it has no zone, or an epoch number; -1 where there is none.

    CSV (.csv, .tsv, others by `delimiter=`) and Parquet: the value is the row as a JSON object, of strings in CSV, with every digit in
    Parquet; the offset is the row's number. But rows with a column `value`, and with `offset` or with no column that is not a record's,
    are records: topic, partition, offset, timestamp (or timestamp_ms), timestamp_type, key, value, headers, and in Parquet the facts of
    the batch. Then `key=` and `timestamp=` are not asked, and an empty field of a CSV is null.

    A dump by `kcat -J` (told by its first line, or by `format="kcat"`) brings its own topics, partitions and offsets. A record that kcat
    could not decode is a hole.

    Files of the same topic go on from each other: a list in its order, a glob or folder by name, numbers by size (part-2 before part-10).
    Of those without offsets of their own, only the last may grow. Own offsets must ascend; where they skip, the hole's cause is
    "unknown". Text may be compressed (.gz, .zst). What a text file grew by is read when the source is asked again; a file that
    changed otherwise is passed over once more. Whether it still is the same log is for the records to tell: files have no ids.
    """

    isolation = "none"

    def __init__(
        self,
        path_or_paths: Paths,
        *,
        topic: str | None = None,
        key: str | None = None,
        timestamp: str | None = None,
        format: str | None = None,  # noqa: A002  the word that a notebook expects
        delimiter: str | None = None,
    ) -> None:
        given: Iterable[str | os.PathLike[str]] = [path_or_paths] if isinstance(path_or_paths, (str, os.PathLike)) else path_or_paths
        self._given = [os.fspath(path) for path in given]
        self._format = format
        self._settings = Settings(topic, key, timestamp, delimiter)
        self._files: list[_File] | None = None
        self._paths()

    @property
    def url(self) -> str:
        return "file:" + ", ".join(self._given)

    def partitions(self, topics: Sequence[str] | None) -> list[Partition]:
        found: dict[TopicPartition, list[Part]] = {}
        for file in self._look():
            for at, part in file.parts.items():
                found.setdefault(at, []).append(part)
        self._expect(topics or (), {topic for topic, _ in found})
        described = []
        for (topic, partition), parts in sorted(found.items()):
            if topic in topics if topics is not None else topic not in INTERNAL:
                end = parts[-1].next
                described.append(Partition(topic, partition, parts[0].start, end, end + sum(part.held for part in parts)))
        return described

    def read(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> Iterator[Chunk]:
        files = self._files if self._files is not None else self._look()
        self._expect([topic for topic, _ in ranges], {topic for file in files for topic, _ in file.parts})
        position = {at: start for at, (start, _) in ranges.items()}
        for file in files:
            wanted = {}
            for at, part in file.parts.items():
                start, stop = max(position.get(at, 0), part.start), min(ranges.get(at, (0, 0))[1], part.next)
                if start < stop and part.marks:
                    wanted[at] = (_mark_before(part, start), (start, stop))
            if not wanted:
                continue
            with _naming(file.path):
                for at, table in file.format.blocks(wanted):
                    chunk = _chunk(at, position[at], table)
                    position[at] = chunk.next
                    yield chunk
                file.expect_same()
        for (topic, partition), (_, stop) in ranges.items():
            if (start := position[topic, partition]) < stop:
                yield Chunk(topic, partition, start, stop, RECORDS.empty_table(), (Hole(start, stop, "unknown"),))

    def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int:
        """Reads the partition up to the answer: a file has no index of its timestamps."""
        parts = [part for file in self._files or self._look() if (part := file.parts.get((topic, partition)))]
        if not parts:
            raise TopicNotFound(f"{self.url} has no {topic}[{partition}]")
        start, end = parts[0].start, parts[-1].next
        for chunk in self.read({(topic, partition): (start, end)}):
            late = np.flatnonzero(chunk.records["timestamp_ms"].to_numpy() >= timestamp_ms)
            if late.size:
                return int(chunk.records["offset"][int(late[0])].as_py())
        return end

    def epoch_end(self, topic: str, partition: int, leader_epoch: int) -> None:
        return None

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _expect(self, topics: Iterable[str], there: set[str]) -> None:
        if unknown := sorted({topic for topic in topics if topic not in there}):
            raise TopicNotFound(f"{self.url} has no topic {', '.join(unknown)}; it has {', '.join(sorted(there)) or 'none'}")

    def _paths(self) -> list[Path]:
        """The files that are there now, in their order."""
        paths: dict[Path, None] = {}
        for given in self._given:
            path = Path(given).expanduser()
            if path.is_file():
                found = [path]
            elif path.is_dir():
                found = self._readable(path.iterdir())
            else:
                found = self._readable(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207  a Path takes no absolute pattern
            if not found:
                raise SourceError(self._nothing(given, path))
            paths.update(dict.fromkeys(found))
        return list(paths)

    def _readable(self, paths: Iterable[Path]) -> list[Path]:
        """Of a folder or glob: the files of a known format, or all of them where `format=` says what they are; hidden ones never."""
        files = (path for path in paths if path.is_file() and not path.name.startswith((".", "_")))
        return sorted((path for path in files if self._format or split_name(path)[1] in EXTENSIONS), key=_by_name)

    def _nothing(self, given: str, path: Path) -> str:
        known = ", ".join(EXTENSIONS)
        if path.is_dir():
            return f"the folder {given} holds no file to read (known: {known}, text also as .gz or .zst); pass format= for other names"
        if glob.has_magic(given):
            return f"no file matches {given} (known: {known}, text also as .gz or .zst); pass format= for other names"
        return f"there is no file {given} in {Path.cwd()}"

    def _look(self) -> list[_File]:
        """Index what is new or changed. Files before the first changed one keep their index; those behind it may go on from it."""
        kept = iter(self._files or ())
        same = True
        files: list[_File] = []
        reached: dict[TopicPartition, int] = {}
        for path in self._paths():
            file = next(kept, None) if same else None
            with _naming(path):
                stamp = _stamp(path)
                same = file is not None and (file.path, file.stamp) == (path, stamp)
                if file is None or not same:
                    file = (file and file.grown(path, stamp)) or _File.new(path, stamp, _open(path, self._format, self._settings), reached)
            files.append(file)
            reached.update({at: part.next for at, part in file.parts.items()})
        self._files = files
        return files


@dataclass(frozen=True, slots=True)
class _File:
    """One file as it was when it was last looked at."""

    path: Path
    stamp: tuple[int, int, int]
    format: Format
    parts: dict[TopicPartition, Part]

    @classmethod
    def new(cls, path: Path, stamp: tuple[int, int, int], layout: Format, reached: Mapping[TopicPartition, int]) -> _File:
        return cls(path, stamp, layout, layout.index(reached))

    def grown(self, path: Path, stamp: tuple[int, int, int]) -> _File | None:
        """The same file with what was appended since; None if it is not plainly the same."""
        if path != self.path or stamp[0] != self.stamp[0] or stamp[1] <= self.stamp[1]:
            return None
        parts = self.format.extend(self.parts)
        return None if parts is None else replace(self, stamp=stamp, parts=parts)

    def expect_same(self) -> None:
        """Raises `SourceChanged` if what was read may not be what was indexed; growth is fine."""
        now = _stamp(self.path)
        if now != self.stamp and (now[0] != self.stamp[0] or now[1] <= self.stamp[1]):
            raise SourceChanged(f"{self.path} was replaced or cut while it was read; capture it again")


def _open(path: Path, name: str | None, settings: Settings) -> Format:
    """Look at the beginning of the file and choose its format; `name` overrules the extension."""
    extension = split_name(path)[1]
    kind = name or EXTENSIONS.get(extension)
    if kind == "parquet":
        return Parquet(path, settings)
    if kind == "csv":
        return Csv(path, settings, delimiter=settings.delimiter or ("\t" if extension == ".tsv" else ","))
    if kind in ("kcat", "jsonl", "json"):
        first = first_line(path)
        if kind == "kcat" or (not name and is_kcat(first)):
            return Kcat(path, settings)
        if kind == "json" and first and not is_whole(first):
            raise SourceError(
                f"{path} is not one JSON object a line; turn an array into lines by `jq -c '.[]' {path} > {path.with_suffix('.jsonl')}`"
            )
        return JsonLines(path, settings)
    known = ", ".join(EXTENSIONS)
    raise SourceError(f"{path}: no format is known by the extension {extension!r} (known: {known}, text also as .gz or .zst); pass format=")


def _stamp(path: Path) -> tuple[int, int, int]:
    """Inode, size, time of change."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _by_name(path: Path) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def _mark_before(part: Part, offset: int) -> Mark:
    """The last place from which no record at or behind the offset is missed."""
    at = np.searchsorted([mark.offset for mark in part.marks], offset, side="right")
    return part.marks[max(int(at) - 1, 0)]


def _chunk(at: TopicPartition, start: int, table: pa.Table) -> Chunk:
    """The table as a chunk that begins at `start`: offsets that it skips are holes."""
    offsets = table["offset"].to_numpy()
    begins = np.concatenate(([start], offsets[:-1] + 1))
    holes = tuple(Hole(int(begins[i]), int(offsets[i]), "unknown") for i in np.flatnonzero(offsets > begins))
    return Chunk(*at, start, int(offsets[-1]) + 1, table, holes)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What reading this file raises becomes one sentence that names it."""
    try:
        yield
    except PermissionError as exc:
        raise AccessDenied(f"{path} may not be read: {exc.strerror}") from exc
    except FileNotFoundError as exc:
        raise SourceChanged(f"{path} is gone") from exc
    except (OSError, EOFError, pa.ArrowException, UnicodeDecodeError) as exc:
        raise SourceError(f"{path} cannot be read: {exc}; it may be damaged, unfinished, or of another format than its name says") from exc
