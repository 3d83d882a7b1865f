"""Officers of this office: PINs, sessions, and the signed list that peers verify release signatures under.

Spec: docs/operations.md#officers. An officer's Ed25519 seed stands in the keystore sealed under a key derived
from the PIN; logging in opens it and the session holds it, so a locked screen cannot release anything.
One rule: every try of a PIN is counted and committed before its result is told.
"""

import asyncio
import itertools
from dataclasses import dataclass, field

from audit.store import AuditLog
from keys import labels
from keys.card import OfficerEntry, sign_officer_list
from keys.card import Role as ListedRole
from keys.errors import PolicyRefused
from keys.keystore import KdfParameters
from keys.pin import open_under_pin, seal_under_pin
from keys.primitives import CompositePrivateKey, Ed25519PrivateKey, hmac_sha256
from keys.secret import SecretBytes
from node.secrets import Secrets
from node.views import OfficerView, Role, Session
from runtime.env import Env
from runtime.sqlite import Database, Snapshot, Transaction

PIN_DIGITS_MIN = 6
PIN_DIGITS_MAX = 12
PIN_TRIES_FREE = 3
LOCK_FIRST_MS = 30_000  # doubles with each further wrong PIN
LOCK_MS_MAX = 24 * 3600 * 1000
SESSIONS_MAX = 64
ALIAS_BYTES_MAX = 64


@dataclass(slots=True)
class _LiveSession:
    session: Session
    signing_key: Ed25519PrivateKey
    touched_ms: int = field(default=0)


def officer_secret_name(number: int) -> str:
    """Keystore name of an officer's PIN-sealed seed."""
    return f"officer/{number}"


def check_pin(pin: str) -> None:
    """PolicyRefused ``pin_too_weak`` says what a PIN must be."""
    if not (PIN_DIGITS_MIN <= len(pin) <= PIN_DIGITS_MAX and pin.isascii() and pin.isdigit()):
        raise PolicyRefused("pin_too_weak", f"A PIN is {PIN_DIGITS_MIN} to {PIN_DIGITS_MAX} digits.")
    steps = {int(b) - int(a) for a, b in itertools.pairwise(pin)}
    if steps in ({0}, {1}, {-1}):
        raise PolicyRefused("pin_too_weak", "This PIN is all one digit or a plain count. Choose another.")


