"""What is erased is gone: from every page, journal and file of both offices, and each office says so."""

import asyncio
from pathlib import Path

import pytest

from keys import labels
from keys.errors import PolicyRefused
from keys.primitives import composite_verify
from node.backup import COPY_NAME
from node.erasure import Erasure
from node.layout import SecretName
from node.peers import load_peers
from node.vault import KEK_PREFIX
from protocol import limits
from protocol.alert import Alert
from protocol.message import parse_header_untrusted
from tests.node.erased import found_in, needles_of
from tests.node.offices import (
    OFFICER_PIN,
    PIN,
    Offices,
    a_victim_alert,
    an_alert,
    check_log,
    count,
    database_of,
    entries,
    node_of,
    play,
    read,
    settled,
    shown,
    write,
)
from tests.node.pictures import a_jpeg, send_with_photos
from tests.node.test_resets import back_up, restored
from tests.simulation.daemons import OfficeHost
from tests.simulation.env import EPOCH_MS

DAY_MS, HOUR_MS = limits.DAY_MS, limits.HOUR_MS
PLATE = "KACANARY77"
VICTIM = "Ma Canary Example"


def due(alert: Alert, erase_at_ms: int) -> Alert:
    """The same, erased at this time and void an hour before."""
    return alert.model_copy(update={"expires_ms": erase_at_ms - HOUR_MS, "erase_at_ms": erase_at_ms})


async def pass_days(offices: Offices, days: float) -> None:
    """Everybody's clock goes on, and what is due then is done."""
    for host in (offices.here.host, offices.there.host, offices.broker.host):
        host.step_clock(int(days * DAY_MS))
    await asyncio.sleep(200)


