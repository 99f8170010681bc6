"""Every way into a secured Kafka, each on a listener of a real one; and that no secret shows anywhere."""

from __future__ import annotations

import asyncio
import base64
import http.server
import json
import logging
import pickle
import shutil
import subprocess
import threading
import time
import traceback
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka import admin as ck_admin
from conftest import need
from kafka_cluster import KafkaCluster, missing, wait_for

from eslab.cli import main
from eslab.errors import AccessDenied, EslabError, SourceError, SourceUnreachable
from eslab.lab import Lab
from eslab.sources.kafka import KafkaSource
from eslab.sources.kafka_groups import KafkaGroups
from eslab.sources.kafka_settings import _Tokens, read_settings

PASSWORD = "pa55-Wörd;=\"'\\ ,"  # with everything that a settings file or a JAAS line could trip over
STORE = "st0re-secret"
KEY = "k3y-secret"
SECRETS = (PASSWORD, STORE, KEY, "cl13nt-secret")
LOGIN = "org.apache.kafka.common.security"


def run(*command: str, folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def certificate(folder: Path, name: str, *, san: str = "") -> None:
    """A key, and a certificate that our own authority signed."""
    run(
        "openssl",
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        f"{name}.key",
        "-out",
        f"{name}.csr",
        "-subj",
        f"/CN={name}",
        folder=folder,
    )
    (folder / "san").write_text(f"subjectAltName={san}\n" if san else "")
    run(
        "openssl", "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{name}.crt",
        "-days", "2", "-extfile", "san", folder=folder,
    )  # fmt: skip


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, a broker's and a client's certificate, in the forms in which people have them."""
    need("kafka", missing())
    folder = tmp_path_factory.mktemp("keys")
    run(
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.crt",
        "-days",
        "2",
        "-subj",
        "/CN=ca",
        folder=folder,
    )
    certificate(folder, "broker", san="IP:127.0.0.1")
    certificate(folder, "client")
    (folder / "broker.pem").write_text((folder / "broker.key").read_text() + (folder / "broker.crt").read_text())
    run("openssl", "rsa", "-aes256", "-in", "client.key", "-out", "client-locked.key", "-passout", f"pass:{KEY}", folder=folder)
    run(
        "openssl",
        "pkcs12",
        "-export",
        "-in",
        "client.crt",
        "-inkey",
        "client.key",
        "-out",
        "client.p12",
        "-passout",
        f"pass:{STORE}",
        folder=folder,
    )
    run(
        "keytool", "-importcert", "-noprompt", "-alias", "ca", "-file", "ca.crt", "-keystore", "trust.p12", "-storetype", "PKCS12",
        "-storepass", STORE, folder=folder,
    )  # fmt: skip
    return folder


def java(text: str) -> str:
    """A value of a Java properties file, which Java reads as Latin-1 with escapes."""
    return text.encode("unicode_escape").decode().replace("\\xf6", "\\u00f6")


def quoted(text: str) -> str:
    """A value within a JAAS line."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.fixture(scope="module")
def secured(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One node with a listener for each way to log in, users with and without rights, and a topic with ten records."""
    scram = f"{LOGIN}.scram.ScramLoginModule required;"
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "listener.name.plain.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.plain.plain.sasl.jaas.config": java(f"{LOGIN}.plain.PlainLoginModule required user_bob={quoted(PASSWORD)};"),
        "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-512,SCRAM-SHA-256",
        "listener.name.scram.scram-sha-512.sasl.jaas.config": scram,
        "listener.name.scram.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.token.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.token.oauthbearer.sasl.jaas.config": f'{LOGIN}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
        "listener.name.both.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.both.scram-sha-512.sasl.jaas.config": scram,
        "listener.name.both.ssl.client.auth": "none",
        "listener.name.tls.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keys / "broker.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(keys / "ca.crt"),
    }
    users = [
        f"--add-scram={kind}=[name={name},password=plainer]" for kind in ("SCRAM-SHA-512", "SCRAM-SHA-256") for name in ("alice", "mallory")
    ]
    listeners = {"PLAIN": "SASL_PLAINTEXT", "SCRAM": "SASL_PLAINTEXT", "TOKEN": "SASL_PLAINTEXT", "BOTH": "SASL_SSL", "TLS": "SSL"}
    with KafkaCluster(tmp_path_factory.mktemp("secured"), listeners=listeners, properties=properties, format_args=users) as cluster:
        cluster.create_topic("open")
        cluster.create_topic("closed")
        cluster.produce("open", ({"key": b"o1", "value": b'{"eventType": "E", "data": {"orderId": "o1"}}'} for _ in range(10)))
        allow(cluster, "open", "alice", "bob", "carol", "CN=client")
        yield cluster


def allow(cluster: KafkaCluster, topic: str, *users: str, right: ck_admin.AclOperation = ck_admin.AclOperation.READ) -> None:
    """READ (or another right) on one topic, and nothing else."""
    rules = [
        ck_admin.AclBinding(
            ck_admin.ResourceType.TOPIC, topic, ck_admin.ResourcePatternType.LITERAL, f"User:{user}", "*", right, ck_admin.AclPermissionType.ALLOW,
        )
        for user in users
    ]  # fmt: skip
    for done in cluster.admin.create_acls(rules).values():
        done.result(30)


def url(cluster: KafkaCluster, listener: str) -> str:
    return f"kafka://{cluster.address(1, listener)}"


def count(where: str, topic: str = "open", **settings: Any) -> int:
    with KafkaSource(where, **settings) as source:
        ranges = {(one.topic, one.partition): (one.log_start, one.end) for one in source.partitions([topic])}
        return sum(chunk.records.num_rows for chunk in source.read(ranges))


def token(subject: str, expires_s: float = 3600) -> str:
    """One that nobody signed: what the broker of the test believes."""
    parts = ({"alg": "none"}, {"sub": subject, "iat": time.time() - 7200, "exp": time.time() + expires_s})
    head, body = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return f"{head}.{body}."


# --- ways in --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_scram(secured, mechanism):
    login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": mechanism}
    assert count(url(secured, "SCRAM"), sasl_username="alice", sasl_password="plainer", **login) == 10
    assert (
        count(
            url(secured, "SCRAM"),
            config={"sasl.jaas.config": f'{LOGIN}.scram.ScramLoginModule required username="alice" password="plainer";'},
            **login,
        )
        == 10
    )


def test_plain_by_the_names_of_java_librdkafka_and_aiokafka(secured, tmp_path):
    where, file = url(secured, "PLAIN"), tmp_path / "client.properties"
    line = java(f'{LOGIN}.plain.PlainLoginModule required username="bob" password={quoted(PASSWORD)};')
    file.write_text(
        f"# how we log in\nbootstrap.servers=elsewhere:1\ngroup.id = billing\nsecurity.protocol: SASL_PLAINTEXT\nsasl.jaas.config={line}\n"
    )
    assert count(where, config=file) == 10
    assert (
        count(
            where,
            config={"security.protocol": "sasl_plaintext", "sasl.mechanisms": "PLAIN", "sasl.username": "bob", "sasl.password": PASSWORD},
        )
        == 10
    )
    assert (
        count(where, security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", sasl_plain_username="bob", sasl_plain_password=PASSWORD)
        == 10
    )


def test_settings_from_the_environment(secured, monkeypatch):
    for name, value in {
        "SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "SASL_MECHANISM": "PLAIN",
        "SASL_USERNAME": "bob",
        "SASL_PASSWORD": PASSWORD,
    }.items():
        monkeypatch.setenv(f"ESLAB_KAFKA_{name}", value)
    assert count(url(secured, "PLAIN")) == 10


class TokenEndpoint(http.server.BaseHTTPRequestHandler):
    """Gives carol's token for the right secret."""

    def do_POST(self) -> None:
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        told = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
        right = urllib.parse.parse_qs(form)["grant_type"] == ["client_credentials"] and told == "lab:cl13nt-secret"
        self.send_response(200 if right else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"access_token": token("carol"), "expires_in": 3600} if right else {}).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def token_endpoint() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), TokenEndpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/token"
    server.shutdown()
    thread.join()
    server.server_close()


