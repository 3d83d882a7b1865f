"""A conversation in which something cannot be true: frozen, its proof kept, thawed by a person.

Spec: docs/spec/conversation.md#evidence. One rule: nothing is merged and nothing is guessed. A frozen pair
sends nothing and takes nothing in; what is kept stays kept, what comes stays at the broker, until a
supervisor has spoken with the other office or a reset under a newer key declared what was lost.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from audit.store import AuditLog
from keys.errors import MalformedInput, PolicyRefused
from keys.primitives import sha256
from node.officers import Officers
from node.peers import Peer, load_peer
from node.views import EvidenceView, Session
from protocol.custody import Custody
from protocol.evidence import Clash, Proof, SignedVersion, encode_proof, follows_a_loss
from protocol.items import Acknowledgement
from protocol.message import Header, LeafOpening, MessageType, parse_header_untrusted
from protocol.sealing import Equivocation, OpenedAlert, OpenedMessage, Verified
from runtime.logs import get_logger
from runtime.sqlite import Database, Snapshot, Transaction

log = get_logger("evidence")

MESSAGES_MAX = 256
"""Whose notes are asked for at once: an auditor asks for those that a finding is about."""

_RECEIVED = "SELECT hh, header, signature, opening, instance FROM received WHERE peer = ? AND "


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """A message already taken in that stands in the way of another one."""

    clash: Clash
    hh: bytes
    version: SignedVersion


def find_clash(
    tx: Snapshot, peer_id: bytes, header: Header, opening: LeafOpening, hh: bytes
) -> _Taken | None:
    """What was received before and cannot be true together with this message."""
    for row in tx.execute(
        _RECEIVED + "instance = ? AND pair_seq = ? AND hh <> ?",
        (peer_id, header.instance, opening.pair_seq, hh),
    ):
        return _taken(Clash.NUMBER, row)
    # A reset declares the loss: it names what its sender remembered last, which others may have followed.
    if any(opening.pair_prev) and header.type is not MessageType.RESET:
        for row in tx.execute(_RECEIVED + "pair_prev = ? AND hh <> ?", (peer_id, opening.pair_prev, hh)):
            before = replace(parse_header_untrusted(row[1]), instance=row[4])
            if before.type is not MessageType.RESET and not follows_a_loss(before, header):
                return _taken(Clash.PREVIOUS, row)
    return None


def _taken(clash: Clash, row: Sequence[Any]) -> _Taken:
    hh, header, signature, opening, instance = row
    version = SignedVersion(header=header, signature=signature, opening=opening, instance=instance)
    return _Taken(clash=clash, hh=hh, version=version)


def freeze_for_equivocation(
    tx: Transaction, audit: AuditLog, peer: Peer, opened: Equivocation, own_office_id: bytes, now_ms: int
) -> None:
    """Two versions: keep both, and stop. A version that is evidence already stops nothing a second time."""
    taken = find_clash(tx, peer.office_id, opened.header, opened.opening, opened.hh)
    if taken is None or tx.execute(
        "SELECT 1 FROM evidence WHERE peer = ? AND hh = ?", (peer.office_id, opened.hh)
    ):
        return
    proof = Proof(
        recipient=own_office_id,
        certificates=peer.trusted.certificates,
        versions=(taken.version, _version_of(opened)),
    )
    _freeze(tx, audit, peer, taken.clash, proof, opened.hh, now_ms)


def freeze_for_acknowledgement_ahead(
    tx: Transaction, audit: AuditLog, peer: Peer, opened: Verified, own_office_id: bytes, now_ms: int
) -> None:
    """The peer acknowledges numbers we never gave out: it lies, or we are a copy or were rolled back."""
    assert isinstance(opened, OpenedAlert | OpenedMessage), "nothing else carries items"
    rides = any(isinstance(item, Acknowledgement) for item in opened.piggyback_items)
    proof = Proof(
        recipient=own_office_id,
        certificates=peer.trusted.certificates,
        versions=(_version_of(opened),),
        said=opened.message.piggyback if rides else opened.message.core,
    )
    _freeze(tx, audit, peer, Clash.AHEAD, proof, opened.hh, now_ms)


def _version_of(opened: Verified) -> SignedVersion:
    return SignedVersion(
        header=opened.message.header,
        signature=opened.message.signature,
        opening=opened.opening.encode(),
        instance=opened.header.instance,
    )


def _freeze(
    tx: Transaction, audit: AuditLog, peer: Peer, clash: Clash, proof: Proof, hh: bytes, now_ms: int
) -> None:
    tx.execute(
        "INSERT INTO evidence (peer, at_ms, code, hh, proof) VALUES (?, ?, ?, ?, ?)",
        (peer.office_id, now_ms, clash.value, hh, encode_proof(proof)),
    )
    tx.execute(
        "UPDATE peer SET frozen_ms = ?, frozen_code = ? WHERE office_id = ?",
        (now_ms, clash.value, peer.office_id),
    )
    peer.frozen_code = clash.value
    audit.append(tx, "peer.freeze", {"peer": peer.pseudonym, "code": clash.value, "hh": hh.hex()})
    log.error("conversation_frozen", code=clash.value)


def thaw(tx: Transaction, audit: AuditLog, peer: Peer, *, why: str, actor: str | None = None) -> None:
    """Let a frozen conversation go on; ``why`` is a code for the log. Does nothing to one that is not frozen.

    For a reset under a newer key version, for a second pairing, and for a supervisor. The evidence stays.
    """
    if peer.frozen_code is None:
        return
    tx.execute("UPDATE peer SET frozen_ms = NULL, frozen_code = NULL WHERE office_id = ?", (peer.office_id,))
    peer.frozen_code = None
    fields = {"peer": peer.pseudonym, "code": why}
    if actor is not None:
        fields["actor"] = actor
    audit.append(tx, "peer.thaw", fields)


class EvidenceRoom:
    """What a supervisor does about a frozen conversation."""

    def __init__(self, db: Database, audit: AuditLog, officers: Officers) -> None:
        self._db = db
        self._log = audit
        self._officers = officers

    async def unfreeze(self, session: Session, peer_id: bytes) -> None:
        """Go on after speaking with the other office. PolicyRefused for anybody but a supervisor."""
        if session.role != "supervisor":
            raise PolicyRefused(
                "supervisor_only",
                "Only a supervisor may let a conversation go on, after speaking with the other office.",
            )

        def record(tx: Transaction) -> None:
            peer = load_peer(tx, peer_id)
            if peer.frozen_code is None:
                raise PolicyRefused("not_frozen", "This conversation is not frozen; nothing was changed.")
            thaw(tx, self._log, peer, why="supervisor", actor=self._officers.pseudonym(tx, session.officer))

        await self._db.transact(record)

    async def export(self, session: Session, peer_id: bytes) -> tuple[EvidenceView, ...]:
        """Every proof about one peer, oldest first; taking it out is an entry in the log."""
        check_may_take_out(session)

        def record(tx: Transaction) -> tuple[EvidenceView, ...]:
            load_peer(tx, peer_id)
            actor = self._officers.pseudonym(tx, session.officer)
            found = tuple(
                EvidenceView(number=number, at_ms=at_ms, code=code, proof=proof.hex())
                for number, at_ms, code, proof in tx.execute(
                    "SELECT number, at_ms, code, proof FROM evidence WHERE peer = ? ORDER BY number",
                    (peer_id,),
                )
            )
            for view in found:
                digest = sha256(bytes.fromhex(view.proof)).hex()
                self._log.append(
                    tx, "audit.export", {"digest": digest, "actor": actor, "purpose": "evidence"}
                )
            return found

        return await self._db.transact(record)

    async def custody_notes(self, session: Session, messages: Sequence[bytes]) -> str:
        """Brokers' signed notes about these messages, and the brokers' cards, as an auditor's file.

        Taking them out is an entry in the log. MalformedInput ``messages_wrong`` for no message or too many.
        """
        check_may_take_out(session)
        if not 1 <= len(messages) <= MESSAGES_MAX:
            raise MalformedInput("messages_wrong", f"Name 1 to {MESSAGES_MAX} messages.")

        def record(tx: Transaction) -> str:
            notes = [
                note
                for message in messages
                for (note,) in tx.execute(
                    "SELECT c.note FROM custody c JOIN delivery d ON d.hh = c.hh WHERE d.msg_id = ?"
                    " ORDER BY c.rowid",
                    (message,),
                )
            ]
            text = notes_file(tx, notes)
            actor = self._officers.pseudonym(tx, session.officer)
            fields = {"digest": sha256(text.encode()).hex(), "actor": actor, "purpose": "custody"}
            self._log.append(tx, "audit.export", fields)
            return text

        return await self._db.transact(record)


def notes_file(tx: Snapshot, notes: Sequence[bytes]) -> str:
    """Custody notes with the brokers' cards, as ``salween-audit reconcile --notes`` reads them."""
    plain = [_plain_note(Custody.decode_untrusted(note)) for note in notes]
    cards = [card.hex() for (card,) in tx.execute("SELECT card FROM broker ORDER BY address")]
    return json.dumps({"v": 1, "brokers": cards, "notes": plain}, indent=1) + "\n"


def check_may_take_out(session: Session) -> None:
    """PolicyRefused ``evidence_role``."""
    if session.role not in ("supervisor", "auditor"):
        raise PolicyRefused("evidence_role", "Only a supervisor or an auditor may take evidence out.")


def _plain_note(note: Custody) -> dict[str, str | int]:
    """The fields of docs/spec/broker.md#custody, bytes in hex."""
    return {
        "o": note.origin,
        "p": note.put_capability_hash.hex(),
        "h": note.envelope_hash.hex(),
        "z": note.size_bytes,
        "i": note.log_index,
        "t": note.time_ms,
        "bi": note.batch_index,
        "bn": note.batch_count,
        "bp": b"".join(note.path).hex(),
        "s": note.signature.hex(),
    }
