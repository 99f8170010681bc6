"""What a what-if makes of the log: which records it takes away, and which stand in it instead. A value; nothing is written.

A record that is put in or changed becomes rows by the same way as one of the log: its payload is decoded by its topic's envelope, and its ids tell to which aggregates it
belongs. So whatever asks for rows (a history, a replay) can be handed those of the log with these laid over them.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from eslab import keying
from eslab.building import rows_of
from eslab.cuts import Clock, OrderKey, occurrences, unknown
from eslab.decode import EVENT
from eslab.duck import session
from eslab.errors import MomentError, UnknownEvent, UnknownTopic, WhatIfError
from eslab.events import EVENTS, Events, held
from eslab.mapping import Mapping as Rules
from eslab.mapping import first_id
from eslab.model import AGGREGATE, MISSING, Coordinates, Life, Record, Selection
from eslab.overlay import Overlay, Place, beside, standing
from eslab.payloads import edited, packed
from eslab.projection import Projection
from eslab.segments import Log, Reach, reaches
from eslab.sources import table_to_records
from eslab.sql import ORDER, query
from eslab.sql import rows as rows_as_sql
from eslab.wording import Length, read_length

__all__ = ["Altered", "Made", "Named"]

Named = str | Coordinates | tuple[str, int, int]
"""How an event is named: by its id (then its first occurrence is meant), or where it stands."""


@dataclass(frozen=True, slots=True)
class Made:
    """A record as it stands in a what-if: `at` is where the log has it, with an offset below 0 if it has not. `done` says what was done to it."""

    record: Record
    at: Coordinates
    place: Place
    rows: pa.Table = field(repr=False)
    done: tuple[str, ...]

    @property
    def order_at(self) -> dt.datetime:
        moment: dt.datetime = self.place[0]
        return moment

    @property
    def event_id(self) -> str | None:
        return self._first("event_id")

    @property
    def causation_id(self) -> str | None:
        return self._first("causation_id")

    @property
    def problem(self) -> str | None:
        """Why it cannot be read as an event; None if it can, or is a tombstone."""
        return self._first("problem")

    def _first(self, column: str) -> str | None:
        value: str | None = self.rows[column][0].as_py()
        return value


@dataclass(frozen=True, slots=True)
class _Found:
    """A record that a verb is about, as the verbs before it left it."""

    at: Coordinates
    place: Place
    made: Made | None


@dataclass(frozen=True)
class Altered:
    """The log of a lab, altered. Every verb returns another one, and sees what the verbs before it left.

    `gone` are records of the log that no longer stand where they did; `made` those that stand instead. `said` has a sentence for each verb, `notes` what is to be known of them.
    """

    events: Events
    log: Log = field(repr=False)
    rules: Rules = field(repr=False)
    clock: Clock = field(repr=False)
    gone: frozenset[Coordinates] = frozenset()
    made: Mapping[Coordinates, Made] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    """The verbs as the options of the shell."""

    # --- the verbs

    def drop(self, told: Named, *, effects: bool) -> Altered:
        found, notes = self._find(told)
        name = self._id(found)
        words = ["--drop", _word(told, found), *(["--effects"] if effects else [])]
        if not effects or name is None:
            return self._without([found.at], f"drop {_shown(told)}", notes, words)
        ids = self._effects(name)
        caused = f" and the {len(ids) - 1:,} that it caused" if len(ids) > 1 else ", which caused none"
        return self._without([*self._occurring(ids), found.at], f"drop {_shown(told)}{caused}", (), words)

    def edit(self, told: Named, changes: Mapping[str, Any]) -> Altered:
        found, notes = self._find(told)
        if not isinstance(changes, Mapping) or not changes:
            raise WhatIfError(f'edit {_shown(told)} how? give what is to stand where, like {{"data.total": 10}}')
        record = self._record(found)
        value = edited(record.value, dict(changes), self.rules.topics[found.at.topic])
        if value is None:
            raise WhatIfError(f"{found.at} is no event, so there is nothing in it to edit; drop it, or insert another")
        made = self._make(found, dataclasses.replace(record, value=value), found.place, "edited")
        if made.problem:
            raise WhatIfError(f"{_shown(told)} would be no event: {made.problem}")
        name = _word(told, found) if len(changes) == 1 else str(found.at)  # the first change may be of its id
        words = [
            word for path, new in changes.items() for word in ("--edit", name, path, "MISSING" if new is MISSING else packed(new).decode())
        ]
        return self._with(made, f"edit {_shown(told)}: {', '.join(map(str, changes))}", notes, words)

    def delay(self, told: Named, by: Any) -> Altered:
        found, notes = self._find(told)
        length = read_length(by, name="by")
        made = self._moved(found, standing((_later(found.place[0], length), *found.at)), "delayed")
        return self._with(made, f"delay {_shown(told)} by {length}", notes, ["--delay", _word(told, found), str(length)])

    def move(self, told: Named, *, before: Named | None, after: Named | None, at: Any) -> Altered:
        found, notes = self._find(told)
        place, where, more, words = self._placed(found.at, before=before, after=after, at=at)
        words = ["--move", _word(told, found), *words]
        return self._with(self._moved(found, place, "moved"), f"move {_shown(told)} {where}", (*notes, *more), words)

    def duplicate(self, told: Named, delay: Any) -> Altered:
        found, notes = self._find(told)
        at = found.at._replace(offset=self._next)
        place, later, words = beside(found.place, -self._next, after=True), "", ["--duplicate", _word(told, found)]
        if delay is not None:
            length = read_length(delay, name="delay")
            place, later, words = standing((_later(found.place[0], length), *at)), f" {length} later", [*words, "--later", str(length)]
        record = dataclasses.replace(self._record(found), offset=at.offset)
        if delay is not None:
            record = dataclasses.replace(record, timestamp_ms=_ms(place[0]))
        made = Made(record, at, place, self._rows(at, record, place), ("duplicate",))
        return self._with(made, f"duplicate {_shown(told)}{later}", notes, words)

    def insert(
        self, event: Any, *, before: Named | None, after: Named | None, at: Any, topic: str | None, key: str | None, end: OrderKey | None
    ) -> Altered:
        """`end` is behind which record an event goes that has neither a place nor a time."""
        if event is not None and not isinstance(event, Mapping):
            raise WhatIfError(
                f'{event!r:.80} is no event; give a dict like {{"eventType": "OrderPaid", "data": {{...}}}}, or None and key= for a tombstone'
            )
        if event is None and key is None:
            raise WhatIfError("a tombstone has nothing but its key: give key=, the id of the aggregate that it ends")
        other = before if before is not None else after
        anchor = end and Coordinates(*end[1:]) if other is None else self._find(other)[0].at
        coordinates, own, notes, words = self._new_place(topic, anchor), None, tuple[str, ...](), list[str]()
        if other is None and at is None:
            own = self._own_time(event, coordinates)
        if other is None and at is None and own is None:
            if end is None:
                raise WhatIfError("insert it where? right before or after an event, at a time, or with a time in the event itself")
            place, where = beside(standing(end), -self._next, after=True), "at the end"
        else:
            place, where, notes, words = self._placed(coordinates, before=before, after=after, at=at if own is None else own)
        identity = first_id(event) if event is not None and key is None else key
        record = Record(
            topic=coordinates.topic,
            partition=coordinates.partition,
            offset=coordinates.offset,
            timestamp_ms=_ms(place[0]),
            timestamp_type="create",
            key=None if identity is None else str(identity).encode(errors="backslashreplace"),
            value=None if event is None else packed(event),
        )
        made = Made(record, coordinates, place, self._rows(coordinates, record, place), ("inserted",))
        if made.problem:
            raise WhatIfError(f"this is no event of topic {coordinates.topic}: {made.problem}")
        what = "a tombstone" if event is None else str(made.rows["event_type"][0].as_py())
        words = ["--insert", "null" if event is None else packed(event).decode(), *(words if own is None else [])]
        words += [word for name, value in (("--topic", topic), ("--key", key)) if value is not None for word in (name, value)]
        return self._with(made, f"insert {_shown(what)} {where}", notes, words)

    # --- what they stand on

    @property
    def _next(self) -> int:
        """The offset, below every one of the log, of the next record that is put in."""
        return -len(self.said) - 1

    def find(self, told: Named) -> tuple[Place, int]:
        """Where an event stands (its first occurrence), and how often its id occurs. Raises `UnknownEvent`."""
        found = self._all(told)
        return found[0].place, len(found)

    def places(self, keys: Iterable[OrderKey]) -> list[Place]:
        """Where records stand, of which the rows tell this."""
        return [self.made[at].place if (at := Coordinates(*key[1:])) in self.made else standing(key) for key in keys]

    def done(self, at: Coordinates) -> str:
        """What was done to a record; "" if nothing was."""
        if at in self.made:
            return ", ".join(dict.fromkeys(self.made[at].done))
        return "dropped" if at in self.gone else ""

    def _find(self, told: Named) -> tuple[_Found, tuple[str, ...]]:
        """The first record that is called so, and what is to be said of others."""
        first, *others = self._all(told)
        more = (
            f"{_shown(told)} was seen {len(others) + 1} times; the first is meant, {first.at} (a (topic, partition, offset) names any one)"
        )
        return first, (more,) if others else ()

    def _all(self, told: Named) -> list[_Found]:
        """Every record that is called so, as it stands now, in order."""
        logged = [(Coordinates(*key[1:]), standing(key)) for key in occurrences(self.events, told)]
        found = [_Found(at, place, None) for at, place in logged if at not in self.gone]
        found += [_Found(one.at, one.place, one) for one in self.made.values() if _is_called(one, told)]
        if not found and logged:
            raise UnknownEvent(f"{_shown(told)} no longer stands in this what-if: it was dropped, or has another id by now")
        if not found:
            raise unknown(told)
        return sorted(found, key=lambda one: one.place)

    def _id(self, found: _Found) -> str | None:
        if found.made is not None:
            return found.made.event_id
        where = dict(zip(("topic", "partition", "incarnation", "offset"), found.at, strict=True))
        asked = "topic = $topic and partition_id = $partition and incarnation = $incarnation and record_offset = $offset"
        ((event_id,),) = query(self.events, f"select event_id from {{rows}} where first and {asked}", where)
        return None if event_id is None else str(event_id)

    def _effects(self, name: str) -> set[str]:
        """An event id, and those of all events that it caused, and that these caused: in the log over all topics, and among what was put in."""
        ids = {name}
        while True:
            ids |= _caused(self.events, ids)
            own = {one.event_id for one in self.made.values() if one.event_id is not None and one.causation_id in ids} - ids
            if not own:
                return ids
            ids |= own

    def _occurring(self, ids: set[str]) -> list[Coordinates]:
        """Every record with one of these event ids, as they stand now."""
        found = query(
            self.events,
            "select topic, partition_id, incarnation, record_offset from {rows} where first and event_id in (select unnest($ids::varchar[]))",
            {"ids": sorted(ids)},
        )
        there = [at for at in (Coordinates(*row) for row in found) if at not in self.gone]
        return [*there, *(one.at for one in self.made.values() if one.event_id in ids)]

    def _record(self, found: _Found) -> Record:
        if found.made is not None:
            return found.made.record
        life, offset = found.at[:3], found.at.offset
        for reach in reaches(self.log.lives().get(life, [])):
            if reach.start <= offset < reach.next:
                for records in Reach(reach.segment, offset, offset + 1).read():
                    return next(table_to_records(life[0], life[1], records))
        raise WhatIfError(f"{found.at} no longer stands in the log")

    def _rows(self, at: Coordinates, record: Record, place: Place) -> pa.Table:
        with session() as con:
            return rows_of(con, at[:3], record, self.rules.topics[at.topic], place[0])

    def _make(self, found: _Found, record: Record, place: Place, done: str) -> Made:
        before = found.made.done if found.made is not None else ()
        return Made(record, found.at, place, self._rows(found.at, record, place), (*before, done))

    def _moved(self, found: _Found, place: Place, done: str) -> Made:
        return self._make(found, dataclasses.replace(self._record(found), timestamp_ms=_ms(place[0])), place, done)

    def _placed(
        self, own: Coordinates, *, before: Named | None, after: Named | None, at: Any
    ) -> tuple[Place, str, tuple[str, ...], list[str]]:
        """The place that is meant, in words too, and in those of the shell."""
        if sum(one is not None for one in (before, after, at)) != 1:
            raise WhatIfError("where to? give one of before= and after= (an event), and at= (a time)")
        if at is not None:
            moment = self.clock.read(at)
            return standing((moment, *own)), f"to {self.clock.show(moment)}", (), ["--to", self.clock.word(moment)]
        other = before if before is not None else after
        assert other is not None
        found, notes = self._find(other)
        if found.at == own:
            raise WhatIfError(f"{_shown(other)} cannot stand beside itself")
        side = "before" if before is not None else "after"
        place = beside(found.place, -self._next, after=before is None)
        return place, f"{side} {_shown(other)}", notes, [f"--{side}", _word(other, found)]

    def _new_place(self, topic: str | None, anchor: Coordinates | None) -> Coordinates:
        """Where a record that the log has not is said to stand: in a partition of its topic, below every offset."""
        lives = sorted((one, partition, life) for (one, partition), life in self.events.manifest.newest.items())
        name = topic if topic is not None else anchor.topic if anchor is not None else None
        if name is None:
            names = list(dict.fromkeys(life[0] for life in lives))
            if len(names) != 1:
                raise WhatIfError(f"insert it into which topic? name one of {', '.join(names) or 'none'}")
            name = names[0]
        mine = [life for life in lives if life[0] == name]
        if not mine:
            raise UnknownTopic(f"the lab has no topic {name!r}; it has {', '.join(dict.fromkeys(life[0] for life in lives)) or 'none'}")
        chosen = anchor[:3] if anchor is not None and anchor[:3] in mine else mine[0]
        return Coordinates(*chosen, self._next)

    def _own_time(self, event: Any, at: Coordinates) -> dt.datetime | None:
        """The time in an event's payload."""
        if event is None:
            return None
        record = Record(topic=at.topic, value=packed(event))
        moment: dt.datetime | None = self._rows(at, record, (dt.datetime.now(dt.UTC),))["happened_at"][0].as_py()
        return moment

    def _with(self, made: Made, said: str, notes: tuple[str, ...], words: Sequence[str]) -> Altered:
        gone = self.gone | {made.at} if made.at.offset >= 0 else self.gone
        return self._then(gone, {**self.made, made.at: made}, said, notes, words)

    def _without(self, these: Iterable[Coordinates], said: str, notes: tuple[str, ...], words: Sequence[str]) -> Altered:
        lost = set(these)
        made = {at: one for at, one in self.made.items() if at not in lost}
        return self._then(self.gone | {at for at in lost if at.offset >= 0}, made, said, notes, words)

    def _then(
        self, gone: frozenset[Coordinates], made: Mapping[Coordinates, Made], said: str, notes: tuple[str, ...], words: Sequence[str]
    ) -> Altered:
        said_now, notes_now, words_now = (*self.said, said), (*self.notes, *notes), (*self.words, *words)
        return dataclasses.replace(self, gone=gone, made=made, said=said_now, notes=notes_now, words=words_now)

    # --- laid over the log

    def holds(self, selection: Selection, these: Iterable[Made]) -> set[Coordinates]:
        """Which of these a selection holds: those that stand in their partition before the first record which its cut leaves out, and came, or happened, by its time."""
        made = list(these)
        limits = {} if self.events.holds_all(Selection(selection.cut)) else self._limits(selection, {one.at[:3] for one in made})
        offsets, until, happened_until = selection.cut.offsets, selection.recorded_until, selection.happened_until

        def in_it(one: Made) -> bool:
            life = one.at[:3]
            if life not in offsets or (life in limits and one.place >= limits[life]) or (until is not None and one.order_at > until):
                return False
            happened = next(filter(None, (one.rows[name][0].as_py() for name in ("happened_at", "recorded_at", "order_at"))))
            return happened_until is None or happened <= happened_until

        return {one.at for one in made if in_it(one)}

    def _limits(self, selection: Selection, lives: set[Life]) -> dict[Life, Place]:
        """The first record of each of these lives that a cut leaves out."""
        limits: dict[Life, Place] = {}
        for life in lives & selection.cut.offsets.keys():
            where = dict(zip(("topic", "partition", "incarnation", "next"), (*life, selection.cut.offsets[life]), strict=True))
            asked = "topic = $topic and partition_id = $partition and incarnation = $incarnation and record_offset >= $next"
            found = query(self.events, f"select {ORDER} from {{rows}} where first and {asked} order by record_offset limit 1", where)
            for order_at, *place in found:
                limits[life] = standing((order_at.astimezone(dt.UTC), *place))
        return limits

    def overlay(self, projection: Projection, selection: Selection) -> Overlay:
        """What all of it changes in the rows that a projection folds of a selection."""
        there = self.holds(selection, self.made.values())
        made = _of(projection, pa.concat_tables([EVENTS.empty_table(), *(self.made[at].rows for at in there)]), self.events)
        gone = _of(projection, self._gone_rows(), self.events)
        gone = gone.filter(pa.array(held(gone, selection)))
        order = [(key, self.made[at].place) for key, at in zip(made["aggregate_id"].to_pylist(), _coordinates(made), strict=True)]
        sorted_ = sorted(range(len(order)), key=order.__getitem__)
        keys = sorted({*made["aggregate_id"].to_pylist(), *gone["aggregate_id"].to_pylist()})
        return Overlay(self.gone, made.take(pa.array(sorted_, pa.int64())), [order[at] for at in sorted_], keys, self.events)

    def _gone_rows(self) -> pa.Table:
        """The rows that the records which are gone have in the log."""
        if not self.gone:
            return EVENTS.empty_table()
        names = ("topic", "partition_id", "incarnation", "record_offset")
        told = pa.table({name: pa.array([at[nth] for at in self.gone], EVENTS.field(name).type) for nth, name in enumerate(names)})
        with session() as con:
            con.register("told", told)
            asked = f"select {', '.join(EVENTS.names)} from {rows_as_sql(self.events)} semi join told using ({', '.join(names)})"
            found = con.sql(asked).to_arrow_table()
        return found.select(EVENTS.names).cast(EVENTS)


