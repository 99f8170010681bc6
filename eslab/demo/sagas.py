"""What happens to one order, from OrderCreated to its end: a generator of drafts, each yielded in publishing order.

Whoever plays a saga sends back the record that a draft became, with its offset: a dead letter names it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import msgspec

from eslab.demo import day
from eslab.demo.orders import Order
from eslab.demo.truth import Truth
from eslab.model import Record

ORDERS, PAYMENTS, INVENTORY, SHIPMENTS, DEAD_LETTERS = TOPICS = ("orders", "payments", "inventory", "shipments", "dead-letters")

Header = tuple[str, bytes | None]


class Draft(NamedTuple):
    """A record to be: published at `at`, stamped `stamp` (both ms), with neither partition nor offset yet."""

    at: int
    topic: str
    key: bytes
    value: bytes | None
    headers: tuple[Header, ...]
    stamp: int
    source: str


Process = Generator[Draft, Record, None]


class Span(msgspec.Struct, rename="camel"):
    trace_id: str
    span_id: str
    parent_span_id: str | None


class Envelope(msgspec.Struct, rename="camel"):
    """The default envelope."""

    event_id: str
    event_type: str
    event_version: str
    timestamp: str
    source: str
    correlation_id: str
    causation_id: str | None
    data: dict[str, Any]
    metadata: Span | dict[str, Any]


encode = msgspec.json.Encoder().encode


class Kind(NamedTuple):
    """A type of event; `code` makes the event's id within its order, so that no other event's id depends on whether this one happens."""

    code: int
    type: str
    topic: str


CREATED = Kind(10, "OrderCreated", ORDERS)
CONFIRMED = Kind(11, "OrderConfirmed", ORDERS)
UPDATED = Kind(12, "OrderUpdated", ORDERS)
SNAPSHOT = Kind(13, "OrderSnapshot", ORDERS)
SHIPPED = Kind(14, "OrderShipped", ORDERS)
DELIVERED = Kind(15, "OrderDelivered", ORDERS)
CANCELLED = Kind(16, "OrderCancelled", ORDERS)
RESERVED = Kind(20, "StockReserved", INVENTORY)  # 20 to 23: one code per item
REJECTED = Kind(25, "StockRejected", INVENTORY)
RELEASED = Kind(30, "StockReleased", INVENTORY)
REQUESTED = Kind(40, "PaymentRequested", PAYMENTS)
FAILED = Kind(41, "PaymentFailed", PAYMENTS)  # 41 to 43: one code per attempt
CHARGED = Kind(45, "PaymentCharged", PAYMENTS)
CHARGED_TWICE = Kind(46, "PaymentCharged", PAYMENTS)
REFUNDED = Kind(47, "PaymentRefunded", PAYMENTS)
PACKED = Kind(50, "PackageCreated", SHIPMENTS)
DISPATCHED = Kind(51, "PackageDispatched", SHIPMENTS)
ARRIVED = Kind(52, "PackageDelivered", SHIPMENTS)

_REDELIVERED = (CREATED, RESERVED, CREATED, REQUESTED)  # events that every order has, so that no duplicate depends on the saga's fate
_ATTEMPTS = 3
_CODES = [str(code) for code in range(64)]
_SPANS = [f"{code * 157 % 256:02x}" for code in range(64)]  # one byte per code, far apart to the eye


def package_key(number: int) -> bytes:
    return b"pkg-%d" % number


def dead_letter(record: Record, at: int, error: str, *headers: Header) -> Draft:
    """The record as a consumer that gave up on it passes it on: value and headers kept, and where it stood."""
    where = (
        ("original.topic", record.topic.encode()),
        ("original.partition", b"%d" % record.partition),
        ("original.offset", b"%d" % record.offset),
        ("error", error.encode()),
    )
    return Draft(at, DEAD_LETTERS, record.key or b"", record.value, (*record.headers, *where, *headers), at, "")


class Saga:
    """One order's story. `aside` takes drafts that are due later and apart from it: (draft, rank within the order)."""

    def __init__(self, order: Order, *, shadow_partition: bool, truth: Truth, aside: Callable[[Draft, int, int], None]) -> None:
        self._order = order
        self._shadow_partition = shadow_partition
        self._truth = truth
        self._aside = aside
        self._at = order.at
        self._pace = order.pace
        self._trace = f"{order.trace >> 64:032x}"
        self._span = f"{order.trace & 0xFF_FFFF_FFFF_FFFF:014x}"
        self._event_ids = f"evt-{order.number}-"
        self._id = f"ord-{order.number}"
        self._key = self._id.encode()
        self._correlation = f"cor-{order.number}"
        self._payment = f"pay-{order.number}1"
        self._currency = "EUR"
        self._again = -1 if order.duplicates is None else _REDELIVERED[int(order.duplicates * 4)].code

    def play(self) -> Process:
        """Yield every draft of the order's story, in the order of `at`."""
        order, fate = self._order, self._order.fate
        yield self._created()
        if order.erased is not None and order.at < day.clock("12:00"):
            self._erase(order.erased)
        yield from self._reserve()
        if fate == "rejected":
            return (yield from self._cancel("out of stock", REJECTED))
        yield from self._pay()
        if fate == "declined":
            return (yield from self._cancel("payment declined", FAILED))
        if fate in {"unanswered", "dead-lettered"}:
            return self._truth.hit("stuck", self._id, self._at)
        yield from self._confirm()
        if fate == "withdrawn":
            self._wait(60_000, 240_000)
            yield self._paid(REFUNDED, self._amount(reason="withdrawn by customer"), cause=CONFIRMED)
            return (yield from self._cancel("withdrawn by customer", REFUNDED))
        if fate == "unpacked":
            return self._truth.hit("stuck", self._id, self._at)
        yield from self._ship()
        self._truth.hit("stuck" if fate == "lost" else "finished", self._id, self._at)

    def _created(self) -> Draft:
        order = self._order
        data: dict[str, Any] = {"orderId": self._id, "status": "created", "customerId": order.customer, "items": order.items}
        if order.version_1 is not None:
            self._truth.hit("version_1", self._id, self._at)
            return self._event(CREATED, self._key, data | {"total": order.cents / 100}, source="shop-app@3.9.1")
        self._truth.hit("version_2", self._id, self._at)
        tier = ("standard", "standard", "plus")[order.number % 3]
        data |= {
            "totalAmount": order.cents / 100,
            "currency": self._currency,
            "customer": {"id": order.customer, "tier": tier, "country": "DE"},
        }
        return self._event(CREATED, self._key, data, source="shop-web@5.2.0", version="2.0")

    def _erase(self, chance: float) -> None:
        at = day.ERASURE_MS + int(chance * (day.ERASED_MS - day.ERASURE_MS))
        self._aside(Draft(at, ORDERS, self._key, None, (("reason", b"erasure request"),), at, ""), self._order.number, 2)
        self._truth.hit("erased", self._id, at)

    def _reserve(self) -> Process:
        rejected = len(self._order.items) - 1 if self._order.fate == "rejected" else -1
        for line, item in enumerate(self._order.items):
            self._wait(80, 900)
            if line == rejected:
                yield self._stock(REJECTED, 0, item, cause=CREATED, reason="out of stock")
            else:
                yield self._stock(RESERVED, line, item, cause=CREATED)

    def _pay(self) -> Process:
        order, fate = self._order, self._order.fate
        self._wait(300, 2_000)
        requested = yield self._paid(
            REQUESTED, self._amount(method=("card", "card", "paypal", "invoice")[order.number % 4]), cause=RESERVED
        )
        if fate == "unanswered":
            return
        failures = (
            _ATTEMPTS if fate == "dead-lettered" else 0 if order.retried is None or fate == "declined" else 1 + int(order.retried * 2)
        )
        for attempt in range(failures):
            self._wait(2_000, 20_000)
            data = self._amount(reason="gateway timeout", attempt=attempt + 1, retryable=True)
            yield self._paid(FAILED, data, index=attempt, cause=REQUESTED, headers=(("retry.attempt", b"%d" % (attempt + 1)),))
        if fate == "dead-lettered":
            self._truth.hit("dead_lettered", self._id, self._at)
            yield dead_letter(requested, self._at + 50, "GatewayTimeout: gave up after 3 attempts", ("retry.attempt", b"3"))
            return
        if failures:
            self._truth.hit("retried", self._id, self._at)
        self._wait(1_000, 9_000)
        if fate == "declined":
            yield self._paid(FAILED, self._amount(reason="card declined", attempt=1, retryable=False), cause=REQUESTED)
            return
        yield self._paid(CHARGED, self._amount(), cause=REQUESTED)
        if order.double_charged is not None and day.DEPLOY_MS <= self._at < day.FIX_MS - 3_000:
            self._wait(400, 2_500)
            self._truth.hit("double_charged", self._id, self._at)
            yield self._paid(CHARGED_TWICE, self._amount() | {"paymentId": f"pay-{order.number}2"}, cause=REQUESTED)

    def _confirm(self) -> Process:
        order = self._order
        self._wait(100, 900)
        yield self._event(
            CONFIRMED, self._key, {"orderId": self._id, "status": "confirmed", "paymentId": self._payment}, cause=CHARGED.code
        )
        if order.notification_style is not None:
            self._wait(50, 300)
            self._truth.hit("notification_style", self._id, self._at)
            yield self._event(UPDATED, self._key, {"orderId": self._id}, cause=CONFIRMED.code)
        if order.state_carrying is not None:
            self._wait(50, 300)
            self._truth.hit("state_carrying", self._id, self._at)
            state = {
                "orderId": self._id,
                "status": "confirmed",
                "customer": {"id": order.customer, "country": "DE"},
                "items": order.items,
                "totalAmount": order.cents / 100,
                "currency": self._currency,
                "paymentId": self._payment,
            }
            yield self._event(SNAPSHOT, self._key, state, cause=CONFIRMED.code)

    def _ship(self) -> Process:
        order = self._order
        package = f"pkg-{order.number}"
        ids: dict[str, Any] = {"packageId": package, "orderId": self._id}
        self._wait(60_000, 480_000)
        yield self._parcel(PACKED, ids | {"items": order.items}, host_bit=0, cause=CONFIRMED)
        self._wait(120_000, 600_000)
        yield self._parcel(DISPATCHED, ids | {"carrier": ("bike", "van")[order.number % 2]}, host_bit=1, cause=PACKED)
        self._wait(100, 1_500)
        data = {"orderId": self._id, "status": "shipped", "packageId": package}
        yield self._event(SHIPPED, self._key, data, cause=DISPATCHED.code)
        if order.fate == "lost":
            return
        self._wait(900_000, 2_700_000)
        happened = self._at
        if order.late is not None:
            # the courier's scanner was offline: the door was reached long before the broker heard of it
            self._at = max(happened, min(happened + 20 * day.MINUTE + int(order.late * 100 * day.MINUTE), day.LAST_SYNC_MS))
            self._truth.hit("late", self._event_ids + _CODES[ARRIVED.code], self._at)
        yield self._parcel(ARRIVED, dict(ids), host_bit=2, cause=DISPATCHED, happened=happened)
        self._wait(100, 1_500)
        data = {"orderId": self._id, "status": "delivered", "deliveredAt": day.utc(happened)}
        yield self._event(DELIVERED, self._key, data, cause=ARRIVED.code)

    def _cancel(self, reason: str, cause: Kind) -> Process:
        lines = self._order.items[:-1] if cause is REJECTED else self._order.items
        for line, item in enumerate(lines):
            self._wait(80, 900)
            yield self._stock(RELEASED, line, item, cause=cause, reason=reason)
        self._wait(100, 900)
        self._truth.hit("compensated", self._id, self._at)
        yield self._event(CANCELLED, self._key, {"orderId": self._id, "status": "cancelled", "reason": reason}, cause=cause.code)

    def _stock(self, kind: Kind, line: int, item: dict[str, Any], *, cause: Kind, **more: Any) -> Draft:
        data = {
            "productId": item["productId"],
            "itemId": item["itemId"],
            "orderId": self._id,
            "quantity": item["quantity"],
            **more,
        }
        return self._event(kind, item["productId"].encode(), data, index=line, cause=cause.code, source="inventory@1.8.2")

    def _amount(self, **more: Any) -> dict[str, Any]:
        return {
            "paymentId": self._payment,
            "orderId": self._id,
            "amount": self._order.cents / 100,
            "currency": self._currency,
            **more,
        }

    def _paid(self, kind: Kind, data: dict[str, Any], *, cause: Kind, index: int = 0, headers: tuple[Header, ...] = ()) -> Draft:
        version = "2.3.1" if self._at < day.DEPLOY_MS else "2.4.0" if self._at < day.FIX_MS else "2.4.1"
        key = data["paymentId"].encode()
        return self._event(kind, key, data, index=index, cause=cause.code, source=f"payments@{version}", headers=headers)

    def _parcel(self, kind: Kind, data: dict[str, Any], *, host_bit: int, cause: Kind, happened: int | None = None) -> Draft:
        key = package_key(self._order.number)
        ahead = self._shadow_partition and self._order.hosts >> host_bit & 1 and day.AHEAD_FROM_MS <= self._at < day.AHEAD_TO_MS
        if not ahead:
            return self._event(kind, key, data, cause=cause.code, source="shipping@3.2.0/host-a", happened=happened)
        # one clock stamps the record and the event: both are ahead
        return self._event(kind, key, data, cause=cause.code, source="shipping@3.2.0/host-b", happened=happened, ahead=day.AHEAD_BY_MS)

    def _wait(self, least_ms: int, most_ms: int) -> None:
        self._at += least_ms + ((most_ms - least_ms) * (self._pace & 0xFFFF) >> 16)
        self._pace >>= 16

    def _event(
        self,
        kind: Kind,
        key: bytes,
        data: dict[str, Any],
        *,
        index: int = 0,
        cause: int | None = None,
        source: str = "orders@4.0.2",
        version: str = "1.0",
        headers: tuple[Header, ...] = (),
        happened: int | None = None,
        ahead: int = 0,
    ) -> Draft:
        code, stamp = kind.code + index, self._at + ahead
        happened = (happened or self._at) + ahead - ((self._order.trace ^ code * 37) & 0xFF)  # it took a while to reach the broker
        envelope = Envelope(
            self._event_ids + _CODES[code],
            kind.type,
            version,
            day.utc(happened),
            source,
            self._correlation,
            self._event_ids + _CODES[cause] if cause else None,
            data,
            Span(self._trace, _SPANS[code] + self._span, _SPANS[cause] + self._span if cause else None),
        )
        draft = Draft(self._at, kind.topic, key, encode(envelope), headers, stamp, source)
        if code == self._again:
            self._redeliver(draft, envelope.event_id)
        return draft

    def _redeliver(self, draft: Draft, event_id: str) -> None:
        later = draft.at + 500 + int((self._order.duplicates or 0) * 1e6) % 90_000
        self._aside(draft._replace(at=later, stamp=later), self._order.number, 1)
        self._truth.hit("duplicates", event_id, later)
