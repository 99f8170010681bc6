"""Fields of payloads as typed columns: which type each is of, what fits it, and the columns that stand in the files of a run.

Numbers and truths are written down where the events are sorted, so that SQL adds them up without reading JSON; texts and whatever is JSON stay in `data` alone. A column is of one field
and one type, whichever event types have it: what a run holds is told by its entry in the manifest, and where a type was widened since, the value is read from `data`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Final

import duckdb
import pyarrow as pa

from eslab.decode import EVENT, json_path
from eslab.events import SCAN_ROWS, ColumnType, Run
from eslab.model import loads
from eslab.quoting import literal

__all__ = ["alike", "column", "fitting", "learn", "stored", "with_columns"]

SAMPLE: Final = 200  # events of each type, in each part, that are looked at for the columns of its typed relation
WIDEST: Final = 38  # digits that DuckDB's DECIMAL holds
TYPES_MOST: Final = 1_000  # typed relations; more types than that are not types but ids
COLUMNS_MOST: Final = 32  # in the files of a run: each costs some hundred bytes of footer for every row group, whatever it holds

Stored = tuple[str, ColumnType]
"""A field of `data`, and the type of its column."""

_AS_IT_STANDS: Final = ("JSON", "NULL")


# --- which types ------------------------------------------------------------------------------------------


Part = tuple[pa.Table, tuple[str, ...]]
"""Some events, and the fields of theirs that are declared as decimals."""


def learn(con: duckdb.DuckDBPyConnection, types: dict[str, dict[str, str]], parts: Sequence[Part]) -> None:
    """Widen what is known of each event type's fields: by a sample of each part, and for declared decimals by all of it."""
    rules = {declared: at for at, declared in enumerate(dict.fromkeys(declared for _, declared in parts))}
    con.register("latest", pa.concat_tables(_told(events, part, rules[declared]) for part, (events, declared) in enumerate(parts)))
    structures = con.sql(
        f"""select rules, event_type, json_group_structure(data::json) from (
            select rules, event_type, data from latest where event_type is not null and starts_with(data, '{{')
            qualify row_number() over (partition by part, event_type) <= {SAMPLE}
        ) group by rules, event_type order by event_type, rules"""
    ).fetchall()
    digits = [{field: _digits(con, field, at) for field in declared} for declared, at in rules.items()]
    con.unregister("latest")
    for at, event_type, structure in structures:
        if event_type not in types and len(types) >= TYPES_MOST:
            continue
        fields = loads(structure)
        known = types.setdefault(event_type, {})
        for field, told in fields.items() if isinstance(fields, dict) else ():
            if field not in digits[at]:
                known[field] = _wider(known.get(field), _SQL_TYPES.get(told, "JSON") if isinstance(told, str) else "JSON")
        for field, found in digits[at].items():
            if event_type in found:
                known[field] = _wider(known.get(field), _decimal_type(*found[event_type]))


def _told(events: pa.Table, part: int, rules: int) -> pa.Table:
    table = events.select(["event_type", "data"])
    for name, number in (("part", part), ("rules", rules)):
        table = table.append_column(name, pa.repeat(pa.scalar(number, pa.int32()), len(events)))
    return table


def _digits(con: duckdb.DuckDBPyConnection, field: str, rules: int) -> dict[str, tuple[int, int]]:
    """By event type, the most digits before and behind the point that a declared field has, where it is declared."""
    rows = con.execute(
        """select event_type, max(len(regexp_extract(told, '\\d+'))), max(len(split_part(told, '.', 2)))
        from (select event_type, data ->> $path as told from latest where event_type is not null and rules = $rules)
        where regexp_full_match(told, '-?\\d+(\\.\\d+)?') group by event_type""",
        {"path": json_path((field,)), "rules": rules},
    ).fetchall()
    return {event_type: (whole, fraction) for event_type, whole, fraction in rows}


def _decimal_type(whole: int, fraction: int) -> str:
    """The narrowest column type that holds so many digits before and behind the point."""
    return f"DECIMAL({whole + fraction},{fraction})" if whole + fraction <= WIDEST else "VARCHAR"


