"""`eslab events`."""

from __future__ import annotations

from typing import Any

import click

from eslab.cli.command import Command, json_option, lab_argument, open_lab
from eslab.cli.output import Out, embedded, note

__all__ = ["events"]


@click.command(cls=Command)
@lab_argument
@click.option("--topic", metavar="NAME", help="Of this topic alone.")
@click.option("--aggregate", metavar="NAME", help="Of those that belong to one, like order.")
@click.option("--id", "aggregate_id", metavar="ID", help="The aggregate's id.")
@click.option("--type", "event_type", metavar="TYPE", help="Of this event type; also (tombstone) and (undecodable).")
@click.option("--start", metavar="TIME", help="From here on, inclusive.")
@click.option("--stop", metavar="TIME", help="Up to here, exclusive.")
@click.option("--search", metavar="TEXT", help="With this text in an id, the key, the type, data or metadata.")
@click.option("--newest", is_flag=True, help="The last one first.")
@click.option("--after", metavar="PLACE", help="Behind a record, like orders/0/17: the next page.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="So many on a page.")
@json_option
@click.pass_obj
def events(out: Out, /, *, folder: str, tz: str | None, after: str | None, limit: int, as_json: bool, **asked: Any) -> None:
    """Leaf through the records: events, tombstones and what could not be read, a page at a time.

    All filters must fit. The answer says how many do, how much was searched, and where the next page begins.
    """
    page = open_lab(folder, tz).explore(**asked).page(after, limit=limit)
    more = f"the next page: --after {page.next}" if page.next else ""
    table = page.arrow()
    if as_json:
        if more:
            note(f"{page.said}; {more}")
        out.json([_told(row) for row in table.to_pylist()])
        return
    out.line(page.said)
    rows = zip(table["recorded_at"].to_pylist(), page.rows(), strict=True)
    out.table(
        ["recorded", "at", "event", "belongs to", "id", "data or problem"],
        ([recorded, row["at"], row["event"], row["named"], row["id"], row["told"]] for recorded, row in rows),
    )
    if more:
        out.line(more)
    out.again(page.again)


def _told(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, **{name: None if row[name] is None else embedded(row[name]) for name in ("data", "metadata")}}
