"""Dead letters: what a consumer gave up on, why, and what became of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eslab.again import Again
from eslab.cuts import Clock
from eslab.events import Events
from eslab.mapping import DEAD
from eslab.model import Coordinates
from eslab.segments import Log, reaches
from eslab.sql import ORDER, table
from eslab.views import tables
from eslab.wording import many

__all__ = ["FATES", "DeadLetter", "DeadLetters", "find_dead_letters"]

SHOWN: Final = 50
FATES: Final = ("handled", "redelivered", "lost")

HEADERS: Final[Mapping[str, tuple[bytes, ...]]] = {
    "original_topic": (b"original.topic", b"__connect.errors.topic", b"kafka_dlt-original-topic"),
    "original_partition": (b"original.partition", b"__connect.errors.partition", b"kafka_dlt-original-partition"),
    "original_offset": (b"original.offset", b"__connect.errors.offset", b"kafka_dlt-original-offset"),
    "reason": (b"error", b"__connect.errors.exception.message", b"kafka_dlt-exception-message"),
    "retries": (b"retry.attempt", b"kafka_deliveryAttempt"),
}
"""The headers that say it: those of the demo, of Kafka Connect and of Spring Kafka. Of one that is repeated the last counts: a letter that was sent in again, and failed again, has the old ones before it."""

_PLACE: Final = ("topic", "partition_id", "incarnation", "record_offset")
_TOLD: Final = pa.schema(
    [
        ("topic", pa.string()),
        ("partition_id", pa.int32()),
        ("incarnation", pa.int32()),
        ("record_offset", pa.int64()),
        ("original_topic", pa.string()),
        ("original_partition", pa.int64()),
        ("original_offset", pa.int64()),
        ("reason", pa.string()),
        ("retries", pa.int64()),
    ]
)


def _place(of: str = "") -> str:
    """A record's place in the lab's order, as one value that can be held against another."""
    return f"struct_pack({', '.join(f'{name} := {of}{name}' for name in ORDER.split(', '))})"


_SHOWS: Final = f"event_id := next.event_id, event_type := next.event_type, place := {_place('next.')}"
"""What is kept of an event that shows a fate."""
_COUNTS: Final = "next.first and next.kind = 'event' and not list_contains($topics::varchar[], next.topic)"
_QUERY: Final = f"""
    with letters as materialized (
        select told.*, held.event_id as own_id, held.event_type as own_type, held.record_key, held.recorded_at, {_place("held.")} as place
        from told join {{rows}} as held using ({", ".join(_PLACE)}) where held.first
    ), named as materialized (
        select letters.*, coalesce(original.event_id, own_id) as id, coalesce(original.event_type, own_type) as event_type,
            original.incarnation as original_incarnation, original.recorded_at as original_recorded_at, original.topic is not null as captured
        from letters left join {{rows}} as original on original.first and original.topic = letters.original_topic
            and original.partition_id = letters.original_partition and original.record_offset = letters.original_offset
    ), last as (
        select id, max(place) as place from named where id is not null group by id
    ), found as (
        select named.place, 'handled' as fate, struct_pack({_SHOWS}) as shown
        from named join last using (id) join {{rows}} as next on next.causation_id = named.id where {_COUNTS} and {_place("next.")} > last.place
        union all
        select named.place, 'redelivered', struct_pack({_SHOWS})
        from named join {{rows}} as next on next.event_id = named.id where {_COUNTS} and {_place("next.")} > named.place
    ), fates as (
        select place, min(fate) as fate, arg_min(shown, row(fate, shown.place)) as shown from found group by place
    )
    select {", ".join(f"named.{name}" for name in _PLACE)}, named.recorded_at, named.record_key, named.id as event_id, named.event_type, named.original_topic,
        named.original_partition, named.original_incarnation, named.original_offset, named.captured, named.original_recorded_at, named.reason, named.retries,
        coalesce(fates.fate, 'lost') as fate, shown.event_id as fate_event_id, shown.event_type as fate_event_type,
        {", ".join(f"shown.place.{name} as fate_{name}" for name in _PLACE)}, epoch_us(shown.place.order_at) - epoch_us(named.place.order_at) as fate_after_us
    from named left join fates on fates.place = named.place order by named.place"""
# Of two fates the better one counts, which is the first by the alphabet, too


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that a consumer gave up on.

    `original` is where its headers say that the record stood (`captured`: the lab has it), `event_id` and `event_type` are the original's (of one that is not captured, the copy's; None
    where neither can be read as an event). `reason` and `retries` are as the headers tell, None where they do not. `fate` is one of:

    - handled: after this letter, and after every later one of the same event, an event that names it as its cause was recorded;
    - redelivered: not handled, but the event itself (its id) was recorded again after this letter;
    - lost: nothing that is captured tells of either. So it is with a record that has no event id: nothing can name it.

    Topics of dead letters do not count there. `fate_at` is the first event that shows the fate, `fate_after` how long after the letter it came, in the lab's order.
    """

    at: Coordinates
    recorded_at: dt.datetime | None
    key: str | None
    event_id: str | None
    event_type: str | None
    original: Coordinates | None
    captured: bool
    reason: str | None
    retries: int | None
    fate: str
    fate_event_id: str | None
    fate_at: Coordinates | None
    fate_after: dt.timedelta | None

    def __repr__(self) -> str:
        what = f"{self.event_type} {self.event_id}" if self.event_id else f"record with key {self.key}"
        where = f"of {self.original}" if self.original else "of an unknown place"
        reason = f", {self.reason}" if self.reason else ""
        return tables.visible(f"<DeadLetter {self.at}: {what} {where}{reason}; {_fate(self)}>")

    def _repr_html_(self) -> str:
        return f"<p>{tables.escape(repr(self).strip('<>'))}</p>"


