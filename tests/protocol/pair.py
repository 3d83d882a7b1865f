"""Two real ends of one pair over a mailbox that may lose, repeat and reorder: the harness of these tests.

Each ``End`` holds what a node stores (pair state, receive keys, peer key, outbox) and obeys the same order:
change state, then put. Sealing is left out: a message names its receive key, and a lock replaces the cipher.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from protocol import limits
from protocol.conversation import (
    Judgement,
    PairState,
    acknowledgement,
    after_acknowledgement_sent,
    after_receiving,
    after_signing,
    apply_acknowledgement,
    judge,
    new_pair_state,
    next_slot,
    passed,
)
from protocol.delivery import (
    AskHeld,
    Cancelled,
    Command,
    Delivery,
    DeliveryState,
    Event,
    Expired,
    HeldNo,
    HeldYes,
    LinkFailed,
    PeerAcknowledged,
    PeerMarkPassed,
    PutAccepted,
    PutDuplicate,
    PutNow,
    Reseal,
    TimerFired,
    new_delivery,
    step,
)
from protocol.items import Acknowledgement, KeyAnnouncement, OneTimeOffer, OneTimeUnused
from protocol.onetime import (
    NO_ONE_TIME_KEYS,
    NOTHING_OFFERED,
    OfferedKeys,
    OneTimeKeys,
    adopt_offer,
    after_alert,
    after_offer_acknowledged,
    after_offered,
    after_unused_said,
    after_unused_stated,
    close_retired,
    fits_company,
    offer,
    offer_due_ms,
    one_time_ids,
    take_one,
    unused,
    wanted_count,
)
from protocol.receivekeys import (
    KeyStatus,
    PeerKey,
    ReceiveKeys,
    adopt,
    after_announced,
    after_verified,
    announce,
    announcement,
    announcement_due_ms,
    close_old,
    first_receive_keys,
    status_of,
    wants_next,
    with_next,
)

CONTROL_LIFE_MS = 90 * limits.DAY_MS


@dataclass(frozen=True)
class Signed:
    """What the sender keeps until acknowledged: number, leaf and body."""

    instance: bytes
    pair_seq: int
    pair_prev: bytes
    hh: bytes
    rk_known: bytes
    rk_first: int
    service: bool
    text: str | None
    ack: Acknowledgement | None
    announced: KeyAnnouncement | None
    offer: OneTimeOffer | None = None
    unused: OneTimeUnused | None = None
    is_receipt: bool = False


@dataclass(frozen=True)
class Sealed:
    """One envelope: a signed message under one receive key, with or without its body."""

    name: int
    key_id: bytes
    signed: Signed
    bodyless: bool


@dataclass
class Row:
    """One outbox row."""

    signed: Signed
    delivery: DeliveryState
    latest: Sealed | None = None
    seals: int = 0


@dataclass
class Mailbox:
    """A broker's mailbox that can be told to misbehave."""

    items: list[Sealed] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    # What a broker can write down: which messages came whole under which key.
    recorded: dict[bytes, set[bytes]] = field(default_factory=dict)

    def put(self, envelope: Sealed) -> Event:
        """Hold it, unless these very bytes came before."""
        if envelope.name in self.seen:
            return PutDuplicate()
        self.seen.add(envelope.name)
        self.items.append(envelope)
        if not envelope.bodyless:
            self.recorded.setdefault(envelope.key_id, set()).add(envelope.signed.hh)
        return PutAccepted()

    def holds(self, envelope: Sealed | None) -> bool:
        """Whether the latest envelope still waits here."""
        return envelope is not None and any(item.name == envelope.name for item in self.items)


