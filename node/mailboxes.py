"""Our own mailboxes: made at brokers, announced to peers, made again when a broker lost them, given up.

Spec: docs/spec/broker.md#rotation; when what happens is ``protocol.rotation``. One rule: secrets are durable
in the keystore before the row that names them, the row before the broker hears of it, and they leave only
after the row did. A crash between any two of these steps is continued from what is there.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from audit.store import AuditLog
from keys import labels
from keys.brokercard import encode_broker_card, parse_broker_address_untrusted
from keys.errors import MalformedInput, PolicyRefused, Unavailable, VerificationFailed
from keys.primitives import labelled_hash, sha256
from keys.secret import SecretBytes
from node.addresses import keep_card, switch, waiting_for_cards
from node.broker_link import BrokerClient, BrokerLink, Clients, Mailbox
from node.halfpairs import half_pairs
from node.layout import SecretName
from node.outbox import Outbox
from node.peers import Peer, load_peer, load_peers, save_peer
from node.secrets import MailboxKeys, Secrets
from node.views import LinkView
from protocol import limits
from protocol.delivery import Delivery
from protocol.items import MailboxSuccessor
from protocol.requests import (
    AskGrant,
    Create,
    Created,
    Granted,
    Listed,
    OpRefused,
    Refusal,
    Remake,
    Result,
    get_capability_hash,
    put_capability_hash,
    sign_successor,
    verify_grant,
)
from protocol.requests import List as ListMailbox
from protocol.rotation import (
    Announce,
    Announcement,
    GiveUp,
    MakeSuccessor,
    OwnMailbox,
    Prove,
    Restamp,
    Stage,
    Step,
    life_ms,
    plan,
)
from runtime.env import Env
from runtime.logs import get_logger
from runtime.sqlite import Database, Snapshot, Transaction

# A broker may lose its disk between two requests of ours, and no link ever went down: then this finds out.
ROUND_S = 900.0
ROUND_PAUSE_S = 5.0
OPS_MAX = 128
PASSED_PER_POLL_MAX = 64  # mailboxes that are only emptied: a few at a time, and seldom
LOSSES_KEPT = 20
TOLD_AGAIN_MS = limits.DAY_MS  # a broker that forgets every hour must not make us write every hour

log = get_logger("mailboxes")

_COLUMNS = (
    "name, peer, generation, broker_address, stage, since_ms, life_ms, parent, grant_bytes, lost_ms, told_ms"
)


class Link(Protocol):
    """What is used of a link to a broker."""

    client: BrokerClient

    @property
    def view(self) -> LinkView:
        """Since when it is up."""
        ...

    def reread(self) -> None:
        """See BrokerLink."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRow:
    """One row of ``mailbox``."""

    name: str
    peer: bytes
    generation: int
    broker_address: str
    stage: Stage
    since_ms: int
    life_ms: int
    parent: str | None
    grant: bytes | None
    lost_ms: int | None
    told_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A peer that is being told of its new mailbox; ``envelope`` is the message, for a file."""

    peer: bytes
    name: str
    envelope: bytes = field(repr=False)


class Mailboxes:
    """Keeps our mailboxes for every peer. ``run`` until cancelled; ``stir`` when something may be due."""

    def __init__(
        self,
        env: Env,
        db: Database,
        audit_log: AuditLog,
        secrets: Secrets,
        outbox: Outbox,
        *,
        clients: Clients,
        links: Callable[[], Mapping[str, BrokerLink]],
        ensure_links: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        self._env = env
        self._db = db
        self._log = audit_log
        self._secrets = secrets
        self._outbox = outbox
        self._client = clients
        self._links = links
        self._ensure_links = ensure_links
        self._changed = changed
        self._stirred = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._tended: dict[str, int] = {}  # by broker: since when the link was up that was last looked at
        self._passed_from = 0
        self._filled: dict[str, set[str]] = {}  # by broker: passed mailboxes that are not empty yet

    # --- what is there --------------------------------------------------------------------------------------

    async def adopt(self) -> None:
        """Give a row to each mailbox in the keystore without one: of a pairing, or cut off before its row."""
        async with self._one_at_a_time:
            await self._adopt()
        self.stir()

    async def _adopt(self) -> None:
        peers: dict[bytes, str] = dict(
            await self._db.read(lambda tx: tx.execute("SELECT office_id, own_broker_address FROM peer"))
        )
        named = {
            peer_id: [(number_of(name), name) for name in self._secrets.names(f"mailbox/{peer_id.hex()}/")]
            for peer_id in peers
        }
        known = await self._db.read(lambda tx: {row[0] for row in tx.execute("SELECT name FROM mailbox")})
        if all(name in known for found in named.values() for _, name in found):
            return

        def record(tx: Transaction) -> set[str]:
            grown = set()
            # What an unfinished ceremony made is no address yet: it is read, and announced to nobody.
            half = {one.mailbox for one in half_pairs(tx)}
            for peer_id, found in named.items():
                address = peers[peer_id]
                rows = own_rows(tx, peer_id)
                known = half | {row.name for row in rows}
                orphans = sorted(pair for pair in found if pair[1] not in known)
                for place, (number, name) in enumerate(reversed(orphans)):
                    stage, parent = _stage_of_orphan(rows, place, len(orphans))
                    self._insert(tx, name, peer_id, number, address, stage, parent)
                    grown.add(address)
            return grown

        for address in await self._db.transact(record):
            self._tended.pop(address, None)  # looked at before it had this one

    def _insert(
        self,
        tx: Transaction,
        name: str,
        peer_id: bytes,
        number: int,
        address: str,
        stage: Stage,
        parent: str | None,
    ) -> None:
        tx.execute(
            "INSERT INTO mailbox (name, peer, generation, broker_address, stage, since_ms, life_ms, parent)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                name,
                peer_id,
                number,
                address,
                stage.value,
                self._env.clock.now_ms(),
                life_ms(self._env.jitter()),
                parent,
            ),
        )

    async def readable(self, address: str) -> list[Mailbox]:
        """Our mailboxes at a broker that something may arrive in. Passed ones are looked at by ``run``."""
        rows, half = await self._db.read(
            lambda tx: (
                tx.execute(
                    "SELECT name, peer, stage FROM mailbox WHERE broker_address = ? ORDER BY name", (address,)
                ),
                [(one.mailbox, one.peer) for one in half_pairs(tx) if one.own_broker_address == address],
            )
        )
        filled = self._filled.get(address, set())
        ours = [row[:2] for row in rows if row[2] != "passed" or row[0] in filled]
        return self._opened(address, [*ours, *half])

    def _opened(self, address: str, rows: Sequence[tuple[str, bytes]]) -> list[Mailbox]:
        found = []
        for name, peer_id in rows:
            keys = MailboxKeys.find(self._secrets, name)
            if keys is not None:
                found.append(
                    Mailbox(name=name, peer=peer_id, get_secret=keys.get_secret, broker_address=address)
                )
        return found

    def note_arrival(self, tx: Transaction, name: str) -> None:
        """An item that the peer signed came in this mailbox; it may prove it, or acknowledge what does."""
        tx.execute("UPDATE mailbox SET has_arrival = 1 WHERE name = ? AND has_arrival = 0", (name,))
        if tx.changes() or tx.execute("SELECT 1 FROM mailbox WHERE name = ? AND stage = 'made'", (name,)):
            tx.on_commit(self.stir)

    # --- by itself ------------------------------------------------------------------------------------------

    def stir(self) -> None:
        """A link changed, a peer moved, or a mailbox was asked for."""
        self._stirred.set()

    async def run(self) -> None:
        """Each link that came up is looked at once, everything four times an hour.

        The first time at once: until the broker granted a mailbox nobody could make it again.
        """
        wait_s = 0.0
        while True:
            is_whole = True
            with contextlib.suppress(TimeoutError):
                async with self._env.timeout(wait_s):
                    await self._stirred.wait()
                is_whole = False
                async with self._env.timeout(ROUND_PAUSE_S):
                    while not self._is_new_online():
                        self._stirred.clear()
                        await self._stirred.wait()
            self._stirred.clear()
            await self.round_once(is_whole=is_whole)
            wait_s = ROUND_S

    def _is_new_online(self) -> bool:
        return any(
            link.view.state == "online" and address not in self._tended
            for address, link in self._links().items()
        )

    async def round_once(self, *, is_whole: bool = True) -> None:
        """Plan, ask the brokers, write what peers must hear."""
        async with self._one_at_a_time:
            await self._adopt()
            await self._fetch_cards()
            await self._carry_out_plans()
            for address, link in list(self._links().items()):
                view = link.view
                is_known = not is_whole and self._tended.get(address) == view.since_ms
                # Not asked again for each change of a screen, unless something waits to be made there.
                if view.state != "online" or (is_known and not await self._is_asked_at(address)):
                    continue
                try:
                    await self._tend(address, link)
                    self._tended[address] = view.since_ms
                except (Unavailable, MalformedInput, VerificationFailed) as fault:
                    log.warning("mailboxes_wait", code=fault.code)
            await self._carry_out_plans()

    async def _is_asked_at(self, address: str) -> bool:
        return await self._db.read(
            lambda tx: bool(
                tx.execute(
                    "SELECT 1 FROM mailbox"
                    " WHERE broker_address = ? AND stage = 'asked' AND parent IS NOT NULL",
                    (address,),
                )
            )
        )

    async def _fetch_cards(self) -> None:
        """Learn the brokers that peers moved to; their addresses are used from then on."""
        waiting = await self._db.read(waiting_for_cards)
        for peer_id, item in waiting:
            address = parse_broker_address_untrusted(item.broker_address)
            client = self._client(address)
            try:
                card = encode_broker_card(await client.card())
            except (Unavailable, MalformedInput, VerificationFailed) as fault:
                log.warning("broker_card_waits", code=fault.code)
                continue
            finally:
                await client.close()
            await self._db.transact(
                partial(self._switch, peer_id=peer_id, item=item, address=str(address), card=card)
            )
        if waiting:
            await self._ensure_links()
            self._changed()

    def _switch(
        self, tx: Transaction, *, peer_id: bytes, item: MailboxSuccessor, address: str, card: bytes
    ) -> None:
        keep_card(tx, address, card)
        if (peer_id, item) in waiting_for_cards(tx):
            peer = load_peer(tx, peer_id)
            switch(tx, self._log, self._outbox.readdress, peer, item, self._env.clock.now_ms())
            save_peer(tx, peer)

    # --- plans ----------------------------------------------------------------------------------------------

    async def _carry_out_plans(self) -> None:
        peers = await self._db.read(
            lambda tx: [row[0] for row in tx.execute("SELECT DISTINCT peer FROM mailbox")]
        )
        for peer_id in peers:
            steps = await self._db.read(partial(self._plan, peer_id=peer_id))
            for step in steps:
                if isinstance(step, MakeSuccessor):
                    await self._make_successor(peer_id, step.generation)
                else:
                    await self._carry_out(peer_id, step)

    def _plan(self, tx: Snapshot, *, peer_id: bytes) -> tuple[Step, ...]:
        if not load_peer(tx, peer_id).is_talking:
            return ()  # a half, suspended or frozen pair says nothing, and loses no address meanwhile
        return plan(_own_mailboxes(tx, peer_id), self._env.clock.now_ms())

    async def _carry_out(self, peer_id: bytes, step: Step) -> None:
        def record(tx: Transaction) -> str | None:
            if step not in self._plan(tx, peer_id=peer_id):
                return None
            match step:
                case Announce():
                    self._announce(tx, peer_id, step.generation)
                case GiveUp():
                    return self._give_up(tx, peer_id, step.generation)
                case Prove():
                    self._prove(tx, peer_id, step.generation)
                case _:
                    assert isinstance(step, Restamp)
                    now_ms = self._env.clock.now_ms()
                    tx.execute(
                        "UPDATE mailbox SET since_ms = ? WHERE peer = ? AND generation = ?",
                        (now_ms, peer_id, step.generation),
                    )
            return None

        try:
            gone = await self._db.transact(record)
        except PolicyRefused as full:
            log.warning("announcement_waits", code=full.code)
            return
        if gone is not None:
            await self._secrets.remove((gone,))

    def _announce(self, tx: Transaction, peer_id: bytes, generation: int) -> bytes:
        """Tell the peer where we read from now on; hh of the message, repeated until acknowledged."""
        peer = load_peer(tx, peer_id)
        (row,) = (row for row in own_rows(tx, peer_id) if row.generation == generation)
        keys = MailboxKeys.from_secret(self._secrets.get(row.name))
        item = MailboxSuccessor(
            generation=generation,
            put_secret=keys.put_secret.reveal(),
            mailbox_public=keys.signing_key.public_bytes,
            broker_address=row.broker_address,
        )
        hh = self._outbox.compose_control(tx, peer, [item], service=False)
        save_peer(tx, peer)
        now_ms = self._env.clock.now_ms()
        tx.execute("UPDATE mailbox SET announced = ?, told_ms = ? WHERE name = ?", (hh, now_ms, row.name))
        return hh

    def _prove(self, tx: Transaction, peer_id: bytes, generation: int) -> None:
        now_ms = self._env.clock.now_ms()
        tx.execute(
            "UPDATE mailbox SET stage = 'proven', since_ms = ?"
            " WHERE peer = ? AND generation = ? AND stage = 'made'",
            (now_ms, peer_id, generation),
        )
        tx.execute(
            "UPDATE mailbox SET stage = 'passed', since_ms = ?, is_empty = 0"
            " WHERE peer = ? AND generation < ? AND stage <> 'passed'",
            (now_ms, peer_id, generation),
        )

    def _give_up(self, tx: Transaction, peer_id: bytes, generation: int) -> str:
        peer = load_peer(tx, peer_id)
        name: str = tx.value(
            "SELECT name FROM mailbox WHERE peer = ? AND generation = ?", (peer_id, generation)
        )
        tx.execute("DELETE FROM broker_delete WHERE mailbox = ?", (name,))
        tx.execute("DELETE FROM mailbox WHERE name = ?", (name,))
        self._log_mailbox(tx, peer, name, generation, "mailbox-given-up")
        return name

    def _log_mailbox(self, tx: Transaction, peer: Peer, name: str, generation: int, what: str) -> None:
        """Under the log's own commitment: nothing in it is what the broker knows the mailbox by."""
        keys = MailboxKeys.from_secret(self._secrets.get(name))
        named = labelled_hash(labels.LOG_COMMITMENT, keys.put_secret.reveal()).hex()
        self._log.append(
            tx, "key.rotate", {"what": what, "new": named, "ver": generation, "peer": peer.pseudonym}
        )

    async def _make_successor(self, peer_id: bytes, generation: int) -> None:
        """Draw it, keep its secrets, note it; the broker hears of it next."""
        name = await self._draw(peer_id, generation)

        def record(tx: Transaction) -> None:
            rows = own_rows(tx, peer_id)
            proven = [row for row in rows if row.stage is Stage.PROVEN]
            if not proven or any(row.generation == generation for row in rows):
                return
            parent = max(proven, key=lambda row: row.generation)
            self._insert(tx, name, peer_id, generation, parent.broker_address, Stage.ASKED, parent.name)
            self._log_mailbox(tx, load_peer(tx, peer_id), name, generation, "mailbox")

        await self._db.transact(record)

    async def _draw(self, peer_id: bytes, generation: int) -> str:
        name = SecretName.mailbox(peer_id, generation)
        if name not in self._secrets.names(name):
            await self._secrets.put({name: SecretBytes(self._env.random(96))})
        return name

    # --- with a broker --------------------------------------------------------------------------------------

    async def _tend(self, address: str, link: Link) -> None:
        """Make what was asked for, see that all is there, make again what is not, empty what is passed."""
        await self._create_asked(address, link.client)
        rows = await self._db.read(lambda tx: [row for row in own_rows(tx) if row.broker_address == address])
        living = [row for row in rows if row.stage in (Stage.MADE, Stage.PROVEN)]
        lost = await self._check(living, link.client)
        if lost and await self._make_again(address, lost, rows, link):
            await self._create_asked(address, link.client)
            await self._check(
                [
                    row
                    for row in await self._db.read(own_rows)
                    if row.broker_address == address and row.stage is Stage.MADE
                ],
                link.client,
            )
        await self._empty(address, [row for row in rows if row.stage is Stage.PASSED], link)

    async def _create_asked(self, address: str, client: BrokerClient) -> None:
        asked = await self._db.read(
            lambda tx: [
                row
                for row in own_rows(tx)
                if row.broker_address == address and row.stage is Stage.ASKED and row.parent is not None
            ]
        )
        pairs = [(row, self._create_op(row)) for row in asked]
        ops = [(row, op) for row, op in pairs if op is not None]
        for row, result in await self._ask(client, ops):
            if isinstance(result, Created):
                await self._granted(client, row)
            else:
                log.warning("mailbox_refused", code=_code(result))

    def _create_op(self, row: OwnRow) -> Create | None:
        keys, parent = (
            MailboxKeys.find(self._secrets, row.name),
            MailboxKeys.find(self._secrets, row.parent or ""),
        )
        if keys is None or parent is None:
            return None
        put_hash, get_hash = _hashes(keys)
        public = keys.signing_key.public_bytes
        return Create(
            predecessor_get_secret=parent.get_secret.reveal(),
            signature=sign_successor(parent.signing_key, put_hash=put_hash, get_hash=get_hash, public=public),
            put_hash=put_hash,
            get_hash=get_hash,
            mailbox_public=public,
            kind="pair",
        )

    async def _granted(self, client: BrokerClient, row: OwnRow) -> bool:
        """Made is what the broker grants, not what it says: only then may the peer hear of it."""
        (answered,) = await self._ask(client, [(row, self._grant_op(row))])
        card = await client.card()
        if self._is_good_grant(row, answered[1], card.custody_public):
            await self._keep_grant(row, answered[1])
            return True
        return False

    def _grant_op(self, row: OwnRow) -> AskGrant:
        keys = MailboxKeys.from_secret(self._secrets.get(row.name))
        return AskGrant(
            get_secret=keys.get_secret.reveal(),
            put_hash=put_capability_hash(keys.put_secret.reveal()),
            mailbox_public=keys.signing_key.public_bytes,
        )

    async def _check(self, rows: Sequence[OwnRow], client: BrokerClient) -> list[OwnRow]:
        """Keep the grants of what is there; what is not there."""
        lost = []
        card = await client.card()
        for row, result in await self._ask(client, [(row, self._grant_op(row)) for row in rows]):
            if self._is_good_grant(row, result, card.custody_public):
                if row.grant is None or row.lost_ms is not None:
                    await self._keep_grant(row, result)
            elif isinstance(result, OpRefused) and result.code == Refusal.NOT_FOUND:
                lost.append(row)
            else:
                log.warning("grant_refused", code=_code(result))
        return lost

    def _is_good_grant(self, row: OwnRow, result: Result, custody_public: bytes) -> bool:
        keys = MailboxKeys.find(self._secrets, row.name)
        if not isinstance(result, Granted) or keys is None:
            return False
        put_hash, get_hash = _hashes(keys)
        try:
            verify_grant(
                custody_public,
                result.grant,
                put_hash=put_hash,
                get_hash=get_hash,
                public=keys.signing_key.public_bytes,
            )
        except VerificationFailed:
            return False
        return True

    async def _keep_grant(self, row: OwnRow, result: Result) -> None:
        assert isinstance(result, Granted)
        grant, now_ms = result.grant, self._env.clock.now_ms()

        def record(tx: Transaction) -> None:
            tx.execute("UPDATE mailbox SET grant_bytes = ?, lost_ms = NULL WHERE name = ?", (grant, row.name))
            tx.execute(
                "UPDATE mailbox SET stage = 'made', since_ms = ? WHERE name = ? AND stage = 'asked'",
                (now_ms, row.name),
            )
            # Known before it is listed: the newest is where we are announced to read.
            tx.execute(
                "UPDATE peer SET own_broker_address = ? WHERE office_id = ? AND NOT EXISTS"
                " (SELECT 1 FROM mailbox WHERE peer = ? AND generation > ? AND stage IN ('made', 'proven'))",
                (row.broker_address, row.peer, row.peer, row.generation),
            )

        await self._db.transact(record)
        self._reread(row.broker_address)

    async def _make_again(
        self, address: str, lost: Sequence[OwnRow], rows: Sequence[OwnRow], link: Link
    ) -> bool:
        """The broker forgot them. Those it granted it makes again; a successor follows from its parent.

        Of a pair whose proven mailbox has no grant yet, an earlier one that has is made again for its sake.
        """
        ops = []
        for row in lost:
            granted = row
            if row.grant is None and row.parent is not None:
                granted = next((r for r in rows if r.name == row.parent), row)
            by_grant = row.stage is Stage.PROVEN or row.parent is None or granted is not row
            if granted.grant is not None and by_grant:
                ops.append((granted, self._remake_op(granted, granted.grant)))
        made = {row.name for row, result in await self._ask(link.client, ops) if isinstance(result, Created)}
        now_ms = self._env.clock.now_ms()

        def record(tx: Transaction) -> None:
            count = 0
            for row in lost:
                if row.name in made:
                    count += 1
                    tx.execute("UPDATE mailbox SET lost_ms = NULL WHERE name = ?", (row.name,))
                elif row.parent is not None and (row.stage is Stage.MADE or row.parent in made):
                    # By the word of its parent, as the first time; at its broker they stay parent and child.
                    count += 1
                    tx.execute("UPDATE mailbox SET stage = 'asked' WHERE name = ?", (row.name,))
                else:
                    tx.execute(
                        "UPDATE mailbox SET lost_ms = coalesce(lost_ms, ?) WHERE name = ?", (now_ms, row.name)
                    )
            self._note_loss(tx, address, count, now_ms, link.view.since_ms)

        await self._db.transact(record)
        for row in lost:
            if row.name in made and _may_tell(row, now_ms):
                try:
                    await self._db.transact(
                        partial(self._announce, peer_id=row.peer, generation=row.generation)
                    )
                except PolicyRefused as full:
                    log.warning("announcement_waits", code=full.code)
        self._reread(address)
        self._changed()
        log.warning("broker_lost_mailboxes", count=len(lost))
        return True

    def _note_loss(self, tx: Transaction, address: str, count: int, now_ms: int, up_since_ms: int) -> None:
        """At most one a day for each broker: one that forgets all the time says nothing new by it."""
        known = tx.one("SELECT max(at_ms) FROM broker_loss WHERE broker_address = ?", (address,))
        if known is not None and known[0] is not None and 0 <= now_ms - known[0] < TOLD_AGAIN_MS:
            return
        tx.execute(
            "INSERT INTO broker_loss (broker_address, at_ms, mailboxes) VALUES (?, ?, ?)",
            (address, now_ms, count),
        )
        loss: int = tx.value("SELECT max(number) FROM broker_loss")
        self._outbox.note_broker_loss(tx, address, loss, up_since_ms)
        tx.execute("DELETE FROM broker_loss_item WHERE loss <= ?", (loss - LOSSES_KEPT,))
        tx.execute("DELETE FROM broker_loss WHERE number <= ?", (loss - LOSSES_KEPT,))
        self._log.append(tx, "cfg.change", {"what": "broker-lost", "digest": sha256(address.encode()).hex()})

    def _remake_op(self, row: OwnRow, grant: bytes) -> Remake:
        keys = MailboxKeys.from_secret(self._secrets.get(row.name))
        put_hash, get_hash = _hashes(keys)
        return Remake(
            put_hash=put_hash, get_hash=get_hash, mailbox_public=keys.signing_key.public_bytes, grant=grant
        )

    async def _empty(self, address: str, passed: Sequence[OwnRow], link: Link) -> None:
        """Look into mailboxes that are only emptied, a few at a time; what is there goes the usual way."""
        passed = sorted(passed, key=lambda row: row.name)
        start = self._passed_from % len(passed) if passed else 0
        turn = (*passed[start:], *passed[:start])[:PASSED_PER_POLL_MAX]
        self._passed_from = start + len(turn)
        filled = set()
        for row, result in await self._ask(link.client, [(row, self._list_op(row)) for row in turn]):
            is_empty = isinstance(result, Listed) and not result.items
            await self._db.transact(partial(_note_emptiness, name=row.name, is_empty=is_empty))
            if not is_empty:
                filled.add(row.name)
        if filled != self._filled.get(address, set()):
            self._filled[address] = filled
            link.reread()

    def _list_op(self, row: OwnRow) -> ListMailbox:
        keys = MailboxKeys.from_secret(self._secrets.get(row.name))
        return ListMailbox(get_secret=keys.get_secret.reveal(), cursor=0, wait_ms=0, inline_bytes_max=0)

    async def _ask(
        self, client: BrokerClient, asked: Sequence[tuple[OwnRow, Any]]
    ) -> list[tuple[OwnRow, Result]]:
        """The result of each op, in requests of their own: a broker that knows no such op breaks no link."""
        answers: list[tuple[OwnRow, Result]] = []
        for start in range(0, len(asked), OPS_MAX):
            part = asked[start : start + OPS_MAX]
            results = await client.exchange([op for _, op in part])
            answers += [(row, result) for (row, _), result in zip(part, results, strict=True)]
        return answers

    def _reread(self, address: str) -> None:
        link = self._links().get(address)
        if link is not None:
            link.reread()

    # --- what an operator asks for --------------------------------------------------------------------------

    async def move(self, broker: str, tokens: Sequence[SecretBytes], names: Sequence[bytes]) -> list[Moved]:
        """Make a mailbox at another broker for each of these peers, or for all, and tell them.

        May be repeated after any failure: what was made already is not made again and spends no token.
        Unavailable as BrokerClient; PolicyRefused ``token_unknown``, ``mailbox_refused``.
        """
        address = parse_broker_address_untrusted(broker)
        client = self._client(address)
        try:
            async with self._one_at_a_time:
                card = encode_broker_card(await client.card())
                await self._db.transact(lambda tx: keep_card(tx, str(address), card))
                peers = await self._db.read(lambda tx: _active(tx, names))
                left = list(tokens)
                moved = []
                for peer in peers:
                    row = await self._to_be_made(peer, str(address))
                    if row.stage is Stage.ASKED:
                        await self._create_by_token(client, row, left)
                    moved.append(await self._db.transact(partial(self._tell_moved, row=row, name=peer.name)))
        finally:
            await client.close()
        await self._ensure_links()
        self._reread(str(address))
        self.stir()
        return moved

    async def _to_be_made(self, peer: Peer, address: str) -> OwnRow:
        rows = await self._db.read(lambda tx: own_rows(tx, peer.office_id))
        here = [row for row in rows if row.broker_address == address and row.lost_ms is None]
        for row in reversed(here):
            if row.stage in (Stage.MADE, Stage.PROVEN) or (row.stage is Stage.ASKED and row.parent is None):
                return row
        generation = 1 + max((row.generation for row in rows), default=0)
        name = await self._draw(peer.office_id, generation)

        def record(tx: Transaction) -> OwnRow:
            self._insert(tx, name, peer.office_id, generation, address, Stage.ASKED, None)
            self._log_mailbox(tx, peer, name, generation, "mailbox")
            return next(row for row in own_rows(tx, peer.office_id) if row.name == name)

        return await self._db.transact(record)

    async def _create_by_token(self, client: BrokerClient, row: OwnRow, tokens: list[SecretBytes]) -> None:
        keys = MailboxKeys.from_secret(self._secrets.get(row.name))
        put_hash, get_hash = _hashes(keys)
        while tokens:
            op = Create(
                token=tokens[0].reveal(),
                put_hash=put_hash,
                get_hash=get_hash,
                mailbox_public=keys.signing_key.public_bytes,
                kind="pair",
            )
            (result,) = await client.exchange([op])
            if isinstance(result, Created):
                if not await self._granted(client, row):
                    raise Unavailable(
                        "broker_answer", "The broker says it made a mailbox and does not know it."
                    )
                return
            if _code(result) != Refusal.TOKEN_UNKNOWN:
                raise PolicyRefused(
                    "mailbox_refused", f"The broker made no mailbox ({_code(result)}). Ask its operator."
                )
            del tokens[0]
        raise PolicyRefused(
            "token_unknown",
            "The broker does not know this token, or it is used up. Ask the operator for another, and repeat"
            " the command: what was made already stays.",
        )

    def _tell_moved(self, tx: Transaction, *, row: OwnRow, name: str) -> Moved:
        hh = self._announce(tx, row.peer, row.generation)
        envelope: bytes = tx.value("SELECT envelope FROM delivery WHERE hh = ?", (hh,))
        return Moved(peer=row.peer, name=name, envelope=envelope)