def _fate(letter: DeadLetter) -> str:
    if letter.fate_after is None:
        return letter.fate
    return f"{letter.fate} {tables.duration(letter.fate_after.total_seconds())} later ({letter.fate_event_id or letter.fate_at})"


class DeadLetters(Again, Sequence[DeadLetter]):
    """The dead letters in the lab's order; `counts` says how many met each fate. `topics` are those that lab.toml names by `dead_letters = true`."""

    def __init__(self, table: pa.Table, topics: Collection[str], candidates: Collection[str], clock: Clock) -> None:
        self._table, self._candidates, self._clock = table, tuple(candidates), clock
        self.topics = tuple(topics)

    @property
    def counts(self) -> dict[str, int]:
        """How many letters were handled, redelivered, lost."""
        found = {one["values"]: one["counts"] for one in pc.value_counts(self._table["fate"]).to_pylist()}
        return {fate: found.get(fate, 0) for fate in FATES}

    @overload
    def __getitem__(self, at: int) -> DeadLetter: ...
    @overload
    def __getitem__(self, at: slice) -> list[DeadLetter]: ...
    def __getitem__(self, at: int | slice) -> DeadLetter | list[DeadLetter]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        (row,) = self._table.slice(range(len(self))[at], 1).to_pylist()
        return DeadLetter(
            at=Coordinates(*(row[name] for name in _PLACE)),
            recorded_at=row["recorded_at"] and row["recorded_at"].astimezone(self._clock.zone),
            key=row["record_key"],
            event_id=row["event_id"],
            event_type=row["event_type"],
            original=_original(row),
            captured=row["captured"],
            reason=row["reason"],
            retries=row["retries"],
            fate=row["fate"],
            fate_event_id=row["fate_event_id"],
            fate_at=None if row["fate_topic"] is None else Coordinates(*(row[f"fate_{name}"] for name in _PLACE)),
            fate_after=None if row["fate_after_us"] is None else dt.timedelta(microseconds=row["fate_after_us"]),
        )

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def arrow(self) -> pa.Table:
        """Where each letter stands, recorded_at, record_key; event_id, event_type and where its original stands (original_...); reason, retries; fate, and the event that shows it (fate_...)."""
        zoned = pa.timestamp("us", tz=str(self._clock.zone))
        return self._table.cast(pa.schema([one.with_type(zoned) if pa.types.is_timestamp(one.type) else one for one in self._table.schema]))

    def df(self) -> pd.DataFrame:
        """One row per letter: at, recorded_at, key, event_id, event_type, original, captured, reason, retries, fate, fate_event_id, fate_at, fate_after (a timedelta)."""
        letters = list(self)
        texts = {
            "at": [str(one.at) for one in letters],
            "key": [one.key for one in letters],
            "event_id": [one.event_id for one in letters],
            "event_type": [one.event_type for one in letters],
            "original": [one.original and str(one.original) for one in letters],
            "reason": [one.reason for one in letters],
            "fate": [one.fate for one in letters],
            "fate_event_id": [one.fate_event_id for one in letters],
            "fate_at": [one.fate_at and str(one.fate_at) for one in letters],
        }
        frame = pd.DataFrame({name: pd.Series(column, dtype="str") for name, column in texts.items()})
        recorded = pd.to_datetime(pd.Series([one.recorded_at for one in letters], dtype=object), utc=True)
        frame.insert(1, "recorded_at", recorded.dt.tz_convert(self._clock.zone))
        frame.insert(6, "captured", pd.Series([one.captured for one in letters], dtype="bool"))
        frame.insert(8, "retries", pd.Series([one.retries for one in letters], dtype="Int64"))
        frame["fate_after"] = pd.to_timedelta(pd.Series([one.fate_after for one in letters], dtype="timedelta64[us]"))
        return frame

    def _said(self) -> str:
        if not self.topics:
            names = " or ".join(self._candidates) or "<name>"
            return f"DeadLetters: lab.toml names no topic of dead letters; write dead_letters = true under [topics.{names}]"
        fates = ", ".join(f"{count:,} {fate}" for fate, count in self.counts.items() if count)
        return f"DeadLetters: {many(len(self), 'dead letter')} in {', '.join(self.topics)}{f': {fates}' if fates else ''}"

    def __repr__(self) -> str:
        return tables.visible(f"<{self._said()}>")

    def _repr_html_(self) -> str:
        rows = (
            [
                str(one.at),
                self._clock.show(one.recorded_at),
                one.event_type or "(undecodable)",
                one.event_id or one.key,
                ("" if one.original is None else str(one.original)) + ("" if one.captured else " (not captured)"),
                "—" if one.reason is None else one.reason,
                "—" if one.retries is None else one.retries,
                _fate(one),
            ]
            for one in self[:SHOWN]
        )
        more = f"; the first {SHOWN}" if len(self) > SHOWN else ""
        columns = ["letter", "recorded", "type", "event", "original at", "reason", "retries", "fate"]
        return tables.html(columns, rows, caption=self._said() + more, empty="none") + tables.shell(self.again)


