"""Watching consumer groups: asks again and again where they stand, and keeps the answers as samples, a file a minute."""

from __future__ import annotations

import datetime as dt
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from eslab.errors import SourceUnreachable
from eslab.samples import SAMPLES, write_samples
from eslab.sources import GroupPosition
from eslab.wording import many

__all__ = ["Watch", "watch"]

FILE_S: Final = 60  # of samples in a file, and so what a killed watch loses at most


@dataclass(frozen=True, slots=True)
class Watch:
    """What a watch brought."""

    url: str
    polls: int
    missed: int
    samples: int
    groups: tuple[str, ...]

    def __repr__(self) -> str:
        missed = f", {self.missed:,} missed" if self.missed else ""
        return f"<Watch of {self.url}: {many(self.polls, 'poll')}{missed}, {many(self.samples, 'sample')} of {many(len(self.groups), 'group')}>"


def watch(
    folder: Path,
    url: str,
    ask: Callable[[], Sequence[GroupPosition]],
    *,
    every_s: float,
    stop: threading.Event,
    for_s: float | None = None,
    say: Callable[[str], None] = lambda line: None,
    on_poll: Callable[[int], None] = lambda samples: None,
    on_file: Callable[[], None] = lambda: None,
) -> Watch:
    """Ask every `every_s` seconds until `stop` is set or `for_s` have passed, and write what was told into `folder`/samples; `on_file` is called after each file.

    What ends it, Ctrl-C or an error, writes what was told before. The first answer must come: what it raises is raised. A source that cannot be reached
    later on is asked again, said once, and what was not told is not there. Takes no lock: a capture may run at the same time.
    """
    keeper = _Keeper(folder, on_file)
    polls = missed = 0
    away = False
    groups: set[str] = set()
    try:
        for _ in _ticks(every_s, for_s, stop):
            # before it is asked: so a sample never overrules a commit that was made while the answer was on its way
            sampled_at = dt.datetime.now(dt.UTC)
            try:
                told = ask()
            except SourceUnreachable as exc:
                if not polls:
                    raise
                if not away:
                    say(f"{exc} It is asked again every {every_s:g} s; nothing is known of the time between")
                missed, away = missed + 1, True
                continue
            if away:
                say(f"{url} answers again")
            groups |= {one.group for one in told}
            keeper.keep(sampled_at, told)
            if not polls:
                say(_begun(url, told, every_s))
            polls, away = polls + 1, False
            on_poll(len(told))
    finally:
        keeper.write()
    return Watch(url, polls, missed, keeper.samples, tuple(sorted(groups)))


def _begun(url: str, told: Sequence[GroupPosition], every_s: float) -> str:
    groups, places = {one.group for one in told}, {(one.topic, one.partition) for one in told}
    what = f"{many(len(groups), 'group')} on {many(len(places), 'partition')}" if told else "no consumer group has committed anything yet"
    return f"watching {url} every {every_s:g} s: {what}"


def _ticks(every_s: float, for_s: float | None, stop: threading.Event) -> Iterator[None]:
    """Yield when a poll is due: at once, and then every so often; one that takes longer than its turn leaves out those that it overran."""
    began = due = time.monotonic()
    while not stop.is_set():
        yield
        due += every_s * max(1, math.ceil((time.monotonic() - due) / every_s))
        end = math.inf if for_s is None else began + for_s
        stop.wait(max(0.0, min(due, end) - time.monotonic()))
        if due >= end:
            return


class _Keeper:
    """The samples of the current minute, and those before in their files."""

    def __init__(self, folder: Path, on_file: Callable[[], None] = lambda: None) -> None:
        self._folder, self._on_file = folder, on_file
        self._rows: list[dict[str, Any]] = []
        self._began: dt.datetime | None = None
        self.samples = 0

    def keep(self, sampled_at: dt.datetime, told: Sequence[GroupPosition]) -> None:
        if self._began is None or not 0 <= (sampled_at - self._began).total_seconds() < FILE_S:
            self.write()
            self._began = sampled_at
        self._rows += [
            {
                "group": one.group,
                "topic": one.topic,
                "partition": one.partition,
                "committed": one.committed,
                "log_start": one.log_start,
                "log_end": one.log_end,
                "sampled_at": sampled_at,
                "committed_at": None,
                "origin": "watch",
            }
            for one in told
        ]

    def write(self) -> None:
        if self._rows:
            write_samples(self._folder, pa.Table.from_pylist(self._rows, schema=SAMPLES))
            self.samples += len(self._rows)
            self._rows = []
            self._on_file()
