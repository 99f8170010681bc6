"""Upcasters rehearsed over all that is captured: which versions there are, and whether each event comes through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eslab.errors import ProjectionError
from eslab.events import Events
from eslab.folding import FOLD_COLUMNS, Rows, events_of
from eslab.model import Coordinates, Event, Selection, pack_state
from eslab.upcasters import Upcasters
from eslab.views import tables
from eslab.wording import many

__all__ = ["Rehearsal", "rehearse"]

SHOWN: Final = 20


@dataclass(slots=True)
class _Count:
    """The events of one version of a type."""

    way: tuple[str, ...]
    """The versions that they go through; nothing for the newest version, or one that no upcaster knows."""
    events: int = 0
    failed: int = 0
    first: Coordinates | None = None
    """Of those that failed, and why."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What came of every event of the types that have upcasters, by type and version."""

    upcasters: Upcasters
    counts: dict[tuple[str, str | None], _Count] = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether every event came through, to the newest version of its type."""
        return not any(one.failed for one in self.counts.values()) and not self.unknown

    @property
    def unknown(self) -> list[tuple[str, str | None]]:
        """Types and versions that are not the newest, and have no upcaster: handlers see them as they were written."""
        return [(kind, version) for (kind, version), one in self.counts.items() if not one.way and version != self.upcasters.newest(kind)]

    def df(self) -> pd.DataFrame:
        """One row per type and version: event_type, version, becomes (the newest version; null where no upcaster leads there), events, failed, at (of the first that failed), error."""
        columns = ["event_type", "version", "becomes", "events", "failed", "at", "error"]
        return pd.DataFrame(self._rows(), columns=columns).astype({name: "str" for name in columns if name not in ("events", "failed")})

    def arrow(self) -> pa.Table:
        """What `df` has, in Arrow."""
        return pa.Table.from_pandas(self.df(), preserve_index=False)

    def __repr__(self) -> str:
        return tables.visible(f"<Rehearsal of upcasters: {'; '.join(self._said())}>")

    def _said(self) -> list[str]:
        if not self.upcasters.steps:
            return ['no upcasters are declared; @lab.upcaster("OrderCreated", from_version="1.0", to_version="2.0") declares one']
        events, failed = sum(one.events for one in self.counts.values()), sum(one.failed for one in self.counts.values())
        upcast = sum(one.events - one.failed for one in self.counts.values() if one.way)
        said = [
            f"of {many(events, 'event')} of {many(len(self.upcasters.types), 'type')} {upcast:,} {'is' if upcast == 1 else 'are'} upcast"
        ]
        said += [f"{failed:,} FAILED"] if failed else []
        said += (
            [f"no upcaster knows {', '.join(f'{kind} {_shown(version)}' for kind, version in self.unknown[:SHOWN])}"]
            if self.unknown
            else []
        )
        return said if len(said) > 1 else [*said, "all come through"]

    def _repr_html_(self) -> str:
        columns = ["event type", "version", "becomes", "events", "failed", "first failure", "error"]
        return tables.html(columns, self._rows(), caption="; ".join(self._said()), empty="no events of these types")

    def _rows(self) -> list[tuple[object, ...]]:
        return [
            (kind, version, self._becomes(kind, version), one.events, one.failed, None if one.first is None else str(one.first), one.error)
            for (kind, version), one in self.counts.items()
        ]

    def _becomes(self, kind: str, version: str | None) -> str | None:
        newest = self.upcasters.newest(kind)
        return None if (kind, version) in self.unknown else newest


def rehearse(events: Events, upcasters: Upcasters, *, on_rows: Callable[[int], None] = lambda count: None) -> Rehearsal:
    """Take every event, each once, through its upcasters. Memory: one slice of rows."""
    counts: dict[tuple[str, str | None], _Count] = {}
    for aggregate in (*events.manifest.aggregates, "") if upcasters.steps else ():
        for part in events.scan(aggregate, (*FOLD_COLUMNS, "first"), Selection(events.cut)):
            rows = Rows(part)
            wanted = pc.and_(part.table["first"], pc.is_in(part.table["event_type"], pa.array(list(upcasters.types), pa.string())))
            told = events_of(rows)
            for at in pc.indices_nonzero(wanted).to_pylist():
                _count(counts, upcasters, told[at])
            on_rows(int(pc.sum(part.table["first"]).as_py() or 0))
    ordered = sorted(counts.items(), key=lambda one: (one[0][0], one[0][1] or ""))
    return Rehearsal(upcasters, dict(ordered))


def _count(counts: dict[tuple[str, str | None], _Count], upcasters: Upcasters, event: Event) -> None:
    kind = str(event.type)
    way = upcasters.way(kind, event.version)
    one = counts.setdefault((kind, event.version), _Count(tuple(step.to_version for step in way)))
    one.events += 1
    if not way:
        return
    try:
        pack_state(upcasters.read(event).data)
    except (ProjectionError, ValueError) as exc:
        one.failed += 1
        if one.first is None or event.coordinates < one.first:
            one.first, one.error = event.coordinates, str(exc)


def _shown(version: str | None) -> str:
    return "without a version" if version is None else version
