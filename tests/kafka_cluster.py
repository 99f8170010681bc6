"""A real Apache Kafka for tests: KRaft nodes from Maven's jars on free loopback ports, no Docker.

    with KafkaCluster(tmp_path, nodes=3) as cluster:
        cluster.create_topic("orders", partitions=2)
        cluster.kill(1); cluster.start(1)

`KafkaCluster.at("host:port")` speaks to one that runs already; it can be written to, but not stopped.
Only processes started here are ended, by their id, and at the latest when Python ends.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import fcntl
import hashlib
import logging
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import confluent_kafka as ck
from confluent_kafka import admin as ck_admin

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "kafka"
POM = Path(__file__).resolve().parent / "kafka" / "pom.xml"

QUIET = logging.getLogger("librdkafka")  # it writes a line per refused connection, twenty a second
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False

NEW_LEADER = {ck.KafkaError.FENCED_LEADER_EPOCH, ck.KafkaError._NOENT}
START_S = 180  # a broker is up after 4 to 8 s on an idle machine
WAIT_S = 120  # what takes milliseconds there


def missing() -> str | None:
    """Why no Kafka can be started here, or None."""
    absent = [tool for tool in ("java", "mvn") if not shutil.which(tool)]
    if "java" in absent or ("mvn" in absent and not _libs().is_dir()):
        return f"no {' and no '.join(absent)} here; install them or set ESLAB_TEST_KAFKA=host:port"
    return None


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """Return the first true value of `condition`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} after {timeout_s} s")
        time.sleep(0.05)
    return value


def _libs() -> Path:
    return CACHE / f"libs-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"


def jars() -> Path:
    """The folder of Kafka's jars; Maven fetches them once for all processes."""
    libs = _libs()
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not libs.is_dir():
            partial = CACHE / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={partial}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            partial.rename(libs)
    return libs


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing listens on; held together, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for it in sockets:
            it.bind(("127.0.0.1", 0))
        return [it.getsockname()[1] for it in sockets]


