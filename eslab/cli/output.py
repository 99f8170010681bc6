"""What a command prints: tables, lines and JSON on stdout, notices on stderr. No character of a payload steers the terminal."""
# ruff: noqa: PLC0415  pandas, Arrow and DuckDB take most of a second: commands import them when they run, so that --help need not wait

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = ["Out", "cell", "note", "plain", "printable", "rows_of", "to_json"]

ROWS: Final = 1000  # of a table: more are for a program, and rich must hold them all to size the columns
WIDE: Final = 1_000_000  # columns where no terminal says how many it has: nothing is folded there, so that grep and awk find whole ids
SHORT: Final = 29  # characters: a cell up to a time with milliseconds and zone is never folded, a longer one gets at least so many
GAP: Final = 2  # characters between two columns
BATCH: Final = 5000  # rows of a query turned into JSON at once


class Out:
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

        self._draw(Text(printable(text), style), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """The first thousand rows, and a notice if there are more; row under row where the terminal is too narrow for the columns."""
        from rich.cells import cell_len
        from rich.text import Text

        values = list(islice(rows, ROWS + 1))
        names = [Text(printable(name), "bold") for name in columns]
        cells = [[Text(printable(cell(value))) for value in row] for row in values[:ROWS]]
        widths = [max(cell_len(cell.plain) for cell in column) for column in zip(names, *cells, strict=True)]
        fits = sum(min(width, SHORT) + GAP for width in widths) <= self._console.width
        self._draw(_across(names, cells, widths) if fits else _down(names, cells))
        if len(values) > ROWS:
            note(f"these are the first {ROWS:,} rows; --json gives them all")

    def json(self, value: Any) -> None:
        self._write(to_json(value) + b"\n")

    def json_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """One list, written as its rows come."""
        left = iter(rows)
        glue = b"["
        while batch := list(islice(left, BATCH)):
            self._write(glue + to_json(batch)[1:-1])
            glue = b","
        self._write(b"[]\n" if glue == b"[" else b"]\n")

    def again(self, line: str) -> None:
        """The command that shows the same again, for the ticket."""
        self.line(line, style="dim")

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


def note(text: str) -> None:
    click.echo(f"eslab: {printable(' '.join(text.splitlines()))}", err=True)


def printable(text: str) -> str:
    r"""The text with every character that could steer a terminal written as in `\x1b`."""
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def cell(value: Any) -> str:
    told = plain(value)
    return told if isinstance(told, str) else to_json(told).decode()


def to_json(value: Any) -> bytes:
    from eslab.model import dumps

    return dumps(plain(value))


def plain(value: Any) -> Any:
    """What JSON can hold, as the help of `eslab` says."""
    if isinstance(value, dict):
        return {name if isinstance(name, str) else cell(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
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


def rows_of(frame: pd.DataFrame) -> Sequence[Mapping[Any, Any]]:
    return frame.to_dict("records")


def embedded(text: str) -> Any:
    """JSON that goes into JSON with all its digits. Its only line breaks stand between tokens."""
    import msgspec

    return msgspec.Raw(text.replace("\n", " ").replace("\r", " ").encode())
