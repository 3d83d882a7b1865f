"""The open keystore as the daemon uses it: one writer at a time, and never on the event loop.

One rule: a secret is durable here before any transaction names it, and leaves only after the transaction that
gave it up. Reading is immediate and safe from any thread.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from keys.errors import PolicyRefused
from keys.keystore import Keystore
from keys.primitives import Ed25519PrivateKey
from keys.secret import SecretBytes
from runtime.env import Env

MAILBOX_SECRET_BYTES = 96


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


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxKeys:
    """Secrets of one of our mailboxes, as the keystore holds them: get 32, put 32, Ed25519 seed 32."""

    get_secret: SecretBytes
    put_secret: SecretBytes
    signing_key: Ed25519PrivateKey = field(repr=False)

    @staticmethod
    def from_secret(secret: SecretBytes) -> "MailboxKeys":
        """Read one keystore entry."""
        data = secret.reveal()
        assert len(data) == MAILBOX_SECRET_BYTES
        return MailboxKeys(
            get_secret=SecretBytes(data[:32]),
            put_secret=SecretBytes(data[32:64]),
            signing_key=Ed25519PrivateKey.from_seed(SecretBytes(data[64:])),
        )

    @staticmethod
    def find(secrets: Secrets, name: str) -> "MailboxKeys | None":
        """Those of a mailbox that another task may just be giving up: then None."""
        try:
            return MailboxKeys.from_secret(secrets.get(name))
        except PolicyRefused:
            return None
