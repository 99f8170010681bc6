"""Rows laid over others: what a what-if takes away from the rows of some keys, and what it puts in, in order."""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eslab.cuts import OrderKey
from eslab.events import EVENTS, Events, Slice
from eslab.model import Coordinates

__all__ = ["Overlay", "Place", "beside", "standing"]

Place = tuple[Any, ...]
"""Where a record stands in the order: its place in the lab's order, then how it was put beside the one that stands there. They compare as tuples do."""

_HERE: Final = (0, 0)


def standing(key: OrderKey) -> Place:
    """The place of a record that stands where the log has it."""
    return (*key, _HERE)


def beside(place: Place, nth: int, *, after: bool) -> Place:
    """Right before or behind a place: nearer to it than what was put there earlier (`nth` grows)."""
    return (*place[:-1], (1, -nth) if after else (-1, nth), _HERE)


@dataclass(frozen=True)
class Overlay:
    """Rows of a projection's keys that are taken away, and rows that are put in. `keys` are those that either touches."""

    gone: frozenset[Coordinates]
    made: pa.Table
    order: Sequence[tuple[str, Place]]
    """Key and place of each row that is put in, ascending."""
    keys: Sequence[str]
    events: Events

    def of(self, key: str) -> Overlay:
        """Of one key alone."""
        low, high = bisect_left(self.order, (key,)), bisect_left(self.order, (key + "\0",))
        return Overlay(self.gone, self.made.slice(low, high - low), self.order[low:high], [key], self.events)

    def over(self, parts: Iterable[Slice]) -> Iterator[Slice]:
        """The rows of some slices, in the order of their keys, with these laid over them. A slice that nothing touches goes through as it is."""
        at = 0
        for part in parts:
            rows = _Order(part)
            if not len(rows):
                continue
            upto = bisect_right(self.order, rows[len(rows) - 1])
            kept = self._kept(part)
            if upto == at and kept is None:
                yield part
            else:
                yield self._slice(self._merged(_whole(part), kept, at, upto))
            at = upto
        if at < len(self.order):
            yield self._slice(self.made.slice(at))

    def whole(self, parts: Iterable[Slice]) -> Slice:
        """The same in one slice."""
        found = list(self.over(parts))
        return found[0] if len(found) == 1 else self._slice(pa.concat_tables([EVENTS.empty_table(), *map(_whole, found)]))

    def _kept(self, part: Slice) -> np.ndarray | None:
        """Which rows of a slice stay; None if all do."""
        offsets = pa.array([at.offset for at in self.gone], pa.int64())
        near = np.flatnonzero(pc.is_in(part.column("record_offset"), value_set=offsets).to_numpy())
        rows = _Order(part)
        gone = [row for row in near.tolist() if Coordinates(*rows[row][1][1:5]) in self.gone]
        if not gone:
            return None
        kept = np.ones(len(rows), np.bool_)
        kept[gone] = False
        return kept

    def _merged(self, rows: pa.Table, kept: np.ndarray | None, at: int, upto: int) -> pa.Table:
        if kept is not None:
            rows = rows.filter(pa.array(kept))
        order = _Order(self._slice(rows))
        where = [bisect_left(range(len(order)), one, key=order.__getitem__) for one in self.order[at:upto]]
        both = pa.concat_tables([rows, self.made.slice(at, upto - at)])
        taken = np.insert(np.arange(len(order)), where, len(order) + np.arange(upto - at))
        return both.take(pa.array(taken))

    def _slice(self, rows: pa.Table) -> Slice:
        return Slice(lambda names: rows, (), None, self.events.decimals)


class _Order:
    """Key and place of each row of a slice, read one by one."""

    def __init__(self, part: Slice) -> None:
        names = ("aggregate_id", "order_at", "topic", "partition_id", "incarnation", "record_offset")
        self._columns = [part.column(name).combine_chunks() for name in names]

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, row: int) -> tuple[str, Place]:
        key, order_at, *place = (column[row].as_py() for column in self._columns)
        return key, standing((order_at.astimezone(dt.UTC), *place))


def _whole(part: Slice) -> pa.Table:
    """All columns of a slice."""
    return pa.table({name: part.column(name) for name in EVENTS.names}).cast(EVENTS)
