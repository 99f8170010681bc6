"""The command that supposes: a history, or a world, with other events in it."""
# ruff: noqa: PLC0415  pandas, Arrow and DuckDB take most of a second: commands import them when they run, so that --help need not wait

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from eslab.cli.asking import note_partial, open_history, sided, told_event, told_moment
from eslab.cli.command import Command, fold_options, moment_options, one_moment, open_lab, options
from eslab.cli.loading import load_projection
from eslab.cli.output import Out, embedded, note

if TYPE_CHECKING:
    from eslab.lab import Lab
    from eslab.model import Change
    from eslab.timelines import Pair, Timelines
    from eslab.whatif import Verbs
    from eslab.worldlines import WorldTimelines

__all__ = ["what_if"]

_MORE: Final[Mapping[str, tuple[str, ...]]] = {
    "drop": ("effects",),
    "edit": (),
    "insert": ("before", "after", "to", "topic", "key"),
    "move": ("before", "after", "to"),
    "duplicate": ("later",),
    "delay": (),
}
"""The verbs, and of each the options that may stand behind it to tell more of it."""
_NAMES: Final = frozenset([*_MORE, *(name for more in _MORE.values() for name in more)])
_PLACES: Final = ("before", "after", "to")
_KEYWORDS: Final = {"to": "at", "later": "delay"}
"""What Python calls an option, where that name is taken in the shell, or would not read as a sentence."""


class _Change(NamedTuple):
    """One change that is asked for: its verb, the words behind it, and what the options that follow tell of it."""

    verb: str
    words: Sequence[str]
    more: dict[str, str]


