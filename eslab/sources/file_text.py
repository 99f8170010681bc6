"""The text formats of `FileSource`: JSON lines, kcat's JSON dump and CSV, plain or compressed."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
import pyarrow as pa

from eslab.errors import SourceError
from eslab.model import loads
from eslab.sources import TopicPartition
from eslab.sources.file_rows import (
    BLOCK_BYTES,
    BLOCK_ROWS,
    Fields,
    JsonRows,
    Mark,
    Part,
    Range,
    Settings,
    check_at,
    columns_of,
    compression_of,
    disorder,
    roles_of,
    row_json,
    split_name,
    to_bytes,
    to_headers,
    to_ms,
    to_table,
)

__all__ = ["Csv", "JsonLines", "Kcat", "first_line", "is_kcat", "is_whole"]

MARK_EVERY = 4_096  # rows of one partition; to begin in the middle costs at most as many rows of parsing, 10 ms
CSV_FIELD = 64 << 20  # the csv module's own limit, 128 KB, is below a large payload; without any, an open quote would eat the file


def _stream(path: Path) -> io.BufferedReader:
    """The bytes of the file, decompressed."""
    compression = compression_of(path)
    return io.BufferedReader(pa.input_stream(str(path), compression=compression), 1 << 20) if compression else path.open("rb")


def first_line(path: Path) -> bytes:
    """The first line that is not blank."""
    return next((text for _, line, _ in _lines(path, _begin(path)) if (text := _chomp(line)).strip()), b"")


def _begin(path: Path) -> _Spot:
    """The first byte that is content: behind a byte order mark."""
    with closing(_stream(path)) as stream:
        head = stream.read(3)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise SourceError(f"{path} is UTF-16; turn it into UTF-8 by `iconv -f UTF-16 -t UTF-8`")
    return (3 if head == b"\xef\xbb\xbf" else 0), 1


def _skip(stream: io.BufferedReader, place: int) -> None:
    """Go to a byte. A compressed stream can only be read up to it."""
    if isinstance(stream.raw, io.FileIO):
        stream.seek(place)
        return
    while place and (skipped := len(stream.read(min(place, 1 << 20)))):
        place -= skipped


def _lines(path: Path, begin: _Spot) -> Iterator[tuple[_Spot, bytes, _Spot | None]]:
    """Each line from there on, with its newline; where it begins, and where it ends (None: no newline yet)."""
    with closing(_stream(path)) as stream:
        _skip(stream, begin[0])
        for line in stream:
            end = (begin[0] + len(line), begin[1] + 1)
            yield begin, line, end if line.endswith(b"\n") else None
            begin = end


def _chomp(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


def is_whole(text: bytes) -> bool:
    """Whether this is a complete JSON object or array: of a number or a word, more might follow."""
    try:
        return isinstance(loads(text), (dict, list))
    except ValueError:
        return False


class _Columns:
    """Records on their way into a table."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.rows: list[Fields] = []
        self.bytes = 0

    def add(self, offset: int, fields: Fields) -> bool:
        """Keep the record; True when it is time to take the table."""
        self.offsets.append(offset)
        self.rows.append(fields)
        self.bytes += len(fields[3] or b"")
        return len(self.rows) >= BLOCK_ROWS or self.bytes >= BLOCK_BYTES

    def take(self) -> pa.Table:
        table = to_table({"offset": self.offsets, **columns_of(self.rows)}, len(self.rows))
        self.offsets, self.rows, self.bytes = [], [], 0
        return table


# Plain tuples, as one of each is made for every line, and a named tuple costs as much as decoding the line.
_Spot = tuple[int, int]
"""A byte and the number of its line, for people."""
_Row = tuple[TopicPartition, int | None, _Spot, _Spot | None, Any]
"""A row of a text file: partition, offset, begin, end, content. No offset: it has none of its own. No end: its last line has no newline,
so that it may still grow. No content: it holds no record; UNFINISHED: not yet."""

UNFINISHED: Final = object()
SEAL = 4_096  # bytes before the end of an index that must be the same for a file to count as grown


