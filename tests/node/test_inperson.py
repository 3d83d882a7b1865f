"""Two real nodes and a real broker: pairing in person, half pairs that heal, and pairing anew."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from keys.errors import PolicyRefused, SalweenError
from keys.meetingcode import CODE_BYTES_MAX, encode_code, read_code_text_untrusted
from keys.pairok import parse_pair_ok_untrusted
from keys.primitives import sha256
from node.broker_link import BrokerClient
from node.halfpairs import PAIR_OK_AGAIN_MS, HalfPairs
from node.partnering import Wire
from node.verbs import run_verb
from protocol.requests import Op, Result
from tests.node.offices import an_alert, count, entries, node_of, read, shown
from tests.simulation.daemons import BrokerHost, OfficeHost, Screen, meet, pair, two_screens
from tests.simulation.loop import HOST
from tests.simulation.world import World


class Town:
    """A broker, Myitkyina and Tengchong, up and not paired."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broker = BrokerHost(world)
        self.here = OfficeHost(world, "Myitkyina", "MM")
        self.there = OfficeHost(world, "Tengchong", "CN")
        self.offices = (self.here, self.there)

    async def states(self) -> list[list[Any]]:
        """Of each office, the state of each of its pairs."""
        found = []
        for office in self.offices:
            await office.log_in()
            found.append([peer.state for peer in await office.peers()])
        return found

    async def alerts_cross(self, plate: str) -> None:
        """One each way, received and shown."""
        before = [await shown(office) for office in self.offices]
        for office in self.offices:
            await office.log_in()
            await office.send(an_alert(plate))
        await asyncio.sleep(120)
        assert [await shown(office) for office in self.offices] == [n + 1 for n in before]


def play(directory: Path, script: Callable[[Town], Awaitable[None]], *, seed: int = 1) -> None:
    with World(seed=seed, directory=directory) as world:
        town = Town(world)

        async def whole() -> None:
            await town.broker.make()
            for office in town.offices:
                await office.make()
            await script(town)

        world.run(whole())


# --- the ceremony ---


def test_two_offices_side_by_side_pair_and_alerts_cross(tmp_path: Path) -> None:
    """One token, two codes of at most 180 bytes, a name and a number to look at; nothing to type."""

    async def script(town: Town) -> None:
        one, two = await meet(town.broker, town.here, town.there)
        for screen in (one, two):
            assert len(encode_code(read_code_text_untrusted(screen.shown.result()))) <= CODE_BYTES_MAX
        (seen_here,) = [e for e in one.events if e["event"] == "recognise"]
        (seen_there,) = [e for e in two.events if e["event"] == "recognise"]
        assert (seen_here["name"], seen_there["name"]) == ("Tengchong BLO", "Myitkyina BLO")
        (peer,) = await town.here.peers()
        assert seen_here["safety_number"] == seen_there["safety_number"] == peer.safety_number
        assert await town.states() == [["active"], ["active"]]
        await town.alerts_cross("KA-1")
        for office, role in ((town.here, "invite"), (town.there, "join")):
            begun, paired = await entries(office, "pair.begin", "pair.ok")
            assert (begun.fields["role"], begun.fields["how"], paired.fields["how"]) == (
                role,
                "person",
                "person",
            )

    play(tmp_path, script)


