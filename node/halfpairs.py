"""Pairs of which one word is missing: kept, completed by that word however late it comes, said again.

Spec: docs/spec/pairing.md#half-pairs. One rule: what a ceremony made counts only once the peer's ``pair-ok``
for that very ceremony verified; until then nothing of it is shown or sent, and a pair that worked before goes
on working. Two offices cannot end with different minds for long: whoever is active says its ``pair-ok`` again
over the pair itself until it hears the peer there.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from audit.store import AuditLog
from keys import trust
from keys.bundle import parse_signed_bundle_untrusted
from keys.card import Certificate, encode_certificate
from keys.errors import MalformedInput, PolicyRefused, Unavailable, VerificationFailed
from keys.pairok import parse_pair_ok_untrusted, verify_pair_ok
from keys.primitives import sha256
from keys.trust import PairState
from node.broker_link import Mailbox
from node.evidence import thaw
from node.identity import Identity
from node.layout import SecretName
from node.outbox import Outbox
from node.peers import Peer, find_peer, insert_peer, load_peer, save_peer
from node.reset_keys import note_paired
from node.resets import end_by_pairing
from node.revocations import raise_floor
from protocol import limits
from protocol.conversation import new_pair_state, with_my_instance, with_peer_instance
from protocol.items import KeyAnnouncement, PairOkItem, decode_items_untrusted
from protocol.message import MessageType
from protocol.receivekeys import PeerKey, first_receive_keys
from protocol.sealing import Opened, PendingPair
from runtime.env import Env
from runtime.logs import get_logger
from runtime.sqlite import Database, Snapshot, Transaction

PAIR_OK_AGAIN_MS = 3 * limits.MINUTE_MS
_COLUMNS = (
    "peer, number, at_ms, role, how, transcript, own_pair_ok, bundle, instance, receive_key_id,"
    " receive_public, own_broker_address, officer_list"
)

log = get_logger("halfpairs")


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfPair:
    """What one ceremony made, our officer's word included."""

    peer: bytes
    number: int
    at_ms: int
    role: str
    how: str
    transcript: bytes
    own_pair_ok: bytes = field(repr=False)
    bundle: bytes = field(repr=False)
    instance: bytes
    receive_key_id: bytes
    receive_public: bytes = field(repr=False)
    own_broker_address: str
    officer_list: int

    @property
    def mailbox(self) -> str:
        """Keystore name of the mailbox this ceremony made."""
        return SecretName.mailbox(self.peer, self.number)


def insert_half(tx: Transaction, half: HalfPair) -> None:
    """Keep a half pair; an office that was never active here is shown as half from now on."""
    tx.execute(
        f"INSERT INTO half_pair ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            half.peer,
            half.number,
            half.at_ms,
            half.role,
            half.how,
            half.transcript,
            half.own_pair_ok,
            half.bundle,
            half.instance,
            half.receive_key_id,
            half.receive_public,
            half.own_broker_address,
            half.officer_list,
        ),
    )
    earlier = find_peer(tx, half.peer)
    peer = peer_of(half, earlier, half.at_ms)  # a bundle that contradicts what we know ends the ceremony here
    peer.trusted = raise_floor(tx, peer.trusted)
    if earlier is None or earlier.trusted.state is PairState.HALF:
        insert_peer(tx, peer)


def half_pairs(tx: Snapshot, peer_id: bytes | None = None) -> list[HalfPair]:
    """Those of one peer or of all, oldest first."""
    which, bound = ("", ()) if peer_id is None else (" WHERE peer = ?", (peer_id,))
    rows = tx.execute(f"SELECT {_COLUMNS} FROM half_pair{which} ORDER BY peer, number", bound)  # noqa: S608
    return [_from_row(row) for row in rows]


def _from_row(row: Sequence[Any]) -> HalfPair:
    names = [name.strip() for name in _COLUMNS.split(",")]
    return HalfPair(**dict(zip(names, row, strict=True)))


