"""Commands about moments: bookmarks, and what arrived after its time."""

from __future__ import annotations

import click

from eslab.cli.command import Command, json_option, lab_argument, open_lab
from eslab.cli.output import Out, embedded, note, rows_of

__all__ = ["bookmark", "late"]


@click.command(cls=Command)
@lab_argument
@click.argument("name", required=False)
@click.option("--at", metavar="TIME", help="A time, inclusive; with --group, where it stood then. Default: all that is captured.")
@click.option("--event", metavar="ID", help="Everything up to and with this event.")
@click.option("--group", metavar="NAME", help="Up to where this consumer group had committed.")
@click.option("--cut", metavar="JSON", help="A cut, as --json prints it.")
@click.option("--replace", is_flag=True, help="Move a name that stands at another cut.")
@click.option("--remove", is_flag=True, help="Forget the bookmark.")
@json_option
@click.pass_obj
def bookmark(
    out: Out,
    *,
    folder: str,
    name: str | None,
    at: str | None,
    event: str | None,
    group: str | None,
    cut: str | None,
    replace: bool,
    remove: bool,
    tz: str | None,
    as_json: bool,
) -> None:
    """Keep a moment under NAME, or list what is kept.

    `eslab at` and `eslab history` take it by --bookmark.
    """
    from eslab.model import Cut  # noqa: PLC0415  as everywhere here: --help need not wait

    moments = (at, event, group, cut)
    if (name is None or remove) and (any(one is not None for one in moments) or replace):
        raise click.UsageError("a moment and --replace belong to a NAME that is kept")
    if name is None and remove:
        raise click.UsageError("--remove takes the NAME to forget")
    if cut is not None and any(one is not None for one in (at, event, group)):
        raise click.UsageError("name one moment: --at, --event, --group with --at or without, or --cut")
    lab = open_lab(folder, tz)
    if name is None:
        kept = dict(lab.bookmarks)
        if as_json:
            out.json([{"name": one, "cut": embedded(found.to_json())} for one, found in kept.items()])
        else:
            out.table(["bookmark", "cut"], ([one, found.label] for one, found in kept.items()))
    elif remove:
        lab.bookmarks.remove(name)
        note(f"bookmark {name!r} is forgotten")
    else:
        told = Cut.from_json(cut) if cut is not None else lab.cut(at, event_id=event, group=group)
        found = lab.bookmark(name, at=told, replace=replace)
        if as_json:
            out.json({"name": name, "cut": embedded(found.to_json())})
        else:
            out.line(f"{name}: {found.label}")


@click.command(cls=Command)
@lab_argument
@click.option("--min", "least", default="1m", show_default=True, metavar="LENGTH", help="As late as this, or more: 30s, 5m, 2h.")
@click.option("--topic", metavar="NAME", help="Of this topic alone.")
@json_option
@click.pass_obj
def late(out: Out, *, folder: str, least: str, topic: str | None, tz: str | None, as_json: bool) -> None:
    """List the events that arrived after their time, the latest first."""
    found = open_lab(folder, tz).late(min=least, topic=topic)
    frame = found.df()
    frame["late_s"] = frame.pop("late").dt.total_seconds()
    if as_json:
        out.json(rows_of(frame))
        return
    out.line(repr(found).strip("<>"))
    out.table(list(frame.columns), frame.itertuples(index=False))
    out.again(found.again)
