"""What an office gets for its capabilities: custody, delivery, deletion, and nothing without them."""

import asyncio

import apsw
import pytest

from keys.primitives import Ed25519PrivateKey
from protocol import limits
from protocol.custody import Custody
from protocol.envelope import envelope_hash
from protocol.requests import (
    Create,
    Created,
    Deleted,
    Get,
    Got,
    Held,
    HeldAnswer,
    Listed,
    Notices,
    NoticesAnswer,
    OpRefused,
    Put,
    Stats,
    StatsAnswer,
    sign_successor,
)
from runtime.sqlite import load_migrations
from tests.broker.ends import Client, House, Mailbox, an_envelope

DAY_MS = limits.DAY_MS


async def test_a_token_makes_four_mailboxes_and_no_fifth(house: House, office: Client) -> None:
    """One pairing needs four mailboxes; afterwards the token is worth nothing, also after a restart."""
    token = await house.token()
    for _ in range(4):
        await office.make_mailbox(token)
    assert await office.ask_one(Mailbox.new(house.env).create(token)) == OpRefused(code="token_unknown")
    await house.restart()
    assert await office.ask_one(Mailbox.new(house.env).create(token)) == OpRefused(code="token_unknown")


async def test_a_token_nobody_loaded_makes_nothing(house: House, office: Client) -> None:
    """Creating costs a token of this operator."""
    assert await office.ask_one(Mailbox.new(house.env).create(bytes(32))) == OpRefused(code="token_unknown")


async def test_creating_again_changes_nothing_and_spends_nothing(house: House, office: Client) -> None:
    """A create whose answer was lost is repeated: the same mailbox, one use of the token."""
    token, mailbox = await house.token(), Mailbox.new(house.env)
    for _ in range(3):
        assert await office.ask_one(mailbox.create(token)) == Created()
    for _ in range(3):
        await office.make_mailbox(token)


async def test_two_mailboxes_never_share_a_capability(house: House, office: Client) -> None:
    """Who learnt a put hash cannot make a mailbox of his own behind it."""
    token = await house.token()
    mine = await office.make_mailbox(token)
    thief = Mailbox.new(house.env)
    op = Create(
        token=token,
        put_hash=mine.put_hash,
        get_hash=thief.get_hash,
        mailbox_public=thief.key.public_bytes,
        kind="pair",
    )
    assert await office.ask_one(op) == OpRefused(code="conflict")


async def test_an_envelope_goes_in_and_comes_out_as_it_was(house: House, office: Client) -> None:
    """Put, held, list, get, delete: the life of one item, each step seen from outside."""
    mailbox = await office.make_mailbox(await house.token())
    envelope = an_envelope(house.env)
    note = await office.put(mailbox, envelope)
    assert (note.envelope_hash, note.size_bytes) == (envelope_hash(envelope), len(envelope))
    assert note.put_capability_hash == mailbox.put_hash
    held = Held(put_secret=mailbox.put_secret, envelope_hash=note.envelope_hash)
    assert await office.ask_one(held) == HeldAnswer(held=True)

    listed = await office.list(mailbox)
    assert [item.envelope for item in listed.items] == [envelope]
    assert not listed.more
    get = Get(get_secret=mailbox.get_secret, envelope_hash=note.envelope_hash)
    assert await office.ask_one(get) == Got(envelope=envelope)

    assert await office.ask_one(mailbox.delete(note.envelope_hash)) == Deleted()
    assert await office.ask_one(held) == HeldAnswer(held=False)
    assert await office.ask_one(get) == OpRefused(code="not_found")
    assert await office.list(mailbox) == Listed(items=(), more=False)


async def test_items_come_in_the_order_of_arrival_and_after_the_cursor(house: House, office: Client) -> None:
    """The cursor only grows; a list after it shows what came since, in order."""
    mailbox = await office.make_mailbox(await house.token())
    envelopes = [an_envelope(house.env) for _ in range(5)]
    notes = await office.ask(*[mailbox.put(envelope) for envelope in envelopes])
    assert all(isinstance(note, Custody) for note in notes)
    listed = await office.list(mailbox)
    assert [item.envelope for item in listed.items] == envelopes
    assert [item.cursor for item in listed.items] == sorted(item.cursor for item in listed.items)
    later = await office.list(mailbox, listed.items[2].cursor)
    assert [item.envelope for item in later.items] == envelopes[3:]


