"""Commands about one id: find it, walk its history, see it at a moment, compare two moments."""
# ruff: noqa: PLC0415  pandas, Arrow and DuckDB take most of a second: commands import them when they run, so that --help need not wait

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from eslab.cli.command import (
    Command,
    cut_options,
    fold_options,
    json_option,
    lab_argument,
    moment_options,
    one_aggregate,
    one_moment,
    open_lab,
)
from eslab.cli.loading import load_projection
from eslab.cli.output import Out, cell, embedded, note, rows_of, to_json

if TYPE_CHECKING:
    from eslab.blaming import Causes
    from eslab.history import History
    from eslab.lab import Lab
    from eslab.model import Change, Cut, Event
    from eslab.steps import Step

__all__ = [
    "at", "blame", "caused", "diff", "find", "history", "moment_of", "note_partial", "open_history", "open_known", "show_causes", "sided", "the_moment",
    "told_event", "told_moment",
]  # fmt: skip


@click.command(cls=Command)
@lab_argument
@click.argument("anything", metavar="ID")
@click.option("--whole", is_flag=True, help="Search all events for a value that stands nearly everywhere.")
@json_option
@click.pass_context
def find(ctx: click.Context, folder: str, anything: str, tz: str | None, *, whole: bool, as_json: bool) -> None:
    """Tell what an id or a value is known as.

    An aggregate's, an event's, a correlation, a causation, a trace, a span, a record key, an event type, a source, a value in data; and how much was searched.
    """
    found = open_lab(folder, tz).find(anything, whole=whole)
    frame = found.df()
    if as_json:
        ctx.obj.json(rows_of(frame))
    elif len(found):
        ctx.obj.table(list(frame.columns), frame.itertuples(index=False))
        for sentence in found.notes:
            ctx.obj.line(sentence)
        ctx.obj.again(found.again)
    if not len(found):
        note(repr(found))
        ctx.exit(1)
    if as_json and not found.complete:
        for sentence in found.notes:
            note(sentence)


@click.command(cls=Command)
@one_aggregate
@moment_options
@click.option("--watch", multiple=True, metavar="PATH", help="Show this value over time instead, where it changes; repeat it for more.")
@fold_options
@click.pass_obj
def history(out: Out, /, *, watch: tuple[str, ...], as_json: bool, **asked: Any) -> None:
    """Show what happened to one aggregate, step by step."""
    from eslab.model import MISSING

    lab, found = open_history(**asked)
    if as_json:
        note_partial(found.partial)
        rows = rows_of((found.watch(*watch) if watch else found.df()).reset_index())
        out.json([{name: value for name, value in row.items() if value is not MISSING} for row in rows])
        return
    out.line(repr(found).strip("<>"))
    if watch:
        seen = found.watch(*watch).reset_index()
        out.table(list(seen.columns), (["—" if one is MISSING else one for one in row] for row in seen.itertuples(index=False)))
    else:
        out.table(["version", "event", "recorded", "id", "changes", "marks"], (_step(lab, step) for step in found))
    out.again(found.shell.line("history", at=found.until, watch=watch))


