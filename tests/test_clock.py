"""Times as people read them: a column of them at once, held against one after another."""

import datetime as dt
import random
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from eslab.cuts import Clock

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
DAY = 86_400_000_000


def changes(zone: ZoneInfo, first: int, last: int) -> list[int]:
    """The microseconds since 1970 at which the clocks of a zone are changed, between two days since then."""

    def there(micros: int) -> tuple[object, ...]:
        local = (EPOCH + dt.timedelta(microseconds=micros)).astimezone(zone)
        return local.utcoffset(), local.tzname()

    found = []
    for day in range(first, last):
        low, high = day * DAY, (day + 1) * DAY
        before = there(low)
        if there(high) != before:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if there(middle) == before else (low, middle)
            found.append(high)
    return found


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/St_Johns", "Africa/Monrovia", "Australia/Lord_Howe", "Asia/Gaza", None])
def test_a_column_of_times_is_shown_as_each_of_them_is(name):
    zone = name and ZoneInfo(name)
    draw = random.Random(name)
    turns = [*changes(zone, 365 * 2, 365 * 4), *changes(zone, 365 * 38, 365 * 42)] if zone else []
    micros = [at + near for at in [*turns, 0] for near in (-60_000_000, -1_000_000, -1, 0, 1, 999, 1000, 59_999_999)]
    micros += [draw.randrange(-719_162, 2_932_896) * DAY + draw.choice([0, 1_000_000, draw.randrange(DAY)]) for _ in range(300)]
    clock = Clock(zone, None)
    for chosen in (micros, [at for at in micros if at >= 3 * 366 * DAY], []):
        told = [None, *chosen]
        moments = pa.chunked_array([pa.array(told[:100], pa.timestamp("us", "UTC")), pa.array(told[100:], pa.timestamp("us", "UTC"))])
        expected = [None if at is None else clock.show(EPOCH + dt.timedelta(microseconds=at)) for at in told]
        assert clock.show_each(moments) == expected
