"""`merge_write_amplification`: how often a row is written by so many snapshots, beside 1 + log2 of them; and `merge_rss_mb`: the most memory that a merge of eight runs into one holds."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.data import Orders
from benchmarks.labs import in_runs
from benchmarks.report import begin, peak_mb, row
from eslab import Lab, building, runs
from eslab.events import EVENTS, newest_manifest

SNAPSHOTS = 32
MEAN = 1_000
MERGED = 10_000_000

chance = random.Random(1)
SIZES = {
    "equal": [MEAN] * SNAPSHOTS,
    "growing": [2 * MEAN * (at + 1) // SNAPSHOTS for at in range(SNAPSHOTS)],
    "shrinking": [2 * MEAN * (SNAPSHOTS - at) // SNAPSHOTS for at in range(SNAPSHOTS)],
    "random": [chance.randint(1, 2 * MEAN) for _ in range(SNAPSHOTS)],
}


def run() -> None:
    begin("merge_write_amplification")
    begin("merge_rss_mb")
    for pattern, sizes in SIZES.items():
        written, held, live = snapshots([max(size // 8, 1) for size in sizes])
        params = {"snapshots": SNAPSHOTS, "sizes": pattern, "live_runs": live}
        row("merge_write_amplification", written / held, "x", "lower", params, "1_plus_log2", 1 + math.log2(SNAPSHOTS))
    path = in_runs(MERGED, 8).path
    command = [sys.executable, "-m", "benchmarks.merge", str(path)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent, text=True).stdout
    row("merge_rss_mb", json.loads(told), "MB", "lower", {"n": MERGED, "runs": 8}, "goal", 800.0)


def snapshots(sizes: list[int]) -> tuple[int, int, int]:
    """Rows that were written by snapshots of these sizes (of each partition), rows that there are, and live runs, of which there never were more."""
    counted, most, at = [0], 0, 0
    intact = building.runs.write_run

    def counting(*args: object) -> list[runs.Written]:
        done: list[runs.Written] = intact(*args)  # type: ignore[arg-type]
        counted[0] += sum(one.rows for one in done)
        return done

    building.runs.write_run = counting
    try:
        with tempfile.TemporaryDirectory() as folder:
            lab = Lab(Path(folder) / "lab", tz="UTC", say=lambda text: None)
            for size in sizes:
                at += size
                lab.snapshot(Orders(at * 8), progress=False)
                manifest = newest_manifest(lab.path)
                assert manifest is not None
                most = max(most, len(manifest.runs))
            return counted[0], sum(one.rows for one in manifest.runs), most
    finally:
        building.runs.write_run = intact


if __name__ == "__main__":
    lab = Lab(sys.argv[1], tz="UTC")
    with tempfile.TemporaryDirectory() as folder:
        files = [runs.RunFile(path) for path in lab._now().paths]
        runs.write_run(Path(folder), "merged", runs.merge(files, EVENTS.names))
    print(json.dumps(peak_mb()))
