"""The events of a lab to leaf through: filters, pages, and of any row the history that it belongs to, at its step."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import pyarrow as pa

from eslab.again import Again, Shell
from eslab.cuts import Clock
from eslab.events import Events
from eslab.history import History
from eslab.model import Coordinates
from eslab.paging import ROWS, SEARCHED_IN, Counts, Found, Wanted, check, find_page, read_place
from eslab.views import tables
from eslab.wording import many

if TYPE_CHECKING:
    from eslab.views.explorer import Row, View

__all__ = ["Explorer", "Page", "read_wanted"]

After = Coordinates | str | tuple[str, int, int] | None
"""The record behind which a page begins, or its place as `orders/0/17`; None: at the beginning."""

LONGEST: Final = 160  # characters of data in a row
AHEAD: Final = 12  # of them before what was searched for: a column is narrow
FEW: Final = 4  # aggregates named in a row
_TIMES: Final = ("order_at", "recorded_at", "happened_at")


def read_wanted(clock: Clock, **told: Any) -> Wanted:
    """The filters, where "" is none; `start` and `stop` as the lab's clock reads times. Raises `MomentError`, `NaiveTime`."""
    given = {name: value for name, value in told.items() if value is not None and value != ""}
    return Wanted(**given | {name: clock.read(given[name]) for name in ("start", "stop") if name in given})


class Page(Again):
    """Some records that fit, in the order that was asked for. `next` is the last record looked at, behind which the next page begins; None where nothing is left."""

    def __init__(self, found: Found, wanted: Wanted, clock: Clock) -> None:
        self.wanted, self.next = wanted, found.next
        self._found, self._clock = found, clock

    def __len__(self) -> int:
        return int(self._found.rows.num_rows)

    @property
    def said(self) -> str:
        """Which of how many these are; of a search, how much was looked through and whether that was all."""
        found, first = self._found, self._found.before + 1
        if not found.total:
            return "no record fits"
        search = self.wanted.search
        if search is None:
            told = f"{first:,} to {found.before + len(self):,} of {many(found.total, 'record')}"
            return told if len(self) else f"nothing behind the last of {many(found.total, 'record')}"
        left = found.total - found.before - found.searched
        shown = f", here the first {len(self)}" if found.found > len(self) else ""
        looked = (
            f"all {found.total:,}"
            if found.searched == found.total
            else f"{first:,} to {found.before + found.searched:,} of {found.total:,}"
        )
        rest = f"; {left:,} are not looked through yet, the next page goes on there" if left else ""
        return f"{many(found.found, 'record')} with {tables.show(repr(search), 60)}{shown}; looked through {looked}{rest}"

    def arrow(self) -> pa.Table:
        """order_at, where it stands, kind (event, tombstone, undecodable), recorded_at, happened_at, all that is searched in, and the aggregates that it belongs to."""
        zoned = pa.timestamp("us", tz=str(self._clock.zone))
        rows = self._found.rows
        return rows.cast(pa.schema([one.with_type(zoned) if one.name in _TIMES else one for one in rows.schema]))

    def df(self) -> pd.DataFrame:
        """One row per record: recorded_at, at, kind, event_type, aggregates (`order ord-1, item i-7`), event_id, key, source, correlation_id, causation_id, happened_at, problem, data."""
        rows = self.arrow()
        frame: pd.DataFrame = rows.select(["recorded_at", "kind", "event_type", "event_id"]).to_pandas()
        told = rows.to_pylist()
        frame.insert(1, "at", pd.Series([str(_place(row)) for row in told], dtype="str"))
        frame.insert(
            4, "aggregates", pd.Series([", ".join(" ".join(one.values()) for one in row["aggregates"]) for row in told], dtype="str")
        )
        frame["key"] = rows["record_key"].to_pandas()
        for name in ("source", "correlation_id", "causation_id", "happened_at", "problem", "data"):
            frame[name] = rows[name].to_pandas()
        return frame

    def rows(self) -> list[Row]:
        """The rows as a view draws them."""
        return [self._row(row) for row in self._found.rows.to_pylist()]

    def _row(self, row: Mapping[str, Any]) -> Row:
        belongs = sorted(((one["aggregate"], one["aggregate_id"]) for one in row["aggregates"]), key=lambda one: self._rank(one, row))
        return {
            "recorded": self._clock.show(row["recorded_at"]),
            "at": str(_place(row)),
            "event": row["event_type"] or f"({row['kind']})",
            "kind": row["kind"],
            "named": _named(belongs),
            "belongs": [list(one) for one in belongs[:FEW]],
            "more": max(0, len(belongs) - FEW),
            "id": row["event_id"] or "",
            "told": _excerpt(row, self.wanted.search),
        }

    def _rank(self, one: tuple[str, str], row: Mapping[str, Any]) -> tuple[bool, bool, bool]:
        """First what was asked for, then what was searched for, then what the record is keyed by; the rest as it stands."""
        wanted, (aggregate, aggregate_id) = self.wanted, one
        asked = wanted.aggregate in (None, aggregate) and wanted.aggregate_id in (None, aggregate_id)
        return not asked, aggregate_id != wanted.search, aggregate_id != row["record_key"]

    def __repr__(self) -> str:
        return tables.visible(f"<Page: {self.said}>")

    def _repr_html_(self) -> str:
        cells = [[row["recorded"], row["at"], row["event"], row["named"], row["id"], row["told"]] for row in self.rows()]
        names = ["recorded", "at", "event", "belongs to", "id", "data or problem"]
        return tables.html(names, cells, caption=self.said, empty="nothing") + tables.shell(self.again)


