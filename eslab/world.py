"""The last states of a replay: every key of a projection as of one selection."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eslab.again import Again
from eslab.apart import WorldChanges, apart
from eslab.errors import ProjectionError, UnknownId
from eslab.folding import Failure
from eslab.keyed import Keeper, KeyedRows
from eslab.model import Cut, Selection, pack_state, pack_states, unpack_state
from eslab.projection import Projection
from eslab.tabular import as_world, asked, written
from eslab.views import tables
from eslab.wording import many

__all__ = ["World", "WorldBuilder"]

SHOWN: Final = 20
TOGETHER: Final = 256  # states that are packed by one call; all of them are in memory until then

_SCHEMA: Final = pa.schema([("aggregate_id", pa.string()), ("version", pa.int64()), ("state", pa.binary()), ("over", pa.bool_())])
"""`over`: a tombstone ended the key. Such rows are kept to go on from, and shown only if they were asked for."""
_SHOWN: Final = pa.schema([("aggregate_id", pa.string()), ("version", pa.int64()), ("state", pa.string())])


class World(Again, Mapping[str, Any]):
    """State by aggregate id, as Arrow; a key that failed is in `failed` and has no state.

    `partial` names the keys that a lossy gap may have robbed of events; `ended` counts those left out because a tombstone ended them, `undecodable` the
    records in the selection, of whatever key, that could not be read as events. DuckDB reads it as it is (`from world`), polars by `polars.DataFrame(world.reader())`, a batch at a time.
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
        self.rows = rows
        self._go_on: Callable[..., World] | None = None
        self._connection: duckdb.DuckDBPyConnection | None = None

    @property
    def complete(self) -> bool:
        """Whether every key has its state, and none may miss events."""
        return not self.failed and not self.partial

    def __getitem__(self, key: str) -> Any:
        found = self._find(key)
        if found is None:
            failure = next((one for one in self.failed if one.key == key), None)
            if failure:
                raise UnknownId(f"{self.projection.aggregate} {key!r} failed at event {failure.event_id or failure.at}: {failure.error}")
            raise UnknownId(f"no {self.projection.aggregate} {key!r} in this world of {len(self):,}; lab.find({key!r}) looks for any id")
        batch, row = found
        return unpack_state(batch.column(2)[row].as_py())

    def __contains__(self, key: object) -> bool:
        return self._find(key) is not None

    def __iter__(self) -> Iterator[str]:
        for batch in self._batches():
            yield from batch.column(0).to_pylist()

    def __len__(self) -> int:
        return len(self.rows) - self.ended

    def _find(self, key: object) -> tuple[pa.RecordBatch, int] | None:
        found = self.rows.find(key)
        return None if found is None or (self.ended and found[0].column(3)[found[1]].as_py()) else found

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """What is shown, with the states as text."""
        for batch in self.rows.batches:
            if self.ended:
                batch = batch.filter(pc.invert(batch.column(3)))
            yield pa.record_batch([batch.column(0), batch.column(1), batch.column(2).cast(pa.string())], schema=_SHOWN)

    def carried_by(self, go_on: Callable[..., World]) -> Self:
        """This world, with what `advance` asks."""
        self._go_on = go_on
        return self

    def advance(self, cut: Cut | str | dt.datetime | None = None, *, progress: bool = True) -> World:
        """The world at a later cut (default: all that is captured now), as `replay` would fold it; this one stays as it is.

        Folds only the events between the two, going on from the states here. A key of which one sorts before what it has seen is folded anew. So is every key where going on would
        not do: its projection has other handlers now, is of a class or has keys of its own, or the log below this world's cut is read by other rules, or holds other records.
        """
        if self._go_on is None:
            raise ProjectionError("this world was not made by lab.replay, and cannot go on")
        return self._go_on(self, cut, progress=progress)

    def reader(self) -> pa.RecordBatchReader:
        """What `arrow` has, a batch at a time: a world that is larger than memory stays on disk."""
        return pa.RecordBatchReader.from_batches(_SHOWN, self._batches())

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.reader().__arrow_c_stream__(requested_schema)

    def arrow(self) -> pa.Table:
        """aggregate_id, version (steps folded), state (JSON; `Decimal` and `datetime` as docs/format.md writes them)."""
        return self.reader().read_all()

    def to_parquet(self, path: str | Path) -> Path:
        """Write what `arrow` has as a Parquet file and return its path. Whole or not at all, in flat memory; an older file is replaced."""
        return written(path, self.reader())

    def sql(self, query: str = "from world", **parameters: Any) -> duckdb.DuckDBPyRelation:
        """Run SQL over `world`: aggregate_id, version, state (JSON: `state ->> 'status'`); `$name` takes a parameter. Returns DuckDB's relation. Raises `QueryError`."""
        if self._connection is None:
            self._connection = as_world(self.reader(), "aggregate_id, version, state::json as state")
        return asked(self._connection, query, parameters)

    def diff(self, other: World) -> WorldChanges:
        """What is not the same in another world of the same keys: each key that changed, came or went from this one to that. Keys that failed in either are left out, and counted.

        Reads both once, in the order of their keys; what differs is kept as Arrow, past 256 MB in a temporary file.
        """
        if self.projection.aggregate != other.projection.aggregate:
            raise ProjectionError(
                f"this is a world of {self.projection.aggregate}, that one of {other.projection.aggregate}; two worlds are held against each other key by key"
            )
        names = tuple(one.selection.cut.label or "a cut" for one in (self, other))
        failed = frozenset(one.key for world in (self, other) for one in world.failed)
        return apart(self._packed(), other._packed(), failed, self.projection.aggregate, names)

    def _packed(self) -> Iterator[tuple[str, bytes]]:
        for batch in self._batches():
            yield from zip(batch.column(0).to_pylist(), batch.column(2).cast(pa.binary()).to_pylist(), strict=True)

    def df(self) -> pd.DataFrame:
        """One row per key, by aggregate_id; a column per top-level field of the states (`state` for states that are no objects)."""
        states = [unpack_state(text) for batch in self._batches() for text in batch.column(2).cast(pa.binary()).to_pylist()]
        frame = pd.DataFrame([state if isinstance(state, dict) else {"state": state} for state in states])
        frame.index = pd.Index(list(self), name="aggregate_id", dtype="str")
        return frame

    def __repr__(self) -> str:
        return tables.visible(f"<World of {self.projection.name} v{self.projection.version}: {self._said()}>")

    def _said(self) -> str:
        said = [f"{many(len(self), f'{self.projection.aggregate} state')} from {many(self.events, 'step')}", self.selection.cut.label]
        said += [f"{len(self.failed):,} FAILED, so incomplete"] if self.failed else []
        said += [f"{len(self.partial):,} partial"] if self.partial else []
        said += [f"{many(self.undecodable, 'undecodable record')} in range"] if self.undecodable else []
        said += [f"without {without}"] if (without := self.selection.cut.without) else []
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
            + tables.shell(self.again)
        )


