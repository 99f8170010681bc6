"""Fixtures that speak to Kafka: a real one, and librdkafka's embedded mock broker."""

from __future__ import annotations

import os
from collections.abc import Iterator

import confluent_kafka as ck
import pytest
from kafka_cluster import QUIET, KafkaCluster, missing

REQUIRED = os.environ.get("ESLAB_REQUIRE", "").split(",")  # there, a missing thing is a failure and not a skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "kafka" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kafka)


def need_kafka() -> None:
    """Skip the test where no Kafka can be started, or fail it where one is required."""
    if reason := missing():
        if "kafka" in REQUIRED:
            pytest.fail(f"ESLAB_REQUIRE names kafka, but {reason}")
        pytest.skip(reason)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """A node shared by the tests of one process; make topics without a name there, they get one of their own.

    Each pytest-xdist worker has its own: a shared one would have to outlive whichever worker started it, and tests may kill it.
    """
    if address := os.environ.get("ESLAB_TEST_KAFKA"):
        yield KafkaCluster.at(address)
        return
    need_kafka()
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