def test_what_was_erased_stands_nowhere_at_either_office(tmp_path: Path) -> None:
    """Content, keys, salts, pictures, envelopes and drafts, in pages, free pages, journal and files: the
    same search finds each of them before, and nothing after. What is left still verifies."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        author = await offices.second_officer()
        await here.log_in()
        at_ms = EPOCH_MS + 20 * DAY_MS
        sent = await send_with_photos(here, due(an_alert(PLATE), at_ms), a_jpeg(64))
        assert sent.alert_id is not None
        await asyncio.sleep(120)
        offices.broker.host.kill()
        unsent = await here.send(due(an_alert(PLATE), at_ms))
        assert unsent.alert_id is not None
        (peer,) = await here.peers()
        node = node_of(here)
        await here.host.run(
            lambda env: node.desk.submit(author, due(a_victim_alert(VICTIM), at_ms), [peer.office_id])
        )
        await here.export_stick("Tengchong")
        mine = {
            "plate": PLATE.encode(),
            "victim of a draft": VICTIM.encode(),
            **await needles_of(here, sent.alert_id, incoming=False),
            **{
                f"unsent {k}": v for k, v in (await needles_of(here, unsent.alert_id, incoming=False)).items()
            },
        }
        theirs = {"plate": PLATE.encode(), **await needles_of(there, sent.alert_id, incoming=True)}
        assert {"unsent envelope in delivery", "unsent envelope in carried", "keys of picture 1"} <= set(mine)
        assert {"picture 0", "picture 1"} <= set(theirs)
        assert set(found_in(here, mine)) == set(mine)
        assert set(found_in(there, theirs)) == set(theirs)

        await pass_days(offices, 18)
        await here.log_in()
        stays = await here.send(due(an_alert("KA-STAYS"), at_ms + 90 * DAY_MS))
        await pass_days(offices, 2)
        assert found_in(here, mine) == {}
        assert found_in(there, theirs) == {}
        months = {office: node_of(office)._secrets.names(KEK_PREFIX) for office in (here, there)}
        assert months == {here: ("kek/2027-02",), there: ("kek/2027-02",)}

        await here.log_in()
        assert stays.alert_id is not None
        assert (await here.open_alert(stays.alert_id))["entities"]
        (told,) = [e for e in await entries(here, "content.erased") if e.fields["alert"] == sent.alert_id]
        assert told.fields["parts"] == ["content", "outbox", "photos"]
        (told,) = [e for e in await entries(here, "content.erased") if e.fields["alert"] == unsent.alert_id]
        assert told.fields["parts"] == ["content", "outbox", "stick"]
        for office in (here, there):
            await check_log(office)
        header, signature, peer_trusted = await read(
            there,
            lambda tx: (
                *tx.execute("SELECT header, signature FROM received WHERE type = 1")[0],
                load_peers(tx)[0].trusted,
            ),
        )
        assert parse_header_untrusted(header).core_hash.hex() == sent.alert_id
        composite_verify(peer_trusted.certificates[0].public, labels.MESSAGE, header, signature)

    play(tmp_path, script)


async def delivered(offices: Offices, erase_after_ms: int) -> str:
    """An alert from here that is on the disk of the other office; its id."""
    await offices.here.log_in()
    alert = due(an_alert(PLATE), offices.here.now_ms() + erase_after_ms)
    sent = await offices.here.send(alert)
    await asyncio.sleep(90)
    assert sent.alert_id is not None
    assert await shown(offices.there) == 1
    return sent.alert_id


async def steps(office: OfficeHost) -> list[tuple[str, str]]:
    """Rungs of its only alert, each with whose clock it is on."""
    await office.log_in()
    (row,) = await office.outbox()
    return [(rung.step, rung.clock) for rung in row.recipients[0].ladder]


async def is_shown_to_nobody(office: OfficeHost, alert_id: str) -> None:
    """Not in the list, and not to be opened."""
    await office.log_in()
    assert await office.inbox() == ()
    with pytest.raises(PolicyRefused) as erased:
        await office.open_alert(alert_id)
    assert erased.value.code == "alert_erased"


def test_both_offices_erase_by_themselves_and_sign_that_they_did(tmp_path: Path) -> None:
    """The sender sees it as the last rung; both logs hold the other's word; nothing follows from it."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        alert_id = await delivered(offices, 20 * DAY_MS)
        await pass_days(offices, 20)
        for office in (here, there):
            assert await count(office, "vault") == 0
            await office.log_in()
            with pytest.raises(PolicyRefused, match="alert_erased"):
                await office.open_alert(alert_id)
        assert (await steps(here))[-1] == ("erased", "Tengchong BLO")
        assert await count(there, "ladder", "step = 'erased' AND clock = 'Myitkyina BLO'") == 1
        for office in (here, there):
            (word,) = [e for e in await entries(office, "msg.receipt") if e.fields["step"] == "erased"]
            (done,) = await entries(office, "content.erased")
            other = there if office is here else here
            (theirs,) = await entries(other, "content.erased")
            at_ms = word.fields["at"]
            assert isinstance(at_ms, int)
            assert 0 <= theirs.at_ms - at_ms < 1000
            assert word.fields["peer"]
            assert done.fields["code"] == "due"
            await check_log(office)
        before = [await count(office, "delivery") for office in (here, there)]
        await asyncio.sleep(600)
        # Acknowledgements alone, which are never acknowledged themselves.
        assert [await count(office, "delivery", "service = 0") for office in (here, there)] <= before

    play(tmp_path, script)


def test_what_is_due_is_shown_to_nobody_before_its_turn_comes(tmp_path: Path) -> None:
    """A clock that was set, a node that only lists: the date counts, not the round that erases."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        author = await offices.second_officer()
        alert_id = await delivered(offices, 20 * DAY_MS)
        (peer,) = await here.peers()
        node = node_of(here)
        draft = due(a_victim_alert(VICTIM), here.now_ms() + 20 * DAY_MS)
        await here.host.run(lambda env: node.desk.submit(author, draft, [peer.office_id]))
        for office in (here, there):
            office.host.step_clock(20 * DAY_MS)
        await is_shown_to_nobody(there, alert_id)
        assert await count(there, "vault") == 1
        await here.log_in()
        assert [row.headline for row in await here.outbox()] == [""]
        assert await here._at_desk(lambda n, s: n.desk.pending(s)) == ()

    play(tmp_path, script)


def test_an_office_that_was_shut_erases_before_it_shows_anything(tmp_path: Path) -> None:
    """Shut for weeks, then started: gone before its links are up and its pages open; then it says so."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        alert_id = await delivered(offices, 20 * DAY_MS)
        needles = await needles_of(there, alert_id, incoming=True)
        there.host.kill()
        await pass_days(offices, 30)
        await there.restart()
        assert await count(there, "vault") == 0
        await is_shown_to_nobody(there, alert_id)
        await asyncio.sleep(120)
        assert found_in(there, needles) == {}
        assert ("erased", "Tengchong BLO") in await steps(here)

    play(tmp_path, script)


