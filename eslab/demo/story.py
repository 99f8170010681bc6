"""The day of the order shop as one stream of records, in the order in which they were published."""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterator
from heapq import heappop, heappush, heapreplace
from typing import Any
from zlib import crc32

from eslab.demo import day
from eslab.demo.orders import FIRST_NUMBER, Shop
from eslab.demo.sagas import (
    INVENTORY,
    ORDERS,
    SHIPMENTS,
    TOPICS,
    Draft,
    Envelope,
    Process,
    Saga,
    dead_letter,
    encode,
    package_key,
)
from eslab.demo.truth import Shadow, Truth
from eslab.errors import ConfigError
from eslab.model import Record

PARTITIONS = 4  # what the embedded broker gives every topic
LEAST_EVENTS = 300  # with fewer there is no room for one of each phenomenon
TICK_MS = 5_000  # how finely `Story.ends` remembers when records came; consumers commit as often
_RANKS = 4  # what may be due for one order apart from each other: saga, duplicate, tombstone


class Story:
    """Everything that happens in the shop on its day: `events` records, the same for the same seed.

    Iterate it once. Memory is that of the orders under way. `truth`, `shadow` and `ends` are complete when the iteration has ended.
    `ends` holds, for every `TICK_MS` from midnight to midnight, the end offsets of all logs, by topic and partition as in `TOPICS`:
    the records published up to and with that moment.
    """

    def __init__(self, *, events: int, seed: int, prefix: str = "") -> None:
        if events < LEAST_EVENTS:
            raise ConfigError(f"a demo of {events} events has no room for one of each phenomenon; ask for {LEAST_EVENTS} or more")
        self.events = events
        self.seed = seed
        self.truth = Truth()
        self.ends = array("q")
        self._shop = Shop(events=events, seed=seed)
        self._names = {topic: prefix + topic for topic in TOPICS}
        self._offsets = {topic: [0] * PARTITIONS for topic in TOPICS}
        self._tick_ms = day.START_MS
        self.shadow = Shadow(crc32(package_key(self._shop.appointment("clock_ahead"))) % PARTITIONS)
        self._due: list[tuple[int, int, Draft, Process | None]] = []

    def __iter__(self) -> Iterator[Record]:
        self._start(_deliveries(self._shop), -1)
        for nth, malformed in enumerate(self._malformed()):
            self._start(malformed, -2 - nth)
        for order in self._shop.arrivals():
            yield from self._until(order.at)
            in_shadow = crc32(package_key(order.number)) % PARTITIONS == self.shadow.partition
            saga = Saga(order, shadow_partition=in_shadow, truth=self.truth, aside=self._aside)
            self._start(saga.play(), order.number * _RANKS)
        yield from self._until(day.STOP_MS)
        for draft in _stocktaking(self._shop, self.events - self._published()):
            yield self._publish(draft)
        self._tick(day.STOP_MS + 1)

    def _published(self) -> int:
        return sum(sum(offsets) for offsets in self._offsets.values())

    def _tick(self, now_ms: int) -> None:
        while self._tick_ms < now_ms:
            for offsets in self._offsets.values():
                self.ends.extend(offsets)
            self._tick_ms += TICK_MS

    def _start(self, process: Process, tag: int) -> None:
        draft = next(process)
        heappush(self._due, (draft.at, tag, draft, process))

    def _aside(self, draft: Draft, number: int, rank: int) -> None:
        heappush(self._due, (draft.at, number * _RANKS + rank, draft, None))

    def _until(self, stop_ms: int) -> Iterator[Record]:
        """Publish what is due before `stop_ms`. Equal times go by tag, which no other phenomenon's drafts can change."""
        due = self._due
        while due and due[0][0] < stop_ms:
            _, tag, draft, process = due[0]
            record = self._publish(draft)
            following = _advance(process, record) if process else None
            # what the saga laid aside meanwhile is due later than this draft, so this one still stands first
            if following is None:
                heappop(due)
            else:
                heapreplace(due, (following.at, tag, following, process))
            yield record

    def _publish(self, draft: Draft) -> Record:
        at, topic, key, value, headers, stamp, source = draft
        if at > self._tick_ms:
            self._tick(at)
        partition = crc32(key) % PARTITIONS
        offsets = self._offsets[topic]
        offset = offsets[partition]
        offsets[partition] = offset + 1
        if topic == SHIPMENTS and partition == self.shadow.partition:
            self.shadow.see(offset, at, stamp, source)
        return Record(
            topic=self._names[topic],
            partition=partition,
            offset=offset,
            timestamp_ms=stamp,
            timestamp_type="create",
            key=key,
            value=value,
            headers=headers,
        )

    def _malformed(self) -> Iterator[Process]:
        chance = self._shop.stream("malformed")
        first, last = day.share(day.clock("06:00")), day.share(day.clock("21:30"))
        for nth in range(self._shop.malformed):
            share = first + (last - first) * (nth + chance.random()) / self._shop.malformed
            number = FIRST_NUMBER + int(share * self._shop.orders) - 1
            yield self._reject(number, day.moment(share) + chance.randrange(10_000, 60_000), nth % len(_MALFORMED))

    def _reject(self, number: int, at: int, kind: int) -> Process:
        value, error = _MALFORMED[kind]
        key = b"ord-%d" % number
        record = yield Draft(at, ORDERS, key, value % key, (), at, "")
        self.truth.hit("malformed", f"{record.topic}/{record.partition}/{record.offset}", at)
        yield dead_letter(record, at + 120, error)

    def ground_truth(self) -> dict[str, Any]:
        """Who was hit by what, from when to when. Complete when the story has been told."""
        phenomena = self.truth.as_json()
        phenomena["double_charged"] |= {"from": day.local(day.DEPLOY_MS), "to": day.local(day.FIX_MS)}
        phenomena["clock_ahead"] = self.shadow.as_json()
        phenomena["stalled"] = {"group": "read-model", "topic": ORDERS, "from": day.local(day.STALL_MS), "to": day.local(day.RESUME_MS)}
        return {"events": self._published(), "seed": self.seed, "day": day.DATE.isoformat(), "zone": day.ZONE.key, "phenomena": phenomena}


