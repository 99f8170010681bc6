"""What the file formats share: where a reading begins, and how a row of anything becomes the fields of a record."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, Protocol

import msgspec
import pyarrow as pa

from eslab.errors import ConfigError, SourceError
from eslab.model import EACH, loads, parse_path
from eslab.sources import RECORDS, TopicPartition

__all__ = [
    "BLOCK_BYTES",
    "BLOCK_ROWS",
    "FIELDS",
    "Fields",
    "Format",
    "JsonRows",
    "Mark",
    "Part",
    "Range",
    "Settings",
    "check_at",
    "columns_of",
    "compression_of",
    "disorder",
    "roles_of",
    "row_json",
    "split_name",
    "to_bytes",
    "to_headers",
    "to_ms",
    "to_table",
]

BLOCK_ROWS = 10_000  # a few MB at the usual few hundred bytes a record
BLOCK_BYTES = 4 << 20

COMPRESSIONS: Final = {".gz": "gzip", ".zst": "zstd"}

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Settings:
    """How rows that are no records become some: the options of `FileSource`."""

    topic: str | None = None
    key: str | None = None
    timestamp: str | None = None
    delimiter: str | None = None


class Mark(NamedTuple):
    """A place to begin: from `place` on (a byte, or a row group) the next record of the partition has `offset`; `line` is for people."""

    offset: int
    place: int
    line: int


@dataclass(slots=True)
class Part:
    """What one file holds of one partition: offsets `[start, next)`; `held` counts an unfinished last line."""

    start: int
    next: int
    marks: list[Mark] = field(default_factory=list)
    held: int = 0


class Format(Protocol):
    """One file, once its beginning has shown how it is to be read."""

    def index(self, reached: Mapping[TopicPartition, int]) -> dict[TopicPartition, Part]:
        """Pass over the file once. Rows without an offset of their own go on from what was `reached`; others must lie beyond it."""

    def extend(self, parts: Mapping[TopicPartition, Part]) -> dict[TopicPartition, Part] | None:
        """The index after the file grew, from a pass over what is new; None if only a pass over all of it can tell."""

    def blocks(self, wanted: Mapping[TopicPartition, tuple[Mark, Range]]) -> Iterator[tuple[TopicPartition, pa.Table]]:
        """Yield tables of `RECORDS` that together hold every record of these ranges, ascending within each partition."""


def compression_of(path: Path) -> str | None:
    return COMPRESSIONS.get(path.suffix.lower())


def split_name(path: Path) -> tuple[str, str]:
    """Stem and extension of a file's name, without its compression: `orders.jsonl.gz` is ("orders", ".jsonl")."""
    bare = path.with_suffix("") if compression_of(path) else path
    return bare.stem, bare.suffix.lower()


def disorder(where: str, at: TopicPartition, offset: int, next_: int) -> NoReturn:
    raise SourceError(
        f"{where}: offset {offset} of {at[0]}[{at[1]}] stands behind offset {next_ - 1}, but offsets must ascend, "
        "in each file and from file to file; sort the dump by offset, take out duplicates, or pass the files in their order"
    )


def check_at(where: str, at: TopicPartition) -> None:
    topic, partition = at
    if topic in ("", ".", "..") or "/" in topic or "\0" in topic:
        raise SourceError(f"{where}: {topic!r} cannot be the name of a topic")
    if partition < 0:
        raise SourceError(f"{where}: there is no partition {partition}")


def to_table(columns: Mapping[str, Any], count: int) -> pa.Table:
    """The columns as `RECORDS`, headers as pairs; those that are not there are null."""
    columns = {**columns, "headers": [[{"key": key, "value": value} for key, value in row] if row else () for row in columns["headers"]]}
    return pa.table(
        [pa.array(columns[column.name], column.type) if column.name in columns else pa.nulls(count, column.type) for column in RECORDS],
        schema=RECORDS,
    )


Fields = tuple[int, str | None, bytes | None, bytes | None, Sequence[tuple[bytes, bytes | None]]]
"""What a row becomes besides its offset, in the order of `FIELDS`: a plain tuple, as the garbage collector lets go of those only."""
FIELDS: Final = ("timestamp_ms", "timestamp_type", "key", "value", "headers")


def _plain(value: Any) -> Any:
    """JSON for what msgspec does not know: a timestamp with nanoseconds is pandas' own."""
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)


row_json = msgspec.json.Encoder(decimal_format="number", enc_hook=_plain).encode

_ZERO: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)
_UNITS: Final = ((10**11, 3), (10**14, 0), (10**17, -3), (10**20, -6))  # below the bound, times 10 to this power, is milliseconds
_EPOCH = re.compile(r"-?\d{9,}(\.\d+)?")


