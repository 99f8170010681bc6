"""Fixtures that are not cheap: a real Kafka, librdkafka's embedded mock broker, a real browser.

A test that uses one is marked with its name. Where the thing cannot be had the test is skipped; `ESLAB_REQUIRE=kafka,browser` makes that a failure.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import browser
import confluent_kafka as ck
import kafka_cluster
import pytest
from browser import Chromium, Watched
from hypothesis import settings
from jupyter import ROOT, JupyterLab
from kafka_cluster import QUIET, KafkaCluster

import eslab

if TYPE_CHECKING:
    from playwright.sync_api import Page

REQUIRED = os.environ.get("ESLAB_REQUIRE", "").split(",")  # there, a missing thing is a failure and not a skip
MARKS = {
    "kafka": "kafka",
    "secured": "kafka",
    "trio": "kafka",
    "chromium": "browser",
}  # fixture -> the mark of the tests that use it, directly or not

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what goes on in the background; our tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

# jsonschema, which altair and nbformat import, would compile 38 grammars of what an IRI may be: 2 s in each process
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

settings.register_profile("busy", deadline=None)  # two workers on two cores: a first call may take a second
settings.load_profile("busy")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in a hook of its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        for mark in {MARKS[name] for name in fixtures if name in MARKS}:
            item.add_marker(mark)
        # what takes seconds to start is started by one process, which gets the tests that need it
        if group := next((name for name in ("jupyterlab", "trio", "secured", "kafka") if name in fixtures), None) or _room(item):
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the shared node with the last test of its group: idle, it would take a twentieth of a core from the rest."""
    if "PYTEST_XDIST_WORKER" in os.environ and _group(item) == "kafka" != _group(nextitem):
        item._fixtureinfo.name2fixturedefs["kafka"][-1].finish(item._request)  # type: ignore[attr-defined]


def _group(item: pytest.Item | None) -> str | None:
    mark = item and item.get_closest_marker("xdist_group")
    return mark.args[0] if mark else None


def _room(item: pytest.Item) -> str | None:
    """The module of a test that shares something with others of it, which is made once then."""
    found = item._fixtureinfo.name2fixturedefs.values()  # type: ignore[attr-defined]
    return item.nodeid.partition("::")[0] if any(one.scope == "module" for several in found for one in several) else None


def need(name: str, reason: str | None) -> None:
    """Skip the test if there is a reason why what it needs is missing, or fail it where that is required."""
    if reason and name in REQUIRED:
        pytest.fail(f"ESLAB_REQUIRE names {name}, but {reason}")
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """A node shared by the tests of one process; make topics without a name there, they get one of their own.

    One pytest-xdist worker has it and gets its tests; those that need more than it may start one of their own in another.
    """
    if address := os.environ.get("ESLAB_TEST_KAFKA"):
        yield KafkaCluster.at(address)
        return
    need("kafka", kafka_cluster.missing())
    with KafkaCluster(tmp_path_factory.mktemp("kafka")) as cluster:
        yield cluster


@pytest.fixture
def own_kafka(kafka: KafkaCluster) -> KafkaCluster:
    """The shared node for tests that stop it: they must start it again."""
    if not kafka.owned:
        pytest.skip("ESLAB_TEST_KAFKA names a broker that is not ours to stop")
    return kafka


@pytest.fixture
def embedded() -> Iterator[str]:
    """The address of a broker inside this process; it has four partitions a topic, and no transactions."""
    broker = ck.Producer({"test.mock.num.brokers": 1}, logger=QUIET)
    (node,) = broker.list_topics(timeout=10).brokers.values()
    yield f"{node.host}:{node.port}"
    del broker


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """The browser of this process, started by the first test that asks for it."""
    need("browser", browser.missing())
    with Chromium() as started:
        yield started


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def page(chromium: Chromium, watched: Watched) -> Iterator[Page]:
    """A blank page. The test fails if a request would have left this machine, or if an error was caught nowhere; see `watched`."""
    with chromium.page(watched) as opened:
        yield opened
    assert watched == Watched()


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    """A JupyterLab over a folder that looks like a checkout in which `make lab` ran: `notebooks/` and `data/shop`."""
    need("browser", browser.missing())
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (folder / "data").mkdir()
    with JupyterLab(folder, home=tmp_path_factory.mktemp("jupyter")) as started:
        eslab.demo(folder / "data" / "shop", progress=False)
        yield started
