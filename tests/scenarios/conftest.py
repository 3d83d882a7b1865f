"""One paired world for all scenarios; each test works on a copy."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.scenarios.world import Template, World, make_template, opened


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Paired by the real ceremony, once."""
    directory: Path = tmp_path_factory.mktemp("paired")
    return asyncio.run(make_template(directory))


@pytest.fixture
async def world(template: Template) -> AsyncIterator[World]:
    """A copy of it, with nothing running."""
    async with opened(template) as world:
        yield world
