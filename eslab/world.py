"""The last states of a replay: every key of a projection as of one selection."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from eslab.errors import UnknownId
from eslab.model import Coordinates, Selection, pack_state, unpack_state
from eslab.projection import Projection
from eslab.views import tables

__all__ = ["Failure", "World", "WorldBuilder"]

IN_MEMORY: Final = 256 << 20  # bytes of states; past that they go to a temporary file outside the lab
BATCH: Final = 8192  # keys
SHOWN: Final = 20

_SCHEMA: Final = pa.schema([("aggregate_id", pa.string()), ("version", pa.int64()), ("state", pa.binary())])


@dataclass(frozen=True, slots=True)
class Failure:
    """A key whose fold ended in an error, and the event it was at."""

    key: str
    event_id: str | None
    at: Coordinates
    error: str


class World(Mapping[str, Any]):
    """State by aggregate id, as Arrow; a key that failed is in `failed` and has no state.

    `partial` names the keys that a lossy gap may have robbed of events; `ended` those left out because a tombstone ended them.
    """

    def __init__(
        self,
        projection: Projection,
        selection: Selection,
        batches: Sequence[pa.RecordBatch],
        failed: Sequence[Failure],
        partial: frozenset[str],
        ended: int,
        events: int,
    ) -> None:
        self.projection, self.selection = projection, selection
        self.failed, self.partial, self.ended, self.events = tuple(failed), partial, ended, events
        self._batches = batches
        self._lasts = [batch.column(0)[len(batch) - 1].as_py() for batch in batches]

    @property
    def complete(self) -> bool:
        """Whether every key has its state, and none may miss events."""
        return not self.failed and not self.partial

    def __getitem__(self, key: str) -> Any:
        at = self._find(key)
        if at is None:
            failure = next((one for one in self.failed if one.key == key), None)
            if failure:
                raise UnknownId(f"{self.projection.aggregate} {key!r} failed at event {failure.event_id or failure.at}: {failure.error}")
            raise UnknownId(f"no {self.projection.aggregate} {key!r} in this world of {len(self):,}; lab.find({key!r}) looks for any id")
        batch, row = at
        return unpack_state(self._batches[batch].column(2)[row].as_py())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    def __iter__(self) -> Iterator[str]:
        for batch in self._batches:
            yield from batch.column(0).to_pylist()

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._batches)

    def _find(self, key: str) -> tuple[int, int] | None:
        for at in range(len(self._lasts)):  # batches are few: one per 8,192 keys
            if key <= self._lasts[at]:
                ids = self._batches[at].column(0)
                row = bisect_right(range(len(ids)), key, key=lambda one: ids[one].as_py()) - 1
                return (at, row) if row >= 0 and ids[row].as_py() == key else None
        return None

    def arrow(self) -> pa.Table:
        """aggregate_id, version (steps folded), state (JSON; `Decimal` and `datetime` as docs/format.md writes them)."""
        return pa.Table.from_batches(self._batches, _SCHEMA).set_column(
            2, "state", pa.chunked_array([batch.column(2).cast(pa.string()) for batch in self._batches], pa.string())
        )

    def df(self) -> pd.DataFrame:
        """One row per key, by aggregate_id; a column per top-level field of the states (`state` for states that are no objects)."""
        states = [unpack_state(text) for batch in self._batches for text in batch.column(2).to_pylist()]
        frame = pd.DataFrame([state if isinstance(state, dict) else {"state": state} for state in states])
        frame.index = pd.Index(list(self), name="aggregate_id", dtype="str")
        return frame

    def __repr__(self) -> str:
        return f"<World of {self.projection.name} v{self.projection.version}: {self._said()}>"

    def _said(self) -> str:
        said = [f"{len(self):,} {self.projection.aggregate} states from {self.events:,} steps", self.selection.cut.label]
        said += [f"{len(self.failed):,} FAILED, so incomplete"] if self.failed else []
        said += [f"{len(self.partial):,} partial"] if self.partial else []
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
    """Takes states in the order of their ids; past 256 MB they go to a temporary file that goes with the world."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, int, bytes]] = []
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        self._folder: Path | None = None
        self._writer: Any = None

    def add(self, key: str, version: int, state: Any) -> None:
        """Keep one state. Raises `ProjectionError` if it holds what a state may not."""
        self._rows.append((key, version, pack_state(state)))
        if len(self._rows) >= BATCH:
            self._flush()

    def finish(
        self, projection: Projection, selection: Selection, *, failed: Sequence[Failure], partial: frozenset[str], ended: int, events: int
    ) -> World:
        """The world of all that was added."""
        self._flush()
        batches: Sequence[pa.RecordBatch] = self._batches
        if self._writer is not None and self._folder is not None:
            self._writer.close()
            reader = pa.ipc.open_file(pa.memory_map(str(self._folder / "states.arrow")))
            batches = [reader.get_batch(at) for at in range(reader.num_record_batches)]
        world = World(projection, selection, batches, failed, partial, ended, events)
        if self._folder is not None:
            weakref.finalize(world, shutil.rmtree, str(self._folder), True)
        return world

    def abandon(self) -> None:
        """Remove the temporary file of a replay that did not end."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _flush(self) -> None:
        if not self._rows:
            return
        batch = pa.record_batch(
            [pa.array(column, field.type) for column, field in zip(zip(*self._rows, strict=True), _SCHEMA, strict=True)], schema=_SCHEMA
        )
        self._rows = []
        self._bytes += batch.nbytes
        if self._writer is None and self._bytes > IN_MEMORY:
            self._folder = Path(tempfile.mkdtemp(prefix="eslab-world-"))
            self._writer = pa.ipc.new_file(str(self._folder / "states.arrow"), _SCHEMA)
            for kept in self._batches:
                self._writer.write_batch(kept)
            self._batches = []
        if self._writer is None:
            self._batches.append(batch)
        else:
            self._writer.write_batch(batch)
