"""The open keystore as the daemon uses it: one writer at a time, and never on the event loop.

One rule: a secret is durable here before any transaction names it, and leaves only after the transaction that
gave it up. Reading is immediate and safe from any thread.
"""

import asyncio
from collections.abc import Iterable, Mapping

from keys.keystore import Keystore
from keys.secret import SecretBytes
from runtime.env import Env


class Secrets:
    """Serialises changes of a keystore; each is durable on return."""

    def __init__(self, env: Env, keystore: Keystore) -> None:
        self._env = env
        self._keystore = keystore
        self._one_writer = asyncio.Lock()

    def get(self, name: str) -> SecretBytes:
        """One secret; PolicyRefused ``key_missing``."""
        return self._keystore.get(name)

    def names(self, prefix: str = "") -> tuple[str, ...]:
        """Names that begin with ``prefix``, sorted."""
        return self._keystore.names(prefix)

    async def put(self, secrets: Mapping[str, SecretBytes]) -> None:
        """Add or replace several, all or none."""
        async with self._one_writer:
            await self._env.run_blocking(self._keystore.put_many, secrets)

    async def remove(self, names: Iterable[str]) -> None:
        """Remove several; missing ones are no fault, removals are repeated after crashes."""
        gone = tuple(names)
        if gone:
            async with self._one_writer:
                await self._env.run_blocking(self._keystore.remove_many, gone)
