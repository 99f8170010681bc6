"""Run every benchmark, or the ones that are named: `python -m benchmarks lookup fold`."""

import sys
from importlib import import_module

BENCHES = (
    "capture",
    "decode_sort",
    "snapshot",
    "lookup",
    "seek",
    "fold",
    "first",
    "changes",
    "advance",
    "sql_asof",
    "sql_sum",
    "replay_rss",
    "merge",
    "compare",
    "stepper",
    "debugger",
)
ASKED = ("replay_rss_50m",)  # only by name: they take very long

if __name__ == "__main__":
    wanted = sys.argv[1:] or BENCHES
    if unknown := set(wanted) - {*BENCHES, *ASKED}:
        sys.exit(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    for name in wanted:
        import_module(f"benchmarks.{name}").run()
