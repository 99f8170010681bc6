"""A value, looked for in everything that events carry: where in their data and metadata it stands, and how often."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from eslab.duck import session
from eslab.events import Events, Run
from eslab.model import EACH, Path, dumps, format_path, loads
from eslab.sql import rows

__all__ = ["Place", "Search", "find_values"]

PART: Final = 80_000  # rows searched at once; after each part it is asked whether it was enough
PARSED: Final = (
    200_000  # events that hold the text somewhere and are read to see where: a few seconds; beyond it the search says that it is not all
)
PLACES: Final = 500  # paths that are told of; what is under keys made of ids has no end
BATCH: Final = 5_000
NAMED: Final = 3  # event types named at a path

_PLAIN: Final = re.compile(r'[^\x00-\x1f"\\\ud800-\udfff]+')  # what JSON writes as it is


@dataclass(slots=True)
class Place:
    """One path at which the value stands: the types of events that have it there, how many events, and the first and last order_at, in microseconds since 1970."""

    path: str
    types: dict[str, None]
    count: int
    first_us: int
    last_us: int

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
    found: dict[Path, Place] = {}
    more = set[Path]()
    searched = parsed = unread = 0
    text = max(_PLAIN.findall(told), key=len, default="")
    with session() as con:
        ((total,),) = con.execute(f"select count(*) from {rows(events)} where {_EVENT}").fetchall()
        for part in _parts(events):
            if parsed >= PARSED and not whole:
                break
            ((held,),) = con.execute(f"select count(*) from {rows(part)} where {_EVENT}").fetchall()
            reader = con.sql(
                f"""select event_type, data, metadata, epoch_us(order_at) as order_us from {rows(part)}
                where {_EVENT} and (contains(data, $text) or contains(metadata, $text))""",
                params={"text": text},
            ).to_arrow_reader(BATCH)
            for batch in reader:
                rows_of = zip(*(batch.column(name).to_pylist() for name in ("event_type", "data", "metadata", "order_us")), strict=True)
                unread += sum(not _look(row, told, text, found, more) for row in rows_of)
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


def _look(row: tuple[str, str | None, str | None, int], told: str, text: str, found: dict[Path, Place], more: set[Path]) -> bool:
    """Note the paths at which one event has it; False where it cannot be read."""
    event_type, data, metadata, order_us = row
    paths = set[Path]()
    try:
        for name, value in (("data", data), ("metadata", metadata)):
            if value is not None and text in value:
                _walk(loads(value), (name,), told, paths)
    except ValueError:
        return False
    for path in paths:
        place = found.get(path)
        if place is not None:
            place.types[event_type] = None
            place.count += 1
            place.first_us, place.last_us = min(place.first_us, order_us), max(place.last_us, order_us)
        elif len(found) < PLACES:
            found[path] = Place(format_path(path), {event_type: None}, 1, order_us, order_us)
        else:
            more.add(path)
    return True


def _walk(value: Any, path: Path, told: str, paths: set[Path]) -> None:
    """Add every path at which the text stands; of a list, its elements as one."""
    todo: list[tuple[Any, Path]] = [(value, path)]
    while todo:
        value, path = todo.pop()
        if isinstance(value, str):
            if value == told:
                paths.add(path)
        elif isinstance(value, dict):
            todo += [(inner, (*path, name)) for name, inner in value.items()]
        elif isinstance(value, list):
            todo += [(inner, (*path, EACH)) for inner in value]
        elif _number(value) == told:
            paths.add(path)


def _number(value: Any) -> str | None:
    """A number as JSON writes it."""
    return str(value) if type(value) is int else dumps(value).decode() if type(value) is float else None
