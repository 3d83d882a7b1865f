"""Both ends of a broker's endpoint: a real broker in this process or another, and an office's client."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import prometheus_client

from broker.control import make_standing_tokens, make_tokens
from broker.daemon import Broker, BrokerAddresses, config_of
from broker.identity import read_passphrase
from broker.setup import MadeBroker, initialise
from keys.brokercard import (
    NO_TLS,
    BrokerAddress,
    BrokerCard,
    parse_broker_address_untrusted,
    parse_broker_card_untrusted,
    verify_broker_card,
)
from keys.keystore import KdfParameters
from keys.primitives import Ed25519PrivateKey
from keys.secret import SecretBytes
from protocol import limits
from protocol.custody import Custody, verify_custody
from protocol.requests import (
    Answer,
    Create,
    Created,
    Delete,
    List,
    Listed,
    MailboxKind,
    Op,
    Put,
    Result,
    get_capability_hash,
    open_answer_untrusted,
    put_capability_hash,
    seal_request,
    sign_delete,
    without_held,
)
from protocol.tokens import FORWARDING_PREFIX, WITNESS_PREFIX, parse_token_untrusted
from runtime.env import AnyCertificate, Env, TlsPin, real_env

CHEAP_KDF = KdfParameters(memory_kib=64, iterations=1, lanes=1)
ROOT = Path(__file__).resolve().parents[2]


class ShiftedClock:
    """The machine's clock. ``shift_ms``: time that passed; ``step_ms``: how wrong the wall clock is."""

    def __init__(self, env: Env) -> None:
        self._clock = env.clock
        self.shift_ms = 0
        self.step_ms = 0

    def now_ms(self) -> int:
        return self._clock.now_ms() + self.shift_ms + self.step_ms

    def now_us(self) -> int:
        return self._clock.now_us() + (self.shift_ms + self.step_ms) * 1000

    def monotonic_ms(self) -> int:
        return self._clock.monotonic_ms() + self.shift_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailbox:
    """What the recipient of one mailbox holds; the sender knows ``put_secret`` alone."""

    put_secret: bytes
    get_secret: bytes
    key: Ed25519PrivateKey
    kind: MailboxKind = "pair"

    @classmethod
    def new(cls, env: Env, kind: MailboxKind = "pair") -> "Mailbox":
        return cls(
            put_secret=env.random(32),
            get_secret=env.random(32),
            key=Ed25519PrivateKey.from_seed(SecretBytes(env.random(32))),
            kind=kind,
        )

    @property
    def put_hash(self) -> bytes:
        return put_capability_hash(self.put_secret)

    @property
    def get_hash(self) -> bytes:
        return get_capability_hash(self.get_secret)

    def create(self, token: bytes) -> Create:
        return Create(
            token=token,
            put_hash=self.put_hash,
            get_hash=self.get_hash,
            mailbox_public=self.key.public_bytes,
            kind=self.kind,
        )

    def put(self, envelope: bytes, *, priority: bool = False) -> Put:
        return Put(put_secret=self.put_secret, envelope=envelope, priority=priority)

    def list(self, cursor: int = 0, *, wait_ms: int = 0, inline_bytes_max: int = 1 << 20) -> List:
        return List(
            get_secret=self.get_secret, cursor=cursor, wait_ms=wait_ms, inline_bytes_max=inline_bytes_max
        )

    def delete(self, envelope_hash: bytes, *, signer: Ed25519PrivateKey | None = None) -> Delete:
        return Delete(
            get_secret=self.get_secret,
            envelope_hash=envelope_hash,
            signature=sign_delete(signer or self.key, envelope_hash),
        )


def an_envelope(env: Env, size_bytes: int = limits.ENVELOPE_BUCKETS_BYTES[0]) -> bytes:
    """Bytes that look like an envelope from outside; nobody here could open one anyway."""
    return b"\x01" + env.random(size_bytes - 1)


