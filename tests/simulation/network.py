"""Byte streams between simulated hosts, on which aiohttp's real server and client protocols run.

Modelled: latency, data cut into chunks at any byte, windows and back-pressure, half-close, refused
connections, resets, partitions in one or both directions (bytes wait, connections hang), hosts that die with
their bytes in flight arriving or not, hosts that lose power and answer nothing. TLS is modelled by its
outcome alone: whether the certificate shown is the pinned one. Not modelled: loss within a stream, reordering
between streams of one pair.
"""

import asyncio
import errno
import itertools
import random
import socket
import ssl
from asyncio import transports
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, Final, cast

from tests.simulation.loop import HOST, Incarnation, VirtualLoop
from tests.simulation.trace import Trace

WINDOW_BYTES: Final = 128 * 1024  # what both kernels buffer of one direction
LOOPBACK_LATENCY_S: Final = 0.00005
LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1"})
EVERY_ADDRESS: Final = frozenset({"0.0.0.0", "::", ""})

Address = tuple[str, int]
ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class _Mark:
    """An end or a break of a stream, on its way like data."""

    def __init__(self, name: str) -> None:
        self.name = name


EOF: Final = _Mark("eof")
RESET: Final = _Mark("reset")
Item = bytes | _Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualTls:
    """Stands where an SSL context stands: the certificate hash a server shows or a client pins."""

    certificate_sha256: bytes


ANY_CERTIFICATE: Final = VirtualTls(certificate_sha256=b"any")


@dataclass(slots=True, kw_only=True)
class _Listener:
    owner: Incarnation
    context: Context
    factory: ProtocolFactory
    tls: VirtualTls | None
    is_loopback_only: bool


class NetworkLoop(VirtualLoop):
    """The loop with the calls that open servers and connections."""

    network: "VirtualNetwork"

    async def create_server(
        self,
        protocol_factory: ProtocolFactory,
        host: Any = None,
        port: Any = None,
        *,
        ssl: Any = None,
        **_: Any,
    ) -> Any:
        return self.network.listen(protocol_factory, host, port, ssl)

    async def create_unix_server(self, protocol_factory: ProtocolFactory, path: Any = None, **_: Any) -> Any:
        return self.network.listen_unix(protocol_factory, path)

    async def create_connection(
        self,
        protocol_factory: Any,
        host: Any = None,
        port: Any = None,
        *,
        ssl: Any = None,
        **_: Any,
    ) -> Any:
        return await self.network.connect(protocol_factory, host, port, ssl)

    async def create_unix_connection(self, protocol_factory: Any, path: Any = None, **_: Any) -> Any:
        return await self.network.connect_unix(protocol_factory, path)


