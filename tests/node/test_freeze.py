"""Two versions of one message, copies of one office, false acknowledgements: seen, kept, and stopped."""

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keys.errors import PolicyRefused, VerificationFailed
from node.peers import load_peers, save_peer
from protocol import limits
from protocol.conversation import PairState, acknowledgement
from protocol.evidence import (
    Clash,
    Proof,
    SignedVersion,
    check_proof,
    decode_proof_untrusted,
    encode_proof,
)
from protocol.items import Acknowledgement, HeartBeat, ReceivedRange
from protocol.requests import Listed, Op, Result
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
    shown,
    write,
)
from tests.node.test_hostile_peer import control
from tests.simulation.daemons import OfficeHost


async def frozen(office: OfficeHost) -> str | None:
    await office.log_in()
    (peer,) = await office.peers()
    return peer.frozen_code


async def proofs(office: OfficeHost) -> list[Proof]:
    """Every proof an office holds, as it would be exported, checked under the peer's root alone."""
    await office.log_in()
    session = office.session
    assert session is not None
    (peer,) = await office.peers()
    found = await office.host.run(lambda env: node_of(office).desk.evidence(session, peer.office_id))
    return [decode_proof_untrusted(bytes.fromhex(view.proof)) for view in found]


async def root_of_peer(office: OfficeHost) -> bytes:
    return await read(office, lambda tx: load_peers(tx)[0].trusted.root_public)


async def rewind(office: OfficeHost, before: PairState) -> None:
    """As a copy of the disk would that somebody put back."""

    def change(tx: Transaction) -> None:
        (peer,) = load_peers(tx)
        tx.execute("DELETE FROM delivery WHERE pair_seq >= ?", (before.outbound.next_seq,))
        peer.pair = replace(peer.pair, outbound=before.outbound)
        save_peer(tx, peer)

    await write(office, change)


async def unfreeze(office: OfficeHost) -> None:
    await office.log_in()
    session = office.session
    assert session is not None
    (peer,) = await office.peers()
    await office.host.run(lambda env: node_of(office).desk.unfreeze(session, peer.office_id))


def test_two_versions_freeze_the_conversation_until_a_supervisor_lets_it_go_on(tmp_path: Path) -> None:
    """F53: both signed versions are kept and prove it to a third; nothing moves; then everything flows."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        before = await read(here, lambda tx: load_peers(tx)[0].pair)
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(15)  # it is there, its receipt not acknowledged yet: one number is used twice
        await rewind(here, before)
        await here.send(an_alert("KA-3"))
        await asyncio.sleep(120)
        assert await frozen(there) in (Clash.NUMBER, Clash.PREVIOUS)
        assert await shown(there) == 2
        (proof,) = await proofs(there)
        root = await root_of_peer(there)
        assert check_proof(proof, root) in (Clash.NUMBER, Clash.PREVIOUS)
        assert decode_proof_untrusted(encode_proof(proof)) == proof
        headers = await read(there, lambda tx: [r[0] for r in tx.execute("SELECT header FROM received")])
        assert proof.versions[0].header in headers
        assert proof.versions[1].header not in headers
        (entry,) = await entries(there, "peer.freeze")
        assert entry.fields["code"] == await frozen(there)
        # Nothing is sent, nothing taken in; what comes stays at the broker, unmarked.
        with pytest.raises(PolicyRefused) as told:
            await there.send(an_alert("KA-4"))
        assert told.value.code == "pair_frozen"
        received = await count(there, "received")
        await here.log_in()
        await here.send(an_alert("KA-5"))
        await asyncio.sleep(3 * 3600)
        assert await count(there, "received") == received
        assert await count(there, "delivery", "phase = 'kept'") == 0
        assert not node_of(there).failed.done()
        assert not node_of(here).failed.done()
        await unfreeze(there)
        assert await frozen(there) is None
        (thawed,) = await entries(there, "peer.thaw")
        assert thawed.fields["code"] == "supervisor"
        await asyncio.sleep(3 * 3600)
        # The version that is evidence already, sent again by whoever holds it, freezes nothing a second time.
        assert await frozen(there) is None
        assert await shown(there) == 3
        await there.send(an_alert("KA-6"))
        await asyncio.sleep(300)
        assert await shown(here) == 1
        assert len(await proofs(there)) == 1

    play(tmp_path, script)


def test_only_a_supervisor_thaws_and_only_what_is_frozen(tmp_path: Path) -> None:
    """An officer is refused, and so is a supervisor where nothing is frozen."""

    async def script(offices: Offices) -> None:
        second = await offices.second_officer()
        (peer,) = await offices.here.peers()
        desk = node_of(offices.here).desk
        for session, code in ((second, "supervisor_only"), (offices.here.session, "not_frozen")):
            assert session is not None
            with pytest.raises(PolicyRefused) as told:
                await offices.here.host.run(
                    lambda env, session=session: desk.unfreeze(session, peer.office_id)  # type: ignore[misc]
                )
            assert told.value.code == code

    play(tmp_path, script)


class _Clone:
    """A copy of a stopped node's directory, started on another machine."""

    def __init__(self, offices: Offices) -> None:
        self.office = OfficeHost(offices.world, "Copy", "MM")
        self._original = offices.here

    def take(self) -> None:
        """Copy the files of the original, which must be down."""
        assert self._original.host.life is None
        disk = self.office.host.disk
        shutil.rmtree(disk)
        shutil.copytree(self._original.host.disk, disk)


