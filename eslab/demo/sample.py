"""A small demo as files, in the JSON lines that `kcat -C -J` writes: for tests, and for reading with one's own eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eslab.demo.sagas import TOPICS
from eslab.demo.story import Story
from eslab.model import Record, dumps

EVENTS = 400
SEED = 1


def write_sample(folder: str | Path) -> list[Path]:
    """Write one `<topic>.jsonl` per topic and return their paths. Records that are no UTF-8, which kcat cannot write, are left out."""
    lines: dict[str, list[bytes]] = {topic: [] for topic in TOPICS}
    for record in Story(events=EVENTS, seed=SEED):
        try:
            lines[record.topic].append(dumps(_as_kcat(record)) + b"\n")
        except UnicodeDecodeError:
            continue
    paths = []
    for topic, rows in lines.items():
        path = Path(folder) / f"{topic}.jsonl"
        path.write_bytes(b"".join(rows))
        paths.append(path)
    return paths


def _as_kcat(record: Record) -> dict[str, Any]:
    headers = [part for name, value in record.headers for part in (name, _text(value))]
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "tstype": record.timestamp_type,
        "ts": record.timestamp_ms,
        "headers": headers,
        "key": _text(record.key),
        "payload": _text(record.value),
    }


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
