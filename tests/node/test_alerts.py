"""What officers do with alerts: who may release, who may read, what is written down, when it goes."""

import asyncio
from pathlib import Path

import pytest

from keys.errors import PolicyRefused
from node.layout import SecretName
from node.vault import SealedContent, Vault
from node.views import Access, AlertView
from runtime.env import Env
from tests.node.offices import (
    Offices,
    a_victim_alert,
    an_alert,
    check_log,
    count,
    database_of,
    entries,
    node_of,
    play,
)
from tests.simulation.env import EPOCH_MS
from tests.simulation.world import HostDownError
from tests.support.raw_database import entries_on_disk

HOUR_MS = 3600 * 1000
DAY_MS = 24 * HOUR_MS


def test_a_victim_needs_two_officers_and_a_reason(tmp_path: Path) -> None:
    """The author cannot release, a supervisor can; no list names the victim; opening asks why."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        node, peer = here.node, there.node
        assert node is not None
        assert peer is not None
        author = await offices.second_officer()
        supervisor = here.session
        assert supervisor is not None
        (office,) = await here.peers()
        alert = a_victim_alert("Ma Example")
        put = await here.host.run(lambda env: node.desk.submit(author, alert, [office.office_id]))
        assert put.state == "awaiting_release"
        draft = put.draft_id
        assert draft is not None
        with pytest.raises(PolicyRefused) as same:
            await here.host.run(lambda env: node.desk.release(author, draft))
        assert same.value.code == "same_officer"
        released = await here.host.run(lambda env: node.desk.release(supervisor, draft))
        with pytest.raises(PolicyRefused) as gone:
            await here.host.run(lambda env: node.desk.release(supervisor, draft))
        assert gone.value.code == "draft_gone"

        await asyncio.sleep(30)
        (row,) = await there.inbox()
        assert row.alert_id == released.alert_id
        assert "Example" not in row.headline
        assert row.needs_reason
        session = there.session
        assert session is not None
        with pytest.raises(PolicyRefused) as why:
            await there.host.run(lambda env: peer.desk.open_alert(session, row.alert_id, purpose="duty"))
        assert why.value.code == "reason_needed"
        view = await there.host.run(lambda env: peer.desk.open_alert(session, row.alert_id, purpose="case"))
        assert view.fields["entities"][0]["name"] == "Ma Example"  # type: ignore[index]
        assert (view.author, view.releaser) == (2, 1)

    play(tmp_path, script)


def test_an_emergency_release_is_marked_at_the_other_office(tmp_path: Path) -> None:
    """One officer alone may let a victim's alert go, with a reason, and the recipient sees that."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        node, peer = here.node, there.node
        assert node is not None
        assert peer is not None
        author = await offices.second_officer()
        (office,) = await here.peers()
        alert = a_victim_alert("Ma Example")
        put = await here.host.run(lambda env: node.desk.submit(author, alert, [office.office_id]))
        draft = put.draft_id
        assert draft is not None
        await here.host.run(lambda env: node.desk.release_emergency(author, draft, "Nobody else on duty"))
        await asyncio.sleep(30)
        (row,) = await there.inbox()
        assert "emergency" in row.flags
        session = there.session
        assert session is not None
        view = await there.host.run(lambda env: peer.desk.open_alert(session, row.alert_id, purpose="case"))
        assert view.emergency_reason == "Nobody else on duty"

    play(tmp_path, script)


def test_every_reading_is_chained_in_the_log(tmp_path: Path) -> None:
    """The k-th opening names the index of the one before; the entry stands before the content is shown."""

    async def script(offices: Offices) -> None:
        await offices.here.send(an_alert("KA-7"))
        await asyncio.sleep(30)
        there = offices.there
        (row,) = await there.inbox()
        node, session = there.node, there.session
        assert node is not None
        assert session is not None
        indexes = []
        for _ in range(3):
            view = await there.host.run(
                lambda env: node.desk.open_alert(session, row.alert_id, purpose="duty")
            )
            indexes.append(view.access_index)
        entries = await there.host.run(lambda env: node.desk.log_entries(session, before=None, count=500))
        reads = [e for e in reversed(entries) if e.kind == "acc.read"]
        assert [e.index for e in reads] == indexes
        assert [e.fields["k"] for e in reads] == [1, 2, 3]
        assert [e.fields.get("prev") for e in reads] == [None, indexes[0], indexes[1]]
        assert all(e.fields["alert"] == row.alert_id for e in reads)

    play(tmp_path, script)


