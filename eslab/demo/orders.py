"""What chance decides about each order, every phenomenon from a random stream of its own.

A stream is asked exactly once per order, in the orders' sequence. So a rate changed, or a phenomenon added later, moves nothing that
another stream decides.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eslab.demo import day

RATES = {
    "compensated": 0.06,
    "stuck": 0.012,
    "dead_lettered": 0.004,
    "retried": 0.03,
    "double_charged": 0.4,  # of the orders charged while the faulty version runs
    "duplicates": 0.03,
    "late": 0.03,
    "version_1": 0.4,
    "notification_style": 0.3,
    "state_carrying": 0.15,
    "erased": 0.02,
}
"""How often each phenomenon hits an order."""

EVENTS_PER_ORDER = 11.26  # the mean of 80,000 orders
EVENTS_SPREAD = 1.8  # and its standard deviation
FIRST_NUMBER = 4_357  # so that in a demo of the default size order 4711 is one that the deploy charged twice


@dataclass(slots=True)
class Order:
    """One order and all that will happen to it.

    A phenomenon is None where it passes this order by, else a number from 0 to 1 that decides its details.
    `fate` is how the saga goes: finished; rejected, declined, withdrawn (compensated); unanswered, unpacked, lost,
    dead-lettered (stuck). `pace`, `trace` and `hosts` are random bits.
    """

    number: int
    at: int
    customer: str
    items: list[dict[str, Any]]
    cents: int
    fate: str
    pace: int
    trace: int
    hosts: int
    retried: float | None
    double_charged: float | None
    duplicates: float | None
    late: float | None
    version_1: float | None
    notification_style: float | None
    state_carrying: float | None
    erased: float | None


class Shop:
    """The catalogue, and the day's orders as chance has them."""

    def __init__(self, *, events: int, seed: int) -> None:
        self._seed = seed
        self.products = [f"sku-{100 + at}" for at in range(max(10, min(500, events // 100)))]
        prices = self.stream("catalogue")
        self._cents = [prices.randrange(2, 120) * 100 - prices.choice((1, 5, 10, 50)) for _ in self.products]
        self.malformed = max(4, events // 2_500)
        self.orders = _orders_for(events - len(self.products) - 2 * self.malformed)
        self._appointments: dict[int, tuple[int, set[str]]] = {}
        for time, name in day.APPOINTMENTS:
            at = day.clock(time)
            self._appointments.setdefault(int(day.share(at) * self.orders), (at, set()))[1].add(name)

    def stream(self, name: str) -> random.Random:
        """A new random stream of this name: the same numbers for the same seed, whatever other streams there are."""
        return random.Random(f"{self._seed}:{name}")  # noqa: S311  a story, not a secret

    def appointment(self, name: str) -> int:
        """The number of the order that this phenomenon is sure to hit."""
        return next(FIRST_NUMBER + at for at, (_, names) in self._appointments.items() if name in names)

    def arrivals(self) -> Iterator[Order]:
        """The day's orders as they arrive. Costs the memory of one."""
        traffic, baskets, pace, traces, hosts = (self.stream(name) for name in ("traffic", "baskets", "pace", "traces", "hosts"))
        chances = [(name, self.stream(name).random, rate) for name, rate in RATES.items()]
        for at in range(self.orders):
            arrival = day.moment((at + traffic.random()) / self.orders)
            meeting, names = self._appointments.get(at, (arrival, None))
            hits: dict[str, float | None] = {}
            for name, draw, rate in chances:
                chance = draw()
                if names is None:
                    hits[name] = chance / rate if chance < rate else None
                else:
                    hits[name] = chance if name in names else None
            fate = _fate(hits.pop("compensated"), hits.pop("stuck"), hits.pop("dead_lettered"))
            number = FIRST_NUMBER + at
            items, cents = self._basket(number, baskets)
            customer = f"cus-{1000 + int(baskets.random() * max(20, self.orders // 3))}"
            bits = hosts.getrandbits(8)
            if names and "clock_ahead" in names:
                bits = 0b001  # its first shipping event from the host with the wrong clock, the next in its shadow
            yield Order(number, meeting, customer, items, cents, fate, pace.getrandbits(512), traces.getrandbits(192), bits, **hits)

    def _basket(self, number: int, baskets: random.Random) -> tuple[list[dict[str, Any]], int]:
        items, cents = [], 0
        for line in range(1, 1 + (1, 1, 1, 2, 2, 2, 3, 4)[int(baskets.random() * 8)]):
            product = int(len(self.products) * baskets.random() ** 2)  # a few products sell best
            quantity = (1, 1, 1, 2, 3)[int(baskets.random() * 5)]
            price = self._cents[product]
            cents += quantity * price
            items.append(
                {"itemId": f"itm-{number}-{line}", "productId": self.products[product], "quantity": quantity, "price": price / 100}
            )
        return items, cents


def _orders_for(events: int) -> int:
    """How many orders stay below so many events; the stocktaking at night fills up the rest."""
    orders = events / EVENTS_PER_ORDER
    return int(orders - 3.5 * EVENTS_SPREAD / EVENTS_PER_ORDER * orders**0.5 - 0.002 * orders)


def _fate(compensated: float | None, stuck: float | None, dead_lettered: float | None) -> str:
    if dead_lettered is not None:
        return "dead-lettered"
    if stuck is not None:
        return ("unanswered", "unpacked", "lost")[int(stuck * 3)]
    if compensated is not None:
        return ("rejected", "declined", "withdrawn")[int(compensated * 3)]
    return "finished"
