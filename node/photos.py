"""Photos beside alerts: made anew and sealed, sent and fetched in parts, shown when whole.

Spec: docs/spec/attachments.md. Three rules: no picture is decoded in this process; how far a transfer is and
the bytes it is about are one commit; nothing of a picture is shown before all of it is here and verified.
The link asks ``next_part`` what to carry when nothing else is due, and tells ``settle_part`` what came of it.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, Literal

from audit.store import AuditLog
from keys.errors import PolicyRefused, VerificationFailed
from node.broker_link import Part
from node.mailboxes import own_rows
from node.outbox import Outbox
from node.peers import Peer, load_peer, save_peer
from node.secrets import MailboxKeys, Secrets
from node.vault import Vault
from node.views import PhotoView
from protocol import limits, wire
from protocol.alert import Alert, Photo
from protocol.attachment import (
    PICTURE_TYPES,
    Manifest,
    decode_manifest_untrusted,
    open_attachment_untrusted,
    seal_attachment,
)
from protocol.items import PhotoReport
from protocol.parts import ANSWERED_BYTES, Transfer, held_up, next_part, reached, read_capability_hash
from protocol.requests import (
    AttachmentDelete,
    Op,
    OpRefused,
    PartGet,
    PartGot,
    PartHeld,
    PartPut,
    Result,
)
from runtime.env import Env
from runtime.logs import get_logger
from runtime.sqlite import Database, Snapshot, Transaction

WORKER: Final = "node.photo_worker"
WORKER_SECONDS: Final = 60.0
WORKER_ANSWER_BYTES_MAX: Final = limits.PHOTO_BYTES_MAX + limits.THUMBNAIL_BYTES_MAX + 64
WORKER_TRIES: Final = 3  # a machine short of memory may end one that would have done well
STAGED_MAX: Final = 32
STAGED_BY_PROGRAMS_MAX: Final = 16  # no program takes the room of officers at the pages
STAGED_MS: Final = 1 * limits.DAY_MS
STORED_AT_ONCE: Final = 1 * 2**20  # bytes in one transaction, so that no alert waits for a photo's commit
_TRANSFER: Final = "size_bytes, done_bytes, furthest_bytes, setbacks, next_at_ms"

log = get_logger("photos")


class Photos:
    """The pictures of one office."""

    def __init__(
        self,
        env: Env,
        db: Database,
        log: AuditLog,
        vault: Vault,
        secrets: Secrets,
        outbox: Outbox,
        *,
        wake: Callable[[], None],
        changed: Callable[[Literal["inbox", "outbox"]], None],
    ) -> None:
        """``wake``: something became due on some link. ``changed``: a list looks different."""
        self._env = env
        self._db = db
        self._log = log
        self._vault = vault
        self._secrets = secrets
        self._outbox = outbox
        self._wake = wake
        self._changed = changed
        self._in_flight: dict[tuple[Any, ...], None] = {}
        self._not_there: dict[tuple[Any, ...], str] = {}  # where a download was last asked for in vain
        self._worker = asyncio.Semaphore(1)
        self._uploads_turn = True

    # --- made anew and put aside ----------------------------------------------------------------------------

    async def stage(self, officer: int, picture: bytes, *, waiting_max: int = STAGED_MAX) -> str:
        """Make a picture an officer chose anew, seal it and keep it for a form; its name, 32 hex digits.

        ``waiting_max``: with so many waiting already it is not taken.
        PolicyRefused ``photo_kind``, ``photo_pixels``, ``photo_damaged``, ``photo_too_hard``,
        ``photo_too_large``, ``photos_too_many``.
        """
        if len(picture) > limits.PHOTO_BYTES_MAX:
            raise PolicyRefused("photo_too_large", "A photo has at most 25 MiB.")
        staged: int = await self._db.read(
            lambda tx: tx.value("SELECT count(*) FROM photo_staged WHERE draft IS NULL")
        )
        if staged >= waiting_max:
            raise PolicyRefused("photos_too_many", "Too many photos wait in forms that nobody has sent.")
        answer = await self._ask_worker("make", picture)
        if answer is None:
            raise PolicyRefused("photo_too_hard", "The photo took too much memory or time.")
        line, _, made = answer.partition(b"\n")
        match line.decode("ascii", "replace").split():
            case ["ok", ("jpeg" | "png") as kind, photo_bytes, _]:
                photo, thumbnail = made[: int(photo_bytes)], made[int(photo_bytes) :]
            case ["no", code]:
                raise PolicyRefused(code, "The photo was not taken.")
            case _:
                raise PolicyRefused("photo_damaged", "The photo was not taken.")
        return await self._keep_staged(officer, [(photo, kind), (thumbnail, "jpeg")])

    async def _keep_staged(self, officer: int, pictures: Sequence[tuple[bytes, str]]) -> str:
        await self._vault.ensure_month()
        name = self._env.random(16)
        sealed = [
            await self._env.run_blocking(seal_attachment, picture, PICTURE_TYPES[kind], self._env.random)
            for picture, kind in pictures
        ]
        texts = [manifest.encode() for manifest, _ in sealed]
        kek, row = self._vault.seal_aside(name, wire.encode(texts))
        now_ms = self._env.clock.now_ms()
        await self._db.transact(
            lambda tx: tx.execute(
                "INSERT INTO photo_staged (name, officer, at_ms, is_ready, kek, sealed)"
                " VALUES (?, ?, ?, 0, ?, ?)",
                (name, officer, now_ms, kek, row),
            )
        )
        for number, (_, ciphertext) in enumerate(sealed):
            for at in range(0, len(ciphertext), STORED_AT_ONCE):
                rows = [
                    (blob_of(name, number), start, ciphertext[start : start + limits.ATTACHMENT_PART_BYTES])
                    for start in range(
                        at, min(at + STORED_AT_ONCE, len(ciphertext)), limits.ATTACHMENT_PART_BYTES
                    )
                ]
                await self._db.transact(partial(_store_parts, rows=rows))
        await self._db.transact(
            lambda tx: tx.execute("UPDATE photo_staged SET is_ready = 1 WHERE name = ?", (name,))
        )
        return name.hex()

    async def with_photos(self, officer: int, alert: Alert, names: Sequence[str]) -> Alert:
        """The alert with these staged photos; PolicyRefused ``photo_gone``, ``photos_too_many``."""
        if alert.photos:
            # A manifest that was not made here names a photo nobody will ever send.
            raise PolicyRefused("photo_gone", "Photos are handed over beside an alert, not in it.")
        if not names:
            return alert
        if len(names) > limits.PHOTOS_PER_ALERT_MAX:
            raise PolicyRefused("photos_too_many", "An alert has at most four photos.")
        rows = await self._db.read(lambda tx: [_staged(tx, name, officer) for name in names])
        photos = [self._photo_of(*row) for row in rows]
        return Alert.model_validate({**alert.model_dump(), "photos": photos})

    def put_aside(self, tx: Transaction, draft_id: bytes, names: Sequence[str]) -> None:
        """These photos wait with a draft for its second officer."""
        for place, name in enumerate(names):
            tx.execute(
                "UPDATE photo_staged SET draft = ?, place = ? WHERE name = ? AND draft IS NULL",
                (draft_id, place, bytes.fromhex(name)),
            )
            if tx.changes() != 1:
                raise PolicyRefused("photo_gone", "A photo was removed or sent already.")

    def drop_draft(self, tx: Transaction, draft_id: bytes) -> bool:
        """The draft is discarded or due: its photos go; whether it had any."""
        names = tx.execute("SELECT name FROM photo_staged WHERE draft = ?", (draft_id,))
        for (name,) in names:
            _drop_staged(tx, name)
        return bool(names)

    async def staged_thumbnail(self, officer: int, name: str) -> bytes:
        """The thumbnail of a photo that waits in a form of this officer."""
        named, kek, sealed = await self._db.read(lambda tx: _staged(tx, name, officer))
        _, manifest = self._photo_of(named, kek, sealed).manifests
        return await self._open(manifest, blob_of(named, 1))

    async def open_draft(self, draft_id: str, number: int) -> tuple[str, bytes]:
        """Type and bytes of a picture of a draft. PolicyRefused ``photo_unknown``."""
        rows = await self._db.read(
            lambda tx: tx.execute(
                "SELECT name, kek, sealed FROM photo_staged WHERE draft = ? ORDER BY place", (_hex(draft_id),)
            )
        )
        if not 0 <= number < 2 * len(rows):
            raise PolicyRefused("photo_unknown", "This alert has no such photo.")
        name, kek, sealed = rows[number // 2]
        manifest = self._photo_of(name, kek, sealed).manifests[number % 2]
        return manifest.type, await self._open(manifest, blob_of(name, number % 2))

    async def unstage(self, officer: int, name: str) -> None:
        """The officer took a photo out of the form again."""

        def record(tx: Transaction) -> None:
            named, _, _ = _staged(tx, name, officer)
            _drop_staged(tx, named)

        await self._db.transact(record)

    def _photo_of(self, name: bytes, kek: str, sealed: bytes) -> Photo:
        texts = wire.decode_untrusted(
            self._vault.open_aside(name, kek, sealed), bytes_max=4 * limits.MANIFEST_BYTES_MAX
        )
        assert isinstance(texts, list)
        return Photo.model_validate({"photo": texts[0], "thumbnail": texts[1]})

    # --- with the alert's own transaction -------------------------------------------------------------------

    def send(
        self,
        tx: Transaction,
        alert_id: bytes,
        alert: Alert,
        audience: Sequence[Peer],
        *,
        names: Sequence[str] = (),
        draft_id: bytes | None = None,
    ) -> None:
        """The alert is kept: its photos are too, and due for every recipient."""
        if draft_id is not None:
            rows = tx.execute("SELECT name FROM photo_staged WHERE draft = ? ORDER BY place", (draft_id,))
            staged = [row[0] for row in rows]
        else:
            staged = [bytes.fromhex(name) for name in names]
        for place, name in enumerate(staged):
            tx.execute("DELETE FROM photo_staged WHERE name = ? AND is_ready = 1", (name,))
            if tx.changes() != 1:
                raise PolicyRefused("photo_gone", "A photo was removed or sent already.")
            for which, manifest in enumerate(alert.manifests[2 * place : 2 * place + 2]):
                number = 2 * place + which
                self._insert(tx, alert_id, number, manifest, blob_of(name, which), "kept")
                for peer in audience:
                    self._begin_upload(tx, alert_id, number, manifest, peer)
        if staged:
            tx.on_commit(self._wake)

    def _begin_upload(
        self, tx: Transaction, alert_id: bytes, number: int, manifest: Manifest, peer: Peer
    ) -> None:
        tx.execute(
            "INSERT INTO photo_upload (alert_id, number, peer, broker_address, put_secret, write_secret,"
            " read_hash, state, size_bytes, done_bytes, furthest_bytes, setbacks, next_at_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 'under_way', ?, 0, 0, 0, 0)",
            (
                alert_id,
                number,
                peer.office_id,
                peer.broker_address,
                peer.put_secret.reveal(),
                self._env.random(limits.SECRET_BYTES),
                read_capability_hash(manifest.read_secret),
                manifest.size_bytes,
            ),
        )

    def expect(self, tx: Transaction, peer: Peer, alert_id: bytes, alert: Alert) -> None:
        """The alert came: its pictures are to be fetched."""
        for number, manifest in enumerate(alert.manifests):
            blob = blob_of(self._env.random(16), number)
            self._insert(tx, alert_id, number, manifest, blob, "coming", peer.office_id)
        if alert.manifests:
            tx.on_commit(self._wake)

    def _insert(
        self,
        tx: Transaction,
        alert_id: bytes,
        number: int,
        manifest: Manifest,
        blob: bytes,
        state: str,
        peer_id: bytes | None = None,
    ) -> None:
        kek, sealed = self._vault.seal_aside(blob, manifest.encode().encode())
        done_bytes = manifest.size_bytes if peer_id is None else 0
        tx.execute(
            "INSERT INTO photo (alert_id, incoming, number, peer, blob, kek, sealed, state, size_bytes,"
            " done_bytes, furthest_bytes, setbacks, next_at_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0)",
            (
                alert_id,
                int(peer_id is not None),
                number,
                peer_id,
                blob,
                kek,
                sealed,
                state,
                manifest.size_bytes,
                done_bytes,
                done_bytes,
            ),
        )

    def erase(self, tx: Transaction, alert_id: bytes, incoming: bool) -> bool:
        """Photo, thumbnail, key and what lies at brokers go with the alert's content; whether any did."""
        rows = tx.execute(
            "SELECT blob FROM photo WHERE alert_id = ? AND incoming = ?", (alert_id, int(incoming))
        )
        if incoming:
            for peer_id, blob, kek, sealed in tx.execute(
                "SELECT peer, blob, kek, sealed FROM photo"
                " WHERE alert_id = ? AND incoming = 1 AND state = 'coming'",
                (alert_id,),
            ):
                self._delete_at_broker(tx, peer_id, self._manifest(blob, kek, sealed))
        else:
            self._take_back(tx, "alert_id = ?", (alert_id,))
            tx.execute("DELETE FROM photo_upload WHERE alert_id = ?", (alert_id,))
        for (blob,) in rows:
            tx.execute("DELETE FROM photo_part WHERE blob = ?", (blob,))
        tx.execute("DELETE FROM photo WHERE alert_id = ? AND incoming = ?", (alert_id, int(incoming)))
        return bool(rows)

    def apply_report(self, tx: Transaction, peer: Peer, item: PhotoReport) -> None:
        """The recipient's word on a picture of ours; the first stands. A photo answers for its thumbnail."""
        state = "refused" if item.code else "fetched"
        last = item.number if item.code else item.number | 1
        tx.execute(
            "UPDATE photo_upload SET state = ?, code = ? WHERE alert_id = ? AND peer = ? AND number >= ?"
            " AND number <= ? AND state = 'under_way'",
            (state, item.code, item.alert_id, peer.office_id, item.number, last),
        )
        if not tx.changes():
            log.warning("photo_report_unmatched")
            return
        verdict = "refused" if item.code else "ok"
        self._note_end(tx, item.alert_id, item.number, verdict, item.code, peer.pseudonym)
        self._drop_sent(tx, item.alert_id)
        tx.on_commit(partial(self._changed, "outbox"))

    def _note_end(
        self, tx: Transaction, alert_id: bytes, number: int, verdict: str, code: str, pseudonym: str
    ) -> None:
        entry: dict[str, str | int] = {
            "alert": alert_id.hex(),
            "n": number,
            "verdict": verdict,
            "peer": pseudonym,
        }
        self._log.append(tx, "att.end", entry | ({"code": code} if code else {}))

    def _drop_sent(self, tx: Transaction, alert_id: bytes) -> None:
        """Large pictures nobody waits for any more: the copies kept for sending go, thumbnails stay."""
        rows = tx.execute(
            "SELECT p.number, p.blob FROM photo p"
            " WHERE p.alert_id = ? AND p.incoming = 0 AND p.state = 'kept' AND p.number % 2 = 0"
            " AND NOT EXISTS (SELECT 1 FROM photo_upload u"
            " WHERE u.alert_id = p.alert_id AND u.number = p.number AND u.state = 'under_way')",
            (alert_id,),
        )
        for number, blob in rows:
            tx.execute("DELETE FROM photo_part WHERE blob = ?", (blob,))
            tx.execute(
                "UPDATE photo SET state = 'gone' WHERE alert_id = ? AND incoming = 0 AND number = ?",
                (alert_id, number),
            )

    # --- for the link ---------------------------------------------------------------------------------------

    async def next_part(self, address: str, most_bytes: int) -> Part | None:
        """What this link carries next: a deletion, then thumbnails, then photos, up and down by turns."""
        now_ms = self._env.clock.now_ms()

        def read(tx: Snapshot) -> Part | None:
            found = self._next_delete(tx, address)
            if found is not None:
                return found
            both = [self._next_upload, self._next_download]
            for which in (1, 0):  # thumbnails first
                for look in both if self._uploads_turn else reversed(both):
                    found = look(tx, address, which, most_bytes, now_ms)
                    if found is not None:
                        return found
            return None

        work = await self._db.read(read)
        if work is not None:
            self._in_flight[work.key] = None
            self._uploads_turn = work.key[0] == "download"
        return work

    def release(self, work: Part) -> None:
        """It is no longer under way, whatever came of it."""
        self._in_flight.pop(work.key, None)

    async def next_due_ms(self, address: str) -> int | None:
        """When a part for this broker is due again by itself."""

        def read(tx: Snapshot) -> int | None:
            up = tx.value(
                "SELECT min(next_at_ms) FROM photo_upload WHERE broker_address = ? AND state = 'under_way'",
                (address,),
            )
            down = tx.value("SELECT min(next_at_ms) FROM photo WHERE state = 'coming'")
            return min((at_ms for at_ms in (up, down) if at_ms is not None), default=None)

        return await self._db.read(read)

    def _next_delete(self, tx: Snapshot, address: str) -> Part | None:
        for mailbox, put_secret, secret in tx.execute(
            "SELECT mailbox, put_secret, secret FROM photo_delete WHERE broker_address = ?", (address,)
        ):
            key = ("delete", address, mailbox, put_secret, secret)
            if key in self._in_flight:
                continue
            box_secret = put_secret
            if mailbox:
                keys = MailboxKeys.find(self._secrets, mailbox)
                # Without its secrets nobody can delete there; time does.
                box_secret = bytes(limits.SECRET_BYTES) if keys is None else keys.get_secret.reveal()
            op = AttachmentDelete(mailbox_secret=box_secret, attachment_secret=secret, by_sender=not mailbox)
            return Part(ops=(op,), key=key)
        return None

    def _next_upload(
        self, tx: Snapshot, address: str, which: int, most_bytes: int, now_ms: int
    ) -> Part | None:
        rows = tx.execute(
            "SELECT u.alert_id, u.number, u.peer, u.put_secret, u.write_secret, u.read_hash, p.blob,"
            " u.size_bytes, u.done_bytes, u.furthest_bytes, u.setbacks, u.next_at_ms FROM photo_upload u"
            " JOIN photo p ON p.alert_id = u.alert_id AND p.incoming = 0 AND p.number = u.number"
            " JOIN peer o ON o.office_id = u.peer"
            " WHERE u.broker_address = ? AND u.state = 'under_way' AND u.next_at_ms <= ? AND u.number % 2 = ?"
            " AND o.state = 'active' AND o.frozen_ms IS NULL ORDER BY u.rowid",
            (address, now_ms, which),
        )
        for alert_id, number, peer, put_secret, write_secret, read_hash, blob, *transfer in rows:
            key = ("upload", alert_id, number, peer)
            if key in self._in_flight:
                continue
            offset, length = next_part(Transfer(**_named(transfer)), most_bytes)
            data = _read_range(tx, blob, offset, length)
            op = PartPut(
                put_secret=put_secret,
                write_secret=write_secret,
                read_hash=read_hash,
                size_bytes=transfer[0],
                offset=offset,
                data=data,
            )
            return Part(ops=(op,), key=key, carried_bytes=length)
        return None

    def _next_download(
        self, tx: Snapshot, address: str, which: int, most_bytes: int, now_ms: int
    ) -> Part | None:
        rows = tx.execute(
            f"SELECT alert_id, number, peer, blob, kek, sealed, {_TRANSFER} FROM photo"  # noqa: S608
            " WHERE state = 'coming' AND next_at_ms <= ? AND number % 2 = ? ORDER BY rowid",
            (now_ms, which),
        )
        for alert_id, number, peer_id, blob, kek, sealed, *transfer in rows:
            key = ("download", alert_id, number)
            boxes = own_rows(tx, peer_id)
            here = [box.name for box in boxes if box.broker_address == address]
            has_others = any(box.broker_address != address for box in boxes)
            if key in self._in_flight or (self._not_there.get(key) == address and has_others):
                continue
            offset, length = next_part(Transfer(**_named(transfer)), most_bytes, beside_bytes=ANSWERED_BYTES)
            if not length:
                return Part(ops=(), key=key)
            found = [MailboxKeys.find(self._secrets, name) for name in here]
            manifest = self._manifest(blob, kek, sealed)
            ops = tuple(
                PartGet(
                    get_secret=keys.get_secret.reveal(),
                    read_secret=manifest.read_secret,
                    offset=offset,
                    bytes_max=length,
                )
                for keys in found
                if keys is not None
            )
            if ops:
                return Part(ops=ops, key=key, carried_bytes=length)
        return None

    async def settle_part(self, address: str, work: Part, results: Sequence[Result]) -> None:
        """Record what the broker answered; a picture that is whole now is judged and its sender told."""
        match work.key:
            case ("upload", bytes(alert_id), int(number), bytes(peer_id)):
                (result,) = results
                await self._db.transact(
                    partial(
                        self._settle_upload, alert_id=alert_id, number=number, peer_id=peer_id, result=result
                    )
                )
                self._changed("outbox")
            case ("download", bytes(alert_id), int(number)):
                is_whole = not work.ops or await self._db.transact(
                    partial(
                        self._settle_download,
                        alert_id=alert_id,
                        number=number,
                        address=address,
                        ops=work.ops,
                        results=results,
                    )
                )
                if is_whole:
                    await self._finish(alert_id, number)
                    self._changed("inbox")
            case ("delete", str(address), str(mailbox), bytes(put_secret), bytes(secret)):
                # Whatever the answer: what is not deleted now goes when its time is up.
                await self._db.transact(
                    lambda tx: tx.execute(
                        "DELETE FROM photo_delete WHERE broker_address = ? AND mailbox = ?"
                        " AND put_secret = ? AND secret = ?",
                        (address, mailbox, put_secret, secret),
                    )
                )

    def _settle_upload(
        self, tx: Transaction, *, alert_id: bytes, number: int, peer_id: bytes, result: Result
    ) -> None:
        row = tx.one(
            f"SELECT broker_address, put_secret, {_TRANSFER} FROM photo_upload"  # noqa: S608 - our own constant
            " WHERE alert_id = ? AND number = ? AND peer = ? AND state = 'under_way'",
            (alert_id, number, peer_id),
        )
        if row is None:
            return  # its recipient spoke, or the alert ended, while this was under way
        address, put_secret, *fields = row
        now_ms = self._env.clock.now_ms()
        transfer, code = Transfer(**_named(fields)), ""
        match result:
            case PartHeld(held_bytes=held_bytes):
                was_whole = transfer.is_whole
                transfer = reached(transfer, held_bytes, now_ms)
                if transfer.is_whole and not was_whole:
                    transfer = held_up(replace(transfer, setbacks=0), now_ms)
            case OpRefused(code="gone"):
                peer = load_peer(tx, peer_id)
                if (peer.broker_address, peer.put_secret.reveal()) == (address, put_secret):
                    transfer, code = held_up(transfer, now_ms), "address_lost"
                else:
                    address, put_secret = peer.broker_address, peer.put_secret.reveal()
                    transfer = replace(transfer, done_bytes=0, furthest_bytes=0, next_at_ms=now_ms)
            case OpRefused(code=refused):
                transfer, code = held_up(transfer, now_ms), f"broker_{refused}"
            case _:
                transfer = held_up(transfer, now_ms)
        tx.execute(
            "UPDATE photo_upload SET broker_address = ?, put_secret = ?, code = ?, done_bytes = ?,"
            " furthest_bytes = ?, setbacks = ?, next_at_ms = ?"
            " WHERE alert_id = ? AND number = ? AND peer = ?",
            (address, put_secret, code, *_progress(transfer), alert_id, number, peer_id),
        )
        tx.on_commit(self._wake)

    def _settle_download(
        self,
        tx: Transaction,
        *,
        alert_id: bytes,
        number: int,
        address: str,
        ops: Sequence[Op],
        results: Sequence[Result],
    ) -> bool:
        """Keep what came, at most to the end its manifest says; whether that is all of it."""
        row = tx.one(
            f"SELECT blob, {_TRANSFER} FROM photo WHERE alert_id = ? AND incoming = 1"  # noqa: S608
            " AND number = ? AND state = 'coming'",
            (alert_id, number),
        )
        if row is None:
            return False
        blob, *fields = row
        transfer = Transfer(**_named(fields))
        now_ms = self._env.clock.now_ms()
        data = b""
        for op, result in zip(ops, results, strict=True):
            is_next = isinstance(op, PartGet) and op.offset == transfer.done_bytes
            if isinstance(result, PartGot) and is_next and result.size_bytes == transfer.size_bytes:
                data = data or result.data[: transfer.size_bytes - transfer.done_bytes]
        if data:
            _store_parts(tx, rows=[(blob, transfer.done_bytes, data)])
            transfer = reached(transfer, transfer.done_bytes + len(data), now_ms)
            self._not_there.pop(("download", alert_id, number), None)
        else:
            transfer = held_up(transfer, now_ms)
            self._not_there[("download", alert_id, number)] = address
        self._write_download(tx, alert_id, number, transfer)
        tx.on_commit(self._wake)
        return transfer.is_whole

    def _write_download(self, tx: Transaction, alert_id: bytes, number: int, transfer: Transfer) -> None:
        tx.execute(
            "UPDATE photo SET done_bytes = ?, furthest_bytes = ?, setbacks = ?, next_at_ms = ?"
            " WHERE alert_id = ? AND incoming = 1 AND number = ? AND state = 'coming'",
            (*_progress(transfer), alert_id, number),
        )

    # --- whole ----------------------------------------------------------------------------------------------

    async def _finish(self, alert_id: bytes, number: int) -> None:
        """Open a picture that came whole, have it judged, and record what it is."""
        row = await self._db.read(
            lambda tx: tx.one(
                f"SELECT blob, kek, sealed, {_TRANSFER} FROM photo"  # noqa: S608 - our own constant
                " WHERE alert_id = ? AND incoming = 1 AND number = ? AND state = 'coming'",
                (alert_id, number),
            )
        )
        if row is None:
            return
        blob, kek, sealed, *fields = row
        manifest = self._manifest(blob, kek, sealed)
        code = ""
        try:
            picture = await self._open(manifest, blob)
        except VerificationFailed as fault:
            code = fault.code
        else:
            most = limits.THUMBNAIL_BYTES_MAX if number % 2 else limits.PHOTO_BYTES_MAX
            answer = await self._ask_worker(f"check {manifest.type} {most}", picture)
            if answer is None and fields[3] + 1 < WORKER_TRIES:
                again = held_up(Transfer(**_named(fields)), self._env.clock.now_ms())
                await self._db.transact(lambda tx: self._write_download(tx, alert_id, number, again))
                return
            code = _code_of(answer)
        await self._db.transact(
            partial(self._record_end, alert_id=alert_id, number=number, manifest=manifest, code=code)
        )
        await self._tell_senders()

    def _record_end(
        self, tx: Transaction, *, alert_id: bytes, number: int, manifest: Manifest, code: str
    ) -> None:
        row = tx.one(
            "SELECT peer, blob FROM photo"
            " WHERE alert_id = ? AND incoming = 1 AND number = ? AND state = 'coming'",
            (alert_id, number),
        )
        if row is None:
            return  # erased while it was being judged
        peer_id, blob = row
        tx.execute(
            "UPDATE photo SET state = ?, code = ?, is_told = ?"
            " WHERE alert_id = ? AND incoming = 1 AND number = ?",
            # A photo answers for its thumbnail.
            ("refused" if code else "whole", code, int(number % 2 == 1 and not code), alert_id, number),
        )
        if code:
            tx.execute("DELETE FROM photo_part WHERE blob = ?", (blob,))
        self._delete_at_broker(tx, peer_id, manifest)
        verdict = "refused" if code else "ok"
        self._note_end(tx, alert_id, number, verdict, code, load_peer(tx, peer_id).pseudonym)
        tx.on_commit(self._wake)

    async def _tell_senders(self) -> None:
        """Each in a transaction of its own: a window may be full, and the photo is here either way."""
        for row in await self._db.read(lambda tx: tx.execute(_UNTOLD)):
            try:
                await self._db.transact(partial(self._tell_sender, row=row))
            except PolicyRefused as full:
                log.warning("photo_report_waits", code=full.code)

    def _tell_sender(self, tx: Transaction, *, row: Sequence[Any]) -> None:
        peer_id, alert_id, number, code = row
        tx.execute(
            "UPDATE photo SET is_told = 1 WHERE alert_id = ? AND incoming = 1 AND number = ? AND is_told = 0",
            (alert_id, number),
        )
        if tx.changes():
            peer = load_peer(tx, peer_id)
            item = PhotoReport(alert_id=alert_id, number=number, code=code)
            self._outbox.compose_control(tx, peer, [item], service=False)
            save_peer(tx, peer)

    def _delete_at_broker(self, tx: Transaction, peer_id: bytes, manifest: Manifest) -> None:
        """In every mailbox it may lie beside; where it does not, a deletion changes nothing."""
        until_ms = self._env.clock.now_ms() + limits.MAILBOX_TTL_MS
        for box in own_rows(tx, peer_id):
            tx.execute(
                "INSERT OR IGNORE INTO photo_delete (broker_address, mailbox, secret, until_ms)"
                " VALUES (?, ?, ?, ?)",
                (box.broker_address, box.name, manifest.read_secret, until_ms),
            )

    def _take_back(self, tx: Transaction, where: str, bindings: Sequence[bytes | int]) -> None:
        """What these uploads laid at brokers, and nobody fetched, is deleted there."""
        until_ms = self._env.clock.now_ms() + limits.MAILBOX_TTL_MS
        tx.execute(
            "INSERT OR IGNORE INTO photo_delete (broker_address, put_secret, secret, until_ms)"  # noqa: S608
            " SELECT broker_address, put_secret, write_secret, ? FROM photo_upload"
            f" WHERE furthest_bytes > 0 AND state IN ('under_way', 'ended') AND {where}",
            (until_ms, *bindings),
        )
        tx.on_commit(self._wake)

    # --- by itself ------------------------------------------------------------------------------------------

    async def housekeep_once(self) -> None:
        """Forms nobody sent, alerts whose end is past, deletions no broker need hear of any more."""
        now_ms = self._env.clock.now_ms()
        if await self._db.read(lambda tx: _is_anything_over(tx, now_ms)):
            await self._db.transact(lambda tx: self._housekeep(tx, now_ms))
        await self._tell_senders()

    def _housekeep(self, tx: Transaction, now_ms: int) -> None:
        for (name,) in tx.execute(_OLD_FORMS, _form_times(now_ms)):
            _drop_staged(tx, name)
        tx.execute("DELETE FROM photo_delete WHERE until_ms <= ?", (now_ms,))
        for alert_id, number, peer_id in tx.execute(_UPLOADS_OVER, (now_ms,)):
            self._take_back(tx, "alert_id = ? AND number = ? AND peer = ?", (alert_id, number, peer_id))
            tx.execute(
                "UPDATE photo_upload SET state = 'ended' WHERE alert_id = ? AND number = ? AND peer = ?",
                (alert_id, number, peer_id),
            )
            self._note_end(tx, alert_id, number, "ended", "", load_peer(tx, peer_id).pseudonym)
            self._drop_sent(tx, alert_id)
        for alert_id, number, peer_id, blob in tx.execute(_DOWNLOADS_OVER, (now_ms - limits.MAILBOX_TTL_MS,)):
            tx.execute("DELETE FROM photo_part WHERE blob = ?", (blob,))
            tx.execute(
                "UPDATE photo SET state = 'ended', code = 'photo_missing'"
                " WHERE alert_id = ? AND incoming = 1 AND number = ?",
                (alert_id, number),
            )
            pseudonym = load_peer(tx, peer_id).pseudonym
            self._note_end(tx, alert_id, number, "ended", "photo_missing", pseudonym)

    # --- for officers ---------------------------------------------------------------------------------------

    async def open(self, alert_id: bytes, incoming: bool, number: int) -> tuple[str, bytes]:
        """Type and bytes of a picture that is whole; whoever asks has opened the alert.

        PolicyRefused ``photo_unknown``, ``photo_not_here``.
        """
        row = await self._db.read(
            lambda tx: tx.one(
                "SELECT blob, kek, sealed, state FROM photo"
                " WHERE alert_id = ? AND incoming = ? AND number = ?",
                (alert_id, int(incoming), number),
            )
        )
        if row is None:
            raise PolicyRefused("photo_unknown", "This alert has no such photo.")
        blob, kek, sealed, state = row
        if state not in ("kept", "whole"):
            raise PolicyRefused("photo_not_here", "This photo is not here, or not yet.")
        manifest = self._manifest(blob, kek, sealed)
        return manifest.type, await self._open(manifest, blob)

    def views(self, tx: Snapshot, alert_id: bytes, incoming: bool) -> tuple[PhotoView, ...]:
        """The photos of an alert as screens show them, each with its thumbnail's state."""
        rows = {
            row[0]: row
            for row in tx.execute(
                "SELECT number, state, code, done_bytes, size_bytes FROM photo"
                " WHERE alert_id = ? AND incoming = ?",
                (alert_id, int(incoming)),
            )
        }
        return tuple(
            PhotoView(
                number=number,
                state=state,
                code=code or None,
                done_bytes=done_bytes,
                size_bytes=size_bytes,
                has_thumbnail=rows[number + 1][1] in ("kept", "whole"),
            )
            for number, state, code, done_bytes, size_bytes in rows.values()
            if number % 2 == 0
        )

    def sent_views(self, tx: Snapshot, alert_id: bytes) -> dict[bytes, tuple[PhotoView, ...]]:
        """The same of an alert of ours, by recipient: how far each is on its way."""
        found: dict[bytes, tuple[PhotoView, ...]] = {}
        for peer, number, state, code, done_bytes, size_bytes in tx.execute(
            "SELECT peer, number, state, code, done_bytes, size_bytes FROM photo_upload"
            " WHERE alert_id = ? AND number % 2 = 0 ORDER BY peer, number",
            (alert_id,),
        ):
            view = PhotoView(
                number=number,
                state="at_broker" if state == "under_way" and done_bytes == size_bytes else state,
                code=code or None,
                done_bytes=done_bytes,
                size_bytes=size_bytes,
                has_thumbnail=True,
            )
            found[peer] = (*found.get(peer, ()), view)
        return found

    # --- parts ----------------------------------------------------------------------------------------------

    async def _ask_worker(self, order: str, picture: bytes) -> bytes | None:
        async with self._worker:
            return await self._env.run_blocking(
                lambda: self._env.process.run_child(
                    WORKER,
                    order.encode() + b"\n" + picture,
                    wall_seconds=WORKER_SECONDS,
                    answer_bytes_max=WORKER_ANSWER_BYTES_MAX,
                )
            )

    async def _open(self, manifest: Manifest, blob: bytes) -> bytes:
        ciphertext = await self._db.read(lambda tx: _read_range(tx, blob, 0, manifest.size_bytes))
        return await self._env.run_blocking(open_attachment_untrusted, manifest, ciphertext)

    def _manifest(self, blob: bytes, kek: str, sealed: bytes) -> Manifest:
        return decode_manifest_untrusted(self._vault.open_aside(blob, kek, sealed).decode())