def test_oauthbearer_by_a_token_a_function_an_endpoint_and_unsigned(secured, token_endpoint, tmp_path):
    where, login = url(secured, "TOKEN"), {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"}
    endpoint = {
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": token_endpoint,
        "sasl.oauthbearer.client.id": "lab",
    }
    kept = tmp_path / "token"
    kept.write_text(token("carol") + "\n")
    for told in (
        {"sasl_oauthbearer_token": token("carol")},
        {"sasl_oauth_token_provider": lambda: token("carol")},
        {"sasl_oauthbearer_token_endpoint_url": f"file://{kept}"},
        {"config": {**endpoint, "sasl.oauthbearer.client.secret": "cl13nt-secret"}},
        {"config": {"enable.sasl.oauthbearer.unsecure.jwt": "true", "sasl.oauthbearer.config": "principal=carol"}},
        {"config": {"sasl.jaas.config": f'{LOGIN}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="carol";'}},
    ):
        assert count(where, **login, **told) == 10, list(told)
    with pytest.raises(AccessDenied, match=r"OAUTHBEARER: http://127.0.0.1:\d+/token gives no token \(HTTP 401\)"):
        count(where, **login, config={**endpoint, "sasl.oauthbearer.client.secret": "wrong"})


def test_tls_with_a_client_certificate_in_every_form(secured, keys):
    where = url(secured, "TLS")
    plain, chain, authority = ((keys / name).read_text() for name in ("client.key", "client.crt", "ca.crt"))
    for told in (
        {"ssl.ca.location": keys / "ca.crt", "ssl.certificate.location": keys / "client.crt", "ssl.key.location": keys / "client.key"},
        {"ssl.ca.location": keys / "ca.crt", "ssl.certificate.location": keys / "client.crt", "ssl.key.location": keys / "client-locked.key", "ssl.key.password": KEY},
        {"ssl.truststore.certificates": authority, "ssl.keystore.certificate.chain": chain, "ssl.keystore.key": plain},
        {
            "ssl.truststore.location": keys / "trust.p12", "ssl.truststore.password": STORE,
            "ssl.keystore.location": keys / "client.p12", "ssl.keystore.password": STORE, "ssl.keystore.type": "PKCS12",
        },
    ):  # fmt: skip
        assert count(where, security_protocol="SSL", config=told) == 10, list(told)


def test_a_broker_under_another_name_than_its_certificates_is_refused_unless_that_is_asked_for(secured, keys):
    where = url(secured, "TLS").replace("127.0.0.1", "localhost")
    certificates = {"ssl.certificate.location": keys / "client.crt", "ssl.key.location": keys / "client.key"}
    trusting = {**certificates, "ssl.ca.location": keys / "ca.crt"}
    said = refused(where, SourceUnreachable, security_protocol="SSL", config=trusting)
    assert "no TLS with localhost:" in said
    assert "the host's name" in said
    for algorithm in ("", "none"):
        assert count(where, security_protocol="SSL", config={**trusting, "ssl.endpoint.identification.algorithm": algorithm}) == 10
    assert count(where, security_protocol="SSL", config={**certificates, "enable.ssl.certificate.verification": "false"}) == 10


def test_a_login_within_tls(secured, keys):
    login = {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "alice", "sasl_password": "plainer"}
    assert count(url(secured, "BOTH"), ssl_ca_location=keys / "ca.crt", **login) == 10


# --- refused --------------------------------------------------------------------------------------


def refused(where: str, kind: type[EslabError] = AccessDenied, **settings: Any) -> str:
    """What is said, at once and in one line."""
    began = time.monotonic()
    with pytest.raises(kind) as told:
        count(where, **settings)
    assert time.monotonic() - began < 45  # it is not waited for a minute, as a broker that went away is
    assert "\n" not in str(told.value)
    return str(told.value)


def test_wrong_credentials_name_mechanism_listener_and_user(secured):
    login = {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "alice", "sasl_password": "wrong"}
    for listener, mechanism in (("PLAIN", "PLAIN"), ("SCRAM", "SCRAM-SHA-256"), ("SCRAM", "SCRAM-SHA-512")):
        said = refused(url(secured, listener), sasl_mechanism=mechanism, **login)
        assert f"the listener {secured.address(1, listener)} (SASL_PLAINTEXT, {mechanism} as 'alice') refuses the login" in said
        assert "check sasl.mechanism, sasl.username and sasl.password" in said


def test_a_mechanism_that_the_listener_does_not_have_is_told_with_those_that_it_has(secured):
    said = refused(
        url(secured, "SCRAM"), security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", sasl_username="bob", sasl_password=PASSWORD
    )
    assert "(SASL_PLAINTEXT, PLAIN as 'bob') does not know this mechanism; it offers SCRAM-SHA-" in said


def test_an_expired_token_is_told(secured):
    expired = token("carol", -3600)
    said = refused(url(secured, "TOKEN"), security_protocol="SASL_PLAINTEXT", sasl_mechanism="OAUTHBEARER", sasl_oauthbearer_token=expired)
    assert f"the listener {secured.address(1, 'TOKEN')} (SASL_PLAINTEXT, OAUTHBEARER) refuses the login (" in said
    assert "whether the token has expired" in said
    assert expired not in said


def test_a_missing_client_certificate_is_told(secured, keys):
    said = refused(url(secured, "TLS"), security_protocol="SSL", ssl_ca_location=keys / "ca.crt")
    assert f"the listener {secured.address(1, 'TLS')} (SSL) asks for a client certificate; give ssl.keystore.location" in said


def test_an_unknown_authority_and_the_wrong_protocol_are_told(secured):
    assert "CERTIFICATE_VERIFY_FAILED" in refused(url(secured, "TLS"), SourceUnreachable, security_protocol="SSL")
    assert "another security.protocol than PLAINTEXT" in refused(url(secured, "PLAIN"), SourceUnreachable)
    assert "another security.protocol than PLAINTEXT" in refused(url(secured, "TLS"), SourceUnreachable)
    assert "than SSL" in (said := refused(url(secured, "PLAINTEXT"), SourceUnreachable, security_protocol="SSL")) or "no TLS with" in said
    login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_username": "bob", "sasl_password": PASSWORD}
    assert "takes no login; set security.protocol to PLAINTEXT" in refused(url(secured, "PLAINTEXT"), **login)


def test_a_topic_that_one_may_not_read_is_named_and_read_on_one_is_enough(secured):
    login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "SCRAM-SHA-256", "sasl_username": "alice", "sasl_password": "plainer"}
    assert "topic closed is not allowed or does not exist; these credentials need READ" in refused(
        url(secured, "SCRAM"), topic="closed", **login
    )
    assert "topic ghost is not allowed or does not exist" in refused(url(secured, "SCRAM"), topic="ghost", **login)
    with KafkaSource(url(secured, "SCRAM"), **login) as source:
        assert [one.topic for one in source.partitions(None)] == ["open"]
        assert source.epoch_end("open", 0, 0) == 10
        assert source.offset_at("open", 0, 0) == 0
    assert "ghost" not in secured.topics()
    allow(secured, secured.create_topic("described"), "alice", right=ck_admin.AclOperation.DESCRIBE)
    secured.produce("described", [{"value": b"{}"}])
    with KafkaSource(url(secured, "SCRAM"), **login) as source:
        wait_for(lambda: [one.topic for one in source.partitions(None)] == ["described", "open"], "the right to describe")
    assert "topic described is not allowed" in refused(url(secured, "SCRAM"), topic="described", **login)


