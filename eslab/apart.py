"""What differs between two worlds, key by key: the same projection at two moments, or what a consumer knew beside what was so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from eslab.changes import Changes, diff, same
from eslab.errors import UnknownId
from eslab.keyed import Keeper, KeyedRows
from eslab.model import MISSING, format_path, unpack_state
from eslab.views import tables

__all__ = ["WorldChanges", "apart"]

SHOWN: Final = 20
KINDS: Final = ("equal", "changed", "came", "went", "failed")
"""What can be of a key: in both and the same, or not; only in the second world, or only in the first; failed in either, of which nothing is said."""

_SCHEMA: Final = pa.schema([("aggregate_id", pa.string()), ("before", pa.binary()), ("after", pa.binary())])


class WorldChanges(Mapping[str, Changes]):
    """The keys that are not the same in two worlds, and the changes of each; `counts` has the number of keys of every kind."""

    def __init__(self, aggregate: str, names: tuple[str, ...], rows: KeyedRows, counts: Mapping[str, int]) -> None:
        self.aggregate, self.names, self.counts = aggregate, names, dict(counts)
        self._rows = rows

    def __getitem__(self, key: str) -> Changes:
        found = self._rows.find(key)
        if found is None:
            raise UnknownId(f"{self.aggregate} {key!r} is not among the {len(self):,} that differ")
        batch, row = found
        return _changes(batch.column(1)[row].as_py(), batch.column(2)[row].as_py())

    def __contains__(self, key: object) -> bool:
        return self._rows.find(key) is not None

    def __iter__(self) -> Iterator[str]:
        return self._rows.keys()

    def __len__(self) -> int:
        return len(self._rows)

    def df(self) -> pd.DataFrame:
        """One row per key that differs, by aggregate_id: kind (changed, came, went), paths (that changed)."""
        rows = [(key, kind, [format_path(one.path) for one in changes]) for key, kind, changes in self._told()]
        frame = pd.DataFrame(rows, columns=["aggregate_id", "kind", "paths"]).astype({"aggregate_id": "str", "kind": "str"})
        return frame.set_index("aggregate_id")

    def arrow(self) -> pa.Table:
        """The keys that differ with both states, before and after, as JSON (`Decimal` and `datetime` as docs/format.md writes them); null where there is none."""
        table = self._rows.table()
        for at, side in enumerate(("before", "after"), 1):
            table = table.set_column(at, side, table[side].cast(pa.string()))
        return table

    def _told(self) -> Iterator[tuple[str, str, Changes]]:
        for row in self._rows.rows():
            kind = "came" if row["before"] is None else "went" if row["after"] is None else "changed"
            yield row["aggregate_id"], kind, Changes([]) if kind != "changed" else _changes(row["before"], row["after"])

    def _said(self) -> str:
        counted = ", ".join(f"{self.counts[kind]:,} {kind}" for kind in KINDS if self.counts[kind] or kind in ("equal", "changed"))
        return f"{self.aggregate}: {counted} (before: {self.names[0]}; after: {self.names[1]})"

    def _whole(self, key: str) -> str:
        """The one state of a key that came or went."""
        (only,) = self[key]
        return tables.show(only.before if only.after is MISSING else only.after)

    def __repr__(self) -> str:
        return tables.visible(f"<WorldChanges of {self._said()}>")

    def _repr_html_(self) -> str:
        rows = (
            [key, kind, "; ".join(map(str, changes)) or self._whole(key)]
            for (key, kind, changes), _ in zip(self._told(), range(SHOWN), strict=False)
        )
        more = f"; the first {SHOWN}" if len(self) > SHOWN else ""
        return tables.html(
            [self.aggregate, "kind", "changes, or the state that came or went"], rows, caption=self._said() + more, empty="nothing differs"
        )


def apart(
    left: Iterator[tuple[str, bytes]], right: Iterator[tuple[str, bytes]], failed: frozenset[str], aggregate: str, names: tuple[str, ...]
) -> WorldChanges:
    """Walk along two sorted rows of keys and packed states at once. Of the keys that failed nothing is said."""
    keeper, counts = Keeper(_SCHEMA), Counter[str](failed=len(failed))
    try:
        for key, before, after in _beside(left, right):
            if key in failed:
                continue
            kind = "came" if before is None else "went" if after is None else "equal" if _equal(before, after) else "changed"
            counts[kind] += 1
            if kind != "equal":
                keeper.add(key, before, after)
        return WorldChanges(aggregate, names, keeper.finish(), {kind: counts[kind] for kind in KINDS})
    except BaseException:
        keeper.abandon()
        raise


def _beside(left: Iterator[tuple[str, bytes]], right: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes | None, bytes | None]]:
    """Every key with its state on either side."""
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        key = min(side[0] for side in (one, other) if side is not None)
        before = after = None
        if one is not None and one[0] == key:
            before, one = one[1], next(left, None)
        if other is not None and other[0] == key:
            after, other = other[1], next(right, None)
        yield key, before, after


def _equal(before: bytes, after: bytes) -> bool:
    return before == after or same(unpack_state(before), unpack_state(after))


def _changes(before: Any, after: Any) -> Changes:
    return diff(*(MISSING if side is None else unpack_state(side) for side in (before, after)))
