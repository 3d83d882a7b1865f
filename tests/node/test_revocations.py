"""A revocation takes effect whoever brings it, a forged one never; suspended partners lose nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from keys.card import encode_revocation, issue_revocation, parse_revocation_untrusted
from keys.errors import PolicyRefused, VerificationFailed
from keys.notice import Notice, encode_notice, notice_text, parse_notice_untrusted
from keys.primitives import CompositePrivateKey
from keys.recovery_sheet import RecoverySheet
from keys.secret import SecretBytes
from node.daemon import Node
from node.paper import publish_notice
from node.peers import load_peer, save_peer
from node.views import Learnt, PeerView, Session
from protocol.items import RevocationItem
from protocol.requests import Notices, NoticesAnswer, Op, Result
from runtime.sqlite import Transaction
from tests.node.offices import Offices, alter_answers, an_alert, count, entries, node_of, read, shown, write
from tests.node.papers import a_revocation, become, sheet_of
from tests.simulation.daemons import OfficeHost, pair
from tests.simulation.world import World

T = TypeVar("T")

MINUTE = 60.0
HOUR = 3600.0


class Three(Offices):
    """Myitkyina and Tengchong; Mae Sai comes when it is needed, and is paired with both."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.third = OfficeHost(world, "Mae Sai", "TH")

    async def make_third(self) -> None:
        await self.third.make()
        await pair(self.broker, self.third, self.here)
        await pair(self.broker, self.third, self.there)


def play(directory: Path, script: Callable[[Three], Awaitable[None]], *, seed: int = 1) -> None:
    with World(seed=seed, directory=directory) as world:
        offices = Three(world)

        async def whole() -> None:
            await offices.make()
            await script(offices)

        world.run(whole())


async def at_desk(office: OfficeHost, ask: Callable[[Node, Session], Coroutine[Any, Any, T]]) -> T:
    """As the supervisor, whose screen may have locked itself meanwhile."""
    await office.log_in()
    return await office._at_desk(ask)


async def partners(office: OfficeHost) -> tuple[PeerView, ...]:
    """What the partners page shows."""
    return await at_desk(office, lambda node, session: node.desk.peers(session))


async def apply(office: OfficeHost, text: str) -> Learnt:
    """Pasted at its desk."""
    return await at_desk(office, lambda node, session: node.desk.apply_notice(session, text))


async def send(office: OfficeHost, to: bytes, plate: str) -> str:
    """An alert to one of several partners."""
    done = await at_desk(office, lambda node, session: node.desk.submit(session, an_alert(plate), [to.hex()]))
    assert done.alert_id is not None
    return done.alert_id


def id_of(office: OfficeHost) -> bytes:
    return node_of(office)._identity.office_id


async def state_of(office: OfficeHost, partner: bytes) -> tuple[str, str | None]:
    """State and why nothing crosses, as the partners page shows them."""
    (view,) = [p for p in await partners(office) if p.office_id == partner.hex()]
    return view.state, None if view.pause is None else view.pause.why


async def revocations(office: OfficeHost) -> list[int]:
    """What its log says was revoked."""
    return [int(str(e.fields["below"])) for e in await entries(office, "peer.revoke")]


async def by_broker(o: Three, sheet: RecoverySheet) -> None:
    """The stolen office publishes from paper: only the broker's address and the sheet."""
    made = a_revocation(sheet)
    await o.third.host.run(lambda env: publish_notice(env, o.broker.address, made.data))
    await asyncio.sleep(1.3 * HOUR)


async def by_third_office(o: Three, sheet: RecoverySheet) -> None:
    """Only Mae Sai gets the paper; brokers show nothing. Myitkyina hears it in a message of Mae Sai."""
    for office in (o.here, o.third):
        alter_answers(office, show_nothing)
    await apply(o.third, a_revocation(sheet).text)
    await asyncio.sleep(5 * MINUTE)