def test_a_sender_that_was_shut_says_first_that_nobody_took_it_in(tmp_path: Path) -> None:
    """Both its times passed meanwhile: that it expired undelivered is not hidden by its erasure."""

    async def script(offices: Offices) -> None:
        here = offices.here
        offices.broker.host.kill()
        await here.log_in()
        await here.send(due(an_alert(PLATE), here.now_ms() + 20 * DAY_MS))
        here.host.kill()
        await pass_days(offices, 30)
        await here.restart()
        assert [step for step, _ in await steps(here)] == ["kept", "expired"]
        told = await entries(here, "msg.expired", "msg.cancel", "content.erased")
        assert [e.kind for e in told] == ["msg.expired", "content.erased"]

    play(tmp_path, script)


def test_a_crash_between_erasing_and_wiping_leaves_no_trace_either(tmp_path: Path) -> None:
    """The rows are gone and the machine stops; what the journal still holds goes with the next start."""

    async def script(offices: Offices) -> None:
        there = offices.there
        alert_id = await delivered(offices, 20 * DAY_MS)
        needles = await needles_of(there, alert_id, incoming=True)
        there.host.step_clock(20 * DAY_MS)
        erasure, key = node_of(there)._erasure, node_of(there)._secrets.get(SecretName.DATABASE)
        assert await there.host.run(lambda env: erasure._erase_some()) == 1
        assert set(found_in(there, needles)) == set(needles)
        # A backup under way leaves a whole copy of the database, under the same key.
        await there.host.run(lambda env: node_of(there).database.copy_to(f"node/{COPY_NAME}", key))
        there.host.kill()
        await there.restart()
        await asyncio.sleep(120)
        assert found_in(there, needles) == {}
        assert not database_of(there).with_name(COPY_NAME).exists()
        assert node_of(there)._secrets.names(KEK_PREFIX) == ("kek/2027-02",)

    play(tmp_path, script)


def test_a_restored_backup_brings_back_nothing_that_is_due(tmp_path: Path) -> None:
    """A backup holds what was there when it was made; the node made of it erases that before it shows it."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        alert_id = await delivered(offices, 20 * DAY_MS)
        needles = await needles_of(there, alert_id, incoming=True)
        await back_up(there)
        await pass_days(offices, 30)
        assert await count(there, "vault") == 0
        await restored(there)
        assert await count(there, "vault") == 0
        await is_shown_to_nobody(there, alert_id)
        await asyncio.sleep(300)
        assert found_in(there, needles) == {}
        # Said a second time, from another place in another log: the first word stands.
        assert [step for step, _ in await steps(here)].count("erased") == 1
        for office in (here, there):
            await check_log(office)

    play(tmp_path, script)


def test_whoever_asks_again_for_what_is_erased_gets_its_number_only(tmp_path: Path) -> None:
    """A partner restored from a backup older than the alert asks for it: no hole stays, nothing is junk."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await settled(offices)
        await back_up(there)
        await delivered(offices, 20 * DAY_MS)
        await pass_days(offices, 25)
        await restored(there)
        await asyncio.sleep(600)
        assert await count(there, "alert") == 0
        assert await count(there, "quarantine") == 0
        assert await count(here, "peer_reset", "resent = 0") == 1, "nothing is promised that cannot come"
        assert await count(here, "delivery", "phase <> 'acknowledged' AND service = 0") == 0
        await here.log_in()
        await here.send(due(an_alert("KA-2"), here.now_ms() + DAY_MS))
        await asyncio.sleep(120)
        assert await shown(there) == 1

    play(tmp_path, script)


