"""The records that fit what is asked for, a page at a time, in the lab's order.

A page begins behind the last record of the one before, by its place and not by a count: it costs the same wherever it stands, and none is shown twice or left out.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from eslab.cuts import OrderKey, find_event
from eslab.errors import MomentError, UnknownId, UnknownTopic
from eslab.events import Events
from eslab.model import Coordinates
from eslab.sql import ORDER, query, table

__all__ = ["LOOKED", "ROWS", "SEARCHED_IN", "Counts", "Found", "Wanted", "check", "find_page", "read_place"]

ROWS: Final = 50
LOOKED: Final = 1_000_000  # records whose text one page looks through: about a second; the next page goes on from there

SEARCHED_IN: Final = (
    *("event_id", "event_type", "source", "record_key", "correlation_id", "causation_id", "trace_id", "span_id", "parent_span_id"),
    *("problem", "data", "metadata"),
)
_SHOWN: Final = ("kind", "recorded_at", "happened_at", *SEARCHED_IN)
_KINDS: Final = ("(tombstone)", "(undecodable)")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for; a record must fit all of it.

    `start` (inclusive) and `stop` (exclusive) bound its place in the lab's order. `event_type` may be "(tombstone)" or "(undecodable)". `search` is a text that stands in an id, the key,
    the type, the source, the problem, or in data or metadata as JSON writes them. `newest`: the last record comes first.
    """

    topic: str | None = None
    aggregate: str | None = None
    aggregate_id: str | None = None
    event_type: str | None = None
    start: dt.datetime | None = None
    stop: dt.datetime | None = None
    search: str | None = None
    newest: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """One page: `rows`, each with all `aggregates` that the record belongs to, in the order that was asked for.

    Of all `total` records that fit but for the search, `before` stand before this page, and the next `searched` were looked at: `found` of them fit. `next` is where the next page
    begins (exclusive); None behind the last.
    """

    rows: pa.Table
    total: int
    before: int
    searched: int
    found: int
    next: Coordinates | None


Counts = dict[Coordinates | tuple[str, int, int] | None, int]
"""What is counted of some filters: how many records fit (under None) but for the search, and how many of them stand before a place."""


def find_page(
    events: Events,
    wanted: Wanted,
    after: Coordinates | str | tuple[str, int, int] | None = None,
    *,
    most: int = ROWS,
    counts: Counts | None = None,
) -> Found:
    """The first `most` records that fit, behind a record or from the beginning. What is in `counts` is not counted again, and what comes to be known is added.

    Scans narrow columns; with a search the text of at most about `LOOKED` records. Raises `UnknownTopic`, `UnknownId` for an aggregate that the lab has not, `UnknownEvent`.
    """
    check(events, wanted)
    counts = {} if counts is None else counts
    fits = rest = _fitting(wanted, alone=_one_row_each(events))
    if None not in counts:
        counts[None] = _count(events, fits)
    total, before = counts[None], 0
    if after is not None:
        place = read_place(after)
        rest = fits.behind(find_event(events, place)[0], newest=wanted.newest)
        if place not in counts:
            counts[place] = total - _count(events, rest)
        before = counts[place]
    left = searched = total - before
    end: Coordinates | None = None
    if wanted.search is not None and left > LOOKED:
        rest = rest.until(_time_of(events, rest, LOOKED / left, newest=wanted.newest), newest=wanted.newest)
        searched = _count(events, rest)
        end = _last(events, rest, newest=wanted.newest) if searched < left else None
    order = _order(newest=wanted.newest)
    if wanted.search is None:
        found = left
        places = table(events, f"from {rest.places} order by {order} limit {most + 1}", dict(rest.bound))
    else:
        told = rest.holding(wanted.search)
        places = table(
            events,
            f"with held as materialized (from {told.places}) select *, (select count(*) from held) as found from held order by {order} limit {most + 1}",
            dict(told.bound),
        )
        found = places["found"][0].as_py() if len(places) else 0
    shown = places.slice(0, most)
    if end is not None:
        counts[end] = before + searched
    if len(places) > most:
        end = _coordinates(places, most - 1)
        if wanted.search is None:
            counts[end] = before + most
    return Found(_whole(events, shown, order), total, before, searched, found, end)


# --- which ones -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fits:
    """Conditions on the sorted events, and what is bound in them. `once`: each of them holds for one row of a record at most."""

    conditions: tuple[str, ...]
    bound: Mapping[str, Any] = field(default_factory=dict)
    once: bool = True

    def also(self, condition: str, **bound: Any) -> _Fits:
        return _Fits((*self.conditions, condition), {**self.bound, **bound}, self.once)

    @property
    def places(self) -> str:
        """The places of the records that fit, as a relation."""
        return f"(select {'' if self.once else 'distinct '}{ORDER} from {{rows}} where {' and '.join(self.conditions)})"

    def behind(self, key: OrderKey, *, newest: bool) -> _Fits:
        """Those behind a place."""
        sign = "<" if newest else ">"
        place = dict(zip(("at", "at_topic", "at_partition", "at_incarnation", "at_offset"), key, strict=True))
        rest = "(topic, partition_id, incarnation, record_offset)"  # beside the time, by whose statistics row groups are left out
        return self.also(
            f"order_at {sign}= $at and (order_at {sign} $at or {rest} {sign} ($at_topic, $at_partition, $at_incarnation, $at_offset))",
            **place,
        )

    def until(self, moment: dt.datetime, *, newest: bool) -> _Fits:
        """Those up to a moment, inclusive."""
        return self.also(f"order_at {'>=' if newest else '<='} $until", until=moment)

    def holding(self, text: str) -> _Fits:
        """Those that hold a text: as it is, or in JSON as that writes it."""
        written = json.dumps(text, ensure_ascii=False)[1:-1]
        told = [f"contains({name}, $text)" for name in SEARCHED_IN]
        if written != text:
            told += [f"contains({name}, $written)" for name in ("data", "metadata")]
            return self.also(f"({' or '.join(told)})", text=text, written=written)
        return self.also(f"({' or '.join(told)})", text=text)


