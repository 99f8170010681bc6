"""Where the shop's consumer groups stood over the day, one of them stalled: computed from when the records came."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from eslab.demo import day
from eslab.demo.sagas import INVENTORY, ORDERS, PAYMENTS, SHIPMENTS, TOPICS
from eslab.demo.story import PARTITIONS, TICK_MS, Story
from eslab.positions import by_time
from eslab.samples import SAMPLES

GROUPS = {
    "billing": ((ORDERS, PAYMENTS), 2),
    "read-model": ((ORDERS, PAYMENTS, INVENTORY, SHIPMENTS), 1),
    "shipping": ((ORDERS, INVENTORY, SHIPMENTS), 1),
}
"""What each group reads, and how many ticks its commits usually stand behind the log's end."""

STALLED = ("read-model", ORDERS)
_PER_MINUTE = day.MINUTE // TICK_MS


def samples(story: Story, prefix: str = "") -> pa.Table:
    """The positions of every group, each minute of the day, as `SAMPLES`. `story` must have been told to its end."""
    ends = np.frombuffer(story.ends, dtype=np.int64).reshape(-1, len(TOPICS), PARTITIONS)
    parts = [
        _one(
            group,
            prefix + topic,
            partition,
            ends[:, TOPICS.index(topic), partition],
            _reached(len(ends), behind, (group, topic) == STALLED),
        )
        for group, (topics, behind) in GROUPS.items()
        for topic in topics
        for partition in range(PARTITIONS)
    ]
    return by_time(pa.concat_tables(parts))


def _reached(ticks: int, behind: int, stalls: bool) -> np.ndarray:  # noqa: FBT001
    """For each tick, the tick up to which the group has read: where it stalls the same one, afterwards it catches up evenly."""
    now = np.arange(ticks)
    reached = np.maximum(now - behind, 0)
    if stalls:
        stall, resume, caught_up = ((at - day.START_MS) // TICK_MS for at in (day.STALL_MS, day.RESUME_MS, day.CAUGHT_UP_MS))
        still = (now >= stall) & (now < caught_up)
        pace = (reached[caught_up] - reached[stall]) / (caught_up - resume)
        reached[still] = reached[stall] + (np.maximum(now[still] - resume, 0) * pace).astype(np.int64)
    return reached


def _one(group: str, topic: str, partition: int, ends: np.ndarray, reached: np.ndarray) -> pa.Table:
    """One group on one partition. It commits at a tick where it has read something new, and not before its first record."""
    committed = ends[reached]
    news = np.flatnonzero(np.diff(committed, prepend=0))
    now = np.arange(0, len(ends) - 1, _PER_MINUTE)
    commits = np.searchsorted(news, now, side="right")  # how many there were by then
    never = commits == 0
    last = news[np.maximum(commits - 1, 0)] if len(news) else np.zeros_like(now)
    rows = len(now)
    columns = {
        "group": pa.array([group] * rows),
        "topic": pa.array([topic] * rows),
        "partition": pa.array(np.full(rows, partition, dtype=np.int32)),
        "committed": pa.array(committed[now], mask=never),
        "log_start": pa.array(np.zeros(rows, dtype=np.int64)),
        "log_end": pa.array(ends[now]),
        "sampled_at": _times(now),
        "committed_at": _times(last, never),
        "origin": pa.array(["demo"] * rows),
    }
    return pa.table(columns, schema=SAMPLES)


def _times(ticks: np.ndarray, mask: np.ndarray | None = None) -> pa.Array[Any]:
    times: pa.Array[Any] = pa.array((day.START_MS + ticks * TICK_MS) * 1000, mask=mask).cast(SAMPLES.field("sampled_at").type)
    return times