def test_a_copy_that_comes_after_the_erasure_is_shown_to_nobody(tmp_path: Path) -> None:
    """On a stick that lay in a drawer: of an alert that came, and of one whose end overtook it."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        offices.broker.host.kill()
        await here.log_in()
        came = await here.send(due(an_alert(PLATE), here.now_ms() + 20 * DAY_MS))
        assert came.alert_id is not None
        drawer = await here.export_stick("Tengchong")
        await there.import_stick(drawer)
        await pass_days(offices, 25)
        await there.log_in()
        await there.import_stick(drawer)
        await is_shown_to_nobody(there, came.alert_id)
        assert await count(there, "vault") == 0

        await here.log_in()
        overtaken = await here.send(due(an_alert("KA-2"), here.now_ms() + DAY_MS))
        late = await here.export_stick("Tengchong")
        here.host.step_clock(2 * DAY_MS)
        await asyncio.sleep(120)
        await offices.broker.restart()
        await asyncio.sleep(1800)
        assert await count(here, "delivery", "alert_id IS NOT NULL AND phase <> 'acknowledged'") == 0
        await there.log_in()
        await there.import_stick(late)
        assert await there.inbox() == ()
        assert overtaken.alert_id is not None
        assert await count(there, "alert") == 1
        assert await count(there, "vault") == 0

    play(tmp_path, script)


def test_envelopes_set_aside_go_with_the_horizon_of_backups(tmp_path: Path) -> None:
    """Nobody can say when what they hold is due; what they prove is kept elsewhere."""

    async def script(offices: Offices) -> None:
        there = offices.there
        mark = b"sealed bytes nobody could open"
        await write(
            there,
            lambda tx: tx.execute(
                "INSERT INTO quarantine (envelope_hash, peer, verdict, code, at_ms, bytes)"
                " SELECT x'00', office_id, 'junk', 'padding', ?, ? FROM peer",
                (there.now_ms(), mark),
            ),
        )
        await pass_days(offices, 34)
        assert await count(there, "quarantine") == 1
        await pass_days(offices, 1)
        await asyncio.sleep(4200)
        assert await count(there, "quarantine") == 0
        assert found_in(there, {"mark": mark}) == {}

    play(tmp_path, script)


async def by_hand(office: OfficeHost, alert_id: str, reason: str = "mistake", pin: str = PIN) -> None:
    """``salween-node erase``."""
    await office.log_in()
    await office._at_desk(lambda node, session: node.desk.erase(session, alert_id, reason, pin))


async def keep(office: OfficeHost, alert_id: str, days: int, reason: str = "court") -> None:
    """``salween-node hold``."""
    await office.log_in()
    await office._at_desk(lambda node, session: node.desk.hold(session, alert_id, reason, days, PIN))


def test_what_a_supervisor_erased_by_hand_stands_nowhere_at_either_office(tmp_path: Path) -> None:
    """Long before its date, at the sender: gone there at once and at the recipient as soon as it hears of it;
    each says so under its signature, and the same search that found all of it finds nothing."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        sent = await send_with_photos(here, an_alert(PLATE), a_jpeg(64))
        assert sent.alert_id is not None
        await asyncio.sleep(90)
        await here.export_stick("Tengchong")
        mine = {"plate": PLATE.encode(), **await needles_of(here, sent.alert_id, incoming=False)}
        theirs = {"plate": PLATE.encode(), **await needles_of(there, sent.alert_id, incoming=True)}
        assert {"salt", "wrapped key", "keys of picture 0"} <= set(mine)
        assert set(found_in(here, mine)) == set(mine)
        assert set(found_in(there, theirs)) == set(theirs)

        await by_hand(here, sent.alert_id)
        assert found_in(here, mine) == {}
        await asyncio.sleep(120)
        assert found_in(there, theirs) == {}

        for office, code, has_actor in ((here, "mistake", True), (there, "sender", False)):
            (done,) = await entries(office, "content.erased")
            assert (done.fields["code"], "actor" in done.fields) == (code, has_actor)
            (word,) = [e for e in await entries(office, "msg.receipt") if e.fields["step"] == "erased"]
            assert word.fields["peer"]
            with pytest.raises(PolicyRefused) as refused:
                await office.open_alert(sent.alert_id)
            assert refused.value.code == "alert_erased_early"
            await check_log(office)
        assert (await steps(here))[-1] == ("erased", "Tengchong BLO")
        await there.log_in()
        (row,) = await there.inbox()
        assert (row.headline, row.gone_why) == ("", "sender")
        (ours,) = await here.outbox()
        assert (ours.headline, ours.gone_why) == ("", "mistake")
        with pytest.raises(PolicyRefused, match="alert_erased"):
            await by_hand(here, sent.alert_id)

    play(tmp_path, script)


