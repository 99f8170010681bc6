"""States that cannot be changed, for replays that look for handlers which change them: `lab.replay(..., strict=True)`."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from eslab.errors import ProjectionError
from eslab.model import Event
from eslab.projection import Around, Handler, Projection

__all__ = ["frozen", "strict"]


class _Changed(Exception):
    """A frozen value was about to be changed."""


def _refuse(method: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise _Changed(method)

    return refuse


class FrozenDict(dict[str, Any]):
    """A dict that refuses every change; a copy of it is a plain one."""

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return {key: copy.deepcopy(value, memo) for key, value in self.items()}

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class FrozenList(list[Any]):
    """A list that refuses every change; a copy of it is a plain one."""

    def __copy__(self) -> list[Any]:
        return list(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return [copy.deepcopy(value, memo) for value in self]

    def __reduce__(self) -> Any:
        return list, (list(self),)


for _kind, _methods in (
    (FrozenDict, "__setitem__ __delitem__ __ior__ clear pop popitem setdefault update"),
    (FrozenList, "__setitem__ __delitem__ __iadd__ __imul__ append clear extend insert pop remove reverse sort"),
):
    for _method in _methods.split():
        setattr(_kind, _method, _refuse(_method))


def frozen(value: Any) -> Any:
    """The value with nothing in it that can be changed. What is no plain JSON value stays as it is: an object of a class changes by design."""
    kind = type(value)
    if kind is dict:
        return FrozenDict({key: frozen(inner) for key, inner in value.items()})
    if kind is list:
        return FrozenList([frozen(inner) for inner in value])
    return tuple(frozen(inner) for inner in value) if kind is tuple else value


def strict(projection: Projection) -> Projection:
    """The projection with states, and the data of events, that its handlers cannot change: one that tries fails its key, and is named."""
    return _Strict(projection)


class _Strict(Around):
    def initial(self) -> Any:
        return frozen(self.inner.initial())

    def handler(self, event_type: Any) -> Handler | None:
        handler = self.inner.handler(event_type)
        return None if handler is None else _Watched(handler)


class _Watched:
    """A handler that is given frozen values."""

    def __init__(self, handler: Handler) -> None:
        self.__name__ = getattr(handler, "__name__", str(handler))
        self._handler = handler

    def __call__(self, state: Any, event: Event) -> Any:
        try:
            return frozen(self._handler(frozen(state), event.renewed(event.version, frozen(event.data))))
        except _Changed as exc:
            where = traceback.extract_tb(exc.__traceback__)[-2]  # the last one is our refusal
            raise ProjectionError(
                f"handler {self.__name__} of {event.type} changed what it was given, by {exc} in line {where.lineno} of {where.filename}"
                f"{f' ({where.line})' if where.line else ''}; a handler returns a new state, like {{**state, ...}}"
            ) from exc