class Explorer:
    """The records that fit, to leaf through: in a notebook with filters to change and a stepper for any row, elsewhere by `page()`.

    Sees what was captured when it was made. Raises `UnknownTopic`, and `UnknownId` for an aggregate that the lab has not.
    """

    def __init__(self, events: Events, wanted: Wanted, clock: Clock, shell: Shell, history: Callable[[str, str], History]) -> None:
        check(events, wanted)
        self.wanted = wanted
        self._events, self._clock, self._shell, self._history = events, clock, shell, history
        self._counted: tuple[Wanted, Counts] = (wanted, {})

    def page(self, after: After = None, *, limit: int = ROWS) -> Page:
        """The first records that fit, behind one of them or from the beginning. A search looks through at most about a million records a page. Raises `UnknownEvent`, `MomentError`."""
        return self._page(self.wanted, after, limit)

    def _page(self, wanted: Wanted, after: After, limit: int = ROWS) -> Page:
        place = None if after is None else read_place(after)
        options = {
            **_words(wanted, self._clock),
            "after": None if place is None else str(place) if isinstance(place, Coordinates) else "/".join(map(str, place)),
            "limit": None if limit == ROWS else str(limit),
        }
        if self._counted[0] != wanted:
            self._counted = (wanted, {})
        found = find_page(self._events, wanted, place, most=limit, counts=self._counted[1])
        return Page(found, wanted, self._clock).shown_by(self._shell.line("events", **options))

    @cached_property
    def _first(self) -> Page:
        return self.page()

    def __repr__(self) -> str:
        return tables.visible(f"<Explorer: {self._first.said}>")

    def _repr_html_(self) -> str:
        return self._first._repr_html_()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        from eslab.views import explorer  # noqa: PLC0415  # widgets are imported where one is drawn

        return explorer.mimebundle(self._view(), repr(self), self._repr_html_())

    def _view(self) -> View:
        from eslab.views.explorer import View  # noqa: PLC0415  # widgets are imported where one is drawn

        manifest, words = self._events.manifest, _words(self.wanted, self._clock)
        asked = {mine: words[theirs] or "" for mine, theirs in _FILTERS.items()}
        return View(
            name=self._events.folder.name,
            topics=list(manifest.topics),
            aggregates=list(manifest.aggregates),
            types=sorted(manifest.types),
            asked={**asked, "newest": self.wanted.newest},
            answer=self._answer,
            open=self._open,
        )

    def _answer(self, asked: Mapping[str, Any], after: str | None) -> dict[str, Any]:
        page = self._page(read_wanted(self._clock, **asked), after)
        return {
            "said": page.said,
            "rows": page.rows(),
            "next": page.next and str(page.next),
            "line": page.again,
            "search": page.wanted.search or "",
        }

    def _open(self, aggregate: str, aggregate_id: str, at: str) -> Any:
        """The stepper of one aggregate behind a record."""
        history = self._history(aggregate, aggregate_id)
        return history.step(at=history.at(event_id=read_place(at)).version)


_FILTERS: Final = {
    "topic": "topic",
    "aggregate": "aggregate",
    "aggregate_id": "id",
    "event_type": "type",
    "start": "start",
    "stop": "stop",
    "search": "search",
}
"""Each filter, and what it is called in the shell."""


def _words(wanted: Wanted, clock: Clock) -> dict[str, str | None]:
    """The filters as options of `eslab events`; times are absolute."""
    told = {name: getattr(wanted, name) for name in _FILTERS}
    words = {
        _FILTERS[name]: value.astimezone(clock.zone).isoformat() if isinstance(value, dt.datetime) else value
        for name, value in told.items()
    }
    return {**words, "newest": "" if wanted.newest else None}


def _place(row: Mapping[str, Any]) -> Coordinates:
    return Coordinates(row["topic"], row["partition_id"], row["incarnation"], row["record_offset"])


def _named(belongs: Sequence[tuple[str, str]], most: int = FEW) -> str:
    """The aggregates that a record belongs to, as people write them; of many the first."""
    named = [" ".join(one) for one in belongs]
    return ", ".join([*named[:most], *([f"and {len(named) - most:,} more"] if len(named) > most else [])])


def _excerpt(row: Mapping[str, Any], search: str | None) -> str:
    """What a record holds, on one short line: around what was searched for, where that stands in no column of its own."""
    if search is not None:
        needles = (search, json.dumps(search, ensure_ascii=False)[1:-1])
        for name in ("problem", "data", "metadata", *SEARCHED_IN[2:-3]):
            text = row[name] or ""
            at = next((at for needle in needles if (at := text.find(needle)) >= 0), None)
            if at is not None:
                start = at - AHEAD if at > 2 * AHEAD else 0
                named = "" if name in ("problem", "data") else f"{name}: "
                return f"{named}{'…' * (start > 0)}{tables.show(text[start:], LONGEST)}"
    return tables.show(row["problem"] or row["data"] or "", LONGEST)
