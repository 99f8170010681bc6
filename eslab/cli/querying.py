"""`eslab sql`."""
# ruff: noqa: PLC0415  pandas, Arrow and DuckDB take most of a second: commands import them when they run, so that --help need not wait

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

from eslab.cli.command import Command, json_option, lab_argument, open_lab
from eslab.cli.output import Out, embedded

if TYPE_CHECKING:
    from eslab.lab import Lab

__all__ = ["sql"]


@click.command(cls=Command)
@lab_argument
@click.argument("query", required=False)
@click.option("-f", "--file", type=click.File(encoding="utf-8"), help="Read the query from a file; - is stdin.")
@json_option
@click.pass_obj
def sql(out: Out, folder: str, query: str | None, file: TextIO | None, tz: str | None, *, as_json: bool) -> None:
    """Ask the lab in SQL.

    The SQL is DuckDB's; there are events, history, records, gaps, problems, misfits and types."<event type>". It runs in memory and can read other files as well; it changes nothing in the lab.
    """
    if (query is None) == (file is None):
        raise click.UsageError("give one query: QUERY or -f FILE")
    lab = open_lab(folder, tz)
    lab.sql("set python_enable_replacements = false")  # a name that is no table must not find a variable of ours
    columns, rows = _answer(lab, file.read() if file else query or "")
    if as_json:
        out.json_rows(dict(zip(columns, row, strict=True)) for row in rows)
    elif columns:
        out.table(columns, rows)


def _answer(lab: Lab, query: str) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """The columns of a query, each with a name of its own, and its rows as they come."""
    import duckdb

    from eslab.sql import one_line

    relation = lab.sql(query)
    if relation is None:  # a query without a statement
        return [], iter(())
    json = [at for at, type_ in enumerate(relation.types) if str(type_) == "JSON"]

    def rows() -> Iterator[Sequence[Any]]:
        try:
            for row in relation.iter_rows():
                values = list(row)
                for at in json:
                    values[at] = None if row[at] is None else embedded(row[at])
                yield values
        except duckdb.Error as exc:
            raise one_line(exc) from exc

    names: list[str] = []
    for name in relation.columns:
        candidate, number = name, 2
        while candidate in names:
            candidate, number = f"{name}_{number}", number + 1
        names.append(candidate)
    return names, rows()