def _of(projection: Projection, rows: pa.Table, events: Events) -> pa.Table:
    """Of the rows of some records those that a projection folds, by its keys."""
    if projection.key is not AGGREGATE:
        return keying.rekeyed(rows, events, projection)
    return rows.filter(pc.equal(rows["aggregate"], projection.aggregate))


def _coordinates(rows: pa.Table) -> list[Coordinates]:
    columns = (rows[name].to_pylist() for name in ("topic", "partition_id", "incarnation", "record_offset"))
    return [Coordinates(*at) for at in zip(*columns, strict=True)]


def _caused(events: Events, ids: set[str]) -> set[str]:
    """These ids, and those of all events of the log that they caused, and that those caused. One scan of two columns for each step on the way from cause to effect."""
    found, fresh = set(ids), set(ids)
    asked = f"select distinct event_id from {{rows}} where first and kind = '{EVENT}' and causation_id in (select unnest($ids::varchar[]))"
    while fresh:
        fresh = {event_id for (event_id,) in query(events, asked, {"ids": sorted(fresh)})} - found
        found |= fresh
    return found


def _is_called(one: Made, told: Named) -> bool:
    if isinstance(told, str):
        return one.event_id == told
    at = one.at
    return tuple(told) == (at if isinstance(told, Coordinates) else (at.topic, at.partition, at.offset))


def _shown(told: Named) -> str:
    return told if isinstance(told, str) else "/".join(map(str, told)) if type(told) is tuple else str(told)


def _word(told: Named, found: _Found) -> str:
    """The same for the shell, which takes what has slashes for a place."""
    return told if isinstance(told, str) and "/" not in told else str(found.at)


def _later(moment: dt.datetime, length: Length) -> dt.datetime:
    try:
        return moment + dt.timedelta(microseconds=length.us)
    except OverflowError:
        raise MomentError(f"{length} after {moment.isoformat()} is past the year 9999") from None


def _ms(moment: dt.datetime) -> int:
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)
