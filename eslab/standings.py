"""What is known of a consumer group, brought together: its samples, and the captured records of the topics that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from eslab.consumption import EVER, NONE, Captured, Part
from eslab.duck import session
from eslab.events import Events
from eslab.model import Life
from eslab.segments import LOSSY, Log
from eslab.sql import literal, rows

__all__ = ["parts_of"]

HOLDS: Final = 3  # usual intervals between two polls: for so long a poll is believed if the next one tells another position
FIRST_HOLDS_US: Final = 60_000_000  # of a group that was polled once: nothing says how often it is

NOT_CAPTURED: Final = frozenset({*LOSSY} - {"compaction"})
"""The causes of holes that held records at the time: what compaction removed was there too, but is nothing that a consumer waits for."""

TopicPartition = tuple[str, int]


def parts_of(events: Events, log: Log, samples: pa.Table, topics: Sequence[str]) -> tuple[Part, ...]:
    """Every partition of these topics that is captured or that one group's `samples` tell of, in order. Reads the offsets and times of all their records."""
    captured, seen = _captured(events, log, topics), _seen(samples)
    return tuple(_part(place, captured.get(place, ()), seen.get(place, {})) for place in sorted({*captured, *seen}))


# --- the captured records -------------------------------------------------------------------------


def _captured(events: Events, log: Log, topics: Sequence[str]) -> dict[TopicPartition, list[Captured]]:
    """Every life of each partition, in order; what came to an older one after the next began is left out."""
    states = sorted(state.life for state in events.manifest.lives if state.topic in topics)
    reach = {state.life: state.next for state in events.manifest.lives}
    records = _records(events, topics)
    holes: dict[Life, list[tuple[int, int]]] = {}
    for life, hole in log.holes():
        if life in reach and life[0] in topics and hole.cause in NOT_CAPTURED:
            holes.setdefault(life, []).append((hole.start, hole.next))
    out: dict[TopicPartition, list[Captured]] = {}
    for life in reversed(states):
        offsets, times = records.get(life, (_ints(), _ints()))
        later = out.setdefault(life[:2], [])
        if later and len(later[0].times):
            before = int(np.searchsorted(times, later[0].times[0]))
            offsets, times = offsets[:before], times[:before]
        if not len(offsets) and later:
            continue
        bounds = np.array(sorted(holes.get(life, [])), dtype=np.int64).reshape(-1, 2)
        later.insert(0, Captured(offsets, times, reach[life], (bounds[:, 0], bounds[:, 1])))
    return out


def _records(events: Events, topics: Sequence[str]) -> dict[Life, tuple[np.ndarray, np.ndarray]]:
    """Offsets and order_at of every captured record of these topics, by life."""
    named = ", ".join(map(literal, topics)) or "null"
    with session() as con:
        found = con.sql(
            f"""select list_position([{named}], topic)::integer - 1 as topic, partition_id, incarnation, record_offset, epoch_us(order_at) as us
            from {rows(events, newest=False)} where first and topic in ({named}) order by all"""
        ).to_arrow_table()
    topic, partition, incarnation, offset, at = (found[name].to_numpy() for name in found.column_names)
    bounds = np.flatnonzero((np.diff(topic) != 0) | (np.diff(partition) != 0) | (np.diff(incarnation) != 0)) + 1
    spans = zip([0, *bounds.tolist()], [*bounds.tolist(), len(offset)], strict=True) if len(offset) else ()
    return {(topics[topic[low]], int(partition[low]), int(incarnation[low])): (offset[low:high], at[low:high]) for low, high in spans}


# --- the samples ----------------------------------------------------------------------------------


def _ints(values: Sequence[int] = ()) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def _seen(samples: pa.Table) -> dict[TopicPartition, dict[str, np.ndarray]]:
    """The samples of each partition, by time, as columns: NONE for null."""
    with session() as con:
        con.register("samples", samples)
        found = con.sql(
            f"""select topic, partition, epoch_us(sampled_at) as sampled_at, coalesce(epoch_us(committed_at), {NONE}) as committed_at,
                coalesce(committed, {NONE}) as committed, coalesce(log_start, {NONE}) as log_start, coalesce(log_end, {NONE}) as log_end, origin = 'commits' as exact
            from samples order by topic, partition, sampled_at, committed nulls first, log_end nulls first"""
        ).to_arrow_table()
    if not found.num_rows:
        return {}
    columns = {name: found[name].to_numpy(zero_copy_only=False) for name in found.column_names[1:]}
    topics = found["topic"].combine_chunks().dictionary_encode()
    bounds = np.flatnonzero((np.diff(topics.indices.to_numpy()) != 0) | (np.diff(columns["partition"]) != 0)) + 1
    spans = zip([0, *bounds.tolist()], [*bounds.tolist(), found.num_rows], strict=True)
    return {
        (topics[low].as_py(), int(columns["partition"][low])): {name: each[low:high] for name, each in columns.items()}
        for low, high in spans
    }


def _part(place: TopicPartition, lives: Sequence[Captured], seen: dict[str, Any]) -> Part:
    """A sample tells a position twice: at the moment of the sample, and at that of the commit, where that is known."""
    if not seen:
        nothing = _ints()
        return Part(*place, lives, nothing, nothing, nothing, nothing.astype(bool), nothing, nothing, nothing, nothing, nothing, nothing)
    sampled, committed, exact = seen["sampled_at"], seen["committed"], seen["exact"]
    earlier = np.flatnonzero((committed != NONE) & (seen["committed_at"] != NONE) & (seen["committed_at"] < sampled))
    at = np.concatenate([sampled, seen["committed_at"][earlier]])
    said = np.concatenate([sampled, sampled[earlier]])
    what = np.concatenate([committed, committed[earlier]])
    is_exact = np.concatenate([exact, exact[earlier]])
    order = np.lexsort((what, said, at))
    last = order[np.append(np.diff(at[order]) != 0, True)]  # of what is told of one moment, the latest word
    at, what, is_exact = at[last], what[last], np.maximum.accumulate(is_exact[last])
    polls = np.unique(sampled[~exact])
    holds = HOLDS * int(np.median(np.diff(polls))) if len(polls) > 1 else FIRST_HOLDS_US
    next_, next_what = np.append(at[1:], EVER), np.append(what[1:], NONE - 1)
    until = np.where(is_exact | (what == next_what), next_, np.minimum(next_, at + holds))
    starts, ends = seen["log_start"] != NONE, seen["log_end"] != NONE
    ends_at = sampled[ends]
    ends_until = np.minimum(np.append(ends_at[1:], EVER), ends_at + holds)
    return Part(
        *place,
        lives,
        at,
        what,
        until,
        is_exact,
        sampled[starts],
        seen["log_start"][starts],
        ends_at,
        seen["log_end"][ends],
        ends_until,
        polls,
    )
