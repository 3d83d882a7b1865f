"""Content at rest: whatever is kept can be opened for as long as it is kept."""

import asyncio
from pathlib import Path

from node.vault import KEK_PREFIX, Vault
from protocol import limits
from runtime.env import Env
from tests.node.offices import Offices, node_of, play


def test_two_alerts_at_the_turn_of_a_month_make_one_key(tmp_path: Path) -> None:
    """Both find none and would make one: the second must not take the place of the first, under which
    an alert is sealed already."""

    async def script(offices: Offices) -> None:
        node = node_of(offices.here)
        offices.here.host.step_clock(40 * limits.DAY_MS)
        seen = []

        async def once(env: Env) -> None:
            vault = node._inbox._vault
            assert isinstance(vault, Vault)
            known = set(node._secrets.names(KEK_PREFIX))

            async def ensure() -> None:
                await vault.ensure_month()
                (name,) = set(node._secrets.names(KEK_PREFIX)) - known
                seen.append(node._secrets.get(name).reveal())

            await asyncio.gather(*(ensure() for _ in range(3)))

        await offices.here.host.run(once)
        assert len(seen) == 3
        assert len(set(seen)) == 1

    play(tmp_path, script)
