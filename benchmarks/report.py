"""Rows of figures: printed as they come, and kept in benchmarks/out/latest.jsonl."""

from __future__ import annotations

import json
import re
import resource
import sys
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "out" / "latest.jsonl"


def begin(bench: str) -> None:
    """Forget what an earlier run of this bench left."""
    OUT.parent.mkdir(exist_ok=True)
    kept = [line for line in OUT.read_text().splitlines() if json.loads(line)["bench"] != bench] if OUT.exists() else []
    OUT.write_text("".join(line + "\n" for line in kept))


def row(bench: str, value: float, unit: str, better: str, params: dict[str, Any], peer: str, peer_value: float) -> None:
    """One figure beside its peer, measured in the same run."""
    told = {
        "bench": bench,
        "value": round(value, 4),
        "unit": unit,
        "better": better,
        "params": params,
        "peer": peer,
        "peer_value": round(peer_value, 4),
        "ratio": round(value / peer_value, 3),
    }
    with OUT.open("a") as file:
        file.write(json.dumps(told) + "\n")
    what = ", ".join(f"{name}={one}" for name, one in params.items())
    print(f"{bench:<12} {what:<28} {value:>14,.2f} {unit:<10} {peer} {peer_value:,.2f}: {told['ratio']}x ({better} is better)", flush=True)


def peak_mb() -> float:
    """The most memory that this process ever held. What `getrusage` tells of a child on Linux counts what its parent held when it was started."""
    try:
        told = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except FileNotFoundError:
        told = None
    if told is not None:
        return int(told[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)