def test_each_office_holds_the_others_signed_word(tmp_path: Path) -> None:
    """Evidence that can be handed out: both pair-ok, their hashes in the log, and whose keys signed."""

    async def script(town: Town) -> None:
        await meet(town.broker, town.here, town.there)
        told: list[dict[str, Any]] = []
        for office, name in ((town.here, "Tengchong BLO"), (town.there, "Myitkyina BLO")):
            screen = Screen()
            said = await office.host.run(
                lambda env, office=office, name=name, screen=screen: run_verb(  # type: ignore[misc]
                    node_of(office), "pair.evidence", {"peer": name}, screen
                )
            )
            (evidence,) = said["evidence"]
            (logged,) = await entries(office, "pair.ok")
            for which in ("ours", "theirs"):
                assert logged.fields[which] == evidence[f"{which}_sha256"]
                assert sha256(bytes.fromhex(evidence[which])).hex() == evidence[f"{which}_sha256"]
                word = parse_pair_ok_untrusted(bytes.fromhex(evidence[which]))
                assert word.transcript.hex() == logged.fields["transcript"]
            told.append(evidence)
        assert told[0]["ours"] == told[1]["theirs"]
        assert told[0]["theirs"] == told[1]["ours"]
        assert told[0]["our_certificate"] in told[1]["their_certificates"]

    play(tmp_path, script)


def test_an_office_that_is_not_recognised_is_not_paired(tmp_path: Path) -> None:
    """One no ends it on both sides, and nothing is kept."""

    async def script(town: Town) -> None:
        screens = two_screens()
        screens[1].recognises = "no"
        with pytest.raises(PolicyRefused, match=r"pairing_not_recognised|pairing_expired"):
            await meet(town.broker, town.here, town.there, screens)
        # The side that said yes keeps its half, which is shown as such and delivers nothing.
        assert await town.states() == [["half"], []]
        await meet(town.broker, town.here, town.there)
        assert await town.states() == [["active"], ["active"]]
        await town.alerts_cross("KA-1")

    play(tmp_path, script)


class _Reader(Screen):
    """Reads wrong things first."""

    def __init__(self, wrong: list[str]) -> None:
        super().__init__()
        self.wrong = wrong

    async def ask(self, event: dict[str, Any]) -> str:
        if event["event"] in ("scan", "meeting-code") and self.wrong:
            await self.emit(event)
            return self.wrong.pop(0)
        return await super().ask(event)


def test_a_slip_is_told_in_words_and_read_again(tmp_path: Path) -> None:
    """Junk, a typing error, an invitation by voice: none of it ends the ceremony."""

    async def script(town: Town) -> None:
        junk = ["hello", "salween-invite1-aaaa", "salween-meet2-aaaa", "salween-meet1-aaaaaaaa"]
        one, two = _Reader(list(junk)), _Reader(list(junk))
        one.other, two.other = two, one
        await meet(town.broker, town.here, town.there, (one, two))
        for screen in (one, two):
            told = [e["again_code"] for e in screen.events if "again" in e]
            assert told == [
                "meeting_code_malformed",
                "meeting_code_malformed",
                "meeting_code_version",
                "meeting_code_mistyped",
            ]
        assert await town.states() == [["active"], ["active"]]

    play(tmp_path, script)


def test_a_code_is_good_for_ten_minutes_by_the_brokers_clock(tmp_path: Path) -> None:
    """Read later it is refused in words, and the office that showed it has given up too."""

    async def script(town: Town) -> None:
        class Late(Screen):
            async def ask(self, event: dict[str, Any]) -> str:
                text = await super().ask(event)
                await asyncio.sleep(700)
                return text

        one, two = Screen(), Late()
        one.other, two.other = two, one
        token = await town.broker.token()
        begun = asyncio.ensure_future(
            town.here.host.run(lambda env: node_of(town.here).meetings.begin(town.broker.address, token, one))
        )
        with pytest.raises(PolicyRefused, match="meeting_code_expired"):
            await town.there.host.run(lambda env: node_of(town.there).meetings.answer(two))
        begun.cancel()
        assert await town.states() == [[], []]

    play(tmp_path, script)


def test_a_used_code_is_worth_nothing(tmp_path: Path) -> None:
    """Read by a third office after the pairing: the token is used up, and nobody waits there."""

    async def script(town: Town) -> None:
        one, _ = await meet(town.broker, town.here, town.there)
        third = OfficeHost(town.world, "Mae Sai", "TH")
        await third.make()
        reader = Screen()
        reader.other = one
        with pytest.raises(PolicyRefused, match="token_unknown"):
            await third.host.run(lambda env: node_of(third).meetings.answer(reader))
        assert await town.states() == [["active"], ["active"]]

    play(tmp_path, script)


