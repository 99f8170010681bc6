"""eslab: an event-sourcing lab and time-travel debugger for Jupyter. In a notebook:

    lab = eslab.Lab("data/shop", tz="Europe/Berlin")
    lab.snapshot("kafka://localhost:9092", ["orders", "payments"])
    lab.history("order", "ord-4711").at("10:31")

`eslab.errors` holds all that it raises on purpose.
"""

from eslab import errors
from eslab.apart import WorldChanges
from eslab.around import Around
from eslab.blaming import Cause, Causes, Explanation
from eslab.bookmarks import Bookmarks
from eslab.changes import Changes
from eslab.compare import Comparison, Difference, Divergence
from eslab.contents import Gaps, Info, Snapshot
from eslab.dead_letters import DeadLetter, DeadLetters
from eslab.demo import demo
from eslab.duplicates import Duplicate, Duplicates
from eslab.errors import EslabError
from eslab.exploring import Explorer, Page
from eslab.firsts import First, Firsts
from eslab.history import History
from eslab.invariants import Check, Invariant, Violation, Violations
from eslab.lab import Lab
from eslab.lag import Lag, Standing
from eslab.late import Late
from eslab.model import MISSING, TOMBSTONE, Change, Coordinates, Cut, Event, Record
from eslab.play import play
from eslab.projection import Projection, SqlProjection
from eslab.sagas import Sagas
from eslab.search import Found
from eslab.sqlworld import SqlWorld
from eslab.stalls import Stalls
from eslab.steps import State, Step
from eslab.throughput import Throughput
from eslab.timeline import Timeline
from eslab.timelines import Pair, Timelines
from eslab.tracing import Trace, Traced
from eslab.verify import Verification
from eslab.views.offline import use_offline_charts
from eslab.watching import Watch
from eslab.whatif import WhatIf, WorldWhatIf
from eslab.world import World
from eslab.worldlines import WorldTimelines

__version__ = "0.1.0"

__all__ = [
    "MISSING",
    "TOMBSTONE",
    "Around",
    "Bookmarks",
    "Cause",
    "Causes",
    "Change",
    "Changes",
    "Check",
    "Comparison",
    "Coordinates",
    "Cut",
    "DeadLetter",
    "DeadLetters",
    "Difference",
    "Divergence",
    "Duplicate",
    "Duplicates",
    "EslabError",
    "Event",
    "Explanation",
    "Explorer",
    "First",
    "Firsts",
    "Found",
    "Gaps",
    "History",
    "Info",
    "Invariant",
    "Lab",
    "Lag",
    "Late",
    "Page",
    "Pair",
    "Projection",
    "Record",
    "Sagas",
    "Snapshot",
    "SqlProjection",
    "SqlWorld",
    "Stalls",
    "Standing",
    "State",
    "Step",
    "Throughput",
    "Timeline",
    "Timelines",
    "Trace",
    "Traced",
    "Verification",
    "Violation",
    "Violations",
    "Watch",
    "WhatIf",
    "World",
    "WorldChanges",
    "WorldTimelines",
    "WorldWhatIf",
    "demo",
    "errors",
    "play",
    "use_offline_charts",
]
