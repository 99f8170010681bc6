"""Codecs: is this value readable, and if not, why. So far JSON; each codec is one function over a column."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["read_json"]

_skim = msgspec.json.Decoder(msgspec.Raw).decode


def read_json(values: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    """Turn a binary column into JSON text, null where there is none, with the reason for each row that cannot be read.

    A null value (a tombstone) is null without a reason; an empty one has a reason. Strict RFC 8259 in UTF-8: no NaN, no
    trailing comma, no lone surrogates, nested no deeper than Python's stack (about 1,000 levels).
    """
    reasons: dict[int, str] = {}
    for at, value in enumerate(values.to_pylist()):
        if value is not None:
            try:
                _skim(value)
            except msgspec.DecodeError as exc:
                reasons[at] = str(exc) if value else "empty value"
            except RecursionError:
                reasons[at] = "JSON is nested too deeply"
    try:
        return _without(values, reasons).cast(pa.string()), reasons
    except pa.ArrowInvalid:
        for at, value in enumerate(values.to_pylist()):
            if value is not None and at not in reasons:
                try:
                    value.decode()
                except UnicodeDecodeError as exc:
                    reasons[at] = f"not UTF-8: byte 0x{value[exc.start]:02x} at position {exc.start}"
        return _without(values, reasons).cast(pa.string()), reasons


def _without(values: pa.Array, rows: dict[int, str]) -> pa.Array:
    if not rows:
        return values
    keep = np.ones(len(values), np.bool_)
    keep[list(rows)] = False
    return pc.if_else(pa.array(keep), values, pa.scalar(None, values.type))
