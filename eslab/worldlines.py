"""A world held against what it would be with other events: the keys that these touch, and what each comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import pandas as pd
import pyarrow as pa

from eslab.again import Again
from eslab.apart import WorldChanges
from eslab.changes import Changes
from eslab.errors import UnknownId
from eslab.folding import Failure
from eslab.model import format_path
from eslab.timelines import SIDES, Timelines
from eslab.views import tables
from eslab.wording import many
from eslab.world import World

__all__ = ["WorldTimelines"]

SHOWN: Final = 20
KINDS: Final = ("changed", "came", "went", "failed", "equal", "ended")
"""What can be of a key: two states that differ, or one on one side alone (the other ended, or has no event); failed on either side; the same state; no state on either."""


class WorldTimelines(Again, Mapping[str, Timelines]):
    """The keys that a what-if touches; of each, `[key]` has both timelines. No other key was folded.

    `before` and `after` are the worlds of these keys, `changes` what is not the same in them, `counts` how many came to what.
    """

    def __init__(self, before: World, after: World, keys: Sequence[str], open_: Callable[[str], Timelines], said: Sequence[str]) -> None:
        self.before, self.after, self.said = before, after, tuple(said)
        self.changes: WorldChanges = before.diff(after)
        self._keys, self._open = tuple(keys), open_
        self._failures: dict[str, list[tuple[str, Failure]]] = {}
        for side, world in zip(SIDES, (before, after), strict=True):
            for failure in world.failed:
                self._failures.setdefault(failure.key, []).append((side, failure))

    def __getitem__(self, key: str) -> Timelines:
        if key not in self._keys:
            raise UnknownId(f"{self.before.projection.aggregate} {key!r} is not among the {len(self):,} that are touched: it is as it was")
        return self._open(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    @property
    def counts(self) -> dict[str, int]:
        """How many of the keys that are touched came to what."""
        kinds = [kind for _, kind, _ in self._told()]
        return {kind: kinds.count(kind) for kind in KINDS}

    def df(self) -> pd.DataFrame:
        """One row per key that is touched, by aggregate_id: kind (changed, came, went, failed, equal, ended), paths (that differ), problem (of a side that failed)."""
        rows = [(key, kind, [format_path(one.path) for one in changes], self._problem(key)) for key, kind, changes in self._told()]
        frame = pd.DataFrame(rows, columns=["aggregate_id", "kind", "paths", "problem"])
        return frame.astype({"aggregate_id": "str", "kind": "str", "problem": "str"}).set_index("aggregate_id")

    def arrow(self) -> pa.Table:
        """What `df` has, in Arrow."""
        rows = [
            {"aggregate_id": key, "kind": kind, "paths": [format_path(one.path) for one in changes], "problem": self._problem(key)}
            for key, kind, changes in self._told()
        ]
        schema = pa.schema(
            [("aggregate_id", pa.string()), ("kind", pa.string()), ("paths", pa.list_(pa.string())), ("problem", pa.string())]
        )
        return pa.Table.from_pylist(rows, schema)

    def _told(self) -> Iterator[tuple[str, str, Changes]]:
        for key in self._keys:
            there = (key in self.before, key in self.after)
            if key in self._failures:
                yield key, "failed", Changes([])
            elif there == (True, True):
                changes = self.changes[key] if key in self.changes else Changes([])
                yield key, "changed" if changes else "equal", changes
            else:
                yield key, {(False, True): "came", (True, False): "went"}.get(there, "ended"), Changes([])

    def _problem(self, key: str) -> str:
        return "; ".join(f"{side} failed: {one.error} (at {one.event_id or one.at})" for side, one in self._failures.get(key, ()))

    def _said(self) -> str:
        projection = self.before.projection
        counted = ", ".join(f"{count:,} {kind}" for kind, count in self.counts.items() if count)
        return f"{projection.name} v{projection.version}: {many(len(self), f'{projection.aggregate} key')} touched{f': {counted}' if counted else ''}"

    def __repr__(self) -> str:
        return tables.visible(f"<WorldTimelines of {self._said()}>")

    def _repr_html_(self) -> str:
        done = f"<p>{tables.escape('; '.join(self.said))}</p>" if self.said else ""
        rows = (
            [key, kind, self._problem(key) or "; ".join(map(str, changes))]
            for (key, kind, changes), _ in zip(self._told(), range(SHOWN), strict=False)
        )
        more = f"; the first {SHOWN}" if len(self) > SHOWN else ""
        columns = [self.before.projection.aggregate, "", f"{SIDES[0]} → {SIDES[1]}"]
        shown = tables.html(columns, rows, caption=f"{self._said()}{more}; [key] has both timelines", empty="nothing is touched")
        return done + shown + tables.shell(self.again)
