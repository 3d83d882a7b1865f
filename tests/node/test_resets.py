"""A reset that is not followed is told at both ends, and none winds a conversation back."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from keys.card import issue_certificate, parse_certificate_untrusted
from keys.primitives import CompositePrivateKey
from keys.secret import SecretBytes
from node.commands.recovery import beginning_words, lost_words
from node.outbox import CONTROL_LIFE_MS, ToSend
from node.paper import read_sheet
from node.peers import load_peers, save_peer
from node.resets import lost_after_restore
from node.restore import begin_in_place, restore
from node.verbs import plain
from node.views import PeerView
from protocol import limits
from protocol.conversation import PairState, with_my_instance
from protocol.evidence import Clash
from protocol.items import SeenItem
from protocol.message import MessageType, certificate_core
from protocol.receivekeys import with_my_new_instance
from protocol.requests import List, Listed, ListedItem, Op, Result
from runtime.env import Env
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
from tests.node.papers import a_revocation, sheet_of
from tests.simulation.daemons import CHEAP_PROFILE, PASSPHRASE, OfficeHost, meet, two_screens

SECRET = SecretBytes(b"paper stone scissors well")
STOLEN = b"stolen!!"


async def view_of(office: OfficeHost) -> PeerView:
    """Its only partner, as the pages show it."""
    await office.log_in()
    (peer,) = await office.peers()
    return peer


async def said(office: OfficeHost) -> list[str]:
    """What is not settled of resets, by its word."""
    return [beginning.why for beginning in (await view_of(office)).beginnings]


async def pair_state(office: OfficeHost) -> PairState:
    """Numbers given out and taken in."""
    return await read(office, lambda tx: load_peers(tx)[0].pair)


async def back_up(office: OfficeHost) -> None:
    """As an officer does every evening."""
    node = node_of(office)
    await office.host.run(lambda env: node.backup("bk", SECRET, with_operational=False))


async def restored(office: OfficeHost, above: int | None = None) -> None:
    """The directory is lost; the backup is put into a new one, and the node runs."""
    office.host.kill()
    office.host.boot()

    async def again(env: Env) -> None:
        env.files.rename("node", "lost")
        await restore(
            env, "bk", "node", read_sheet(env, "sheet"), above=above,
            backup_passphrase=SECRET, passphrase=SecretBytes(PASSPHRASE), kdf=CHEAP_PROFILE,
        )  # fmt: skip

    await office.host.run(again)
    office.host.kill()
    await office.restart()


async def begin_again(office: OfficeHost, above: int | None = None) -> None:
    """``salween-node restore --in-place``."""
    office.host.kill()
    office.host.boot()
    passphrase = SecretBytes(PASSPHRASE)
    await office.host.run(
        lambda env: begin_in_place(env, "node", read_sheet(env, "sheet"), passphrase, above=above)
    )
    office.host.kill()
    await office.restart()


async def flows(offices: Offices, mark: str) -> None:
    """One alert each way, and each sender sees that it arrived."""
    here, there = offices.here, offices.there
    before = await shown(here), await shown(there)
    await there.log_in()
    await here.log_in()
    await there.send(an_alert(f"{mark}-B"))
    await here.send(an_alert(f"{mark}-A"))
    await asyncio.sleep(300)
    assert (await shown(here), await shown(there)) == (before[0] + 1, before[1] + 1)
    for office in (here, there):
        await office.log_in()
        assert (await office.outbox())[0].state == "delivered"


async def forge(
    office: OfficeHost, root: CompositePrivateKey, key_version: int, *, instance: bytes = STOLEN
) -> None:
    """A RESET under a key of ``key_version`` that ``root`` certified, sent with everything this node has."""
    node = node_of(office)
    now_ms = office.now_ms()
    operational = CompositePrivateKey.from_seed(SecretBytes(bytes([key_version % 256]) * 64))
    certificate = parse_certificate_untrusted(
        issue_certificate(
            root,
            key_version=key_version,
            public=operational.public_bytes,
            not_before_ms=now_ms - limits.DAY_MS,
            not_after_ms=now_ms + limits.DAY_MS,
            country="MM",
            name="Myitkyina BLO",
        )
    )
    if certificate.office_id != node._identity.office_id:
        certificate = replace(certificate, office_id=node._identity.office_id)
    honest = node._outbox._identity
    node._outbox._identity = replace(
        honest, key_version=key_version, operational=operational, certificate=certificate
    )

    def record(tx: Transaction) -> None:
        (peer,) = load_peers(tx)
        seen = SeenItem(ranges=(), ended=peer.pair.outbound.instance, next_seq=1, at_ms=0)
        peer.pair = with_my_instance(peer.pair, instance)
        peer.peer_key = with_my_new_instance(peer.peer_key)
        core = certificate_core(certificate, [seen])
        until = office.now_ms() + CONTROL_LIFE_MS
        node._outbox.compose(tx, peer, ToSend(type=MessageType.RESET, core=core, expires_ms=until))
        save_peer(tx, peer)

    await write(office, record)
    node._outbox._identity = honest


class Wire:
    """What the broker lists to an office, kept to be listed again."""

    def __init__(self, office: OfficeHost, kept: Sequence[ListedItem] = ()) -> None:
        self._office = office
        self.kept = list(kept)
        alter_answers(office, self._note)

    def _note(self, ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
        del ops
        self.kept.extend(item for r in results if isinstance(r, Listed) for item in r.items)
        return results

    async def replay(self) -> None:
        """A broker that kept everything lists it once more."""
        replays = [1]

        def again(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            if replays and any(isinstance(op, List) for op in ops):
                replays.pop()
                return [replace(r, items=tuple(self.kept)) if isinstance(r, Listed) else r for r in results]
            return results

        alter_answers(self._office, again)
        link_of(self._office).reread()
        await asyncio.sleep(120)
        assert not replays


# --- refused, and told --------------------------------------------------------------------------------------


def test_a_reset_under_a_lower_version_is_refused_and_both_offices_say_why(tmp_path: Path) -> None:
    """It moves no number; the restored office reads the version to begin above, does so, and alerts flow."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await flows(offices, "K1")
        await back_up(here)
        await begin_again(here)
        await asyncio.sleep(300)
        known = (await view_of(there)).key_version
        assert known > 1_000_000
        before, taken = await pair_state(there), await count(there, "received")

        await restored(here, above=5)
        await asyncio.sleep(600)
        after = await pair_state(there)
        assert (after.inbound, after.earlier) == (before.inbound, before.earlier)
        assert after.outbound.acknowledged_to == before.outbound.acknowledged_to
        assert (await count(there, "received"), await count(there, "peer_reset")) == (taken, 1)
        (told,) = (await view_of(there)).beginnings
        assert (told.why, told.key_version, told.known_version) == ("not_newer", 6, known)
        assert "Nothing was changed" in beginning_words("X", plain(told))
        refused = [e for e in await entries(there, "msg.recv") if e.fields["verdict"] == "refused"]
        assert {e.fields["code"] for e in refused} == {"reset_not_newer"}

        (heard,) = (await view_of(here)).beginnings
        assert (heard.why, heard.key_version, heard.known_version) == ("refused", 6, known)
        (entry,) = await entries(here, "backup.refused")
        assert (entry.fields["ver"], entry.fields["known"]) == (6, known)
        words = lost_words(await read(here, lost_after_restore))
        assert f"--key-version-above {known}" in words

        await begin_again(here, above=known)
        await asyncio.sleep(600)
        assert (await said(here), await said(there)) == ([], [])
        await flows(offices, "K2")

    play(tmp_path, script)


