"""The lock of a lab's one writer."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from eslab.durable import disk_full, no_space
from eslab.errors import LabBusy

__all__ = ["is_writing", "writer_lock"]

LOCK_TRIES = 10  # half a second: `is_writing` of another process holds the lock for an instant


@contextlib.contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the one writer's lock of a lab. Raises `LabBusy`, naming the holder, if another has it; `DiskFull` for any file that found no room.

    Where the lab's folder was made for it and an error comes before anything was committed, nothing of it stays.
    """
    path = folder / "log" / ".writer"
    made: list[Path] = []
    try:
        with _locked(path, folder, made):
            try:
                yield
            except BaseException:
                _forget(path, made)
                raise
    except Exception as exc:
        if not no_space(exc):
            raise
        raise disk_full(folder) from exc


def _locked(path: Path, folder: Path, made: list[Path]) -> TextIO:
    """The lock file, locked and signed; the folders that had to be made for it are added to `made`."""
    for patience in range(LOCK_TRIES):
        made += _make(path.parent)
        try:
            file = path.open("a+")
        except FileNotFoundError:  # the holder made the folder, failed, and took it away again
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _stands(file, path):
                os.ftruncate(file.fileno(), 0)
                signed = {"pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
                os.write(file.fileno(), json.dumps(signed).encode())  # past the buffer, which would try again while the file is closed
                return file
            file.close()
        except BlockingIOError:
            holder = _holder(file)
            file.close()
            if patience == LOCK_TRIES - 1:
                raise LabBusy(f"{folder}: {holder} is writing to this lab; wait for it, or stop it, and run the same again") from None
            time.sleep(0.05)
        except BaseException:
            file.close()
            raise
    raise LabBusy(f"{folder}: its lock file keeps going away; is another process making and removing this lab? Run the same again")


def _make(folder: Path) -> list[Path]:
    """Make the folder, and return it and those above it that were not there: the outermost first."""
    if folder.is_dir():
        return []
    made = _make(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        return made
    return [*made, folder]


def _stands(file: TextIO, path: Path) -> bool:
    """Whether the open file is the one of this name still."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _forget(path: Path, made: Sequence[Path]) -> None:
    """Remove the lock file and the empty folders of a lab that was made for nothing. The caller holds the lock."""
    if path.parent not in made:
        return
    for folder, _, _ in os.walk(path.parent, topdown=False):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
    if [one.name for one in path.parent.iterdir()] == [path.name]:
        path.unlink()
    for one in reversed(made):
        with contextlib.suppress(OSError):
            one.rmdir()


def is_writing(folder: Path) -> bool:
    """Whether some process holds the writer's lock now."""
    try:
        with (folder / "log" / ".writer").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
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