async def test_what_does_not_fit_the_answer_is_named_and_fetched(house: House, office: Client) -> None:
    """Inline up to the bytes asked for, without gaps; the rest is there by hash and size."""
    mailbox = await office.make_mailbox(await house.token())
    envelopes = [an_envelope(house.env) for _ in range(3)]
    await office.ask(*[mailbox.put(envelope) for envelope in envelopes])
    listed = await office.ask_one(mailbox.list(inline_bytes_max=2 * 8192))
    assert isinstance(listed, Listed)
    assert [item.envelope for item in listed.items] == [*envelopes[:2], None]
    assert listed.items[2].envelope_hash == envelope_hash(envelopes[2])


async def test_a_full_mailbox_of_large_items_is_fetched_in_answers_of_bounded_size(
    house: House, office: Client
) -> None:
    """No answer grows beyond one MiB, and listing on always makes progress."""
    mailbox = await office.make_mailbox(await house.token())
    envelopes = [an_envelope(house.env, 65_536) for _ in range(20)]
    for envelope in envelopes:
        await office.put(mailbox, envelope)
    found: list[bytes | None] = []
    cursor = 0
    while len(found) < len(envelopes):
        listed = await office.list(mailbox, cursor)
        inline = [item for item in listed.items if item.envelope is not None]
        assert inline
        found += [item.envelope for item in inline]
        cursor = inline[-1].cursor
    assert found == envelopes


async def test_a_repeated_put_gets_the_note_of_the_first_time(house: House, office: Client) -> None:
    """Retries are harmless: over restarts, and after the recipient deleted it, one item and one log entry."""
    mailbox = await office.make_mailbox(await house.token())
    envelope = an_envelope(house.env)
    first = await office.put(mailbox, envelope)
    for _ in range(2):
        await house.restart()
        again = await office.put(mailbox, envelope)
        assert (again.log_index, again.time_ms) == (first.log_index, first.time_ms)
    assert len((await office.list(mailbox)).items) == 1
    await office.ask(mailbox.delete(first.envelope_hash))
    again = await office.put(mailbox, envelope)
    assert again.log_index == first.log_index
    assert (await office.list(mailbox)).items == ()
    await house.stop()
    assert [entry["t"] for entry in house.entries()].count("bk.in") == 1


async def test_the_same_envelope_twice_in_one_request_is_one_item(house: House, office: Client) -> None:
    """Ops of one request see each other in order."""
    mailbox = await office.make_mailbox(await house.token())
    envelope = an_envelope(house.env)
    first, second = await office.ask(mailbox.put(envelope), mailbox.put(envelope))
    assert isinstance(first, Custody)
    assert isinstance(second, Custody)
    assert first.log_index == second.log_index


async def test_one_envelope_in_two_mailboxes_is_two_items(house: House, office: Client) -> None:
    """Duplicates are judged per mailbox: what one recipient deleted, the other still gets."""
    token = await house.token()
    one, two = await office.make_mailbox(token), await office.make_mailbox(token)
    envelope = an_envelope(house.env)
    note = await office.put(one, envelope)
    await office.put(two, envelope)
    await office.ask(one.delete(note.envelope_hash))
    assert len((await office.list(two)).items) == 1


async def test_a_deletion_needs_the_mailbox_key(house: House, office: Client) -> None:
    """The get secret alone does not delete: a deletion is the recipient's own signed act."""
    mailbox = await office.make_mailbox(await house.token())
    note = await office.put(mailbox, an_envelope(house.env))
    foreign = Mailbox.new(house.env).key
    refused = await office.ask_one(mailbox.delete(note.envelope_hash, signer=foreign))
    assert refused == OpRefused(code="bad_signature")
    assert len((await office.list(mailbox)).items) == 1