def number_of(name: str) -> int:
    """The generation in a keystore name of ``layout.SecretName.mailbox``."""
    return int(name.rsplit("/", 1)[1])


def next_number(names: Iterable[str]) -> int:
    """The generation after all of these: given up ones leave gaps that are never filled again."""
    return 1 + max(map(number_of, names), default=0)


def newest_address(tx: Snapshot, secrets: Secrets, peer: Peer) -> MailboxSuccessor | None:
    """Where this peer can write to us for certain: the newest mailbox of ours that it used or was told of."""
    usable = [row for row in own_rows(tx, peer.office_id) if row.stage in (Stage.PROVEN, Stage.MADE)]
    named = [(row.name, row.generation, row.broker_address) for row in usable]
    if not named:
        names = sorted((number_of(n), n) for n in secrets.names(f"mailbox/{peer.office_id.hex()}/"))
        named = [(name, number, peer.own_broker_address) for number, name in names]
    for name, generation, address in reversed(named):
        keys = MailboxKeys.find(secrets, name)
        if keys is not None:
            return MailboxSuccessor(
                generation=generation,
                put_secret=keys.put_secret.reveal(),
                mailbox_public=keys.signing_key.public_bytes,
                broker_address=address,
            )
    return None


def own_rows(tx: Snapshot, peer_id: bytes | None = None) -> list[OwnRow]:
    """Our mailboxes, of one peer or of all, by generation."""
    where, bindings = ("", ()) if peer_id is None else (" WHERE peer = ?", (peer_id,))
    sql = f"SELECT {_COLUMNS} FROM mailbox{where} ORDER BY peer, generation"  # noqa: S608 - our own constants
    return [_own_row(row) for row in tx.execute(sql, bindings)]