_SQL_TYPES: Final = {
    "NULL": "NULL",
    "BOOLEAN": "BOOLEAN",
    "BIGINT": "BIGINT",
    "UBIGINT": "BIGINT",
    "HUGEINT": "BIGINT",  # what 0 and -1 are together: 0 alone is a UBIGINT to DuckDB
    "DOUBLE": "DOUBLE",
    "VARCHAR": "VARCHAR",
}
_NUMBERS: Final = ("BIGINT", "DOUBLE")


def _wider(left: str | None, right: str) -> str:
    """The narrowest column type that both fit: the same in whatever order, and in whatever parts, types are met."""
    if left in (None, "NULL", right):
        return right
    assert left is not None
    if right == "NULL":
        return left
    if left in _NUMBERS and right in _NUMBERS:
        return max(left, right, key=_NUMBERS.index)
    decimals = [one for one in (left, right) if one.startswith("DECIMAL")]
    if len(decimals) == 2:
        (width, scale), (other_width, other_scale) = (map(int, re.findall(r"\d+", one)) for one in decimals)
        return _decimal_type(max(width - scale, other_width - other_scale), max(scale, other_scale))
    return "VARCHAR" if decimals and "VARCHAR" in (left, right) else "JSON"


# --- what fits --------------------------------------------------------------------------------------------


def fitting(text: str, kind: str) -> str:
    """A text (SQL) as a value of this type, null where it does not fit: DuckDB's own casts make 2 of 1.5, and true of "yes"."""
    if kind in (*_AS_IT_STANDS, "VARCHAR"):
        return text
    if kind == "BOOLEAN":
        return f"case {text} when 'true' then true when 'false' then false end"
    cast = f"try_cast({text} as {kind})"
    if kind == "DOUBLE":
        return f"case when isfinite({cast}) then {cast} end"
    digits = r"-?\d+" if kind == "BIGINT" else r"-?\d+(\.\d+)?"
    return f"case when regexp_full_match({text}, '{digits}') then {cast} end"


# --- columns on disk --------------------------------------------------------------------------------------


def stored(types: Mapping[str, Mapping[str, str]]) -> list[Stored]:
    """The columns that a run is written with: numbers and truths, those that most event types have first."""
    found = Counter((field, kind) for fields in types.values() for field, kind in fields.items() if kind not in (*_AS_IT_STANDS, "VARCHAR"))
    return sorted(found, key=lambda one: (-found[one], one))[:COLUMNS_MOST]


def with_columns(con: duckdb.DuckDBPyConnection, table: pa.Table, columns: Sequence[Stored]) -> pa.Table:
    """Sorted events with a column behind them for each of these fields, null where the value does not fit, or the row is not the first of its event."""
    if not columns:
        return table
    paths = list(dict.fromkeys(json_path((field,)) for field, _ in columns))
    made = [f"{fitting(f'texts[{paths.index(json_path((field,))) + 1}]', kind)} as {_name(at)}" for at, (field, kind) in enumerate(columns)]
    texts = f"case when first and kind = {literal(EVENT)} then json_extract_string(data, [{', '.join(map(literal, paths))}]) end"
    batches = table.select(["first", "kind", "data"]).to_batches(max_chunksize=SCAN_ROWS)  # a batch is what one thread takes
    con.register("sorted_events", pa.Table.from_batches(batches))
    found = con.sql(f"select {', '.join(made)} from (select {texts} as texts from sorted_events)").to_arrow_table()
    con.unregister("sorted_events")
    for name, values in zip(found.column_names, found.columns, strict=True):
        table = table.append_column(name, values)
    return table


def column(field: str, kind: str, columns: Sequence[Stored]) -> str:
    """A field as a value of this type (SQL), over the rows of a run that was written with these columns."""
    path = literal(json_path((field,)))
    if (field, kind) in columns:
        return _name(columns.index((field, kind)))
    return fitting(f"data -> {path}" if kind in _AS_IT_STANDS else f"data ->> {path}", kind)


def alike(runs: Iterable[Run]) -> list[tuple[tuple[Stored, ...], list[Run]]]:
    """The runs by the columns that they were written with."""
    ordered = sorted(runs, key=lambda run: run.typed)
    return [(tuple(columns), list(group)) for columns, group in groupby(ordered, key=lambda run: run.typed)]


def _name(at: int) -> str:
    return f"typed_{at}"