def test_paper_files_and_refusals_are_accesses_too(tmp_path: Path) -> None:
    """Printing and saving photos count on in the chain of openings; what is refused is written down as well,
    and shows nothing."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        author = await offices.second_officer()
        (office,) = await here.peers()
        node = node_of(here)
        put = await here.host.run(
            lambda env: node.desk.submit(author, a_victim_alert("Ma Example"), [office.office_id])
        )
        draft = put.draft_id
        assert draft is not None
        await here._at_desk(lambda n, s: n.desk.release(s, draft))
        await asyncio.sleep(30)
        (row,) = await there.inbox()

        async def tried(purpose: str, access: Access) -> AlertView:
            return await there._at_desk(
                lambda n, s: n.desk.open_alert(s, row.alert_id, purpose=purpose, access=access)
            )

        for access in ("read", "print"):
            with pytest.raises(PolicyRefused, match="reason_needed"):
                await tried("duty", access)
        shown = [await tried("case", access) for access in ("read", "print", "export", "read")]
        asked = {"alert_id": row.alert_id, "purpose": "court", "photos": True}
        await there._verb("show", asked)
        told = await entries(there, "acc.read", "acc.print", "acc.export", "acc.deny")
        assert [e.kind for e in told] == [
            "acc.deny", "acc.deny", "acc.read", "acc.print", "acc.export", "acc.read", "acc.export",
        ]  # fmt: skip
        assert [e.fields["code"] for e in told[:2]] == ["reason_needed"] * 2
        chain = told[2:]
        assert [e.index for e in chain[:4]] == [view.access_index for view in shown]
        assert [e.fields["k"] for e in chain] == [1, 2, 3, 4, 5]
        assert [e.fields.get("prev") for e in chain] == [None, *(e.index for e in chain[:-1])]
        assert {e.fields["purpose"] for e in chain} == {"case", "court"}
        assert len({e.fields["actor"] for e in told}) == 1
        await check_log(there)

    play(tmp_path, script)


def test_many_who_read_at_once_make_one_unbroken_chain(tmp_path: Path) -> None:
    """Twelve openings in one moment, and the machine stops: each that was shown is in the chain, once."""

    async def script(offices: Offices) -> None:
        await offices.here.send(an_alert("KA-7"))
        await asyncio.sleep(30)
        there = offices.there
        (row,) = await there.inbox()
        node, session = node_of(there), there.session
        assert session is not None
        shown: list[int] = []

        async def read_one() -> None:
            view = await node.desk.open_alert(session, row.alert_id, purpose="duty")
            shown.append(view.access_index)
            if len(shown) == 15:
                there.host.kill()

        async def read_all(env: Env) -> None:
            await asyncio.gather(*(read_one() for _ in range(12)))

        await there.host.run(read_all)
        with pytest.raises(HostDownError):
            await there.host.run(read_all)
        await there.restart()
        told = await entries(there, "acc.read")
        assert [e.fields["k"] for e in told] == list(range(1, len(told) + 1))
        assert [e.fields.get("prev") for e in told] == [None, *(e.index for e in told[:-1])]
        assert set(shown) <= {e.index for e in told}

    play(tmp_path, script)


def test_nothing_is_unwrapped_before_its_entry_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the key is asked for, another life of this machine would already know who read."""

    async def script(offices: Offices) -> None:
        await offices.here.send(an_alert("KA-7"))
        await asyncio.sleep(30)
        there = offices.there
        (row,) = await there.inbox()
        key = node_of(there)._secrets.get(SecretName.DATABASE).reveal()
        unwrap, durable = Vault.open_content, list[int]()

        def watched(vault: Vault, sealed: SealedContent, alert_id: bytes) -> tuple[bytes, bytes]:
            durable.append(entries_on_disk(database_of(there), key, b'"t":"acc.'))
            return unwrap(vault, sealed, alert_id)

        monkeypatch.setattr(Vault, "open_content", watched)
        for access in ("read", "print", "export"):
            await there._at_desk(
                lambda n, s, access=access: n.desk.open_alert(s, row.alert_id, purpose="case", access=access)  # type: ignore[misc]
            )
        assert durable == [1, 2, 3]

    play(tmp_path, script)


def test_an_expired_alert_becomes_negative_evidence_and_closes_its_number(tmp_path: Path) -> None:
    """What nobody could deliver in time says so at the sender; the receiver's order has no hole for ever."""

    async def script(offices: Offices) -> None:
        offices.there.host.kill()
        alert = an_alert("KA-9").model_copy(update={"expires_ms": EPOCH_MS + 2 * 3600 * 1000})
        await offices.here.send(alert)
        await asyncio.sleep(3 * 3600)
        await offices.here.log_in()
        (row,) = await offices.here.outbox()
        assert row.state == "expired"
        await offices.there.restart()
        await offices.here.send(an_alert("KA-10"))
        await asyncio.sleep(120)
        assert {row.headline for row in await offices.there.inbox()} >= {"Vehicle KA-10 White"}
        (peer,) = await offices.there.peers()
        assert peer.missing_in == 0

    play(tmp_path, script)


