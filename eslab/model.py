"""The values that everything else speaks in: record, cut, change, path, and JSON with exact integers.

Plain frozen values and pure functions; no engine is imported here.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from eslab.errors import ConfigError, MomentError, ProjectionError
from eslab.markup import Html, escape, grid, visible

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = [
    "AGGREGATE",
    "EACH",
    "MISSING",
    "TOMBSTONE",
    "Change",
    "Columns",
    "Coordinates",
    "Cut",
    "Event",
    "Life",
    "Path",
    "Record",
    "Selection",
    "dumps",
    "format_path",
    "loads",
    "loads_each",
    "loads_exact",
    "pack_state",
    "pack_states",
    "parse_path",
    "unpack_state",
    "value_at",
]


class _Sentinel(Enum):
    MISSING = "MISSING"
    TOMBSTONE = "TOMBSTONE"
    EACH = "EACH"
    AGGREGATE = "AGGREGATE"

    def __repr__(self) -> str:
        return self.value

    def __bool__(self) -> bool:
        return False


MISSING: Final = _Sentinel.MISSING
"""The side of a change that is not there; JSON null is `None`."""
TOMBSTONE: Final = _Sentinel.TOMBSTONE
"""The event type of a record whose value is null."""
EACH: Final = _Sentinel.EACH
"""In an id path: every element of a list, written `[]`."""
AGGREGATE: Final = _Sentinel.AGGREGATE
"""What a projection is keyed by if nothing else is said."""


# --- records ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the broker holds at one offset, verbatim.

    `timestamp_ms` is milliseconds since 1970 UTC (-1: none). `timestamp_type` is "create" (the producer's clock),
    "append" (the broker's, with the producer's own time in `producer_timestamp_ms` while the broker keeps it)
    or None (the source does not say). A null `value` is a tombstone; an empty one is not. Headers keep their order and
    may repeat; bytes of a header key that are not UTF-8 are surrogate-escaped.
    The facts of the batch are None where the source has no batches.
    """

    topic: str
    partition: int = 0
    offset: int = 0
    timestamp_ms: int = -1
    timestamp_type: str | None = None
    producer_timestamp_ms: int | None = None
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    leader_epoch: int | None = None
    producer_id: int | None = None
    producer_epoch: int | None = None
    transactional: bool | None = None


class Coordinates(NamedTuple):
    """Where a record stands: the name that no two records share."""

    topic: str
    partition: int
    incarnation: int
    offset: int

    def __str__(self) -> str:
        life = f"~{self.incarnation}" if self.incarnation else ""
        return f"{self.topic}/{self.partition}{life}/{self.offset}"


# --- events -------------------------------------------------------------------------------------


SHOWN: Final = 2000  # characters of an event's data in its view


class Columns(Protocol):
    """Rows that events read their parts from, when asked."""

    def value(self, column: str, row: int) -> Any:
        """The value of a column in a row; times are aware datetimes in UTC."""

    def data(self, row: int) -> Any:
        """The data of a row, decoded. Raises `ValueError` where it cannot be."""


