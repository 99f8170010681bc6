"""Commands that make a lab, tell what it holds, and take it elsewhere."""
# ruff: noqa: PLC0415  pandas, Arrow and DuckDB take most of a second: commands import them when they run, so that --help need not wait

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import click

from eslab.cli.command import Command, json_option, lab_argument, open_lab
from eslab.cli.output import Out, rows_of

if TYPE_CHECKING:
    from eslab.lab import Lab

__all__ = ["demo", "export", "info", "snapshot", "verify", "watch"]


def _bound(_: click.Context, __: click.Parameter, told: tuple[str, ...]) -> Any:
    """An offset, a time, or offsets by partition: what `Lab.snapshot` takes."""
    matches = [match for one in told if (match := re.fullmatch(r"(.+):(\d+)=(\d+)", one))]
    if len(matches) == len(told):
        return {(topic, int(partition)): int(offset) for topic, partition, offset in (match.groups() for match in matches)} or None
    if len(told) > 1:
        raise click.BadParameter("give one time, one offset, or topic:partition=offset as often as there are partitions")
    return int(told[0]) if told[0].isdecimal() else told[0]


config_option = click.option(
    "--config", metavar="FILE", type=click.Path(), help="How to log in to Kafka: a client.properties file, as other clients have it."
)


@click.command(cls=Command)
@click.argument("folder", metavar="DIR")
@click.option("--events", type=click.IntRange(min=1), default=20_000, show_default=True, help="How many events.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same records.")
@click.option("--kafka", metavar="HOST:PORT", help="Play it on this cluster instead of the embedded broker.")
@click.pass_obj
def demo(out: Out, folder: str, events: int, seed: int, kafka: str | None) -> None:
    """Make the order shop: a lab to try everything on."""
    from eslab.demo import demo as make

    _show_info(out, make(folder, events=events, seed=seed, kafka=kafka, progress=sys.stderr.isatty()))


@click.command(cls=Command)
@lab_argument
@click.argument("url")
@click.argument("topics", nargs=-1, metavar="[TOPIC]...")
@click.option(
    "--start", multiple=True, callback=_bound, help="From here on, inclusive: a time, an offset, or TOPIC:PARTITION=OFFSET (repeated)."
)
@click.option("--stop", multiple=True, callback=_bound, help="Up to here, exclusive; written like --start.")
@click.option("--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@config_option
@click.option("--uncommitted", is_flag=True, help="Capture what open and aborted transactions wrote, too.")
@click.pass_obj
def snapshot(
    out: Out,
    *,
    folder: str,
    url: str,
    topics: tuple[str, ...],
    start: Any,
    stop: Any,
    follow: bool,
    config: str | None,
    uncommitted: bool,
    tz: str | None,
) -> None:
    """Capture what is in a source and not yet in the lab.

    URL is kafka://host:port, a file, a folder or a glob; without a TOPIC, all topics. Makes the lab; run it again to go on from there.
    """
    lab = open_lab(folder, tz, make=True)
    out.stopped = "stopped; all that was committed is kept, and the same command goes on from there"
    settings: dict[str, Any] = {**({"config": config} if config else {}), **({"isolation": "read_uncommitted"} if uncommitted else {})}
    made = lab.snapshot(url, list(topics) or None, start=start, stop=stop, follow=follow, progress=sys.stderr.isatty(), **settings)
    out.line(repr(made).strip("<>"))


@click.command(cls=Command)
@lab_argument
@click.argument("url")
@click.option("--every", metavar="TIME", default="5s", show_default=True, help="How often to ask: 500ms, 5s, 1m.")
@click.option("--group", "groups", metavar="GROUP", multiple=True, help="Only this group (repeated). Default: all.")
@click.option("--for", "stop", metavar="TIME", help="For how long: 30s, 10m, 2h. Default: until Ctrl-C.")
@config_option
@json_option
@click.pass_obj
def watch(
    out: Out,
    *,
    folder: str,
    url: str,
    every: str,
    groups: tuple[str, ...],
    stop: str | None,
    config: str | None,
    tz: str | None,
    as_json: bool,
) -> None:
    """Keep where consumer groups stand, as long as it runs.

    Asks the cluster at URL (kafka://host:port) and writes what it tells into the lab, a file a minute. Makes the lab; a snapshot may run at the same time.
    """
    lab = open_lab(folder, tz, make=True)
    out.stopped = "stopped; all that was told until now is kept"
    settings = {"config": config} if config else {}
    made = lab.watch(url, every=every, groups=list(groups) or None, stop=stop, progress=sys.stderr.isatty(), **settings)
    if as_json:
        out.json({"url": made.url, "polls": made.polls, "missed": made.missed, "samples": made.samples, "groups": made.groups})
    else:
        out.line(repr(made).strip("<>"))


@click.command(cls=Command)
@lab_argument
@json_option
@click.pass_obj
def info(out: Out, folder: str, tz: str | None, *, as_json: bool) -> None:
    """Show what the lab holds."""
    _show_info(out, open_lab(folder, tz), as_json=as_json)


def _show_info(out: Out, lab: Lab, *, as_json: bool = False) -> None:
    held = lab.info()
    aggregates = list(held.manifest.aggregates)
    if as_json:
        out.json(
            {
                "path": str(held.path),
                "bytes": held.bytes,
                "gaps": held.gaps,
                "aggregates": aggregates,
                "notices": held.notices,
                "topics": rows_of(held.df()),
            }
        )
        return
    out.line(repr(held).splitlines()[0].strip("<>"))
    frame = held.df()
    if len(frame):
        out.table(list(frame.columns), frame.itertuples(index=False))
        out.line(f"aggregates: {', '.join(aggregates) or 'none (name one in lab.toml)'}")
    for notice in held.notices:
        out.line(f"suspect clock: {notice}")


@click.command(cls=Command)
@lab_argument
@json_option
@click.pass_context
def verify(ctx: click.Context, folder: str, tz: str | None, *, as_json: bool) -> None:
    """Read the whole log: is it what was captured?"""
    found = open_lab(folder, tz).verify(progress=sys.stderr.isatty())
    if as_json:
        counts = {"segments": found.segments, "records": found.records, "samples": found.samples, "derived": found.derived}
        ctx.obj.json({**counts, "problems": found.problems, "histories": rows_of(found.histories), "notes": found.notes})
    else:
        for line in repr(found).splitlines():
            ctx.obj.line(line.strip("<>"))
    ctx.exit(0 if found.ok else 1)


@click.command(cls=Command)
@lab_argument
@click.option("--duckdb", "file", metavar="FILE", required=True, help="The file to write; an older one is replaced.")
@click.pass_obj
def export(out: Out, folder: str, file: str, tz: str | None) -> None:
    """Write everything into one DuckDB file.

    Each relation of `eslab sql` is a table in it, and it needs nothing else.
    """
    out.line(f"wrote {open_lab(folder, tz).export(file)}")
