"""Security settings of Kafka clients, as people have them already → what a connection needs.

They come from keywords, from a client.properties file or a dict (`config=`), and from the environment (`ESLAB_KAFKA_...`), in this order of
precedence; Java's names, librdkafka's and aiokafka's are all understood. A secret is kept where no `repr` shows it and is written nowhere.
"""

from __future__ import annotations

import asyncio
import base64
import difflib
import json
import os
import re
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from aiokafka.abc import AbstractTokenProvider

from eslab.errors import AccessDenied, SourceError

__all__ = ["Connecting", "read_settings"]

PREFIX: Final = "ESLAB_KAFKA_"
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI")
PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
TOKEN_S: Final = 20  # how long a token endpoint is waited for
FRESH_S: Final = 10  # a token is asked for anew this long before it expires
PEM_MOST: Final = 60_000  # what a pipe holds: a key or a chain given as text reaches OpenSSL through one, never through a file

_ALIASES: Final = {
    "sasl_mechanisms": "sasl_mechanism",
    "sasl_plain_username": "sasl_username",
    "sasl_plain_password": "sasl_password",
    "ssl_truststore_certificates": "ssl_ca_pem",
    "ssl_keystore_certificate_chain": "ssl_certificate_pem",
    "ssl_keystore_key": "ssl_key_pem",
    "sasl_oauthbearer_client_credentials_client_id": "sasl_oauthbearer_client_id",
    "sasl_oauthbearer_client_credentials_client_secret": "sasl_oauthbearer_client_secret",
}
_SECRET: Final = re.compile(r"password|secret|token$|key_pem|jaas")
_KNOWN: Final = frozenset({
    "client_id", "request_timeout_ms", "security_protocol", "enable_ssl_certificate_verification", "enable_sasl_oauthbearer_unsecure_jwt",
    "sasl_jaas_config", "sasl_kerberos_domain_name", "sasl_kerberos_service_name", "sasl_mechanism", "sasl_password", "sasl_username",
    "sasl_oauth_token_provider", "sasl_oauthbearer_client_id", "sasl_oauthbearer_client_secret", "sasl_oauthbearer_config", "sasl_oauthbearer_method",
    "sasl_oauthbearer_scope", "sasl_oauthbearer_token", "sasl_oauthbearer_token_endpoint_url", "ssl_ca_location", "ssl_ca_pem",
    "ssl_certificate_location", "ssl_certificate_pem", "ssl_context", "ssl_endpoint_identification_algorithm", "ssl_key_location", "ssl_key_password",
    "ssl_key_pem", "ssl_keystore_location", "ssl_keystore_password", "ssl_keystore_type", "ssl_truststore_location", "ssl_truststore_password",
    "ssl_truststore_type",
})  # fmt: skip
_OURS: Final = re.compile(r"(sasl|ssl|security)_")
# what a client.properties may hold besides and a connection of ours has no use for
_IDLE: Final = re.compile(r"sasl_login|sasl_client_callback|sasl_oauthbearer_(jwks|expected|header|sub_claim|scope_claim|clock)|ssl_(protocol|enabled|provider|cipher|engine|secure|trustmanager|keymanager)|security_providers")  # fmt: skip


class Connecting:
    """What a connection is made with. `options` are `AIOKafkaConnection`'s; neither they nor any secret show in `repr`."""

    def __init__(
        self, options: dict[str, Any], secrets: frozenset[str], mechanism: str | None, user: str | None, *, certified: bool
    ) -> None:
        self.options = options
        self.protocol: str = options["security_protocol"]
        self.mechanism, self.user = mechanism, user
        self.certified = certified
        """Whether a client certificate is shown, or may be."""
        self._secrets = secrets

    @property
    def how(self) -> str:
        """The security protocol, the mechanism and the user, in words for an error."""
        return (
            self.protocol
            + (f", {self.mechanism}" if self.mechanism else "")
            + (f" as {self.user!r}" if self.user and self.mechanism != "OAUTHBEARER" else "")
        )

    def scrub(self, text: object) -> str:
        """A foreign text without our secrets."""
        told = str(text)
        for secret in sorted(self._secrets, key=len, reverse=True):
            told = told.replace(secret, "***")
        return told

    def __repr__(self) -> str:
        return f"<Connecting {self.how}>"

    __reduce__ = None  # type: ignore[assignment]  # it goes neither into a file nor to another process


