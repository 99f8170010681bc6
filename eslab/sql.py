"""The lab in SQL: views over its files, made by one function for every connection.

events              one row per event
history             one row per (aggregate, step), with its version
records             what the broker held, every incarnation
gaps                every range of offsets without records, and why
problems            one row per undecodable record, with the reason
misfits             how many values of each typed column did not fit it, and so are null there
types."OrderCreated"  one relation per event type, a typed column per field of its data
order_as_of(TIMESTAMPTZ '...')  for each aggregate: aggregate_id, version and state of every key as of a moment
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from eslab import typed
from eslab.asof import aggregate_macro
from eslab.decode import EARLIEST_MS, LATEST_MS, json_path
from eslab.duck import engine, session
from eslab.durable import enough_disk
from eslab.errors import LabError, QueryError
from eslab.events import Events, Run, manifest_name
from eslab.mapping import read_mapping
from eslab.model import Cut, Life, Selection
from eslab.quoting import identifier, literal
from eslab.segments import Log, reaches
from eslab.sources import CONSUMER_OFFSETS
from eslab.transactions import Transactions

__all__ = [
    "HAPPENED",
    "ORDER",
    "as_of_names",
    "bounded",
    "connect",
    "identifier",
    "is_current",
    "literal",
    "marked",
    "one_line",
    "place",
    "query",
    "renamed",
    "rows",
    "statements",
    "table",
    "undecodable",
    "views",
    "write_database",
]

_HALF = re.compile("[\ud800-\udfff]")

EVENT_COLUMNS = [
    "event_id", "event_type", "event_version", "source", "recorded_at", "timestamp_type", "happened_at", "order_at",
    "correlation_id", "causation_id", "trace_id", "span_id", "parent_span_id",
    "topic", "partition_id", "incarnation", "record_offset", "record_key", "data", "metadata",
]  # fmt: skip
_TIMES = ("recorded_at", "happened_at", "order_at")
_NUMBERS = {"partition_id": "integer", "incarnation": "integer", "record_offset": "bigint", "first": "boolean"}
ORDER = "order_at, topic, partition_id, incarnation, record_offset"
"""The lab's total order."""
HAPPENED = "coalesce(happened_at, recorded_at, order_at)"
"""The time of an event by the clock of happenings."""


def rows(
    events: Events, *, newest: bool = True, selection: Selection | None = None, under: Path | None = None, of: Sequence[Run] | None = None
) -> str:
    """The sorted events as a SQL relation: what a selection holds; without one all of the newest incarnations, or of all. `of` keeps it to some runs."""
    paths = events.paths if of is None else events.files(of)
    if not paths:
        names = ["aggregate", "aggregate_id", "first", "kind", "problem", *EVENT_COLUMNS]
        return (
            "(select "
            + ", ".join(f"null::{'timestamptz' if name in _TIMES else _NUMBERS.get(name, 'varchar')} as {name}" for name in names)
            + " where false)"
        )
    relation = f"read_parquet([{_files(paths, under)}])"
    if selection is not None and selection.happened_until is not None:
        until = literal(selection.happened_until.isoformat())
        relation = f"(from {relation} where {HAPPENED} <= {until}::timestamptz)"
    if selection is not None and selection.cut != events.cut:
        known = (state.life for state in events.manifest.lives if state.topic != CONSUMER_OFFSETS)
        return f"(from {relation} where {_before(selection.cut, known)})"
    lives = events.manifest.newest
    if not newest or not any(lives.values()):
        return relation
    named = ", ".join(f"({literal(topic)}, {partition}, {incarnation})" for (topic, partition), incarnation in lives.items())
    return f"(from {relation} where (topic, partition_id, incarnation) in ({named}))"


def place(events: Events) -> str:
    """The place of a row of these events in the lab's order as an expression to compare by: one number, which costs half of a row of five, where the offsets leave room for it."""
    return _place(events, _ROOM)[0] or f"({ORDER})"


