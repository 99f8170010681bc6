"""The fold itself: sorted rows in, states out. History, replay and compare all stand on it."""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from operator import sub
from typing import Any, Final, NoReturn, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eslab.decode import UNDECODABLE, with_decimals
from eslab.errors import ProjectionError
from eslab.events import PLACE, Slice, held
from eslab.markup import visible
from eslab.model import MISSING, TOMBSTONE, Coordinates, Event, Selection, loads, loads_each
from eslab.projection import Handler, Projection

__all__ = ["FOLD_COLUMNS", "Failure", "Fold", "Rows", "Step", "apply", "events_of", "keep", "stretches"]

FOLD_COLUMNS: Final = ("event_type", "data")
"""What a fold reads of every row, beside the key; the rest is read when a handler asks for it."""
BLOCK: Final = 64  # events that are decoded together: more of them alive at once feed the garbage collector


class Rows:
    """The columns of a slice as Python values, each read only where an event is asked for it."""

    def __init__(self, rows: Slice) -> None:
        self._slice = rows
        self._lists: dict[str, list[Any]] = {}
        self._places: pa.Table | None = None

    def __len__(self) -> int:
        return int(self._slice.table.num_rows)

    def column(self, name: str) -> pa.ChunkedArray:
        return self._slice.column(name)

    def value(self, column: str, row: int) -> Any:
        return self.list(column)[row]

    def data(self, row: int) -> Any:
        """The data of one row, decoded. Raises `ValueError` where it cannot be."""
        text = self.value("data", row)
        return None if text is None else self.exact(row, loads(text))

    def exact(self, row: int, data: Any) -> Any:
        """The data of a row with a `Decimal` wherever lab.toml declares one; changes it in place."""
        return with_decimals(data, self._slice.decimals.get(self.value("topic", row), ())) if self.declares else data

    @property
    def declares(self) -> bool:
        """Whether lab.toml declares decimals of any topic."""
        return bool(self._slice.decimals)

    def within(self, selection: Selection) -> np.ndarray:
        """Which rows a selection holds."""
        if self._places is None:
            self._places = pa.table({name: self.column(name) for name in PLACE})
        return held(self._places, selection)

    def list(self, column: str) -> list[Any]:
        """A whole column; times as aware datetimes in UTC."""
        values = self._lists.get(column)
        if values is None:
            values = self._lists[column] = _to_list(self._slice.column(column))
        return values


def _to_list(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        return [None if micros is None else _EPOCH + dt.timedelta(microseconds=micros) for micros in column.cast(pa.int64()).to_pylist()]
    values: list[Any] = column.to_pylist()
    return values


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def stretches(rows: Rows) -> Iterator[tuple[str, int]]:
    """Each key, and how many rows it has here. A key's rows follow each other, and may go on in the next slice."""
    if len(rows):
        ids = pc.run_end_encode(rows.column("aggregate_id").combine_chunks())
        ends = ids.run_ends.to_pylist()
        yield from zip(ids.values.to_pylist(), map(sub, ends, [0, *ends]), strict=False)


def events_of(rows: Rows) -> list[Event]:
    """The rows as events, each decoded only where its data is asked for."""
    return [Event.undecoded(rows, at, type_) for at, type_ in enumerate(_spread(*_types(rows)))]


def _types(rows: Rows) -> tuple[list[Any], np.ndarray]:
    """What `Event.type` can be in these rows (a text, `TOMBSTONE`, or None for an undecodable record), and which of them it is in each."""
    column = rows.column("event_type").combine_chunks()
    found = pc.dictionary_encode(column)
    types, codes = found.dictionary.to_pylist(), found.indices
    if column.null_count:  # every event has a type
        unread = pc.equal(rows.column("kind"), UNDECODABLE).combine_chunks()
        return [*types, TOMBSTONE, None], codes.fill_null(len(types)).to_numpy() + unread.to_numpy(zero_copy_only=False)
    return types, codes.to_numpy()


def _spread(values: Sequence[Any], codes: np.ndarray) -> list[Any]:
    """The value of each row, by its code."""
    table = np.empty(len(values), object)
    table[:] = values
    spread: list[Any] = table[codes].tolist()
    return spread


def _blocks(rows: Rows, handlers: list[Handler]) -> Iterator[Iterable[Any]]:
    """The data of the rows, decoded a block at a time; where it cannot be, the handler of that row becomes one that leaves the state as it is."""
    texts = pc.fill_null(rows.column("data"), "null").to_pylist()
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK]
        try:
            values = _decode(block)
        except ValueError:
            values = [_decode_one(text) for text in block]
            for at, value in enumerate(values, start):
                if value is MISSING:
                    handlers[at] = keep
        yield map(rows.exact, range(start, start + BLOCK), values) if rows.declares else values


_decode = loads_each


def _decode_one(text: str) -> Any:
    try:
        return loads(text)
    except ValueError:
        return MISSING


def _readable(event: Event) -> bool:
    """Whether the event's data can be had: JSON by the grammar may still hold a number that fits no float."""
    try:
        event.data  # noqa: B018  # decodes it where that was not done
    except ValueError:
        return False
    return True