class Event(msgspec.Struct, eq=False, gc=False):
    """A decoded record, lazily: every part is read from its row when it is asked for.

    What a handler sees. `type` is `TOMBSTONE` for a null value; `data` is any JSON value, {} where the payload has none,
    None for a tombstone. Handlers must not change it.
    """

    # A struct, since a fold makes one for each event: it is made at a third of the cost of a class with slots
    _rows: Columns
    _row: int
    type: str | _Sentinel | None
    data: Any

    @classmethod
    def undecoded(cls, rows: Columns, row: int, type_: str | _Sentinel | None) -> Event:
        """An event whose data is decoded when it is asked for. Asking raises `ValueError` where it cannot be."""
        event = cls(rows, row, type_, None)
        del event.data
        return event

    def __getattr__(self, name: str) -> Any:
        if name != "data":
            raise AttributeError(f"an event has no {name!r}")
        self.data = self._rows.data(self._row)
        return self.data

    def reread(self) -> Any:
        """The data once more: the caller's own, to change. Raises `ValueError` where it cannot be decoded."""
        return self._rows.data(self._row)

    def renewed(self, version: str | None, data: Any) -> Event:
        """The same event with this version of its type, and this data."""
        return _Renewed(self._rows, self._row, self.type, data, version)

    @property
    def metadata(self) -> Any:
        return loads(self._rows.value("metadata", self._row) or "{}")

    @property
    def id(self) -> str | None:
        return self._text("event_id")

    @property
    def version(self) -> str | None:
        """The version of the event's type, as its envelope says; not the version of a history."""
        return self._text("event_version")

    @property
    def source(self) -> str | None:
        return self._text("source")

    @property
    def recorded_at(self) -> dt.datetime | None:
        """The record's timestamp; None where it is none, or past the year 9999."""
        return self._time("recorded_at")

    @property
    def happened_at(self) -> dt.datetime | None:
        """The time in the payload."""
        return self._time("happened_at")

    @property
    def order_at(self) -> dt.datetime:
        """The time that the lab orders by: it never decreases along a partition."""
        moment = self._time("order_at")
        assert moment is not None
        return moment

    @property
    def correlation_id(self) -> str | None:
        return self._text("correlation_id")

    @property
    def causation_id(self) -> str | None:
        return self._text("causation_id")

    @property
    def trace_id(self) -> str | None:
        return self._text("trace_id")

    @property
    def span_id(self) -> str | None:
        return self._text("span_id")

    @property
    def parent_span_id(self) -> str | None:
        return self._text("parent_span_id")

    @property
    def key(self) -> str | None:
        """The record's key as text; None where it is null or no UTF-8."""
        return self._text("record_key")

    @property
    def aggregate(self) -> str:
        return str(self._rows.value("aggregate", self._row))

    @property
    def aggregate_id(self) -> str:
        return str(self._rows.value("aggregate_id", self._row))

    @property
    def coordinates(self) -> Coordinates:
        value = self._rows.value
        return Coordinates(
            value("topic", self._row), value("partition_id", self._row), value("incarnation", self._row), value("record_offset", self._row)
        )

    @property
    def topic(self) -> str:
        return self.coordinates.topic

    @property
    def partition(self) -> int:
        return self.coordinates.partition

    @property
    def offset(self) -> int:
        return self.coordinates.offset

    def __repr__(self) -> str:
        return visible(f"<Event {self.type or 'undecodable'} {self.id or self.coordinates}>")

    def _repr_html_(self) -> str:
        named = (
            "id",
            "version",
            "source",
            "recorded_at",
            "happened_at",
            "correlation_id",
            "causation_id",
            "trace_id",
            "key",
            "coordinates",
        )
        told = [(name, str(value)) for name in named if (value := getattr(self, name)) is not None]
        text = self._rows.value("data", self._row) or ""
        data = text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"
        rows = [[escape(name), escape(value)] for name, value in [*told, ("data", data)]]
        return grid(["field", "value"], rows, left=[True, True], caption=str(self.type or "undecodable"))

    def _text(self, column: str) -> str | None:
        value = self._rows.value(column, self._row)
        return None if value is None else str(value)

    def _time(self, column: str) -> dt.datetime | None:
        value: dt.datetime | None = self._rows.value(column, self._row)
        return value


class _Renewed(Event, eq=False, gc=False):
    """An event whose version and data are not those that were written."""

    _version: str | None

    @property
    def version(self) -> str | None:
        return self._version


# --- cuts ---------------------------------------------------------------------------------------

Life = tuple[str, int, int]
"""topic, partition, incarnation"""