class Officers:
    """The officers of one office and who of them is logged in."""

    def __init__(
        self,
        env: Env,
        db: Database,
        log: AuditLog,
        secrets: Secrets,
        *,
        idle_lock_ms: int,
        kdf: KdfParameters,
    ) -> None:
        self._env = env
        self._db = db
        self._log = log
        self._secrets = secrets
        self._idle_lock_ms = idle_lock_ms
        self._kdf = kdf
        self._live: dict[str, _LiveSession] = {}
        # One Argon2id at a time: 64 MiB each, and guessing must not be parallel.
        self._one_try = asyncio.Lock()
        # Keystore and database change together or a key is lost: one change of the officers at a time.
        self._one_change = asyncio.Lock()

    # --- who there is ---------------------------------------------------------------------------------------

    async def list_all(self) -> tuple[OfficerView, ...]:
        """Every officer that ever was, by number."""
        now = self._env.clock.now_ms()
        rows = await self._db.read(
            lambda tx: tx.execute(
                "SELECT number, alias, role, since_ms, until_ms, locked_until_ms FROM officer ORDER BY number"
            )
        )
        return tuple(
            OfficerView(
                number=number,
                alias=alias,
                role=role,
                state="retired" if until is not None else "locked" if locked > now else "active",
                since_ms=since,
                until_ms=until,
            )
            for number, alias, role, since, until, locked in rows
        )

    async def add(
        self,
        operational: CompositePrivateKey,
        *,
        alias: str,
        role: Role,
        pin: str,
        office_id: bytes,
        key_version: int,
        list_version_min: int = 1,
    ) -> int:
        """Add an officer and sign a new list version; returns the officer's number."""
        if not alias.strip() or len(alias.encode()) > ALIAS_BYTES_MAX or not alias.isprintable():
            raise PolicyRefused(
                "alias_invalid", f"An alias is 1 to {ALIAS_BYTES_MAX} bytes of printable text."
            )
        check_pin(pin)
        async with self._one_change:
            number: int = 1 + await self._db.read(
                lambda tx: tx.value("SELECT coalesce(max(number), 0) FROM officer")
            )
            seed = SecretBytes(self._env.random(32))
            # Durable in the keystore before the transaction that announces the key.
            await self._keep_sealed(number, pin, seed)
            public = Ed25519PrivateKey.from_seed(seed).public_bytes
            pseudonym_key = self._env.random(32)
            now = self._env.clock.now_ms()

            def record(tx: Transaction) -> None:
                tx.execute(
                    "INSERT INTO officer (number, alias, role, public_key, since_ms, pseudonym_key)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (number, alias, role, public, now, pseudonym_key),
                )
                version = self._sign_list(
                    tx, operational, office_id, key_version, version_min=list_version_min
                )
                self._log.append(
                    tx, "officer.add", {"actor": self.pseudonym(tx, number), "list": version, "role": role}
                )

            await self._db.transact(record)
        return number

    async def retire(
        self, operational: CompositePrivateKey, number: int, *, office_id: bytes, key_version: int
    ) -> None:
        """End an officer's rights: no log-in, no release; the signed list says until when."""
        now = self._env.clock.now_ms()

        def record(tx: Transaction) -> None:
            self._require_active(tx, number)
            others = tx.execute(
                "SELECT count(*) FROM officer WHERE until_ms IS NULL AND number <> ?", (number,)
            )
            if others[0][0] == 0:
                raise PolicyRefused(
                    "last_officer", "The last active officer cannot be retired. Add another first."
                )
            tx.execute("UPDATE officer SET until_ms = ? WHERE number = ?", (now, number))
            version = self._sign_list(tx, operational, office_id, key_version)
            self._log.append(tx, "officer.retire", {"actor": self.pseudonym(tx, number), "list": version})
            tx.on_commit(lambda: self._end_sessions_of(number))

        async with self._one_change:
            await self._db.transact(record)
            await self._secrets.remove((officer_secret_name(number),))

    async def reset_pin(
        self,
        operational: CompositePrivateKey,
        number: int,
        new_pin: str,
        *,
        office_id: bytes,
        key_version: int,
    ) -> None:
        """Give an officer a new PIN and with it a new key: the old PIN is the only way to the old key."""
        check_pin(new_pin)
        seed = SecretBytes(self._env.random(32))
        public = Ed25519PrivateKey.from_seed(seed).public_bytes

        def record(tx: Transaction) -> None:
            tx.execute(
                "UPDATE officer SET public_key = ?, pin_failures = 0, locked_until_ms = 0 WHERE number = ?",
                (public, number),
            )
            version = self._sign_list(tx, operational, office_id, key_version)
            self._log.append(tx, "officer.pin-reset", {"actor": self.pseudonym(tx, number), "list": version})
            tx.on_commit(lambda: self._end_sessions_of(number))

        async with self._one_change:
            await self._db.read(lambda tx: self._require_active(tx, number))
            await self._keep_sealed(number, new_pin, seed)
            await self._db.transact(record)

    def pseudonym(self, tx: Snapshot, number: int) -> str:
        """How an officer appears in the log: HMAC under a key that can be erased; hex."""
        key = tx.execute("SELECT pseudonym_key FROM officer WHERE number = ?", (number,))[0][0]
        return hmac_sha256(SecretBytes(key), labels.LOG_ACTOR + number.to_bytes(4, "big")).hex()

    # --- logging in -----------------------------------------------------------------------------------------

    async def login(self, number: int, pin: str) -> Session:
        """Open a session. PolicyRefused ``pin_wrong`` and ``officer_unknown`` read the same to a person."""
        async with self._one_try:
            alias, role, public, signing_key = await self._try_pin(number, pin)
            session = Session(
                token=self._env.random(32).hex(),
                officer=number,
                alias=alias,
                role=role,
                started_ms=self._env.clock.now_ms(),
                csrf=self._env.random(16).hex(),
            )

            def record(tx: Transaction) -> None:
                tx.execute(
                    "UPDATE officer SET pin_failures = 0, locked_until_ms = 0"
                    " WHERE number = ? AND until_ms IS NULL AND public_key = ?",
                    (number, public),
                )
                if tx.changes() != 1:
                    # Retired, or given another PIN, while this one was being tried.
                    raise PolicyRefused("officer_unknown", "Officer number or PIN is wrong.")
                self._log.append(tx, "ses.login", {"actor": self.pseudonym(tx, number)})
                # With the commit, not after it: retiring the officer ends every session committed before.
                tx.on_commit(lambda: self._begin_session(session, signing_key))

            await self._db.transact(record)
        return session

    async def confirm(self, session: Session, pin: str) -> None:
        """The PIN again, by who is logged in, before something that cannot be undone at a click.

        A try as any other: counted, and locked out after too many. PolicyRefused as ``login``.
        """
        self.session(session.token)
        async with self._one_try:
            _, _, public, _ = await self._try_pin(session.officer, pin)
            await self._db.transact(
                lambda tx: tx.execute(
                    "UPDATE officer SET pin_failures = 0, locked_until_ms = 0"
                    " WHERE number = ? AND until_ms IS NULL AND public_key = ?",
                    (session.officer, public),
                )
            )
        self.session(session.token)

    async def open_seed(self, session: Session, pin: str) -> SecretBytes:
        """The seed of the officer's key, to be sealed under another secret. PolicyRefused as ``confirm``."""
        await self.confirm(session, pin)
        name = officer_secret_name(session.officer)
        sealed = self._secrets.get(name)
        return await self._env.run_blocking(
            lambda: open_under_pin(sealed, SecretBytes(pin.encode()), subject=name)
        )

    async def open_for_program(
        self, number: int, signing_key: Ed25519PrivateKey, *, sid: str
    ) -> Session | None:
        """A session for a program that holds this officer's key; None when the key is no longer his.

        ``sid`` tells it from his own in the log, 16 bytes of hex.
        """

        def record(tx: Transaction) -> Session | None:
            rows = tx.execute(
                "SELECT alias, role FROM officer WHERE number = ? AND until_ms IS NULL AND public_key = ?",
                (number, signing_key.public_bytes),
            )
            if not rows:
                return None
            ((alias, role),) = rows
            session = Session(
                token=self._env.random(32).hex(),
                officer=number,
                alias=alias,
                role=role,
                started_ms=self._env.clock.now_ms(),
                csrf="",
            )
            self._log.append(tx, "ses.login", {"actor": self.pseudonym(tx, number), "sid": sid})
            tx.on_commit(lambda: self._begin_session(session, signing_key))
            return session

        return await self._db.transact(record)

    def is_live(self, session: Session) -> bool:
        """Whether this session goes on; asking counts as use."""
        try:
            self._live_session(session.token)
        except PolicyRefused:
            return False
        return True

    def end(self, session: Session) -> None:
        """End a session without a word in the log: what ended it stands there."""
        self._live.pop(session.token, None)

    async def _try_pin(self, number: int, pin: str) -> tuple[str, Role, bytes, Ed25519PrivateKey]:
        """Count a try, then open the officer's key; the caller holds ``_one_try``."""
        alias, role, public = await self._db.transact(lambda tx: self._begin_try(tx, number))
        name = officer_secret_name(number)
        sealed = self._secrets.get(name)
        try:
            seed = await self._env.run_blocking(
                lambda: open_under_pin(sealed, SecretBytes(pin.encode()), subject=name)
            )
        except PolicyRefused:
            await self._db.transact(lambda tx: self._log_denied(tx, number))
            raise PolicyRefused("pin_wrong", "Officer number or PIN is wrong.") from None
        signing_key = Ed25519PrivateKey.from_seed(seed)
        if signing_key.public_bytes != public:
            # Power failed between the keystore and the transaction of a PIN reset:
            # peers know another key.
            raise PolicyRefused(
                "officer_key_stale", "This PIN opens a key that was never announced. Reset the PIN again."
            )
        return alias, role, public, signing_key

    def session(self, token: str, *, touch: bool = True) -> Session:
        """The live session of a token; PolicyRefused ``session_ended``. ``touch``: counts as use."""
        return self._live_session(token, touch=touch).session

    def signing_key(self, session: Session) -> Ed25519PrivateKey:
        """The officer's key, open while the session lives."""
        return self._live_session(session.token).signing_key

    async def logout(self, session: Session) -> None:
        """End a session; ending it twice is no fault."""
        if self._live.pop(session.token, None) is not None:
            await self._db.transact(
                lambda tx: self._log.append(tx, "ses.logout", {"actor": self.pseudonym(tx, session.officer)})
            )

    def _begin_session(self, session: Session, signing_key: Ed25519PrivateKey) -> None:
        self.forget_idle()
        if len(self._live) >= SESSIONS_MAX:
            oldest = min(self._live, key=lambda token: self._live[token].touched_ms)
            del self._live[oldest]
        now = self._env.clock.monotonic_ms()
        self._live[session.token] = _LiveSession(session=session, signing_key=signing_key, touched_ms=now)

    def forget_idle(self) -> None:
        """Sessions nobody used for too long end with their open keys, whether or not somebody tries them."""
        now = self._env.clock.monotonic_ms()
        for token in [t for t, live in self._live.items() if now - live.touched_ms > self._idle_lock_ms]:
            del self._live[token]

    async def _keep_sealed(self, number: int, pin: str, seed: SecretBytes) -> None:
        name = officer_secret_name(number)
        sealed = await self._env.run_blocking(
            lambda: seal_under_pin(
                seed, SecretBytes(pin.encode()), subject=name, random=self._env.random, kdf=self._kdf
            )
        )
        await self._secrets.put({name: sealed})

    def _live_session(self, token: str, *, touch: bool = True) -> _LiveSession:
        live = self._live.get(token)
        now = self._env.clock.monotonic_ms()
        if live is None or now - live.touched_ms > self._idle_lock_ms:
            self._live.pop(token, None)
            raise PolicyRefused("session_ended", "You were logged out. Log in again; nothing was lost.")
        if touch:
            live.touched_ms = now
        return live

    def _end_sessions_of(self, number: int) -> None:
        for token in [t for t, live in self._live.items() if live.session.officer == number]:
            del self._live[token]

    def _begin_try(self, tx: Transaction, number: int) -> tuple[str, Role, bytes]:
        """Count the try as failed before it is judged: pulling the plug must not give free guesses."""
        rows = tx.execute(
            "SELECT alias, role, public_key, pin_failures, locked_until_ms FROM officer"
            " WHERE number = ? AND until_ms IS NULL",
            (number,),
        )
        if not rows:
            raise PolicyRefused("officer_unknown", "Officer number or PIN is wrong.")
        alias, role, public, failures, locked_until = rows[0]
        now = self._env.clock.now_ms()
        # A clock that was set back must not lengthen a lock beyond its own longest.
        if now < locked_until <= now + LOCK_MS_MAX:
            wait_s = -(-(locked_until - now) // 1000)
            raise PolicyRefused(
                "officer_locked",
                f"Too many wrong PINs. Wait {wait_s} s, or ask for: salween-node officers reset-pin",
            )
        failures += 1
        lock_ms = (
            0 if failures < PIN_TRIES_FREE else min(LOCK_FIRST_MS << (failures - PIN_TRIES_FREE), LOCK_MS_MAX)
        )
        tx.execute(
            "UPDATE officer SET pin_failures = ?, locked_until_ms = ? WHERE number = ?",
            (failures, now + lock_ms if lock_ms else 0, number),
        )
        return alias, role, public

    def _log_denied(self, tx: Transaction, number: int) -> None:
        failures = tx.value("SELECT pin_failures FROM officer WHERE number = ?", (number,))
        self._log.append(
            tx, "ses.fail", {"actor": self.pseudonym(tx, number), "code": "pin_wrong", "n": failures}
        )

    def _require_active(self, tx: Snapshot, number: int) -> None:
        if not tx.execute("SELECT 1 FROM officer WHERE number = ? AND until_ms IS NULL", (number,)):
            raise PolicyRefused(
                "officer_unknown", f"There is no active officer {number}. See: salween-node officers list"
            )

    def _sign_list(
        self,
        tx: Transaction,
        operational: CompositePrivateKey,
        office_id: bytes,
        key_version: int,
        *,
        version_min: int = 1,
    ) -> int:
        """Sign and keep the next version of the officer list, from the rows of this transaction."""
        newest: int = tx.value("SELECT coalesce(max(version), 0) FROM officer_list")
        version = max(version_min, newest + 1)
        # Auditors and operators read; only these two roles sign anything a peer checks.
        rows = tx.execute(
            "SELECT number, public_key, role, alias, since_ms, until_ms FROM officer"
            " WHERE role IN ('officer', 'supervisor') ORDER BY number"
        )
        data = sign_officer_list(
            operational,
            office=office_id,
            key_version=key_version,
            list_version=version,
            issued_ms=self._env.clock.now_ms(),
            officers=tuple(
                OfficerEntry(
                    number=number,
                    public=public,
                    role=ListedRole[role.upper()],
                    alias=alias,
                    from_ms=since,
                    until_ms=until or 0,
                )
                for number, public, role, alias, since, until in rows
            ),
        )
        tx.execute("INSERT INTO officer_list (version, bytes) VALUES (?, ?)", (version, data))
        return version
