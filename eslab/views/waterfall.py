"""How a trace looks: a tree of lines, and a table with a waterfall of text that reads without CSS."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from eslab.views import tables

__all__ = ["Row", "after", "branches", "cells", "html", "lines"]

DEEP: Final = 12  # levels that are drawn; of deeper ones the number is told
WIDE: Final = 32  # characters of a bar


@dataclass(frozen=True, slots=True)
class Row:
    """An event as a trace draws it: its place in the tree, its time (None: unknown) and how long after its cause it came."""

    depth: int
    parent: int | None
    name: str
    type: str
    at: str
    topic: str
    moment: dt.datetime | None
    time: str
    after_s: float | None
    open: bool
    marks: str


def cells(rows: Sequence[Row]) -> Iterator[list[str]]:
    """A row of a table for each event: its type in the tree, id, where it stands, time, time since its cause, marks."""
    for row, branch in zip(rows, branches(rows), strict=True):
        yield [branch + tables.show(row.type or row.name), row.name if row.type else "", row.at, row.time, after(row), row.marks]


def lines(rows: Sequence[Row], *, longest: int) -> Iterator[str]:
    """The tree as text, a line for each event, of whose parts none is longer than so many characters."""
    for row, branch, (_, *told, marks) in zip(rows, branches(rows), cells(rows), strict=True):
        parts = [branch + tables.show(row.type or row.name, longest), *(tables.show(one, longest) for one in told if one)]
        yield "  ".join(parts) + (f"  [{tables.show(marks)}]" if marks else "")


def html(rows: Sequence[Row], *, caption: str, notes: Sequence[str]) -> str:
    """The tree as a table, with a bar for each event, from its cause to it."""
    drawn = [
        [
            tables.escape(event.replace(" ", "\N{NO-BREAK SPACE}")),  # or a browser would take the tree's levels for one space
            *told,
            tables.Html(f"<code>{bar}</code>") if bar else "",
            marks,
        ]
        for (event, *told, marks), bar in zip(cells(rows), _bars(rows), strict=True)
    ]
    names = ["event", "id", "at", "time", "after its cause", "from its cause to it", "marks"]
    return tables.html(names, drawn, caption=caption, empty="nothing", rare={"marks"}) + tables.paragraphs(notes)


def after(row: Row) -> str:
    """The time since its cause, with its sign."""
    if row.after_s is None:
        return ""
    return f"{'-' if row.after_s < 0 else '+'}{tables.duration(abs(row.after_s))}"


def branches(rows: Sequence[Row]) -> list[str]:
    """What stands before each row, so that a column of them is a tree."""
    last = {row.parent: at for at, row in enumerate(rows)}  # of each cause, its last effect
    through: list[bool] = []  # for each level, whether another effect of the same cause follows
    out = []
    for at, row in enumerate(rows):
        more = last[row.parent] > at
        del through[row.depth :]
        if row.depth > DEEP:
            out.append(f"({row.depth}) └ ")
        else:
            out.append("".join("│ " if one else "  " for one in through[1:]) + ("├ " if more else "└ ") * bool(row.depth))
        through.append(more)
    return out


def _bars(rows: Sequence[Row]) -> list[str]:
    """A line of dots, and on it a dash from an event's cause to the event, which is a square; the other way round where the clock says so."""
    moments = [row.moment for row in rows if row.moment is not None]
    if not moments:
        return [""] * len(rows)
    first, span = min(moments), (max(moments) - min(moments)) or dt.timedelta(seconds=1)

    def place(moment: dt.datetime) -> int:
        return round((moment - first) / span * (WIDE - 1))

    out = []
    for row in rows:
        if row.moment is None:
            out.append("")
            continue
        cause = None if row.parent is None else rows[row.parent].moment
        here = place(row.moment)
        begin = here if cause is None else place(cause)
        bar = ["·"] * WIDE
        bar[min(begin, here) : max(begin, here)] = "─" * abs(here - begin)
        bar[here] = "■"
        out.append("".join(bar))
    return out