async def test_without_the_capability_there_is_nothing(house: House, office: Client) -> None:
    """An unknown put is gone; unknown reading looks like an empty mailbox, whatever is asked."""
    stranger = Mailbox.new(house.env)
    some_hash = bytes(32)
    assert await office.ask(
        stranger.put(an_envelope(house.env)),
        Held(put_secret=stranger.put_secret, envelope_hash=some_hash),
        stranger.list(),
        Get(get_secret=stranger.get_secret, envelope_hash=some_hash),
        stranger.delete(some_hash),
        Notices(),
    ) == (
        OpRefused(code="gone"),
        HeldAnswer(held=False),
        Listed(items=(), more=False),
        OpRefused(code="not_found"),
        Deleted(),
        NoticesAnswer(notices=()),
    )
    empty = await office.make_mailbox(await house.token())
    assert await office.ask_one(Stats(get_secret=stranger.get_secret)) == await office.ask_one(
        Stats(get_secret=empty.get_secret)
    )


async def test_the_put_capability_does_not_read(house: House, office: Client) -> None:
    """Sender and recipient hold different secrets; neither serves for the other."""
    mailbox = await office.make_mailbox(await house.token())
    await office.put(mailbox, an_envelope(house.env))
    confused = Mailbox(put_secret=mailbox.get_secret, get_secret=mailbox.put_secret, key=mailbox.key)
    assert (await office.list(confused)).items == ()
    assert await office.ask_one(confused.put(an_envelope(house.env))) == OpRefused(code="gone")


async def test_quota_keeps_its_reserve_for_what_cannot_wait(house: House, office: Client) -> None:
    """448 ordinary items fill a mailbox; priority items still get in, up to 512; a deletion makes room."""
    mailbox = await office.make_mailbox(await house.token())
    ordinary = limits.MAILBOX_ITEMS_MAX - limits.MAILBOX_RESERVED_ITEMS
    notes: list[object] = []
    for _ in range(0, ordinary, 64):
        notes += await office.ask(*[mailbox.put(an_envelope(house.env)) for _ in range(64)])
    assert all(isinstance(note, Custody) for note in notes)
    assert await office.ask_one(mailbox.put(an_envelope(house.env))) == OpRefused(code="quota")
    urgent = await office.ask(
        *[
            mailbox.put(an_envelope(house.env), priority=True)
            for _ in range(limits.MAILBOX_RESERVED_ITEMS + 1)
        ]
    )
    assert all(isinstance(note, Custody) for note in urgent[:-1])
    assert urgent[-1] == OpRefused(code="quota")
    stats = await office.ask_one(Stats(get_secret=mailbox.get_secret))
    assert isinstance(stats, StatsAnswer)
    assert stats.items == stats.items_max == limits.MAILBOX_ITEMS_MAX
    # A duplicate is answered even when full: it takes no room.
    assert isinstance(urgent[0], Custody)
    await office.ask(mailbox.delete(urgent[0].envelope_hash))
    assert isinstance(await office.ask_one(mailbox.put(an_envelope(house.env), priority=True)), Custody)


async def test_items_end_after_fourteen_days_and_the_mailbox_does_not(house: House, office: Client) -> None:
    """TTL: a day before it is there, a day after it is gone; a mailbox without successor lives for ever."""
    mailbox = await office.make_mailbox(await house.token())
    note = await office.put(mailbox, an_envelope(house.env))
    assert house.broker is not None
    house.clock.shift_ms = 13 * DAY_MS
    await house.broker.store.expire(100)
    assert len((await office.list(mailbox)).items) == 1
    house.clock.shift_ms = 15 * DAY_MS
    await house.broker.store.expire(100)
    assert (await office.list(mailbox)).items == ()
    house.clock.shift_ms = 3650 * DAY_MS
    await house.broker.store.expire(100)
    await house.restart()
    assert isinstance(await office.ask_one(mailbox.put(an_envelope(house.env))), Custody)
    await house.stop()
    expired = [entry for entry in house.entries() if entry["t"] == "bk.expire"]
    assert [entry["env"] for entry in expired] == [note.envelope_hash.hex()]


