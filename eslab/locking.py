"""The lock of a lab's one writer."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from eslab.durable import disk_full, no_space
from eslab.errors import LabBusy

__all__ = ["is_writing", "writer_lock"]

LOCK_TRIES = 10  # half a second: `is_writing` of another process holds the lock for an instant


@contextlib.contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the one writer's lock of a lab. Raises `LabBusy`, naming the holder, if another has it; `DiskFull` for any file that found no room."""
    path = folder / "log" / ".writer"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as file:
            _lock(file, folder)
            yield
    except Exception as exc:
        if not no_space(exc):
            raise
        raise disk_full(folder) from exc


def _lock(file: TextIO, folder: Path) -> None:
    for patience in range(LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if patience == LOCK_TRIES - 1:
                raise LabBusy(
                    f"{folder}: {_holder(file)} is writing to this lab; wait for it, or stop it, and run the same again"
                ) from None
            time.sleep(0.05)
    os.ftruncate(file.fileno(), 0)
    signed = {"pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    os.write(file.fileno(), json.dumps(signed).encode())  # past the buffer, which would try again while the file is closed


def is_writing(folder: Path) -> bool:
    """Whether some process holds the writer's lock now."""
    path = folder / "log" / ".writer"
    if not path.exists():
        return False
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _holder(file: TextIO) -> str:
    file.seek(0)
    try:
        told = json.load(file)
        return f"process {told['pid']} (since {told['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
