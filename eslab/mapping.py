"""lab.toml: which envelope a topic's records have, which aggregates its events belong to, and whose clocks lie.

With nothing configured a topic's mapping is inferred once, from a sample, aloud, and written down.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Any, Final

import msgspec
import tomlkit
from tomlkit.items import Table

from eslab.decode.envelopes import ENVELOPES, Envelope, describe, read_envelope
from eslab.errors import ConfigError
from eslab.model import EACH, Path, dumps, format_path, loads, parse_path
from eslab.sources import CONSUMER_OFFSETS
from eslab.wording import many

__all__ = ["Distrust", "Mapping", "TopicMapping", "first_id", "infer", "read_mapping", "write_distrust", "write_topic"]

FORMAT_VERSION: Final = 1
SAMPLE: Final = 1000  # records looked at to infer a topic's mapping
CLEAR: Final = 0.8  # of the keyed events in a sample must carry the key in one field for that field to be the id
DEAD: Final = re.compile(
    r"(?i:(?:^|[._-])(?:dlq|dlt|dead[._-]?letters?(?:[._-]?queue)?)(?![a-z]))|(?<=[a-z])(?:DLQ|DLT|DeadLetters?(?:Queue)?)(?![a-z])"
)
"""What the name of a topic of dead letters says: orders-dlq, orders.DLT, dead-letters, ordersDeadLetterQueue."""


@dataclass(frozen=True, slots=True)
class TopicMapping:
    """How one topic is read: its envelope, (aggregate, id path) pairs, paths from the payload's root, and where numbers keep all their digits, from data on.

    `dead_letters`: its records are copies of those of other topics that a consumer gave up on.
    """

    envelope: Envelope
    aggregates: tuple[tuple[str, Path], ...] = ()
    decimals: tuple[Path, ...] = ()
    dead_letters: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Distrust:
    """Records whose timestamp is not to be believed: all that fit every part that is given.

    `offsets` is `(start, next)`, the second exclusive. A distrusted record takes the order_at of its predecessor.
    """

    source: str | None = None
    producer_id: int | None = None
    topic: str | None = None
    partition: int | None = None
    offsets: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if all(value is None for value in asdict(self).values()):
            raise ConfigError("distrust needs to know whom: give source=, producer_id=, or topic= with partition= and offsets=")
        if self.offsets is not None and (self.topic is None or self.partition is None):
            raise ConfigError("distrust by offsets= needs topic= and partition= too: offsets mean nothing without them")

    def __str__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in asdict(self).items() if value is not None)


@dataclass(frozen=True, slots=True)
class Mapping:
    """What lab.toml says."""

    topics: dict[str, TopicMapping]
    distrust: tuple[Distrust, ...] = ()

    def fingerprint(self, topic: str) -> str:
        """The fingerprint of all that decides how this topic's records become events; "" if nothing does yet."""
        if topic == CONSUMER_OFFSETS:
            return "no events"
        if topic not in self.topics:
            return ""
        told = self.topics[topic]
        rules = [asdict(rule) for rule in self.distrust if rule.topic in (None, topic)]
        aggregates = [[name, format_path(path)] for name, path in told.aggregates]
        decimals = [format_path(path) for path in told.decimals]
        return hashlib.sha256(dumps([FORMAT_VERSION, describe(told.envelope), aggregates, rules, decimals])).hexdigest()[:16]

    @property
    def dead_letters(self) -> list[str]:
        """The topics whose records are dead letters."""
        return [topic for topic, told in self.topics.items() if told.dead_letters]

    def elements(self, aggregate: str) -> dict[str, list[Path]]:
        """For each topic that reaches an aggregate through a list, every id path to it, from the event's data on."""
        out = {}
        for topic, told in self.topics.items():
            paths = [path for name, path in told.aggregates if name == aggregate]
            if any(EACH in path for path in paths):
                out[topic] = [path[len(data) :] for path in paths for data in told.envelope.data if path[: len(data)] == data]
        return out


