"""The events of one aggregate, folded to any position: states are kept every so often, so that a seek folds few."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from eslab.folding import Rows, apply, events_of
from eslab.model import Event
from eslab.projection import Projection
from eslab.stepping import Folded
from eslab.steps import Step

__all__ = ["Tape"]

EVERY: Final = 512  # steps between two kept states: a seek folds at most so many, 1 to 2 ms, and a million events keep 2,000 states


class Tape:
    """`events` are those of `rows`, decoded where one is asked for its data. Position n stands before the step that folds `events[n]`.

    `failure` is the position whose handler raised, once one did, and what: nothing after it is folded.
    """

    def __init__(self, rows: Rows, projection: Projection) -> None:
        self.rows, self.projection = rows, projection
        self.events: list[Event] = events_of(rows)
        self.failure: tuple[int, str] | None = None
        self._kept: dict[int, Any] = {0: projection.initial()}
        self._ids: list[str | None] = rows.list("event_id")
        self._first = _first_seen(self._ids)

    def __len__(self) -> int:
        return len(self.events)

    def state_at(self, position: int) -> Any:
        """A fresh state after so many steps; past a failed step, the state before it."""
        if self.failure is not None:
            position = min(position, self.failure[0])
        start = max(at for at in self._kept if at <= position)
        state = copy.deepcopy(self._kept[start])
        for at in range(start, position):
            if at % EVERY == 0:
                self._keep(at, state)
            state, mark = self._apply(at, state)
            if mark == "failed":
                return self.state_at(at)
        return state

    def state_after(self, held: np.ndarray) -> tuple[Any, str]:
        """A fresh state after the steps at these positions alone, and what failed on the way there ("" for nothing)."""
        count = len(held)
        if count == 0 or held[-1] == count - 1:  # the first ones
            state = self.state_at(count)
            if self.failure is None or count <= self.failure[0]:
                return state, ""
            return state, f"step {self.failure[0] + 1} failed: {self.failure[1]}; this is the state before it"
        state = self.projection.initial()
        for at, position in enumerate(held):
            try:
                state, _ = apply(self.projection, state, self.events[position])
            except Exception as exc:  # noqa: BLE001  # a handler is the user's: whatever it raises is shown at its step
                before, _ = self.state_after(held[:at])  # what a handler left half done is no state
                return before, f"step {position + 1} failed: {type(exc).__name__}: {exc}; this is the state before it"
        return state, ""

    def step(self, position: int) -> Step:
        """The step at a position."""
        return self._step(position, self.state_at(position))

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """The steps at positions first to last (exclusive), each folded once."""
        state = self.state_at(first)
        for position in range(first, last):
            step = self._step(position, state)
            yield step
            state = copy.deepcopy(step.after)

    def folded(self, first: int, last: int) -> Iterator[Folded]:
        """The same, without the states before; the state after is lent until the next one is asked for."""
        state = self.state_at(first)
        for position in range(first, last):
            if position % EVERY == 0:
                self._keep(position, state)
            state, mark = self._fold_one(position, state)
            if mark == "failed":
                state = self.state_at(position)  # what a handler left half done is no state
            event_type = self.events[position].type
            yield Folded(event_type if isinstance(event_type, str) else None, state, *self._told(position, mark))

    def _step(self, position: int, before: Any) -> Step:
        after, mark = self._fold_one(position, copy.deepcopy(before))
        after = copy.deepcopy(before) if mark == "failed" else after
        return Step(position + 1, self.events[position], before, after, *self._told(position, mark))

    def _fold_one(self, position: int, state: Any) -> tuple[Any, str | None]:
        """The state after a step, and its mark; `state` is given away."""
        if self.failure is not None and position > self.failure[0]:
            return state, "skipped"
        return self._apply(position, state)

    def _apply(self, position: int, state: Any) -> tuple[Any, str | None]:
        """Fold one step; `state` is given away: a handler that fails may have changed it."""
        try:
            return apply(self.projection, state, self.events[position])
        except Exception as exc:  # noqa: BLE001  # as above
            self.failure = (position, f"{type(exc).__name__}: {exc}")
            return state, "failed"
        finally:
            self.events[position].forget()  # or a long history would hold all its data decoded

    def _keep(self, position: int, state: Any) -> None:
        if position not in self._kept:
            self._kept[position] = copy.deepcopy(state)

    def _told(self, position: int, mark: str | None) -> tuple[tuple[str, ...], str | None]:
        """The marks of a step, and what there is to say about them; to be ignored on purpose is none."""
        problem, mark = None, None if mark == "ignored" else mark
        if mark == "undecodable":
            problem = self.rows.value("problem", position) or "its data holds a number that no float can hold"
        elif self.failure is not None and mark in ("failed", "skipped"):
            at, error = self.failure
            problem = error if mark == "failed" else f"step {at + 1} failed: {error}"
        first = self._first.get(self._ids[position] or "")
        if first is None or first == position:
            return ((mark,) if mark else ()), problem
        return ("duplicate", *((mark,) if mark else ())), problem or f"the same event id as step {first + 1}"


def _first_seen(event_ids: Sequence[str | None]) -> dict[str, int]:
    seen: dict[str, int] = {}
    for position, event_id in enumerate(event_ids):
        if event_id is not None:
            seen.setdefault(event_id, position)
    return seen
