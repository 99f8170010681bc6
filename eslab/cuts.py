"""Moments to cuts: a time, an event, offsets."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from itertools import chain
from numbers import Integral
from zoneinfo import ZoneInfo

from eslab.errors import MomentError, NaiveTime, UnknownEvent
from eslab.events import Events
from eslab.model import Coordinates, Cut, Life
from eslab.sql import ORDER, query

__all__ = ["Clock", "at_event", "at_offsets", "at_time", "find_event"]

OrderKey = tuple[dt.datetime, str, int, int, int]
"""A record's place in the lab's total order: order_at, topic, partition, incarnation, offset."""

_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?")


class Clock:
    """How a lab reads times: in its zone, and a bare `10:31` on its day."""

    def __init__(self, tz: ZoneInfo | None, span: tuple[dt.datetime, dt.datetime] | None) -> None:
        self.tz = tz
        self._span = span

    def read(self, told: str | dt.datetime) -> dt.datetime:
        """The moment in UTC. Raises `NaiveTime` for a time without a zone in a lab without `tz=`, `MomentError` for what is no time."""
        if isinstance(told, str):
            text = told.strip()
            if _CLOCK.fullmatch(text):
                return self.read(
                    dt.datetime.combine(self._day(text), dt.time.fromisoformat(text.replace(",", ".").zfill(5) if len(text) < 5 else text))
                )
            try:
                told = dt.datetime.fromisoformat(text)
            except ValueError:
                raise MomentError(f"{text!r} is no time; write it like 2026-03-12T10:31:00+01:00, or 10:31 in a lab of one day") from None
        if not isinstance(told, dt.datetime) or told != told:  # noqa: PLR0124  pandas' NaT is a datetime that equals nothing
            raise MomentError(f"{told!r} is no time; give a datetime, or a text like 2026-03-12T10:31:00+01:00")
        if told.tzinfo is None:
            told = self._in_zone(told)
        try:
            return told.astimezone(dt.UTC)
        except OverflowError:
            raise MomentError(f"{told.isoformat()} lies outside the years 1 to 9999 in UTC") from None

    def show(self, moment: dt.datetime | None) -> str:
        """The moment for people, with its zone."""
        if moment is None:
            return "—"
        local = moment.astimezone(self.tz or dt.UTC)
        spec = "milliseconds" if local.microsecond else "seconds"
        return f"{local.replace(tzinfo=None).isoformat(sep=' ', timespec=spec)} {local.tzname()}"

    def _in_zone(self, told: dt.datetime) -> dt.datetime:
        if self.tz is None:
            raise NaiveTime(
                f'{told.isoformat(sep=" ")} has no zone, and the lab has none either: write the zone (…+01:00, …Z), or open the lab with tz="Europe/Berlin"'
            )
        early, late = (told.replace(tzinfo=self.tz, fold=fold) for fold in (0, 1))
        before, after = early.utcoffset(), late.utcoffset()
        assert before is not None
        assert after is not None
        if before == after:
            return early
        how = "comes twice" if before > after else "does not come"
        raise MomentError(
            f"{told.isoformat(sep=' ')} {how} in {self.tz.key}, where the clocks are changed then; write the offset too: {early.isoformat()} or {late.isoformat()}"
        )

    def _day(self, text: str) -> dt.date:
        if self.tz is None:
            raise NaiveTime(
                f'{text!r} has no zone, and the lab has none either: open the lab with tz="Europe/Berlin", or write the whole time with its zone'
            )
        if self._span is None:
            raise MomentError(f"{text!r} has no day, and the lab is empty; write the whole time")
        first, last = (moment.astimezone(self.tz).date() for moment in self._span)
        if first != last:
            raise MomentError(f"{text!r} has no day, and the lab covers {first} to {last}; write the day too, like {first} {text}")
        return first


def at_time(events: Events, moment: dt.datetime, label: str = "") -> Cut:
    """Everything recorded until this moment, inclusive: each partition up to its last record with order_at <= moment.

    Exact, since order_at never decreases along a partition. Scans order_at of all events.
    """
    found = query(
        events,
        "select topic, partition_id, incarnation, max(record_offset) + 1 from {rows} where order_at <= $moment group by all",
        {"moment": moment},
    )
    return _cut(events, {(t, p, i): n for t, p, i, n in found}, label or f"recorded until {moment.isoformat()}")


def at_event(events: Events, told: str | Coordinates | tuple[str, int, int], label: str = "") -> Cut:
    """Everything in the lab's order up to and with this event. Raises `UnknownEvent`."""
    key, seen = find_event(events, told)
    found = query(
        events,
        f"""select topic, partition_id, incarnation, max(record_offset) + 1 from {{rows}}
        where ({ORDER}) <= ($order_at, $topic, $partition, $incarnation, $offset) group by all""",
        {"order_at": key[0], "topic": key[1], "partition": key[2], "incarnation": key[3], "offset": key[4]},
    )
    again = f" (its first occurrence of {seen})" if seen > 1 else ""
    return _cut(events, {(t, p, i): n for t, p, i, n in found}, label or f"up to and with event {told}{again}")


