"""The broker's rules: quota, duplicate, tombstone, TTL, and make before break."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from keys.primitives import Ed25519PrivateKey
from keys.secret import SecretBytes
from protocol import limits
from protocol.envelope import BUCKETS
from protocol.mailbox import (
    QUOTAS,
    Accepted,
    AlreadyThere,
    Duplicate,
    MailboxState,
    MakeMailbox,
    Quota,
    accept_create,
    accept_delete,
    accept_put,
    expired,
    item_expires_ms,
    mailbox_expired,
    may_retire,
    tombstone_expires_ms,
)
from protocol.requests import Create, Delete, OpRefused, Refusal, sign_delete, sign_successor

NOW = 1_800_000_000_000
KEY = Ed25519PrivateKey.from_seed(SecretBytes(b"\x04" * 32))
OTHER = Ed25519PrivateKey.from_seed(SecretBytes(b"\x05" * 32))
SIZE = BUCKETS[0]


def a_mailbox(number: int = 1, **changed: object) -> MailboxState:
    """One pair's mailbox, empty and never used."""
    plain = MailboxState(
        kind="pair",
        put_hash=number.to_bytes(32, "big"),
        get_hash=(1_000 + number).to_bytes(32, "big"),
        mailbox_public=KEY.public_bytes,
        created_ms=NOW,
        items=0,
        size_bytes=0,
    )
    return replace(plain, **changed)  # type: ignore[arg-type]


def put(
    mailbox: MailboxState | None,
    *,
    size_bytes: int = SIZE,
    priority: bool = False,
    seen: bool = False,
    now_ms: int = NOW,
) -> Accepted | Duplicate | OpRefused:
    """One put judged."""
    return accept_put(mailbox, size_bytes=size_bytes, priority=priority, seen=seen, now_ms=now_ms)


# --- items ----------------------------------------------------------------------------------------


def test_a_put_to_nobody_answers_gone() -> None:
    """A capability nobody has, a rendezvous that is over, a retired mailbox: one answer."""
    gone = OpRefused(code=Refusal.GONE)
    over = a_mailbox(kind="rendezvous")
    retired = a_mailbox(successor_first_item_ms=NOW)
    assert put(None) == gone
    assert put(over, now_ms=NOW + limits.RENDEZVOUS_TTL_MS) == gone
    assert put(retired, now_ms=NOW + limits.MAILBOX_TTL_MS) == gone
    assert isinstance(put(over, now_ms=NOW + limits.RENDEZVOUS_TTL_MS - 1), Accepted)
    assert isinstance(put(retired, now_ms=NOW + limits.MAILBOX_TTL_MS - 1), Accepted)


def test_a_repeated_put_is_a_duplicate_even_when_the_mailbox_is_full() -> None:
    """A retry gets the custody note of the first time; quotas judge only what is new."""
    full = a_mailbox(items=limits.MAILBOX_ITEMS_MAX)
    assert put(full, seen=True) == Duplicate()
    assert put(full) == OpRefused(code=Refusal.QUOTA)


@pytest.mark.parametrize(
    ("items", "priority", "fits"),
    [
        (limits.MAILBOX_ITEMS_MAX - limits.MAILBOX_RESERVED_ITEMS - 1, False, True),
        (limits.MAILBOX_ITEMS_MAX - limits.MAILBOX_RESERVED_ITEMS, False, False),
        (limits.MAILBOX_ITEMS_MAX - limits.MAILBOX_RESERVED_ITEMS, True, True),
        (limits.MAILBOX_ITEMS_MAX - 1, True, True),
        (limits.MAILBOX_ITEMS_MAX, True, False),
    ],
)
def test_the_last_64_places_wait_for_what_is_immediate(items: int, priority: bool, fits: bool) -> None:
    """Routine alerts stop at 448; a life-threat and a control item still find room up to 512."""
    assert isinstance(put(a_mailbox(items=items), priority=priority), Accepted) is fits


