"""Alerts of this office: written, released, kept, listed, opened.

Spec: docs/life-of-an-alert.md. Two rules: releasing puts content, numbers, signatures, envelopes and log
entries into one transaction; reading commits its access entry before the content key is unwrapped.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from audit.store import AuditLog
from keys.card import Role as ListedRole
from keys.errors import BrokenInvariant, MalformedInput, PolicyRefused
from node.deadlines import watch_delivery
from node.identity import Identity
from node.inbox import content_commitments, queue_receipt
from node.ladder import ORDER, OVERDUE, answers_of, ladders_of
from node.officers import Officers
from node.outbox import Outbox, ToSend, add_rung
from node.peers import check_talks, find_peer, load_peer, naming, save_peer
from node.photos import Photos
from node.receive_keys import ReceiveKeyRing
from node.vault import SealedContent, Vault
from node.views import (
    Access,
    AlertRow,
    AlertView,
    LadderStep,
    OutboxRow,
    PendingView,
    PhotoView,
    Recipient,
    Session,
    Submitted,
)
from protocol import limits
from protocol.alert import Alert, headline
from protocol.disclosures import decode_core_untrusted, decode_disclosures_untrusted, join_alert
from protocol.message import MessageType
from protocol.receipts import ReceiptState
from protocol.release import (
    Mode,
    OfficerSigner,
    PreparedAlert,
    ReleasedAlert,
    ReleasePolicy,
    mode_for,
    needs_second_officer,
    prepare,
    prepared_from_bytes,
    release_prepared,
)
from runtime.env import Env
from runtime.sqlite import Database, Snapshot, Transaction

PURPOSE_DUTY = "duty"
REASON_CODES = ("duty", "case", "handover", "supervision", "court", "other")
ENTRIES: Final[dict[Access, str]] = {"read": "acc.read", "print": "acc.print", "export": "acc.export"}
LIST_MAX = 500
TOMBSTONE_SHOWN_MS = 30 * limits.DAY_MS  # so long the inbox says of an alert that it went before its date
REFUSED_NAMED_MAX = 8  # recipients that stand in the way, in one message
ID_PREFIX_SHOWN = 8  # hex digits of an office nobody has a name for
OPENED_REMEMBERED_MAX = 4096
_COLUMNS = (
    "alert_id, incoming, peer, hh, status, crime_type, urgency, headline, needs_reason, created_ms,"
    " stored_ms, author, releaser, flags, opened_ms, erased_ms, erase_at_ms, erased_code"
)


class Alerts:
    """Everything officers do with alerts; ``Desk`` is what they reach it through."""

    def __init__(
        self,
        env: Env,
        db: Database,
        log: AuditLog,
        identity: Identity,
        officers: Officers,
        vault: Vault,
        keys: ReceiveKeyRing,
        outbox: Outbox,
        photos: Photos,
        *,
        policy: ReleasePolicy,
        language: str,
        opened_receipts: bool,
    ) -> None:
        self._env = env
        self._db = db
        self._log = log
        self._identity = identity
        self._officers = officers
        self._vault = vault
        self._keys = keys
        self._outbox = outbox
        self._photos = photos
        self._opened: OrderedDict[tuple[str, bytes], bool] = OrderedDict()  # who may see photos of what
        self._policy = policy
        self._language = language
        self._opened_receipts = opened_receipts

    # --- writing and releasing ------------------------------------------------------------------------------

    async def submit(
        self,
        session: Session,
        alert: Alert,
        recipients: Sequence[str],
        photos: Sequence[str] = (),
        mode: Mode | None = None,
    ) -> Submitted:
        """Release at once, or put aside for a second officer. PolicyRefused names what stands in the way.

        ``photos``: names of staged ones. ``mode``: None leaves it to the rule of ``mode_for``.
        """
        alert = await self._photos.with_photos(session.officer, alert, photos)
        audience = await self._db.read(partial(_check_audience, recipients=recipients))
        shared = mode_for(alert, len(audience), mode) == "shared"
        author = await self._signer(session)
        prepared = prepare(alert, author=author, audience=audience, random=self._env.random)
        if needs_second_officer(alert):
            return await self._put_aside(session, prepared, audience, photos)
        released = release_prepared(prepared, policy=self._policy, now_ms=self._env.clock.now_ms())
        await self._keep(released, prepared, photos=photos, draft_id=None, shared=shared)
        return Submitted(state="released", alert_id=released.alert_id.hex(), draft_id=None)

    async def release(self, session: Session, draft_id: str) -> Submitted:
        """Sign as second officer and let the alert go."""
        prepared = await self._db.read(partial(_load_draft, draft_id=draft_id))
        signer = await self._signer(session)
        released = release_prepared(
            prepared, policy=self._policy, now_ms=self._env.clock.now_ms(), releaser=signer
        )
        await self._keep(released, prepared, draft_id=draft_id)
        return Submitted(state="released", alert_id=released.alert_id.hex(), draft_id=None)

    async def release_emergency(self, session: Session, draft_id: str, reason: str) -> Submitted:
        """The author releases alone, with a reason: marked, counted, to be reviewed."""
        prepared = await self._db.read(partial(_load_draft, draft_id=draft_id))
        signer = await self._signer(session)
        released = release_prepared(
            prepared,
            policy=self._policy,
            now_ms=self._env.clock.now_ms(),
            emergency_author=signer,
            emergency_reason=reason,
        )
        await self._keep(released, prepared, draft_id=draft_id)
        return Submitted(state="released", alert_id=released.alert_id.hex(), draft_id=None)

    async def discard(self, session: Session, draft_id: str) -> None:
        """Throw away what waits; only its author or a supervisor may."""

        def record(tx: Transaction) -> None:
            prepared = _load_draft(tx, draft_id=draft_id)
            if session.officer != prepared.author.officer_number and session.role != "supervisor":
                raise PolicyRefused("not_yours", "Only its author or a supervisor may discard this alert.")
            tx.execute("DELETE FROM pending WHERE draft_id = ?", (bytes.fromhex(draft_id),))
            self._photos.drop_draft(tx, bytes.fromhex(draft_id))
            actor = self._officers.pseudonym(tx, session.officer)
            named = prepared.core.unsigned_id.hex()
            self._log.append(tx, "rel.refuse", {"alert": named, "actor": actor, "code": "discarded"})

        await self._db.transact(record)

    async def pending(self, session: Session) -> tuple[PendingView, ...]:
        """What waits for a second officer, oldest first."""
        del session

        def read(tx: Snapshot) -> tuple[PendingView, ...]:
            rows = tx.execute(
                "SELECT p.draft_id, p.prepared, p.recipients, p.author, o.alias, p.headline, p.created_ms"
                " FROM pending p JOIN officer o ON o.number = p.author WHERE p.erase_at_ms > ?"
                " ORDER BY p.created_ms",
                (self._env.clock.now_ms(),),
            )
            names = _peer_names(tx)
            return tuple(
                PendingView(
                    draft_id=draft_id.hex(),
                    author=author,
                    author_alias=alias,
                    created_ms=created,
                    headline=line,
                    fields=_plain(prepared_from_bytes(prepared).alert),
                    photos=len(prepared_from_bytes(prepared).alert.photos),
                    recipients=tuple(names.get(bytes.fromhex(r), r) for r in recipients.split()),
                )
                for draft_id, prepared, recipients, author, alias, line, created in rows
            )

        return await self._db.read(read)

    async def _put_aside(
        self, session: Session, prepared: PreparedAlert, audience: Sequence[bytes], photos: Sequence[str]
    ) -> Submitted:
        draft_id = self._env.random(16)
        now_ms = self._env.clock.now_ms()

        def record(tx: Transaction) -> None:
            tx.execute(
                "INSERT INTO pending"
                " (draft_id, prepared, recipients, author, headline, created_ms, erase_at_ms)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    draft_id,
                    prepared.to_bytes(),
                    " ".join(office_id.hex() for office_id in audience),
                    session.officer,
                    headline(prepared.alert, language=self._language),
                    now_ms,
                    prepared.core.erase_at_ms,
                ),
            )
            self._photos.put_aside(tx, draft_id, photos)
            actor = self._officers.pseudonym(tx, session.officer)
            # A draft has no alert id yet, because the releaser's signature is part of it: it goes by what
            # its officers sign.
            named = prepared.core.unsigned_id.hex()
            self._log.append(tx, "rel.author", {"alert": named, "actor": actor})

        await self._db.transact(record)
        return Submitted(state="awaiting_release", alert_id=None, draft_id=draft_id.hex())

    async def _keep(
        self,
        released: ReleasedAlert,
        prepared: PreparedAlert,
        *,
        photos: Sequence[str] = (),
        draft_id: str | None,
        shared: bool = False,
    ) -> None:
        """Content, every recipient's envelope, and the entries that say so: one transaction."""
        await self._vault.ensure_month()
        await self._keys.prepare(office_id for office_id, _ in released.audience)
        await self._db.transact(
            partial(
                self._record,
                released=released,
                prepared=prepared,
                photos=photos,
                draft_id=draft_id,
                shared=shared,
            )
        )

    def _record(
        self,
        tx: Transaction,
        *,
        released: ReleasedAlert,
        prepared: PreparedAlert,
        photos: Sequence[str],
        draft_id: str | None,
        shared: bool,
    ) -> None:
        if draft_id is not None:
            tx.execute("DELETE FROM pending WHERE draft_id = ?", (bytes.fromhex(draft_id),))
            if tx.changes() != 1:
                raise PolicyRefused("draft_gone", "Somebody released or discarded this alert a moment ago.")
        alert, now_ms = prepared.alert, self._env.clock.now_ms()
        core = decode_core_untrusted(released.core)
        signatures = {signature.role: signature.officer_number for signature in core.signatures}
        tx.execute(
            "INSERT INTO alert (alert_id, incoming, status, crime_type, urgency, headline, needs_reason,"
            " created_ms, stored_ms, expires_ms, erase_at_ms, author, releaser, flags)"
            " VALUES (?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                released.alert_id,
                alert.status,
                alert.crime_type,
                alert.urgency,
                headline(alert, alert_id=released.alert_id, language=self._language),
                int(alert.has_victim),
                alert.created_ms,
                now_ms,
                released.expires_ms,
                released.erase_at_ms,
                signatures["author"],
                signatures.get("releaser"),
                "emergency" if released.is_emergency else "",
            ),
        )
        self._vault.store_content(tx, released.alert_id, False, released.core, released.disclosures)
        self._log_release(tx, released, signatures)
        commitments = content_commitments(core.salt, released.core, released.disclosures)
        peers = [load_peer(tx, office_id) for office_id, _ in released.audience]
        for peer in peers:
            with naming(peer):
                check_talks(peer)
        self._photos.send(
            tx,
            released.alert_id,
            alert,
            peers,
            names=photos,
            draft_id=None if draft_id is None else bytes.fromhex(draft_id),
        )
        message = ToSend(
            type=MessageType.ALERT,
            released=released,
            expires_ms=released.expires_ms,
            urgent=alert.urgency == "immediate",
            submitted={
                "com": commitments,
                "exp": released.expires_ms,
                "alert": released.alert_id.hex(),
                "kind": alert.kind,
                "urgency": alert.urgency,
                "erase": released.erase_at_ms,
            },
        )
        compose = self._outbox.compose_shared if shared else self._outbox.compose_each
        for peer, (hh, _) in zip(peers, compose(tx, peers, message), strict=True):
            save_peer(tx, peer)
            watch_delivery(tx, hh, alert)
            add_rung(tx, released.alert_id, peer.office_id, "kept", now_ms, self._identity.name)

    def _log_release(self, tx: Transaction, released: ReleasedAlert, signatures: dict[Any, int]) -> None:
        alert_id = released.alert_id.hex()
        author = self._officers.pseudonym(tx, signatures["author"])
        self._log.append(tx, "rel.author", {"alert": alert_id, "actor": author})
        if released.is_emergency:
            self._log.append(tx, "rel.emergency", {"alert": alert_id, "actor": author, "code": "single_key"})
        elif "releaser" in signatures:
            releaser = self._officers.pseudonym(tx, signatures["releaser"])
            self._log.append(tx, "rel.release", {"alert": alert_id, "actor": releaser})

    async def _signer(self, session: Session) -> OfficerSigner:
        if session.role not in ("officer", "supervisor"):
            raise PolicyRefused(
                "role_may_not", "Auditors and operators read; they do not write or release alerts."
            )
        version: int = await self._db.read(lambda tx: tx.value("SELECT max(version) FROM officer_list"))
        # After the reading: a PIN reset meanwhile ends the session, and with it a key no new list names.
        key = self._officers.signing_key(session)
        role = ListedRole.SUPERVISOR if session.role == "supervisor" else ListedRole.OFFICER
        return OfficerSigner(number=session.officer, list_version=version, role=role, key=key)

    # --- reading --------------------------------------------------------------------------------------------

    async def inbox(
        self, *, only_unopened: bool = False, peer: str | None = None, urgency: str | None = None
    ) -> tuple[AlertRow, ...]:
        """What came in, newest first; victims' names are never among it."""

        def read(tx: Snapshot) -> tuple[AlertRow, ...]:
            names = _peer_names(tx)
            rows = tx.execute(
                f"SELECT {_COLUMNS} FROM alert WHERE incoming = 1"  # noqa: S608 - our constant
                " AND (erased_ms IS NULL AND erase_at_ms > ?"
                " OR erased_code IS NOT NULL AND erased_ms > ?)"
                " AND (? = 0 OR opened_ms IS NULL AND erased_ms IS NULL)"
                " AND (? IS NULL OR peer = ?) AND (? IS NULL OR urgency = ?)"
                " ORDER BY stored_ms DESC, rowid DESC LIMIT ?",
                (
                    now_ms,
                    now_ms - TOMBSTONE_SHOWN_MS,
                    int(only_unopened),
                    peer_id,
                    peer_id,
                    urgency,
                    urgency,
                    LIST_MAX,
                ),
            )
            return tuple(
                AlertRow(
                    alert_id=row[0].hex(),
                    peer_id=row[2].hex(),
                    peer_name=names.get(row[2], ""),
                    status=row[4],
                    crime_type=row[5],
                    urgency=row[6],
                    headline=row[7],
                    needs_reason=bool(row[8]),
                    created_ms=row[9],
                    received_ms=row[10],
                    opened=row[14] is not None,
                    flags=tuple(row[13].split()),
                    gone_ms=row[15],
                    gone_why=row[17],
                )
                for row in rows
            )

        peer_id, now_ms = None if peer is None else id_untrusted(peer), self._env.clock.now_ms()
        return await self._db.read(read)

    async def outbox(self) -> tuple[OutboxRow, ...]:
        """Our own alerts and where each delivery stands: overdue ones first, then newest first."""

        def read(tx: Snapshot) -> tuple[OutboxRow, ...]:
            rows = tx.execute(
                f"SELECT {_COLUMNS} FROM alert WHERE incoming = 0 ORDER BY stored_ms DESC, rowid DESC"  # noqa: S608
                " LIMIT ?",
                (LIST_MAX,),
            )
            names = _peer_names(tx)
            listed = [self._outbox_row(tx, row, names) for row in rows]
            # What nobody answered or fetched in time comes first: silence is what somebody must act on.
            return tuple(sorted(listed, key=lambda row: row.state not in OVERDUE))

        return await self._db.read(read)

    async def sent_one(self, alert_id: str) -> OutboxRow:
        """One of our own alerts, however old. PolicyRefused ``alert_unknown``."""
        named = id_untrusted(alert_id)

        def read(tx: Snapshot) -> OutboxRow:
            rows = tx.execute(
                f"SELECT {_COLUMNS} FROM alert WHERE incoming = 0 AND alert_id = ?",  # noqa: S608
                (named,),
            )
            if not rows:
                raise PolicyRefused("alert_unknown", "There is no such alert of ours.")
            return self._outbox_row(tx, rows[0], _peer_names(tx))

        return await self._db.read(read)

    def _outbox_row(self, tx: Snapshot, row: Sequence[Any], names: dict[bytes, str]) -> OutboxRow:
        recipients = self._recipients(tx, row[0], names)
        reached = [recipient.ladder[-1].step if recipient.ladder else "kept" for recipient in recipients]
        # The least far delivery names the row: a tick that is true for one of three offices is no tick.
        state = min(reached, key=lambda step: ORDER[step], default="kept")
        return OutboxRow(
            alert_id=row[0].hex(),
            status=row[4],
            crime_type=row[5],
            urgency=row[6],
            headline="" if self._is_gone(row) else row[7],
            created_ms=row[9],
            author=row[11],
            state="waiting" if state == "kept" else state,
            recipients=recipients,
            gone_ms=None if row[17] is None else row[15],
            gone_why=row[17],
        )

    def _is_gone(self, row: Sequence[Any]) -> bool:
        """Whether it is erased, or due to be: what is due is not shown, whenever its turn comes."""
        return row[15] is not None or row[16] <= self._env.clock.now_ms()

    def _recipients(self, tx: Snapshot, alert_id: bytes, names: dict[bytes, str]) -> tuple[Recipient, ...]:
        photos = self._photos.sent_views(tx, alert_id)
        return tuple(
            replace(recipient, photos=photos.get(bytes.fromhex(recipient.peer_id), ()))
            for recipient in _recipients(tx, alert_id, names)
        )

    async def open_alert(
        self, session: Session, alert_id: str, *, purpose: str, access: Access = "read"
    ) -> AlertView:
        """Open one alert. The access is committed first; a victim needs a purpose other than plain duty.

        So is a refusal: PolicyRefused ``reason_needed``, ``alert_erased``.
        """
        named = id_untrusted(alert_id)
        purpose = purpose or PURPOSE_DUTY
        if purpose not in REASON_CODES:
            raise PolicyRefused("reason_unknown", f"A reason is one of: {', '.join(REASON_CODES)}.")
        found = await self._db.transact(
            partial(self._record_access, session=session, alert_id=named, purpose=purpose, access=access)
        )
        if isinstance(found, PolicyRefused):
            raise found
        row, sealed, index, peer_id = found
        if peer_id is not None:
            await self._outbox.send_receipts(peer_id)
        incoming = bool(row[1])
        core_bytes, disclosure_bytes = self._vault.open_content(sealed, named)
        core = decode_core_untrusted(core_bytes)
        alert = join_alert(core, decode_disclosures_untrusted(disclosure_bytes))
        emergency = next((s.reason for s in core.signatures if s.role == "emergency"), None)

        def read(
            tx: Snapshot,
        ) -> tuple[tuple[Recipient, ...], tuple[LadderStep, ...], dict[bytes, str], tuple[PhotoView, ...]]:
            names = _peer_names(tx)
            photos = self._photos.views(tx, named, incoming)
            if incoming:
                return (), answers_of(tx, named, self._identity.name), names, photos
            recipients = self._recipients(tx, named, names)
            return recipients, recipients[0].ladder if len(recipients) == 1 else (), names, photos

        recipients, ladder, names, photos = await self._db.read(read)
        self._opened[session.token, named] = incoming
        while len(self._opened) > OPENED_REMEMBERED_MAX:
            self._opened.popitem(last=False)
        return AlertView(
            alert_id=named.hex(),
            incoming=incoming,
            peer_names=(names.get(row[2], ""),) if incoming else tuple(r.peer_name for r in recipients),
            fields=_plain(alert),
            headline=row[7],
            author=row[11],
            releaser=row[12],
            emergency_reason=emergency,
            recipients=recipients,
            ladder=ladder,
            received_ms=row[10] if incoming else None,
            access_index=index,
            flags=tuple(row[13].split()),
            photos=photos,
        )

    async def photo(self, session: Session, alert_id: str, number: int) -> tuple[str, bytes]:
        """Type and bytes of a picture beside an alert that this session opened.

        The opening is the access in the log, with its reason. PolicyRefused ``photo_alert_first`` without it,
        and as Photos.open.
        """
        named = id_untrusted(alert_id)
        return await self._photos.open(named, self._opened_by(session, named), number)

    async def photos(self, session: Session, alert_id: str) -> tuple[PhotoView, ...]:
        """How far the photos of an alert this session opened are. PolicyRefused ``photo_alert_first``."""
        named = id_untrusted(alert_id)
        incoming = self._opened_by(session, named)
        return await self._db.read(lambda tx: self._photos.views(tx, named, incoming))

    def _opened_by(self, session: Session, alert_id: bytes) -> bool:
        """Whether the alert this session opened came in."""
        incoming = self._opened.get((session.token, alert_id))
        if incoming is None:
            raise PolicyRefused("photo_alert_first", "Open the alert first; its photos belong to it.")
        return incoming

    def _record_access(
        self, tx: Transaction, *, session: Session, alert_id: bytes, purpose: str, access: Access
    ) -> tuple[Sequence[Any], SealedContent, int, bytes | None] | PolicyRefused:
        """The access entry, chained per alert; the first opening also queues a receipt for its sender.

        Returns the alert's row, its content still sealed, the entry's index and the peer to answer; or why
        the access is refused, which is an entry as well.
        """
        rows = tx.execute(
            f"SELECT {_COLUMNS} FROM alert WHERE alert_id = ? ORDER BY incoming DESC",  # noqa: S608 - our constant
            (alert_id,),
        )
        if not rows:
            raise PolicyRefused("alert_unknown", "There is no such alert here.")
        row = rows[0]
        refused = self._refusal(row, purpose)
        if refused is not None:
            actor = self._officers.pseudonym(tx, session.officer)
            denied = {"alert": alert_id.hex(), "actor": actor, "code": refused.code, "purpose": purpose}
            self._log.append(tx, "acc.deny", denied)
            return refused
        sealed = tx.one(
            "SELECT kek, wrapped_key, ciphertext FROM vault WHERE alert_id = ? AND incoming = ?",
            (alert_id, row[1]),
        )
        if sealed is None:
            raise BrokenInvariant("vault_row_missing", "A kept alert has lost its content.")
        content = SealedContent(kek=sealed[0], wrapped_key=sealed[1], ciphertext=sealed[2])
        actor = self._officers.pseudonym(tx, session.officer)
        index = self._chain(tx, alert_id, row[1], actor, purpose, access)
        if not row[1] or row[14] is not None:
            return row, content, index, None
        now_ms = self._env.clock.now_ms()
        tx.execute("UPDATE alert SET opened_ms = ? WHERE alert_id = ? AND incoming = 1", (now_ms, alert_id))
        if not self._opened_receipts:
            return row, content, index, None
        due_ms = self._outbox.receipt_due_ms(at_once=row[6] == "immediate")
        queue_receipt(
            tx, row[2], alert_id, row[3], ReceiptState.OPENED, now_ms, index, actor=actor, due_ms=due_ms
        )
        return row, content, index, row[2]

    def _chain(
        self, tx: Transaction, alert_id: bytes, incoming: int, actor: str, purpose: str, access: Access
    ) -> int:
        """The access entry, which counts on from the one before; its index."""
        before = tx.one(
            "SELECT count, last_index FROM access WHERE alert_id = ? AND incoming = ?", (alert_id, incoming)
        )
        count = 1 if before is None else before[0] + 1
        fields: dict[str, str | int] = {
            "alert": alert_id.hex(),
            "actor": actor,
            "purpose": purpose,
            "k": count,
        }
        if before is not None:
            fields["prev"] = before[1]
        index = self._log.append(tx, ENTRIES[access], fields)
        tx.execute(
            "INSERT INTO access (alert_id, incoming, count, last_index) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (alert_id, incoming) DO UPDATE"
            " SET count = excluded.count, last_index = excluded.last_index",
            (alert_id, incoming, count, index),
        )
        return index

    def record_export(
        self, tx: Transaction, *, session: Session, alert_id: bytes, incoming: bool, purpose: str
    ) -> SealedContent | None:
        """The access entry of one that goes to an auditor, and its content, sealed still; None once due.

        Nobody here has read it: its sender is not told that it was opened.
        """
        row = tx.one(
            "SELECT v.kek, v.wrapped_key, v.ciphertext FROM vault v JOIN alert a USING (alert_id, incoming)"
            " WHERE alert_id = ? AND incoming = ? AND a.erased_ms IS NULL AND a.erase_at_ms > ?",
            (alert_id, int(incoming), self._env.clock.now_ms()),
        )
        if row is None:
            return None
        actor = self._officers.pseudonym(tx, session.officer)
        self._chain(tx, alert_id, int(incoming), actor, purpose, "export")
        return SealedContent(kek=row[0], wrapped_key=row[1], ciphertext=row[2])

    def _refusal(self, row: Sequence[Any], purpose: str) -> PolicyRefused | None:
        """Why an alert that is here is not opened."""
        if row[17] is not None:
            return PolicyRefused(
                "alert_erased_early",
                "The content of this alert was erased before its date, by hand here or by its sender; its"
                " history remains in the log.",
            )
        if self._is_gone(row):
            return PolicyRefused(
                "alert_erased", "The content of this alert was erased; its history remains in the log."
            )
        if row[8] and purpose == PURPOSE_DUTY:
            return PolicyRefused("reason_needed", "This alert is about a victim. Say why you open it.")
        return None

    # --- by itself -----------------------------------------------------------------------------------------

    async def count_anew_once(self) -> None:
        """What was written while the clock stood before our own certificate counts from when it is right.

        A flat battery on the main board sets a clock to 1970. Alerts written then would otherwise expire, and
        be erased, in the moment somebody sets the clock.
        """
        now_ms = self._env.clock.now_ms()
        birth_ms = self._identity.certificate.not_before_ms
        if now_ms < birth_ms:
            return
        which = (
            "SELECT alert_id, stored_ms FROM alert WHERE incoming = 0 AND stored_ms < ? AND erased_ms IS NULL"
        )

        def record(tx: Transaction) -> None:
            for alert_id, stored_ms in tx.execute(which, (birth_ms,)):
                shift_ms = now_ms - stored_ms
                tx.execute(
                    "UPDATE alert SET stored_ms = ?1, expires_ms = expires_ms + ?2,"
                    " erase_at_ms = erase_at_ms + ?2, agreed_ms = agreed_ms + ?2"
                    " WHERE alert_id = ?3 AND incoming = 0",
                    (now_ms, shift_ms, alert_id),
                )
                self._outbox.count_anew(tx, alert_id, shift_ms)

        if await self._db.read(lambda tx: tx.execute(which + " LIMIT 1", (birth_ms,))):
            await self._db.transact(record)


