"""Commands that a debugger would have: every change of a history, why a value is what it is, run to where something comes to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import click

from eslab.cli.asking import caused, moment_of, note_partial, open_history, open_known, show_causes, sided, told_event
from eslab.cli.command import Command, cut_options, fold_options, moment_options, one_aggregate, options
from eslab.cli.loading import load_function
from eslab.cli.output import Out, cell, note

if TYPE_CHECKING:
    from eslab.lab import Lab
    from eslab.steps import Step

__all__ = ["changes", "explain", "run_back_until", "run_until"]

_stops = options(
    click.option("--type", "event_type", metavar="TYPE", help="Stop at an event of this type."),
    click.option("--when", metavar="FILE.PY:NAME", help="... where this function of the state says yes. Runs the file."),
    click.option("--changed", metavar="PATH", help="... where this value, or one within it, changed."),
    click.option("--failed", is_flag=True, help="... where a handler raised."),
)


@click.command(cls=Command)
@one_aggregate
@moment_options
@fold_options
@click.pass_obj
def changes(out: Out, /, *, as_json: bool, **asked: Any) -> None:
    """Show every value that every step of one aggregate changed, oldest first."""
    _, found = open_history(**asked)
    causes = found.changes()
    if as_json:
        note_partial(found.partial)
        out.json(caused(causes))
        return
    show_causes(out, causes)
    out.again(causes.again)


@click.command(cls=Command)
@one_aggregate
@click.argument("path")
@click.option("--at", metavar="MOMENT", help="As it was at a time (inclusive) or a version like v3. Default: all that is captured.")
@cut_options
@fold_options
@click.pass_obj
def explain(out: Out, /, *, path: str, at: str | None, as_json: bool, **asked: Any) -> None:
    """Tell in two sentences why a value is what it is: since when, by which event, and what it was before.

    PATH is one like status or items[0].price.
    """
    lab, found, version = open_known(at, **asked)
    told = found.explain(path, at=version)
    if as_json:
        note_partial(found.partial)
        events = [{"version": one.version, "handler": one.handler, **told_event(lab, one.event)} for one in told.causes]
        out.json({"path": path, "sentences": list(told.sentences), "causes": events})
        return
    for sentence in told.sentences:
        out.line(sentence)
    out.again(told.again)


@click.command(cls=Command, name="run-until")
@one_aggregate
@_stops
@click.option("--after", metavar="MOMENT", help="Begin behind a time or a version like v3. Default: the beginning.")
@cut_options
@fold_options
@click.pass_context
def run_until(ctx: click.Context, /, *, after: str | None, **asked: Any) -> None:
    """Show the first step of one aggregate at which something comes to be: any of what is asked for.

    Exits with 1 if none does.
    """
    _run(ctx, "run-until", asked, after=after)


@click.command(cls=Command, name="run-back-until")
@one_aggregate
@_stops
@click.option("--before", metavar="MOMENT", help="Only steps before the one at a time or a version like v3. Default: all.")
@cut_options
@fold_options
@click.pass_context
def run_back_until(ctx: click.Context, /, *, before: str | None, **asked: Any) -> None:
    """Show the last step of one aggregate at which something came to be: any of what is asked for.

    Exits with 1 if none did.
    """
    _run(ctx, "run-back-until", asked, before=before)


def _run(ctx: click.Context, command: str, told: dict[str, Any], **bound: str | None) -> NoReturn:
    as_json, event_type, when, changed, failed = (told.pop(name) for name in ("as_json", "event_type", "when", "changed", "failed"))
    if event_type is None and when is None and changed is None and not failed:
        raise click.UsageError("run until what? give --type, --when, --changed or --failed")
    lab, found = open_history(**told)
    moments = {name: moment_of(lab, value) for name, value in bound.items() if value is not None}
    holds: Callable[..., Any] | None = None if when is None else load_function(when, "--when")
    run: Callable[..., Step | None] = found.run_until if command == "run-until" else found.run_back_until
    step = run(event_type=event_type, when=holds, changed=changed, failed=failed, **moments)
    if as_json:
        note_partial(found.partial)
        ctx.obj.json(None if step is None else _document(lab, step))
    elif step is not None:
        _show(ctx.obj, lab, step)
        words = {name: f"v{moment}" if isinstance(moment, int) else moment.isoformat() for name, moment in moments.items()}
        options = {"type": event_type, "when": when, "changed": changed, "failed": "" if failed else None}
        ctx.obj.again(found.shell.line(command, **options, **words))
    if step is None:
        where = "".join(f" {name} {moment}" for name, moment in bound.items() if moment is not None)
        note(f"{found.aggregate} {found.aggregate_id} has no such step{where}; it has {len(found):,} steps")
    ctx.exit(0 if step is not None else 1)


def _document(lab: Lab, step: Step) -> dict[str, Any]:
    told = {"version": step.version, **told_event(lab, step.event), "marks": ", ".join(step.marks), "problem": step.problem}
    return {**told, "changes": sided(step.changes), "state": step.after}


def _show(out: Out, lab: Lab, step: Step) -> None:
    seen = told_event(lab, step.event)
    marks = f" [{', '.join(step.marks)}]" if step.marks else ""
    kind = seen["event_type"] or "(undecodable)"
    out.line(
        f"version {step.version}: {kind} {seen['event_id'] or seen['at']}, recorded {cell(seen['recorded_at'])}, at {seen['at']}{marks}"
    )
    if step.problem:
        out.line(step.problem)
    for change in step.changes:
        out.line(f"  {change}")
    out.table(["field", "value"], step.after.items() if isinstance(step.after, dict) else [["", step.after]])
