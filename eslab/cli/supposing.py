"""The command that supposes: a history with other events in it."""
# ruff: noqa: PLC0415  pandas, Arrow and DuckDB take most of a second: commands import them when they run, so that --help need not wait

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from eslab.cli.asking import moment_of, note_partial, open_history, told_event, word
from eslab.cli.command import Command, fold_options, one_aggregate, options, until_option
from eslab.cli.output import Out, embedded, note

if TYPE_CHECKING:
    from eslab.timelines import Pair, Timelines
    from eslab.whatif import WhatIf

__all__ = ["what_if"]

_VERBS = ("drop", "drop-with-effects", "edit", "move", "duplicate", "delay")


@click.command(cls=Command, name="what-if")
@one_aggregate
@options(
    click.option("--drop", multiple=True, metavar="EVENT", help="Leave an event out."),
    click.option(
        "--drop-with-effects", multiple=True, metavar="EVENT", help="Leave an event out, and all that it caused, over all topics."
    ),
    click.option(
        "--edit", multiple=True, nargs=3, metavar="EVENT PATH JSON", help="Let it say something else: --edit evt-8 data.total 10."
    ),
    click.option("--move", multiple=True, nargs=2, metavar="EVENT OTHER", help="Let it come right after another one."),
    click.option("--duplicate", multiple=True, metavar="EVENT", help="Let it come twice."),
    click.option("--delay", multiple=True, nargs=2, metavar="EVENT LENGTH", help="Let it come so much later: --delay evt-8 5m."),
)
@until_option
@fold_options
@click.pass_obj
def what_if(out: Out, /, *, at: str | None, as_json: bool, **asked: Any) -> None:
    """Show what one aggregate would have come to with other events.

    Both timelines side by side, and where they part. Nothing is written. EVENT is an id (its first occurrence), or topic/partition/offset. The changes are made in the order of the options below, each as often as
    it is given.
    """
    verbs = {name: asked.pop(name.replace("-", "_")) for name in _VERBS}
    if not any(verbs.values()):
        raise click.UsageError(f"what if what? give {', '.join(f'--{name}' for name in _VERBS[:-1])} or --{_VERBS[-1]}")
    edits = [(event, path, _value(text)) for event, path, text in verbs["edit"]]
    lab, found = open_history(**asked, at=at)
    told = _changed(lab.what_if(found), verbs, edits)
    compared = told.compare()
    note_partial(found.partial)
    for one in told.notes:
        note(one)
    if as_json:
        out.json(_document(lab, compared))
        return
    for one in compared.said:
        out.line(one)
    for one in compared.sentences:
        out.line(one)
    rows = (
        [row.done, _event(row), told_event(lab, row.event)["recorded_at"], *map(_side, (row.left, row.right)), _differs(row)]
        for row in compared
    )
    out.table(["", "event", "recorded", "as it was", "what if", "differs in"], rows)
    given = {name: value for name, value in verbs.items() if value}
    told_at = {
        "at": at and word(moment_of(lab, at)),
        "projection": asked["projection"],
        "clock": None if asked["clock"] == "recorded" else asked["clock"],
    }
    out.again("what-if", asked["folder"], asked["aggregate"], asked["aggregate_id"], **given, **told_at, tz=asked["tz"])


def _value(text: str) -> Any:
    from eslab.model import loads_exact

    try:
        return loads_exact(text)
    except ValueError as exc:
        raise click.UsageError(f"--edit: {text!r} is no JSON; a text is written '\"like this\"' ({exc})") from exc


def _changed(whatif: WhatIf, verbs: Mapping[str, Any], edits: list[tuple[str, str, Any]]) -> WhatIf:
    for event in verbs["drop"]:
        whatif = whatif.drop(_named(event))
    for event in verbs["drop-with-effects"]:
        whatif = whatif.drop(_named(event), effects=True)
    for event, path, value in edits:
        whatif = whatif.edit(_named(event), {path: value})
    for event, other in verbs["move"]:
        whatif = whatif.move(_named(event), after=_named(other))
    for event in verbs["duplicate"]:
        whatif = whatif.duplicate(_named(event))
    for event, length in verbs["delay"]:
        whatif = whatif.delay(_named(event), length)
    return whatif


def _named(told: str) -> str | tuple[str, int, int]:
    """An id, or a place: an event without an id is called by its own."""
    place = re.fullmatch(r"(.+)/(\d{1,9})/(\d{1,18})", told)
    return (place[1], int(place[2]), int(place[3])) if place else told


def _document(lab: Any, compared: Timelines) -> dict[str, Any]:
    from eslab.model import MISSING, format_path

    changes = [{"path": format_path(one.path), "before": one.before, "after": one.after} for one in compared.changes]
    first = compared.divergence
    return {
        "aggregate": compared.before.aggregate,
        "aggregate_id": compared.before.aggregate_id,
        "done": list(compared.said),
        "sentences": list(compared.sentences),
        "parted": None
        if first is None
        else told_event(lab, first.event) | {"done": first.done, "paths": [format_path(one.path) for one in first.paths]},
        "changes": [{name: value for name, value in change.items() if value is not MISSING} for change in changes],
        "rows": [{**row, **{side: embedded(row[side]) for side in ("left", "right")}} for row in compared.arrow().to_pylist()],
    }


def _event(row: Pair) -> str:
    event = row.event
    return f"{event.type or 'undecodable'} {event.id or event.coordinates}"


def _side(step: Any) -> str:
    if step is None:
        return "—"
    marks = f" [{', '.join(step.marks)}]" if step.marks else ""
    return f"v{step.version}: {'; '.join(map(str, step.changes)) or 'no change'}{marks}"


def _differs(row: Pair) -> str:
    from eslab.model import format_path

    return (", ".join(format_path(one.path) or "(all)" for one in row.paths) or "one side has failed") if row.differs else ""
