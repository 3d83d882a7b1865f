"""Heartbeats, nacks and noise: withholding is seen, silence costs little, a flood moves nothing."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from node.broker_link import FRUITLESS_PAUSE_MS_MAX
from node.inbox import forget_old_service_once
from node.peers import load_peers, save_peer
from node.views import EntryView, PeerView
from protocol import limits
from protocol.envelope import envelope_hash
from protocol.items import HeartBeat, KeyAnnouncement, UnknownKeyNotice
from protocol.receivekeys import PeerKey
from protocol.requests import List, Listed, ListedItem, Op, Result
from runtime.broker_line import POLL_WAIT_MS
from runtime.sqlite import Transaction
from tests.node.offices import (
    Offices,
    alter_answers,
    an_alert,
    count,
    entries,
    link_of,
    node_of,
    play,
    read,
    settled,
    shown,
    write,
)
from tests.node.test_hostile_peer import control
from tests.simulation.daemons import OfficeHost


async def peer_of(office: OfficeHost) -> PeerView:
    await office.log_in()
    (peer,) = await office.peers()
    return peer


def is_again(entry: EntryView) -> bool:
    """Whether an entry tells of a message that was sealed, or came, a second time."""
    return entry.fields.get("att", 1) != 1 or entry.fields.get("verdict") == "dup"


def test_a_broker_that_withholds_is_seen_within_two_heartbeats(tmp_path: Path) -> None:
    """F41, I18: the lists are empty and the link is online; the screen says since when nothing proves B."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(3800)  # what a poll that was already open brings is not withheld
        withholding = True
        asked: list[int] = []

        def withholds(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            asked.append(there.now_ms())
            return [
                replace(result, items=()) if withholding and isinstance(result, Listed) else result
                for result in results
            ]

        alter_answers(there, withholds)
        begun_ms = there.now_ms()
        await asyncio.sleep(3600)
        assert (await peer_of(there)).no_proof_since_ms is None
        await asyncio.sleep(2 * 3600 + 600)
        peer = await peer_of(there)
        assert peer.no_proof_since_ms is not None
        assert begun_ms - limits.HOUR_MS - limits.HEARTBEAT_SLACK_MS <= peer.no_proof_since_ms <= begun_ms
        # It says "nothing" at once, not when the wait is over: the line is not filled with questions.
        hours = (there.now_ms() - begun_ms) / limits.HOUR_MS
        assert len(asked) < hours * 2 * limits.HOUR_MS / FRUITLESS_PAUSE_MS_MAX + 100, len(asked)
        withholding = False
        link_of(there).reread()
        await asyncio.sleep(3700)
        assert (await peer_of(there)).no_proof_since_ms is None

    play(tmp_path, script)


def test_old_heartbeats_prove_nothing_new(tmp_path: Path) -> None:
    """A broker that hands out yesterday's heartbeats one by one does not pass for a partner that is there."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        there.host.kill()
        await asyncio.sleep(8 * 3600)
        here.host.kill()
        await asyncio.sleep(8 * 3600)
        await there.restart()
        await asyncio.sleep(600)
        peer = await peer_of(there)
        assert peer.last_heard_ms is not None
        assert there.now_ms() - peer.last_heard_ms < limits.HOUR_MS
        assert peer.no_proof_since_ms is not None
        assert there.now_ms() - peer.no_proof_since_ms > 7 * limits.HOUR_MS

    play(tmp_path, script)


def test_old_heartbeats_are_forgotten_and_nothing_else(tmp_path: Path) -> None:
    """After the horizon of backups their signed bytes go, but for the newest; numbers stay taken."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(6 * 3600)
        kept = await count(there, "received", "verdict <> 'service'")
        heartbeats = await count(there, "received", "verdict = 'service'")
        assert heartbeats > 4
        marks = await read(there, lambda tx: load_peers(tx)[0].pair.inbound)
        await forget(there)
        assert await count(there, "received", "verdict = 'service'") == heartbeats, "not before"
        await write(
            there, lambda tx: tx.execute("UPDATE received SET at_ms = at_ms - ?", (limits.BACKUP_HORIZON_MS,))
        )
        await forget(there)
        assert await count(there, "received", "verdict = 'service'") <= 1
        assert await count(there, "received", "verdict <> 'service'") == kept
        assert await read(there, lambda tx: load_peers(tx)[0].pair.inbound) == marks
        await here.log_in()
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(3700)
        assert await shown(there) == 2
        assert not await entries(there, "peer.freeze")

    play(tmp_path, script)


async def forget(office: OfficeHost) -> None:
    """What the node does about once an hour."""
    await office.host.run(lambda env: forget_old_service_once(node_of(office).database, env.clock.now_ms()))


async def asleep(offices: Offices, hours: float) -> None:
    """These machines sleep so long: nothing runs, and when they wake their clocks have gone on."""
    for host in (offices.here.host, offices.broker.host, offices.there.host):
        host.step_clock(round(hours * limits.HOUR_MS))
    await asyncio.sleep(600)


def test_an_office_that_is_shut_is_not_buried_under_heartbeats(tmp_path: Path) -> None:
    """After three days one a day; with a dead link not even that: one waits, and the rest was never made."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        there.host.kill()
        before = await count(here, "delivery")
        await asyncio.sleep(6 * 3600)
        assert 5 <= await count(here, "delivery") - before <= 6 + 2  # one of them asks to cosign our log
        for _ in range(11):
            await asleep(offices, 6)
        hourly = await count(here, "delivery")
        assert hourly - before >= 6 + 11 - 2, "one whenever an hour has passed, for three days"
        # Awake every quarter of the fourth to eighth day.
        for _ in range(16):
            await asleep(offices, 6)
        daily = await count(here, "delivery")
        assert 3 <= daily - hourly <= 5
        await asyncio.sleep(6 * 3600)
        assert await count(here, "delivery") - daily <= 1
        offices.broker.host.kill()
        await asleep(offices, 24)
        waiting = await count(here, "delivery")
        for _ in range(8):
            await asleep(offices, 6)
        assert await count(here, "delivery") == waiting
        await offices.broker.restart()
        await there.restart()
        await asyncio.sleep(2 * 3600)
        assert (await peer_of(here)).no_proof_since_ms is None
        assert (await peer_of(there)).missing_in == 0

    play(tmp_path, script)


def test_a_heartbeat_says_how_many_are_missing_and_a_false_one_says_nothing(tmp_path: Path) -> None:
    """Numbers above what arrived count as missing; one beyond the window is no number."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await settled(offices)
        taken = await read(there, lambda tx: load_peers(tx)[0].pair.inbound.contiguous_to)
        await control(here, HeartBeat(highest_seq=taken + 8, at_ms=here.now_ms()), service=True)
        await asyncio.sleep(60)
        assert (await peer_of(there)).missing_in == 7
        await control(here, HeartBeat(highest_seq=limits.PAIR_SEQ_MAX, at_ms=here.now_ms()), service=True)
        await asyncio.sleep(60)
        assert (await peer_of(there)).missing_in == 6

    play(tmp_path, script)


# --- nacks --------------------------------------------------------------------------------------------------


async def lose_key(office: OfficeHost) -> None:
    """What this office seals from now on names a key the peer never had."""

    def change(tx: Transaction) -> None:
        (peer,) = load_peers(tx)
        known = peer.peer_key.announcement
        peer.peer_key = PeerKey(
            announcement=KeyAnnouncement(
                key_version=known.key_version,
                rk_gen=known.rk_gen,
                key_id=b"nobody's",
                public=known.public,
            ),
            rk_first=peer.peer_key.rk_first,
        )
        save_peer(tx, peer)

    await write(office, change)


def test_an_alert_under_a_key_the_peer_never_had_arrives_after_one_nack(tmp_path: Path) -> None:
    """The peer names it and announces its key; the sender seals anew; both within a minute."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await there.send(an_alert("KB-1"))
        await asyncio.sleep(300)
        await lose_key(here)
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(60)
        assert await count(there, "delivery", "type = 7") == 1
        assert await shown(there) == 2
        assert await count(there, "quarantine", "code = 'unknown_key'") == 1
        assert (await peer_of(there)).missing_in == 0
        seals = [e.fields["att"] for e in await entries(here, "msg.seal")]
        assert 2 in seals
        assert 3 not in seals

    play(tmp_path, script)


def test_a_flood_of_unknown_keys_makes_one_nack_an_hour_and_a_bounded_log(tmp_path: Path) -> None:
    """F55: whoever can reach the mailbox makes neither a storm of nacks nor a log that fills the disk."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(3600)
        made = 0
        pouring = True

        def pours(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            nonlocal made
            if not pouring or made >= 3000 or not any(isinstance(op, List) for op in ops):
                return results
            junk = [b"\x01" + os.urandom(8191) for _ in range(60)]
            made += len(junk)
            items = tuple(
                ListedItem(cursor=1, envelope_hash=envelope_hash(e), size_bytes=len(e), envelope=e)
                for e in junk
            )
            return [replace(r, items=(*items, *r.items)) if isinstance(r, Listed) else r for r in results]

        alter_answers(there, pours)
        link_of(there).reread()
        size = node_of(there).log.size
        await asyncio.sleep(2400)
        assert made >= 1200
        assert await count(there, "delivery", "type = 7") == 1
        assert await count(there, "nack_due") <= limits.NACK_HASHES_MAX
        assert node_of(there).log.size - size <= limits.UNPROVEN_ENTRIES_PER_HOUR_MAX + 20
        pouring = False
        await here.log_in()
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(3 * 3600)
        assert await shown(there) == 2
        assert await count(there, "delivery", "type = 7") <= 3
        assert not node_of(there).failed.done()
        assert not node_of(here).failed.done()

    play(tmp_path, script)


def test_nacks_of_a_hostile_peer_reseal_a_bounded_number_and_only_its_own(tmp_path: Path) -> None:
    """F55: a nack for what is not the latest envelope does nothing; for the rest there is a measure."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(60)
        there_node = node_of(there)
        offices.broker.host.kill()
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(5)
        named = await read(
            here, lambda tx: tx.value("SELECT envelope_hash FROM delivery WHERE alert_id IS NOT NULL")
        )
        await control(there, UnknownKeyNotice(envelope_hashes=(named, b"x" * 32)))
        await write(
            here,
            lambda tx: tx.execute(
                "INSERT INTO watch (peer, hour_ms, resealed) SELECT office_id, ?, ? FROM peer WHERE 1"
                " ON CONFLICT (peer) DO UPDATE SET hour_ms = excluded.hour_ms, resealed = excluded.resealed",
                (here.now_ms(), limits.NACK_RESEALS_PER_HOUR_MAX),
            ),
        )
        await offices.broker.restart()
        await asyncio.sleep(600)
        assert await count(here, "delivery", "alert_id IS NOT NULL AND attempt = 1") == 1
        assert await shown(there) == 1
        assert not there_node.failed.done()

    play(tmp_path, script)


@pytest.mark.parametrize("number", [64])
def test_items_under_a_deleted_key_get_no_nack(tmp_path: Path, number: int) -> None:
    """Late copies are deleted at the broker in silence: their key was ours, and is gone on purpose."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        for plate in range(4):
            await here.send(an_alert(f"KA-{plate}"))
            await there.send(an_alert(f"KB-{plate}"))
            await asyncio.sleep(300)
        deleted = await read(there, lambda tx: load_peers(tx)[0].receive_keys.deleted[: limits.KEY_ID_BYTES])
        assert len(deleted) == limits.KEY_ID_BYTES
        left = number

        def repeats(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            nonlocal left
            if left and any(isinstance(op, List) for op in ops):
                left -= 1
                late = b"\x01" + deleted + os.urandom(8192 - 9)
                item = ListedItem(
                    cursor=1, envelope_hash=envelope_hash(late), size_bytes=len(late), envelope=late
                )
                return [replace(r, items=(item, *r.items)) if isinstance(r, Listed) else r for r in results]
            return results

        alter_answers(there, repeats)
        link_of(there).reread()
        # One to a list, which may wait for its whole time, and then a pause, for none brings anything.
        await asyncio.sleep(number * (POLL_WAIT_MS + FRUITLESS_PAUSE_MS_MAX) / 1000)
        assert left == 0
        assert await count(there, "delivery", "type = 7") == 0
        assert await count(there, "nack_due") == 0

    play(tmp_path, script)
