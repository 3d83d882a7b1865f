"""The endpoint as a stranger meets it: bounded in size, time and number, and telling him nothing."""

import asyncio
import resource
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keys.primitives import XWingPrivateKey
from keys.secret import SecretBytes
from protocol import limits
from protocol.custody import Custody
from protocol.requests import (
    Listed,
    Notices,
    Op,
    open_answer_untrusted,
    open_request_untrusted,
    seal_request,
)
from tests.broker.ends import Client, House, Mailbox, an_envelope

MINUTE_MS = limits.MINUTE_MS


async def raw(client: Client, data: bytes) -> bytes:
    """Send bytes as they are; the first that comes back, or nothing when the broker closes."""
    reader, writer = await asyncio.open_connection(client.address.host, client.address.port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(1000), 10)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def post_head(length: int) -> bytes:
    return f"POST /v1 HTTP/1.1\r\nHost: b\r\nContent-Length: {length}\r\n\r\n".encode()


async def test_a_wrong_date_is_answered_with_the_time_alone(house: House, office: Client) -> None:
    """Five minutes off, or from before the boot: nothing happens, and the node learns the broker's time."""
    mailbox = await office.make_mailbox(await house.token())
    now_ms = house.env.clock.now_ms()
    for date_ms in (now_ms - 5 * MINUTE_MS, now_ms + 5 * MINUTE_MS, 0, limits.TIME_MS_MAX):
        answer = await office.answer(mailbox.put(an_envelope(house.env)), date_ms=date_ms)
        assert answer.date_refused
        assert abs(answer.now_ms - now_ms) < 10_000
    assert (await office.list(mailbox)).items == ()
    # With the offset it learnt, the node gets through however wrong its own clock is.
    offset_ms = answer.now_ms - 0
    assert not (await office.answer(mailbox.list(), date_ms=0 + offset_ms)).date_refused


async def test_a_restart_refuses_every_request_recorded_before_it(house: House, office: Client) -> None:
    """The memory of answered requests dies with the process; their dates are refused instead."""
    mailbox = await office.make_mailbox(await house.token())
    data, pending = seal_request(
        office.card.request_public,
        ops=[mailbox.list()],
        date_ms=house.env.clock.now_ms(),
        random=house.env.random,
    )
    assert (await office.post(data))[0] == 200
    await asyncio.sleep(0.05)
    await house.restart()
    status, body = await office.post(data)
    assert status == 200
    assert open_answer_untrusted(pending, body).date_refused


async def test_a_replayed_request_is_refused(house: House, office: Client) -> None:
    """The very same bytes are answered once, also when both copies come at the same moment."""
    mailbox = await office.make_mailbox(await house.token())
    for op in (mailbox.list(), mailbox.put(an_envelope(house.env)), mailbox.list(2**60, wait_ms=300)):
        data, pending = seal_request(
            office.card.request_public,
            ops=[op],
            date_ms=house.env.clock.now_ms(),
            random=house.env.random,
        )
        answers = await asyncio.gather(*[office.post(data) for _ in range(3)])
        assert sorted(status for status, _ in answers) == [200, 409, 409]
        assert await office.post(data) == (409, b"replayed\n")
        (good,) = [body for status, body in answers if status == 200]
        assert isinstance(open_answer_untrusted(pending, good).results[0], Custody | Listed)


async def test_a_clock_stepped_under_the_broker_turns_nobody_away(house: House, office: Client) -> None:
    """Requests are dated by a steady clock: correcting the machine's time does not cut the offices off."""
    mailbox = await office.make_mailbox(await house.token())
    steady_ms = (await office.answer(mailbox.list())).now_ms
    for step_ms in (-limits.DAY_MS, 400 * limits.DAY_MS):
        house.clock.step_ms = step_ms
        answer = await office.answer(mailbox.put(an_envelope(house.env)), date_ms=steady_ms)
        assert not answer.date_refused
        assert abs(answer.now_ms - steady_ms) < 60_000


