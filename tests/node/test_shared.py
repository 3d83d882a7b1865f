"""One alert to several offices: signed once, around one blob, each recipient hidden from the others."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from keys.errors import PolicyRefused, VerificationFailed
from keys.primitives import CompositePrivateKey
from node.broker_link import _Load
from node.peers import load_peers
from node.views import Submitted
from protocol import limits
from protocol.alert import Alert
from protocol.custody import Custody
from protocol.evidence import Proof, SignedVersion, check_addressed, check_proof
from protocol.message import parse_header_untrusted
from protocol.onetime import OfferedKeys
from protocol.release import Mode
from protocol.requests import Op, OpRefused, Put, Result, request_bytes
from tests.node.offices import a_victim_alert, an_alert, count, entries, link_of, node_of, read, write
from tests.simulation.daemons import BrokerHost, OfficeHost, pair
from tests.simulation.env import EPOCH_MS
from tests.simulation.world import World

HOUR_MS = 3_600_000
PLACES = (("Tengchong", "CN"), ("Mae Sai", "TH"), ("Boten", "LA"))


class Several:
    """Myitkyina, paired with three offices that know nothing of one another, at one broker."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broker = BrokerHost(world)
        self.here = OfficeHost(world, "Myitkyina", "MM")
        self.others = [OfficeHost(world, name, country) for name, country in PLACES]

    async def make(self) -> None:
        await self.broker.make()
        await self.here.make()
        for other in self.others:
            await other.make()
            await pair(self.broker, self.here, other)
        await asyncio.sleep(120)

    async def send(self, alert: Alert, mode: Mode | None = "shared") -> Submitted:
        """To all of them."""
        to = [peer.office_id for peer in await self.here.peers()]
        return await self.submit(alert, to, mode)

    async def submit(self, alert: Alert, to: Sequence[str], mode: Mode | None) -> Submitted:
        node, session = node_of(self.here), self.here.session
        assert session is not None
        return await self.here.host.run(lambda env: node.desk.submit(session, alert, to, mode=mode))


def play(directory: Path, script: Callable[[Several], Awaitable[None]]) -> None:
    with World(seed=1, directory=directory) as world:
        several = Several(world)

        async def whole() -> None:
            await several.make()
            await script(several)

        world.run(whole())


def overhear(office: OfficeHost) -> list[Sequence[Op]]:
    """What this office asks of its broker from now on."""
    client, said = link_of(office).client, list[Sequence[Op]]()
    honest = client.exchange

    async def exchange(ops: Sequence[Op]) -> tuple[Result, ...]:
        said.append(ops)
        return await honest(ops)

    client.exchange = exchange  # type: ignore[method-assign]
    return said