def _own_row(row: Sequence[Any]) -> OwnRow:
    name, peer, generation, address, stage, since_ms, life, parent, grant, lost_ms, told_ms = row
    return OwnRow(
        name=name,
        peer=peer,
        generation=generation,
        broker_address=address,
        stage=Stage(stage),
        since_ms=since_ms,
        life_ms=life,
        parent=parent,
        grant=grant,
        lost_ms=lost_ms,
        told_ms=told_ms,
    )


def _own_mailboxes(tx: Snapshot, peer_id: bytes) -> list[OwnMailbox]:
    return [
        OwnMailbox(
            generation=generation,
            stage=Stage(stage),
            since_ms=since_ms,
            life_ms=life,
            announcement=_ANNOUNCED.get(phase, Announcement.NONE),
            has_arrival=bool(has_arrival),
            is_empty=bool(is_empty),
        )
        for generation, stage, since_ms, life, phase, has_arrival, is_empty in tx.execute(
            "SELECT m.generation, m.stage, m.since_ms, m.life_ms, d.phase, m.has_arrival, m.is_empty"
            " FROM mailbox m LEFT JOIN delivery d ON d.hh = m.announced"
            " WHERE m.peer = ? ORDER BY m.generation",
            (peer_id,),
        )
    ]


_ANNOUNCED = {
    Delivery.KEPT: Announcement.UNDER_WAY,
    Delivery.HELD: Announcement.UNDER_WAY,
    Delivery.ADDRESS_LOST: Announcement.UNDER_WAY,
    Delivery.ACKNOWLEDGED: Announcement.ACKNOWLEDGED,
}