_OLD_FORMS = "SELECT name FROM photo_staged WHERE draft IS NULL AND (at_ms <= ? OR at_ms > ?)"
_UNTOLD = "SELECT peer, alert_id, number, code FROM photo WHERE is_told = 0 LIMIT 16"
_UPLOADS_OVER = (
    "SELECT u.alert_id, u.number, u.peer FROM photo_upload u JOIN alert a ON a.alert_id = u.alert_id"
    " AND a.incoming = 0 WHERE u.state = 'under_way' AND a.expires_ms <= ?"
)
_DOWNLOADS_OVER = (
    "SELECT p.alert_id, p.number, p.peer, p.blob FROM photo p JOIN alert a ON a.alert_id = p.alert_id"
    " AND a.incoming = 1 WHERE p.incoming = 1 AND p.state = 'coming' AND a.expires_ms <= ?"
)


def _form_times(now_ms: int) -> tuple[int, int]:
    """Between which times a photo of an open form was chosen. A clock set back a little takes none away."""
    return now_ms - STAGED_MS, now_ms + STAGED_MS


def _is_anything_over(tx: Snapshot, now_ms: int) -> bool:
    return bool(
        tx.execute(_OLD_FORMS, _form_times(now_ms))
        or tx.execute("SELECT 1 FROM photo_delete WHERE until_ms <= ?", (now_ms,))
        or tx.execute(_UPLOADS_OVER, (now_ms,))
        or tx.execute(_DOWNLOADS_OVER, (now_ms - limits.MAILBOX_TTL_MS,))
    )


