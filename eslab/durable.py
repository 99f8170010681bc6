"""Files that stand whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from eslab.errors import DiskFull

__all__ = ["commit_file", "disk_full", "enough_disk", "no_space", "replace_file", "sync"]


def commit_file(temporary: Path, final: Path) -> None:
    """Give a finished file its name: fsync, link (a rename would silently replace), fsync the folder, unlink.

    Raises `FileExistsError` if the name is taken.
    """
    sync(temporary)
    os.link(temporary, final)
    sync(final.parent)
    temporary.unlink()


def replace_file(temporary: Path, final: Path) -> None:
    """Put a finished file in the place of another: at every moment the one or the other stands there whole."""
    sync(temporary)
    os.replace(temporary, final)  # noqa: PTH105 - the tests of crashes count the steps of os
    sync(final.parent)


def sync(path: Path) -> None:
    """Have what was written to a file, or which names a folder has, on disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def enough_disk(path: Path) -> Iterator[None]:
    """Turn "no space left" into `DiskFull`, with the half-written file removed."""
    try:
        yield
    except Exception as exc:
        if not no_space(exc):
            raise
        path.unlink(missing_ok=True)
        raise disk_full(path.parent) from exc


def no_space(exc: Exception) -> bool:
    """Whether there was no room; DuckDB and Arrow say so in words alone."""
    return getattr(exc, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(exc)


def disk_full(folder: Path) -> DiskFull:
    return DiskFull(f"{folder}: the disk is full; what was committed before stands. Free some room and run the same again")