@dataclass(slots=True, kw_only=True)
class Client:
    """An office's side of the endpoint: pins the card by the address, checks every custody note."""

    env: Env
    address: BrokerAddress
    session: aiohttp.ClientSession
    card: BrokerCard
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address.host}:{self.address.port}/v1"

    async def ask(self, *ops: Op) -> tuple[Result, ...]:
        answer = await self.answer(*ops)
        assert not answer.date_refused
        return answer.results

    async def ask_one(self, op: Op) -> Result:
        (result,) = await self.ask(op)
        return result

    async def answer(self, *ops: Op, date_ms: int | None = None) -> Answer:
        data, pending = seal_request(
            self.card.request_public,
            ops=ops,
            date_ms=self.env.clock.now_ms() if date_ms is None else date_ms,
            random=self.env.random,
        )
        status, body = await self.post(data)
        assert status == 200, body
        answer = open_answer_untrusted(pending, without_held(body))
        for result in answer.results:
            if isinstance(result, Custody):
                verify_custody(result, self.card.custody_public)
                assert result.origin == self.card.log_origin
        return answer

    def sealed(self, *ops: Op) -> bytes:
        """A request whose answer nobody will open."""
        now_ms = self.env.clock.now_ms()
        data, _ = seal_request(self.card.request_public, ops=ops, date_ms=now_ms, random=self.env.random)
        return data

    async def post(self, data: bytes) -> tuple[int, bytes]:
        async with self.session.post(self.url, data=data) as response:
            return response.status, await response.read()

    async def put(self, mailbox: Mailbox, envelope: bytes) -> Custody:
        result = await self.ask_one(mailbox.put(envelope))
        assert isinstance(result, Custody), result
        return result

    async def list(self, mailbox: Mailbox, cursor: int = 0, *, wait_ms: int = 0) -> Listed:
        result = await self.ask_one(mailbox.list(cursor, wait_ms=wait_ms))
        assert isinstance(result, Listed), result
        return result

    async def make_mailbox(self, token: bytes, kind: MailboxKind = "pair") -> Mailbox:
        mailbox = Mailbox.new(self.env, kind)
        assert await self.ask_one(mailbox.create(token)) == Created()
        return mailbox


async def card_shown(env: Env, url: str) -> BrokerCard:
    """The card a broker shows, believing whatever certificate it shows with it."""
    pin = AnyCertificate() if url.startswith("https:") else None
    async with env.network.client_session(tls_pin=pin) as session, session.get(url) as response:
        return parse_broker_card_untrusted(await response.read())


@asynccontextmanager
async def connected(env: Env, address: BrokerAddress, *, tls: bool = False) -> AsyncIterator[Client]:
    """A client that has fetched the card, checked it against ``address``, and pins what it names."""
    scheme = "https" if tls else "http"
    card = await card_shown(env, f"{scheme}://{address.host}:{address.port}/v1")
    verify_broker_card(card, address)
    assert (card.tls_certificate_sha256 != NO_TLS) == tls
    pin = TlsPin(certificate_sha256=card.tls_certificate_sha256) if tls else None
    async with env.network.client_session(tls_pin=pin, connections_max=64) as session:
        yield Client(env=env, address=address, session=session, card=card, scheme=scheme)


# --- in this process ---


