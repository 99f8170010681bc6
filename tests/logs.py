"""Logs of every kind for the properties, and the comparison of a lab with its oracle."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from oracle import Event, Key, Oracle, canonical, moment

from eslab.errors import ConfigError, UnknownId
from eslab.lab import Lab
from eslab.model import Coordinates, Record
from eslab.sources.memory import MemorySource

_COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
MORE = int(os.environ.get("ESLAB_EXAMPLES", "1"))  # `make torture` says more
TORTURE = settings(max_examples=2000, **_COMMON)


def few(examples: int) -> settings:
    """So many examples in `make test`, always the same ones and not shrunk, which takes minutes; many times as many, drawn anew, in `make torture`."""
    if MORE > 1:
        return settings(max_examples=examples * MORE, **_COMMON)
    return settings(max_examples=examples, derandomize=True, phases=[Phase.explicit, Phase.generate], **_COMMON)


BASE_MS = 1_767_225_600_000  # 2026-01-01
WEEK_MS = 7 * 24 * 3_600_000

RULES = """
format_version = 1

[topics.orders]
envelope = "default"
aggregates = [{ name = "order", id = "data.orderId" }, { name = "item", id = "data.items[].id" }]
decimals = ["data.n", "data.items[].n", "data.b.deep[0]"]

[topics.parcels]
envelope = "default"
aggregates = [
    { name = "item", id = "data.boxes[].lines[].item.id" },
    { name = "parcel", id = "data.parcelId" },
    { name = "order", id = "data.orderId" },
    { name = "order", id = "data.items[].id" },
]

[topics.audit]
envelope = "default"
aggregates = []
"""

# --- made logs ----------------------------------------------------------------------------------

IDS = ["a", "a", "b", "ord-1", "A", "ä", "a\u0308", "😀", "a\u0000", "a b", "'\"%", "../x", "\\", "1", "x" * 300]
BROKEN = [
    b"", b"{", b"null", b"[]", b'"text"', b"7", b'{"eventType": null}', b'{"eventType": NaN}', b'{"eventType": "X",}', b"\xef\xbb\xbf{}", b"\xff\xfe",
    b'{"eventType": "X", "data": {"orderId": "\xff"}}', b'{"eventType": "X", "data": {"orderId": "\\ud800"}}', b'{"eventType": "X"} {}', b'{"eventType": "X", "data": 01}',
]  # fmt: skip


class Digits(str):
    """A number as it is written: `json` would write another one."""

    __slots__ = ()


def _json(value: Any, *, ensure_ascii: bool) -> str:
    text = json.dumps(_marked(value), ensure_ascii=ensure_ascii)
    return re.sub(r'"digits:([^"]*)"', r"\1", text)


def _marked(value: Any) -> Any:
    if isinstance(value, Digits):
        return f"digits:{value}"
    if isinstance(value, dict):
        return {name: _marked(inner) for name, inner in value.items()}
    return [_marked(inner) for inner in value] if isinstance(value, list) else value


SCALARS = [
    0,
    -1,
    2**53 + 1,
    2**63,
    2**64,
    10**30,
    -(10**40),
    0.1,
    -2.5e-7,
    1e22,
    True,
    False,
    None,
    Digits("1.10"),
    Digits("-0.00"),
    Digits("12345678901234567890.123456789012345678901234567890"),
    Digits("1E-7"),
    Digits("5e300"),
    "2.50",
    "",
    "text",
    "{}",
    "12",
    "\u2028",
    [],
    {},
    {"deep": [{"er": 2**70}]},
]
TIMES = [
    None,
    "2026-01-01T00:00:30Z",
    "2026-01-01T02:01:00+02:00",
    "2026-01-01T00:02:00.123456",
    "2026-01-01",
    BASE_MS,
    BASE_MS // 1000 + 90,
    "soon",
    "",
    True,
]
STAMPS = [-1, 0, BASE_MS + 1, BASE_MS - WEEK_MS, BASE_MS + WEEK_MS, 10**17]
DISTRUST = [
    "",
    '[[distrust]]\nsource = "app"\n',
    "[[distrust]]\nproducer_id = 7\n",
    '[[distrust]]\ntopic = "orders"\npartition = 1\noffsets = [1, 4]\n',
    '[[distrust]]\ntopic = "orders"\nsource = "web"\n\n[[distrust]]\ntopic = "parcels"\n',
]


class Maker:
    """One record at a time from a seed: Hypothesis chooses and shrinks lists of seeds, which vary far more than its own nested values."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._one = self._random.choice

    def record(self) -> Record:
        minute = self._random.randint(0, 5)
        return Record(
            topic=self._one(["orders", "orders", "parcels", "audit"]),
            partition=self._random.randint(0, 2),
            timestamp_ms=self._one([BASE_MS + minute * 60_000] * 6 + STAMPS),
            timestamp_type=self._one(["create", "append", None]),
            key=self._one([None, b"", b"\xff", *(identity.encode() for identity in IDS)]),
            value=self._value(),
            producer_id=self._one([None, 7, 8]),
        )

    def _value(self) -> bytes | None:
        kind = self._random.random()
        if kind < 0.1:
            return None
        if kind < 0.2:
            return self._one(BROKEN)
        return _json(self._payload(), ensure_ascii=self._one([True, False])).encode()

    def _payload(self) -> dict[str, Any]:
        payload = self._some(
            eventId=[None, "e1", "e2", "e3", 4],
            eventVersion=["1", 2, None, "two"],
            timestamp=TIMES,
            source=["app", "web"],
            correlationId=[self._id()],
            causationId=[self._id()],
            metadata=[None, "text", {"traceId": "t", "spanId": 1, "parentSpanId": None, "more": [2**80]}],
            data=[self._mostly(self._data())],
        )
        return {**payload, self._one(["eventType", "eventType", "type"]): self._one(["Created", "Changed", "Grew", "grew"])}

    def _data(self) -> dict[str, Any]:
        data = self._some(
            orderId=[self._id()],
            parcelId=[self._id()],
            items=[self._mostly(self._items())],
            boxes=[self._mostly(self._boxes())],
            n=SCALARS,
            _type=SCALARS,
        )
        return {**data, self._one(["n", "ü \"'.[]", "b"]): self._one(SCALARS)}

    def _items(self) -> list[Any]:
        items = [self._mostly(self._some(id=[self._id()], n=SCALARS, name=SCALARS)) for _ in range(self._random.randint(0, 3))]
        return self._one([items, items, items, items[:1] + items])

    def _boxes(self) -> list[Any]:
        return [
            self._mostly({"lines": self._mostly([{"item": item} for item in self._items()])}) for _ in range(self._random.randint(0, 2))
        ]

    def _id(self) -> Any:
        return self._one([*IDS, 1, 10**29, -7, None, ""])

    def _mostly(self, value: Any) -> Any:
        return value if self._random.random() < 0.9 else self._one(SCALARS)

    def _some(self, **options: list[Any]) -> dict[str, Any]:
        return {name: self._one(values) for name, values in options.items() if self._random.random() < 0.8}