def _stage_of_orphan(rows: Sequence[OwnRow], place: int, count: int) -> tuple[Stage, str | None]:
    """What a mailbox without a row is; ``place`` counts from the newest of ``count``.

    With rows of the pair it may never have been made: it is asked for once more, which harms nothing. Without
    any, the pairing made it; of several the newest is proven only when the peer uses it.
    """
    if rows:
        parent = next((row.name for row in reversed(rows) if row.stage is Stage.PROVEN), None)
        return (Stage.ASKED, parent) if parent is not None else (Stage.MADE, None)
    if count == 1 or place == 1:
        return Stage.PROVEN, None
    return (Stage.MADE, None) if place == 0 else (Stage.PASSED, None)


def _note_emptiness(tx: Transaction, *, name: str, is_empty: bool) -> None:
    waits = tx.execute("SELECT 1 FROM broker_delete WHERE mailbox = ? LIMIT 1", (name,))
    tx.execute("UPDATE mailbox SET is_empty = ? WHERE name = ?", (int(is_empty and not waits), name))


def _active(tx: Snapshot, names: Sequence[bytes]) -> list[Peer]:
    active = [peer for peer in load_peers(tx) if peer.is_talking]
    return [peer for peer in active if not names or peer.office_id in names]


def _hashes(keys: MailboxKeys) -> tuple[bytes, bytes]:
    return put_capability_hash(keys.put_secret.reveal()), get_capability_hash(keys.get_secret.reveal())


def _may_tell(row: OwnRow, now_ms: int) -> bool:
    return row.told_ms is None or not 0 <= now_ms - row.told_ms < TOLD_AGAIN_MS


def _code(result: Result) -> str:
    return str(result.code) if isinstance(result, OpRefused) else "broker_answer"
