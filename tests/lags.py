"""Groups and partitions of every kind, and a plain oracle of their lag: one moment at a time, over lists."""

from __future__ import annotations

import datetime as dt
import random
import statistics
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from eslab import Lab, Record
from eslab.samples import SAMPLES, write_samples
from eslab.sources import Hole
from eslab.sources.memory import MemorySource

BASE = dt.datetime(2026, 3, 12, 9, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)


def at(seconds: float) -> dt.datetime:
    return BASE + dt.timedelta(seconds=seconds)


class Gapped(MemorySource):
    """Records at the offsets that they name, and a cause for each offset that is missing between two."""

    def __init__(self, records: list[Record], causes: dict[tuple[str, int, int], str] | None = None, topic_id: str = "id") -> None:
        super().__init__()
        self._causes = causes or {}
        for record in records:
            self._topic_ids.setdefault(record.topic, f"{record.topic}-{topic_id}")
            self._logs.setdefault((record.topic, record.partition), []).append(record)

    def read(self, ranges):
        for chunk in super().read(ranges):
            place = chunk.topic, chunk.partition
            holes = [
                Hole(one, one + 1, self._causes.get((*place, one), "compaction"))
                for hole in chunk.holes
                for one in range(hole.start, hole.next)
            ]
            yield replace(chunk, holes=tuple(holes))


def record(offset: int, seconds: float, *, topic: str = "orders", partition: int = 0, kind: str = "create") -> Record:
    stamp = int(at(seconds).timestamp() * 1000)
    return Record(
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp_ms=stamp,
        timestamp_type=kind,
        key=b"a",
        value=b'{"eventType": "X", "data": {"orderId": "a"}}',
    )


def sample(
    seconds: float, committed: int | None, *, group: str = "g", topic: str = "orders", partition: int = 0, **more: Any
) -> dict[str, Any]:
    """One row of `SAMPLES`; `log_start`, `log_end`, `committed_at` (in seconds), `origin` are null and watch unless they are given."""
    row = dict.fromkeys(SAMPLES.names) | {"group": group, "topic": topic, "partition": partition, "committed": committed, "origin": "watch"}
    row |= {"sampled_at": at(seconds), **more}
    if row["committed_at"] is not None:
        row["committed_at"] = at(row["committed_at"])
    return row


def lab_of(folder: Path, records: list[Record], samples: list[dict[str, Any]], causes: Any = None, *, tz: str = "UTC") -> Lab:
    lab = Lab(folder, tz=tz, say=lambda text: None)
    if records:
        lab.snapshot(Gapped(records, causes), progress=False)
    if samples:
        write_samples(folder, pa.Table.from_pylist(samples, schema=SAMPLES))
    return lab


# --- made ones ------------------------------------------------------------------------------------


@dataclass
class Made:
    """Partitions with one group on them: the records, the samples, and for each missing offset why it is."""

    records: list[Record] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    causes: dict[tuple[str, int, int], str] = field(default_factory=dict)


def made(seed: int, partitions: int) -> Made:
    """Logs with gaps of every cause and times that fall back; polls and commits, rare and dense, forward and back, with and without what a sample may leave out."""
    out = Made()
    for partition in range(partitions):
        dice = random.Random(f"{seed}/{partition}")
        if dice.random() < 0.9:
            _records(out, dice, partition)
        _samples(out, dice, partition)
    return out


def _records(out: Made, dice: random.Random, partition: int) -> None:
    offset, seconds = dice.choice([0, 0, 0, 7]), 0.0
    tidy = dice.random() < 0.4
    for _ in range(dice.randint(1, 40)):
        while not tidy and dice.random() < 0.2:
            out.causes["orders", partition, offset] = dice.choice(["compaction", "control", "aborted", "retention", "unknown"])
            offset += 1
        back = 0 if tidy else dice.choice([0, 0, 0, 5, 200])
        kind = dice.choice(["create", "append"])
        out.records.append(record(offset, seconds - back, partition=partition, kind=kind))
        offset, seconds = offset + 1, seconds + dice.choice([0, 1, 1, 7.5, 60, 300])


def _samples(out: Made, dice: random.Random, partition: int) -> None:
    seconds, committed = dice.choice([-30.0, 0.0, 45.0]), dice.choice([None, 0, 3])
    pace, origins, ends = dice.choice([10, 60]), dice.choice([["watch"], ["demo"], ["commits"], ["watch", "commits"]]), dice.random() < 0.6
    for _ in range(dice.randint(1, 25)):
        origin = dice.choice(origins)
        known = origin == "commits" or dice.random() < 0.3
        out.samples.append(
            sample(
                seconds,
                committed,
                partition=partition,
                origin=origin,
                committed_at=None if not known else seconds if origin == "commits" else seconds + dice.choice([-1, -9, 3]),
                log_start=dice.choice([None, 0, 2, 9]) if ends else None,
                log_end=(committed or 0) + dice.choice([0, 0, 1, 20]) if ends and dice.random() < 0.8 else None,
            )
        )
        seconds += dice.choice([pace, pace, pace, pace * 0.5, pace * 40])
        committed = dice.choice([None, 0, (committed or 0) + 1] + [(committed or 0) + dice.randint(0, 6)] * 4 + [committed] * 6)