def marked(events: Events, codes: int, code: str) -> tuple[str, str, str]:
    """The same with a number below `codes` behind it, which an expression gives; and how that number, and the time, are read from what is called `{}`.

    The least and the greatest of these say of what kind the first and the last row are, and when they were: less is kept of each group of rows than texts and times of their own.
    """
    bits = codes.bit_length()
    number, below = _place(events, _ROOM - bits)
    if number is None:
        return f"({ORDER}, {code})", "{}[6]", "{}[1]"
    low = (1 << below + bits) - 1
    return (
        f"({number} * {1 << bits} + {code})",
        f"({{}} & {(1 << bits) - 1})::bigint",
        f"make_timestamptz((({{}} - ({{}} & {low})) // {low + 1})::bigint)",
    )


def _place(events: Events, room: int) -> tuple[str | None, int]:
    """As one number, where the bits below its time have room; and how many bits these are."""
    lives = sorted(state.life for state in events.manifest.lives)
    width, size = max((state.next for state in events.manifest.lives), default=0).bit_length(), len(lives).bit_length()
    if not lives or width + size > room:
        return None, 0
    rank = _by_life({life: rank for rank, life in enumerate(lives)})
    return f"((epoch_us(order_at)::hugeint * {1 << size} + {rank}) * {1 << width} + record_offset)", width + size


_ROOM = 68  # bits of a HUGEINT that the microseconds of the years 1 to 9999 leave


def _before(cut: Cut, lives: Iterable[Life]) -> str:
    """Whether a row of these lives is before a cut: by its own life's next offset, where the least and the greatest of all do not tell."""
    nexts = {life: cut.offsets.get(life, 0) for life in lives}
    least, greatest = min(nexts.values(), default=0), max(nexts.values(), default=0)
    if least == greatest:
        return f"record_offset < {least}"
    return f"(record_offset < {greatest} and (record_offset < {least} or record_offset < {_by_life(nexts)}))"


def _by_life(numbers: Mapping[Life, int]) -> str:
    """The number of a row's life, which is one of these, as an expression. What all of them share is not looked at: to read a column costs as much as to compare by it."""
    tables: dict[str, str] = {}
    for topic in sorted({topic for topic, _, _ in numbers}):
        here = {(incarnation, partition): number for (name, partition, incarnation), number in numbers.items() if name == topic}
        incarnations, partitions = (range(max(place[at] for place in here) + 1) for at in (0, 1))
        table = [[here.get((incarnation, partition), 0) for partition in partitions] for incarnation in incarnations]
        tables[topic] = f"{table}[incarnation + 1][partition_id + 1]" if len(table) > 1 else f"{table[0]}[partition_id + 1]"
    whens = " ".join(f"when {literal(topic)} then {table}" for topic, table in tables.items())
    return f"case topic {whens} end" if len(tables) > 1 else "".join(tables.values())


def _files(paths: Iterable[Path], under: Path | None) -> str:
    return ", ".join(literal(str(path.relative_to(under) if under else path)) for path in paths)


def statements(events: Events, log: Log, *, selection: Selection | None = None, relative: bool = False) -> list[tuple[str, str]]:
    """Every view and macro by its name, with the statement that makes it; some are made of those before them. With `relative`, paths are relative to the lab's folder.

    With a selection `events`, `history`, `problems` and the typed relations are what it holds; `records` and `gaps` are the log's.
    """
    under = events.folder if relative else None
    source = rows(events, selection=selection, under=under)
    gaps = events.manifest.gaps
    gaps_from = f"read_parquet({_files([events.folder / 'events' / gaps], under)})" if gaps else None
    out = [
        *((name, f"create view {name} as {query}") for name, query in bounded(source).items()),
        ("records", f"create view records as {_records(log, events, under)}"),
        ("gaps", f"create view gaps as {f'select * from {gaps_from}' if gaps_from else _NO_GAPS}"),
        ("types", "create schema types"),
        ("misfits", f"create view misfits as {_misfits(events.manifest.types)}"),
    ]
    names = _distinct_names(events.manifest.types, set())
    mapping = read_mapping(events.folder)
    out += [
        (macro, aggregate_macro(macro, aggregate, source, ORDER, mapping.elements(aggregate)))
        for aggregate, macro in as_of_names(events.manifest.aggregates).items()
    ]
    parts = [(columns, rows(events, selection=selection, under=under, of=of)) for columns, of in typed.alike(events.manifest.runs)]
    out += [
        (names[one], f"create view types.{identifier(names[one])} as {_typed(one, fields, parts or [((), source)])}")
        for one, fields in sorted(events.manifest.types.items())
    ]
    return out


