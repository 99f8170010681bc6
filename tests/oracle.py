"""The answers of a lab, worked out the slow and obvious way from its folder alone.

Written from the specification and apart from eslab, of which nothing is imported: segments by pyarrow.parquet, lab.toml by tomllib, JSON by
the standard library, then plain loops over all that there is. Every fast path is held against it.

JSON is read strictly: UTF-8 without a byte order mark, no NaN, no lone surrogates, integers exact at any size; of a key written twice the last
counts. Where the specification is silent, the oracle takes this for meant:
- a record without a timestamp (-1, or below) stands at -1 ms if nothing before it has one, and one past the year 9999 a day before its end;
- JSON null, and an empty id, are as good as not there;
- numbers in ids, types and other texts of the envelope count as they are written;
- a clock of happenings falls back from happened_at to recorded_at, and from there to order_at.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
LATEST_MS = 253_402_214_400_000  # a day before the year 9999 ends, so that every zone can still show it
EACH = object()

Life = tuple[str, int, int]
Key = tuple[str, str]
"""aggregate, id"""

DEFAULT = {
    "event_id": ["eventId"],
    "event_type": ["eventType", "type"],
    "event_version": ["eventVersion"],
    "source": ["source"],
    "happened_at": ["timestamp"],
    "correlation_id": ["correlationId"],
    "causation_id": ["causationId"],
    "trace_id": ["metadata.traceId"],
    "span_id": ["metadata.spanId"],
    "parent_span_id": ["metadata.parentSpanId"],
    "data": ["data"],
    "metadata": ["metadata"],
}
TEXTS = [part for part in DEFAULT if part not in ("happened_at", "data", "metadata")]


@dataclass
class Event:
    """One record and what it means."""

    life: Life
    offset: int
    record: dict[str, Any]
    kind: str = "event"
    parts: dict[str, Any] = field(default_factory=dict)
    data: Any = None
    happened_at: dt.datetime | None = None
    keys: list[Key] = field(default_factory=list)
    order_ms: int = -1

    @property
    def order(self) -> tuple[Any, ...]:
        """Its place in the lab's total order."""
        topic, partition, incarnation = self.life
        return self.order_ms, topic, partition, incarnation, self.offset

    @property
    def order_at(self) -> dt.datetime:
        return moment(self.order_ms)

    @property
    def recorded_at(self) -> dt.datetime | None:
        stamp = self.record["timestamp_ms"]
        return None if stamp == -1 or stamp > LATEST_MS else moment(stamp)

    @property
    def happened(self) -> dt.datetime:
        return self.happened_at or self.recorded_at or self.order_at

    @property
    def name(self) -> str | None:
        """The event id, or what stands in for it."""
        if self.kind != "event":
            return None
        topic, partition, _ = self.life
        told: str | None = self.parts["event_id"]
        return f"{topic}/{partition}/{self.offset}" if told is None else told

    @property
    def key_text(self) -> str | None:
        try:
            return None if self.record["key"] is None else str(self.record["key"].decode())
        except UnicodeDecodeError:
            return None


def moment(ms: int) -> dt.datetime:
    return EPOCH + dt.timedelta(milliseconds=ms)