def test_what_a_recipient_erases_by_hand_stays_with_its_sender(tmp_path: Path) -> None:
    """It is the sender's alert: it hears of it and keeps its own. A late copy is shown to nobody."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        alert_id = await delivered(offices, 20 * DAY_MS)
        await by_hand(there, alert_id, "needless")
        await asyncio.sleep(120)
        assert (await steps(here))[-1] == ("erased", "Tengchong BLO")
        assert await count(here, "vault") == 1
        assert (await here.open_alert(alert_id))["entities"]
        assert not await entries(here, "content.erased")
        await write(here, lambda tx: tx.execute("UPDATE delivery SET phase = 'kept' WHERE alert_id NOTNULL"))
        await asyncio.sleep(120)
        assert await count(there, "vault") == 0
        await is_shown_as_erased(there, alert_id)

    play(tmp_path, script)


async def is_shown_as_erased(office: OfficeHost, alert_id: str) -> None:
    """One line without content, and nothing to open."""
    await office.log_in()
    (row,) = await office.inbox()
    assert (row.headline, row.gone_why is not None) == ("", True)
    with pytest.raises(PolicyRefused, match="alert_erased_early"):
        await office.open_alert(alert_id)


def test_a_death_between_erasing_by_hand_and_wiping_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, entry and signed word are one transaction; the next start looks for what they left behind."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        alert_id = await delivered(offices, 20 * DAY_MS)
        mine = {"plate": PLATE.encode(), **await needles_of(here, alert_id, incoming=False)}
        theirs = {"plate": PLATE.encode(), **await needles_of(there, alert_id, incoming=True)}

        async def dies(erasure: Erasure) -> None:
            here.host.kill()
            await asyncio.sleep(3600)

        with monkeypatch.context() as patched:
            patched.setattr(Erasure, "wipe", dies)
            with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever ends a host
                await by_hand(here, alert_id)
        await here.restart()
        assert found_in(here, mine) == {}
        await asyncio.sleep(120)
        assert found_in(there, theirs) == {}
        (told,) = await entries(here, "content.erased")
        assert told.fields["code"] == "mistake"

    play(tmp_path, script)


def test_a_copy_that_was_under_way_is_erased_where_it_arrives(tmp_path: Path) -> None:
    """Erased by hand while its envelope lay at the broker of an office that was shut: that office is told
    when it says that it has it."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await settled(offices)
        there.host.kill()
        await here.log_in()
        sent = await here.send(an_alert(PLATE))
        assert sent.alert_id is not None
        await asyncio.sleep(30)
        await by_hand(here, sent.alert_id)
        assert not await entries(here, "msg.receipt")
        await there.restart()
        await asyncio.sleep(300)
        assert [e.fields["code"] for e in await entries(there, "content.erased")] == ["sender"]
        assert await count(there, "vault") == 0
        assert found_in(there, {"plate": PLATE.encode()}) == {}

    play(tmp_path, script)