async def test_a_rendezvous_lives_a_quarter_of_an_hour(house: House, office: Client) -> None:
    """What a pairing leaves behind goes by itself, items and all."""
    mailbox = await office.make_mailbox(await house.token(), "rendezvous")
    await office.put(mailbox, house.env.random(8192))  # the messages of a pairing are no envelopes
    house.clock.shift_ms = limits.RENDEZVOUS_TTL_MS + 1000
    assert await office.ask_one(mailbox.put(house.env.random(8192))) == OpRefused(code="gone")
    assert (await office.list(mailbox)).items == ()
    assert house.broker is not None
    await house.broker.store.expire(100)
    assert house.broker.store.totals().mailboxes == 0


def succession(old: Mailbox, new: Mailbox, *, signer: Ed25519PrivateKey | None = None) -> Create:
    """The recipient asks for another mailbox in succession of its own."""
    return Create(
        predecessor_get_secret=old.get_secret,
        signature=sign_successor(
            signer or old.key, put_hash=new.put_hash, get_hash=new.get_hash, public=new.key.public_bytes
        ),
        put_hash=new.put_hash,
        get_hash=new.get_hash,
        mailbox_public=new.key.public_bytes,
        kind="pair",
    )


async def test_make_before_break(house: House, office: Client) -> None:
    """The old mailbox goes 14 days after the first item reached its successor, and never before."""
    assert house.broker is not None
    old = await office.make_mailbox(await house.token())
    new = Mailbox.new(house.env)
    assert await office.ask_one(succession(old, new)) == Created()
    house.clock.shift_ms = 400 * DAY_MS
    await house.broker.store.expire(100)
    await house.restart()
    assert house.broker is not None
    await office.put(old, an_envelope(house.env))
    await office.put(new, an_envelope(house.env))
    house.clock.shift_ms += 13 * DAY_MS
    await office.put(old, an_envelope(house.env))
    house.clock.shift_ms += 2 * DAY_MS
    await house.broker.store.expire(100)
    assert await office.ask_one(old.put(an_envelope(house.env))) == OpRefused(code="gone")
    assert isinstance(await office.ask_one(new.put(an_envelope(house.env))), Custody)
    assert house.broker.store.totals().mailboxes == 1


async def test_a_successor_needs_the_predecessors_key(house: House, office: Client) -> None:
    """Knowing a get secret is not enough to have mailboxes made."""
    old = await office.make_mailbox(await house.token())
    new = Mailbox.new(house.env)
    create = succession(old, new, signer=new.key)
    assert await office.ask_one(create) == OpRefused(code="bad_signature")


@pytest.mark.parametrize("proving", [True, False])
async def test_one_token_is_good_for_so_many_mailboxes(house: House, office: Client, proving: bool) -> None:
    """Successors of successors, used or not, end at 32 at one time; when old ones go others may follow."""
    assert house.broker is not None
    first = await office.make_mailbox(await house.token())
    parents, made = [first], [first]
    while parents:
        parent = parents.pop(0)
        for _ in range(4):
            new = Mailbox.new(house.env)
            result = await office.ask_one(succession(parent, new))
            if result != Created():
                assert result == OpRefused(code="quota")
                break
            made.append(new)
            parents.append(new)
            if proving:
                await office.put(new, an_envelope(house.env))
        assert len(made) <= limits.LINEAGE_MAILBOXES_MAX
    assert len(made) == limits.LINEAGE_MAILBOXES_MAX
    other = await office.make_mailbox(await house.token())
    assert await office.ask_one(succession(other, Mailbox.new(house.env))) == Created()
    house.clock.shift_ms = limits.MAILBOX_TTL_MS + DAY_MS
    await house.broker.store.expire(100)
    await house.restart()
    result = await office.ask_one(succession(made[-1], Mailbox.new(house.env)))
    assert result == (Created() if proving else OpRefused(code="quota"))


