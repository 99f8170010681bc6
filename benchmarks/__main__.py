"""Run every benchmark, or the ones that are named: `python -m benchmarks lookup replay`."""

import sys
from importlib import import_module

BENCHES = ("capture", "decode_sort", "snapshot", "lookup", "replay", "compare", "stepper")

if __name__ == "__main__":
    wanted = sys.argv[1:] or BENCHES
    if unknown := set(wanted) - set(BENCHES):
        sys.exit(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    for name in wanted:
        import_module(f"benchmarks.{name}").run()
