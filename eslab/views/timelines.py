"""How the two timelines of a what-if look: side by side in one table that reads without CSS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from eslab.views import tables
from eslab.wording import many

__all__ = ["Row", "Side", "View", "chosen", "html"]

ROWS: Final = 40  # of a table: more are for .df()
FEW: Final = 4  # changes of a step, or paths, in a cell
AROUND: Final = 2  # rows shown on either side of one that something was done to, or where the sides part


@dataclass(frozen=True, slots=True)
class Side:
    """One step of a timeline: its version, what it changed, and what there is to say of it."""

    version: int
    changes: Sequence[str]
    marks: Sequence[str]


@dataclass(frozen=True, slots=True)
class Row:
    """A record in two timelines; `differs` are the paths in which they differ after it."""

    at: int
    done: str
    event: str
    recorded: str
    sides: tuple[Side | None, Side | None]
    differs: Sequence[str]


@dataclass(frozen=True, slots=True)
class View:
    """What is drawn: what was done, what came of it, some of the rows (of so many), and what differs at the end."""

    names: tuple[str, str]
    done: Sequence[str]
    sentences: Sequence[str]
    rows: Sequence[Row]
    total: int
    changes: Sequence[tuple[str, Any, Any]]


def chosen(total: int, touched: Sequence[int], parted: int | None) -> list[int]:
    """Which rows to show: all of a few; of many those round what was done and where the sides part, and the last."""
    if total <= ROWS:
        return list(range(total))
    around = [
        near
        for row in ([] if parted is None else [parted]) + list(touched)
        for near in range(row - AROUND, row + AROUND + 1)
        if 0 <= near < total
    ]
    return sorted({*islice(dict.fromkeys(around), ROWS - 1), total - 1})


def html(view: View) -> str:
    """What was done, what came of it, both timelines row by row, and the end."""
    done = f"<p>{tables.escape('; '.join(view.done))}</p>" if view.done else ""
    columns = ["", "event", "recorded", *view.names, "after it"]
    rows = [_cells(row) for row in view.rows]
    left = view.total - len(view.rows)
    more = f"<p>{many(left, 'row')} more, in which nothing was done: <code>.df()</code> has them all</p>" if left else ""
    ends = tables.html(["path", *view.names], view.changes, caption="what differs at the end") if view.changes else ""
    return done + tables.paragraphs(view.sentences) + tables.html(columns, rows, empty="no steps") + more + ends


def _cells(row: Row) -> list[Any]:
    done = tables.Html(f"<strong>{tables.escape(row.done)}</strong>") if row.done else ""
    differs = tables.Html(f"<mark>differs: {tables.escape(_some(row.differs, ', '))}</mark>") if row.differs else "the same"
    return [done, row.event, row.recorded, *map(_side, row.sides), differs]


def _side(side: Side | None) -> str:
    if side is None:
        return "—"
    marks = f" [{', '.join(side.marks)}]" if side.marks else ""
    return f"{side.version}: {_some(side.changes, '; ') or 'no change'}{marks}"


def _some(texts: Sequence[str], glue: str) -> str:
    """The first few, and how many more there are."""
    more = len(texts) - FEW
    return glue.join([*texts[:FEW], *([f"{more:,} more"] if more > 0 else [])])