# --- a hostile broker ---


def test_a_broker_that_swaps_what_it_carries_ends_the_ceremony(tmp_path: Path) -> None:
    """Whichever item it alters or repeats: no pair comes of it, on neither side."""

    async def script(town: Town) -> None:
        honest = Wire.send
        for number in range(1, 5):
            sent = 0

            async def swap(self: Wire, item: bytes, number: int = number) -> None:
                nonlocal sent
                sent += 1
                await honest(
                    self, item if sent != number else item[:100] + bytes([item[100] ^ 1]) + item[101:]
                )

            Wire.send = swap  # type: ignore[method-assign]
            try:
                with pytest.raises(SalweenError):
                    await meet(town.broker, town.here, town.there)
            finally:
                Wire.send = honest  # type: ignore[method-assign]
            assert (
                "active" not in {state for states in await town.states() for state in states} or number == 4
            )
        await asyncio.sleep(1200)
        # The last item was one pair-ok of two: whoever got the other's says its own over the pair itself.
        assert await town.states() == [["active"], ["active"]]

    play(tmp_path, script)


# --- half pairs ---


def _host() -> str:
    """On whose machine this runs."""
    incarnation = HOST.get()
    assert incarnation is not None
    return incarnation.name


def _without_word_of(office: OfficeHost) -> Callable[[Wire, bytes], Awaitable[None]]:
    """What this office lays into a rendezvous arrives, but for its pair-ok."""
    honest = Wire.send

    async def send(self: Wire, item: bytes) -> None:
        if not (_host() == office.host.name and item[5:9] == b"SLP4"):
            await honest(self, item)

    return send


@pytest.mark.parametrize("deaf", ["here", "there"])
@pytest.mark.parametrize("ceremony", [pair, meet])
def test_a_pair_whose_last_word_was_lost_heals_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: str, ceremony: Callable[..., Awaitable[object]]
) -> None:
    """One side is active, the other never got its pair-ok; it says it again over the pair itself."""

    async def script(town: Town) -> None:
        loser = town.there if deaf == "here" else town.here
        monkeypatch.setattr(Wire, "send", _without_word_of(loser))
        with pytest.raises(PolicyRefused, match="pairing_expired"):
            await ceremony(town.broker, town.here, town.there)
        await asyncio.sleep(2 * PAIR_OK_AGAIN_MS / 1000 + 120)
        assert await town.states() == [["active"], ["active"]]
        for office in town.offices:
            assert len(await entries(office, "pair.ok")) == 1
            assert await count(office, "half_pair") == 0
        await town.alerts_cross("KA-1")

    play(tmp_path, script)


def test_a_half_pair_shows_nothing_until_the_word_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the active side sends meanwhile waits at the broker, unmarked, and is shown afterwards."""

    async def script(town: Town) -> None:
        monkeypatch.setattr(Wire, "send", _without_word_of(town.there))
        meeting = asyncio.ensure_future(meet(town.broker, town.here, town.there))
        while (await town.states())[1] != ["active"]:
            await asyncio.sleep(1)
        assert await town.states() == [["half"], ["active"]]
        await town.there.send(an_alert("KA-9"))
        await asyncio.sleep(60)
        assert await shown(town.here) == 0
        assert await count(town.here, "received") == 0
        await asyncio.sleep(PAIR_OK_AGAIN_MS / 1000 + 120)
        assert await town.states() == [["active"], ["active"]]
        assert await shown(town.here) == 1
        await asyncio.gather(meeting, return_exceptions=True)

    play(tmp_path, script)


def test_only_the_word_for_this_very_ceremony_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pair-ok of an earlier ceremony in a message that verifies is dropped, and the pair stays half."""

    async def script(town: Town) -> None:
        await meet(town.broker, town.here, town.there)
        (old,) = await read(town.there, lambda tx: tx.execute("SELECT own_pair_ok FROM pairing_evidence"))
        for office in town.offices:
            await office.host.run(lambda env, office=office: _forget(office))  # type: ignore[misc]
        monkeypatch.setattr(Wire, "send", _without_word_of(town.there))
        lying = asyncio.ensure_future(_say_instead(town.there, old[0]))
        with pytest.raises(PolicyRefused, match="pairing_expired"):
            await meet(town.broker, town.here, town.there)
        await lying
        await asyncio.sleep(1200)
        assert await town.states() == [["half"], ["active"]]

    play(tmp_path, script)