def _id() -> str:
    """One of Kafka's own kind."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


class KafkaCluster:
    """Nodes 1..n, each broker and controller. Started by the constructor, which returns once they answer.

    `listeners` are extra ones, name -> security protocol; `properties` go into every server.properties as they are;
    `format_args` to the storage tool (SCRAM users, for example).
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 1,
        listeners: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        format_args: Sequence[str] = (),
        heap: str = "768m",
    ) -> None:
        self.owned = True
        self._folder = folder
        self._heap = heap
        self._extra = dict(listeners or {})
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        names = ["PLAINTEXT", "CONTROLLER", *self._extra]
        ports = iter(free_ports(nodes * len(names)))
        self._ports = {node: {name: next(ports) for name in names} for node in range(1, nodes + 1)}
        self._libs = jars()
        cluster_id = _id()
        for node in self._ports:
            self._write_properties(node, properties or {})
        # one id may begin with a dash: the long form with = keeps it an argument
        self._java("kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", str(self._file(1)), *format_args)
        for node in range(2, nodes + 1):
            self._format_as_the_first(node)
        atexit.register(self.close)
        for node in self._ports:
            self._spawn(node)
        for node in self._ports:
            self._wait_until_it_answers(node)

    @classmethod
    def at(cls, bootstrap: str) -> Self:
        """One that runs already."""
        cluster = cls.__new__(cls)
        cluster.owned = False
        cluster._external = bootstrap
        return cluster

    # --- nodes

    @property
    def bootstrap(self) -> str:
        return ",".join(self.address(node) for node in self._ports) if self.owned else self._external

    @property
    def url(self) -> str:
        return f"kafka://{self.bootstrap}"

    def address(self, node: int = 1, listener: str = "PLAINTEXT") -> str:
        return f"127.0.0.1:{self._ports[node][listener]}"

    def start(self, node: int = 1) -> None:
        """Start a node that was stopped or killed, and wait until it answers."""
        self._spawn(node)
        self._wait_until_it_answers(node)

    def stop(self, node: int = 1) -> None:
        """End a node in good order."""
        self._end(node, signal.SIGTERM)

    def kill(self, node: int = 1) -> None:
        """End a node as a power cut would."""
        self._end(node, signal.SIGKILL)

    def restart(self, node: int = 1) -> None:
        self.stop(node)
        self.start(node)

    def close(self) -> None:
        """Kill every node that runs still. Safe to call twice."""
        if self.owned:
            for node in list(self._processes):
                self.kill(node)
            atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _file(self, node: int) -> Path:
        return self._folder / f"node-{node}.properties"

    def _write_properties(self, node: int, properties: Mapping[str, str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        copies = min(len(self._ports), 3)
        voters = ",".join(f"{other}@127.0.0.1:{ports['CONTROLLER']}" for other, ports in self._ports.items())
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **self._extra}
        settings = {
            "process.roles": "broker,controller",
            "node.id": node,
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in self._ports[node].items()),
            "advertised.listeners": ",".join(
                f"{name}://127.0.0.1:{port}" for name, port in self._ports[node].items() if name != "CONTROLLER"
            ),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "log.dirs": self._folder / f"data-{node}",
            "offsets.topic.replication.factor": copies,
            "offsets.topic.num.partitions": 3,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 3,
            "broker.session.timeout.ms": 2000,  # a killed node may come back only once the quorum has given it up
            "broker.heartbeat.interval.ms": 300,
            "group.initial.rebalance.delay.ms": 0,
            "auto.create.topics.enable": "true",  # the default, and what a careless metadata request would trip over
            "num.partitions": 1,
            "default.replication.factor": copies,
            "log.cleaner.backoff.ms": 100,  # compaction within a test
            "log.retention.ms": -1,  # tests write any time; half a minute after its start a node would remove what is a week old
            "log.retention.check.interval.ms": 200,  # retention within a test, of the topics that have it
            "log.initial.task.delay.ms": 200,
            "log.message.timestamp.after.max.ms": 2**62,  # tests write any time
            "log.segment.delete.delay.ms": 1000,
            **properties,
        }
        self._file(node).write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def _format_as_the_first(self, node: int) -> None:
        """What the storage tool would make, but for the seconds that it takes: only the two ids differ."""
        shutil.copytree(self._folder / "data-1", self._folder / f"data-{node}")
        meta = self._folder / f"data-{node}" / "meta.properties"
        ours = {"node.id": str(node), "directory.id": _id()}
        read = dict(line.split("=", 1) for line in meta.read_text().splitlines() if not line.startswith("#"))
        meta.write_text("".join(f"{name}={value}\n" for name, value in {**read, **ours}.items()))

    def _command(self, main: str, *args: str) -> list[str]:
        # the first compiler, the plain collector, and classes taken as they are: a test's broker lives for seconds and shares two cores
        unverified = ["-XX:+UnlockDiagnosticVMOptions", "-XX:-BytecodeVerificationRemote"]
        flags = [*unverified, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", f"-Xmx{self._heap}"]
        return ["java", *flags, "-cp", f"{self._libs}/*", main, *args]

    def _java(self, main: str, *args: str) -> None:
        done = subprocess.run(self._command(main, *args), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{main} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def _spawn(self, node: int) -> None:
        assert node not in self._processes, f"node {node} runs already"
        with (self._folder / f"node-{node}.log").open("ab") as log:
            # a session of its own: Ctrl-C in the terminal is pytest's, which then ends us in order
            self._processes[node] = subprocess.Popen(
                self._command("kafka.Kafka", str(self._file(node))),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _end(self, node: int, how: signal.Signals) -> None:
        process = self._processes.pop(node)
        process.send_signal(how)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_until_it_answers(self, node: int) -> None:
        client = ck_admin.AdminClient({"bootstrap.servers": self.address(node), "socket.timeout.ms": 2000}, logger=QUIET)

        def answers() -> bool:
            if (code := self._processes[node].poll()) is not None:
                raise RuntimeError(f"node {node} ended with {code}: {(self._folder / f'node-{node}.log').read_text()[-2000:]}")
            try:
                return node in client.list_topics(timeout=1).brokers
            except ck.KafkaException:
                return False

        wait_for(answers, f"answer of node {node}", START_S)

    # --- what runs on it

    @property
    def admin(self) -> ck_admin.AdminClient:
        if not hasattr(self, "_admin"):
            self._admin = ck_admin.AdminClient({"bootstrap.servers": self.bootstrap}, logger=QUIET)
        return self._admin

    def topics(self) -> set[str]:
        return set(self.admin.list_topics(timeout=WAIT_S).topics)

    def create_topic(self, name: str = "", *, partitions: int = 1, replicas: int = 1, **config: Any) -> str:
        """Make a topic (named by chance without a name) and return its name once it can be written. `a_b=1` sets `a.b`."""
        name = name or f"t-{uuid.uuid4().hex[:12]}"
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        new = ck_admin.NewTopic(name, num_partitions=partitions, replication_factor=replicas, config=settings)
        self.admin.create_topics([new])[name].result(WAIT_S)
        wait_for(lambda: self._has_leaders(name, partitions), f"leader of {name}")
        return name

    def _has_leaders(self, name: str, partitions: int) -> bool:
        found = self.admin.list_topics(name, timeout=WAIT_S).topics[name].partitions
        return len(found) == partitions and all(part.leader >= 0 for part in found.values())

    def delete_topic(self, name: str) -> None:
        self.admin.delete_topics([name])[name].result(WAIT_S)
        wait_for(lambda: name not in self.topics(), f"end of {name}")

    def alter_topic(self, name: str, **config: Any) -> None:
        entries = [
            ck_admin.ConfigEntry(key.replace("_", "."), str(value), incremental_operation=ck_admin.AlterConfigOpType.SET)
            for key, value in config.items()
        ]
        resource = ck_admin.ConfigResource(ck_admin.ConfigResource.Type.TOPIC, name, incremental_configs=entries)
        self.admin.incremental_alter_configs([resource])[resource].result(WAIT_S)

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Move the log start to `before`, as retention does."""
        at = ck.TopicPartition(topic, partition, before)
        self.admin.delete_records([at])[at].result(WAIT_S)

    def end(self, topic: str, partition: int = 0, *, stable: bool = False) -> int:
        """The high watermark, or with `stable` the last stable offset."""
        level = ck.IsolationLevel.READ_COMMITTED if stable else ck.IsolationLevel.READ_UNCOMMITTED
        return self._offset(topic, partition, ck_admin.OffsetSpec.latest(), isolation_level=level)

    def start_of(self, topic: str, partition: int = 0) -> int:
        """The log start."""
        return self._offset(topic, partition, ck_admin.OffsetSpec.earliest())

    def _offset(self, topic: str, partition: int, spec: ck_admin.OffsetSpec, **more: Any) -> int:
        at = ck.TopicPartition(topic, partition)

        def ask() -> Any:
            try:
                return self.admin.list_offsets({at: spec}, **more)[at].result(10)
            except ck.KafkaException as exc:
                if exc.args[0].code() not in NEW_LEADER:
                    raise
                del self._admin  # librdkafka does not forget who led before a node was started anew

        return wait_for(ask, f"offset of {topic}[{partition}]").offset

    def log_file(self, topic: str, partition: int = 0, node: int = 1) -> Path:
        """The first file of a partition's log on a node's disk."""
        return self._folder / f"data-{node}" / f"{topic}-{partition}" / f"{0:020d}.log"

    def wait_until_stable(self, topic: str, partition: int = 0, *, at_least: int | None = None) -> int:
        """Wait until no transaction is open (or the last stable offset is this far): `commit_transaction` returns before."""
        return wait_for(
            lambda: (stable := self.end(topic, partition, stable=True)) >= (self.end(topic, partition) if at_least is None else at_least) and stable + 1,
            f"stable end of {topic}[{partition}]",
        ) - 1  # fmt: skip

    def producer(self, **config: Any) -> ck.Producer:
        """librdkafka's producer; `linger_ms=5` sets `linger.ms`."""
        settings = {key.replace("_", "."): value for key, value in config.items()}
        return ck.Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 20, **settings}, logger=QUIET)

    def produce(self, topic: str, records: Iterable[Mapping[str, Any]], *, partition: int = 0, **config: Any) -> None:
        """Write the records (value=, key=, headers=, timestamp=) in order, and wait until they are there."""
        send(self.producer(**config), topic, records, partition=partition)


def send(producer: ck.Producer, topic: str, records: Iterable[Mapping[str, Any]], *, partition: int = 0) -> None:
    """Produce and flush; an error of any record raises."""
    errors: list[Any] = []
    for record in records:
        producer.produce(topic, partition=partition, on_delivery=lambda error, _: errors.append(error) if error else None, **record)
        producer.poll(0)
    left = producer.flush(WAIT_S)
    assert not errors, errors[0]
    assert left == 0, f"{left} records did not arrive"