def test_a_reset_under_a_revoked_version_is_refused_and_the_pair_stays_suspended(tmp_path: Path) -> None:
    """Nothing may leave for a suspended pair, so the words stand at both ends alone; above it all is well."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await flows(offices, "K1")
        await back_up(here)
        node, paper = node_of(there), a_revocation(await sheet_of(here), below=1000)
        await there.host.run(lambda env: node.revocations.take_notice(paper.data, "paper"))
        before = await pair_state(there)

        await restored(here, above=5)
        await asyncio.sleep(600)
        peer = await view_of(there)
        assert (peer.state, [b.why for b in peer.beginnings]) == ("suspended", ["not_newer"])
        assert peer.beginnings[0].known_version == 999
        assert await pair_state(there) == before
        assert await said(here) == ["waits"]
        assert "telephone it" in lost_words(await read(here, lost_after_restore))

        await begin_again(here, above=999)
        await asyncio.sleep(600)
        assert (await said(here), await said(there)) == ([], [])
        await flows(offices, "K2")

    play(tmp_path, script)


def test_a_reset_whose_certificate_another_root_signed_is_junk(tmp_path: Path) -> None:
    """Whatever version it claims: no certificate is learnt, no number marked, nothing goes back."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await flows(offices, "K1")
        before = await read(there, lambda tx: load_peers(tx)[0].trusted)
        state, given = await pair_state(there), await count(there, "delivery", "service = 0")
        await forge(here, CompositePrivateKey.from_seed(SecretBytes(b"r" * 32 + b"t" * 32)), 9)
        await asyncio.sleep(60)
        assert await count(there, "quarantine", "verdict = 'junk'") >= 1
        assert await read(there, lambda tx: load_peers(tx)[0].trusted) == before
        assert (await pair_state(there)).inbound == state.inbound
        assert await count(there, "peer_reset") == 0
        assert await count(there, "delivery", "service = 0") == given
        assert await said(there) == []

    play(tmp_path, script)


