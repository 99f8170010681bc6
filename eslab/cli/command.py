"""What all commands share: one line for whatever goes wrong, exit codes, options, and how a lab is opened."""
# ruff: noqa: PLC0415  pandas, Arrow and DuckDB take most of a second: commands import them when they run, so that --help need not wait

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import click

from eslab import __version__
from eslab.cli.output import Out, note
from eslab.errors import EslabError, LabNotFound, NaiveTime

if TYPE_CHECKING:
    from eslab.lab import Lab

__all__ = [
    "clock_option",
    "cut_options",
    "fold_options",
    "json_option",
    "lab_argument",
    "main",
    "moment_options",
    "one_aggregate",
    "one_moment",
    "open_lab",
    "options",
    "tz_option",
    "until_option",
]


class Command(click.Command):
    """A command that ends in one line on stderr, whatever goes wrong, and whose stdout holds its answer alone."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any("\udc80" <= one <= "\udcff" for one in "".join(args)):
            raise click.UsageError("an argument is not UTF-8", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        ctx.obj = Out(sys.stdout)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                super().invoke(ctx)
        except KeyboardInterrupt:
            _stop(ctx)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise  # click's own; it ends quietly when nobody reads on
        except Exception as exc:  # noqa: BLE001  nobody's incident gets better by a page of Python
            if str(exc) == "Query interrupted":  # what Ctrl-C is while DuckDB works
                _stop(ctx)
            note(_sentence(exc))
            ctx.exit(1)


def _stop(ctx: click.Context) -> NoReturn:
    note(ctx.obj.stopped)
    ctx.exit(130)


def _sentence(exc: Exception) -> str:
    """What went wrong, and for a defect of ours, where to take it."""
    if isinstance(exc, NaiveTime):
        return f"{exc} (here: --tz Europe/Berlin, or ESLAB_TZ)"
    if isinstance(exc, EslabError):
        return str(exc)
    if isinstance(exc, OSError):
        return ": ".join(str(part) for part in (exc.filename2 or exc.filename, exc.strerror or exc) if part)
    if "duckdb" in sys.modules and isinstance(exc, sys.modules["duckdb"].OperationalError):  # a disk or memory, as DuckDB found it
        return str(exc)
    if os.environ.get("ESLAB_TRACEBACK"):
        traceback.print_exception(exc)
    return f"{type(exc).__name__}: {exc}; this is a defect of eslab, please report it with what ESLAB_TRACEBACK=1 shows"


class Group(click.Group):
    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # the order in which they were added: from making a lab to taking it elsewhere


_F = Callable[..., None]


def options(*options: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """Several options as one decorator, in the order of the help."""

    def decorate(command: _F) -> _F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


tz_option = click.option(
    "--tz", envvar="ESLAB_TZ", metavar="ZONE", help="Read and show times in this zone, like Europe/Berlin. Default: $ESLAB_TZ, else none."
)
lab_argument = options(click.argument("folder", metavar="LAB"), tz_option)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; see eslab --help.")
until_option = click.option("--at", metavar="TIME", help="Until this moment, inclusive. Default: all that is captured.")
cut_options = options(
    click.option("--bookmark", metavar="NAME", help="Until this bookmark."),
    click.option("--cut", metavar="JSON", help="Until a cut, as --json prints it."),
)
moment_options = options(until_option, cut_options)
clock_option = click.option(
    "--clock", type=click.Choice(["recorded", "happened"]), default="recorded", help="Whose time: the log's (default), or the payload's."
)
one_aggregate = options(
    click.argument("folder", metavar="LAB"),
    click.argument("aggregate"),
    click.argument("aggregate_id", metavar="ID"),
)
fold_options = options(
    click.option(
        "--projection", metavar="FILE.PY:NAME", help="Fold with this projection instead of merging the fields of data. Runs the file."
    ),
    clock_option,
    tz_option,
    json_option,
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="eslab %(version)s")
def main() -> None:
    """Capture Kafka topics in a folder, and see what anything looked like at any moment.

    Every command takes the lab's folder first; `eslab COMMAND --help` tells its options.

    \b
    JSON: one line, one document. Integers and decimals are numbers with all their digits,
    NaN and infinity are null; times are ISO 8601 with their zone (a TIMESTAMP of SQL has none);
    binary is its text where it is UTF-8, else {"$base64": "..."}; a column of type JSON stands
    as it is; a side of a change that is not there has no field.

    \b
    Exit codes: 0 fine; 1 a clear no: an error, nothing found, verify found something, compare
    found a difference, check a violation; 2 wrong usage; 130 stopped by Ctrl-C.
    """


def one_moment(at: str | None, bookmark: str | None, cut: str | None, clock: str) -> None:
    """Refuse options that name more moments than one."""
    if (bookmark is not None and cut is not None) or (at is not None and clock == "recorded" and (bookmark or cut) is not None):
        raise click.UsageError("name one moment: --at, --bookmark or --cut; --at with one of the others by --clock happened")


def open_lab(folder: str, tz: str | None, *, make: bool = False) -> Lab:
    from eslab.lab import Lab, is_lab

    lab = Lab(folder, tz=tz, say=note)
    if not make and not is_lab(lab.path):
        raise LabNotFound(
            f"no lab stands in {folder}; make one with `eslab snapshot {folder} kafka://host:port TOPIC`, or `eslab demo {folder}`"
        )
    return lab
