"""Officers: PINs that cannot be guessed, sessions that end, keys that no crash mixes up."""

import asyncio
from pathlib import Path

import pytest

from keys.errors import PolicyRefused
from keys.primitives import Ed25519PrivateKey
from keys.secret import SecretBytes
from node.officers import LOCK_FIRST_MS, check_pin, officer_secret_name
from node.views import Session
from tests.node.offices import OFFICER_PIN, PIN, Offices, count, entries, node_of, play, read, write
from tests.simulation.daemons import OfficeHost

NEW_PIN = "112358"


async def login(office: OfficeHost, number: int, pin: str) -> Session:
    return await office.host.run(lambda env: node_of(office).desk.login(number, pin))


async def refused(office: OfficeHost, number: int, pin: str) -> PolicyRefused:
    with pytest.raises(PolicyRefused) as caught:
        await login(office, number, pin)
    return caught.value


@pytest.mark.parametrize("pin", ["", "12345", "1" * 13, "111111", "123456", "987654", "12345a", "१२३४५६"])
def test_weak_pins_are_refused(pin: str) -> None:
    """Too short, too long, no digits, all one digit, a plain count."""
    with pytest.raises(PolicyRefused) as caught:
        check_pin(pin)
    assert caught.value.code == "pin_too_weak"


def test_wrong_pins_lock_longer_and_longer_over_restarts(tmp_path: Path) -> None:
    """Three free tries, then 30 s doubling; a restart forgets nothing; a reset opens."""

    async def script(offices: Offices) -> None:
        here = offices.here
        await offices.second_officer()
        for _ in range(3):
            assert (await refused(here, 2, "135791")).code == "pin_wrong"
        assert (await refused(here, 2, OFFICER_PIN)).code == "officer_locked"
        here.host.kill()
        await here.restart()
        locked = await refused(here, 2, OFFICER_PIN)
        assert locked.code == "officer_locked"
        assert "reset-pin" in locked.detail
        await asyncio.sleep(LOCK_FIRST_MS / 1000 + 1)
        assert (await refused(here, 2, "135791")).code == "pin_wrong"
        await asyncio.sleep(LOCK_FIRST_MS / 1000 + 1)
        assert (await refused(here, 2, OFFICER_PIN)).code == "officer_locked"
        await asyncio.sleep(LOCK_FIRST_MS / 1000 + 1)
        assert (await login(here, 2, OFFICER_PIN)).officer == 2
        assert (await refused(here, 2, "135791")).code == "pin_wrong"
        for _ in range(2):
            await refused(here, 2, "135791")
        await here.host.run(lambda env: node_of(here).reset_pin(2, NEW_PIN))
        assert (await login(here, 2, NEW_PIN)).officer == 2
        denied = await entries(here, "ses.fail")
        assert [e.fields["n"] for e in denied] == [1, 2, 3, 4, 1, 2, 3]

    play(tmp_path, script)


def test_a_try_counts_before_it_is_judged(tmp_path: Path) -> None:
    """Pulling the plug while a PIN is being tried gives no free guess."""

    async def script(offices: Offices) -> None:
        here = offices.here
        await offices.second_officer()
        for _ in range(3):
            await write(here, lambda tx: node_of(here).officers._begin_try(tx, 2))
            here.host.kill(power_loss=True)
            await here.restart()
        assert (await refused(here, 2, OFFICER_PIN)).code == "officer_locked"

    play(tmp_path, script)


def test_nobody_learns_which_numbers_exist(tmp_path: Path) -> None:
    """An unknown number and a wrong PIN are told in the same words; auditors may not write."""

    async def script(offices: Offices) -> None:
        here = offices.here
        assert (await refused(here, 1, "135791")).detail == (await refused(here, 99, "135791")).detail

    play(tmp_path, script)


def test_a_session_ends_after_its_idle_time_and_lives_by_use(tmp_path: Path) -> None:
    """15 minutes without a touch; looking at events is no touch."""

    async def script(offices: Offices) -> None:
        here = offices.here
        desk = node_of(here).desk
        session = await login(here, 1, PIN)
        for _ in range(3):
            await asyncio.sleep(800)
            await here.host.run(lambda env: desk.session(session.token))
        await asyncio.sleep(800)
        await here.host.run(lambda env: desk.session(session.token, touch=False))
        await asyncio.sleep(200)
        with pytest.raises(PolicyRefused) as ended:
            await here.host.run(lambda env: desk.session(session.token))
        assert ended.value.code == "session_ended"
        # The officer's key is not kept open either.
        await login(here, 1, PIN)
        assert len(node_of(here).officers._live) == 1
        # Nor where nobody ever comes back to the screen.
        await asyncio.sleep(1_000)
        assert node_of(here).officers._live == {}

    play(tmp_path, script)


