"""The demo's folder: `demo.json` says what stands in it, and whether it is whole."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eslab.errors import LabBusy, NotALab

_MARK = "demo.json"
_DRAFT = ".demo.json.draft"
_MADE = ("log", "samples", "events", "lab.toml", "bookmarks.json", "lab.duckdb", "ground-truth.json", _DRAFT)


def stands(folder: Path, mark: dict[str, Any]) -> bool:
    """Whether the demo with this mark stands in the folder, whole; False where it is still to be made.

    Raises `NotALab` if the folder holds another demo or anything else.
    """
    held = _read(folder)
    if held is None:
        if folder.exists() and (not folder.is_dir() or any(entry.name != _DRAFT for entry in folder.iterdir())):
            raise NotALab(f"{folder} holds something else than a demo; nothing in it was touched: take a new folder")
        return False
    if not held.pop("finished", False):
        return False
    if held != mark:
        raise NotALab(
            f"{folder} holds another demo ({_show(held)}) than the one asked for ({_show(mark)}): take a new folder, or delete this one"
        )
    return True


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder, made if need be, against other processes that make a demo. Raises `LabBusy`."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise LabBusy(f"another process is making a demo in {folder}; try again when it has ended") from exc
        yield
    finally:
        os.close(descriptor)


def begin(folder: Path, mark: dict[str, Any]) -> None:
    """Mark the folder as this demo's, unfinished, and delete what an earlier run that broke off left in it."""
    _write(folder, mark | {"finished": False})
    for name in _MADE:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def finish(folder: Path, mark: dict[str, Any]) -> None:
    """Say that the demo is whole."""
    _write(folder, mark | {"finished": True})


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        held = json.loads((folder / _MARK).read_bytes())
    except (OSError, ValueError):
        return None
    return held if isinstance(held, dict) and "finished" in held else None


def _write(folder: Path, held: dict[str, Any]) -> None:
    draft = folder / _DRAFT
    draft.write_text(json.dumps(held) + "\n", encoding="utf-8")
    draft.replace(folder / _MARK)


def _show(mark: dict[str, Any]) -> str:
    told = [f"{name} {value}" for name, value in mark.items() if name != "prefix"]
    return ", ".join([*told, "on a cluster" if mark.get("prefix") else "on the embedded broker"])