class _Supposing(Command):
    """A command that is also handed what was told of changes, in the order in which it was: a change sees what those before it left."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        again = list(args)
        left = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            values, _, order = self.make_parser(ctx).parse_args(again)
            told = {name: iter(value) for name, value in values.items() if isinstance(value, list)}
            names = [one.name for one in order if one.name in _NAMES]
            ctx.params["changes"] = _changes((name, next(told[name]) if name in told else "") for name in names)
        return left


def _changes(told: Iterable[tuple[str, Any]]) -> list[_Change]:
    """The changes, each with what stands behind it."""
    changes: list[_Change] = []
    for name, value in told:
        if name in _MORE:
            changes.append(_Change(name, [value] if isinstance(value, str) else value, {}))
            continue
        owners = " or ".join(f"--{verb}" for verb, more in _MORE.items() if name in more)
        if not changes or name not in _MORE[changes[-1].verb]:
            raise click.UsageError(f"--{name} stands right behind the {owners} that it is about")
        if name in changes[-1].more:
            raise click.UsageError(f"--{name} was given twice for one --{changes[-1].verb}")
        changes[-1].more[name] = value
    for verb, words, more in changes:
        where = [name for name in _PLACES if name in more]
        if len(where) > 1 or (verb == "move" and not where):
            raise click.UsageError(f"--{verb} {words[0]} where to? give one of --before EVENT, --after EVENT and --to TIME")
    if sum(verb == "insert" and words[0] == "-" for verb, words, _ in changes) > 1:
        raise click.UsageError("- is stdin, which holds one event: give the others inline, or as files")
    return changes


def _verb(*told: Any, **more: Any) -> Any:
    return click.option(*told, multiple=True, expose_value=False, **more)


@click.command(cls=_Supposing, name="what-if")
@click.argument("folder", metavar="LAB")
@click.argument("aggregate", required=False)
@click.argument("aggregate_id", metavar="[ID]", required=False)
@options(
    _verb("--drop", metavar="EVENT", help="Leave an event out."),
    click.option("--effects", count=True, expose_value=False, help="... and all that it caused, over all topics."),
    _verb(
        "--edit",
        nargs=3,
        metavar="EVENT PATH JSON",
        help="Let it say something else: --edit evt-8 data.total 10. MISSING for JSON takes away what stands there.",
    ),
    _verb("--insert", metavar="JSON", help='Put an event in: {"eventType": ...}, a file that holds it, or - for stdin.'),
    _verb("--move", metavar="EVENT", help="Let it come at another place."),
    _verb("--before", metavar="EVENT", help="... right before this one."),
    _verb("--after", metavar="EVENT", help="... right after this one."),
    _verb("--to", metavar="TIME", help="... at this time. What is inserted comes else at its own time, or at the end of the history."),
    _verb("--topic", metavar="TOPIC", help="... as an event of this topic. Default: that of the one it stands beside, or the only one."),
    _verb("--key", metavar="KEY", help="... with this record key. Default: its first id. --insert null --key ord-1 is a tombstone."),
    _verb("--duplicate", metavar="EVENT", help="Let it be delivered twice, the second right behind the first."),
    _verb("--later", metavar="LENGTH", help="... or so much later: 30s, 5m."),
    _verb("--delay", nargs=2, metavar="EVENT LENGTH", help="Let it come so much later: --delay evt-8 5m."),
)
@moment_options
@click.option("--ended", is_flag=True, help="Of a world, keep those that a tombstone ended, too.")
@fold_options
@click.pass_obj
def what_if(
    out: Out, /, *, aggregate: str | None, aggregate_id: str | None, changes: list[_Change], as_json: bool, ended: bool, **asked: Any
) -> None:
    """Show what would have been with other events.

    Of one history (AGGREGATE and ID) both timelines side by side, and where they part; of the world of an AGGREGATE, or of a --projection, the keys that are touched. Nothing is written. EVENT is an id (its first occurrence), or
    topic/partition/offset. The changes are made in the order in which they are given, each as often as it is; an option that begins with `...` tells more of the change right before it.

    \b
    eslab what-if shop order ord-1 --drop evt-7 --effects --insert new.json --after evt-4
    """
    if not changes:
        raise click.UsageError(f"what if what? give {', '.join(f'--{verb}' for verb in list(_MORE)[:-1])} or --{list(_MORE)[-1]}")
    if aggregate_id is None and (aggregate is None) is (asked["projection"] is None):
        raise click.UsageError("give an AGGREGATE and an ID for one history; for a world an AGGREGATE, or --projection FILE.PY:NAME")
    if aggregate_id is not None and ended:
        raise click.UsageError("--ended is about a world: drop it, or the ID")
    moment, bookmark, cut = asked["at"], asked["bookmark"], asked["cut"]
    one_moment(moment, bookmark, cut, asked["clock"])
    payloads = [_payload(words[0]) if verb == "insert" else None for verb, words, _ in changes]
    if aggregate is not None and aggregate_id is not None:
        lab, found = open_history(aggregate=aggregate, aggregate_id=aggregate_id, **asked)
        then = _changed(lab, lab.what_if(found), changes, payloads)
        compared = then.compare()
        _show_history(out, lab, compared, then.notes, as_json=as_json)
    else:
        lab = open_lab(asked["folder"], asked["tz"])
        chosen = load_projection(asked["projection"]) or aggregate
        assert chosen is not None
        world = lab.what_if(chosen, ended=ended, clock=asked["clock"], **told_moment(lab, moment, bookmark, cut))
        then = _changed(lab, world, changes, payloads)
        compared = then.compare()
        _show_world(out, compared, then.notes, as_json=as_json)
    if not as_json:
        out.again(compared.again)


def _changed(lab: Lab, whatif: Any, changes: Sequence[_Change], payloads: Sequence[Any]) -> Any:
    """The what-if with these changes in it."""
    for (verb, words, more), payload in zip(changes, payloads, strict=True):
        told = {name: lab.moment(value).isoformat() if name == "to" else value for name, value in more.items()}
        whatif = _with(whatif, verb, words, told, payload)
    return whatif


def _with(whatif: Verbs, verb: str, words: Sequence[str], more: Mapping[str, str], payload: Any) -> Verbs:
    if verb == "insert":
        if payload is None and "key" not in more:
            raise click.UsageError("--insert null is a tombstone, which has nothing but its key: add --key, the id that it ends")
        return whatif.insert(payload, **_options(more))
    event = _named(words[0])
    if verb == "drop":
        return whatif.drop(event, effects="effects" in more)
    if verb == "edit":
        return whatif.edit(event, {words[1]: _value(words[2])})
    if verb == "move":
        return whatif.move(event, **_options(more))
    return whatif.duplicate(event, **_options(more)) if verb == "duplicate" else whatif.delay(event, words[1])


def _options(more: Mapping[str, str]) -> dict[str, Any]:
    """Options as Python has them."""
    return {_KEYWORDS.get(name, name): _named(value) if name in ("before", "after") else value for name, value in more.items()}


def _named(told: str) -> Any:
    """An id, or a place: an event without an id is called by its own."""
    from eslab.model import Coordinates

    place = re.fullmatch(r"(.+)/(\d{1,9})(?:~(\d{1,9}))?/(-?\d{1,18})", told)
    if place is None:
        return told
    at = (place[1], int(place[2]), int(place[4]))
    return at if place[3] is None else Coordinates(*at[:2], int(place[3]), at[2])


def _value(text: str) -> Any:
    from eslab.model import MISSING, loads_exact

    if text == "MISSING":
        return MISSING
    try:
        return loads_exact(text)
    except ValueError as exc:
        raise click.UsageError(f"--edit: {text!r} is no JSON; a text is written '\"like this\"' ({exc})") from exc


def _payload(told: str) -> Any:
    """The event that is to be put in; None for a tombstone."""
    from eslab.model import loads_exact

    inline = told.lstrip().startswith("{") or told.strip() == "null"
    where = "" if inline else " (stdin)" if told == "-" else f" {told}"
    try:
        text = told.encode() if inline else sys.stdin.buffer.read() if told == "-" else Path(told).read_bytes()
        payload = loads_exact(text)
    except FileNotFoundError as exc:
        raise click.UsageError(f"--insert {told}: there is no such file; an event is written '{{\"eventType\": ...}}', - is stdin") from exc
    except ValueError as exc:
        raise click.UsageError(f"--insert{where}: this is no JSON ({exc})") from exc
    if payload is not None and not isinstance(payload, dict):
        raise click.UsageError(f'--insert{where}: an event is one JSON object like {{"eventType": "OrderPaid", "data": {{...}}}}')
    return payload


def _show_history(out: Out, lab: Lab, compared: Timelines, notes: Sequence[str], *, as_json: bool) -> None:
    note_partial(compared.before.partial)
    for one in notes:
        note(one)
    if as_json:
        out.json(_document(lab, compared))
        return
    for one in (*compared.said, *compared.sentences):
        out.line(one)
    rows = (
        [row.done, _event(row), told_event(lab, row.event)["recorded_at"], *map(_side, (row.left, row.right)), _differs(row)]
        for row in compared
    )
    out.table(["", "event", "recorded", "as it was", "what if", "differs in"], rows)


def _document(lab: Lab, compared: Timelines) -> dict[str, Any]:
    from eslab.model import format_path

    first = compared.divergence
    return {
        "aggregate": compared.before.aggregate,
        "aggregate_id": compared.before.aggregate_id,
        "done": list(compared.said),
        "sentences": list(compared.sentences),
        "parted": None
        if first is None
        else told_event(lab, first.event) | {"done": first.done, "paths": [format_path(one.path) for one in first.paths]},
        "changes": sided(compared.changes),
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


def _show_world(out: Out, compared: WorldTimelines, notes: Sequence[str], *, as_json: bool) -> None:
    for one in notes:
        note(one)
    before, after = compared.before, compared.after
    rows = compared.arrow().to_pylist()
    changes: dict[str, Sequence[Change]] = {
        key: compared.changes[key] for row in rows if row["kind"] == "changed" for key in [row["aggregate_id"]]
    }
    if not as_json:
        for one in compared.said:
            out.line(one)
        out.line(repr(compared).strip("<>"))
        if rows:
            told = [
                [key, row["kind"], row["problem"] or "; ".join(map(str, changes.get(key, ())))]
                for row in rows
                for key in [row["aggregate_id"]]
            ]
            out.table([before.projection.aggregate, "", "as it was → what if"], told)
        return
    keys = [
        {"aggregate_id": key, "kind": row["kind"], "problem": row["problem"], "changes": sided(changes.get(key, ()))}
        | {side: world[key] for side, world in (("before", before), ("after", after)) if key in world}
        for row in rows
        for key in [row["aggregate_id"]]
    ]
    out.json(
        {
            "projection": before.projection.name,
            "version": before.projection.version,
            "cut": embedded(before.selection.cut.to_json()),
            "done": list(compared.said),
            "partial": sorted(before.partial),
            "counts": compared.counts,
            "keys": keys,
        }
    )
