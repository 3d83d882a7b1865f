"""Envelopes carried by hand: written into a file for one partner, read from a file of anybody.

Spec: docs/spec/stick.md. A file is one more way for the same envelopes: what leaves in it stays in the outbox
until the partner acknowledges it, and what comes in it goes through the inbox like what a broker lists. One
rule: no file leaves before the entries that tell of it are committed, and nothing is marked as carried before
the file is durable.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from audit.store import AuditLog
from keys.errors import MalformedInput, PolicyRefused, Unavailable
from keys.secret import SecretBytes
from node import one_time
from node.broker_link import Arrival, Mailbox, Via
from node.halfpairs import half_pairs
from node.inbox import Inbox, Verdict
from node.officers import Officers
from node.outbox import Outbox
from node.peers import check_talks, load_peer, load_peers, save_peer
from node.receive_keys import ReceiveKeyRing
from node.reset_keys import ResetKeyRing
from node.views import Session, StickOut, StickReport, StickWaiting
from protocol.envelope import envelope_hash, parse_envelope_untrusted
from protocol.frames import ROOM_BYTES
from protocol.receivekeys import KeyStatus, status_of
from protocol.stick import FILE_BYTES_MAX, StickReader, closing_hash, encode_stick
from runtime.env import Env
from runtime.exits import DiskFailed
from runtime.logs import get_logger
from runtime.sqlite import Database, Snapshot, Transaction

PIECE_BYTES = 256 * 1024
BATCH_ENVELOPES = 16  # taken in together: their transactions share a commit

log = get_logger("sticks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A file that may leave: every entry that tells of it is committed."""

    data: bytes = field(repr=False)
    hhs: tuple[bytes, ...]
    via: Via
    out: StickOut