@pytest.mark.parametrize("moment", ["at_once", "after_acknowledgement"])
def test_a_copied_office_is_seen_by_the_first_peer_that_sees_the_fork(tmp_path: Path, moment: str) -> None:
    """F24, I16: original and copy both send; the peer shows one version, keeps both, and freezes."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(120)
        here.host.kill()
        clone = _Clone(offices)
        clone.take()
        await here.restart()
        await here.send(an_alert("KA-2"))
        if moment == "after_acknowledgement":
            await asyncio.sleep(600)
            assert await count(here, "delivery", "phase <> 'acknowledged' AND service = 0") == 0
        await clone.office.restart()
        await clone.office.send(an_alert("KA-3"))
        await asyncio.sleep(1800)
        seen = await frozen(there)
        if moment == "after_acknowledgement":
            # What the copy sends is sealed to a key the peer gave up, and nobody can open it any more: the
            # copy stands alone, and learns it from what it cannot open itself.
            assert seen is None
            await asyncio.sleep(3 * 3600)
            await clone.office.log_in()
            (peer,) = await clone.office.peers()
            assert peer.unknown_keys_since_ms is not None
            await here.log_in()
            await here.send(an_alert("KA-4"))
            await asyncio.sleep(3600)
            assert await count(here, "ladder", "step = 'delivered'") == 3
        else:
            assert seen in (Clash.NUMBER, Clash.PREVIOUS)
        plates = await read(
            there,
            lambda tx: sorted(r[0] for r in tx.execute("SELECT headline FROM alert WHERE incoming = 1")),
        )
        assert len(plates) == (2 if seen else 3), "one version of each number, never both"
        if seen is not None:
            (proof,) = await proofs(there)
            assert check_proof(proof, await root_of_peer(there)) in (Clash.NUMBER, Clash.PREVIOUS)
            assert len(proof.versions) == 2
        for office in (here, there, clone.office):
            assert not node_of(office).failed.done()

    play(tmp_path, script)


def test_a_copy_learns_from_an_acknowledgement_that_it_is_one(tmp_path: Path) -> None:
    """The peer acknowledges numbers the copy never gave out: it stops, shows why, and sends nothing."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(60)
        offices.broker.host.kill()
        # Copied while the key it announced last is not proven: the peer will seal to it, and both have it.
        await here.send(an_alert("KA-1"))
        here.host.kill()
        clone = _Clone(offices)
        clone.take()
        await here.restart()
        await here.send(an_alert("KA-2"))
        there.host.kill()
        await offices.broker.restart()
        await asyncio.sleep(300)
        here.host.kill()  # both are at the broker; the copy alone will find the answer in their mailbox
        await there.restart()
        await asyncio.sleep(120)
        await clone.office.restart()
        await asyncio.sleep(600)
        assert await frozen(clone.office) == Clash.AHEAD
        sent = await count(clone.office, "delivery")
        with pytest.raises(PolicyRefused) as told:
            await clone.office.send(an_alert("KA-3"))
        assert told.value.code == "pair_frozen"
        await asyncio.sleep(3 * 3600)
        assert await count(clone.office, "delivery") == sent
        (proof,) = await proofs(clone.office)
        assert check_proof(proof, await root_of_peer(clone.office)) is Clash.AHEAD
        assert await frozen(there) is None

    play(tmp_path, script)


