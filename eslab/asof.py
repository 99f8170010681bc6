"""As-of macros: `from order_as_of(TIMESTAMPTZ '2026-03-12 10:31:00Z')` in SQL, for every aggregate by the default projection and for SQL projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eslab.decode import EVENT, TOMBSTONE_KIND, json_path
from eslab.model import EACH, Path
from eslab.quoting import identifier, literal

__all__ = ["aggregate_macro", "guarded"]

_PART = 1 << 32
"""More elements than a list has: an element's place is its path's number times this, and its own number."""


def guarded(moment: str, macro: str) -> str:
    """The moment that a macro was given, as SQL; an error for what is no TIMESTAMPTZ, since a time without a zone is a guess."""
    said = f"{macro}(moment) takes a TIMESTAMPTZ: write {macro}(TIMESTAMPTZ '2026-03-12 10:31:00+01:00'), with the zone; this is a "
    return f"case when typeof({moment}) = 'TIMESTAMP WITH TIME ZONE' then {moment}::TIMESTAMPTZ else error({literal(said)} || typeof({moment})) end"


def aggregate_macro(macro: str, aggregate: str, source: str, order: str, elements: Mapping[str, Sequence[Path]]) -> str:
    """The statement that makes an aggregate's macro: aggregate_id, version and state (JSON, by the default projection) of every key that a tombstone has not ended.

    `source` are the sorted events as SQL, `order` the lab's order. `elements` are the id paths from `data` on, of each topic that reaches the aggregate through a list.
    """
    return f"""create macro {identifier(macro)}(moment) as table
    with steps as (
        select aggregate_id, topic, kind, event_type, event_version, data, {_READABLE} as readable,
            row_number() over (partition by aggregate_id order by {order}) as nth
        from {source} where aggregate = {literal(aggregate)} and order_at <= {guarded("moment", macro)}
    ), keys as (
        select aggregate_id, max(nth) as version, coalesce(max(nth) filter (kind = '{TOMBSTONE_KIND}'), 0) as reset,
            coalesce(max(nth) filter (readable), 0) as newest,
            arg_max(event_type, nth) filter (readable) as event_type, arg_max({{'is': event_version}}, nth) filter (readable) as event_version
        from steps group by aggregate_id having reset = 0 or newest > reset
    ), pieces as (
        {_pieces(elements)}
    ), merged as (
        select aggregate_id, field.key, arg_max(field.value, (nth, part, field.id)) as value
        from (select pieces.* from pieces join keys using (aggregate_id) where nth > reset and json_type(piece) = 'OBJECT'), json_each(piece) as field
        group by all
    ), fields as (
        select aggregate_id, key, value::json as value from merged where key not in ('_type', '_version')
        union all select aggregate_id, '_type', to_json(event_type) from keys where newest > 0
        union all select aggregate_id, '_version', to_json(event_version.is) from keys where newest > 0 and event_version.is is not null
    ), states as (
        select aggregate_id, json_group_object(key, value) as state from fields group by aggregate_id
    )
    select aggregate_id, version, coalesce(state, '{{}}'::json) as state from keys left join states using (aggregate_id)"""


# JSON by its grammar may hold a number that fits no float, or an integer past 4,300 digits, which Python does not read: no fold can use
# such an event. Numbers are looked at only where one is so long, or has so large an exponent, that it could be one
_READABLE = f"""kind = '{EVENT}' and not (regexp_matches(data, '[0-9]{{200}}|[eE][+]?[0-9]{{3}}') and coalesce(list_bool_or(list_transform(
            regexp_extract_all(regexp_replace(data, '"(?:[^"\\\\]|\\\\.)*"', '', 'g'), '-?[0-9]+(?:[.][0-9]+)?(?:[eE][+-]?[0-9]+)?'),
            lambda told: case when regexp_matches(told, '[.eE]') then isinf(try_cast(told as double)) else length(ltrim(told, '-')) > 4300 end)), false))"""


def _pieces(elements: Mapping[str, Sequence[Path]]) -> str:
    """What of each event is merged into its key, and in which order: all of its data, or the elements of a list that carry the id."""
    topics = ", ".join(literal(topic) for topic in elements)
    whole = "select aggregate_id, nth, 0::bigint as part, data as piece from steps where readable" + (
        f" and topic not in ({topics})" if elements else ""
    )
    return "\n        union all ".join(
        [whole, *(_carriers(topic, path, nth) for topic, paths in elements.items() for nth, path in enumerate(paths))]
    )


def _carriers(topic: str, path: Path, nth: int) -> str:
    if EACH not in path:
        return f"""select aggregate_id, nth, {nth * _PART}::bigint as part, data as piece from steps
            where readable and topic = {literal(topic)} and {_carries("data", path)}"""
    behind = len(path) - path[::-1].index(EACH)
    return f"""select aggregate_id, nth, {nth * _PART} + place as part, piece from (
            select aggregate_id, nth, unnest(found) as piece, generate_subscripts(found, 1) as place from (
                select aggregate_id, nth, json_extract(data, {literal(json_path(path[:behind]))}) as found from steps where readable and topic = {literal(topic)}))
            where {_carries("piece", path[behind:])}"""


def _carries(piece: str, path: Path) -> str:
    """Whether the value at a path is the id: text as it is, an integer by its digits."""
    at = literal(json_path(path))
    return f"""case json_type({piece}, {at}) when 'VARCHAR' then {piece} ->> {at} = aggregate_id
            else regexp_full_match(aggregate_id, '0|-?[1-9][0-9]*') and json_extract({piece}, {at})::varchar = aggregate_id end"""
