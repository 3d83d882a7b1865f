"""Revocations: taken from any channel, applied once, told to every partner; partners suspended and retired.

Spec: docs/spec/keys.md#revocation. One rule: a revocation proves itself, so it does not matter who brings it,
and the set only grows. What it changes, its log entry and whom it must be told to are one transaction;
telling comes after it, by messages and at the brokers, so no hostile broker or partner can keep it quiet.

A partner that is suspended keeps its alerts in the outbox, unsent; what its revoked key signed and is not
committed yet is quarantined unshown (node/inbox.py).
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from audit.store import AuditLog
from keys import trust
from keys.card import Revocation, encode_revocation, parse_revocation_untrusted, verify_revocation
from keys.errors import MalformedInput, PolicyRefused, SalweenError, VerificationFailed
from keys.notice import Notice, encode_notice, parse_notice_untrusted, verify_notice
from keys.secret import SecretBytes
from node.broker_link import BrokerClient, BrokerLink
from node.identity import Identity
from node.officers import Officers
from node.outbox import Outbox
from node.peers import Peer, load_peer, save_peer
from node.secrets import MailboxKeys, Secrets
from node.views import Learnt, Session
from protocol import limits
from protocol.items import RevocationItem
from protocol.requests import Notices, NoticesAnswer, Op, Publish, Published
from runtime.env import Env
from runtime.exits import DiskFailed
from runtime.logs import get_logger
from runtime.sqlite import Database, Snapshot, Transaction

Channel = Literal["broker", "partner", "paper"]

ASK_EVERY_S = 3600.0
ASK_AGAIN_S = 120.0
# Twice what an honest broker shows: one that shows more is not listened to for longer.
PAGES_MAX = 2 * (limits.NOTICES_VOUCHED_MAX + limits.NOTICES_UNVOUCHED_MAX) // limits.NOTICES_PER_ANSWER_MAX
# Forty bytes each. A full table takes no more strangers; partners never depend on it.
STRANGERS_MAX = 16_384
ITEMS_PER_MESSAGE = 8  # of 3.7 KB each at most: half a body

log = get_logger("revocations")


class Revocations:
    """Learns, applies and passes on revocations for one office."""

    def __init__(
        self,
        env: Env,
        db: Database,
        log: AuditLog,
        identity: Identity,
        secrets: Secrets,
        officers: Officers,
        outbox: Outbox,
        *,
        links: Callable[[], Sequence[BrokerLink]],
        stirred: Callable[[], None],
        look_again: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self._env = env
        self._db = db
        self._log = log
        self._identity = identity
        self._secrets = secrets
        self._officers = officers
        self._outbox = outbox
        self._links = links
        self._stirred = stirred
        self._look_again = look_again
        self._changed = changed
        self._ask_now = asyncio.Event()
        self._cursors: dict[str, int] = {}
        self._published: dict[tuple[str, bytes, int], None] = {}

    # --- learning -------------------------------------------------------------------------------------------

    def learn(
        self, tx: Transaction, revocation: Revocation, channel: Channel, bringer: Peer | None = None
    ) -> Learnt | None:
        """Apply one to whom it is about; None when that is no office of ours. The caller saves ``bringer``.

        VerificationFailed when its root did not sign it: nothing has changed then.
        """
        if revocation.office_id == self._identity.office_id:
            return self._learn_of_ourselves(tx, revocation, channel)
        if bringer is not None and bringer.office_id == revocation.office_id:
            return self._apply(tx, bringer, revocation, channel, bringer)
        if not tx.execute("SELECT 1 FROM peer WHERE office_id = ?", (revocation.office_id,)):
            return None
        peer = load_peer(tx, revocation.office_id)
        learnt = self._apply(tx, peer, revocation, channel, bringer)
        save_peer(tx, peer)
        return learnt

    def learn_items(self, tx: Transaction, bringer: Peer, items: Sequence[RevocationItem]) -> None:
        """What one message of a partner brought: of each office the strongest, or it could fill our log.

        One that does not hold is dropped; the message stands.
        """
        strongest: dict[bytes, Revocation] = {}
        for item in items:
            try:
                brought = parse_revocation_untrusted(item.revocation)
            except MalformedInput as fault:
                log.warning("item_dropped", code=fault.code)
                continue
            known = strongest.get(brought.office_id)
            # A forged stronger one must not shadow a true one: each is verified before it counts.
            if known is None or known.revoked_below < brought.revoked_below:
                try:
                    self._verify(tx, bringer, brought)
                except VerificationFailed as fault:
                    log.warning("item_dropped", code=fault.code)
                    continue
                strongest[brought.office_id] = brought
        for revocation in strongest.values():
            self.learn(tx, revocation, "partner", bringer)

    async def take_notice(self, data: bytes, channel: Channel) -> Learnt:
        """A notice from a file, a pasted text or a broker; it raises what is wrong with it."""
        notice = parse_notice_untrusted(data)
        await self._env.run_blocking(verify_notice, notice)
        return await self._db.transact(lambda tx: self._take(tx, notice, channel))

    def _take(self, tx: Transaction, notice: Notice, channel: Channel) -> Learnt:
        learnt = self.learn(tx, notice.revocation, channel)
        if learnt is not None:
            return learnt
        office_id, below = notice.revocation.office_id, notice.revocation.revoked_below
        before: int = tx.value("SELECT count(*) FROM revoked_stranger")
        known = tx.one("SELECT revoked_below FROM revoked_stranger WHERE office_id = ?", (office_id,))
        is_news = below > (0 if known is None else known[0])
        if is_news and (known is not None or before < STRANGERS_MAX):
            tx.execute(
                "INSERT INTO revoked_stranger (office_id, revoked_below) VALUES (?, ?)"
                " ON CONFLICT (office_id) DO UPDATE SET revoked_below = excluded.revoked_below",
                (office_id, below),
            )
        return Learnt(about="stranger", name="", revoked_below=below, is_news=is_news, suspended=False)

    def _verify(self, tx: Snapshot, bringer: Peer, revocation: Revocation) -> None:
        """VerificationFailed unless its own root signed it; of no office of ours it is not even looked at."""
        if revocation.office_id == self._identity.office_id:
            verify_revocation(revocation, self._identity.root_public)
        elif revocation.office_id == bringer.office_id:
            verify_revocation(revocation, bringer.trusted.root_public)
        elif tx.execute("SELECT 1 FROM peer WHERE office_id = ?", (revocation.office_id,)):
            verify_revocation(revocation, load_peer(tx, revocation.office_id).trusted.root_public)

    def _apply(
        self, tx: Transaction, peer: Peer, revocation: Revocation, channel: Channel, bringer: Peer | None
    ) -> Learnt:
        now_ms = self._env.clock.now_ms()
        before = peer.trusted
        after = trust.apply_revocation(before, revocation, now_ms)
        is_news = revocation.revoked_below > _known_below(tx, peer.office_id)
        rose = after.revoked_below > before.revoked_below
        suspended = before.state is not after.state
        peer.trusted = after
        if rose:
            drop_what_it_gave(tx, peer)
            self._log.append(tx, "peer.revoke", {"peer": peer.pseudonym, "below": revocation.revoked_below})
        if is_news:
            _store(tx, revocation, channel, now_ms)
            self._owe(tx, peer, bringer)
        if rose or is_news:
            tx.on_commit(self._tell)
        return Learnt(
            about="partner",
            name=peer.name,
            revoked_below=after.revoked_below,
            is_news=is_news or rose,
            suspended=suspended,
        )

    def _learn_of_ourselves(self, tx: Transaction, revocation: Revocation, channel: Channel) -> Learnt:
        verify_revocation(revocation, self._identity.root_public)
        is_news = revocation.revoked_below > _known_below(tx, self._identity.office_id)
        if is_news:
            _store(tx, revocation, channel, self._env.clock.now_ms())
            tx.on_commit(self._changed)
        return Learnt(
            about="ourselves",
            name=self._identity.name,
            revoked_below=revocation.revoked_below,
            is_news=is_news,
            suspended=self._identity.key_version < revocation.revoked_below,
        )

    def _owe(self, tx: Transaction, peer: Peer, bringer: Peer | None) -> None:
        """Every other partner is told once; who brought it knows it."""
        for (other,) in tx.execute("SELECT office_id FROM peer WHERE office_id <> ?", (peer.office_id,)):
            if bringer is None or other != bringer.office_id:
                tx.execute(
                    "INSERT OR IGNORE INTO revocation_due (peer, office_id) VALUES (?, ?)",
                    (other, peer.office_id),
                )

    def _tell(self) -> None:
        self._ask_now.set()
        self._stirred()
        # What waited at the broker under the revoked key is to be judged again.
        self._look_again("")
        self._changed()

    # --- passing on -----------------------------------------------------------------------------------------

    async def forward_once(self) -> None:
        """Tell partners what they are owed, all of it in one message each."""
        due = await self._db.read(
            lambda tx: [
                row[0]
                for row in tx.execute(
                    "SELECT DISTINCT d.peer FROM revocation_due d JOIN peer p ON p.office_id = d.peer"
                    " WHERE p.state = 'active'"
                )
            ]
        )
        for peer_id in due:
            try:
                await self._db.transact(partial(self._forward, peer_id=peer_id))
            except PolicyRefused as full:
                log.warning("control_waits", code=full.code)

    def _forward(self, tx: Transaction, *, peer_id: bytes) -> None:
        peer = load_peer(tx, peer_id)
        rows = tx.execute(
            "SELECT r.office_id, r.bytes FROM revocation_due d JOIN revocation r USING (office_id)"
            " WHERE d.peer = ? ORDER BY r.learnt_ms LIMIT ?",
            (peer_id, ITEMS_PER_MESSAGE),
        )
        if not peer.is_active or not rows:
            return
        items = [RevocationItem(revocation=revocation) for _, revocation in rows]
        self._outbox.compose_control(tx, peer, items, service=False)
        save_peer(tx, peer)
        tx.execute_many(
            "DELETE FROM revocation_due WHERE peer = ? AND office_id = ?",
            [(peer_id, office_id) for office_id, _ in rows],
        )

    # --- brokers --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Ask every broker at the start, about hourly, and at once when there is something to show there."""
        while True:
            self._ask_now.clear()
            wait_s = ASK_EVERY_S * (0.9 + 0.2 * self._env.jitter())
            for link in self._links():
                if link.view.state == "backing_off":
                    wait_s = ASK_AGAIN_S  # what does not answer is tried by its link, not by everybody
                    continue
                try:
                    await self.visit(link.client)
                except DiskFailed:
                    raise
                except SalweenError as fault:
                    if fault.code == "database_closed":
                        raise
                    # The link says what is wrong with it; a broker of an older version knows no notices.
                    log.warning("notices_not_asked", code=fault.code)
                    wait_s = ASK_AGAIN_S
            try:
                async with self._env.timeout(wait_s):
                    await self._ask_now.wait()
            except TimeoutError:
                pass

    def ask_anew(self) -> None:
        """A new partner: what was shown before may be about it."""
        self._cursors.clear()
        self._ask_now.set()

    async def visit(self, client: BrokerClient) -> None:
        """One broker: show it what it does not know from us, read what it shows."""
        address = str(client.address)
        await self._publish(client, address)
        for _ in range(PAGES_MAX):
            cursor = self._cursors.get(address, 0)
            (page,) = await client.exchange([Notices(cursor=cursor)])
            if not isinstance(page, NoticesAnswer):
                return
            for data in page.notices:
                await self._take_shown(data)
            if page.cursor > cursor:
                self._cursors[address] = page.cursor
            if not page.more or page.cursor <= cursor:
                return

    async def _take_shown(self, data: bytes) -> None:
        try:
            if not await self._db.read(partial(self._is_known, data=data)):
                await self.take_notice(data, "broker")
        except (MalformedInput, VerificationFailed) as fault:
            log.warning("notice_dropped", code=fault.code)

    def _is_known(self, tx: Snapshot, *, data: bytes) -> bool:
        """Without a signature check: one no stronger than what we hold changes nothing, true or not."""
        told = parse_notice_untrusted(data).revocation
        stranger = tx.one("SELECT revoked_below FROM revoked_stranger WHERE office_id = ?", (told.office_id,))
        is_peer = bool(tx.execute("SELECT 1 FROM peer WHERE office_id = ?", (told.office_id,)))
        known = _known_below(tx, told.office_id)
        return told.revoked_below <= (known if is_peer or stranger is None else max(known, stranger[0]))

    async def _publish(self, client: BrokerClient, address: str) -> None:
        def read(tx: Snapshot) -> tuple[list[tuple[bytes, int, bytes, bytes]], list[str]]:
            rows = tx.execute(
                "SELECT r.office_id, r.revoked_below, coalesce(p.trusted, x''), r.bytes FROM revocation r"
                " LEFT JOIN peer p USING (office_id) ORDER BY r.learnt_ms"
            )
            # At this broker, never at another one: whoever has the secret can read the mailbox.
            here = tx.execute(
                "SELECT name FROM mailbox WHERE broker_address = ? AND stage <> 'asked'"
                " ORDER BY lost_ms IS NOT NULL, name",
                (address,),
            )
            return [(a, b, c, d) for a, b, c, d in rows], [row[0] for row in here]

        rows, names = await self._db.read(read)
        voucher = next(filter(None, (MailboxKeys.find(self._secrets, name) for name in names)), None)
        if voucher is None:
            return
        new = [row for row in rows if (address, row[0], row[1]) not in self._published]
        for at in range(0, len(new), limits.PUBLISHES_PER_REQUEST_MAX):
            batch = new[at : at + limits.PUBLISHES_PER_REQUEST_MAX]
            ops: list[Op] = [
                Publish(notice=self._notice_of(trusted, signed), get_secret=voucher.get_secret.reveal())
                for _, _, trusted, signed in batch
            ]
            results = await client.exchange(ops)
            for (office_id, below, _, _), result in zip(batch, results, strict=True):
                if isinstance(result, Published):
                    self._published[(address, office_id, below)] = None

    def _notice_of(self, trusted: bytes, signed: bytes) -> bytes:
        root = trust.parse_trusted_peer_untrusted(trusted).root_public if trusted else None
        return encode_notice(
            Notice(
                root_public=self._identity.root_public if root is None else root,
                revocation=parse_revocation_untrusted(signed),
            )
        )

    # --- by hand --------------------------------------------------------------------------------------------

    async def suspend(self, session: Session, peer_id: bytes) -> None:
        """Hold a partner: nothing leaves, nothing is taken in, nothing is lost. Supervisors alone."""
        _check_supervisor(session)

        def record(tx: Transaction) -> None:
            peer = load_peer(tx, peer_id)
            if peer.retired_ms is not None:
                raise PolicyRefused("pair_retired", "This partner is retired already.")
            if peer.held_ms is None:
                peer.held_ms = self._env.clock.now_ms()
                save_peer(tx, peer)
                tx.execute(
                    "UPDATE delivery SET cause = 'pair_held' WHERE peer = ?"
                    " AND phase IN ('kept', 'held', 'address_lost')",
                    (peer_id,),
                )
                actor = self._officers.pseudonym(tx, session.officer)
                entry = {"peer": peer.pseudonym, "code": "by_hand", "actor": actor}
                self._log.append(tx, "peer.suspend", entry)

        await self._db.transact(record)
        self._changed()

    async def resume(self, session: Session, peer_id: bytes) -> None:
        """End a suspension by hand. One after a revocation only the other office can end."""
        _check_supervisor(session)

        def record(tx: Transaction) -> str:
            peer = load_peer(tx, peer_id)
            if peer.held_ms is None or peer.retired_ms is not None:
                if peer.trusted.state is trust.PairState.SUSPENDED:
                    raise PolicyRefused(
                        "pair_suspended",
                        "This partner's key was revoked. It must come back with a new key; nobody here can"
                        " resume it. Pair again: salween-node pair",
                    )
                raise PolicyRefused("pair_not_held", "This partner is not suspended by hand.")
            peer.held_ms = None
            save_peer(tx, peer)
            tx.execute("UPDATE delivery SET cause = NULL WHERE peer = ? AND cause = 'pair_held'", (peer_id,))
            actor = self._officers.pseudonym(tx, session.officer)
            self._log.append(tx, "peer.resume", {"peer": peer.pseudonym, "actor": actor})
            return peer.broker_address

        address = await self._db.transact(record)
        self._outbox.wake(address)
        self._look_again("")
        self._changed()

    async def retire(self, session: Session, peer_id: bytes, succeeded_by: bytes | None) -> None:
        """End a pair for good: its office has a new root, or is closed. Its history stays under its name."""
        _check_supervisor(session)

        def record(tx: Transaction) -> None:
            peer = load_peer(tx, peer_id)
            if succeeded_by is not None:
                successor = load_peer(tx, succeeded_by)
                if succeeded_by == peer_id or successor.retired_ms is not None:
                    raise PolicyRefused(
                        "successor_invalid", "The successor must be another partner that is not retired."
                    )
            if peer.retired_ms is None:
                peer.retired_ms = self._env.clock.now_ms()
                actor = self._officers.pseudonym(tx, session.officer)
                entry = {"peer": peer.pseudonym, "actor": actor}
                if succeeded_by is not None:
                    entry["next"] = load_peer(tx, succeeded_by).pseudonym
                self._log.append(tx, "peer.retire", entry)
            peer.succeeded_by = succeeded_by
            save_peer(tx, peer)
            tx.execute(
                "UPDATE delivery SET cause = 'pair_retired' WHERE peer = ?"
                " AND phase IN ('kept', 'held', 'address_lost')",
                (peer_id,),
            )
            tx.execute("DELETE FROM revocation_due WHERE peer = ?", (peer_id,))

        await self._db.transact(record)
        self._changed()