def test_a_thief_who_resets_under_the_key_in_use_is_told_of_to_its_owner(tmp_path: Path) -> None:
    """The partner refuses it and says so to the office itself, once, however many the thief makes."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await flows(offices, "K1")
        honest = node_of(here)._identity
        for number in range(3):

            def record(tx: Transaction, number: int = number) -> None:
                (peer,) = load_peers(tx)
                owners, key = peer.pair, peer.peer_key
                seen = SeenItem(ranges=(), ended=owners.outbound.instance, next_seq=1, at_ms=0)
                peer.pair = with_my_instance(owners, bytes([number + 1]) * 8)
                peer.peer_key = with_my_new_instance(key)
                core = certificate_core(honest.certificate, [seen])
                until = here.now_ms() + CONTROL_LIFE_MS
                node_of(here)._outbox.compose(
                    tx, peer, ToSend(type=MessageType.RESET, core=core, expires_ms=until)
                )
                peer.pair, peer.peer_key = owners, key  # the owner knows nothing of it
                save_peer(tx, peer)

            await write(here, record)
        await asyncio.sleep(600)
        assert await said(there) == ["not_newer"]
        assert await count(there, "reset_refused", "ours = 0") == 1
        assert await said(here) == ["foreign"]
        assert len(await entries(here, "backup.refused")) == 1
        assert "somebody else has our key" in beginning_words("X", plain((await view_of(here)).beginnings[0]))
        await flows(offices, "K2")

    play(tmp_path, script)


# --- replayed, suspended, frozen ----------------------------------------------------------------------------


def test_a_reset_that_comes_again_or_after_a_newer_one_does_nothing(tmp_path: Path) -> None:
    """The same bytes twice, and those of the reset before: no number, no instance, no alert sent again."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await flows(offices, "K1")
        wire = Wire(there)
        await begin_again(here)
        await asyncio.sleep(300)
        assert await count(there, "peer_reset") == 1
        for resets in (1, 2):
            await flows(offices, f"R{resets}")
            before, trusted = await pair_state(there), (await view_of(there)).key_version
            given = await count(there, "delivery", "service = 0")
            await wire.replay()
            after = await pair_state(there)
            assert (after.inbound.instance, after.earlier) == (before.inbound.instance, before.earlier)
            assert after.inbound.contiguous_to >= before.inbound.contiguous_to
            assert after.outbound.acknowledged_to >= before.outbound.acknowledged_to
            assert await count(there, "peer_reset") == resets
            assert len(await entries(there, "peer.reset")) == resets
            assert (await view_of(there)).key_version == trusted
            assert await count(there, "delivery", "service = 0") == given
            assert await said(there) == []
            if resets == 1:
                wire = Wire(there, wire.kept)
                await begin_again(here)
                await asyncio.sleep(300)
        await flows(offices, "K2")

    play(tmp_path, script)