@dataclass(frozen=True)
class Log:
    """Records as they were sent, and the lab.toml to read them by."""

    records: list[Record]
    rules: str

    def __repr__(self) -> str:
        lines = [f"{one.topic}[{one.partition}] {one.timestamp_ms} {one.key!r}: {one.value!r}" for one in self.records]
        return "\n".join(["", *lines, self.rules.removeprefix(RULES)])

    def _repr_pretty_(self, printer: Any, _cycle: Any) -> None:
        printer.text(repr(self))


_ANCHORS = [
    Record(topic="orders", timestamp_ms=BASE_MS, key=b"a", value=b'{"eventType": "Created", "data": {"orderId": "a"}}'),
    Record(topic="parcels", timestamp_ms=BASE_MS, key=b"a", value=b'{"eventType": "Created", "data": {"parcelId": "a"}}'),
]
"""A lab refuses rules that fit no event of a topic at all, so one of each fits: somewhere."""


def made(size: int, seed: int) -> Log:
    """A log of that size, without Hypothesis."""
    return Log([*_ANCHORS, *(Maker(seed * 1_000_000 + number).record() for number in range(size))], RULES)


@st.composite
def logs(draw: st.DrawFn, most: int = 30) -> Log:
    seeds = draw(st.integers(0, most).flatmap(lambda size: st.lists(st.integers(0, 2**32), min_size=size, max_size=size)))
    records = [Maker(seed).record() for seed in seeds]
    for anchor in _ANCHORS:
        records.insert(draw(st.integers(0, len(records))), anchor)
    return Log(records, RULES + draw(st.sampled_from(DISTRUST)))


def new_lab(folder: Path, rules: str) -> Lab:
    folder.mkdir(parents=True)
    (folder / "lab.toml").write_text(rules)
    return Lab(folder, tz="UTC", say=lambda notice: None)


