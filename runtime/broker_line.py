"""The way to a broker's endpoint over the network: its card, and bytes in exchange for bytes.

Spec: docs/spec/broker.md#http. Offices reach brokers this way, and a broker another one to which it forwards.
One rule: a failure is told by the layer it came from (name, connection, TLS, another machine, no answer),
for the person who must mend it. What the bytes say is sealed to the broker and none of this file's business.
"""

import errno

import aiohttp

from keys.brokercard import BrokerAddress, BrokerCard
from keys.errors import Unavailable
from protocol import limits
from protocol.requests import STILL_HELD, without_held
from runtime.env import AnyCertificate, Env, TlsPin

PATH = "/v1"
CARD_BYTES_MAX = 4096
EXCHANGE_TIMEOUT_S = 60.0
POLL_WAIT_MS = 95_000
SHORT_POLL_WAIT_MS = 50_000  # common proxies cut a request in which nothing moves after one minute

_HELD_BYTES_MAX = limits.LONG_POLL_MS_MAX // limits.STILL_HELD_MS * len(STILL_HELD)


class BrokerLine:
    """One broker's endpoint as the network shows it; opens connections when first asked, ``close`` once."""

    wait_ms_max = POLL_WAIT_MS

    def __init__(self, env: Env, address: BrokerAddress) -> None:
        self._env = env
        self._address = address
        self._session: aiohttp.ClientSession | None = None

    async def fetch_card(self) -> bytes:
        """What is shown as the card, unverified. Unavailable as ``carry``.

        On loopback a broker may speak plain HTTP; which of the two it speaks stands in the card itself.
        """
        if self._address.is_loopback:
            try:
                async with self._env.network.client_session() as session:
                    return await self._read(session, "GET", "http", b"", CARD_BYTES_MAX, EXCHANGE_TIMEOUT_S)
            except Unavailable as fault:
                if fault.code not in ("broker_lost", "broker_answer"):
                    raise
        async with self._env.network.client_session(tls_pin=AnyCertificate()) as session:
            return await self._read(session, "GET", "https", b"", CARD_BYTES_MAX, EXCHANGE_TIMEOUT_S)

    async def carry(
        self,
        card: BrokerCard,
        body: bytes,
        *,
        wait_ms: int = 0,
        answer_bytes_max: int = limits.ANSWER_BYTES_MAX,
        timeout_s: float = EXCHANGE_TIMEOUT_S,
    ) -> bytes:
        """The answer to one encapsulated request. Unavailable with a code that tells the layers apart.

        ``timeout_s`` covers all of it but the ``wait_ms`` for which the answer may be held back. Meanwhile
        the broker says so every ``limits.STILL_HELD_MS``: a dead line is noticed after EXCHANGE_TIMEOUT_S.
        """
        is_tls = any(card.tls_certificate_sha256)
        if self._session is None:
            pin = TlsPin(certificate_sha256=card.tls_certificate_sha256) if is_tls else None
            self._session = self._env.network.client_session(tls_pin=pin)
        scheme = "https" if is_tls else "http"
        timeout_s += wait_ms / 1000
        data = await self._read(
            self._session, "POST", scheme, body, answer_bytes_max + _HELD_BYTES_MAX, timeout_s
        )
        return without_held(data)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _read(
        self,
        session: aiohttp.ClientSession,
        method: str,
        scheme: str,
        body: bytes,
        bytes_max: int,
        timeout_s: float,
    ) -> bytes:
        url = f"{scheme}://{self._address.host}:{self._address.port}{PATH}"
        if ":" in self._address.host:
            url = f"{scheme}://[{self._address.host}]:{self._address.port}{PATH}"
        try:
            async with self._env.timeout(timeout_s):
                async with self._env.timeout(EXCHANGE_TIMEOUT_S):
                    response = await session.request(
                        method,
                        url,
                        data=body or None,
                        skip_auto_headers=("Content-Type",),  # there is only one
                        allow_redirects=False,  # a broker must not send us to our own loopback ports
                    )
                async with response:
                    if response.status != 200:
                        raise _refused(response.status)
                    data = b""
                    while len(data) <= bytes_max:
                        async with self._env.timeout(EXCHANGE_TIMEOUT_S):
                            more = await response.content.read(bytes_max + 1 - len(data))
                        if not more:
                            return data
                        data += more
                    raise Unavailable("broker_answer", "The broker's answer is too large.")
        except TimeoutError as fault:
            raise Unavailable("broker_timeout", "The broker did not answer in time.") from fault
        except (aiohttp.ClientError, OSError) as fault:
            raise _connection_error(fault) from fault


def wrong_key() -> Unavailable:
    """Somebody else answers where the broker should."""
    return Unavailable("broker_wrong_key", "Another machine answers at the broker's address.")


def _refused(status: int) -> Unavailable:
    if status in (429, 503):
        return Unavailable("broker_busy", "The broker asks us to come back later.")
    return Unavailable("broker_answer", f"The broker answered with HTTP status {status}.")


def _connection_error(fault: aiohttp.ClientError | OSError) -> Unavailable:
    """DNS, TCP, TLS and a wrong key told apart, in words."""
    if isinstance(fault, aiohttp.ClientConnectorDNSError):
        return Unavailable("broker_dns", "The name of the broker cannot be found. Is the network up?")
    if isinstance(fault, aiohttp.ClientConnectorCertificateError | aiohttp.ServerFingerprintMismatch):
        return wrong_key()
    if isinstance(fault, aiohttp.ClientSSLError):
        return Unavailable("broker_tls", "No TLS connection with the broker: another key or version.")
    if isinstance(fault, aiohttp.ClientConnectorError):
        if fault.os_error.errno == errno.ECONNREFUSED:
            return Unavailable("broker_down", "Nothing listens at the broker's address. It is down or moved.")
        return Unavailable(
            "broker_unreachable", "There is no way to the broker. Check cable, radio and router."
        )
    return Unavailable("broker_lost", "The connection to the broker broke.")
