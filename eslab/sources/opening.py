"""From what a person writes to a source."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from eslab.errors import SourceError
from eslab.sources import Source
from eslab.sources.files import FileSource

__all__ = ["open_groups", "open_source"]

UNDERSTOOD = "kafka://host:port, a file, a folder, a glob like 'dumps/*.jsonl', or file:path"
_SERVERS = re.compile(r"[\w.-]+:\d{1,5}(,[\w.-]+:\d{1,5})*")
_LOGIN = re.compile(r"[^/\s:@]+:\S*@")


def open_source(url: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Source, **settings: Any) -> Source:
    """The source that `url` names; `settings` are the keyword options of its class. A `Source` is returned as it is.

    Looks whether files are there, but reaches for no broker. Raises `SourceError` for what it does not understand.
    """
    if isinstance(url, Source):
        if settings:
            raise SourceError(f"{', '.join(settings)}: settings belong to the source's own constructor, and {url.url} is made already")
        return url
    if not isinstance(url, (str, os.PathLike, Iterable)):
        raise SourceError(_not_understood(str(url)))
    if not isinstance(url, str):
        return FileSource(url, **settings)
    # Kafka's client is the slowest import of all, and nobody who reads a file should wait for it.
    if url.startswith("kafka://"):
        source: Source = import_module("eslab.sources.kafka").KafkaSource(url, **settings)
        return source
    if url.startswith("file:"):
        return FileSource(re.sub(r"^file:(//)?", "", url), **settings)
    if "://" not in url and (glob.has_magic(url) or (url and Path(url).expanduser().exists())):
        return FileSource(url, **settings)
    raise SourceError(_not_understood(url))


def open_groups(url: str, **settings: Any) -> Any:
    """The consumer groups (`eslab.sources.kafka_groups.KafkaGroups`) of the cluster that `url` names. Reaches for no broker yet. Raises `SourceError`."""
    if isinstance(url, str) and url.startswith("kafka://"):
        return import_module("eslab.sources.kafka_groups").KafkaGroups(url, **settings)
    if isinstance(url, str) and _SERVERS.fullmatch(url):
        raise SourceError(_not_understood(url))
    raise SourceError(f"only a Kafka cluster has consumer groups, and {_shown(url)} is none; write it like kafka://localhost:9092")


def _not_understood(url: str) -> str:
    if _SERVERS.fullmatch(url):
        return f"{url!r} has no scheme; for a Kafka cluster write kafka://{url}"
    scheme, given, _ = url.partition("://")
    if given:
        return f"no source is known for {scheme}://; eslab understands {UNDERSTOOD}"
    return f"{_shown(url)} is no file or folder in {Path.cwd()}; eslab understands {UNDERSTOOD}"


def _shown(url: object) -> str:
    """What was written, without a login that may stand in it."""
    return repr(_LOGIN.sub("***@", str(url)))