def blob_of(name: bytes, number: int) -> bytes:
    """The name under which one ciphertext is kept here."""
    return name + bytes([number])


def _code_of(answer: bytes | None) -> str:
    """What the worker holds against a picture; empty when nothing."""
    if answer is None:
        return "photo_too_hard"
    match answer.split():
        case [b"ok", *_]:
            return ""
        case [b"no", code]:
            return code.decode("ascii", "replace")
    return "photo_damaged"


def _staged(tx: Snapshot, name: str, officer: int) -> tuple[bytes, str, bytes]:
    row = tx.one(
        "SELECT name, kek, sealed FROM photo_staged"
        " WHERE name = ? AND officer = ? AND is_ready = 1 AND draft IS NULL",
        (_hex(name), officer),
    )
    if row is None:
        raise PolicyRefused("photo_gone", "A photo was removed or sent already.")
    return row[0], row[1], row[2]


def _hex(name: str) -> bytes:
    try:
        return bytes.fromhex(name)
    except ValueError:
        return b""


def _drop_staged(tx: Transaction, name: bytes) -> None:
    tx.execute("DELETE FROM photo_staged WHERE name = ?", (name,))
    for which in (0, 1):
        tx.execute("DELETE FROM photo_part WHERE blob = ?", (blob_of(name, which),))