def _original(row: Mapping[str, Any]) -> Coordinates | None:
    told = (row["original_topic"], row["original_partition"], row["original_incarnation"] or 0, row["original_offset"])
    return None if None in told else Coordinates(*told)


def find_dead_letters(events: Events, log: Log, topics: Collection[str], clock: Clock) -> DeadLetters:
    """Every record of the topics of dead letters, with its original, its reason and its fate. Reads their headers in the log, and scans the sorted events four times."""
    read = [topic for topic in topics if topic in events.manifest.topics]
    told = pa.Table.from_pylist([row for topic in read for row in _headers(log, topic)], _TOLD)
    found = table(events, _QUERY, {"topics": read}, tables={"told": told})
    return DeadLetters(found, read, [topic for topic in events.manifest.topics if DEAD.search(topic)], clock)


def _headers(log: Log, topic: str) -> Iterable[dict[str, Any]]:
    """Where each record of a topic stands, and what its headers tell."""
    for life, segments in log.lives().items():
        for reach in reaches(segments) if life[0] == topic else ():
            for records in reach.read(["offset", "headers"]):
                for offset, headers in zip(records["offset"].to_pylist(), records["headers"].to_pylist(), strict=True):
                    yield dict(zip(_PLACE, (*life, offset), strict=True)) | _told({one["key"]: one["value"] for one in headers or ()})


def _told(headers: Mapping[bytes, bytes | None]) -> dict[str, Any]:
    found = {part: next((headers[name] for name in names if name in headers), None) for part, names in HEADERS.items()}
    texts = {part: None if (value := found[part]) is None else value.decode(errors="replace") for part in ("original_topic", "reason")}
    return texts | {part: _number(found[part]) for part in ("original_partition", "original_offset", "retries")}


def _number(value: bytes | None) -> int | None:
    """A number as text, or as Spring writes it, in 4 or 8 bytes: none of those is all digits, unless it is past every partition and offset."""
    if value is None:
        return None
    if value.isdigit():
        return int(value) if len(value) < 19 else None
    return int.from_bytes(value, "big", signed=True) if len(value) in (4, 8) else None
