"""What stands where no value of JSON would do."""

from __future__ import annotations

from enum import Enum
from typing import Final

__all__ = ["AGGREGATE", "EACH", "MISSING", "TOMBSTONE", "Sentinel"]


class Sentinel(Enum):
    MISSING = "MISSING"
    TOMBSTONE = "TOMBSTONE"
    EACH = "EACH"
    AGGREGATE = "AGGREGATE"

    def __repr__(self) -> str:
        return self.value

    __str__ = __repr__

    def __bool__(self) -> bool:
        return False


MISSING: Final = Sentinel.MISSING
"""The side of a change that is not there; JSON null is `None`."""
TOMBSTONE: Final = Sentinel.TOMBSTONE
"""The event type of a record whose value is null."""
EACH: Final = Sentinel.EACH
"""In an id path: every element of a list, written `[]`."""
AGGREGATE: Final = Sentinel.AGGREGATE
"""What a projection is keyed by if nothing else is said."""
