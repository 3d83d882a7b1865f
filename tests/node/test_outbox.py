"""What leaves and when: sealed to the newest key, and not again and again to a mailbox that is full."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from keys.brokercard import BrokerCard
from keys.errors import Unavailable
from keys.primitives import XWingPrivateKey
from keys.secret import SecretBytes
from node import broker_link
from node.inbox import _Outcome
from node.peers import load_peers
from protocol import limits
from protocol.envelope import parse_envelope_untrusted
from protocol.items import Acknowledgement, KeyAnnouncement, ReceivedRange
from protocol.mailbox import QUOTAS
from protocol.message import MessageType
from protocol.requests import Get, Op, OpRefused, Put, Result
from runtime.broker_line import EXCHANGE_TIMEOUT_S
from runtime.sqlite import Transaction
from tests.node.offices import Offices, alter_answers, an_alert, count, link_of, node_of, play, shown, write
from tests.simulation.daemons import OfficeHost, pair

NEW_KEY_ID = b"newest.."
ROOM = 8  # of the small mailbox below, besides what is kept for urgent items
URGENT_ROOM = 3  # one of them goes to a question for a cosignature


class Puts:
    """Counts the envelopes an office puts, from now on."""

    def __init__(self, office: OfficeHost, *, always_full: bool = False) -> None:
        self.made = 0
        self.urgent = 0
        self._always_full = always_full
        alter_answers(office, self._answered)

    def _answered(self, ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
        self.made += sum(isinstance(op, Put) for op in ops)
        self.urgent += sum(isinstance(op, Put) and op.priority for op in ops)
        if not self._always_full:
            return results
        full = OpRefused(code="quota")
        return [full if isinstance(op, Put) else said for op, said in zip(ops, results, strict=True)]


@pytest.fixture
def small_mailbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mailbox with room for ten."""
    items_max = ROOM + URGENT_ROOM
    monkeypatch.setitem(
        QUOTAS, "pair", replace(QUOTAS["pair"], items_max=items_max, reserved_items=URGENT_ROOM)
    )


async def _causes(office: OfficeHost) -> list[str | None]:
    await office.log_in()
    return [row.recipients[0].cause for row in await office.outbox()]


@pytest.mark.usefixtures("small_mailbox")
def test_a_full_mailbox_is_tried_with_one_item(tmp_path: Path) -> None:
    """Forty alerts, room for eight, a peer away for a day: thirty rest, one is tried, all arrive."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        there.host.kill()
        puts = Puts(here)
        for number in range(40):
            await here.send(an_alert(f"KA-{number:03d}"))
        await asyncio.sleep(3600)
        assert await count(here, "custody") >= ROOM
        # 2 s doubling to 15 min, up to a half less: at most 20 tries in the hour.
        assert puts.made - puts.urgent <= ROOM + 20
        causes = await _causes(here)
        assert causes.count("broker_quota") == 40 - ROOM, "every alert says why it waits"
        here.host.kill()
        await here.restart()
        puts = Puts(here)
        await asyncio.sleep(3600)
        assert puts.made <= 10, "a restart does not start the tries over"
        await there.restart()
        await asyncio.sleep(120)
        assert await shown(there) == 40
        assert await count(here, "delivery", "phase <> 'acknowledged' AND alert_id IS NOT NULL") == 0
        assert puts.made <= 10 + 40 + 20
        assert await count(here, "full_mailbox") == 0

    play(tmp_path, script)


@pytest.mark.usefixtures("small_mailbox")
def test_an_urgent_alert_does_not_wait_behind_a_full_mailbox(tmp_path: Path) -> None:
    """It has room of its own; where that is full too it is tried at once, before what is not urgent."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        there.host.kill()
        for number in range(ROOM + 5):
            await here.send(an_alert(f"KA-{number:03d}"))
        await asyncio.sleep(1800)
        urgent = {"urgency": "immediate", "urgency_reason": "crosses within the hour"}
        await here.log_in()
        await here.send(an_alert("KA-100").model_copy(update=urgent))
        await asyncio.sleep(5)
        assert await count(here, "delivery", "urgent AND alert_id IS NOT NULL AND phase = 'held'") == 1
        for number in range(101, 105):
            await here.send(an_alert(f"KA-{number}").model_copy(update=urgent))
        await asyncio.sleep(1800)
        await here.log_in()
        puts = Puts(here)
        await here.send(an_alert("KA-105").model_copy(update=urgent))
        await asyncio.sleep(5)
        assert (puts.made, puts.urgent) == (1, 1)
        await there.restart()
        await asyncio.sleep(120)
        assert await shown(there) == ROOM + 5 + 6

    play(tmp_path, script)


def test_a_broker_that_always_says_full_silences_nothing(tmp_path: Path) -> None:
    """Few puts, every alert still shown as kept with its cause and next try; honest again, all arrive."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        client = node_of(here)._links[offices.broker.address].link.client
        honest = client.exchange
        there.host.kill()
        puts = Puts(here, always_full=True)
        for number in range(20):
            await here.send(an_alert(f"KA-{number:03d}"))
        await asyncio.sleep(8 * 3600)
        assert puts.made - puts.urgent <= 8 * 8 + 20
        assert await _causes(here) == ["broker_quota"] * 20
        rows = await here.outbox()
        assert all(row.recipients[0].ladder[0].step == "kept" for row in rows)
        next_ms = {row.recipients[0].next_try_ms for row in rows}
        assert len(next_ms) == 1
        client.exchange = honest  # type: ignore[method-assign]
        await there.restart()
        await asyncio.sleep(1800)
        assert await shown(there) == 20

    play(tmp_path, script)


@pytest.mark.usefixtures("small_mailbox")
def test_a_clock_set_back_does_not_silence_a_full_mailbox(tmp_path: Path) -> None:
    """The next try lay a year ahead: it is due now, and so is what waits behind it."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        there.host.kill()
        for number in range(ROOM + 5):
            await here.send(an_alert(f"KA-{number:03d}"))
        await asyncio.sleep(600)
        ahead_ms = 365 * limits.DAY_MS
        await write(
            here, lambda tx: tx.execute("UPDATE full_mailbox SET next_at_ms = next_at_ms + ?", (ahead_ms,))
        )
        puts = Puts(here)
        await asyncio.sleep(1800)
        assert 1 <= puts.made - puts.urgent <= 12

    play(tmp_path, script)