class World:
    """Time, randomness and counters shared by both ends."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self._drawn = 0
        self.link_up = True

    def draw(self, size: int) -> bytes:
        """Different bytes each time."""
        self._drawn += 1
        return self._drawn.to_bytes(size, "big")

    def number(self) -> int:
        """A different number each time."""
        self._drawn += 1
        return self._drawn


class End:
    """One office of the pair."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.instance = world.draw(8)
        self.seeds: set[bytes] = set()
        self.outbox: dict[int, Row] = {}
        self.open_rows: dict[int, Row] = {}
        self.shown: list[str] = []
        self.closed_unseen: list[int] = []
        self.acknowledged: list[int] = []
        self.signed_service = 0
        self.undecryptable: list[Sealed] = []
        self.exposure: list[int] = []
        self.read: set[bytes] = set()  # hh of every alert shown
        # Off unless a test turns them on: receipts, and one-time keys, which need receipts to ride with.
        self.answers = False
        self.one_time = False
        self.owes_receipt = False
        self.own = NO_ONE_TIME_KEYS
        self.offered = NOTHING_OFFERED
        self.used_up: set[bytes] = set()  # one-time keys of the peer this end sealed to
        self.sealed_to_one_time = 0

    def pair(self, other: "End", inbox: Mailbox, outgoing: Mailbox) -> None:
        """Pairing as far as these values go: instances and first keys are exchanged."""
        key_id = self.world.draw(8)
        self.seeds.add(key_id)
        self.inbox, self.outgoing = inbox, outgoing
        self.state: PairState = new_pair_state(self.instance, other.instance)
        self.keys: ReceiveKeys = first_receive_keys(
            key_id=key_id, public=b"p" * 1216, peer_instance=other.instance, now_ms=self.world.now_ms
        )

    def learn(self, other: "End") -> None:
        """Take the other's first key out of its bundle."""
        self.peer_key = PeerKey(announcement=announce(other.keys.cur, 1), rk_first=1)

    # --- sending ------------------------------------------------------------------------------

    def send(self, text: str, *, lives_ms: int = 10**12, room: bool = True) -> int:
        """Keep one alert; ``room`` for an announcement beside it. Returns its number."""
        self._make_next()
        return self._keep(text, lives_ms=lives_ms, announces=room)

    def _make_next(self) -> None:
        if wants_next(self.keys, self.world.now_ms):
            key_id = self.world.draw(8)
            self.seeds.add(key_id)
            self.keys = with_next(
                self.keys,
                key_id=key_id,
                public=b"p" * 1216,
                peer_instance=self.state.inbound.instance,
                now_ms=self.world.now_ms,
            )

    def acknowledge(self) -> int:
        """Keep one acknowledgement, a service message: it neither makes nor announces a key."""
        return self._keep(None, lives_ms=10**12, announces=False)

    def announce_key(self) -> int:
        """Keep one control message for the announcement that found no room elsewhere."""
        return self._keep(
            None, lives_ms=CONTROL_LIFE_MS, announces=True, offers_max=limits.ONE_TIME_OFFERED_MAX
        )

    def receipt(self) -> int:
        """Keep one receipt: the smallest envelope has room for two keys beside it."""
        self._make_next()
        room = 2 if self.keys.next is None else 1
        return self._keep(None, lives_ms=CONTROL_LIFE_MS, announces=True, offers_max=room, is_receipt=True)

    def _offer(self, count_max: int) -> OneTimeOffer | None:
        now_ms, instance = self.world.now_ms, self.state.inbound.instance
        count = min(count_max, wanted_count(self.own, peer_instance=instance, now_ms=now_ms))
        worth = fits_company(self.own, count, peer_instance=instance, now_ms=now_ms)
        if not self.one_time or not worth:
            return None
        fresh = [(self.world.draw(8), b"p" * 1216) for _ in range(count)]
        self.seeds.update(key_id for key_id, _ in fresh)
        made = offer(self.own, fresh, key_version=1, peer_instance=instance, now_ms=now_ms)
        seq = self.state.outbound.next_seq
        self.own = after_offered(self.own, made, carried_by=seq, peer_instance=instance, now_ms=now_ms)
        return made

    def _keep(
        self,
        text: str | None,
        *,
        lives_ms: int,
        announces: bool,
        offers_max: int = 0,
        is_receipt: bool = False,
    ) -> int:
        announced = announcement(self.keys, 1) if announces else None
        made = self._offer(offers_max)
        if announced is not None:
            self.keys = after_announced(self.keys, self.world.now_ms)
        service = text is None and announced is None and made is None and not is_receipt
        ack = acknowledgement(self.state, 1) if service or self.state.unreported else None
        slot = next_slot(self.state)
        signed = Signed(
            instance=self.state.outbound.instance,
            pair_seq=slot.pair_seq,
            pair_prev=slot.pair_prev,
            hh=self.world.draw(32),
            rk_known=self.peer_key.announcement.key_id,
            rk_first=self.peer_key.rk_first,
            service=service,
            text=text,
            ack=ack,
            announced=announced,
            offer=made,
            is_receipt=is_receipt,
            unused=None if service else unused(self.offered),
        )
        if signed.unused is not None:
            self.offered = after_unused_said(self.offered)
        self.state = after_signing(self.state, slot, signed.hh)
        if ack is not None:
            self.state = after_acknowledgement_sent(self.state)
        self.signed_service += service
        now_ms = self.world.now_ms
        row = Row(signed, new_delivery(now_ms=now_ms, expires_ms=now_ms + lives_ms, service=service))
        self.outbox[slot.pair_seq] = self.open_rows[slot.pair_seq] = row
        return slot.pair_seq

    def cancel(self, seq: int) -> None:
        """An officer withdraws it."""
        self.feed(self.outbox[seq], Cancelled())

    def tick(self) -> bool:
        """Acknowledge if due, fire what is due; whether anything was put or asked."""
        acted = False
        if self.owes_receipt:
            self.owes_receipt = False
            self.receipt()
            acted = True
        due_ms = self.control_due_ms()
        if due_ms is not None and due_ms <= self.world.now_ms:
            self.announce_key()
            acted = True
        if self.state.ack_due:
            self.acknowledge()
            acted = True
        for row in list(self.open_rows.values()):
            delivery = row.delivery
            if delivery.expires_ms <= self.world.now_ms and delivery.phase not in (
                Delivery.EXPIRED,
                Delivery.CANCELLED,
            ):
                self.feed(row, Expired())
                acted = True
            if row.delivery.next_at_ms is not None and row.delivery.next_at_ms <= self.world.now_ms:
                self.feed(row, TimerFired())
                acted = True
        return acted

    def control_due_ms(self) -> int | None:
        """When a control message must carry what found no company."""
        offered_ms = None
        if self.one_time:
            offered_ms = offer_due_ms(
                self.own, peer_instance=self.state.inbound.instance, now_ms=self.world.now_ms
            )
        due = [ms for ms in (announcement_due_ms(self.keys), offered_ms) if ms is not None]
        return min(due, default=None)

    def feed(self, row: Row, event: Event) -> None:
        """One event into the delivery machine, and its commands carried out."""
        row.delivery, commands = step(row.delivery, event, self.world.now_ms, 0.5)
        for command in commands:
            self._carry_out(row, command)
        if row.delivery.phase is Delivery.ACKNOWLEDGED:
            self.open_rows.pop(row.signed.pair_seq, None)

    def _carry_out(self, row: Row, command: Command) -> None:
        match command:
            case Reseal(bodyless=bodyless):
                row.latest = None
                self._put(row, bodyless)
            case PutNow(bodyless=bodyless):
                self._put(row, bodyless)
            case AskHeld() if not self.world.link_up:
                self.feed(row, LinkFailed())
            case AskHeld():
                self.feed(row, HeldYes() if self.outgoing.holds(row.latest) else HeldNo())
            case _:
                pass

    def _put(self, row: Row, bodyless: bool) -> None:
        if row.latest is None or row.latest.bodyless != bodyless:
            key_id = self.peer_key.announcement.key_id
            if row.signed.text is not None and not bodyless:
                self.offered, taken = take_one(self.offered, 1)
                if taken is not None:
                    key_id = taken.key_id
                    assert key_id not in self.used_up, "a one-time key is used once"
                    self.used_up.add(key_id)
                    self.sealed_to_one_time += 1
            row.latest = Sealed(self.world.number(), key_id, row.signed, bodyless)
            row.seals += 1
        self.feed(row, self.outgoing.put(row.latest) if self.world.link_up else LinkFailed())

    # --- receiving ----------------------------------------------------------------------------

    def receive(self, envelope: Sealed) -> None:
        """Open one envelope, mark, show, act on what rides beside; the caller deletes it at the broker."""
        signed = envelope.signed
        is_one_time = envelope.key_id in one_time_ids(self.own)
        if status_of(self.keys, envelope.key_id) is not KeyStatus.LIVE and not is_one_time:
            # Never needed again, or the rules lost a message.
            standing = judge(
                self.state,
                instance=signed.instance,
                pair_seq=signed.pair_seq,
                rk_first=signed.rk_first,
            )
            if standing is not Judgement.DUPLICATE:
                self.undecryptable.append(envelope)
            return
        assert envelope.key_id in self.seeds, "a live key has its seed"
        standing = judge(
            self.state, instance=signed.instance, pair_seq=signed.pair_seq, rk_first=signed.rk_first
        )
        assert standing in (Judgement.NEW, Judgement.DUPLICATE), standing
        service = signed.service and not envelope.bodyless
        self.state = after_receiving(
            self.state, instance=signed.instance, pair_seq=signed.pair_seq, service=service
        )
        self.keys, gone = after_verified(
            self.keys,
            opened_with=envelope.key_id,
            rk_known=signed.rk_known,
            rk_first=signed.rk_first,
            inbound=self.state.inbound,
            instance=signed.instance,
            now_ms=self.world.now_ms,
        )
        if is_one_time or (signed.text is not None and self.one_time):
            self.own, used = after_alert(
                self.own,
                opened_with=envelope.key_id,
                peer_instance=self.state.inbound.instance,
                now_ms=self.world.now_ms,
            )
            gone += used
        if signed.unused is not None and not envelope.bodyless and standing is Judgement.NEW:
            self.own = after_unused_stated(
                self.own,
                signed.unused,
                in_number=signed.pair_seq,
                instance=signed.instance,
                now_ms=self.world.now_ms,
            )
        self.own, closed = close_retired(self.own, inbound=self.state.inbound, now_ms=self.world.now_ms)
        gone += closed
        self._count_exposure(gone)
        if standing is Judgement.DUPLICATE:
            return
        if envelope.bodyless:
            self.closed_unseen.append(signed.pair_seq)
            return
        if signed.text is not None:
            self.shown.append(signed.text)
            self.owes_receipt = self.answers
            self.read.add(signed.hh)
        if signed.announced is not None:
            self.peer_key = adopt(self.peer_key, signed.announced, self.state.outbound.next_seq)
        if signed.offer is not None:
            self.offered = adopt_offer(self.offered, signed.offer)
        if signed.ack is not None:
            self._acknowledged_by(signed.ack, signed)

    def _acknowledged_by(self, ack: Acknowledgement, by: Signed) -> None:
        self.state, numbers = apply_acknowledgement(self.state, ack)
        if self.own.carried_by in numbers:
            self.own = after_offer_acknowledged(
                self.own,
                in_number=by.pair_seq,
                instance=by.instance,
                whole=not self.outbox[self.own.carried_by or 0].delivery.bodyless,
                now_ms=self.world.now_ms,
            )
        for seq in numbers:
            assert seq not in self.acknowledged, "a number is newly acknowledged once"
            self.acknowledged.append(seq)
            self.feed(self.outbox[seq], PeerAcknowledged())
        for hole in passed(self.state):
            for seq in hole:
                self.feed(self.outbox[seq], PeerMarkPassed())

    def _count_exposure(self, gone: tuple[bytes, ...]) -> None:
        for key_id in gone:
            self.seeds.remove(key_id)
            self.inbox.recorded.pop(key_id, None)

    def exposed_now(self) -> int:
        """Alerts already read of which an envelope, arrived or not, could be opened with the keys of now."""
        recorded = self.inbox.recorded
        return len(self.read & set().union(*(recorded[key] for key in self.seeds & recorded.keys())))

    def forget_by_timer(self) -> None:
        """The daily pass over old keys."""
        self.keys, gone = close_old(self.keys, inbound=self.state.inbound, now_ms=self.world.now_ms)
        self.own, closed = close_retired(self.own, inbound=self.state.inbound, now_ms=self.world.now_ms)
        self._count_exposure((*gone, *closed))

    def store_and_load(self) -> None:
        """A restart: everything goes through its database columns."""
        self.state = PairState.decode(self.state.encode())
        self.keys = ReceiveKeys.decode(self.keys.encode())
        self.peer_key = PeerKey.decode(self.peer_key.encode())
        self.own = OneTimeKeys.decode(self.own.encode())
        self.offered = OfferedKeys.decode(self.offered.encode())
        for row in self.open_rows.values():
            row.delivery = DeliveryState.decode(row.delivery.encode())


