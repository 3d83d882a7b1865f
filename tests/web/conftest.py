"""A desk in memory with its pages served, and a client that behaves like a page of theirs."""

from collections.abc import AsyncIterator

import pytest

from runtime.env import Listener
from tests.web.fake_desk import FakeDesk
from tests.web.serve import Client, client_of, serving


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk()


@pytest.fixture
async def listener(desk: FakeDesk) -> AsyncIterator[Listener]:
    async with serving(desk) as listening:
        yield listening


@pytest.fixture
async def client(listener: Listener) -> AsyncIterator[Client]:
    async with client_of(listener) as speaking:
        yield speaking


@pytest.fixture
async def officer(client: Client) -> Client:
    """A client logged in as officer 1."""
    answer = await client.login()
    assert answer.status == 303
    return client