def test_rights_taken_away_in_mid_capture_are_told_and_what_was_committed_stands(secured, tmp_path):
    topic = secured.create_topic("revoked")
    secured.produce(topic, ({"key": b"o1", "value": b'{"eventType": "E", "data": {"orderId": "o1"}}'} for _ in range(10)))
    allow(secured, topic, "alice")
    login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "SCRAM-SHA-256", "sasl_username": "alice", "sasl_password": "plainer"}
    lab = Lab(tmp_path / "lab", say=lambda notice: None)
    assert lab.snapshot(url(secured, "SCRAM"), topic, progress=False, **login).captured == 10
    everyone = ck_admin.AclBindingFilter(
        ck_admin.ResourceType.TOPIC,
        topic,
        ck_admin.ResourcePatternType.LITERAL,
        None,
        None,
        ck_admin.AclOperation.ANY,
        ck_admin.AclPermissionType.ANY,
    )
    next(iter(secured.admin.delete_acls([everyone]).values())).result(30)

    def told() -> str:
        try:
            lab.snapshot(url(secured, "SCRAM"), topic, progress=False, **login)
        except AccessDenied as exc:
            return str(exc)
        return ""

    assert "topic revoked is not allowed" in wait_for(told, "the end of the rights", 10)
    assert lab.info().manifest.topics[topic].records == 10