def test_what_an_acknowledgement_passes_is_sealed_to_the_key_beside_it(tmp_path: Path) -> None:
    """One message acknowledges a later alert and announces a key: the key it replaces may be gone already."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        there.host.kill()
        await here.send(an_alert("KA-1"))
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(2 * limits.RESEAL_SPACING_MS / 1000)

        def told(tx: Transaction) -> bytes:
            (peer,) = load_peers(tx)
            out, known = peer.pair.outbound, peer.peer_key.announcement
            first, second = (
                row[0]
                for row in tx.execute(
                    "SELECT pair_seq FROM delivery WHERE alert_id IS NOT NULL ORDER BY pair_seq"
                )
            )
            got = ReceivedRange(instance=out.instance, contiguous_to=first - 1, bitmap=1 << (second - first))
            acknowledged = Acknowledgement(
                key_version=known.key_version, instance=peer.pair.inbound.instance, ranges=(got,)
            )
            announced = KeyAnnouncement(
                key_version=known.key_version,
                rk_gen=known.rk_gen + 1,
                key_id=NEW_KEY_ID,
                public=XWingPrivateKey.from_seed(SecretBytes(bytes(32))).public_bytes,
            )
            node_of(here)._inbox._apply_items(
                tx, peer, known.key_version, (acknowledged, announced), _Outcome()
            )
            sealed: bytes = tx.value("SELECT envelope FROM delivery WHERE pair_seq = ?", (first,))
            return sealed

        assert parse_envelope_untrusted(await write(here, told)).key_id == NEW_KEY_ID

    play(tmp_path, script)


def test_of_one_message_one_acknowledgement_counts(tmp_path: Path) -> None:
    """Else one small envelope with 64 of them would have the holes of a whole window looked at 64 times."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        there.host.kill()
        for plate in ("KA-1", "KA-2", "KA-3"):
            await here.send(an_alert(plate))
        await asyncio.sleep(60)

        def told(tx: Transaction) -> int:
            (peer,) = load_peers(tx)
            out, known = peer.pair.outbound, peer.peer_key.announcement
            acks = [
                Acknowledgement(
                    key_version=known.key_version,
                    instance=peer.pair.inbound.instance,
                    ranges=(ReceivedRange(instance=out.instance, contiguous_to=to, bitmap=0),),
                )
                for to in range(out.acknowledged_to + 1, out.next_seq)
            ]
            assert len(acks) >= 3
            node_of(here)._inbox._apply_items(tx, peer, known.key_version, acks, _Outcome())
            return peer.pair.outbound.acknowledged_to - out.acknowledged_to

        assert await write(here, told) == 1

    play(tmp_path, script)


def test_what_waits_is_fetched_many_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list names more than it brings: the next brings more of that mailbox, answered with one receipt."""
    monkeypatch.setattr(broker_link, "INLINE_BYTES_MAX", 12 * limits.ENVELOPE_BUCKETS_BYTES[0])

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        for name in ("Muse", "Ruili"):  # who have nothing to say
            other = OfficeHost(offices.world, name, "MM")
            await other.make()
            await pair(offices.broker, other, there)
        await asyncio.sleep(120)
        there.host.kill()
        for number in range(40):
            await here.send(an_alert(f"KA-{number:03d}"))
        await asyncio.sleep(60)
        fetched = 0

        def counts(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            nonlocal fetched
            fetched += sum(isinstance(op, Get) for op in ops)
            return results

        await there.restart()
        alter_answers(there, counts)
        await asyncio.sleep(60)
        assert await shown(there) == 40
        assert fetched == 0
        # Four by the first list, as there are three mailboxes; twelve by each after it.
        assert await count(there, "delivery", f"type = {int(MessageType.RECEIPT)}") <= 5
        assert await count(here, "ladder", "step = 'delivered'") == 40

    play(tmp_path, script)


def test_a_telephone_line_carries_what_waits(tmp_path: Path) -> None:
    """Half a megabyte does not come in the minute an exchange has: less is asked and sent, until it does."""
    bytes_per_s = 4_000  # a modem

    def slow_line(office: OfficeHost) -> None:
        client = link_of(office).client
        honest = client._line.carry

        async def slowly(card: BrokerCard, body: bytes, *, wait_ms: int) -> bytes:
            answer = await honest(card, body, wait_ms=wait_ms)
            seconds = (len(body) + len(answer)) / bytes_per_s
            await asyncio.sleep(min(seconds, EXCHANGE_TIMEOUT_S))
            if seconds > EXCHANGE_TIMEOUT_S:
                raise Unavailable("broker_timeout", "The broker did not answer in time.")
            return answer

        client._line.carry = slowly  # type: ignore[method-assign]

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        there.host.kill()
        offices.broker.host.kill()
        for number in range(100):
            await here.send(an_alert(f"KA-{number:03d}"))
        slow_line(here)
        await offices.broker.restart()
        await asyncio.sleep(1800)
        assert await count(here, "custody") >= 100
        await there.restart()
        slow_line(there)
        link_of(there).reread()
        await asyncio.sleep(1800)
        assert await shown(there) == 100

    play(tmp_path, script)