@dataclass(frozen=True, slots=True)
class Cut:
    """The exact way to say "up to here in the log": the next offset (exclusive) of each topic-partition-incarnation.

    Compares by its offsets alone: `a <= b` when everything in `a` is in `b`; `a | b` holds what either holds, `a & b`
    what both do. `label` says how the cut was asked for, `store` holds for each life the fingerprint of the events it was
    resolved on, `excluded` names the partitions it leaves out on purpose; `upcasters` is the fingerprint of those that were declared then, None if
    that is not known.
    """

    offsets: Mapping[Life, int]
    label: str = field(default="", compare=False)
    store: Mapping[Life, str] = field(default_factory=dict, compare=False)
    excluded: tuple[Life, ...] = field(default=(), compare=False)
    upcasters: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "offsets", dict(sorted(self.offsets.items())))

    def __hash__(self) -> int:
        return hash(tuple(self.offsets.items()))

    def holds(self, at: Coordinates) -> bool:
        """Whether the record at these coordinates lies before the cut."""
        return at.offset < self.offsets.get((at.topic, at.partition, at.incarnation), 0)

    def __le__(self, other: Cut) -> bool:
        return all(next_ <= other.offsets.get(life, 0) for life, next_ in self.offsets.items())

    def __lt__(self, other: Cut) -> bool:
        return self <= other and not other <= self

    def __or__(self, other: Cut) -> Cut:
        further = {life: max(self, other, key=lambda cut: cut.offsets.get(life, -1)) for life in self.offsets.keys() | other.offsets.keys()}
        return self._combined(other, further, "or")

    def __and__(self, other: Cut) -> Cut:
        nearer = {life: min(self, other, key=lambda cut: cut.offsets[life]) for life in self.offsets.keys() & other.offsets.keys()}
        return self._combined(other, nearer, "and")

    def _combined(self, other: Cut, chosen: Mapping[Life, Cut], word: str) -> Cut:
        """Each life as the cut that was chosen for it has it."""
        label = f"({self.label}) {word} ({other.label})" if self.label and other.label else self.label or other.label
        return Cut(
            {life: cut.offsets[life] for life, cut in chosen.items()},
            label=label,
            store={life: cut.store[life] for life, cut in chosen.items() if life in cut.store},
            excluded=tuple(sorted({*self.excluded, *other.excluded} - chosen.keys())),
            upcasters=self.upcasters
            if self.upcasters == other.upcasters
            else " ".join(sorted({self.upcasters or "", other.upcasters or ""})),
        )

    @property
    def without(self) -> str:
        """The partitions that it leaves out on purpose, in words; "" for none."""
        return ", ".join(map(_told, self.excluded))

    def __repr__(self) -> str:
        parts = ", ".join(f"{_told(life)}<{next_}" for life, next_ in self.offsets.items())
        without = f"; without {self.without}" if self.excluded else ""
        return visible(f"<Cut {self.label + ': ' if self.label else ''}{parts or 'nothing'}{without}>")

    def _repr_html_(self) -> str:
        rows = [[escape(_told(life)), Html(f"{next_:,}")] for life, next_ in self.offsets.items()]
        without = f"<p>without {escape(self.without)}</p>" if self.excluded else ""
        return grid(["partition", "next offset"], rows, left=[True, False], caption=self.label) + without

    def df(self) -> pd.DataFrame:
        """One row per partition: topic, partition, incarnation, next (the offset that the cut ends before)."""
        import pandas as pd  # noqa: PLC0415  # the values know no engine; who asks for a table gets one

        rows = [(*life, next_) for life, next_ in self.offsets.items()]
        return pd.DataFrame(rows, columns=["topic", "partition", "incarnation", "next"]).astype({"topic": "str"})

    def arrow(self) -> pa.Table:
        """What `df` has, in Arrow."""
        import pyarrow as pa  # noqa: PLC0415  # as above

        return pa.Table.from_pandas(self.df(), preserve_index=False)

    def to_json(self) -> str:
        """One line of JSON that `Cut.from_json` reads back."""
        offsets = [
            {"topic": life[0], "partition": life[1], "incarnation": life[2], "next": next_, "store": self.store.get(life, "")}
            for life, next_ in self.offsets.items()
        ]
        excluded = [{"topic": t, "partition": p, "incarnation": i} for t, p, i in self.excluded]
        told = {} if self.upcasters is None else {"upcasters": self.upcasters}
        return dumps({"offsets": offsets, "label": self.label, "excluded": excluded, **told}).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Cut:
        """The cut that `to_json` wrote. Raises `MomentError` if the text is no cut."""
        try:
            raw = msgspec.json.decode(text, type=_CutJson)
        except (msgspec.MsgspecError, UnicodeError) as exc:
            raise MomentError(f"this text is no cut: {exc}; a cut is written by cut.to_json()") from exc
        return cls(
            {(o.topic, o.partition, o.incarnation): o.next for o in raw.offsets},
            label=raw.label,
            store={(o.topic, o.partition, o.incarnation): o.store for o in raw.offsets if o.store},
            excluded=tuple((o.topic, o.partition, o.incarnation) for o in raw.excluded),
            upcasters=raw.upcasters,
        )


def _told(life: Life) -> str:
    topic, partition, incarnation = life
    return f"{topic}[{partition}]{f'~{incarnation}' if incarnation else ''}"