def peer_of(half: HalfPair, earlier: Peer | None, now_ms: int) -> Peer:
    """The peer that this ceremony makes, state HALF.

    What was known of the office before stays: pins, revocations and minimum suite; and the numbers of an
    instance that ends are still told apart, so that what was on its way is taken in once.
    """
    signed = parse_signed_bundle_untrusted(half.bundle)
    bundle = signed.bundle
    known = None if earlier is None else earlier.trusted
    pair = new_pair_state(half.instance, bundle.instance)
    if earlier is not None and earlier.trusted.state is not PairState.HALF:
        pair = with_my_instance(with_peer_instance(earlier.pair, bundle.instance), half.instance)
    return Peer(
        office_id=half.peer,
        name=bundle.certificate.name,
        country=bundle.certificate.country,
        since_ms=half.at_ms,
        trusted=trust.pin_bundle(signed, now_ms, known),
        pair=pair,
        receive_keys=first_receive_keys(
            key_id=half.receive_key_id,
            public=half.receive_public,
            peer_instance=bundle.instance,
            now_ms=half.at_ms,
        ),
        peer_key=PeerKey(
            announcement=KeyAnnouncement(
                key_version=bundle.certificate.key_version,
                rk_gen=bundle.receive_generation,
                key_id=bundle.receive_key_id,
                public=bundle.receive_public,
            ),
            rk_first=1,
        ),
        broker_address=str(bundle.broker_address),
        put_secret=bundle.put_secret,
        own_broker_address=half.own_broker_address,
        officer_list_sent=half.officer_list,
        last_heard_ms=half.at_ms,
        ack_due_ms=None,
        log_origin=bundle.log_origin,
        log_public=bundle.log_public,
        witness_name=bundle.witness_name,
        witness_public=bundle.witness_public,
        checkpoint=bundle.checkpoint,
    )


def comes_back(earlier: Peer, brought: Certificate) -> bool:
    """Whether it shows a higher key version: its node, and every number it knew, may be lost."""
    known = [certificate.key_version for certificate in earlier.trusted.certificates]
    return brought.key_version > max(known, default=0)


def evidence_of(tx: Snapshot, peer_id: bytes) -> list[dict[str, Any]]:
    """What both offices signed in each ceremony with one peer, oldest first, for whoever verifies it.

    The hashes stand in the log entry ``pair.ok``; a certificate says whose key made each signature.
    """
    peer = load_peer(tx, peer_id)
    own: bytes = tx.value("SELECT certificate FROM office")
    return [
        {
            "peer": peer_id.hex(),
            "at_ms": at_ms,
            "transcript": transcript.hex(),
            "ours": ours.hex(),
            "ours_sha256": sha256(ours).hex(),
            "theirs": theirs.hex(),
            "theirs_sha256": sha256(theirs).hex(),
            "our_certificate": own.hex(),
            "their_certificates": [encode_certificate(c).hex() for c in peer.trusted.certificates],
        }
        for at_ms, transcript, ours, theirs in tx.execute(
            "SELECT at_ms, transcript, own_pair_ok, peer_pair_ok FROM pairing_evidence WHERE peer = ?"
            " ORDER BY at_ms, transcript",
            (peer_id,),
        )
    ]


