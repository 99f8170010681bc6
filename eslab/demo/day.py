"""The day on which the shop's story plays: its hours, its traffic and its incidents, in milliseconds since 1970 UTC."""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from itertools import accumulate
from zoneinfo import ZoneInfo

ZONE = ZoneInfo("Europe/Berlin")
DATE = dt.date(2026, 3, 12)
MINUTE = 60_000
HOUR = 60 * MINUTE
_MIDNIGHT = dt.datetime.combine(DATE, dt.time(), ZONE)
START_MS = int(_MIDNIGHT.timestamp()) * 1000
STOP_MS = int((_MIDNIGHT + dt.timedelta(days=1)).timestamp()) * 1000


def clock(text: str) -> int:
    """The moment of the day that its wall clock shows as `HH:MM`."""
    hours, minutes = text.split(":")
    return START_MS + int(hours) * HOUR + int(minutes) * MINUTE


DEPLOY_MS, FIX_MS = clock("10:24"), clock("10:36")
STALL_MS, RESUME_MS, CAUGHT_UP_MS = clock("14:05"), clock("14:47"), clock("14:55")
AHEAD_FROM_MS, AHEAD_TO_MS, AHEAD_BY_MS = clock("19:00"), clock("20:30"), 20 * MINUTE
ERASURE_MS, ERASED_MS = clock("23:15"), clock("23:35")
STOCKTAKING_MS, STOCKTAKEN_MS = clock("23:40"), clock("23:58")
LAST_SYNC_MS = clock("23:38")  # what a handheld scanner still holds then is sent then

# Orders by hour, 00 to 21. None are taken after 22:00: the longest saga takes 75 minutes, and all of it lies within the day.
_HOURLY = (12, 7, 4, 3, 3, 6, 15, 30, 45, 55, 60, 65, 75, 70, 60, 55, 55, 65, 80, 90, 85, 60)
_UNTIL = (0, *accumulate(_HOURLY))

# One order arrives at each of these moments whatever the size of the demo, and is hit by this alone (an empty name: by nothing).
# Those that would spoil each other stand more than an hour apart, so that even the smallest demo gives each its own order.
APPOINTMENTS = (
    ("07:30", "erased"),
    ("09:00", "compensated"),
    ("10:25", "double_charged"),
    ("11:45", "stuck"),
    ("13:10", "late"),
    ("14:15", "stall"),
    ("15:15", "dead_lettered"),
    ("16:30", "notification_style"),
    ("17:30", "state_carrying"),
    ("18:20", "duplicates"),
    ("19:10", "clock_ahead"),
    ("20:30", "version_1"),
    ("21:40", "retried"),
)


def moment(share: float) -> int:
    """When this share (0 to 1) of the day's orders has arrived."""
    weight = share * _UNTIL[-1]
    hour = min(bisect_right(_UNTIL, weight), len(_HOURLY)) - 1
    return START_MS + int((hour + (weight - _UNTIL[hour]) / _HOURLY[hour]) * HOUR)


def share(at_ms: int) -> float:
    """The share of the day's orders that has arrived by then: the inverse of `moment`."""
    hour, rest = divmod(at_ms - START_MS, HOUR)
    return (_UNTIL[hour] + _HOURLY[hour] * rest / HOUR) / _UNTIL[-1] if hour < len(_HOURLY) else 1.0


# looked up, not formatted, for every event: strftime would take half of the generator's time
_MINUTES = [dt.datetime.fromtimestamp(ms / 1000, dt.UTC).strftime("%Y-%m-%dT%H:%M:") for ms in range(START_MS, STOP_MS, MINUTE)]
_SECONDS = [f"{second:02}." for second in range(60)]
_MILLIS = [f"{ms:03}Z" for ms in range(1000)]


def utc(at_ms: int) -> str:
    """The moment as ISO 8601 in UTC with milliseconds, as the events' `timestamp` carries it. Within the day only."""
    ms = at_ms - START_MS
    return _MINUTES[ms // MINUTE] + _SECONDS[ms // 1000 % 60] + _MILLIS[ms % 1000]


def local(at_ms: int) -> str:
    """The moment as ISO 8601 in the day's zone, for people."""
    return dt.datetime.fromtimestamp(at_ms / 1000, ZONE).isoformat(timespec="milliseconds")
