"""The commands that fold a projection over everything."""
# ruff: noqa: PLC0415  pandas, Arrow and DuckDB take most of a second: commands import them when they run, so that --help need not wait

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from eslab.cli.asking import the_moment, told_moment
from eslab.cli.command import Command, clock_option, json_option, lab_argument, moment_options, one_moment, open_lab
from eslab.cli.loading import load_function, load_invariants, load_projection
from eslab.cli.output import Out, embedded, note, rows_of

if TYPE_CHECKING:
    from eslab.invariants import Check, Violations
    from eslab.sqlworld import SqlWorld
    from eslab.world import World

__all__ = ["check", "first", "replay"]

_keys = click.option("--key", "keys", multiple=True, metavar="ID", help="Only this key; repeat it for more.")


@click.command(cls=Command)
@lab_argument
@click.argument("aggregate", required=False)
@click.option("--projection", metavar="FILE.PY:NAME", help="What to fold. Default: merge the fields of data. Runs the file.")
@moment_options
@_keys
@click.option("--ended", is_flag=True, help="Keep those that a tombstone ended, too.")
@click.option("--strict", is_flag=True, help="A handler that changes the state it was given fails its key.")
@clock_option
@json_option
@click.pass_context
def replay(
    ctx: click.Context,
    *,
    folder: str,
    aggregate: str | None,
    projection: str | None,
    at: str | None,
    bookmark: str | None,
    cut: str | None,
    keys: tuple[str, ...],
    ended: bool,
    strict: bool,
    clock: str,
    tz: str | None,
    as_json: bool,
) -> None:
    """Show the state of every key as of a moment.

    Folds a projection, or for AGGREGATE the one that merges the fields of data. Exits with 1 if a handler failed any key: the others stand.
    """
    from eslab.projection import SqlProjection

    if (aggregate is None) is (projection is None):
        raise click.UsageError("give an AGGREGATE, or --projection FILE.PY:NAME")
    one_moment(at, bookmark, cut, clock)
    lab = open_lab(folder, tz)
    told = told_moment(lab, at, bookmark, cut)
    chosen = load_projection(projection, queries=True) or aggregate
    shown = sys.stderr.isatty()
    answer: World | SqlWorld
    if isinstance(chosen, SqlProjection):
        if keys or ended or strict:
            raise click.UsageError("a SQL projection has no keys and no handlers: drop --key, --ended and --strict")
        answer = lab.replay(chosen, **told, clock=clock, progress=shown)
    else:
        assert chosen is not None
        answer = lab.replay(chosen, **told, keys=list(keys) or None, ended=ended, strict=strict, clock=clock, progress=shown)
    (_show_json if as_json else _show)(ctx.obj, answer)
    if not as_json:
        ctx.obj.again(answer.again)
    ctx.exit(1 if getattr(answer, "failed", ()) else 0)


def _show(out: Out, answer: World | SqlWorld) -> None:
    from eslab.sqlworld import SqlWorld

    out.line(repr(answer).strip("<>"))
    if isinstance(answer, SqlWorld):
        out.table(answer.arrow().column_names, (list(row.values()) for row in answer.arrow().to_pylist()))
        return
    if len(answer):
        out.table([answer.projection.aggregate, "state"], ([key, answer[key]] for key in answer))
    for one in answer.failed[:FAILED]:
        note(f"{answer.projection.aggregate} {one.key} failed at {one.event_id or one.at}: {one.error}")
    if len(answer.failed) > FAILED:
        note(f"these are the first {FAILED} of {len(answer.failed):,} keys that failed; --json gives them all")


FAILED = 20  # keys that failed, told one by one


def _show_json(out: Out, answer: World | SqlWorld) -> None:
    from eslab.sqlworld import SqlWorld

    told: dict[str, Any] = {
        "projection": answer.projection.name,
        "version": answer.projection.version,
        "cut": embedded(answer.selection.cut.to_json()),
        "undecodable": answer.undecodable,
        "partial": sorted(answer.partial),
    }
    if isinstance(answer, SqlWorld):
        out.json({**told, "rows": rows_of(answer.df())})
        return
    failed = [{"key": one.key, "event_id": one.event_id, "at": str(one.at), "error": one.error} for one in answer.failed]
    out.json({**told, "steps": answer.events, "ended": answer.ended, "failed": failed, "states": list(_states(answer))})