_MALFORMED = (
    (b'{"eventId":"erp-1","eventType":"OrderUpdated","data":{"orderId":"%b","note":"cut off he', "JSONDecodeError: input ended early"),
    (
        b'{"eventId":"erp-2","eventType":"OrderUpdated","data":{"orderId":"%b","note":"M\xfcller"}}',
        "UnicodeDecodeError: invalid start byte 0xfc",
    ),
    (b'["OrderUpdated","%b"]', "TypeError: expected an object, found an array"),
    (b'{"eventId":"erp-4","data":{"orderId":"%b","note":"no type"}}', "KeyError: eventType"),
)
"""What a careless producer writes, and what its consumer says to it."""


def _advance(process: Process, record: Record) -> Draft | None:
    """Tell the process what its draft became; its next one, None at its end."""
    try:
        return process.send(record)
    except StopIteration:
        return None


def _stock_event(event_id: str, kind: str, data: dict[str, Any], at: int) -> Draft:
    envelope = Envelope(event_id, kind, "1.0", day.utc(at - 40), "inventory@1.8.2", f"cor-{event_id}", None, data, {})
    return Draft(at, INVENTORY, data["productId"].encode(), encode(envelope), (), at, "")


def _deliveries(shop: Shop) -> Generator[Draft, Record, None]:
    chance = shop.stream("deliveries")
    for nth, product in enumerate(shop.products):
        data = {"productId": product, "quantity": 10 * chance.randrange(20, 200)}
        yield _stock_event(f"evt-received-{nth}", "StockReceived", data, day.START_MS + 5_000 + nth * 1_000)


def _stocktaking(shop: Shop, counts: int) -> Iterator[Draft]:
    """The night's stocktaking: as many counts as bring the story to its number of events."""
    chance = shop.stream("stocktaking")
    for nth in range(counts):
        data = {"productId": shop.products[nth % len(shop.products)], "counted": chance.randrange(50, 2_000)}
        at = day.STOCKTAKING_MS + nth * (day.STOCKTAKEN_MS - day.STOCKTAKING_MS) // counts
        yield _stock_event(f"evt-counted-{nth}", "StockCounted", data, at)