async def _forget(office: OfficeHost) -> None:
    """As if it had never paired: a second first ceremony."""
    await node_of(office).database.transact(
        lambda tx: [tx.execute(f"DELETE FROM {t}") for t in ("pair_ok_due", "peer", "half_pair")]
    )


async def _say_instead(office: OfficeHost, word: bytes) -> None:
    """Whenever it has something to say, it says this."""
    honest = HalfPairs.complete

    def complete(self: HalfPairs, tx: Any, half: Any, peer_pair_ok: bytes) -> Any:
        peer = honest(self, tx, half, peer_pair_ok)
        if _host() == office.name.lower():
            tx.execute("UPDATE pair_ok_due SET pair_ok = ?", (word,))
        return peer

    HalfPairs.complete = complete  # type: ignore[method-assign]
    try:
        await asyncio.sleep(1500)
    finally:
        HalfPairs.complete = honest  # type: ignore[method-assign]


# --- killed anywhere ---


@pytest.mark.parametrize("victim", ["here", "there"])
@pytest.mark.parametrize("ceremony", [pair, meet])
def test_killed_anywhere_in_a_ceremony_no_pair_stays_one_sided(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    victim: str,
    ceremony: Callable[..., Awaitable[object]],
) -> None:
    """After each exchange with the broker: both active, or none and a second ceremony works."""
    endings: list[str] = []
    # Every other exchange on each side: all of them are ten minutes of a slow machine.
    for at in range(1 if victim == "here" else 2, 40, 2):
        folder = tmp_path / str(at)
        folder.mkdir()
        ended = _killed_once(folder, monkeypatch, victim, ceremony, at)
        if ended == "not reached":
            break
        endings.append(ended)
    assert len(endings) >= 3
    assert set(endings) <= {"none", "both"}
    assert "none" in endings


def _killed_once(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    victim: str,
    ceremony: Callable[..., Awaitable[object]],
    at: int,
) -> str:
    ended = "not reached"

    async def script(town: Town) -> None:
        nonlocal ended
        office = town.here if victim == "here" else town.there
        exchanges = 0
        is_over = False
        honest = BrokerClient.exchange

        async def exchange(self: BrokerClient, ops: list[Op]) -> tuple[Result, ...]:
            nonlocal exchanges
            mine = _host() == office.host.name and exchanges < at
            exchanges += mine
            dies = mine and exchanges == at
            results = await honest(self, ops)
            if dies and not is_over:
                office.host.kill()
                await asyncio.Event().wait()
            return results

        with monkeypatch.context() as patched:
            patched.setattr(BrokerClient, "exchange", exchange)
            await asyncio.gather(ceremony(town.broker, town.here, town.there), return_exceptions=True)
        is_over = True
        if office.host.life is not None:
            assert await town.states() == [["active"], ["active"]]
            return
        await office.restart()
        await asyncio.sleep(1800)
        states = await town.states()
        active = [state == ["active"] for state in states]
        assert active[0] == active[1], (at, states)
        ended = "both" if all(active) else "none"
        if not all(active):
            await meet(town.broker, town.there, town.here)
            assert await town.states() == [["active"], ["active"]]
        await town.alerts_cross("KA-7")

    play(folder, script)
    return ended