class Pair:
    """Both ends and the two mailboxes between them."""

    def __init__(self) -> None:
        self.world = World()
        self.a, self.b = End(self.world, "a"), End(self.world, "b")
        self.to_a, self.to_b = Mailbox(), Mailbox()
        self.a.pair(self.b, self.to_a, self.to_b)
        self.b.pair(self.a, self.to_b, self.to_a)
        self.a.learn(self.b)
        self.b.learn(self.a)

    @property
    def ends(self) -> tuple[End, End]:
        """The first and the second office."""
        return self.a, self.b

    def fetch_all(self) -> bool:
        """Both ends take and delete everything that waits; whether there was anything."""
        fetched = False
        for end in self.ends:
            while end.inbox.items:
                end.receive(end.inbox.items.pop(0))
                fetched = True
        return fetched

    def settle(self, *, rounds_max: int = 5_000) -> int:
        """A healed world until nothing is due any more; returns the number of rounds."""
        self.world.link_up = True
        for done in range(rounds_max):
            acted = [end.tick() for end in self.ends]
            if self.fetch_all() or any(acted):
                continue
            due = self.next_due_ms()
            if due is None:
                return done
            self.world.now_ms = max(due, self.world.now_ms)
        raise AssertionError(f"still busy after {rounds_max} rounds")

    def next_due_ms(self) -> int | None:
        """The earliest timer of any outbox row."""
        return min(self._due(), default=None)

    def _due(self) -> Iterator[int]:
        for end in self.ends:
            control_ms = end.control_due_ms()
            if control_ms is not None:
                yield control_ms
            for row in end.open_rows.values():
                if row.delivery.next_at_ms is not None:
                    yield row.delivery.next_at_ms
