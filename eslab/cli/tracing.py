"""Commands about what belongs together: the trace of an event, sagas, what happened around a moment."""

from __future__ import annotations

import click

from eslab.cli.asking import the_moment
from eslab.cli.command import Command, json_option, lab_argument, moment_options, open_lab, options
from eslab.cli.output import Out, note, rows_of

__all__ = ["around", "sagas", "trace"]

_endings = options(
    click.option(
        "--done",
        multiple=True,
        metavar="TYPE",
        help="A saga with such an event is finished; repeat it for more. Default: learned from where sagas end.",
    ),
    click.option("--compensated", multiple=True, metavar="TYPE", help="A saga with such an event was undone."),
)


@click.command(cls=Command)
@lab_argument
@click.argument("told", metavar="ID")
@_endings
@json_option
@click.pass_obj
def trace(out: Out, *, folder: str, told: str, done: tuple[str, ...], compensated: tuple[str, ...], tz: str | None, as_json: bool) -> None:
    """Show what caused an event and what it caused.

    ID is an event's or a correlation's; the answer is the tree over all topics, with the times between, and its open ends.
    """
    found = open_lab(folder, tz).trace(told, done=done or None, compensated=compensated)
    frame = found.df()
    frame["after_s"] = frame.pop("after").dt.total_seconds()
    if as_json:
        _notes(found.notes)
        out.json(rows_of(frame))
        return
    out.line(found.said)
    out.table(["event", "id", "at", "time", "after", "marks"], found.tree())
    for sentence in found.notes:
        out.line(sentence)
    out.again(found.again)


@click.command(cls=Command)
@lab_argument
@_endings
@click.option(
    "--stuck-after", default="1h", show_default=True, metavar="LENGTH", help="Stuck is one to which nothing came for so long: 30s, 5m, 2h."
)
@click.option("--begin", multiple=True, metavar="TYPE", help="Only sagas with such an event; repeat it for more.")
@click.option("--state", type=click.Choice(["finished", "compensated", "running", "stuck"]), help="Only those in this state.")
@moment_options
@json_option
@click.pass_obj
def sagas(
    out: Out,
    *,
    folder: str,
    done: tuple[str, ...],
    compensated: tuple[str, ...],
    stuck_after: str,
    begin: tuple[str, ...],
    state: str | None,
    at: str | None,
    bookmark: str | None,
    cut: str | None,
    tz: str | None,
    as_json: bool,
) -> None:
    """List sagas, one for each correlation id: finished, compensated, running or stuck.

    Those to which nothing came for the longest time stand first.
    """
    lab = open_lab(folder, tz)
    until = the_moment(lab, at, bookmark, cut)
    whole = lab.sagas(done=done or None, compensated=compensated, stuck_after=stuck_after, begin=begin, at=until)
    found = whole if state is None else getattr(whole, state)
    frame = found.df().reset_index()
    for name in ("took", "silent"):
        frame[f"{name}_s"] = frame.pop(name).dt.total_seconds()
    if as_json:
        _notes(whole.notes)
        out.json(rows_of(frame))
        return
    out.line(repr(found).splitlines()[0].strip("<>"))
    for sentence in whole.notes:
        out.line(sentence)
    out.table(list(frame.columns), frame.itertuples(index=False))
    out.again(found.again)


@click.command(cls=Command)
@lab_argument
@click.argument("moment", required=False)
@click.option("--event", metavar="ID", help="Around this event.")
@click.option("--before", default="1m", show_default=True, metavar="LENGTH", help="From so long before it: 500ms, 30s, 5m.")
@click.option("--after", default="1m", show_default=True, metavar="LENGTH", help="To so long after it.")
@json_option
@click.pass_obj
def around(out: Out, *, folder: str, moment: str | None, event: str | None, before: str, after: str, tz: str | None, as_json: bool) -> None:
    """Show everything that was recorded near a moment, over all topics.

    MOMENT is a time.
    """
    if (moment is None) == (event is None):
        raise click.UsageError("name one moment: MOMENT or --event")
    lab = open_lab(folder, tz)
    until = None if moment is None else lab.moment(moment)
    found = lab.around(until, event_id=event, before=before, after=after)
    frame = found.df()
    frame.insert(1, "since_s", frame.pop("since").dt.total_seconds())
    if as_json:
        _notes([] if found.complete else [found.said])
        out.json(rows_of(frame))
        return
    out.line(found.said)
    columns = ["order_at", "since_s", "kind", "event_type", "event_id", "at", "key", "source"]
    out.table(columns, frame[columns].itertuples(index=False))
    out.again(found.again)


def _notes(notes: list[str]) -> None:
    for sentence in notes:
        note(sentence)