def snapshot(lab: Lab, source: MemorySource, **bounds: Any) -> None:
    """Capture; that none of the few events so far has an id is no failure of a log that is still growing."""
    try:
        lab.snapshot(source, progress=False, **bounds)
    except ConfigError as exc:
        if "none of its" not in str(exc):
            raise


def captured(folder: Path, log: Log) -> Lab:
    """A lab with the whole log in one snapshot."""
    lab = new_lab(folder, log.rules)
    lab.snapshot(MemorySource(log.records), progress=False)
    return lab


# --- the comparison -----------------------------------------------------------------------------

_COLUMNS = [
    "topic", "partition_id", "incarnation", "record_offset", "order_at", "recorded_at", "happened_at", "timestamp_type", "record_key",
    "event_id", "event_type", "event_version", "source", "correlation_id", "causation_id", "trace_id", "span_id", "parent_span_id", "data", "metadata",
]  # fmt: skip


def _row(event: Event) -> tuple[Any, ...]:
    """The columns of an event as SQL should show them."""
    parts = {**event.parts, "event_id": event.name}
    texts = [
        parts[name]
        for name in (
            "event_id",
            "event_type",
            "event_version",
            "source",
            "correlation_id",
            "causation_id",
            "trace_id",
            "span_id",
            "parent_span_id",
        )
    ]
    data = canonical(_digits(event.data)) if event.kind == "event" else None
    return (
        *event.life,
        event.offset,
        event.order_at,
        event.recorded_at,
        event.happened_at,
        event.record["timestamp_type"],
        event.key_text,
        *texts,
        data,
    )


def _digits(value: Any) -> Any:
    """Data as SQL should show it: a declared decimal is a text, with its exponent only where that is past 40."""
    if isinstance(value, Decimal):
        return f"{value:f}" if abs(value.as_tuple().exponent) <= 40 else str(value)
    if isinstance(value, dict):
        return {name: _digits(inner) for name, inner in value.items()}
    return [_digits(inner) for inner in value] if isinstance(value, list) else value


def state_of(text: str) -> Any:
    """A state as `World.arrow` writes it."""
    return json.loads(text, object_hook=lambda one: Decimal(one["$decimal"]) if one.keys() == {"$decimal"} else one)


def _rows(lab: Lab, select: str) -> list[tuple[Any, ...]]:
    table = lab.sql(f"select {select}").to_arrow_table()
    return [
        tuple(canonical(json.loads(value)) if name == "data" and value is not None else value for name, value in row.items())
        for row in table.to_pylist()
    ]


def table_differences(lab: Lab, oracle: Oracle) -> Iterator[str]:
    """Where `events`, `history`, `problems` and `records` are not what the oracle has."""
    columns = ", ".join(_COLUMNS[:-1])
    order = "order by order_at, topic, partition_id, incarnation, record_offset"
    yield from _differ(
        "events", _rows(lab, f"{columns} from events {order}"), [_row(event) for event in oracle.log if event.kind == "event"]
    )
    numbered = [
        (*key, version, event.kind, *_row(event))
        for key, events in sorted(oracle.histories.items())
        for version, event in enumerate(events, 1)
    ]
    yield from _differ(
        "history",
        _rows(lab, f"aggregate, aggregate_id, version, kind, {columns} from history order by aggregate, aggregate_id, version"),
        numbered,
    )
    at = "topic, partition_id, incarnation, record_offset"
    problems = sorted((*event.life, event.offset) for event in oracle.log if event.kind == "undecodable")
    yield from _differ("problems", _rows(lab, f"{at} from problems order by {at}"), problems)
    raw = [
        (*event.life, event.offset, event.record["timestamp_ms"], event.recorded_at, event.record["key"], event.record["value"])
        for event in oracle.all
    ]
    found = _rows(lab, f"{at}, timestamp_ms, recorded_at, key, value from records order by {at}")
    yield from _differ("records", found, sorted(raw, key=lambda row: row[:4]))


def _differ(what: str, found: list[Any], wanted: list[Any]) -> Iterator[str]:
    if found != wanted:
        odd = next(((left, right) for left, right in zip(found, wanted, strict=False) if left != right), "one is longer")
        yield f"{what}: {len(found)} rows where there should be {len(wanted)}; first difference: {odd}"


