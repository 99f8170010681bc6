"""Time in even pieces: how wide, where they begin, and which points of each are kept for a picture."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from eslab.duck import session
from eslab.errors import MomentError
from eslab.sql import identifier
from eslab.wording import Length, read_length

__all__ = ["choose", "edges", "micros", "thin"]

MOST: Final = 1_000_000  # buckets of one answer: 8 MB a column; more is a slip of the pen

PIXELS: Final = 400  # of a chart's height: what is nearer than half of one is drawn on one line

_EVEN: Final = [
    read_length(one, name="width")
    for one in [
        "1ms",
        "10ms",
        "100ms",
        "1s",
        "2s",
        "5s",
        "10s",
        "15s",
        "30s",
        "1m",
        "2m",
        "5m",
        "10m",
        "15m",
        "30m",
        "1h",
        "2h",
        "3h",
        "6h",
        "12h",
        "1d",
        "7d",
        "28d",
        "364d",
    ]
]


def choose(span_us: int, most: int) -> Length:
    """The smallest usual width that cuts the span into at most so many pieces."""
    return next((one for one in _EVEN if span_us <= one.us * (most - 1)), _EVEN[-1])


def edges(start_us: int, stop_us: int, every: Length, tz: dt.tzinfo) -> np.ndarray:
    """The bounds of the buckets that cover `[start, stop]`: the first is at or before `start`, the last after `stop`.

    They count from midnight in the zone, on the day of `start`. Microseconds since 1970, as everywhere here. Raises `MomentError` for more than a million.
    """
    if (stop_us - start_us) // every.us > MOST:
        raise MomentError(
            f"every={str(every)!r} would make more than {MOST:,} points; {choose(stop_us - start_us, 2000)} would make 2,000 or less"
        )
    day = moment(start_us).astimezone(tz).date()
    if every.unit != "d":
        origin = _midnight(day, tz)
        first = origin + (start_us - origin) // every.us * every.us
        return np.arange(first, stop_us + every.us + 1, every.us, dtype=np.int64)
    out = [_midnight(day, tz)]
    while out[-1] <= stop_us:
        try:
            day += dt.timedelta(days=every.count)
            out.append(_midnight(day, tz))
        except OverflowError:  # past the year 9999, where a hostile timestamp may stand
            out.append(stop_us + 1)
    return np.array(out, dtype=np.int64)


def _midnight(day: dt.date, tz: dt.tzinfo) -> int:
    return micros(dt.datetime.combine(day, dt.time(), tz))


def micros(moment: dt.datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (moment - _EPOCH) // dt.timedelta(microseconds=1)


def moment(us: int) -> dt.datetime:
    """The moment in UTC."""
    return _EPOCH + dt.timedelta(microseconds=us)


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def thin(
    table: pa.Table, series: str, *, highs: Sequence[str], lows: Sequence[str] = (), most: int, heights: Mapping[str, float] | None = None
) -> pa.Table:
    """At most `most` of the rows, as they are: never averaged, so a spike of one row keeps its height and its moment. A table that is small enough is returned whole.

    First go the rows that no eye would miss: those at the height of both their neighbours in a series, to a pixel of a chart that reaches up to `heights` (default: the highest
    value). Where that does not do, each series is cut into as many stretches of time as fit, and of each stay the first row, the last, those with the highest of each of
    `highs` and the lowest of each of `lows`, and one without a value if there is one. The table has a column `time`.
    """
    if table.num_rows <= most:
        return table
    values, own = [identifier(name) for name in dict.fromkeys((*highs, *lows))], identifier(series)
    full = [float((heights or {}).get(name) or 0) for name in dict.fromkeys((*highs, *lows))]
    tops = [f"{identifier(name)} desc nulls last, time" for name in highs] + [f"{identifier(name)} nulls last, time" for name in lows]
    pixels = ", ".join(
        f"round({value} * {PIXELS} / greatest(max({value}) over (), {height}, 1e-9)) as pixel_{at}"
        for at, (value, height) in enumerate(zip(values, full, strict=True))
    )
    seen = [f"row_number() over (partition by {own} order by {top}) = 1" for top in tops]
    seen += [f"pixel_{at} is distinct from {side}(pixel_{at}, 1, -1) over line" for at in range(len(values)) for side in ("lag", "lead")]
    columns = ", ".join(identifier(name) for name in table.column_names)
    chosen = [f"row_number() over (partition by {own}, stretch order by {top}) = 1" for top in (*tops, "time", "time desc")]
    chosen += [
        f"({value} is null and row_number() over (partition by {own}, stretch, {value} is null order by time) = 1)" for value in values
    ]
    with session() as con:
        con.register("points", table)
        con.execute(
            f"""create temp table seen as select {columns} from (select *, {pixels} from points)
            window line as (partition by {own} order by time) qualify {" or ".join(seen)}"""
        )
        ((left, many),) = con.execute(f"select count(*), count(distinct {own}) from seen").fetchall()
        if left <= most:
            return con.sql(f"from seen order by {own}, time").to_arrow_table()
        for kept in range(1, len(chosen) + 1):  # of a stretch, mostly fewer rows stay than could
            found = con.sql(
                f"""with placed as (
                    select *, least(floor((epoch_us(time) - first)::double / (last - first + 1) * $stretches), $stretches - 1) as stretch
                    from seen, (select min(epoch_us(time)) as first, max(epoch_us(time)) as last from seen)
                ) select {columns} from placed qualify {" or ".join(chosen)} order by {own}, time""",
                params={"stretches": max(most // (many * kept), 1)},
            ).to_arrow_table()
            if found.num_rows <= most:
                return found
    raise ValueError(f"{most} points cannot hold {many} series")