def test_retiring_ends_every_session_also_one_that_just_begins(tmp_path: Path) -> None:
    """Log-in and retirement at the same instant: whoever commits first, no session outlives it."""

    async def script(offices: Offices) -> None:
        here = offices.here
        node = node_of(here)
        old = await offices.second_officer()

        async def both(env: object) -> None:
            await asyncio.gather(
                node.desk.login(2, OFFICER_PIN), node.retire_officer(2), return_exceptions=True
            )

        await here.host.run(both)
        assert [live.session.officer for live in node.officers._live.values()] == [1]
        with pytest.raises(PolicyRefused):
            await here.host.run(lambda env: node.desk.inbox(old))
        assert (await refused(here, 2, OFFICER_PIN)).code == "officer_unknown"
        assert officer_secret_name(2) not in node._secrets.names("officer/")
        with pytest.raises(PolicyRefused) as last:
            await here.host.run(lambda env: node.retire_officer(1))
        assert last.value.code == "last_officer"
        with pytest.raises(PolicyRefused):
            await here.host.run(lambda env: node.reset_pin(2, NEW_PIN))

    play(tmp_path, script)


def test_a_reset_that_was_cut_off_is_told_and_can_be_repeated(tmp_path: Path) -> None:
    """Power failed between keystore and transaction: the new PIN opens a key nobody knows; reset again."""

    async def script(offices: Offices) -> None:
        here = offices.here
        await offices.second_officer()
        seed = SecretBytes(b"s" * 32)
        await here.host.run(lambda env: node_of(here).officers._keep_sealed(2, NEW_PIN, seed))
        here.host.kill(power_loss=True)
        await here.restart()
        assert (await refused(here, 2, OFFICER_PIN)).code == "pin_wrong"
        stale = await refused(here, 2, NEW_PIN)
        assert stale.code == "officer_key_stale"
        assert "Reset the PIN again" in stale.detail
        await here.host.run(lambda env: node_of(here).reset_pin(2, NEW_PIN))
        session = await login(here, 2, NEW_PIN)
        key = node_of(here).officers.signing_key(session)
        listed = await read(here, lambda tx: tx.value("SELECT public_key FROM officer WHERE number = 2"))
        assert key.public_bytes == listed != Ed25519PrivateKey.from_seed(seed).public_bytes

    play(tmp_path, script)


def test_an_added_officer_that_was_cut_off_leaves_no_officer(tmp_path: Path) -> None:
    """A sealed key without its row is nobody; the number is given to the next officer, with a new key."""

    async def script(offices: Offices) -> None:
        here = offices.here
        await here.host.run(
            lambda env: node_of(here).officers._keep_sealed(2, NEW_PIN, SecretBytes(b"s" * 32))
        )
        here.host.kill()
        await here.restart()
        assert (await refused(here, 2, NEW_PIN)).code == "officer_unknown"
        session = await offices.second_officer()
        assert session.officer == 2
        assert await count(here, "officer") == 2

    play(tmp_path, script)


def test_the_pin_typed_again_is_a_try_as_any_other(tmp_path: Path) -> None:
    """The right one clears the count, wrong ones lock and stand in the log; without a session it is none."""

    async def script(offices: Offices) -> None:
        here = offices.here
        session = await offices.second_officer()
        officers = node_of(here).officers

        async def confirm(pin: str) -> str:
            try:
                await here.host.run(lambda env: officers.confirm(session, pin))
            except PolicyRefused as error:
                return error.code
            return "confirmed"

        assert [await confirm(pin) for pin in ("135791", "135791", OFFICER_PIN, "135791", "135791")] == [
            "pin_wrong",
            "pin_wrong",
            "confirmed",
            "pin_wrong",
            "pin_wrong",
        ]
        assert [await confirm(pin) for pin in ("135791", OFFICER_PIN)] == ["pin_wrong", "officer_locked"]
        assert len(await entries(here, "ses.fail")) == 5
        await here.host.run(lambda env: node_of(here).desk.logout(session))
        assert await confirm(OFFICER_PIN) == "session_ended"

    play(tmp_path, script)
