"""The last states of a replay: every key of a projection as of one selection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from eslab.errors import UnknownId
from eslab.folding import Failure
from eslab.keyed import Keeper, KeyedRows
from eslab.model import Selection, pack_state, unpack_state
from eslab.projection import Projection
from eslab.views import tables

__all__ = ["World", "WorldBuilder"]

SHOWN: Final = 20

_SCHEMA: Final = pa.schema([("aggregate_id", pa.string()), ("version", pa.int64()), ("state", pa.binary())])


class World(Mapping[str, Any]):
    """State by aggregate id, as Arrow; a key that failed is in `failed` and has no state.

    `partial` names the keys that a lossy gap may have robbed of events; `ended` counts those left out because a tombstone ended them, `undecodable` the
    records in the selection, of whatever key, that could not be read as events.
    """

    def __init__(
        self,
        projection: Projection,
        selection: Selection,
        rows: KeyedRows,
        failed: Sequence[Failure],
        partial: frozenset[str],
        ended: int,
        events: int,
        undecodable: int = 0,
    ) -> None:
        self.projection, self.selection = projection, selection
        self.failed, self.partial, self.ended, self.events = tuple(failed), partial, ended, events
        self.undecodable = undecodable
        self._rows = rows

    @property
    def complete(self) -> bool:
        """Whether every key has its state, and none may miss events."""
        return not self.failed and not self.partial

    def __getitem__(self, key: str) -> Any:
        found = self._rows.find(key)
        if found is None:
            failure = next((one for one in self.failed if one.key == key), None)
            if failure:
                raise UnknownId(f"{self.projection.aggregate} {key!r} failed at event {failure.event_id or failure.at}: {failure.error}")
            raise UnknownId(f"no {self.projection.aggregate} {key!r} in this world of {len(self):,}; lab.find({key!r}) looks for any id")
        batch, row = found
        return unpack_state(batch.column(2)[row].as_py())

    def __contains__(self, key: object) -> bool:
        return self._rows.find(key) is not None

    def __iter__(self) -> Iterator[str]:
        return self._rows.keys()

    def __len__(self) -> int:
        return len(self._rows)

    def arrow(self) -> pa.Table:
        """aggregate_id, version (steps folded), state (JSON; `Decimal` and `datetime` as docs/format.md writes them)."""
        table = self._rows.table()
        return table.set_column(2, "state", table["state"].cast(pa.string()))

    def df(self) -> pd.DataFrame:
        """One row per key, by aggregate_id; a column per top-level field of the states (`state` for states that are no objects)."""
        states = [unpack_state(text) for batch in self._rows.batches for text in batch.column(2).to_pylist()]
        frame = pd.DataFrame([state if isinstance(state, dict) else {"state": state} for state in states])
        frame.index = pd.Index(list(self), name="aggregate_id", dtype="str")
        return frame

    def __repr__(self) -> str:
        return tables.visible(f"<World of {self.projection.name} v{self.projection.version}: {self._said()}>")

    def _said(self) -> str:
        said = [f"{len(self):,} {self.projection.aggregate} states from {self.events:,} steps", self.selection.cut.label]
        said += [f"{len(self.failed):,} FAILED, so incomplete"] if self.failed else []
        said += [f"{len(self.partial):,} partial"] if self.partial else []
        said += [f"{self.undecodable:,} undecodable records in range"] if self.undecodable else []
        said += [f"{self.ended:,} ended"] if self.ended else []
        return ", ".join(one for one in said if one)

    def _repr_html_(self) -> str:
        rows = [[key, self[key]] for key, _ in zip(self, range(SHOWN), strict=False)]
        more = f"; the first {SHOWN}" if len(self) > SHOWN else ""
        failed = (
            tables.html(["failed", "event", "error"], [[one.key, one.event_id or str(one.at), one.error] for one in self.failed[:SHOWN]])
            if self.failed
            else ""
        )
        return (
            tables.html(
                [self.projection.aggregate, "state"], rows, caption=f"{self.projection.name}: {self._said()}{more}", empty="no states"
            )
            + failed
        )


class WorldBuilder:
    """Takes states in the order of their ids."""

    def __init__(self) -> None:
        self._keeper = Keeper(_SCHEMA)

    def add(self, key: str, version: int, state: Any) -> None:
        """Keep one state. Raises `ProjectionError` if it holds what a state may not."""
        self._keeper.add(key, version, pack_state(state))

    def finish(
        self,
        projection: Projection,
        selection: Selection,
        *,
        failed: Sequence[Failure],
        partial: frozenset[str],
        ended: int,
        events: int,
        undecodable: int,
    ) -> World:
        """The world of all that was added."""
        return World(projection, selection, self._keeper.finish(), failed, partial, ended, events, undecodable)

    def abandon(self) -> None:
        """Remove what a replay that did not end has put on disk."""
        self._keeper.abandon()