class Oracle:
    """Every record of a lab, decoded, and plain answers over them."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        config = self.folder / "lab.toml"
        told = tomllib.loads(config.read_text()) if config.exists() else {}
        self.topics = {topic: _Topic(one) for topic, one in told.get("topics", {}).items()}
        self.distrust = told.get("distrust", [])
        self.all: list[Event] = []
        self.next: dict[Life, int] = {}
        for life, records, next_ in read_log(self.folder):
            self.next[life] = next_
            self.all += self._decoded(life, records)
        self.all.sort(key=lambda event: event.order)
        newest = {life[:2]: life for life in sorted(self.next)}
        self.newest = set(newest.values())
        self.log = [event for event in self.all if event.life in self.newest]
        """The lab's total order, newest incarnations alone."""

    # --- from records to events

    def _decoded(self, life: Life, records: list[dict[str, Any]]) -> Iterator[Event]:
        topic = self.topics[life[0]]
        highest = -1
        for record in records:
            event = Event(life, record["offset"], record)
            self._read(event, topic)
            if not self._distrusted(event):
                highest = max(highest, min(record["timestamp_ms"], LATEST_MS))
            event.order_ms = highest
            yield event

    def _read(self, event: Event, topic: _Topic) -> None:
        value = event.record["value"]
        event.parts = dict.fromkeys(TEXTS)
        payload = None
        if value is None:
            event.kind = "tombstone"
        else:
            try:
                payload = topic.exact(strict_json(value, parse_float=Decimal))
            except ValueError:
                event.kind = "undecodable"
            else:
                event.parts = {part: _text(topic.find(payload, part)) for part in TEXTS}
                if event.parts["event_type"] is None:
                    event.kind, event.parts = "undecodable", dict.fromkeys(TEXTS)
        if event.kind == "event":
            found = topic.find(payload, "data")
            event.data = {} if found is None else found
            event.happened_at = read_time(topic.find(payload, "happened_at"))
            for aggregate, path in topic.aggregates:
                for identity in _walk(payload, path):
                    text = _text(identity)
                    if text and (aggregate, text) not in event.keys:
                        event.keys.append((aggregate, text))
        elif topic.aggregates and event.key_text:
            event.keys = [(topic.aggregates[0][0], event.key_text)]

    def _distrusted(self, event: Event) -> bool:
        topic, partition, _ = event.life
        for rule in self.distrust:
            facts = {"topic": topic, "partition": partition, "source": event.parts["source"], "producer_id": event.record["producer_id"]}
            fits = all(facts[name] == told for name, told in rule.items() if name != "offsets")
            low, high = rule.get("offsets", (0, math.inf))
            if fits and low <= event.offset < high:
                return True
        return False

    # --- which events

    def history(self, key: Key, held: Callable[[Event], bool] = lambda event: True) -> list[Event]:
        return [event for event in self.log if key in event.keys and held(event)]

    @property
    def keys(self) -> list[Key]:
        return sorted({key for event in self.log for key in event.keys})

    @property
    def histories(self) -> dict[Key, list[Event]]:
        """All of them, in one pass."""
        found: dict[Key, list[Event]] = defaultdict(list)
        for event in self.log:
            for key in event.keys:
                found[key].append(event)
        return found

    def until_event(self, event: Event) -> Callable[[Event], bool]:
        return lambda one: one.order <= event.order

    def first_of(self, name: str) -> Event:
        """The first event of that id."""
        return next(event for event in self.log if event.name == name)

    def cut(self, held: Callable[[Event], bool]) -> dict[Life, int]:
        """Next offset of each newest partition, if these events are all that is in it."""
        out = dict.fromkeys(self.newest, 0)
        for event in self.log:
            if held(event):
                out[event.life] = max(out[event.life], event.offset + 1)
        return out

    def within(self, cut: Mapping[Life, int]) -> Callable[[Event], bool]:
        return lambda event: event.offset < cut.get(event.life, 0)

    # --- states, by the default projection

    def states(self, key: Key, events: list[Event]) -> list[Any]:
        """The state before the first event and after each."""
        states: list[Any] = [{}]
        for event in events:
            states.append(self.fold(states[-1], key, event))
        return states

    def fold(self, state: dict[str, Any], key: Key, event: Event) -> dict[str, Any]:
        if event.kind == "undecodable":
            return state
        if event.kind == "tombstone":
            return {}
        merged = dict(state)
        aggregate, identity = key
        paths = [path for name, path in self.topics[event.life[0]].aggregates if name == aggregate]
        if any(EACH in path for path in paths):
            payload = self.topics[event.life[0]].exact(strict_json(event.record["value"], parse_float=Decimal))
            for path in paths:
                if EACH in path:
                    found = list(_carriers(payload, path, identity))
                else:
                    found = [event.data for told in _walk(payload, path) if _text(told) == identity]
                for element in found:
                    merged.update(element)
        elif isinstance(event.data, dict):
            merged.update(event.data)
        merged["_type"] = event.parts["event_type"]
        merged["_version"] = event.parts["event_version"]
        if merged["_version"] is None:
            del merged["_version"]
        return merged

    def world(
        self, aggregate: str, held: Callable[[Event], bool] = lambda event: True, *, ended: bool = False
    ) -> dict[str, tuple[int, Any]]:
        """id -> version and state, as of a selection."""
        out = {}
        for key, events in self.histories.items():
            chosen = [event for event in events if held(event)]
            told = [event for event in chosen if event.kind != "undecodable"]
            over = bool(told) and told[-1].kind == "tombstone"
            if key[0] == aggregate and chosen and (ended or not over):
                out[key[1]] = (len(chosen), self.states(key, chosen)[-1])
        return out


