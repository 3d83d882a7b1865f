"""Programs that act for an officer through the local API: their tokens, what each may do, and its end.

Spec: docs/operations.md#local-api. A token is 32 random bytes that a program holds; here are its hash, and
the officer's signing key sealed under it, so that nobody without the token signs anything. One rule: a token
can do less than the officer who made it, never more: it releases nothing a second officer must release, and
ends with its date, its revocation, and the officer's PIN or rights.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, TypeVar

from audit.store import AuditLog
from keys import labels
from keys.errors import MalformedInput, PolicyRefused
from keys.primitives import (
    AEAD_NONCE_BYTES,
    Ed25519PrivateKey,
    aead_open,
    aead_seal,
    hkdf_sha256,
    labelled_hash,
    sha256,
)
from keys.secret import SecretBytes
from node.officers import Officers
from node.views import IntegrationView, MadeIntegration, Session, StagedPhoto, Submitted
from protocol import limits
from protocol.tokens import API_PREFIX, encode_token, parse_token_untrusted
from runtime.env import Env
from runtime.sqlite import Database, Snapshot, Transaction

SCOPES: Final = (
    "status:read",
    "partners:read",
    "alerts:list",
    "alerts:read",
    "alerts:send",
    "alerts:answer",
    "alerts:erase",
    "receipts:read",
)
NAME_BYTES_MAX: Final = 64
DAYS_MAX: Final = 366
INTEGRATIONS_MAX: Final = 16  # at one time; their sessions share the room of the officers'
SENT_REMEMBERED_MS: Final = 30 * limits.DAY_MS
USED_NOTED_MS: Final = limits.MINUTE_MS

_Result = TypeVar("_Result", Submitted, StagedPhoto)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    number: int
    officer: int
    scopes: frozenset[str]
    sealed_seed: bytes | None = field(repr=False)
    expires_ms: int
    used_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Acting:
    """A program at work: the session it acts in, and what it may do."""

    number: int
    session: Session
    scopes: frozenset[str]

    def require(self, scope: str) -> Session:
        """The session; PolicyRefused ``scope_missing``."""
        if scope not in self.scopes:
            raise PolicyRefused("scope_missing", f"This token may not: {scope}. Make one that may.")
        return self.session


class Integrations:
    """The integrations of one office."""

    def __init__(self, env: Env, db: Database, log: AuditLog, officers: Officers) -> None:
        self._env = env
        self._db = db
        self._log = log
        self._officers = officers
        self._acting: dict[bytes, Acting] = {}

    async def make(
        self, session: Session, pin: str, *, name: str, scopes: Sequence[str], days: int
    ) -> MadeIntegration:
        """A token for a program that acts as this officer; shown this once.

        PolicyRefused ``integration_invalid``, ``too_many_integrations``, and as ``Officers.login``.
        """
        if not name.strip() or len(name.encode()) > NAME_BYTES_MAX or not name.isprintable():
            raise PolicyRefused(
                "integration_invalid", f"A name is 1 to {NAME_BYTES_MAX} bytes of printable text."
            )
        wrong = sorted(set(scopes) - set(SCOPES))
        if wrong or not scopes:
            raise PolicyRefused(
                "integration_invalid", f"What a token may do is one or more of: {', '.join(SCOPES)}."
            )
        if not 1 <= days <= DAYS_MAX:
            raise PolicyRefused("integration_invalid", f"A token lives 1 to {DAYS_MAX} days.")
        seed = await self._officers.open_seed(session, pin)
        token = SecretBytes(self._env.random(limits.SECRET_BYTES))
        token_hash = _token_hash(token)
        nonce = self._env.random(AEAD_NONCE_BYTES)
        sealed = nonce + aead_seal(_seal_key(token), nonce, seed.reveal(), token_hash)
        now_ms = self._env.clock.now_ms()
        granted = tuple(scope for scope in SCOPES if scope in scopes)

        def record(tx: Transaction) -> int:
            live = tx.value(
                "SELECT count(*) FROM integration WHERE revoked_ms IS NULL AND expires_ms > ?", (now_ms,)
            )
            if live >= INTEGRATIONS_MAX:
                raise PolicyRefused("too_many_integrations", "Revoke a token that is no longer used first.")
            tx.execute(
                "INSERT INTO integration (name, officer, scopes, token_hash, sealed_seed, made_ms,"
                " expires_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    name,
                    session.officer,
                    " ".join(granted),
                    token_hash,
                    sealed,
                    now_ms,
                    now_ms + days * limits.DAY_MS,
                ),
            )
            number: int = tx.value("SELECT last_insert_rowid()")
            self._note(tx, "integration-made", token_hash, session.officer)
            return number

        number = await self._db.transact(record)
        return MadeIntegration(number=number, token=encode_token(token, API_PREFIX), scopes=granted)

    async def list_all(self) -> tuple[IntegrationView, ...]:
        """Every integration that ever was, by number."""
        now_ms = self._env.clock.now_ms()
        rows = await self._db.read(
            lambda tx: tx.execute(
                "SELECT number, name, officer, scopes, made_ms, expires_ms, revoked_ms, used_ms"
                " FROM integration ORDER BY number"
            )
        )
        return tuple(
            IntegrationView(
                number=number,
                name=name,
                officer=officer,
                scopes=tuple(scopes.split()),
                state="revoked" if revoked is not None else "expired" if expires <= now_ms else "active",
                made_ms=made,
                expires_ms=expires,
                used_ms=used,
            )
            for number, name, officer, scopes, made, expires, revoked, used in rows
        )

    async def revoke(self, number: int) -> None:
        """End a token at once, and forget the key under it. PolicyRefused ``integration_unknown``."""
        now_ms = self._env.clock.now_ms()

        def record(tx: Transaction) -> None:
            rows = tx.execute(
                "SELECT token_hash, officer FROM integration WHERE number = ? AND revoked_ms IS NULL",
                (number,),
            )
            if not rows:
                raise PolicyRefused(
                    "integration_unknown", f"No token {number} is in use. See: salween-node tokens list"
                )
            ((token_hash, officer),) = rows
            tx.execute(
                "UPDATE integration SET revoked_ms = ?, sealed_seed = NULL WHERE number = ?", (now_ms, number)
            )
            self._note(tx, "integration-revoked", token_hash, officer)
            tx.on_commit(lambda: self._end(token_hash))

        await self._db.transact(record)

    async def acting(self, text: str) -> Acting:
        """Who shows this token. PolicyRefused ``token_wrong``, which says no more than that."""
        try:
            token = parse_token_untrusted(text, API_PREFIX)
        except MalformedInput:
            raise _wrong() from None
        token_hash = _token_hash(token)
        row = await self._db.read(lambda tx: _find(tx, token_hash))
        now_ms = self._env.clock.now_ms()
        if row is None or row.sealed_seed is None or row.expires_ms <= now_ms:
            self._end(token_hash)
            raise _wrong()
        known = self._acting.get(token_hash)
        if known is not None and self._officers.is_live(known.session):
            await self._note_used(row, now_ms)
            return known
        nonce, sealed = row.sealed_seed[:AEAD_NONCE_BYTES], row.sealed_seed[AEAD_NONCE_BYTES:]
        seed = SecretBytes(aead_open(_seal_key(token), nonce, sealed, token_hash))
        session = await self._officers.open_for_program(
            row.officer, Ed25519PrivateKey.from_seed(seed), sid=token_hash[:16].hex()
        )
        if session is None:
            raise _wrong()
        self._acting[token_hash] = Acting(number=row.number, session=session, scopes=row.scopes)
        await self._note_used(row, now_ms)
        return self._acting[token_hash]

    async def once(self, acting: Acting, key: str, send: Callable[[], Awaitable[Submitted]]) -> Submitted:
        """The result of the first ``send`` under this key of the program's own, whatever happened since.

        PolicyRefused ``sending_unclear`` when the first began and its end is not known: the program was too
        quick, or power failed in between. A sending that was refused may be tried again.
        """
        return await self._once(acting, key, send, Submitted, is_harmless_twice=False)

    async def upload_once(
        self, acting: Acting, key: str, stage: Callable[[], Awaitable[StagedPhoto]]
    ) -> StagedPhoto:
        """The same of a photo. One that broke off is begun again: at worst a copy waits that nobody sends."""
        # No key has a space, so that none is meant for both.
        return await self._once(acting, f"photo {key}", stage, StagedPhoto, is_harmless_twice=True)

    async def _once(
        self,
        acting: Acting,
        key: str,
        carry_out: Callable[[], Awaitable[_Result]],
        kind: type[_Result],
        *,
        is_harmless_twice: bool,
    ) -> _Result:
        key_hash = sha256(key.encode())
        now_ms = self._env.clock.now_ms()
        where: tuple[int, bytes] = (acting.number, key_hash)

        def begin(tx: Transaction) -> str | None:
            rows = tx.execute(
                "SELECT result FROM integration_sent WHERE integration = ? AND key_hash = ?", where
            )
            if rows:
                if rows[0][0] is None and is_harmless_twice:
                    return None
                if rows[0][0] is None:
                    raise PolicyRefused(
                        "sending_unclear",
                        "This was begun before and may have been sent. Look into the outbox before you send"
                        " it again under another key.",
                    )
                return str(rows[0][0])
            tx.execute("DELETE FROM integration_sent WHERE at_ms < ?", (now_ms - SENT_REMEMBERED_MS,))
            tx.execute(
                "INSERT INTO integration_sent (integration, key_hash, at_ms) VALUES (?, ?, ?)",
                (*where, now_ms),
            )
            return None

        known = await self._db.transact(begin)
        if known is not None:
            return kind(**json.loads(known))
        try:
            result = await carry_out()
        except PolicyRefused:
            await self._db.transact(
                lambda tx: tx.execute(
                    "DELETE FROM integration_sent WHERE integration = ? AND key_hash = ?", where
                )
            )
            raise
        await self._db.transact(
            lambda tx: tx.execute(
                "UPDATE integration_sent SET result = ? WHERE integration = ? AND key_hash = ?",
                (json.dumps(asdict(result)), *where),
            )
        )
        return result

    async def _note_used(self, row: _Row, now_ms: int) -> None:
        if row.used_ms is None or abs(now_ms - row.used_ms) >= USED_NOTED_MS:
            await self._db.transact(
                lambda tx: tx.execute(
                    "UPDATE integration SET used_ms = ? WHERE number = ?", (now_ms, row.number)
                )
            )

    def _note(self, tx: Transaction, what: str, token_hash: bytes, officer: int) -> None:
        digest = sha256(token_hash).hex()
        actor = self._officers.pseudonym(tx, officer)
        self._log.append(tx, "cfg.change", {"what": what, "digest": digest, "actor": actor})

    def _end(self, token_hash: bytes) -> None:
        acting = self._acting.pop(token_hash, None)
        if acting is not None:
            self._officers.end(acting.session)


def _find(tx: Snapshot, token_hash: bytes) -> _Row | None:
    row = tx.one(
        "SELECT number, officer, scopes, sealed_seed, expires_ms, used_ms FROM integration"
        " WHERE token_hash = ? AND revoked_ms IS NULL",
        (token_hash,),
    )
    if row is None:
        return None
    number, officer, scopes, sealed_seed, expires_ms, used_ms = row
    return _Row(
        number=number,
        officer=officer,
        scopes=frozenset(scopes.split()),
        sealed_seed=sealed_seed,
        expires_ms=expires_ms,
        used_ms=used_ms,
    )


def _token_hash(token: SecretBytes) -> bytes:
    return labelled_hash(labels.API_TOKEN, token.reveal())


def _seal_key(token: SecretBytes) -> SecretBytes:
    return hkdf_sha256(token, b"", labels.API_SEAL, 32)


def _wrong() -> PolicyRefused:
    return PolicyRefused("token_wrong", "This token is not known here, or its time is over.")
