"""Counts, lists and lengths of time, as people write and read them."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from eslab.errors import MomentError

__all__ = ["Length", "many", "read_length", "some"]

_UNITS: Final = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_NAMES: Final = {"us": "microsecond", "ms": "millisecond", "s": "second", "m": "minute", "h": "hour", "d": "day"}
_SIGNS: Final = {"us": "µs", "m": "min"}  # of units that are read by another name
_LONGEST_US: Final = 10_000 * 366 * _UNITS["d"]  # the years that a time can have


def many(count: int, noun: str) -> str:
    """`1 record`, `2 records`, `1,000 histories`."""
    if count == 1:
        return f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else f"{noun}s"
    return f"{count:,} {plural}"


def some(lines: Sequence[str], most: int = 20) -> Sequence[str]:
    """The first lines, and a last one that says how many more there are."""
    return lines if len(lines) <= most else [*lines[:most], f"... and {len(lines) - most} more"]


@dataclass(frozen=True, slots=True)
class Length:
    """A length of time. As a width of buckets, hours and less are even; days are the zone's own, of 23 to 25 hours where its clocks change."""

    count: int
    unit: str

    @property
    def us(self) -> int:
        """Microseconds; of days, as long as they mostly are."""
        return self.count * _UNITS[self.unit]

    @property
    def s(self) -> float:
        """Seconds, likewise."""
        return self.us / 1_000_000

    def __str__(self) -> str:
        return f"{self.count}{self.unit}"

    @property
    def told(self) -> str:
        """As people write it: `5 s`, `10 min`, `1 h`."""
        return f"{self.count} {_SIGNS.get(self.unit, self.unit)}"

    @property
    def words(self) -> str:
        """For a sentence: `minute`, `5 minutes`."""
        return _NAMES[self.unit] if self.count == 1 else f"{self.count} {_NAMES[self.unit]}s"


def read_length(told: object, *, name: str, least: int = 1) -> Length:
    """A length of time: `500ms`, `5s`, `1.5m`, `2h`, `1d`, a number of seconds, or a timedelta.

    Raises `MomentError`, which calls it by its name, for anything else, and for what is shorter than `least` microseconds.
    """
    length = _read(told)
    if length is None or not least <= length.us <= _LONGEST_US:
        raise MomentError(f'{name}={told!r} is no length of time; write seconds, or a number and ms, s, m, h or d: "500ms", "5s", "10m"')
    return length


def _read(told: object) -> Length | None:
    if isinstance(told, str):
        match = re.fullmatch(r"(\d{1,12})(?:\.(\d{1,6}))?(ms|s|m|h|d)", told.strip(), re.ASCII)
        if match is None:
            return None
        if not match[2]:
            return Length(int(match[1]), match[3])
        return _whole(Fraction(f"{match[1]}.{match[2]}") * _UNITS[match[3]])
    if isinstance(told, dt.timedelta):
        return _whole(Fraction(told // dt.timedelta(microseconds=1)))
    if isinstance(told, (int, float)) and not isinstance(told, bool) and math.isfinite(told):
        return _whole(Fraction(told) * _UNITS["s"])
    return None


def _whole(us: Fraction) -> Length:
    """In the largest unit up to hours that it is a whole number of: a day is not always 24 hours long."""
    rounded = round(us)
    unit = next(unit for unit in ("h", "m", "s", "ms", "us") if rounded % _UNITS[unit] == 0)
    return Length(rounded // _UNITS[unit], unit)
