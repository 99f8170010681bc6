"""`replay_rss_mb` at 50 million events: only when it is asked for, since the lab takes half an hour to make."""

from __future__ import annotations

from benchmarks.replay_rss import measure


def run() -> None:
    measure([50_000_000])
