"""How long work shows that it goes on: a bar by tqdm, in notebooks and shells alike."""

from __future__ import annotations

from typing import Final, Self

from tqdm.auto import tqdm

from eslab.sources import Chunk

__all__ = ["Bar"]

DELAY_S: Final = 2.0  # work that is done sooner shows no bar: in a notebook even one that has gone leaves a line in the saved file


class Bar:
    """A progress bar, or none, with the two ways in which it moves."""

    def __init__(self, what: str, total: int | None = None, *, unit: str = "records", shown: bool) -> None:
        self.records = 0
        self._bar = tqdm(total=total or None, desc=what, unit=f" {unit}", unit_scale=True, disable=not shown, leave=False, delay=DELAY_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def chunk(self, chunk: Chunk) -> None:
        self.records += chunk.records.num_rows
        self._bar.update(chunk.next - chunk.start)

    def count(self, rows: int) -> None:
        self._bar.update(rows)

    def more(self, offsets: int) -> None:
        if self._bar.total is not None:
            self._bar.total += offsets
