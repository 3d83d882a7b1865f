"""Published logs of two offices and their broker that agree with each other, grown by the store itself.

Each alert is submitted, sealed, held by the broker, delivered, and read once, with a signed message of
receipts back for each of the last two: eight entries at its sender, six at its receiver, nine at the broker.
After each publication the offices note that they cosigned each other's head and the broker's.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from audit.note import NoteSigner, VerifierKey
from audit.store import AuditLog
from keys.primitives import Ed25519PrivateKey
from keys.secret import SecretBytes
from runtime.env import Env
from runtime.sqlite import Database, Migration, Transaction, load_migrations, open_database

SENDER: Final = "bench/5f0c2a9e00000000"
RECEIVER: Final = "bench/76d13d6a00000000"
BROKER: Final = "bench/broker/b-hmqb3v4o"
ENTRIES_PER_ALERT: Final = 8 + 6 + 9
_ALERTS_PER_PUBLICATION: Final = 512
_ERASE_AFTER_MS: Final = 30 * 86_400_000

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class OpenLog:
    """A log in an encrypted database, as the daemons open it."""

    db: Database
    log: AuditLog
    signer: NoteSigner
    directory: Path


@asynccontextmanager
async def open_log(env: Env, home: Path, office: str, *more: Migration) -> AsyncIterator[OpenLog]:
    """The log of ``office`` in a new directory ``home``; ``more`` makes tables beside its own."""
    env.files.mkdir(home)
    key = Ed25519PrivateKey.from_seed(SecretBytes(env.random(32)))
    signer = NoteSigner(name=f"{office}/log1", key=key)
    migrations = [*load_migrations("audit"), *more]
    db = await open_database(env, home / "bench.db", SecretBytes(env.random(32)), migrations)
    try:
        log = await AuditLog.open(
            env=env, db=db, directory=home / "log", high_water=home / "high-water", signer=signer
        )
        yield OpenLog(db=db, log=log, signer=signer, directory=home / "log")
    finally:
        await db.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """A published log that nobody writes to any more."""

    directory: Path
    log_key: VerifierKey
    size: int


async def grow(env: Env, place: Path, alerts: int) -> list[Grown]:
    """The logs of the sender and the receiver of ``alerts``, and of their broker."""
    async with AsyncExitStack() as stack:
        sender, receiver, broker = [
            await stack.enter_async_context(open_log(env, place / name, office))
            for name, office in (("sender", SENDER), ("receiver", RECEIVER), ("broker", BROKER))
        ]
        offices = ((sender, (receiver, broker)), (receiver, (sender, broker)))
        for one, (other, _) in offices:
            await one.db.transact(partial(_write, _pair, one.log, [other]))
        for begin in range(0, alerts, _ALERTS_PER_PUBLICATION):
            end = min(alerts, begin + _ALERTS_PER_PUBLICATION)
            sent = [_Alert(env, number) for number in range(begin, end)]
            # The broker first: a custody note names the place in its log.
            for opened, add in ((broker, _at_broker), (sender, _at_sender), (receiver, _at_receiver)):
                await opened.db.transact(partial(_write, add, opened.log, sent))
                await opened.log.publish()
            for one, others in offices:
                await one.db.transact(partial(_write, _cosign, one.log, others))
        for opened in (sender, receiver, broker):
            await opened.log.publish()
        return [
            Grown(directory=opened.directory, log_key=opened.signer.log_key, size=opened.log.size)
            for opened in (sender, receiver, broker)
        ]


def _write(
    add: Callable[[AuditLog, Transaction, T], None], log: AuditLog, items: Sequence[T], tx: Transaction
) -> None:
    for item in items:
        add(log, tx, item)


def _peer(office: str) -> str:
    return office.rpartition("/")[2]


class _Alert:
    """One alert and the two messages of receipts that answer it."""

    def __init__(self, env: Env, number: int) -> None:
        self.alert, self.actor = env.random(32).hex(), "cd" * 32
        self.com = [env.random(32).hex(), env.random(32).hex()]
        self.now_ms = env.clock.now_ms()
        self.out = _Message(env, SENDER, RECEIVER, number + 1)
        self.back = [_Message(env, RECEIVER, SENDER, 2 * number + turn) for turn in (1, 2)]


class _Message:
    """One message in one envelope."""

    def __init__(self, env: Env, office: str, peer: str, pair_seq: int) -> None:
        self.msg, self.env, self.hh = env.random(16).hex(), env.random(32).hex(), env.random(32).hex()
        self.office, self.peer, self.pair_seq = _peer(office), _peer(peer), pair_seq
        self.index = 0  # of its bk.in

    def seal(self, log: AuditLog, tx: Transaction, now_ms: int) -> None:
        """Its sealing and the broker's custody, in its sender's log."""
        log.append(tx, "msg.seal", {**self._header(), "att": 1, "bytes": 8192, "peer": self.peer})
        note: dict[str, str | int] = {
            "origin": f"{BROKER}/log1",
            "idx": self.index,
            "at": now_ms,
            "note": self.hh,
        }
        log.append(tx, "msg.custody", {**note, "msg": self.msg, "env": self.env})

    def receive(self, log: AuditLog, tx: Transaction, **more: str | int | list[str]) -> None:
        log.append(tx, "msg.recv", {**self._header(), "verdict": "ok", "peer": self.office, **more})

    def _header(self) -> dict[str, str | int]:
        header: dict[str, str | int] = {"msg": self.msg, "hh": self.hh, "env": self.env, "via": "broker"}
        return {**header, "inst": self.office, "ps": self.pair_seq}


def _pair(log: AuditLog, tx: Transaction, other: OpenLog) -> None:
    name, key = other.log.origin, "ab" * 32
    peer = _peer(name.rpartition("/")[0])
    log.append(tx, "pair.ok", {"peer": peer, "origin": name, "key": key, "transcript": key})


def _at_broker(log: AuditLog, tx: Transaction, alert: _Alert) -> None:
    for message in (alert.out, *alert.back):
        envelope = {"env": message.env, "box": message.peer}
        message.index = log.append(tx, "bk.in", {**envelope, "bucket": 8192})
        log.append(tx, "bk.out", {**envelope, "bucket": 8192, "in": message.index})
        log.append(tx, "bk.ack", {**envelope, "in": message.index, "by": "mailbox-key"})


def _at_sender(log: AuditLog, tx: Transaction, alert: _Alert) -> None:
    message = alert.out
    log.append(tx, "rel.author", {"alert": alert.alert, "actor": alert.actor})
    log.append(
        tx,
        "msg.submit",
        {
            "msg": message.msg,
            "peer": message.peer,
            "com": alert.com,
            "exp": alert.now_ms + _ERASE_AFTER_MS // 2,
            "alert": alert.alert,
            "kind": "alert",
            "urgency": "expected",
            "erase": alert.now_ms + _ERASE_AFTER_MS,
        },
    )
    message.seal(log, tx, alert.now_ms)
    for back, step in zip(alert.back, ("delivered", "opened"), strict=True):
        back.receive(log, tx)
        receipt = {"msg": message.msg, "step": step, "peer": message.peer}
        log.append(tx, "msg.receipt", {**receipt, "at": alert.now_ms})


def _at_receiver(log: AuditLog, tx: Transaction, alert: _Alert) -> None:
    delivered, opened = alert.back
    alert.out.receive(log, tx, com=alert.com, alert=alert.alert)
    delivered.seal(log, tx, alert.now_ms)
    log.append(tx, "acc.read", {"alert": alert.alert, "actor": alert.actor, "purpose": "duty", "k": 1})
    opened.seal(log, tx, alert.now_ms)


def _cosign(log: AuditLog, tx: Transaction, other: OpenLog) -> None:
    head = other.log.published
    log.append(tx, "wit.cosigned", {"origin": head.origin, "size": head.size, "root": head.root.hex()})
