"""What somebody learns who copies every line, sees what brokers open, and takes brokers' disks home.

``Taps`` listens; the functions below look for what must not be there. All of them are blind to meaning: they
look for bytes, sizes and repetitions, so that they also find what nobody thought of.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import pytest

from broker.exchange import Exchange
from demo.canary import coded
from protocol.requests import _ANSWER_SIZES, _REQUEST_SIZES, Op, Request
from runtime.sqlite import Database, Snapshot
from tests.node.test_nothing_personal import Talking
from tests.simulation.daemons import BrokerHost, OfficeHost
from tests.simulation.loop import HOST
from tests.simulation.network import VirtualTransport
from tests.simulation.world import Host, World

STABLE_BYTES = 16  # what may stand for something elsewhere is at least as long
ENDS_BYTES = 1_024  # of what is longer, the beginning and the end are compared
SHORT_BYTES, FIRST_BYTES = 8, 64  # or it stands at one place among the first
CARD_BYTES = 1_359  # of a broker: public, and the same to everybody
_LENGTH = re.compile(rb"Content-Length: ([0-9]+)\r\n")
_HOST = re.compile(rb"Host: [a-z]+:[0-9]+\r\n")
# Every head on any line, its length and the broker's name taken out: nobody is known by how a program speaks.
HEADS = {
    b"GET /v1 HTTP/1.1\r\n\r\n",
    b"POST /v1 HTTP/1.1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
}


@dataclass(frozen=True, slots=True)
class Spoken:
    """One HTTP message."""

    sender: str
    head: bytes
    body: bytes

    @property
    def is_request(self) -> bool:
        """Or an answer."""
        return not self.head.startswith(b"HTTP/")


class Taps:
    """On every line, in both brokers and on their operations logs; forget it with the ``monkeypatch``."""

    def __init__(self, world: World, hosts: Sequence[Host], monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: dict[str, list[Op]] = {}  # of each broker, what it could open
        self.logged = {host.name: Talking(host).lines for host in hosts}
        self._streams: dict[tuple[str, int], bytearray] = {}
        self._kept: list[VirtualTransport] = []  # so that no other one gets its id
        send, opened = world.network.send, Exchange.open_untrusted

        def noted(sender: VirtualTransport, item: Any) -> None:
            if isinstance(item, bytes) and sender.owner is not sender.peer.owner:
                stream = (sender.owner.name, id(sender))
                if stream not in self._streams:
                    self._streams[stream] = bytearray()
                    self._kept.append(sender)
                self._streams[stream] += item
            send(sender, item)

        def open_untrusted(exchange: Exchange, data: bytes) -> Request:
            request = opened(exchange, data)
            host = HOST.get()
            assert host is not None
            self.asked.setdefault(host.name, []).extend(request.ops)
            return request

        monkeypatch.setattr(world.network, "send", noted)
        monkeypatch.setattr(Exchange, "open_untrusted", open_untrusted)

    @property
    def carried(self) -> list[bytes]:
        """All bytes of each connection, each way by itself."""
        return [bytes(stream) for stream in self._streams.values()]

    def spoken(self) -> Iterator[Spoken]:
        """Every HTTP message that came to its end."""
        for (sender, _), stream in self._streams.items():
            for head, body in _messages(bytes(stream)):
                yield Spoken(sender, head, body)


def _messages(stream: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while (end := stream.find(b"\r\n\r\n", at)) >= 0:
        head, at = stream[at : end + 4], end + 4
        body = b""
        if b"Transfer-Encoding: chunked\r\n" in head:
            while (line := stream.find(b"\r\n", at)) >= 0:
                size = int(stream[at:line], 16)
                body, at = body + stream[line + 2 : line + 2 + size], line + 2 + size + 2
                if not size:
                    break
            if line < 0 or at > len(stream):
                return  # cut off
        else:
            lengths = _LENGTH.findall(head)
            size = int(lengths[0]) if lengths else 0
            body, at = stream[at : at + size], at + size
            if at > len(stream):
                return
        yield head, body


# --- what must not be there -----------------------------------------------------------------------------


def forms(needle: bytes) -> set[bytes]:
    """Every form in which a program writes bytes without meaning harm."""
    shapes = {needle} | {shape for _, shape in coded(needle)}
    if needle.isascii():
        shapes |= {needle.decode().encode("utf-16-le"), needle.lower()}
    return shapes


def found(needles: dict[str, bytes], hay: Iterable[bytes]) -> set[str]:
    """Names of the needles that occur in any form."""
    whole = b"\0".join(hay)
    return {name for name, data in needles.items() if any(form in whole for form in forms(data))}


def odd_sizes(messages: Iterable[Spoken]) -> set[str]:
    """Requests and answers of a size that is none of the few."""
    odd: set[str] = set()
    for one in messages:
        size = len(one.body)
        # What says that an answer is still held back: a byte now and then.
        sizes = {*_REQUEST_SIZES, 0} if one.is_request else {*_ANSWER_SIZES, CARD_BYTES}
        held = 0 if one.is_request else size % 128
        if size != CARD_BYTES and size - held not in sizes:
            odd.add(f"{one.sender} {'asks' if one.is_request else 'answers'} {size}")
    return odd


def odd_heads(messages: Iterable[Spoken]) -> set[bytes]:
    """Heads that say more than that a request or an answer comes, and how long it is."""
    return {_HOST.sub(b"", _LENGTH.sub(b"", one.head)) for one in messages} - HEADS


def repeated(pieces: Iterable[bytes]) -> set[bytes]:
    """What stands in two pieces: 31 bytes anywhere, or 8 at one place near both beginnings.

    Random bytes do not repeat themselves: whatever does could be followed.
    """
    blocks: set[bytes] = set()
    columns: set[tuple[int, bytes]] = set()
    twice: set[bytes] = set()
    for whole in pieces:
        piece = whole if len(whole) < 2 * ENDS_BYTES else whole[:ENDS_BYTES] + whole[-ENDS_BYTES:]
        runs = [piece[at : at + STABLE_BYTES] for at in range(len(piece) - STABLE_BYTES + 1)]
        twice |= blocks.intersection(runs)
        blocks.update(runs[::STABLE_BYTES])
        first = {(at, run[:SHORT_BYTES]) for at, run in enumerate(runs[:FIRST_BYTES])}
        twice |= {run for _, run in columns & first}
        columns |= first
    return twice


def _named(ops: Iterable[Op]) -> Iterator[tuple[str, bytes]]:
    for op in ops:
        assert is_dataclass(op)
        for field in fields(op):
            value = getattr(op, field.name)
            if isinstance(value, bytes) and len(value) >= STABLE_BYTES:
                yield f"{type(op).__name__}.{field.name}", value


def handles(ops: Iterable[Op]) -> set[str]:
    """Fields of ops by which a broker knows something again: ``op.field`` whose value came in two ops."""
    return {name for (name, _), times in Counter(_named(ops)).items() if times > 1}


def values(ops: Iterable[Op]) -> dict[bytes, str]:
    """What was said in ops, and in which field."""
    return {value: name for name, value in _named(ops)}


# --- disks ----------------------------------------------------------------------------------------------


def database_of(host: BrokerHost | OfficeHost) -> Database:
    """Of a running host."""
    running = host.broker if isinstance(host, BrokerHost) else host.node
    assert running is not None
    assert running._db is not None
    return running._db


async def rows_of(host: BrokerHost | OfficeHost) -> list[bytes]:
    """Every value of its database as its own key opens it, and the words of the schema."""

    def look(tx: Snapshot) -> Iterator[bytes]:
        for (table,) in list(tx.execute("SELECT name FROM sqlite_master WHERE type = 'table'")):
            yield table.encode()
            for row in tx.execute(f"SELECT * FROM {table}"):
                yield from (value if isinstance(value, bytes) else str(value).encode() for value in row)

    database = database_of(host)
    return await host.host.run(lambda env: database.read(lambda tx: list(look(tx))))


async def all_of(broker: BrokerHost) -> list[bytes]:
    """Its rows, and its files as they lie there."""
    disk = broker.host.simulated_disk
    assert disk is not None
    return [*await rows_of(broker), *disk.content().values()]