def read_settings(keywords: Mapping[str, Any], *, environment: Mapping[str, str] = os.environ) -> Connecting:
    """The connection that these keywords, their `config` and the environment describe.

    Raises `SourceError` for a setting that is unknown, incomplete or leads to a file that cannot be read; a message names settings, never
    their values.
    """
    told = {_canonical(name): value for name, value in keywords.items() if name != "config"}
    _refuse_unknown(told, strict=True)
    from_environment = {_canonical(name[len(PREFIX) :]): value for name, value in environment.items() if name.startswith(PREFIX) and value}
    config = keywords.get("config") or from_environment.pop("config", None)
    _refuse_unknown(from_environment, strict=True)
    given = {_canonical(name): value for name, value in _config(config).items()}
    _refuse_unknown(given, strict=False)
    return _connecting({**from_environment, **given, **told})


def _canonical(name: str) -> str:
    plain = name.lower().replace(".", "_").replace("-", "_")
    return _ALIASES.get(plain, plain)


def _refuse_unknown(settings: Mapping[str, Any], *, strict: bool) -> None:
    """A file holds what other clients need, too; a keyword is meant for us."""
    unknown = [name for name in settings if name not in _KNOWN and (strict or (_OURS.match(name) and not _IDLE.match(name)))]
    if unknown:
        near = {one for name in unknown for one in difflib.get_close_matches(name, _KNOWN, 1, 0.8)}
        there = f"is it {', '.join(sorted(near))}?" if near else f"it has config, {', '.join(sorted(_KNOWN))}"
        raise SourceError(f"a Kafka source has no setting {', '.join(sorted(unknown))}; {there}")


def _config(config: Any) -> Mapping[str, Any]:
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return config
    path = Path(config).expanduser()
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise SourceError(f"{path}: the client's settings cannot be read ({exc.strerror})") from None
    try:
        return dict(_properties(data.decode("utf-8")))
    except UnicodeDecodeError:  # Java's own reading of such a file
        return dict(_properties(data.decode("latin-1")))


def _properties(text: str) -> Iterator[tuple[str, str]]:
    """Java's format: `key=value`, `key: value` or `key value`, # and ! begin comments, a backslash at the end goes on in the next line."""
    pending = ""
    for line in text.splitlines():
        line = pending + line.lstrip()
        pending = ""
        if line.startswith(("#", "!")) or not line.strip():
            continue
        if (len(line) - len(line.rstrip("\\"))) % 2:
            pending = line[:-1]
            continue
        match = re.match(r"((?:\\.|[^\\=:\s])+)\s*[=:\s]?\s*(.*)", line)
        if match:
            yield _unescaped(match[1]), _unescaped(match[2].rstrip())


def _unescaped(text: str) -> str:
    plain = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}
    return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", lambda it: chr(int(it[1][1:], 16)) if len(it[1]) > 1 else plain.get(it[1], it[1]), text)


# --- the parts --------------------------------------------------------------------------------------------


def _connecting(told: dict[str, Any]) -> Connecting:
    module, jaas = _jaas(told.get("sasl_jaas_config"))
    user, password = told.get("sasl_username") or jaas.get("username"), told.get("sasl_password") or jaas.get("password")
    mechanism = str(told["sasl_mechanism"]).upper() if told.get("sasl_mechanism") else _mechanism_of(module)
    protocol = _protocol(told, mechanism)
    secrets = {str(value) for name, value in told.items() if value and isinstance(value, str) and _SECRET.search(name)}
    secrets |= {value for name, value in jaas.items() if _SECRET.search(name.lower())} | ({str(password)} if password else set())
    options: dict[str, Any] = {"security_protocol": protocol}
    options |= {name: told[name] for name in ("client_id", "sasl_kerberos_domain_name", "sasl_kerberos_service_name") if name in told}
    if "request_timeout_ms" in told:
        options["request_timeout_ms"] = _whole("request_timeout_ms", told["request_timeout_ms"])
    certified = any(told.get(f"ssl_{name}") for name in ("context", "certificate_pem", "certificate_location", "keystore_location"))
    if "SSL" in protocol:
        options["ssl_context"] = _ssl_context(told)
    if "SASL" not in protocol:
        return Connecting(options, frozenset(secrets), None, None, certified=certified)
    if mechanism not in MECHANISMS:
        raise SourceError(f"security.protocol={protocol} needs sasl.mechanism: one of {', '.join(MECHANISMS)}, not {mechanism}")
    options["sasl_mechanism"] = mechanism
    if mechanism == "OAUTHBEARER":
        options["sasl_oauth_token_provider"] = _tokens(told, jaas)
    elif mechanism == "GSSAPI":
        _need_gssapi()
    elif not user or password is None:
        raise SourceError(f"sasl.mechanism={mechanism} needs sasl.username and sasl.password (or sasl.jaas.config with both)")
    else:
        options |= {"sasl_plain_username": str(user), "sasl_plain_password": str(password)}
    return Connecting(options, frozenset(secrets), mechanism, str(user) if user else None, certified=certified)