def at_offsets(events: Events, told: Mapping[str, Mapping[int, int]]) -> Cut:
    """The cut with these next offsets (exclusive) by topic and partition; partitions not named are excluded, and listed."""
    newest = events.manifest.newest
    if not all(
        isinstance(parts, Mapping) and all(isinstance(one, Integral) for one in chain(parts, parts.values())) for parts in told.values()
    ):
        raise MomentError(f'offsets={told!r} is not by topic and partition; write it like offsets={{"orders": {{0: 17}}}}')
    unknown = [f"{topic}[{partition}]" for topic, parts in told.items() for partition in parts if (topic, partition) not in newest]
    if unknown:
        raise MomentError(
            f"the lab has no {', '.join(unknown)}; it has {', '.join(f'{topic}[{partition}]' for topic, partition in newest) or 'nothing'}"
        )
    offsets = {
        (topic, int(partition), newest[topic, partition]): int(next_) for topic, parts in told.items() for partition, next_ in parts.items()
    }
    excluded = tuple((topic, partition, life) for (topic, partition), life in newest.items() if (topic, partition, life) not in offsets)
    return Cut(offsets, label="by offsets", store=events.manifest.fingerprint, excluded=excluded)


def find_event(events: Events, told: str | Coordinates | tuple[str, int, int]) -> tuple[OrderKey, int]:
    """Where an event stands in the lab's order (its first occurrence), and how often its id was seen.

    An event is named by its id, by coordinates, or by (topic, partition, offset) in the newest incarnation.
    """
    where, parameters = "event_id = $id", dict[str, str | int](id=told if isinstance(told, str) else "")
    if isinstance(told, Coordinates):
        where = "topic = $topic and partition_id = $partition and incarnation = $incarnation and record_offset = $offset"
        parameters = told._asdict()
    elif isinstance(told, tuple) and len(told) == 3:
        where = "topic = $topic and partition_id = $partition and record_offset = $offset"
        parameters = dict(zip(("topic", "partition", "offset"), told, strict=True))
    elif not isinstance(told, str):
        raise MomentError(f"{told!r} names no event; give its id, or (topic, partition, offset)")
    found = query(events, f"select {ORDER}, count(*) over () from {{rows}} where first and {where} order by {ORDER} limit 1", parameters)
    if not found:
        name = "/".join(map(str, told)) if type(told) is tuple else str(told)
        raise UnknownEvent(
            f"no captured event is called {name!r}; lab.find(...) looks for any id, and lab.gaps() says what was not captured"
        )
    order_at, topic, partition, incarnation, offset, seen = found[0]
    return (order_at.astimezone(dt.UTC), topic, partition, incarnation, offset), seen


def _cut(events: Events, offsets: dict[Life, int], label: str) -> Cut:
    """With every partition of the lab in it: one that has nothing yet stands at 0."""
    return Cut({life: offsets.get(life, 0) for life in events.cut.offsets}, label=label, store=events.manifest.fingerprint)
