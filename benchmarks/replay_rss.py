"""`replay_rss_mb`: the most memory that a replay holds which is written to Parquet, in a process of its own; beside one that has read the same lab's first events.

At 5 and 10 million events, or those that `ESLAB_BENCH_EVENTS` names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.fold import status
from benchmarks.labs import orders
from benchmarks.report import begin, peak_mb, row
from eslab import Lab

SIZES = [int(one) for one in os.environ.get("ESLAB_BENCH_EVENTS", "5000000,10000000").split(",")]


def run() -> None:
    begin("replay_rss_mb")
    measure(SIZES)


def measure(sizes: list[int]) -> None:
    for events in sizes:
        path = orders(events).path
        found = {what: json.loads(_asked(what, path)) for what in ("nothing", "replay")}
        row("replay_rss_mb", found["replay"], "MB", "lower", {"n": events}, "imports_alone", found["nothing"])


def _asked(what: str, path: Path) -> str:
    command = [sys.executable, "-m", "benchmarks.replay_rss", what, str(path)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent, text=True).stdout


if __name__ == "__main__":
    lab = Lab(sys.argv[2], tz="UTC")
    lab.cut()
    if sys.argv[1] == "replay":
        with tempfile.TemporaryDirectory() as folder:
            lab.replay(status, progress=False).to_parquet(Path(folder) / "world.parquet")
    print(json.dumps(peak_mb()))
