"""The consumer groups of a Kafka cluster: what they have committed, and where their partitions begin and end. Only asks."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Collection, Sequence
from typing import Any, Final, Self

import aiokafka.errors as kafka_errors
from aiokafka.protocol.admin import ListGroupsRequest
from aiokafka.protocol.commit import OffsetFetchRequest

from eslab.errors import AccessDenied, SourceError, SourceUnreachable
from eslab.sources import GroupPosition, TopicPartition
from eslab.sources.kafka_cluster import ISOLATION, LOG_END, LOG_START, Cluster, rows_of
from eslab.sources.kafka_connections import Address, TooOldError, TryAgainError
from eslab.sources.kafka_settings import read_settings
from eslab.sources.loop_thread import LoopThread

__all__ = ["KafkaGroups"]

NOWHERE: Final = -1  # the offset of a partition without a commit
MOVING: Final = frozenset({14, 15, 16})  # a coordinator that loads, is not there, or is another one now
GROUP_NOT_ALLOWED, CLUSTER_NOT_ALLOWED, NO_SUCH_GROUP = 30, 31, 69


class KafkaGroups:
    """What a cluster (Kafka 0.11 and later) tells of its consumer groups, of either protocol, with members or without.

    `url` and `settings` are those of `KafkaSource`. A broker that answered before is waited for `patience_s`.
    """

    def __init__(self, url: str, *, isolation: str = "read_committed", patience_s: float = 5, **settings: Any) -> None:
        if isolation not in ISOLATION:
            raise SourceError(f"isolation {isolation!r} is not known; take one of {', '.join(ISOLATION)}")
        self._cluster = _Groups(url, isolation, read_settings(settings), patience_s=patience_s)
        self._thread = LoopThread(self._cluster.close)
        self._finalizer = weakref.finalize(self, self._thread.stop)

    def positions(self, groups: Collection[str] | None = None) -> list[GroupPosition]:
        """Ask once: every partition of each topic that one of these groups (None: all) has committed an offset of.

        Takes a few round trips; commits are asked for before the ends, so that none is past its end. Creates nothing, joins nothing. Raises
        `SourceUnreachable`, `AccessDenied`, `SourceError`.
        """
        return self._thread.run(self._cluster.positions(groups))

    def close(self) -> None:
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Groups(Cluster):
    """The questions about groups. Coordinators are found by asking every broker for the groups that it coordinates: FindCoordinator would make
    Kafka create `__consumer_offsets` where there is none yet."""

    async def positions(self, names: Collection[str] | None) -> list[GroupPosition]:
        async def ask() -> list[GroupPosition]:
            groups = await self._listed(names)
            found = await asyncio.gather(*(self._committed(broker, group) for group, broker in groups.items()))
            committed = dict(zip(groups, found, strict=True))
            topics = sorted({topic for offsets in found for topic, _ in offsets})
            ends = await self._ends(topics)
            return [
                GroupPosition(group, *at, offsets.get(at), *ends.get(at, (None, None)))
                for group, offsets in sorted(committed.items())
                for at in sorted(offsets.keys() | {at for at in ends if at[0] in {topic for topic, _ in offsets}})
            ]

        return await self._patiently(ask)

    async def _listed(self, names: Collection[str] | None) -> dict[str, Address]:
        """Each group that there is, with its coordinator."""
        await self._look([])
        brokers = list(self._brokers)

        async def ask(broker: Address) -> list[str]:
            try:
                response = await self._connections.send(broker, ListGroupsRequest())
            except TooOldError as exc:
                raise SourceError(
                    f"{self._url} does not tell its consumer groups, as an embedded broker does not; watch a real cluster"
                ) from exc
            self._raise_for_group(response.error_code, "its consumer groups")
            return [group for group, _ in response.groups]

        answers = await asyncio.gather(*(ask(broker) for broker in brokers))
        return {
            group: broker for broker, groups in zip(brokers, answers, strict=True) for group in groups if names is None or group in names
        }

    async def _committed(self, broker: Address, group: str) -> dict[TopicPartition, int | None]:
        response = await self._connections.send(broker, OffsetFetchRequest(group, None))
        if response.error_code == NO_SUCH_GROUP:  # it went away, or is none that commits offsets
            return {}
        self._raise_for_group(response.error_code, f"group {group}")
        return {at: None if row["offset"] == NOWHERE else row["offset"] for at, row in rows_of(response) if not row["error_code"]}

    async def _ends(self, topics: Sequence[str]) -> dict[TopicPartition, tuple[int | None, int | None]]:
        """Log start and end of every partition of these topics; None of one that nobody leads now. Topics that are gone or not allowed are left out."""
        if not topics:
            return {}
        found, _ = await self._look(topics)
        where = {(topic.name, partition): leader for topic in found for partition, leader in topic.leaders.items()}
        led = [at for at, leader in where.items() if leader]
        starts, ends = await asyncio.gather(
            self._offsets(led, LOG_START, isolation=0), self._offsets(led, LOG_END, isolation=self._isolation)
        )
        return {at: (starts.get(at), ends.get(at)) for at in where}

    def _raise_for_group(self, code: int, what: str) -> None:
        if code == 0:
            return
        kind = kafka_errors.for_code(code).__name__
        if code in MOVING:
            raise TryAgainError(SourceUnreachable(f"{self._url} cannot tell of {what} now ({kind}, error {code}); is the cluster well?"))
        if code in (GROUP_NOT_ALLOWED, CLUSTER_NOT_ALLOWED):
            raise AccessDenied(f"{self._url}: {what}: not allowed; these credentials need DESCRIBE on the groups and on their topics")
        raise SourceError(f"{self._url} does not tell of {what} ({kind}, error {code})")