def drop_what_it_gave(tx: Transaction, peer: Peer) -> None:
    """Forget what a revoked key gave us: the put capability, and envelopes sealed to its receive key.

    The thief holds the secrets of both. ``keys.trust`` drops certificates and officer lists itself; our own
    receive keys stay, or the office could not tell us that it is back.
    """
    if peer.trusted.state is not trust.PairState.SUSPENDED:
        return
    peer.put_secret = SecretBytes(b"")
    # An address that waits for its broker's card was the thief's to announce.
    tx.execute("DELETE FROM address WHERE peer = ?", (peer.office_id,))
    tx.execute(
        "UPDATE delivery SET cause = 'pair_suspended', envelope = NULL WHERE peer = ?"
        " AND phase IN ('kept', 'held', 'address_lost')",
        (peer.office_id,),
    )


def raise_floor(tx: Snapshot, pinned: trust.TrustedPeer) -> trust.TrustedPeer:
    """What a ceremony pinned, under every revocation this office ever met.

    VerificationFailed (``key_version_revoked``) when the key shown is among the revoked.
    """
    stranger = tx.one("SELECT revoked_below FROM revoked_stranger WHERE office_id = ?", (pinned.office_id,))
    floor = max(_known_below(tx, pinned.office_id), 0 if stranger is None else stranger[0])
    return trust.with_floor(pinned, floor)


def _known_below(tx: Snapshot, office_id: bytes) -> int:
    row = tx.one("SELECT revoked_below FROM revocation WHERE office_id = ?", (office_id,))
    return 0 if row is None else int(row[0])


def _store(tx: Transaction, revocation: Revocation, channel: Channel, now_ms: int) -> None:
    tx.execute(
        "INSERT INTO revocation (office_id, revoked_below, since_ms, reason, bytes, channel, learnt_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (office_id) DO UPDATE SET"
        " revoked_below = excluded.revoked_below, since_ms = excluded.since_ms, reason = excluded.reason,"
        " bytes = excluded.bytes, channel = excluded.channel, learnt_ms = excluded.learnt_ms",
        (
            revocation.office_id,
            revocation.revoked_below,
            min(revocation.since_ms, limits.PAIR_SEQ_MAX),
            revocation.reason,
            encode_revocation(revocation),
            channel,
            now_ms,
        ),
    )


def _check_supervisor(session: Session) -> None:
    if session.role != "supervisor":
        raise PolicyRefused("supervisor_only", "Only a supervisor may do this. Ask yours.")
