"""The sums by which a flipped byte is noticed."""

from __future__ import annotations

from typing import Any

import crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Checksums"]


class Checksums:
    """CRC-32C of each column's content, the same however the rows were split into row groups.

    A column of numbers is hashed as its little-endian values (null as 0) and its validity as one byte a row; a column of bytes as int32 lengths (null
    as -1) and the bytes themselves; a time as its microseconds; headers as the count of each row, then their keys and values as two such columns.
    """

    def __init__(self) -> None:
        self._sums: dict[str, int] = {}

    def add(self, table: pa.Table) -> None:
        for name in table.column_names:
            for array in table[name].chunks:
                self._add(name, array)

    def result(self) -> dict[str, int]:
        return dict(self._sums)

    def differ(self, others: dict[str, int]) -> list[str]:
        """The parts whose sums are not these. One that is missing is that of nothing: 0."""
        return sorted(name for name in self._sums.keys() | others.keys() if self._sums.get(name, 0) != others.get(name, 0))

    def _add(self, name: str, array: pa.Array) -> None:
        if pa.types.is_list(array.type):
            self._hash(f"{name}.count", pc.list_value_length(array).to_numpy(zero_copy_only=False).astype("<i4"))
            flat = array.flatten()
            self._add(f"{name}.key", flat.field("key"))
            self._add(f"{name}.value", flat.field("value"))
        elif pa.types.is_binary(array.type) or pa.types.is_string(array.type):
            lengths = pc.fill_null(pc.binary_length(array), -1)
            self._hash(f"{name}.length", lengths.to_numpy(zero_copy_only=False).astype("<i4"))
            dense = array.drop_null() if array.null_count else array
            _, offsets, data = dense.buffers()
            if data is not None and len(dense):
                ends = np.frombuffer(offsets, dtype=np.int32)[dense.offset : dense.offset + len(dense) + 1]
                self._hash(f"{name}.bytes", memoryview(data)[ends[0] : ends[-1]])
        else:
            array = array.cast(pa.int64()) if pa.types.is_timestamp(array.type) else array
            if array.null_count or name not in ("offset", "timestamp_ms"):
                self._hash(f"{name}.valid", array.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8))
            filled = pc.fill_null(array, False if pa.types.is_boolean(array.type) else 0)
            self._hash(f"{name}.value", filled.to_numpy(zero_copy_only=False))

    def _hash(self, name: str, data: Any) -> None:
        self._sums[name] = crc32c.crc32c(data, self._sums.get(name, 0))
