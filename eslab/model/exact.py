"""JSON with exact integers: read, and written in one line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec

__all__ = ["dumps", "loads", "loads_each", "loads_exact"]

_decode = msgspec.json.Decoder().decode
_decode_exact = msgspec.json.Decoder(float_hook=Decimal).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode


def loads(text: str | bytes) -> Any:
    """The JSON value: integers exact at any size, no NaN or infinity.

    Raises `ValueError` (msgspec's errors are ones) with the reason.
    """
    try:
        return _decode(text)
    except RecursionError as exc:
        raise ValueError("JSON is nested too deeply") from exc


def loads_exact(text: str | bytes) -> Any:
    """`loads` with a `Decimal` in the place of every number that is no integer: `dumps` writes it with the digits that it had."""
    try:
        return _decode_exact(text)
    except RecursionError as exc:
        raise ValueError("JSON is nested too deeply") from exc


def loads_each(texts: Iterable[str | bytes]) -> list[Any]:
    """`loads` of each text, at less cost. Raises `ValueError` if one of them is none."""
    try:
        return list(map(_decode, texts))
    except RecursionError as exc:
        raise ValueError("JSON is nested too deeply") from exc


def dumps(value: Any) -> bytes:
    """Compact JSON in one line, for people and files: decimals as numbers, datetimes as ISO 8601; half of a surrogate pair, which UTF-8 cannot hold, as its escape."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _spelled(value).encode()


def _spelled(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_spelled(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_spelled, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else _encode(value).decode()