_NO_GAPS = "select ''::varchar as topic, 0 as partition_id, 0 as incarnation, 0::bigint as start_offset, 0::bigint as next_offset, ''::varchar as cause where false"
_ANY_NAME = re.compile("query|duckdb_|_schema|pg_|sqlite_|show|describe|summarize|pragma", re.IGNORECASE)
"""What in a query may mean a relation that it does not name."""


def _asked(made: Iterable[tuple[str, str]], text: str) -> list[str]:
    """The statements that a query needs: DuckDB takes 4 ms for each, and a query names few relations."""
    text, kept = text.casefold(), list[str]()
    everything = bool(_ANY_NAME.search(text))
    for name, statement in reversed([*made]):
        if everything or name.replace('"', '""').casefold() in text:
            kept.append(statement)
            text += statement.casefold()
    return kept[::-1]


def bounded(source: str) -> dict[str, str]:
    """The relations that a moment bounds, over sorted events."""
    columns = ", ".join(EVENT_COLUMNS)
    return {
        "events": f"select {columns} from {source} where first and kind = 'event'",
        "history": f"""select aggregate, aggregate_id,
            (row_number() over (partition by aggregate, aggregate_id order by {ORDER}))::bigint as version, kind, problem, {columns}
            from {source} where aggregate <> ''""",
        "problems": f"""select topic, partition_id, incarnation, record_offset, recorded_at, record_key, problem
            from {source} where first and kind = 'undecodable'""",
    }


def as_of_names(names: Iterable[str]) -> dict[str, str]:
    """For each aggregate or projection the name of its macro: `<name>_as_of`, with a suffix where it would collide but for case."""
    return {name: f"{distinct}_as_of" for name, distinct in _distinct_names(names, set()).items()}


_RECORDS = f"""topic, partition_id::integer as partition_id, incarnation::integer as incarnation, record_offset,
    case when timestamp_ms between {EARLIEST_MS} and {LATEST_MS} and timestamp_ms <> -1 then make_timestamptz(timestamp_ms * 1000) end as recorded_at,
    timestamp_type, timestamp_ms, producer_timestamp_ms, key, value, headers, leader_epoch, producer_id, producer_epoch, transactional"""