async def test_what_is_no_envelope_is_refused_by_itself(house: House, office: Client) -> None:
    """A bad op refuses itself alone; its neighbours in the request are carried out."""
    mailbox = await office.make_mailbox(await house.token())
    good = an_envelope(house.env)
    results = await office.ask(
        mailbox.put(good[:-1]), mailbox.put(b"\x02" + good[1:]), mailbox.put(b""), mailbox.put(good)
    )
    assert results[:3] == (
        OpRefused(code="too_large"),
        OpRefused(code="malformed"),
        OpRefused(code="too_large"),
    )
    assert isinstance(results[3], Custody)


async def test_a_waiting_poll_answers_at_the_commit(house: House, office: Client) -> None:
    """A poll over several mailboxes wakes at once for an item in any of them, with the envelope inline."""
    token = await house.token()
    boxes = [await office.make_mailbox(token) for _ in range(3)]
    await office.put(boxes[0], an_envelope(house.env))
    seen = (await office.list(boxes[0])).items[-1].cursor
    polling = asyncio.create_task(
        office.ask(*[box.list(seen if box is boxes[0] else 0, wait_ms=50_000) for box in boxes])
    )
    await asyncio.sleep(0.3)
    assert not polling.done()
    envelope = an_envelope(house.env)
    began_ms = house.env.clock.monotonic_ms()
    note = await office.put(boxes[1], envelope)
    results = await asyncio.wait_for(polling, 5)
    assert house.env.clock.monotonic_ms() - began_ms < 2000  # milliseconds on an idle machine
    assert [len(result.items) for result in results if isinstance(result, Listed)] == [0, 1, 0]
    listed = results[1]
    assert isinstance(listed, Listed)
    assert listed.items[0].envelope == envelope
    assert listed.items[0].cursor == note.log_index


async def test_a_poll_without_arrivals_ends_empty_after_its_time(house: House, office: Client) -> None:
    """Known or unknown, an empty poll takes its time and says nothing."""
    mailbox = await office.make_mailbox(await house.token())
    for box in (mailbox, Mailbox.new(house.env)):
        began_ms = house.env.clock.monotonic_ms()
        assert (await office.list(box, wait_ms=300)).items == ()
        assert house.env.clock.monotonic_ms() - began_ms >= 290


async def test_nothing_else_of_a_request_waits_for_a_poll(house: House, office: Client) -> None:
    """A put beside a list with a wait is answered at once; a deletion may ride on the poll."""
    token = await house.token()
    mailbox, empty = await office.make_mailbox(token), await office.make_mailbox(token)
    both = (mailbox.put(an_envelope(house.env)), empty.list(wait_ms=50_000))
    note, listed = await asyncio.wait_for(office.ask(*both), 5)
    assert isinstance(note, Custody)
    assert listed == Listed(items=(), more=False)
    riding = asyncio.create_task(office.ask(mailbox.delete(note.envelope_hash), mailbox.list(wait_ms=50_000)))
    await asyncio.sleep(0.3)
    assert not riding.done()
    assert (await office.list(mailbox)).items == ()  # the deletion was committed before the poll waits
    other = await office.put(mailbox, an_envelope(house.env))
    deleted, arrived = await asyncio.wait_for(riding, 5)
    assert deleted == Deleted()
    assert isinstance(arrived, Listed)
    assert [item.envelope_hash for item in arrived.items] == [other.envelope_hash]


async def test_a_stopping_broker_answers_its_polls(house: House, office: Client) -> None:
    """Stopping is quick and graceful however many offices wait."""
    mailbox = await office.make_mailbox(await house.token())
    polling = asyncio.create_task(office.list(mailbox, wait_ms=50_000))
    await asyncio.sleep(0.3)
    await asyncio.wait_for(house.stop(), 5)
    assert (await polling).items == ()


async def test_every_result_of_a_large_request_arrives(house: House, office: Client) -> None:
    """A hundred puts in one request: a hundred notes under one signature, each proving itself."""
    mailbox = await office.make_mailbox(await house.token())
    envelopes = [an_envelope(house.env) for _ in range(100)]
    notes = await office.ask(*[Put(put_secret=mailbox.put_secret, envelope=e) for e in envelopes])
    assert [n.envelope_hash for n in notes if isinstance(n, Custody)] == [envelope_hash(e) for e in envelopes]