def _protocol(told: Mapping[str, Any], mechanism: str | None) -> str:
    protocol = str(told.get("security_protocol") or "").upper()
    if protocol and protocol not in PROTOCOLS:
        raise SourceError(f"security.protocol={protocol} is unknown; it is one of {', '.join(PROTOCOLS)}")
    if not protocol and (mechanism or told.get("sasl_username")):
        raise SourceError(
            "a SASL login is given, but no security.protocol; set it to SASL_SSL, or to SASL_PLAINTEXT if the listener has no TLS"
        )
    return protocol or "PLAINTEXT"


def _whole(name: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise SourceError(f"{name} is a whole number of milliseconds") from None


def _jaas(text: str | None) -> tuple[str, dict[str, str]]:
    """The module and the options of a JAAS line: `org...ScramLoginModule required username="alice" password="...";`."""
    if not text:
        return "", {}
    match = re.fullmatch(r'\s*([\w.$]+)\s+\w+((?:\s+[\w.]+\s*=\s*(?:"(?:\\.|[^"\\])*"|[^\s";]+))*)\s*;?\s*', text, re.DOTALL)
    if not match:
        raise SourceError('sasl.jaas.config cannot be read; write it like ...ScramLoginModule required username="..." password="...";')
    pairs = re.findall(r'([\w.]+)\s*=\s*("(?:\\.|[^"\\])*"|[^\s";]+)', match[2])
    return match[1], {name: re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value for name, value in pairs}


def _mechanism_of(module: str) -> str | None:
    """What a JAAS module alone says; a SCRAM module serves two mechanisms."""
    for name, mechanism in (("PlainLoginModule", "PLAIN"), ("OAuthBearerLoginModule", "OAUTHBEARER"), ("Krb5LoginModule", "GSSAPI")):
        if module.endswith(name):
            return mechanism
    return None


def _need_gssapi() -> None:
    try:
        import_module("gssapi")
    except ImportError:
        raise SourceError("sasl.mechanism=GSSAPI needs the package gssapi: pip install gssapi (and Kerberos' C library)") from None


def _yes(value: Any) -> bool:
    return str(value).strip().lower() not in ("false", "no", "0", "none", "")


# --- TLS --------------------------------------------------------------------------------------------------


def _ssl_context(told: Mapping[str, Any]) -> ssl.SSLContext:
    if isinstance(told.get("ssl_context"), ssl.SSLContext):
        made: ssl.SSLContext = told["ssl_context"]
        return made
    context = ssl.create_default_context()
    for name, load in (("trusted certificates", _trust), ("the client certificate", _identify)):
        try:
            load(context, told)
        except (ssl.SSLError, OSError, ValueError) as exc:
            reason = getattr(exc, "reason", None) or getattr(exc, "strerror", None) or "no certificate or key in PEM"
            raise SourceError(f"{name} cannot be loaded ({reason}); check ssl_ca_..., ssl_certificate_..., ssl_key_... or the stores and their passwords") from None  # fmt: skip
    # Kafka's word for "do not compare the host's name" is an empty algorithm, librdkafka's is "none"
    if "ssl_endpoint_identification_algorithm" in told and not _yes(told["ssl_endpoint_identification_algorithm"]):
        context.check_hostname = False
    if not _yes(told.get("enable_ssl_certificate_verification", True)):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _trust(context: ssl.SSLContext, told: Mapping[str, Any]) -> None:
    if pem := told.get("ssl_ca_pem"):
        context.load_verify_locations(cadata=str(pem))
    if place := told.get("ssl_ca_location"):
        path = Path(place).expanduser()
        context.load_verify_locations(**{"capath" if path.is_dir() else "cafile": str(path)})
    if place := told.get("ssl_truststore_location"):
        path = Path(place).expanduser()
        if _kind(path, told.get("ssl_truststore_type")) == "PEM":
            context.load_verify_locations(cafile=str(path))
        else:
            context.load_verify_locations(cadata=_from_pkcs12(path, told.get("ssl_truststore_password"), "-nokeys", "truststore"))


def _identify(context: ssl.SSLContext, told: Mapping[str, Any]) -> None:
    key_password = told.get("ssl_key_password")
    secret = None if key_password is None else str(key_password)
    if chain := told.get("ssl_certificate_pem"):
        with _pipe(str(chain)) as certificates, _pipe(str(told.get("ssl_key_pem") or chain)) as key:
            context.load_cert_chain(certificates, key, secret or "")
    elif place := told.get("ssl_certificate_location"):
        beside = told.get("ssl_key_location")
        context.load_cert_chain(str(Path(place).expanduser()), str(Path(beside).expanduser()) if beside else None, secret or "")
    elif place := told.get("ssl_keystore_location"):
        path = Path(place).expanduser()
        if _kind(path, told.get("ssl_keystore_type")) == "PEM":
            context.load_cert_chain(str(path), None, secret or "")
            return
        password = told.get("ssl_keystore_password")
        with (
            _pipe(_from_pkcs12(path, password, "-nokeys", "keystore")) as certificates,
            _pipe(_from_pkcs12(path, password, "-nocerts", "keystore")) as key,
        ):
            context.load_cert_chain(certificates, key)


def _kind(path: Path, told: Any) -> str:
    if told:
        return str(told).upper()
    if path.suffix.lower() in (".pem", ".crt", ".key"):
        return "PEM"
    return "JKS" if path.is_file() and path.read_bytes()[:4] == b"\xfe\xed\xfe\xed" else "PKCS12"


def _from_pkcs12(path: Path, password: Any, wanted: str, what: str) -> str:
    """Certificates or the key of a store as PEM, by `openssl`: it comes through a pipe, and the password goes through one."""
    if not path.is_file():
        raise SourceError(f"{path}: no such {what}")
    if _kind(path, None) == "JKS":
        raise SourceError(f"{path} is a JKS {what}; turn it into PKCS12 once: keytool -importkeystore -srckeystore {path} -destkeystore {path.stem}.p12 -deststoretype PKCS12")  # fmt: skip
    with _pipe(f"{password or ''}\n") as source:
        number = source.rsplit("/", 1)[1]
        command = ["openssl", "pkcs12", "-in", str(path), "-nodes", wanted, "-passin", f"fd:{number}"]
        try:
            done = subprocess.run(command, capture_output=True, pass_fds=[int(number)], check=False)  # noqa: S603 - a list, no shell
        except FileNotFoundError:
            raise SourceError(f"{path}: a PKCS12 {what} is read by the command openssl, which is not here; give PEM files instead (ssl.ca.location, ssl.certificate.location, ssl.key.location)") from None  # fmt: skip
    if done.returncode:
        raise SourceError(f"{path}: the {what} does not open; is it PKCS12, and ssl.{what}.password right?")
    return done.stdout.decode("utf-8", "replace")


@contextmanager
def _pipe(text: str) -> Iterator[str]:
    """A path under which the text can be read once, that is no file on any disk."""
    data = text.encode()
    if len(data) > PEM_MOST:
        raise SourceError(f"a certificate chain or key of {len(data):,} bytes is too long to be given as text; give its file")
    source, sink = os.pipe()
    try:
        os.write(sink, data)
        os.close(sink)
        yield f"/dev/fd/{source}"
    finally:
        os.close(source)


# --- OAUTHBEARER ------------------------------------------------------------------------------------------


class _Tokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka is untyped here
    """Hands out a token for each new connection, and asks for a new one shortly before the last one expires."""

    def __init__(self, ask: Callable[[], tuple[str, float]]) -> None:
        self._ask = ask
        self._held: tuple[str, float] | None = None

    async def token(self) -> str:
        if self._held is None or self._held[1] - FRESH_S < time.time():
            self._held = await asyncio.get_running_loop().run_in_executor(None, self._ask)
        return self._held[0]


def _tokens(told: Mapping[str, Any], jaas: Mapping[str, str]) -> AbstractTokenProvider:
    provider = told.get("sasl_oauth_token_provider")
    if isinstance(provider, AbstractTokenProvider):
        return provider
    if callable(provider):
        return _Tokens(lambda: (_provided(provider), 0.0))
    if provider is not None:
        raise SourceError("sasl_oauth_token_provider is a function that returns a token, or an aiokafka.abc.AbstractTokenProvider")
    if token := told.get("sasl_oauthbearer_token"):
        return _Tokens(lambda: (str(token), 0.0))
    if url := told.get("sasl_oauthbearer_token_endpoint_url"):
        return _Tokens(lambda: _from_endpoint(str(url), told, jaas))
    if principal := jaas.get("unsecuredLoginStringClaim_sub"):
        return _Tokens(lambda: _unsecured(principal))
    if _yes(told.get("enable_sasl_oauthbearer_unsecure_jwt", False)):
        claims = dict(pair.split("=", 1) for pair in str(told.get("sasl_oauthbearer_config", "")).split() if "=" in pair)
        return _Tokens(lambda: _unsecured(claims.get("principal", "")))
    raise SourceError(
        "sasl.mechanism=OAUTHBEARER needs a token: sasl_oauth_token_provider= (a function), sasl.oauthbearer.token, or sasl.oauthbearer.token.endpoint.url "
        "with sasl.oauthbearer.client.id and ...client.secret"
    )


def _provided(provider: Callable[[], Any]) -> str:
    try:
        return str(provider())
    except Exception as exc:
        raise AccessDenied(f"OAUTHBEARER: sasl_oauth_token_provider gives no token ({type(exc).__name__}); see the error above") from exc


def _unsecured(subject: str) -> tuple[str, float]:
    """A token that nobody signed, as Kafka's own test login makes it."""
    now = time.time()
    parts = [{"alg": "none"}, {"sub": subject, "iat": now, "exp": now + 3600}]
    head, body = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return f"{head}.{body}.", now + 3600


def _from_endpoint(url: str, told: Mapping[str, Any], jaas: Mapping[str, str]) -> tuple[str, float]:
    """A token by client credentials (RFC 6749), or from a file (`file:///...`), which is read anew for each connection."""
    if url.startswith("file:"):
        path = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path))
        try:
            return path.read_text(encoding="utf-8").strip(), 0.0
        except (OSError, UnicodeDecodeError) as exc:
            raise AccessDenied(
                f"OAUTHBEARER: {path} gives no token ({getattr(exc, 'strerror', 'not UTF-8')}); check the address of its file"
            ) from None
    identity = told.get("sasl_oauthbearer_client_id") or jaas.get("clientId")
    secret = told.get("sasl_oauthbearer_client_secret") or jaas.get("clientSecret")
    scope = told.get("sasl_oauthbearer_scope") or jaas.get("scope")
    fields = {"grant_type": "client_credentials", **({"scope": str(scope)} if scope else {})}
    login = base64.b64encode(f"{urllib.parse.quote(str(identity))}:{urllib.parse.quote(str(secret))}".encode()).decode()
    request = urllib.request.Request(  # noqa: S310 - the user's own address
        url, urllib.parse.urlencode(fields).encode(), {"Authorization": f"Basic {login}", "Accept": "application/json"}
    )
    where = urllib.parse.urlsplit(url)._replace(query="", fragment="").geturl()
    try:
        with urllib.request.urlopen(request, timeout=TOKEN_S) as answer:  # noqa: S310
            body = json.load(answer)
        return str(body["access_token"]), time.time() + float(body.get("expires_in", 0))
    except urllib.error.HTTPError as exc:
        exc.close()
        raise AccessDenied(f"OAUTHBEARER: {where} gives no token (HTTP {exc.code}); check the client's id, secret and scope") from None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise AccessDenied(
            f"OAUTHBEARER: {where} gives no token ({type(exc).__name__}); is the address that of a token endpoint?"
        ) from None
