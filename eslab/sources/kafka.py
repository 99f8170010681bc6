"""Kafka as a source: reads offsets and records, and nothing else.

All asynchronous code of eslab is in the modules named kafka, and runs in one daemon thread with a loop of its own: a notebook's running loop does not
matter, and Ctrl-C in the calling thread cancels what is under way. aiokafka brings connections, security and the older
requests; its consumer is not used, because it makes a Python object per record and hides why offsets are missing.

Nothing here can create a topic: the one metadata request that is sent forbids it, and no aiokafka client is asked to track one.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from aiokafka.protocol.fetch import FetchRequest

from eslab.errors import SourceChanged, SourceError, SourceUnreachable
from eslab.sources import CONSUMER_OFFSETS, RECORDS, Chunk, Hole, Partition, TopicPartition
from eslab.sources.batch_codecs import Scratch
from eslab.sources.fetched_bytes import FetchedBytes
from eslab.sources.kafka_cluster import BACKOFF_S, ISOLATION, LOG_END, LOG_START, Cluster, name_of, rows_of
from eslab.sources.kafka_connections import Address, TooOldError, TryAgainError
from eslab.sources.kafka_protocol import EpochEndRequest
from eslab.sources.kafka_settings import read_settings
from eslab.sources.loop_thread import LoopThread
from eslab.sources.record_batches import decode

__all__ = ["KafkaSource"]

T = TypeVar("T")
Items = asyncio.Queue[FetchedBytes | Chunk | Exception | None]

PATIENCE_S: Final = 60  # how long a broker that answered before is waited for: restarts and elections take less
EMPTY_S: Final = (
    5  # how long a broker may find nothing below its own end before the cluster is looked at anew: tiered storage answers so while it loads
)

FETCH_BYTES: Final = 8 << 20  # measured: faster than 32 MiB, whose fresh memory costs more than the round trips saved
FETCH_WAIT_MS: Final = 500  # what is asked for is there already; this only bounds how often an unexpected end is asked again

OUT_OF_RANGE: Final = 1


class KafkaSource:
    """The topics of a Kafka cluster (0.11 and later): the source contract over its protocol.

    `url` is `kafka://host:port[,host:port]`. `settings` say how to log in: by name (Java's, librdkafka's and aiokafka's, dots as underscores), or
    all together as `config=`, a client.properties file or a dict. Connects when first asked; until then nothing but the arguments is checked.
    `read_committed` leaves out what aborted transactions wrote and ends at the last stable offset.
    """

    def __init__(self, url: str, *, isolation: str = "read_committed", **settings: Any) -> None:
        if isolation not in ISOLATION:
            raise SourceError(f"isolation {isolation!r} is not known; take one of {', '.join(ISOLATION)}")
        self._url, self._isolation = url, isolation
        self._cluster = _Cluster(url, isolation, read_settings(settings), patience_s=PATIENCE_S)
        self._thread = LoopThread(self._cluster.close)
        self._finalizer = weakref.finalize(self, self._thread.stop)  # a source that is let go, or left open at exit, goes quietly

    @property
    def url(self) -> str:
        return self._url

    @property
    def isolation(self) -> str:
        return self._isolation

    def __repr__(self) -> str:
        return f"<KafkaSource {self._url} {self._isolation}>"

    def partitions(self, topics: Sequence[str] | None) -> list[Partition]:
        if self._isolation == "read_uncommitted" and topics and CONSUMER_OFFSETS in topics:
            raise SourceError(
                f"{CONSUMER_OFFSETS} holds aborted commits too, which nothing else tells apart; capture it read_committed, as is the default"
            )
        return self._thread.run(self._cluster.partitions(topics))

    def read(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> Iterator[Chunk]:
        # one response is decoded here while the next waits in the queue and a third is on its way, per broker
        queue: Items = asyncio.Queue(maxsize=1)
        scratch = Scratch()
        fetching = self._thread.start(self._cluster.fetch(ranges, queue))
        try:
            while (item := self._thread.run(queue.get())) is not None:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, Chunk):
                    yield item
                else:
                    yield from decode(item, scratch)
        finally:
            fetching.cancel()

    def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int:
        found = self._thread.run(self._cluster.offset_at((topic, partition), timestamp_ms))
        return self._scan(topic, partition, timestamp_ms) if found is None else found

    def _scan(self, topic: str, partition: int, timestamp_ms: int) -> int:
        """Look the time up by reading: librdkafka's mock broker finds none, and would have everything be too old."""
        (bounds,) = (it for it in self.partitions([topic]) if it.partition == partition)
        for chunk in self.read({(topic, partition): (bounds.log_start, bounds.end)}):
            late = chunk.records["timestamp_ms"].to_numpy() >= timestamp_ms
            if late.any():
                return int(chunk.records["offset"].to_numpy()[late.argmax()])
        return bounds.end

    def epoch_end(self, topic: str, partition: int, leader_epoch: int) -> int | None:
        return self._thread.run(self._cluster.epoch_end((topic, partition), leader_epoch))

    def close(self) -> None:
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


# --- the cluster --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Position:
    """How far one partition has been read, and since when (monotonic) it has come no further."""

    at: int
    stop: int
    stuck_since: float | None = None
    lost: bool = False

    def stuck_s(self) -> float:
        """Note that it comes no further now; return for how long it has not."""
        now = time.monotonic()
        self.stuck_since = self.stuck_since or now
        return now - self.stuck_since

    def advance(self, next_: int) -> None:
        self.at, self.stuck_since = next_, None


class _Cluster(Cluster):
    """The conversation with the brokers; its methods run in the loop of one thread."""

    # what a source is asked

    async def partitions(self, topics: Sequence[str] | None) -> list[Partition]:
        async def describe() -> list[Partition]:
            found = {topic.name: topic for topic in await self._describe(topics)}
            where = sorted((topic.name, partition) for topic in found.values() for partition in topic.leaders)
            starts = await self._offsets(where, LOG_START, isolation=0)
            ends = await self._offsets(where, LOG_END, isolation=self._isolation)
            marks = await self._offsets(where, LOG_END, isolation=0) if self._isolation else ends
            return [
                Partition(name, partition, starts[name, partition], ends[name, partition], marks[name, partition], found[name].topic_id, self._cluster_id)
                for name, partition in where
            ]  # fmt: skip

        return await self._patiently(describe)

    async def offset_at(self, at: TopicPartition, timestamp_ms: int) -> int | None:
        """The offset that the broker finds, the end if there is none, None for a broker that cannot look up times."""

        async def look_up() -> int | None:
            await self._describe([at[0]])

            async def ask(time_ms: int) -> int:
                return (await self._offsets([at], time_ms, isolation=self._isolation))[at]

            if (found := await ask(max(timestamp_ms, 0))) >= 0:  # below 0 the protocol means other things
                return found
            end = await ask(LOG_END)
            return end if end == await ask(LOG_START) or await ask(0) >= 0 else None

        return await self._patiently(look_up)

    async def epoch_end(self, at: TopicPartition, leader_epoch: int) -> int | None:
        async def ask() -> int | None:
            await self._describe([at[0]])
            ((_, row),) = rows_of(await self._connections.send(self._leader(at), EpochEndRequest(at, leader_epoch)))
            self._raise_for(row["error_code"], at)
            return row["end_offset"] if row["end_offset"] >= 0 else None

        try:
            return await self._patiently(ask)
        except TooOldError:
            return None

    async def fetch(self, ranges: Mapping[TopicPartition, tuple[int, int]], out: Items) -> None:
        """Put what covers the ranges into `out`, at last None or the exception that ended it. Waits while `out` is full."""
        positions = {at: _Position(start, stop) for at, (start, stop) in ranges.items() if start < stop}
        topic_ids: dict[str, str | None] = {}
        try:
            while positions:
                await self._fetch_round(positions, topic_ids, out)
                positions = {at: position for at, position in positions.items() if position.at < position.stop}
        except Exception as exc:  # noqa: BLE001 - raised again by the reader, who would else wait forever
            await out.put(exc)
        else:
            await out.put(None)

    # fetching

    async def _fetch_round(self, positions: dict[TopicPartition, _Position], topic_ids: dict[str, str | None], out: Items) -> None:
        """Fetch from every leader until all is read, or until something calls for a fresh look at the cluster."""
        stale = asyncio.Event()
        try:
            for topic in await self._describe(sorted({topic for topic, _ in positions})):
                if topic_ids.setdefault(topic.name, topic.topic_id) != topic.topic_id:
                    raise SourceChanged(f"{topic.name} was deleted and made anew on {self._url} while it was read; capture it again")
            by_leader = await self._by_leader(positions, out)
        except TryAgainError as exc:
            self._wait_for(positions.values(), exc)
            by_leader = {}
        if sum(map(len, by_leader.values())) < len(positions):
            asyncio.get_running_loop().call_later(BACKOFF_S, stale.set)
        try:
            async with asyncio.TaskGroup() as group:
                for leader, theirs in by_leader.items():
                    group.create_task(self._fetch_from(leader, theirs, stale, out))
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None  # one is enough to end the reading
        if stale.is_set() or not by_leader:
            await asyncio.sleep(BACKOFF_S)

    async def _by_leader(self, positions: dict[TopicPartition, _Position], out: Items) -> dict[Address, dict[TopicPartition, _Position]]:
        """Whom to ask for which of the positions; those that nobody leads now are left out, to be asked for again soon."""
        by_leader: defaultdict[Address, dict[TopicPartition, _Position]] = defaultdict(dict)
        for at, position in positions.items():
            try:
                if position.lost:
                    await self._find_again(at, position, out)
                by_leader[self._leader(at)][at] = position
            except TryAgainError as exc:
                self._wait_for([position], exc)
        return by_leader

    async def _fetch_from(self, leader: Address, positions: dict[TopicPartition, _Position], stale: asyncio.Event, out: Items) -> None:
        order = [at for at, position in positions.items() if position.at < position.stop]
        while order and not stale.is_set():
            try:
                response = await self._connections.send(leader, self._fetch_request(order, positions), purpose="fetch")
            except TryAgainError as exc:
                self._wait_for((positions[at] for at in order), exc)
                stale.set()
                return
            served = set()
            for at, row in rows_of(response):
                try:
                    if await self._take(at, positions[at], row, out):
                        served.add(at)
                except TryAgainError as exc:
                    self._wait_for([positions[at]], exc)
                    stale.set()
            if not served and not stale.is_set() and not response.throttle_time_ms:
                await self._nothing_came(response, positions, stale, out)
            # only the first of a request is sure of a whole batch: those that got nothing go first
            order = [at for at in order if at not in served] + [at for at in order if at in served]
            order = [at for at in order if positions[at].at < positions[at].stop]

    def _fetch_request(self, order: Sequence[TopicPartition], positions: Mapping[TopicPartition, _Position]) -> FetchRequest:
        topics = [
            (topic, [(partition, positions[topic, partition].at, FETCH_BYTES) for _, partition in theirs])
            for topic, theirs in groupby(order, key=lambda at: at[0])
        ]
        return FetchRequest(FETCH_WAIT_MS, 1, FETCH_BYTES, self._isolation, topics)

    async def _take(self, at: TopicPartition, position: _Position, row: Mapping[str, Any], out: Items) -> bool:
        """Hand on what came for this partition; return whether it advances. The headers alone say how far."""
        if row["error_code"] == OUT_OF_RANGE:
            position.lost = True
            raise TryAgainError(SourceUnreachable(f"{name_of(at)}: {self._url} keeps refusing offset {position.at}, which its log holds"))
        self._raise_for(row["error_code"], at)
        aborted = (row["aborted_transactions"] or ()) if self._isolation else ()
        fetched = FetchedBytes(*at, position.at, position.stop, row["message_set"] or b"", row.get("log_start_offset", -1), aborted)
        if fetched.next == position.at:
            return False
        await out.put(fetched)
        position.advance(fetched.next)
        return True

    async def _find_again(self, at: TopicPartition, position: _Position, out: Items) -> None:
        """Name the cause of an out-of-range answer, which a lagging follower gives too: ask the leader where its log begins and ends."""
        start = (await self._offsets([at], LOG_START, isolation=0))[at]
        end = (await self._offsets([at], LOG_END, isolation=0))[at]
        if position.at > end:
            raise SourceChanged(
                f"{name_of(at)} on {self._url} ends at offset {end}, before {position.at} where it was to be read on: it was truncated, or "
                "deleted and made anew; capture it again"
            )
        position.lost = False
        if position.at < start:
            await self._put_hole(at, position, Hole(position.at, min(start, position.stop), "retention"), out)

    async def _nothing_came(self, response: Any, positions: Mapping[TopicPartition, _Position], stale: asyncio.Event, out: Items) -> None:
        """An answer without a whole batch, although all were asked below their ends. It is not yet proof of anything: who answers may no longer lead."""
        for at, row in rows_of(response):
            position = positions[at]
            end = row["last_stable_offset" if self._isolation else "highwater_offset"]
            stuck_s, came = position.stuck_s(), len(row["message_set"] or b"")
            if came and stuck_s > EMPTY_S:  # who gets anything first gets a whole batch, however large
                FetchedBytes(*at, position.at, position.stop, b"").corrupt(position.at, f"only {came:,} bytes come of the batch there")
            if end >= position.stop and stuck_s > PATIENCE_S:
                await self._put_hole(at, position, Hole(position.at, position.stop, "unknown"), out)
            elif stuck_s > PATIENCE_S:
                raise SourceChanged(
                    f"{name_of(at)} on {self._url} ends at offset {end} now, before {position.stop}; look at its partitions again"
                )
            elif stuck_s > EMPTY_S:
                stale.set()
        await asyncio.sleep(BACKOFF_S)

    async def _put_hole(self, at: TopicPartition, position: _Position, hole: Hole, out: Items) -> None:
        await out.put(Chunk(*at, hole.start, hole.next, RECORDS.empty_table(), (hole,)))
        position.advance(hole.next)

    def _wait_for(self, positions: Iterable[_Position], trouble: TryAgainError) -> None:
        """Raise the trouble's error once one of the positions has been stuck for longer than that deserves."""
        if max((position.stuck_s() for position in positions), default=0) > self._patience(trouble):
            raise trouble.error
