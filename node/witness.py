"""Cosigning: our partners' logs by us, and our log by them.

Spec: docs/spec/log.md#witnessing. Called by the inbox inside its transaction, and by the housekeeping.
One rule: what a request changes, its entry and the answer that is owed are one transaction; a cosignature is
made after it, of the head that is held, and of no other.

Nothing here answers an answer, asks because of an entry about another log, or writes an entry because it was
asked again about a head it cosigned: two idle offices say what their heartbeats carry, and no more.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from audit.checkpoint import Checkpoint, parse_checkpoint_untrusted
from audit.note import (
    TYPE_COSIGNATURE,
    TYPE_COSIGNATURE_MLDSA44,
    TYPE_ED25519,
    Note,
    NoteSigner,
    PostQuantumSigner,
    Signature,
    VerifierKey,
    parse_note_untrusted,
    verify_note,
)
from audit.policy import QUORUM_NONE, Group, Policy
from audit.store import AuditLog
from audit.witness import (
    NOTHING_HELD,
    REFUSALS_MAX,
    Held,
    Judgement,
    Status,
    judge_untrusted,
    read_head_untrusted,
    with_cosignatures,
)
from keys.errors import MalformedInput, PolicyRefused, VerificationFailed
from node import watch
from node.outbox import Outbox
from node.peers import Peer, load_peer, save_peer
from node.views import WitnessView
from protocol import limits
from protocol.items import Item, WitnessAnswer, WitnessKey, WitnessMemory, WitnessRequest
from runtime.env import Env
from runtime.logs import get_logger
from runtime.sqlite import Database, Snapshot, Transaction

POLICY_WITNESSES_MAX = 500
PARTNERS = "partners"
BROKERS = "brokers"
BOTH = "partner-and-broker"
# A broker sees no finer than this when our log grows. Longer than a request can be under way (twice
# DATE_SKEW_MS_MAX): an older head never overtakes a newer one there, and late is not reached.
BROKER_INTERVAL_MS = 10 * limits.MINUTE_MS
CONFLICTS_MAX = 4
KEY_ID_BYTES = 4

Late = Literal["ok", "late", "unwitnessed"]
Coverage = Literal["nobody"] | Late

log = get_logger("witness")

# Peers to whom anything may leave now.
_TALKING = "p.state = 'active' AND p.frozen_ms IS NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cosigner:
    """How far one peer, or a broker that was asked to, cosigns our log."""

    size: int
    held_size: int
    asked_size: int | None
    asked_ms: int | None
    conflicts: int
    refused: int | None
    refused_ms: int | None

    def may_ask(self, now_ms: int) -> bool:
        """Not twice in a while. After a refusal, and while one waits for its answer, heartbeats alone ask
        again: the mailbox of an office that is shut must not fill. A time to come counts as long ago."""
        if self.asked_size is not None or self.refused is not None:
            return False
        return self.asked_ms is None or not 0 <= now_ms - self.asked_ms < limits.WITNESS_INTERVAL_MS


class Witnessing:
    """Both sides of cosigning between this office and its partners."""

    def __init__(
        self,
        env: Env,
        db: Database,
        audit_log: AuditLog,
        signer: NoteSigner,
        post_quantum: PostQuantumSigner,
        outbox: Outbox,
        *,
        stirred: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self._env = env
        self._db = db
        self._log = audit_log
        self._signer = signer
        self._post_quantum = post_quantum
        self.keys_changed = False  # since the policy was asked for
        self._outbox = outbox
        self._stirred = stirred
        self._changed = changed

    # --- we are the witness ---------------------------------------------------------------------------------

    def take_request(self, tx: Transaction, peer: Peer, item: WitnessRequest, *, may_wait: bool) -> None:
        """Judge, record, and owe an answer. A peer that asks without end gets none until the hour is over.

        ``may_wait``: it came with a heartbeat. Where it brings nothing new, so does its answer.
        """
        if tx.execute("UPDATE witness_hold SET asked = 1 WHERE peer = ? RETURNING 1", (peer.office_id,)):
            return  # answered when the hold ends
        now_ms = self._env.clock.now_ms()
        key = log_key_of(peer)
        held, was_cosigned = self._held(tx, peer)
        judged = judge_untrusted(item.body, key, held)
        is_news = judged.status is not Status.COSIGNED or not was_cosigned or judged.held.size > held.size
        is_prompt = is_news or not may_wait
        if is_prompt and not watch.take(
            tx, peer.office_id, "witnessed", now_ms, most=limits.WITNESSED_PER_HOUR_MAX
        ):
            log.warning("witness_request_dropped", code="too_many")
            return
        if judged.status is Status.COSIGNED and is_news:
            self._accept(tx, peer, judged.held, now_ms)
        elif judged.refusal is not None:
            self._refuse(tx, peer, judged, held, now_ms)
        shown = b""
        if (
            judged.status is Status.CONFLICT
            and judged.offered is not None
            and judged.offered.size <= held.size
        ):
            shown = held.note
        size = 0 if judged.offered is None else judged.offered.size
        self._owe(tx, peer.office_id, judged.status, size, held.size, note=shown, is_prompt=is_prompt)

    def _owe(
        self,
        tx: Transaction,
        peer_id: bytes,
        status: Status,
        size: int,
        held_size: int,
        *,
        note: bytes,
        is_prompt: bool,
    ) -> None:
        """The newest answer takes the place of one that has not left."""
        tx.execute(
            "INSERT INTO witness_answer (peer, status, size, held_size, note, prompt)"
            " VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (peer) DO UPDATE SET status = excluded.status, size = excluded.size,"
            " held_size = excluded.held_size, note = excluded.note, prompt = max(prompt, excluded.prompt)",
            (peer_id, int(status), size, held_size, note, int(is_prompt)),
        )
        if is_prompt:
            tx.on_commit(self._stirred)

    def _held(self, tx: Snapshot, peer: Peer) -> tuple[Held, bool]:
        """What we hold of its present log, and whether we cosigned that."""
        row = tx.one(
            "SELECT size, root, note, cosigned FROM witnessed_log WHERE origin = ?", (peer.log_origin,)
        )
        if row is not None:
            return Held(size=row[0], root=row[1], note=row[2]), bool(row[3])
        if not peer.checkpoint:
            return NOTHING_HELD, False
        # Checked when we paired: a log that does not begin there is not the one people vouched for.
        return read_head_untrusted(peer.checkpoint, log_key_of(peer)), False

    def _accept(self, tx: Transaction, peer: Peer, held: Held, now_ms: int) -> None:
        self._keep(tx, peer, held, now_ms)
        self._log.append(
            tx, "wit.cosigned", {"origin": peer.log_origin, "size": held.size, "root": held.root.hex()}
        )

    def _keep(self, tx: Transaction, peer: Peer, held: Held, now_ms: int) -> None:
        tx.execute(
            "INSERT INTO witnessed_log (origin, peer, size, root, note, at_ms, cosigned)"
            " VALUES (?, ?, ?, ?, ?, ?, 1) ON CONFLICT (origin) DO UPDATE SET size = excluded.size,"
            " root = excluded.root, note = excluded.note, at_ms = excluded.at_ms, cosigned = 1",
            (peer.log_origin, peer.office_id, held.size, held.root, held.note, now_ms),
        )

    def _refuse(self, tx: Transaction, peer: Peer, judged: Judgement, held: Held, now_ms: int) -> None:
        """Keep both notes, once for each head; the entry names what was offered."""
        assert judged.offered is not None
        assert judged.refusal is not None
        offered, code = judged.offered, judged.refusal
        if tx.execute(
            "SELECT 1 FROM witness_refusal"
            " WHERE peer = ? AND origin = ? AND code = ? AND size = ? AND root = ?",
            (peer.office_id, offered.origin, code, offered.size, offered.root),
        ):
            return
        tx.execute(
            "INSERT INTO witness_refusal (peer, origin, code, at_ms, size, root, offered, held)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                peer.office_id,
                offered.origin,
                code,
                now_ms,
                offered.size,
                offered.root,
                judged.note,
                held.note,
            ),
        )
        tx.execute(
            "DELETE FROM witness_refusal WHERE peer = ?1 AND number NOT IN"
            " (SELECT number FROM witness_refusal WHERE peer = ?1 ORDER BY number DESC LIMIT ?2)",
            (peer.office_id, REFUSALS_MAX),
        )
        self._log.append(
            tx,
            "wit.refused",
            {"origin": offered.origin, "size": offered.size, "root": offered.root.hex(), "code": code},
        )
        log.error("log_refused", code=code)
        tx.on_commit(self._changed)

    def take_memory(self, tx: Transaction, peer: Peer, item: WitnessMemory) -> None:
        """After we lost state: what we had cosigned of this peer's log, and what it held of the log we ended.

        What our own ended key signed we had verified, so it needs no proof. A peer that shows less than there
        was could only have two of its own heads cosigned, both of which it signed. VerificationFailed
        ``bad_signature`` or ``unknown_key``, MalformedInput ``bad_note`` or ``bad_checkpoint``.
        """
        if not tx.execute("SELECT 1 FROM witness_hold WHERE peer = ?", (peer.office_id,)):
            return
        now_ms = self._env.clock.now_ms()
        if item.cosigned:
            shown = read_head_untrusted(item.cosigned, log_key_of(peer))
            ours = [
                VerifierKey(name=name, type_byte=kind, public=public)
                for name, kind, public in tx.execute(
                    "SELECT name, type, public FROM note_key WHERE type <> ?"
                    " AND peer = (SELECT office_id FROM office)",
                    (TYPE_ED25519,),
                )
            ]
            if (
                verify_note(parse_note_untrusted(item.cosigned), ours)
                and shown.size > self._held(tx, peer)[0].size
            ):
                self._keep(tx, peer, shown, now_ms)
        if item.ended:
            self._note_ended(tx, peer, item.ended)
        if tx.value("DELETE FROM witness_hold WHERE peer = ? RETURNING asked", (peer.office_id,)):
            # A request overtook what we waited for. It is asked anew from what we hold, not by the hour.
            held, _ = self._held(tx, peer)
            self._owe(tx, peer.office_id, Status.CONFLICT, 0, held.size, note=b"", is_prompt=True)

    def _note_ended(self, tx: Transaction, peer: Peer, note: bytes) -> None:
        """How far a peer had seen the log that we ended: what goes beyond our backup is a declared loss."""
        try:
            origin = parse_checkpoint_untrusted(note)[0].origin
            row = tx.one(
                "SELECT public FROM note_key WHERE name = ? AND type = ?"
                " AND peer = (SELECT office_id FROM office)",
                (origin, TYPE_ED25519),
            )
            if row is None:
                return
            head = read_head_untrusted(note, VerifierKey(name=origin, type_byte=TYPE_ED25519, public=row[0]))
        except (MalformedInput, VerificationFailed) as fault:
            log.warning("ended_head_unusable", code=fault.code)  # a hold must not rest on it
            return
        self._log.append(
            tx,
            "backup.head",
            {"peer": peer.pseudonym, "origin": origin, "size": head.size, "root": head.root.hex()},
        )

    def _answer(self, tx: Transaction, peer: Peer, *, prompt: bool) -> list[Item]:
        """What is owed to this peer, forgotten with the message that carries it."""
        row = tx.one(
            "SELECT status, size, held_size, note FROM witness_answer WHERE peer = ? AND prompt >= ?",
            (peer.office_id, int(prompt)),
        )
        if row is None:
            return []
        tx.execute("DELETE FROM witness_answer WHERE peer = ?", (peer.office_id,))
        status, size, held_size, note = row
        lines: tuple[tuple[str, bytes], ...] = ()
        if status == Status.COSIGNED:
            held, was_cosigned = self._held(tx, peer)
            if not was_cosigned or held.size != size:
                return []  # its log began anew meanwhile
            head = Checkpoint(origin=peer.log_origin, size=held.size, root=held.root)
            lines = tuple((line.name, line.key_id + line.blob) for line in self._cosign(tx, head))
        return [WitnessAnswer(status=status, size=size, held_size=held_size, cosignatures=lines, note=note)]

    def _cosign(self, tx: Transaction, head: Checkpoint) -> list[Signature]:
        """Our lines under a head that is held. The post-quantum one stands under one of each hour."""
        now_ms = self._env.clock.now_ms()
        lines = [self._signer.cosign(head.text, now_ms // 1000)]
        last_ms = tx.value("SELECT post_quantum_ms FROM witnessed_log WHERE origin = ?", (head.origin,))
        if last_ms is None or not 0 <= now_ms - last_ms < limits.POST_QUANTUM_INTERVAL_MS:
            lines.append(self._post_quantum.cosign(head.text, now_ms // 1000))
            tx.execute("UPDATE witnessed_log SET post_quantum_ms = ? WHERE origin = ?", (now_ms, head.origin))
        return lines

    # --- our own log ----------------------------------------------------------------------------------------

    def _cosigner(self, tx: Snapshot, peer_id: bytes) -> _Cosigner:
        row = tx.one(
            "SELECT size, held_size, asked_size, asked_ms, conflicts, refused, refused_ms FROM cosigner"
            " WHERE peer = ?",
            (peer_id,),
        )
        size, held_size, asked_size, asked_ms, conflicts, refused, refused_ms = row or (
            (0, 0, None, None, 0, None, None)
        )
        return _Cosigner(
            size=size,
            held_size=held_size,
            asked_size=asked_size,
            asked_ms=asked_ms,
            conflicts=conflicts,
            refused=refused,
            refused_ms=refused_ms,
        )

    def _is_due(self, tx: Snapshot, cosigner: _Cosigner, now_ms: int) -> bool:
        """Whether our published head has something this peer has not cosigned, and it may be asked."""
        published = self._log.published.size
        if published <= cosigner.size or not cosigner.may_ask(now_ms):
            return False
        return self._log.has_own_entry(tx, cosigner.size, published)

    def is_broker_due(self, tx: Snapshot, cosigner_id: bytes, now_ms: int) -> bool:
        """Whether a broker that witnesses for us should be asked now. It answers at once or not at all."""
        if self._log.refusal is not None:
            return False
        cosigner = self._cosigner(tx, cosigner_id)
        published = self._log.published.size
        last_ms, wait_ms = cosigner.asked_ms, BROKER_INTERVAL_MS
        if cosigner.refused is not None:
            last_ms, wait_ms = cosigner.refused_ms, limits.HOUR_MS
        if published <= cosigner.size or (last_ms is not None and 0 <= now_ms - last_ms < wait_ms):
            return False
        return self._log.has_own_entry(tx, cosigner.size, published)

    def request(self, tx: Transaction, cosigner_id: bytes, now_ms: int) -> bytes:
        """What to ask this witness now, and that it was asked."""
        cosigner = self._cosigner(tx, cosigner_id)
        published = self._log.published.size
        if published > cosigner.size:
            tx.execute(
                "INSERT INTO cosigner (peer, asked_size, asked_ms) VALUES (?1, ?2, ?3)"
                " ON CONFLICT (peer) DO UPDATE SET asked_size = ?2, asked_ms = ?3",
                (cosigner_id, published, now_ms),
            )
        return self._log.request(tx, cosigner.held_size).encode()

    def take_key(self, tx: Transaction, peer: Peer, item: WitnessKey) -> None:
        """A peer's post-quantum witness key: the first it shows under the name of its present witness."""
        if item.name != peer.witness_name or self._post_quantum_key(tx, peer) is not None:
            return
        tx.execute(
            "INSERT OR IGNORE INTO note_key (name, type, public, peer) VALUES (?, ?, ?, ?)",
            (item.name, TYPE_COSIGNATURE_MLDSA44, item.public, peer.office_id),
        )
        tx.on_commit(self.note_keys)

    def note_keys(self) -> None:
        """A key of a witness is known that the policy beside the log does not name yet."""
        self.keys_changed = True

    def _post_quantum_key(self, tx: Snapshot, peer: Peer) -> VerifierKey | None:
        row = tx.one(
            "SELECT public FROM note_key WHERE peer = ? AND name = ? AND type = ? ORDER BY rowid LIMIT 1",
            (peer.office_id, peer.witness_name, TYPE_COSIGNATURE_MLDSA44),
        )
        if row is None:
            return None
        return VerifierKey(name=peer.witness_name, type_byte=TYPE_COSIGNATURE_MLDSA44, public=row[0])

    def _tell_key(self, tx: Transaction, peer_id: bytes) -> list[Item]:
        """Our own, until a message with it was acknowledged."""
        told = tx.execute(
            "SELECT 1 FROM witness_told t LEFT JOIN delivery d ON d.hh = t.hh"
            " WHERE t.peer = ? AND (d.hh IS NULL OR d.phase = 'acknowledged')",
            (peer_id,),
        )
        key = self._post_quantum.witness_key
        return [] if told else [WitnessKey(name=key.name, public=key.public)]

    def take_answer(self, tx: Transaction, peer: Peer, item: WitnessAnswer) -> None:
        """What a peer said of a head of ours. VerificationFailed as ``settle``."""
        post_quantum = self._post_quantum_key(tx, peer)
        keys = (*witness_keys_of(peer), *(() if post_quantum is None else (post_quantum,)))
        self.settle(tx, peer.office_id, keys, item)

    def settle(
        self, tx: Transaction, cosigner_id: bytes, keys: Collection[VerifierKey], item: WitnessAnswer
    ) -> None:
        """What a witness with these keys said of a head of ours.

        VerificationFailed ``bad_signature`` or ``cosignature_missing``: it said yes and signed nothing.
        """
        now_ms = self._env.clock.now_ms()
        tx.execute("INSERT OR IGNORE INTO cosigner (peer) VALUES (?)", (cosigner_id,))
        if item.note:
            self._meet_own_head(tx, cosigner_id, item.note, now_ms)
        if item.status == Status.COSIGNED:
            self._take_cosignature(tx, cosigner_id, keys, item)
        elif item.status == Status.CONFLICT:
            self._take_conflict(tx, cosigner_id, self._known_size(tx, item.held_size), now_ms)
        else:
            log.error("witness_refused_us", code=f"status_{item.status}")
            tx.execute(
                "UPDATE cosigner SET asked_size = NULL, refused = ?2, refused_ms = ?3 WHERE peer = ?1",
                (cosigner_id, item.status, now_ms),
            )
        tx.on_commit(self._stirred)
        tx.on_commit(self._changed)

    def _take_conflict(self, tx: Transaction, peer_id: bytes, held_size: int, now_ms: int) -> None:
        """How a witness says what it holds: nobody waits to ask again from there.

        Two requests that were under way together get two. Only one that never agrees refuses.
        """
        is_refusal = self._cosigner(tx, peer_id).conflicts >= CONFLICTS_MAX
        tx.execute(
            "UPDATE cosigner SET asked_ms = iif(held_size = ?2, asked_ms, NULL), held_size = ?2,"
            " asked_size = NULL, conflicts = conflicts + 1, refused = ?3, refused_ms = ?4 WHERE peer = ?1",
            (
                peer_id,
                held_size,
                int(Status.CONFLICT) if is_refusal else None,
                now_ms if is_refusal else None,
            ),
        )

    def _known_size(self, tx: Snapshot, size: int) -> int:
        """A size we once signed a head at; 0 for any other, with which nothing can be proved."""
        return 0 if self._log.head_at(tx, size) is None else size

    def _take_cosignature(
        self, tx: Transaction, cosigner_id: bytes, held: Collection[VerifierKey], item: WitnessAnswer
    ) -> None:
        head = self._log.head_at(tx, item.size)
        lines = tuple(
            Signature(name=name, key_id=blob[:KEY_ID_BYTES], blob=blob[KEY_ID_BYTES:])
            for name, blob in item.cosignatures
        )
        if head is None:
            raise VerificationFailed("cosignature_missing", "a cosignature of a head that we never signed")
        keys = {(key.name, key.key_id): key for key in held}
        verified = verify_note(Note(text=head.text, signatures=lines), keys.values())
        if not verified:
            raise VerificationFailed("cosignature_missing", "a yes without a cosignature under its key")
        last = with_cosignatures(self._log.signed(head), lines)
        times_s = [found.time_s for found in verified if found.time_s is not None]
        if max(times_s) * 1000 > limits.TIME_MS_MAX:
            raise VerificationFailed("cosignature_missing", "a cosignature of a time that no calendar has")
        for line in lines:
            if (line.name, line.key_id) in keys:
                tx.execute(
                    "INSERT OR REPLACE INTO cosignature (size, name, key_id, blob) VALUES (?, ?, ?, ?)",
                    (head.size, line.name, line.key_id, line.blob),
                )
        tx.execute(
            "UPDATE cosigner SET size = max(size, ?2), held_size = max(size, ?2), cosigned_ms = ?3,"
            " asked_size = iif(asked_size <= ?2, NULL, asked_size), conflicts = 0, refused = NULL,"
            " refused_ms = NULL, last = iif(size <= ?2, ?4, last) WHERE peer = ?1",
            (cosigner_id, head.size, max(times_s) * 1000, last),
        )

    def _meet_own_head(self, tx: Transaction, cosigner_id: bytes, note: bytes, now_ms: int) -> None:
        """A head under our own key that this database does not hold: it went back, or is not alone."""
        try:
            head = read_head_untrusted(note, self._log.key)
        except (MalformedInput, VerificationFailed):
            log.warning("witness_note_unusable", code="not_ours")
            return
        known = self._log.head_at(tx, head.size)
        if known is not None and known.root == head.root:
            return
        tx.execute(
            "INSERT OR IGNORE INTO foreign_head (one, peer, note, at_ms) VALUES (1, ?, ?, ?)",
            (cosigner_id, head.note, now_ms),
        )

    # --- by itself ------------------------------------------------------------------------------------------

    def company(self, tx: Transaction, peer: Peer) -> list[Item]:
        """What a heartbeat takes along: an answer that waited for it, and our published head once more."""
        items = self._answer(tx, peer, prompt=False)
        if self._log.published.size:
            body = self.request(tx, peer.office_id, self._env.clock.now_ms())
            items.append(WitnessRequest(body=body))
        return items

    def view(self, tx: Snapshot, peer: Peer) -> WitnessView:
        """How far one peer and we cosign each other."""
        ours = tx.one(
            "SELECT size, cosigned_ms, refused, refused_ms FROM cosigner WHERE peer = ?", (peer.office_id,)
        )
        theirs = tx.one(
            "SELECT size, at_ms FROM witnessed_log WHERE origin = ? AND cosigned = 1", (peer.log_origin,)
        )
        size, cosigned_ms, refused, refused_ms = ours or (0, None, None, None)
        their_size, their_ms = theirs or (0, 0)
        # What nobody signed is over when something was; two heads that cannot both be true never are.
        refusal = tx.one(
            "SELECT code, at_ms FROM witness_refusal WHERE peer = ? AND origin = ?"
            " AND (code <> 'bad_signature' OR at_ms > ?) ORDER BY number DESC LIMIT 1",
            (peer.office_id, peer.log_origin, their_ms),
        )
        return WitnessView(
            cosigned_size=size,
            cosigned_ms=cosigned_ms,
            refused=refused,
            refused_ms=refused_ms,
            their_size=their_size,
            their_refusal=None if refusal is None else refusal[0],
            their_refusal_ms=None if refusal is None else refusal[1],
        )

    def coverage(self, tx: Snapshot) -> tuple[Coverage, int, int | None]:
        """How partners cover our log, up to which size, and since when the oldest entry of its own is not.

        The entries themselves say how late it is: a publication that does not come is late as well.
        """
        size: int = tx.value(
            "SELECT coalesce(max(size), 0) FROM cosigner"
            " WHERE peer NOT IN (SELECT cosigner FROM broker_witness)"
        )
        state, since_ms = self.lateness(tx, size)
        if not tx.execute("SELECT 1 FROM peer WHERE state = 'active' LIMIT 1") and not size:
            return "nobody", size, since_ms
        return state, size, since_ms

    def lateness(self, tx: Snapshot, size: int) -> tuple[Late, int | None]:
        """How late a witness of our first ``size`` entries is: since when there is an entry that it lacks."""
        since_us = self._log.own_entry_since_us(tx, size, self._log.size)
        since_ms = None if since_us is None else since_us // 1000
        late_ms = 0 if since_ms is None else self._env.clock.now_ms() - since_ms
        if late_ms > limits.UNWITNESSED_MS:
            return "unwitnessed", since_ms
        return "late" if late_ms > limits.WITNESS_LATE_MS else "ok", since_ms

    async def keep_keys_once(self) -> None:
        """Remember every witness key in use: ours goes with its epoch, a peer's with its own."""
        own = (self._signer.witness_key, self._post_quantum.witness_key, self._log.key)
        insert = "INSERT OR IGNORE INTO note_key (name, type, public, peer) SELECT"

        def missing(tx: Snapshot) -> int:
            """A look costs no write, and nearly always finds nothing to do."""
            known = " NOT IN (SELECT public FROM note_key)"
            return sum(
                not tx.execute("SELECT 1 FROM note_key WHERE public = ?", (key.public,)) for key in own
            ) + (
                int(tx.value(f"SELECT count(*) FROM peer WHERE witness_public{known}"))  # noqa: S608
            )

        def record(tx: Transaction) -> None:
            for key in own:
                tx.execute(f"{insert} ?, ?, ?, office_id FROM office", (key.name, key.type_byte, key.public))
            tx.execute(f"{insert} witness_name, ?, witness_public, office_id FROM peer", (TYPE_COSIGNATURE,))

        if await self._db.read(missing):
            await self._db.transact(record)

    def policy(self, tx: Snapshot) -> Policy:
        """What verifies our log: its key, and every witness key that a partner or an asked broker ever had.

        No quorum is asked for, because nobody has cosigned the newest entries of a log that goes on: an
        auditor who wants every entry witnessed writes ``quorum partners`` in a copy of it, or
        ``partner-and-broker`` where an office has a broker as a witness too.
        """
        witnesses: dict[str, VerifierKey] = {}
        for name, kind, public, office in tx.execute(
            "SELECT k.name, k.type, k.public, p.name FROM note_key k JOIN peer p ON p.office_id = k.peer"
            # Who brought a key first has it, whoever shows it later as his.
            " WHERE k.type <> ? ORDER BY k.rowid LIMIT ?",
            (TYPE_ED25519, POLICY_WITNESSES_MAX),
        ):
            key = VerifierKey(name=name, type_byte=kind, public=public)
            if public not in (known.public for known in witnesses.values()):
                witnesses[_word_for(office, witnesses)] = key
        groups = {PARTNERS: Group(threshold=1, members=tuple(witnesses))} if witnesses else {}
        partners = len(witnesses)
        for name, kind, public in tx.execute(
            "SELECT name, type, public FROM broker_witness_key ORDER BY rowid LIMIT ?",
            (POLICY_WITNESSES_MAX - partners,),
        ):
            key = VerifierKey(name=name, type_byte=kind, public=public)
            if public not in (known.public for known in witnesses.values()):
                witnesses[_word_for(f"broker-{name.rsplit('/', 2)[1]}", witnesses)] = key
        if len(witnesses) > partners:
            groups[BROKERS] = Group(threshold=1, members=tuple(witnesses)[partners:])
            if partners:
                groups[BOTH] = Group(threshold=2, members=(PARTNERS, BROKERS))
        return Policy(logs=(self._log.key,), witnesses=witnesses, groups=groups, quorum=QUORUM_NONE)

    async def housekeep_once(self) -> None:
        """Write cosignatures into the published files; ask and answer whoever is due.

        PolicyRefused ``log_rolled_back`` once a partner has shown a head of ours that we do not hold.
        """
        now_ms = self._env.clock.now_ms()

        def look(tx: Snapshot) -> tuple[bytes | None, list[bytes], list[tuple[int, str, bytes, bytes]]]:
            foreign = tx.one("SELECT note FROM foreign_head")
            talking = [row[0] for row in tx.execute(f"SELECT p.office_id FROM peer p WHERE {_TALKING}")]  # noqa: S608
            answers = {row[0] for row in tx.execute("SELECT peer FROM witness_answer WHERE prompt = 1")}
            due = [
                peer_id
                for peer_id in talking
                if peer_id in answers or self._is_due(tx, self._cosigner(tx, peer_id), now_ms)
            ]
            lines = tx.execute("SELECT size, name, key_id, blob FROM cosignature ORDER BY size, name, key_id")
            return None if foreign is None else foreign[0], due, [tuple(line) for line in lines]

        foreign, due, lines = await self._db.read(look)
        if foreign is not None:
            await self._give_up(foreign)
        for peer_id in due:
            try:
                await self._db.transact(partial(self._talk, peer_id=peer_id, now_ms=now_ms))
            except PolicyRefused as full:
                log.warning("witness_waits", code=full.code)
        await self._show(lines)

    def _talk(self, tx: Transaction, *, peer_id: bytes, now_ms: int) -> None:
        peer = load_peer(tx, peer_id)
        if not peer.is_talking:
            return
        items = self._answer(tx, peer, prompt=True)
        if self._is_due(tx, self._cosigner(tx, peer_id), now_ms):
            items.append(WitnessRequest(body=self.request(tx, peer_id, now_ms)))
        if items:
            key = self._tell_key(tx, peer_id)
            hh = self._outbox.compose_control(tx, peer, [*key, *items], service=True)
            if key:
                tx.execute("INSERT OR REPLACE INTO witness_told (peer, hh) VALUES (?, ?)", (peer_id, hh))
            save_peer(tx, peer)

    async def _show(self, lines: Sequence[tuple[int, str, bytes, bytes]]) -> None:
        """Into the files first, and only then out of the table: a crash between the two writes them again."""
        by_size: dict[int, list[Signature]] = {}
        for size, name, key_id, blob in lines:
            by_size.setdefault(size, []).append(Signature(name=name, key_id=key_id, blob=blob))
        for size, signatures in by_size.items():
            await self._log.add_cosignatures(size, signatures)
        if lines:
            await self._db.transact(
                lambda tx: tx.execute_many(
                    "DELETE FROM cosignature WHERE size = ? AND name = ? AND key_id = ? AND blob = ?", lines
                )
            )

    async def _give_up(self, note: bytes) -> None:
        head, _ = parse_checkpoint_untrusted(note)
        await self._log.give_up(
            head, f"a partner holds a head of {head.size} entries under our key, and the database does not"
        )
        assert self._log.refusal is not None
        raise self._log.refusal