def _one_row_each(events: Events) -> bool:
    """Whether no record belongs to more than one aggregate: to tell rows apart takes a third of a second per million."""
    records = sum(counts.events + counts.tombstones + counts.undecodable for counts in events.manifest.topics.values())
    return sum(run.rows for run in events.manifest.runs) == records


def _fitting(wanted: Wanted, *, alone: bool) -> _Fits:
    """All that is asked for but the search; `alone`: each record has one row."""
    if wanted.aggregate is None and wanted.aggregate_id is None:
        fits = _Fits(("first",))
    else:  # a record may belong to several of an aggregate, but to each of them once
        fits = _Fits((), once=alone or (wanted.aggregate is not None and wanted.aggregate_id is not None))
        fits = fits.also("aggregate <> ''") if wanted.aggregate is None else fits.also("aggregate = $aggregate", aggregate=wanted.aggregate)
        if wanted.aggregate_id is not None:
            fits = fits.also("aggregate_id = $aggregate_id", aggregate_id=wanted.aggregate_id)
    if wanted.topic is not None:
        fits = fits.also("topic = $topic", topic=wanted.topic)
    if wanted.event_type in _KINDS:
        fits = fits.also("(event_type = $type or kind = $kind)", type=wanted.event_type, kind=wanted.event_type[1:-1])
    elif wanted.event_type is not None:
        fits = fits.also("event_type = $type", type=wanted.event_type)
    if wanted.start is not None:
        fits = fits.also("order_at >= $start", start=wanted.start)
    if wanted.stop is not None:
        fits = fits.also("order_at < $stop", stop=wanted.stop)
    return fits


def check(events: Events, wanted: Wanted) -> None:
    """Raise `UnknownTopic`, or `UnknownId` for an aggregate, that the lab has not."""
    topics, aggregates = events.manifest.topics, events.manifest.aggregates
    if wanted.topic is not None and wanted.topic not in topics:
        raise UnknownTopic(f"the lab has no topic {wanted.topic!r}; it has {', '.join(topics) or 'none'}")
    if wanted.aggregate is not None and wanted.aggregate not in aggregates:
        raise UnknownId(
            f"no captured event belongs to an aggregate {wanted.aggregate!r}; the lab has {', '.join(aggregates) or 'none'} (see lab.toml)"
        )


# --- where they stand -------------------------------------------------------------------------------------


def _count(events: Events, fits: _Fits) -> int:
    ((count,),) = query(events, f"select count(*) from {fits.places}", dict(fits.bound))
    return int(count)


def _time_of(events: Events, fits: _Fits, share: float, *, newest: bool) -> dt.datetime:
    """The time until which so large a share of them stands, the first ones in the order that is asked for."""
    ((moment,),) = query(events, f"select quantile_disc(order_at, {1 - share if newest else share}) from {fits.places}", dict(fits.bound))
    return _utc(moment)


def _last(events: Events, fits: _Fits, *, newest: bool) -> Coordinates:
    return _coordinates(table(events, f"from {fits.places} order by {_order(newest=not newest)} limit 1", dict(fits.bound)), 0)


def _order(*, newest: bool) -> str:
    return ", ".join(f"{name} desc" for name in ORDER.split(", ")) if newest else ORDER


def _coordinates(places: pa.Table, at: int) -> Coordinates:
    row = places.slice(at, 1).to_pylist()[0]
    return Coordinates(row["topic"], row["partition_id"], row["incarnation"], row["record_offset"])


def _utc(moment: dt.datetime) -> dt.datetime:
    return moment.astimezone(dt.UTC)


def _whole(events: Events, places: pa.Table, order: str) -> pa.Table:
    """The records at these places, with all that a page tells of them."""
    shown = ", ".join(f"any_value({name}) as {name}" for name in _SHOWN)
    times = places["order_at"].to_pylist()
    offsets = (
        ", ".join(map(str, places["record_offset"].to_pylist())) or "null"
    )  # leaves out most row groups before their payloads are read
    return table(
        events,
        f"""select {ORDER}, {shown},
            coalesce(list({{{{'aggregate': aggregate, 'aggregate_id': aggregate_id}}}} order by aggregate, aggregate_id) filter (where aggregate <> ''), []) as aggregates
        from {{rows}} semi join places using (topic, partition_id, incarnation, record_offset)
        where order_at between $low and $high and record_offset in ({offsets}) group by {ORDER} order by {order}""",
        {"low": min(times, default=None), "high": max(times, default=None)},
        tables={"places": places},
    )


_PLACE: Final = re.compile(r"(.+)/(\d{1,9})(?:~(\d{1,9}))?/(\d{1,18})", re.DOTALL)


def read_place(told: Coordinates | str | tuple[str, int, int]) -> Coordinates | tuple[str, int, int]:
    """A place, which may be written as eslab writes it: `orders/0/17`. Raises `MomentError` for what is none."""
    if not isinstance(told, str):
        return told
    match = _PLACE.fullmatch(told)
    if match is None:
        raise MomentError(f"{told!r} is no place of a record; write it like orders/0/17: topic, partition, offset")
    return Coordinates(match[1], int(match[2]), int(match[3] or 0), int(match[4]))
