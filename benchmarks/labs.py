"""Labs of synthetic orders, built once and kept under benchmarks/out."""

from __future__ import annotations

from pathlib import Path

from benchmarks.data import Orders
from eslab import Lab

LABS = Path(__file__).parent / "out" / "labs"


def orders(events: int) -> Lab:
    """A lab of so many events in one sorted run."""
    lab = Lab(LABS / f"orders-{events}", tz="UTC", say=lambda text: None)
    lab.snapshot(Orders(events), progress=True)
    return lab