async def by_pasted_file(o: Three, sheet: RecoverySheet) -> None:
    """Each office is sent the text by letter."""
    for office in (o.here, o.third):
        learnt = await apply(office, f"Dear colleague,\n{a_revocation(sheet).text}\nthank you")
        assert learnt.about == "partner"


def show_nothing(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
    """A hostile broker that withholds every notice."""
    return [
        NoticesAnswer(notices=()) if isinstance(op, Notices) else r
        for op, r in zip(ops, results, strict=True)
    ]


@pytest.mark.parametrize("channel", [by_broker, by_third_office, by_pasted_file])
def test_a_stolen_node_speaks_until_it_is_revoked_by_any_channel(
    tmp_path: Path, channel: Callable[[Three, RecoverySheet], Awaitable[None]]
) -> None:
    """F58, F59, B19: every partner applies the paper, whoever brings it; the thief is not shown then.

    Hostile broker withholding notices: the second channel. The thief's message is quarantined under the code
    of a revoked key, nothing leaves for him, and a copy of the paper changes nothing more.
    """

    async def script(o: Three) -> None:
        await o.make_third()
        sheet = await sheet_of(o.there)
        stolen = id_of(o.there)
        await send(o.there, id_of(o.here), "THIEF-1")
        await asyncio.sleep(MINUTE)
        assert await shown(o.here) == 1, "before anybody knows, a thief is the office"
        await channel(o, sheet)
        for office in (o.here, o.third):
            assert await state_of(office, stolen) == ("suspended", "revoked")
            assert await revocations(office) == [2]
        before = await count(o.here, "quarantine", "code = 'key_version_revoked'")
        await send(o.there, id_of(o.here), "THIEF-2")
        await asyncio.sleep(5 * MINUTE)
        assert await shown(o.here) == 1
        assert await count(o.here, "quarantine", "code = 'key_version_revoked'") > before
        with pytest.raises(PolicyRefused) as refused:
            await send(o.here, stolen, "KA-9")
        assert refused.value.code == "pair_suspended"
        again = await apply(o.here, a_revocation(sheet).text)
        assert not again.is_news
        assert await revocations(o.here) == [2]
        assert await state_of(o.here, id_of(o.third)) == ("active", None)

    play(tmp_path, script)


def test_what_the_thief_sent_before_and_we_read_after_is_not_shown(tmp_path: Path) -> None:
    """F58, B19: a message of the revoked version that was at the broker already is quarantined unshown."""

    async def script(o: Three) -> None:
        sheet = await sheet_of(o.there)
        o.here.host.kill()
        await send(o.there, id_of(o.here), "THIEF-1")
        await asyncio.sleep(MINUTE)
        o.broker.host.kill()
        await o.here.restart()
        await apply(o.here, a_revocation(sheet).text)
        await o.broker.restart()
        await asyncio.sleep(10 * MINUTE)
        assert await count(o.here, "quarantine", "code = 'key_version_revoked'") >= 1
        assert await shown(o.here) == 0

    play(tmp_path, script)


@pytest.mark.parametrize("fault", ["wrong_root", "wrong_office", "altered", "weaker", "replayed"])
def test_a_forged_or_old_revocation_changes_nothing(tmp_path: Path, fault: str) -> None:
    """Pasted, from a broker or in a partner's message: nothing is stored, logged or told."""

    async def script(o: Three) -> None:
        await o.make_third()
        sheet = await sheet_of(o.there)
        mallory = CompositePrivateKey.from_seed(SecretBytes(bytes(64)))
        true = a_revocation(sheet, 2)
        if fault in ("weaker", "replayed"):
            await apply(o.here, a_revocation(sheet, 3).text)
            await asyncio.sleep(MINUTE)
        by_mallory = parse_revocation_untrusted(
            issue_revocation(mallory, revoked_below=9, since_ms=1, reason="x")
        )
        honest = parse_notice_untrusted(true.data)
        forged = {
            "wrong_root": Notice(
                root_public=mallory.public_bytes, revocation=replace(by_mallory, office_id=sheet.office_id)
            ),
            "wrong_office": Notice(
                root_public=honest.root_public, revocation=replace(by_mallory, office_id=sheet.office_id)
            ),
            "altered": replace(honest, revocation=replace(honest.revocation, revoked_below=9)),
            "weaker": honest,
            "replayed": honest,
        }[fault]
        state, logged = await state_of(o.here, sheet.office_id), await revocations(o.here)
        stored = await count(o.here, "revocation")
        if fault in ("weaker", "replayed"):
            assert not (await apply(o.here, notice_text(encode_notice(forged)))).is_news
        else:
            with pytest.raises(VerificationFailed):
                await apply(o.here, notice_text(encode_notice(forged)))
        await say(o.third, id_of(o.here), [forged])
        alter_answers(o.here, lambda ops, results: show(forged, ops, results))
        await asyncio.sleep(1.3 * HOUR)
        assert await state_of(o.here, sheet.office_id) == state
        assert await revocations(o.here) == logged
        assert await count(o.here, "revocation") == stored

    play(tmp_path, script)


def show(notice: Notice, ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
    """A broker that shows this and nothing else."""
    shown_one = NoticesAnswer(notices=(encode_notice(notice),), cursor=2**40, more=True)
    return [shown_one if isinstance(op, Notices) else r for op, r in zip(ops, results, strict=True)]


async def say(office: OfficeHost, to: bytes, notices: Sequence[Notice]) -> None:
    """A message with revocations, whatever its sender knows of them."""
    node = node_of(office)

    def compose(tx: Transaction) -> None:
        peer = load_peer(tx, to)
        items = [RevocationItem(revocation=encode_revocation(notice.revocation)) for notice in notices]
        node._outbox.compose_control(tx, peer, items, service=False)
        save_peer(tx, peer)

    await write(office, compose)


def test_a_partner_that_sends_ten_thousand_revocations_costs_little(tmp_path: Path) -> None:
    """Of itself, ever stronger: one entry per message, one row, and others are told once in a while."""

    async def script(o: Three) -> None:
        await o.make_third()
        sheet = await sheet_of(o.there)
        root = CompositePrivateKey.from_seed(sheet.root_seed)

        def one(below: int) -> Notice:
            signed = issue_revocation(root, revoked_below=below, since_ms=1, reason="x")
            return Notice(root_public=root.public_bytes, revocation=parse_revocation_untrusted(signed))

        ten = [one(below) for below in range(2, 12)]
        for _ in range(30):
            await say(o.third, id_of(o.here), ten)
        await asyncio.sleep(10 * MINUTE)
        assert await revocations(o.here) == [11]
        assert await count(o.here, "revocation") == 1
        assert await count(o.here, "revocation_due") <= 2

    play(tmp_path, script)


def test_a_broker_that_shows_offices_without_end_is_listened_to_for_so_long(tmp_path: Path) -> None:
    """Pages end, strangers are forty bytes each, and none of it reaches log or screen."""

    async def script(o: Three) -> None:
        asked = 0
        strangers = []
        for number in range(8):
            root = CompositePrivateKey.from_seed(SecretBytes(bytes([number]) * 64))
            signed = issue_revocation(root, revoked_below=2, since_ms=1, reason="x")
            strangers.append(
                encode_notice(
                    Notice(root_public=root.public_bytes, revocation=parse_revocation_untrusted(signed))
                )
            )

        def endless(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            nonlocal asked
            answer: list[Result] = []
            for op, result in zip(ops, results, strict=True):
                if isinstance(op, Notices):
                    asked += 1
                    notices = (strangers[asked % 8], b"junk")
                    answer.append(NoticesAnswer(notices=notices, cursor=op.cursor + 1, more=True))
                else:
                    answer.append(result)
            return answer

        await asyncio.sleep(MINUTE)  # the visit that each pairing asks for is over
        alter_answers(o.here, endless)
        node_of(o.here).revocations.ask_anew()
        await asyncio.sleep(10 * MINUTE)
        assert 0 < asked <= 64
        assert await count(o.here, "revoked_stranger") == 8
        assert await revocations(o.here) == []

    play(tmp_path, script)


def test_suspended_by_hand_nothing_crosses_and_nothing_is_lost(tmp_path: Path) -> None:
    """Both directions wait, unmarked; after the resume both arrive. Officers may not end it."""

    async def script(o: Three) -> None:
        partner = id_of(o.there)
        kept = await send(o.here, partner, "KA-0")
        await asyncio.sleep(MINUTE)
        await at_desk(o.here, lambda node, session: node.desk.suspend(session, partner.hex()))
        assert await state_of(o.here, partner) == ("suspended", "by_hand")
        with pytest.raises(PolicyRefused) as refused:
            await send(o.here, partner, "KA-1")
        assert refused.value.code == "pair_held"
        await send(o.there, id_of(o.here), "YN-1")
        await asyncio.sleep(10 * MINUTE)
        assert await shown(o.here) == 0
        assert await count(o.here, "quarantine") == 0
        second = await o.second_officer()
        node = node_of(o.here)
        with pytest.raises(PolicyRefused) as refused:
            await o.here.host.run(lambda env: node.desk.resume(second, partner.hex()))
        assert refused.value.code == "supervisor_only"
        o.here.host.kill()
        await o.here.restart()
        assert await state_of(o.here, partner) == ("suspended", "by_hand")
        await at_desk(o.here, lambda node, session: node.desk.resume(session, partner.hex()))
        await asyncio.sleep(5 * MINUTE)
        assert await shown(o.here) == 1
        await send(o.here, partner, "KA-2")
        await asyncio.sleep(5 * MINUTE)
        assert await shown(o.there) == 2
        assert kept
        codes = [(e.kind, e.fields.get("code")) for e in await entries(o.here, "peer.suspend", "peer.resume")]
        assert codes == [("peer.suspend", "by_hand"), ("peer.resume", None)]

    play(tmp_path, script)


def test_an_alert_kept_when_the_pair_is_suspended_leaves_after_the_resume(tmp_path: Path) -> None:
    """What the link had not taken yet waits in the outbox, with the cause."""

    async def script(o: Three) -> None:
        partner = id_of(o.there)
        o.broker.host.kill()
        await send(o.here, partner, "KA-1")
        await at_desk(o.here, lambda node, session: node.desk.suspend(session, partner.hex()))
        await o.broker.restart()
        await asyncio.sleep(10 * MINUTE)
        assert await shown(o.there) == 0
        (row,) = await at_desk(o.here, lambda node, session: node.desk.outbox(session))
        assert row.recipients[0].cause == "pair_held"
        await at_desk(o.here, lambda node, session: node.desk.resume(session, partner.hex()))
        await asyncio.sleep(10 * MINUTE)
        assert await shown(o.there) == 1

    play(tmp_path, script)


def test_a_revoked_office_cannot_be_resumed_by_hand(tmp_path: Path) -> None:
    """Only the other office ends it, with a new key."""

    async def script(o: Three) -> None:
        partner = id_of(o.there)
        await apply(o.here, a_revocation(await sheet_of(o.there)).text)
        with pytest.raises(PolicyRefused) as refused:
            await at_desk(o.here, lambda node, session: node.desk.resume(session, partner.hex()))
        assert refused.value.code == "pair_suspended"

    play(tmp_path, script)


def test_the_office_comes_back_under_a_higher_version_and_the_thief_does_not(tmp_path: Path) -> None:
    """F59: the same root, a new machine, key version 2, a new ceremony: same safety number, alerts both ways.

    The alert that waited leaves then, once. The thief, still under version 1, stays unshown.
    """

    async def script(o: Three) -> None:
        sheet = await sheet_of(o.there)
        partner = id_of(o.there)
        (number,) = [p.safety_number for p in await partners(o.here) if p.office_id == partner.hex()]
        o.broker.host.kill()
        await send(o.here, partner, "KA-1")
        await apply(o.here, a_revocation(sheet).text)
        await o.broker.restart()
        await asyncio.sleep(5 * MINUTE)
        new = OfficeHost(o.world, "Tengchong new", "CN")
        await new.make()
        await become(new, sheet, 2)
        await pair(o.broker, o.here, new)
        assert await state_of(o.here, partner) == ("active", None)
        (again,) = [p.safety_number for p in await partners(o.here) if p.office_id == partner.hex()]
        assert again == number
        await asyncio.sleep(5 * MINUTE)
        await send(o.here, partner, "KA-2")
        await send(new, id_of(o.here), "YN-2")
        await asyncio.sleep(5 * MINUTE)
        assert await shown(new) == 2
        assert await shown(o.here) == 1
        await send(o.there, id_of(o.here), "THIEF")
        await asyncio.sleep(10 * MINUTE)
        assert await shown(o.here) == 1
        assert await read(o.here, lambda tx: load_peer(tx, partner).trusted.revoked_below) == 2

    play(tmp_path, script)


def test_a_thief_cannot_pair_again_under_the_revoked_key(tmp_path: Path) -> None:
    """Kept for ever: not after the revocation was met as a stranger's either."""

    async def script(o: Three) -> None:
        stranger = OfficeHost(o.world, "Mong La", "MM")
        await stranger.make()
        sheet = await sheet_of(stranger)
        assert (await apply(o.here, a_revocation(sheet).text)).about == "stranger"
        with pytest.raises((VerificationFailed, PolicyRefused)):
            await asyncio.wait_for(pair(o.broker, o.here, stranger), 30 * MINUTE)
        assert await count(o.here, "peer") == 1

    play(tmp_path, script)


def test_a_new_root_is_a_new_partner_and_the_old_one_is_retired(tmp_path: Path) -> None:
    """Nothing is merged: other office id, other safety number; the history stays under the old entry."""

    async def script(o: Three) -> None:
        old = id_of(o.there)
        await send(o.there, id_of(o.here), "YN-1")
        await asyncio.sleep(MINUTE)
        new = OfficeHost(o.world, "Tengchong anew", "CN")
        await new.make()
        await pair(o.broker, o.here, new)
        fresh = id_of(new)
        await at_desk(o.here, lambda node, session: node.desk.retire(session, old.hex(), fresh.hex()))
        views = {p.office_id: p for p in await partners(o.here)}
        pause = views[old.hex()].pause
        assert (views[old.hex()].state, pause and pause.successor) == ("retired", "Tengchong anew BLO")
        assert views[old.hex()].safety_number != views[fresh.hex()].safety_number
        with pytest.raises(PolicyRefused) as refused:
            await send(o.here, old, "KA-1")
        assert refused.value.code == "pair_retired"
        (row,) = await at_desk(o.here, lambda node, session: node.desk.inbox(session))
        assert row.peer_id == old.hex()
        assert row.peer_name == "Tengchong BLO"
        await send(o.there, id_of(o.here), "YN-2")
        await asyncio.sleep(5 * MINUTE)
        assert await shown(o.here) == 1

    play(tmp_path, script)


def test_an_office_is_told_that_its_own_keys_are_void(tmp_path: Path) -> None:
    """A node that was found again: the doctor says why partners drop what it sends."""

    async def script(o: Three) -> None:
        node = node_of(o.there)
        learnt = await apply(o.there, a_revocation(await sheet_of(o.there)).text)
        assert (learnt.about, learnt.suspended) == ("ourselves", True)
        (check,) = [c for c in await o.there.host.run(lambda env: node.doctor()) if c["what"] == "own keys"]
        assert not check["ok"]

    play(tmp_path, script)