@dataclass(slots=True, kw_only=True)
class House:
    """One broker directory, with the brokers that live in it one after the other."""

    env: Env
    directory: Path
    made: MadeBroker
    clock: ShiftedClock
    broker: Broker | None = None
    addresses: BrokerAddresses | None = None
    registry: prometheus_client.CollectorRegistry = field(default_factory=prometheus_client.CollectorRegistry)

    @classmethod
    async def build(cls, directory: Path, **config: Any) -> "House":
        env = real_env()
        clock = ShiftedClock(env)
        env = replace(env, clock=clock)
        values = {"name": "tested", "port": 0, "health_port": 0, **config}
        made = await initialise(env, directory, values, kdf=CHEAP_KDF)
        return cls(env=env, directory=directory, made=made, clock=clock)

    async def start(self) -> BrokerAddresses:
        self.registry = prometheus_client.CollectorRegistry()
        env = replace(self.env, boot_id=self.env.random(8).hex())
        self.broker = Broker(
            env,
            self.directory,
            config_of(env, self.directory),
            read_passphrase(env, self.directory, None),
            registry=self.registry,
        )
        self.addresses = await self.broker.start()
        return self.addresses

    async def stop(self) -> None:
        broker, self.broker = self.broker, None
        if broker is not None:
            await broker.stop()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def token(self) -> bytes:
        assert self.broker is not None
        (text,) = await make_tokens(self.env, self.broker.store, 1)
        return parse_token_untrusted(text).reveal()

    async def forwarding_token(self) -> bytes:
        assert self.broker is not None
        (text,) = await make_standing_tokens(self.env, self.broker.store, "forwarding", 1)
        return parse_token_untrusted(text, FORWARDING_PREFIX).reveal()

    async def witness_token(self) -> bytes:
        assert self.broker is not None
        (text,) = await make_standing_tokens(self.env, self.broker.store, "witness", 1)
        return parse_token_untrusted(text, WITNESS_PREFIX).reveal()

    def client(self, *, tls: bool = False) -> Any:
        assert self.addresses is not None
        return connected(self.env, self.addresses.address, tls=tls)

    def entries(self) -> list[dict[str, Any]]:
        """Every entry of the published log, read as a stranger reads it."""
        return published_entries(self.directory / "log")


def published_entries(log: Path) -> list[dict[str, Any]]:
    """Entries of a published log: u16 length and bytes each, in bundles of 256."""
    found: list[dict[str, Any]] = []
    bundles = sorted((log / "tile" / "entries").rglob("*"), key=lambda path: str(path))
    for bundle in bundles:
        if bundle.is_dir() or (bundle.parent.name.endswith(".p") and _full_of(bundle).exists()):
            continue
        data, at = bundle.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 2], "big")
            found.append(json.loads(data[at + 2 : at + 2 + size]))
            at += 2 + size
    by_index = {entry["seq"]: entry for entry in found}
    return [by_index[index] for index in sorted(by_index)]


def _full_of(partial: Path) -> Path:
    return partial.parent.with_name(partial.parent.name.removesuffix(".p"))


# --- in a process of its own ---


@dataclass(slots=True, kw_only=True)
class BrokerProcess:
    """A broker as the operator runs it."""

    process: asyncio.subprocess.Process
    ready: dict[str, Any]

    @property
    def address(self) -> BrokerAddress:
        return parse_broker_address_untrusted(self.ready["address"])

    @property
    def health(self) -> str:
        return str(self.ready["health"])

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


async def command(*arguments: str | Path, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run ``salween-broker`` to its end: exit code, standard output, standard error."""
    process = await _spawn(arguments, environment)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def run_process(directory: Path) -> BrokerProcess:
    """Start ``salween-broker run`` and wait until it says it is ready."""
    process = await _spawn(
        ("run", "--dir", directory, "--json"), None, errors=directory.parent / "broker.log"
    )
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    assert line, (directory.parent / "broker.log").read_text()
    return BrokerProcess(process=process, ready=json.loads(line))


_started: list[asyncio.subprocess.Process] = []


async def end_processes() -> None:
    """Kill what a failed test left running."""
    while _started:
        process = _started.pop()
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _spawn(
    arguments: Sequence[str | Path], environment: dict[str, str] | None, errors: Path | None = None
) -> asyncio.subprocess.Process:
    log = errors.open("ab") if errors is not None else None
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "broker",
            *map(str, arguments),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log or asyncio.subprocess.PIPE,
            env=environment,
        )
        _started.append(process)
        return process
    finally:
        if log is not None:
            log.close()