class WorldBuilder:
    """Takes states in the order of their ids. Those that hold what a state may not are in `refused`, with what is wrong."""

    def __init__(self) -> None:
        self._keeper = Keeper(_SCHEMA)
        self._keys: list[str] = []
        self._versions: list[int] = []
        self._states: list[Any] = []
        self._over: list[bool] = []
        self.ended = 0
        self.refused: list[tuple[str, str]] = []

    def add(self, key: str, version: int, state: Any, *, over: bool = False) -> None:
        """Keep one state; one that is `over` is not shown. It is packed with its neighbours, so it must not change any more."""
        self._keys.append(key)
        self._versions.append(version)
        self._states.append(state)
        self._over.append(over)
        self.ended += over
        if len(self._keys) >= TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Pack what waits for it."""
        rows = self._keys, self._versions, self._states, self._over
        self._keys, self._versions, self._states, self._over = [], [], [], []
        try:
            self._keeper.extend(rows[0], rows[1], pack_states(rows[2]), rows[3])
        except ProjectionError:  # one of them; which one?
            for key, version, state, over in zip(*rows, strict=True):
                try:
                    self._keeper.add(key, version, pack_state(state), over)
                except ProjectionError as exc:
                    self.refused.append((key, str(exc)))
                    self.ended -= over

    def put(self, batch: pa.RecordBatch) -> None:
        """Keep rows of another builder as they are; its `ended` is added by the caller."""
        self._keeper.put(batch)

    def finish(self) -> KeyedRows:
        """All that was added, and not refused."""
        return self._keeper.finish()

    def abandon(self) -> None:
        """Remove what a replay that did not end has put on disk."""
        self._keeper.abandon()
