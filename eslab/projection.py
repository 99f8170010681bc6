"""What a projection is: a named, versioned fold. Pure values and functions; no engine.

orders = Projection("orders", aggregate="order")

@orders.on("OrderCreated")
def created(state, event):
    return {"id": event.data["orderId"], "status": "created"}
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from eslab.errors import ProjectionError
from eslab.model import EACH, TOMBSTONE, Event, Path
from eslab.views import tables

__all__ = ["Handler", "MergeProjection", "Projection", "SqlProjection"]

Handler = Callable[[Any, Event], Any]
_F = TypeVar("_F", bound=Handler)


class Projection:
    """A fold over the events of each aggregate: an initial state and one pure function per event type.

    A handler takes (state, event) and returns the new state; it must not change the one it was given, nor depend on anything but the two.
    `initial` is the state before the first event: a value (copied for each key) or a function without arguments. States are
    JSON values plus `datetime` and `Decimal`.
    """

    def __init__(self, name: str, *, aggregate: str, version: int = 1, initial: Any = None) -> None:
        if not aggregate:
            raise ProjectionError(f'projection {name!r}: give the aggregate it folds, such as aggregate="order"')
        self.name, self.aggregate, self.version = name, aggregate, version
        self._initial = {} if initial is None else initial
        self._handlers: dict[Any, Handler] = {}

    def on(self, *types: Any) -> Callable[[_F], _F]:
        """Register the handler of these event types (or of `eslab.TOMBSTONE`); registering again replaces it."""
        if not types or not all(one is TOMBSTONE or isinstance(one, str) for one in types):
            raise ProjectionError(
                f'projection {self.name!r}: write @{self.name}.on("OrderCreated") with the event types that the handler is for'
            )

        def register(handler: _F) -> _F:
            for one in types:
                self._handlers[one] = handler
            return handler

        return register

    def copy(self, *, name: str | None = None, version: int | None = None) -> Self:
        """The same fold under another name or, by default, the next version: what is registered on one no longer touches the other."""
        other = copy.copy(self)
        other.name = self.name if name is None else name
        other.version = (self.version + 1 if name is None else self.version) if version is None else version
        other._handlers = dict(self._handlers)  # noqa: SLF001  another of this class
        return other

    @property
    def types(self) -> tuple[str, ...]:
        """The event types that have a handler, in the order of registration."""
        return tuple(one for one in self._handlers if one is not TOMBSTONE)

    def initial(self) -> Any:
        """A fresh state before the first event."""
        return self._initial() if callable(self._initial) else copy.deepcopy(self._initial)

    def handler(self, event_type: Any) -> Handler | None:
        """The function that folds this event type; None: it leaves the state as it is."""
        return self._handlers.get(event_type)

    def check(self) -> None:
        """Raise `ProjectionError` if there is nothing to fold with."""
        if not self._handlers:
            raise ProjectionError(f'projection {self.name!r} has no handlers; add one with @{self.name}.on("...")')

    def __repr__(self) -> str:
        return tables.visible(f"<Projection {self.name} v{self.version} of {self.aggregate}: {', '.join(self.types) or 'no handlers'}>")

    def _repr_html_(self) -> str:
        rows = [[str(one), getattr(handler, "__name__", str(handler))] for one, handler in self._handlers.items()]
        return tables.html(["event type", "handler"], rows, caption=f"{self.name} v{self.version} of {self.aggregate}", empty="no handlers")


@dataclass(frozen=True, slots=True)
class SqlProjection:
    """A projection as one query over `events` and `history`, which hold what the selection of a replay does.

    `lab.replay(projection, at=...)` answers it; `lab.register(projection)` makes it a macro of `lab.sql`.
    """

    name: str
    query: str
    version: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ProjectionError("a SQL projection has a name, which its macro is called by")
        if not isinstance(self.query, str):
            raise ProjectionError(f"SQL projection {self.name!r}: the query is a text, not {type(self.query).__name__}")


class MergeProjection(Projection):
    """The default projection: merges the top-level fields of `data` (nested values replaced, null sets null) and adds `_type` and `_version`.

    `elements` says, for topics that reach the aggregate through a list, every id path from `data` on: then the elements that carry
    the id are merged, in their order, and all of `data` where a path without a list leads to the id.
    """

    def __init__(self, aggregate: str, elements: Mapping[str, Sequence[Path]] | None = None) -> None:
        super().__init__(f"default({aggregate})", aggregate=aggregate)
        self._elements = {topic: list(paths) for topic, paths in (elements or {}).items()}

    def handler(self, event_type: Any) -> Handler | None:
        return None if event_type is TOMBSTONE else self._merge

    def check(self) -> None:
        pass

    def __repr__(self) -> str:
        return f"<Projection {self.name}: merges the fields of data>"

    def _repr_html_(self) -> str:
        return f"<p>{tables.escape(repr(self).strip('<>'))}</p>"

    def _merge(self, state: Any, event: Event) -> Any:
        merged = dict(state)
        for fields in self._fields(event):
            merged.update(fields)
        merged["_type"] = event.type
        merged["_version"] = event.version
        return merged

    def _fields(self, event: Event) -> list[dict[str, Any]]:
        data = event.data
        paths = self._elements.get(event.topic) if self._elements else None
        if paths is None:
            return [data] if isinstance(data, dict) else []
        return [element for path in paths for element in _carriers(data, path, event.aggregate_id)]


def _carriers(value: Any, path: Path, identity: str) -> list[dict[str, Any]]:
    """The elements of the innermost list on the path that hold the id."""
    if EACH not in path:
        return [value] if isinstance(value, dict) and _text(_inside(value, path)) == identity else []
    at = path.index(EACH)
    inner = _inside(value, path[:at])
    return [found for element in inner for found in _carriers(element, path[at + 1 :], identity)] if isinstance(inner, list) else []


def _inside(value: Any, path: Path) -> Any:
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and -len(value) <= part < len(value):
            value = value[part]
        else:
            return None
    return value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else str(value) if isinstance(value, int) and not isinstance(value, bool) else None