class _LifeJson(msgspec.Struct):
    topic: str
    partition: int
    incarnation: int


class _OffsetJson(_LifeJson):
    next: int
    store: str = ""


class _CutJson(msgspec.Struct):
    offsets: list[_OffsetJson]
    label: str = ""
    excluded: list[_LifeJson] = msgspec.field(default_factory=list)
    upcasters: str | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """What a replay sees: a cut and, with `happened_until`, only what happened until then (inclusive; an event without
    a happened_at counts by recorded_at). The order is always the lab's. `recorded_until` is the time that the cut was made from, where it was from one."""

    cut: Cut
    happened_until: dt.datetime | None = None
    recorded_until: dt.datetime | None = None


# --- paths --------------------------------------------------------------------------------------

Path = tuple[str | int | _Sentinel, ...]
"""Where a value stands in a state: keys and positions, outermost first; `EACH` in id paths only."""

_NAME = re.compile(r"[^\W\d][\w-]*")
_PART = re.compile(r'\.?(?:(?P<name>[^\W\d][\w-]*)|"(?P<quoted>(?:[^"\\]|\\.)*)")|\[(?P<index>-?\d{1,9})?\]')


def parse_path(text: str) -> Path:
    """The path written in `text`: `a.b[0]`, odd keys quoted as in JSON (`"two words".x`), `[]` for each element.

    Raises `ConfigError` naming the position that it cannot read.
    """
    parts: list[str | int | _Sentinel] = []
    at = 0
    while at < len(text):
        match = _PART.match(text, at)
        if not match or (text[at] == ".") != (at > 0 and match["index"] is None and text[at] != "["):
            raise ConfigError(f"path {text!r} cannot be read at position {at}; write it like a.b[0] or items[].id")
        if match["name"] is not None:
            parts.append(match["name"])
        elif match["quoted"] is not None:
            parts.append(loads(b'"' + match["quoted"].encode() + b'"'))
        elif text[at] == "[":
            parts.append(EACH if match["index"] is None else int(match["index"]))
        at = match.end()
    if not parts:
        raise ConfigError("a path must not be empty; write it like a.b[0]")
    return tuple(parts)


def value_at(value: Any, path: Path, default: Any = None) -> Any:
    """What stands at a path without `[]` in a JSON value; `default` where nothing does."""
    for part in path:
        if isinstance(value, dict):
            value = value.get(part, default)
        elif isinstance(value, (list, tuple)) and isinstance(part, int) and -len(value) <= part < len(value):
            value = value[part]
        else:
            return default
    return value


def format_path(path: Iterable[str | int | _Sentinel]) -> str:
    """The text that `parse_path` reads back."""
    out = ""
    for part in path:
        if part is EACH:
            out += "[]"
        elif isinstance(part, int):
            out += f"[{part}]"
        else:
            name = str(part)
            out += ("." if out else "") + (name if _NAME.fullmatch(name) else dumps(name).decode())
    return out


# --- changes ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """One path of a state that differs; a missing side is `MISSING`."""

    path: Path
    before: Any
    after: Any

    def __str__(self) -> str:
        return visible(f"{format_path(self.path) or '(all)'}: {_show(self.before)} → {_show(self.after)}")


def _show(value: Any) -> str:
    if value is MISSING:
        return "—"
    try:
        return dumps(value).decode()
    except (TypeError, ValueError):
        return repr(value)


# --- JSON ---------------------------------------------------------------------------------------

_decode = msgspec.json.Decoder().decode
_decode_exact = msgspec.json.Decoder(float_hook=Decimal).decode
_encoder = msgspec.json.Encoder(decimal_format="number")
_encode, _encode_lines = _encoder.encode, _encoder.encode_lines


def loads(text: str | bytes) -> Any:
    """The JSON value: integers exact at any size, no NaN or infinity.

    Raises `ValueError` (msgspec's errors are ones) with the reason.
    """
    try:
        return _decode(text)
    except RecursionError as exc:
        raise ValueError("JSON is nested too deeply") from exc


def loads_exact(text: str | bytes) -> Any:
    """`loads` with a `Decimal` in the place of every number that is no integer: `dumps` writes it with the digits that it had."""
    try:
        return _decode_exact(text)
    except RecursionError as exc:
        raise ValueError("JSON is nested too deeply") from exc


