"""The demo's lab.toml: which aggregates its topics hold."""

from __future__ import annotations

from eslab.demo.sagas import DEAD_LETTERS, INVENTORY, ORDERS, PAYMENTS, SHIPMENTS

_AGGREGATES = {
    ORDERS: (("order", "data.orderId"), ("item", "data.items[].itemId")),
    PAYMENTS: (("payment", "data.paymentId"), ("order", "data.orderId")),
    INVENTORY: (("product", "data.productId"), ("item", "data.itemId")),
    SHIPMENTS: (("package", "data.packageId"), ("order", "data.orderId"), ("item", "data.items[].itemId")),
    DEAD_LETTERS: (),  # copies of events that stand in other topics: folded again here, they would count twice
}


def lab_toml(prefix: str = "") -> str:
    """The text of lab.toml for the demo's topics under this prefix."""
    lines = ["format_version = 1"]
    for topic, aggregates in _AGGREGATES.items():
        name = prefix + topic
        pairs = ", ".join(f'{{ name = "{aggregate}", id = "{path}" }}' for aggregate, path in aggregates)
        key = f'"{name}"' if "." in name else name
        lines += ["", f"[topics.{key}]", 'envelope = "default"', f"aggregates = [{pairs}]"]
        lines += ["dead_letters = true"] if topic == DEAD_LETTERS else []
    return "\n".join(lines) + "\n"
