"""What the partitions of a group come to at some moments, as tables."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from eslab import consumption
from eslab.consumption import NONE, WHY, Part, Values

__all__ = ["frame", "summed", "table"]


def table(parts: Sequence[Part], at: Sequence[np.ndarray], zone: dt.tzinfo) -> pa.Table:
    """A row per moment and partition, by time: time, topic, partition, committed, end, lag, records, lag_s, known, why."""
    found = [consumption.evaluate(part, when) for part, when in zip(parts, at, strict=True)]
    times = np.concatenate([np.zeros(0, np.int64), *at])
    which = np.repeat(np.arange(len(parts)), [len(when) for when in at])
    order = np.lexsort((which, times))
    columns = (
        Values(*(np.concatenate([np.zeros(0, np.int64), *column])[order] for column in zip(*found, strict=True)))
        if found
        else Values(*[times] * 6)
    )
    which = which[order]
    seconds = pa.array(columns.lag_us / 1e6, mask=columns.lag_us == NONE)
    topics = pa.DictionaryArray.from_arrays(
        pa.array(which, pa.int32()), pa.array([part.topic for part in parts], pa.string())
    ).dictionary_decode()
    return pa.table(
        {
            "time": pa.array(times[order]).cast(pa.timestamp("us", tz=str(zone))),
            "topic": topics,
            "partition": pa.array(np.array([part.partition for part in parts], np.int32)[which] if parts else [], pa.int32()),
            **{name: _nullable(getattr(columns, name)) for name in ("committed", "end", "lag", "records")},
            "lag_s": seconds,
            "known": pa.array(columns.lag != NONE),
            "why": pa.DictionaryArray.from_arrays(pa.array(columns.why, pa.int8()), pa.array(WHY)).dictionary_decode(),
        }
    )


def summed(parts: Sequence[Part], at: np.ndarray, zone: dt.tzinfo) -> pa.Table:
    """The partitions together at each moment: sums over those of which the lag is known, the longest lag_s, and how many are not known."""
    produced, consumed, lag, known = (np.zeros(len(at), np.int64) for _ in range(4))
    longest = np.full(len(at), NONE)
    for part in parts:
        values = consumption.evaluate(part, at)
        here = values.lag != NONE
        known += here
        lag += np.where(here, values.lag, 0)
        produced += np.where(here, values.end, 0)
        consumed += np.where(here, values.end - values.lag, 0)
        longest = np.maximum(longest, values.lag_us)
    nothing = known == 0
    return pa.table(
        {
            "time": pa.array(at).cast(pa.timestamp("us", tz=str(zone))),
            "produced": pa.array(produced, mask=nothing),
            "consumed": pa.array(consumed, mask=nothing),
            "lag": pa.array(lag, mask=nothing),
            "lag_s": pa.array(longest / 1e6, mask=longest == NONE),
            "unknown": pa.array(len(parts) - known),
        }
    )


def frame(table: pa.Table) -> pd.DataFrame:
    """With integers that can be null and stay integers."""
    made: pd.DataFrame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return made


def _nullable(values: np.ndarray) -> Any:
    return pa.array(values, mask=values == NONE)
