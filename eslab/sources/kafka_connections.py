"""Connections to the brokers of one cluster: opened when needed, and every way in which one fails named for a person."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import defaultdict
from typing import Any, Final

import aiokafka.errors as kafka_errors
from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator
from aiokafka.protocol.admin import SaslAuthenticateRequest, SaslHandShakeRequest

from eslab.errors import AccessDenied, SourceError, SourceUnreachable
from eslab.sources.kafka_frames import FrameReader
from eslab.sources.kafka_settings import Connecting

__all__ = ["Address", "Connections", "TooOldError", "TryAgainError"]

Address = tuple[str, int]

CONNECT_S: Final = 5  # a wrong address should be told at once, and a broker that accepts later is retried anyway
REQUEST_MS: Final = 30_000  # 8 MiB over a slow line take seconds
DENIED: Final = (
    kafka_errors.AuthenticationFailedError,
    kafka_errors.SaslAuthenticationFailed,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
)


class TryAgainError(Exception):
    """What a fresh look at the cluster and a moment's patience may mend; `error` says it when they did not."""

    def __init__(self, error: SourceError, patience_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.patience_s = patience_s


class TooOldError(SourceError):
    """The broker does not know this request."""


class Connections:
    """One connection per broker and purpose. A fetch has one to itself: a long poll holds up what comes after it."""

    def __init__(self, url: str, connecting: Connecting) -> None:
        self._url = url
        self._connecting = connecting
        self._open: dict[tuple[Address, str], AIOKafkaConnection] = {}
        self._locks: defaultdict[tuple[Address, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def send(self, address: Address, request: Any, *, purpose: str = "ask") -> Any:
        """The broker's response. Raises `TryAgainError`, `AccessDenied`, `TooOldError`."""
        connection = await self._connect(address, purpose)
        try:
            return await connection.send(request)
        except (kafka_errors.IncompatibleBrokerVersion, NotImplementedError) as exc:
            raise TooOldError(
                f"{self._url} does not know {type(request).__name__.strip('_')}; is it a broker (a KRaft controller is none), of Kafka 0.11 or later?"
            ) from exc
        except (kafka_errors.KafkaError, OSError) as exc:
            connection.close()
            self._raise_denied(address, exc)
            raise TryAgainError(self._unreachable(address, exc)) from exc

    async def close(self) -> None:
        gone = [connection.close() for connection in self._open.values()]
        self._open.clear()
        if gone:
            await asyncio.wait(gone, timeout=1)
        await asyncio.sleep(0)  # a transport is gone one turn of the loop after it is closed

    async def _connect(self, address: Address, purpose: str) -> AIOKafkaConnection:
        key = (address, purpose)
        async with self._locks[key]:
            connection = self._open.get(key)
            if connection is not None and connection.connected():
                return connection
            connection = _Connection(*address, **{"client_id": "eslab", "request_timeout_ms": REQUEST_MS, **self._connecting.options})
            try:
                async with asyncio.timeout(CONNECT_S):
                    await connection.connect()
            except (*DENIED, ValueError, AssertionError, ssl.SSLError, kafka_errors.KafkaError, OSError) as exc:
                self._raise_denied(address, exc, offered=connection.offered)
                raise TryAgainError(self._unreachable(address, exc)) from exc
            self._open[key] = connection
            return connection

    def _raise_denied(self, address: Address, exc: Exception, *, offered: tuple[str, ...] = ()) -> None:
        """Raise `AccessDenied` if that is what the failure means; name the listener, the mechanism and the broker's own word."""
        where = f"{self._url}: the listener {address[0]}:{address[1]} ({self._connecting.how})"
        if isinstance(exc, kafka_errors.UnsupportedSaslMechanismError):
            has = f"; it offers {', '.join(offered)}" if offered else ""
            raise AccessDenied(f"{where} does not know this mechanism{has}; check sasl.mechanism") from None
        if isinstance(exc, kafka_errors.IllegalSaslStateError):
            raise AccessDenied(f"{where} takes no login; set security.protocol to PLAINTEXT, or to SSL if it has TLS") from None
        if isinstance(exc, DENIED):
            raise AccessDenied(f"{where} refuses the login ({self._word(exc)}); check {self._suspects()}") from None
        if isinstance(exc, ValueError | AssertionError) and not isinstance(exc, ssl.SSLError):  # aiokafka's own checks of a login
            raise AccessDenied(f"{where} answers the login with what is none ({self._word(exc)}); is it a Kafka broker?") from None
        for one in (exc, exc.__cause__):
            word = str(one.reason or one) if isinstance(one, ssl.SSLError) else ""
            if "ALERT" in word and "CERTIFICATE" in word:  # what the broker says; our own doubts about its certificate are no alert
                if self._connecting.certified:
                    raise AccessDenied(
                        f"{where} does not accept this client certificate ({word}); is it of an authority that the broker trusts?"
                    ) from None
                raise AccessDenied(
                    f"{where} asks for a client certificate; give ssl.keystore.location, or ssl.certificate.location and ssl.key.location"
                ) from None

    def _suspects(self) -> str:
        """The settings that a refused login should make one look at."""
        if self._connecting.mechanism == "OAUTHBEARER":
            return "whether the token has expired, and its issuer, audience and scope"
        return "sasl.mechanism, sasl.username and sasl.password"

    def _word(self, exc: Exception) -> str:
        """A foreign error's words without secrets; aiokafka puts its own number and text around the broker's."""
        return self._connecting.scrub(exc) or type(exc).__name__

    def _unreachable(self, address: Address, exc: Exception) -> SourceUnreachable:
        host, port = address
        tls = exc if isinstance(exc, ssl.SSLError) else exc.__cause__ if isinstance(exc.__cause__, ssl.SSLError) else None
        if tls:
            return SourceUnreachable(
                f"{self._url}: no TLS with {host}:{port} ({tls.reason or tls}); check security.protocol, ssl.ca.location and the host's name"
            )
        refused = "Connect call failed" in str(exc)  # asyncio's words, for one address and for several
        if isinstance(exc, kafka_errors.KafkaError | ConnectionError) and not refused:
            return SourceUnreachable(
                f"{self._url}: {host}:{port} closes the connection; is it a Kafka broker, and does that listener ask for another "
                f"security.protocol than {self._connecting.protocol}? ({self._word(exc.__cause__ or exc)})"  # type: ignore[arg-type]
            )
        reason = "no answer in time" if isinstance(exc, TimeoutError) else "connection refused" if refused else exc
        return SourceUnreachable(f"{self._url}: nothing answers at {host}:{port} ({reason}); is the broker running and the address right?")


class _Connection(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka is untyped here
    """aiokafka's connection, with two of its silences broken: which mechanisms a listener offers, and that a token was refused. Large answers are not copied."""

    offered: tuple[str, ...] = ()
    _reader: Any

    def _create_reader_task(self) -> Any:
        self._reader = FrameReader(self._reader, self._writer.transport)
        return super()._create_reader_task()

    def send(self, request: Any, expect_response: bool = True) -> Any:  # noqa: FBT001, FBT002 - aiokafka's own signature
        answer = super().send(request, expect_response)
        return self._noting(answer) if isinstance(request, SaslHandShakeRequest) else answer

    async def _noting(self, answer: Any) -> Any:
        response = await answer
        self.offered = tuple(response.enabled_mechanisms)
        return response

    def authenticator_oauth(self) -> OAuthAuthenticator:
        return _OAuth(sasl_oauth_token_provider=self._sasl_oauth_token_provider)


class _OAuth(OAuthAuthenticator):  # type: ignore[misc]
    """A refused token is answered by a challenge and not by an error (RFC 7628); aiokafka takes that for success."""

    async def step(self, payload: bytes | None) -> Any:
        if payload:
            raise kafka_errors.SaslAuthenticationFailed(f"the token is refused: {payload.decode('utf-8', 'replace')}")
        return await super().step(payload)


class _NoLogins(logging.Filter):
    """aiokafka logs every request at DEBUG, logins with their passwords too."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not any(isinstance(arg, SaslAuthenticateRequest) or "Sasl" in type(arg).__name__ for arg in record.args or ())


logging.getLogger("aiokafka").addHandler(
    logging.NullHandler()
)  # what matters of it is in our errors; who wants the rest configures logging
logging.getLogger("aiokafka.conn").addFilter(_NoLogins())