class VirtualNetwork:
    """Who can reach whom, and what is on its way."""

    def __init__(self, loop: NetworkLoop, seed: str, trace: Trace) -> None:
        loop.network = self
        self.loop = loop
        self.latency_s = (0.005, 0.060)
        self.slow_hops: dict[tuple[str, str], tuple[float, float]] = {}  # latency from one host to another
        self._choices = random.Random(f"{seed}/network")
        self._trace = trace
        self._world_context = Context()
        self._listeners: dict[Address, _Listener] = {}
        self._unix: dict[tuple[str, str], _Listener] = {}
        self._names: dict[str, None] = {}
        self._without_power: dict[str, None] = {}
        self._cut: dict[tuple[str, str], None] = {}
        self._held: list[tuple[VirtualTransport, Item]] = []
        self._healed = asyncio.Event()
        self._transports: list[VirtualTransport] = []
        self._ports = 40_000
        self._connections = 0
        self.writes = 0  # pieces put on their way so far
        # Hears which host speaks to which, beforehand.
        self.on_write: Callable[[str, str], None] = lambda host, to: None
        self.on_written: Callable[[str, str, bytes], None] = lambda host, to, data: None

    # --- what a test does to it -----------------------------------------------------------------------------

    def cut(self, source: str, target: str, *, both_ways: bool = True) -> None:
        """Nothing passes from ``source`` to ``target`` until ``heal``; streams stay open and hang."""
        self._note("cut", source, target)
        self._cut[source, target] = None
        if both_ways:
            self._cut[target, source] = None

    def heal(self) -> None:
        """Everything passes again, and what waited goes on its way."""
        self._note("heal")
        self._cut.clear()
        held, self._held = self._held, []
        for sender, item in held:
            self._dispatch(sender, item)
        self._healed.set()
        self._healed = asyncio.Event()

    def reset_connections(self, one: str, other: str) -> int:
        """Break every stream between two hosts, as a middlebox would; how many there were."""
        broken = 0
        for transport in list(self._transports):
            ends = (transport.owner.name, transport.peer.owner.name)
            if ends in ((one, other), (other, one)) and one != other:
                broken += 1
                self.loop.call_soon(transport.receive, RESET, context=transport.context)
        self._note("reset", one, other, broken)
        return broken

    # --- what the world tells it ----------------------------------------------------------------------------

    def host_started(self, incarnation: Incarnation) -> None:
        """The host answers from now on."""
        self._names[incarnation.name] = None
        self._without_power.pop(incarnation.name, None)

    def host_died(self, incarnation: Incarnation, *, power_loss: bool) -> None:
        """Close what it listened on and held open; without power nobody is told."""
        self._listeners = {k: v for k, v in self._listeners.items() if v.owner is not incarnation}
        self._unix = {k: v for k, v in self._unix.items() if v.owner is not incarnation}
        if power_loss:
            self._without_power[incarnation.name] = None
        for transport in [t for t in self._transports if t.owner is incarnation]:
            transport.is_flight_lost = power_loss or self._choices.random() < 0.5
            self.drop(transport)
            if not power_loss:
                self.send(transport, EOF if self._choices.random() < 0.5 else RESET)

    # --- servers and clients --------------------------------------------------------------------------------

    def listen(
        self, factory: ProtocolFactory, host: str, port: int, tls: VirtualTls | None
    ) -> "VirtualServer":
        """Accept connections for the current host."""
        owner = _current_host()
        if not port:
            self._ports += 1
            port = self._ports
        if (owner.name, port) in self._listeners:
            raise OSError(errno.EADDRINUSE, "address in use")
        if host not in LOOPBACK_NAMES | EVERY_ADDRESS and host != owner.name:
            raise OSError(errno.EADDRNOTAVAIL, "no such address here")
        key = (owner.name, port)
        self._listeners[key] = _Listener(
            owner=owner,
            context=copy_context(),
            factory=factory,
            tls=tls,
            is_loopback_only=host in LOOPBACK_NAMES,
        )
        self._note("listen", owner.name, port)
        return VirtualServer((host, port), lambda: self._listeners.pop(key, None))

    def listen_unix(self, factory: ProtocolFactory, path: str) -> "VirtualServer":
        """Accept connections on a path of the current host."""
        owner = _current_host()
        key = (owner.name, path)
        self._unix[key] = _Listener(
            owner=owner, context=copy_context(), factory=factory, tls=None, is_loopback_only=True
        )
        self._note("listen_unix", owner.name, path)
        return VirtualServer(path, lambda: self._unix.pop(key, None))

    async def connect(
        self, factory: ProtocolFactory, host: str, port: int, tls: VirtualTls | None
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Connect the current host to ``host``, another host's name or loopback."""
        owner = _current_host()
        is_loopback = host in LOOPBACK_NAMES
        target = owner.name if is_loopback else host
        if target not in self._names:
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        await self._travel(owner.name, target)
        listener = self._listeners.get((target, port))
        if listener is not None and listener.is_loopback_only and not is_loopback:
            listener = None
        return await self._establish(factory, owner, target, port, listener, tls)

    async def connect_unix(
        self, factory: ProtocolFactory, path: str
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Connect to a path of the current host."""
        owner = _current_host()
        await self._travel(owner.name, owner.name)
        return await self._establish(factory, owner, owner.name, 0, self._unix.get((owner.name, path)), None)

    async def _establish(
        self,
        factory: ProtocolFactory,
        owner: Incarnation,
        target: str,
        port: int,
        listener: _Listener | None,
        tls: VirtualTls | None,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        if listener is None:
            await self._travel(target, owner.name)
            self._note("refused", owner.name, target, port)
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
        if (listener.tls is None) != (tls is None):
            await self._travel(target, owner.name)
            raise ssl.SSLError(1, "one side speaks TLS, the other does not")
        if tls is not None and tls not in (listener.tls, ANY_CERTIFICATE):
            await self._travel(target, owner.name)
            self._note("wrong_certificate", owner.name, target, port)
            raise ssl.SSLCertVerificationError("the server's certificate is not the pinned one")
        self._connections += 1
        self._ports += 1
        ours: Address = (owner.name if target != owner.name else "127.0.0.1", self._ports)
        theirs: Address = (target if target != owner.name else "127.0.0.1", port)
        number = self._connections
        client = VirtualTransport(self, owner, copy_context(), number, ours, theirs, tls)
        server = VirtualTransport(self, listener.owner, listener.context, number, theirs, ours, tls)
        client.peer, server.peer = server, client
        self._transports += [client, server]
        self._note("connected", owner.name, target, port, number)
        self.loop.call_soon(server.begin, listener.factory, context=server.context)
        try:
            await self._travel(target, owner.name)
            protocol = factory()
            client.attach(protocol)
        except BaseException:
            self.drop(client)
            self.send(client, RESET)
            raise
        return client, protocol

    async def _travel(self, source: str, target: str) -> None:
        """Wait until a packet sent now has arrived; for ever when nobody is there to answer."""
        await asyncio.sleep(self._latency(source, target))
        while (source, target) in self._cut:
            await self._healed.wait()
        if source in self._without_power or target in self._without_power:
            await self.loop.create_future()

    # --- bytes on their way ---------------------------------------------------------------------------------

    def send(self, sender: "VirtualTransport", item: Item) -> None:
        """Put data or a mark on its way to the sender's peer."""
        self.writes += 1
        if (sender.owner.name, sender.peer.owner.name) in self._cut:
            self._held.append((sender, item))
        else:
            self._dispatch(sender, item)

    def split(self, data: bytes) -> list[bytes]:
        """The chunks a receiver sees of one write: mostly one, sometimes cut anywhere."""
        if len(data) < 2 or self._choices.random() < 0.7:
            return [data]
        cuts = sorted(self._choices.randrange(1, len(data)) for _ in range(self._choices.randrange(1, 4)))
        edges = [0, *dict.fromkeys(cuts), len(data)]
        return [data[start:end] for start, end in itertools.pairwise(edges)]

    def drop(self, transport: "VirtualTransport") -> None:
        """The stream's end at one host is gone."""
        if transport in self._transports:
            self._transports.remove(transport)

    def _dispatch(self, sender: "VirtualTransport", item: Item) -> None:
        # A stream keeps its order whatever the latency of each piece.
        arrival_s = self.loop.time() + self._latency(sender.owner.name, sender.peer.owner.name)
        sender.last_arrival_s = max(sender.last_arrival_s, arrival_s)
        self.loop.call_at(sender.last_arrival_s, self._arrive, sender, item, context=self._world_context)

    def _arrive(self, sender: "VirtualTransport", item: Item) -> None:
        receiver = sender.peer
        if (sender.owner.name, receiver.owner.name) in self._cut:
            self._held.append((sender, item))
            return
        if isinstance(item, bytes) and sender.is_flight_lost:
            return
        self._note(
            "arrived", sender.number, receiver.owner.name, len(item) if isinstance(item, bytes) else item.name
        )
        if receiver.owner.is_alive:
            self.loop.call_soon(receiver.receive, item, context=receiver.context)
        elif item is not RESET and receiver.owner.name not in self._without_power:
            self.send(receiver, RESET)

    def _latency(self, source: str, target: str) -> float:
        if source == target:
            return LOOPBACK_LATENCY_S
        return self._choices.uniform(*self.slow_hops.get((source, target), self.latency_s))

    def _note(self, event: str, *facts: str | int) -> None:
        self._trace.note(self.loop.now_us, event, *facts)


class VirtualTransport(transports._FlowControlMixin, asyncio.Transport):
    """One end of a stream."""

    peer: "VirtualTransport"
    _protocol_paused: bool  # kept by the mixin, as are the two calls below
    _maybe_pause_protocol: Callable[[], None]
    _maybe_resume_protocol: Callable[[], None]

    def __init__(
        self,
        network: VirtualNetwork,
        owner: Incarnation,
        context: Context,
        number: int,
        local: Address,
        remote: Address,
        tls: VirtualTls | None,
    ) -> None:
        extra = {"sockname": local, "peername": remote, "sslcontext": tls}
        super().__init__(extra, network.loop)
        self.owner = owner
        self.context = context
        self.number = number
        self.last_arrival_s = 0.0
        self.is_flight_lost = False
        self._network = network
        self._event_loop = network.loop
        self._protocol: asyncio.Protocol | None = None
        self._unread_bytes = 0  # written by us, not yet taken by the peer's protocol
        self._arrived: deque[Item] = deque()  # while nobody reads
        self._is_reading = True
        self._is_closing = False
        self._is_lost = False
        self._is_eof_sent = False

    # --- the network's side ---------------------------------------------------------------------------------

    def begin(self, factory: ProtocolFactory) -> None:
        """The server's end: make the protocol, as accept does."""
        self.attach(factory())

    def attach(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the stream its protocol; what arrived before is handed over now."""
        self._protocol = cast(asyncio.Protocol, protocol)
        self._protocol.connection_made(self)
        if self._arrived:
            self._event_loop.call_soon(self._drain, context=self.context)

    def receive(self, item: Item) -> None:
        """Take what the network brought."""
        if self._is_lost or self._is_closing:
            if isinstance(item, bytes):
                self._network.send(self, RESET)
            return
        if item is RESET:
            self._lose(ConnectionResetError(errno.ECONNRESET, "connection reset by peer"))
        elif self._protocol is None or not self._is_reading or self._arrived:
            self._arrived.append(item)
        else:
            self._hand_over(item)

    def _drain(self) -> None:
        while self._arrived and self._is_reading and not self._is_closing:
            self._hand_over(self._arrived.popleft())

    def _hand_over(self, item: Item) -> None:
        assert self._protocol is not None
        try:
            if isinstance(item, bytes):
                self.peer._taken(len(item))
                self._protocol.data_received(item)
            elif not self._protocol.eof_received():
                self.close()
        except Exception as error:
            self._event_loop.call_exception_handler(
                {"message": "protocol failed", "exception": error, "transport": self}
            )
            self.abort()

    def _taken(self, size_bytes: int) -> None:
        self._unread_bytes -= size_bytes
        if self._protocol_paused:
            self._event_loop.call_soon(self._resume_writer, context=self.context)

    def _resume_writer(self) -> None:
        if not self._is_lost:
            self._maybe_resume_protocol()

    def _lose(self, error: Exception | None) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._event_loop.call_soon(self._lost, error, context=self.context)

    def _lost(self, error: Exception | None) -> None:
        self._is_lost = True
        self._network.drop(self)
        if self._protocol is not None:
            self._protocol.connection_lost(error)

    # --- the protocol's side --------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing or not data:
            return
        assert not self._is_eof_sent, "write after write_eof"
        self._network.on_write(self.owner.name, self.peer.owner.name)
        self._network.on_written(self.owner.name, self.peer.owner.name, bytes(data))
        for chunk in self._network.split(bytes(data)):
            self._unread_bytes += len(chunk)
            self._network.send(self, chunk)
        self._maybe_pause_protocol()

    def get_write_buffer_size(self) -> int:
        return max(0, self._unread_bytes - WINDOW_BYTES)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._is_eof_sent and not self._is_closing:
            self._is_eof_sent = True
            self._network.send(self, EOF)

    def close(self) -> None:
        if not self._is_closing:
            self.write_eof()
            self._lose(None)

    def abort(self) -> None:
        if not self._is_lost:
            self._network.send(self, RESET)
            self._lose(None)

    def is_closing(self) -> bool:
        return self._is_closing

    def is_reading(self) -> bool:
        return self._is_reading and not self._is_closing

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            self._event_loop.call_soon(self._drain, context=self.context)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol


class _ListeningAddress:
    def __init__(self, address: Any) -> None:
        self._address = address

    def getsockname(self) -> Any:
        return self._address


class VirtualServer:
    """What loop.create_server returns, as far as aiohttp asks of it."""

    def __init__(self, address: Any, on_close: Callable[[], object]) -> None:
        self.sockets = [_ListeningAddress(address)]
        self._on_close = on_close
        self._is_open = True

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._on_close()

    async def wait_closed(self) -> None:
        await asyncio.sleep(0)


def _current_host() -> Incarnation:
    host = HOST.get()
    assert host is not None, "a socket outside every simulated host"
    return host
