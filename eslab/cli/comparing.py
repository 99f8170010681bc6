"""The command that compares two projections."""
# ruff: noqa: PLC0415  pandas, Arrow and DuckDB take most of a second: commands import them when they run, so that --help need not wait

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from eslab.cli.asking import told_moment
from eslab.cli.command import Command, clock_option, json_option, lab_argument, moment_options, one_moment, open_lab
from eslab.cli.loading import load_projection
from eslab.cli.output import rows_of

if TYPE_CHECKING:
    from eslab.compare import Comparison

__all__ = ["compare"]


@click.command(cls=Command)
@lab_argument
@click.argument("aggregate")
@click.option("--left", metavar="FILE.PY:NAME", help="The one projection. Default: the one that merges the fields of data. Runs the file.")
@click.option("--right", metavar="FILE.PY:NAME", help="The other one; the same default.")
@moment_options
@click.option("--key", "keys", multiple=True, metavar="ID", help="Only this aggregate; repeat it for more.")
@click.option("--ended", is_flag=True, help="Compare those that a tombstone ended, too.")
@clock_option
@json_option
@click.pass_context
def compare(
    ctx: click.Context,
    *,
    folder: str,
    aggregate: str,
    left: str | None,
    right: str | None,
    at: str | None,
    bookmark: str | None,
    cut: str | None,
    keys: tuple[str, ...],
    ended: bool,
    clock: str,
    tz: str | None,
    as_json: bool,
) -> None:
    """Compare two projections over every AGGREGATE.

    Tells which come out differently, and the first event after which each does. Exits with 0 if all come out equal, and with 1 if any differs or fails.
    """
    from eslab.errors import ProjectionError

    if left is None and right is None:
        raise click.UsageError("give --left or --right, or both: one default projection is equal to the other")
    lab = open_lab(folder, tz)
    sides = [load_projection(told, option) or aggregate for told, option in ((left, "--left"), (right, "--right"))]
    for side in sides:
        if not isinstance(side, str) and side.aggregate != aggregate:
            raise ProjectionError(f"projection {side.name!r} folds {side.aggregate!r}, not {aggregate!r}")
    one_moment(at, bookmark, cut, clock)
    found = lab.compare(
        *sides, **told_moment(lab, at, bookmark, cut), keys=list(keys) or None, ended=ended, clock=clock, progress=sys.stderr.isatty()
    )
    if as_json:
        counts = {**found.counts, "healed": len(found.healed), "ended": found.ended}
        ctx.obj.json(
            {"counts": counts, "partial": sorted(found.partial), "keys": [_plain(row) for row in rows_of(found.df().reset_index())]}
        )
    else:
        ctx.obj.line(repr(found).strip("<>"))
        if len(found):
            ctx.obj.table([aggregate, "group", "paths", "version", "event", "id", "recorded"], _rows(found, lab.tz or dt.UTC))
        ctx.obj.again(found.again)
    ctx.exit(1 if len(found) else 0)


def _plain(row: Mapping[Any, Any]) -> dict[Any, Any]:
    """A row whose version is null where the two never differed."""
    return {**row, "version": int(row["version"]) if isinstance(row["at"], str) else None}


def _rows(found: Comparison, zone: dt.tzinfo) -> Iterator[list[Any]]:
    from eslab.model import format_path

    for one in found.values():
        failed = [failure.error for failure in one.failures if failure]
        paths = ", ".join(format_path(change.path) or "(all)" for change in one.paths)
        parted = one.divergence
        first = (
            [parted.version, parted.event_type or "(undecodable)", parted.event_id or str(parted.coordinates)] if parted else ["", "", ""]
        )
        recorded = parted.recorded_at.astimezone(zone) if parted and parted.recorded_at else ""
        yield [one.key, one.group.replace("_", " "), "; ".join([*failed, paths] if paths else failed), *first, recorded]
