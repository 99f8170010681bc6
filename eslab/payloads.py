"""Payloads edited where an event has a path: its data, its metadata, and the parts that its envelope knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from eslab.decode.envelopes import PARTS
from eslab.errors import WhatIfError
from eslab.mapping import TopicMapping
from eslab.model import EACH, MISSING, Path, dumps, format_path, loads_exact, parse_path, value_at

__all__ = ["edited", "packed"]

_PARTS: Final = {"id": "event_id", "type": "event_type", "version": "event_version", **{name: name for name in PARTS}}


def edited(value: bytes | None, changes: dict[str, Any], rules: TopicMapping) -> bytes | None:
    """The payload with other values at some paths, and every digit of the rest as it was; None for what is no event. Raises `WhatIfError` for a path that leads nowhere."""
    try:
        payload = loads_exact(value or b"")
    except ValueError:
        return None
    if not isinstance(payload, dict) or value_at(payload, _part(rules, "event_type", payload)) is None:
        return None
    for path, new in changes.items():
        payload = _set(payload, _in_payload(path, rules, payload), new, path)
    return packed(payload)


def packed(payload: Any) -> bytes:
    try:
        return dumps(payload)
    except (TypeError, ValueError, RecursionError) as exc:
        raise WhatIfError(f"this is no JSON: {exc}") from exc


def _part(rules: TopicMapping, part: str, payload: Any) -> Path:
    """Where a payload holds a part of its event: the first place that is there, else the first of all."""
    places = getattr(rules.envelope, part)
    if not places:
        raise WhatIfError(f"the {rules.envelope.name} envelope knows no {part}, so it cannot be edited")
    there: Callable[[Path], bool] = lambda place: value_at(payload, place) is not None  # noqa: E731
    return next(filter(there, places), places[0])


def _in_payload(text: Any, rules: TopicMapping, payload: Any) -> Path:
    """A path in an event, such as `data.total` or `version`, as one in its payload."""
    path = parse_path(text) if isinstance(text, str) and text else ()
    part = _PARTS.get(str(path[0])) if path else None
    if part is None or EACH in path or (len(path) > 1 and part not in ("data", "metadata")):
        raise WhatIfError(
            f'{text!r} is nothing in an event that can be edited; write it like "data.total", "data.items[0].price", "metadata.tenant", "type" or "version"'
        )
    return (*_part(rules, part, payload), *path[1:])


def _set(value: Any, path: Path, new: Any, told: str) -> Any:
    """The value with another one at a path, or nothing (`MISSING`); objects on the way are made."""
    if not path:
        return new
    part, rest = path[0], path[1:]
    if isinstance(part, int):
        if not isinstance(value, list) or not -len(value) <= part < len(value) + (new is not MISSING):
            raise WhatIfError(f"{told}: there is no [{part}] to edit; a list is edited at its positions, or right behind its last one")
        at = min(len(value), part)
        inner = value[at] if at < len(value) else None
        return [*value[:at], *([] if new is MISSING and not rest else [_set(inner, rest, new, told)]), *(value[at:][1:])]
    if value is not None and not isinstance(value, dict):
        raise WhatIfError(f"{told}: there is no {format_path((part,))} in what is no object")
    there = dict(value or {})
    if new is MISSING and not rest:
        there.pop(part, None)
        return there
    return {**there, part: _set(there.get(part), rest, new, told)}