def test_one_signature_and_one_blob_reach_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each recipient shows it once and answers; what goes up the line is one blob; the logs tell of each."""
    signed: list[bytes] = []
    sign = CompositePrivateKey.sign

    def counting(key: CompositePrivateKey, label: bytes, message: bytes) -> bytes:
        if message[:5] == b"SLW1\x01":
            signed.append(message)
        return sign(key, label, message)

    async def script(several: Several) -> None:
        monkeypatch.setattr(CompositePrivateKey, "sign", counting)
        said = overhear(several.here)
        sent = await several.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        (header,) = map(parse_header_untrusted, signed)
        assert len(header.leaves) == 4  # a hidden one among them
        put = next(ops for ops in said if sum(isinstance(op, Put) for op in ops) == 3)
        assert len({op.envelope[limits.BLOB_OFFSET_BYTES :] for op in put if isinstance(op, Put)}) == 1
        assert request_bytes(put) < limits.ENVELOPE_BUCKETS_BYTES[0] + 3 * 1_500
        for other in several.others:
            (row,) = await other.inbox()
            assert row.alert_id == sent.alert_id
            await other.open_alert(row.alert_id)
        await asyncio.sleep(120)
        (kept,) = await several.here.outbox()
        assert [recipient.ladder[-1].step for recipient in kept.recipients] == ["opened"] * 3
        submitted = await entries(several.here, "msg.submit")
        names = {entry.fields["msg"] for entry in submitted}
        assert len(names) == len(submitted) == 3
        told = [entry.fields["msg"] for o in several.others for entry in await entries(o, "msg.recv")]
        assert names <= set(told)  # both logs of a pair call it by one name, no two recipients by the same
        await several.send(an_alert("KA-2"))  # the order of each pair goes on
        await several.send(an_alert("KA-3"), "separate")
        await asyncio.sleep(60)
        for other in several.others:
            shown = {row.headline[:12] for row in await other.inbox()}
            assert shown == {f"Vehicle KA-{number}" for number in (1, 2, 3)}
            assert await count(other, "quarantine") == 0

    play(tmp_path, script)


def test_no_recipient_keeps_anything_of_another(tmp_path: Path) -> None:
    """Two recipients who lay side by side what they keep find the alert and the header, and no office."""

    async def script(several: Several) -> None:
        await several.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        ids = [await read(o, lambda tx: tx.value("SELECT office_id FROM office")) for o in several.others]
        kept = [
            await read(
                o, lambda tx: tx.one("SELECT header, opening, instance, hh FROM received WHERE type = 1")
            )
            for o in several.others
        ]
        for other, own_id, mine in zip(several.others, ids, kept, strict=True):
            assert mine is not None
            await other.log_in()
            rows = await read(
                other,
                lambda tx: [
                    bytes(str(tx.execute(f"SELECT * FROM {table}")), "utf-8")
                    for table in ("received", "alert", "peer", "vault", "ladder")
                ],
            )
            for stranger in ids:
                assert stranger == own_id or not any(repr(stranger).encode() in row for row in rows)
        assert len({row[0] for row in kept if row}) == 1
        for column in (1, 2, 3):
            assert len({row[column] for row in kept if row}) == 3

    play(tmp_path, script)


def test_what_one_recipient_lost_is_sealed_again_to_it_alone(tmp_path: Path) -> None:
    """Its copy comes under the same signature and number, around a blob that nobody else has."""

    async def script(several: Several) -> None:
        lost = several.others[1]
        several.broker.host.kill()
        sent = await several.send(an_alert("KA-1"))
        assert sent.alert_id is not None
        peer = next(p for p in await several.here.peers() if p.name.startswith("Mae Sai"))
        # As if a broker had taken this one copy and lost it.
        await write(
            several.here,
            lambda tx: tx.execute(
                "UPDATE delivery SET envelope = NULL WHERE alert_id = ? AND peer = ?",
                (bytes.fromhex(sent.alert_id or ""), bytes.fromhex(peer.office_id)),
            ),
        )
        await several.broker.restart()
        await asyncio.sleep(600)
        for other in several.others:
            assert len(await other.inbox()) == 1
        seals = [e.fields for e in await entries(several.here, "msg.seal")]
        again = [fields for fields in seals if fields["att"] == 2 and fields["peer"]]
        assert len(again) == 1
        assert await count(lost, "received", "type = 1 AND verdict = 'ok'") == 1

    play(tmp_path, script)


def test_what_expired_closes_its_number_at_each_recipient(tmp_path: Path) -> None:
    """Without its body it is still verified by each, by its own leaf."""

    async def script(several: Several) -> None:
        several.broker.host.kill()
        await several.send(an_alert("KA-1").model_copy(update={"expires_ms": EPOCH_MS + HOUR_MS}))
        await asyncio.sleep(2 * 3600)
        await several.broker.restart()
        await asyncio.sleep(1200)
        for other in several.others:
            assert await count(other, "received", "type = 1 AND verdict = 'expired'") == 1
            assert await count(other, "alert", "incoming = 1") == 0

    play(tmp_path, script)


def test_an_auditor_is_shown_one_leaf(tmp_path: Path) -> None:
    """Header, signature and one opening prove that this office was addressed, and name no other."""

    async def script(several: Several) -> None:
        await several.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        shown = []
        for other in several.others:
            row = await read(
                other,
                lambda tx: tx.one(
                    "SELECT header, signature, opening, instance, hh FROM received WHERE type = 1"
                ),
            )
            own_id = await read(other, lambda tx: tx.value("SELECT office_id FROM office"))
            (peer,) = await read(other, load_peers)
            assert row is not None
            version = SignedVersion(header=row[0], signature=row[1], opening=row[2], instance=row[3])
            proof = Proof(recipient=own_id, certificates=peer.trusted.certificates, versions=(version,))
            assert check_addressed(proof, peer.trusted.root_public).hh == row[4]
            shown.append((proof, peer.trusted.root_public))
        (one, root), (two, _) = shown[:2]
        with pytest.raises(VerificationFailed, match="proof_signature"):
            check_addressed(replace(one, recipient=two.recipient), root)
        with pytest.raises(VerificationFailed, match="proof_signature"):
            check_addressed(replace(two, versions=one.versions), root)
        elsewhere = replace(one.versions[0], instance=bytes(8))
        with pytest.raises(VerificationFailed, match="proof_signature"):
            check_addressed(replace(one, versions=(elsewhere,)), root)
        with pytest.raises(VerificationFailed, match="proof_empty"):
            check_proof(replace(one, versions=one.versions * 2), root)

    play(tmp_path, script)


def test_recipients_that_cannot_be_sent_to_are_named_and_nothing_leaves(tmp_path: Path) -> None:
    """Unknown, chosen twice, too many, suspended, sensitive: each says what to do; no number is used up."""

    async def script(several: Several) -> None:
        here = several.here
        ids = [peer.office_id for peer in await here.peers()]
        before = await count(here, "delivery")

        async def refused(alert: Alert, to: Sequence[str], mode: Mode | None = "shared") -> PolicyRefused:
            with pytest.raises(PolicyRefused) as found:
                await several.submit(alert, to, mode)
            return found.value

        plain = an_alert("KA-1")
        assert (await refused(plain, [*ids, "ab" * 32])).code == "peer_unknown"
        assert (await refused(plain, [*ids, ids[0]])).code == "audience_repeated"
        many = [f"{number:064x}" for number in range(limits.RECIPIENTS_MAX + 1)]
        assert (await refused(plain, many)).code == "audience_too_large"
        assert (await refused(a_victim_alert("Ma Example"), ids)).code == "shared_sensitive"
        node, session = node_of(here), here.session
        assert session is not None
        await here.host.run(lambda env: node.desk.suspend(session, ids[1]))
        suspended = await refused(plain, ids)
        assert suspended.code == "pair_held"
        named = next(peer.name for peer in await here.peers() if peer.office_id == ids[1])
        assert suspended.detail.startswith(f"{named}: ")
        several_wrong = await refused(plain, [ids[0], *ids, "ab" * 32])
        assert several_wrong.code == "audience_repeated"
        for who in (named, "abababab: ", next(p.name for p in await here.peers() if p.office_id == ids[0])):
            assert who in several_wrong.detail
        strangers = [f"{number:064x}" for number in range(20)]
        assert (await refused(plain, strangers)).detail.endswith(" And 12 more.")
        assert await count(here, "delivery", "alert_id IS NOT NULL") == 0
        assert await count(here, "delivery") >= before
        await here.host.run(lambda env: node.desk.resume(session, ids[1]))
        await several.send(plain)
        await asyncio.sleep(120)
        for other in several.others:
            assert len(await other.inbox()) == 1

    play(tmp_path, script)


def test_a_shared_blob_does_not_make_a_thin_line_look_wide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a line can do is learnt from the bytes that went over it, not from what they stand for."""
    carried: list[tuple[_Load, int]] = []
    learn = _Load.arrived

    def noting(load: _Load, carried_bytes: int, seconds: float) -> None:
        carried.append((load, carried_bytes))
        learn(load, carried_bytes, seconds)

    async def script(several: Several) -> None:
        monkeypatch.setattr(_Load, "arrived", noting)
        await several.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        largest = limits.ENVELOPE_BUCKETS_BYTES[0]
        ours = link_of(several.here)._send
        first = next(size for load, size in carried if load is ours and size > largest + 200)
        assert first < largest + 3 * 1_500

    play(tmp_path, script)