def _records(log: Log, events: Events, under: Path | None) -> str:
    """Each file stands for the range that it adds to those before it; transactional records have an outcome."""
    walks = [(Transactions(life, segments), reach) for life, segments in log.lives().items() for reach in reaches(segments)]
    if not walks:
        nothing = """select ''::varchar as topic, 0 as partition_id, 0 as incarnation, 0::bigint as record_offset, ''::varchar as timestamp_type, 0::bigint as timestamp_ms,
            0::bigint as producer_timestamp_ms, ''::blob as key, ''::blob as value, [{'key': ''::blob, 'value': ''::blob}] as headers,
            0::integer as leader_epoch, 0::bigint as producer_id, 0::smallint as producer_epoch, false as transactional where false"""
        return f"select {_RECORDS}, ''::varchar as outcome from ({nothing})"
    named = [
        f"({_files([reach.segment.path], under)}, {literal(told.life[0])}, {told.life[1]}, {told.life[2]}, {reach.start}, {reach.next}, "
        f"{reach.segment.footer.isolation != 'read_uncommitted'}, {told.certain_to_the_end_from if told.uncommitted else 0})"
        for told, reach in walks
    ]
    held = f"""(select * exclude ("offset"), "offset" as record_offset from read_parquet([{_files((reach.segment.path for _, reach in walks), under)}], filename = true) as file
        join (values {", ".join(named)}) as reach(path, topic, partition_id, incarnation, low, high, committed, certain)
        on file.filename = reach.path and file."offset" >= reach.low and file."offset" < reach.high) as held"""
    if not any(told.uncommitted for told, _ in walks):
        return f"select {_RECORDS}, case when transactional then 'committed' end as outcome from {held}"
    markers = events.manifest.transactions
    empty = "(select ''::varchar as topic, 0 as partition_id, 0 as incarnation, 0::bigint as producer_id, 0::bigint as marker_offset, '' as outcome, 0::bigint as certain_from where false)"
    ends = f"read_parquet([{_files([events.folder / 'events' / markers], under)}])" if markers else empty
    # of the markers of its producer, the first one behind a record says how its transaction ended
    told = f"""(select held.*, ended.marker_offset, ended.outcome as ended, ended.certain_from from {held} asof left join {ends} as ended
        on held.topic = ended.topic and held.partition_id = ended.partition_id and held.incarnation = ended.incarnation
        and held.producer_id = ended.producer_id and held.record_offset < ended.marker_offset)"""
    return f"""select {_RECORDS}, case when not transactional then null when committed then 'committed'
        when marker_offset is null then case when record_offset >= certain then 'open' else 'unknown' end
        when record_offset < certain_from then 'unknown' else ended end as outcome from {told}"""


_ENVELOPE = [
    "event_id",
    "event_version",
    "source",
    "recorded_at",
    "happened_at",
    "order_at",
    "correlation_id",
    "topic",
    "partition_id",
    "record_offset",
]


def _typed(event_type: str, fields: Mapping[str, str], parts: Sequence[tuple[Sequence[typed.Stored], str]]) -> str:
    """The events of one type; `parts` are the sorted events by the columns that stand on disk."""
    names = _distinct_names(fields, {name.lower() for name in _ENVELOPE})
    return " union all ".join(
        f"""select {", ".join([*_ENVELOPE, *(f"{typed.column(field, kind, columns)} as {identifier(names[field])}" for field, kind in fields.items())])}
        from {source} where first and event_type = {literal(event_type)}"""
        for columns, source in parts
    )


def _misfits(types: Mapping[str, Mapping[str, str]]) -> str:
    """One scan of the events for each type of column, however many columns there are."""
    by_kind: dict[str, list[str]] = {}
    for event_type, fields in sorted(types.items()):
        for field, kind in fields.items():
            if kind not in ("JSON", "NULL", "VARCHAR"):
                by_kind.setdefault(kind, []).append(f"({literal(event_type)}, {literal(field)}, {literal(json_path((field,)))})")
    parts = [
        f"""select held.event_type, learned.field, {literal(kind)} as column_type, count(*) as misfits,
            arg_min(topic || '/' || partition_id || '/' || record_offset, (order_at, topic, partition_id, record_offset)) as first_at
        from main.events as held join (values {", ".join(named)}) as learned(event_type, field, path) on held.event_type = learned.event_type
        where data ->> learned.path is not null and {typed.fitting("(data ->> learned.path)", kind)} is null group by all"""
        for kind, named in sorted(by_kind.items())
    ]
    nothing = "select ''::varchar as event_type, ''::varchar as field, ''::varchar as column_type, 0::bigint as misfits, ''::varchar as first_at where false"
    return " union all ".join(parts or [nothing])