class HalfPairs:
    """Completes half pairs, and says our word again where it may have been missed."""

    def __init__(
        self,
        env: Env,
        db: Database,
        log: AuditLog,
        identity: Identity,
        outbox: Outbox,
        *,
        repaired: Callable[[Transaction, Peer], None],
        completed: Callable[[], None],
    ) -> None:
        self._env = env
        self._db = db
        self._log = log
        self._identity = identity
        self._outbox = outbox
        self._repaired = repaired
        self._completed = completed

    def complete(self, tx: Transaction, half: HalfPair, peer_pair_ok: bytes) -> Peer:
        """The peer's verified word is here: what the ceremony made takes the place of what was.

        An earlier half pair of the same peer, and the one that is active, end with it. What they had on its
        way is sealed anew for the peer's new key.
        """
        now_ms = self._env.clock.now_ms()
        earlier = find_peer(tx, half.peer)
        peer = peer_of(half, earlier, now_ms)
        peer.trusted = trust.activate(raise_floor(tx, peer.trusted), now_ms)
        if earlier is not None:
            thaw(tx, self._log, earlier, why="pairing")
            end_by_pairing(tx, self._outbox, half.peer, now_ms)
        insert_peer(tx, peer)
        tx.execute("DELETE FROM half_pair WHERE peer = ? AND number <= ?", (half.peer, half.number))
        tx.execute(
            "INSERT INTO pairing_evidence (peer, at_ms, transcript, own_pair_ok, peer_pair_ok)"
            " VALUES (?, ?, ?, ?, ?)",
            (half.peer, now_ms, half.transcript, half.own_pair_ok, peer_pair_ok),
        )
        tx.execute(
            "INSERT INTO pair_ok_due (peer, pair_ok, due_ms) VALUES (?, ?, ?) ON CONFLICT (peer) DO UPDATE"
            " SET pair_ok = excluded.pair_ok, due_ms = excluded.due_ms",
            (half.peer, half.own_pair_ok, now_ms + PAIR_OK_AGAIN_MS),
        )
        if earlier is not None and comes_back(earlier, peer.trusted.certificate):
            self._repaired(tx, peer)
            save_peer(tx, peer)
        else:
            tx.execute(
                "UPDATE delivery SET envelope = NULL, next_at_ms = ?"
                " WHERE peer = ? AND message IS NOT NULL AND phase IN ('kept', 'held', 'address_lost')",
                (now_ms, half.peer),
            )
        note_paired(
            tx, peer, parse_pair_ok_untrusted(half.own_pair_ok), parse_pair_ok_untrusted(peer_pair_ok)
        )
        tx.on_commit(self._completed)
        self._log.append(
            tx,
            "pair.ok",
            {
                "peer": peer.pseudonym,
                "transcript": half.transcript.hex(),
                "origin": peer.log_origin,
                "key": sha256(peer.log_public).hex(),
                "how": half.how,
                "ours": sha256(half.own_pair_ok).hex(),
                "theirs": sha256(peer_pair_ok).hex(),
            },
        )
        return peer

    # --- for the inbox --------------------------------------------------------------------------------------

    def behind(self, tx: Snapshot, mailbox: Mailbox) -> tuple[Peer, HalfPair | None]:
        """Whom an envelope in this mailbox comes from: the peer, or the half pair that made the mailbox."""
        for half in half_pairs(tx, mailbox.peer):
            if half.mailbox == mailbox.name:
                return peer_of(half, find_peer(tx, half.peer), self._env.clock.now_ms()), half
        return load_peer(tx, mailbox.peer), None

    def completed_by(self, tx: Transaction, half: HalfPair | None, opened: Opened) -> Peer | None:
        """The active peer, if this verified message brings the word that was missing; else None."""
        if (
            half is None
            or not isinstance(opened, PendingPair)
            or opened.header.type is not MessageType.CONTROL
        ):
            return None
        try:
            items = decode_items_untrusted(opened.message.core) if opened.message.has_body else ()
            for item in items:
                if isinstance(item, PairOkItem):
                    self._check_word(tx, half, item.pair_ok)
                    return self.complete(tx, half, item.pair_ok)
        except (MalformedInput, VerificationFailed, PolicyRefused, Unavailable) as fault:
            log.warning("pair_ok_dropped", code=fault.code)
        return None

    def _check_word(self, tx: Snapshot, half: HalfPair, encoded: bytes) -> None:
        word = parse_pair_ok_untrusted(encoded)
        if word.transcript != half.transcript or word.peer_id != self._identity.office_id:
            raise VerificationFailed("pair_ok_foreign", "a pair-ok belongs to another ceremony")
        peer = peer_of(half, find_peer(tx, half.peer), self._env.clock.now_ms())
        verify_pair_ok(word, trust.certificate_for_version(peer.trusted, word.key_version))

    # --- by itself ------------------------------------------------------------------------------------------

    async def housekeep_once(self) -> None:
        """Say our word over the pair where the peer was not heard since the ceremony."""
        now_ms = self._env.clock.now_ms()
        due = await self._db.read(
            lambda tx: [
                row[0] for row in tx.execute("SELECT peer FROM pair_ok_due WHERE due_ms <= ?", (now_ms,))
            ]
        )
        for peer_id in due:
            with contextlib.suppress(PolicyRefused):
                await self._db.transact(partial(self._say_again, peer_id=peer_id))

    def _say_again(self, tx: Transaction, peer_id: bytes) -> None:
        peer = load_peer(tx, peer_id)
        word: bytes = tx.value("SELECT pair_ok FROM pair_ok_due WHERE peer = ?", (peer_id,))
        inbound = peer.pair.inbound
        # Only an active pair sends: one message of this instance says that the peer has our word.
        was_heard = inbound.contiguous_to > 0 or inbound.bitmap != 0
        if peer.is_talking and not was_heard:
            self._outbox.compose_control(tx, peer, [PairOkItem(pair_ok=word)], service=False)
            save_peer(tx, peer)
        tx.execute("DELETE FROM pair_ok_due WHERE peer = ?", (peer_id,))