# --- helpers ------------------------------------------------------------------------------------------------


def _check_audience(tx: Snapshot, *, recipients: Sequence[str]) -> tuple[bytes, ...]:
    """Recipients as office ids; each must be an active peer. Every one that is not is named at once."""
    if not recipients:
        raise PolicyRefused("audience_empty", "Choose at least one office to send to.")
    if len(recipients) > limits.RECIPIENTS_MAX:
        raise PolicyRefused("audience_too_large", f"Choose at most {limits.RECIPIENTS_MAX} offices.")
    audience = tuple(id_untrusted(recipient) for recipient in recipients)
    refused: list[PolicyRefused] = []
    for office_id in dict.fromkeys(audience):
        try:
            _check_recipient(tx, office_id, audience.count(office_id))
        except PolicyRefused as found:
            refused.append(found)
    if refused:
        told = [found.detail for found in refused[:REFUSED_NAMED_MAX]]
        if len(refused) > len(told):
            told.append(f"And {len(refused) - len(told)} more.")
        raise PolicyRefused(refused[0].code, " ".join(told))
    return audience


def _check_recipient(tx: Snapshot, office_id: bytes, times: int) -> None:
    peer = find_peer(tx, office_id)
    if peer is None:
        named = office_id.hex()[:ID_PREFIX_SHOWN]
        raise PolicyRefused("peer_unknown", f"{named}: This office is not paired with that one.")
    with naming(peer):
        if times > 1:
            raise PolicyRefused("audience_repeated", "This office is chosen twice; name it once.")
        check_talks(peer)