@pytest.mark.parametrize(
    ("held_bytes", "priority", "fits"),
    [
        (limits.MAILBOX_BYTES_MAX - limits.MAILBOX_RESERVED_BYTES - SIZE, False, True),
        (limits.MAILBOX_BYTES_MAX - limits.MAILBOX_RESERVED_BYTES - SIZE + 1, False, False),
        (limits.MAILBOX_BYTES_MAX - SIZE, True, True),
        (limits.MAILBOX_BYTES_MAX - SIZE + 1, True, False),
    ],
)
def test_the_last_4_mib_wait_for_what_is_immediate(held_bytes: int, priority: bool, fits: bool) -> None:
    """The same in bytes."""
    assert isinstance(put(a_mailbox(size_bytes=held_bytes), priority=priority), Accepted) is fits


@pytest.mark.parametrize("size", [0, 1, SIZE - 1, SIZE + 1, 2**20, 8 * 2**20])
def test_only_the_four_sizes_are_items(size: int) -> None:
    """Anything else is refused before it is stored, also when the caller forgot to parse it."""
    assert put(a_mailbox(), size_bytes=size) == OpRefused(code=Refusal.TOO_LARGE)


def test_a_rendezvous_is_small_and_short() -> None:
    """Pairing needs a handful of items for a quarter of an hour; its items end with it."""
    box = a_mailbox(kind="rendezvous")
    accepted = put(box, now_ms=NOW + 60_000)
    assert accepted == Accepted(expires_at_ms=NOW + limits.RENDEZVOUS_TTL_MS, proves=True)
    assert put(replace(box, items=limits.RENDEZVOUS_ITEMS_MAX), priority=True) == OpRefused(
        code=Refusal.QUOTA
    )


def test_the_first_item_ever_proves_a_mailbox() -> None:
    """The store marks the predecessors of a mailbox when its first item arrives, and only then."""
    assert put(a_mailbox()) == Accepted(expires_at_ms=NOW + limits.MAILBOX_TTL_MS, proves=True)
    assert put(a_mailbox(first_item_ms=NOW - 1)) == Accepted(
        expires_at_ms=NOW + limits.MAILBOX_TTL_MS, proves=False
    )


def test_items_and_tombstones_end_after_fourteen_days() -> None:
    """A tombstone outlives the item it stands for, so a repeated put stays a duplicate for the whole TTL."""
    ends = item_expires_ms(a_mailbox(), NOW)
    assert ends == NOW + 14 * limits.DAY_MS
    assert not expired(ends, ends - 1)
    assert expired(ends, ends)
    assert tombstone_expires_ms(NOW) >= ends


def test_a_quota_can_be_smaller_than_the_protocols() -> None:
    """An operator's own quota is judged by the same rule."""
    small = {**QUOTAS, "pair": Quota(items_max=2, size_bytes_max=SIZE, reserved_items=1, reserved_bytes=0)}

    def judged(items: int, priority: bool) -> object:
        return accept_put(
            a_mailbox(items=items), size_bytes=SIZE, priority=priority, seen=False, now_ms=NOW, quotas=small
        )

    assert isinstance(judged(0, False), Accepted)
    assert judged(1, False) == OpRefused(code=Refusal.QUOTA)
    assert isinstance(judged(1, True), Accepted)


def test_only_the_recipient_deletes() -> None:
    """Unsigned, a deletion would prove nothing; an unknown mailbox reads as an empty one."""
    name = b"\x01" * 32
    good = Delete(get_secret=bytes(32), envelope_hash=name, signature=sign_delete(KEY, name))
    forged = Delete(get_secret=bytes(32), envelope_hash=name, signature=sign_delete(OTHER, name))
    assert accept_delete(a_mailbox(), good) is None
    assert accept_delete(a_mailbox(), forged) == OpRefused(code=Refusal.BAD_SIGNATURE)
    assert accept_delete(None, forged) is None


# --- mailboxes ------------------------------------------------------------------------------------


def succession(old: MailboxState, number: int, signer: Ed25519PrivateKey = KEY) -> Create:
    """The recipient asks for the next mailbox after ``old``."""
    new = a_mailbox(number)
    return Create(
        predecessor_get_secret=b"\x01" * 32,
        signature=sign_successor(
            signer, put_hash=new.put_hash, get_hash=new.get_hash, public=KEY.public_bytes
        ),
        put_hash=new.put_hash,
        get_hash=new.get_hash,
        mailbox_public=KEY.public_bytes,
        kind="pair",
    )