def _word_for(office: str, taken: Collection[str]) -> str:
    """A name for one more key of an office in a policy file: a single word, like no other in it."""
    word = "-".join("".join(c if c.isprintable() else " " for c in office).split())
    number = 1
    while (found := word if number == 1 else f"{word}~{number}") in (
        *taken,
        QUORUM_NONE,
        PARTNERS,
        BROKERS,
        BOTH,
    ):
        number += 1
    return found


def log_key_of(peer: Peer) -> VerifierKey:
    """What a peer's checkpoints are verified with."""
    return VerifierKey(name=peer.log_origin, type_byte=TYPE_ED25519, public=peer.log_public)


def witness_keys_of(peer: Peer) -> tuple[VerifierKey, ...]:
    """What a peer's cosignatures are verified with."""
    return (VerifierKey(name=peer.witness_name, type_byte=TYPE_COSIGNATURE, public=peer.witness_public),)


def memory_for(tx: Transaction, peer: Peer) -> WitnessMemory:
    """For a peer that lost state, before its new log takes the place of the one it ended.

    A request that it may never have seen is forgotten: it is asked anew.
    """
    ours = tx.one("SELECT last FROM cosigner WHERE peer = ?", (peer.office_id,))
    theirs = tx.one(
        "SELECT note FROM witnessed_log WHERE peer = ? AND origin <> ? ORDER BY at_ms DESC LIMIT 1",
        (peer.office_id, peer.log_origin),
    )
    tx.execute(
        "UPDATE cosigner SET asked_size = NULL, asked_ms = NULL, conflicts = 0 WHERE peer = ?",
        (peer.office_id,),
    )
    for table in ("witness_answer", "witness_told"):
        tx.execute(f"DELETE FROM {table} WHERE peer = ?", (peer.office_id,))  # noqa: S608 - our own names
    return WitnessMemory(
        cosigned=(ours[0] or b"") if ours else b"", ended=b"" if theirs is None else theirs[0]
    )


def begin_epoch(tx: Transaction) -> None:
    """Our log begins anew: nobody has cosigned it yet, and what was owed under the ended witness key is not.

    What we cosigned since the backup was made, only the peers know.
    """
    tx.execute("INSERT OR IGNORE INTO witness_hold (peer) SELECT office_id FROM peer WHERE state <> 'half'")
    # A broker knows the ended log by name: whether it is told of this one, a person says again.
    ended = ("cosigner", "cosignature", "witness_answer", "witness_told", "foreign_head", "broker_witness")
    for table in ended:
        tx.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
