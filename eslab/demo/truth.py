"""Who was hit by what, and when: kept while the story is told, and read by tests only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eslab.demo import day

NAMED = 1_000  # ids kept per phenomenon; beyond it only the count goes on


@dataclass(slots=True)
class Hits:
    """One phenomenon: how many it hit, the first `NAMED` of their ids, and the moments of the first and the last."""

    count: int = 0
    ids: list[str] = field(default_factory=list)
    from_ms: int = day.STOP_MS
    to_ms: int = day.START_MS

    def add(self, hit: str, at_ms: int) -> None:
        self.count += 1
        if self.count <= NAMED:
            self.ids.append(hit)
        self.from_ms = min(self.from_ms, at_ms)
        self.to_ms = max(self.to_ms, at_ms)

    def as_json(self) -> dict[str, Any]:
        return {"count": self.count, "from": day.local(self.from_ms), "to": day.local(self.to_ms), "ids": self.ids}


class Truth:
    """The hits of every phenomenon, by name."""

    def __init__(self) -> None:
        self._hits: dict[str, Hits] = {}

    def hit(self, phenomenon: str, who: str, at_ms: int) -> None:
        """Note that this id was hit at this moment (of publishing)."""
        hits = self._hits.get(phenomenon)
        if hits is None:
            hits = self._hits[phenomenon] = Hits()
        hits.add(who, at_ms)

    def as_json(self) -> dict[str, dict[str, Any]]:
        """The phenomena by name, sorted."""
        return {name: self._hits[name].as_json() for name in sorted(self._hits)}


class Shadow:
    """One partition's record times as they come: what the clock that runs ahead stamped, and what stands in its shadow.

    A record stands in the shadow if its clock is right and its time lies below one that stands before it.
    """

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.source = ""
        self.offsets: list[int] = []
        self.shadowed = 0
        self._latest = 0

    def see(self, offset: int, at_ms: int, stamp_ms: int, source: str) -> None:
        """Take the partition's next record: published at `at_ms`, stamped `stamp_ms`."""
        if stamp_ms > at_ms:
            self.offsets.append(offset)
            self.source = source
        elif stamp_ms < self._latest:
            self.shadowed += 1
        self._latest = max(self._latest, stamp_ms)

    def as_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "partition": self.partition,
            "ahead_s": day.AHEAD_BY_MS // 1000,
            "from": day.local(day.AHEAD_FROM_MS),
            "to": day.local(day.AHEAD_TO_MS),
            "count": len(self.offsets),
            "offsets": self.offsets[:NAMED],
            "shadowed": self.shadowed,
        }
