"""Content at rest: each alert under a key of its own, that key wrapped by the month's key-encryption key.

Spec: docs/spec/log.md#erasure. One rule: content is unwrapped only inside ``open_content``, and its callers
commit the access entry first. Erasing an alert is deleting its row; nobody keeps the key.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime

from keys import labels
from keys.errors import BrokenInvariant
from keys.primitives import aead_open, aead_seal
from keys.secret import SecretBytes
from node.secrets import Secrets
from protocol import limits, wire
from runtime.env import Env
from runtime.sqlite import Transaction

KEK_PREFIX = "kek/"
KEY_BYTES = 32
NONCE_BYTES = 24
CONTENT_BYTES_MAX = 128 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedContent:
    """A row of the vault: the month key's name, and nonce (24) | ciphertext of key and of content."""

    kek: str
    wrapped_key: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)


class Vault:
    """The alerts' content of one office. Used inside transactions; the keystore holds the month keys."""

    def __init__(self, env: Env, secrets: Secrets) -> None:
        self._env = env
        self._secrets = secrets
        # Two that find no key and make one each would leave the first one's alert sealed under nothing.
        self._one_maker = asyncio.Lock()
        self._closing: frozenset[str] = frozenset()  # month keys on their way out

    async def ensure_month(self) -> None:
        """Make this month's key-encryption key if there is none. Called before any ``store_content``."""
        async with self._one_maker:
            name = self._month()
            if name not in self._secrets.names(KEK_PREFIX):
                await self._secrets.put({name: SecretBytes(self._env.random(KEY_BYTES))})

    async def forget_months(self, in_use: Callable[[], Awaitable[Collection[str]]]) -> frozenset[str]:
        """Remove month keys that nothing is sealed under, but for the present one; which.

        ``in_use`` reads the database. With its key goes whatever a copy of a row might still be opened with.
        """
        await self.ensure_month()
        async with self._one_maker:
            # Something may just have been sealed under the month that ended, and not be in the database yet.
            yesterday = self._month(self._env.clock.now_ms() - limits.DAY_MS)
            self._closing = frozenset(self._secrets.names(KEK_PREFIX)) - {self._newest(), yesterday}
            try:
                # Asked for after nothing new can be sealed under them.
                gone = self._closing - frozenset(await in_use())
                await self._secrets.remove(sorted(gone))
            finally:
                self._closing = frozenset()
            return gone

    def store_content(
        self, tx: Transaction, alert_id: bytes, incoming: bool, core: bytes, disclosures: bytes
    ) -> None:
        """Keep an alert's core and disclosures. ``ensure_month`` was called before the transaction."""
        kek = self._newest()
        key = SecretBytes(self._env.random(KEY_BYTES))
        nonce = self._env.random(NONCE_BYTES)
        wrapped = nonce + aead_seal(self._secrets.get(kek), nonce, key.reveal(), labels.VAULT_KEY + alert_id)
        nonce = self._env.random(NONCE_BYTES)
        content = wire.encode([core, disclosures])
        ciphertext = nonce + aead_seal(key, nonce, content, labels.VAULT_CONTENT + alert_id)
        tx.execute(
            "INSERT INTO vault (alert_id, incoming, kek, wrapped_key, ciphertext) VALUES (?, ?, ?, ?, ?)",
            (alert_id, int(incoming), kek, wrapped, ciphertext),
        )

    def open_content(self, sealed: SealedContent, alert_id: bytes) -> tuple[bytes, bytes]:
        """(core, disclosures) of an alert whose access entry is committed."""
        nonce, wrapped = sealed.wrapped_key[:NONCE_BYTES], sealed.wrapped_key[NONCE_BYTES:]
        kek = self._secrets.get(sealed.kek)
        key = SecretBytes(aead_open(kek, nonce, wrapped, labels.VAULT_KEY + alert_id))
        nonce, ciphertext = sealed.ciphertext[:NONCE_BYTES], sealed.ciphertext[NONCE_BYTES:]
        content = aead_open(key, nonce, ciphertext, labels.VAULT_CONTENT + alert_id)
        match wire.decode_untrusted(content, bytes_max=CONTENT_BYTES_MAX):
            case [bytes(core), bytes(disclosures)]:
                return core, disclosures
        raise BrokenInvariant("vault_content", "A stored alert is not core and disclosures.")

    def seal_aside(self, name: bytes, content: bytes) -> tuple[str, bytes]:
        """What the daemon reads by itself, as the keys of a photo on its way: month key's name, sealed bytes.

        ``name`` binds it to its row. Erasing it is deleting the row.
        """
        kek = self._newest()
        nonce = self._env.random(NONCE_BYTES)
        return kek, nonce + aead_seal(self._secrets.get(kek), nonce, content, labels.VAULT_ASIDE + name)

    def open_aside(self, name: bytes, kek: str, sealed: bytes) -> bytes:
        """The inverse of ``seal_aside``."""
        nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        return aead_open(self._secrets.get(kek), nonce, ciphertext, labels.VAULT_ASIDE + name)

    def _month(self, at_ms: int | None = None) -> str:
        """The name of the key of the present month, or of the one of this time."""
        now_ms = self._env.clock.now_ms() if at_ms is None else max(0, at_ms)
        return KEK_PREFIX + datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m")

    def _newest(self) -> str:
        name, names = self._month(), frozenset(self._secrets.names(KEK_PREFIX)) - self._closing
        # A clock that stepped into a month without a key must not stop an alert from being kept.
        return name if name in names else max(names)
