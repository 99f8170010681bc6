"""Upcasters: events of an old version, read as the newest one. Pure values and functions; what is on disk stays as it was written.

@lab.upcaster("OrderCreated", from_version="1.0", to_version="2.0")
def split_name(data):
    first, _, last = data.pop("name").partition(" ")
    return {**data, "first": first, "last": last}
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import CodeType
from typing import Any

import pandas as pd
import pyarrow as pa

from eslab.errors import ProjectionError
from eslab.model import Event
from eslab.projection import Around, Handler, Projection
from eslab.views import tables

__all__ = ["Upcaster", "Upcasters", "raised"]


@dataclass(frozen=True, slots=True)
class Upcaster:
    """One step of a type's way to its newest version: `function` takes data of the one version, which is its own, and returns data of the next.

    A `from_version` of None is that of events that tell no version.
    """

    event_type: str
    from_version: str | None
    to_version: str
    function: Callable[[Any], Any]

    def __call__(self, data: Any) -> Any:
        """The data in the next version. Raises `ProjectionError` where the function raises, or returns nothing."""
        try:
            after = self.function(data)
        except Exception as exc:
            raise ProjectionError(f"{self} raised {type(exc).__name__}: {exc}") from exc
        if after is None:
            raise ProjectionError(f"{self} returned None; an upcaster returns the data of the newer version")
        return after

    def __str__(self) -> str:
        return f"the upcaster of {self.event_type} from {_shown(self.from_version)} to {self.to_version}"


@dataclass(frozen=True)
class Upcasters:
    """The upcasters of one lab object. From every version that has one the way leads, a step at a time, to one newest version of the type."""

    steps: Mapping[tuple[str, str | None], Upcaster] = field(default_factory=dict)
    """By event type and the version from which they lead."""

    def declared(self, one: Upcaster) -> Upcasters:
        """These and one more; one from the same version is replaced.

        Raises `ProjectionError` where the ways of the type would then run in a circle, or end in more than one version.
        """
        steps = {**self.steps, (one.event_type, one.from_version): one}
        ways = {step.from_version: step.to_version for (event_type, _), step in steps.items() if event_type == one.event_type}
        at: str | None = one.to_version
        round_ = [one.from_version, at]
        while at in ways and at != one.from_version:
            at = ways[at]
            round_.append(at)
        if at == one.from_version:
            raise ProjectionError(
                f"upcasters of {one.event_type} would run in a circle: {' → '.join(map(_shown, round_))}; each leads on to a newer version"
            )
        ends = sorted({to for to in ways.values() if to not in ways})
        if len(ends) > 1:
            raise ProjectionError(
                f"upcasters of {one.event_type} would leave a gap: they end in {' and in '.join(ends)}; "
                f"first declare the one that leads from one of these on to the other (there is {_told(self.steps, one.event_type)})"
            )
        return Upcasters(steps)

    def way(self, event_type: Any, version: str | None) -> tuple[Upcaster, ...]:
        """What leads from a version of a type to its newest, in order; nothing from the newest itself, or from one that has no upcaster."""
        return self._ways.get(event_type, {}).get(version, ())

    def newest(self, event_type: str) -> str | None:
        """The version that all upcasters of a type lead to."""
        return next((way[-1].to_version for way in self._ways.get(event_type, {}).values()), None)

    @property
    def types(self) -> Collection[str]:
        """The event types that have upcasters."""
        return self._ways.keys()

    def read(self, event: Event) -> Event:
        """The event as the newest version of its type has it. Raises `ProjectionError`."""
        way = self.way(event.type, event.version) if event.type in self._ways else ()
        if not way:
            return event
        data = event.reread()
        for one in way:
            data = one(data)
        return event.renewed(way[-1].to_version, data)

    def under(self, projection: Projection) -> Projection:
        """The projection with its handlers seeing every event in the newest version of its type."""
        return _Upcast(projection, self) if self.steps else projection

    @cached_property
    def fingerprint(self) -> str:
        """Equal for upcasters that do the same by the same code; "" for none. Code that they call is not looked into."""
        if not self.steps:
            return ""
        told = sorted((one.event_type, one.from_version or "", one.to_version, _code(one.function)) for one in self.steps.values())
        return hashlib.sha256(repr(told).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @cached_property
    def _ways(self) -> dict[str, dict[str | None, tuple[Upcaster, ...]]]:
        ways: dict[str, dict[str | None, tuple[Upcaster, ...]]] = {}
        for event_type, version in self.steps:
            at, way = version, list[Upcaster]()
            while (event_type, at) in self.steps:
                way.append(self.steps[event_type, at])
                at = way[-1].to_version
            ways.setdefault(event_type, {})[version] = tuple(way)
        return ways

    def __len__(self) -> int:
        return len(self.steps)

    def df(self) -> pd.DataFrame:
        """One row per upcaster: event_type, from_version, to_version, function."""
        return pd.DataFrame(self._rows(), columns=["event_type", "from_version", "to_version", "function"], dtype="str")

    def arrow(self) -> pa.Table:
        """What `df` has, in Arrow."""
        return pa.Table.from_pandas(self.df(), preserve_index=False)

    def __repr__(self) -> str:
        return tables.visible(
            "\n".join(f"{kind} {_shown(start)} → {to}: {name}" for kind, start, to, name in self._rows()) or "no upcasters"
        )

    def _repr_html_(self) -> str:
        return tables.html(["event type", "from", "to", "function"], self._rows(), empty="no upcasters")

    def _rows(self) -> list[tuple[str, str | None, str, str]]:
        return [
            (one.event_type, one.from_version, one.to_version, getattr(one.function, "__name__", str(one.function)))
            for one in self.steps.values()
        ]


def raised(event_type: Any, from_version: Any, to_version: Any, function: Callable[[Any], Any]) -> Upcaster:
    """The upcaster as it was declared, if it makes one. Raises `ProjectionError`. A whole number is the version that events write so."""
    start, to = (str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in (from_version, to_version))
    if not isinstance(event_type, str) or not isinstance(start, str | None) or not isinstance(to, str) or not callable(function):
        raise ProjectionError(
            'an upcaster leads from one version of a type to the next: write @lab.upcaster("OrderCreated", from_version="1.0", to_version="2.0")'
        )
    return Upcaster(event_type, start, to, function)


class _Upcast(Around):
    """A projection whose handlers see upcast events."""

    def __init__(self, inner: Projection, upcasters: Upcasters) -> None:
        super().__init__(inner)
        self.upcast_by, self._upcasters = upcasters.fingerprint, upcasters

    def seen(self, event: Event) -> Event:
        return self._upcasters.read(event)

    def handler(self, event_type: Any) -> Handler | None:
        handler = self.inner.handler(event_type)
        return handler if handler is None or event_type not in self._upcasters.types else _Through(handler, self._upcasters)


class _Through:
    """A handler that is told events in their newest version."""

    def __init__(self, handler: Handler, upcasters: Upcasters) -> None:
        self.__name__ = getattr(handler, "__name__", str(handler))
        self._handler, self._read = handler, upcasters.read

    def __call__(self, state: Any, event: Event) -> Any:
        return self._handler(state, self._read(event))


def _shown(version: str | None) -> str:
    return "no version" if version is None else version


def _told(steps: Mapping[tuple[str, str | None], Upcaster], event_type: str) -> str:
    return (
        ", ".join(f"{_shown(one.from_version)} → {one.to_version}" for one in steps.values() if one.event_type == event_type) or "none yet"
    )


def _code(function: Any) -> Any:
    """What a function does, as its code says: not where it stands, nor what the functions that it calls do."""
    code = getattr(function, "__code__", function if isinstance(function, CodeType) else None)
    if code is None:
        return f"{type(function).__module__}.{type(function).__qualname__}"
    constants = [_code(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return code.co_code.hex(), constants, code.co_names