def test_erasing_by_hand_wants_a_supervisor_a_reason_and_the_pin_again(tmp_path: Path) -> None:
    """Each of them is refused without, and nothing is erased; so is what is kept for a court."""

    async def script(offices: Offices) -> None:
        here = offices.here
        officer = await offices.second_officer()
        alert_id = await delivered(offices, 20 * DAY_MS)
        desk = node_of(here).desk
        session = here.session
        assert session is not None
        for who, reason, pin, code in (
            (officer, "mistake", OFFICER_PIN, "supervisor_only"),
            (session, "because", PIN, "reason_unknown"),
            (session, "mistake", "000111222", "pin_wrong"),
        ):
            with pytest.raises(PolicyRefused) as refused:
                await here.host.run(
                    lambda env, who=who, reason=reason, pin=pin: desk.erase(who, alert_id, reason, pin)  # type: ignore[misc]
                )
            assert refused.value.code == code
        with pytest.raises(PolicyRefused, match="alert_unknown"):
            await by_hand(here, "ab" * 32)
        await keep(here, alert_id, 30)
        with pytest.raises(PolicyRefused, match="alert_held"):
            await by_hand(here, alert_id)
        assert not await entries(here, "content.erased")
        assert await count(here, "vault") == 1

    play(tmp_path, script)


def test_what_is_kept_for_a_court_stays_until_that_ends(tmp_path: Path) -> None:
    """At one office alone, and past the sender's word; the log says so, and with its end it goes
    like any other."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        alert_id = await delivered(offices, 20 * DAY_MS)
        with pytest.raises(PolicyRefused, match="hold_days"):
            await keep(there, alert_id, 10)  # it stays as long as that anyway
        with pytest.raises(PolicyRefused, match="hold_none"):
            await keep(there, alert_id, 0)
        await keep(there, alert_id, 60)
        await pass_days(offices, 21)
        assert await count(here, "vault") == 0
        assert await count(there, "vault") == 1
        await there.log_in()
        assert (await there.open_alert(alert_id))["entities"]
        fate = await there._at_desk(lambda node, session: node.desk.fate(session, alert_id))
        assert (fate.held_why, fate.erase_at_ms - fate.agreed_ms > 39 * DAY_MS) == ("court", True)
        (held,) = await entries(there, "content.held")
        assert (held.fields["code"], held.fields["until"]) == ("court", fate.erase_at_ms)
        assert held.fields["actor"]
        assert ("erased", "Tengchong BLO") not in await steps(here)

        theirs = {"plate": PLATE.encode(), **await needles_of(there, alert_id, incoming=True)}
        await keep(there, alert_id, 0)
        with pytest.raises(PolicyRefused, match="alert_erased"):
            await there.open_alert(alert_id)
        await asyncio.sleep(200)
        assert found_in(there, theirs) == {}
        assert (await steps(here))[-1] == ("erased", "Tengchong BLO")
        for office in (here, there):
            await check_log(office)

    play(tmp_path, script)


def test_the_senders_word_waits_for_the_end_of_what_is_kept(tmp_path: Path) -> None:
    """Erased by hand at the sender while kept here: it goes when that ends, not before. A clock that runs
    ahead at the sender erases nothing here."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        alert_id = await delivered(offices, 20 * DAY_MS)
        await keep(there, alert_id, 60)
        await by_hand(here, alert_id, "asked")
        await asyncio.sleep(120)
        assert await count(there, "vault") == 1
        await keep(there, alert_id, 0)
        await asyncio.sleep(120)
        assert await count(there, "vault") == 0

        other = await delivered_again(offices)
        here.host.step_clock(25 * DAY_MS)
        await asyncio.sleep(200)
        assert await count(here, "vault") == 0
        assert await count(there, "ladder", f"step = 'erased' AND hex(alert_id) = '{other.upper()}'") == 1
        assert await count(there, "vault") == 1

    play(tmp_path, script)


async def delivered_again(offices: Offices) -> str:
    """One more alert on the disk of the other office; its id."""
    await offices.here.log_in()
    sent = await offices.here.send(due(an_alert("KA-2"), offices.here.now_ms() + 20 * DAY_MS))
    await asyncio.sleep(90)
    assert sent.alert_id is not None
    assert await count(offices.there, "vault") == 1
    return sent.alert_id
