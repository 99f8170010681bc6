"""eslab: an event-sourcing lab and time-travel debugger for Jupyter. In a notebook:

    lab = eslab.Lab("data/shop", tz="Europe/Berlin")
    lab.snapshot("kafka://localhost:9092", ["orders", "payments"])
    lab.history("order", "ord-12345").at("10:31")

`eslab.errors` holds all that it raises on purpose.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from eslab import errors
from eslab.errors import EslabError

if TYPE_CHECKING:
    from eslab.changes import Changes
    from eslab.history import History, State, Step
    from eslab.lab import Lab
    from eslab.model import MISSING, TOMBSTONE, Change, Coordinates, Cut, Event, Record
    from eslab.play import play
    from eslab.projection import Projection
    from eslab.world import World

__version__ = "0.1.0"

__all__ = [
    "MISSING",
    "TOMBSTONE",
    "Change",
    "Changes",
    "Coordinates",
    "Cut",
    "EslabError",
    "Event",
    "History",
    "Lab",
    "Projection",
    "Record",
    "State",
    "Step",
    "World",
    "errors",
    "play",
]

_HOMES = ("model", "projection", "changes", "world", "history", "lab", "play")
"""The modules that the names above come from."""


def __getattr__(name: str) -> Any:
    """A public name, from its module, when it is first asked for: pandas, Arrow and DuckDB take most of a second, and `eslab --help` needs none of them."""
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"{__name__}.{home}")
            if name in module.__all__:
                globals()[name] = value = getattr(module, name)
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """`eslab.play` is the function: importing the module of that name must not put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "errors" or name not in __all__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
