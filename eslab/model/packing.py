"""States as JSON that comes back equal, `Decimal` and `datetime` included."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from decimal import Decimal
from itertools import chain
from typing import Any, Final

import msgspec

from eslab.errors import ProjectionError
from eslab.model.exact import loads
from eslab.model.paths import Path, format_path

__all__ = ["pack_state", "pack_states", "unpack_state"]

_encoder = msgspec.json.Encoder(decimal_format="number")
_encode, _encode_lines = _encoder.encode, _encoder.encode_lines

_PLAIN: Final = frozenset({str, int, bool, type(None)})
_JSON: Final = _PLAIN | {float, dict, list}
DEEPEST: Final = 64  # levels of a state that are looked at all at once


def pack_state(state: Any) -> bytes:
    """JSON that `unpack_state` turns back into an equal state, `Decimal` and `datetime` included.

    They are written as `{"$decimal": "1.10"}` and `{"$time": "2026-..."}`; a state's own one-key object whose
    key begins with `$` gets a second `$`. Raises `ProjectionError` for what a state may not hold (NaN, sets, objects).
    """
    try:
        return _encode(_tag(state, ()))
    except RecursionError:
        raise ProjectionError("a state is nested too deeply, or holds itself") from None
    except UnicodeEncodeError as exc:
        raise ProjectionError(f"a state holds half of a surrogate pair, which is no text: {exc.object!r:.80}") from None


def pack_states(states: Sequence[Any]) -> list[bytes]:
    """What `pack_state` makes of each; at a fraction of the cost where JSON holds them as they are."""
    if _is_json(states):
        try:
            return _encode_lines(states).split(b"\n")[:-1]  # a line break within a text is written \\n
        except UnicodeEncodeError:
            pass
    return [pack_state(state) for state in states]


def _is_json(values: Sequence[Any]) -> bool:
    """Whether these values, and all that they hold, can be written as they are: level by level, so that no value is looked at by itself."""
    for _ in range(DEEPEST):
        kinds = set(map(type, values))
        if not kinds <= _JSON or (float in kinds and not all(math.isfinite(one) for one in values if type(one) is float)):
            return False
        dicts = [one for one in values if type(one) is dict] if dict in kinds else []
        if not {str}.issuperset(map(type, chain.from_iterable(dicts))) or (1 in map(len, dicts) and any(map(_escapes, dicts))):
            return False
        lists = (one for one in values if type(one) is list) if list in kinds else ()
        values = [*chain.from_iterable(map(dict.values, dicts)), *chain.from_iterable(lists)]
        if not values:
            return True
    return False


def unpack_state(text: bytes) -> Any:
    """The state that `pack_state` wrote."""
    value = loads(text)
    return _untag(value) if b'{"$' in text else value


def _tag(value: Any, path: Path) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float and math.isfinite(value):
        return value
    if isinstance(value, dict):
        if _PLAIN.issuperset(map(type, value.values())) and {str}.issuperset(map(type, value)) and not _escapes(value):
            return value
        for key in value:
            if type(key) is not str:
                raise ProjectionError(f"a state's keys are strings, but {format_path(path) or 'the state'} has {key!r}")
        tagged = {key: _tag(item, (*path, key)) for key, item in value.items()}
        return {f"${key}": item for key, item in tagged.items()} if _escapes(value) else tagged
    if isinstance(value, (list, tuple)):
        return [_tag(item, (*path, at)) for at, item in enumerate(value)]
    if isinstance(value, Decimal) and value.is_finite():
        return {"$decimal": str(value)}
    if isinstance(value, dt.datetime):
        return {"$time": value.isoformat()}
    raise ProjectionError(
        f"a state holds JSON values, datetime and Decimal, but {format_path(path) or 'the state itself'} is {value!r:.80} ({kind.__name__})"
    )


def _escapes(value: dict[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("$")


def _untag(value: Any) -> Any:
    if isinstance(value, list):
        return [_untag(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _escapes(value):
        key, item = next(iter(value.items()))
        if key == "$decimal":
            return Decimal(item)
        if key == "$time":
            return dt.datetime.fromisoformat(item)
        return {key[1:]: _untag(item)}
    return {key: _untag(item) for key, item in value.items()}
