"""Numbers that no float holds: at declared paths `data` keeps them as a text of all their digits, and folds see `Decimal`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec
import pyarrow as pa

from eslab.model import EACH, Path, dumps, value_at

__all__ = ["with_decimals", "with_digits"]

PLAIN: Final = 40  # zeros that are written out; with more of them the exponent stays

_exact = msgspec.json.Decoder(float_hook=Decimal).decode
_NUMBER = re.compile(r"-?\d{1,4000}(\.\d+)?([eE][+-]?\d{1,6})?", re.ASCII)


def with_digits(data: pa.Array, values: pa.Array, places: Sequence[Path], paths: Sequence[Path]) -> pa.Array:
    """`data` (JSON, null where there is none) with a text in the place of each number at `paths`.

    The digits come from `values`, the payloads whole, in which data stands at the first of `places` that is there. Costs one more
    reading of each payload in Python.
    """
    pairs = zip(data.to_pylist(), values.to_pylist(), strict=True)
    return pa.array([text if text is None else _digits_of(text, value, places, paths) for text, value in pairs], pa.string())


def _digits_of(text: str, value: bytes, places: Sequence[Path], paths: Sequence[Path]) -> str:
    try:
        payload = _exact(value)
        found = (inner for place in places if (inner := value_at(payload, place)) is not None)
        data = next(found, None)
        for path in paths:
            data = _replaced(data, path, _digits)
        return text if data is None else dumps(data).decode()
    except (ArithmeticError, ValueError, RecursionError):  # an exponent of twenty digits: as it is without a declaration
        return text


def with_decimals(data: Any, paths: Sequence[Path]) -> Any:
    """Freshly decoded data with a `Decimal` in the place of each text at `paths` that is a number; changes it in place."""
    for path in paths:
        data = _replaced(data, path, _decimal)
    return data


def _replaced(value: Any, path: Path, make: Callable[[Any], Any]) -> Any:
    """The value with what stands at the path replaced, in place; nothing is added."""
    if not path:
        return make(value)
    part, rest = path[0], path[1:]
    if isinstance(value, dict):
        if part in value:
            value[part] = _replaced(value[part], rest, make)
    elif isinstance(value, list):
        at = range(len(value)) if part is EACH else [part] if isinstance(part, int) and -len(value) <= part < len(value) else []
        for one in at:
            value[one] = _replaced(value[one], rest, make)
    return value


def _digits(value: Any) -> Any:
    if isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        return f"{value:f}" if isinstance(exponent, int) and abs(exponent) <= PLAIN else str(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _decimal(value: Any) -> Any:
    return Decimal(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value
