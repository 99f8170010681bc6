"""SQL projections: answered as of a selection, and as macros that take a moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import duckdb
import pandas as pd
import pyarrow as pa

from eslab.again import Again
from eslab.asof import guarded
from eslab.errors import ProjectionError
from eslab.events import Events
from eslab.model import Selection, loads
from eslab.projection import SqlProjection
from eslab.quoting import identifier
from eslab.segments import Log
from eslab.sql import as_of_names, bounded, one_line, rows, undecodable, views
from eslab.tabular import as_world, asked, written
from eslab.views import tables
from eslab.wording import many

__all__ = ["SqlWorld", "evaluate", "register"]

SHOWN: Final = 20
MOMENT: Final = "as_of_moment"  # a macro's parameter takes the place of every column of that name in it


class SqlWorld(Again):
    """What a SQL projection says as of one selection: a table.

    `undecodable` counts the records in that selection that could not be read as events; `partial` names the partitions that have lost records.
    """

    def __init__(
        self, projection: SqlProjection, selection: Selection, table: pa.Table, *, undecodable: int, partial: tuple[str, ...]
    ) -> None:
        self.projection, self.selection, self.undecodable, self.partial = projection, selection, undecodable, partial
        self._table = table
        self._connection: duckdb.DuckDBPyConnection | None = None

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def arrow(self) -> pa.Table:
        """The answer, with the columns of the query."""
        return self._table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)

    def reader(self) -> pa.RecordBatchReader:
        """What `arrow` has, a batch at a time."""
        return self._table.to_reader()

    def to_parquet(self, path: str | Path) -> Path:
        """Write what `arrow` has as a Parquet file and return its path. Whole or not at all; an older file is replaced."""
        return written(path, self.reader())

    def sql(self, query: str = "from world", **parameters: Any) -> duckdb.DuckDBPyRelation:
        """Run SQL over `world`, which is this answer; `$name` takes a parameter. Returns DuckDB's relation. Raises `QueryError`."""
        if self._connection is None:
            self._connection = as_world(self.reader())
        return asked(self._connection, query, parameters)

    def df(self) -> pd.DataFrame:
        """The answer as a DataFrame."""
        frame: pd.DataFrame = self._table.to_pandas()
        return frame

    def __repr__(self) -> str:
        said = [many(len(self), "row"), self.selection.cut.label]
        said += [f"{many(self.undecodable, 'undecodable record')} in range"] if self.undecodable else []
        said += [f"without {without}"] if (without := self.selection.cut.without) else []
        said += [f"records of {', '.join(self.partial)} are missing"] if self.partial else []
        return tables.visible(f"<{self.projection.name} v{self.projection.version} in SQL: {', '.join(one for one in said if one)}>")

    def _repr_html_(self) -> str:
        shown = [list(row.values()) for row in self._table.slice(0, SHOWN).to_pylist()]
        more = f"; the first {SHOWN}" if len(self) > SHOWN else ""
        told = tables.html(self._table.column_names, shown, caption=repr(self).strip("<>") + more, empty="no rows")
        return told + tables.shell(self.again)


def evaluate(events: Events, log: Log, projection: SqlProjection, selection: Selection, *, tz: str | None, trusted: bool) -> SqlWorld:
    """The answer of a SQL projection over what a selection holds, in memory. Raises `ProjectionError` where the text is no query, `QueryError` where DuckDB refuses it."""
    text = _one_query(projection)
    with views(events, log, text, tz=tz, trusted=trusted, selection=selection) as con:
        try:
            table = con.sql(text).to_arrow_table()
        except duckdb.Error as exc:
            raise one_line(exc) from exc
    partial = tuple(f"{topic}[{partition}]" for topic, partition, _ in events.lossy(selection.cut))
    return SqlWorld(projection, selection, table, undecodable=undecodable(events, selection), partial=partial)


def register(con: duckdb.DuckDBPyConnection, events: Events, projection: SqlProjection) -> None:
    """Make a SQL projection's macro on a connection, in place of an older one: `from <name>_as_of(TIMESTAMPTZ '...')`.

    Raises `ProjectionError` for a query that reads what no moment bounds in a macro, or a name that an aggregate's macro has.
    """
    macro = f"{projection.name}_as_of"
    if macro.lower() in {name.lower() for name in as_of_names(events.manifest.aggregates).values()}:
        raise ProjectionError(f"SQL projection {projection.name!r}: {macro} is the macro of an aggregate; choose another name")
    source = f"(from {rows(events)} where order_at <= {guarded(MOMENT, macro)})"
    seen = ", ".join(f"{name} as ({query})" for name, query in bounded(source).items())
    text = _one_query(projection)
    _check_bounded(con, projection, text)
    try:
        con.execute(f"create or replace macro {identifier(macro)}({MOMENT}) as table with {seen} from (\n{text}\n)")
        con.sql(f"from {identifier(macro)}(now())")  # names that are not there are told now, not when it is used
    except duckdb.Error as exc:
        raise one_line(exc) from exc


def _check_bounded(con: duckdb.DuckDBPyConnection, projection: SqlProjection, text: str) -> None:
    """Raise `ProjectionError` for a query that reads what a macro's moment does not bound."""
    tree = loads(con.execute("select json_serialize_sql($text::varchar)", {"text": text}).fetchall()[0][0])
    assert not tree["error"], "DuckDB tells every SELECT"
    if unbound := sorted(set(_unbound(tree, frozenset()))):
        raise ProjectionError(
            f"SQL projection {projection.name!r}: {', '.join(unbound)} would not end at the moment; in a macro use events, history and problems, or ask lab.replay(...)"
        )


def _unbound(node: Any, own: frozenset[str]) -> Iterator[str]:
    """The relations of the lab in a parsed query that no moment bounds; `own` are names that the query gives itself."""
    if isinstance(node, list):
        for inner in node:
            yield from _unbound(inner, own)
    if not isinstance(node, dict):
        return
    own |= {str(one["key"]).lower() for one in (node.get("cte_map") or {}).get("map", [])}
    if node.get("type") == "BASE_TABLE":
        schema, name = str(node["schema_name"]), str(node["table_name"])
        if schema or (name.lower() in ("records", "gaps") and name.lower() not in own):
            yield f"{schema}.{name}" if schema else name
    for inner in node.values():
        yield from _unbound(inner, own)


def _one_query(projection: SqlProjection) -> str:
    """The text without what follows the query, if it is one."""
    try:
        found = duckdb.extract_statements(projection.query)
    except duckdb.Error as exc:
        raise one_line(exc) from exc
    if len(found) != 1 or found[0].type != duckdb.StatementType.SELECT:
        raise ProjectionError(
            f'SQL projection {projection.name!r} is not one query; write it like "select event_type, count(*) from events group by all"'
        )
    text = str(found[0].query).encode()
    ends = (at for at, kind in duckdb.tokenize(text.decode()) if kind == duckdb.token_type.operator and text[at : at + 1] == b";")
    return text[: next(ends, len(text))].decode()