def test_a_reset_of_a_partner_suspended_by_hand_waits_for_the_supervisor(tmp_path: Path) -> None:
    """Unopened at the broker, and followed once the partner is resumed."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await flows(offices, "K1")
        await there.log_in()
        node, session = node_of(there), there.session
        assert session is not None
        peer_id = (await view_of(there)).office_id
        await there.host.run(lambda env: node.desk.suspend(session, peer_id))
        before = await pair_state(there)
        await begin_again(here)
        await asyncio.sleep(600)
        assert await pair_state(there) == before
        assert await count(there, "peer_reset") == 0
        assert await said(here) == ["waits"]
        await there.log_in()
        resumed = there.session
        assert resumed is not None
        await there.host.run(lambda env: node.desk.resume(resumed, peer_id))
        await asyncio.sleep(600)
        assert await count(there, "peer_reset") == 1
        assert (await said(here), await said(there)) == ([], [])
        await flows(offices, "K2")

    play(tmp_path, script)


def test_a_reset_ends_a_freeze_whatever_key_it_came_under(tmp_path: Path) -> None:
    """Nothing else is taken in meanwhile: what is no reset stays at the broker."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await flows(offices, "K1")
        await write(
            there,
            lambda tx: tx.execute("UPDATE peer SET frozen_ms = 1, frozen_code = ?", (Clash.NUMBER.value,)),
        )
        before = await shown(there)
        await here.log_in()
        await here.send(an_alert("K2-A"))
        await asyncio.sleep(300)
        assert await shown(there) == before
        await write(here, lambda tx: tx.execute("DELETE FROM reset_key WHERE own = 0"))
        await begin_again(here)
        await asyncio.sleep(600)
        assert (await view_of(there)).frozen_code is None
        assert await shown(there) == before + 1
        await flows(offices, "K3")

    play(tmp_path, script)


_KEY = "SELECT key_id, public FROM reset_key WHERE "


# --- without a reset key ------------------------------------------------------------------------------------


def test_two_offices_that_only_paired_know_each_others_reset_keys(tmp_path: Path) -> None:
    """Nothing has crossed since the ceremony, which told them; and no message of its own ever does."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await back_up(here)
        for office, other in ((here, there), (there, here)):
            (theirs,) = await read(office, lambda tx: tx.execute(_KEY + "own = 0"))
            assert theirs == (await read(other, lambda tx: tx.execute(_KEY + "own = 1")))[0]
            assert await count(office, "delivery") == 0
        await asyncio.sleep(300)
        for office in (here, there):
            assert await count(office, "delivery", "service = 0") == 0
        for number in range(3):
            await flows(offices, f"A{number}")
        await restored(here)
        await asyncio.sleep(900)
        assert (await said(here), await said(there)) == ([], [])
        assert await shown(here) == 3
        await flows(offices, "K1")

    play(tmp_path, script)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_backup_older_than_the_reset_key_ends_in_words_and_a_second_pairing(
    tmp_path: Path, frozen: bool
) -> None:
    """Both offices are told what to do, and doing it lets alerts cross; a freeze ends with it."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await write(here, lambda tx: tx.execute("DELETE FROM reset_key WHERE own = 0"))
        await back_up(here)
        for number in range(3):
            await flows(offices, f"A{number}")
        if frozen:
            await write(
                there,
                lambda tx: tx.execute(
                    "UPDATE peer SET frozen_ms = 1, frozen_code = ?", (Clash.NUMBER.value,)
                ),
            )
        await restored(here)
        await asyncio.sleep(5 * 3600)
        assert await said(here) == ["untold"]
        assert "pair again with Tengchong BLO" in lost_words(await read(here, lost_after_restore))
        peer = await view_of(there)
        assert peer.no_proof_since_ms is not None
        assert (peer.frozen_code is not None) is frozen
        assert (peer.late_keys_since_ms is None) is frozen, "what comes to a frozen pair is not opened"

        screens = two_screens()
        for screen in screens:
            screen.replaces = "yes"
        await meet(offices.broker, here, there, screens)
        await asyncio.sleep(900)
        assert (await said(here), await said(there)) == ([], [])
        peer = await view_of(there)
        assert (peer.frozen_code, peer.late_keys_since_ms) == (None, None)
        assert await count(there, "quarantine", "code = 'reset_not_newer'") == 0
        assert await shown(here) == 3, "what the partner holds came again"
        await flows(offices, "K1")
        assert "was paired again" in lost_words(await read(here, lost_after_restore))

    play(tmp_path, script)