class _Text:
    """What the three text formats share: an index and blocks, made from their rows."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.begin = _begin(path)
        self._end: _Spot | None = None
        self._seal = b""
        self.home: TopicPartition = (settings.topic or split_name(path)[0], 0)
        self.own_topics = False

    def rows(self, begin: _Spot) -> Iterator[_Row]:
        raise NotImplementedError

    def fields(self, raw: Any) -> Fields:
        raise NotImplementedError

    def fail(self, line: int, what: object) -> NoReturn:
        raise SourceError(f"{self.path}:{line}: {what}")

    def index(self, reached: Mapping[TopicPartition, int]) -> dict[TopicPartition, Part]:
        self._end = None
        return self._index({}, self.begin, reached)

    def extend(self, parts: Mapping[TopicPartition, Part]) -> dict[TopicPartition, Part] | None:
        if self._end is None or compression_of(self.path) or self._before(self._end[0]) != self._seal:
            return None
        return self._index({at: replace(part, marks=[*part.marks], held=0) for at, part in parts.items()}, self._end, {})

    def _index(self, parts: dict[TopicPartition, Part], begin: _Spot, reached: Mapping[TopicPartition, int]) -> dict[TopicPartition, Part]:
        """Add what stands from `begin` on to the parts, and keep where to go on from."""
        since = Counter[TopicPartition]()
        if not self.own_topics:
            start = reached.get(self.home, 0)
            parts.setdefault(self.home, Part(start, start))
        end: _Spot | None = begin
        for at, own, here, after, raw in self.rows(begin):
            if raw is UNFINISHED:
                parts.get(self.home, Part(0, 0)).held = 1
                break
            end = after
            part = parts.get(at)
            next_ = part.next if part else reached.get(at, 0)
            offset = next_ if own is None else own
            if offset < next_:
                disorder(f"{self.path}:{here[1]}", at, offset, next_)
            if part is None or not part.marks:
                check_at(f"{self.path}:{here[1]}", at)
                part = parts[at] = Part(offset, offset)
            if since[at] % MARK_EVERY == 0:
                part.marks.append(Mark(offset, *here))
            since[at] += 1
            part.next = offset + 1
        self._keep(end)
        return parts

    def _keep(self, end: _Spot | None) -> None:
        self._end = end if end and end > self.begin else None  # of an empty file not even the format is known
        self._seal = self._before(end[0]) if end and not compression_of(self.path) else b""

    def _before(self, place: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(max(0, place - SEAL))
            return file.read(min(place, SEAL))

    def blocks(self, wanted: Mapping[TopicPartition, tuple[Mark, Range]]) -> Iterator[tuple[TopicPartition, pa.Table]]:
        next_ = {at: mark.offset for at, (mark, _) in wanted.items()}
        open_ = {at: _Columns() for at in wanted}
        left = dict(wanted)
        for at, own, here, _, raw in self.rows(min((mark.place, mark.line) for mark, _ in wanted.values())):
            if at not in left or raw is UNFINISHED:
                continue
            mark, (start, stop) = left[at]
            if here[0] < mark.place:
                continue
            offset = next_[at] if own is None else own
            next_[at] = offset + 1
            if offset >= stop:
                del left[at]
                if not left:
                    break
            elif offset >= start and raw is not None:
                try:
                    full = open_[at].add(offset, self.fields(raw))
                except (ValueError, KeyError, TypeError) as exc:
                    self.fail(here[1], exc)
                if full:
                    yield at, open_[at].take()
        yield from ((at, columns.take()) for at, columns in open_.items() if columns.rows)


class JsonLines(_Text):
    """Each line is a value, verbatim; its offset is its line number from 0, and a blank line is a hole."""

    def __init__(self, path: Path, settings: Settings) -> None:
        super().__init__(path, settings)
        self._row = JsonRows(settings)

    def rows(self, begin: _Spot) -> Iterator[_Row]:
        for here, line, end in _lines(self.path, begin):
            text = _chomp(line)
            if end or is_whole(text):
                yield self.home, None, here, end, text if text.strip() else None

    def fields(self, raw: bytes) -> Fields:
        return self._row.of_line(raw)

    def _index(self, parts: dict[TopicPartition, Part], begin: _Spot, reached: Mapping[TopicPartition, int]) -> dict[TopicPartition, Part]:
        """Counts newlines only, which is twenty times faster than to look at each line."""
        check_at(str(self.path), self.home)
        start = reached.get(self.home, 0)
        part = parts.setdefault(self.home, Part(start, start, [Mark(start, *begin)]))
        end = part.marks[-1]
        part.next, place, tail = end.offset, end.place, bytearray()
        with closing(_stream(self.path)) as stream:
            _skip(stream, place)
            while block := stream.read(1 << 20):
                if ends := block.count(b"\n"):
                    cut = block.rindex(b"\n") + 1
                    end = Mark(end.offset + ends, place + cut, end.line + ends)
                    part.marks.append(end)
                    tail = bytearray(block[cut:])
                else:
                    tail += block
                place += len(block)
        whole = is_whole(bytes(tail))
        part.next = end.offset + whole
        part.held = int(bool(tail.strip()) and not whole)
        self._keep((end.place, end.line))
        return parts


class _KcatLine(msgspec.Struct):
    topic: str
    partition: int
    offset: int
    payload: msgspec.Raw
    key: msgspec.Raw = msgspec.Raw(b"null")
    headers: msgspec.Raw = msgspec.Raw(b"null")
    tstype: str | None = None
    ts: int | None = None
    key_error: str | None = None
    payload_error: str | None = None


_kcat_line = msgspec.json.Decoder(_KcatLine).decode


def is_kcat(line: bytes) -> bool:
    try:
        _kcat_line(line)
    except ValueError:
        return False
    return True


def _unescape(raw: msgspec.Raw) -> Any:
    """The JSON value. kcat writes bytes that are not UTF-8 as they are, which is no JSON: they are surrogate-escaped here."""
    try:
        return loads(bytes(raw))
    except ValueError:
        return json.loads(bytes(raw).decode("utf-8", "surrogateescape"))


def _unquote(raw: msgspec.Raw) -> bytes | None:
    """The bytes that kcat quoted; what it decoded from Avro (an object) is the JSON text."""
    text = bytes(raw)
    return to_bytes(_unescape(raw)) if text[:1] == b'"' else None if text == b"null" else text


class Kcat(_Text):
    """What `kcat -J` wrote: one record a line, with its coordinates."""

    TYPES: Final = {"create": "create", "logappend": "append"}

    def __init__(self, path: Path, settings: Settings) -> None:
        super().__init__(path, settings)
        self.own_topics = True

    def rows(self, begin: _Spot) -> Iterator[_Row]:
        for here, line, end in _lines(self.path, begin):
            if not line.strip():
                continue
            try:
                row = _kcat_line(line)
            except ValueError as exc:
                if not end:
                    return
                self.fail(here[1], f"not a line of `kcat -J`: {exc}; mend or remove it, or pass format='jsonl' to take the lines as values")
            # A value that kcat could not decode is null in the dump; as a record it would be a tombstone.
            lost = row.payload_error is not None or row.key_error is not None
            yield (row.topic, row.partition), row.offset, here, end, None if lost else row

    def fields(self, raw: _KcatLine) -> Fields:
        time = -1 if raw.ts is None or raw.tstype == "unknown" else raw.ts
        return (time, self.TYPES.get(raw.tstype or ""), _unquote(raw.key), _unquote(raw.payload), to_headers(_unescape(raw.headers)))


class Csv(_Text):
    """A header, then a record a row: the row as a JSON object of strings, or the record's own fields."""

    def __init__(self, path: Path, settings: Settings, *, delimiter: str) -> None:
        super().__init__(path, settings)
        self._delimiter = delimiter
        self._row = JsonRows(settings)
        self._header: list[str] = []
        for _, cells, end in self._cells(self.begin):
            self._header, self.begin = (cells, end) if end else ([], self.begin)
            break
        if len(set(self._header)) < len(self._header):
            raise SourceError(f"{path}: two columns have the same name in {', '.join(self._header)}; give each its own")
        roles = roles_of(self._header)
        self._place = {role: self._header.index(column) for role, column in roles.items()}
        self.own_topics = "topic" in self._place
        if self._header and not roles:
            self._row.check(path, self._header)

    def _cells(self, begin: _Spot) -> Iterator[tuple[_Spot, list[str], _Spot | None]]:
        """The cells of each row that has some, and where it begins and ends."""
        csv.field_size_limit(max(csv.field_size_limit(), CSV_FIELD))  # the process's: raised, never lowered
        end: _Spot | None = begin

        def texts() -> Iterator[str]:
            nonlocal end
            for at, line, after in _lines(self.path, begin):
                end = after
                try:
                    yield line.decode()
                except UnicodeDecodeError as exc:
                    self.fail(at[1], f"not UTF-8 ({exc.reason}); turn the file into UTF-8, as by `iconv -f WINDOWS-1252 -t UTF-8`")

        here = begin
        try:
            for cells in csv.reader(texts(), delimiter=self._delimiter, strict=True):
                if cells:
                    yield here, cells, end
                here = end or here
        except csv.Error as exc:
            self.fail(here[1], f"the row that begins here is no CSV: {exc}")

    def rows(self, begin: _Spot) -> Iterator[_Row]:
        for here, cells, end in self._cells(begin) if self._header else ():
            if len(cells) == len(self._header):
                topic = self._cell(cells, "topic") or self.home[0]
                partition, offset = (self._integer(here[1], cells, role) for role in ("partition", "offset"))
                yield (topic, partition or 0), offset, here, end, cells
            elif not end:
                yield self.home, None, here, end, UNFINISHED
            else:
                self.fail(here[1], f"{len(cells)} fields stand under {len(self._header)} columns")

    def _cell(self, cells: Sequence[str], role: str) -> str | None:
        """The field of a record; CSV cannot tell empty from null, so empty is null."""
        return (cells[self._place[role]] or None) if role in self._place else None

    def _integer(self, line: int, cells: Sequence[str], role: str) -> int | None:
        if role not in self._place:
            return None
        try:
            return int(cells[self._place[role]])
        except ValueError:
            self.fail(line, f"{role} {cells[self._place[role]]!r} is no integer")

    def fields(self, raw: list[str]) -> Fields:
        if not self._place:
            row = dict(zip(self._header, raw, strict=True))
            return self._row.of_value(row, row_json(row))
        cell = {role: self._cell(raw, role) for role in self._place}
        time = cell.get("timestamp_ms")
        return (
            int(time) if time else to_ms(cell.get("timestamp")),
            cell.get("timestamp_type"),
            to_bytes(cell.get("key")),
            to_bytes(cell.get("value")),
            to_headers(cell.get("headers")),
        )
