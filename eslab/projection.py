"""What a projection is: a named, versioned fold. Pure values and functions; no engine.

orders = Projection("orders", aggregate="order")

@orders.on("OrderCreated")
def created(state, event):
    return {"id": event.data["orderId"], "status": "created"}
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Self, TypeVar

from eslab.errors import ProjectionError
from eslab.model import AGGREGATE, EACH, TOMBSTONE, Event, Path, dumps, format_path, parse_path, value_at
from eslab.views import tables

__all__ = ["Around", "Handler", "KeyPath", "MergeProjection", "Projection", "SqlProjection"]

Handler = Callable[[Any, Event], Any]
_F = TypeVar("_F", bound=Handler)


class Projection:
    """A fold over the events of each key: an initial state and one pure function per event type.

    A handler takes (state, event) and returns the new state; it must not change the one it was given, nor depend on anything but the two.
    `initial` is the state before the first event: a value (copied for each key) or a function without arguments. `evolve` is one function for every
    event type that has no handler of its own. States are JSON values plus `datetime` and `Decimal`.

    Its keys are the ids of `aggregate`; with `key=` those at a path in each event (`"data.customerId"`, `"data.items[].sku"` for several of one event, `"metadata.tenant"`, or a part of
    the event, like `"correlation_id"`), or what a function of the event returns (a key, several, or None), and `aggregate` is but a word for them. `key=None` folds everything in
    the lab's order into one state, under the key "all". An event comes once to each of its keys; without any it is not folded; nor are tombstones, unless they have a handler. `topics` are those
    whose events are folded (default: all).
    """

    resumes = True
    """Whether a fold can go on from a state that was written down; objects of a class cannot."""
    upcast_by = ""
    """The fingerprint of the upcasters through which the handlers see events; "" for none."""

    def __init__(
        self,
        name: str,
        *,
        aggregate: str | None = None,
        key: Any = AGGREGATE,
        topics: str | Sequence[str] | None = None,
        version: int = 1,
        initial: Any = None,
        evolve: Handler | None = None,
    ) -> None:
        if not aggregate and key is AGGREGATE:
            raise ProjectionError(f'projection {name!r}: give the aggregate it folds, such as aggregate="order", or key="data.customerId"')
        if evolve is not None and not callable(evolve):
            raise ProjectionError(f"projection {name!r}: evolve is a function of (state, event), not {type(evolve).__name__}")
        self.name, self.version = name, version
        self.key = _key(name, key)
        self.aggregate = aggregate or _word(self.key)
        self.topics = None if topics is None else (topics,) if isinstance(topics, str) else tuple(topics)
        self._initial = dict if initial is None else initial  # called for each key: an empty one costs least
        self._evolve = evolve
        self._handlers: dict[Any, Handler] = {}
        self._ignored: frozenset[str] = frozenset()

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

    def ignore(self, *types: str) -> Self:
        """Leave these event types out on purpose: they are neither folded nor marked as unhandled. A handler registered later wins. Returns the projection."""
        if not types or not all(isinstance(one, str) for one in types):
            raise ProjectionError(f'projection {self.name!r}: write .ignore("OrderViewed") with the event types to leave out')
        self._ignored |= set(types)
        for one in types:
            self._handlers.pop(one, None)
        return self

    def ignores(self, event_type: Any) -> bool:
        """Whether an event of this type is left out on purpose."""
        return event_type in self._ignored and event_type not in self._handlers

    def copy(self, *, name: str | None = None, version: int | None = None) -> Self:
        """The same fold under another name or, by default, the next version: what is registered on one no longer touches the other."""
        other = copy.copy(self)
        other.name = self.name if name is None else name
        other.version = (self.version + 1 if name is None else self.version) if version is None else version
        other._handlers = dict(self._handlers)  # noqa: SLF001  another of this class
        return other

    def seen(self, event: Event) -> Event:
        """The event as the handlers see it."""
        return event

    @property
    def types(self) -> tuple[str, ...]:
        """The event types that have a handler, in the order of registration."""
        return tuple(one for one in self._handlers if one is not TOMBSTONE)

    def rules(self) -> tuple[Any, ...]:
        """What folds which events, now: equal as long as nothing was registered anew."""
        return dict(self._handlers), self._evolve, self._ignored

    def initial(self) -> Any:
        """A fresh state before the first event."""
        return self._initial() if callable(self._initial) else copy.deepcopy(self._initial)

    def handler(self, event_type: Any) -> Handler | None:
        """The function that folds this event type; None: it leaves the state as it is."""
        handler = self._handlers.get(event_type)
        if handler is None and event_type is not TOMBSTONE and event_type not in self._ignored:
            return self._evolve
        return handler

    def check(self) -> None:
        """Raise `ProjectionError` if there is nothing to fold with."""
        if not self._handlers and self._evolve is None:
            raise ProjectionError(f'projection {self.name!r} has no handlers; add one with @{self.name}.on("...")')

    def __repr__(self) -> str:
        folded = [
            *self.types,
            *(["every other type by evolve" if self.types else "every type by evolve"] if self._evolve is not None else []),
        ]
        ignored = f"; ignores {', '.join(sorted(self._ignored))}" if self._ignored else ""
        return tables.visible(f"<Projection {self._said()}: {', '.join(folded) or 'no handlers'}{ignored}>")

    def _said(self) -> str:
        by = "" if self.key is AGGREGATE or self.aggregate == (word := _word(self.key)) else f" by {word}"
        topics = f" in {', '.join(self.topics)}" if self.topics else ""
        return f"{self.name} v{self.version} of {self.aggregate}{by}{topics}"

    def _repr_html_(self) -> str:
        rows = [[str(one), getattr(handler, "__name__", str(handler))] for one, handler in self._handlers.items()]
        rows += [["every other type", getattr(self._evolve, "__name__", str(self._evolve))]] if self._evolve is not None else []
        rows += [[one, "(ignored)"] for one in sorted(self._ignored - self._handlers.keys())]
        return tables.html(["event type", "handler"], rows, caption=self._said(), empty="no handlers")

    @staticmethod
    def of(
        class_: type,
        *,
        aggregate: str,
        name: str | None = None,
        version: int = 1,
        apply: str | Callable[[Any, Any], Any] = "apply_event",
        new: Callable[..., Any] | None = None,
        event: Callable[[Event], Any] | None = None,
        state: Callable[[Any], dict[str, Any]] | None = None,
        copy: Callable[[Any], Any] | None = None,
    ) -> Projection:
        """The projection of an existing class, unchanged: each event is handed to an object's `apply` method, which changes the object.

        `new` makes one: it is called with the aggregate's id if it takes an argument (default: the class). `event` makes what the method is given (default: a dict of
        `type` and `data`), `state` a dict of the object (default: its public attributes and its `_state`, without `events`), `copy` another object of the same
        state (default: `copy.deepcopy`; where that fails, looking back folds from the beginning). Before the first event there is no object: the state is empty.
        """
        made = new or class_
        if not isinstance(class_, type) or not callable(made):
            raise ProjectionError('Projection.of takes a class, such as Projection.of(Order, aggregate="order")')
        if isinstance(apply, str) and not callable(getattr(class_, apply, None)):
            raise ProjectionError(f'{class_.__name__} has no method {apply!r}; name the one that takes an event: apply="when"')
        return _ObjectProjection(
            class_.__name__ if name is None else name,
            aggregate,
            version,
            _Object(made, apply, event or _plain_event, state or _public, copy),
            by=f"{class_.__name__}.{apply if isinstance(apply, str) else getattr(apply, '__name__', apply)}",
        )


# --- keys -------------------------------------------------------------------------------------------------

_PARTS: Final = {
    "id": "event_id", "type": "event_type", "version": "event_version", "key": "record_key",
    **{name: name for name in ("source", "correlation_id", "causation_id", "trace_id", "span_id", "parent_span_id", "topic")},
}  # fmt: skip
"""The parts of an event that can be a key, and their columns."""


@dataclass(frozen=True, slots=True)
class KeyPath:
    """Where an event carries its keys: a column and, of `data` and `metadata`, a path in it."""

    column: str
    path: Path = ()

    def of(self, data: Any) -> list[str]:
        """The keys in the data of an event, each once: texts as they are, everything else as JSON; null and an empty text are none."""
        return list(dict.fromkeys(text for value in _walk(data, self.path) if (text := _key_text(value))))

    def __str__(self) -> str:
        return format_path((self.column, *self.path)) if self.path else self.column


def _key(name: str, told: Any) -> Any:
    """A `KeyPath`, a function of the event, None, or AGGREGATE."""
    if not isinstance(told, str):
        if told is not None and told is not AGGREGATE and not callable(told):
            raise ProjectionError(
                f'projection {name!r}: key={told!r:.80} is neither a path, like "data.customerId", nor a function of the event, nor None'
            )
        return told
    first, *rest = parse_path(told)
    if first in ("data", "metadata"):
        return KeyPath(str(first), tuple(rest))
    column = _PARTS.get(str(first), first if first in _PARTS.values() else None)
    if column is None or rest:
        raise ProjectionError(
            f'projection {name!r}: key={told!r} is no part of an event; write it like "data.customerId", "metadata.tenant" or "correlation_id"'
        )
    return KeyPath(str(column))


def _word(key: Any) -> str:
    """A key in a word."""
    return "all" if key is None else str(key) if isinstance(key, KeyPath) else getattr(key, "__name__", str(key))


def _walk(value: Any, path: Path) -> Iterator[Any]:
    if EACH not in path:
        yield value_at(value, path)
        return
    at = path.index(EACH)
    inner = value_at(value, path[:at])
    for element in inner if isinstance(inner, list) else []:
        yield from _walk(element, path[at + 1 :])


def _key_text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value) if isinstance(value, Decimal) else dumps(value).decode()


class Around(Projection):
    """Another projection, called the same, with something round each of its handlers."""

    def __init__(self, inner: Projection) -> None:
        vars(self).update(vars(inner))
        self.inner, self.resumes = inner, inner.resumes

    def rules(self) -> tuple[Any, ...]:
        return self.inner.rules()

    def seen(self, event: Event) -> Event:
        return self.inner.seen(event)

    def initial(self) -> Any:
        return self.inner.initial()

    def handler(self, event_type: Any) -> Handler | None:
        return self.inner.handler(event_type)

    def ignores(self, event_type: Any) -> bool:
        return self.inner.ignores(event_type)

    def check(self) -> None:
        self.inner.check()

    def __repr__(self) -> str:
        return repr(self.inner)

    def _repr_html_(self) -> str:
        return self.inner._repr_html_()


# --- an existing class ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Object:
    """How objects of a class are made, told of events, shown and copied."""

    new: Callable[..., Any]
    apply: str | Callable[[Any, Any], Any]
    event: Callable[[Event], Any]
    state: Callable[[Any], dict[str, Any]]
    copy: Callable[[Any], Any] | None

    def made(self, aggregate_id: str) -> Any:
        return self.new(aggregate_id) if _takes_one(self.new) else self.new()

    def tell(self, instance: Any, event: Event) -> None:
        told = self.event(event)
        if isinstance(self.apply, str):
            getattr(instance, self.apply)(told)
        else:
            self.apply(instance, told)

    def copied(self, instance: Any) -> Any:
        return (self.copy or copy.deepcopy)(instance)

    def copies(self, instance: Any) -> bool:
        """Whether a new object can be copied: one that holds a lock or a connection cannot."""
        try:
            self.copied(instance)
        except Exception:  # noqa: BLE001  # whatever the class raises
            return False
        return True

    def shown(self, instance: Any) -> dict[str, Any]:
        state = self.state(instance)
        if not isinstance(state, dict):
            raise ProjectionError(f"state= makes a dict of the object, not {type(state).__name__}")
        return state


class _Held(dict[str, Any]):
    """A state as it is shown, with the object that it is of.

    Whoever folds gives its state away, so that the object is changed where it stands; to keep a state is to copy it, and its object with it. The events so
    far are held only where a new object cannot be copied.
    """

    __slots__ = ("_how", "_instance", "_told")

    def __init__(self, shown: dict[str, Any], how: _Object, instance: Any = None, told: tuple[Any, Event] | None = None) -> None:
        super().__init__(shown)
        self._how, self._instance, self._told = how, instance, told

    def after(self, event: Event) -> _Held:
        instance, keeps = self._instance, self._told is not None
        if instance is None:
            instance = self._how.made(event.aggregate_id)
            keeps = not self._how.copies(instance)
        self._how.tell(instance, event)
        return _Held(self._how.shown(instance), self._how, instance, (self._told, event) if keeps else None)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Held:
        if self._instance is None:
            return _Held({}, self._how)
        instance = self._how.copied(self._instance) if self._told is None else self._again()
        return _Held(self._how.shown(instance), self._how, instance, self._told)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # elsewhere it is only looked at

    def _again(self) -> Any:
        """Another object, told the same."""
        events, told = list[Event](), self._told
        while told is not None:
            told, event = told
            events.append(event)
        instance = self._how.made(events[-1].aggregate_id)
        for event in reversed(events):
            self._how.tell(instance, event)
        return instance


class _ObjectProjection(Projection):
    """A projection whose states are objects of a class."""

    resumes = False

    def __init__(self, name: str, aggregate: str, version: int, how: _Object, *, by: str) -> None:
        def told(state: Any, event: Event) -> Any:
            return state.after(event)

        told.__name__ = by  # so that a change is blamed on the method of the class
        super().__init__(name, aggregate=aggregate, version=version, initial=lambda: _Held({}, how), evolve=told)

    def on(self, *types: Any) -> Callable[[_F], _F]:
        raise ProjectionError(f"projection {self.name!r} folds with its class; use .ignore(...) for types that it does not know")


def _plain_event(event: Event) -> dict[str, Any]:
    return {"type": event.type, "data": copy.deepcopy(event.data)}  # the class may keep it, and change it


def _public(instance: Any) -> dict[str, Any]:
    held = {name: value for name, value in _attributes(instance) if name != "events"}
    inner = held.pop("_state", {})
    public = {name: value for name, value in held.items() if not name.startswith("_")}
    return {**public, **(inner if isinstance(inner, dict) else {"_state": inner})}


def _attributes(instance: Any) -> Iterator[tuple[str, Any]]:
    """Those of its dict and of its slots."""
    yield from getattr(instance, "__dict__", {}).items()
    for name in (name for one in type(instance).__mro__ for name in getattr(one, "__slots__", ())):
        if hasattr(instance, name):
            yield name, getattr(instance, name)


def _takes_one(new: Callable[..., Any]) -> bool:
    """Whether a function can be called with one argument."""
    try:
        inspect.signature(new).bind("")
    except TypeError:
        return False
    except ValueError:  # a builtin that does not say
        return False
    return True


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
    """The default projection: merges the top-level fields of `data` (nested values replaced, null sets null) and adds `_type` and, of an event that tells one, `_version`.

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
        if (version := event.version) is None:
            merged.pop("_version", None)
        else:
            merged["_version"] = version
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
        return [value] if isinstance(value, dict) and _text(value_at(value, path)) == identity else []
    at = path.index(EACH)
    inner = value_at(value, path[:at])
    return [found for element in inner for found in _carriers(element, path[at + 1 :], identity)] if isinstance(inner, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else str(value) if isinstance(value, int) and not isinstance(value, bool) else None