# --- pairing anew ---


def test_paired_offices_pair_anew_only_if_both_officers_say_so(tmp_path: Path) -> None:
    """One no, and the pair that works goes on working; two yes, and it goes on with new keys and history."""

    async def script(town: Town) -> None:
        await meet(town.broker, town.here, town.there)
        await town.alerts_cross("KA-1")
        before = await read(town.here, lambda tx: tx.one("SELECT pair, put_secret, trusted FROM peer"))
        for stubborn in (0, 1):
            screens = two_screens()
            screens[1 - stubborn].replaces = "yes"
            with pytest.raises(PolicyRefused, match=r"already_paired|pairing_expired"):
                await meet(town.broker, town.here, town.there, screens)
            assert await town.states() == [["active"], ["active"]]
            await town.alerts_cross(f"KA-2{stubborn}")
        screens = two_screens()
        screens[0].replaces = screens[1].replaces = "yes"
        await meet(town.broker, town.here, town.there, screens)
        assert await town.states() == [["active"], ["active"]]
        after = await read(town.here, lambda tx: tx.one("SELECT pair, put_secret, trusted FROM peer"))
        assert before is not None
        assert after is not None
        assert before[1] != after[1]
        assert before[0][1:9] != after[0][1:9], "a new instance for this pair"
        await town.alerts_cross("KA-3")
        for office in town.offices:
            assert await shown(office) == 4
            assert await count(office, "pairing_evidence") == 2
            await office.host.run(lambda env, office=office: node_of(office).desk.status())  # type: ignore[misc]
            office.host.kill()
            await office.restart()
        await town.alerts_cross("KA-4")

    play(tmp_path, script)


def test_what_was_on_its_way_arrives_after_pairing_anew(tmp_path: Path) -> None:
    """Alerts that the peer had not fetched are sealed for its new key, arrive once and are settled."""

    async def script(town: Town) -> None:
        await meet(town.broker, town.here, town.there)
        await town.alerts_cross("KA-1")
        net = town.world.network
        screens = two_screens()
        screens[0].replaces = screens[1].replaces = "yes"
        net.cut("tengchong", "broker")
        await town.here.log_in()
        await town.here.send(an_alert("KA-2"))
        await asyncio.sleep(30)
        assert await shown(town.there) == 1
        net.heal()
        await meet(town.broker, town.here, town.there, screens)
        await asyncio.sleep(600)
        assert await shown(town.there) == 2
        await town.alerts_cross("KA-3")
        await asyncio.sleep(600)
        waiting = await count(town.here, "delivery", "alert_id IS NOT NULL AND phase <> 'acknowledged'")
        assert waiting == 0

    play(tmp_path, script)


@pytest.mark.parametrize("deaf", ["myitkyina", "tengchong"])
def test_pairing_anew_whose_last_word_was_lost_heals_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: str
) -> None:
    """One side has moved to the new pair, the other holds the old one: the word follows over the new."""

    async def script(town: Town) -> None:
        await meet(town.broker, town.here, town.there)
        await town.alerts_cross("KA-1")
        screens = two_screens()
        screens[0].replaces = screens[1].replaces = "yes"
        with monkeypatch.context() as patched:
            patched.setattr(Wire, "send", _without_word_of(town.there if deaf == "myitkyina" else town.here))
            with pytest.raises(PolicyRefused, match="pairing_expired"):
                await meet(town.broker, town.here, town.there, screens)
        await asyncio.sleep(2 * PAIR_OK_AGAIN_MS / 1000 + 300)
        for office in town.offices:
            assert await count(office, "pairing_evidence") == 2
            assert await count(office, "half_pair") == 0
        await town.alerts_cross("KA-2")
        for office in town.offices:
            office.host.kill()
            await office.restart()
        await town.alerts_cross("KA-3")

    play(tmp_path, script)