def apply(projection: Projection, state: Any, event: Event) -> tuple[Any, str | None]:
    """Fold one event: the state after it, and a mark where the event did not do what events do.

    The marks: "undecodable", "unhandled" and "ignored" left the state as it was; "tombstone" reset it. Raises whatever the handler
    raises, and `ProjectionError` if it returns None.
    """
    if event.type is None or not _readable(event):
        return state, "undecodable"
    handler = projection.handler(event.type)
    if handler is None:
        if event.type is TOMBSTONE:
            return projection.initial(), "tombstone"
        return state, "ignored" if projection.ignores(event.type) else "unhandled"
    try:
        after = handler(state, event)
    except KeyboardInterrupt as exc:
        _say_where(exc, projection, event)
        raise
    return (after, None) if after is not None else _nothing_returned(handler, event)


def _say_where(exc: KeyboardInterrupt, projection: Projection, event: Event) -> None:
    """Let Ctrl-C in a handler say which key and event that was at."""
    exc.args = (visible(f"{projection.name} was at {event.aggregate} {event.aggregate_id}, {_named(event)}"),)


def _nothing_returned(handler: Handler, event: Event) -> NoReturn:
    """Raise `ProjectionError`: a handler that returns None was meant to return something."""
    raise ProjectionError(f"{getattr(handler, '__name__', handler)} returned None for {event.type}; a handler returns the new state")


# --- one key after another --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failure:
    """A key whose fold ended in an error, and the event it was at."""

    key: str
    event_id: str | None
    at: Coordinates
    error: str

    @classmethod
    def of(cls, event: Event, error: str) -> Self:
        return cls(event.aggregate_id, event.id, event.coordinates, error)


Step = tuple[Event, Handler]
"""An event, and the function that folds it."""


class Fold:
    """One projection folded over the events of one key at a time.

    `over` says that a tombstone ended the key. A handler that raises leaves a `failure`, and nothing more of that key is folded.
    """

    __slots__ = ("_projection", "failure", "over", "state")

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self.state: Any = None
        self.over = False
        self.failure: Failure | None = None

    def begin(self) -> None:
        """Stand before the first event of another key."""
        self.state, self.over, self.failure = self._projection.initial(), False, None

    def resume(self, state: Any, *, over: bool) -> None:
        """Stand where a key stood that was folded before."""
        self.state, self.over, self.failure = state, over, None

    def steps(self, rows: Rows, *, over: bool = False) -> Iterator[Step]:
        """Each row as an event, decoded, with the function that folds it. To be folded before the next rows are asked for.

        `over` says that a key which a tombstone has ended may be resumed among them.
        """
        types, codes = _types(rows)
        ends = over or self.over or (TOMBSTONE in types and self._projection.handler(TOMBSTONE) is None)
        handlers = _spread([self._handler(one, ends=ends) for one in types], codes)
        data = chain.from_iterable(_blocks(rows, handlers))
        # An event is drawn before its handler, which may change in between: see `_blocks`
        return zip(map(Event, repeat(rows), range(len(rows)), _spread(types, codes), data), handlers, strict=True)

    def step(self, event: Event) -> Step:
        """One event by itself, with the function that folds it."""
        return event, self._handler(event.type if _readable(event) else None, ends=True)

    def run(self, steps: Iterable[Step]) -> None:
        """Fold these steps of the key, and draw them all, even where one fails."""
        if self.failure is None:
            state, event = self.state, None
            try:
                for event, handler in steps:
                    after = handler(state, event)
                    if after is None and handler not in (keep, self._end):
                        _nothing_returned(handler, event)
                    state = after
            except Exception as exc:
                if event is None:  # not a handler's: the rows themselves could not be had
                    raise
                self.fail(event, f"{type(exc).__name__}: {exc}")
            except KeyboardInterrupt as exc:
                if event is not None:
                    _say_where(exc, self._projection, event)
                raise
            self.state = state
        if self.failure is not None:
            deque(steps, 0)

    def _handler(self, type_: Any, *, ends: bool) -> Handler:
        """What folds the events of a type; with `ends`, keys may be over, and are not once a handler was called."""
        handler = None if type_ is None else self._projection.handler(type_)
        if handler is None:
            return self._end if type_ is TOMBSTONE else keep
        return self._revive(handler) if ends else handler

    def _end(self, state: Any, event: Event) -> Any:
        self.over = True
        return self._projection.initial()

    def _revive(self, handler: Handler) -> Handler:
        def revived(state: Any, event: Event) -> Any:
            after = handler(state, event)
            if after is None:
                _nothing_returned(handler, event)
            self.over = False
            return after

        return revived

    def fail(self, event: Event, error: str) -> None:
        self.failure = Failure.of(event, error)


def keep(state: Any, _event: Event) -> Any:
    """Fold an event that leaves the state as it is: undecodable, unhandled or ignored."""
    return state


def _named(event: Event) -> str:
    return f"event {event.id or event.coordinates} ({event.coordinates}, {event.type_name})"