# --- the oracle -----------------------------------------------------------------------------------

MICRO = dt.timedelta(microseconds=1)


@dataclass(frozen=True)
class Told:
    """What the oracle says of one partition at one moment."""

    committed: int | None
    end: int | None
    lag: int | None
    records: int | None
    lag_s: float | None


def oracle(made: Made, partition: int, moment: dt.datetime) -> Told:
    log = ordered([one for one in made.records if one.partition == partition])
    samples = [one for one in made.samples if one["partition"] == partition]
    missing = {
        offset
        for (_, where, offset), cause in made.causes.items()
        if where == partition and cause not in ("compaction", "control", "aborted")
    }
    if log:
        missing |= set(range(log[0][0]))  # below the log's start when it was captured
    reach = log[-1][0] + 1 if log else 0
    seen = position(samples, moment)
    committed = None if seen is None else seen[0]
    end = log_end(log, samples, moment)
    starts = [one["log_start"] for one in by_time(samples) if one["sampled_at"] <= moment and one["log_start"] is not None]
    unknown = committed is None or end is None or (log and committed > end and committed > reach)
    if unknown:
        return Told(committed, end, None, None, None)
    first = max(committed, starts[-1]) if starts else committed
    lag = max(end - first, 0)
    if not log:
        return Told(committed, end, lag, 0 if lag == 0 else None, 0.0 if lag == 0 else None)
    between = [one for one in log if first <= one[0] < end]
    whole = not (missing & set(range(first, end))) and (end <= reach or first >= end)
    records = len(between) if whole else None
    if lag == 0:
        return Told(committed, end, lag, records, 0.0)
    if between:
        sure = not (missing & set(range(first, between[0][0])))
        return Told(committed, end, lag, records, max((moment - between[0][1]) / dt.timedelta(seconds=1), 0.0) if sure else None)
    return Told(committed, end, lag, records, 0.0 if whole else None)


def ordered(records: list[Record]) -> list[tuple[int, dt.datetime]]:
    """(offset, order_at): the running maximum of the timestamps."""
    out, latest = [], None
    for one in sorted(records, key=lambda one: one.offset):
        stamp = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=one.timestamp_ms)
        latest = stamp if latest is None else max(latest, stamp)
        out.append((one.offset, latest))
    return out


def by_time(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(samples, key=lambda one: one["sampled_at"])


def facts(samples: list[dict[str, Any]]) -> list[tuple[dt.datetime, dt.datetime, int, bool]]:
    """(true at, said at, committed or -1, a commit itself): of what is said of one moment the latest."""
    out: dict[dt.datetime, tuple[dt.datetime, dt.datetime, int, bool]] = {}
    for one in samples:
        value = -1 if one["committed"] is None else one["committed"]
        times = [one["sampled_at"]]
        if one["committed"] is not None and one["committed_at"] is not None and one["committed_at"] < one["sampled_at"]:
            times.append(one["committed_at"])
        for time in times:
            fact = (time, one["sampled_at"], value, one["origin"] == "commits")
            out[time] = max(out.get(time, fact), fact)
    return [out[time] for time in sorted(out)]


def position(samples: list[dict[str, Any]], moment: dt.datetime) -> tuple[int | None] | None:
    """The position, None in a tuple where it had none; None where it is not known."""
    known = facts(samples)
    before, after = [one for one in known if one[0] <= moment], [one for one in known if one[0] > moment]
    if not before:
        return None
    time, _, value, _ = before[-1]
    alike = after and after[0][2] == value
    if not any(one[3] for one in before) and not alike and (moment - time) / MICRO >= hold_us(samples):
        return None
    return (None if value == -1 else value,)


def hold_us(samples: list[dict[str, Any]]) -> int:
    polls = sorted({one["sampled_at"] for one in samples if one["origin"] != "commits"})
    return 3 * int(statistics.median((later - sooner) / MICRO for sooner, later in pairwise(polls))) if len(polls) > 1 else 60_000_000


def log_end(log: list[tuple[int, dt.datetime]], samples: list[dict[str, Any]], moment: dt.datetime) -> int | None:
    told = [one for one in by_time(samples) if one["sampled_at"] <= moment and one["log_end"] is not None]
    if not log:  # a sample's word alone, for as long as a poll holds
        return told[-1]["log_end"] if told and (moment - told[-1]["sampled_at"]) / MICRO < hold_us(samples) else None
    came = [offset + 1 for offset, time in log if time <= moment]
    captured = came[-1] if came else 0 if log[0][0] == 0 else None
    ends = [one for one in (captured, told[-1]["log_end"] if told else None) if one is not None]
    return max(ends) if ends else None