class Sticks:
    """Writes and reads files of envelopes for one office."""

    def __init__(
        self,
        env: Env,
        directory: Path,
        db: Database,
        audit_log: AuditLog,
        officers: Officers,
        keys: ReceiveKeyRing,
        reset_keys: ResetKeyRing,
        outbox: Outbox,
        inbox: Inbox,
        *,
        changed: Callable[[], None],
    ) -> None:
        self._env = env
        self._directory = directory
        self._db = db
        self._log = audit_log
        self._officers = officers
        self._keys = keys
        self._reset_keys = reset_keys
        self._outbox = outbox
        self._inbox = inbox
        self._changed = changed
        self._one_at_a_time = asyncio.Lock()

    async def waiting(self, peer_id: bytes) -> StickWaiting:
        """What a file for this partner would hold now. PolicyRefused ``peer_unknown``."""

        def look(tx: Snapshot) -> StickWaiting:
            peer = load_peer(tx, peer_id)
            alerts, others = self._outbox.unacknowledged(tx, peer)
            return StickWaiting(
                peer_id=peer_id.hex(),
                peer_name=peer.name,
                alerts=tuple(alert_id.hex() for alert_id in alerts),
                others=others,
            )

        return await self._db.read(look)

    # --- out ------------------------------------------------------------------------------------------------

    async def pack(self, session: Session, peer_id: bytes, via: Via = "usb") -> Packed:
        """A file with everything this partner has not acknowledged, and what is owed to it.

        ``via`` qr: as much as pictures hold. PolicyRefused ``role_may_not``, ``stick_nothing``,
        ``frames_too_large``, and as check_talks.
        """
        check_may_carry(session)
        async with self._one_at_a_time:
            await self._db.read(lambda tx: check_talks(load_peer(tx, peer_id)))
            await self._outbox.say_what_is_owed(peer_id)
            return await self._db.transact(lambda tx: self._pack(tx, session, peer_id, via))

    def _pack(self, tx: Transaction, session: Session, peer_id: bytes, via: Via) -> Packed:
        peer = load_peer(tx, peer_id)
        check_talks(peer)
        carried = self._outbox.carried(tx, peer, via, ROOM_BYTES if via == "qr" else None)
        save_peer(tx, peer)
        if not carried.envelopes and carried.too_large:
            raise PolicyRefused(
                "frames_too_large", f"What waits for {peer.name} is too large for pictures. Take a stick."
            )
        if not carried.envelopes:
            raise PolicyRefused(
                "stick_nothing", f"Nothing waits for {peer.name}: it has acknowledged everything."
            )
        data = encode_stick(carried.envelopes)
        digest = closing_hash(data)
        fields: dict[str, str | int] = {
            "peer": peer.pseudonym,
            "n": len(carried.envelopes),
            "digest": digest.hex(),
            "via": via,
            "actor": self._officers.pseudonym(tx, session.officer),
        }
        self._log.append(tx, "stick.out", fields)
        out = StickOut(
            peer_id=peer_id.hex(),
            peer_name=peer.name,
            envelopes=len(carried.envelopes),
            alerts=carried.alerts,
            left=carried.left,
            too_large=carried.too_large,
            size_bytes=len(data),
            digest=digest.hex(),
        )
        return Packed(data=data, hhs=carried.hhs, via=via, out=out)

    async def note_out(self, packed: Packed) -> None:
        """The file is written and durable, or was handed over."""
        await self._db.transact(lambda tx: self._outbox.note_carried(tx, packed.hhs, packed.via))

    async def export(self, session: Session, peer_id: bytes, path: str, *, force: bool) -> StickOut:
        """Write the file of ``pack``; nothing is marked when that fails, and the node goes on.

        PolicyRefused also ``stick_exists``, ``stick_in_node``, ``stick_unwritable``; Unavailable
        ``stick_full``.
        """
        check_may_carry(session)
        await self._env.run_blocking(self._check_place, path, force)
        packed = await self.pack(session, peer_id)
        try:
            await self._env.run_blocking(self._env.files.write_atomic, path, packed.data)
        except DiskFailed as failed:
            if failed.code == "disk_full":
                raise Unavailable(
                    "stick_full",
                    f"No file was written: there is no room for {len(packed.data)} bytes at {path}.",
                ) from failed
            raise _unwritable(path) from failed
        except OSError as error:
            raise _unwritable(path) from error
        await self.note_out(packed)
        return packed.out

    def _check_place(self, path: str, force: bool) -> None:
        if self._env.files.is_within(path, self._directory):
            raise PolicyRefused(
                "stick_in_node", f"{path} is among the files of this node, which no stick may replace."
            )
        if not self._env.files.exists(path):
            return
        if not force:
            raise PolicyRefused(
                "stick_exists",
                f"{path} exists already; choose another name, or --force. Nothing was written.",
            )
        if not self._env.files.is_regular(path):
            raise PolicyRefused("stick_exists", f"{path} is no ordinary file, so it is not overwritten.")

    # --- in -------------------------------------------------------------------------------------------------

    async def take_file(self, session: Session, path: str) -> StickReport:
        """Take in a file; what was read is kept when its stick is pulled out midway.

        PolicyRefused ``role_may_not``, ``file_missing``; MalformedInput ``not_a_file``, ``stick_foreign``,
        ``stick_version``, ``stick_count``.
        """
        check_may_carry(session)
        files = self._env.files
        if not await self._env.run_blocking(files.exists, path):
            raise PolicyRefused("file_missing", f"There is no file {path}.")
        if not await self._env.run_blocking(files.is_regular, path):
            raise MalformedInput("not_a_file", f"{path} is not a regular file")

        async def pieces() -> AsyncIterator[bytes]:
            offset = 0
            while piece := await self._env.run_blocking(files.read_range, path, offset, PIECE_BYTES):
                offset += len(piece)
                yield piece

        return await self.take(session, pieces())

    async def take(self, session: Session, pieces: AsyncIterator[bytes], via: Via = "usb") -> StickReport:
        """Take in what these pieces of a file bring, while they come; refused as ``take_file``."""
        check_may_carry(session)
        reader = StickReader()
        counts: Counter[str] = Counter()
        broken_off = False
        waiting: list[bytes] = []
        size = 0
        while size <= FILE_BYTES_MAX:
            try:
                piece = await anext(pieces, b"")
            except (OSError, DiskFailed) as failed:
                # A stick that was pulled out. The disk this node lives on fails below, uncaught.
                log.warning("stick_broken_off", code=getattr(failed, "code", "os_error"))
                broken_off = True
                break
            if not piece:
                break
            size += len(piece)
            waiting += reader.feed(piece)
            while len(waiting) >= BATCH_ENVELOPES:
                counts.update(await self._take_in(waiting[:BATCH_ENVELOPES], via))
                del waiting[:BATCH_ENVELOPES]
        counts.update(await self._take_in(waiting, via))
        if broken_off and reader.count is None:
            raise Unavailable("stick_unreadable", "Nothing could be read. Put the stick in again.")
        end = reader.finish()
        report = StickReport(
            envelopes=end.count,
            new=counts["new"],
            seen=counts["seen"],
            unknown=counts["unknown"],
            refused=counts["refused"] + counts["evidence"],
            damaged=counts["damaged"] + end.damaged,
            held=counts["held"],
            missing=end.missing,
            is_whole=end.is_whole,
            broken_off=broken_off and not end.is_whole,
        )
        await self._db.transact(lambda tx: self._log_in(tx, session, report, end.digest, via))
        self._changed()
        return report

    def _log_in(
        self, tx: Transaction, session: Session, report: StickReport, digest: bytes | None, via: Via
    ) -> None:
        fields: dict[str, str | int] = {
            "n": report.envelopes,
            "fresh": report.new,
            "known": report.seen,
            "via": via,
            "actor": self._officers.pseudonym(tx, session.officer),
        }
        rest = {
            "alien": report.unknown,
            "bad": report.damaged,
            "refused": report.refused,
            "held": report.held,
            "missing": report.missing,
        }
        fields.update({name: count for name, count in rest.items() if count})
        if digest is not None:
            fields["digest"] = digest.hex()
        self._log.append(tx, "stick.in", fields)

    async def take_one(self, envelope: bytes) -> str:
        """Take in one bare envelope, as ``move --out`` writes it; the name of its peer.

        MalformedInput for what is no envelope, PolicyRefused ``file_not_for_us``.
        """
        mailbox = await self._db.read(lambda tx: self._origin(tx, envelope))
        if mailbox is None:
            raise PolicyRefused(
                "file_not_for_us",
                "No key of this office opens this file. Ask the other office for a new one.",
            )
        await self._inbox.take_in([_arrival(mailbox, envelope, "usb")])
        return await self._db.read(lambda tx: load_peer(tx, mailbox.peer).name)

    async def _take_in(self, envelopes: Sequence[bytes], via: Via) -> list[Verdict]:
        origins = await self._db.read(lambda tx: [self._origin(tx, envelope) for envelope in envelopes])
        arrivals = [
            _arrival(mailbox, envelope, via)
            for mailbox, envelope in zip(origins, envelopes, strict=True)
            if mailbox is not None
        ]
        strange: list[Verdict] = ["unknown"] * (len(envelopes) - len(arrivals))
        return [*(await self._inbox.take_in(arrivals) if arrivals else ()), *strange]

    def _origin(self, tx: Snapshot, envelope: bytes) -> Mailbox | None:
        """Whom it comes from, by the key it names, in place of a mailbox; None for a key never had here."""
        try:
            key_id = parse_envelope_untrusted(envelope).key_id
        except MalformedInput:
            return None
        found = self._keys.find(key_id) or self._reset_keys.find(key_id)
        for half in half_pairs(tx):
            if half.receive_key_id == key_id:
                return _by_hand(half.peer, half.mailbox)
        if found is not None:
            return _by_hand(found[1])
        for peer in load_peers(tx):
            is_deleted = status_of(peer.receive_keys, key_id) is KeyStatus.DELETED
            if is_deleted or one_time.is_gone(tx, peer.office_id, key_id):
                return _by_hand(peer.office_id)
        return None


def _by_hand(peer_id: bytes, name: str = "") -> Mailbox:
    return Mailbox(name=name, peer=peer_id, get_secret=SecretBytes(b""), broker_address="")


def _arrival(mailbox: Mailbox, envelope: bytes, via: Via) -> Arrival:
    return Arrival(mailbox=mailbox, envelope_hash=envelope_hash(envelope), envelope=envelope, via=via)


def check_may_carry(session: Session) -> None:
    """PolicyRefused ``role_may_not``: officers carry as well; at night there is one person."""
    if session.role not in ("officer", "supervisor"):
        raise PolicyRefused("role_may_not", "Auditors and operators read; they carry no messages.")


def _unwritable(path: str) -> PolicyRefused:
    return PolicyRefused(
        "stick_unwritable",
        f"No file was written: {path} cannot be written. Is the stick in, and not read-only?",
    )