def _states(world: World) -> Iterator[dict[str, Any]]:
    versions = world.arrow()["version"].to_pylist()
    for (key, state), version in zip(world.items(), versions, strict=True):
        yield {"key": key, "version": version, "state": state}


@click.command(cls=Command)
@lab_argument
@click.argument("aggregate", required=False)
@click.option(
    "--when", required=True, metavar="FILE.PY:NAME", help="A function that takes a key's state and says whether it is so. Runs the file."
)
@click.option("--projection", metavar="FILE.PY:NAME", help="What to fold. Default: merge the fields of data. Runs the file.")
@moment_options
@_keys
@json_option
@click.pass_context
def first(
    ctx: click.Context,
    *,
    folder: str,
    aggregate: str | None,
    when: str,
    projection: str | None,
    at: str | None,
    bookmark: str | None,
    cut: str | None,
    keys: tuple[str, ...],
    tz: str | None,
    as_json: bool,
) -> None:
    """Show the first event of every key after which its state is as a function asks.

    The earliest comes first. Exits with 1 if there is none.
    """
    if (aggregate is None) is (projection is None):
        raise click.UsageError("give an AGGREGATE, or --projection FILE.PY:NAME")
    lab = open_lab(folder, tz)
    until = the_moment(lab, at, bookmark, cut)
    chosen = load_projection(projection) or aggregate
    assert chosen is not None
    found = lab.first(chosen, load_function(when, "--when"), at=until, keys=list(keys) or None, progress=sys.stderr.isatty())
    if as_json:
        ctx.obj.json([{**row, "state": embedded(row["state"])} for row in found.arrow().to_pylist()])
    else:
        ctx.obj.line(repr(found).strip("<>"))
        if len(found):
            ctx.obj.table(found.arrow().column_names, (list(row.values()) for row in found.arrow().to_pylist()))
        ctx.obj.again(found.again)
    ctx.exit(0 if len(found) else 1)


@click.command(cls=Command)
@lab_argument
@click.option(
    "--invariant",
    "named",
    required=True,
    multiple=True,
    metavar="FILE.PY:NAME",
    help="An eslab.Invariant; repeat it for more. Runs the file.",
)
@moment_options
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    *,
    folder: str,
    named: tuple[str, ...],
    at: str | None,
    bookmark: str | None,
    cut: str | None,
    tz: str | None,
    as_json: bool,
) -> None:
    """Show which keys break an invariant, since when, and after which event.

    Exits with 1 if any does, or if a handler failed any key.
    """
    lab = open_lab(folder, tz)
    until = the_moment(lab, at, bookmark, cut)
    found = lab.check(*load_invariants(named, "--invariant"), at=until, progress=sys.stderr.isatty())
    if as_json:
        ctx.obj.json([_told(one) for one in found.values()])
    else:
        _list(ctx.obj, found)
        ctx.obj.again(found.again)
    ctx.exit(0 if found.ok else 1)


def _list(out: Out, found: Check) -> None:
    for one in found.values():
        out.line(one.summary())
        if len(one):
            table = one.arrow()
            out.table(table.column_names, (list(row.values()) for row in table.to_pylist()))


def _told(one: Violations) -> dict[str, Any]:
    told = {"invariant": one.name, "aggregate": one.aggregate, "keys": one.keys, "mended": one.mended, "partial": sorted(one.partial)}
    failed = [{"key": each.key, "event_id": each.event_id, "at": str(each.at), "error": each.error} for each in one.failed]
    violations = [{**row, "state": embedded(row["state"])} for row in one.arrow().to_pylist()]
    return {**told, "failed": failed, "violations": violations, "over_time": one.moves().to_pylist()}
