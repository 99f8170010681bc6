"""Cuts with a name, kept in the lab's bookmarks.json: under a short lock of their own, and by rename."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
import pandas as pd
import pyarrow as pa

from eslab.durable import enough_disk
from eslab.errors import ConfigError, MomentError
from eslab.model import Cut
from eslab.views import tables

__all__ = ["Bookmarks"]

FORMAT_VERSION: Final = 1


class Bookmarks(Mapping[str, Cut]):
    """The bookmarks of a lab by name, as they are now. `remove` takes one away; `lab.bookmark` adds one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, name: str, cut: Cut, *, replace: bool = False) -> None:
        """Keep a cut under a name. Raises `MomentError` if another cut has it, unless `replace`."""
        if not isinstance(name, str) or not name.strip() or not _is_utf8(name):
            raise MomentError(f"{name!r} is no name for a bookmark; write some text")
        with self._editing() as kept:
            if name in kept and kept[name] != cut and not replace:
                raise MomentError(f"bookmark {name!r} stands at another cut already ({kept[name].label}); replace=True moves it")
            kept[name] = cut

    def remove(self, name: str) -> None:
        """Forget a bookmark. Raises `MomentError` if there is none of that name."""
        with self._editing() as kept:
            if name not in kept:
                raise MomentError(_unknown(name, kept))
            del kept[name]

    def __getitem__(self, name: str) -> Cut:
        return self._read()[name]

    def cut(self, name: str) -> Cut:
        """The cut of that name, labelled with it. Raises `MomentError` if there is none."""
        kept = self._read()
        if name not in kept:
            raise MomentError(_unknown(name, kept))
        return dataclasses.replace(kept[name], label=f"bookmark {name!r}, {kept[name].label}")

    def name_of(self, cut: Cut) -> str | None:
        """The first name of a cut; None if it has none, or if the bookmarks cannot be read."""
        with contextlib.suppress(ConfigError):
            return next((name for name, kept in self._read().items() if kept == cut), None)
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def df(self) -> pd.DataFrame:
        """One row per bookmark: name, cut (how it was asked for), records (how many offsets lie before it)."""
        return pd.DataFrame(self._rows(), columns=["name", "cut", "offsets"])

    def arrow(self) -> pa.Table:
        """What `df` has, in Arrow."""
        return pa.Table.from_pandas(self.df(), preserve_index=False)

    def __repr__(self) -> str:
        return (
            "\n".join(f"{name!r}: {label}" for name, label, _ in self._rows()) or '<no bookmarks; lab.bookmark("name", at=...) makes one>'
        )

    def _repr_html_(self) -> str:
        return tables.html(["bookmark", "cut", "offsets"], self._rows(), empty="no bookmarks")

    def _rows(self) -> list[tuple[str, str, int]]:
        return [(name, cut.label, sum(cut.offsets.values())) for name, cut in self._read().items()]

    def _read(self) -> dict[str, Cut]:
        path = self._folder / "bookmarks.json"
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            raw = msgspec.json.decode(text, type=_File)
            if raw.format_version != FORMAT_VERSION:
                raise ConfigError(f"{path}: format_version is {raw.format_version}, this eslab reads {FORMAT_VERSION}")
            return {name: Cut.from_json(bytes(cut)) for name, cut in raw.bookmarks.items()}
        except (msgspec.MsgspecError, UnicodeError, MomentError) as exc:
            raise ConfigError(f"{path}: not readable as bookmarks: {exc}; correct it, or move it away") from exc

    @contextlib.contextmanager
    def _editing(self) -> Iterator[dict[str, Cut]]:
        """Read the bookmarks, let the caller change them, and put them back whole."""
        (self._folder / "log").mkdir(parents=True, exist_ok=True)
        with (self._folder / "log" / ".bookmarks").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in self._folder.glob(".bookmarks.json-*"):  # of a writer that died: no other holds the lock
                left.unlink(missing_ok=True)
            kept = self._read()
            yield kept
            raw = _File(FORMAT_VERSION, {name: msgspec.Raw(cut.to_json().encode()) for name, cut in kept.items()})
            temporary = self._folder / f".bookmarks.json-{os.getpid()}-{secrets.token_hex(4)}"
            with enough_disk(temporary):
                with temporary.open("wb") as file:
                    file.write(msgspec.json.format(msgspec.json.encode(raw), indent=1))
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self._folder / "bookmarks.json")


class _File(msgspec.Struct):
    format_version: int
    bookmarks: dict[str, msgspec.Raw]


def _unknown(name: str, kept: Mapping[str, Cut]) -> str:
    return f"no bookmark is called {name!r}; there {'are' if kept else 'is'} {', '.join(map(repr, kept)) or 'none'}"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