def loads_each(texts: Iterable[str | bytes]) -> list[Any]:
    """`loads` of each text, at less cost. Raises `ValueError` if one of them is none."""
    try:
        return list(map(_decode, texts))
    except RecursionError as exc:
        raise ValueError("JSON is nested too deeply") from exc


def dumps(value: Any) -> bytes:
    """Compact JSON in one line, for people and files: decimals as numbers, datetimes as ISO 8601; half of a surrogate pair, which UTF-8 cannot hold, as its escape."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _spelled(value).encode()


def _spelled(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_spelled(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_spelled, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else _encode(value).decode()


_PLAIN: Final = frozenset({str, int, bool, type(None)})
_JSON: Final = _PLAIN | {float, dict, list}
DEEPEST: Final = 64  # levels of a state that are looked at all at once


def pack_state(state: Any) -> bytes:
    """JSON that `unpack_state` turns back into an equal state, `Decimal` and `datetime` included.

    They are written as `{"$decimal": "1.10"}` and `{"$time": "2026-..."}`; a state's own one-key object whose
    key begins with `$` gets a second `$`. Raises `ProjectionError` for what a state may not hold (NaN, sets, objects).
    """
    try:
        return _encode(_tag(state, ()))
    except RecursionError:
        raise ProjectionError("a state is nested too deeply, or holds itself") from None
    except UnicodeEncodeError as exc:
        raise ProjectionError(f"a state holds half of a surrogate pair, which is no text: {exc.object!r:.80}") from None


def pack_states(states: Sequence[Any]) -> list[bytes]:
    """What `pack_state` makes of each; at a fraction of the cost where JSON holds them as they are."""
    if _is_json(states):
        try:
            return _encode_lines(states).split(b"\n")[:-1]  # a line break within a text is written \\n
        except UnicodeEncodeError:
            pass
    return [pack_state(state) for state in states]


def _is_json(values: Sequence[Any]) -> bool:
    """Whether these values, and all that they hold, can be written as they are: level by level, so that no value is looked at by itself."""
    for _ in range(DEEPEST):
        kinds = set(map(type, values))
        if not kinds <= _JSON or (float in kinds and not all(math.isfinite(one) for one in values if type(one) is float)):
            return False
        dicts = [one for one in values if type(one) is dict] if dict in kinds else []
        if not {str}.issuperset(map(type, chain.from_iterable(dicts))) or (1 in map(len, dicts) and any(map(_escapes, dicts))):
            return False
        lists = (one for one in values if type(one) is list) if list in kinds else ()
        values = [*chain.from_iterable(map(dict.values, dicts)), *chain.from_iterable(lists)]
        if not values:
            return True
    return False


def unpack_state(text: bytes) -> Any:
    """The state that `pack_state` wrote."""
    value = loads(text)
    return _untag(value) if b'{"$' in text else value


def _tag(value: Any, path: Path) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float and math.isfinite(value):
        return value
    if isinstance(value, dict):
        if _PLAIN.issuperset(map(type, value.values())) and {str}.issuperset(map(type, value)) and not _escapes(value):
            return value
        for key in value:
            if type(key) is not str:
                raise ProjectionError(f"a state's keys are strings, but {format_path(path) or 'the state'} has {key!r}")
        tagged = {key: _tag(item, (*path, key)) for key, item in value.items()}
        return {f"${key}": item for key, item in tagged.items()} if _escapes(value) else tagged
    if isinstance(value, (list, tuple)):
        return [_tag(item, (*path, at)) for at, item in enumerate(value)]
    if isinstance(value, Decimal) and value.is_finite():
        return {"$decimal": str(value)}
    if isinstance(value, dt.datetime):
        return {"$time": value.isoformat()}
    raise ProjectionError(
        f"a state holds JSON values, datetime and Decimal, but {format_path(path) or 'the state itself'} is {value!r:.80} ({kind.__name__})"
    )


def _escapes(value: dict[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("$")


def _untag(value: Any) -> Any:
    if isinstance(value, list):
        return [_untag(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _escapes(value):
        key, item = next(iter(value.items()))
        if key == "$decimal":
            return Decimal(item)
        if key == "$time":
            return dt.datetime.fromisoformat(item)
        return {key[1:]: _untag(item)}
    return {key: _untag(item) for key, item in value.items()}