def _store_parts(tx: Transaction, *, rows: Sequence[tuple[bytes, int, bytes]]) -> None:
    tx.execute_many("INSERT INTO photo_part (blob, at, bytes) VALUES (?, ?, ?)", rows)


def _read_range(tx: Snapshot, blob: bytes, offset: int, length: int) -> bytes:
    """Bytes of a ciphertext; its parts lie end to end and none is longer than the largest part."""
    end = offset + length
    parts: Iterator[tuple[int, bytes]] = iter(
        tx.execute(
            "SELECT at, bytes FROM photo_part WHERE blob = ? AND at > ? AND at < ? ORDER BY at",
            (blob, offset - limits.ATTACHMENT_PART_BYTES, end),
        )
    )
    return b"".join(data[max(0, offset - at) : max(0, end - at)] for at, data in parts)


def _named(fields: Sequence[int]) -> dict[str, int]:
    size_bytes, done_bytes, furthest_bytes, setbacks, next_at_ms = fields
    return {
        "size_bytes": size_bytes,
        "done_bytes": done_bytes,
        "furthest_bytes": furthest_bytes,
        "setbacks": setbacks,
        "next_at_ms": next_at_ms,
    }


def _progress(transfer: Transfer) -> tuple[int, int, int, int]:
    return transfer.done_bytes, transfer.furthest_bytes, transfer.setbacks, transfer.next_at_ms