def renamed(types: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """A sentence for each event type and field whose name in SQL is not its own, since it would collide but for case."""
    relations = _distinct_names(types, set())
    for event_type, fields in types.items():
        relation = f"types.{identifier(relations[event_type])}"
        if relations[event_type] != event_type:
            yield f"event type {event_type!r} is the relation {relation}: SQL does not tell cases apart"
        for field, name in _distinct_names(fields, {name.lower() for name in _ENVELOPE}).items():
            if name != field:
                yield f"field {field!r} is the column {identifier(name)} of {relation}: another one has that name, but for case"


def _distinct_names(names: Iterable[str], taken: set[str]) -> dict[str, str]:
    """Each name, with a suffix where it would collide but for case: SQL names do not tell cases apart."""
    taken = {*taken}
    out: dict[str, str] = {}
    for name in sorted(names):
        candidate, number = name or "_", 2
        while candidate.lower() in taken:
            candidate, number = f"{name}_{number}", number + 1
        taken.add(candidate.lower())
        out[name] = candidate
    return out


def connect(
    events: Events, log: Log, *, tz: str | None, trusted: bool = True, selection: Selection | None = None
) -> duckdb.DuckDBPyConnection:
    """An in-memory connection with every view, of all that is captured or of a selection, which sees a caller's DataFrames by name.

    For a stranger's lab (`trusted=False`) nothing but its own folder can be read, and DataFrames join by `register`.
    """
    con = engine(tz)
    if trusted:
        con.execute("set python_scan_all_frames = true")
    else:  # before anything that the lab says is run
        con.execute("set python_enable_replacements = false")
        con.execute(f"set allowed_directories = [{literal(str(events.folder) + '/')}]")
        con.execute("set enable_external_access = false")
        con.execute("set lock_configuration = true")
    for _, statement in statements(events, log, selection=selection):
        con.execute(statement)
    return con


@contextlib.contextmanager
def views(
    events: Events, log: Log, text: str, *, tz: str | None = None, trusted: bool = True, selection: Selection | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """What `connect` returns, for the one question that is this text: in a session with a catalog of its own, but for a stranger's lab, which gets an engine that can be locked."""
    if not trusted:
        with connect(events, log, tz=tz, trusted=False, selection=selection) as con:
            yield con
        return
    with session() as con, _within(con, "':memory:'"):
        con.execute(f"set TimeZone = {literal(tz or 'UTC')}")
        con.execute("set python_scan_all_frames = true")
        for statement in _asked(statements(events, log, selection=selection), text):
            con.execute(statement)
        yield con


@contextlib.contextmanager
def _within(con: duckdb.DuckDBPyConnection, database: str, options: str = "") -> Iterator[None]:
    """In a session: what is made is made in this database, which is attached for so long, under a name that no other session has."""
    name = f"own_{secrets.token_hex(4)}"
    con.execute(f"attach {database} as {name} {options}")
    con.execute(f"use {name}")
    try:
        yield
    finally:
        con.execute("use memory")
        con.execute(f"detach {name}")


@contextlib.contextmanager
def _at_once(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """All in one transaction: DuckDB would wait for the disk after each statement."""
    con.begin()
    try:
        yield
    except BaseException:
        con.rollback()
        raise
    con.commit()


def query(events: Events, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
    """Run a small query of our own over the sorted events; `{rows}` in the text stands for them."""
    with session() as con:
        return con.execute(sql.format(rows=rows(events)), _bound(parameters or {})).fetchall()


def undecodable(events: Events, selection: Selection, *, of_none: bool = False) -> int:
    """How many records in a selection could not be read as events; with `of_none`, those whose key names nothing they belong to.

    Free where the lab has none, or all of what is captured are asked for; else one scan of two narrow columns.
    """
    topics = events.manifest.topics
    if not any(counts.undecodable for counts in topics.values()) or (events.holds_all(selection) and not of_none):
        return sum(counts.undecodable for counts in topics.values())
    belongs = " and aggregate = ''" if of_none else ""
    with session() as con:
        found = con.execute(
            f"select count(*) from {rows(events, selection=selection)} where first and kind = 'undecodable'{belongs}"
        ).fetchall()
    return int(found[0][0])


def table(
    events: Events,
    sql: str,
    parameters: dict[str, Any],
    *,
    selection: Selection | None = None,
    tables: Mapping[str, pa.Table] | None = None,
) -> pa.Table:
    """Run a query of our own whose answer may be large; `{rows}` in the text stands for the sorted events, or what a selection holds of them. `tables` join by their names."""
    with session() as con:
        for name, one in (tables or {}).items():
            con.register(name, one)
        return con.sql(sql.format(rows=rows(events, selection=selection)), params=_bound(parameters)).to_arrow_table()


def _bound(parameters: dict[str, Any]) -> dict[str, Any]:
    """What can be bound: half of a surrogate pair, which UTF-8 cannot hold, is in no event, and so is null."""
    return {name: None if isinstance(value, str) and _HALF.search(value) else value for name, value in parameters.items()}


def write_database(events: Events, log: Log, name: str = "lab.duckdb") -> Path:
    """Write the views into a new `lab.duckdb` and put it in place of the old one. The caller holds the writer's lock.

    Its paths are relative, so it is opened from within the lab's folder; DuckDB 1.4 and later read it.
    """
    path = events.folder / name
    temporary = events.folder / f".{name}-{os.getpid()}-{secrets.token_hex(4)}"
    _sweep(events.folder, name)
    try:
        with enough_disk(temporary), session() as con:
            con.execute(f"set file_search_path = {literal(str(events.folder))}")
            with _within(con, literal(str(temporary)), "(storage_version 'v1.4.0')"), _at_once(con):
                for _, statement in statements(events, log, relative=True):
                    con.execute(statement)
            temporary.replace(path)
    finally:
        _sweep(events.folder, name)
    return path


def _sweep(folder: Path, name: str) -> None:
    """Remove what a writer left that died, with DuckDB's own log beside it."""
    for path in folder.glob(f".{name}-*"):
        path.unlink(missing_ok=True)


def is_current(events: Events, name: str = "lab.duckdb") -> bool:
    """Whether `lab.duckdb` was written after these events: a writer may have died between the two."""
    try:
        manifest = events.folder / "events" / manifest_name(events.manifest.number)
        return (events.folder / name).stat().st_mtime_ns >= manifest.stat().st_mtime_ns
    except FileNotFoundError:
        return False


def export(events: Events, log: Log, path: Path) -> None:
    """Write events, history, records, gaps, problems, misfits and the typed relations as tables into one new, self-contained DuckDB file."""
    if path.is_dir() or not path.parent.is_dir():
        raise LabError(f"{path} is {'a folder' if path.is_dir() else 'in no folder that exists'}; name a file to write, like shop.duckdb")
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with enough_disk(temporary), contextlib.closing(connect(events, log, tz=None)) as con:
            con.execute(f"attach {literal(str(temporary))} as made (storage_version 'v1.4.0')")
            con.execute("create schema made.types")
            for schema, name in _relations(con):
                relation = f"{identifier(schema)}.{identifier(name)}"
                con.execute(f"create table made.{relation} as from memory.{relation}")
            con.execute("detach made")
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _relations(con: duckdb.DuckDBPyConnection) -> Sequence[tuple[str, str]]:
    return con.execute("select schema_name, view_name from duckdb_views() where not internal order by all").fetchall()


def one_line(
    exc: duckdb.Error, *, has: str = 'the lab has events, history, records, gaps, problems, misfits and types."..."'
) -> QueryError:
    """DuckDB's word on a statement, as our error: its first line, and where to look."""
    first, *rest = str(exc).strip().splitlines()
    hint = next((line.strip() for line in rest if line.startswith(("Candidate", "Did you mean", "LINE"))), "")
    return QueryError(f"{first}{' — ' + hint if hint else ''}; {has}")
