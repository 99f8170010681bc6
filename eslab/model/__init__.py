"""The values that everything else speaks in: record, event, cut, change, path, and JSON with exact integers.

Plain frozen values and pure functions; no engine is imported here.
"""

from eslab.model.change import Change
from eslab.model.cut import Cut, Life, Selection
from eslab.model.event import Columns, Event
from eslab.model.exact import dumps, loads, loads_each, loads_exact
from eslab.model.packing import pack_state, pack_states, unpack_state
from eslab.model.paths import Path, format_path, parse_path, value_at
from eslab.model.record import Coordinates, Record
from eslab.model.sentinels import AGGREGATE, EACH, MISSING, TOMBSTONE

__all__ = [
    "AGGREGATE",
    "EACH",
    "MISSING",
    "TOMBSTONE",
    "Change",
    "Columns",
    "Coordinates",
    "Cut",
    "Event",
    "Life",
    "Path",
    "Record",
    "Selection",
    "dumps",
    "format_path",
    "loads",
    "loads_each",
    "loads_exact",
    "pack_state",
    "pack_states",
    "parse_path",
    "unpack_state",
    "value_at",
]