def by_token(number: int = 1) -> Create:
    """The recipient asks for its first mailbox."""
    new = a_mailbox(number)
    return Create(
        token=b"\x01" * 32,
        put_hash=new.put_hash,
        get_hash=new.get_hash,
        mailbox_public=KEY.public_bytes,
        kind="pair",
    )


def create(
    op: Create,
    *,
    existing: MailboxState | None = None,
    token_unspent: bool = False,
    predecessor: MailboxState | None = None,
    unproven: int = 0,
    in_lineage: int = 1,
    now_ms: int = NOW,
) -> MakeMailbox | AlreadyThere | OpRefused:
    """One creation judged."""
    return accept_create(
        op,
        existing=existing,
        token_unspent=token_unspent,
        predecessor=predecessor,
        unproven_successors=unproven,
        lineage_mailboxes=in_lineage,
        now_ms=now_ms,
    )


def test_a_token_makes_a_mailbox_while_it_lasts() -> None:
    """The operator decides who may have a first mailbox."""
    assert create(by_token(), token_unspent=True) == MakeMailbox(spend_token=True)
    assert create(by_token()) == OpRefused(code=Refusal.TOKEN_UNKNOWN)


def test_a_repeated_creation_answers_as_the_first() -> None:
    """The retry of a creation whose answer was lost finds its mailbox, with the token spent by itself."""
    assert create(by_token(), existing=a_mailbox()) == AlreadyThere()


@pytest.mark.parametrize(
    "other",
    [
        a_mailbox(put_hash=bytes(32)),
        a_mailbox(get_hash=bytes(32)),
        a_mailbox(mailbox_public=bytes(32)),
        a_mailbox(kind="rendezvous"),
    ],
)
def test_a_taken_capability_is_never_changed(other: MailboxState) -> None:
    """Half the same is not the same: nobody replaces the key or the kind of a mailbox that exists."""
    conflict = OpRefused(code=Refusal.CONFLICT)
    assert create(by_token(), existing=other, token_unspent=True) == conflict


def test_a_successor_needs_the_secret_and_the_key_of_its_predecessor() -> None:
    """Showing the get secret finds the predecessor; only its mailbox key authorises what follows."""
    old = a_mailbox()
    assert create(succession(old, 2), predecessor=old) == MakeMailbox(spend_token=False)
    assert create(succession(old, 2)) == OpRefused(code=Refusal.NOT_FOUND)
    assert create(succession(old, 2, OTHER), predecessor=old) == OpRefused(code=Refusal.BAD_SIGNATURE)
    assert create(succession(old, 2), predecessor=old, unproven=limits.UNPROVEN_SUCCESSORS_MAX) == OpRefused(
        code=Refusal.QUOTA
    )


def test_nothing_follows_a_rendezvous_or_a_retired_mailbox() -> None:
    """A successor continues a standing address, never a meeting place and never one that is gone."""
    refused = OpRefused(code=Refusal.NOT_FOUND)
    old = a_mailbox(successor_first_item_ms=NOW)
    assert create(succession(old, 2), predecessor=a_mailbox(kind="rendezvous")) == refused
    assert create(replace(succession(old, 2), kind="rendezvous"), predecessor=a_mailbox()) == refused
    assert create(succession(old, 2), predecessor=old, now_ms=NOW + limits.MAILBOX_TTL_MS) == refused
    assert isinstance(create(succession(old, 2), predecessor=old), MakeMailbox)


@dataclass
class Stored:
    """A mailbox as a store keeps it."""

    state: MailboxState
    predecessor: int | None
    waiting: dict[int, int] = field(default_factory=dict)  # envelope -> expires at
    tombstones: dict[int, int] = field(default_factory=dict)