def history_differences(lab: Lab, oracle: Oracle, keys: Iterable[Key] | None = None) -> Iterator[str]:
    """Where a history, or its state at any version or time, is not the oracle's."""
    histories = oracle.histories
    for key in sorted(histories) if keys is None else keys:
        events = histories[key]
        wanted = [canonical(state) for state in oracle.states(key, events)]
        history = lab.history(*key)
        seen: set[str] = set()
        if [step.event.coordinates for step in history] != [Coordinates(*event.life, event.offset) for event in events]:
            yield f"{key}: the steps are not those of the log"
            continue
        for step, event in zip(history, events, strict=True):
            if canonical(step.before) != wanted[step.version - 1] or canonical(step.after) != wanted[step.version]:
                yield f"{key}: step {step.version}: {step.before} -> {step.after} is not {wanted[step.version - 1 : step.version + 1]}"
            if set(step.marks) != {*(["duplicate"] if event.name in seen else []), *([event.kind] if event.kind != "event" else [])}:
                yield f"{key}: step {step.version}: marks {step.marks}"
            if event.name is not None:
                seen.add(event.name)
        for version in (*range(len(events), -1, -1), len(events)):
            if canonical(history.at(version=version).value) != wanted[version]:
                yield f"{key}: version {version} is not {wanted[version]}"
        times = {event.order_at for event in events}
        for time in sorted({moment(-2), *times, *(time - dt.timedelta(milliseconds=1) for time in times)}):
            version = bisect_right([event.order_at for event in events], time)
            state = history.at(time)
            if state.version != version or canonical(state.value) != wanted[version]:
                yield f"{key}: at {time}: version {state.version} {state.value} is not {version} {wanted[version]}"


def moment_differences(lab: Lab, oracle: Oracle, event: Event, key: Key) -> Iterator[str]:
    """Where cuts at an event and at its times, and what is seen through them, are not the oracle's."""
    time = event.order_at
    by_time, by_name = lab.cut(time), lab.cut(event_id=Coordinates(*event.life, event.offset))
    for cut, held in ((by_time, lambda one: one.order_at <= time), (by_name, oracle.until_event(event))):
        if dict(cut.offsets) != oracle.cut(held):
            yield f"cut {cut} is not {oracle.cut(held)}"
        steps = oracle.history(key, held)
        history = lab.history(*key, at=cut)
        if canonical(history.at().value) != canonical(oracle.states(key, steps)[-1]) or len(history) != len(steps):
            yield f"{key} within {cut}: {history.at()}"
        if canonical(lab.history(*key).at(cut=cut).value) != canonical(oracle.states(key, steps)[-1]):
            yield f"{key} at {cut}"
        yield from world_differences(lab, oracle, key[0], cut, held)
    if event.name is not None:
        first = oracle.first_of(event.name)
        steps = oracle.history(key, oracle.until_event(first))
        if lab.history(*key).at(event_id=event.name).version != len(steps):
            yield f"{key} at event {event.name} is not version {len(steps)}"
    happened = event.happened
    steps = oracle.history(key, lambda one: one.happened <= happened)
    for state in (lab.history(*key, at=happened, clock="happened").at(), lab.history(*key, clock="happened").at(happened)):
        if state.version != len(steps) or canonical(state.value) != canonical(oracle.states(key, steps)[-1]):
            yield f"{key} as happened at {happened}: {state} is not version {len(steps)}"


def world_differences(
    lab: Lab, oracle: Oracle, aggregate: str, at: Any = None, held: Callable[[Event], bool] = lambda event: True, executor: Any = None
) -> Iterator[str]:
    """Where a replay is not the oracle's world, with and without the ended keys."""
    for ended in (False, True):
        world = lab.replay(aggregate, at=at, ended=ended, executor=executor, progress=False)
        found = {row["aggregate_id"]: (row["version"], canonical(state_of(row["state"]))) for row in world.arrow().to_pylist()}
        wanted = {
            identity: (version, canonical(state)) for identity, (version, state) in oracle.world(aggregate, held, ended=ended).items()
        }
        if found != wanted or world.failed or list(world) != sorted(wanted):
            odd = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
            yield f"world of {aggregate} at {at}, ended={ended}: differs at {odd[:3]}: {[(found.get(key), wanted.get(key)) for key in odd[:3]]}"


def all_differences(lab: Lab, oracle: Oracle, some: Callable[[list[Any]], Any]) -> Iterator[str]:
    """Everything above; `some` chooses one of a list."""
    try:
        yield from table_differences(lab, oracle)
        for aggregate in sorted({key[0] for key in oracle.keys}):
            yield from world_differences(lab, oracle, aggregate)
        if oracle.keys:
            yield from moment_differences(lab, oracle, some(oracle.log), some(oracle.keys))
        yield from history_differences(lab, oracle)  # what takes longest
    except UnknownId as exc:
        yield f"not there at all: {exc}"