def test_a_lost_address_among_several_holds_up_nobody(tmp_path: Path) -> None:
    """Of puts around one blob, an unknown capability is `gone`, one named twice is held once."""

    async def script(several: Several) -> None:
        rows = await read(several.here, lambda tx: tx.execute("SELECT put_secret FROM peer"))
        known = [bytes(row[0]) for row in rows]
        blob = bytes(limits.ENVELOPE_BUCKETS_BYTES[0] - limits.BLOB_OFFSET_BYTES)
        heads = [b"\1" + bytes([number]) * (limits.BLOB_OFFSET_BYTES - 1) for number in range(4)]
        asked = [
            Put(put_secret=known[0], envelope=heads[0] + blob),
            Put(put_secret=b"?" * 32, envelope=heads[1] + blob),
            Put(put_secret=known[1], envelope=heads[2] + blob),
            Put(put_secret=known[0], envelope=heads[0] + blob),
            Put(put_secret=known[0], envelope=heads[3] + blob),
        ]
        client = link_of(several.here).client
        said = await several.here.host.run(lambda env: client.exchange(asked))
        assert said[1] == OpRefused(code="gone")
        notes = [note for note in said if isinstance(note, Custody)]
        assert len(notes) == 4
        assert [note.log_index for note in notes].count(notes[0].log_index) == 2
        assert len({note.log_index for note in notes}) == 3

    play(tmp_path, script)


def test_keys_that_shared_alerts_used_are_told_by_another_message(tmp_path: Path) -> None:
    """Else a key whose envelope was lost would stay, and open what a broker recorded."""

    async def script(several: Several) -> None:
        here = several.here

        async def known() -> list[OfferedKeys]:
            rows = await read(here, lambda tx: tx.execute("SELECT keys FROM one_time_offered"))
            return [OfferedKeys.decode(row[0]) for row in rows]

        await several.send(an_alert("KA-1"))
        await asyncio.sleep(1.5 * 3600)  # a supply of keys is offered
        await here.log_in()
        await several.send(an_alert("KA-2"))
        await asyncio.sleep(60)
        assert [offered.unsaid for offered in await known()] == [True] * 3
        await asyncio.sleep(1.5 * 3600)  # the announcement of a receive key leaves within the hour
        assert [offered.unsaid for offered in await known()] == [False] * 3

    play(tmp_path, script)