class MakeBeforeBreak(RuleBasedStateMachine):
    """However long anybody is away, the address a sender knows accepts, and somebody listens there."""

    @initialize()
    def begin(self) -> None:
        self.now_ms = NOW
        self.boxes: dict[int, Stored] = {}
        self.made = 0
        self.sent = 0
        self.taken: list[int] = []
        assert isinstance(create(by_token(1), token_unspent=True), MakeMailbox)
        self.known_to_sender = self.newest_of_recipient = self.store(None)
        self.listening = [self.known_to_sender]

    def store(self, predecessor: int | None) -> int:
        self.made += 1
        state = replace(a_mailbox(self.made), created_ms=self.now_ms)
        self.boxes[self.made] = Stored(state, predecessor)
        return self.made

    @rule(count=st.integers(1, 3), priority=st.booleans())
    def send(self, count: int, priority: bool) -> None:
        for _ in range(count):
            self.sent += 1
            self.put(self.sent, priority)

    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        if self.sent:
            envelope = data.draw(st.integers(1, self.sent))
            box = self.boxes[self.known_to_sender]
            was_here = envelope in box.tombstones and not expired(box.tombstones[envelope], self.now_ms)
            verdict = self.put(envelope, priority=True)
            assert (verdict == Duplicate()) is was_here

    def put(self, envelope: int, priority: bool) -> object:
        box = self.boxes[self.known_to_sender]
        seen = envelope in box.tombstones and not expired(box.tombstones[envelope], self.now_ms)
        verdict = put(box.state, priority=priority, seen=seen, now_ms=self.now_ms)
        assert verdict != OpRefused(code=Refusal.GONE), "the address a sender knows is never gone"
        if isinstance(verdict, Accepted):
            assert self.known_to_sender in self.listening, "somebody still listens there"
            box.waiting[envelope] = verdict.expires_at_ms
            box.tombstones[envelope] = tombstone_expires_ms(self.now_ms)
            box.state = replace(box.state, items=box.state.items + 1, size_bytes=box.state.size_bytes + SIZE)
            if verdict.proves:
                self.prove(box)
        return verdict

    def prove(self, box: Stored) -> None:
        box.state = replace(box.state, first_item_ms=self.now_ms)
        older = box.predecessor
        while older is not None and older in self.boxes:
            before = self.boxes[older]
            if before.state.successor_first_item_ms is None:
                before.state = replace(before.state, successor_first_item_ms=self.now_ms)
            older = before.predecessor

    @rule()
    def make_successor(self) -> None:
        """Weekly, from the newest mailbox that exists."""
        old = self.boxes[self.newest_of_recipient].state
        unproven = sum(
            box.predecessor == self.newest_of_recipient and box.state.first_item_ms is None
            for box in self.boxes.values()
        )
        verdict = create(
            succession(old, self.made + 1), predecessor=old, unproven=unproven, now_ms=self.now_ms
        )
        if isinstance(verdict, MakeMailbox):
            self.newest_of_recipient = self.store(self.newest_of_recipient)
            self.listening.append(self.newest_of_recipient)

    @rule()
    def announcement_arrives(self) -> None:
        """The signed control message with the newest address reaches the sender, late or never."""
        self.known_to_sender = self.newest_of_recipient

    @rule()
    def fetch(self) -> None:
        for number in self.listening:
            box = self.boxes.get(number)
            if box is not None:
                self.taken += box.waiting
                box.waiting.clear()
                box.state = replace(box.state, items=0, size_bytes=0)

    @rule()
    def retire(self) -> None:
        """The recipient stops listening where the rule allows it and nothing waits any more."""
        for number in list(self.listening):
            box = self.boxes.get(number)
            if box is None or (may_retire(box.state) and mailbox_expired(box.state, self.now_ms)):
                self.listening.remove(number)

    @rule(days=st.sampled_from([0, 1, 7, 13, 14, 15, 60, 400]))
    def time_passes(self, days: int) -> None:
        self.now_ms += days * limits.DAY_MS + 1
        for number, box in list(self.boxes.items()):
            for envelope in [e for e, ends in box.waiting.items() if expired(ends, self.now_ms)]:
                del box.waiting[envelope]
                box.state = replace(
                    box.state, items=box.state.items - 1, size_bytes=box.state.size_bytes - SIZE
                )
            if mailbox_expired(box.state, self.now_ms):
                assert not box.waiting, "a mailbox is removed after its last item"
                del self.boxes[number]

    @invariant()
    def an_address_that_may_be_the_only_one_stays(self) -> None:
        if hasattr(self, "boxes"):
            assert self.known_to_sender in self.boxes
            assert self.newest_of_recipient in self.boxes


TestMakeBeforeBreak = MakeBeforeBreak.TestCase
TestMakeBeforeBreak.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
