"""A value, looked for in everything that events carry: where in their data and metadata it stands, and how often."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from eslab.events import Events, Run
from eslab.model import EACH, Path, dumps, format_path, loads
from eslab.sql import engine, rows

__all__ = ["Place", "Search", "find_values"]

PART: Final = 640_000  # rows searched at once; after each part it is asked whether it was enough
PARSED: Final = (
    200_000  # events that hold the text somewhere and are read to see where: a second or two; beyond it the search says that it is not all
)
PLACES: Final = 500  # paths that are told of; what is under keys made of ids has no end
BATCH: Final = 5_000
NAMED: Final = 3  # event types named at a path

_PLAIN: Final = re.compile(r'[^\x00-\x1f"\\\ud800-\udfff]+')  # what JSON writes as it is


@dataclass(slots=True)
class Place:
    """One path at which the value stands: the types of events that have it there, how many events, and when."""

    path: str
    types: dict[str, None] = field(default_factory=dict)
    count: int = 0
    first: dt.datetime | None = None
    last: dt.datetime | None = None

    def add(self, event_type: str, moment: dt.datetime) -> None:
        self.types[event_type] = None
        self.count += 1
        self.first = moment if self.first is None or moment < self.first else self.first
        self.last = moment if self.last is None or moment > self.last else self.last

    @property
    def name(self) -> str:
        """The path and the types, of many the first."""
        named = list(self.types)
        more = f" and {len(named) - NAMED:,} more" if len(named) > NAMED else ""
        return f"{self.path} of {', '.join(named[:NAMED])}{more}"


@dataclass(frozen=True, slots=True)
class Search:
    """What was found, and in how many events of how many. `more` is how many paths are not told of, `unread` how many events could not be looked into."""

    places: list[Place]
    searched: int
    total: int
    more: int
    unread: int


def find_values(events: Events, told: str, *, whole: bool) -> Search:
    """Where a text stands in `data` or `metadata` of an event, as a string or as a number that JSON writes so.

    Reads every event, a part of them at a time; without `whole` no further part once it had to look into `PARSED` of them.
    """
    found: dict[str, Place] = {}
    more = set[str]()
    searched = parsed = unread = 0
    text = max(_PLAIN.findall(told), key=len, default="")
    with contextlib.closing(engine()) as con:
        ((total,),) = con.execute(f"select count(*) from {rows(events)} where {_EVENT}").fetchall()
        for part in _parts(events):
            if parsed >= PARSED and not whole:
                break
            ((held,),) = con.execute(f"select count(*) from {rows(part)} where {_EVENT}").fetchall()
            reader = con.sql(
                f"""select event_type, data, metadata, order_at from {rows(part)}
                where {_EVENT} and (contains(data, $text) or contains(metadata, $text))""",
                params={"text": text},
            ).to_arrow_reader(BATCH)
            for batch in reader:
                unread += sum(not _look(row, told, found, more) for row in batch.to_pylist())
                parsed += batch.num_rows
            searched += held
    return Search(list(found.values()), searched, total, len(more), unread)


_EVENT: Final = "first and kind = 'event'"


def _parts(events: Events) -> Iterator[Events]:
    """The same events, some files at a time."""
    for run in events.manifest.runs:
        size = max(1, PART * len(run.files) // max(run.rows, 1))
        for start in range(0, len(run.files), size):
            files = run.files[start : start + size]
            yield Events(events.folder, msgspec.structs.replace(events.manifest, runs=[Run(run.level, run.rows, files)]))


def _look(row: dict[str, Any], told: str, found: dict[str, Place], more: set[str]) -> bool:
    """Note the paths at which one event has it; False where it cannot be read."""
    try:
        told_of = {name: loads(row[name]) for name in ("data", "metadata") if row[name] is not None}
    except ValueError:
        return False
    for path in {format_path(path) for name, value in told_of.items() for path in _paths(value, (name,), told)}:
        if path not in found and len(found) >= PLACES:
            more.add(path)
            continue
        found.setdefault(path, Place(path)).add(row["event_type"], row["order_at"])
    return True


def _paths(value: Any, path: Path, told: str) -> Iterator[Path]:
    """Every path at which the text stands; of a list, its elements as one."""
    todo: list[tuple[Any, Path]] = [(value, path)]
    while todo:
        value, path = todo.pop()
        if isinstance(value, dict):
            todo += [(inner, (*path, name)) for name, inner in value.items()]
        elif isinstance(value, list):
            todo += [(inner, (*path, EACH)) for inner in value]
        elif value == told if isinstance(value, str) else _number(value) == told:
            yield path


def _number(value: Any) -> str | None:
    return dumps(value).decode() if isinstance(value, (int, float)) and not isinstance(value, bool) else None
