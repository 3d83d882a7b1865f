"""A paired office that misbehaves, or a bug of our own: one message suffers and nothing else does."""

import asyncio
import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from keys.card import issue_certificate, parse_certificate_untrusted
from keys.errors import PolicyRefused
from keys.primitives import CompositePrivateKey, Ed25519PrivateKey
from keys.secret import SecretBytes
from node import alerts
from node.outbox import CONTROL_LIFE_MS, ToSend
from node.peers import load_peers, save_peer
from protocol import limits
from protocol.items import Item, KeyAnnouncement, OfficerListItem, OneTimeOffer, OneTimeUnused
from protocol.message import MessageType, certificate_core
from protocol.receipts import Receipt, ReceiptState, encode_receipts
from protocol.release import ReleasedAlert, ReleasePolicy, release_prepared
from protocol.requests import List, Listed, ListedItem, Op, Result
from runtime.sqlite import Snapshot, Transaction
from tests.node.offices import (
    OFFICER_PIN,
    Offices,
    a_victim_alert,
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
from tests.simulation.daemons import OfficeHost


async def compose(office: OfficeHost, message: Callable[[int], ToSend]) -> None:
    """Sign, seal and send something no honest office would, with all of an honest office's keys."""

    def record(tx: Transaction) -> None:
        (peer,) = load_peers(tx)
        node_of(office)._outbox.compose(tx, peer, message(office.now_ms() + CONTROL_LIFE_MS))
        save_peer(tx, peer)

    await write(office, record)


async def control(office: OfficeHost, *items: Item, service: bool = False) -> None:
    def record(tx: Transaction) -> None:
        (peer,) = load_peers(tx)
        node_of(office)._outbox.compose_control(tx, peer, items, service=service)
        save_peer(tx, peer)

    await write(office, record)


def _alive(*offices: OfficeHost) -> None:
    for office in offices:
        assert not node_of(office).failed.done()


@pytest.mark.parametrize("public", [b"\xff" * 1216, bytes(1216)])
def test_a_key_nothing_can_be_sealed_to_is_not_adopted(tmp_path: Path, public: bytes) -> None:
    """Else nothing could leave for that office any more, and the housekeeping would end the node."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await control(here, KeyAnnouncement(key_version=1, rk_gen=99, key_id=b"8 bytes.", public=public))
        await asyncio.sleep(300)
        _alive(here, there)
        await there.send(an_alert("KA-1"))
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(120)
        assert (await shown(here), await shown(there)) == (1, 1)

    play(tmp_path, script)


@pytest.mark.parametrize("public", [b"\xff" * 1216, bytes(1216)])
def test_a_one_time_key_nothing_can_be_sealed_to_is_not_adopted(tmp_path: Path, public: bytes) -> None:
    """Nor does a statement about offers never made disturb anything: alerts go on both ways."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        offer = OneTimeOffer(key_version=1, generation=99, kept_ids=(), fresh=((b"8 bytes.", public),))
        await control(here, offer)
        await control(here, OneTimeUnused(generation=99, unused_ids=(b"8 bytes.",)))
        await asyncio.sleep(300)
        _alive(here, there)
        assert await count(there, "one_time_offered") == 0
        await there.send(an_alert("KA-1"))
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(120)
        assert (await shown(here), await shown(there)) == (1, 1)

    play(tmp_path, script)


def test_false_receipts_move_no_rung(tmp_path: Path) -> None:
    """F56: what contradicts itself, speaks of another alert or of no delivery to it is dropped and logged."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        sent = await here.send(an_alert("KA-1"))
        assert sent.alert_id is not None
        named = bytes.fromhex(sent.alert_id)
        await asyncio.sleep(30)
        hh = await read(here, lambda tx: tx.value("SELECT hh FROM delivery WHERE alert_id IS NOT NULL"))

        def receipt(
            state: ReceiptState, index: int, code: str = "", alert_id: bytes = named, about: bytes = hh
        ) -> Receipt:
            return Receipt(alert_id=alert_id, hh=about, state=state, at_ms=5, log_index=index, code=code)

        said = [
            receipt(ReceiptState.ASSIGNED, 1, "rescued"),
            receipt(ReceiptState.OUTCOME, 2),
            receipt(ReceiptState.REFUSED, 3),
            receipt(ReceiptState.OPENED, limits.U64_MAX),
            receipt(ReceiptState.OPENED, 4, alert_id=bytes(32)),
            receipt(ReceiptState.OPENED, 5, alert_id=b"x" * 32),
            receipt(ReceiptState.OPENED, 6, about=b"x" * 32),
        ]
        core = encode_receipts(said)
        await compose(there, lambda until: ToSend(type=MessageType.RECEIPT, core=core, expires_ms=until))
        await asyncio.sleep(30)
        (row,) = await here.outbox()
        assert [rung.step for rung in row.recipients[0].ladder] == ["kept", "on_broker", "delivered"]
        assert {e.fields["step"] for e in await entries(here, "msg.receipt")} == {"delivered"}
        # Thirty outcomes of one delivery are eight lines; a rung the peer said once keeps its first time.
        many = encode_receipts(
            [
                receipt(ReceiptState.OPENED, 7),
                receipt(ReceiptState.OPENED, 8),
                *(receipt(ReceiptState.OUTCOME, 10 + n, "no_trace") for n in range(30)),
            ]
        )
        await compose(there, lambda until: ToSend(type=MessageType.RECEIPT, core=many, expires_ms=until))
        await asyncio.sleep(30)
        (row,) = await here.outbox()
        ladder = row.recipients[0].ladder
        assert [rung.log_index for rung in ladder if rung.step == "opened"] == [7]
        assert [rung.log_index for rung in ladder if rung.step == "outcome"] == list(range(10, 18))
        assert len(await entries(here, "msg.receipt")) == 10
        assert await count(here, "quarantine") == 0
        _alive(here, there)

    play(tmp_path, script)


def _not_released_to_you(released: ReleasedAlert) -> ReleasedAlert:
    (office_id, opening), *_ = released.audience
    object.__setattr__(released, "audience", ((office_id, opening[:-1] + bytes([opening[-1] ^ 1])),))
    return released


@pytest.mark.parametrize("fault", ["wrong_officer_key", "not_in_audience", "supervisor_needed"])
def test_what_is_signed_but_not_released_is_refused_at_the_sender_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Marked, kept, never shown; the sender's officer sees refused and why; the next alert crosses."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        session = here.session
        assert session is not None
        if fault == "wrong_officer_key":
            live = node_of(here).officers._live[session.token]
            honest_key = live.signing_key
            live.signing_key = Ed25519PrivateKey.from_seed(SecretBytes(b"n" * 32))
            await here.send(an_alert("KA-1"))
            live.signing_key = honest_key
        elif fault == "not_in_audience":
            honest = release_prepared
            monkeypatch.setattr(
                alerts, "release_prepared", lambda *a, **k: _not_released_to_you(honest(*a, **k))
            )
            await here.send(an_alert("KA-1"))
            monkeypatch.setattr(alerts, "release_prepared", honest)
        else:
            node_of(here).alerts._policy = ReleasePolicy(supervisor_releases=False)
            author = await here.host.run(lambda env: node_of(here).desk.login(1, "246813"))
            releaser = await offices.second_officer()
            (office,) = await here.peers()
            alert = a_victim_alert("Ma Example")
            put = await here.host.run(
                lambda env: node_of(here).desk.submit(author, alert, [office.office_id])
            )
            assert put.draft_id is not None
            draft = put.draft_id
            await here.host.run(lambda env: node_of(here).desk.release(releaser, draft))
        await asyncio.sleep(200)
        assert await shown(there) == 0
        (row,) = await here.outbox()
        assert row.state == "refused"
        code = row.recipients[0].ladder[-1].code
        assert code
        assert await read(there, lambda tx: tx.value("SELECT code FROM quarantine")) == code
        assert [e.fields["code"] for e in await entries(there, "msg.recv") if "code" in e.fields] == [code]
        assert [e.fields["code"] for e in await entries(here, "msg.receipt")] == [code]
        await here.log_in()
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(60)
        assert await shown(there) == 1
        (peer,) = await there.peers()
        assert peer.missing_in == 0

    play(tmp_path, script)


def test_a_replayed_envelope_is_shown_once_over_restarts(tmp_path: Path) -> None:
    """The broker lists the same bytes after every restart; the alert stays one."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        kept: list[ListedItem] = []

        def notes(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            kept.extend(item for r in results if isinstance(r, Listed) for item in r.items)
            return results

        alter_answers(there, notes)
        await asyncio.sleep(60)  # the request that waits at the broker was made before
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        assert kept
        for _ in range(3):
            there.host.kill()
            await there.restart()
            replays = [1]

            def again(
                ops: Sequence[Op], results: tuple[Result, ...], replays: list[int] = replays
            ) -> Sequence[Result]:
                if any(isinstance(op, List) for op in ops) and replays:
                    replays.pop()
                    return [replace(r, items=tuple(kept)) if isinstance(r, Listed) else r for r in results]
                return results

            alter_answers(there, again)
            link_of(there).reread()
            await asyncio.sleep(120)
            assert not replays
            assert await shown(there) == 1
        assert {e.fields["verdict"] for e in await entries(there, "msg.recv")} == {"ok", "dup"}

    play(tmp_path, script)


def test_two_messages_under_one_number_are_evidence(tmp_path: Path) -> None:
    """The second one is kept beside the first, never shown; what was shown stays."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        pair = await read(here, lambda tx: load_peers(tx)[0].pair)
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(60)
        assert await shown(there) == 2

        def rewind(tx: Transaction) -> None:
            """As a copy of the disk would that somebody put back."""
            (peer,) = load_peers(tx)
            tx.execute("DELETE FROM delivery WHERE pair_seq >= ?", (pair.outbound.next_seq,))
            peer.pair = replace(peer.pair, outbound=pair.outbound)
            save_peer(tx, peer)

        await write(here, rewind)
        await here.send(an_alert("KA-3"))
        await asyncio.sleep(120)
        assert await shown(there) == 2
        assert await count(there, "quarantine", "verdict = 'equivocation'") >= 1
        assert any(e.fields.get("code") == "equivocation" for e in await entries(there, "msg.recv"))
        _alive(here, there)

    play(tmp_path, script)


def test_a_poisoned_envelope_blocks_nothing_and_is_taken_when_the_fault_is_mended(tmp_path: Path) -> None:
    """An exception of our own while recording: set aside with an entry, the next crosses, a copy heals it."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        offices.broker.host.kill()
        sent = await here.send(an_alert("KA-1"))
        assert sent.alert_id is not None
        alert_id = bytes.fromhex(sent.alert_id)
        await here.send(an_alert("KA-2"))
        # Content without its alert: what a bug could have left behind.
        await write(
            there, lambda tx: tx.execute("INSERT INTO vault VALUES (?, 1, 'x', x'', x'')", (alert_id,))
        )
        await offices.broker.restart()
        await asyncio.sleep(60)
        assert await shown(there) == 1
        assert await count(there, "quarantine", "verdict = 'poisoned'") >= 1
        (peer,) = await there.peers()
        assert peer.missing_in == 1
        _alive(here, there)
        await write(there, lambda tx: tx.execute("DELETE FROM vault WHERE kek = 'x'"))
        await asyncio.sleep(900)
        assert await shown(there) == 2
        assert await count(here, "ladder", "step = 'delivered'") == 2
        said = [e.fields.get("code") for e in await entries(there, "msg.recv")]
        assert 1 <= said.count("internal") <= 4

    play(tmp_path, script)


def test_a_full_window_is_told_and_ends_nothing(tmp_path: Path) -> None:
    """4096 unacknowledged messages: the officer hears it, what is owed stays owed, and leaves afterwards."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await settled(offices)
        honest = await read(here, lambda tx: load_peers(tx)[0].pair)

        def fill(tx: Transaction) -> None:
            (peer,) = load_peers(tx)
            # Full also when all that was really given out is acknowledged.
            full = peer.pair.outbound.next_seq + limits.WINDOW_MESSAGES
            peer.pair = replace(peer.pair, outbound=replace(peer.pair.outbound, next_seq=full))
            save_peer(tx, peer)

        await write(here, fill)
        with pytest.raises(PolicyRefused) as told:
            await here.send(an_alert("KA-1"))
        assert told.value.code == "window_full"
        assert told.value.detail.startswith("Tengchong BLO: ")
        assert await count(here, "alert", "incoming = 0") == 0, "nothing is half kept"
        await there.send(an_alert("KA-2"))
        await offices.second_officer()
        await asyncio.sleep(600)
        _alive(here, there)
        assert await shown(here) == 1
        assert await count(here, "receipt_due") == 1

        def drain(tx: Transaction) -> None:
            (peer,) = load_peers(tx)
            peer.pair = replace(peer.pair, outbound=honest.outbound)
            # A key learnt meanwhile counts from the next real number on.
            peer.peer_key = replace(peer.peer_key, rk_first=honest.outbound.next_seq)
            save_peer(tx, peer)

        await write(here, drain)
        await asyncio.sleep(300)
        assert await count(here, "receipt_due") == 0
        assert await count(there, "ladder", "step = 'delivered'") == 1

    play(tmp_path, script)


def test_an_alert_under_a_list_that_was_replaced_at_once_still_crosses(tmp_path: Path) -> None:
    """Two officers added within a minute: the peer gets both lists, and both officers' alerts."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        node = node_of(here)
        second = await offices.second_officer()
        (office,) = await here.peers()
        await here.host.run(lambda env: node.desk.submit(second, an_alert("KA-1"), [office.office_id]))
        await here.host.run(lambda env: node.add_officer(alias="Third", role="officer", pin="808642"))
        third = await here.host.run(lambda env: node.desk.login(3, "808642"))
        await here.host.run(lambda env: node.desk.submit(third, an_alert("KA-2"), [office.office_id]))
        await here.host.run(lambda env: node.retire_officer(2))
        with pytest.raises(PolicyRefused) as ended:
            await here.host.run(lambda env: node.desk.submit(second, an_alert("KA-3"), [office.office_id]))
        assert ended.value.code == "session_ended"
        await asyncio.sleep(200)
        assert await shown(there) == 2
        assert await count(here, "ladder", "step = 'delivered'") == 2

        def versions(tx: Transaction) -> list[int]:
            return [known.list_version for known in load_peers(tx)[0].trusted.officer_lists]

        assert await write(there, versions) == [1, 2, 3, 4]

    play(tmp_path, script)


def test_a_message_that_waits_for_a_list_is_not_opened_in_circles(tmp_path: Path) -> None:
    """It may carry a list itself, only not the one it needs: looked at when something new is known."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        node = node_of(here)
        second = await offices.second_officer()
        (first, newest) = await read(
            here, lambda tx: [row[0] for row in tx.execute("SELECT bytes FROM officer_list ORDER BY version")]
        )

        def withhold(tx: Transaction) -> None:
            (peer,) = load_peers(tx)
            peer.officer_list_sent = 2
            save_peer(tx, peer)

        await write(here, withhold)
        honest = node._outbox._with_company
        node._outbox._with_company = lambda tx, peer, message: (  # type: ignore[method-assign]
            *honest(tx, peer, message),
            OfficerListItem(officer_list=first),
        )
        (office,) = await here.peers()
        await here.host.run(lambda env: node.desk.submit(second, an_alert("KA-1"), [office.office_id]))
        node._outbox._with_company = honest  # type: ignore[method-assign]
        asked = 0

        def counts(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            nonlocal asked
            asked += 1
            return results

        alter_answers(there, counts)
        await asyncio.sleep(600)
        assert asked < 60
        assert await shown(there) == 0
        await control(here, OfficerListItem(officer_list=newest))
        await asyncio.sleep(60)
        assert await shown(there) == 1

    play(tmp_path, script)


def test_many_officers_added_at_once_keep_their_keys(tmp_path: Path) -> None:
    """Two commands at the same time get two numbers, and both officers can log in."""

    async def script(offices: Offices) -> None:
        node = node_of(offices.here)

        async def add_all(env: object) -> list[int]:
            return list(
                await asyncio.gather(
                    *(node.add_officer(alias=f"O{n}", role="officer", pin=OFFICER_PIN) for n in range(4))
                )
            )

        numbers = await offices.here.host.run(add_all)
        assert sorted(numbers) == [2, 3, 4, 5]
        for number in numbers:
            session = await offices.here.host.run(
                lambda env, number=number: node.desk.login(number, OFFICER_PIN)  # type: ignore[misc]
            )
            assert session.officer == number

    play(tmp_path, script)


def _root_of(office: OfficeHost) -> CompositePrivateKey:
    """The root key, from the recovery sheet as a person would type it."""
    assert office.host.life is not None
    sheet = Path(office.host.life.env.files.native_path("sheet")).read_text()
    rows = re.findall(r"^  \d+  ([A-Z2-7 ]+?)   [A-Z2-7]{2}$", sheet, re.MULTILINE)
    letters = "".join(rows).replace(" ", "")
    return CompositePrivateKey.from_seed(SecretBytes(base64.b32decode(letters + "=" * (-len(letters) % 8))))


def test_a_renewed_certificate_is_kept_when_it_is_acknowledged(tmp_path: Path) -> None:
    """A card with a new key version is stored with its number, or all that follows would wait for ever."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        node = node_of(here)
        now_ms = here.now_ms()
        fresh = CompositePrivateKey.from_seed(SecretBytes(bytes(range(64))))
        certificate = parse_certificate_untrusted(
            issue_certificate(
                _root_of(here),
                key_version=2,
                public=fresh.public_bytes,
                not_before_ms=now_ms - 1000,
                not_after_ms=now_ms + limits.DAY_MS,
                country="MM",
                name="Myitkyina BLO",
            )
        )
        node._outbox._identity = replace(
            node._outbox._identity, key_version=2, operational=fresh, certificate=certificate
        )
        core = certificate_core(certificate, [])
        await compose(here, lambda expires: ToSend(type=MessageType.CARD, core=core, expires_ms=expires))
        await asyncio.sleep(30)

        def versions(tx: Snapshot) -> list[int]:
            (peer,) = load_peers(tx)
            return [known.key_version for known in peer.trusted.certificates]

        assert await read(there, versions) == [1, 2]

    play(tmp_path, script)
