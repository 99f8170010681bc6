"""The order shop: a day of events with everything that happens to events, as a lab to learn and try on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from eslab.demo import day
from eslab.demo.consumers import samples
from eslab.demo.folder import alone, begin, finish, stands
from eslab.demo.mapping import lab_toml
from eslab.demo.sagas import TOPICS
from eslab.demo.story import Story
from eslab.errors import SourceError
from eslab.samples import write_samples

if TYPE_CHECKING:
    from eslab.demo.broker import Broker
    from eslab.lab import Lab

__all__ = ["demo", "lab_toml"]

VERSION = 1  # of the story: raise it when the same seed begins to tell another one
PREFIX = "eslab-demo."  # of the topics on a user's cluster; on the embedded broker they stand alone and need none


def demo(path: str | Path, *, events: int = 20_000, seed: int = 1, kafka: str | None = None, progress: bool = True) -> Lab:
    """The lab in the folder `path` that holds the demo of so many `events` (300 or more); the same `seed`, the same records.

    If it stands already, it is opened and nothing is rebuilt; a demo that broke off is made anew. Otherwise the shop's day is
    played on an embedded broker, or on the cluster at `kafka` ("host:port": its topics are `eslab-demo.*`), and captured.
    Raises `NotALab` if the folder holds anything else, `LabBusy` if another process is making it, `SourceError` if the
    cluster has such topics that are not this demo's.
    """
    from eslab.lab import Lab  # noqa: PLC0415  the story alone needs no engine

    folder = Path(path)
    prefix = PREFIX if kafka else ""
    mark = {"seed": seed, "events": events, "version": VERSION, "prefix": prefix}
    if stands(folder, mark):
        return Lab(folder, tz=day.ZONE.key)
    story = Story(events=events, seed=seed, prefix=prefix)
    topics = [prefix + topic for topic in TOPICS]
    with alone(folder):
        if stands(folder, mark):  # made by another process while this one waited
            return Lab(folder, tz=day.ZONE.key)
        broker = _broker(kafka, topics, f"{seed}/{events}/{VERSION}")
        begin(folder, mark)
        (folder / "lab.toml").write_text(lab_toml(prefix), encoding="utf-8")
        lab = Lab(folder, tz=day.ZONE.key)
        for _ in _published(story, broker, progress=progress):
            lab.snapshot(broker.url, topics, progress=False)
        write_samples(folder, samples(story, prefix))
        (folder / "ground-truth.json").write_text(json.dumps(story.ground_truth(), indent=1) + "\n", encoding="utf-8")
        finish(folder, mark)
    return lab


def _broker(kafka: str | None, topics: list[str], mark: str) -> Broker:
    try:
        from eslab.demo import broker  # noqa: PLC0415  an optional dependency
    except ImportError as exc:
        raise SourceError(
            "the demo plays on the broker that comes with confluent-kafka, which is missing: pip install 'eslab[demo]'"
        ) from exc
    return broker.cluster(kafka.removeprefix("kafka://"), topics, mark) if kafka else broker.embedded(topics)


def _published(story: Story, broker: Broker, *, progress: bool) -> Iterator[Any]:
    """Publish the story, and yield whenever as much of it stands in the broker as that can hold."""
    from eslab.demo.broker import chunks  # noqa: PLC0415  an optional dependency

    with tqdm(total=story.events, unit=" events", desc="the order shop", disable=not progress) as bar:
        for chunk in chunks(story):
            broker.publish(chunk)
            yield chunk
            bar.update(len(chunk))