def read_mapping(folder: FilePath) -> Mapping:
    """What lab.toml in this folder says; nothing if there is none. Raises `ConfigError` naming the entry that is wrong."""
    path = folder / "lab.toml"
    try:
        return _mapping(path, path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Mapping({})
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: not readable as TOML: {exc}") from exc


@lru_cache(maxsize=8)  # every question begins with it, and it takes as long as half a look-up
def _mapping(path: FilePath, text: str) -> Mapping:
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: not readable as TOML: {exc}") from exc
    if raw.get("format_version") != FORMAT_VERSION:
        raise ConfigError(f"{path}: format_version is {raw.get('format_version')!r}, this eslab reads {FORMAT_VERSION}")
    topics, distrust = raw.get("topics", {}), raw.get("distrust", [])
    if not isinstance(topics, dict) or not isinstance(distrust, list):
        raise ConfigError(f"{path}: topics are tables like [topics.orders], distrust is tables like [[distrust]]")
    return Mapping(
        {topic: _read_topic(told, f"{path}: [topics.{topic}]") for topic, told in topics.items()},
        tuple(_read_distrust(told, f"{path}: [[distrust]]") for told in distrust),
    )


def _read_topic(told: Any, where: str) -> TopicMapping:
    if not isinstance(told, dict) or not told.keys() <= {"envelope", "aggregates", "decimals", "dead_letters"}:
        raise ConfigError(f"{where}: a topic has `envelope`, `aggregates`, `decimals` and `dead_letters`, nothing else")
    aggregates, decimals, dead = told.get("aggregates", []), told.get("decimals", []), told.get("dead_letters", False)
    if not isinstance(dead, bool):
        raise ConfigError(f"{where}: dead_letters is true or false, not {dead!r}")
    if not isinstance(aggregates, list):
        raise ConfigError(f"{where}: aggregates is a list of {{ name, id }}")
    if not isinstance(decimals, list) or not all(isinstance(text, str) for text in decimals):
        raise ConfigError(f'{where}: decimals is a list of paths like ["data.amount", "data.items[].price"], not {decimals!r}')
    pairs = []
    for pair in aggregates:
        if not isinstance(pair, dict) or pair.keys() != {"name", "id"} or not all(isinstance(text, str) and text for text in pair.values()):
            raise ConfigError(f'{where}: each aggregate is written {{ name = "order", id = "data.orderId" }}, not {pair!r}')
        try:
            pairs.append((pair["name"], _id_path(pair["id"])))
        except ConfigError as exc:
            raise ConfigError(f"{where}: {exc}") from exc
    envelope = read_envelope(told.get("envelope", "default"), where)
    return TopicMapping(envelope, tuple(pairs), tuple(_in_data(text, envelope, where) for text in decimals), dead)


def _in_data(text: str, envelope: Envelope, where: str) -> Path:
    """The path from data on."""
    path = parse_path(text)
    for place in envelope.data:
        if path[: len(place)] == place and len(path) > len(place):
            return path[len(place) :]
    places = " or ".join(format_path(place) for place in envelope.data) or "nowhere"
    raise ConfigError(f"{where}: decimals: {text} does not lie in data, which is {places} in this envelope")


def _id_path(text: str) -> Path:
    path = parse_path(text)
    if EACH in path and "" in path:
        raise ConfigError(f"path {text!r} has both [] and an empty name, which DuckDB cannot follow")
    return path


def _read_distrust(told: Any, where: str) -> Distrust:
    known = [field.name for field in fields(Distrust)]
    if not isinstance(told, dict) or not told.keys() <= set(known):
        raise ConfigError(f"{where}: a rule has any of {', '.join(known)}, nothing else")
    try:
        return msgspec.convert(told, Distrust)
    except msgspec.ValidationError as exc:
        raise ConfigError(
            f"{where}: source and topic are texts, producer_id and partition numbers, offsets = [start, next]: {exc}"
        ) from exc
    except ConfigError as exc:
        raise ConfigError(f"{where}: {exc}") from exc


# --- writing ----------------------------------------------------------------------------------------


def write_topic(folder: FilePath, topic: str, told: TopicMapping, remarks: Iterable[str] = ()) -> None:
    """Add a topic's mapping to lab.toml, with remarks as comments. What stands there already is kept as it is."""
    with _editing(folder) as document:
        table = tomlkit.table()
        table.add("envelope", told.envelope.name)
        pairs = tomlkit.array()
        for name, path in told.aggregates:
            pair = tomlkit.inline_table()
            pair.update({"name": name, "id": format_path(path)})
            pairs.append(pair)
        for remark in remarks:
            table.add(tomlkit.comment(remark))
        table.add("aggregates", pairs)
        if told.dead_letters:
            table.add("dead_letters", True)
        topics = document.setdefault("topics", tomlkit.table(is_super_table=True))
        assert isinstance(topics, Table)
        topics.add(topic, table)


def write_distrust(folder: FilePath, rule: Distrust) -> None:
    """Add a rule to lab.toml. Raises `ConfigError` where it could not be read back."""
    _read_distrust({name: value for name, value in asdict(rule).items() if value is not None}, "distrust")
    with _editing(folder) as document:
        rules = document.setdefault("distrust", tomlkit.aot())
        table = tomlkit.table()
        for name, value in asdict(rule).items():
            if value is not None:
                table.add(name, list(value) if isinstance(value, tuple) else value)
        rules.append(table)


@contextlib.contextmanager
def _editing(folder: FilePath) -> Iterator[tomlkit.TOMLDocument]:
    """Read lab.toml, let the caller change it, and put it back whole, under a short lock of its own."""
    path = folder / "lab.toml"
    (folder / "log").mkdir(parents=True, exist_ok=True)
    with (folder / "log" / ".config").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            document = tomlkit.parse(path.read_text(encoding="utf-8"))
        else:
            document = tomlkit.document()
            document.add(tomlkit.comment("An eslab lab: how the captured topics are read. See docs/format.md"))
            document.add("format_version", FORMAT_VERSION)
        yield document
        temporary = folder / f".lab.toml-{os.getpid()}-{secrets.token_hex(4)}"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(tomlkit.dumps(document))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


# --- inference --------------------------------------------------------------------------------------


def infer(topic: str, sample: Iterable[tuple[bytes | None, bytes | None]]) -> tuple[TopicMapping, list[str], str]:
    """Infer a topic's mapping from (key, value) pairs.

    Return it, the remarks to write beside it, and the one sentence to say aloud. The id is the commonest `...Id` field of the data that
    equals the record key; with no clear winner the topic gets no aggregate and the candidates stand in the remarks. Nor does one whose name says that it holds dead letters.
    """
    keyed, payloads = 0, 0
    envelopes: Counter[str] = Counter()
    equal: Counter[Path] = Counter()
    present: Counter[Path] = Counter()
    for key, value in sample:
        payload = _payload(value)
        if payload is None:
            continue
        payloads += 1
        name = _guess_envelope(payload)
        envelopes[name] += 1
        keyed += key is not None
        text = key.decode("utf-8", "replace") if key is not None else None
        for path, identity in _candidates(payload, name):
            present[path] += 1
            equal[path] += text is not None and str(identity) == text
    envelope = ENVELOPES[envelopes.most_common(1)[0][0] if envelopes else "default"]
    if DEAD.search(topic):
        said = f"topic {topic}: by its name it holds dead letters, copies of events of other topics, so they are in no history and lab.dead_letters() tells of them; change it in lab.toml"
        return TopicMapping(envelope, dead_letters=True), ["copies of events of other topics: folded again they would count twice"], said
    ranked = sorted((-count, format_path(path), path) for path, count in equal.items() if count)
    clear = ranked and -ranked[0][0] >= CLEAR * keyed and (len(ranked) == 1 or ranked[0][0] < ranked[1][0])
    if clear:
        path = ranked[0][2]
        aggregate = _aggregate(topic, str(path[-1]))
        said = f"topic {topic}: inferred the {envelope.name} envelope and aggregate {aggregate!r} by {format_path(path)} (equals the record key in {-ranked[0][0]} of {many(keyed, 'event')}); change it in lab.toml"
        return TopicMapping(envelope, ((aggregate, path),)), [], said
    options = sorted(present, key=lambda path: (-equal[path], -present[path], format_path(path)))[:8]
    remarks = [
        "no id field equals the record keys clearly; candidates (keep those that are right):" if options else "no field looks like an id"
    ]
    remarks += [
        f"{{ name = {dumps(_aggregate(topic, str(path[-1]))).decode()}, id = {dumps(format_path(path)).decode()} }}  # in {present[path]} of {many(payloads, 'event')}, equals the key in {equal[path]}"
        for path in options
    ]
    said = f"topic {topic}: no field is clearly the id of an aggregate" + (
        f"; {len(options)} candidates stand in lab.toml: choose there" if options else "; name one in lab.toml"
    )
    return TopicMapping(envelope), remarks, said


def first_id(payload: Any) -> Any:
    """The first field of an event's data that is called like an id, by its value; None if there is none."""
    return next((identity for _, identity in _candidates(payload, "default")), None)


def _payload(value: bytes | None) -> dict[str, Any] | None:
    try:
        payload = loads(value or b"")
    except ValueError:
        return None
    return payload if isinstance(payload, dict) else None


def _guess_envelope(payload: dict[str, Any]) -> str:
    if "specversion" in payload:
        return "cloudevents"
    return "eventbridge" if "detail-type" in payload else "default"


def _candidates(payload: dict[str, Any], envelope: str) -> Iterator[tuple[Path, Any]]:
    """Fields of the event's data (of a flat payload: of itself) that are called like an id and hold one."""
    data_path = ENVELOPES[envelope].data[0]
    data = payload.get(str(data_path[0]))
    base, fields = (data_path, data) if isinstance(data, dict) else ((), payload)
    ours = {str(path[0]) for part in ("event_id", "correlation_id", "causation_id") for path in getattr(ENVELOPES[envelope], part)}
    for name, value in fields.items():
        if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "" and _is_id(name) and (base or name not in ours):
            yield (*base, name), value


def _is_id(name: str) -> bool:
    return name in ("id", "ID") or name.endswith(("Id", "ID", "_id", "-id"))


def _aggregate(topic: str, field: str) -> str:
    """What the field identifies: orderId → order; a bare id → the topic, in the singular."""
    for ending in ("_id", "-id", "Id", "ID"):
        if field.endswith(ending) and len(field) > len(ending):
            return field.removesuffix(ending)
    last = topic.replace("_", "-").replace(".", "-").split("-")[-1]
    return last[:-1] if len(last) > 1 and last.endswith("s") else last
