"""Commands about how much and how far behind: throughput, lag."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import click

from eslab.again import again
from eslab.cli.command import Command, json_option, lab_argument, open_lab, options
from eslab.cli.output import Out, note, rows_of

if TYPE_CHECKING:
    from eslab.lab import Lab

__all__ = ["lag", "throughput"]

_range = options(
    click.option("--every", metavar="WIDTH", help="A row for so long: 5s, 1m, 1h, 1d."),
    click.option("--start", metavar="TIME", help="From here on, inclusive."),
    click.option("--stop", metavar="TIME", help="Up to here, exclusive."),
    json_option,
)


@click.command(cls=Command)
@lab_argument
@click.argument("topics", nargs=-1, metavar="[TOPIC]...")
@_range
@click.pass_obj
def throughput(
    out: Out,
    *,
    folder: str,
    topics: tuple[str, ...],
    tz: str | None,
    every: str | None,
    start: str | None,
    stop: str | None,
    as_json: bool,
) -> None:
    """Show how much was produced when: records and bytes by topic.

    Without a TOPIC, all but Kafka's own.
    """
    lab = open_lab(folder, tz)
    within = _within(lab, start, stop)
    found = lab.throughput(list(topics) or None, every=every, **within)
    table = found.arrow()
    if as_json:
        _notes(found.notes)
        out.json_rows(table.to_pylist())
        return
    _faced(out, repr(found))
    out.table(table.column_names, (list(row.values()) for row in table.to_pylist()))
    out.again(found.again)


@click.command(cls=Command)
@lab_argument
@click.argument("group", required=False)
@click.option("--at", metavar="TIME", help="Where the group stood at this moment.")
@click.option("--topic", "topics", metavar="TOPIC", multiple=True, help="On this topic alone; may be repeated.")
@_range
@click.pass_obj
def lag(
    out: Out,
    *,
    folder: str,
    group: str | None,
    at: str | None,
    topics: tuple[str, ...],
    tz: str | None,
    every: str | None,
    start: str | None,
    stop: str | None,
    as_json: bool,
) -> None:
    """Show how far a consumer group was behind: since when, how long, how far.

    Without a GROUP, the groups of which the lab knows anything. With --every, the sums over time (with --json, each partition over time).
    """
    if at is not None and (every is not None or start is not None or stop is not None):
        raise click.UsageError("--at is one moment; --every, --start and --stop are for a range")
    lab = open_lab(folder, tz)
    if group is None:
        _groups(out, lab, folder, tz, as_json=as_json)
        return
    within = _within(lab, start, stop)
    found = lab.lag(group, topics=list(topics) or None, every=every, **within)
    line = found.again
    if at is not None:
        standing = found.at(lab.moment(at))
        line = standing.again
        _show(out, standing, as_json=as_json)
    elif every is not None:
        if as_json:
            out.json_rows(found.arrow().to_pylist())
        else:
            _faced(out, repr(found))
            table = found.sums()
            out.table(table.column_names, (list(row.values()) for row in table.to_pylist()))
    else:
        _overview(out, found, as_json=as_json)
    if not as_json:
        out.again(line)


def _groups(out: Out, lab: Lab, folder: str, tz: str | None, *, as_json: bool) -> None:
    frame = lab.groups()
    if as_json:
        out.json_rows(rows_of(frame))
        return
    out.table(list(frame.columns), frame.itertuples(index=False))
    out.again(again("lag", folder, tz=tz))


def _show(out: Out, standing: Any, *, as_json: bool) -> None:
    table = standing.arrow()
    if as_json:
        out.json_rows(table.to_pylist())
        return
    out.line(repr(standing).splitlines()[0].strip("<>"))
    out.table(table.column_names, (list(row.values()) for row in table.to_pylist()))


def _overview(out: Out, found: Any, *, as_json: bool) -> None:
    stalls, peaks = found.stalls(), found.peaks().to_pylist()
    if as_json:
        out.json(
            {
                "group": found.group,
                "start": found.start,
                "stop": found.stop,
                "notes": found.notes,
                "stalls": stalls.arrow().to_pylist(),
                "partitions": peaks,
            }
        )
        return
    _faced(out, repr(found))
    _faced(out, repr(stalls))
    out.table(list(peaks[0]), (list(row.values()) for row in peaks))


def _faced(out: Out, told: str) -> None:
    """A repr, line by line: its first without the brackets."""
    for line in told.splitlines():
        out.line(line.strip("<>"))


def _notes(notes: tuple[str, ...]) -> None:
    for one in notes:
        note(one)


def _within(lab: Lab, start: str | None, stop: str | None) -> dict[str, dt.datetime | None]:
    return {name: None if told is None else lab.moment(told) for name, told in (("start", start), ("stop", stop))}
