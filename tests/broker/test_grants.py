"""A mailbox that the broker lost is made again by the broker's own grant, and by nothing else."""

import pytest

from keys.primitives import Ed25519PrivateKey
from keys.secret import SecretBytes
from protocol import limits
from protocol.envelope import envelope_hash
from protocol.requests import (
    AskGrant,
    Create,
    Created,
    Granted,
    Held,
    HeldAnswer,
    Listed,
    OpRefused,
    Remake,
    sign_grant,
    sign_successor,
    verify_grant,
)
from tests.broker.ends import Client, House, Mailbox, an_envelope


def ask(mailbox: Mailbox, **change: bytes) -> AskGrant:
    fields = {
        "get_secret": mailbox.get_secret,
        "put_hash": mailbox.put_hash,
        "mailbox_public": mailbox.key.public_bytes,
    }
    return AskGrant(**{**fields, **change})


def again(mailbox: Mailbox, grant: bytes) -> Remake:
    return Remake(
        put_hash=mailbox.put_hash,
        get_hash=mailbox.get_hash,
        mailbox_public=mailbox.key.public_bytes,
        grant=grant,
    )


async def granted(office: Client, mailbox: Mailbox) -> bytes:
    result = await office.ask_one(ask(mailbox))
    assert isinstance(result, Granted)
    verify_grant(
        office.card.custody_public,
        result.grant,
        put_hash=mailbox.put_hash,
        get_hash=mailbox.get_hash,
        public=mailbox.key.public_bytes,
    )
    return result.grant


async def test_a_grant_is_given_for_exactly_what_is_there(house: House, office: Client) -> None:
    """Not for an unknown mailbox, not over other keys, not for a rendezvous."""
    token = await house.token()
    mailbox = await office.make_mailbox(token)
    await granted(office, mailbox)
    assert await office.ask_one(ask(Mailbox.new(house.env))) == OpRefused(code="not_found")
    other = Mailbox.new(house.env)
    assert await office.ask_one(ask(mailbox, put_hash=other.put_hash)) == OpRefused(code="conflict")
    public = other.key.public_bytes
    assert await office.ask_one(ask(mailbox, mailbox_public=public)) == OpRefused(code="conflict")
    meeting = Mailbox.new(house.env, "rendezvous")
    assert await office.ask_one(meeting.create(token)) == Created()
    assert await office.ask_one(ask(meeting)) == OpRefused(code="not_found")


async def test_a_lost_mailbox_is_made_again_once_and_takes_items(house: House, office: Client) -> None:
    """As after an erased disk: the row is gone, no token is left, the grant is enough."""
    mailbox = await office.make_mailbox(await house.token())
    grant = await granted(office, mailbox)
    assert house.broker is not None
    store = house.broker.store
    await store._db.transact(lambda tx: tx.execute("DELETE FROM mailboxes"))
    assert await office.ask_one(ask(mailbox)) == OpRefused(code="not_found")
    for _ in range(2):
        assert await office.ask_one(again(mailbox, grant)) == Created()
    assert store.totals().remade == 1
    envelope = an_envelope(house.env)
    await office.put(mailbox, envelope)
    assert [item.envelope for item in (await office.list(mailbox)).items] == [envelope]
    assert await granted(office, mailbox) == grant


@pytest.mark.parametrize("fault", ["another signer", "another mailbox", "junk"])
async def test_nothing_is_made_by_a_grant_we_did_not_sign(house: House, office: Client, fault: str) -> None:
    """Neither a stranger's signature nor a grant over another mailbox makes anything."""
    mailbox = await office.make_mailbox(await house.token())
    thief = Mailbox.new(house.env)
    grants = {
        "another signer": sign_grant(
            Ed25519PrivateKey.from_seed(SecretBytes(bytes(32))),
            put_hash=thief.put_hash,
            get_hash=thief.get_hash,
            public=thief.key.public_bytes,
        ),
        "another mailbox": await granted(office, mailbox),
        "junk": bytes(64),
    }
    assert await office.ask_one(again(thief, grants[fault])) == OpRefused(code="bad_signature")
    assert await office.ask_one(ask(thief)) == OpRefused(code="not_found")


async def test_a_retired_mailbox_is_not_brought_back(house: House, office: Client) -> None:
    """Its time was over: a grant does not undo what the rules removed."""
    old = await office.make_mailbox(await house.token())
    grant = await granted(office, old)
    new = Mailbox.new(house.env)
    op = Create(
        predecessor_get_secret=old.get_secret,
        signature=sign_successor(
            old.key, put_hash=new.put_hash, get_hash=new.get_hash, public=new.key.public_bytes
        ),
        put_hash=new.put_hash,
        get_hash=new.get_hash,
        mailbox_public=new.key.public_bytes,
        kind="pair",
    )
    assert await office.ask_one(op) == Created()
    await office.put(new, an_envelope(house.env))
    house.clock.shift_ms += limits.MAILBOX_TTL_MS + 1
    await house.restart()
    assert house.broker is not None
    await house.broker.store.expire(100)
    assert await office.ask_one(again(old, grant)) == OpRefused(code="not_found")
    assert house.broker.store.totals().retired == 1


async def test_an_expired_item_is_gone_before_the_sweep(house: House, office: Client) -> None:
    """``held`` says no, a list shows nothing, and the same bytes put again are a new item."""
    mailbox = await office.make_mailbox(await house.token())
    envelope = an_envelope(house.env)
    first = await office.put(mailbox, envelope)
    assert house.broker is not None
    await house.broker.store._db.transact(lambda tx: tx.execute("UPDATE items SET until_ms = 1"))
    held = Held(put_secret=mailbox.put_secret, envelope_hash=envelope_hash(envelope))
    assert await office.ask_one(held) == HeldAnswer(held=False)
    assert await office.list(mailbox) == Listed(items=(), more=False)
    second = await office.put(mailbox, envelope)
    assert second.log_index > first.log_index
    assert await office.ask_one(held) == HeldAnswer(held=True)
