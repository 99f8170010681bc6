"""Moments to cuts: a time, an event, a version, offsets, what a consumer group had read; and a cut held against the lab it is used on."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Mapping
from itertools import chain
from numbers import Integral
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eslab.duck import session
from eslab.errors import MomentError, NaiveTime, UnknownEvent, UnknownId, VersionOutOfRange
from eslab.events import Events
from eslab.model import Coordinates, Cut, Life, Selection
from eslab.positions import of_group
from eslab.runs import KEY, key_at
from eslab.sql import ORDER, query

__all__ = [
    "Clock",
    "at_event",
    "at_group",
    "at_offsets",
    "at_time",
    "at_version",
    "changed_since",
    "find_event",
    "occurrences",
    "select",
    "unknown",
    "until",
]

EVER: Final = dt.datetime.max.replace(tzinfo=dt.UTC)

OrderKey = tuple[dt.datetime, str, int, int, int]
"""A record's place in the lab's total order: order_at, topic, partition, incarnation, offset."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_MINUTE: Final = 60_000_000  # microseconds
_BY_MINUTES: Final = 94_694_400_000_000  # the year 1973: since then every zone has changed its clocks on whole minutes of UTC alone
_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?")


class Clock:
    """How a lab reads times: in its zone, and a bare `10:31` on its day."""

    def __init__(self, tz: ZoneInfo | None, span: tuple[dt.datetime, dt.datetime] | None) -> None:
        self.tz = tz
        self._span = span

    @property
    def zone(self) -> dt.tzinfo:
        """The zone in which times are shown: the lab's, or UTC."""
        return self.tz or dt.UTC

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
        if local.microsecond:
            return f"{local.isoformat(sep=' ', timespec='milliseconds')[:23]} {local.tzname()}"
        return f"{local.isoformat(sep=' ')[:19]} {local.tzname()}"

    def show_each(self, moments: pa.ChunkedArray) -> list[str | None]:
        """`show` of a whole column of times (null: None), some ten times as fast."""
        micros = moments.cast(pa.int64()).fill_null(_BY_MINUTES).to_numpy()
        if not len(micros):
            return []
        grain = _MINUTE if micros.min() >= _BY_MINUTES else 1_000_000
        begins, which = np.unique(micros // grain, return_inverse=True)
        there = [(_EPOCH + dt.timedelta(microseconds=int(one) * grain)).astimezone(self.zone) for one in begins]
        local = micros + np.array([(one.replace(tzinfo=dt.UTC) - one) // _MICROSECOND for one in there])[which]
        texts = pc.if_else(
            pa.array(micros % 1_000_000 != 0),
            pc.strftime(pa.array(local // 1000, pa.timestamp("ms")), "%Y-%m-%d %H:%M:%S"),
            pc.strftime(pa.array(local // 1_000_000, pa.timestamp("s")), "%Y-%m-%d %H:%M:%S"),
        )
        zones = pa.array([one.tzname() for one in there]).take(pa.array(which))
        shown: list[str | None] = pc.if_else(moments.is_valid(), pc.binary_join_element_wise(texts, zones, " "), None).to_pylist()
        return shown

    def word(self, moment: dt.datetime) -> str:
        """The moment for the shell: whole, in the lab's zone."""
        return moment.astimezone(self.zone).isoformat()

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
    again = f" (its first occurrence of {seen})" if seen > 1 else ""
    return _cut(events, _up_to(events, key), label or f"up to and with event {_shown(str(told))}{again}")


def at_version(events: Events, aggregate: str, aggregate_id: str, version: int) -> Cut:
    """Everything in the lab's order up to and with this step of an aggregate's history; for version 0 all that comes before its first.

    Raises `UnknownId`, `VersionOutOfRange`.
    """
    rows = events.lookup(aggregate, aggregate_id, KEY, Selection(events.cut)).table
    if not rows.num_rows:
        raise UnknownId(f"no captured event belongs to {aggregate} {aggregate_id!r}; lab.find({aggregate_id!r}) looks for it as any id")
    if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version <= rows.num_rows:
        raise VersionOutOfRange(f"{aggregate} {aggregate_id} has {rows.num_rows} versions; there is no version {version!r}")
    _, _, micros, *place = key_at(rows, max(version - 1, 0))
    key = (_EPOCH + dt.timedelta(microseconds=int(micros)), *place)
    whose = f"{_shown(aggregate)} {_shown(aggregate_id)}"
    label = f"up to and with version {version} of {whose}" if version else f"before the first event of {whose}"
    return _cut(events, _up_to(events, key, "<=" if version else "<"), label)


def _shown(text: str) -> str:
    """Text of a payload, with nothing in it that could steer a terminal."""
    return text if text.isprintable() else repr(text)


def _up_to(events: Events, key: tuple[object, ...], compared: str = "<=") -> dict[Life, int]:
    """Next offsets behind everything that comes before a place in the lab's order."""
    found = query(
        events,
        f"""select topic, partition_id, incarnation, max(record_offset) + 1 from {{rows}}
        where ({ORDER}) {compared} ($order_at, $topic, $partition, $incarnation, $offset) group by all""",
        dict(zip(("order_at", "topic", "partition", "incarnation", "offset"), key, strict=True)),
    )
    return {(t, p, i): n for t, p, i, n in found}


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
    if any(next_ < 0 for next_ in offsets.values()):
        raise MomentError(f"offsets={told!r} has one below 0; an offset here is the next one, 0 for nothing")
    return _without_the_rest(events, offsets, "by offsets")


def at_group(events: Events, samples: pa.Table, group: str, moment: dt.datetime | None, clock: Clock) -> Cut:
    """Up to where a consumer group had committed by a moment (None: its last known commits). A lower bound: commits lag the work.

    `samples` are `samples.SAMPLES`. Known is the newest of each partition until then, or a commit before then that only a later one tells. Partitions that it had committed
    nothing on are excluded. Raises `UnknownGroup` for a group without samples, `MomentError` before its first one.
    """
    told = of_group(samples, group)
    found = _committed(events, told, EVER if moment is None else moment)
    births = _births(events) if any(life[2] for life, _, _ in found) else {}
    offsets = {  # a commit from before a partition was made anew says nothing of what it is now
        life: committed for life, committed, since in found if life[2] == 0 or since >= births.get(life, EVER)
    }
    if moment is not None and not offsets and moment < (first := pc.min(pc.coalesce(told["committed_at"], told["sampled_at"])).as_py()):
        raise MomentError(
            f"where group {group!r} stood at {clock.show(moment)} is not known; its first offset sample is of {clock.show(first)}"
        )
    when = f"had committed by {clock.show(moment)}" if moment is not None else "is known to have committed"
    return _without_the_rest(events, offsets, f"what group {group!r} {when} (it may have read on)")


def _committed(events: Events, samples: pa.Table, moment: dt.datetime) -> list[tuple[Life, int, dt.datetime]]:
    """What is known of each partition of the lab at a moment: its newest life, the committed offset, and since when it is known to be so."""
    with session() as con:
        con.register("samples", samples.append_column("nth", pa.array(range(samples.num_rows), pa.int64())))
        found = con.execute(
            """with known as (select *, coalesce(committed_at, sampled_at) as since from samples)
            select topic, "partition", last.committed, last.since from (
                select topic, "partition", arg_max({'committed': committed, 'since': since}, (least(sampled_at, $moment), since, nth)) as last
                from known where since <= $moment group by all
            ) where last.committed is not null order by all""",
            {"moment": moment},
        ).fetchall()
    newest = events.manifest.newest
    return [
        ((topic, partition, newest[topic, partition]), committed, since.astimezone(dt.UTC))
        for topic, partition, committed, since in found
        if (topic, partition) in newest
    ]


def find_event(events: Events, told: str | Coordinates | tuple[str, int, int]) -> tuple[OrderKey, int]:
    """Where an event stands in the lab's order (its first occurrence), and how often its id was seen.

    An event is named by its id, by coordinates, or by (topic, partition, offset) in the newest incarnation. Raises `UnknownEvent`.
    """
    found = occurrences(events, told)
    if not found:
        raise unknown(told)
    return found[0], len(found)


def unknown(told: str | Coordinates | tuple[str, int, int]) -> UnknownEvent:
    """That no event is called so."""
    name = "/".join(map(str, told)) if type(told) is tuple else str(told)
    return UnknownEvent(f"no captured event is called {name!r}; lab.find(...) looks for any id, and lab.gaps() says what was not captured")


def occurrences(events: Events, told: str | Coordinates | tuple[str, int, int]) -> list[OrderKey]:
    """Where every event that is called so stands, in the lab's order. Raises `MomentError` for what names none."""
    where, parameters = "event_id = $id", dict[str, str | int](id=told if isinstance(told, str) else "")
    if isinstance(told, Coordinates):
        where = "topic = $topic and partition_id = $partition and incarnation = $incarnation and record_offset = $offset"
        parameters = told._asdict()
    elif isinstance(told, tuple) and len(told) == 3:
        where = "topic = $topic and partition_id = $partition and record_offset = $offset"
        parameters = dict(zip(("topic", "partition", "offset"), told, strict=True))
    elif not isinstance(told, str):
        raise MomentError(f"{told!r} names no event; give its id, or (topic, partition, offset)")
    found = query(events, f"select {ORDER} from {{rows}} where first and {where} order by {ORDER}", parameters)
    return [(order_at.astimezone(dt.UTC), *place) for order_at, *place in found]


def select(events: Events, at: str | dt.datetime | Cut | None, *, clock: Clock, by: str = "recorded", cut: Cut | None = None) -> Selection:
    """What a replay sees: up to a time or a cut; with `by="happened"` what happened until a time, of all that is captured or of a cut."""
    if by not in ("recorded", "happened"):
        raise MomentError(f'clock={by!r}; it is "recorded" (when the log got it) or "happened" (the time in the payload)')
    if isinstance(at, Cut):
        if cut is not None:
            raise MomentError("two cuts were given, at= and cut=; combine them by & (what both hold) or | (what either holds)")
        at, cut = None, at
    moment = None if at is None else clock.read(at)
    if by == "happened":
        said = "as happened" if moment is None else f"happened until {clock.show(moment)}"
        label = said if cut is None else f"{said}, of {cut.label or 'a cut'}"
        return Selection(dataclasses.replace(events.cut if cut is None else cut, label=label), EVER if moment is None else moment)
    if moment is None:
        return Selection(events.cut if cut is None else cut)
    if cut is not None:
        raise MomentError(
            'a time and a cut were given: with clock="recorded" name one; with clock="happened" the cut says what had been recorded'
        )
    return Selection(at_time(events, moment, f"recorded until {clock.show(moment)}"), recorded_until=moment)


def until(selection: Selection, clock: Clock) -> str | None:
    """The time up to which a selection goes, for the shell; None for all that is captured, or for a cut."""
    moment = selection.happened_until or selection.recorded_until
    return None if moment is None or moment == EVER else clock.word(moment)


def changed_since(events: Events, cut: Cut, upcasters: str) -> str:
    """What is not as it was when the cut was made, as one sentence; "" if all is. Raises `MomentError` for a cut of topics that this lab has not, or has other ones of that name.

    `upcasters` is the fingerprint of those that are declared now.
    """
    if cut is events.cut:
        return ""
    lives = {life: next_ for life, next_ in cut.offsets.items() if next_}
    known = {life[0] for life in events.cut.offsets}
    strange = sorted({topic for topic, _, _ in lives} - known)
    if strange:
        raise MomentError(
            f"this cut is from another lab: {', '.join(strange)} is not captured here; this lab has {', '.join(sorted(known)) or 'no topics'}"
        )
    now = events.manifest.fingerprints(lives)
    then, here = ({life: told.rpartition(".") for life, told in store.items()} for store in (cut.store, now))
    if others := sorted({life[0] for life in lives if life in then and life in here and _parted(then[life][0], here[life][0])}):
        raise MomentError(
            f"this cut is from another lab: {', '.join(others)} there is another topic of that name, by the id that its cluster gave it; ask this lab for a cut of its own"
        )
    other = sorted({life[0] for life in lives if life in then and (life not in here or then[life][2] != here[life][2])})
    said = [f"{', '.join(other)} is read by other rules than when this cut was made, or holds other records below it"] if other else []
    if cut.upcasters is not None and cut.upcasters != upcasters:
        said.append("other upcasters are declared now than when this cut was made")
    return f"{'; '.join(said)}: answers may differ from then" if said else ""


def _parted(origin: str, other: str) -> bool:
    """Whether both are known, and are not the same."""
    return bool(origin and other) and origin != other


def _births(events: Events) -> dict[Life, dt.datetime]:
    """When each life began, by its first record."""
    found = query(events, "select topic, partition_id, incarnation, min(order_at) from {rows} group by all")
    return {(t, p, i): first.astimezone(dt.UTC) for t, p, i, first in found}


def _cut(events: Events, offsets: dict[Life, int], label: str, excluded: tuple[Life, ...] = ()) -> Cut:
    """With every partition of the lab in it that is not excluded: one that has nothing yet stands at 0."""
    whole = {life: offsets.get(life, 0) for life in events.cut.offsets if life not in excluded}
    return Cut(whole, label=label, store=events.manifest.fingerprints(whole), excluded=excluded)


def _without_the_rest(events: Events, offsets: dict[Life, int], label: str) -> Cut:
    return _cut(events, offsets, label, tuple(life for life in events.cut.offsets if life not in offsets))
