"""Tables of values as HTML that reads without CSS, every value escaped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any, Final

from eslab.markup import LEFT, Html, escape, grid, visible
from eslab.model import MISSING, dumps
from eslab.wording import many

__all__ = ["LEFT", "Html", "duration", "escape", "html", "paragraphs", "shell", "show", "size", "visible"]

MOST: Final = 200  # rows: what is longer is for .df() or .arrow()
LONGEST: Final = 200  # characters of one value; the whole of it is one look-up away


def html(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = "", empty: str = "nothing", rare: Collection[str] = ()
) -> str:
    """A table of the first 200 rows; `empty` stands for one without any. Columns of numbers stand to the right, all others to the left.

    A column that is one of `rare` is left out if nothing stands in it.
    """
    given = iter(rows)
    values = [list(row) for row in islice(given, MOST)]
    if not values:
        return f"<p>{escape(caption)}{': ' if caption else ''}{escape(empty)}</p>"
    kept = [at for at, name in enumerate(columns) if name not in rare or any(row[at] != "" for row in values)]
    columns, values = [columns[at] for at in kept], [[row[at] for at in kept] for row in values]
    left = [not all(map(_numeric, column)) for column in zip(*values, strict=True)]
    more = sum(1 for _ in given)
    return grid(columns, [[_cell(value) for value in row] for row in values], left=left, caption=caption) + (
        f"<p>and {many(more, 'row')} more</p>" if more else ""
    )


def _numeric(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float, Decimal)) and not isinstance(value, bool))


def _cell(value: Any) -> Html:
    return value if isinstance(value, Html) else escape(show(value))


def show(value: Any, longest: int = LONGEST) -> str:
    """A value as a person reads it in a cell: text as it is, everything else as JSON, long ones cut."""
    if value is MISSING:
        return "—"
    if isinstance(value, str):
        text = value
    else:
        try:
            text = dumps(value).decode()
        except (TypeError, ValueError, RecursionError):
            text = repr(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def paragraphs(lines: Iterable[str]) -> str:
    """Each line as a paragraph of its own."""
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def shell(line: str) -> str:
    """The line of shell that shows the same again; nothing where none does."""
    return f"<p><code>{escape(line)}</code></p>" if line else ""


def duration(seconds: float | None) -> str:
    """So many seconds, for people."""
    if seconds is None:
        return "—"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """So many bytes, for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