async def test_answers_have_few_sizes(house: House, office: Client) -> None:
    """An empty answer is 128 bytes, a full one a step of the ladder: sizes say almost nothing."""
    mailbox = await office.make_mailbox(await house.token())

    async def size_of(*ops: Op) -> int:
        data, _ = seal_request(
            office.card.request_public,
            ops=ops,
            date_ms=house.env.clock.now_ms(),
            random=house.env.random,
        )
        return len((await office.post(data))[1])

    assert await size_of(mailbox.list()) == await size_of(Mailbox.new(house.env).list()) == 128
    assert await size_of(mailbox.put(an_envelope(house.env))) == 1024
    puts = [mailbox.put(an_envelope(house.env)) for _ in range(7)]
    assert await size_of(*puts) == 1024


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.binary(max_size=3000), st.sampled_from([0, 1280, 2048, 2560]))
async def test_whatever_is_posted_is_refused_or_answered(
    house: House, office: Client, data: bytes, size: int
) -> None:
    """Bytes that are no request get a 400 with a code, and the broker goes on."""
    status, body = await office.post(data.ljust(size, b"\0"))
    assert status == 400
    assert body.decode().strip().replace("_", "").isalnum()


@pytest.mark.parametrize("at", [0, 1, 500, 1150, 1200, 1279])
async def test_a_flipped_bit_anywhere_is_a_400(house: House, office: Client, at: int) -> None:
    """Nothing of a request can be changed on the way."""
    data, _ = seal_request(
        office.card.request_public, ops=[Notices()], date_ms=house.env.clock.now_ms(), random=house.env.random
    )
    altered = bytearray(data)
    altered[at] ^= 1
    assert (await office.post(bytes(altered)))[0] == 400
    assert (await office.post(data))[0] == 200


async def test_a_request_to_another_broker_does_not_open(house: House, office: Client) -> None:
    """A request is sealed to one broker's key."""
    other = Mailbox.new(house.env)
    foreign = XWingPrivateKey.from_seed(SecretBytes(house.env.random(32)))
    data, _ = seal_request(
        foreign.public_bytes, ops=[other.list()], date_ms=house.env.clock.now_ms(), random=house.env.random
    )
    open_request_untrusted(foreign, data)
    assert await office.post(data) == (400, b"unwrap_failed\n")


async def test_lengths_are_judged_before_the_body(office: Client) -> None:
    """Too large, too small, not stated: refused from the headers alone, whatever follows."""
    assert b" 413 " in await raw(office, post_head(limits.REQUEST_BYTES_MAX + 1))
    assert b" 413 " in await raw(office, post_head(2**62))
    assert b" 400 " in await raw(office, post_head(0) + b"")
    assert b" 400 " in await raw(office, post_head(limits.REQUEST_BYTES_MIN - 1))
    chunked = b"POST /v1 HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b" 411 " in await raw(office, chunked + b"5\r\nhello\r\n")


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1 HTTP/1.1\r\nHost: b\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1 HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1 HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        b"POST /v1 HTTP/1.1\r\nHost: b\r\n folded: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"POST " + b"/" * 10_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /v1 HTTP/1.1\r\n" + b"X-A: b\r\n" * 1000 + b"\r\n",
        b"GET /v1 HTTP/1.1\r\nX-A: " + b"a" * 1_000_000 + b"\r\n\r\n",
        bytes(range(256)) * 4,
    ],
    ids=lambda head: repr(head[:24]),
)
async def test_what_is_not_http_gets_a_bare_400(office: Client, head: bytes) -> None:
    """Smuggling, floods of headers, TLS on a plain port: closed at once, nothing quoted back."""
    answer = await raw(office, head + b"\r\n\r\n")
    assert answer == b"" or b" 400 " in answer
    assert b"Python" not in answer or b" 400 " in answer
    assert (await office.ask(Notices())) is not None


async def test_other_paths_and_methods_do_not_exist(office: Client) -> None:
    """One endpoint, two methods."""
    base = office.url.removesuffix("/v1")
    for path in ("/", "/v1/", "/v2", "/metrics", "/healthz", "/v1/../v1x", "/%2e%2e/etc/passwd"):
        async with office.session.get(base + path) as response:
            assert response.status == 404
            assert not {"Server", "Date", "Content-Type"} & set(response.headers)
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"):
        async with office.session.request(method, office.url) as response:
            assert response.status in (404, 405)


async def test_slow_headers_are_cut_after_five_seconds(office: Client) -> None:
    """A byte a second does not hold a connection."""
    reader, writer = await asyncio.open_connection(office.address.host, office.address.port)
    began = asyncio.get_running_loop().time()

    async def dribble() -> None:
        for byte in b"POST /v1 HTTP/1.1\r\nHost: broker\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa":
            writer.write(bytes([byte]))
            await asyncio.sleep(0.2)

    dribbling = asyncio.create_task(dribble())
    with suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    assert 4 < asyncio.get_running_loop().time() - began < 8
    dribbling.cancel()
    with suppress(asyncio.CancelledError, ConnectionError):
        await dribbling
    writer.close()


