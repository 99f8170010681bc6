"""The rows of a projection by its keys: those of an aggregate as they stand on disk, any other ones sorted here.

One pass over the events tells their keys (by DuckDB where they stand at a path, else by a function) and puts them aside in sorted pieces, which are then merged, as events are when they are built.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, cast

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from eslab import runs
from eslab.decode import EVENT, TOMBSTONE_KIND, json_path
from eslab.duck import session
from eslab.errors import ProjectionError, UnknownId
from eslab.events import EVENTS, SCAN_ROWS, Between, Events, Slice
from eslab.folding import FOLD_COLUMNS, Rows, events_of
from eslab.model import AGGREGATE, EACH, TOMBSTONE, Cut, Event, Selection
from eslab.projection import KeyPath, Projection
from eslab.quoting import literal
from eslab.sql import rows

__all__ = ["count", "lookup", "narrowed", "rekeyed", "scan"]

PIECE_BYTES: Final = 64 << 20  # of the rows that are sorted at once; more than one such piece goes to a temporary folder
MERGED_ROWS: Final = 16 * runs.ROW_GROUP  # of all pieces that are merged at once
BATCH_BYTES: Final = 16 << 20  # of payloads that are read at once, about
ALL: Final = "all"
"""The one key of a projection with `key=None`."""

_PARTS: Final = ", ".join(name for name in EVENTS.names if name not in ("aggregate", "aggregate_id", "first"))


def count(events: Events, projection: Projection) -> int:
    """How many rows a replay of all has, about. Raises `UnknownId` for an aggregate that no event has."""
    known = events.manifest.aggregates
    if projection.key is not AGGREGATE:
        return sum(counts.events for topic, counts in events.manifest.topics.items() if not projection.topics or topic in projection.topics)
    if projection.aggregate not in known:
        raise UnknownId(
            f"no captured event belongs to an aggregate {projection.aggregate!r}; the lab has {', '.join(known) or 'none'} (see lab.toml)"
        )
    return known[projection.aggregate]


def narrowed(events: Events, projection: Projection, selection: Selection) -> Selection:
    """What of a selection a projection folds: the topics that it names. Raises `ProjectionError` for one that is not captured."""
    if projection.topics is None:
        return selection
    cut, known = selection.cut, {life[0] for life in events.cut.offsets}
    if strange := [topic for topic in projection.topics if topic not in known]:
        raise ProjectionError(
            f"projection {projection.name!r} folds the topic {', '.join(map(repr, strange))}, which is not captured here; this lab has {', '.join(sorted(known)) or 'no topics'}"
        )
    kept = {life: next_ for life, next_ in cut.offsets.items() if life[0] in projection.topics}
    return dataclasses.replace(
        selection, cut=Cut(kept, cut.label, cut.store, tuple(sorted({*cut.excluded, *(cut.offsets.keys() - kept.keys())})), cut.upcasters)
    )


def scan(
    events: Events,
    projection: Projection,
    columns: Sequence[str],
    selection: Selection,
    keys: Sequence[str] | None = None,
    between: Between | None = None,
) -> Iterator[Slice]:
    """Yield the rows of every key (of these, which are sorted; of an aggregate's ids between two) in key order, a few thousand at a time.

    A sort takes some 500 MB at most, and past `PIECE_BYTES` a temporary folder outside the lab that goes with the iterator. Raises `ProjectionError` where a function of keys fails.
    """
    if projection.key is not AGGREGATE:
        yield from _sorted(events, projection, columns, selection, keys)
    elif keys is None:
        yield from events.scan(projection.aggregate, columns, selection, between)
    else:
        yield from (events.lookup(projection.aggregate, key, columns, selection) for key in keys)


def lookup(events: Events, projection: Projection, key: str, columns: Sequence[str], selection: Selection) -> Slice:
    """The rows of one key in the lab's order. Looks at every event where the keys are not those of an aggregate."""
    if projection.key is AGGREGATE:
        return events.lookup(projection.aggregate, key, columns, selection)
    parts = [part.table for part in _sorted(events, projection, EVENTS.names, selection, (key,))]
    return _slice(pa.concat_tables(parts) if parts else EVENTS.empty_table(), columns, events)


def _sorted(
    events: Events, projection: Projection, columns: Sequence[str], selection: Selection, keys: Sequence[str] | None
) -> Iterator[Slice]:
    with tempfile.TemporaryDirectory(prefix="eslab-") as folder:
        pieces = _pieces(_keyed(events, projection, selection, keys))
        first = next(pieces, None)
        if first is None:
            return
        second = next(pieces, None)
        sources: list[runs.Sorted] = [runs.InMemory(first)]
        if second is not None:
            sources = [runs.spill(piece, Path(folder)) for piece in chain((first, second), pieces)]
        del first, second
        at_once = _at_once(events)
        for low, high in runs.ranges(sources, rows=MERGED_ROWS):
            table = runs.read_merged(sources, low, high)
            for start in range(0, table.num_rows, at_once):
                yield _slice(table.slice(start, at_once), columns, events)


def _pieces(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Sorted tables of about `PIECE_BYTES`."""
    held, size = list[pa.Table](), 0
    for table in tables:
        held.append(table)
        size += table.nbytes
        if size >= PIECE_BYTES:
            yield runs.sort(pa.concat_tables(held))
            held, size = [], 0
    if size:
        yield runs.sort(pa.concat_tables(held))


def _keyed(events: Events, projection: Projection, selection: Selection, wanted: Sequence[str] | None) -> Iterator[pa.Table]:
    """Each event once for each of its keys (of those that are wanted), a table at a time, in no order."""
    with session() as con:
        yield from _with_keys(con, rows(events, selection=selection), events, projection, wanted)


def rekeyed(table: pa.Table, events: Events, projection: Projection) -> pa.Table:
    """These rows once for each key that a projection with keys of its own has for their events, in no order."""
    with session() as con:
        con.register("some_rows", table)
        parts = list(_with_keys(con, "some_rows", events, projection, None))
    return pa.concat_tables(parts) if parts else EVENTS.empty_table()


def _with_keys(
    con: duckdb.DuckDBPyConnection, source: str, events: Events, projection: Projection, wanted: Sequence[str] | None
) -> Iterator[pa.Table]:
    kinds = (EVENT,) if projection.handler(TOMBSTONE) is None else (EVENT, TOMBSTONE_KIND)
    told: Any = projection.key
    by_sql = told is None or (isinstance(told, KeyPath) and not (projection.upcast_by and told.column == "data"))
    found = _found(told) if by_sql else "null"
    query = f"select {', '.join(EVENTS.names)}, {found} as keys from {source} where first and kind in ({', '.join(map(literal, kinds))})"
    ask = _asked(projection)
    for batch in con.sql(query).to_arrow_reader(_at_once(events)):
        table = pa.Table.from_batches([batch]).select(EVENTS.names).cast(EVENTS)
        keys = pa.Table.from_batches([batch])["keys"].combine_chunks()
        if not by_sql:
            part = _slice(table, FOLD_COLUMNS, events)
            keys = pa.array([list(ask(event)) for event in events_of(Rows(part))], pa.list_(pa.string()))
        names, at = pc.list_flatten(keys), pc.list_parent_indices(keys)
        kept = pc.and_(pc.is_valid(names), pc.not_equal(names, ""))
        if wanted is not None:
            kept = pc.and_(kept, pc.is_in(names, pa.array(wanted, pa.string())))
        names, rows_ = names.filter(kept), table.take(at.filter(kept))
        if len(names):
            rows_ = rows_.set_column(0, EVENTS.field(0), pa.repeat(projection.aggregate, len(names)))
            yield rows_.set_column(1, EVENTS.field(1), names)


def _slice(table: pa.Table, columns: Sequence[str], events: Events) -> Slice:
    return Slice(lambda names: table, columns, None, events.decimals)


def _at_once(events: Events) -> int:
    """How many rows are read at once: fewer where payloads are large."""
    told = events.manifest.topics.values()
    size = sum(counts.bytes for counts in told) / max(sum(counts.records for counts in told), 1)
    return max(1, min(SCAN_ROWS, int(BATCH_BYTES / max(size, 1))))


def _found(told: KeyPath | None) -> str:
    """The list of an event's keys, each once, as SQL."""
    if told is None:
        return f"[{literal(ALL)}]"
    if told.column not in ("data", "metadata"):
        return f"[{told.column}]"
    if EACH not in told.path:
        return f"[json_extract_string({told.column}, {literal(json_path(told.path))})]"
    at = told.path.index(EACH)
    inner = f"json_extract({told.column}, {literal(json_path(told.path[:at]))})" if at else told.column
    return f"list_distinct(json_extract_string({inner}, {literal(json_path(told.path[at:]))}))"


def _asked(projection: Projection) -> Callable[[Event], Iterable[str]]:
    """What tells the keys of an event, each once."""
    told, seen = cast("Any", projection.key), projection.seen

    def ask(event: Event) -> Iterable[str]:
        try:
            event.data  # noqa: B018  # decodes it: what cannot be had has no key
        except ValueError:
            return ()
        try:
            return told.of(seen(event).data) if isinstance(told, KeyPath) else _texts(told(seen(event)))
        except Exception as exc:
            raise ProjectionError(
                f"projection {projection.name!r} has no key for event {event.id or event.coordinates} ({event.coordinates}): {type(exc).__name__}: {exc}; "
                "a function of keys returns a text or a whole number, several of them, or None for an event without any"
            ) from exc

    return ask


def _texts(told: Any) -> Iterable[str]:
    several = (told,) if isinstance(told, (str, int)) or told is None else tuple(told)
    for one in several:
        if one is not None and (isinstance(one, bool) or not isinstance(one, (str, int))):
            raise TypeError(f"{one!r:.80} is no key")
    return dict.fromkeys(str(one) for one in several if one not in (None, ""))
