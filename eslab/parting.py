"""Two projections folded side by side over the same events: what each key comes to, and where its two states part.

After every step the two sides are held against each other. A side is the state of its projection; one that a tombstone ended is not
there (unless ended keys are asked for). The divergence is the first step after which the sides are not the same (`changes.same`); two
initial states that differ are no divergence of themselves, since no event is to blame. A key whose sides are the same after the last step
is equal, and healed if they had parted before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import pyarrow as pa

from eslab.changes import Changes, diff, same
from eslab.errors import ProjectionError
from eslab.events import Slice
from eslab.folding import Failure, Fold, Rows, stretches
from eslab.keyed import Keeper, KeyedRows
from eslab.model import MISSING, TOMBSTONE, Change, Coordinates, Event, dumps, loads, pack_state, unpack_state
from eslab.replay import ReplayPlan, last_event, may_miss, slices

__all__ = ["GROUPS", "Parted", "pack_changes", "part", "unpack_changes", "unpack_failure"]

GROUPS: Final = ("equal", "different", "only_left", "only_right", "failed_left", "failed_right", "failed_both")
"""What a key can come to. A key that failed is in a group of its own: nothing is said of its other side."""

_EQUAL: Final = pa.schema([("aggregate_id", pa.string()), ("steps", pa.int64())])
_PARTED: Final = pa.schema(
    [
        ("aggregate_id", pa.string()),
        ("group", pa.string()),  # of GROUPS, but for equal; or healed
        ("steps", pa.int64()),
        ("left", pa.binary()),  # the last states, packed; null where there is none
        ("right", pa.binary()),
        ("left_failure", pa.binary()),
        ("right_failure", pa.binary()),
        ("version", pa.int64()),  # of the step after which they first differ, and its event; null where they never did
        ("event_type", pa.string()),
        ("event_id", pa.string()),
        ("recorded_at", pa.timestamp("us", tz="UTC")),
        ("topic", pa.string()),
        ("partition_id", pa.int32()),
        ("incarnation", pa.int32()),
        ("record_offset", pa.int64()),
        ("changes", pa.binary()),  # what differs after that step
    ]
)
KEPT: Final = 1000  # changes at a divergence: a list that moves by one place may bring a million, of which nobody reads more
_NEVER: Final = (None,) * 9


@dataclass(frozen=True, slots=True)
class Parted:
    """What came of it: every key is in one of the groups, or ended on both sides."""

    equal: KeyedRows
    rows: KeyedRows
    counts: dict[str, int]
    healed: int
    ended: int
    partial: frozenset[str]
    steps: int


def part(left: ReplayPlan, right: ReplayPlan, *, on_rows: Callable[[int], None] = lambda count: None) -> Parted:
    """Fold both in one pass over the rows. Each handler is called once for each event.

    Memory: one slice of rows, the two states of one key, and what is kept of the keys that part (about 256 MB, then a temporary file).
    """
    pair = _Pair(left, right)
    try:
        for rows in slices(left):
            pair.take(rows)
            on_rows(rows.table.num_rows)
        pair.end_key()
        return pair.finish()
    except BaseException:
        pair.abandon()
        raise


class _Pair:
    """The two sides of one key at a time."""

    def __init__(self, left: ReplayPlan, right: ReplayPlan) -> None:
        self._todo = (left, right)
        self._left, self._right = Fold(left.projection), Fold(right.projection)
        self._ended_too = left.ended
        self._equal, self._rows = Keeper(_EQUAL), Keeper(_PARTED)
        self._counts: Counter[str] = Counter()
        self._partial: set[str] = set()
        self._steps = 0
        self._key: str | None = None
        self._version = 0
        self._parted: tuple[Any, ...] | None = None

    def take(self, rows_: Slice) -> None:
        """Fold the next rows. Each side gets data of its own: a handler that changes what it was given must not change the other side."""
        rows = Rows(rows_)
        self._steps += len(rows)
        self._partial |= may_miss(self._todo[0], rows_)
        steps = zip(self._left.steps(rows), self._right.steps(rows), strict=True)
        for key, count in stretches(rows):
            if key != self._key:
                self.end_key()
                self._begin(key)
            for version, (one, other) in enumerate(islice(steps, count), self._version + 1):
                self._left.run((one,))
                self._right.run((other,))
                if self._parted is None and not self._agree():
                    self._parted = self._divergence(one[0], version)
            self._version += count

    def end_key(self) -> None:
        """Say what the key that was being folded came to."""
        if self._key is None:
            return
        left, right = self._packed(0), self._packed(1)
        failed = (self._left.failure, self._right.failure)
        if left is None and right is None and failed == (None, None):
            self._counts["ended"] += 1
            return
        group = _failed(*failed) or ("only_right" if left is None else "only_left" if right is None else self._group(left, right))
        self._counts[group] += 1
        if group == "equal":
            self._equal.add(self._key, self._version)
            if self._parted is None:
                return
            group = "healed"
            self._counts[group] += 1
        self._rows.add(self._key, group, self._version, left, right, *map(_pack_failure, failed), *(self._parted or _NEVER))

    def finish(self) -> Parted:
        counts = {group: self._counts[group] for group in GROUPS}
        kept = self._equal.finish(), self._rows.finish()
        return Parted(*kept, counts, self._counts["healed"], self._counts["ended"], frozenset(self._partial), self._steps)

    def abandon(self) -> None:
        self._equal.abandon()
        self._rows.abandon()

    def _begin(self, key: str) -> None:
        self._key, self._version, self._parted = key, 0, None
        self._left.begin()
        self._right.begin()

    def _agree(self) -> bool:
        """Whether the sides are the same; nothing parts where one has failed."""
        left, right = self._left, self._right
        if left.failure is not None or right.failure is not None:
            return True
        if (left.over or right.over) and not self._ended_too:
            return left.over and right.over
        return same(left.state, right.state)

    def _group(self, left: bytes, right: bytes) -> str:
        return "equal" if left == right or same(self._left.state, self._right.state) else "different"

    def _divergence(self, event: Event, version: int) -> tuple[Any, ...]:
        left, right = (MISSING if side.over and not self._ended_too else side.state for side in (self._left, self._right))
        type_ = "(tombstone)" if event.type is TOMBSTONE else event.type
        return (version, type_, event.id, event.recorded_at, *event.coordinates, pack_changes(diff(left, right)[:KEPT]))

    def _packed(self, at: int) -> bytes | None:
        """The state that a side came to, packed; None where it failed or ended."""
        side, todo = (self._left, self._right)[at], self._todo[at]
        if side.failure is not None or (side.over and not self._ended_too):
            return None
        try:
            return pack_state(side.state)
        except ProjectionError as exc:
            assert self._key is not None
            side.fail(last_event(todo, self._key), str(exc))
            return None


def _failed(left: Failure | None, right: Failure | None) -> str:
    return "failed_both" if left and right else "failed_left" if left else "failed_right" if right else ""


def pack_changes(changes: Changes) -> bytes:
    """Bytes that `unpack_changes` turns back; a value that no state may hold, as its text."""
    return pack_state(
        [[list(one.path), *([_kept(side)] if side is not MISSING else [] for side in (one.before, one.after))] for one in changes]
    )


def unpack_changes(text: bytes) -> Changes:
    """The changes from left to right that `pack_changes` packed."""
    return Changes(
        [Change(tuple(path), *(side[0] if side else MISSING for side in sides)) for path, *sides in unpack_state(text)],
        sides=("left", "right"),
    )


def _kept(value: Any) -> Any:
    try:
        pack_state(value)
    except ProjectionError:
        return repr(value)
    return value


def _pack_failure(failure: Failure | None) -> bytes | None:
    return None if failure is None else dumps([failure.event_id, *failure.at, failure.error])


def unpack_failure(key: str, text: bytes | None) -> Failure | None:
    """The failure of a side, if it has one."""
    if text is None:
        return None
    event_id, topic, partition, incarnation, offset, error = loads(text)
    return Failure(key, event_id, Coordinates(topic, partition, incarnation, offset), error)