def _plain(alert: Alert) -> dict[str, Any]:
    """An alert for screens and commands: without the manifests of its photos, which hold keys."""
    return alert.model_dump(mode="json", exclude={"photos"})


def id_untrusted(text: str) -> bytes:
    """An id of an alert or an office as screens and commands give it; MalformedInput ``id_malformed``."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != limits.HASH_BYTES:
        raise MalformedInput("id_malformed", "An id is 64 hex digits.")
    return found


def _load_draft(tx: Snapshot, *, draft_id: str) -> PreparedAlert:
    try:
        named = bytes.fromhex(draft_id)
    except ValueError:
        named = b""
    row = tx.one("SELECT prepared FROM pending WHERE draft_id = ?", (named,))
    if row is None:
        raise PolicyRefused("draft_gone", "Somebody released or discarded this alert already.")
    return prepared_from_bytes(row[0])


def _peer_names(tx: Snapshot) -> dict[bytes, str]:
    return dict(tx.execute("SELECT office_id, name FROM peer"))


def _recipients(tx: Snapshot, alert_id: bytes, names: dict[bytes, str]) -> tuple[Recipient, ...]:
    """Every delivery of one of our alerts with its ladder, lowest rung first."""
    ladders = ladders_of(tx, alert_id)
    deliveries = tx.execute(
        # What rests because the mailbox is full has the reason and the next try of the mailbox.
        "SELECT d.peer, coalesce(d.cause, CASE WHEN f.peer IS NOT NULL THEN 'broker_quota' END),"
        " coalesce(f.next_at_ms, d.next_at_ms), d.phase FROM delivery d LEFT JOIN full_mailbox f"
        " ON f.peer = d.peer AND f.urgent = d.urgent AND d.envelope IS NOT NULL"
        " WHERE d.alert_id = ? ORDER BY d.rowid",
        (alert_id,),
    )
    return tuple(
        Recipient(
            peer_id=peer.hex(),
            peer_name=names.get(peer, ""),
            ladder=ladders.get(peer, ()),
            cause=cause,
            next_try_ms=next_at_ms if phase != "acknowledged" else None,
        )
        for peer, cause, next_at_ms, phase in deliveries
    )
