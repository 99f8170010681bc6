"""The first event after which a key's state is as a predicate asks, for every key, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import pyarrow as pa

from eslab.cuts import Clock
from eslab.errors import ProjectionError
from eslab.folding import Failure, Rows
from eslab.looking import COLUMNS, Gathered, Looking, Predicate, Turn, Turns, walk
from eslab.model import Event, pack_state
from eslab.projection import Projection
from eslab.replay import ReplayPlan
from eslab.views import tables

__all__ = ["First", "Firsts", "find_firsts"]

SHOWN: Final = 20


class First(Turn):
    """A key, its first event after which the predicate held, and the state then."""

    said = "the first event after which it held"


class Firsts(Turns[First]):
    """One row per key for which the predicate ever held, in the lab's order of the events that brought it about.

    `failed` are the keys whose handler raised before it held, `partial` those that may miss events.
    """

    each = First

    def __init__(self, table: pa.Table, name: str, failed: Sequence[Failure], partial: frozenset[str], keys: int, clock: Clock) -> None:
        super().__init__(table, clock)
        self._name = name
        self.failed, self.partial, self.keys = tuple(failed), partial, keys

    @property
    def first(self) -> First | None:
        """The earliest of all; None if it never held."""
        return self[0] if len(self) else None

    def _said(self) -> str:
        said = f"{self._name}: held for {len(self):,} of {self.keys:,} keys"
        if self.first is not None:
            said += f", first at {self._clock.show(self.first.recorded_at)} ({self.first.key}, version {self.first.version})"
        said += f"; {len(self.failed):,} keys FAILED before it held" if self.failed else ""
        return said + (f"; {len(self.partial):,} keys are partial" if self.partial else "")

    def __repr__(self) -> str:
        return tables.visible(f"<{self._said()}>")

    def _repr_html_(self) -> str:
        rows = [one.row() for one in self[:SHOWN]]
        more = f"; the first {SHOWN}" if len(self) > SHOWN else ""
        return tables.html(COLUMNS, rows, caption=self._said() + more, empty="it never held") + tables.shell(self.again)


def find_firsts(todo: ReplayPlan, predicate: Predicate, clock: Clock, *, on_rows: Callable[[int], None] = lambda count: None) -> Firsts:
    """Fold every key until the predicate holds for its state. It is asked after each event that a handler folded, and not of a key that a tombstone ended.

    Raises `ProjectionError` where the predicate raises, naming the key.
    """
    if not callable(predicate):
        raise ProjectionError(f"{predicate!r:.80} is no predicate; give a function that takes a key's state and says whether it is so")
    watching = _Watching(todo.projection, predicate)
    partial = walk(todo, watching, watching.over_with, on_rows=on_rows)
    name = getattr(predicate, "__name__", "the predicate").replace("<lambda>", "the predicate")
    return Firsts(watching.found.table(), f"{name} over {todo.projection.name}", watching.failed, partial, watching.keys, clock)


class _Watching(Looking):
    """Asks a predicate after each step until it holds."""

    def __init__(self, projection: Projection, predicate: Predicate) -> None:
        super().__init__(projection)
        self._predicate, self._held = predicate, False
        self.found = Gathered()
        self.failed: list[Failure] = []
        self.keys = 0

    def begin(self) -> None:
        super().begin()
        self._held = False

    def look(self, state: Any, event: Event) -> None:
        if self._held:
            return
        try:
            held = bool(self._predicate(state))
        except Exception as exc:
            raise self.refuse("the predicate", exc, state, event) from exc
        if held:
            self.found.add(self.key, *self.place(event), pack_state(state))
            self._held = True

    def leave(self, rows: Rows) -> None:
        self.found.take(rows)

    def over_with(self, key: str) -> None:
        """Count a key, and keep what it failed with before it held."""
        self.keys += 1
        if self.failure is not None and not self._held:
            self.failed.append(self.failure)