async def test_totals_are_what_counting_would_find(house: House, office: Client) -> None:
    """The counts for /metrics are kept while running; a restart counts anew and finds the same."""
    token = await house.token()
    pair, passing = await office.make_mailbox(token), await office.make_mailbox(token, "rendezvous")
    notes = [await office.put(pair, an_envelope(house.env)) for _ in range(3)]
    await office.put(passing, house.env.random(8192))
    gone = await office.put(passing, house.env.random(16_384))
    await office.ask(pair.delete(notes[0].envelope_hash), passing.delete(gone.envelope_hash))
    await office.ask(pair.delete(notes[0].envelope_hash), pair.put(an_envelope(house.env, 32_768)))

    async def check(items: int, tombstones: int, mailboxes: int) -> None:
        assert house.broker is not None
        kept = house.broker.store.totals()
        assert (kept.items, kept.tombstones, kept.mailboxes) == (items, tombstones, mailboxes)
        await house.restart()
        assert house.broker.store.totals() == kept

    await check(items=4, tombstones=2, mailboxes=2)
    house.clock.shift_ms = limits.RENDEZVOUS_TTL_MS
    assert house.broker is not None
    await house.broker.store.expire(100)
    await check(items=3, tombstones=1, mailboxes=1)
    house.clock.shift_ms += limits.MAILBOX_TTL_MS
    assert house.broker is not None
    await house.broker.store.expire(100)
    await check(items=0, tombstones=0, mailboxes=1)


def test_an_older_database_knows_the_lineage_of_its_mailboxes() -> None:
    """Each descends from the first of its chain that is left."""
    migrations = load_migrations("broker")
    (at,) = (m.number for m in migrations if m.name == "lineage")
    *before, last = migrations[:at]
    db = apsw.Connection(":memory:")
    for migration in before:
        db.execute(migration.sql)
    for number, predecessor in ((1, None), (2, 1), (3, 2), (4, 2), (5, None)):
        name = bytes([number])
        db.execute(
            "INSERT INTO mailboxes (id, put_hash, get_hash, public, pseudonym, kind, created_ms, predecessor)"
            " VALUES (?, ?, ?, ?, ?, 'pair', 0, ?)",
            (number, name * 32, name * 32, name * 32, name * 16, predecessor),
        )
    db.execute(last.sql)
    found = b"".join(lineage[:1] for (lineage,) in db.execute("SELECT lineage FROM mailboxes ORDER BY id"))
    assert found == bytes([1, 1, 1, 1, 5])


async def test_a_cursor_beyond_every_number_lists_nothing(house: House, office: Client) -> None:
    """The largest number a request can hold is a number like any other, also in a poll that then waits."""
    mailbox = await office.make_mailbox(await house.token())
    await office.put(mailbox, an_envelope(house.env))
    for cursor in (2**63 - 1, 2**63, 2**64 - 1):
        assert await office.list(mailbox, cursor) == Listed(items=(), more=False)
        assert await office.list(mailbox, cursor, wait_ms=50) == Listed(items=(), more=False)


async def test_a_poll_that_names_one_mailbox_many_times_gets_one_bounded_answer(
    house: House, office: Client
) -> None:
    """What arrives while it waits is listed within the bounds of any answer."""
    mailbox = await office.make_mailbox(await house.token())

    async def burst() -> None:
        while not house.registry.get_sample_value("salween_broker_polls_waiting"):
            await asyncio.sleep(0.01)
        await office.ask(*[mailbox.put(an_envelope(house.env)) for _ in range(120)])

    poll = [mailbox.list(wait_ms=50_000, inline_bytes_max=0) for _ in range(250)]
    results, _ = await asyncio.gather(office.ask(*poll), burst())
    listed = [result for result in results if isinstance(result, Listed)]
    assert len(listed) == 250
    assert sum(len(result.items) for result in listed) == limits.LISTED_PER_ANSWER_MAX
    assert listed[-1].more
