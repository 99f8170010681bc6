"""What the broker holds at one offset, and where that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Coordinates", "Record"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the broker holds at one offset, verbatim.

    `timestamp_ms` is milliseconds since 1970 UTC (-1: none). `timestamp_type` is "create" (the producer's clock),
    "append" (the broker's, with the producer's own time in `producer_timestamp_ms` while the broker keeps it)
    or None (the source does not say). A null `value` is a tombstone; an empty one is not. Headers keep their order and
    may repeat; bytes of a header key that are not UTF-8 are surrogate-escaped.
    The facts of the batch are None where the source has no batches.
    """

    topic: str
    partition: int = 0
    offset: int = 0
    timestamp_ms: int = -1
    timestamp_type: str | None = None
    producer_timestamp_ms: int | None = None
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    leader_epoch: int | None = None
    producer_id: int | None = None
    producer_epoch: int | None = None
    transactional: bool | None = None


class Coordinates(NamedTuple):
    """Where a record stands: the name that no two records share."""

    topic: str
    partition: int
    incarnation: int
    offset: int

    def __str__(self) -> str:
        life = f"~{self.incarnation}" if self.incarnation else ""
        return f"{self.topic}/{self.partition}{life}/{self.offset}"