async def test_connections_of_one_peer_are_bounded_and_others_are_still_served(house: House) -> None:
    """The 65th connection of one address is dropped; closing one makes room again."""
    assert house.addresses is not None
    host, port = "127.0.0.1", house.addresses.port
    writers = []
    for _ in range(64):
        _, writer = await asyncio.open_connection(host, port)
        writers.append(writer)
    await asyncio.sleep(0.1)
    reader, writer = await asyncio.open_connection(host, port)
    with suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 2) == b""
    writer.close()
    for held in writers[:2]:
        held.close()
    await asyncio.sleep(0.1)
    async with house.client() as client:
        assert await client.ask(Notices())
    for held in writers:
        held.close()


async def test_a_flood_of_large_requests_costs_bounded_memory(house: House, office: Client) -> None:
    """Sixty bodies of a megabyte, all but the last byte sent: 48 MiB of them are held at most."""
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    connections = []
    for _ in range(60):
        reader, writer = await asyncio.open_connection(office.address.host, office.address.port)
        writer.write(post_head(limits.REQUEST_BYTES_MAX) + bytes(limits.REQUEST_BYTES_MAX - 1))
        connections.append((reader, writer))
    await asyncio.sleep(1)
    async with office.session.get(office.url) as response:
        assert response.status == 200
    refused = 0
    for reader, writer in connections:
        with suppress(TimeoutError, ConnectionError):
            refused += b" 503 " in await asyncio.wait_for(reader.read(100), 0.05)
        writer.close()
    assert refused >= 60 - 48
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 150 * 1024
    await asyncio.sleep(0.2)
    assert await office.ask(Notices())


async def test_announcing_large_requests_takes_no_room(house: House, office: Client) -> None:
    """A stranger who promises megabytes on many connections and sends nothing keeps nobody out."""
    held = []
    for _ in range(60):
        _, writer = await asyncio.open_connection(office.address.host, office.address.port)
        writer.write(post_head(limits.REQUEST_BYTES_MAX))
        held.append(writer)
    await asyncio.sleep(0.3)
    assert await office.ask(Notices())
    for writer in held:
        writer.close()


async def test_a_request_cut_off_changes_nothing(house: House, office: Client) -> None:
    """Reset at any byte of a put: the item is there whole or not at all, and the retry succeeds."""
    mailbox = await office.make_mailbox(await house.token())
    envelope = an_envelope(house.env)
    for cut_at in (1, 1000, 5000, -1):
        data, _ = seal_request(
            office.card.request_public,
            ops=[mailbox.put(envelope)],
            date_ms=house.env.clock.now_ms(),
            random=house.env.random,
        )
        _, writer = await asyncio.open_connection(office.address.host, office.address.port)
        writer.write(post_head(len(data)) + data[:cut_at])
        await writer.drain()
        writer.close()
        await asyncio.sleep(0.05)
    assert (await office.list(mailbox)).items == ()
    await office.put(mailbox, envelope)
    assert [item.envelope for item in (await office.list(mailbox)).items] == [envelope]


async def test_strangers_waiting_for_nothing_are_bounded(house: House) -> None:
    """Polls on mailboxes that do not exist hold at most 64 places; the rest is answered at once."""
    async with house.client() as client:
        mailbox = await client.make_mailbox(await house.token())
        polls = [asyncio.create_task(client.list(Mailbox.new(house.env), wait_ms=2000)) for _ in range(60)]
        await asyncio.sleep(0.2)
        assert not any(poll.done() for poll in polls)
        await client.put(mailbox, an_envelope(house.env))
        assert [result.items for result in await asyncio.gather(*polls)] == [()] * 60


async def test_strangers_do_not_fill_the_memory_of_requests(house: House, office: Client) -> None:
    """What showed no capability is forgotten: playing it again does nothing, and it takes no place."""
    assert house.broker is not None
    assert house.broker._exchange is not None
    memory = house.broker._exchange._memory
    mailbox = await office.make_mailbox(await house.token())
    before = memory.count
    for _ in range(20):
        stranger = Mailbox.new(house.env)
        await office.ask(stranger.list(), stranger.put(an_envelope(house.env)))
    assert memory.count == before
    await office.list(mailbox)
    assert memory.count == before + 1
