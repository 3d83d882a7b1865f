"""Open pages learn that something changed, and nothing else."""

import asyncio
import contextlib
import dataclasses

import pytest

from node.web import events
from node.web.events import STREAMS_PER_SESSION_MAX
from node.web.guard import cookie_name
from runtime.env import Listener
from tests.web.fake_desk import NOW_MS, OFFICE_ID, FakeDesk
from tests.web.serve import Client, client_of, serving


class Stream:
    """One open event stream, read line by line from the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def until(self, wanted: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(wanted), 5)

    async def rest(self) -> bytes:
        """Everything to the last chunk of the answer."""
        return await self.until(b"\r\n0\r\n\r\n")

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def opened(client: Client) -> Stream:
    name = cookie_name(OFFICE_ID)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(
        f"GET /events HTTP/1.1\r\nHost: localhost:{client.port}\r\nSec-Fetch-Site: same-origin\r\n"
        f"Cookie: {name}={client.cookies.get(name, '')}\r\n\r\n".encode()
    )
    return Stream(reader, writer)


async def test_a_stream_names_the_list_and_tells_nothing_else(officer: Client, desk: FakeDesk) -> None:
    """Kind and time; the content is asked for afterwards, under the session."""
    stream = await opened(officer)
    head = await stream.until(b": open\n\n")
    assert b"text/event-stream" in head
    assert b"no-store" in head
    desk.tell("inbox")
    desk.tell("link")
    assert await stream.until(b"event: inbox\ndata: %d\n\n" % NOW_MS)
    assert await stream.until(b"event: link\ndata: %d\n\n" % NOW_MS)
    await stream.close()


async def test_nobody_listens_without_a_session(client: Client) -> None:
    """401, so that the browser's own retry stops."""
    answer = await client.get("/events")
    assert answer.status == 401


async def test_a_locked_screen_ends_its_streams(officer: Client, desk: FakeDesk) -> None:
    """At once when the desk says that a session ended, and the page is told why."""
    stream = await opened(officer)
    await stream.until(b": open\n\n")
    desk.lock_all()
    assert b"event: ended\n" in await stream.rest()
    assert desk.listeners == []
    await stream.close()


async def test_another_session_s_end_ends_nothing_here(officer: Client, desk: FakeDesk) -> None:
    """The event says only that some session ended."""
    stream = await opened(officer)
    await stream.until(b": open\n\n")
    desk.tell("lock")
    desk.tell("inbox")
    assert b"ended" not in await stream.until(b"event: inbox\n")
    await stream.close()


async def test_listening_is_not_use(officer: Client, desk: FakeDesk) -> None:
    """An open page alone does not keep the session alive."""
    desk.touches.clear()
    stream = await opened(officer)
    await stream.until(b": open\n\n")
    assert desk.touches == [False]
    await stream.close()


async def test_heartbeats_find_the_end_of_a_session(
    officer: Client, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when no event told of it."""
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.02)
    stream = await opened(officer)
    await stream.until(b": still here\n\n")
    desk.sessions.clear()
    assert b"event: ended" in await stream.rest()
    await stream.close()


async def test_a_session_holds_a_few_streams_and_a_closed_one_frees_its_place(
    officer: Client, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tab too many is told so; leaving a page gives its place back."""
    monkeypatch.setattr(events, "WATCH_S", 0.02)
    streams = [await opened(officer) for _ in range(STREAMS_PER_SESSION_MAX)]
    for stream in streams:
        await stream.until(b": open\n\n")
    assert (await officer.get("/events")).status == 503
    await streams[0].close()
    while len(desk.listeners) == STREAMS_PER_SESSION_MAX:
        await asyncio.sleep(0.01)
    streams[0] = await opened(officer)
    await streams[0].until(b": open\n\n")
    for stream in streams:
        await stream.close()


async def test_a_reader_that_does_not_read_is_cut_off(
    officer: Client, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B72: a full socket costs one buffer and a few seconds, then the place is free."""
    monkeypatch.setattr(events, "WRITE_SECONDS_MAX", 0.05)
    stream = await opened(officer)
    await stream.until(b": open\n\n")
    stream.writer.transport.pause_reading()  # type: ignore[attr-defined]
    while desk.listeners:
        for _ in range(20_000):
            desk.tell("inbox")
        await asyncio.sleep(0.05)
    await stream.close()


async def test_a_stop_does_not_wait_for_open_pages(desk: FakeDesk) -> None:
    """Shutting down ends all streams first."""
    async with contextlib.AsyncExitStack() as stack:
        listener: Listener = await stack.enter_async_context(serving(desk))
        client = await stack.enter_async_context(client_of(listener))
        await client.login()
        stream = await opened(client)
        await stream.until(b": open\n\n")
        started = asyncio.get_running_loop().time()
        await listener.close()
        assert asyncio.get_running_loop().time() - started < 2
        await stream.close()


def test_events_carry_two_fields() -> None:
    """Nothing else can slip in."""
    from node.events import DeskEvent

    assert [field.name for field in dataclasses.fields(DeskEvent)] == ["kind", "at_ms"]
