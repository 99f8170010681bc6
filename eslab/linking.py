"""Which events causes link: found by their ids alone, over the files of all events."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from eslab.duck import session
from eslab.events import Events
from eslab.sql import ORDER, query, rows, table

__all__ = ["PLACE", "asked_for", "captured", "facts_of", "last_steps", "linked_with"]

PLACES: Final = 4  # where an event was seen, of which so many are kept
LOOKS: Final = (
    500_000_000  # at links, for one answer: some seconds. Each step further looks at all of them, and a chain may be as long as the log
)

PLACE: Final = ("order_at", "topic", "partition_id", "incarnation", "record_offset")
"""The names of an event's place in the lab's order."""
_FACTS: Final = ("event_type", "source", "record_key", "correlation_id", "causation_id", "happened_at", "recorded_at")


def asked_for(events: Events, name: str, most: int) -> tuple[list[str], bool]:
    """The names that a trace grows from: the event's, and those of its correlation; and whether these are all."""
    seen = query(
        events,
        f"""select event_id, arg_min_null(correlation_id, ({ORDER})) filter (event_id = $name), min(({ORDER})) as place from {{rows}}
        where first and kind = 'event' and $name in (event_id, nullif(correlation_id, ''), nullif(causation_id, '')) group by event_id order by event_id = $name desc, place limit {most + 1}""",
        {"name": name},
    )
    names = dict.fromkeys(row[0] for row in seen)
    correlation = next((row[1] for row in seen if row[0] == name), None)
    if correlation and correlation != name:
        more = query(
            events,
            f"""select event_id from {{rows}} where first and kind = 'event' and correlation_id = $correlation
            group by event_id order by min(({ORDER})) limit {most + 1}""",
            {"correlation": correlation},
        )
        names |= dict.fromkeys(row[0] for row in more)
    return list(names)[:most], len(names) <= most


def linked_with(events: Events, asked: Collection[str], most: int) -> tuple[list[str], bool]:
    """The ids of all events that causes link with these, and whether these are all.

    They are looked for among the hashes of the ids: no event is missed so, and what has a hash in common with another is left out when the trees are grown.
    """
    with session() as con:
        con.execute(
            f"""create temp table links as select hash(event_id) as id, hash(causation_id) as cause, order_at from {rows(events)}
            where first and kind = 'event' and causation_id <> ''"""
        )
        con.execute("create temp table reached as select hash(unnest($asked::varchar[])) as name, 0 as link", {"asked": list(asked)})
        ((size,),) = con.execute("select count(*) from links").fetchall()
        held, link, new = len(asked), 0, len(asked)
        while new and held <= most and link * size <= LOOKS:
            ((new,),) = con.execute(_FURTHER, {"link": link, "room": most + 1 - held}).fetchall()
            held, link = held + new, link + 1
        found = con.execute(
            f"select distinct event_id from {rows(events)} where first and kind = 'event' and hash(event_id) in (select name from reached)"
        ).fetchall()
    return [name for (name,) in found], not new


_FURTHER: Final = """insert into reached select name, $link + 1 from (
    select cause as name, order_at from links where id in (select name from reached where link = $link)
    union all select id, order_at from links where cause in (select name from reached where link = $link)
) where name not in (select name from reached) group by name order by min(order_at), name limit $room"""
"""One link further, from what was reached by the last one: the earliest first, where there is no room for all."""


def facts_of(events: Events, ids: Sequence[str]) -> list[dict[str, Any]]:
    """What a trace shows of each event, by its first occurrence, in the lab's order; how often it was seen, and where at first."""
    place = ", ".join(f"{name} := {name}" for name in PLACE)
    facts = ", ".join(f"{name} := {name}" for name in _FACTS)
    found = table(
        events,
        f"""select event_id, count(*) as seen, arg_min(struct_pack({facts}), ({ORDER})) as facts, min(struct_pack({place}), {PLACES}) as places
        from {{rows}} where first and kind = 'event' and event_id in (select unnest($ids::varchar[])) group by event_id""",
        {"ids": list(ids)},
    )
    told = [
        {"event_id": row["event_id"], "seen": row["seen"], "places": row["places"], **row["facts"], **row["places"][0]}
        for row in found.to_pylist()
    ]
    return sorted(told, key=lambda row: tuple(row[name] for name in PLACE))


def captured(events: Events, names: Sequence[str]) -> set[str]:
    """Which of these are events."""
    found = query(
        events,
        "select distinct event_id from {rows} where first and kind = 'event' and event_id in (select unnest($names::varchar[]))",
        {"names": list(names)},
    )
    return {name for (name,) in found}


def last_steps(events: Events, correlations: Collection[str], ending: Collection[str]) -> set[str]:
    """The ids of the last events of these correlations, each event as it was at first; not of those in which one is of an ending type. A trace may lack some: those that name no cause."""
    found = query(
        events,
        f"""with steps as (
            select correlation_id, event_id, arg_min(event_type, ({ORDER})) as event_type, min(({ORDER})) as place from {{rows}}
            where first and kind = 'event' and correlation_id in (select unnest($correlations::varchar[])) group by all
        ) select arg_max(event_id, place) from steps group by correlation_id having not bool_or(event_type in (select unnest($ending::varchar[])))""",
        {"correlations": list(correlations), "ending": list(ending)},
    )
    return {name for (name,) in found}