def to_ms(value: Any) -> int:
    """Milliseconds since 1970 of an ISO 8601 text (without a zone: UTC), a datetime or an epoch number; -1 for anything else.

    The unit of an epoch number follows from its size: these bounds put seconds, milli-, micro- and nanoseconds all after 1973.
    """
    try:
        if isinstance(value, str):
            value = Decimal(value) if value[4:5] != "-" and _EPOCH.fullmatch(value) else dt.datetime.fromisoformat(value)
        if isinstance(value, dt.datetime):
            return ((value if value.tzinfo else value.replace(tzinfo=dt.UTC)) - _ZERO) // _MILLISECOND
        if isinstance(value, dt.date):
            return to_ms(dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC))
        if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
            exact = Decimal(str(value))
            power = next(power for bound, power in _UNITS if abs(exact) < bound)
            return math.floor(exact.scaleb(power))
    except (ValueError, ArithmeticError, StopIteration):
        pass
    return -1


def to_bytes(value: Any) -> bytes | None:
    """A text as UTF-8, bytes as they are, null as null; any other value as its JSON text."""
    if value is None or isinstance(value, bytes):
        return value
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else row_json(value)


def to_headers(value: Any) -> list[tuple[bytes, bytes | None]]:
    """Headers as kcat writes them: `[name, value, name, value]`, or `{name: value or [values]}`; also a list of pairs."""
    if isinstance(value, (str, bytes)):
        value = loads(value) if value else None
    if isinstance(value, dict):
        pairs = [(name, item) for name, items in value.items() for item in (items if isinstance(items, list) else [items])]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        pairs = [(pair["key"], pair["value"]) for pair in value]
    elif isinstance(value, list) and value and isinstance(value[0], (list, tuple)):
        pairs = [(name, item) for name, item in value]
    else:
        pairs = list(zip(value[::2], value[1::2], strict=True)) if value else []
    return [(to_bytes(name) or b"", to_bytes(item)) for name, item in pairs]


class _Pick:
    """Finds what `key=` or `timestamp=` names: a top-level field of exactly that name, else a path into the value."""

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            self.path = parse_path(name)
        except ConfigError:
            self.path = (name,)  # a column may be called anything
        if EACH in self.path:
            raise ConfigError(f"{name!r} names a value for each element of a list, but a record has one key and one timestamp")

    @property
    def roots(self) -> set[str]:
        return {self.name, str(self.path[0])}

    def __call__(self, value: dict[str, Any]) -> Any:
        exact = value.get(self.name, msgspec.UNSET)
        if exact is not msgspec.UNSET:
            return exact
        found: Any = value
        try:
            for part in self.path:
                found = found[part]
        except (LookupError, TypeError):
            return None
        return None if found is msgspec.UNSET else found


def columns_of(rows: Sequence[Fields]) -> dict[str, Any]:
    return dict(zip(FIELDS, zip(*rows, strict=True), strict=True))


class JsonRows:
    """Makes the fields of a JSON row: the value as given, its key and timestamp picked out."""

    def __init__(self, settings: Settings) -> None:
        self._key = _Pick(settings.key) if settings.key else None
        self._time = _Pick(settings.timestamp or "timestamp")
        self._named = [pick for pick in (self._key, self._time if settings.timestamp else None) if pick]
        self._roots = sorted(self._time.roots | (self._key.roots if self._key else set()))
        # Decoding the roots alone takes a third of the time of decoding the whole line.
        names = {f"root{at}": root for at, root in enumerate(self._roots)}
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Roots", [(name, Any, msgspec.UNSET) for name in names], rename=names)).decode

    def check(self, path: Path, columns: Sequence[str]) -> None:
        """A column that is asked for by name must be there; in JSON lines any line may have it."""
        for pick in self._named:
            if not pick.roots & set(columns):
                raise SourceError(f"{path} has no column {pick.name!r}; it has {', '.join(columns)}")

    def of_line(self, line: bytes) -> Fields:
        try:
            found = zip(self._roots, msgspec.structs.astuple(self._decode(line)), strict=True)
            roots = dict(found)
        except (ValueError, RecursionError):  # no JSON, or no object: a record all the same
            roots = {}
        return self.of_value(roots, line)

    def of_value(self, row: dict[str, Any], value: bytes) -> Fields:
        return to_ms(self._time(row)), None, to_bytes(self._key(row)) if self._key else None, value, ()


# Names under which a record's fields stand in an export; those with `record_` and `_id` are the columns of `lab.sql`.
_ROLES: Final = {name: name for name in ("topic", "partition", "timestamp", *RECORDS.names)} | {
    "partition_id": "partition",
    "record_offset": "offset",
    "record_key": "key",
}


def roles_of(names: Sequence[str]) -> dict[str, str]:
    """Role → column if the rows are records, nothing if they are values.

    They are records if there is `value`, and an offset beside it or nothing but fields of records: a table of (sensor, value) is none.
    """
    roles: dict[str, str] = {}
    for name, role in _ROLES.items():
        if name in names:
            roles.setdefault(role, name)
    return roles if "value" in roles and ("offset" in roles or set(names) <= _ROLES.keys()) else {}