@click.command(cls=Command)
@one_aggregate
@click.argument("moment", required=False)
@click.option("--version", type=click.IntRange(min=0), help="After so many steps; 0 is before the first.")
@click.option("--event", metavar="ID", help="After everything up to and with this event.")
@cut_options
@fold_options
@click.pass_obj
def at(
    out: Out,
    /,
    *,
    moment: str | None,
    version: int | None,
    event: str | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Show one aggregate as it was at a moment.

    MOMENT is a time (inclusive) or a version like v3; without one, all that is captured counts, or that a cut holds.
    """
    if sum(one is not None for one in (moment, version, event)) > 1:
        raise click.UsageError("name one moment: MOMENT, --version or --event")
    lab, found = open_history(**asked)
    state = found.at(None if moment is None else moment_of(lab, moment), version=version, event_id=event)
    last = told_event(lab, state.event)
    if as_json:
        note_partial(state.partial)
        out.json(
            {
                "aggregate": state.aggregate,
                "aggregate_id": state.aggregate_id,
                "version": state.version,
                "value": state.value,
                "event": last or None,
                "partial": state.partial,
                "note": state.note,
                "cut": embedded(state.cut.to_json()),
            }
        )
        return
    out.line(repr(state).rpartition("\n")[0])
    if last:
        out.line(f"after {last['event_type']} {last['event_id']}, recorded {cell(last['recorded_at'])}, at {last['at']}")
    out.table(["field", "value"], state.value.items() if isinstance(state.value, dict) else [["", state.value]])
    out.again(state.again)


@click.command(cls=Command)
@one_aggregate
@click.argument("before")
@click.argument("after")
@cut_options
@fold_options
@click.pass_obj
def diff(out: Out, /, *, before: str, after: str, as_json: bool, **asked: Any) -> None:
    """Show what changed in one aggregate between two moments.

    BEFORE and AFTER are times (inclusive) or versions like v3.
    """
    from eslab.model import MISSING, format_path

    lab, found = open_history(**asked)
    sides = [moment_of(lab, before), moment_of(lab, after)]
    changes = found.diff(*sides)
    if as_json:
        note_partial(found.partial)
        out.json(sided(changes))
        return
    if changes:
        shown = (
            [format_path(one.path) or "(all)", *("—" if side is MISSING else to_json(side).decode() for side in (one.before, one.after))]
            for one in changes
        )
        out.table(["path", "before", "after"], shown)
    else:
        out.line("no changes")
    out.again(changes.again)


@click.command(cls=Command)
@one_aggregate
@click.argument("path", required=False)
@click.option("--at", metavar="MOMENT", help="As it was at a time (inclusive) or a version like v3. Default: all that is captured.")
@cut_options
@fold_options
@click.pass_obj
def blame(out: Out, /, *, path: str | None, at: str | None, as_json: bool, **asked: Any) -> None:
    """Show what set a value: the events that changed it, newest first.

    PATH is one like status or items[0].price; without one, the last change of every value is shown.
    """
    _, found, version = open_known(at, **asked)
    causes = found.blame(path, at=version)
    if as_json:
        note_partial(found.partial)
        out.json(caused(causes))
        return
    if path is not None:
        for sentence in found.explain(path, at=version).sentences:
            out.line(sentence)
    show_causes(out, causes)
    out.again(causes.again)


def show_causes(out: Out, causes: Causes) -> None:
    columns = ["version", "path", "before", "after", "event_type", "event_id", "recorded_at", "handler"]
    out.table(columns, causes.arrow().select(columns).to_pandas().itertuples(index=False))


def caused(causes: Causes) -> list[dict[str, Any]]:
    """Each change with its event, for JSON."""
    sides = ("before", "after")
    rows = causes.arrow().to_pylist()
    return [{**row, **{side: None if row[side] is None else embedded(row[side]) for side in sides}} for row in rows]


def sided(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """Changes for JSON: a side that is not there has no field."""
    from eslab.model import MISSING, format_path

    told = ({"path": format_path(one.path), "before": one.before, "after": one.after} for one in changes)
    return [{name: value for name, value in one.items() if value is not MISSING} for one in told]


def moment_of(lab: Lab, told: str) -> int | dt.datetime:
    """A version, `v3` or `3`, or a time."""
    version = re.fullmatch(r"v?(\d+)", told)
    return int(version[1]) if version else lab.moment(told)


def open_history(
    *,
    folder: str,
    aggregate: str,
    aggregate_id: str,
    projection: str | None,
    clock: str,
    tz: str | None,
    at: str | None = None,
    bookmark: str | None = None,
    cut: str | None = None,
) -> tuple[Lab, History]:
    one_moment(at, bookmark, cut, clock)
    lab = open_lab(folder, tz)
    told = told_moment(lab, at, bookmark, cut)
    return lab, lab.history(aggregate, aggregate_id, projection=load_projection(projection), clock=clock, **told)


def open_known(at: str | None, **asked: Any) -> tuple[Lab, History, int | None]:
    """A history as it was known at a moment: until a time, or the whole of it and the version that is meant."""
    version = None if at is None else re.fullmatch(r"v?(\d+)", at)
    lab, found = open_history(**asked, at=None if version else at)
    return lab, found, None if version is None else int(version[1])


def told_moment(lab: Lab, at: str | None, bookmark: str | None, cut: str | None) -> dict[str, Any]:
    """The moment that options name, as the methods of a lab take it."""
    from eslab.model import Cut

    told = Cut.from_json(cut) if cut is not None else None if bookmark is None else lab.cut(bookmark=bookmark)
    return {"at": None if at is None else lab.moment(at), "cut": told}


def the_moment(lab: Lab, at: str | None, bookmark: str | None, cut: str | None) -> dt.datetime | Cut | None:
    """The one moment that options name."""
    one_moment(at, bookmark, cut, "recorded")
    told = told_moment(lab, at, bookmark, cut)
    found: dt.datetime | Cut | None = told["at"] or told["cut"]
    return found


def note_partial(partial: str) -> None:
    if partial:
        note(f"partial: {partial}")


def _step(lab: Lab, step: Step) -> list[Any]:
    """A step as a row: version, event, recorded, id, changes, marks."""
    seen = told_event(lab, step.event)
    marks = ", ".join(step.marks) + (f": {step.problem}" if step.problem else "")
    return [
        step.version,
        seen["event_type"] or "(undecodable)",
        seen["recorded_at"],
        seen["event_id"] or seen["at"],
        "; ".join(map(str, step.changes)),
        marks,
    ]


def told_event(lab: Lab, event: Event | None) -> dict[str, Any]:
    """What there is to say about an event, in the words of `History.df`; nothing about none."""
    from eslab.model import TOMBSTONE

    if event is None:
        return {}
    zone = lab.tz or dt.UTC
    return {
        "event_type": "(tombstone)" if event.type is TOMBSTONE else event.type,
        "recorded_at": event.recorded_at and event.recorded_at.astimezone(zone),
        "happened_at": event.happened_at and event.happened_at.astimezone(zone),
        "event_id": event.id,
        "source": event.source,
        "at": str(event.coordinates),
    }