class _Topic:
    def __init__(self, told: dict[str, Any]) -> None:
        envelope = told.get("envelope", "default")
        assert envelope == "default", "the oracle knows the default envelope alone"
        self.envelope = {part: [_path(text) for text in texts] for part, texts in DEFAULT.items()}
        self.aggregates = [(pair["name"], _path(pair["id"])) for pair in told.get("aggregates", [])]
        self.decimals = {_path(text) for text in told.get("decimals", [])}

    def exact(self, value: Any, at: tuple[Any, ...] = ()) -> Any:
        """The payload with decimals where they are declared, and floats elsewhere."""
        if isinstance(value, dict):
            return {name: self.exact(inner, (*at, name)) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.exact(inner, (*at, number)) for number, inner in enumerate(value)]
        declared = any(
            len(path) == len(at) and all(part in (EACH, told) for part, told in zip(path, at, strict=True)) for path in self.decimals
        )
        number = isinstance(value, (int, Decimal)) and not isinstance(value, bool)
        if declared and (number or (isinstance(value, str) and re.fullmatch(r"-?[0-9]+([.][0-9]+)?([eE][+-]?[0-9]+)?", value))):
            return Decimal(value)
        return float(value) if isinstance(value, Decimal) else value

    def find(self, payload: Any, part: str) -> Any:
        """The first that is there of the places where a part may stand."""
        for path in self.envelope[part]:
            for found in _walk(payload, path):
                if found is not None:
                    return found
        return None


# --- the log ------------------------------------------------------------------------------------


def read_log(folder: Path) -> Iterator[tuple[Life, list[dict[str, Any]], int]]:
    """Each incarnation of each partition: its records by offset, and where it ends."""
    lives: dict[Life, list[tuple[int, int, Path]]] = defaultdict(list)
    for path in (folder / "log").glob("*/*/*/*.parquet"):
        if not path.name.startswith("."):
            footer = json.loads(pq.read_metadata(path).metadata[b"eslab"])
            life = (footer["topic"], footer["partition"], footer["incarnation"])
            lives[life].append((footer["start"], footer["next"], path))
    for life, segments in sorted(lives.items()):
        records: list[dict[str, Any]] = []
        reached = -1
        for _, next_, path in sorted(segments):
            if next_ > reached:
                with pq.ParquetFile(path) as file:
                    records += [row for row in file.read().to_pylist() if row["offset"] >= reached]
                reached = next_
        yield life, records, reached


# --- values -------------------------------------------------------------------------------------


def strict_json(text: bytes, parse_float: Callable[[str], Any] = float) -> Any:
    """The JSON value; `ValueError` for anything that is none."""
    value = json.loads(text.decode("utf-8"), parse_constant=_refuse, parse_float=parse_float)
    json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")  # a lone surrogate fails here
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def canonical(value: Any) -> str:
    """Text that is equal for equal JSON values, and tells 1 from 1.0 and from true; a decimal from all of these and by every zero of it."""
    return json.dumps(value, sort_keys=True, default=lambda decimal: {"decimal": f"{decimal:f}"})


def _path(text: str) -> tuple[Any, ...]:
    parts: list[Any] = []
    for name, each, index in re.findall(r"(\w[\w-]*)|(\[\])|\[(-?\d+)\]", text):
        parts.append(name or (EACH if each else int(index)))
    return tuple(parts)


def _walk(value: Any, path: tuple[Any, ...]) -> Iterator[Any]:
    """Every value at the end of a path."""
    if not path:
        yield value
    elif path[0] is EACH:
        for element in value if isinstance(value, list) else []:
            yield from _walk(element, path[1:])
    elif isinstance(path[0], int):
        if isinstance(value, list) and -len(value) <= path[0] < len(value):
            yield from _walk(value[path[0]], path[1:])
    elif isinstance(value, dict) and path[0] in value:
        yield from _walk(value[path[0]], path[1:])


def _carriers(value: Any, path: tuple[Any, ...], identity: str) -> Iterator[dict[str, Any]]:
    """The objects in the innermost list of a path that carry an id."""
    if EACH not in path:
        if isinstance(value, dict) and any(_text(found) == identity for found in _walk(value, path)):
            yield value
        return
    at = path.index(EACH)
    for inner in _walk(value, path[:at]):
        for element in inner if isinstance(inner, list) else []:
            yield from _carriers(element, path[at + 1 :], identity)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def read_time(told: Any) -> dt.datetime | None:
    """ISO 8601, without a zone in UTC; or a number since 1970 whose size tells its unit. None: no time."""
    text = _text(told)
    if text is None:
        return None
    if re.fullmatch(r"\d{1,19}(\.\d+)?", text):
        number = float(text)
        unit = 1 if number < 1e11 else 1e3 if number < 1e14 else 1e6 if number < 1e17 else 1e9
        return EPOCH + dt.timedelta(microseconds=round(number / unit * 1e6))
    if not re.match(r"\d{4}-\d\d-\d\d", text):
        return None
    try:
        found = dt.datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None