def test_alerts_cross_under_wrong_clocks_and_are_marked(tmp_path: Path) -> None:
    """A clock a day ahead, or at 1970, marks an alert and stops nothing."""

    async def script(offices: Offices) -> None:
        now_ms = offices.here.now_ms()
        alert = an_alert("KA-11").model_copy(
            update={
                "created_ms": now_ms,
                "expires_ms": now_ms + 7 * DAY_MS,
                "erase_at_ms": now_ms + 30 * DAY_MS,
            }
        )
        await offices.here.send(alert)
        await asyncio.sleep(120)
        (row,) = await offices.there.inbox()
        assert "clock_suspect" in row.flags
        status = offices.here.node
        assert status is not None
        seen = await offices.here.host.run(lambda env: status.desk.status())
        assert seen.clock_doubt is not None

    play(tmp_path / "ahead", script, skew_here_ms=DAY_MS)
    play(tmp_path / "behind", script, skew_here_ms=-DAY_MS)


def test_drafts_leave_a_trace_when_they_are_written_thrown_away_or_outlived(tmp_path: Path) -> None:
    """Written, discarded, erased when its content is due: each one entry; nothing of a draft stays behind."""

    async def script(offices: Offices) -> None:
        here = offices.here
        node = node_of(here)
        author = await offices.second_officer()
        (office,) = await here.peers()
        alert = a_victim_alert("Ma Example").model_copy(
            update={"expires_ms": EPOCH_MS + HOUR_MS, "erase_at_ms": EPOCH_MS + 2 * HOUR_MS}
        )
        drafts = []
        for _ in range(2):
            put = await here.host.run(lambda env: node.desk.submit(author, alert, [office.office_id]))
            assert put.draft_id is not None
            drafts.append(put.draft_id)
        await here.host.run(lambda env: node.desk.discard(author, drafts[0]))
        await asyncio.sleep(2 * 3600 + 180)
        assert await count(here, "pending") == 0
        told = await entries(here, "rel.author", "rel.refuse", "content.erased")
        assert [e.kind for e in told] == ["rel.author", "rel.author", "rel.refuse", "content.erased"]
        assert told[0].fields["alert"] == told[2].fields["alert"]
        assert told[1].fields["alert"] == told[3].fields["alert"]

    play(tmp_path, script)


def test_what_was_written_at_1970_still_crosses_once_the_clock_is_set(tmp_path: Path) -> None:
    """A flat battery: written at 1970, the broker down; the clock set, the broker back; shown and marked."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        offices.broker.host.kill()
        here.host.kill()
        here.host.skew_ms = -EPOCH_MS
        await here.restart()
        now_ms = here.now_ms()
        assert now_ms < DAY_MS
        alert = an_alert("KA-70").model_copy(
            update={
                "created_ms": now_ms,
                "expires_ms": now_ms + 3 * DAY_MS,
                "erase_at_ms": now_ms + 30 * DAY_MS,
            }
        )
        await here.send(alert)
        await asyncio.sleep(120)
        here.host.kill()
        here.host.skew_ms = 0
        await here.restart()
        await asyncio.sleep(120)
        (kept,) = await here.outbox()
        assert kept.state == "waiting"
        assert "KA-70" in kept.headline
        await offices.broker.restart()
        await asyncio.sleep(1200)
        await there.log_in()
        (row,) = await there.inbox()
        assert "KA-70" in row.headline
        assert "clock_suspect" in row.flags
        await here.log_in()
        (sent,) = await here.outbox()
        assert sent.state == "delivered"

    play(tmp_path, script)


def test_many_alerts_at_once_make_one_receive_key(tmp_path: Path) -> None:
    """Keys that no one announces would pile up in the keystore until it is full."""

    async def script(offices: Offices) -> None:
        here = offices.here
        await asyncio.gather(*(here.send(an_alert(f"KA-{number}")) for number in range(20)))
        await asyncio.sleep(60)
        await asyncio.gather(*(here.send(an_alert(f"KB-{number}")) for number in range(20)))
        node = here.node
        assert node is not None
        assert len(node._secrets.names("receive/")) <= 3  # in use, announced, and perhaps one to come

    play(tmp_path, script)