# --- secrets --------------------------------------------------------------------------------------


def test_no_secret_is_in_any_file_repr_error_log_or_output(secured, keys, tmp_path, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    lab = Lab(tmp_path / "lab", say=told.append)
    right = {
        "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "bob", "sasl.password": PASSWORD,
        "ssl.keystore.password": STORE, "ssl.key.password": KEY, "sasl.oauthbearer.client.secret": "cl13nt-secret",
    }  # fmt: skip
    file = tmp_path / "client.properties"
    file.write_text("".join(f"{name}={java(value)}\n" for name, value in right.items()), encoding="utf-8")
    made = lab.snapshot(url(secured, "PLAIN"), "open", config=file)
    source = KafkaSource(url(secured, "PLAIN"), config=right)
    source.partitions(["open"])
    told += [repr(made), str(made), repr(lab), lab._repr_html_(), repr(source), repr(vars(source)), source.url, repr(read_settings(right))]
    source.close()
    groups = KafkaGroups(url(secured, "PLAIN"), config=right)
    told += [repr(groups), repr(vars(groups))]
    groups.close()
    watched = lab.watch(url(secured, "PLAIN"), every="50ms", stop="60ms", config=right, progress=False)
    lab.bookmark("kept")
    lab.export(lab.path / "all.duckdb")
    every = [
        watched, made, lab, lab.info(), lab.gaps(), lab.verify(progress=False), lab.cut(), lab.bookmarks, lab.history("order", "o1"), lab.history("order", "o1")[0],
        lab.history("order", "o1").at(), lab.history("order", "o1").diff(0, 1), lab.replay("order", progress=False), lab.compare("order", "order", progress=False),
        lab.find("o1"), lab.late(), lab.throughput(), lab.sql("from records"), lab.sql("from events"), lab.groups(),
    ]  # fmt: skip
    for one in every:
        told += [repr(one), one._repr_html_() if hasattr(one, "_repr_html_") else ""]
        told += [repr(one.df().to_dict("records"))] if hasattr(one, "df") else []
    told.append(lab.history("order", "o1").step().to_html())
    for attempt in (
        lambda: count(url(secured, "SCRAM"), config=right),
        lambda: count(url(secured, "SCRAM"), config={**right, "sasl.mechanism": "SCRAM-SHA-512"}),
        lambda: count(url(secured, "PLAIN"), config={**right, "sasl.username": "nobody"}),
        lambda: count("kafka://127.0.0.1:1", config=right),
        lambda: count(
            url(secured, "TLS"),
            config={**right, "security.protocol": "SSL", "ssl.keystore.location": keys / "client.p12", "ssl.keystore.password": KEY},
        ),
        lambda: KafkaSource(url(secured, "PLAIN"), config={**right, "sasl.mechanism": PASSWORD[:0]}),
        lambda: KafkaSource(url(secured, "PLAIN"), sasl_pasword=PASSWORD),
        lambda: KafkaSource(url(secured, "PLAIN"), config={"sasl.jaas.config": f"broken {PASSWORD}"}),
        lambda: pickle.dumps(read_settings(right)),
        lambda: lab.watch(url(secured, "SCRAM"), every="50ms", stop="60ms", config=right, progress=False),
        lambda: lab.snapshot(url(secured, "PLAIN"), "closed", config=right, progress=False),
    ):
        try:
            attempt()
        except (EslabError, TypeError) as exc:
            told += ["".join(traceback.format_exception(exc)), repr(exc)]
        else:
            pytest.fail("that should have been refused")
    runner = CliRunner()
    for words in (
        ["snapshot", str(lab.path), url(secured, "PLAIN"), "open"],
        ["watch", str(lab.path), url(secured, "PLAIN"), "--for", "60ms"],
    ):
        done = runner.invoke(main, [*words, "--config", str(file)])
        assert done.exit_code == 0, done.output
        told += [done.output, done.stderr]
    told += [*capsys.readouterr(), caplog.text]
    written = [path for path in lab.path.rglob("*") if path.is_file()]
    assert {"lab.toml", "bookmarks.json", "lab.duckdb", "all.duckdb", ".writer"} <= {path.name for path in written}
    told += [path.read_bytes().decode("utf-8", "replace") for path in written]
    for secret in SECRETS:
        for form in {
            secret,
            secret.encode().hex(),
            base64.b64encode(secret.encode()).decode(),
            json.dumps(secret)[1:-1],
            repr(secret)[1:-1],
        }:
            assert not [text for text in told if form in text], form


# --- what is understood -----------------------------------------------------------------------------


def properties(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "client.properties"
    path.write_text(text)
    return read_settings({"config": path}, environment={})


def test_keywords_win_over_the_file_and_the_file_over_the_environment(tmp_path):
    file = tmp_path / "client.properties"
    file.write_text("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.username=file\nsasl.password=file\n")
    environment = {"ESLAB_KAFKA_CONFIG": str(file), "ESLAB_KAFKA_SASL_USERNAME": "environment", "ESLAB_KAFKA_CLIENT_ID": "environment"}
    made = read_settings({"sasl_password": "keyword"}, environment=environment)
    assert (made.options["sasl_plain_username"], made.options["sasl_plain_password"], made.options["client_id"]) == (
        "file",
        "keyword",
        "environment",
    )


def test_java_properties_are_read_with_their_escapes_comments_and_continued_lines(tmp_path):
    made = properties(
        tmp_path,
        "! old\n\n  security.protocol : SASL_PLAINTEXT\nsasl.mechanism PLAIN\nsasl.username=al\\\n    ice\nsasl.password=a\\u00e4\\\\b\\=c#d\n",
    )
    assert (made.options["sasl_plain_username"], made.options["sasl_plain_password"]) == ("alice", "aä\\b=c#d")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sasl_pasword": "x"}, r"has no setting sasl_pasword; is it sasl_password\?"),
        ({"group": "x"}, "has no setting group; it has config, client_id, "),
        ({"config": {"sasl.pasword": "x"}}, "has no setting sasl_pasword"),
        ({"sasl_username": "x"}, "no security.protocol"),
        ({"security_protocol": "TLS"}, "security.protocol=TLS is unknown"),
        ({"security_protocol": "SASL_SSL"}, "needs sasl.mechanism"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"}, "needs sasl.username and sasl.password"),
        ({"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"}, "needs a token"),
        ({"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "GSSAPI"}, "needs the package gssapi"),
        ({"config": "/nowhere/client.properties"}, "/nowhere/client.properties: .* cannot be read"),
        ({"security_protocol": "SSL", "ssl_ca_location": "/nowhere"}, "trusted certificates cannot be loaded"),
        ({"security_protocol": "SSL", "ssl_certificate_pem": "nothing"}, "the client certificate cannot be loaded"),
        ({"request_timeout_ms": "soon"}, "whole number"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_before_anything_is_reached(settings, said):
    with pytest.raises(SourceError, match=said):
        KafkaSource("kafka://localhost:9092", **settings)


def token_of(**settings: Any) -> str:
    login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"}
    return asyncio.run(read_settings({**login, **settings}, environment={}).options["sasl_oauth_token_provider"].token())


def test_a_token_that_cannot_be_had_is_told_as_that_and_not_as_a_broker_that_does_not_answer(tmp_path):
    with pytest.raises(AccessDenied, match=r"sasl_oauth_token_provider gives no token \(ZeroDivisionError\)"):
        token_of(sasl_oauth_token_provider=lambda: 1 / 0)
    with pytest.raises(AccessDenied, match=r"/my token gives no token \(No such file or directory\)"):
        token_of(sasl_oauthbearer_token_endpoint_url=f"file://{tmp_path}/my%20token")
    (tmp_path / "my token").write_text(" kept\n")
    assert token_of(sasl_oauthbearer_token_endpoint_url=f"file://{tmp_path}/my%20token") == "kept"


def test_a_token_is_asked_for_anew_before_it_expires():
    times, asked = iter([time.time() + 3600, time.time() + 5, time.time() + 5]), []
    tokens = _Tokens(lambda: asked.append(1) or (f"token {len(asked)}", next(times)))

    async def connections(count: int) -> list[str]:
        return [await tokens.token() for _ in range(count)]

    assert asyncio.run(connections(3)) == ["token 1"] * 3
    tokens._held = ("token 1", time.time() + 5)
    assert asyncio.run(connections(2)) == ["token 2", "token 3"]


def test_settings_of_other_clients_in_a_file_are_left_alone():
    found = read_settings({"config": {"group.id": "g", "acks": "all", "ssl.protocol": "TLSv1.3", "sasl.login.class": "x"}}, environment={})
    assert (found.protocol, found.mechanism, found.options) == ("PLAINTEXT", None, {"security_protocol": "PLAINTEXT"})


def test_an_old_key_store_is_refused_with_the_line_that_turns_it_into_a_new_one(tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("no openssl here")
    (tmp_path / "old.jks").write_bytes(b"\xfe\xed\xfe\xed" + bytes(20))
    with pytest.raises(SourceError, match=r"keytool -importkeystore .*old\.jks"):
        KafkaSource("kafka://localhost:9092", security_protocol="SSL", ssl_truststore_location=tmp_path / "old.jks")