def test_a_false_acknowledgement_freezes_that_conversation_alone(tmp_path: Path) -> None:
    """F46: a peer that acknowledges what was never sent marks nothing as delivered and is shown."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        offices.broker.host.kill()
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(5)
        honest = await read(there, lambda tx: load_peers(tx)[0].pair)
        lie = replace(
            acknowledgement(honest, 1),
            ranges=(
                ReceivedRange(
                    instance=honest.inbound.instance,
                    contiguous_to=honest.inbound.contiguous_to + 500,
                    bitmap=0,
                ),
            ),
        )
        assert isinstance(lie, Acknowledgement)
        await control(there, lie)
        await offices.broker.restart()
        await asyncio.sleep(1200)
        assert await frozen(here) == Clash.AHEAD
        assert await count(here, "ladder", "step = 'delivered'") == 0
        assert await count(here, "delivery", "phase = 'acknowledged' AND alert_id IS NOT NULL") == 0
        assert await count(here, "delivery", "alert_id IS NOT NULL AND message IS NOT NULL") == 1

    play(tmp_path, script)


@pytest.mark.parametrize("jump", [limits.WINDOW_MESSAGES + 1, 2**40, 2**63])
def test_a_number_beyond_the_window_is_junk_and_moves_nothing(tmp_path: Path, jump: int) -> None:
    """F54: a signed message numbered up to 2^63 leaves no mark, opens no window, and blocks nothing."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(120)
        before = await read(here, lambda tx: load_peers(tx)[0].pair)
        inbound = await read(there, lambda tx: load_peers(tx)[0].pair.inbound)

        def leap(tx: Transaction) -> None:
            (peer,) = load_peers(tx)
            # Room for what the office says by itself meanwhile.
            far = min(before.outbound.next_seq + jump, limits.PAIR_SEQ_MAX - 64)
            peer.pair = replace(
                peer.pair, outbound=replace(before.outbound, next_seq=far, acknowledged_to=far - 1)
            )
            save_peer(tx, peer)

        await write(here, leap)
        await control(here, HeartBeat(highest_seq=1, at_ms=1), service=True)
        await asyncio.sleep(120)
        assert await shown(there) == 1
        assert await read(there, lambda tx: load_peers(tx)[0].pair.inbound) == inbound
        assert await count(there, "quarantine", "code = 'beyond_window'") >= 1
        assert await frozen(there) is None
        await rewind(here, before)
        await here.send(an_alert("KA-3"))
        await asyncio.sleep(300)
        assert await shown(there) == 2

    play(tmp_path, script)


def test_different_views_of_one_broker_end_in_one_conversation(tmp_path: Path) -> None:
    """F48: the broker shows each office another selection, old and reversed; all arrives once."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        kept: list[Any] = []

        def hides(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            """Every other item is withheld, and what was shown before is shown again, newest first."""
            out: list[Result] = []
            for result in results:
                if isinstance(result, Listed) and result.items:
                    shown_now = result.items[::2]
                    kept.extend(shown_now)
                    out.append(replace(result, items=(*reversed(kept[-6:]), *shown_now)))
                else:
                    out.append(result)
            return out

        alter_answers(there, hides)
        for number in range(8):
            await here.send(an_alert(f"H-{number}"))
            await there.send(an_alert(f"T-{number}"))
        await asyncio.sleep(900)
        assert await shown(here) == 8
        there.host.kill()
        await there.restart()
        link_of(there).reread()
        await asyncio.sleep(4 * 3600)
        assert await shown(there) == 8
        for office in (here, there):
            assert await frozen(office) is None
            await office.log_in()
            (peer,) = await office.peers()
            assert peer.missing_in == 0
            assert await count(office, "delivery", "phase <> 'acknowledged' AND alert_id IS NOT NULL") == 0

    play(tmp_path, script)


def test_a_proof_about_nothing_proves_nothing(tmp_path: Path) -> None:
    """One message twice, versions of two numbers, a foreign root, a flipped bit: none of them is a proof."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        for number in range(2):
            await here.send(an_alert(f"KA-{number}"))
        await asyncio.sleep(120)
        root, own_root = await root_of_peer(there), await root_of_peer(here)
        (peer,) = await read(there, load_peers)
        rows = await read(
            there,
            lambda tx: tx.execute(
                "SELECT header, signature, opening, instance FROM received ORDER BY pair_seq LIMIT 2"
            ),
        )
        us = await read(there, lambda tx: tx.value("SELECT office_id FROM office"))
        one, two = (SignedVersion(header=h, signature=s, opening=o, instance=i) for h, s, o, i in rows)
        honest = Proof(recipient=us, certificates=peer.trusted.certificates, versions=(one, two))
        flipped = replace(one, signature=bytes([one.signature[0] ^ 1]) + one.signature[1:])
        for proof, under in (
            (honest, root),
            (replace(honest, versions=(one, one)), root),
            (replace(honest, versions=(one,)), root),
            (honest, own_root),
            (replace(honest, versions=(flipped, two)), root),
            (replace(honest, recipient=b"x" * 32), root),
            (replace(honest, certificates=()), root),
        ):
            with pytest.raises(VerificationFailed):
                check_proof(proof, under)

    play(tmp_path, script)
