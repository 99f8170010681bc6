"""The shell: every command delegates to `eslab.Lab`, and none holds logic of its own.

The answer goes to stdout, as a table or as one JSON document; notices, progress and what a projection prints go to stderr.
Exit codes: 0 fine, 1 a clear no, 2 usage, 130 Ctrl-C.
"""
# ruff: noqa: PLC0415  pandas, Arrow and DuckDB take most of a second: commands import them when they run, so that --help need not wait

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TextIO

import click

from eslab import __version__
from eslab.errors import EslabError, LabNotFound, NaiveTime, ProjectionError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from eslab.history import History, Step
    from eslab.lab import Lab
    from eslab.model import Event
    from eslab.projection import Projection

__all__ = ["main"]

ROWS: Final = 1000  # of a table: more are for a program, and rich must hold them all to size the columns
WIDE: Final = 1_000_000  # columns where no terminal says how many it has: nothing is folded there, so that grep and awk find whole ids
SHORT: Final = 29  # characters: a cell up to a time with milliseconds and zone is never folded, a longer one gets at least so many
GAP: Final = 2  # characters between two columns
BATCH: Final = 5000  # rows of a query turned into JSON at once


# --- what goes out ----------------------------------------------------------------------------------------


class _Out:
    """Where a command's answer goes: the stdout that it was started with. `stopped` is what to say after Ctrl-C."""

    def __init__(self, file: TextIO) -> None:
        self._file, self.stopped = file, "stopped"
        if hasattr(file, "reconfigure"):
            file.reconfigure(errors="backslashreplace")  # a terminal that cannot show an arrow shows its number

    @cached_property
    def _console(self) -> Console:
        from rich.console import Console

        return Console(file=self._file, width=None if self._file.isatty() else WIDE, highlight=False)

    def line(self, text: str, style: str = "") -> None:
        from rich.text import Text

        self._draw(Text(_printable(text), style), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """The first thousand rows, and a notice if there are more; row under row where the terminal is too narrow for the columns."""
        from rich.cells import cell_len
        from rich.text import Text

        values = list(islice(rows, ROWS + 1))
        names = [Text(_printable(name), "bold") for name in columns]
        cells = [[Text(_printable(_cell(value))) for value in row] for row in values[:ROWS]]
        widths = [max(cell_len(cell.plain) for cell in column) for column in zip(names, *cells, strict=True)]
        fits = sum(min(width, SHORT) + GAP for width in widths) <= self._console.width
        self._draw(_across(names, cells, widths) if fits else _down(names, cells))
        if len(values) > ROWS:
            _note(f"these are the first {ROWS:,} rows; --json gives them all")

    def json(self, value: Any) -> None:
        self._write(_json(value) + b"\n")

    def json_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """One list, written as its rows come."""
        left = iter(rows)
        glue = b"["
        while batch := list(islice(left, BATCH)):
            self._write(glue + _json(batch)[1:-1])
            glue = b","
        self._write(b"[]\n" if glue == b"[" else b"]\n")

    def again(self, command: str, *words: str, **options: str | None) -> None:
        """The command that shows the same again, for the ticket."""
        given = [part for name, value in options.items() if value is not None for part in (f"--{name}", value)]
        dashed = any(word.startswith("-") for word in words)
        parts = [command, *given, "--", *words] if dashed else [command, *words, *given]
        self.line(" ".join(["eslab", *map(_quoted, parts)]), style="dim")

    def _draw(self, what: Text | Table, *, soft_wrap: bool = False) -> None:
        with self._console.capture() as captured:
            self._console.print(what, soft_wrap=soft_wrap)
        self._write("".join(line.rstrip() + "\n" for line in captured.get().split("\n")[:-1]))

    def _write(self, text: str | bytes) -> None:
        click.echo(text, file=self._file, nl=False)


def _across(names: Sequence[Text], rows: Sequence[Sequence[Text]], widths: Sequence[int]) -> Table:
    """Only long cells are folded, so that ids and times stay whole."""
    from rich import box
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for name, width in zip(names, widths, strict=True):
        drawn.add_column(name, overflow="fold", no_wrap=width <= SHORT)
    for row in rows:
        drawn.add_row(*row)
    return drawn


def _down(names: Sequence[Text], rows: Sequence[Sequence[Text]]) -> Table:
    from rich.table import Table

    drawn = Table.grid("", "", padding=(0, GAP))
    for at, row in enumerate(rows):
        if at:
            drawn.add_row()
        for name, cell in zip(names, row, strict=True):
            drawn.add_row(name, cell)
    return drawn


def _note(text: str) -> None:
    click.echo(f"eslab: {_printable(' '.join(text.splitlines()))}", err=True)


def _printable(text: str) -> str:
    r"""The text with every character that could steer a terminal written as in `\x1b`."""
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _quoted(word: str) -> str:
    """A word for the shell; one that must not be printed as it is, in the `$'...'` of bash and zsh."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = (
        one if one.isprintable() and one not in "'\\" else f"\\u{ord(one):04x}" if ord(one) < 0x10000 else f"\\U{ord(one):08x}"
        for one in word
    )
    return f"$'{''.join(escaped)}'"


def _cell(value: Any) -> str:
    plain = _plain(value)
    return plain if isinstance(plain, str) else _json(plain).decode()


def _json(value: Any) -> bytes:
    from eslab.model import dumps

    return dumps(_plain(value))


def _plain(value: Any) -> Any:
    """What JSON can hold, as the help of `eslab` says."""
    if isinstance(value, dict):
        return {name if isinstance(name, str) else _cell(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"$base64": base64.b64encode(value).decode()}
    if isinstance(value, dt.datetime):
        fraction = value.microsecond
        told = value.isoformat(timespec="milliseconds" if fraction and not fraction % 1000 else "auto")
        return None if told == "NaT" else told
    return value


def _rows(frame: pd.DataFrame) -> Sequence[Mapping[Any, Any]]:
    return frame.to_dict("records")


# --- commands ---------------------------------------------------------------------------------------------


class _Command(click.Command):
    """A command that ends in one line on stderr, whatever goes wrong, and whose stdout holds its answer alone."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any("\udc80" <= one <= "\udcff" for one in "".join(args)):
            raise click.UsageError("an argument is not UTF-8", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        ctx.obj = _Out(sys.stdout)
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
            _note(_sentence(exc))
            ctx.exit(1)


def _stop(ctx: click.Context) -> NoReturn:
    _note(ctx.obj.stopped)
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


class _Group(click.Group):
    command_class = _Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # the order of this file: from making a lab to taking it elsewhere


_F = Callable[..., None]


def _options(*options: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """Several options as one decorator, in the order of the help."""

    def decorate(command: _F) -> _F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_tz = click.option(
    "--tz", envvar="ESLAB_TZ", metavar="ZONE", help="Read and show times in this zone, like Europe/Berlin. Default: $ESLAB_TZ, else none."
)
_lab = _options(click.argument("folder", metavar="LAB"), _tz)
_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; see eslab --help.")
_one = _options(
    click.argument("folder", metavar="LAB"),
    click.argument("aggregate"),
    click.argument("aggregate_id", metavar="ID"),
)
_folded = _options(
    click.option(
        "--projection", metavar="FILE.PY:NAME", help="Fold with this projection instead of merging the fields of data. Runs the file."
    ),
    click.option(
        "--clock",
        type=click.Choice(["recorded", "happened"]),
        default="recorded",
        help="Whose time: the log's (default), or the payload's.",
    ),
    _tz,
    _as_json,
)


def _bound(_: click.Context, __: click.Parameter, told: tuple[str, ...]) -> Any:
    """An offset, a time, or offsets by partition: what `Lab.snapshot` takes."""
    matches = [match for one in told if (match := re.fullmatch(r"(.+):(\d+)=(\d+)", one))]
    if len(matches) == len(told):
        return {(topic, int(partition)): int(offset) for topic, partition, offset in (match.groups() for match in matches)} or None
    if len(told) > 1:
        raise click.BadParameter("give one time, one offset, or topic:partition=offset as often as there are partitions")
    return int(told[0]) if told[0].isdecimal() else told[0]


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
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
    Exit codes: 0 fine; 1 a clear no: an error, nothing found, verify found something;
    2 wrong usage; 130 stopped by Ctrl-C.
    """


@main.command()
@click.argument("folder", metavar="DIR")
@click.option("--events", type=click.IntRange(min=1), default=20_000, show_default=True, help="How many events.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same records.")
@click.option("--kafka", metavar="HOST:PORT", help="Play it on this cluster instead of the embedded broker.")
@click.pass_obj
def demo(out: _Out, folder: str, events: int, seed: int, kafka: str | None) -> None:
    """Make the order shop: a lab to try everything on."""
    from eslab.demo import demo as make

    _show_info(out, make(folder, events=events, seed=seed, kafka=kafka, progress=sys.stderr.isatty()))


@main.command()
@_lab
@click.argument("url")
@click.argument("topics", nargs=-1, metavar="[TOPIC]...")
@click.option(
    "--start", multiple=True, callback=_bound, help="From here on, inclusive: a time, an offset, or TOPIC:PARTITION=OFFSET (repeated)."
)
@click.option("--stop", multiple=True, callback=_bound, help="Up to here, exclusive; written like --start.")
@click.option("--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.pass_obj
def snapshot(out: _Out, *, folder: str, url: str, topics: tuple[str, ...], start: Any, stop: Any, follow: bool, tz: str | None) -> None:
    """Capture what is in a source and not yet in the lab.

    URL is kafka://host:port, a file, a folder or a glob; without a TOPIC, all topics. Makes the lab; run it again to go on from there.
    """
    lab = _open(folder, tz, make=True)
    out.stopped = "stopped; all that was committed is kept, and the same command goes on from there"
    made = lab.snapshot(url, list(topics) or None, start=start, stop=stop, follow=follow, progress=sys.stderr.isatty())
    out.line(repr(made).strip("<>"))


@main.command()
@_lab
@_as_json
@click.pass_obj
def info(out: _Out, folder: str, tz: str | None, *, as_json: bool) -> None:
    """Show what the lab holds."""
    _show_info(out, _open(folder, tz), as_json=as_json)


def _show_info(out: _Out, lab: Lab, *, as_json: bool = False) -> None:
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
                "topics": _rows(held.df()),
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


@main.command()
@_lab
@_as_json
@click.pass_context
def verify(ctx: click.Context, folder: str, tz: str | None, *, as_json: bool) -> None:
    """Read the whole log: is it what was captured?"""
    found = _open(folder, tz).verify(progress=sys.stderr.isatty())
    if as_json:
        ctx.obj.json({"segments": found.segments, "records": found.records, "derived": found.derived, "problems": found.problems})
    else:
        for line in repr(found).splitlines():
            ctx.obj.line(line.strip("<>"))
    ctx.exit(0 if found.ok else 1)


@main.command()
@_lab
@click.argument("anything", metavar="ID")
@_as_json
@click.pass_context
def find(ctx: click.Context, folder: str, anything: str, tz: str | None, *, as_json: bool) -> None:
    """Tell what an id is known as.

    An aggregate's, an event's, a correlation, a causation, a trace, a record key.
    """
    found = _open(folder, tz).find(anything)
    frame = found.df()
    if as_json:
        ctx.obj.json(_rows(frame))
    elif len(found):
        ctx.obj.table(list(frame.columns), frame.itertuples(index=False))
        ctx.obj.again("find", folder, anything, tz=tz)
    if not len(found):
        _note(repr(found))
        ctx.exit(1)


@main.command()
@_one
@click.option("--at", metavar="TIME", help="Until this moment, inclusive. Default: all that is captured.")
@_folded
@click.pass_obj
def history(out: _Out, /, *, at: str | None, as_json: bool, **asked: Any) -> None:
    """Show what happened to one aggregate, step by step."""
    lab, found = _history(**asked, at=at)
    if as_json:
        _note_partial(found.partial)
        out.json(_rows(found.df().reset_index()))
        return
    out.line(repr(found).strip("<>"))
    columns = ["version", "event", "recorded", "id", "changes", "marks"]
    out.table(columns, (_step(lab, step) for step in found))
    _again(out, "history", asked, at=at and _word(lab.moment(at)))


@main.command()
@_one
@click.argument("moment", required=False)
@click.option("--version", type=click.IntRange(min=0), help="After so many steps; 0 is before the first.")
@click.option("--event", metavar="ID", help="After everything up to and with this event.")
@click.option("--cut", metavar="JSON", help="Up to a cut, as --json prints it.")
@_folded
@click.pass_obj
def at(out: _Out, /, *, moment: str | None, version: int | None, event: str | None, cut: str | None, as_json: bool, **asked: Any) -> None:
    """Show one aggregate as it was at a moment.

    MOMENT is a time (inclusive) or a version like v3; without one, all that is captured counts.
    """
    from eslab.model import Cut

    if sum(one is not None for one in (moment, version, event, cut)) > 1:
        raise click.UsageError("name one moment: MOMENT, --version, --event or --cut")
    lab, found = _history(**asked)
    if moment is not None:
        told = _moment(lab, moment)
        state, words = found.at(told), [_word(told)]
    else:
        state = found.at(version=version, event_id=event, cut=None if cut is None else Cut.from_json(cut))
        words = [_word(state.version)] if event is None and cut is None else []
    last = _seen(lab, state.event)
    if as_json:
        _note_partial(state.partial)
        out.json(
            {
                "aggregate": state.aggregate,
                "aggregate_id": state.aggregate_id,
                "version": state.version,
                "value": state.value,
                "event": last or None,
                "partial": state.partial,
                "note": state.note,
                "cut": _embedded(state.cut.to_json()),
            }
        )
        return
    out.line(repr(state).rpartition("\n")[0])
    if last:
        out.line(f"after {last['event_type']} {last['event_id']}, recorded {_cell(last['recorded_at'])}, at {last['at']}")
    out.table(["field", "value"], state.value.items() if isinstance(state.value, dict) else [["", state.value]])
    _again(out, "at", asked, *words, event=event, cut=cut)


@main.command()
@_one
@click.argument("before")
@click.argument("after")
@_folded
@click.pass_obj
def diff(out: _Out, /, *, before: str, after: str, as_json: bool, **asked: Any) -> None:
    """Show what changed in one aggregate between two moments.

    BEFORE and AFTER are times (inclusive) or versions like v3.
    """
    from eslab.model import MISSING, format_path

    lab, found = _history(**asked)
    sides = [_moment(lab, before), _moment(lab, after)]
    changes = found.diff(*sides)
    if as_json:
        _note_partial(found.partial)
        sided = ({"path": format_path(one.path), "before": one.before, "after": one.after} for one in changes)
        out.json([{name: value for name, value in change.items() if value is not MISSING} for change in sided])
        return
    if changes:
        shown = (
            [format_path(one.path) or "(all)", *("—" if side is MISSING else _json(side).decode() for side in (one.before, one.after))]
            for one in changes
        )
        out.table(["path", "before", "after"], shown)
    else:
        out.line("no changes")
    _again(out, "diff", asked, *map(_word, sides))


@main.command()
@_lab
@click.argument("query", required=False)
@click.option("-f", "--file", type=click.File(encoding="utf-8"), help="Read the query from a file; - is stdin.")
@_as_json
@click.pass_obj
def sql(out: _Out, folder: str, query: str | None, file: TextIO | None, tz: str | None, *, as_json: bool) -> None:
    """Ask the lab in SQL.

    The SQL is DuckDB's; there are events, history, records, gaps, problems and types."<event type>". It runs in memory and can read other files as well; it changes nothing in the lab.
    """
    if (query is None) == (file is None):
        raise click.UsageError("give one query: QUERY or -f FILE")
    lab = _open(folder, tz)
    lab.sql("set python_enable_replacements = false")  # a name that is no table must not find a variable of ours
    columns, rows = _answer(lab, file.read() if file else query or "")
    if as_json:
        out.json_rows(dict(zip(columns, row, strict=True)) for row in rows)
    elif columns:
        out.table(columns, rows)


@main.command()
@_lab
@click.option("--duckdb", "file", metavar="FILE", required=True, help="The file to write; an older one is replaced.")
@click.pass_obj
def export(out: _Out, folder: str, file: str, tz: str | None) -> None:
    """Write everything into one DuckDB file.

    Each relation of `eslab sql` is a table in it, and it needs nothing else.
    """
    out.line(f"wrote {_open(folder, tz).export(file)}")


# --- what they share --------------------------------------------------------------------------------------


def _open(folder: str, tz: str | None, *, make: bool = False) -> Lab:
    from eslab.lab import Lab, is_lab

    lab = Lab(folder, tz=tz, say=_note)
    if not make and not is_lab(lab.path):
        raise LabNotFound(
            f"no lab stands in {folder}; make one with `eslab snapshot {folder} kafka://host:port TOPIC`, or `eslab demo {folder}`"
        )
    return lab


def _moment(lab: Lab, told: str) -> int | dt.datetime:
    """A version, `v3` or `3`, or a time."""
    version = re.fullmatch(r"v?(\d+)", told)
    return int(version[1]) if version else lab.moment(told)


def _word(moment: int | dt.datetime) -> str:
    return f"v{moment}" if isinstance(moment, int) else moment.isoformat()


def _history(
    *, folder: str, aggregate: str, aggregate_id: str, projection: str | None, clock: str, tz: str | None, at: str | None = None
) -> tuple[Lab, History]:
    lab = _open(folder, tz)
    until = None if at is None else lab.moment(at)
    return lab, lab.history(aggregate, aggregate_id, projection=_projection(projection), at=until, clock=clock)


def _again(out: _Out, command: str, asked: Mapping[str, Any], *words: str, **options: str | None) -> None:
    clock = asked["clock"] if asked["clock"] != "recorded" else None
    out.again(
        command,
        asked["folder"],
        asked["aggregate"],
        asked["aggregate_id"],
        *words,
        **options,
        projection=asked["projection"],
        clock=clock,
        tz=asked["tz"],
    )


def _note_partial(partial: str) -> None:
    if partial:
        _note(f"partial: {partial}")


def _step(lab: Lab, step: Step) -> list[Any]:
    """A step as a row: version, event, recorded, id, changes, marks."""
    seen = _seen(lab, step.event)
    marks = ", ".join(step.marks) + (f": {step.problem}" if step.problem else "")
    return [
        step.version,
        seen["event_type"] or "(undecodable)",
        seen["recorded_at"],
        seen["event_id"] or seen["at"],
        "; ".join(map(str, step.changes)),
        marks,
    ]


def _seen(lab: Lab, event: Event | None) -> dict[str, Any]:
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


def _embedded(text: str) -> Any:
    """JSON that goes into JSON with all its digits. Its only line breaks stand between tokens."""
    import msgspec

    return msgspec.Raw(text.replace("\n", " ").replace("\r", " ").encode())


def _answer(lab: Lab, query: str) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """The columns of a query, each with a name of its own, and its rows as they come."""
    import duckdb

    from eslab.sql import one_line

    relation = lab.sql(query)
    if relation is None:  # a query without a statement
        return [], iter(())
    json = [at for at, type_ in enumerate(relation.types) if str(type_) == "JSON"]

    def rows() -> Iterator[Sequence[Any]]:
        try:
            for row in relation.iter_rows():
                values = list(row)
                for at in json:
                    values[at] = None if row[at] is None else _embedded(row[at])
                yield values
        except duckdb.Error as exc:
            raise one_line(exc) from exc

    names: list[str] = []
    for name in relation.columns:
        candidate, number = name, 2
        while candidate in names:
            candidate, number = f"{name}_{number}", number + 1
        names.append(candidate)
    return names, rows()


def _projection(told: str | None) -> Projection | None:
    """The projection in a Python file that the user named. Runs the file, as a script that stands in its folder."""
    from importlib.machinery import SourceFileLoader
    from importlib.util import module_from_spec, spec_from_loader

    from eslab.projection import Projection

    if told is None:
        return None
    file, _, name = told.rpartition(":")
    path = Path(file).absolute()
    if not name or not path.is_file():
        raise ProjectionError(f"--projection {told}: " + (f"there is no file {file}" if file and name else "write it as file.py:name"))
    loader = SourceFileLoader("eslab_projection", str(path))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = sys.modules[loader.name] = module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as exc:
        lines = [frame.lineno for frame in traceback.extract_tb(exc.__traceback__) if frame.filename == str(path)]
        where = f"{file}, line {lines[-1]}" if lines else file
        raise ProjectionError(f"{where}: {type(exc).__name__}: {exc}") from exc
    found = getattr(module, name, None)
    if not isinstance(found, Projection):
        others = ", ".join(other for other, value in vars(module).items() if isinstance(value, Projection))
        raise ProjectionError(f"{file} has no projection called {name}; it has {others or 'none'}")
    return found
