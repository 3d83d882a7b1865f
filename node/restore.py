"""The ceremonies of the recovery sheet: restore a backup, begin again in place, renew the signing key,
recover.

Spec: docs/spec/keys.md#backup, docs/operations.md#restore. All run without a daemon, holding the directory.
One rule: new secrets are durable before the transaction that announces them, and that one transaction holds
the new key version, the new instances, the new log epoch and the RESET to every peer: it happened, or it
did not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from audit.note import NoteSigner
from audit.store import AuditLog, ended_epoch
from audit.witness import witness_name
from keys import card
from keys.errors import BrokenInvariant, PolicyRefused
from keys.keystore import Keystore
from keys.primitives import CompositePrivateKey, Ed25519PrivateKey, XWingPrivateKey, sha256
from keys.recovery_sheet import RecoverySheet
from keys.secret import SecretBytes
from keys.trust import PairState
from node import witness
from node.backup import Contents, check_contents, extract
from node.config import CONFIG_NAME
from node.evidence import thaw
from node.identity import Identity, load_identity
from node.layout import (
    DATABASE_NAME,
    HIGH_WATER_NAME,
    KEYSTORE_NAME,
    LOG_NAME,
    POLICY_NAME,
    KdfProfile,
    SecretName,
    open_node_database,
)
from node.mailboxes import newest_address
from node.one_time import drop_all
from node.outbox import Outbox, ToSend
from node.peers import Peer, load_peers, save_peer
from node.receive_keys import ReceiveKeyRing
from node.reset_keys import note_carried
from node.secrets import Secrets
from node.setup import CERTIFICATE_LIFE_MS
from protocol import limits
from protocol.conversation import seen_ranges, with_my_instance
from protocol.items import Item, LogItem, OfficerListItem, ResetKeyItem, SeenItem
from protocol.message import MessageType, certificate_core
from protocol.receivekeys import announce, first_receive_keys, with_my_new_instance
from runtime.env import Env
from runtime.service import LOCK_NAME, hold_directory
from runtime.sqlite import Database, Snapshot, Transaction

NAME = "salween-node"
RESET_LIFE_MS = 366 * limits.DAY_MS  # an office may be shut for long, and nothing else can tell it
GRACE_MS = 24 * limits.HOUR_MS  # the peers' clocks may be behind ours
COUNT_FROM_MS = 1_577_836_800_000  # 2020-01-01: versions after a loss count minutes from here
CLOCK_SANE_MS = 1_767_225_600_000  # 2026-01-01
EPOCH_MAX = 999_999
NEXT = "next/"  # secrets of an epoch whose transaction is not known to be committed yet
ENDED_PREFIX = "ended-"
RESTORING = "restoring"  # stands in a new directory until its node.toml does


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Everything drawn for a new beginning, made durable before it is announced."""

    certificate: bytes
    key_version: int
    operational: CompositePrivateKey = field(repr=False)
    origin: str
    log_key: Ed25519PrivateKey = field(repr=False)
    witness_public: bytes
    receive: Mapping[bytes, tuple[bytes, bytes]]  # peer -> key id, public
    instances: Mapping[bytes, bytes]  # peer -> our new instance
    secrets: Mapping[str, SecretBytes] = field(repr=False)  # under their names of an epoch to come


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What a ceremony did, for the person who ran it."""

    name: str
    key_version: int
    origin: str
    ended_origin: str
    ended_size: int
    peers: tuple[str, ...]
    made_ms: int | None = None  # of the backup

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "key_version": self.key_version,
            "origin": self.origin,
            "ended_origin": self.ended_origin,
            "ended_size": self.ended_size,
            "peers": list(self.peers),
            "backup_ms": self.made_ms,
        }


def version_after_loss(known: int, now_ms: int, above: int | None) -> int:
    """A key version above every one this office ever had, although a lost disk may have known higher ones.

    Minutes since 2020, or one more than what is known: a second restore of the same backup gives another one.
    """
    if above is not None:
        return max(known, above) + 1
    if now_ms < CLOCK_SANE_MS:
        raise PolicyRefused(
            "clock_unset",
            "The clock of this machine stands before 2026, and the new key version is taken from it. Set"
            " the clock, or"
            " give --key-version-above with the version that a peer shows for this office.",
        )
    return max(known + 1, (now_ms - COUNT_FROM_MS) // limits.MINUTE_MS)


# --- restore ------------------------------------------------------------------------------------------------


async def restore(
    env: Env,
    path: str,
    directory: str,
    sheet: RecoverySheet,
    *,
    backup_passphrase: SecretBytes,
    passphrase: SecretBytes,
    above: int | None = None,
    kdf: KdfProfile | None = None,
) -> Begun:
    """Make a node in a new directory out of a backup and the sheet; never over a node that exists."""
    kdf = kdf or KdfProfile()
    base = Path(directory)
    found = set(env.files.listdir(directory)) if env.files.exists(directory) else None
    # A lock file that nobody holds is no content: it is all that a kill in the first instant leaves.
    if found is not None and found - {LOCK_NAME}:
        if env.files.exists(str(base / RESTORING)) and not env.files.exists(str(base / CONFIG_NAME)):
            hold_directory(env, NAME, directory).release()  # or it is going on right now
            raise PolicyRefused(
                "restore_unfinished",
                f"A restore into {directory} did not come to its end, and what lies there is no node. Remove"
                f" the directory (rm -r {directory}) and restore again; the backup was not touched.",
            )
        raise PolicyRefused(
            "directory_not_empty",
            f"{directory} is not empty. A backup is restored into a new directory, never over a node. To"
            " begin again"
            " with the data that is there: salween-node restore --in-place",
        )
    env.files.mkdir(directory, 0o700)
    lock = hold_directory(env, NAME, directory)
    try:
        env.files.write_atomic(str(base / RESTORING), b"")
        database = str(base / DATABASE_NAME)
        contents = await env.run_blocking(lambda: extract(env, path, backup_passphrase, database))
        manifest = contents.manifest
        if manifest.office_id != sheet.office_id:
            raise PolicyRefused(
                "sheet_other_office",
                f"This recovery sheet is not of {manifest.name}, whose backup this is. Take the sheet of"
                " that office.",
            )
        await check_contents(env, contents, database)
        await _keep_ended_log(env, base, contents)
        db = await open_node_database(env, database, contents.secrets[SecretName.DATABASE])
        try:
            again = await _draw(env, db, sheet, contents.secrets, above)
            kept = {
                name: secret
                for name, secret in contents.secrets.items()
                if not name.startswith("operational/") and name != SecretName.ORIGIN
            }
            kept |= {name.removeprefix(NEXT): secret for name, secret in again.secrets.items()}
            keystore = await env.run_blocking(
                lambda: Keystore.create(
                    env.files,
                    str(base / KEYSTORE_NAME),
                    passphrase,
                    kept,
                    kdf=kdf.keystore,
                    random=env.random,
                )
            )
            begun, log = await _begin(
                env, db, Secrets(env, keystore), base, again, how="restored", backup_ms=manifest.made_ms
            )
            await log.publish()
        finally:
            await db.close()
        env.files.write_atomic(str(base / CONFIG_NAME), contents.settings, mode=0o600)
        env.files.remove(str(base / RESTORING))
    except BaseException:
        # Nothing was sent: what was half made is no node, and must not be taken for one.
        await env.run_blocking(_remove_unfinished, env, directory, found)
        raise
    finally:
        lock.release()
    return replace(begun, made_ms=manifest.made_ms)


async def begin_in_place(
    env: Env, directory: str, sheet: RecoverySheet, passphrase: SecretBytes, *, above: int | None = None
) -> Begun:
    """Begin again on the directory as it stands: it was cloned, or went back in time."""
    base = Path(directory)
    lock = hold_directory(env, NAME, directory)
    try:
        keystore = await env.run_blocking(
            lambda: Keystore.open(env.files, str(base / KEYSTORE_NAME), passphrase, random=env.random)
        )
        secrets = Secrets(env, keystore)
        db = await open_node_database(env, str(base / DATABASE_NAME), keystore.get(SecretName.DATABASE))
        try:
            await finish_epoch(env, db, secrets, base)
            await _check_office(db, sheet)
            held = {name: keystore.get(name) for name in keystore.names()}
            again = await _draw(env, db, sheet, held, above)
            await secrets.put(again.secrets)
            begun, log = await _begin(
                env, db, secrets, base, again, how="in-place", backup_ms=env.clock.now_ms()
            )
            await finish_epoch(env, db, secrets, base)
            await log.publish()
        finally:
            await db.close()
    finally:
        lock.release()
    return begun


async def renew(env: Env, directory: str, sheet: RecoverySheet, passphrase: SecretBytes) -> dict[str, Any]:
    """Certify a new operational key; numbers, instance and log go on. The old version stays valid."""
    base = Path(directory)
    lock = hold_directory(env, NAME, directory)
    try:
        keystore = await env.run_blocking(
            lambda: Keystore.open(env.files, str(base / KEYSTORE_NAME), passphrase, random=env.random)
        )
        secrets = Secrets(env, keystore)
        db = await open_node_database(env, str(base / DATABASE_NAME), keystore.get(SecretName.DATABASE))
        try:
            await finish_epoch(env, db, secrets, base)
            await _check_office(db, sheet)
            identity = await db.read(lambda tx: load_identity(tx, secrets))
            signer = NoteSigner(
                name=secrets.get(SecretName.ORIGIN).reveal().decode(),
                key=Ed25519PrivateKey.from_seed(secrets.get(SecretName.LOG)),
            )
            log = await AuditLog.open(
                env=env, db=db, directory=base / LOG_NAME, high_water=base / HIGH_WATER_NAME, signer=signer
            )
            if log.refusal is not None:
                raise log.refusal
            version = identity.key_version + 1
            seed = SecretBytes(env.random(64))
            certificate = _certify(env, sheet, seed, version, identity.name, identity.country)
            await secrets.put({SecretName.operational(version): seed})
            renewed = _identity(identity, certificate, CompositePrivateKey.from_seed(seed))
            outbox = await _outbox(env, db, log, renewed, secrets)

            def record(tx: Transaction) -> tuple[str, ...]:
                _keep_identity(tx, certificate, version)
                listed = _sign_list_again(env, tx, renewed, version=None)
                log.append(
                    tx,
                    "key.rotate",
                    {
                        "what": "operational",
                        "new": _digest(renewed),
                        "old": _digest(identity),
                        "ver": version,
                    },
                )
                told = []
                for peer in load_peers(tx):
                    if peer.trusted.state is PairState.HALF:
                        continue
                    items: list[Item] = [] if listed is None else [OfficerListItem(officer_list=listed)]
                    _tell(env, tx, outbox, peer, MessageType.CARD, renewed, items)
                    save_peer(tx, peer)
                    told.append(peer.name)
                return tuple(told)

            told = await db.transact(record)
            await secrets.remove((SecretName.operational(identity.key_version),))
            await log.close()
        finally:
            await db.close()
    finally:
        lock.release()
    return {"name": identity.name, "key_version": version, "peers": list(told)}


async def finish_epoch(env: Env, db: Database, secrets: Secrets, base: Path) -> None:
    """At open: an epoch that was committed becomes the present one; one that was not is forgotten.

    May be broken off anywhere and done again: the new name of the log is what tells that its old files are
    aside.
    """
    waiting = secrets.names(NEXT)
    if not waiting:
        return
    origin = await db.read(lambda tx: tx.one("SELECT origin FROM log_state"))
    version: int = await db.read(lambda tx: tx.value("SELECT key_version FROM office"))
    old, new = (secrets.get(name).reveal().decode() for name in (SecretName.ORIGIN, NEXT + SecretName.ORIGIN))
    if origin is not None and origin[0] == new:
        if old != new:
            await env.run_blocking(_set_log_aside, env, base, old)
        await secrets.put({name.removeprefix(NEXT): secrets.get(name) for name in waiting})
        await secrets.remove(
            name for name in secrets.names("operational/") if name != SecretName.operational(version)
        )
    await secrets.remove(waiting)


# --- one beginning ------------------------------------------------------------------------------------------


async def _draw(
    env: Env, db: Database, sheet: RecoverySheet, held: Mapping[str, SecretBytes], above: int | None
) -> Again:
    """Draw keys, instances and names for a new beginning of the office in ``db``."""
    name, country, known, root_public = await db.read(
        lambda tx: tx.execute("SELECT name, country, key_version, root_public FROM office")[0]
    )
    if CompositePrivateKey.from_seed(sheet.root_seed).public_bytes != root_public:
        raise PolicyRefused("sheet_other_office", "This recovery sheet is not of this office.")
    now_ms = env.clock.now_ms()
    version = version_after_loss(known, now_ms, above)
    seed, log_seed, witness_seed = (SecretBytes(env.random(n)) for n in (64, 32, 32))
    origin = _next_origin(held[SecretName.ORIGIN].reveal().decode(), now_ms)
    secrets: dict[str, SecretBytes] = {
        NEXT + SecretName.operational(version): seed,
        NEXT + SecretName.LOG: log_seed,
        NEXT + SecretName.WITNESS: witness_seed,
        NEXT + SecretName.WITNESS_MLDSA44: SecretBytes(env.random(32)),
        NEXT + SecretName.ORIGIN: SecretBytes(origin.encode()),
    }
    receive: dict[bytes, tuple[bytes, bytes]] = {}
    instances: dict[bytes, bytes] = {}
    for peer in await db.read(load_peers):
        key_id, receive_seed = env.random(limits.KEY_ID_BYTES), SecretBytes(env.random(32))
        secrets[NEXT + SecretName.receive(peer.office_id, key_id)] = receive_seed
        receive[peer.office_id] = (key_id, XWingPrivateKey.from_seed(receive_seed).public_bytes)
        instances[peer.office_id] = env.random(limits.INSTANCE_BYTES)
    return Again(
        certificate=_certify(env, sheet, seed, version, name, country),
        key_version=version,
        operational=CompositePrivateKey.from_seed(seed),
        origin=origin,
        log_key=Ed25519PrivateKey.from_seed(log_seed),
        witness_public=Ed25519PrivateKey.from_seed(witness_seed).public_bytes,
        receive=receive,
        instances=instances,
        secrets=secrets,
    )


async def _begin(
    env: Env, db: Database, secrets: Secrets, base: Path, again: Again, *, how: str, backup_ms: int
) -> tuple[Begun, AuditLog]:
    """The one transaction; the caller publishes the new epoch when the place of its files is free."""
    signer = NoteSigner(name=again.origin, key=again.log_key)
    log = AuditLog.for_new_epoch(
        env=env, db=db, directory=base / LOG_NAME, high_water=base / HIGH_WATER_NAME, signer=signer
    )
    identity = await db.read(lambda tx: _office(tx, again))
    outbox = await _outbox(env, db, log, identity, secrets, load=False)
    now_ms = env.clock.now_ms()

    def record(tx: Transaction) -> Begun:
        ended = ended_epoch(tx)
        tx.execute("INSERT INTO ended_leaf SELECT ?, idx, entry FROM leaf", (ended.origin,))
        tx.execute(
            "INSERT INTO ended_log (origin, size, root, ended_ms) VALUES (?, ?, ?, ?)",
            (ended.origin, ended.size, ended.root, now_ms),
        )
        log.begin_epoch(tx, how)
        # The chain of accesses to an alert is counted within one log.
        tx.execute("DELETE FROM access")
        # What was said of an earlier beginning says nothing of this one.
        tx.execute("DELETE FROM reset_refused WHERE ours = 1")
        # Receive keys are in no backup: a ceremony that was not finished can only be held again.
        tx.execute("DELETE FROM half_pair")
        tx.execute("DELETE FROM pair_ok_due")
        witness.begin_epoch(tx)
        # What was accepted of brokers' logs stands; it is entered anew when they have more.
        tx.execute("UPDATE broker_head SET at_size = 0")
        _keep_identity(tx, again.certificate, again.key_version)
        listed = _sign_list_again(env, tx, identity, version=again.key_version)
        told = []
        for peer in load_peers(tx):
            seen = SeenItem(
                ranges=seen_ranges(peer.pair),
                ended=peer.pair.outbound.instance,
                next_seq=peer.pair.outbound.next_seq,
                at_ms=backup_ms,
            )
            key_id, public = again.receive[peer.office_id]
            peer.receive_keys = first_receive_keys(
                key_id=key_id, public=public, peer_instance=peer.pair.inbound.instance, now_ms=now_ms
            )
            peer.pair = with_my_instance(peer.pair, again.instances[peer.office_id])
            peer.peer_key = with_my_new_instance(peer.peer_key)
            # What was frozen, offered and half done belongs to the instance that ended; its seeds are gone.
            thaw(tx, log, peer, why="reset")
            drop_all(tx, peer.office_id)
            if peer.trusted.state is not PairState.HALF:
                _reset(env, tx, outbox, secrets, peer, identity, again, seen, listed)
                told.append(peer.name)
            save_peer(tx, peer)
        return Begun(
            name=identity.name,
            key_version=again.key_version,
            origin=again.origin,
            ended_origin=ended.origin,
            ended_size=ended.size,
            peers=tuple(told),
        )

    return await db.transact(record), log


def _reset(
    env: Env,
    tx: Transaction,
    outbox: Outbox,
    secrets: Secrets,
    peer: Peer,
    identity: Identity,
    again: Again,
    seen: SeenItem,
    listed: bytes | None,
) -> None:
    """The first message of a new instance: who we are now, what we last saw, where to answer."""
    items: list[Item] = [
        seen,
        announce(peer.receive_keys.cur, again.key_version),
        LogItem(
            origin=again.origin,
            log_public=again.log_key.public_bytes,
            witness_name=witness_name(again.origin),
            witness_public=again.witness_public,
        ),
    ]
    where = newest_address(tx, secrets, peer)
    if where is not None:
        items.append(where)
    if listed is not None:
        items.append(OfficerListItem(officer_list=listed))
        peer.officer_list_sent = again.key_version
    own = tx.one("SELECT key_id, public FROM reset_key WHERE peer = ? AND own = 1", (peer.office_id,))
    if own is not None:
        items.append(ResetKeyItem(key_id=own[0], public=own[1]))
    tx.execute(
        "INSERT INTO own_reset (peer, instance, ended, next_seq, backup_ms, began_ms)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (
            peer.office_id,
            peer.pair.outbound.instance,
            seen.ended,
            seen.next_seq,
            seen.at_ms,
            env.clock.now_ms(),
        ),
    )
    hh = _tell(env, tx, outbox, peer, MessageType.RESET, identity, items)
    note_carried(tx, peer, hh)


def _tell(
    env: Env,
    tx: Transaction,
    outbox: Outbox,
    peer: Peer,
    kind: MessageType,
    identity: Identity,
    items: list[Item],
) -> bytes:
    hh, _ = outbox.compose(
        tx,
        peer,
        ToSend(
            type=kind,
            core=certificate_core(identity.certificate, items),
            expires_ms=env.clock.now_ms() + RESET_LIFE_MS,
            urgent=True,
        ),
    )
    return hh


def _sign_list_again(env: Env, tx: Transaction, identity: Identity, *, version: int | None) -> bytes | None:
    """The newest officer list under the new key: as the version it has, or as one never given out."""
    row = tx.one("SELECT version, bytes FROM officer_list ORDER BY version DESC LIMIT 1")
    if row is None:
        return None
    listed = card.parse_officer_list_untrusted(row[1])
    data = card.sign_officer_list(
        identity.operational,
        office=identity.office_id,
        key_version=identity.key_version,
        list_version=row[0] if version is None else max(version, row[0] + 1),
        issued_ms=env.clock.now_ms(),
        officers=listed.officers,
    )
    tx.execute(
        "INSERT OR REPLACE INTO officer_list (version, bytes) VALUES (?, ?)",
        (row[0] if version is None else max(version, row[0] + 1), data),
    )
    return data


def _keep_identity(tx: Transaction, certificate: bytes, version: int) -> None:
    tx.execute("UPDATE office SET certificate = ?, key_version = ?", (certificate, version))


def _certify(
    env: Env, sheet: RecoverySheet, seed: SecretBytes, version: int, name: str, country: str
) -> bytes:
    now_ms = env.clock.now_ms()
    return card.issue_certificate(
        CompositePrivateKey.from_seed(sheet.root_seed),
        key_version=version,
        public=CompositePrivateKey.from_seed(seed).public_bytes,
        not_before_ms=max(0, now_ms - GRACE_MS),
        not_after_ms=now_ms + CERTIFICATE_LIFE_MS,
        country=country,
        name=name,
    )


def _identity(known: Identity, certificate: bytes, operational: CompositePrivateKey) -> Identity:
    parsed = card.parse_certificate_untrusted(certificate)
    return replace(known, certificate=parsed, key_version=parsed.key_version, operational=operational)


def _office(tx: Snapshot, again: Again) -> Identity:
    row = tx.one("SELECT office_id, name, country, root_public FROM office")
    if row is None:
        raise BrokenInvariant("office_missing", "The database names no office.")
    return Identity(
        office_id=row[0],
        name=row[1],
        country=row[2],
        root_public=row[3],
        certificate=card.parse_certificate_untrusted(again.certificate),
        key_version=again.key_version,
        operational=again.operational,
    )


async def _outbox(
    env: Env, db: Database, log: AuditLog, identity: Identity, secrets: Secrets, *, load: bool = True
) -> Outbox:
    """An outbox nobody listens to: what it keeps leaves when the daemon starts."""
    ring = ReceiveKeyRing(env, db, secrets)
    if load:
        await ring.load()
    return Outbox(
        env,
        db,
        log,
        identity,
        ring,
        receipt_spread_ms=0,
        wake=lambda address: None,
        changed=lambda: None,
    )


async def _check_office(db: Database, sheet: RecoverySheet) -> None:
    office: bytes = await db.read(lambda tx: tx.value("SELECT office_id FROM office"))
    if office != sheet.office_id:
        raise PolicyRefused(
            "sheet_other_office", "This recovery sheet is not of this office. Take the sheet of this office."
        )


def _next_origin(origin: str, now_ms: int) -> str:
    """The name of the next epoch: counted in hours since 2020, so that two restores of one backup differ."""
    front, epoch = origin.rsplit("/log", 1)
    hours = max(0, now_ms - COUNT_FROM_MS) // limits.HOUR_MS
    return f"{front}/log{min(EPOCH_MAX, max(int(epoch) + 1, hours))}"


def _digest(identity: Identity) -> str:
    return sha256(identity.operational.public_bytes).hex()


def _ended(base: Path, origin: str) -> Path:
    """Where what was published of an ended epoch is kept."""
    return base / f"{LOG_NAME}-{ENDED_PREFIX}{origin.rsplit('/log', 1)[1]}"


def _set_log_aside(env: Env, base: Path, origin: str) -> None:
    """The published log of the ended epoch stays beside the new one, with its policy: it is evidence.

    A database that went back ends an epoch that ended before: what is aside already is not written over.
    """
    log, policy, aside = base / LOG_NAME, base / POLICY_NAME, _ended(base, origin)
    if not env.files.exists(str(log)):
        return
    if env.files.exists(str(policy)):
        env.files.rename(str(policy), str(log / POLICY_NAME))
    count = 1
    while env.files.exists(str(aside)):
        count += 1
        aside = _ended(base, f"{origin}-{count}")
    env.files.rename(str(log), str(aside))


async def _keep_ended_log(env: Env, base: Path, contents: Contents) -> None:
    """Of the ended epoch the signed checkpoint; its entries are in the database."""
    aside = _ended(base, contents.manifest.origin)

    def write() -> None:
        env.files.mkdir(str(aside), 0o755)
        env.files.write_atomic(str(aside / "checkpoint"), contents.checkpoint, 0o644)

    await env.run_blocking(write)


def _remove_unfinished(env: Env, directory: str, found: set[str] | None) -> None:
    """Leave the directory as it was ``found``, or not there. What says that it is no node goes last."""
    made = set(env.files.listdir(directory)) - (found or set())
    for name in sorted(made, key=lambda name: name in (RESTORING, LOCK_NAME)):
        env.files.remove_tree(f"{directory}/{name}")
    if found is None:
        env.files.remove_tree(directory)
