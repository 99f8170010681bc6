"""One Kafka cluster as its clients see it: topics, leaders, the ends of partitions, and patience with all that may pass.

Nothing here can create a topic: the one metadata request that is sent forbids it, and no aiokafka client is asked to track one.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, NoReturn, TypeVar

import aiokafka.errors as kafka_errors
from aiokafka.conn import collect_hosts
from aiokafka.protocol.offset import OffsetRequest

from eslab.errors import AccessDenied, SourceError, SourceUnreachable, TopicNotFound
from eslab.sources import TopicPartition
from eslab.sources.kafka_connections import Address, Connections, TryAgainError
from eslab.sources.kafka_protocol import MetadataRequest
from eslab.sources.kafka_settings import Connecting
from eslab.wording import many

__all__ = ["BACKOFF_S", "ISOLATION", "LOG_END", "LOG_START", "Cluster", "name_of", "rows_of"]

T = TypeVar("T")

NEW_TOPIC_S: Final = 5  # how long a topic may seem missing: a broker that just started does not know its topics yet
BACKOFF_S: Final = 0.25

ISOLATION: Final = {"read_uncommitted": 0, "read_committed": 1}
LOG_START, LOG_END = -2, -1  # the times that ListOffsets takes for the two ends
UNKNOWN_TOPIC, INVALID_TOPIC, NOT_ALLOWED = 3, 17, 29
MENDABLE: Final = frozenset({5, 6, 7, 8, 9, 13, 56, 74, 75, 78})  # elections, restarts, stale views of who leads, a disk that went away


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    topic_id: str | None
    internal: bool
    leaders: dict[int, Address | None]


class Cluster:
    """The conversation with the brokers; its methods run in the loop of one thread. A broker that answered before is waited for `patience_s`."""

    def __init__(self, url: str, isolation: str, connecting: Connecting, *, patience_s: float) -> None:
        self._url = url
        self._patience_s = patience_s
        self._hosts = hosts_of(url)
        self._isolation = ISOLATION[isolation]
        self._connections = Connections(url, connecting)
        self._heard = False  # has anything ever answered?
        self._brokers: list[Address] = []  # as the cluster last named them
        self._cluster_id: str | None = None
        self._topics: dict[str, Topic] = {}

    async def close(self) -> None:
        await self._connections.close()

    # topics, leaders, offsets

    async def _describe(self, topics: Sequence[str] | None) -> list[Topic]:
        """Ask the cluster for these topics (None: all but internal ones) and remember their leaders."""
        found, others = await self._look(topics)
        missing = [name for name, code in others.items() if code in {UNKNOWN_TOPIC, INVALID_TOPIC}]
        for name in others.keys() - set(missing):
            self._raise_for(others[name], (name, 0))
        if missing:
            await self._raise_missing(missing)
        return [topic for topic in found if topics is not None or not topic.internal]

    async def _look(self, topics: Sequence[str] | None) -> tuple[list[Topic], dict[str, int]]:
        """What the cluster tells of these topics (None: all), and the error code of each that it tells nothing of. Remembers brokers and leaders."""
        response = await self._metadata(topics)
        brokers = {broker["node_id"]: (broker["host"], broker["port"]) for broker in response["brokers"]}
        self._brokers, self._cluster_id = list(brokers.values()), response["cluster_id"]
        found, others = [], {}
        for topic in response["topics"]:
            if topic["error_code"]:
                others[topic["topic"]] = topic["error_code"]
                continue
            leaders = {part["partition"]: brokers.get(part["leader"]) for part in topic["partitions"]}
            topic_id = topic.get("topic_id", b"").hex()
            found.append(Topic(topic["topic"], topic_id if topic_id.strip("0") else None, topic["is_internal"], leaders))
        self._topics.update((topic.name, topic) for topic in found)
        return found, others

    async def _raise_missing(self, topics: Sequence[str]) -> NoReturn:
        everything = await self._metadata(None)
        there = sorted(topic["topic"] for topic in everything["topics"] if not topic["is_internal"] and topic["error_code"] == 0)
        listed = ", ".join(there[:20]) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
        error = TopicNotFound(f"{self._url} has no topic {', '.join(topics)}; it has {listed or 'none'}")
        if self._topics.keys().isdisjoint(topics):
            raise error
        raise TryAgainError(error, NEW_TOPIC_S)

    async def _metadata(self, topics: Sequence[str] | None) -> dict[str, Any]:
        trouble: TryAgainError | None = None
        for host, port in dict.fromkeys([*self._brokers, *self._hosts]):
            try:
                answer: dict[str, Any] = (await self._connections.send((host, port), MetadataRequest(topics))).to_object()
            except TryAgainError as exc:
                trouble = exc
                continue
            self._heard = True
            if answer["brokers"]:
                return answer
            # a node that starts or stops answers already, or still, when the controller does not count it among the brokers
            trouble = TryAgainError(
                SourceUnreachable(f"{self._url}: {host}:{port} answers, but knows of no broker; is the cluster starting?")
            )
        assert trouble
        if self._heard:
            raise trouble
        raise trouble.error  # nothing ever answered: the address is wrong or the broker down, and waiting helps neither

    def _leader(self, at: TopicPartition) -> Address:
        topic, partition = at
        leaders = self._topics[topic].leaders
        if partition not in leaders:
            raise TopicNotFound(f"{self._url}: {topic} has {many(len(leaders), 'partition')}, no partition {partition}")
        if leader := leaders[partition]:
            return leader
        raise TryAgainError(SourceUnreachable(f"{name_of(at)} on {self._url} has no leader now; is one of its brokers down?"))

    async def _offsets(self, where: Sequence[TopicPartition], time_ms: int, *, isolation: int) -> dict[TopicPartition, int]:
        """The offset that ListOffsets gives for this time in each partition, -1 for none."""
        by_leader: defaultdict[Address, list[TopicPartition]] = defaultdict(list)
        for at in where:
            by_leader[self._leader(at)].append(at)

        async def ask(leader: Address, theirs: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
            topics = [(topic, [(part, time_ms) for _, part in parts]) for topic, parts in groupby(sorted(theirs), key=lambda at: at[0])]
            offsets = {}
            for at, row in rows_of(await self._connections.send(leader, OffsetRequest(-1, isolation, topics))):
                self._raise_for(row["error_code"], at)
                offsets[at] = row["offset"]
            return offsets

        answers = await asyncio.gather(*(ask(leader, theirs) for leader, theirs in by_leader.items()))
        return {at: offset for answer in answers for at, offset in answer.items()}

    # sending

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        began = time.monotonic()
        while True:
            try:
                return await attempt()
            except TryAgainError as exc:
                if time.monotonic() - began > self._patience(exc):
                    raise exc.error from exc.__cause__
            await asyncio.sleep(BACKOFF_S)

    def _patience(self, trouble: TryAgainError) -> float:
        return self._patience_s if trouble.patience_s is None else trouble.patience_s

    def _raise_for(self, code: int, at: TopicPartition) -> None:
        if code == 0:
            return
        kind = kafka_errors.for_code(code).__name__
        if code == UNKNOWN_TOPIC:
            raise TryAgainError(TopicNotFound(f"{self._url} no longer has {name_of(at)}; was it deleted?"), NEW_TOPIC_S)
        if code == NOT_ALLOWED:
            raise AccessDenied(
                f"{self._url}: topic {at[0]} is not allowed or does not exist; these credentials need READ and DESCRIBE on it"
            )
        if code in MENDABLE:
            raise TryAgainError(
                SourceUnreachable(f"{name_of(at)} on {self._url} cannot be read now ({kind}, error {code}); is the cluster well?")
            )
        raise SourceError(f"{name_of(at)} on {self._url} cannot be read ({kind}, error {code})")


def hosts_of(url: str) -> list[Address]:
    """The brokers that an address names. Raises `SourceError`."""
    scheme, _, rest = url.partition("://")
    if "@" in rest or "?" in rest:
        raise SourceError(
            "an address must not hold a name, password or setting, they would be printed; pass sasl_plain_username= and ..._password=, or config="
        )
    try:
        hosts = [(host, port) for host, port, _ in collect_hosts(rest.rstrip("/"), randomize=False)]
    except ValueError:
        hosts = []
    if scheme != "kafka" or not hosts or not all(host and "/" not in host for host, _ in hosts):
        raise SourceError(f"{url!r} is no address of a Kafka cluster; write it like kafka://localhost:9092")
    return hosts


def rows_of(response: Any) -> Iterator[tuple[TopicPartition, dict[str, Any]]]:
    """Each partition's part of a response, its fields by name: they differ between versions."""
    topics = response.SCHEMA.fields[response.SCHEMA.names.index("topics")]
    names = topics.array_of.fields[-1].array_of.names
    for topic, rows in response.topics:
        for values in rows:
            row = dict(zip(names, values, strict=True))
            yield (topic, row["partition"]), row


def name_of(at: TopicPartition) -> str:
    return f"{at[0]}[{at[1]}]"
