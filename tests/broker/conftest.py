"""A broker for each test that asks for one: started, with its directory, and stopped after it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.broker.ends import Client, House, end_processes


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A started broker over its own directory."""
    built = await House.build(tmp_path / "broker")
    await built.start()
    yield built
    await built.stop()


@pytest.fixture
async def office(house: House) -> AsyncIterator[Client]:
    """An office's client of that broker."""
    async with house.client() as client:
        yield client


@pytest.fixture(autouse=True)
async def _no_process_stays() -> AsyncIterator[None]:
    yield
    await end_processes()
